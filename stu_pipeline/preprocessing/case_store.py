"""One data folder of ours with its manifest and journal: which cases are in it, and nothing but these.

Reads and writes: the data folder, its scratch folder, manifest and journal beside it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from types import TracebackType

from stu_pipeline.errors import StorageError
from stu_pipeline.preprocessing.manifest import (
    CommittedCase,
    Stamp,
    append_case,
    read_journal,
    read_manifest,
    write_manifest,
)
from stu_pipeline.storage import remove_leftovers, storage_errors
from stu_pipeline.workspace import DatasetPaths


class CaseStore:
    """The cases of one data identifier. Only one process at a time may use it.

    As a context manager it keeps the journal: what is added inside the block survives any kill, and the end
    of the block folds the journal into the manifest and sweeps the folders.

    Args:
        dataset: where the folders are.
        data_identifier: which of them.
        stamp: what decides the content of the folder now.
    """

    def __init__(self, dataset: DatasetPaths, data_identifier: str, stamp: Stamp) -> None:
        self.folder = dataset.data_folder(data_identifier)
        self.scratch = dataset.scratch_folder(data_identifier)
        self._manifest_path = dataset.manifest(data_identifier)
        self._journal_path = dataset.journal(data_identifier)
        self._stamp = stamp
        self._cases: dict[str, CommittedCase] = {}

    @property
    def is_foreign(self) -> bool:
        """Whether the folder holds cases of another tool: no manifest of ours is beside it."""
        has_record = self._manifest_path.is_file() or self._journal_path.is_file()
        return not has_record and bool(self.list_present())

    def list_present(self) -> set[str]:
        """Name the cases whose last file is in the folder, known or not."""
        return {file.name.removesuffix(".pkl") for file in self.folder.glob("*.pkl")}

    def read(self) -> tuple[dict[str, CommittedCase], str]:
        """Return the cases that were committed under this stamp, and why those of the manifest do not count.

        The reason is empty when they do, and when there are none.
        """
        manifest = read_manifest(self._manifest_path)
        cases: dict[str, CommittedCase] = {}
        reason = ""
        if manifest is not None and manifest.stamp == self._stamp:
            cases |= manifest.cases
        elif manifest is not None:
            reason = _explain(manifest.stamp, self._stamp) if manifest.cases or manifest.stamp is None else ""
        return cases | read_journal(self._journal_path, self._stamp), reason

    def keep(self, cases: Mapping[str, CommittedCase]) -> None:
        """Make these all there is: in the manifest, and in the folder. The journal is empty after this.

        In this order: the manifest names no file that is swept, and a kill in between loses no case.
        """
        self._cases = dict(cases)
        manifest = read_manifest(self._manifest_path)
        if manifest is None or manifest.stamp != self._stamp or manifest.cases != self._cases:
            write_manifest(self._manifest_path, self._stamp, self._cases)
        with storage_errors(self._journal_path):
            self._journal_path.unlink(missing_ok=True)
            self._sweep()

    def add(self, case: CommittedCase) -> None:
        """Note a finished case; when this returns, it is safe.

        Raises:
            StorageError: the disk is full or not writable.
        """
        append_case(self._journal_path, self._stamp, case)
        self._cases[case.case_id] = case

    def __enter__(self) -> CaseStore:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fold the journal into the manifest; the workers must have ended."""
        # The journal is as good as the manifest: a full disk should be reported as what stopped the work.
        with contextlib.suppress(*((StorageError,) if kind is not None else ())):
            self.keep(self._cases)

    def _sweep(self) -> None:
        if self.scratch.is_dir():
            shutil.rmtree(self.scratch)
        remove_leftovers(self._manifest_path)
        if not self.folder.is_dir():
            return
        # nnU-Net reads every file it finds in the folder.
        known = {name for case in self._cases.values() for name in case.files}
        for file in self.folder.iterdir():
            if file.is_file() and file.name not in known:
                file.unlink()


def _explain(found: Stamp | None, wanted: Stamp) -> str:
    if found is None:
        return "their manifest is damaged or of an earlier version"
    if found.settings != wanted.settings:
        return "the plan's preprocessing settings have changed"
    if found.labels != wanted.labels:
        return "the labels in dataset.json have changed"
    return "the preprocessing itself has changed with this version of stu"
