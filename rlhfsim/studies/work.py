"""What a task does: build the scene, draw the data, fit every learner, measure every policy."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.laws import dataset_law, population_pairs
from rlhfsim.learners.together import LearnerBatch
from rlhfsim.metrics import Yardstick
from rlhfsim.randomness import generator_for
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import parts
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.layout import Group, Layout
from rlhfsim.studies.measures import ALWAYS, LIKELIHOODS, SPLIT, apart, columns, extra, likelihoods
from rlhfsim.studies.study import Study
from rlhfsim.threads import get_threads, set_threads

#: The (method, value of its parameter) of some cells of a group.
Points = tuple[tuple[int, float], ...]

#: Environments whose stage is kept; neighbouring groups share one.
_STAGES = 4

_REGRET = ALWAYS.index("regret")


@dataclass(frozen=True)
class Piece:
    """Cells to evaluate: a group, and which of its points (all, if None)."""

    group: int
    points: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Done:
    """What a task returns: a part, ready to be saved, and how long it took."""

    content: bytes
    cells: int
    seconds: float


def run_task(study: Study, pieces: Sequence[Piece], threads: int, made_by: str) -> Done:
    """Return the part of some cells; runs in any process, on `threads` threads."""
    start = time.perf_counter()
    with _threads(threads):
        rows = evaluate(study, pieces)
        content = parts.encode(rows, study.metrics, made_by)
    return Done(content, len(rows.errors), time.perf_counter() - start)


def evaluate(study: Study, pieces: Sequence[Piece]) -> parts.Rows:
    """Return the metrics of some cells, in their order.

    Everything that is drawn comes from the names of the study and of the cell and from the seed,
    so that neither the order nor the company of a cell changes it.
    """
    worker = _Worker(study)
    place: dict[str, list[Any]] = {name: [] for name in parts.PLACE}
    values: list[FloatArray] = []
    errors: list[str | None] = []
    for piece in pieces:
        group = worker.layout.group(piece.group)
        points = worker.points(piece)
        measured, failed = worker.cells(group, points)
        values.append(measured)
        errors.extend(failed)
        seed = -1 if study.exact else group.seed
        whole = (group.instance, group.environment, group.n, seed)
        for name, value in zip(parts.PLACE[:4], whole, strict=True):
            place[name].append(np.full(len(points), value))
        place["learner"].append(np.array([method for method, _ in points]))
        place["parameter_value"].append(np.array([value for _, value in points]))
    placed = {name: np.concatenate(arrays) for name, arrays in place.items()}
    for name in ("environment", "seed"):
        placed[name] = placed[name].astype(np.int32)
    table = np.concatenate(values)
    placed |= {name: table[:, k] for k, name in enumerate(study.metrics)}
    return parts.Rows(
        tuple(spec.key for spec in study.instances),
        tuple(spec.key for spec in study.learners),
        placed,
        errors,
    )


@dataclass(frozen=True, eq=False)
class _Stage:
    """What the groups of one environment share."""

    scene: Scene
    yardstick: Yardstick
    batch: LearnerBatch | None
    #: The places, among the points, of the learners of the batch, ...
    places: IntArray
    #: ... and why the others could not be made.
    broken: Mapping[int, str]


class _Worker:
    """Evaluates groups of one study, and keeps the stage of the last few environments."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.layout = Layout(study)
        self._keys = [method.key for method in study.learners]
        self._draws = [method.draws_numbers for method in study.learners]
        self._companion = study.labels[1].index(study.companion) if study.companion else None
        #: How many values a cell has before the regret is split.
        self._width = len(study.metrics) - (len(SPLIT) if study.bias else 0)
        self._stages: OrderedDict[Any, _Stage] = OrderedDict()
        self._noiseless: tuple[Any, FloatArray] | None = None

    def points(self, piece: Piece) -> Points:
        """Return the (method, value) of the cells asked for."""
        every = self.layout.points
        return tuple(every) if piece.points is None else tuple(every[k] for k in piece.points)

    def cells(self, group: Group, points: Points) -> tuple[FloatArray, list[str | None]]:
        """Return the (points, metrics) values of a group, and its errors."""
        wanted, points = len(points), self._accompanied(points)
        values, errors = self._evaluated(group, points)
        return values[:wanted], errors[:wanted]

    def _accompanied(self, points: Points) -> Points:
        """Append the companion at every value, if there is one: its policies are needed."""
        if self._companion is None:
            return points
        needed = ((self._companion, value) for _, value in points)
        return tuple(dict.fromkeys((*points, *needed)))

    def _evaluated(self, group: Group, points: Points) -> tuple[FloatArray, list[str | None]]:
        stage = self._stage(group, points)
        if self.study.exact:
            return self._expected(group, points, stage)
        data = self._data(group, stage.scene)
        values, errors = self._measured(group, points, stage, data)
        return (self._split(group, points, stage, values) if self.study.bias else values), errors

    # ---- the stage --------------------------------------------------------------------------

    def _stage(self, group: Group, points: Points) -> _Stage:
        spec = self.study.instances[group.instance]
        n = group.n if spec.varies_with_n else 0
        key = group.instance, group.environment, n, points
        if key not in self._stages:
            rng = generator_for(
                self.study.name, f"instance {spec.scene_key}/{n}", group.environment
            )
            self._stages[key] = self._build(spec.scene(rng, n), points)
            if len(self._stages) > _STAGES:
                self._stages.popitem(last=False)
        return self._stages[key]

    def _build(self, scene: Scene, points: Points) -> _Stage:
        learners, places, broken = [], [], {}
        for place, (method, value) in enumerate(points):
            try:
                learners.append(self.study.learners[method].learner(value, scene))
                places.append(place)
            except ValueError as error:
                broken[place] = str(error)
        return _Stage(
            scene,
            Yardstick(scene.bandit, scene.comparator),
            LearnerBatch(learners) if learners else None,
            np.array(places, dtype=np.int64),
            broken,
        )

    # ---- data and randomness ------------------------------------------------------------------

    def _name(self, group: Group) -> str:
        key = self.study.instances[group.instance].key
        return f"{key}/{group.environment}/{group.n}"

    def _data(self, group: Group, scene: Scene) -> PreferenceData:
        if group.n == 0:
            # A response compared with itself says nothing; learners without data do not read it.
            none = np.zeros(1, dtype=np.int64)
            return PreferenceData(none, none, none, shape=scene.bandit.shape)
        rng = generator_for(self.study.name, f"data {self._name(group)}", group.seed)
        return sample_preferences(scene.bandit, group.n, rng, model=scene.labels)

    def _generators(
        self, group: Group, points: Points, stage: _Stage
    ) -> list[np.random.Generator | None]:
        """Return a generator for each learner that draws; along a grid all draw the same."""
        name, seed = self._name(group), 0 if self.study.exact else group.seed
        cells = {k: f"fit {name}/{key}" for k, key in enumerate(self._keys) if self._draws[k]}
        methods = [points[place][0] for place in stage.places]
        return [
            generator_for(self.study.name, cells[k], seed) if k in cells else None for k in methods
        ]

    # ---- measuring ----------------------------------------------------------------------------

    def _measured(
        self, group: Group, points: Points, stage: _Stage, data: PreferenceData | PairCounts
    ) -> tuple[FloatArray, list[str | None]]:
        values = np.full((len(points), self._width), np.nan)
        errors: list[str | None] = [stage.broken.get(k) for k in range(len(points))]
        if stage.batch is None:
            return values, errors
        bandit = stage.scene.bandit
        together = stage.batch.fit(
            data,
            bandit.reference,
            prompt_dist=bandit.prompt_dist,
            rngs=self._generators(group, points, stage),
        )
        for place, message in together.errors.items():
            errors[stage.places[place]] = message
        good = np.flatnonzero(together.fitted)
        if good.size:
            policies = together.policies[good]
            measured = stage.yardstick.measure(
                policies, regularizers=[stage.batch.regularizers[k] for k in good]
            )
            rewards = [together.rewards[k] for k in good]
            places = stage.places[good]
            values[places, : len(ALWAYS)] = columns(measured, policies, rewards, bandit)
            self._add_asked_for(values, places, points, policies, bandit, data)
            if self.study.measures:
                notes = [together.diagnostics.get(int(k), {}) for k in good]
                values[places, self._width - len(self.study.measures) :] = extra(
                    self.study.measures, policies, notes, stage.scene
                )
        return values, errors

    def _add_asked_for(
        self,
        values: FloatArray,
        places: IntArray,
        points: Points,
        policies: FloatArray,
        bandit: ContextualBandit,
        data: PreferenceData | PairCounts,
    ) -> None:
        """Write what only some studies measure into the columns behind `ALWAYS`."""
        column = len(ALWAYS)
        if self._companion is not None:
            of_place = {int(place): policy for place, policy in zip(places, policies, strict=True)}
            partner = [points.index((self._companion, points[place][1])) for place in places]
            have = np.array([place in of_place for place in partner])
            others = np.array([of_place[p] for p, has in zip(partner, have, strict=True) if has])
            if have.any():
                values[places[have], column] = apart(policies[have], others, bandit.prompt_dist)
            column += 1
        if self.study.likelihoods:
            values[places, column : column + len(LIKELIHOODS)] = likelihoods(
                policies, bandit.reference, data
            )

    def _expected(
        self, group: Group, points: Points, stage: _Stage
    ) -> tuple[FloatArray, list[str | None]]:
        """Return exact expectations over all datasets of n preferences."""
        bandit, labels = stage.scene.bandit, stage.scene.labels
        total = np.zeros((len(points), self._width))
        errors: list[str | None] = [None] * len(points)
        for probability, counts in dataset_law(bandit, group.n, model=labels):
            values, failed = self._measured(group, points, stage, counts)
            total += probability * values
            errors = [old or new for old, new in zip(errors, failed, strict=True)]
        if self.study.bias:
            total = self._split(group, points, stage, total)
        return total, errors

    def _split(self, group: Group, points: Points, stage: _Stage, values: FloatArray) -> FloatArray:
        """Append `bias`, the regret of the learner on expected counts, and what is left of it."""
        key = group.instance, group.environment, group.n, points
        if self._noiseless is None or self._noiseless[0] != key:
            law = population_pairs(stage.scene.bandit, model=stage.scene.labels)
            expected = replace(
                law, count=group.n * law.count, equal_pairs=group.n * law.equal_pairs
            )
            known, _ = self._measured(group._replace(seed=0), points, stage, expected)
            self._noiseless = key, known[:, [_REGRET]]
        bias = self._noiseless[1]
        return np.concatenate([values, bias, values[:, [_REGRET]] - bias], axis=1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Hold this process to `count` threads, those of numerical libraries included."""
    before = get_threads()
    with threadpool_limits(count):
        if before != count:
            set_threads(count)
        try:
            yield
        finally:
            if before != count:
                set_threads(before)
