"""Error classes: exit codes, the trip through worker processes, and the way messages are written."""

from __future__ import annotations

import ast
import inspect
import pickle
from functools import cache
from pathlib import Path

import pytest

from stu_pipeline import errors
from stu_pipeline.errors import DataError, StoppedError, StuError

PACKAGE = Path(errors.__file__).parent
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StuError)]
EXIT_CODES = {
    "StuError": 1,
    "UsageError": 2,
    "DataError": 3,
    "ModelError": 4,
    "StorageError": 5,
    "MemoryLimitError": 6,
    "LockedError": 7,
    "NonFiniteError": 8,
    "PartialError": 10,
    "StoppedError": 143,
}


def test_every_class_has_its_documented_exit_code():
    assert {kind.__name__: kind.exit_code for kind in CLASSES} == EXIT_CODES


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_keeps_its_parts_through_a_worker_process(kind):
    error = kind("case 'a' is bad", where=Path("somewhere"), hint="mend it")
    error.details = ("one", "two")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.problem, copy.where, copy.hint, copy.details) == (
        "case 'a' is bad",
        Path("somewhere"),
        "mend it",
        ("one", "two"),
    )
    assert str(copy) == "case 'a' is bad"


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130)])
def test_a_stop_exits_as_its_signal_does(number, code):
    assert StoppedError("stopped", signal_number=number).exit_code == code


def test_parts_are_empty_unless_given():
    error = DataError("nothing there")
    assert (error.where, error.hint, error.details) == (None, "", ())


@cache
def list_messages():
    """List (place, kind, text) of every literal problem and hint; values are shown as `{}`."""
    kinds = {kind.__name__ for kind in CLASSES}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds):
                continue
            place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            found += [(place, "problem", text) for argument in node.args[:1] if (text := read_literal(argument))]
            found += [
                (place, "hint", text)
                for keyword in node.keywords
                if keyword.arg == "hint" and (text := read_literal(keyword.value))
            ]
    return found


def read_literal(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def test_there_are_messages_to_look_at():
    kinds = [kind for _, kind, _ in list_messages()]
    assert kinds.count("problem") > 50 and kinds.count("hint") > 30


def test_messages_begin_in_lower_case():
    # A first word in capitals is a name or an abbreviation: GPU, dataset.json.
    wrong = [
        (place, text)
        for place, _, text in list_messages()
        if text[0].isupper() and not text.split()[0].isupper() and "-" not in text.split()[0]
    ]
    assert wrong == []


def test_messages_are_one_line_without_full_stop_or_exclamation_mark():
    wrong = [
        (place, text)
        for place, _, text in list_messages()
        if (text.endswith(".") and not text.endswith("...")) or "\n" in text or "!" in text or "please" in text.lower()
    ]
    assert wrong == []
