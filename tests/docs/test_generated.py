"""Generated pages are what the code says now."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.docs.pages import DOCS, REPOSITORY, list_commands, read


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_pages_are_what_the_code_says_now(generate):
    stale = [str(path.relative_to(REPOSITORY)) for path, text in generate.render_all().items() if text != read(path)]
    assert stale == [], "run: make docs"


def test_pages_do_not_depend_on_the_terminal(generate, monkeypatch):
    wide = generate.render_all()
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    assert generate.render_all() == wide


def test_every_command_and_flag_is_in_the_reference():
    page = read(DOCS / "reference" / "cli.md")
    for name, command in list_commands().items():
        section = page.partition(f"\n## stu {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                if flag.startswith("-"):
                    assert f"`{flag}`" in section, (name, flag)


def test_every_public_name_is_in_the_reference():
    import stu_pipeline

    page = read(DOCS / "reference" / "python-api.md")
    assert [name for name in stu_pipeline.__all__ if name != "__version__" and f"\n## {name}\n" not in page] == []


def test_every_error_class_is_in_the_reference():
    from stu_pipeline import errors

    page = read(DOCS / "reference" / "errors.md")
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.StuError):
            assert f"`{name}`" in page and f"{kind.exit_code}" in page, name


def test_every_module_is_in_the_tree():
    tree = read(DOCS / "explanation" / "architecture.md")
    names = [path.name for path in (REPOSITORY / "stu_pipeline").rglob("*.py") if path.name != "__init__.py"]
    assert [name for name in names if f" {name} " not in tree] == []


def test_a_page_without_its_marker_is_refused(generate, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no markers here")
    with pytest.raises(ValueError, match=r"'page\.md' needs exactly one part 'tree', found 0"):
        generate.replace_part(page, "tree", "text")


def test_the_generator_writes_what_is_compared(generate, monkeypatch, tmp_path, capsys):
    target = tmp_path / "page.md"
    monkeypatch.setattr(generate, "render_all", lambda: {target: "text\n"})
    monkeypatch.setattr(generate, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    generate.main()
    generate.main()
    assert target.read_text() == "text\n"
    assert capsys.readouterr().out == "written: page.md\nunchanged: page.md\n"
