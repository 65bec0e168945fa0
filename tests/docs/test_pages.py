"""What the pages say is true of the code, and they are written as agreed."""

from __future__ import annotations

import json
import re

import pytest

from stu_pipeline.networks.cost import count_multiply_adds, count_parameters
from stu_pipeline.networks.scales import SCALES
from tests.docs.pages import (
    DOCS,
    PACKAGE,
    REPOSITORY,
    list_blocks,
    list_commands,
    list_pages,
    list_stu_commands,
    read,
    read_package_text,
    split_command,
)

# The house plan.
FOLDERS = (
    "cli", "datasets", "networks", "preparation", "inference", "transfer", "planning", "preprocessing", "training",
    "prediction", "evaluation", "study", "doctor", "nnunet",
)  # fmt: skip
MODULES = ("errors", "workspace", "storage", "records", "log")


def list_flags():
    return {
        name: {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        | {"--help", "-h", "-vv"}
        for name, command in list_commands().items()
    }


def test_the_house_plan_is_built():
    for name in FOLDERS:
        assert (PACKAGE / name / "__init__.py").is_file(), name
    for name in MODULES:
        assert (PACKAGE / f"{name}.py").is_file(), name
    for name in ("plans", "tests/unit", "tests/contract", "tests/integration", "tests/docs", "docs"):
        assert (REPOSITORY / name).is_dir(), name
    for name in ("pyproject.toml", "Makefile", "README.md", "LICENSE", ".ci/run"):
        assert (REPOSITORY / name).is_file(), name


def test_readme_lists_every_folder_of_the_package():
    layout = read(REPOSITORY / "README.md").partition("## Layout")[2]
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert folders and [name for name in folders if f"  {name}/ " not in layout] == []


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: page.name)
def test_every_command_on_a_page_exists_with_its_flags(page):
    flags = list_flags()
    for name, words in [split_command(command) for command in list_stu_commands(page)]:
        assert name in flags, name
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= flags[name], f"stu {name}: {used - flags[name]}"


def test_commands_are_found_on_the_pages():
    assert sum(len(list_stu_commands(page)) for page in list_pages()) > 40


def test_commands_in_hints_exist():
    named = set(re.findall(r"\bstu ([a-z]+)\b", read_package_text()))
    assert {"plan", "train", "doctor"} <= named
    # Words that follow the name in sentences, not commands.
    prose = {"and", "does", "never", "understands", "made", "plans", "runs", "writes"}
    assert named - {name.partition(" ")[0] for name in list_flags()} - prose == set()


def test_every_error_on_the_troubleshooting_page_is_one_of_ours():
    ours = read_package_text()
    lines = [
        line.removeprefix("error: ")
        for block in list_blocks(DOCS / "how-to" / "troubleshoot.md")
        for line in block.splitlines()
        if line.startswith("error: ")
    ]
    assert len(lines) > 12
    for line in lines:
        # The words between the values: quoted text, numbers, names and what follows a colon are values.
        parts = [part.strip(" ,:") for part in re.split(r"'[^']*'|: .*| \S*\d\S*|\b[A-Z]\w*\b", line)]
        words = max(parts, key=len).split()
        assert len("".join(words)) >= 8 and " ".join(words[:4]) in ours, line


def test_the_scales_on_the_page_are_those_of_the_code():
    page = read(DOCS / "explanation" / "the-four-scales.md")
    halved = [[1, 1, 1], *[[2, 2, 2]] * 5]
    for letter, spec in SCALES.items():
        shape = (spec.features_per_stage, spec.n_blocks_per_stage)
        parameters = count_parameters(1, 105, *shape) / 1e6
        heads = {"input_channels": 1, "num_classes": 105, "deep_supervision": True}
        adds = count_multiply_adds((128, 128, 128), halved, *shape, **heads) / 1e12
        row = f"| {letter} | {spec.name} | {spec.width} | {spec.num_blocks} | {parameters:.1f} M | {adds:.2f} T |"
        assert row in page


def test_published_scores_in_readme_are_those_the_planner_quotes():
    evidence = json.loads(read(REPOSITORY / "plans" / "scale_choice.json"))["alternative_evidence"]
    readme = " ".join(read(REPOSITORY / "README.md").split())
    for name in ("nnU-Net", "L", "S", "B"):
        assert name in evidence
    for number in re.findall(r"\d\d\.\d", readme.partition("## What to expect")[2].partition("## ")[0]):
        assert number in evidence, number


def test_code_blocks_in_json_are_json():
    for page in list_pages():
        for block in list_blocks(page, "json"):
            json.loads(block)


def test_code_blocks_in_python_compile():
    blocks = [(page, block) for page in list_pages() for block in list_blocks(page, "python")]
    examples = [(page, block) for page, block in blocks if "import" in block]
    assert examples
    for page, block in examples:
        compile(block, str(page), "exec")


def test_python_examples_use_public_names():
    import stu_pipeline

    for page in list_pages():
        for block in list_blocks(page, "python"):
            for names in re.findall(r"from stu_pipeline import (.+)", block):
                assert set(names.split(", ")) <= set(stu_pipeline.__all__)


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: page.name)
def test_pages_are_plain_ascii_without_trailing_spaces(page):
    text = read(page)
    assert text.isascii(), [character for character in text if not character.isascii()][:5]
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert text.endswith("\n") and not text.endswith("\n\n")


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: page.name)
def test_pages_hold_no_marketing(page):
    words = r"\b(powerful|seamless\w*|effortless\w*|blazing|cutting-edge|state-of-the-art|easy|easily|awesome)\b|!$"
    assert re.findall(words, re.sub(r"```.*?```", "", read(page), flags=re.DOTALL), re.IGNORECASE | re.MULTILINE) == []


def test_nothing_names_a_folder_of_a_machine():
    pattern = re.compile(r"(?<![\w.$~<-])/(?:home/\w|root/|work/|Users/\w|tmp/\w)")
    places = [
        *list_pages(),
        *(path for folder in ("stu_pipeline", "plans") for path in (REPOSITORY / folder).rglob("*.[jp][sy]*")),
        *(REPOSITORY / name for name in ("pyproject.toml", "Makefile")),
    ]
    found = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for path in places
        if path.suffix != ".pyc"
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert found == []
