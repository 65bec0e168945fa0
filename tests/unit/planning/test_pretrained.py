"""Planning for weights: what a plan takes from their training, and what it warns of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planning.carried_normalisation import (
    carry_normalisation,
    explain_normalisation,
    warn_of_normalisation,
)
from stu_pipeline.planning.document import is_same_plan, is_same_recipe
from stu_pipeline.planning.fit import Demand, Fit, measure_demand
from stu_pipeline.planning.memory import read_memory_model
from stu_pipeline.planning.pretrained import accept_strides, describe_weights, list_warnings, recall_start
from stu_pipeline.planning.topology import choose_strides
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile

ZSCORE, CT = "ZScoreNormalization", "CTNormalization"
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))
START = PretrainedStart(
    file="base.model",
    identity="a",
    scale="B",
    num_axes=3,
    num_input_channels=1,
    strides=STRIDES,
    spacing_mm=(1.5, 1.5, 1.5),
    normalization_schemes=(ZSCORE,),
    use_mask_for_norm=(False,),
    source="side-car 'base.model.pkl'",
)


def make_draft(*schemes: str, mask: bool = False) -> dict[str, Any]:
    configuration = {"normalization_schemes": list(schemes), "use_mask_for_norm": [mask] * len(schemes)}
    return {"configurations": {"3d_fullres": configuration, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}}}


def carry(start: PretrainedStart, *schemes: str, mask: bool = False) -> tuple[list[str], list[bool]]:
    draft = make_draft(*schemes, mask=mask)
    full = carry_normalisation(draft, start)["configurations"]["3d_fullres"]
    assert draft == make_draft(*schemes, mask=mask)
    return full["normalization_schemes"], full["use_mask_for_norm"]


def make_fit(
    spacing_mm: tuple[float, ...] = (1.5, 1.5, 1.5), strides: tuple[tuple[int, ...], ...] | None = None
) -> Fit:
    patch = (64,) * len(spacing_mm)
    demand = Demand(
        configuration=f"{len(patch)}d",
        patch=patch,
        batch=2,
        strides=strides or choose_strides(spacing_mm, patch),
        spacing_mm=spacing_mm,
        median_shape=(64.0,) * len(patch),
        num_channels=1,
        num_classes=2,
    )
    return measure_demand(read_memory_model(), demand, "B")


def warn(start: PretrainedStart, fit: Fit, *, num_channels: int = 1, wanted: tuple[str, ...] = ()) -> list[str]:
    fits = {"3d_fullres": fit, "2d": make_fit((1.5, 1.5))} if len(fit.patch) == 3 else {"2d": fit}
    plan = {"configurations": {name: make_draft(ZSCORE)["configurations"]["3d_fullres"] for name in fits}}
    return list_warnings(start, plan, fits, main=next(iter(fits)), wanted=wanted, num_channels=num_channels)


def test_weights_are_described_without_their_tensors() -> None:
    weights = WeightFile(
        path=Path("somewhere") / "base.model",
        form="published",
        identity="a",
        network=RecognisedNetwork("B", 1, 105),
        tensors={"stem": torch.empty(32, 1, 3, 3, 3, device="meta")},
        facts=WeightFacts(
            strides=STRIDES,
            spacing_mm=(1.5, 1.5, 1.5),
            normalization_schemes=(ZSCORE,),
            use_mask_for_norm=(False,),
            source="side-car 'base.model.pkl'",
        ),
    )
    assert describe_weights(weights) == START
    assert describe_weights(weights, takes_geometry=True).takes_geometry


def test_z_scores_of_the_weights_replace_the_ct_scheme() -> None:
    assert carry(START, CT) == ([ZSCORE], [False])
    before, after = (make_draft(scheme)["configurations"]["3d_fullres"] for scheme in (CT, ZSCORE))
    assert explain_normalisation(before, after, START) == [
        "normalisation: ZScore, as the weights 'base.model' were trained, instead of CT"
    ]
    assert explain_normalisation(after, after, START) == ["normalisation: ZScore, nnU-Net's and the pre-training's"]


def test_the_mask_is_carried_too_and_an_unknown_one_stays_the_datasets() -> None:
    assert carry(START, ZSCORE, mask=True) == ([ZSCORE], [False])
    assert carry(replace(START, use_mask_for_norm=None), ZSCORE, mask=True) == ([ZSCORE], [True])


def test_one_scheme_serves_all_channels_and_several_serve_as_many() -> None:
    assert carry(START, CT, CT, "RGBTo01Normalization") == ([ZSCORE] * 3, [False] * 3)
    two = replace(START, normalization_schemes=(ZSCORE, "NoNormalization"), use_mask_for_norm=(True, False))
    assert carry(two, CT, CT) == ([ZSCORE, "NoNormalization"], [True, False])
    assert carry(two, CT, CT, CT) == ([CT] * 3, [False] * 3)


@pytest.mark.parametrize(
    ("start", "scheme", "expected"),
    [
        (replace(START, normalization_schemes=None), CT, "not known (side-car 'base.model.pkl')"),
        (replace(START, any_normalisation=True), CT, "keeps CT as asked for"),
        (
            replace(START, normalization_schemes=(CT,)),
            ZSCORE,
            "CT, which cannot be carried over; the plan keeps ZScore",
        ),
        (replace(START, normalization_schemes=(CT,)), CT, ""),
        (START, CT, ""),
    ],
    ids=["unknown", "kept", "needs statistics", "the same", "carried"],
)
def test_a_normalisation_that_the_weights_did_not_see_is_told(
    start: PretrainedStart, scheme: str, expected: str
) -> None:
    text = warn_of_normalisation(start, make_draft(scheme)["configurations"]["3d_fullres"])
    assert expected in text and bool(text) == bool(expected)
    assert carry(start, scheme)[0] == ([ZSCORE] if start == START else [scheme])


def test_weights_that_match_are_not_warned_of() -> None:
    assert warn(START, make_fit(strides=STRIDES)) == []


@pytest.mark.parametrize(
    ("spacing_mm", "is_far"),
    [
        ((3.0, 1.5, 0.75), False),
        ((3.1, 1.5, 1.5), True),
        ((1.5, 1.5, 0.7), True),
        ((0.7, 0.7), True),
        ((1.0, 2.0), False),
    ],
)
def test_a_spacing_beyond_twice_or_half_is_told_axis_by_axis(spacing_mm: tuple[float, ...], is_far: bool) -> None:
    start = replace(START, strides=None, source="s")
    texts = [text for text in warn(start, make_fit(spacing_mm)) if "unlikely to help" in text]
    assert len(texts) == is_far
    if is_far:
        assert " x ".join(f"{step / 1.5:.2g}" for step in spacing_mm) in texts[0]


def test_other_and_unknown_strides_are_told() -> None:
    assert ["2x2x2 1x1x1" in text and "1x1x2: usual" in text for text in warn(START, make_fit())] == [True]
    unknown = warn(replace(START, strides=None), make_fit())
    assert ["strides of the pre-training are not known" in text for text in unknown] == [True]


def test_other_channels_and_other_axes_are_told() -> None:
    fit = make_fit(strides=STRIDES)
    assert ["1 input channel, this dataset has 4" in text for text in warn(START, fit, num_channels=4)] == [True]
    assert ["summed along their first axis" in text for text in warn(START, fit, wanted=("2d",))] == [True]
    assert any("summed along" in text for text in warn(START, make_fit((1.5, 1.5))))
    flat = replace(START, num_axes=2, strides=None, spacing_mm=None)
    assert any("no 3D configuration can start" in text for text in warn(flat, fit))


def test_a_plan_with_other_strides_says_that_it_accepts_them() -> None:
    same, other, flat = make_fit(strides=STRIDES), make_fit(), make_fit((1.5, 1.5))
    assert not accept_strides(START, [same, flat]).accepts_other_strides
    assert accept_strides(START, [same, other]).accepts_other_strides
    assert accept_strides(replace(START, strides=None), [same]).accepts_other_strides


def test_named_weights_win_and_an_existing_plan_remembers_its_own() -> None:
    story = {"scale": "B", "pretrained": START.to_json()}
    assert recall_start(None, story, None) == START
    assert recall_start(None, {}, "S") is None
    named = replace(START, identity="b")
    assert recall_start(named, story, None) == named


def test_weights_and_plan_of_two_scales_are_refused() -> None:
    with pytest.raises(ModelError, match=r"is of scale L, weights 'base\.model' are of scale B"):
        recall_start(START, {"scale": "L"}, None)
    with pytest.raises(ModelError, match=r"is for weights 'base\.model' of scale B, not S"):
        recall_start(None, {"scale": "B", "pretrained": START.to_json()}, "S")
    with pytest.raises(ModelError, match="cannot be continued"):
        recall_start(None, {"scale": "B", "pretrained": {"scale": "B"}}, None)


def test_other_weights_make_another_recipe_and_another_file_name_does_not() -> None:
    def plan(start: PretrainedStart | None) -> dict[str, Any]:
        block = {} if start is None else {"pretrained": start.to_json()}
        return {"configurations": {}, "stu": {"scale": "B", **block}}

    assert is_same_plan(plan(START), plan(replace(START, file="moved.model")))
    assert not is_same_recipe(plan(START), plan(replace(START, identity="b")))
    assert not is_same_recipe(plan(START), plan(None))
    assert is_same_recipe(plan(None), plan(None))
    assert not is_same_recipe(plan(START), {"configurations": {}, "stu": {"scale": "B", "pretrained": {"scale": 3}}})
