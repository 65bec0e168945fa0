"""Passes that are saved on sure tiles, what an audit says of it, and networks of several levels."""

import pytest
import torch

from stu_pipeline.inference.certainty import count_changed, is_audited, is_unsure, measure_margins, read_labels
from stu_pipeline.inference.stages import plan_stages
from stu_pipeline.inference.window_settings import CertaintySettings, WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics
from tests.unit.inference.dense_window import predict_densely
from tests.unit.inference.window_networks import build_window_network, make_image, slide_all

ALWAYS_UNSURE = CertaintySettings(margin=1.0, audit_share=0.0)
NEVER_UNSURE = CertaintySettings(share=1.0, audit_share=0.0)
ALL_AUDITED = CertaintySettings(share=1.0, audit_share=1.0)
IMAGE = make_image((11, 8, 14))


def _settings(**changes):
    return WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3, axis=2, max_tiles=4, **changes)


def _networks():
    """Three networks with eight, eight and two copies; the last one is of a higher level."""
    return [
        build_window_network(mirror_axes=(0, 1, 2), seed=0, weight=2.0),
        build_window_network(mirror_axes=(0, 1, 2), seed=1),
        build_window_network(mirror_axes=(1,), seed=2, level=1),
    ]


@pytest.mark.parametrize("modes", [{"tta": "auto"}, {"effort": "elastic"}, {"tta": "auto", "effort": "elastic"}])
@pytest.mark.parametrize("rule", [ALWAYS_UNSURE, ALL_AUDITED], ids=["unsure", "audited"])
def test_where_every_tile_gets_all_passes_the_result_is_the_full_one(modes, rule):
    statistics = WindowStatistics()
    found = slide_all(_networks(), IMAGE, _settings(certainty=rule, **modes), statistics=statistics)
    full = predict_densely(_networks(), IMAGE, _settings())
    torch.testing.assert_close(found, full, rtol=1e-5, atol=1e-5)
    assert statistics.passes_run == statistics.passes_full == statistics.tiles * 18
    assert statistics.tiles_skipped == 0
    assert statistics.tiles_audited == (statistics.tiles if rule is ALL_AUDITED else 0)


def _with_plain_copies(networks):
    return [WindowNetwork(run=network.run, weight=network.weight) for network in networks]


def test_sure_tiles_keep_the_plain_copies():
    statistics = WindowStatistics()
    found = slide_all(_networks(), IMAGE, _settings(tta="auto", certainty=NEVER_UNSURE), statistics=statistics)
    plain = predict_densely(_with_plain_copies(_networks()), IMAGE, _settings())
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    assert statistics.tiles_skipped == statistics.tiles
    assert statistics.passes_share == pytest.approx(3 / 18)
    assert statistics.tiles_by_stage == {"plain copies": statistics.tiles, "mirrored copies": 0}


def test_sure_tiles_keep_the_networks_of_the_lowest_level():
    statistics = WindowStatistics()
    found = slide_all(_networks(), IMAGE, _settings(effort="elastic", certainty=NEVER_UNSURE), statistics=statistics)
    torch.testing.assert_close(found, predict_densely(_networks()[:2], IMAGE, _settings()), rtol=1e-5, atol=1e-5)
    assert statistics.passes_share == pytest.approx(16 / 18)
    assert statistics.tiles_by_stage == {"all passes of level 0": statistics.tiles, "all passes of level 1": 0}


def test_levels_are_nothing_special_without_elastic_effort():
    found = slide_all(_networks(), IMAGE, _settings(certainty=NEVER_UNSURE))
    torch.testing.assert_close(found, predict_densely(_networks(), IMAGE, _settings()), rtol=1e-5, atol=1e-5)


def test_only_the_unsure_side_of_an_image_gets_all_copies():
    """Logits are the image: far from a tie on the left, close to it on the right."""
    image = torch.full((1, 4, 4, 32), 9.0)
    image[..., 20:] = 0.1
    calls = []

    def run(x):
        calls.append((len(x), bool((x < 1).any())))
        return torch.cat([x, -x], dim=1)

    network = build_window_network(run=run, mirror_axes=(0, 1))
    settings = WindowSettings(
        patch_voxels=(4, 4, 4),
        num_outputs=2,
        axis=2,
        tta="auto",
        max_tiles=3,
        certainty=CertaintySettings(audit_share=0.0),
    )
    statistics = WindowStatistics()
    slide_all([network], image, settings, statistics=statistics)
    # Fifteen tiles start at 0, 2, ..., 28; those from 18 on see the right side.
    assert statistics.tiles == 15
    assert statistics.tiles_skipped == 9
    assert statistics.passes_run == sum(size for size, _ in calls) == 15 + 6 * 3
    assert statistics.passes_full == 60


def test_unsure_tiles_between_sure_ones_get_their_own_copies():
    values = [0.1, 9.0, 9.0, 0.2, 9.0, 0.3]
    image = torch.tensor(values).repeat_interleave(4).expand(1, 4, 4, 24).contiguous()

    def run(x):
        first = x + torch.arange(4.0) / 100
        return torch.cat([first, -x], dim=1)

    settings = WindowSettings(
        patch_voxels=(4, 4, 4),
        num_outputs=2,
        step=1.0,
        tta="auto",
        max_tiles=8,
        certainty=CertaintySettings(audit_share=0.0),
    )
    found = slide_all([build_window_network(run=run, mirror_axes=(2,))], image, settings)
    ramps = [[0.015] * 4 if value < 1 else [0, 0.01, 0.02, 0.03] for value in values]
    torch.testing.assert_close(found[0], image[0] + torch.tensor(ramps).flatten())
    torch.testing.assert_close(found[1], -image[0])


def test_an_audit_counts_the_voxels_that_all_copies_change():
    """Mirrored copies see the ramp from the other side and outvote the plain copy on a quarter of it."""

    def run(x):
        place = torch.arange(8.0).view(1, 1, 1, 1, 8) - 1.75
        first = place + 0 * x
        return torch.cat([first, torch.zeros_like(first)], dim=1)

    network = build_window_network(run=run, mirror_axes=(2,))
    settings = WindowSettings(patch_voxels=(4, 4, 8), num_outputs=2, tta="auto", certainty=ALL_AUDITED)
    statistics = WindowStatistics()
    slide_all([network], torch.zeros(1, 4, 4, 8), settings, statistics=statistics)
    # The plain copy says label 0 from the third voxel on; the mean is 1.75 everywhere.
    assert statistics.tiles_audited == statistics.tiles_changed == 1
    assert statistics.changed_share == pytest.approx(2 / 8)
    assert statistics.changed_share_bound > 2 / 8


def test_audits_are_drawn_the_same_way_again_and_as_often_as_asked():
    rule = CertaintySettings(audit_share=0.05)
    drawn = [is_audited(tile, rule) for tile in range(20_000)]
    assert drawn == [is_audited(tile, rule) for tile in range(20_000)]
    assert 0.045 < sum(drawn) / len(drawn) < 0.055
    other = [is_audited(tile, CertaintySettings(audit_share=0.05, seed=1)) for tile in range(20_000)]
    assert sum(a and b for a, b in zip(drawn, other, strict=True)) < 100


@pytest.mark.parametrize("num_outputs", [2, 3, 7])
def test_the_margin_is_the_distance_of_the_two_highest_probabilities(num_outputs):
    logits = 3 * torch.randn(num_outputs, 4, 5, 6)
    highest = torch.softmax(logits, 0).sort(0, descending=True).values
    torch.testing.assert_close(measure_margins(logits, has_regions=False), highest[0] - highest[1])


def test_the_margin_of_regions_is_that_of_the_least_decided_one():
    logits = 3 * torch.randn(3, 4, 5, 6)
    expected = (torch.sigmoid(logits) - 0.5).abs().mul(2).amin(0)
    torch.testing.assert_close(measure_margins(logits, has_regions=True), expected)


def test_a_single_output_is_always_sure():
    assert not is_unsure(torch.zeros(1, 2, 2, 2), CertaintySettings(), has_regions=False)


def test_at_a_margin_of_one_even_a_certain_voxel_is_unsure():
    certain = torch.tensor([200.0, 0.0]).view(2, 1, 1, 1)
    assert measure_margins(certain, has_regions=False).item() == 1.0
    assert is_unsure(certain, CertaintySettings(margin=1.0), has_regions=False)
    assert not is_unsure(certain, CertaintySettings(margin=0.999), has_regions=False)


def test_a_small_share_of_unsure_voxels_can_be_allowed():
    logits = torch.zeros(2, 1, 1, 100)
    logits[0, ..., 3:] = 20
    assert is_unsure(logits, CertaintySettings(share=0.02), has_regions=False)
    assert not is_unsure(logits, CertaintySettings(share=0.03), has_regions=False)


def test_a_voxel_that_changes_in_two_regions_counts_once():
    before = read_labels(torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0]]), has_regions=True)
    after = read_labels(torch.tensor([[-1.0, 1.0, -1.0], [-1.0, 1.0, 0.5]]), has_regions=True)
    assert count_changed(before, after, has_regions=True) == 1


def test_networks_of_one_level_and_no_mirroring_are_one_stage():
    plan = plan_stages([build_window_network(level=2)], "auto", "elastic")
    assert [stage.name for stage in plan.stages] == ["plain copies"]
    assert plan.num_passes == 1
