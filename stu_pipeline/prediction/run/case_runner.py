"""Run cases: the next one is read while one is predicted and the last one written; a bad case does not stop others."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError, MemoryLimitError, NonFiniteError, StuError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.prediction.combining.ensemble import Ensemble, LoadedCase
from stu_pipeline.prediction.combining.group import Watch
from stu_pipeline.prediction.config import CaseReport
from stu_pipeline.prediction.proof.file_marks import FileMark
from stu_pipeline.prediction.run.finish import CaseFinisher, Finishing

# Shorter cases need no progress of their own.
_QUIET_S = 5.0
# What concerns one case only. Anything else (a full disk, a wrong model) stops the run.
_CASE_ERRORS = (DataError, NonFiniteError, MemoryLimitError, MemoryError)


@dataclass(frozen=True, slots=True, eq=False)
class CaseFailure:
    """A case that could not be predicted."""

    report: CaseReport
    error: StuError


Outcome = CaseReport | CaseFailure


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    case: LoadedCase
    inputs: dict[str, FileMark]
    seconds: float


class CaseRunner:
    """Loads, predicts, finishes and reports cases.

    Args:
        ensemble: the models.
        finisher: turns a prediction into files and a report.
        listen: receives the progress of long cases.
        num_ahead: cases that are read ahead; 0 does everything in this thread, one case after the other.
        admit: raises for a case that must not be tried, for example because it would not fit the memory.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        finisher: CaseFinisher,
        listen: Listener,
        *,
        num_ahead: int = 1,
        admit: Callable[[Case], None] = lambda case: None,
    ) -> None:
        self.ensemble = ensemble
        self.finisher = finisher
        self.listen = listen
        self.num_ahead = num_ahead
        self.admit = admit

    def run(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """Yield what became of each case, in order.

        Raises:
            StorageError: an output could not be written.
        """
        if self.num_ahead == 0:
            for case in cases:
                yield self._join(case, self._predict(case, None))
            return
        loader = ThreadPoolExecutor(max_workers=self.num_ahead, thread_name_prefix="load")
        writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        try:
            yield from self._overlap(cases, loader, writer)
        finally:
            # What is being written is finished, so that it counts; what is being read is of no use any more.
            loader.shutdown(wait=False, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=False)

    def _overlap(
        self, cases: Sequence[Case], loader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> Iterator[Outcome]:
        ahead: deque[Future[_Loaded]] = deque()
        waiting: tuple[Case, Future[CaseReport] | CaseFailure] | None = None
        todo = iter(cases)
        for case in cases:
            if not ahead:
                ahead.append(loader.submit(self._load, next(todo)))
            loading = ahead.popleft()
            loading.exception()  # wait, so that never more than `num_ahead` cases lie in memory beside this one
            ahead.extend(loader.submit(self._load, item) for item in islice(todo, self.num_ahead - len(ahead)))
            outcome = self._predict(case, loading)
            if waiting is not None:
                yield self._join(*waiting)
            waiting = (case, writer.submit(outcome) if callable(outcome) else outcome)
        if waiting is not None:
            yield self._join(*waiting)

    def _predict(self, case: Case, loading: Future[_Loaded] | None) -> Callable[[], CaseReport] | CaseFailure:
        """Predict a case; return what is left to do, which another thread may."""
        start = time.monotonic()
        try:
            loaded = self._load(case) if loading is None else loading.result()
            finishing = self._compute(case, loaded, start)
        except _CASE_ERRORS as error:
            return _fail(case, error, start)
        return lambda: self._finish(finishing)

    def _finish(self, finishing: Finishing) -> CaseReport:
        try:
            return self.finisher.finish(finishing)
        except BaseException:
            finishing.extras.discard()
            raise

    def _compute(self, case: Case, loaded: _Loaded, start: float) -> Finishing:
        watch = Watch(on_tiles=self._report_tiles(start), seed=zlib.crc32(case.id.encode()))
        extras = self.finisher.open_extras(case)
        try:
            prediction = self.ensemble.predict(loaded.case, watch, extras.open)
        except BaseException:
            extras.discard()
            raise
        return Finishing(
            case=case, inputs=loaded.inputs, prediction=prediction, extras=extras, started=start - loaded.seconds
        )

    def _join(self, case: Case, outcome: Callable[[], CaseReport] | Future[CaseReport] | CaseFailure) -> Outcome:
        if isinstance(outcome, CaseFailure):
            return outcome
        start = time.monotonic()
        try:
            return outcome.result() if isinstance(outcome, Future) else outcome()
        except _CASE_ERRORS as error:
            return _fail(case, error, start)

    def _load(self, case: Case) -> _Loaded:
        start = time.monotonic()
        self.admit(case)
        # Before the images are read: whoever changes them meanwhile makes the mask unproven.
        inputs = self.finisher.manifest.mark_inputs(case)
        loaded = self.ensemble.load(case)
        return _Loaded(loaded, inputs, time.monotonic() - start)

    def _report_tiles(self, start: float) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if time.monotonic() - start > _QUIET_S:
                self.listen(Progress(step="tiles", done=done, total=total))

        return report


def _fail(case: Case, error: StuError | MemoryError, start: float) -> CaseFailure:
    if isinstance(error, MemoryError):
        error = MemoryLimitError(
            f"not enough memory for case '{case.id}': {error}", where=case.image_files[0].parent, hint="--dry-run"
        )
    report = CaseReport(case=case.id, status="failed", seconds=time.monotonic() - start, error=str(error))
    return CaseFailure(report, error)
