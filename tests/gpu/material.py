"""Networks, samples and batches of a size that keeps a GPU busy for milliseconds."""

from dataclasses import replace

import numpy as np
import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.training.augmentation.draws import draw_affine, find_patch_center, find_source_box
from stu_pipeline.training.augmentation.intensity_draws import draw_intensity
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.loss.segmentation import build_loss
from stu_pipeline.training.sampling.sample import Sample, SampleKey

STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 1]]
LEVELS = (1, 2, 4, 8, 16)
NUM_LABELS = 3
KEY = SampleKey(seed=0, phase="train", step=0, slot=0)


def build_network(device, *, scale="S"):
    """Build a network with the same weights every time."""
    spec = SCALES[scale]
    torch.manual_seed(0)
    network = STUNet(1, NUM_LABELS, STRIDES, spec.features_per_stage, spec.n_blocks_per_stage, deep_supervision=True)
    network.apply(network.initialize)
    return network.to(device).train()


def build_step(network, *, precision, micro_batch, batch_dice=False):
    """Build a step as a training does; fp16 gets its scaler."""
    device = next(network.parameters()).device
    return TrainingStep(
        network,
        build_optimizer(network, learning_rate=0.01, weight_decay=3e-5),
        build_loss(regions=False, batch_dice=batch_dice, num_levels=len(LEVELS)),
        precision=precision,
        micro_batch=micro_batch,
        scaler=torch.amp.GradScaler(device.type) if precision == "fp16" else None,
    )


def make_settings(patch, **changes):
    """Return what the augmentation is told, with all axes mirrored and a pair of labels swapped along one."""
    values = {
        "initial_patch": tuple(round(1.5 * size) for size in patch),
        "rotation_rad": (-0.52, 0.52),
        "is_dummy_2d": False,
        "mirroring": Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 2),)),
        "deep_supervision_scales": tuple((1 / step,) * 3 for step in LEVELS),
        **changes,
    }
    return AugmentationSettings(patch=patch, **values)


def make_samples(num_samples, settings, *, first_step=0, has_noise=None):
    """Make samples with the draws of their keys: smooth images with a label map that follows them.

    Args:
        num_samples: how many.
        settings: of the augmentation.
        first_step: of their keys.
        has_noise: only samples that draw voxel noise, which depends on the device, or only others; None: any.
    """
    samples, step = [], first_step
    while len(samples) < num_samples:
        key = replace(KEY, step=step)
        step += 1
        noise = draw_intensity(key, num_channels=1, num_axes=3).noise_std
        if has_noise is None or has_noise == (noise is not None):
            samples.append(make_sample(key, settings))
    return samples


def make_sample(key, settings):
    """Make one sample, cropped as the loader would."""
    affine = draw_affine(key, settings)
    shape, center = settings.patch, ()
    if affine is not None:
        lower, upper = find_source_box(affine, settings)
        shape = tuple(high - low for low, high in zip(lower, upper, strict=True))
        center = tuple(middle - low for middle, low in zip(find_patch_center(settings), lower, strict=True))
    generator = np.random.default_rng(key.step)
    grid = np.meshgrid(*(np.arange(size) / 9 for size in shape), indexing="ij", sparse=True)
    image = sum(np.sin(axis + phase) for axis, phase in zip(grid, generator.uniform(0, 6, 3), strict=True))
    labels = np.digitize(image, (-0.5, 1.0)).astype(np.int16)[None]
    image = (image + 0.2 * generator.normal(size=image.shape)).astype(np.float32)[None]
    return Sample(key=key, case_id=f"case_{key.step}", data=image, labels=labels, affine=affine, center=center)
