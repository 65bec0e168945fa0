"""Samples in time: worker processes read ahead, the training takes them in order.

Each sample is a pure function of its key, and keys are handed out in order, so what a step sees depends neither
on the number of workers nor on where a training was continued.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from stu_pipeline.errors import StuError
from stu_pipeline.training.sampling.arena import Arena
from stu_pipeline.training.sampling.sample import Phase, Sample, SampleKey
from stu_pipeline.training.sampling.source import SampleSource
from stu_pipeline.worker_process import Answer, Patience, WorkerProcess, stop_all

PREFETCH_BYTES = 1 << 30
"""How much memory samples that wait may take, unless two batches need more."""
_PATIENCE = Patience(silent_s=7.0, blocked_s=60.0, starting_s=300.0, answer_s=60.0)
_POLL_S = 1.0
# More would fill the pipe: with both ends waiting to send, nobody would read.
_MAX_QUEUED = 64


class SampleLoader:
    """Gives the samples of one step after the other. Use it as a context manager, or `close` it.

    Args:
        source: makes the samples.
        slots: places of the whole batch that this process trains on; of one process all, of several ranks its share.
        num_workers: processes that read; 0 reads in this one, when asked.
        phase: of the keys.
        seed: of the keys.
        first_step: where the training begins or goes on.
        prefetch_bytes: memory for samples that wait; two batches always fit.
        patience: with its workers.

    Raises:
        MemoryLimitError: there is not enough memory to share.
        StorageError: a limit on the size of files holds for memory to share, too.
        ValueError: no slots; a bug of ours.
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        slots: Sequence[int],
        num_workers: int,
        phase: Phase,
        seed: int,
        first_step: int = 0,
        prefetch_bytes: int = PREFETCH_BYTES,
        patience: Patience = _PATIENCE,
    ) -> None:
        if not slots:
            raise ValueError("a loader without slots has nothing to load")
        self._source = source
        self._next_step = first_step
        self._keys = _KeyOrder(tuple(slots), phase, seed)
        self._waited_s = 0.0
        self._readers: _Readers | None = None
        if num_workers > 0:
            num_places = choose_num_places(
                len(slots), num_workers, sample_bytes=source.max_sample_bytes, prefetch_bytes=prefetch_bytes
            )
            order = self._keys.from_step(first_step)
            self._readers = _Readers(source, order, num_workers, num_places, patience=patience)

    def take(self, step: int, *, while_waiting: Callable[[], None] | None = None) -> list[Sample]:
        """Return the samples of a step, in the order of the slots, and wait for them if they are not there yet.

        Their voxels are valid until the next `take`: then the memory is used again.

        Args:
            step: one after the last one taken, or `first_step`.
            while_waiting: called at least once a second; what it raises ends the wait, and the step can be taken again.

        Raises:
            DataError: a case is damaged; or the worker that read it crashed, was stopped, or hangs.
            MemoryLimitError: the worker was killed, which is how the system takes memory back.
            ValueError: a step out of order; a bug of ours.
        """
        if step != self._next_step:
            raise ValueError(f"step {step} was asked for, step {self._next_step} comes next")
        start = time.monotonic()
        keys = self._keys.of_step(step)
        readers = self._readers
        samples = readers.take(keys, while_waiting) if readers else [self._source.make_sample(key) for key in keys]
        self._next_step += 1
        self._waited_s += time.monotonic() - start
        return samples

    def take_waited_s(self) -> float:
        """Return the seconds spent in `take` since the last call, and start again."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    @property
    def memory_bytes(self) -> int:
        """The most memory that waiting samples take; 0 without workers."""
        return 0 if self._readers is None else self._readers.memory_bytes

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers; empty without."""
        return [] if self._readers is None else self._readers.pids

    def close(self) -> None:
        """End the workers. Samples taken stay valid."""
        if self._readers is not None:
            self._readers.close()

    def __enter__(self) -> SampleLoader:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        self.close()


def choose_num_places(num_slots: int, num_workers: int, *, sample_bytes: int, prefetch_bytes: int) -> int:
    """Choose how many samples fit into the shared memory: those in use, those ready, and those being read.

    Two batches is the least: one in use, and one that is read meanwhile. Up to the limit in bytes there are two more
    for every worker, so that none waits for the training to take its sample.
    """
    wanted = 2 * num_slots + 2 * num_workers
    return max(2 * num_slots, min(wanted, prefetch_bytes // max(1, sample_bytes)))


@dataclass(frozen=True, slots=True)
class _KeyOrder:
    """The keys of a loader, in the order they are consumed."""

    slots: tuple[int, ...]
    phase: Phase
    seed: int

    def of_step(self, step: int) -> list[SampleKey]:
        return [SampleKey(seed=self.seed, phase=self.phase, step=step, slot=slot) for slot in self.slots]

    def from_step(self, step: int) -> Iterator[SampleKey]:
        while True:
            yield from self.of_step(step)
            step += 1


@dataclass(frozen=True, slots=True)
class _Task:
    """One sample to read, and the place in memory it goes to."""

    key: SampleKey
    place: int


class _SampleWriter:
    """What a worker does: read a sample into its place, and return it without its voxels."""

    def __init__(self, source: SampleSource, arena: Arena) -> None:
        self._source = source
        self._arena = arena

    def __call__(self, task: _Task) -> dict[str, Any]:
        sample = self._source.make_sample(task.key, self._arena.open_place(task.place).allocate)
        return {
            "shape": sample.data.shape,
            "num_label_maps": len(sample.labels),
            "case_id": sample.case_id,
            "affine": sample.affine,
            "center": sample.center,
        }


class _Readers:
    """The workers, what each of them has to do, and the memory they share."""

    def __init__(
        self, source: SampleSource, order: Iterator[SampleKey], num_workers: int, num_places: int, *, patience: Patience
    ) -> None:
        self._source = source
        self._order = order
        self._patience = patience
        self._arena = Arena(num_places, source.max_sample_bytes)
        self._free = deque(range(num_places))
        self._done: dict[SampleKey, tuple[int, Sample | StuError]] = {}
        self._tasks: dict[WorkerProcess, deque[_Task]] = {}
        self._fault: StuError | None = None
        writer = _SampleWriter(source, self._arena)
        for _ in range(num_workers):
            self._tasks[WorkerProcess(writer, imports_main=False)] = deque()
        self._arena.close_file()  # every worker has it
        self._hand_out()

    @property
    def memory_bytes(self) -> int:
        return self._arena.num_places * self._arena.place_bytes

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._tasks if worker.process.pid is not None]

    def take(self, keys: Sequence[SampleKey], while_waiting: Callable[[], None] | None) -> list[Sample]:
        """Wait for samples."""
        self._listen(timeout_s=0.0)
        while not all(key in self._done for key in keys):
            self._listen(timeout_s=_POLL_S)
            if while_waiting is not None:
                while_waiting()
        found = [self._done.pop(key) for key in keys]
        # Free, and left alone until the next samples are taken: nothing is handed out before.
        self._free.extend(place for place, _ in found)
        samples = []
        for _, sample in found:
            if isinstance(sample, StuError):
                self._fault = sample  # and again, should the step be asked for again
                raise sample
            samples.append(sample)
        return samples

    def close(self) -> None:
        stop_all(list(self._tasks))
        self._tasks = {}

    def _listen(self, *, timeout_s: float) -> None:
        """Take what the workers have to say, waiting for it if need be, and give them more to do."""
        if self._fault is not None:
            raise self._fault
        self._hand_out()
        start = time.monotonic()
        ready = wait([worker.connection for worker in self._tasks], timeout=timeout_s)
        # No more than one turn counts: if we were stopped ourselves, the workers are not to blame.
        waited_s = min(time.monotonic() - start, timeout_s)
        for worker, tasks in self._tasks.items():
            if worker.connection in ready:
                self._drain(worker)
            elif tasks and waited_s > 0:
                self._note(worker, worker.check(waited_s, self._patience))
        self._hand_out()

    def _drain(self, worker: WorkerProcess) -> None:
        self._note(worker, worker.take())
        while worker.is_alive and worker.connection.poll():
            self._note(worker, worker.take())

    def _note(self, worker: WorkerProcess, answer: Answer | None) -> None:
        """Keep a sample or its error; raise where the worker is lost."""
        if answer is None:
            return
        if answer.fate:
            tasks = self._tasks[worker]
            key = tasks[0].key if tasks else None
            name = self._source.name_case(key) if key else "no case"
            self._fault = worker.explain(answer, name, where=self._source.folder)
            raise self._fault
        task = self._tasks[worker].popleft()
        sample = answer.error or self._find_sample(task, **answer.result)
        self._done[task.key] = (task.place, sample)

    def _find_sample(
        self, task: _Task, *, shape: tuple[int, ...], num_label_maps: int, case_id: str, affine: Any, center: Any
    ) -> Sample:
        """Look at the voxels where the worker has put them."""
        allocate = self._arena.open_place(task.place).allocate
        data, labels = allocate(shape, "float32"), allocate((num_label_maps, *shape[1:]), "int16")
        return Sample(key=task.key, case_id=case_id, data=data, labels=labels, affine=affine, center=center)

    def _hand_out(self) -> None:
        """Give every free place to the worker that has least to do."""
        while self._free:
            worker = min(self._tasks, key=lambda one: len(self._tasks[one]))
            if len(self._tasks[worker]) >= _MAX_QUEUED:
                return
            task = _Task(next(self._order), self._free.popleft())
            worker.give(task, is_first=not self._tasks[worker])
            self._tasks[worker].append(task)
