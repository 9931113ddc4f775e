"""All tabular policies: a direct loss is solved to its global minimum through its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts
from rlhfsim.learners.direct import separate
from rlhfsim.learners.direct.bradley_terry import fit_likelihood, is_likelihood, likelihood_data
from rlhfsim.learners.direct.clipped import minimize_clipped
from rlhfsim.learners.direct.desirable import kto_fixed_point
from rlhfsim.learners.direct.prompts import PromptRows, prompt_rows
from rlhfsim.learners.direct.scores import centred, policy_of_scores, require_bijection
from rlhfsim.learners.direct.separate import Answer
from rlhfsim.learners.direct.task import Minimum, Task
from rlhfsim.losses import KTO, DirectLoss, Hinge, Logistic, SFTTerm
from rlhfsim.rewards import Tabular, fit_reward, mle_exists
from rlhfsim.rewards.tabular import LARGEST_R_MAX, SMALLEST_RIDGE

Solver = Callable[[Task, PromptRows], Answer]


@dataclass(frozen=True)
class TabularPolicies:
    """All policies, one distribution for each prompt; the loss is minimised through its scores.

    The score `s(x, y) = beta v(y) phi(w)` determines the policy, and a loss of comparisons is
    convex in the scores where its outer loss is convex: there the minimum is global.

    * Logistic (DPO, chiPO, f-DPO, cDPO, SimPO): a Bradley-Terry fit, `Tabular()`.
    * Logistic with a margin, squared (IPO, REBEL): Newton's method for each prompt.
    * Hinge (SLiC): a linear program; `unique` says whether it has other minimisers.
    * With imitation (RPO, POWER, SLiC): Newton's method.  Responses that never won get mass 0.
    * chiPO with a clip: not convex; solved to a certified global minimum where a bound allows it,
      otherwise the best of a local search, with `global` False.
    * KTO: its fixed point, see `kto_fixed_point`; `global` is False.

    Where the data say nothing: the scores of compared responses have mean 0 (in each set of
    responses linked by comparisons where the loss does not link them), responses that were never
    compared get 0, and prompts without any comparison keep the reference.  (Without a bound or
    ridge, a logistic loss refuses such prompts, as the Bradley-Terry estimate does.)

    The residual is the largest derivative of the mean loss in a score (for KTO, in a logit of the
    policy, the baseline held fixed).  `diagnostics` has `unique`, whether it is known that all
    other scores of compared responses are worse (not with `r_max`), and where the policy is a
    regularized optimum its `duality_gap`.

    Parameters
    ----------
    r_max : float, optional
        Only policies whose scores lie within `[0, r_max]` up to a constant per prompt; positive,
        at most 700.  For losses that are likelihoods, and at most the clip.
    ridge : float, optional
        Adds `(ridge/2) sum_xy s(x, y)^2` to the sum of the losses, in comparisons per squared
        reward unit; at least 1e-60.  For smooth convex outer losses without imitation.

    Raises
    ------
    ValueError
        For both, or either out of range.  Minimising: for a loss that needs other policies, with
        the reason.
    MLEDoesNotExistError
        Minimising, where no policy attains the infimum, or the data do not link a prompt's
        responses.

    Source: arXiv 2305.18290, 2309.16240, 2407.13399 for the bijection; Ford 1957 for existence.
    """

    r_max: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.r_max is not None and self.ridge is not None:
            raise ValueError(
                f"r_max is {self.r_max!r} and ridge is {self.ridge!r}; at most one may be given"
            )
        for name in ("r_max", "ridge"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.positive_number(name, value))
        if self.r_max is not None and self.r_max > LARGEST_R_MAX:
            raise ValueError(f"r_max is {self.r_max!r}; it must be at most {LARGEST_R_MAX:g}")
        if self.ridge is not None and self.ridge < SMALLEST_RIDGE:
            raise ValueError(f"ridge is {self.ridge!r}; it must be at least {SMALLEST_RIDGE:g}")

    @property
    def label(self) -> str:
        """The bound or ridge, if any."""
        if self.r_max is not None:
            return f"scores within {self.r_max:g}"
        return "" if self.ridge is None else f"ridge {self.ridge:g}"

    def minimize(self, task: Task, rng: np.random.Generator | None) -> Minimum:
        """Return the minimiser; see the class.  `rng` is not used."""
        loss = task.loss
        if isinstance(loss, KTO):
            self._refuse_settings("KTO is no loss of comparisons")
            return kto_fixed_point(task)
        require_bijection(loss)
        if is_likelihood(loss):
            if self.fits_likelihood(loss):
                return self._likelihood(task)
            assert loss.clip is not None
            self._refuse_settings(f"the loss is clipped at {loss.clip:g}, so it is not convex")
            return self._clipped(task, loss.clip)
        if self.r_max is not None:
            raise ValueError(
                f"r_max is {self.r_max!r}; {loss.name} is no likelihood of its scores, "
                "for which alone the bound is solved"
            )
        return self._separately(task, self._solver(loss))

    @property
    def model(self) -> Tabular:
        """The reward model of the scores, for a loss that `fits_likelihood`."""
        return Tabular(r_max=self.r_max, ridge=self.ridge)

    def fits_likelihood(self, loss: DirectLoss) -> bool:
        """Return whether the loss is solved by a Bradley-Terry fit of the scores."""
        unclipped = loss.clip is None or (self.r_max is not None and self.r_max <= loss.clip)
        return is_likelihood(loss) and unclipped

    def _refuse_settings(self, reason: str) -> None:
        for name in ("r_max", "ridge"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(f"{name} is {value!r}; it must be None: {reason}")

    def _solver(self, loss: DirectLoss) -> Solver:
        """Return the solver of one prompt for a loss that is no likelihood."""
        outer = loss.outer
        if loss.clip is not None:
            raise ValueError(f"clip is {loss.clip!r}; it is only solved for logistic losses")
        if not outer.convex:
            raise ValueError(
                f"outer is {outer!r}; it must be convex: over all tabular policies its minimum is "
                "not found, or not attained; take FinitePolicies or LogLinearPolicies"
            )
        if loss.extra:
            _require_imitation(loss)
            self._refuse_settings("the imitation bounds the policy")
            return separate.imitating
        if isinstance(outer, Hinge):
            self._refuse_settings("a hinge needs no bound and is not smooth")
            return separate.hinge
        ridge = self.ridge or 0.0
        return lambda task, rows: separate.convex(task, rows, ridge)

    def _likelihood(self, task: Task) -> Minimum:
        """Solve by a Bradley-Terry fit of the scores."""
        assert isinstance(task.loss, DirectLoss)
        fit = fit_likelihood(task, self.model)
        assert fit.gradient_norm is not None
        touched = np.asarray(fit.compared.any(axis=1))
        policy, gap = policy_of_scores(task, fit.reward, touched)
        # Within a box, sets of responses that no comparison links can be moved.
        notes: dict[str, Any] = {} if self.r_max is not None else {"unique": True}
        return Minimum(
            policy=policy,
            objective=-fit.log_likelihood / task.rows,
            residual=fit.gradient_norm / task.rows,
            proven=True,
            scores=centred(fit.reward, fit.compared),
            notes=notes | _gap_note(gap),
        )

    def _clipped(self, task: Task, clip: float) -> Minimum:
        data = likelihood_data(task)
        exists = mle_exists(data)

        def solve(_: Task, rows: PromptRows) -> Answer:
            unclipped = _unclipped(rows) if exists[rows.prompt] else None
            return minimize_clipped(rows, clip, unclipped)

        return self._separately(replace(task, data=data), solve)

    def _separately(self, task: Task, solver: Solver) -> Minimum:
        """Solve prompt by prompt."""
        assert isinstance(task.loss, DirectLoss)
        counts = task.counts
        scores = np.zeros(counts.shape)
        if task.loss.extra:
            scores[counts.compared.any(axis=1)] = -np.inf
        touched = np.zeros(counts.shape[0], dtype=np.bool_)
        total = counts.equal_pairs * task.loss.tied_value() if counts.equal_pairs else 0.0
        residual, proven, unique, failure = 0.0, True, True, ""
        for rows in prompt_rows(task):
            answer = solver(task, rows)
            scores[rows.prompt, rows.responses] = answer.scores
            touched[rows.prompt] = True
            total += answer.value
            residual = max(residual, answer.residual)
            proven, unique = proven and answer.proven, unique and answer.unique
            failure = failure or _failure(rows, answer)
        policy, gap = policy_of_scores(task, scores, touched)
        return Minimum(
            policy=policy,
            objective=total / counts.total,
            residual=residual / counts.total,
            proven=proven and not failure,
            scores=_finite(scores, task),
            notes={"unique": unique} | _gap_note(gap),
            failure=failure,
        )


def _require_imitation(loss: DirectLoss) -> None:
    """Raise unless a loss with extra terms is one that is solved."""
    smooth = isinstance(loss.outer, Logistic) and loss.outer.label_smoothing == 0
    imitation = all(isinstance(term, SFTTerm) for term in loss.extra)
    if not (imitation and loss.link.logarithmic and (smooth or isinstance(loss.outer, Hinge))):
        raise ValueError(
            f"extra is {loss.extra!r} with {loss.link!r} and {loss.outer!r}; over all tabular "
            "policies, extra terms must be imitation (SFTTerm), with a logarithmic link and a "
            "logistic outer loss without smoothing or a hinge"
        )


def _unclipped(rows: PromptRows) -> tuple[FloatArray, float]:
    """Return the Bradley-Terry estimate of one prompt and its residual."""
    size = len(rows.count)
    order = np.lexsort((rows.loser, rows.winner))
    columns = np.zeros(size, dtype=np.int64), rows.winner[order], rows.loser[order]
    fit = fit_reward(PairCounts(*columns, rows.count[order], 0.0, (1, rows.size)), Tabular())
    assert fit.gradient_norm is not None
    return fit.reward[0], fit.gradient_norm


def _finite(scores: FloatArray, task: Task) -> FloatArray | None:
    return centred(scores, task.compared) if np.isfinite(scores).all() else None


def _gap_note(gap: float | None) -> dict[str, float]:
    return {} if gap is None else {"duality_gap": gap}


def _failure(rows: PromptRows, answer: Answer) -> str:
    """Return what is wrong with a prompt's certificate; empty if nothing."""
    if answer.residual <= answer.allowed:
        return ""
    return (
        f"no certified minimum at prompt {rows.prompt}: the gradient in the scores is "
        f"{answer.residual:.3g} comparisons (allowed {answer.allowed:.3g})"
    )
