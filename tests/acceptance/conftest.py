"""What the blocks about trainings share: one tiny dataset, its warm process, and a training that nothing disturbed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.training_runs import Outcome, TinyDataset, Training, open_tiny_dataset, read_outcome


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyDataset]:
    """Read-only: a test that changes it takes a copy."""
    with open_tiny_dataset(tmp_path_factory.mktemp("training")) as dataset:
        yield dataset


@pytest.fixture(scope="session")
def undisturbed(tiny: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A finished training of fold 0. Read-only."""
    training = Training(tiny, tmp_path_factory.mktemp("undisturbed"))
    training.finish()
    training.require_clean()
    return training


@pytest.fixture(scope="session")
def reference(undisturbed: Training) -> Outcome:
    return read_outcome(undisturbed)
