"""Plans for pretrained weights and for a spacing of one's own: the whole way, and what nnU-Net says to it."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from typer.testing import CliRunner

from stu_pipeline.cli.app import app
from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.log import Notice
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.planner import draft_plan
from stu_pipeline.planfile import read_plan_file
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.plan import plan
from stu_pipeline.workspace import Workspace
from tests.published_files import write_published_model
from tests.synthetic import write_tiny_dataset

NAME = "Dataset901_Tiny"
PUBLISHED_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))


@pytest.fixture(name="weights", scope="module")
def write_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of scale S as they were released, with their side-car."""
    path = tmp_path_factory.mktemp("weights") / "small_ep4k.model"
    write_published_model(path, scale="S", momentum=False)
    return path


@pytest.fixture(name="workspace")
def make_workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with one tiny dataset of CT images; the variables point at it."""
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    write_tiny_dataset(workspace.raw)
    rename_channel(workspace, "CT")
    with engine_environment(workspace):
        yield workspace


def rename_channel(workspace: Workspace, name: str) -> None:
    path = workspace.raw / NAME / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "channel_names": {"0": name}}))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_weights_decide_scale_normalisation_name_and_data(workspace: Workspace, weights: Path) -> None:
    events: list[object] = []
    own = plan(PlanConfig(dataset=NAME, scale="S"))
    result = plan(PlanConfig(dataset=NAME, pretrained=weights), listen=events.append)
    stored = read_plan_file(result.plan_file)
    assert (result.plan_name, result.scale, stored.pretrained) == ("stuSPretrainedPlans", "S", result.pretrained)
    assert stored.pretrained is not None and stored.pretrained.strides == PUBLISHED_STRIDES
    assert stored.pretrained.accepts_other_strides
    full, before = stored.configuration("3d_fullres").raw, read_plan_file(own.plan_file).configuration("3d_fullres").raw
    assert (before["normalization_schemes"], full["normalization_schemes"]) == (
        ["CTNormalization"],
        ["ZScoreNormalization"],
    )
    assert (before["data_identifier"], full["data_identifier"]) == (
        "nnUNetPlans_3d_fullres",
        "stuSPretrainedPlans_3d_fullres",
    )
    changed = {"normalization_schemes", "use_mask_for_norm", "data_identifier"}
    assert {key: value for key, value in full.items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }
    warnings = [event.text for event in events if isinstance(event, Notice) and event.is_warning]
    assert any("differ from the pre-training's" in text for text in warnings)


def test_a_plan_for_weights_is_continued_by_its_name(workspace: Workspace, weights: Path) -> None:
    first = plan(PlanConfig(dataset=NAME, pretrained=weights, gpu_memory_gib=11.0))
    again = plan(PlanConfig(dataset=NAME, plan_name="stuSPretrainedPlans"))
    assert (again.action, again.pretrained, again.gpu_memory_gib) == ("unchanged", first.pretrained, 11.0)
    assert plan(PlanConfig(dataset=NAME, pretrained=weights)).action == "unchanged"


def test_the_geometry_of_the_pretraining_is_taken_on_request(workspace: Workspace, weights: Path) -> None:
    result = plan(PlanConfig(dataset=NAME, pretrained=weights, keep_geometry=True, gpu_memory_gib=24.0))
    full = read_plan_file(result.plan_file).configuration("3d_fullres")
    assert (full.spacing, full.patch_size, full.strides) == ((1.5,) * 3, (128,) * 3, PUBLISHED_STRIDES)
    assert full.batch_size == 2
    assert result.pretrained is not None and not result.pretrained.accepts_other_strides
    again = plan(PlanConfig(dataset=NAME, plan_name="stuSPretrainedPlans"))
    assert again.action == "unchanged"


def test_a_spacing_and_a_patch_of_ones_own_are_kept_until_chosen_anew(workspace: Workspace) -> None:
    wanted = PlanConfig(dataset=NAME, scale="S", spacing_mm=(2.0, 1.5, 1.5), patch_voxels=(30, 20, 20))
    first = read_plan_file(plan(wanted).plan_file).configuration("3d_fullres")
    assert (first.spacing, first.patch_size) == ((2.0, 1.5, 1.5), (32, 20, 20))
    assert first.data_identifier == "stuSPlans_3d_fullres"
    assert plan(PlanConfig(dataset=NAME, scale="S")).action == "unchanged"
    fresh = plan(PlanConfig(dataset=NAME, scale="S", spacing_mm=(), patch_voxels=()))
    assert fresh.action == "replaced"
    assert read_plan_file(fresh.plan_file).configuration("3d_fullres").data_identifier == "nnUNetPlans_3d_fullres"


def test_weights_of_another_scale_are_refused_before_the_dataset_is_read(workspace: Workspace, weights: Path) -> None:
    with pytest.raises(ModelError, match=r"are of scale S, so no plan of scale L can start from them"):
        plan(PlanConfig(dataset="Dataset999_NotThere", pretrained=weights, scale="L"))
    with pytest.raises(DataError, match="not found"):
        plan(PlanConfig(dataset="Dataset999_NotThere", pretrained=weights, scale="S"))


def test_a_file_that_is_no_weights_exits_with_four(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    outcome = run("Dataset999_NotThere", "--pretrained", str(path))
    assert isinstance(outcome.exception, ModelError)
    assert outcome.exception.exit_code == 4


def test_the_plan_of_a_foreign_scale_is_not_turned_into_one_for_weights(workspace: Workspace, weights: Path) -> None:
    plan(PlanConfig(dataset=NAME, scale="B", plan_name="mine"))
    with pytest.raises(ModelError, match="the plan of that name is of scale B"):
        plan(PlanConfig(dataset=NAME, pretrained=weights, plan_name="mine"))


def test_other_weights_do_not_replace_a_plan_that_was_trained(workspace: Workspace, weights: Path) -> None:
    plan(PlanConfig(dataset=NAME, pretrained=weights))
    (workspace.results / NAME / "nnUNetTrainer__stuSPretrainedPlans__3d_fullres").mkdir(parents=True)
    other = weights.with_name("other.model")
    write_published_model(other, scale="S", momentum=False, seed=1)
    with pytest.raises(UsageError, match="'stuSPretrainedPlans' would change, and nnUNetTrainer__"):
        plan(PlanConfig(dataset=NAME, pretrained=other))
    assert plan(PlanConfig(dataset=NAME, pretrained=weights)).action == "unchanged"


def test_without_side_car_the_plan_keeps_its_own_ways_and_says_so(
    workspace: Workspace, weights: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.model"
    bare.hardlink_to(weights)
    events: list[object] = []
    result = plan(PlanConfig(dataset=NAME, pretrained=bare), listen=events.append)
    full = read_plan_file(result.plan_file).configuration("3d_fullres").raw
    assert full["normalization_schemes"] == ["CTNormalization"]
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert any("normalised is not known" in text for text in texts)
    assert any("strides of the pre-training are not known" in text for text in texts)
    with pytest.raises(ModelError, match="spacing and patch and strides of the pre-training"):
        plan(PlanConfig(dataset=NAME, pretrained=bare, keep_geometry=True))
    sidecar = weights.with_name(weights.name + ".pkl")
    helped = plan(PlanConfig(dataset=NAME, pretrained=bare, sidecar=sidecar))
    assert helped.pretrained is not None and helped.pretrained.strides == PUBLISHED_STRIDES


def test_a_wanted_spacing_gives_nnunets_own_plan_for_it() -> None:
    generator = random.Random(5)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    for spacing in ((1.5, 1.5, 1.5), (3.0, 0.8, 0.8), (0.8, 0.8, 4.0)):
        shape = [generator.randint(40, 200) for _ in range(3)]
        fingerprint = {
            "foreground_intensity_properties_per_channel": {"0": statistics},
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": [shape, shape],
            "spacings": [[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]],
        }
        ours = draft_plan(NAME, description, fingerprint, num_cases=30, reader_name="SimpleITKIO", spacing_mm=spacing)
        assert ours == draft_stock(description, fingerprint, spacing)
        order = ours["transpose_forward"]
        assert ours["configurations"]["3d_fullres"]["spacing"] == [spacing[axis] for axis in order]


def draft_stock(description: dict[str, Any], fingerprint: dict[str, Any], spacing: tuple[float, ...]) -> dict[str, Any]:
    """Return what nnU-Net's planner writes for this spacing."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        workspace = Workspace(raw=root / "raw", preprocessed=root / "pre", results=root / "res")
        (workspace.raw / NAME).mkdir(parents=True)
        (workspace.preprocessed / NAME).mkdir(parents=True)
        listed = {"numTraining": 30, "dataset": {"a": {"images": ["x"], "label": "y"}}}
        reader = {"overwrite_image_reader_writer": "SimpleITKIO"}
        (workspace.raw / NAME / "dataset.json").write_text(json.dumps({**description, **listed, **reader}))
        (workspace.preprocessed / NAME / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        with engine_environment(workspace, num_workers=1), engine_output(None):
            ExperimentPlanner(NAME, overwrite_target_spacing=spacing).plan_experiment()
        return json.loads((workspace.preprocessed / NAME / "nnUNetPlans.json").read_text())


def test_a_union_is_made_planned_and_found_again(workspace: Workspace) -> None:
    write_tiny_dataset(workspace.raw, name="Other", dataset_id=902)
    config = PlanConfig(union=("901", "902"), dataset_name="Both", scale="S")
    dry = plan(PlanConfig(union=("901", "902"), dataset_name="Both", scale="S", dry_run=True))
    assert dry.num_cases == 12 and not dry.raw_folder.exists()
    result = plan(config)
    assert (result.dataset, result.num_cases) == (dry.dataset, 12)
    described = json.loads((result.preprocessed_folder / "dataset.json").read_text())
    assert len(described["dataset"]) == 12
    assert plan(config).action == "unchanged"
    assert plan(PlanConfig(dataset=result.dataset, scale="S")).action == "unchanged"


def test_labels_of_a_model_come_first_and_new_ones_after_them(workspace: Workspace, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    description = json.loads((workspace.raw / NAME / "dataset.json").read_text())
    names = [name for name in description["labels"] if name != "background"]
    labels = {"background": 0, "kept": 1, names[-1]: 2}
    (model / "dataset.json").write_text(json.dumps({**description, "labels": labels}))
    result = plan(PlanConfig(union=(NAME,), keep_labels_of=model, dataset_name="More", scale="S"))
    planned = json.loads((result.preprocessed_folder / "dataset.json").read_text())["labels"]
    assert list(planned.items())[:3] == list(labels.items())
    assert set(planned) == {*labels, *names}
