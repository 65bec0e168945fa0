"""Our default split is nnU-Net's, entry by entry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from stu_pipeline.datasets.splits.files import make_splits, write_splits


@pytest.mark.parametrize("count", [5, 6, 11, 200])
def test_the_default_split_equals_nnunets(tmp_path, count):
    names = [f"hippocampus_{index * 7 % 401:03d}" for index in range(count)]
    theirs = generate_crossval_split(list(np.sort(names)), seed=12345, n_splits=5)
    assert make_splits(names) == theirs
    write_splits(tmp_path / "splits_final.json", make_splits(names))
    assert json.loads((tmp_path / "splits_final.json").read_text()) == theirs
