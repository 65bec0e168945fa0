"""What holds for every test: nothing outside the test's own folders is found."""

import os

import pytest

# Before anything imports torch: threads that spin while they wait make a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
_WORKSPACE_VARIABLES = ("STU_WORKSPACE", "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(scope="session", autouse=True)
def _no_workspace_of_the_user():
    """Hide the datasets and models of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _WORKSPACE_VARIABLES:
            patch.delenv(name, raising=False)
        yield
