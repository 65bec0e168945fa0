"""When two names of labels mean the same structure: spelling aside, and never across sides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from stu_pipeline.datasets.side_names import Side, SidedName, pair_names, read_side

_SIDE = "<side>"
_WORD = re.compile(r"\d+|[^\W\d_]+")
# Joints between words say nothing, except between two numbers: `1_2` is not `12`.
_JOINT = re.compile(r"(?<!\d)_|_(?!\d)")
_NUM_NEAREST = 3


class PlainName(NamedTuple):
    """A name without what spelling adds to it, its side kept apart."""

    text: str
    side: Side | None


def read_plain_names(names: Iterable[str]) -> dict[str, PlainName]:
    """Take spelling out of the names of one label list: case, separators, and where the side stands.

    A side counts where the name means it for certain or the list has the other side too.

    >>> read_plain_names(["Left Kidney", "kidney_left", "liver"])["Left Kidney"]
    PlainName(text='kidney', side='left')
    """
    known = list(names)
    paired = {name for pair in pair_names(known).pairs for name in pair}
    found = {}
    for name in known:
        sided = read_side(name)
        has_side = sided is not None and (sided.is_certain or name in paired)
        found[name] = _without_side(sided) if has_side and sided is not None else PlainName(_squeeze(name), None)
    return found


def match_names(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Find for each wanted name the known one that means the same; names without one are left out.

    Equal spelling comes first. Else two names match when nothing but spelling differs and neither list has a second
    name like it. `kidney_left` never matches `kidney_right`, nor `kidney` either of them.

    >>> match_names(["Liver", "left kidney", "spleen"], ["kidney_left", "kidney_right", "liver"])
    {'Liver': 'liver', 'left kidney': 'kidney_left'}
    """
    wanted_plain, known_plain = read_plain_names(wanted), read_plain_names(known)
    wanted_counts, known_counts = Counter(wanted_plain.values()), Counter(known_plain.values())
    by_plain = {plain: name for name, plain in known_plain.items()}
    matched = {}
    for name in wanted:
        plain = wanted_plain[name]
        if name in known_plain:
            matched[name] = name
        elif wanted_counts[plain] == known_counts[plain] == 1:
            matched[name] = by_plain[plain]
    return matched


def change_sides(first: str, second: str) -> bool:
    """Tell whether two names are of different sides, or one has a side and the other none."""
    plain = read_plain_names([first, second])
    return plain[first].side != plain[second].side


def find_nearest_names(name: str, known: Iterable[str], *, across_sides: bool = False) -> list[str]:
    """Return up to three known names that look like a misspelt one, the nearest first; empty when none does.

    Args:
        name: what was written.
        known: what may have been meant.
        across_sides: whether to name labels of the other side too, which nobody should be led to take.
    """
    by_folded = {item.casefold(): item for item in known}
    found = [by_folded[item] for item in get_close_matches(name.casefold(), by_folded, n=_NUM_NEAREST)]
    plain = read_plain_names([name, *found])
    sides = {"left", "right"}
    return [item for item in found if across_sides or {plain[name].side, plain[item].side} != sides]


def _without_side(sided: SidedName) -> PlainName:
    words = [word.replace(_SIDE, "") for word in sided.template]
    return PlainName(_squeeze("_".join(word for word in words if word)), sided.side)


def _squeeze(name: str) -> str:
    words = _WORD.findall(name.casefold())
    # A name of signs alone is like no other.
    return _JOINT.sub("", "_".join(words)) or name
