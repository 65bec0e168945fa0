"""What each augmentation costs against nnU-Net's own on the CPU: `python -m tests.bench.augmentation`.

Prints medians of interleaved runs on one channel of one patch; of everything together, means over samples as drawn.
Measured is the processor time of one thread: what else runs on the machine disturbs it least.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.nnunet import random_binary_operator
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.ndimage import gaussian_filter

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.cascade import morph_label
from stu_pipeline.training.augmentation.cascade_draws import Morphing
from stu_pipeline.training.augmentation.components import remove_components
from stu_pipeline.training.augmentation.draws import draw_affine
from stu_pipeline.training.augmentation.intensity import apply_intensity, transform_intensity
from stu_pipeline.training.augmentation.intensity_draws import IntensityDraws
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.augmentation.spatial import transform_sample
from stu_pipeline.training.sampling.sample import SampleKey

ROTATION_RAD = (-0.523, 0.523)
INITIAL_OVER_PATCH = 1.6  # what nnU-Net reads for a cube
KEY = SampleKey(seed=0, phase="train", step=0, slot=0)
Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="edge of the patch in voxels")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--samples", type=int, default=100, help="samples of the last row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    patch = (options.size,) * 3
    print(f"torch {torch.__version__}, one thread, {'x'.join(map(str, patch))}, CPU milliseconds")
    print(f"{'transform':<34}{'ours':>9}{'nnU-Net':>9}{'ratio':>8}")
    for name, ours, stock in itertools.chain(list_intensity(patch), list_cascade(patch)):
        report(name, *measure(ours, stock, options.runs))
    for num_labels in (3, 40):
        ours, stock = make_spatial(patch, num_labels)
        # The label-by-label sampling of nnU-Net takes seconds.
        report(f"rotation and scaling, {num_labels} labels", *measure(ours, stock, max(1, options.runs // 3)))
    report("all intensity, mean per sample", *measure_pipeline(patch, options.samples))


def report(name: str, ours: float, stock: float) -> None:
    """Print one row of seconds as milliseconds."""
    print(f"{name:<34}{ours * 1e3:>9.2f}{stock * 1e3:>9.2f}{stock / ours:>7.1f}x", flush=True)


def measure(ours: Run, stock: Run, num_runs: int) -> tuple[float, float]:
    """Return the median processor seconds of both, run in turns so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_runs + 1):
        for run, seconds in zip((ours, stock), times, strict=True):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def list_stock(patch: Sequence[int]) -> list[BasicTransform]:
    """Return nnU-Net's seven intensity transforms, each with its probability around it."""
    pipeline = nnUNetTrainer.get_training_transforms(patch, ROTATION_RAD, None, None, False)
    return [transform for transform in pipeline.transforms if type(transform).__name__ == "RandomTransform"]


def list_intensity(patch: tuple[int, ...]) -> list[tuple[str, Run, Run]]:
    """Pair each intensity transform with nnU-Net's, both with the same parameters and both firing."""
    image = torch.randn(1, *patch)
    channel, yes, no = torch.tensor([0]), torch.tensor([True]), torch.tensor([False])
    factor = {"apply_to_channel": channel, "multipliers": torch.tensor([1.2])}
    gamma = {"apply_to_channel": channel, "retain_stats": yes, "gamma": torch.tensor([1.3])}
    noise = {"apply_mask": yes, "apply_idx": channel, "num_apply": 1, "sigmas": 0.05}
    blur, scales = (0.6, 0.8, 0.95), torch.full((1, 3), 0.7)
    rows = [
        ("noise", IntensityDraws(noise_std=0.05), noise),
        ("blur", IntensityDraws(blur={0: blur}), {"apply_to_channel": yes, "sigmas": [blur]}),
        ("brightness", IntensityDraws(brightness={0: 1.2}), factor),
        ("contrast", IntensityDraws(contrast={0: 1.2}), factor),
        ("low resolution", IntensityDraws(low_resolution={0: 0.7}), {"apply_to_channel": [0], "scales": scales}),
        ("inverse gamma", IntensityDraws(inverse_gamma={0: 1.3}), {**gamma, "invert_image": yes}),
        ("gamma", IntensityDraws(gamma={0: 1.3}), {**gamma, "invert_image": no}),
    ]
    return [
        (name, run_draws(image.clone(), draws), run_stock(random.transform, image.clone(), parameters))
        for (name, draws, parameters), random in zip(rows, list_stock(patch), strict=True)
    ]


def run_draws(image: torch.Tensor, draws: IntensityDraws) -> Run:
    return lambda: transform_intensity(image, draws, key=KEY, is_dummy_2d=False)


def run_stock(transform: BasicTransform, image: torch.Tensor, parameters: dict[str, object]) -> Run:
    return lambda: transform._apply_to_image(image, **parameters)


def list_cascade(patch: tuple[int, ...]) -> list[tuple[str, Run, Run]]:
    """Pair the damage to a previous prediction of three labels with nnU-Net's."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=patch), 5)
    levels = np.digitize(noise, np.quantile(noise, (0.7, 0.85, 0.95)))
    one_hot = torch.from_numpy(np.stack([levels == i for i in (1, 2, 3)])).float()
    pipeline = nnUNetTrainer.get_training_transforms(
        patch, ROTATION_RAD, None, None, False, is_cascaded=True, foreground_labels=(1, 2, 3)
    )
    morphology, removal = (random.transform for random in pipeline.transforms[-2:])
    rows = []
    for radius in (1.0, 4.5, 7.9):
        morphing = Morphing(channel=0, operator="open", radius=radius)
        stock = {"operators": [random_binary_operator.binary_opening_torch], "strel_size": [radius]}
        rows.append((
            f"opening of a label, radius {radius}",
            lambda morphing=morphing: morph_label(one_hot.clone(), morphing),
            lambda stock=stock: morphology._apply_to_image(one_hot.clone(), apply_to_channels=[-3], **stock),
        ))  # fmt: skip
    rows.append((
        "removal of a component",
        lambda: remove_components([one_hot.clone()[2]], [0.5]),
        lambda: removal._apply_to_image(one_hot.clone(), apply_to_channels=[-1]),
    ))  # fmt: skip
    return rows


def make_settings(patch: tuple[int, ...]) -> AugmentationSettings:
    return AugmentationSettings(
        patch=patch,
        initial_patch=tuple(round(size * INITIAL_OVER_PATCH) for size in patch),
        rotation_rad=ROTATION_RAD,
        is_dummy_2d=False,
        mirroring=Mirroring(axes=()),
    )


def make_spatial(patch: tuple[int, ...], num_labels: int) -> tuple[Run, Run]:
    """Rotate and scale a patch and its labels, ours and nnU-Net's, both from nnU-Net's larger crop."""
    settings = make_settings(patch)
    image = torch.randn(1, *settings.initial_patch)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=settings.initial_patch), 6)
    bounds = np.quantile(noise, np.linspace(0, 1, num_labels + 2)[1:-1])
    labels = torch.from_numpy(np.digitize(noise, bounds)[None].astype(np.int16))
    affines = (draw_affine(replace(KEY, step=step), settings) for step in itertools.count())
    affine = next(affine for affine in affines if affine is not None and abs(affine[0, 1]) > 0.05)
    center = [(size - 1) / 2 for size in settings.initial_patch]
    stock = nnUNetTrainer.get_training_transforms(patch, ROTATION_RAD, None, None, False).transforms[0]
    stock.p_rotation = stock.p_scaling = 1
    return (
        lambda: transform_sample(image, labels, affine, center, patch),
        lambda: stock(image=image, segmentation=labels),
    )


def measure_pipeline(patch: tuple[int, ...], num_samples: int) -> tuple[float, float]:
    """Return the mean processor seconds of all intensity transforms of a sample, as often as each fires."""
    torch.manual_seed(0)
    np.random.seed(0)  # nnU-Net draws from it
    settings, stock = make_settings(patch), list_stock(patch)
    for sigma in (0.5, 0.75, 0.99):  # nnU-Net times two ways to blur once for each kernel size, and takes the faster
        blur = {"apply_to_channel": torch.tensor([True]), "sigmas": [(sigma,) * 3]}
        stock[1].transform._apply_to_image(torch.randn(1, *patch), **blur)
    seconds = [0.0, 0.0]
    for step in range(num_samples):
        image = torch.randn(1, 1, *patch)
        start = time.process_time()
        apply_intensity(image, [replace(KEY, step=step)], settings)
        middle = time.process_time()
        data = {"image": image[0]}
        for transform in stock:
            data = transform(**data)
        seconds[0] += middle - start
        seconds[1] += time.process_time() - middle
    return seconds[0] / num_samples, seconds[1] / num_samples


if __name__ == "__main__":
    main()
