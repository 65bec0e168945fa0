"""Files of weights of real size S with few outputs, made once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.published_files import make_published_plans, write_published_model, write_published_sidecar

NUM_CLASSES = 4
PATCH = (32, 32, 64)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A file in the layout of the released ones, with fewer outputs and a smaller patch; and its state dict."""
    path = tmp_path_factory.mktemp("released") / "small_ep4k.model"
    state = write_published_model(path, num_classes=NUM_CLASSES, momentum=False, sidecar=False)
    stage = make_published_plans(num_classes=NUM_CLASSES)["plans_per_stage"][0] | {"patch_size": np.array(PATCH)}
    write_published_sidecar(path.with_name(f"{path.name}.pkl"), num_classes=NUM_CLASSES, plans_per_stage={0: stage})
    return path, state


@pytest.fixture
def names_file(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('["background", "liver", "spleen", "kidney_left"]')
    return path
