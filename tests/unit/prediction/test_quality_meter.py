"""Features of a prediction, measured slab by slab."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.quality import meter as meter_module
from stu_pipeline.prediction.quality.features import list_scored_labels
from stu_pipeline.prediction.quality.meter import QualityMeter

SHAPE = (7, 6, 9)
FIELDS = ("num_voxels", "volume_ml", "soft_dice", "confidence", "border_confidence", "entropy", "surface")


def make_logits(num_outputs=4, seed=0, shape=SHAPE):
    """Return logits with connected labels: noise, smoothed along every axis."""
    noise = torch.randn((num_outputs, *shape), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool3d(noise[None], 3, stride=1, padding=1)[0] * 12


def measure(logits, decision, *, axis=0, thickness=(99,), members=None):
    meter = QualityMeter(decision, 0.002)
    start, widths = 0, itertools.cycle(thickness)
    while start < logits.shape[1 + axis]:
        count = min(next(widths), logits.shape[1 + axis] - start)
        slab = Slab(start=start, axis=axis, scores=logits.narrow(1 + axis, start, count))
        own = [] if members is None else [m.narrow(m.ndim - 3 + axis, start, count) for m in members]
        meter.add(slab, own)
        start += count
    return meter.finish()


def measure_densely(is_in, probability, entropy):
    """Compute the same numbers from whole arrays, in the plainest way."""
    faces, at_faces = 0, []
    padded = np.pad(is_in, 1, mode="edge")
    inside = tuple(slice(1, -1) for _ in range(3))
    for axis, step in itertools.product(range(3), (-1, 1)):
        other = np.roll(padded, step, axis)[inside]
        touched = is_in & ~other
        faces += touched.sum()
        at_faces += probability[touched].tolist()
    voxels = is_in.sum()
    return {
        "num_voxels": voxels,
        "volume_ml": voxels * 0.002,
        "soft_dice": 2 * probability[is_in].sum() / (voxels + probability.sum()),
        "confidence": probability[is_in].mean(),
        "border_confidence": np.mean(at_faces),
        "entropy": entropy[is_in].mean(),
        "surface": faces / voxels ** (2 / 3),
    }


def test_features_of_labels_are_those_of_the_whole_volume():
    logits = make_logits()
    scores = logits.double().numpy()
    probabilities, logs = softmax(scores, axis=0), log_softmax(scores, axis=0)
    entropy, labels = -(probabilities * logs).sum(axis=0), scores.argmax(axis=0)
    found = measure(logits, Decision(num_outputs=4))
    assert set(found) == {1, 2, 3}
    for channel, features in found.items():
        expected = measure_densely(labels == channel, probabilities[channel], entropy)
        assert expected["num_voxels"] > 20
        for name in FIELDS:
            assert getattr(features, name) == pytest.approx(expected[name], rel=1e-5), (channel, name)
        assert features.agreement is None


def test_features_of_regions_are_those_of_the_whole_volume():
    logits = make_logits(num_outputs=3, seed=1)
    probabilities = expit(logits.double().numpy())
    entropy = -(probabilities * np.log(probabilities) + (1 - probabilities) * np.log1p(-probabilities))
    found = measure(logits, Decision(num_outputs=3, region_values=(1, 2, 3)))
    assert set(found) == {0, 1, 2}
    for channel, features in found.items():
        expected = measure_densely(probabilities[channel] > 0.5, probabilities[channel], entropy[channel])
        for name in FIELDS:
            assert getattr(features, name) == pytest.approx(expected[name], rel=1e-4), (channel, name)


@pytest.mark.parametrize("regions", [None, (1, 2, 3, 4)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_how_the_slabs_are_cut_changes_nothing(axis, regions, monkeypatch):
    logits, decision = make_logits(seed=2), Decision(num_outputs=4, region_values=regions)
    whole = measure(logits, decision)
    # A few values at a time: chunks within a slab, too.
    monkeypatch.setattr(meter_module, "_CHUNK_VALUES", 4 * 2 * 63)
    parts = measure(logits, decision, axis=axis, thickness=(3, 1, 2))
    for channel, features in whole.items():
        for name in FIELDS:
            assert getattr(parts[channel], name) == pytest.approx(getattr(features, name), rel=1e-6), name


def test_slabs_may_be_overwritten_afterwards():
    logits, decision = make_logits(seed=3), Decision(num_outputs=4)
    meter, buffer = QualityMeter(decision, 0.002), torch.empty(4, 1, *SHAPE[1:])
    for plane in range(SHAPE[0]):
        buffer.copy_(logits[:, plane : plane + 1])
        meter.add(Slab(start=plane, axis=0, scores=buffer))
        assert torch.equal(buffer, logits[:, plane : plane + 1])  # and are not changed by the meter
        buffer.zero_()
    assert meter.finish()[2].surface == pytest.approx(measure(logits, decision)[2].surface)


def test_a_label_that_the_mask_does_not_have_is_zero_everywhere():
    logits = make_logits()
    logits[3] = -100
    features = measure(logits, Decision(num_outputs=4))[3]
    assert [getattr(features, name) for name in FIELDS] == [0] * len(FIELDS)


def test_a_label_that_fills_the_grid_has_no_border():
    logits = torch.zeros(2, 3, 3, 3)
    logits[1] = 50
    features = measure(logits, Decision(num_outputs=2))[1]
    assert (features.surface, features.border_confidence, features.soft_dice) == (0, 1, pytest.approx(1))


def test_a_sure_mask_has_a_soft_dice_of_one_and_an_unsure_one_less():
    logits = torch.zeros(2, 8, 8, 8)
    logits[1] = -1
    logits[1, 2:6, 2:6, 2:6] = 1
    sure, unsure = (measure(logits * scale, Decision(num_outputs=2))[1] for scale in (20, 1))
    assert sure.soft_dice == pytest.approx(1, abs=1e-4) and sure.entropy < 1e-4
    assert unsure.soft_dice < 0.7 and unsure.border_confidence < sure.border_confidence
    assert sure.surface == unsure.surface == pytest.approx(6 * 16 / 64 ** (2 / 3))


def test_agreement_is_the_mean_dice_of_pairs_of_members():
    labels = [make_logits(seed=seed).argmax(dim=0) for seed in (4, 5, 6)]
    found = measure(make_logits(), Decision(num_outputs=4), axis=2, thickness=(2,), members=labels)
    for channel, features in found.items():
        masks = [(member == channel).numpy() for member in labels]
        pairs = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in itertools.combinations(masks, 2)]
        assert features.agreement == pytest.approx(np.mean(pairs))


def test_agreement_of_regions():
    decision = Decision(num_outputs=2, region_values=(1, 2))
    members = [make_logits(num_outputs=2, seed=seed) > 0 for seed in (7, 8)]
    found = measure(make_logits(num_outputs=2), decision, members=members)
    for channel in (0, 1):
        a, b = (member[channel].numpy() for member in members)
        assert found[channel].agreement == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_scored_labels_are_channels_with_the_keys_of_the_summary(tmp_path):
    def read(labels, **fields):
        content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
        return list_scored_labels(parse_dataset_json(content | fields, tmp_path / "dataset.json"))

    plain = read({"background": 0, "spleen": 2, "liver": 1, "ignore": 3})
    assert [(item.channel, item.key, item.name) for item in plain] == [(1, (1,), "liver"), (2, (2,), "spleen")]
    regions = read({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    assert [(item.channel, item.key, item.name) for item in regions] == [(0, (1, 2), "whole"), (1, (2,), "core")]
