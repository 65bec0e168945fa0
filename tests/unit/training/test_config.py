import pytest

from stu_pipeline import TrainConfig
from stu_pipeline.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"fold": -1},
        {"fold": "every"},
        {"num_epochs": 0},
        {"num_iterations": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"precision": "int8"},
        {"device": "tpu"},
        {"resume": "maybe"},
    ],
)
def test_senseless_values_are_refused(wrong):
    with pytest.raises(UsageError):
        TrainConfig(dataset="4", **wrong)


def test_fold_all_is_accepted():
    assert TrainConfig(dataset="4", fold="all").fold == "all"
