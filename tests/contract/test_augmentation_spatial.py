"""Rotation, scaling, mirroring and targets are nnU-Net's: the same voxels for a draw, and draws as frequent."""

import inspect
import itertools

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.nnunet.seg_to_onehot import MoveSegAsOneHotToDataTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    create_affine_matrix_2d,
    create_affine_matrix_3d,
)
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy import stats

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.draws import (
    draw_affine,
    draw_mirror_axes,
    find_patch_center,
    find_plain_offset,
    find_source_box,
)
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.augmentation.spatial import transform_sample
from stu_pipeline.training.augmentation.targets import blank_outside, encode_previous, make_targets, remove_outside
from stu_pipeline.training.sampling.sample import SampleKey

DEGREE = np.pi / 180
# nnU-Net compares weights as half floats of thousandths. Where two are that close, the last bit of a position decides,
# and nnU-Net's positions depend on the size of the initial patch in that bit.
HALF_PRECISION = 6e-4
# Patch and initial patch: equal and mixed parity, anisotropic, flat, and an initial patch too small for the rotation.
SHAPES = [
    ((16, 16, 16), (26, 26, 26)),
    ((15, 16, 12), (23, 25, 20)),
    ((15, 13, 11), (22, 20, 18)),
    ((6, 20, 28), (15, 31, 36)),
    ((16, 16, 16), (16, 16, 16)),
    ((24, 20), (37, 34)),
    ((15, 21), (26, 32)),
]


def make_settings(patch, initial_patch=None, **changes):
    defaults = {"rotation_rad": (-30 * DEGREE, 30 * DEGREE), "is_dummy_2d": False}
    return AugmentationSettings(
        patch=patch,
        initial_patch=initial_patch or patch,
        mirroring=changes.pop("mirroring", Mirroring(axes=tuple(range(len(patch))))),
        **{**defaults, **changes},
    )


def make_crop(shape, *, num_labels, num_channels=1, num_maps=1, seed=0):
    """Labels in blocks of three voxels with single voxels of other labels, one side outside the image."""
    generator = np.random.default_rng(seed)
    data = torch.from_numpy(generator.random((num_channels, *shape), dtype=np.float32))
    coarse = generator.integers(0, num_labels, (num_maps, *(-(-size // 3) for size in shape)))
    for axis in range(1, coarse.ndim):
        coarse = coarse.repeat(3, axis)
    labels = coarse[(slice(None), *(slice(size) for size in shape))].copy()
    is_other = generator.random(labels.shape) < 0.2
    labels[is_other] = generator.integers(0, num_labels, is_other.sum())
    labels[..., : shape[-1] // 5] = -1
    data[..., : shape[-1] // 5] = 0
    return data, torch.from_numpy(labels.astype(np.int16))


def open_stock(patch, *, angles=None, scale=1.0):
    """Build nnU-Net's transform, with the parameters it has in training unless told what to draw."""
    parts = nnUNetTrainer.get_training_transforms(patch, (-30 * DEGREE, 30 * DEGREE), None, (), False)
    stock = parts.transforms[0]
    assert isinstance(stock, SpatialTransform)
    if angles is not None:
        stock.p_rotation, stock.rotation = 1.0, lambda image, dim: angles[dim]
        stock.p_scaling, stock.scaling = 1.0, scale
    return stock


def transform_both(patch, data, labels, **drawn):
    stock = open_stock(patch, **drawn)
    parameters = stock.get_parameters(image=data)
    expected = stock.apply({"image": data.clone(), "segmentation": labels.clone()}, **parameters)
    affine = np.asarray(parameters["affine"], dtype=np.float64)
    center = tuple((size - 1) / 2 for size in data.shape[1:])
    actual = transform_sample(data, labels, affine, center, patch)
    differences = find_differences(expected["segmentation"], actual[1], labels, affine, center)
    return (expected["image"], expected["segmentation"]), actual, differences


def find_differences(expected, actual, labels, affine, center):
    """List how much interpolation weight the chosen labels lack, for every voxel with another label than nnU-Net's."""
    lacks = []
    patch = np.array(actual.shape[1:])
    for place in (expected != actual).nonzero().tolist():
        position = affine @ (np.array(place[1:]) - (patch - 1) / 2) + center
        lower = np.floor(position).astype(int)
        weights = {}
        for corner in itertools.product((0, 1), repeat=len(patch)):
            voxel = lower + corner
            is_inside = all(0 <= index < size for index, size in zip(voxel, labels.shape[1:], strict=True))
            label = int(labels[(place[0], *voxel)]) if is_inside else -1
            weights[label] = weights.get(label, 0) + np.prod(np.abs(1 - np.array(corner) - (position - lower)))
        found = (int(expected[tuple(place)]), int(actual[tuple(place)]))
        lacks.append(max(weights.values()) - min(weights.get(label, 0.0) for label in found))
    return lacks


def draw_angles(seed, num_axes):
    return np.random.default_rng([seed, 7]).uniform(-30 * DEGREE, 30 * DEGREE, num_axes)


@pytest.mark.parametrize("num_labels", [3, 40])
@pytest.mark.parametrize(("patch", "initial_patch"), SHAPES)
def test_a_transformed_patch_is_nnunets(patch, initial_patch, num_labels):
    num_different = 0
    for seed, scale in enumerate([0.7, 1.0, 1.13, 1.4]):
        data, labels = make_crop(initial_patch, num_labels=num_labels, num_channels=2, seed=seed)
        angles = draw_angles(seed, len(patch))
        expected, actual, differences = transform_both(patch, data, labels, angles=angles, scale=scale)
        torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=1e-5)
        assert actual[1].dtype == torch.int16
        assert all(lack < HALF_PRECISION for lack in differences)
        num_different += len(differences)
    # Labels without a structure are the worst case for ties; still one voxel of 70,000 over all sizes.
    assert num_different <= 1


def test_a_patch_that_reaches_outside_gets_label_minus_one_as_in_nnunet():
    data, labels = make_crop((12, 12, 12), num_labels=3)
    expected, actual, _ = transform_both((12, 12, 12), data, labels, angles=draw_angles(1, 3), scale=1.4)
    assert torch.equal(actual[1], expected[1])
    assert (actual[1] == -1).float().mean() > 0.3


@pytest.mark.parametrize(
    ("patch", "initial_patch"), [((9, 8, 7), (16, 16, 16)), ((9, 9, 9), (16, 8, 16)), ((9, 8), (16, 16))]
)
def test_ties_between_two_voxels_go_where_nnunet_puts_them(patch, initial_patch):
    # Without rotation and scaling, a difference of parity puts every position exactly between voxels. Powers of two,
    # because nnU-Net divides by the size of the initial patch and loses the tie where that is rounded.
    for seed in range(3):
        data, labels = make_crop(initial_patch, num_labels=5, seed=seed)
        expected, actual, _ = transform_both(patch, data, labels, angles=[0.0] * len(patch), scale=1.0)
        assert torch.equal(actual[1], expected[1])
        torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=1e-5)


def test_ties_of_whole_voxel_scaling_go_where_nnunet_puts_them():
    data, labels = make_crop((16, 8, 16), num_labels=6, seed=3)
    for scale in (0.5, 1.5, 2.0):
        expected, actual, _ = transform_both((10, 11, 12), data, labels, angles=[0.0, 0.0, 0.0], scale=scale)
        assert torch.equal(actual[1], expected[1])


def test_a_map_of_two_labels_differs_from_nnunet_only_within_its_wider_tie():
    num_different = num_voxels = 0
    for seed in range(8):
        generator = np.random.default_rng(seed)
        labels = torch.from_numpy(generator.integers(0, 2, (1, 30, 30, 30)).astype(np.int16))
        data, angles = torch.zeros((1, 30, 30, 30)), draw_angles(seed, 3)
        _, actual, differences = transform_both((20, 20, 20), data, labels, angles=angles, scale=0.9)
        assert all(lack < HALF_PRECISION for lack in differences)
        num_different += len(differences)
        num_voxels += actual[1].numel()
    assert num_different / num_voxels < 2e-4


def test_two_label_maps_are_transformed_each_for_itself():
    data, labels = make_crop((20, 18, 22), num_labels=4, num_maps=2)
    expected, actual, _ = transform_both((14, 12, 14), data, labels, angles=draw_angles(4, 3), scale=1.1)
    assert torch.equal(actual[1], expected[1])
    assert not torch.equal(actual[1][0], actual[1][1])


@pytest.mark.parametrize(("patch", "initial_patch"), [((5, 16, 14), (5, 25, 22)), ((6, 13, 16), (6, 20, 23))])
def test_dummy_2d_treats_slices_like_nnunet(patch, initial_patch):
    data, labels = make_crop(initial_patch, num_labels=5, num_channels=2, num_maps=2)
    stock = open_stock(patch[1:], angles=[0.0, 100 * DEGREE], scale=1.2)
    flat = Convert3DTo2DTransform()(image=data.clone(), segmentation=labels.clone())
    parameters = stock.get_parameters(image=flat["image"])
    expected = Convert2DTo3DTransform()(**stock.apply(flat, **parameters))
    affine = np.eye(3)
    affine[1:, 1:] = parameters["affine"]
    center = tuple((size - 1) / 2 for size in initial_patch)
    actual = transform_sample(data, labels, affine, center, patch)
    torch.testing.assert_close(actual[0], expected["image"], rtol=0, atol=1e-5)
    assert torch.equal(actual[1], expected["segmentation"])


@pytest.mark.parametrize(("patch", "initial_patch"), SHAPES)
def test_an_untransformed_patch_is_cut_where_nnunet_cuts_it(patch, initial_patch):
    data, labels = make_crop(initial_patch, num_labels=3)
    stock = open_stock(patch)
    stock.p_rotation = stock.p_scaling = 0.0
    expected = stock(image=data, segmentation=labels)
    offset = find_plain_offset(make_settings(patch, initial_patch))
    box = (slice(None), *(slice(start, start + size) for start, size in zip(offset, patch, strict=True)))
    assert torch.equal(data[box], expected["image"])
    assert torch.equal(labels[box], expected["segmentation"])


@pytest.mark.parametrize(("patch", "initial_patch"), [*SHAPES, ((9, 9, 9), (12, 12, 12))])
def test_the_source_box_gives_what_the_whole_initial_patch_gives(patch, initial_patch):
    settings = make_settings(patch, initial_patch, is_dummy_2d=False)
    offset = find_plain_offset(settings)
    num_smaller = 0
    for seed, scale in enumerate([0.5, 0.7, 1.0, 1.4]):
        data, labels = make_crop(initial_patch, num_labels=4, seed=seed)
        angles = draw_angles(seed, 3) if scale < 1 else np.zeros(3)
        matrix = create_affine_matrix_3d(angles, [scale] * 3)
        affine = matrix if len(patch) == 3 else create_affine_matrix_2d(angles[0], [scale] * 2)
        whole = transform_sample(data, labels, affine, tuple((size - 1) / 2 for size in initial_patch), patch)
        lower, upper = find_source_box(affine, settings)
        starts = [low + first for low, first in zip(lower, offset, strict=True)]
        stops = [high + first for high, first in zip(upper, offset, strict=True)]
        box = (slice(None), *map(slice, starts, stops))
        center = tuple(middle - low for middle, low in zip(find_patch_center(settings), lower, strict=True))
        cut = transform_sample(data[box], labels[box], affine, center, patch)
        assert all(start >= 0 and start % 2 == 0 for start in starts)
        assert all(stop <= size for stop, size in zip(stops, initial_patch, strict=True))
        assert torch.equal(cut[1], whole[1])
        torch.testing.assert_close(cut[0], whole[0], rtol=0, atol=1e-5)
        num_smaller += data[box].numel() < data.numel()
    assert num_smaller > 0 or patch == initial_patch


def draw_many(settings, count, *, seed=5):
    keys = [SampleKey(seed=seed, phase="train", step=step, slot=0) for step in range(count)]
    return [draw_affine(key, settings) for key in keys]


def draw_many_of_stock(settings, count):
    np.random.seed(11)
    parts = nnUNetTrainer.get_training_transforms(
        settings.patch, settings.rotation_rad, None, (), settings.is_dummy_2d
    ).transforms
    stock = next(part for part in parts if isinstance(part, SpatialTransform))
    image = torch.zeros((1, *settings.patch[settings.is_dummy_2d :]))
    return [stock.get_parameters(image=image)["affine"] for _ in range(count)]


def describe(affines, *, is_dummy_2d=False):
    """Split affines into scale factors and rotation angles, and count what fired."""
    scales, angles, kinds = [], [], {"none": 0, "rotated": 0, "scaled": 0, "both": 0}
    for affine in affines:
        if affine is None:
            kinds["none"] += 1
            continue
        matrix = affine[1:, 1:] if is_dummy_2d and len(affine) == 3 else affine
        scale = np.linalg.det(matrix) ** (1 / len(matrix))
        rotation = matrix / scale
        is_scaled, is_rotated = abs(scale - 1) > 1e-9, not np.allclose(rotation, np.eye(len(matrix)), atol=1e-9)
        kinds["both" if is_scaled and is_rotated else "scaled" if is_scaled else "rotated"] += 1
        if is_scaled:
            scales.append(scale)
        if is_rotated:
            angles.append(find_angles(rotation))
    return scales, np.array(angles), list(kinds.values())


def find_angles(rotation):
    """Angles about the first, second and third axis that a product Rz Ry Rx is made of; one angle in a plane."""
    if len(rotation) == 2:
        return [np.arctan2(rotation[1, 0], rotation[0, 0])]
    return [
        np.arctan2(rotation[2, 1], rotation[2, 2]),
        -np.arcsin(rotation[2, 0]),
        np.arctan2(rotation[1, 0], rotation[0, 0]),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        make_settings((4, 4, 4)),
        make_settings((4, 4), rotation_rad=(-180 * DEGREE, 180 * DEGREE)),
        make_settings((2, 8, 8), rotation_rad=(-180 * DEGREE, 180 * DEGREE), is_dummy_2d=True),
    ],
    ids=["3d", "2d", "dummy-2d"],
)
def test_affines_are_drawn_as_often_and_as_wide_as_nnunet_draws_them(settings):
    count = 2500
    ours = describe(draw_many(settings, count), is_dummy_2d=settings.is_dummy_2d)
    stock = describe(draw_many_of_stock(settings, count))
    assert stats.chi2_contingency([ours[2], stock[2]]).pvalue > 1e-3
    assert stats.chisquare(ours[2], np.array([0.64, 0.16, 0.16, 0.04]) * count).pvalue > 1e-3
    assert stats.ks_2samp(ours[0], stock[0]).pvalue > 1e-3
    assert ours[1].shape[1] == stock[1].shape[1]
    for angles, stock_angles in zip(ours[1].T, stock[1].T, strict=True):
        assert stats.ks_2samp(angles, stock_angles).pvalue > 1e-3
        assert (
            stats.kstest(angles, stats.uniform(settings.rotation_rad[0], np.ptp(settings.rotation_rad)).cdf).pvalue
            > 1e-3
        )
    assert stats.kstest(ours[0], stats.uniform(0.7, 0.7).cdf).pvalue > 1e-3


@pytest.mark.parametrize("patch", [(4, 4, 4), (4, 4)])
def test_rotations_are_built_and_turn_as_in_nnunet(patch):
    # One-sided angles, because a turn in the wrong direction is as likely when both are drawn.
    settings = make_settings(patch, rotation_rad=(5 * DEGREE, 25 * DEGREE))
    affines = [affine for affine in draw_many(settings, 200) if affine is not None]
    num_rotated = 0
    for affine in affines:
        scale = np.linalg.det(affine) ** (1 / len(patch))
        angles = find_angles(affine / scale)
        expected = (
            create_affine_matrix_3d(angles, [scale] * 3)
            if len(patch) == 3
            else create_affine_matrix_2d(angles[0], [scale] * 2)
        )
        np.testing.assert_allclose(affine, expected, atol=1e-12)
        if not np.allclose(angles, 0, atol=1e-9):
            assert all(5 * DEGREE <= angle <= 25 * DEGREE for angle in angles)
            num_rotated += 1
    assert num_rotated > 20


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2), (1,)])
def test_mirror_axes_are_drawn_as_often_as_in_nnunet(axes):
    count = 800
    settings = make_settings((4, 4, 4), mirroring=Mirroring(axes=axes))
    torch.manual_seed(3)
    stock = MirrorTransform(allowed_axes=axes)
    counts = np.zeros((2, 8))
    for step in range(count):
        ours = draw_mirror_axes(SampleKey(seed=1, phase="train", step=step, slot=1), settings)
        counts[0, sum(2**axis for axis in ours)] += 1
        counts[1, sum(2**axis for axis in stock.get_parameters()["axes"])] += 1
    counts = counts[:, counts.sum(0) > 0]
    assert counts.shape[1] == 2 ** len(axes)
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    assert stats.chisquare(counts[0]).pvalue > 1e-3


def test_the_numbers_of_the_draws_are_nnunets():
    stock = open_stock((4, 4, 4))
    drawn = {"p_rotation": 0.2, "p_scaling": 0.2, "scaling": (0.7, 1.4), "p_synchronize_scaling_across_axes": 1}
    assert {name: getattr(stock, name) for name in drawn} == drawn
    fixed = {
        "p_elastic_deform": 0,
        "p_rot_per_axis": 1,
        "random_crop": False,
        "mode_seg": "bilinear",
        "border_mode_seg": "constant",
        "padding_value_seg": -1,
        "padding_mode_image": "zeros",
        "seg_tiebreak": "nearest",
    }
    assert {name: getattr(stock, name) for name in fixed} == fixed


def test_the_transforms_come_in_the_order_that_the_pipeline_follows():
    arguments = inspect.signature(nnUNetTrainer.get_training_transforms).parameters
    assert "use_mask_for_norm" in arguments
    stock = nnUNetTrainer.get_training_transforms(
        (8, 8, 8), (-1, 1), [[1, 1, 1], [0.5, 0.5, 0.5]], (0, 1, 2), False, [True], True, [1, 2], [(1, 2), (2,)], 3
    )
    names = [type(getattr(part, "transform", part)).__name__ for part in stock.transforms]
    assert names == [
        "SpatialTransform",
        "GaussianNoiseTransform",
        "GaussianBlurTransform",
        "MultiplicativeBrightnessTransform",
        "ContrastTransform",
        "SimulateLowResolutionTransform",
        "GammaTransform",
        "GammaTransform",
        "MirrorTransform",
        "MaskImageTransform",
        "RemoveLabelTransform",
        "MoveSegAsOneHotToDataTransform",
        "ApplyRandomBinaryOperatorTransform",
        "RemoveRandomConnectedComponentFromOneHotEncodingTransform",
        "ConvertSegmentationToRegionsTransform",
        "DownsampleSegForDSTransform",
    ]


def test_masking_and_removing_the_outside_is_nnunets():
    data, labels = make_crop((6, 7, 10), num_labels=3, num_channels=3)
    data = data + 1
    expected = MaskImageTransform([0, 2])(image=data.clone(), segmentation=labels.clone())
    actual = blank_outside(data[None].clone(), labels[None], (0, 2))[0]
    assert torch.equal(actual, expected["image"])
    assert torch.equal(
        remove_outside(labels[None].clone())[0],
        RemoveLabelTransform(-1, 0)(segmentation=labels.clone())["segmentation"],
    )


def test_the_previous_stage_becomes_the_channels_nnunet_makes():
    data, labels = make_crop((6, 7, 10), num_labels=5, num_maps=2)
    expected = MoveSegAsOneHotToDataTransform(1, (1, 2, 4))(image=data.clone(), segmentation=labels.clone())
    channels = encode_previous(labels[None, 1], (1, 2, 4))
    assert torch.equal(channels[0], expected["image"][1:])


@pytest.mark.parametrize("ignore_label", [None, 4])
def test_regions_are_nnunets(ignore_label):
    _, labels = make_crop((6, 7, 10), num_labels=5)
    labels = remove_outside(labels)
    regions = ((1, 2, 3), (2, 3), (3,))
    stock_regions = [*regions, ignore_label] if ignore_label is not None else list(regions)
    expected = ConvertSegmentationToRegionsTransform(stock_regions)(segmentation=labels)["segmentation"]
    settings = make_settings((6, 7, 10), regions=regions, ignore_label=ignore_label)
    (actual,) = make_targets(labels[None], settings)
    assert actual.dtype == torch.bool
    assert torch.equal(actual[0], expected)


@pytest.mark.parametrize("regions", [None, ((1, 2), (2,))])
@pytest.mark.parametrize("patch", [(16, 24, 8), (10, 15, 9), (32, 20)])
def test_the_targets_of_every_level_are_nnunets(patch, regions):
    scales = (
        (1.0,) * len(patch),
        (1.0, *(0.5,) * (len(patch) - 1)),
        (0.5, *(0.25,) * (len(patch) - 1)),
        (0.2,) * len(patch),
    )
    _, labels = make_crop(patch, num_labels=3)
    labels = remove_outside(labels)
    settings = make_settings(patch, regions=regions, deep_supervision_scales=scales)
    target = (
        labels
        if regions is None
        else ConvertSegmentationToRegionsTransform(regions)(segmentation=labels)["segmentation"]
    )
    expected = DownsampleSegForDSTransform(scales)(segmentation=target)["segmentation"]
    actual = make_targets(labels[None], settings)
    assert len(actual) == len(expected)
    for ours, stock in zip(actual, expected, strict=True):
        assert ours.dtype == (torch.int16 if regions is None else torch.bool)
        assert torch.equal(ours[0], stock)
