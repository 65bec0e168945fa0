"""Which scale, and what the user is told about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.scales import Scale
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planning.fit import Demand
from stu_pipeline.planning.memory import BYTES_PER_GIB, read_memory_model
from stu_pipeline.planning.scale_choice import ScaleChoice, choose_scale

STRIDES = ((1, 1, 1), *((2, 2, 2),) * 5)
NINE_GB_GIB = 9e9 / BYTES_PER_GIB
Choose = Callable[..., ScaleChoice]


@pytest.fixture(name="choose")
def make_choose() -> Choose:
    def choose(
        memory_gib: float,
        wanted: Scale | None = None,
        start: PretrainedStart | None = None,
        size: int = 128,
        batch_dice: bool = False,
    ) -> ScaleChoice:
        demand = Demand(
            configuration="3d_fullres",
            patch=(size,) * 3,
            batch=2,
            strides=STRIDES,
            spacing_mm=(1.0,) * 3,
            median_shape=(256.0,) * 3,
            num_channels=1,
            num_classes=3,
            batch_dice=batch_dice,
        )
        return choose_scale(
            read_memory_model(),
            demand,
            wanted=wanted if start is None else start.scale,
            memory_gib=memory_gib,
            start=start,
            rules=read_knowledge("scale_choice.json"),
        )

    return choose


@pytest.mark.parametrize(
    ("memory_gib", "expected"),
    [(8.0, "S"), (NINE_GB_GIB, "B"), (80.0, "B")],
)
def test_auto_follows_the_rule(choose: Choose, memory_gib: float, expected: str) -> None:
    assert choose(memory_gib).scale == expected


def describe_start(scale: Scale) -> PretrainedStart:
    return PretrainedStart(file="weights.model", identity="a", scale=scale, num_axes=3, num_input_channels=1)


@pytest.mark.parametrize("scale", ["S", "B", "L"])
def test_weights_decide_the_scale(choose: Choose, scale: Scale) -> None:
    choice = choose(48.0, start=describe_start(scale))
    assert choice.scale == scale
    assert "is that of the pretrained weights 'weights.model'" in choice.reason
    assert choice.alternatives[0].endswith("(with weights of that scale)")


@pytest.mark.parametrize(
    ("memory_gib", "scale", "usual"),
    [(8.0, "S", None), (11.0, "S", "B"), (24.0, "L", "B"), (27e9 / BYTES_PER_GIB, "B", "L"), (140.0, "L", None)],
)
def test_the_scale_whose_weights_are_usual_is_named_when_these_are_of_another(
    choose: Choose, memory_gib: float, scale: Scale, usual: Scale | None
) -> None:
    lines = choose(memory_gib, start=describe_start(scale)).alternatives
    assert [line.split()[3] for line in lines if "usual start" in line] == ([] if usual is None else [usual])


def test_weights_that_do_not_fit_are_refused_with_weights_that_would(choose: Choose) -> None:
    with pytest.raises(MemoryLimitError, match=r"scale H needs 23\.4 GiB") as caught:
        choose(8.0, start=describe_start("H"))
    assert "weights of scale S" in caught.value.hint and "--scale" not in caught.value.hint


def test_auto_accepts_micro_batches_because_the_step_is_the_same(choose: Choose) -> None:
    choice = choose(11.0, size=160)
    assert choice.scale == "B"
    row = choice.rows[1]
    assert (row.patch, row.batch, row.execution.micro_batch) == ((160, 160, 160), 2, 1)


def test_auto_steps_down_rather_than_shrink_the_patch(choose: Choose) -> None:
    choice = choose(NINE_GB_GIB, size=192)
    assert choice.scale == "S"
    assert "B does not fit 8.4 GiB with nnU-Net's patch" in choice.reason


def test_auto_keeps_a_scale_whose_batch_dice_takes_an_extra_pass(choose: Choose) -> None:
    choice = choose(11.0, size=160, batch_dice=True)
    assert choice.scale == "B"
    execution = choice.rows[1].execution
    assert (execution.micro_batch, execution.batch_dice_scope) == (1, "effective batch")


def test_auto_shrinks_the_smallest_scale_when_nothing_else_is_left(choose: Choose) -> None:
    choice = choose(2.5)
    assert choice.scale == "S"
    assert "instead of 128x128x128" in choice.reason


def test_the_reason_says_how_the_batch_is_made_to_fit(choose: Choose) -> None:
    assert choose(4.0).reason == "scale S (small): B is for 8.4 GiB and more, with micro-batch 1 to fit the memory"


def test_a_wanted_scale_is_made_to_fit_and_explained(choose: Choose) -> None:
    choice = choose(11.0, "L")
    assert choice.scale == "L"
    assert "was asked for, with patch" in choice.reason


def test_there_is_a_row_for_every_scale_and_one_is_chosen(choose: Choose) -> None:
    rows = choose(24.0).rows
    assert [row.scale for row in rows] == ["S", "B", "L", "H"]
    assert [row.scale for row in rows if row.is_chosen] == ["B"]
    assert all(row.why for row in rows)
    assert rows[1].forecast_gib == pytest.approx(8.2, abs=0.05)


def test_what_does_not_fit_is_shown_with_the_full_recipe(choose: Choose) -> None:
    row = choose(8.0).rows[3]
    assert (row.fits, row.patch) == (False, (128, 128, 128))
    assert row.forecast_gib > 50
    assert "23.4 GiB even with patch 32x32x32" in row.why


def test_the_honest_alternative_is_named_without_pretrained_weights_only(choose: Choose) -> None:
    assert any("nnUNetPlannerResEncL" in line for line in choose(24.0).alternatives)
    assert any("nnUNetPlannerResEncM" in line for line in choose(8.0).alternatives)
    assert not any("ResEnc" in line for line in choose(24.0, start=describe_start("B")).alternatives)


def test_other_fitting_scales_are_named(choose: Choose) -> None:
    assert choose(24.0).alternatives[0] == "also fits: scale S, L, H (choose with --scale)"


def test_too_little_memory_says_what_the_smallest_scale_needs(choose: Choose) -> None:
    with pytest.raises(MemoryLimitError, match=r"no scale fits 1\.0 GiB: the smallest, S, needs 1\.9 GiB") as caught:
        choose(1.0)
    assert "--gpu-memory" in caught.value.hint


def test_too_little_memory_for_the_wanted_scale_names_one_that_fits(choose: Choose) -> None:
    with pytest.raises(MemoryLimitError, match=r"scale H needs 23\.4 GiB") as caught:
        choose(8.0, "H")
    assert "--scale S" in caught.value.hint
