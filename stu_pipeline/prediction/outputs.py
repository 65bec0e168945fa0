"""Where the masks of a prediction go, and which names are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import UsageError

REPORT_FILE = "predictions.json"
TABLE_FILE = "predictions.csv"
PAGE_FILE = "predictions.md"
JOURNAL_FILE = ".predictions.journal"
RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
# Files of the output folder that are no masks. A stack's spacing file could have such a name.
_RESERVED_STEMS = ("predictions", "plans", "dataset", "run", "summary")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The mask of every case. For a single named file there is no report beside it."""

    folder: Path
    masks: dict[str, Path]
    is_single_file: bool

    @property
    def report(self) -> Path | None:
        """`predictions.json` in the output folder."""
        return None if self.is_single_file else self.folder / REPORT_FILE

    @property
    def tables(self) -> tuple[Path, Path] | None:
        """`predictions.csv` for programs and `predictions.md` for people, in the output folder."""
        return None if self.is_single_file else (self.folder / TABLE_FILE, self.folder / PAGE_FILE)

    @property
    def journal(self) -> Path | None:
        """What is proven while the prediction runs."""
        return None if self.is_single_file else self.folder / JOURNAL_FILE

    def probabilities(self, case_id: str, kind: str = "npz") -> Path:
        """The probabilities beside a mask: `.npz` or `.zarr.zip`."""
        return self._beside(case_id, ".zarr.zip" if kind == "zarr" else f".{kind}")

    def properties(self, case_id: str) -> Path:
        """The `.pkl` that nnU-Net's ensembling wants beside the probabilities."""
        return self._beside(case_id, ".pkl")

    def label_folder(self, case_id: str) -> Path:
        """The folder of one binary mask per label."""
        return self._beside(case_id, "_labels")

    def dicom_seg(self, case_id: str) -> Path:
        """The DICOM SEG beside a mask."""
        return self._beside(case_id, ".seg.dcm")

    def _beside(self, case_id: str, ending: str) -> Path:
        mask = self.masks[case_id]
        return mask.with_name(split_ending(mask.name)[0] + ending)


def choose_outputs(source: Path, output: Path, cases: Sequence[Case]) -> Outputs:
    """Name the mask of every case: the input's name without `_0000`, with the input's ending.

    Args:
        source: the file or folder given as input.
        output: a folder, or for one input file a file name with the same ending.
        cases: what was found in `source`.

    Raises:
        UsageError: the output is a file name for several cases or of another ending, is the input folder, or
            would replace an input.
    """
    ending = split_ending(output.name)[1]
    is_file = bool(ending) and not output.is_dir()
    if output.exists() and not output.is_dir() and not is_file:
        raise UsageError(f"output '{output.name}' is a file, expected a folder", where=output.parent)
    if is_file:
        outputs = _choose_single_file(source, output, ending, cases)
    else:
        _require_other_folder(source, output)
        masks = {case.id: output / f"{case.id}{case.ending.lower()}" for case in cases}
        outputs = Outputs(folder=output, masks=masks, is_single_file=False)
    _require_free_names(outputs, cases)
    return outputs


def _choose_single_file(source: Path, output: Path, ending: str, cases: Sequence[Case]) -> Outputs:
    if len(cases) != 1 or (source.is_dir() and not cases[0].is_dicom):
        raise UsageError(f"output '{output.name}' is a file name, but the input is a folder", hint="-o FOLDER")
    if ending.lower() != cases[0].ending.lower():
        whose = "the mask of a DICOM series" if cases[0].is_dicom else "the input"
        raise UsageError(
            f"output ends in {ending}, {whose} in {cases[0].ending}",
            where=output.parent,
            hint=f"-o {split_ending(output.name)[0]}{cases[0].ending}",
        )
    return Outputs(folder=output.parent, masks={cases[0].id: output}, is_single_file=True)


def _require_other_folder(source: Path, output: Path) -> None:
    folder = source if source.is_dir() else source.parent
    if folder.resolve() == output.resolve():
        raise UsageError("output is the input folder", where=output, hint="-o another folder; inputs are never changed")


def _require_free_names(outputs: Outputs, cases: Sequence[Case]) -> None:
    inputs = {file.resolve() for case in cases for file in case.image_files}
    for case_id, mask in outputs.masks.items():
        if mask.resolve() in inputs:
            raise UsageError(f"'{mask.name}' would replace an input", where=mask.parent, hint="-o another folder")
        # A series is its folder: whatever is put into it changes the image.
        if not inputs.isdisjoint(mask.resolve().parents):
            raise UsageError("output lies in the folder of an input", where=mask.parent, hint="-o another folder")
        if not outputs.is_single_file and case_id.lower() in _RESERVED_STEMS:
            raise UsageError(
                f"case '{case_id}' has the name of a file that belongs to the report",
                where=cases[0].image_files[0].parent,
                hint="rename the image",
            )
