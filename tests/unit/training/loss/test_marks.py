"""The marked outputs of a batch come from the cases of its samples, without a wait."""

import pytest
import torch

from stu_pipeline.datasets.marked_outputs import MarkedOutputs
from stu_pipeline.training.loss.marks import SampleMarks
from tests.device_waits import RefuseWaiting

MARKED = MarkedOutputs(
    sources={"liver": (True, True, False), "spleen": (True, False, True)},
    cases={"case_0": "liver", "case_1": "spleen", "case_2": "liver"},
)


def test_every_sample_has_the_marks_of_its_case():
    marks = SampleMarks(MARKED, torch.device("cpu"))
    with RefuseWaiting():
        found = marks.find(["case_1", "case_0", "case_2", "case_1"])
    assert found.dtype == torch.bool
    assert found.int().tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 1]]


def test_a_case_that_was_never_checked_is_a_bug():
    with pytest.raises(KeyError, match="case_9"):
        SampleMarks(MARKED, torch.device("cpu")).find(["case_9"])
