"""Find images that two sources of a union hold both: in training and validation of one fold they would leak.

Reads: sizes of image files, and the content of those that have the size of a file of another source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.datasets.signature import sign_file
from stu_pipeline.datasets.union.sources import UnionSource

_MAX_SHOWN = 3


def find_duplicates(sources: Sequence[UnionSource]) -> list[str]:
    """Return one sentence per pair of sources with equal images, none when there are no such images.

    Raises:
        DataError: a file cannot be read.
    """
    by_size: dict[int, list[tuple[str, Path]]] = {}
    for source in sources:
        for case in source.cases:
            for path in case.image_files:
                by_size.setdefault(path.stat().st_size, []).append((source.name, path))
    pairs: dict[tuple[str, str], list[str]] = {}
    for group in by_size.values():
        if len({name for name, _ in group}) < 2:
            continue
        seen: dict[str, tuple[str, Path]] = {}
        for name, path in group:
            other, other_path = seen.setdefault(sign_file(path), (name, path))
            if other != name:
                pairs.setdefault((other, name), []).append(f"'{other_path.name}' and '{path.name}'")
    return [_describe(first, second, found) for (first, second), found in pairs.items()]


def _describe(first: str, second: str, found: Sequence[str]) -> str:
    more = f" and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else ""
    return (
        f"{first} and {second} hold {len(found)} equal image{'s' * (len(found) != 1)}, {'; '.join(found[:_MAX_SHOWN])}"
        f"{more}: group them, or a fold validates on what it was trained on"
    )
