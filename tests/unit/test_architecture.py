"""The house keeps its shape: sizes, import directions, docstrings, and what a start imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "stu_pipeline"
MAX_LINES = 300
STAGES = ("planning", "preprocessing", "training", "prediction", "evaluation")
ENGINE = ("nnunetv2", "dynamic_network_architectures", "batchgenerators", "batchgeneratorsv2", "acvl_utils")
# What the command line may not import before a command runs: each costs more than the rest together.
HEAVY = (
    "torch", "numpy", "scipy", "SimpleITK", "nibabel", "matplotlib", "skimage", "sklearn", "pandas", "blosc2",
    "imageio", "tifffile", *ENGINE,
)  # fmt: skip
# Parts of the package that each part may import, function-level imports included. Stages are not in any stage's list.
# `stu_pipeline` stands for the package itself (the public names and the version).
FOUNDATION = {"errors", "storage", "knowledge", "workspace", "records", "log", "worker_process", "workers", "host"}
PLAN_PARTS = {"planfile", "plan_architecture", "plan_execution", "plan_pretrained", "preprocessed_size"}
SHARED = FOUNDATION | {"datasets", "networks", "nnunet", "preparation", "inference", "transfer"} | PLAN_PARTS
ALLOWED = {
    "errors": set(),
    "storage": {"errors"},
    "knowledge": {"errors", "storage"},
    "workspace": {"errors", "run_paths"},
    "run_paths": set(),
    "log": set(),
    "host": set(),
    "records": {"errors", "storage"},
    "worker_process": {"errors"},
    "workers": {"errors", "worker_process"},
    "networks": {"errors"},
    "datasets": FOUNDATION,
    "plan_architecture": {"errors", "networks"},
    "plan_execution": {"plan_architecture"},
    "plan_pretrained": {"errors", "networks"},
    "planfile": {"errors", "networks", "plan_architecture", "plan_execution", "plan_pretrained", "storage"},
    "preprocessed_size": set(),
    "preparation": {"errors", "plan_architecture", "nnunet"},
    # Arrays and networks in, label maps out; no files, so that training can validate with it too.
    "inference": {"errors", "datasets", "preparation"},
    # Reads files of weights and puts them into networks, for planning, training and the commands of `stu weights`.
    "transfer": (SHARED - {"transfer"}) | {"stu_pipeline"},
    "nnunet": SHARED - {"transfer"},
    **{stage: SHARED | {"stu_pipeline"} for stage in STAGES},
    "doctor": SHARED,
    # Runs the stages as a user would, by their public names.
    "study": SHARED | {"stu_pipeline", *STAGES},
    "__main__": {"cli"},
    "stu_pipeline": {"errors", "study", *STAGES},
}
# The commands use the public names; beside them what draws, names paths, and light configs and events.
CLI_ALLOWED = {"stu_pipeline", "cli", "errors", "host", "log", "records", "workspace", "doctor", "transfer", "study"}
CLI_ALLOWED_MODULES = {
    "stu_pipeline.nnunet.environment",
    "stu_pipeline.nnunet.events",
    "stu_pipeline.datasets.phantom",
    "stu_pipeline.evaluation.comparison.tables",
    "stu_pipeline.evaluation.overlay",
    "stu_pipeline.evaluation.report",
    "stu_pipeline.prediction.find_model",
    "stu_pipeline.training.ranking.config",
    "stu_pipeline.training.ranking.rank",
    "stu_pipeline.training.story.watch",
    *(f"stu_pipeline.{stage}.config" for stage in STAGES),
    *(f"stu_pipeline.{stage}.{verb}" for stage, verb in zip(
        STAGES, ("plan", "preprocess", "train", "predict", "evaluate"), strict=True)),
}  # fmt: skip


def list_modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    """Name the part of the package a module belongs to: `planning`, `errors`, or `stu_pipeline` for the package."""
    return module.split(".")[1] if "." in module else "stu_pipeline"


@cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def list_imports(path, *, tree=None):
    """List (line, module) of every import of a file, at module level and inside functions."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    found = []
    for node in ast.walk(tree or parse(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found.append((node.lineno, module))
            # `from stu_pipeline import planning` imports a module, not a name.
            found += [
                (node.lineno, f"{module}.{alias.name}")
                for alias in node.names
                if module.startswith("stu_pipeline") and is_module(f"{module}.{alias.name}")
            ]
    return found


def is_module(name):
    path = REPOSITORY.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_no_module_is_longer_than_300_lines():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in list_modules()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_module_says_what_it_is_for():
    silent = [name_of(path) for path in list_modules() if not ast.get_docstring(parse(path))]
    assert silent == []


def test_every_package_is_a_package_with_one_line_and_no_imports():
    folders = {path.parent for path in list_modules()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    heavy = [
        name_of(folder / "__init__.py")
        for folder in folders
        if folder not in (PACKAGE, PACKAGE / "cli") and len(parse(folder / "__init__.py").body) > 1
    ]
    assert heavy == []


def test_only_the_fence_imports_the_engine():
    trespassers = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {module}"
        for path in list_modules()
        if part_of(name_of(path)) != "nnunet"
        for line, module in list_imports(path)
        if module.split(".")[0] in ENGINE
    ]
    assert trespassers == []


def test_imports_go_one_way():
    wrong = []
    for path in list_modules():
        own = part_of(name_of(path))
        for line, module in list_imports(path):
            target = part_of(module)
            if module.split(".")[0] != "stu_pipeline" or own in ("cli", target):
                continue
            if target not in ALLOWED.get(own, set()):
                wrong.append(f"{path.relative_to(REPOSITORY)}:{line} imports {module}")
    assert wrong == []


def test_every_part_has_a_place_in_the_import_order():
    parts = {part_of(name_of(path)) for path in list_modules()} - {"cli"}
    assert parts - set(ALLOWED) == set()


def test_stages_never_import_each_other():
    # Follows from the table above; said again by itself, so that a careless edit of the table is noticed.
    for stage in STAGES:
        assert ALLOWED[stage].isdisjoint(STAGES)


def test_networks_import_torch_and_errors_only():
    allowed = {"torch", "stu_pipeline", "__future__"} | set(sys.stdlib_module_names)
    wrong = [
        f"{path.name}:{line} imports {module}"
        for path in sorted((PACKAGE / "networks").glob("*.py"))
        for line, module in list_imports(path)
        if module.split(".")[0] not in allowed
    ]
    assert wrong == []


def test_commands_use_the_public_names():
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {module}"
        for path in sorted((PACKAGE / "cli").glob("*.py"))
        for line, module in list_imports(path)
        if module.split(".")[0] == "stu_pipeline"
        and part_of(module) not in CLI_ALLOWED
        and module not in CLI_ALLOWED_MODULES
    ]
    assert wrong == []


def test_the_package_never_prints_and_never_asserts():
    wrong = []
    for path in list_modules():
        for node in ast.walk(parse(path)):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if is_print or isinstance(node, ast.Assert):
                wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert wrong == []


def test_only_the_command_line_catches_everything():
    wrong = []
    for path in list_modules():
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            is_broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            if is_broad and path != PACKAGE / "cli" / "__init__.py":
                wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc", "base"])
def test_no_module_is_named_after_nothing(name):
    assert [name_of(path) for path in list_modules() if path.stem == name] == []


def test_the_environment_is_read_in_few_places():
    readers = {
        name_of(path)
        for path in list_modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    # `worker_process` sets the number of threads of the processes it starts.
    assert readers <= {"stu_pipeline.workspace", "stu_pipeline.nnunet.environment", "stu_pipeline.worker_process"}


def import_times(*command):
    """Run a command of Python and return its outcome and the modules it imported."""
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=120,
    )
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("import time:")]
    return outcome, {line.rpartition("|")[2].strip() for line in lines}


def test_importing_the_package_imports_nothing_heavy():
    outcome, modules = import_times("-c", "import stu_pipeline; print(stu_pipeline.__version__, dir(stu_pipeline))")
    assert outcome.returncode == 0 and "stu_pipeline" in modules
    assert {module.split(".")[0] for module in modules}.isdisjoint(HEAVY)
    assert "train" in outcome.stdout and "PlanConfig" in outcome.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_answers_without_anything_heavy(arguments):
    outcome, modules = import_times("-m", "stu_pipeline", *arguments)
    assert outcome.returncode == 0 and "Usage: stu" in outcome.stdout
    assert "stu_pipeline.cli.app" in modules
    assert {module.split(".")[0] for module in modules}.isdisjoint(HEAVY)


def test_errors_and_configs_import_nothing_heavy():
    names = ["errors", "log", "workspace", "records", "storage", *(f"{stage}.config" for stage in STAGES)]
    names = [f"stu_pipeline.{name}" for name in names if is_module(f"stu_pipeline.{name}")]
    outcome, modules = import_times("-c", f"import {', '.join(names)}")
    assert outcome.returncode == 0 and set(names) <= modules
    assert {module.split(".")[0] for module in modules}.isdisjoint(HEAVY)


def test_every_public_name_resolves_and_is_documented():
    import stu_pipeline

    for name in stu_pipeline.__all__:
        value = getattr(stu_pipeline, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = stu_pipeline.nonsense


def test_the_checks_of_this_file_see_what_they_look_for():
    tree = ast.parse("def f():\n    from stu_pipeline.training import train\n    import nnunetv2.paths\n")
    found = list_imports(PACKAGE / "planning" / "plan.py", tree=tree)
    assert (2, "stu_pipeline.training") in found and (3, "nnunetv2.paths") in found
    assert (2, "stu_pipeline.training.train") in found
    relative = list_imports(PACKAGE / "planning" / "plan.py", tree=ast.parse("from ..training import train"))
    assert (1, "stu_pipeline.training") in relative
    assert part_of("stu_pipeline.training.train") == "training" and part_of("stu_pipeline") == "stu_pipeline"
