"""What a prediction will take, said before it starts, and which cases may overlap so that it keeps to it.

RAM = process + the largest of (case that is predicted + next one being read + last one being written).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError, MemoryLimitError
from stu_pipeline.host import measure_free_ram_gib
from stu_pipeline.prediction.combining.ensemble import Ensemble
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.memory.case_need import CaseNeed, measure_need
from stu_pipeline.prediction.memory.process_need import ProcessNeed, bound_process, measure_process
from stu_pipeline.prediction.models.model_json import RULES_FILE
from stu_pipeline.prediction.quality.document import QUALITY_FILE

COLUMNS = ("case", "voxels", "network voxels", "RAM (GiB)", "GPU (GiB)", "disk (GiB)", "passes", "fits")
_GIB = 1 << 30
_HINT = "crop the image, or use a machine with more memory; fewer models or patches and --probabilities none take less"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Consecutive cases, of which the next ones are read while one is predicted and the last one written."""

    cases: tuple[Case, ...]
    num_ahead: int
    """0: one after the other, also the steps of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What some cases take, in their order."""

    cases: tuple[Case, ...]
    needs: tuple[CaseNeed | None, ...]
    """None where a header could not be read, or was not looked at."""
    process: ProcessNeed
    limit: int
    """Bytes of RAM for this process."""
    is_asked: bool
    """Whether the limit was given; else it is what is free."""
    num_ahead: int
    num_processes: int = 1
    """That share the cases, each with this limit."""

    @functools.cached_property
    def refused(self) -> frozenset[str]:
        """The cases that do not fit, not even alone."""
        return frozenset(need.case_id for need in self.needs if need and self.count_alone(need) > self.limit)

    @functools.cached_property
    def shares(self) -> tuple[Share, ...]:
        """The cases in order, divided where two neighbours would not fit together."""
        if self.num_ahead == 0:
            return (Share(cases=self.cases, num_ahead=0),)
        groups: list[list[int]] = []
        for index in range(len(self.cases)):
            # Only the last ones can overlap with a new one.
            if groups and self._fits([*groups[-1][-1 - self.num_ahead :], index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        return tuple(
            Share(cases=tuple(self.cases[index] for index in group), num_ahead=self.num_ahead if len(group) > 1 else 0)
            for group in groups
        )

    @property
    def peak(self) -> int:
        """Bytes of RAM at the worst moment of the run."""
        return max([self.process.peak_so_far, self.process.resident, *self.peaks.values()])

    @functools.cached_property
    def peaks(self) -> dict[str, int]:
        """By case that is not refused: bytes of RAM while it is worked on, with what is read and written meanwhile."""
        index_of = {case.id: index for index, case in enumerate(self.cases)}
        found = {}
        for share in self.shares:
            indices = [index_of[case.id] for case in share.cases]
            for place, index in enumerate(indices):
                need = self._find(index)
                if need is not None and share.num_ahead == 0:
                    found[need.case_id] = self.count_alone(need)
                elif need is not None:
                    found[need.case_id] = max(self.count_alone(need), self._count_together(indices, place))
        return found

    def admit(self, case: Case) -> None:
        """Refuse a case that does not fit.

        Raises:
            MemoryLimitError: with what it takes and what there is.
        """
        if case.id not in self.refused:
            return
        need = next(need for need in self.needs if need is not None and need.case_id == case.id)
        there = "the limit is {:.2f} GiB" if self.is_asked else "{:.2f} GiB can be used"
        raise MemoryLimitError(
            f"case '{case.id}' would take {self.count_alone(need) / _GIB:.2f} GiB of memory, "
            + there.format(self.limit / _GIB),
            where=case.image_files[0].parent,
            hint=f"a higher --max-ram, or {_HINT}" if self.is_asked else _HINT,
        )

    def count_alone(self, need: CaseNeed) -> int:
        """Return the bytes of RAM of the process while nothing but one case is worked on."""
        return self.process.resident + need.count_alone(self.process.pass_bytes)

    def _fits(self, indices: Sequence[int]) -> bool:
        return all(self._count_together(indices, place) <= self.limit for place in range(len(indices)))

    def _count_together(self, indices: Sequence[int], place: int) -> int:
        return sum(self._list_terms(indices, place).values())

    def _list_terms(self, indices: Sequence[int], place: int) -> dict[str, int]:
        """Return what is held at once while a case is predicted and its neighbours are read and written."""
        terms = {"process": self.process.resident}
        need = self._find(indices[place])
        if need is not None:
            inside = self.process.pass_bytes
            terms["image"] = need.loaded
            terms["sums, tiles and mask"] = need.computing
            terms["pass or export"] = need.count_predicting(inside) - need.loaded - need.computing
        following = [self._find(index) for index in indices[place + 1 : place + 1 + self.num_ahead]]
        terms["next"] = sum(item.loading for item in following if item is not None)
        before = self._find(indices[place - 1]) if place else None
        terms["last"] = 0 if before is None else before.loaded + before.writing
        return terms

    def _find(self, index: int) -> CaseNeed | None:
        """Return what a case takes; None for one that is not known or will not run."""
        need = self.needs[index]
        return None if need is None or need.case_id in self.refused else need

    def describe(self) -> dict[str, Any]:
        """Return lines that say formula and budget, and a table of cases."""
        return {
            "lines": [*self._explain(), *self._sum_up()],
            "columns": list(COLUMNS),
            "rows": [self._describe_case(case, need) for case, need in zip(self.cases, self.needs, strict=True)],
            "peak_gib": round(self.peak / _GIB, 3),
            "limit_gib": round(self.limit / _GIB, 3),
            "process_gib": round(self.process.resident / _GIB, 3),
            "pass_gib": round(self.process.pass_bytes / _GIB, 3),
        }

    def _explain(self) -> list[str]:
        process = self.process
        how = "measured" if process.is_measured else "at most"
        return [
            "RAM = process + the largest of (case that is predicted + next one being read + last one being written)",
            "predicted = prepared image + sums of logits as thick as a tile + tiles + mask"
            " + the larger of (forward pass, export of a slab)",
            f"process with its networks: {process.resident / _GIB:.2f} GiB; forward pass: "
            f"{max(process.pass_bytes, process.pass_on_gpu) / _GIB:.2f} GiB {how}"
            + (f", networks on the GPU: {process.weights_on_gpu / _GIB:.2f} GiB" if process.weights_on_gpu else ""),
            "from the headers: as if nothing were cropped; disk as if nothing could be compressed",
        ]

    def _sum_up(self) -> list[str]:
        limit = f"--max-ram {self.limit / _GIB:.2f}" if self.is_asked else f"{self.limit / _GIB:.2f} GiB can be used"
        largest = max(self.peaks, key=lambda name: self.peaks[name], default=None)
        where = f", at case '{largest}'" if largest is not None else ""
        lines = [f"peak: {self.peak / _GIB:.2f} GiB of RAM{where}; {limit}", *self._explain_peak(largest)]
        alone = sum(len(share.cases) for share in self.shares if share.num_ahead == 0 and self.num_ahead)
        if alone and len(self.cases) > 1:
            lines.append(f"{alone} of {len(self.cases)} cases run alone: reading and writing wait for them")
        if self.num_processes > 1:
            lines.append(f"{self.num_processes} processes, each with as much: {self.num_processes} times this peak")
        if self.refused:
            lines.append(f"{len(self.refused)} of {len(self.cases)} cases do not fit and would be refused")
        return lines

    def _explain_peak(self, name: str | None) -> Iterator[str]:
        """Put numbers into the formula, for the case that takes the most with its neighbours."""
        for share in self.shares:
            names = [case.id for case in share.cases]
            if share.num_ahead and name in names:
                first = self.cases.index(share.cases[0])
                terms = self._list_terms(range(first, first + len(names)), names.index(str(name)))
                yield "= " + " + ".join(f"{what} {value / _GIB:.2f}" for what, value in terms.items())

    def _describe_case(self, case: Case, need: CaseNeed | None) -> list[str]:
        if need is None:
            return [case.id, *["?"] * (len(COLUMNS) - 2), "its header cannot be read"]
        process = self.process
        on_gpu = need.on_gpu + process.weights_on_gpu + process.pass_on_gpu if need.on_gpu else 0
        is_refused = case.id in self.refused
        peak = self.count_alone(need) if is_refused else self.peaks[case.id]
        return [
            case.id,
            str(need.image_voxels),
            str(need.network_voxels),
            f"{peak / _GIB:.2f}",
            f"{on_gpu / _GIB:.2f}" if on_gpu else "-",
            f"{need.disk / _GIB:.3f}",
            str(need.passes),
            "no" if is_refused else "yes",
        ]


def forecast_prediction(
    cases: Sequence[Case], ensemble: Ensemble, config: PredictConfig, *, num_ahead: int
) -> Forecast:
    """Forecast what cases take, from their headers.

    A forward pass is run to measure it when a limit or a dry run was asked for, or when its bound decides. DICOM
    series are looked at in these cases only: their headers take long to read.

    Args:
        cases: in the order of the run.
        ensemble: the networks, loaded.
        config: of the prediction.
        num_ahead: cases that may be read ahead.
    """
    is_thorough = config.dry_run or config.max_ram_gib is not None
    needs = tuple(_measure(case, ensemble, config, is_thorough=is_thorough) for case in cases)
    process = bound_process(ensemble)
    limit = _GIB * measure_free_ram_gib() + process.resident
    if config.max_ram_gib is not None:
        limit = _GIB * config.max_ram_gib
    num_processes = config.gpus or 1
    forecast = Forecast(
        cases=tuple(cases),
        needs=needs,
        process=process,
        limit=int(limit / num_processes),
        is_asked=config.max_ram_gib is not None,
        num_ahead=num_ahead,
        num_processes=num_processes,
    )
    if not is_thorough and forecast.peak <= forecast.limit and len(forecast.shares) <= 1:
        return forecast
    max_tiles = max((need.tiles for need in needs if need is not None), default=None)
    return dataclasses.replace(forecast, process=measure_process(ensemble, max_tiles=max_tiles))


def _measure(case: Case, ensemble: Ensemble, config: PredictConfig, *, is_thorough: bool) -> CaseNeed | None:
    if case.is_dicom and not is_thorough:
        return None
    learned = ensemble.folders[0].path if len(ensemble.folders) == 1 else None  # of several, nothing is known
    has_quality = learned is not None and (learned / QUALITY_FILE).is_file()
    has_rules = learned is not None and config.postprocessing != "none" and (learned / RULES_FILE).is_file()
    try:
        return measure_need(case, ensemble, config, has_quality=has_quality, has_rules=has_rules)
    except (DataError, OSError):
        return None  # whoever reads it says what is wrong
