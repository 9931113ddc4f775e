"""The order of the cells of a study, and where a saved row belongs in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.studies.study import Study


class Group(NamedTuple):
    """The cells that share a dataset."""

    instance: int
    environment: int
    n: int
    seed: int


@dataclass(frozen=True)
class Layout:
    """Cells are numbered group by group, within a group method by method along its grid."""

    study: Study

    @cached_property
    def points(self) -> list[tuple[int, float]]:
        """The (method, value) of the cells of one group."""
        return self.study.points

    @cached_property
    def _environments(self) -> list[tuple[int, int]]:
        return self.study.environments

    def group(self, number: int) -> Group:
        """Return the group of a number from 0 to `study.groups`."""
        rest, seed = divmod(number, self.study.replications)
        place, size = divmod(rest, len(self.study.n))
        return Group(*self._environments[place], self.study.n[size], seed)

    # ---- from saved rows back to cells --------------------------------------------------------

    @cached_property
    def _methods(self) -> dict[str, dict[float, int]]:
        places: dict[str, dict[float, int]] = {}
        for place, (method, value) in enumerate(self.points):
            places.setdefault(self.study.learners[method].key, {})[value] = place
        return places

    @cached_property
    def _first_group(self) -> dict[str, int]:
        """The number of the first (instance, environment) of each instance, by its key."""
        first: dict[str, int] = {}
        for number, (instance, _) in enumerate(self._environments):
            first.setdefault(self.study.instances[instance].key, number)
        return first

    def cells(
        self,
        instances: Sequence[str],
        methods: Sequence[str],
        columns: Mapping[str, np.ndarray[Any, Any]],
    ) -> IntArray:
        """Return the number of the cell of each saved row; -1 where the study has no such cell.

        `instances` and `methods` are the keys that the codes in the columns `instance` and
        `learner` stand for.
        """
        study = self.study
        rows = columns["instance"].size
        first = np.array([self._first_group.get(key, -1) for key in instances], dtype=np.int64)
        environments = {spec.key: spec.environments for spec in study.instances}
        sizes = np.array([environments.get(key, 0) for key in instances], dtype=np.int64)
        code = columns["instance"].astype(np.int64)
        known = (first[code] >= 0) & (columns["environment"] < sizes[code])
        places = {n: k for k, n in enumerate(study.n)}
        distinct, inverse = np.unique(columns["n"], return_inverse=True)
        size = np.array([places.get(int(n), -1) for n in distinct], dtype=np.int64)[inverse]
        seed = columns["seed"].astype(np.int64)
        if study.exact:
            known &= seed == -1
            seed = np.zeros(rows, dtype=np.int64)
        else:
            known &= (seed >= 0) & (seed < study.replications)
        point = self._points_of(methods, columns["learner"], columns["parameter_value"])
        known &= (size >= 0) & (point >= 0)
        group = (first[code] + columns["environment"]) * len(study.n) + size
        cell = (group * study.replications + seed) * len(self.points) + point
        return np.where(known, cell, -1)

    def _points_of(self, methods: Sequence[str], learner: IntArray, value: FloatArray) -> IntArray:
        point = np.full(learner.size, -1, dtype=np.int64)
        for code, key in enumerate(methods):
            rows = np.flatnonzero(learner == code)
            grid = self._methods.get(key)
            if grid is None or rows.size == 0:
                continue
            distinct, inverse = np.unique(value[rows], return_inverse=True)
            places = np.array([grid.get(float(v), -1) for v in distinct], dtype=np.int64)
            point[rows] = places[inverse]
        return point

    # ---- names --------------------------------------------------------------------------------

    def identifiers(self, group: Group) -> list[str]:
        """Return the stable id of each cell of a group, 16 hexadecimal digits."""
        study = self.study
        seed = "exact" if study.exact else group.seed
        place = "\0".join(
            map(str, (study.name, study.instances[group.instance].key, group.environment,
                      group.n, seed))
        )  # fmt: skip
        keys = [method.key for method in study.learners]
        return [
            hashlib.sha256(f"{place}\0{keys[method]}\0{value!r}".encode()).hexdigest()[:16]
            for method, value in self.points
        ]
