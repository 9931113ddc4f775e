"""Compiled kernels behind `solve`: many rows, few passes over memory, no temporaries of their size.

`launch` chooses kernel and threads; `rows` runs pass after pass over a row; `gibbs` (KL),
`active_set` (chi-squared) and `mixed` say what a pass does and what comes next; `blocks` has what
these share, `elementary` and `single` the functions, `vectors` and `intrinsics` the machine.
A row that a kernel cannot do to rounding it hands back, to be solved by the general route.
"""
