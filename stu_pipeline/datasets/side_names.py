"""Read the side, left or right, out of the name of a label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right"]

_SIDE = "<side>"
# Words that mean a side wherever they stand.
_WORDS: Mapping[str, Side] = {
    "left": "left", "right": "right", "lh": "left", "rh": "right",
    "sin": "left", "sinister": "left", "sinistra": "left", "sinistrum": "left",
    "dex": "right", "dext": "right", "dexter": "right", "dextra": "right", "dextrum": "right",
}  # fmt: skip
# What may mean something else: alone it counts at the ends of a name only.
_LETTERS: Mapping[str, Side] = {"l": "left", "r": "right", "lt": "left", "rt": "right"}
_GLUED = re.compile(r"\A(left|right)|(left|right)\Z")
# In this order: `L1` is a vertebra; `LVmyo` and `RAwall` are chambers of the heart, `LAdrenal` is a gland;
# `LKidney` is two words, and so are `LeftKidney` and `KIDNEYLeft`. What is no letter or digit parts words.
_TOKEN = re.compile(
    r"[LlRr]\d+"
    r"|[LR](?:V(?!ent|ert|e[is])|A(?!dr|tr|xi|rt))[a-z]+"
    r"|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidedName:
    """A name with its side taken out."""

    template: tuple[str, ...]
    """The words of the name in lower case, the side replaced: equal for a label and its mirror image."""
    side: Side
    is_certain: bool
    """Whether the name means a side even when there is no label of the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedNames:
    """Names sorted into mirror images."""

    pairs: tuple[tuple[str, str], ...]
    """`(left, right)`, in the order of the left names."""
    lone: tuple[str, ...]
    """Names of one side without a name of the other."""


def read_side(name: str) -> SidedName | None:
    """Return the side that a name tells; None when it tells none, or both.

    Upper and lower case are the same, but `camelCase` parts words. `LV` and `RV` are no sides: the chambers of a
    heart are not mirror images of each other (written out, `left_ventricle` and `right_ventricle` are taken by name).

    >>> read_side("kidney_left").template == read_side("Kidney-Right").template
    True
    >>> read_side("vertebrae_L1") is None
    True
    """
    tokens = [token.lower() for token in _TOKEN.findall(name)]
    for vocabulary in (_WORDS, _LETTERS):
        places = [place for place, token in enumerate(tokens) if token in vocabulary]
        if not places:
            continue
        sides = {vocabulary[tokens[place]] for place in places}
        if len(sides) > 1:
            return None
        is_at_an_end = places[0] == 0 or places[-1] == len(tokens) - 1
        return SidedName(
            template=tuple(_SIDE if place in places else token for place, token in enumerate(tokens)),
            side=sides.pop(),
            is_certain=vocabulary is _WORDS or is_at_an_end,
        )
    return _read_glued_side(tokens)


def _read_glued_side(tokens: list[str]) -> SidedName | None:
    """Take `leftkidney` apart. It counts only beside a `rightkidney`: there are words like `bright` and `cleft`."""
    for place, token in enumerate(tokens):
        if match := _GLUED.search(token):
            template = (*tokens[:place], _GLUED.sub(_SIDE, token, count=1), *tokens[place + 1 :])
            return SidedName(template=template, side="left" if "left" in match[0] else "right", is_certain=False)
    return None


def pair_names(names: Iterable[str]) -> PairedNames:
    """Sort names into pairs of mirror images; nothing is paired when two names could be the partner of one.

    >>> pair_names(["liver", "kidney_right", "kidney_left", "lung_middle_lobe_right"])
    PairedNames(pairs=(('kidney_left', 'kidney_right'),), lone=('lung_middle_lobe_right',))
    """
    sided = {name: found for name in names if (found := read_side(name)) is not None}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, found in sided.items():
        groups.setdefault(found.template, []).append(name)
    pairs, lone = [], []
    for members in groups.values():
        members.sort(key=lambda name: sided[name].side)
        if [sided[name].side for name in members] == ["left", "right"]:
            pairs.append((members[0], members[1]))
        else:
            # Two spellings of one side, or one side only: no partner can be told.
            lone += [name for name in members if sided[name].is_certain]
    return PairedNames(pairs=tuple(pairs), lone=tuple(lone))
