import numpy as np
import pytest

import stu_pipeline.preprocessing.class_locations as module
from stu_pipeline.preprocessing.class_locations import list_location_keys, sample_class_locations


def make(shape=(8, 9, 10), num_labels=4, seed=0):
    return np.random.default_rng(seed).integers(-1, num_labels, shape).astype(np.int16)


def read_at(labels, places):
    return labels[places[:, 1], places[:, 2], places[:, 3]]


def test_all_voxels_of_a_small_label_are_taken():
    labels = make()
    found = sample_class_locations(labels, (1, 2, 3))
    for label in (1, 2, 3):
        assert np.array_equal(found[label][:, 1:], np.argwhere(labels == label))
        assert (found[label][:, 0] == 0).all()


def test_a_label_that_is_missing_has_an_empty_list():
    assert sample_class_locations(make(), (1, 9))[9] == []


def test_a_case_without_labels_has_empty_lists():
    assert sample_class_locations(np.zeros((3, 3, 3), dtype=np.int16), (1, (1, 2))) == {1: [], (1, 2): []}


def test_a_large_label_is_capped_without_repeats(monkeypatch):
    monkeypatch.setattr(module, "_SLAB_VOXELS", 100)
    labels = make((20, 20, 20), num_labels=2)
    places = sample_class_locations(labels, (1,), max_locations=500)[1]
    assert len(places) == len(np.unique(places, axis=0)) == 500
    assert (read_at(labels, places) == 1).all()


def test_slabs_do_not_change_the_sample(monkeypatch):
    labels, keys = make((20, 20, 20)), (1, 2, (1, 3), (-1, 0, 1, 2, 3))
    whole = sample_class_locations(labels, keys, max_locations=200)
    monkeypatch.setattr(module, "_SLAB_VOXELS", 700)
    parts = sample_class_locations(labels, keys, max_locations=200)
    assert all(np.array_equal(whole[key], parts[key]) for key in keys)


def test_a_sample_is_spread_over_the_whole_label():
    labels = np.ones((50, 10, 10), dtype=np.int16)
    places = sample_class_locations(labels, (1,), max_locations=1000)[1]
    counts = np.bincount(places[:, 1], minlength=50)
    assert counts.min() >= 5 and counts.max() <= 40


def test_the_same_input_gives_the_same_places_and_another_seed_others():
    labels = make((20, 20, 20))
    first, again, other = (sample_class_locations(labels, (1,), max_locations=50, seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_region_is_sampled_as_one_population():
    labels = make((20, 20, 20))
    places = sample_class_locations(labels, ((1, 2),), max_locations=300)[1, 2]
    assert len(places) == 300 and set(read_at(labels, places)) == {1, 2}


def test_places_are_signed_and_16_bit_where_they_fit():
    assert sample_class_locations(make(), (1,))[1].dtype == np.int16
    assert sample_class_locations(make((1, 1, 20_000)), (1,))[1].dtype == np.int32


def test_the_largest_label_that_can_be_stored_is_found():
    labels = np.zeros((2, 2, 2), dtype=np.int16)
    labels[1, 1, 1] = 32767
    assert sample_class_locations(labels, (32767,))[32767].tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ({"background": 0, "a": 1, "b": 2}, (1, 2)),
        ({"background": 0, "b": 2, "a": [1]}, (1, 2)),
        ({"background": 0, "whole": [1, 2], "core": 2}, ((1, 2), 2)),
        ({"background": 0, "a": 1, "ignore": 2}, (1, (-1, 0, 1))),
        ({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, ((1, 2), (2,), (-1, 0, 1, 2))),
    ],
)
def test_the_keys_are_those_the_loader_looks_up(labels, keys):
    assert list_location_keys(labels) == keys
