"""Every link leads somewhere, and every page is found from the index."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, PACKAGE, REPOSITORY, list_pages, read, strip_code

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_DOCS_PATH = re.compile(r"docs/[A-Za-z0-9_./-]+\.md")


def list_links(page):
    return [target for target in _LINK.findall(strip_code(read(page))) if not re.match(r"[a-z]+:", target)]


def list_anchors(page):
    """List the anchors of a page as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_relative_link_leads_to_a_file_and_a_heading():
    broken = []
    for page in list_pages():
        for target in list_links(page):
            name, _, anchor = target.partition("#")
            place = (page.parent / name).resolve() if name else page
            if not place.exists() or (anchor and anchor not in list_anchors(place)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []


def test_no_link_leaves_the_repository():
    outside = [
        f"{page.name}: {target}"
        for page in list_pages()
        for target in list_links(page)
        if not (page.parent / target.partition("#")[0]).resolve().is_relative_to(REPOSITORY)
    ]
    assert outside == []


def test_every_page_is_found_from_the_index():
    found, queue = set(), [DOCS / "README.md"]
    while queue:
        page = queue.pop()
        if page in found or page.suffix != ".md" or not page.is_file():
            continue
        found.add(page)
        queue += [(page.parent / target.partition("#")[0]).resolve() for target in list_links(page)]
    missing = [page for page in sorted(DOCS.rglob("*.md")) if page not in found and "results" not in page.parts]
    assert [str(page.relative_to(DOCS)) for page in missing] == []


def test_pages_named_in_the_code_are_there():
    named = {
        (path.name, match)
        for path in [*PACKAGE.rglob("*.py"), REPOSITORY / "pyproject.toml", REPOSITORY / "Makefile"]
        for match in _DOCS_PATH.findall(path.read_text(encoding="utf-8"))
    }
    assert named and [item for item in sorted(named) if not (REPOSITORY / item[1]).is_file()] == []


def test_anchors_are_made_as_github_makes_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Errors and exit codes\n## stu plan\n## `summary.json`\n```\n# not a heading\n```\n")
    assert list_anchors(page) == {"errors-and-exit-codes", "stu-plan", "summaryjson"}
