"""What lies in a folder of images or label maps: usable names, faults, and what is passed over.

Reads: folder listings only; no file is opened.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import DataError

_CHANNEL = re.compile(r"(.+)_([0-9]{4})\Z", re.DOTALL)
_MAX_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one folder, sorted by name. Hidden files and folders are in `notes` only."""

    names: tuple[str, ...] = ()
    irregular: dict[str, str] = field(default_factory=dict)
    """Pipes, devices and dead links named like images, with what is wrong with each."""
    problems: tuple[str, ...] = ()
    """The folder cannot be read, or names that cannot be printed."""
    notes: tuple[str, ...] = ()

    @property
    def image_names(self) -> tuple[str, ...]:
        """The files with a supported ending."""
        return tuple(name for name in self.names if split_ending(name)[1])


def list_folder(folder: Path) -> Listing:
    """List a folder without opening anything in it, so that a pipe cannot hold us up."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return Listing(problems=(f"folder '{folder.name}' not found",))
    except OSError as error:
        return Listing(problems=(f"folder '{folder.name}' cannot be read: {error.strerror}",))
    hidden = [entry.name for entry in found if entry.name.startswith(".")]
    visible = [entry for entry in found if not entry.name.startswith(".")]
    folders = {entry.name for entry in visible if _is_folder(entry)}
    files = [entry for entry in visible if entry.name not in folders]
    unprintable = [entry.name for entry in files if not entry.name.isprintable()]
    irregular = {
        entry.name: f"'{folder.name}/{entry.name}' {problem}"
        for entry in files
        if entry.name not in unprintable and split_ending(entry.name)[1] and (problem := _check_kind(entry))
    }
    names = tuple(entry.name for entry in files if entry.name not in irregular and entry.name not in unprintable)
    others = [name for name in names if not split_ending(name)[1]]
    return Listing(
        names=names,
        irregular=irregular,
        problems=tuple(
            f"'{folder.name}/{escape_name(name)}' has a name that cannot be printed" for name in unprintable
        ),
        notes=(
            *_note(folder, hidden, "hidden file"),
            *_note(folder, sorted(folders), "sub-folder"),
            *_note(folder, others, "file without an image ending", "files without an image ending"),
        ),
    )


def split_channel(stem: str) -> tuple[str, int | None]:
    """Split a file name without ending into case and channel; without a number the channel is None.

    >>> split_channel("liver_001_0002")
    ('liver_001', 2)
    >>> split_channel("liver_01")
    ('liver_01', None)
    """
    match = _CHANNEL.match(stem)
    return (match[1], int(match[2])) if match else (stem, None)


def find_clashes(case_ids: Iterable[str]) -> list[str]:
    """Find names that are one file on systems which ignore case or accents' encoding."""
    seen: dict[str, str] = {}
    problems = []
    for case_id in case_ids:
        key = unicodedata.normalize("NFC", case_id).casefold()
        if key in seen:
            problems.append(f"cases '{seen[key]}' and '{case_id}' have names that some systems cannot tell apart")
        seen[key] = case_id
    return problems


def raise_problems(problems: Iterable[str], what: str, where: Path, hint: str = "") -> None:
    """Raise one `DataError` for a list of problems; do nothing when there are none."""
    details = tuple(problems)
    if not details:
        return
    if len(details) == 1:
        raise DataError(f"{what} cannot be used: {details[0]}", where=where, hint=hint)
    raise DataError(
        f"{what} cannot be used, {len(details)} problems", where=where, hint=hint or "correct them all", details=details
    )


def escape_name(name: str) -> str:
    """Write a file name so that it can be printed: control characters and broken encodings are spelled out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _check_kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_file():
            return ""
        is_dead = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:  # links in a circle
        is_dead = True
    return "is a link to a file that is not there" if is_dead else "is not a regular file"


def _note(folder: Path, names: Sequence[str], one: str, several: str = "") -> list[str]:
    if not names:
        return []
    what = one if len(names) == 1 else several or f"{one}s"
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    shown = ", ".join(f"'{escape_name(name)}'" for name in names[:_MAX_SHOWN])
    return [f"{len(names)} {what} in '{folder.name}' ignored: {shown}{more}"]
