"""What a package of models may hold: a fixed list of names, and limits. Read from its list of contents alone.

Nothing is unpacked here. The names are those of `nnUNetv2_export_model_to_zip` and of `stu weights export`.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stu_pipeline.datasets.dataset_fields import show_value
from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.packages.archive_structure import refuse_archive
from stu_pipeline.workspace import split_dataset_name

MANIFEST_FILE = "stu_package.json"
"""In our packages: the hashes of all files of one model."""
MAX_JSON_BYTES = 1 << 28
MAX_OTHER_BYTES = 1 << 30
MAX_CHECKPOINT_BYTES = 1 << 36
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 200
"""Weights hardly shrink, JSON by ten or twenty. What shrinks more and is large is no model."""
_RATIO_FREE_BYTES = 1 << 24
_MAX_NAME = 240

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
MODEL_NAME = re.compile(rf"(?!.*____)[A-Za-z0-9](?:(?!__)[A-Za-z0-9_.-])*__{_WORD}__{_WORD}\Z")
_FOLD = r"fold_(?:\d{1,4}|all)"
CHECKPOINT = re.compile(rf"{_FOLD}/checkpoint_(?:final|best|latest|ema)\.pth\Z")
_INSTALLED = re.compile(
    rf"(?:plans|dataset|dataset_fingerprint|postprocessing|quality|run|stu_package)\.json\Z"
    rf"|{_FOLD}/(?:run\.json|debug\.json|metrics\.jsonl|progress\.png|validation(?:_ema)?/summary\.json)\Z"
    r"|crossval_results_folds_[0-9_]+/(?:summary|postprocessing)\.json\Z"
)
# What nnU-Net may put into a package and nothing here opens; the pickles among it can hold code.
_MASK = r"[^/]+(?:\.nii\.gz|\.nii|\.nrrd|\.mha|\.tif|\.tiff|\.png|\.bmp)"
_LEFT_OUT = re.compile(
    rf"{_FOLD}/(?:network_architecture\.pdf|training_log_[0-9_]+\.txt|status\.json|run\.log)\Z"
    rf"|{_FOLD}/validation(?:_ema)?/{_MASK}\Z"
    rf"|crossval_results_folds_[0-9_]+/(?:{_MASK}|(?:dataset|plans)\.json|postprocessing\.pkl)\Z"
    r"|postprocessing\.pkl\Z"
)
_LEFT_OUT_OF_DATASET = re.compile(
    rf"ensembles/[A-Za-z0-9_.-]+/(?:{_MASK}|[a-z_]+\.json|postprocessing\.pkl)\Z|inference_information\.(?:json|txt)\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageContents:
    """The members of a package by what becomes of them."""

    dataset: str
    models: tuple[str, ...]
    """Names of the model folders."""
    installed: tuple[zipfile.ZipInfo, ...]
    left_out: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """What the installed files take, as the package declares."""
        return sum(entry.file_size for entry in self.installed)


def list_contents(entries: Sequence[zipfile.ZipInfo], path: Path) -> PackageContents:
    """Sort the members of a package and refuse it when one of them is not what a model consists of.

    Args:
        entries: the archive's list of contents.
        path: the archive, for messages.

    Raises:
        ModelError: the first reasons are in `details`; nothing was unpacked.
    """
    problems = [problem for entry in entries if (problem := _check_entry(entry))]
    problems += _check_clashes([entry.filename for entry in entries])
    files = [entry for entry in entries if not entry.is_dir()]
    total = sum(entry.file_size for entry in files)
    if total > MAX_TOTAL_BYTES:
        problems.append(f"it declares {total} bytes, more than {MAX_TOTAL_BYTES}")
    if problems:
        raise _refuse_all(path, problems)
    return _sort_members(files, path)


def _sort_members(files: Sequence[zipfile.ZipInfo], path: Path) -> PackageContents:
    installed: list[zipfile.ZipInfo] = []
    left_out: list[str] = []
    problems: list[str] = []
    models: set[str] = set()
    datasets: set[str] = set()
    for entry in files:
        kind, dataset, model = _classify(entry.filename)
        datasets.add(dataset)
        if kind == "installed":
            installed.append(entry)
            models.add(model)
        elif kind == "left out":
            left_out.append(entry.filename)
        else:
            problems.append(f"{show_value(entry.filename)} is no file of a model")
    if not problems and len(datasets) != 1:
        problems.append(f"it holds {len(datasets)} datasets, expected one")
    names = {entry.filename for entry in installed}
    for model in sorted(models):
        problems += _check_model(f"{next(iter(datasets))}/{model}/", names)
    if not problems and not models:
        problems.append("it holds no model")
    if problems:
        raise _refuse_all(path, problems)
    return PackageContents(
        dataset=next(iter(datasets)),
        models=tuple(sorted(models)),
        installed=tuple(installed),
        left_out=tuple(sorted(left_out)),
    )


def _classify(name: str) -> tuple[str, str, str]:
    """Return what becomes of a file, its dataset, and its model folder."""
    parts = name.split("/")
    if len(parts) < 2 or split_dataset_name(parts[0]) is None:
        return "unknown", parts[0], ""
    rest = name[len(parts[0]) + 1 :]
    if _LEFT_OUT_OF_DATASET.match(rest):
        return "left out", parts[0], ""
    inside = rest[len(parts[1]) + 1 :]
    if MODEL_NAME.match(parts[1]):
        if _INSTALLED.match(inside) or CHECKPOINT.match(inside):
            return "installed", parts[0], parts[1]
        if _LEFT_OUT.match(inside):
            return "left out", parts[0], parts[1]
    return "unknown", parts[0], parts[1]


def _check_model(prefix: str, names: set[str]) -> list[str]:
    problems = [
        f"'{prefix}{name}' is missing" for name in ("plans.json", "dataset.json") if f"{prefix}{name}" not in names
    ]
    if not any(name.startswith(prefix) and CHECKPOINT.match(name[len(prefix) :]) for name in names):
        problems.append(f"'{prefix}' holds no checkpoint")
    return problems


def _check_entry(entry: zipfile.ZipInfo) -> str:
    """Return why a member is refused, or an empty string."""
    name = entry.orig_filename
    shown = show_value(name)
    if problem := _check_name(name):
        return f"member {shown} {problem}"
    if entry.filename != name:
        return f"member {shown} has two names"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"member {shown} is packed in the way {entry.compress_type}, which is not supported"
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return f"member {shown} is a link or a device"
    return _check_size(entry, shown)


def _check_size(entry: zipfile.ZipInfo, shown: str) -> str:
    size = entry.file_size
    if entry.is_dir():
        return f"folder {shown} holds data" if size or entry.compress_size else ""
    ending = PurePosixPath(entry.filename).suffix
    limit = {".pth": MAX_CHECKPOINT_BYTES, ".json": MAX_JSON_BYTES}.get(ending, MAX_OTHER_BYTES)
    if size > limit:
        return f"member {shown} declares {size} bytes, at most {limit} are expected"
    if entry.compress_type == zipfile.ZIP_STORED and size != entry.compress_size:
        return f"member {shown} declares {size} bytes and holds {entry.compress_size}"
    if size > _RATIO_FREE_BYTES and size > MAX_RATIO * entry.compress_size:
        return f"member {shown} would grow from {entry.compress_size} to {size} bytes"
    return ""


def _check_name(name: str) -> str:
    problem = ""
    parts = name.removesuffix("/").split("/")
    if not name.isascii() or not name.isprintable() or "\\" in name or ":" in name:
        problem = "has characters that no file of a model has"
    elif name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        problem = "leaves its folder"
    elif len(name) > _MAX_NAME:
        problem = f"is longer than {_MAX_NAME} characters"
    return problem


def _check_clashes(names: Sequence[str]) -> list[str]:
    """Name members that are there twice, that differ in case only, or that are a file and a folder."""
    counts = Counter(name.removesuffix("/").casefold() for name in names)
    problems = [f"member {show_value(name)} is there {count} times" for name, count in counts.items() if count > 1]
    files = {name.casefold() for name in names if not name.endswith("/")}
    for name in sorted(files):
        above = [str(parent) for parent in PurePosixPath(name).parents]
        problems += [f"{show_value(parent)} is a file and a folder" for parent in above if parent in files]
    return problems


def _refuse_all(path: Path, problems: Sequence[str]) -> ModelError:
    error = refuse_archive(path, problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    error.details = tuple(problems[:10]) if len(problems) > 1 else ()
    return error
