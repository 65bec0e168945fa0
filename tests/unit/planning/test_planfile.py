"""The plan file: what is read, what is refused, what decides the voxels."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planfile import (
    list_plan_names,
    parse_plan,
    preprocessing_settings,
    read_plan_file,
    write_plan_file,
)

REFERENCE = find_knowledge_folder() / "reference"


def read_reference(name: str = "large_ct") -> dict[str, Any]:
    return json.loads((REFERENCE / name / "plan.json").read_text())


def test_a_plan_is_read_with_its_types() -> None:
    plan = parse_plan(read_reference())
    assert (plan.name, plan.scale, plan.dataset_name) == ("stuBPlans", "B", "Dataset905_LargeCt")
    full = plan.configuration("3d_fullres")
    assert (full.patch_size, full.batch_size, full.num_axes) == ((128, 128, 128), 2, 3)
    assert len(full.strides) == 6
    assert full.data_identifier == "nnUNetPlans_3d_fullres"
    assert full.arch_kwargs["conv_op"] == "3d"
    assert plan.default_configuration == "3d_fullres"


def test_the_cascade_inherits_and_names_its_stages() -> None:
    plan = parse_plan(read_reference())
    cascade = plan.configuration("3d_cascade_fullres")
    assert cascade.patch_size == plan.configuration("3d_fullres").patch_size
    assert cascade.previous_stage == "3d_lowres"
    assert plan.configuration("3d_lowres").next_stage == "3d_cascade_fullres"


def test_a_plan_without_execution_is_read_and_runs_the_batch_at_once() -> None:
    plan = read_plan_file(Path(__file__).parents[2] / "fixtures" / "plan_without_execution.json")
    assert plan.configuration("3d_fullres").execution == Execution(micro_batch=7)
    flat = plan.configuration("2d")
    assert flat.execution == Execution(micro_batch=flat.batch_size, batch_dice_scope="effective batch")


def test_execution_is_part_of_the_view() -> None:
    plan = parse_plan(read_reference("large_ct_huge"))
    assert plan.configuration("3d_lowres").execution == Execution(micro_batch=1)
    full = Execution(micro_batch=2, activation_checkpointing=True, batch_dice_scope="effective batch")
    assert plan.configuration("3d_fullres").execution == full
    assert plan.configuration("3d_cascade_fullres").execution == full
    assert plan.configuration("3d_fullres").batch_size == 2


@pytest.mark.parametrize(
    ("batch", "micro_batch", "scope"), [(8, 2, "effective batch"), (2, 2, "effective batch"), (1, 1, "effective batch")]
)
def test_a_configuration_of_ones_own_runs_as_the_one_it_inherits_from(batch: int, micro_batch: int, scope: str) -> None:
    raw = read_reference("large_ct_huge")
    raw["configurations"]["3d_mine"] = {"inherits_from": "3d_fullres", "batch_size": batch}
    execution = parse_plan(raw).configuration("3d_mine").execution
    assert execution == Execution(micro_batch=micro_batch, activation_checkpointing=True, batch_dice_scope=scope)


@pytest.mark.parametrize(("batch", "scope"), [(8, "micro-batch"), (1, "effective batch")])
def test_a_plan_that_splits_batch_dice_does_so_for_a_configuration_of_ones_own(batch: int, scope: str) -> None:
    raw = read_reference("large_ct_huge")
    raw["stu"]["execution"]["3d_fullres"].update(micro_batch=1, batch_dice_scope="micro-batch")
    raw["configurations"]["3d_mine"] = {"inherits_from": "3d_fullres", "batch_size": batch}
    assert parse_plan(raw).configuration("3d_mine").execution.batch_dice_scope == scope


@pytest.mark.parametrize(
    "change", [{"micro_batch": 0}, {"micro_batch": 3}, {"activation_checkpointing": "yes"}, {"batch_dice_scope": "x"}]
)
def test_an_execution_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    raw = read_reference("large_ct_huge")
    raw["stu"]["execution"]["3d_fullres"].update(change)
    with pytest.raises(ModelError, match="execution of '3d_fullres'"):
        parse_plan(raw)


def test_flat_data_has_2d_as_default() -> None:
    assert parse_plan(read_reference("pictures")).default_configuration == "2d"


def test_written_plans_are_read_back_equal(tmp_path: Path) -> None:
    raw = read_reference()
    path = tmp_path / "stuBPlans.json"
    write_plan_file(path, raw)
    assert read_plan_file(path).raw == raw


def test_a_missing_plan_lists_the_others_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset905_LargeCt"
    write_plan_file(folder / "stuBPlans.json", read_reference())
    (folder / "dataset.json").write_text("{}")
    (folder / "broken.json").write_text("{")
    assert list_plan_names(folder) == ["stuBPlans"]
    with pytest.raises(ModelError, match="no plan for scale L in Dataset905_LargeCt, found: stuBPlans") as caught:
        read_plan_file(folder / "stuLPlans.json")
    assert caught.value.hint == "stu plan Dataset905_LargeCt --scale L"
    assert caught.value.exit_code == 4


def test_no_plan_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no plan 'mine' in "):
        read_plan_file(tmp_path / "nowhere" / "mine.json")


def test_a_plan_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stuBPlans.json"
    path.write_text('{"plans_name": ')
    with pytest.raises(ModelError, match="not valid JSON"):
        read_plan_file(path)


def change(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    raw = read_reference()
    edit(raw)
    return raw


def full_of(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["configurations"]["3d_fullres"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.pop("plans_name"), "lacks 'plans_name'"),
        (lambda raw: raw.update(configurations={}), "no configurations"),
        (lambda raw: raw.update(plans_name="../../evil"), "is not a plan name"),
        (lambda raw: full_of(raw).update(data_identifier="../evil"), "cannot be a file name"),
        (lambda raw: full_of(raw).update(batch_size=0), "not usable"),
        (lambda raw: full_of(raw).update(patch_size=[128, 128]), "different axes"),
        (lambda raw: full_of(raw).pop("spacing"), "lacks 'spacing'"),
        (lambda raw: full_of(raw)["architecture"]["arch_kwargs"]["strides"].pop(), "has 5 strides, STU-Net needs 6"),
        (lambda raw: full_of(raw)["architecture"].update(network_class_name="os.system"), "unknown network class"),
        (
            lambda raw: full_of(raw)["architecture"].update(
                _kw_requires_import=["conv_op"], arch_kwargs={"strides": [[1, 1, 1]] * 6, "conv_op": "os.system"}
            ),
            "only parts of torch.nn are allowed",
        ),
        (lambda raw: raw["stu"].update(scale="XL"), "unknown scale"),
        (lambda raw: raw["stu"].update(schema=99), "newer than this version"),
        (lambda raw: raw["configurations"].update(a={"inherits_from": "a"}), "in a circle"),
        (lambda raw: raw["configurations"].update(a={"inherits_from": "b"}), "lacks 'b'"),
    ],
)
def test_damaged_plans_are_refused(edit: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_plan(change(edit))


def test_an_unknown_configuration_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="no configuration '4d', it has: 2d, "):
        parse_plan(read_reference()).configuration("4d")


def test_a_stock_plan_has_no_scale() -> None:
    raw = change(lambda raw: raw.pop("stu"))
    kwargs = {"strides": [[1, 1, 1]] * 5, "conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None}
    full_of(raw)["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "dropout_op"],
    }
    plan = parse_plan(raw)
    assert plan.scale is None
    assert len(plan.configuration("3d_fullres").strides) == 5


def test_settings_do_not_depend_on_scale_patch_or_batch() -> None:
    raw = read_reference()
    other = copy.deepcopy(raw)
    other["configurations"]["3d_fullres"].update(batch_size=9, patch_size=[64, 64, 64])
    other["stu"]["scale"] = "L"
    assert preprocessing_settings(raw, "3d_fullres") == preprocessing_settings(other, "3d_fullres")
    assert preprocessing_settings(raw, "3d_cascade_fullres") == preprocessing_settings(raw, "3d_fullres")


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: full_of(raw).update(spacing=[2.0, 1.0, 1.0]),
        lambda raw: raw.update(transpose_forward=[2, 0, 1]),
        lambda raw: full_of(raw).update(normalization_schemes=["ZScoreNormalization"]),
        lambda raw: full_of(raw).update(use_mask_for_norm=[True]),
        lambda raw: full_of(raw)["resampling_fn_data_kwargs"].update(order=1),
        lambda raw: raw["foreground_intensity_properties_per_channel"]["0"].update(mean=1.0),
    ],
)
def test_settings_change_with_what_decides_the_voxels(edit: Callable[[dict[str, Any]], object]) -> None:
    assert preprocessing_settings(change(edit), "3d_fullres") != preprocessing_settings(read_reference(), "3d_fullres")


def test_statistics_do_not_matter_to_channels_scored_one_by_one() -> None:
    raw = read_reference("hippocampus_like")
    other = copy.deepcopy(raw)
    other["foreground_intensity_properties_per_channel"]["0"]["mean"] = 1.0
    assert preprocessing_settings(raw, "3d_fullres") == preprocessing_settings(other, "3d_fullres")
