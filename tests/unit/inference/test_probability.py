import numpy as np
import pytest
import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.probability import MaskPainter, to_probabilities
from stu_pipeline.inference.resampled_slabs import resample_slabs
from stu_pipeline.inference.slabs import Slab
from tests.dense_export import cut_slabs, decide, make_grid, place

LABELS, REGIONS = Decision(num_outputs=4), Decision(num_outputs=3, region_values=(2, 1, 7))


def make_scores(decision, shape):
    return np.random.default_rng(0).normal(size=(decision.num_outputs, *shape)).astype(np.float32)


def test_softmax_adds_up_to_one_and_sigmoid_does_not():
    slab = Slab(start=3, axis=1, scores=torch.tensor([1.0, 3.0, 0.0, 2.0]).view(4, 1, 1, 1).half())
    labels = to_probabilities(slab, LABELS)
    assert (labels.start, labels.axis, labels.scores.dtype) == (3, 1, torch.float32)
    assert labels.scores.sum() == pytest.approx(1)
    assert labels.scores.argmax() == 1
    regions = to_probabilities(Slab(start=0, axis=0, scores=torch.zeros(3, 1, 1, 1)), REGIONS)
    assert regions.scores.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_are_painted_on_the_images_grid(decision, axis):
    grid = make_grid((5, 6, 7), (5, 6, 7), margin=((1, 2), (0, 3), (2, 0)), backward=(2, 0, 1))
    probabilities = 1 / (1 + np.exp(-make_scores(decision, (5, 6, 7))))
    painter = MaskPainter(grid, decision, axis)
    for slab in cut_slabs(probabilities, axis, [2, 1]):
        painter.add(slab)
    assert np.array_equal(painter.finish(), place(decide(probabilities, decision, 0.5), grid))


@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
def test_one_model_painted_from_probabilities_has_the_mask_of_its_logits(decision):
    grid, scores = make_grid((6, 7, 8), (14, 12, 11)), make_scores(decision, (6, 7, 8))
    painter, exporter = MaskPainter(grid, decision, 2), MaskExporter(grid, decision, axis=2, device=torch.device("cpu"))
    for slab in resample_slabs(cut_slabs(scores, 2, 3), grid, axis=2):
        painter.add(to_probabilities(slab, decision))
    for slab in cut_slabs(scores, 2, 3):
        exporter.add(slab)
    # Softmax rounds: two labels that are all but equal may tie.
    assert np.mean(painter.finish() != exporter.finish()) < 0.001


def test_a_tie_of_probabilities_goes_to_the_lower_label_and_a_half_is_no_region():
    grid, half = make_grid((1, 1, 1), (1, 1, 1)), torch.full((4, 1, 1, 1), 0.5)
    for decision in (LABELS, REGIONS):
        painter = MaskPainter(grid, decision, 0)
        painter.add(Slab(start=0, axis=0, scores=half[: decision.num_outputs]))
        assert painter.finish().tolist() == [[[0]]]


def test_a_probability_that_is_not_a_number_is_an_error():
    painter = MaskPainter(make_grid((1, 1, 1), (1, 1, 1)), LABELS, 0)
    with pytest.raises(NonFiniteError, match="NaN"):
        painter.add(Slab(start=0, axis=0, scores=torch.full((4, 1, 1, 1), torch.nan)))
