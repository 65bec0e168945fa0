"""Small datasets without any fault, into which the tests put one fault each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.synthetic import write_dataset_json, write_volume

SHAPE = (18, 22, 26)
SPACING_MM = (2.0, 1.0, 1.0)


def make_case(number):
    """Make an image and a label map whose labels have no symmetry; the case number moves and scales them a little."""
    generator = np.random.default_rng(number)
    z, y, x = np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij")
    jitter = generator.uniform(-0.8, 0.8, 6)
    big = ((z - 10 + jitter[0]) / 5) ** 2 + ((y - 9 + jitter[1]) / 6) ** 2 + ((x - 8 + jitter[2]) / 5) ** 2 < 1
    small = ((z - 6 + jitter[3]) / 3) ** 2 + ((y - 15 + jitter[4]) / 4) ** 2 + ((x - 18 + jitter[5]) / 4) ** 2 < 1
    label = np.where(big, 1, np.where(small, 2, 0)).astype(np.uint8)
    # Something beside the labels differs from patient to patient, or every image would be nearly every other.
    bumps = sum(
        np.exp(
            -sum(
                ((axis - centre) / 4) ** 2 for axis, centre in zip((z, y, x), generator.uniform(0, 24, 3), strict=True)
            )
        )
        for _ in range(10)
    )
    image = 100 + 120 * (label == 1) + 220 * (label == 2) + 90 * bumps + generator.normal(0, 8, SHAPE)
    return image.astype(np.float32), label


class Dataset:
    """A dataset folder that tests may spoil."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self, num_cases):
        for number in range(num_cases):
            image, label = make_case(number)
            self.write_image(number, image)
            self.write_label(number, label)
        self.describe(numTraining=num_cases)

    def image(self, number):
        return self.folder / "imagesTr" / f"case_{number:02d}_0000.nii.gz"

    def label(self, number):
        return self.folder / "labelsTr" / f"case_{number:02d}.nii.gz"

    def write_image(self, number, array, **options):
        return write_volume(self.image(number), array, **{"spacing_mm": SPACING_MM, **options})

    def write_label(self, number, array, **options):
        return write_volume(self.label(number), array, **{"spacing_mm": SPACING_MM, **options})

    def describe(self, **changes):
        content = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "big": 1, "small": 2},
            "file_ending": ".nii.gz",
            **changes,
        }
        write_dataset_json(self.folder, **content)


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory):
    """A sound dataset of 10 cases that nobody changes."""
    folder = tmp_path_factory.mktemp("sound") / "Dataset801_Doctor"
    Dataset(folder).fill(10)
    return folder


@pytest.fixture
def dataset(sound_folder, tmp_path):
    """A copy of it to spoil."""
    return Dataset(shutil.copytree(sound_folder, tmp_path / "raw" / sound_folder.name))
