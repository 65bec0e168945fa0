"""Read the tables of a manifest strictly: every value of the wrong kind and every unknown key becomes a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Fields:
    """One table of a manifest. Problems are collected, so that a user sees all of them at once.

    Args:
        values: the table.
        place: how messages call it: `budget`, `datasets[0]`; empty at the top.
        problems: what is wrong so far; grows.
    """

    def __init__(self, values: Any, place: str, problems: list[str]) -> None:
        self.place = place
        self.problems = problems
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self._taken: set[str] = set()
        if not isinstance(values, Mapping):
            self.complain("", f"must be a table, found {_name_kind(values)}")

    def complain(self, key: str, problem: str) -> None:
        """Add a problem of one key, or of the whole table with an empty key."""
        place = ".".join(part for part in (self.place, key) if part)
        self.problems.append(f"'{place or 'manifest'}' {problem}")

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        return key in self._values

    def text(self, key: str, *, default: str = "", choices: Sequence[str] = (), is_required: bool = False) -> str:
        """Read a text that is not empty, one of `choices` where there are any."""
        value = self._take(key, is_required=is_required)
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            self.complain(key, f"must be a text, found {_name_kind(value)}")
            return default
        if choices and value not in choices:
            self.complain(key, f"must be one of {', '.join(choices)}, found '{value}'")
            return default
        return value

    def texts(self, key: str, *, default: Sequence[str] = ()) -> tuple[str, ...]:
        """Read a list of texts."""
        value = self._take(key)
        if value is None:
            return tuple(default)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.complain(key, "must be a list of texts")
            return tuple(default)
        if len(set(value)) < len(value):
            self.complain(key, "names something twice")
        return tuple(value)

    def integer(self, key: str, *, default: int | None = None, least: int = 0) -> int | None:
        """Read a whole number from `least`."""
        value = self._take(key)
        if value is None:
            return default
        if not _is_integer(value) or value < least:
            self.complain(key, f"must be a whole number from {least}, found {_show(value)}")
            return default
        return int(value)

    def integers(self, key: str, *, default: Sequence[int] = (), least: int = 0) -> tuple[int, ...]:
        """Read a list of different whole numbers from `least`, not empty."""
        value = self._take(key)
        if value is None:
            return tuple(default)
        if not isinstance(value, list) or not value or not all(_is_integer(item) and item >= least for item in value):
            self.complain(key, f"must be a list of whole numbers from {least}")
            return tuple(default)
        if len(set(value)) < len(value):
            self.complain(key, "holds a number twice")
            return tuple(dict.fromkeys(value))
        return tuple(value)

    def number(self, key: str, *, default: float | None = None) -> float | None:
        """Read a finite number above 0."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            self.complain(key, f"must be a number above 0, found {_show(value)}")
            return default
        return float(value)

    def flag(self, key: str) -> bool | None:
        """Read true or false; None when it is not there."""
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            self.complain(key, f"must be true or false, found {_show(value)}")
            return None
        return value

    def table(self, key: str) -> Fields:
        """Open a table; an empty one when it is not there."""
        value = self._take(key)
        return Fields({} if value is None else value, ".".join(part for part in (self.place, key) if part),
                      self.problems)  # fmt: skip

    def tables(self, key: str) -> list[Fields]:
        """Open a list of tables."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.complain(key, f"must be a list of tables, written [[{key}]]")
            return []
        return [Fields(item, f"{key}[{place}]", self.problems) for place, item in enumerate(value)]

    def raw(self) -> dict[str, Any]:
        """Take everything that is left, as it is."""
        left = {key: value for key, value in self._values.items() if key not in self._taken}
        self._taken |= set(left)
        return left

    def close(self) -> None:
        """Complain about every key that nobody asked for."""
        for key in self._values:
            if key not in self._taken:
                known = ", ".join(sorted(self._taken))
                self.complain(key, f"is not known here, known are: {known}")

    def _take(self, key: str, *, is_required: bool = False) -> Any:
        self._taken.add(key)
        if key not in self._values and is_required:
            self.complain(key, "is missing")
        return self._values.get(key)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: Any) -> str:
    return f"'{value}'"


def _name_kind(value: Any) -> str:
    kinds = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return f"'{value}'" if isinstance(value, str) else kinds.get(type(value), "another kind of value")
