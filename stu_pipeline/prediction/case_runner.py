"""Run cases one after the other, the next one being prepared meanwhile; a bad case does not stop the others.

Writes: masks, and probabilities when asked for.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_fields import values_of
from stu_pipeline.errors import DataError, MemoryLimitError, NonFiniteError, StuError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.nnunet.mask_file import write_mask
from stu_pipeline.prediction.config import CaseReport
from stu_pipeline.prediction.ensemble import Ensemble, LoadedCase, Prediction
from stu_pipeline.prediction.manifest import Manifest, hash_inputs
from stu_pipeline.storage import write_atomically, write_bytes

# Shorter cases need no progress of their own.
_QUIET_S = 5.0
_BACKGROUND = 0
_IGNORE = "ignore"
# What concerns one case only. Anything else (a full disk, a wrong model) stops the run.
_CASE_ERRORS = (DataError, NonFiniteError, MemoryLimitError)


@dataclass(frozen=True, slots=True, eq=False)
class CaseFailure:
    """A case that could not be predicted."""

    report: CaseReport
    error: StuError


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    case: LoadedCase
    inputs: dict[str, str]


class CaseRunner:
    """Loads, predicts, writes and reports cases.

    Args:
        ensemble: the models.
        manifest: where masks are announced.
        listen: receives the progress of long cases.
        num_workers: 0 loads in the main thread; else the next case is loaded meanwhile, at most one ahead.
    """

    def __init__(
        self, ensemble: Ensemble, manifest: Manifest, listen: Listener, *, num_workers: int | None = None
    ) -> None:
        self.ensemble = ensemble
        self.manifest = manifest
        self.listen = listen
        self.num_workers = num_workers
        self._with_probabilities = manifest.recipe.get("probabilities") == "npz"

    def run(self, cases: Sequence[Case]) -> Iterator[CaseReport | CaseFailure]:
        """Yield what became of each case, in order."""
        if self.num_workers == 0:
            for case in cases:
                yield self._run_case(case, None)
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as pool:
            waiting = pool.submit(self._load, cases[0]) if cases else None
            for index, case in enumerate(cases):
                current = waiting
                if current is not None:
                    current.exception()  # wait, so that at most one case is loaded ahead
                waiting = pool.submit(self._load, cases[index + 1]) if index + 1 < len(cases) else None
                yield self._run_case(case, current)

    def _run_case(self, case: Case, loading: Future[_Loaded] | None) -> CaseReport | CaseFailure:
        start = time.monotonic()
        try:
            loaded = loading.result() if loading is not None else self._load(case)
            prediction = self.ensemble.predict(
                loaded.case, self._report_tiles(start), with_probabilities=self._with_probabilities
            )
            volumes, warnings = self._measure(prediction)
            self._write(case, prediction, loaded.inputs, {"volumes_ml": volumes, "warnings": warnings})
        except _CASE_ERRORS as error:
            return self._fail(case, error, start)
        except MemoryError as error:
            return self._fail(case, MemoryLimitError(f"not enough memory for case '{case.id}': {error}"), start)
        return CaseReport(
            case=case.id,
            status="done",
            output=self.manifest.outputs.masks[case.id],
            seconds=time.monotonic() - start,
            volumes_ml=volumes,
            warnings=tuple(warnings),
        )

    def _load(self, case: Case) -> _Loaded:
        return _Loaded(self.ensemble.load(case), hash_inputs(case))

    def _report_tiles(self, start: float) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if time.monotonic() - start > _QUIET_S:
                self.listen(Progress(step="tiles", done=done, total=total))

        return report

    def _write(self, case: Case, prediction: Prediction, inputs: dict[str, str], facts: dict[str, Any]) -> None:
        outputs = self.manifest.outputs
        if prediction.probabilities is not None:
            _write_probabilities(outputs.probabilities(case.id), prediction.probabilities)
            _write_properties(outputs.properties(case.id), prediction.properties)
        model = self.ensemble.members[0].model
        ids = model.dataset.label_ids
        write_mask(
            model,
            prediction.mask if ids is None else ids.to_original(prediction.mask),
            outputs.masks[case.id],
            prediction.raw,
            before_commit=lambda temporary: self.manifest.announce(case, temporary, inputs, facts),
        )

    def _measure(self, prediction: Prediction) -> tuple[dict[str, float], list[str]]:
        """Return volumes in ml by label name, and warnings about the mask."""
        counts = np.bincount(prediction.mask.ravel())
        warnings = [*prediction.warnings, *([] if counts[1:].any() else ["the mask is empty"])]
        voxel_ml = prediction.raw.voxel_ml
        if voxel_ml is None:
            return {}, warnings
        volumes = {}
        for name, label in self.ensemble.members[0].model.dataset.labels.items():
            values = [value for value in values_of(label) if value != _BACKGROUND]
            if values and name != _IGNORE:
                volumes[name] = round(sum(int(counts[v]) for v in values if v < len(counts)) * voxel_ml, 6)
        return volumes, warnings

    def _fail(self, case: Case, error: StuError, start: float) -> CaseFailure:
        report = CaseReport(case=case.id, status="failed", seconds=time.monotonic() - start, error=str(error))
        return CaseFailure(report, error)


def _write_probabilities(path: Path, probabilities: npt.NDArray[np.float32]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, probabilities=probabilities)

    write_atomically(path, write)


def _write_properties(path: Path, properties: dict[str, Any]) -> None:
    # nnU-Net reads these back as a pickle; ours never does.
    write_bytes(path, pickle.dumps(properties))
