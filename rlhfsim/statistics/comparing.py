"""Forms compared on one curve, and fitted to curves of many seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.fitting import FormError, FormFit, fit_form
from rlhfsim.statistics.forms import FORMS, Form
from rlhfsim.statistics.inputs import as_level, as_runs, as_values
from rlhfsim.statistics.intervals import Interval, mean_interval


@dataclass(frozen=True, eq=False)
class FormComparison(Frozen):
    """Fits of several forms to one curve, the best first; made by `compare_forms`."""

    fits: tuple[FormFit, ...]
    #: `exp(-(aicc - best)/2)`, normalised to sum to 1: Akaike's weights, in the order of `fits`.
    weights: tuple[float, ...]
    #: Name and reason of each form whose parameters the data do not determine.
    failed: tuple[tuple[str, str], ...]

    @property
    def best(self) -> FormFit:
        """The fit of smallest AICc; it may still be a bad one: see its residual checks."""
        return self.fits[0]

    def __getitem__(self, name: str) -> FormFit:
        """Return the fit of the form of that name.

        Raises
        ------
        KeyError
            If there is none; with the reason where it failed.
        """
        for fit in self.fits:
            if fit.form.name == name:
                return fit
        raise KeyError(dict(self.failed).get(name, f"no form {name!r} was compared"))


def compare_forms(
    d: ArrayLike,
    gain: ArrayLike,
    errors: ArrayLike | None = None,
    forms: Sequence[Form] = FORMS,
    level: float = 0.95,
) -> FormComparison:
    """Return the fits of forms to one curve in the order of AICc.

    Forms that the data do not determine (a saturating one on a straight line) are listed with
    the reason and are not ranked.

    Parameters
    ----------
    d, gain, errors, level
        As in `fit_form`.
    forms : sequence of Form
        Of different names.

    Returns
    -------
    FormComparison

    Raises
    ------
    ValueError
        Bad input, as `fit_form`; no form, or two of one name.
    FormError
        If no form could be fitted.

    Source: Burnham and Anderson 2002, sections 2.4 and 2.9.
    """
    names = [form.name for form in forms]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"forms is {names}; it must hold at least one form, of different names")
    fits, failed = [], []
    for form in forms:
        try:
            fits.append(fit_form(form, d, gain, errors, level))
        except FormError as error:
            failed.append((form.name, str(error)))
    if not fits:
        raise FormError("; ".join(reason for _, reason in failed))
    fits.sort(key=lambda fit: fit.aicc)
    worth = np.exp(-0.5 * (np.array([fit.aicc for fit in fits]) - fits[0].aicc))
    return FormComparison(tuple(fits), tuple((worth / worth.sum()).tolist()), tuple(failed))


@dataclass(frozen=True, eq=False)
class FormOfRuns(Frozen):
    """One form fitted to each run; made by `fit_form_to_runs`."""

    form: Form
    #: Mean over runs of each parameter, with Student's interval.
    parameters: tuple[Interval, ...]
    #: The fit of each run.
    fits: tuple[FormFit, ...]


def fit_form_to_runs(form: Form, d: ArrayLike, gain: ArrayLike, level: float = 0.95) -> FormOfRuns:
    """Return the parameters of a form, fitted run by run, with intervals over the runs.

    The noise along one run's curve may be correlated: only runs (seeds) are taken to be
    independent.

    Parameters
    ----------
    form : Form
    d : (n,) or (R, n) array
        The same distances for all runs, or each run's own.
    gain : (R, n) array
        R at least 2.
    level : float in (0, 1)

    Returns
    -------
    FormOfRuns

    Raises
    ------
    ValueError, FormError
        As `fit_form`, with the number of the run.
    """
    distance, level = as_values("d", d), as_level(level)
    runs = as_runs("gain", gain, sizes=distance.shape[-1])
    if distance.ndim > 2 or (distance.ndim == 2 and distance.shape != runs.shape):
        raise ValueError(
            f"d has shape {distance.shape}; it must have shape {runs.shape[1:]} or {runs.shape}"
        )
    paths = np.broadcast_to(distance, runs.shape)
    fits = tuple(_fit_run(form, i, paths[i], runs[i], level) for i in range(len(runs)))
    estimates = np.array([fit.estimates for fit in fits])
    return FormOfRuns(form, tuple(mean_interval(e, level) for e in estimates.T), fits)


def _fit_run(form: Form, i: int, d: FloatArray, gain: FloatArray, level: float) -> FormFit:
    try:
        return fit_form(form, d, gain, level=level)
    except (ValueError, FormError) as error:
        raise type(error)(f"run {i}: {error}") from error
