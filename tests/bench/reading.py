"""What verified reading costs against one plain read by SimpleITK: `python -m tests.bench.reading`.

Prints per format and kind of file the median of interleaved runs and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter

from stu_pipeline.datasets.reading import read_image, read_label_map
from tests.synthetic import write_volume

SHAPE = (100, 512, 512)
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


def make_volumes(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Make what scanners and annotators make: smooth structures with noise, and a few blobs."""
    generator = np.random.default_rng(0)
    half = gaussian_filter(generator.normal(0, 1, [size // 2 for size in shape]), 4) * 8000
    smooth = half.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    image = (smooth + generator.normal(0, 20, shape)).astype(np.int16)
    return {
        "uint8 label": (smooth > 200).astype(np.uint8) + (smooth > 400),
        "int16 image": image,
        "float32 image": image.astype(np.float32) / 7,
    }


def measure(ours: Callable[[], object], theirs: Callable[[], object], num_runs: int) -> tuple[float, float]:
    """Return the median seconds of both, run in turns so that a busy machine hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_runs + 1):
        for read, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    options = parser.parse_args()
    print(f"{'file':<24}{'MB':>7}{'verified s':>12}{'SimpleITK s':>13}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, array in make_volumes(tuple(options.shape)).items():
            for ending in ENDINGS:
                # One folder per file: nifti_clib reads a.nii when asked for a.nii.gz beside it.
                path = write_volume(Path(folder) / f"{kind}{ending}" / f"a{ending}", array)
                read = read_label_map if "label" in kind else read_image
                ours, theirs = measure(
                    lambda path=path, read=read: read(path),
                    lambda path=path: sitk.GetArrayFromImage(sitk.ReadImage(str(path))),
                    options.runs,
                )
                size = path.stat().st_size / 1e6
                print(f"{kind + ' ' + ending:<24}{size:>7.1f}{ours:>12.3f}{theirs:>13.3f}{ours / theirs:>7.2f}")
                path.unlink()


if __name__ == "__main__":
    main()
