"""Which labels of a mask are the prostate: by name, by zones, or the only one; else a refusal that names them."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.gland_labels import Label, chosen_labels, labels_in_description
from DDSPSegmentationLib.engine.images import read_mask
from DDSPSegmentationLib.learning.dataset import read_dataset

ONE, TWO, THREE = (slice(3, 9), slice(10, 20), slice(10, 20)), (slice(3, 9), slice(20, 30), slice(10, 20)), (0, 0, 0)


def labelmap(kind=np.uint8, **values):
    """Two blocks and a corner with these values."""
    voxels = np.zeros((12, 40, 40), kind)
    for place, value in zip((ONE, TWO, THREE), values.values(), strict=False):
        voxels[place] = value
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 1.5, 4.0))
    return image


def written(image, path, *segments):
    """A .seg.nrrd as Slicer writes it: (name, value) or (name, value, layer) a segment."""
    for number, (name, value, *layer) in enumerate(segments):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Layer", str(layer[0] if layer else 0))
    sitk.WriteImage(image, str(path))
    return path


def gland(path, labels=()):
    return sitk.GetArrayFromImage(read_mask(path, labels)).astype(bool)


def block(*places):
    voxels = np.zeros((12, 40, 40), bool)
    for place in places:
        voxels[place] = True
    return voxels


def test_the_segment_called_prostate_is_taken_and_the_bladder_is_not(tmp_path):
    path = written(labelmap(one=1, two=2), tmp_path / "organs.seg.nrrd", ("Bladder", 2), ("Prostate", 1))
    assert (gland(path) == block(ONE)).all()


@pytest.mark.parametrize("names", [("PZ", "TZ"), ("peripheral_zone", "Central Gland"), ("AFS", "CZ")])
def test_zones_are_merged_and_what_lies_beside_them_is_left_out(tmp_path, names):
    segments = [(names[0], 1), (names[1], 2), ("Urinary bladder", 3)]
    path = written(labelmap(one=1, two=2, three=3), tmp_path / "zones.seg.nrrd", *segments)
    assert (gland(path) == block(ONE, TWO)).all()


def test_the_only_segment_is_taken_whatever_its_name(tmp_path):
    assert (gland(written(labelmap(one=1), tmp_path / "a.seg.nrrd", ("Segment_1", 1))) == block(ONE)).all()


def test_several_of_which_none_is_the_prostate_are_refused_by_name(tmp_path):
    path = written(labelmap(one=1, two=2), tmp_path / "a.seg.nrrd", ("Bladder", 1), ("Rectum", 2))
    with pytest.raises(InputError, match="'a.seg.nrrd' holds Bladder, Rectum, and none of them is called the prostate"):
        read_mask(path)


@pytest.mark.parametrize("name", ["Bladder", "Index lesion", "seminal_vesicles"])
def test_the_only_segment_is_refused_when_it_is_called_another_structure(tmp_path, name):
    path = written(labelmap(one=1), tmp_path / "a.seg.nrrd", (name, 1))
    with pytest.raises(InputError, match=f"holds {name}, and none of them is called the prostate"):
        read_mask(path)


def test_a_mask_of_another_number_is_taken_and_255_beside_a_label_is_left_out(tmp_path):
    path = written(labelmap(np.int16, one=1000, two=1000), tmp_path / "thousand.nrrd")
    assert (gland(path) == block(ONE, TWO)).all()
    path = written(labelmap(one=1, two=255), tmp_path / "ignored.nrrd")
    assert (gland(path) == block(ONE)).all()


def test_a_segment_in_a_layer_that_is_not_there_is_refused(tmp_path):
    path = written(labelmap(one=1, two=1), tmp_path / "a.seg.nrrd", ("Prostate", 1, 1))
    with pytest.raises(InputError, match="has no layer 1, where its header looks for a segment"):
        read_mask(path)


def test_segments_of_several_layers_are_read_by_their_layer(tmp_path):
    layers = sitk.Compose(labelmap(one=1, two=1), labelmap(one=0, two=1))
    path = written(layers, tmp_path / "a.seg.nrrd", ("Prostate", 1, 0), ("Left half", 1, 1))
    assert (gland(path) == block(ONE, TWO)).all()
    path = written(layers, tmp_path / "b.seg.nrrd", ("Lesion", 1, 0), ("Prostate", 1, 1))
    assert (gland(path) == block(TWO)).all()


def test_labels_left_out_of_training_are_left_out_here(tmp_path):
    path = written(labelmap(one=1, two=2), tmp_path / "a.nii.gz")
    told = labels_in_description({"background": 0, "prostate": 1, "ignore": 2})
    assert (gland(path, told) == block(ONE)).all()


@pytest.mark.parametrize(
    ("labels", "taken"),
    [
        ({"0": "background", "1": "PZ", "2": "TZ"}, (1, 2)),
        ({"background": 0, "whole_gland": [1, 2], "lesion": 2}, (1, 2)),
        ({"background": 0, "bladder": 1, "Prostate": 2}, (2,)),
        ({"background": 0, "organ": 1}, (1,)),
        ({"Transition zone of prostate": 1, "Peripheral zone of the prostate": 2}, (1, 2)),
        ({"prostate PZ": 1, "Prostatic central gland": 2, "rectum": 3}, (1, 2)),
    ],
)
def test_descriptions_of_data_sets_are_understood(labels, taken):
    chosen = chosen_labels(labels_in_description(labels), "mask")
    assert sorted({value for label in chosen for value in label.values}) == sorted(taken)


@pytest.mark.parametrize(
    "name", ["Prostate", "prostate gland", "Whole Gland", "prostate_segmentation", "Prostate_1", "WG"]
)
def test_many_names_of_the_gland_are_known(name):
    chosen = chosen_labels([Label("bladder", (1,)), Label(name, (2,))], "mask")
    assert [label.values for label in chosen] == [(2,)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [(np.uint8, (255, 255)), (np.int16, (-1, -1)), (np.float32, (1.0000153, 2.0)), (np.float64, (0.996, 1.0))],
)
def test_values_that_mean_one_are_one(tmp_path, kind, values):
    path = written(labelmap(kind, one=values[0], two=values[1]), tmp_path / "mask.nrrd")
    mask = read_mask(path)
    assert mask.GetPixelID() == sitk.sitkUInt8 and (sitk.GetArrayFromImage(mask) == block(ONE, TWO)).all()


@pytest.mark.parametrize("values", [(0.5, 0.7), (0.93, 1.0), (-7, 1), (300, 1)])
def test_what_is_no_mask_is_refused(tmp_path, values):
    path = written(labelmap(np.float32, one=values[0], two=values[1]), tmp_path / "mask.nrrd")
    with pytest.raises(InputError, match="probability map|looks like a scan"):
        read_mask(path)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "byte order mark"])
def test_a_data_set_is_read_by_the_labels_that_it_describes(tmp_path, start):
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    scan = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, (12, 40, 40)).astype(np.float32))
    scan.SetSpacing((1.5, 1.5, 4.0))
    sitk.WriteImage(scan, str(tmp_path / "imagesTr" / "a_0000.nii.gz"))
    sitk.WriteImage(labelmap(one=1, two=2), str(tmp_path / "labelsTr" / "a.nii.gz"))
    text = start + json.dumps({"channel_names": {"0": "T2"}, "labels": {"background": 0, "prostate": 1, "ignore": 2}})
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    (case,) = read_dataset(tmp_path)
    assert (sitk.GetArrayFromImage(case.load_mask()) == block(ONE)).all()
