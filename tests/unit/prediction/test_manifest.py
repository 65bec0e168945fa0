"""What is proven about an output folder, through changes, kills and reruns."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.prediction.config import CaseReport
from stu_pipeline.prediction.outputs import Outputs, choose_outputs
from stu_pipeline.prediction.proof.manifest import Manifest, hash_inputs
from stu_pipeline.storage import hash_file

RECIPE = {"models": [{"folder": "m", "folds": {"0": "x"}, "checkpoint": "final"}], "probabilities": "none"}


class Folder:
    """Two cases and their output folder."""

    def __init__(self, root: Path, names: Sequence[str] = ("a", "b")) -> None:
        (root / "in").mkdir()
        self.cases = []
        for name in names:
            (root / "in" / f"{name}.nii.gz").write_bytes(f"image {name}".encode())
            self.cases.append(Case(id=name, image_files=(root / "in" / f"{name}.nii.gz",)))
        self.outputs: Outputs = choose_outputs(root / "in", root / "out", self.cases)
        self.outputs.folder.mkdir()

    def open(self, **changes: Any) -> Manifest:
        options = {name: changes.pop(name) for name in ("is_thorough",) if name in changes}
        return Manifest(self.outputs, RECIPE | changes, **options)

    def predict(self, manifest: Manifest, case: Case, *, content: str = "mask", extras: Sequence[str] = ()) -> None:
        """Do to a case what a prediction does."""
        inputs = manifest.mark_inputs(case)
        for name in extras:
            (self.outputs.folder / name).parent.mkdir(exist_ok=True)
            (self.outputs.folder / name).write_text(f"{name} {content}")
        temporary = self.outputs.folder / "temporary"
        temporary.write_text(f"{content} {case.id}")
        manifest.announce(
            case, temporary, inputs, {"volumes_ml": {"liver": 2.5}}, extras=[self.outputs.folder / x for x in extras]
        )
        temporary.rename(self.outputs.masks[case.id])
        manifest.add_report(CaseReport(case=case.id, status="done", seconds=1.23456, volumes_ml={"liver": 2.5}))

    def read(self) -> dict[str, Any]:
        return json.loads((self.outputs.folder / "predictions.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def finished(folder: Folder) -> Folder:
    manifest = folder.open()
    for case in folder.cases:
        folder.predict(manifest, case)
    manifest.write()
    return folder


def explain(folder: Folder, index: int = 0, **changes: Any) -> str | None:
    return folder.open(**changes).explain_unproven(folder.cases[index])


def test_a_finished_folder_is_proven_and_has_a_report(finished: Folder):
    manifest = finished.open()
    assert all(manifest.is_there(case) and manifest.explain_unproven(case) is None for case in finished.cases)
    document = finished.read()
    assert document["schema"] == 2
    assert document["totals"] | {"peak_memory_gib": 0} == {
        "num_cases": 2, "num_done": 2, "num_failed": 0, "num_open": 0, "num_with_warnings": 0, "seconds": 2.47,
        "peak_memory_gib": 0, "forward_passes": 0,
    }  # fmt: skip
    entry = document["cases"]["a"]
    assert entry["output_sha256"] == hash_file(finished.outputs.masks["a"])
    assert entry["inputs"]["a.nii.gz"]["sha256"] == hash_file(finished.cases[0].image_files[0])
    assert (entry["volumes_ml"], entry["seconds"], entry["status"]) == ({"liver": 2.5}, 1.235, "done")
    assert sorted(path.name for path in finished.outputs.folder.iterdir()) == [
        "a.nii.gz", "b.nii.gz", "predictions.csv", "predictions.json", "predictions.md",
    ]  # fmt: skip


def test_a_run_that_finds_all_done_changes_no_byte(finished: Folder):
    before = {path.name: path.read_bytes() for path in finished.outputs.folder.iterdir()}
    manifest = finished.open()
    for case in finished.cases:
        assert manifest.explain_unproven(case) is None
        manifest.add_report(CaseReport(case=case.id, status="skipped"))
    manifest.write()
    assert {path.name: path.read_bytes() for path in finished.outputs.folder.iterdir()} == before


def test_the_versions_are_of_the_run_that_made_masks(finished: Folder):
    path = finished.outputs.folder / "predictions.json"
    path.write_text(json.dumps(finished.read() | {"versions": {"torch": "1.0"}, "forecast": {"seconds": 5}}))
    finished.open().write()
    assert finished.read()["versions"] == {"torch": "1.0"} and finished.read()["forecast"] == {"seconds": 5}
    manifest = finished.open()
    finished.predict(manifest, finished.cases[0])
    manifest.write()
    assert "numpy" in finished.read()["versions"]


def test_another_mask_is_not_proven(finished: Folder):
    finished.outputs.masks["a"].write_text("another")
    assert explain(finished) == "not made by stu, or changed since"
    assert explain(finished, 1) is None


def test_another_image_is_not_proven(finished: Folder):
    finished.cases[0].image_files[0].write_bytes(b"another")
    assert explain(finished) == "made from another image"


def test_an_image_that_is_gone_is_named(finished: Folder):
    finished.cases[0].image_files[0].unlink()
    assert "'a.nii.gz' cannot be read" in str(explain(finished))


def test_another_recipe_is_not_proven(finished: Folder):
    assert explain(finished, tta="none") == "made by another model or with other options"


def test_a_folder_in_the_place_of_a_mask_is_said(folder: Folder):
    folder.outputs.masks["a"].mkdir()
    assert folder.open().is_there(folder.cases[0]) and explain(folder) == "not a file"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99, "cases": {}}', '{"schema": 2, "cases": 3}'])
def test_a_report_that_is_damaged_or_newer_proves_nothing(finished: Folder, content: str):
    (finished.outputs.folder / "predictions.json").write_text(content)
    assert explain(finished) == "not made by stu, or changed since"


def test_a_report_of_schema_1_is_still_a_proof(finished: Folder):
    document = finished.read()
    case = finished.cases[0]
    entry = document["cases"]["a"]
    old = {name: entry[name] for name in ("status", "output", "output_sha256", "recipe_sha256", "volumes_ml")}
    old["inputs"] = hash_inputs(case)
    document = {"schema": 1, "recipe": RECIPE, "recipe_sha256": entry["recipe_sha256"], "cases": {"a": old}}
    (finished.outputs.folder / "predictions.json").write_text(json.dumps(document))
    manifest = finished.open()
    assert manifest.is_there(case) and manifest.explain_unproven(case) is None
    case.image_files[0].write_bytes(b"another")
    assert explain(finished) == "made from another image"


def test_files_beside_the_mask_belong_to_it(folder: Folder):
    manifest, case = folder.open(), folder.cases[0]
    folder.predict(manifest, case, extras=("a.npz", "labels/liver.nii.gz"))
    assert set(manifest.list_outputs("a")) == {"a.npz", "labels/liver.nii.gz"}
    manifest.write()
    assert explain(folder) is None
    (folder.outputs.folder / "labels" / "liver.nii.gz").write_text("another")
    assert "'labels/liver.nii.gz'" in str(explain(folder))
    (folder.outputs.folder / "labels" / "liver.nii.gz").unlink()
    assert not folder.open().is_there(case), "it is made again"


def test_a_mask_that_was_changed_is_in_the_way_even_when_something_beside_it_is_missing(folder: Folder):
    manifest, case = folder.open(), folder.cases[0]
    folder.predict(manifest, case, extras=("a.npz",))
    manifest.write()
    (folder.outputs.folder / "a.npz").unlink()
    folder.outputs.masks["a"].write_text("corrected by hand")
    assert folder.open().is_there(case)
    assert explain(folder) == "not made by stu, or changed since"


def test_a_journal_proves_what_the_report_does_not_know_yet(folder: Folder):
    folder.predict(folder.open(), folder.cases[0])
    assert not (folder.outputs.folder / "predictions.json").exists()
    manifest = folder.open()
    assert manifest.explain_unproven(folder.cases[0]) is None
    manifest.add_report(CaseReport(case="a", status="skipped"))
    manifest.write()
    entry = folder.read()["cases"]["a"]
    assert (entry["status"], entry["volumes_ml"]) == ("done", {"liver": 2.5})
    assert folder.read()["totals"]["num_open"] == 1


def test_an_announced_mask_that_never_got_its_name_is_not_there(folder: Folder):
    case = folder.cases[0]
    temporary = folder.outputs.folder / "temporary"
    temporary.write_text("mask")
    folder.open().announce(case, temporary, hash_inputs(case), {})
    manifest = folder.open()
    assert not manifest.is_there(case)
    manifest.write()
    assert folder.read()["cases"]["a"]["status"] == "open"
    # A thread that was still at work gives it its name after the report was written.
    temporary.rename(folder.outputs.masks["a"])
    manifest = folder.open()
    assert manifest.is_there(case) and manifest.explain_unproven(case) is None


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_kill_while_a_mask_is_replaced_leaves_a_proven_mask(finished: Folder, is_replaced: bool):
    case = finished.cases[0]
    manifest = finished.open(tta="none")
    temporary = finished.outputs.folder / "temporary"
    temporary.write_text("new mask")
    manifest.announce(case, temporary, manifest.mark_inputs(case), {})
    if is_replaced:
        temporary.rename(finished.outputs.masks["a"])
    assert (explain(finished) is None) == (not is_replaced)
    assert (explain(finished, tta="none") is None) == is_replaced
    finished.open(tta="none").write()
    assert (explain(finished, tta="none") is None) == is_replaced


def test_masks_of_other_processes_are_in_the_report(folder: Folder):
    parent, child = folder.open(), folder.open()
    folder.predict(parent, folder.cases[0])
    folder.predict(child, folder.cases[1])
    parent.add_report(CaseReport(case="b", status="done", seconds=7.0, forward_passes=3, peak_memory_gib=0.5))
    parent.write()
    document = folder.read()
    assert document["cases"]["b"]["output_sha256"] == hash_file(folder.outputs.masks["b"])
    assert (document["cases"]["b"]["seconds"], document["totals"]["peak_memory_gib"]) == (7.0, 0.5)
    assert explain(folder, 1) is None


def test_a_failed_case_is_reported_until_it_is_done_or_gone(folder: Folder, tmp_path: Path):
    manifest = folder.open()
    folder.predict(manifest, folder.cases[1])
    manifest.add_report(CaseReport(case="a", status="failed", error="damaged"))
    manifest.write()
    entry = folder.read()["cases"]["a"]
    assert (entry["status"], entry["error"]) == ("failed", "damaged")
    folder.outputs = choose_outputs(tmp_path / "in", tmp_path / "out", folder.cases[1:])
    folder.open().write()
    assert set(folder.read()["cases"]) == {"b"}


def test_masks_of_earlier_runs_stay_in_the_report_while_they_are_there(finished: Folder, tmp_path: Path):
    finished.outputs = choose_outputs(tmp_path / "in", tmp_path / "out", finished.cases[1:])
    finished.open().write()
    assert set(finished.read()["cases"]) == {"a", "b"}
    (tmp_path / "out" / "a.nii.gz").unlink()
    finished.open().write()
    assert set(finished.read()["cases"]) == {"b"}


def test_a_single_file_has_no_journal_and_its_report_where_it_is_asked_for(tmp_path: Path):
    (tmp_path / "a.nii.gz").write_bytes(b"image")
    case = Case(id="a", image_files=(tmp_path / "a.nii.gz",))
    outputs = choose_outputs(case.image_files[0], tmp_path / "mask.nii.gz", [case])
    manifest = Manifest(outputs, RECIPE)
    (tmp_path / "temporary").write_text("mask")
    manifest.announce(case, tmp_path / "temporary", hash_inputs(case), {})
    (tmp_path / "temporary").rename(outputs.masks["a"])
    manifest.write(tmp_path / "report.json", forecast={"seconds": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "mask.nii.gz", "report.json"]
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["forecast"] == {"seconds": 3} and document["cases"]["a"]["output"] == "mask.nii.gz"


def test_finished_cases_cost_little_once_their_images_have_settled(tmp_path: Path):
    folder = Folder(tmp_path)
    big = folder.cases[0].image_files[0]
    os.truncate(big, 60 * 2**20)
    manifest = folder.open()
    for case in folder.cases:
        folder.predict(manifest, case)
    manifest.write()
    time.sleep(2.1)  # until the change of the image is older than any file system's tick
    manifest = folder.open()
    assert manifest.explain_unproven(folder.cases[0]) is None
    manifest.write()
    assert "stamp" in folder.read()["cases"]["a"]["inputs"]["a.nii.gz"]
    start = time.perf_counter()
    assert folder.open().explain_unproven(folder.cases[0]) is None
    assert time.perf_counter() - start < 0.02
    # What the stamp stands for is not read; --verify reads it.
    entry = folder.read()
    entry["cases"]["a"]["inputs"]["a.nii.gz"]["sha256"] = "of another image"
    (folder.outputs.folder / "predictions.json").write_text(json.dumps(entry))
    assert explain(folder) is None
    assert explain(folder, is_thorough=True) == "made from another image"
    # A change within the old size and time is seen.
    before = big.stat()
    with big.open("r+b") as stream:
        stream.write(b"X")
    os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert explain(folder) == "made from another image"
