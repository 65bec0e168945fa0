"""When two label names of different datasets mean the same label: case, separators and the way of saying the side.

The names are all that is known; `tumor` and `tumour` are two labels until a mapping says that they are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stu_pipeline.datasets.side_names import Side, SidedName, read_side

_WORD = re.compile(r"\d+|[^\W\d_]+")
_SEPARATORS = frozenset("_-./,:;()[]")
_SIDE = "<side>"


@dataclass(frozen=True, slots=True, order=True)
class LabelKey:
    """Equal for names of one label."""

    rest: str
    """The name without side, case and separators; two numbers in a row stay apart."""
    side: Side | None = None


def make_keys(names: Iterable[str]) -> dict[str, LabelKey]:
    """Return the key of every name.

    A side that a name only may mean, as in `leftkidney` or `a_l_2`, counts when another of the names is its mirror
    image, or says the same side plainly.

    >>> keys = make_keys(["RightParotid", "parotid_right", "Spinal Cord", "spinal_cord"])
    >>> keys["RightParotid"] == keys["parotid_right"], keys["Spinal Cord"] == keys["spinal_cord"]
    (True, True)
    """
    found = {name: read_side(name) for name in names}
    sided = {name: _make_sided_key(name, side) for name, side in found.items() if side is not None}
    certain = {sided[name] for name, side in found.items() if side is not None and side.is_certain}
    all_keys = set(sided.values())
    keys = {}
    for name, side in found.items():
        key = sided.get(name)
        if key is None or side is None:
            keys[name] = _make_plain_key(name)
            continue
        mirror = LabelKey(key.rest, "left" if key.side == "right" else "right")
        keys[name] = key if key in certain or mirror in all_keys else _make_plain_key(name)
    return keys


def _make_plain_key(name: str) -> LabelKey:
    folded = unicodedata.normalize("NFKC", name).casefold()
    # A name of signs only, as '++', is itself.
    return LabelKey(_join(_WORD.findall(folded), folded) or folded)


def _make_sided_key(name: str, found: SidedName) -> LabelKey:
    words = [word for token in found.template for word in _WORD.findall(token.replace(_SIDE, "").casefold())]
    return LabelKey(_join(words, name), found.side)


def _join(words: Sequence[str], name: str) -> str:
    """Join words without separators; what is neither letter, digit nor separator is kept: `GTV+` is not `GTV`."""
    text = ""
    for word in words:
        text += "_" * (text[-1:].isdigit() and word[0].isdigit()) + word
    signs = "".join(char for char in name if not char.isalnum() and not char.isspace() and char not in _SEPARATORS)
    return text + signs
