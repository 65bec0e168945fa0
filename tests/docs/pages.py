"""The pages of the documentation, and what is read from them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PACKAGE = REPOSITORY / "stu_pipeline"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def list_pages() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def list_blocks(path: Path, language: str | None = None) -> list[str]:
    """List the code blocks of a page, of one language or of any."""
    return [text for kind, text in _FENCE.findall(read(path)) if language in (None, kind)]


def strip_code(text: str) -> str:
    """Take code blocks and code spans out of a page."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def list_stu_commands(path: Path) -> list[list[str]]:
    """List the words of every `stu ...` line in the code blocks of a page, without comments and prompts."""
    lines = [line.strip().removeprefix("$ ") for block in list_blocks(path) for line in block.splitlines()]
    commands = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]
    return [
        line.partition("#")[0].replace("&", "").split()
        for line in commands
        if re.match(r"stu [a-z]", line) and "OPTIONS" not in line
    ]


def list_commands() -> dict[str, Any]:
    """Return every command by its name; those of a group are named `weights inspect`."""
    import typer.main

    from stu_pipeline.cli.app import app

    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {verb}": item for verb, item in inner.items()}
    return found


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """Split the words of a `stu ...` line into the command's name and the rest."""
    known = list_commands()
    two = " ".join(words[1:3])
    return (two, words[3:]) if two in known else (words[1], words[2:])


@cache
def read_package_text() -> str:
    """Return every string of the package, f-strings with `{}` in the place of their values."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)
