"""Finding the gland and covering it, with a network whose answer is known."""

import tracemalloc

import numpy as np
import pytest
import torch
from engine_parts import centroid, dice
from torch import nn

from DDSPSegmentationLib.engine.confidence import pair_features
from DDSPSegmentationLib.engine.errors import Canceled
from DDSPSegmentationLib.engine.inference import MAXIMAL_TILES, GlandPredictor
from DDSPSegmentationLib.engine.network import NetworkSettings

SIZE = (24, 32, 32)


class BrightVoxels(nn.Module):
    """Says prostate where a voxel is brighter than 0.5, and remembers every crop it was shown."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = NetworkSettings(input_size=SIZE, **settings)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.crops = []

    def forward(self, batch):
        assert batch.shape == (1, 1, *SIZE)
        self.crops.append(batch[0, 0].clone())
        answer = self.answer(batch.float())
        return answer, answer, answer

    def answer(self, batch):
        return torch.sigmoid(20 * (batch - 0.5))


class BlindAtTheFaces(BrightVoxels):
    """Like a network that pads with zeros, sees nothing in the outermost voxels of its crop."""

    def answer(self, batch):
        answer = torch.zeros_like(batch)
        inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
        answer[inner] = super().answer(batch)[inner]
        return answer


class FromFurtherAway(BrightVoxels):
    """Is sure only of what it sees from further away, where resampling has blurred the border."""

    def answer(self, batch):
        blurred = ((batch > 0.01) & (batch < 0.99)).any()
        return super().answer(batch) * (1.0 if blurred else 0.6)


class ThreeMinds(BrightVoxels):
    """Three outputs that differ."""

    def forward(self, batch):
        main, _, _ = super().forward(batch)
        return main, main * 0.8, main * 0.3


def ball(shape, center, radius=5.0):
    """1 inside a ball, 0 outside."""
    squared = sum(
        (position - middle) ** 2
        for position, middle in zip(np.ogrid[tuple(slice(n) for n in shape)], center, strict=True)
    )
    return (squared <= radius**2).astype(np.float32)


def pointwise(volume):
    return 1 / (1 + np.exp(-20 * (volume - 0.5)))


def starts_of(network, volume):
    """Where in the volume each remembered crop lies, by looking for its first voxel; no two may be alike."""
    return [tuple(np.argwhere(volume == float(crop[0, 0, 0]))[0]) for crop in network.crops]


@pytest.mark.parametrize("offset", [(0, 0, 0), (0, 14, -14), (8, -12, 13)])
def test_a_gland_off_center_is_found_and_the_crop_centered_on_it(offset):
    shape = (40, 80, 80)
    center = (np.array(shape) - 1) / 2 + offset
    volume = ball(shape, center)
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume)
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)
    last = network.crops[-1].numpy()
    middle = np.argwhere(last > 0.5).mean(axis=0)
    assert np.abs(middle - (np.array(SIZE) - 1) / 2).max() <= 3
    assert prediction.looks == len(network.crops) <= 4


def test_a_gland_of_which_the_first_crop_saw_a_rim_is_centered_in_a_second_move():
    shape = (40, 100, 100)
    center = (np.array(shape) - 1) / 2 + (0, 20, 0)
    volume = ball(shape, center, radius=8)
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume)
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)
    middle = np.argwhere(network.crops[-1].numpy() > 0.5).mean(axis=0)
    assert np.abs(middle - (np.array(SIZE) - 1) / 2).max() <= 3
    assert prediction.looks == len(network.crops) == 3  # found, moved, moved again: no tile beside it is needed


def test_a_centered_gland_takes_one_crop():
    network = BrightVoxels()
    volume = ball((40, 80, 80), (20, 40, 40))
    assert GlandPredictor(network).predict(volume).looks == 1


@pytest.mark.parametrize("corner", [(7, 7, 7), (32, 142, 7), (7, 142, 142)])
def test_a_gland_in_the_corner_of_a_huge_field_of_view_is_found(corner):
    volume = ball((40, 150, 150), corner, radius=7)
    prediction = GlandPredictor(BrightVoxels()).predict(volume)
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)


def test_a_scan_without_a_gland_is_searched_everywhere_and_stays_empty():
    volume = np.random.default_rng(0).uniform(0, 0.1, (40, 80, 70)).astype(np.float32)
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume)
    seen = np.zeros(volume.shape, bool)
    for start in starts_of(network, volume):
        seen[tuple(slice(s, s + n) for s, n in zip(start, SIZE, strict=True))] = True
    assert seen.all()
    assert prediction.probability.max() < 0.5


def test_a_few_bright_voxels_are_no_gland():
    volume = ball((40, 80, 80), (20, 70, 10), radius=6)
    volume[20, 40, 38:43] = 1  # five voxels in the first crop
    prediction = GlandPredictor(BrightVoxels()).predict(volume)
    assert (prediction.probability > 0.5)[volume.astype(bool) & (ball(volume.shape, (20, 70, 10)) > 0)].all()


def test_a_few_bright_voxels_far_apart_are_no_large_gland():
    volume = np.zeros((24, 80, 80), np.float32)
    volume[12, 40, [26, 54]] = 1  # both in the first crop, at its opposite sides
    prediction = GlandPredictor(BrightVoxels()).predict(volume, center=np.array([12.0, 40.0, 40.0]))
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)


def test_a_given_point_is_where_the_search_begins_and_ends():
    volume = ball((40, 120, 120), (20, 60, 60), radius=7) + ball((40, 120, 120), (14, 20, 100))
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume, center=np.array([14.0, 20.0, 100.0]))
    assert np.array_equal(prediction.probability > 0.5, ball(volume.shape, (14, 20, 100)) > 0)
    assert prediction.looks == 1


def test_a_given_point_beside_any_gland_starts_no_search():
    volume = ball((40, 120, 120), (20, 60, 60))
    prediction = GlandPredictor(BrightVoxels()).predict(volume, center=np.array([12.0, 10.0, 110.0]))
    assert prediction.looks == 1 and prediction.probability.max() < 0.5


@pytest.mark.parametrize("radius", [12, 15, 19, 24])
def test_a_gland_larger_than_the_crop_is_covered_without_seams(radius):
    volume = ball((70, 110, 110), (36, 52, 57), radius=radius)
    prediction = GlandPredictor(BlindAtTheFaces()).predict(volume)
    gland, found = volume > 0.5, prediction.probability > 0.5
    assert dice(found, gland) > 0.96
    assert np.abs(centroid(found) - centroid(gland)).max() < 0.5
    assert prediction.probability[ball(volume.shape, (36, 52, 57), radius - 2) > 0].min() > 0.7
    assert 4 < prediction.looks <= 3 * MAXIMAL_TILES


def test_a_gland_too_large_for_the_crop_is_shown_whole_from_further_away():
    volume = ball((50, 110, 110), (25, 52, 57), radius=14)
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume)
    whole = [
        crop
        for crop in (crop.numpy() > 0.5 for crop in network.crops)
        if not any(np.take(crop, face, axis).any() for axis in range(3) for face in (0, -1))
    ]
    assert any(15 < crop.any(axis=(1, 2)).sum() < 24 for crop in whole)
    assert dice(prediction.probability > 0.5, volume > 0.5) > 0.96


def test_a_large_gland_far_from_the_middle_is_found_again_from_further_away():
    center = np.array([20.0, 30.0, 300.0])
    volume = ball((40, 60, 400), center, radius=15)
    prediction = GlandPredictor(FromFurtherAway()).predict(volume, center=center)
    assert dice(prediction.probability > 0.5, volume > 0.5) > 0.96
    assert prediction.probability.max() > 0.9


def test_a_gland_that_is_not_recognized_from_further_away_is_kept_as_it_was():
    class NearOnly(BrightVoxels):
        def answer(self, batch):
            interpolated = ((batch > 0.01) & (batch < 0.99)).any()
            return super().answer(batch) * (0 if interpolated else 1)

    volume = ball((50, 110, 110), (25, 52, 57), radius=16)
    network = NearOnly()
    prediction = GlandPredictor(network).predict(volume)
    assert any(((crop > 0.01) & (crop < 0.99)).any() for crop in network.crops), "it never looked from further away"
    assert dice(prediction.probability > 0.5, volume > 0.5) > 0.99


def test_a_gland_cut_by_the_edge_of_the_scan_needs_no_crop_beyond_it():
    volume = ball((24, 80, 80), (0, 40, 40), radius=6)
    network = BrightVoxels()
    prediction = GlandPredictor(network).predict(volume)
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)
    assert prediction.looks == 1


@pytest.mark.parametrize("shape", [(9, 21, 25), (10, 60, 20), (24, 32, 32), (23, 31, 80), (25, 33, 33)])
def test_a_scan_smaller_than_the_crop_comes_back_whole(shape):
    volume = ball(shape, (np.array(shape) - 1) / 2, radius=4)
    prediction = GlandPredictor(BrightVoxels()).predict(volume)
    assert prediction.probability.shape == shape
    assert prediction.looks == 1
    first = [max(0, (n - m) // 2) for n, m in zip(shape, SIZE, strict=True)]
    seen = tuple(slice(start, start + m) for start, m in zip(first, SIZE, strict=True))
    np.testing.assert_allclose(prediction.probability[seen], pointwise(volume)[seen], atol=1e-5)
    assert np.array_equal(prediction.probability > 0.5, volume > 0.5)


def test_padding_repeats_the_border_on_both_sides():
    volume = np.random.default_rng(0).uniform(0.6, 0.9, (10, 32, 32)).astype(np.float32)
    network = BrightVoxels()
    GlandPredictor(network, central=True).predict(volume)
    crop = network.crops[0].numpy()
    np.testing.assert_array_equal(crop[7:17], volume)
    assert (crop[:7] == volume[0]).all() and (crop[17:] == volume[-1]).all()


def test_the_first_network_finds_the_crops_and_all_of_them_answer():
    volume = ball((40, 80, 80), (12, 24, 60))
    first, *others = networks = [BrightVoxels(), BrightVoxels(), BrightVoxels()]
    alone = GlandPredictor(BrightVoxels()).predict(volume)
    prediction = GlandPredictor(*networks).predict(volume)
    assert len(first.crops) == alone.looks > 1
    assert all(len(other.crops) == 1 and torch.equal(other.crops[0], first.crops[-1]) for other in others)
    assert prediction.looks == alone.looks + len(others)
    np.testing.assert_allclose(prediction.probability, alone.probability, atol=1e-6)
    assert prediction.members.shape == (3, *SIZE)


@pytest.mark.parametrize(
    ("shape", "center", "radius"),
    [
        ((60, 160, 160), (44, 30, 120), 5),  # one crop
        ((60, 160, 160), (40, 100, 100), 16),  # from further away, two tiles
        ((60, 160, 160), (30, 70, 80), 25),  # from further away, many tiles
    ],
)
def test_what_the_networks_disagree_about_is_that_of_the_whole_scan(shape, center, radius):
    """Its figures are those of maps that are as large as the scan, though these are never made."""
    volume = ball(shape, center, radius)
    networks = [BrightVoxels(), BlindAtTheFaces(), ThreeMinds()]
    first = GlandPredictor(networks[0]).predict(volume).probability
    others = [2 * GlandPredictor(networks[0], other).predict(volume).probability - first for other in networks[1:]]
    whole = np.stack([first, *others])
    prediction = GlandPredictor(*networks).predict(volume)
    spacing = (1.5, 1.0, 1.0)
    assert prediction.members[0].size < volume.size / 2
    assert pair_features(prediction.members, spacing) == pytest.approx(pair_features(whole, spacing), rel=1e-5)
    np.testing.assert_allclose(prediction.probability, whole.mean(axis=0), atol=1e-6)
    assert prediction.probability.shape == prediction.disagreement.shape == shape


def test_a_huge_field_of_view_takes_no_memory_for_every_output():
    volume = ball((150, 300, 300), (75, 150, 150))
    tracemalloc.start()
    GlandPredictor(*(BrightVoxels() for _ in range(5))).predict(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * volume.nbytes, "probability, disagreement, and what is small"


def test_the_networks_are_averaged_and_their_spread_is_told():
    class Dimmed(BrightVoxels):
        def answer(self, batch):
            return 0.5 * super().answer(batch)

    volume = np.ones(SIZE, np.float32)
    full = GlandPredictor(BrightVoxels()).predict(volume).probability.max()
    prediction = GlandPredictor(BrightVoxels(), Dimmed()).predict(volume)
    np.testing.assert_allclose(prediction.probability, 0.75 * full, atol=1e-4)
    np.testing.assert_allclose(prediction.members.mean(axis=(1, 2, 3)), [full, full / 2], atol=1e-4)
    np.testing.assert_allclose(prediction.disagreement, full / 4, atol=1e-4)


def test_central_mode_takes_one_crop_in_the_middle_and_the_main_output():
    volume = np.random.default_rng(0).uniform(0, 1, (40, 80, 80)).astype(np.float32)
    network = ThreeMinds()
    prediction = GlandPredictor(network, central=True).predict(volume)
    inside = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(volume.shape, SIZE, strict=True))
    assert prediction.looks == 1 and starts_of(network, volume) == [tuple(part.start for part in inside)]
    np.testing.assert_allclose(prediction.probability[inside], pointwise(volume)[inside], atol=1e-5)
    outside = np.ones(volume.shape, bool)
    outside[inside] = False
    assert (prediction.probability[outside] == 0).all() and (prediction.disagreement == 0).all()


@pytest.mark.parametrize(
    ("settings", "mean", "spread"),
    [
        ({}, (1 + 0.8 + 0.3) / 3, np.std([1, 0.8, 0.3])),
        ({"supervision": (0.8, 0.2, 0.0)}, 0.9, 0.1),
        ({"fusion": (1, 0, 0)}, 1.0, 0.0),
    ],
)
def test_the_fused_outputs_are_averaged_and_their_spread_is_told(settings, mean, spread):
    volume = np.ones(SIZE, np.float32)
    prediction = GlandPredictor(ThreeMinds(**settings)).predict(volume)
    np.testing.assert_allclose(prediction.probability, mean, atol=1e-4)
    np.testing.assert_allclose(prediction.disagreement, spread, atol=1e-4)


def test_a_progress_that_cancels_ends_the_work_before_the_next_crop():
    network, fractions = BrightVoxels(), []

    def progress(fraction):
        fractions.append(fraction)
        if len(fractions) == 3:
            raise Canceled()

    with pytest.raises(Canceled):
        GlandPredictor(network).predict(np.zeros((40, 80, 80), np.float32), notify=progress)
    assert len(network.crops) == 2
    assert fractions == sorted(fractions) and 0 <= fractions[0] and fractions[-1] < 1


def test_the_scan_is_not_changed():
    volume = ball((20, 40, 40), (10, 20, 20))
    before = volume.copy()
    GlandPredictor(BrightVoxels(), BrightVoxels()).predict(volume)
    assert np.array_equal(volume, before)
