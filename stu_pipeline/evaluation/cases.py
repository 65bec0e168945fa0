"""Which prediction belongs to which reference: matched by name, whatever the file endings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS, split_ending
from stu_pipeline.errors import DataError

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePair:
    """The two files of one case."""

    case: str
    reference: Path
    prediction: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMatch:
    """Pairs by name, references without a prediction and predictions without a reference, each sorted."""

    pairs: tuple[CasePair, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def match_cases(
    reference: Path, prediction: Path, *, allow_missing: bool = False, file_ending: str | None = None
) -> CaseMatch:
    """Match references and predictions.

    Two files are one case whatever their names. A file and a folder are the case of the file. Two
    folders are matched by file name without ending.

    Args:
        reference: folder or file.
        prediction: folder or file.
        allow_missing: accept references without a prediction, as long as one case is left.
        file_ending: preferred where a folder holds a case several times (a `.png` beside a `.nii.gz`).

    Raises:
        DataError: a path is missing, a folder has no label maps, a case is there twice, or predictions
            are missing.
    """
    references = _list_label_maps(reference, "reference", file_ending)
    predictions = _list_label_maps(prediction, "prediction", file_ending)
    if reference.is_file() and prediction.is_file():
        pair = CasePair(case=next(iter(references)), reference=reference, prediction=prediction)
        return CaseMatch(pairs=(pair,), missing=(), extra=())
    if prediction.is_file():
        references = {case: path for case, path in references.items() if case in predictions}
    if reference.is_file():
        predictions = {case: path for case, path in predictions.items() if case in references}
    common = sorted(references.keys() & predictions.keys())
    missing = tuple(sorted(references.keys() - predictions.keys()))
    extra = tuple(sorted(predictions.keys() - references.keys()))
    if not common:
        raise DataError(
            f"no prediction has the name of a reference, {_show_both(missing, extra)}",
            where=prediction,
            hint="name each prediction like its reference, for example liver_001.nii.gz",
        )
    if missing and not allow_missing:
        raise _missing_predictions(missing, len(references), prediction)
    pairs = tuple(CasePair(case=case, reference=references[case], prediction=predictions[case]) for case in common)
    return CaseMatch(pairs=pairs, missing=missing, extra=extra)


def _missing_predictions(missing: tuple[str, ...], num_references: int, prediction: Path) -> DataError:
    return DataError(
        f"{len(missing)} of {num_references} cases have no prediction: {_show_names(missing)}",
        where=prediction,
        hint="predict them, or score the others with --allow-missing",
        details=missing if len(missing) > _NAMES_SHOWN else (),
    )


def _list_label_maps(place: Path, role: str, file_ending: str | None) -> dict[str, Path]:
    if place.is_file():
        stem, ending = split_ending(place.name)
        if not ending:
            raise DataError(f"{role} '{place.name}' is not a label map, expected {_show_endings()}", where=place.parent)
        return {stem: place}
    if not place.is_dir():
        raise DataError(f"{role} '{place.name}' not found", where=place.parent)
    found: dict[str, list[Path]] = {}
    for path in sorted(place.iterdir()):
        stem, ending = split_ending(path.name)
        if ending and not path.name.startswith(".") and path.is_file():
            found.setdefault(stem, []).append(path)
    if not found:
        raise DataError(f"no label maps in the {role} folder, expected {_show_endings()}", where=place)
    return {stem: _choose_file(paths, file_ending) for stem, paths in found.items()}


def _choose_file(paths: list[Path], file_ending: str | None) -> Path:
    preferred = [path for path in paths if split_ending(path.name)[1] == file_ending]
    if len(paths) > 1 and len(preferred) != 1:
        names = ", ".join(f"'{path.name}'" for path in paths)
        raise DataError(f"a case is there {len(paths)} times: {names}", where=paths[0].parent, hint="keep one of them")
    return preferred[0] if preferred else paths[0]


def _show_endings() -> str:
    return ", ".join(SUPPORTED_ENDINGS)


def _show_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def _show_both(missing: tuple[str, ...], extra: tuple[str, ...]) -> str:
    references = _show_names(missing) or "none of that name"
    return f"predictions: {_show_names(extra) or 'none of that name'}; references: {references}"
