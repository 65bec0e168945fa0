"""Every problem a user can act on, with its exit code (docs/reference/errors.md)."""

from __future__ import annotations

from pathlib import Path


class StuError(Exception):
    """A problem the user can act on. Anything else that escapes is a bug of ours.

    Args:
        problem: what is wrong, in one line, lower case, values in single quotes.
        where: the file or folder it concerns.
        hint: what to do next; a command when one exists.
        details: further lines (one problem each) when a check found several.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: Path | str | None = None,
        hint: str = "",
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.hint = hint
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword arguments when a worker process hands the error back."""
        return _rebuild, (type(self), self.problem, self.where, self.hint, self.details)


class UsageError(StuError):
    """The command line or a config does not make sense."""

    exit_code = 2


class DataError(StuError):
    """An image, a label map, a dataset or preprocessed data cannot be used."""

    exit_code = 3


class ModelError(StuError):
    """A plan, a checkpoint or a model folder is missing or refused."""

    exit_code = 4


class StorageError(StuError):
    """A file could not be written: disk full, read-only, no permission."""

    exit_code = 5


class MemoryLimitError(StuError):
    """The work does not fit the memory there is (RAM or GPU)."""

    exit_code = 6


class LockedError(StuError):
    """Another run is writing to the same place."""

    exit_code = 7


class NonFiniteError(StuError):
    """Computed numbers (loss, weights, logits) are not finite."""

    exit_code = 8


class PartialError(StuError):
    """Some cases are done, some failed; the report lists the failed ones."""

    exit_code = 10


class StoppedError(StuError):
    """A signal stopped the run after its state was saved."""

    exit_code = 143

    def __init__(
        self, problem: str, *, signal_number: int = 15, where: Path | str | None = None, hint: str = ""
    ) -> None:
        super().__init__(problem, where=where, hint=hint)
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the signal too."""
        return _rebuild_stopped, (self.problem, self.exit_code - 128, self.where, self.hint, self.details)


def _rebuild_stopped(
    problem: str, number: int, where: Path | str | None, hint: str, details: tuple[str, ...]
) -> StoppedError:
    error = StoppedError(problem, signal_number=number, where=where, hint=hint)
    error.details = details
    return error


def _rebuild(
    kind: type[StuError], problem: str, where: Path | str | None, hint: str, details: tuple[str, ...]
) -> StuError:
    error = kind(problem, where=where, hint=hint)
    error.details = details
    return error
