"""Commands run inside the test's process, and what they may have changed outside of their workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stu_pipeline.cli import run
from stu_pipeline.storage import hash_file

DATA_PROBLEM = 3


def hash_tree(folder: Path) -> dict[str, str]:
    """Return the content of every file below a folder, and the target of every link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hash_file(path)
        else:
            found[name] = "other"
    return found


def make_refusal_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs a command which must be refused: code 3, a clear message, nothing written.

    The function returns what the command said. Everything below `tmp_path` but the workspace is compared.
    """
    workspace = tmp_path / "workspace"
    monkeypatch.setenv("STU_WORKSPACE", str(workspace))

    def check(*arguments: str) -> str:
        before = {name: entry for name, entry in hash_tree(tmp_path).items() if not name.startswith("workspace")}
        code = run(list(arguments))
        out, err = capsys.readouterr()
        assert code == DATA_PROBLEM, err
        assert "Traceback" not in err and out == ""
        assert "error: " in err and " in: " in err
        assert all(char.isprintable() or char == "\n" for char in err), "the message drives the terminal"
        after = {name: entry for name, entry in hash_tree(tmp_path).items() if not name.startswith("workspace")}
        assert after == before
        return err

    return check
