"""Our sampling against nnU-Net's loader: which cases, which boxes, which voxels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgenerators.utilities.file_and_folder_operations import write_pickle
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.stats import chi2_contingency

from stu_pipeline.training.sampling.crop import CropRule, choose_case, choose_corner, choose_is_foreground, choose_voxel
from stu_pipeline.training.sampling.places import read_places
from stu_pipeline.training.sampling.reading import open_case, read_box
from stu_pipeline.training.sampling.sample import SampleKey
from tests.unit.training.sampling.tiny_cases import make_settings, make_source, write_cases

LABELS = {"background": 0, "a": 1, "b": 2}
IGNORE = {**LABELS, "ignore": 3}
REGIONS = {"background": 0, "whole": (1, 2), "b": 2}
ORDER = (1, 2)
NUM_DRAWS = 3000
P_LIMIT = 1e-4


def open_stock(folder, *, batch=2, initial_patch=(9, 12, 13), patch=(6, 8, 8), labels=LABELS, share=0.33, **choices):
    manager = LabelManager(dict(labels), ORDER if labels is REGIONS else None)
    dataset = nnUNetDatasetBlosc2(str(folder))
    return nnUNetDataLoader(
        dataset, batch, initial_patch, patch, manager, oversample_foreground_percent=share, **choices
    )


def require_same_distribution(ours, theirs):
    """Compare two samples of hashable values by a chi-square test; rare values are pooled."""
    ours, theirs = Counter(ours), Counter(theirs)
    keys = sorted(set(ours) | set(theirs), key=repr)
    frequent = [key for key in keys if ours[key] + theirs[key] >= 20]
    rare = [key for key in keys if ours[key] + theirs[key] < 20]
    table = [[counts[key] for key in frequent] + [sum(counts[key] for key in rare)] for counts in (ours, theirs)]
    columns = [column for column in zip(*table, strict=True) if sum(column)]
    if len(columns) > 1:
        assert chi2_contingency(np.array(columns).T).pvalue > P_LIMIT
    # What one never draws, the other never draws often.
    assert all(min(ours[key], theirs[key]) > 0 for key in keys if ours[key] + theirs[key] >= 40)


def make_places(shape, labels):
    """Make what preprocessing stores for a case with two boxes, with nnU-Net's own code."""
    voxels = np.zeros((1, *shape), np.int16)
    voxels[(0, *(slice(0, size // 2) for size in shape))] = 1
    voxels[(0, *(slice(size - 2, None) for size in shape))] = 2
    manager = LabelManager(dict(labels), ORDER if labels is REGIONS else None)
    wanted = list(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    if manager.has_ignore_label:
        wanted.append([-1, *manager.all_labels])
    return DefaultPreprocessor._sample_foreground_locations(voxels, wanted)


@pytest.mark.parametrize("is_foreground", [False, True])
@pytest.mark.parametrize("labels", [LABELS, IGNORE, REGIONS], ids=["labels", "ignore", "regions"])
@pytest.mark.parametrize(
    ("shape", "patch", "initial_patch"),
    [
        ((12, 14, 11), (6, 8, 8), (9, 12, 13)), ((3, 40, 9), (8, 8, 8), (11, 12, 12)),
        ((7, 7, 7), (8, 5, 6), (8, 5, 6)), ((6, 14, 11), (8, 9), (13, 12)),
    ],
    ids=["volume", "small", "validation", "flat"],
)  # fmt: skip
def test_boxes_are_distributed_like_the_engines(tmp_path, shape, patch, initial_patch, labels, is_foreground):
    write_cases(tmp_path, 1)
    places = make_places(shape, labels)
    stock = open_stock(tmp_path, initial_patch=initial_patch, patch=patch, labels=labels)
    write_pickle({"class_locations": places}, str(tmp_path / "case_0.pkl"))
    rule = CropRule(batch=2, annotated_key=(-1, 0, 1, 2) if labels is IGNORE else None)
    patch, initial_patch = (tuple(size) if len(size) == 3 else (1, *size) for size in (patch, initial_patch))
    _, known = read_places(tmp_path, "case_0")
    generator = np.random.default_rng(7)
    np.random.seed(7)
    ours, theirs = [], []
    for _ in range(NUM_DRAWS):
        voxel = choose_voxel(generator, known, rule, is_foreground=is_foreground)
        ours.append(choose_corner(generator, shape, patch=patch, initial_patch=initial_patch, voxel=voxel))
        theirs.append(tuple(int(low) for low in stock.get_bbox(np.array(shape), is_foreground, places)[0]))
    require_same_distribution(ours, theirs)
    for axis in range(3):
        require_same_distribution([one[axis] for one in ours], [one[axis] for one in theirs])
        assert {one[axis] for one in ours} == {one[axis] for one in theirs}


def test_the_same_samples_of_a_batch_are_forced_to_show_foreground(tmp_path):
    write_cases(tmp_path, 1)
    generator = np.random.default_rng(0)
    for batch in range(1, 40):
        for share in (0.0, 0.33, 0.5, 1.0):
            stock = open_stock(tmp_path, batch=batch, share=share)
            rule = CropRule(batch=batch, foreground_share=share)
            theirs = [stock.get_do_oversample(slot) for slot in range(batch)]
            assert [choose_is_foreground(generator, slot, rule) for slot in range(batch)] == theirs


def test_chance_and_cases_are_distributed_like_the_engines(tmp_path):
    names = write_cases(tmp_path, 4)
    stock = open_stock(tmp_path, batch=1, probabilistic_oversampling=True)
    rule = CropRule(batch=1, is_probabilistic=True)
    np.random.seed(1)
    generator = np.random.default_rng(1)
    require_same_distribution(
        [choose_is_foreground(generator, 0, rule) for _ in range(NUM_DRAWS)],
        [stock.get_do_oversample(0) for _ in range(NUM_DRAWS)],
    )
    require_same_distribution(
        [choose_case(generator, names) for _ in range(NUM_DRAWS)],
        [str(stock.get_indices()[0]) for _ in range(NUM_DRAWS)],
    )


def test_the_engine_finds_the_cases_in_the_order_we_name_them(tmp_path):
    names = write_cases(tmp_path, 11)
    assert nnUNetDatasetBlosc2(str(tmp_path)).identifiers == sorted(names)


def test_voxels_of_a_box_are_those_the_engine_crops(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 15, 17, 19)).astype(np.float32)
    labels = generator.integers(-1, 4, (1, 15, 17, 19)).astype(np.int8)
    params = {"chunks": (1, 8, 8, 8), "blocks": (1, 4, 4, 4)}
    nnUNetDatasetBlosc2.save_case(image, labels, {"class_locations": {}}, str(tmp_path / "stock"), **params)
    (tmp_path / "previous").mkdir()
    nnUNetDatasetBlosc2.save_seg(labels[0], str(tmp_path / "previous" / "stock"))
    stock = nnUNetDatasetBlosc2(str(tmp_path), folder_with_segs_from_previous_stage=str(tmp_path / "previous"))
    arrays = stock.load_case("stock")
    case = open_case(tmp_path, "stock", num_channels=2, previous_folder=tmp_path / "previous")
    for _ in range(40):
        sizes = generator.integers(1, 24, 3)
        lower = [int(generator.integers(1 - size, extent)) for size, extent in zip(sizes, case.shape, strict=True)]
        data, found = np.empty((2, *sizes), np.float32), np.empty((2, *sizes), np.int16)
        read_box(case, lower, data=data, labels=found)
        box = [[low, low + int(size)] for low, size in zip(lower, sizes, strict=True)]
        np.testing.assert_array_equal(data, crop_and_pad_nd(arrays[0], box, 0))
        np.testing.assert_array_equal(found[:1], crop_and_pad_nd(arrays[1], box, -1))
        np.testing.assert_array_equal(found[1], crop_and_pad_nd(arrays[2], box, -1))


@pytest.mark.parametrize("phase", ["train", "validation"])
def test_whole_samples_are_distributed_like_the_engines(tmp_path, phase):
    """The first voxel of a patch says which case it is of, and where it lies: each has a value of its own."""
    names = write_cases(tmp_path, 2, shape=(9, 8, 9))
    patch, initial_patch = (6, 8, 8), (9, 8, 11) if phase == "train" else (6, 8, 8)
    transform = SpatialTransform(patch, 0, False, p_elastic_deform=0, p_rotation=0, p_scaling=0)
    stock = open_stock(tmp_path, patch=patch, initial_patch=initial_patch, transforms=transform)
    np.random.seed(3)
    theirs = [[], []]
    for _ in range(200):
        batch = stock.generate_train_batch()
        for slot in range(2):
            theirs[slot].append((batch["data"][slot].max().item(), int(batch["target"][slot].sum())))
    settings = make_settings(patch, (9, 8, 11))
    source = make_source(tmp_path, names, settings=settings)
    for slot in range(2):
        samples = (source.make_sample(SampleKey(seed=0, phase=phase, step=step, slot=slot)) for step in range(400))
        plain = [sample for sample in samples if sample.affine is None]
        ours = [(float(sample.data.max()), int(sample.labels.sum())) for sample in plain]
        require_same_distribution(ours, theirs[slot])
        assert len(set(ours)) > 5


def test_our_key_of_what_is_annotated_is_the_engines(tmp_path):
    write_cases(tmp_path, 1)
    assert open_stock(tmp_path, labels=IGNORE).annotated_classes_key == (-1, 0, 1, 2)
    assert (-1, 0, 1, 2) in make_places((9, 9, 9), IGNORE)
