"""A made-up hospital for benchmarks that need no real scans: its patients, and a network that trains in a second."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "DDSPSegmentation"), str(REPOSITORY / "Testing" / "Python")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from learning_parts import SIZE, toy_scan  # noqa: E402

from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, SeenScans  # noqa: E402
from DDSPSegmentationLib.learning.finetuning_settings import FineTuningSettings  # noqa: E402
from DDSPSegmentationLib.library.model_registry import ModelRegistry  # noqa: E402

FIRST_VERSION = "tiny"
QUICK = FineTuningSettings(steps_per_case=1, least_steps=2, most_steps=2, folds=2, stops=(1.0,))


def scan_of(patient: int, visit: int = 0) -> tuple[sitk.Image, sitk.Image]:
    """A scan with its gland and its mask; gland and surroundings are the patient's own, and differ between visits."""
    draw = np.random.default_rng((patient, visit))
    center = np.array((6, 18, 20)) + draw.uniform(-1, 1, 3) * (0.5, 3, 3)
    radii = np.array((4, 9, 10)) * draw.uniform(0.9, 1.1, 3)
    image, mask = toy_scan(1000 * patient + visit, tuple(center), tuple(radii))
    surroundings = sitk.GetImageFromArray(draw.normal(0, 1, SIZE).astype(np.float32))
    surroundings.CopyInformation(image)
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(surroundings, 6.0))
    return changed(image, sitk.GetArrayFromImage(image) + 60 * smooth / smooth.std()), mask


def near_copy(image: sitk.Image, draw: np.random.Generator) -> sitk.Image:
    """The scan as another export might give it: other units and a little noise."""
    voxels = sitk.GetArrayFromImage(image)
    noise = draw.normal(0, 0.02 * voxels.std(), voxels.shape)
    return changed(image, (voxels + noise) * draw.uniform(0.5, 2.0))


def edited(mask: sitk.Image, draw: np.random.Generator) -> sitk.Image:
    """The mask as another hand might draw it: moved by a voxel or two in plane."""
    voxels = sitk.GetArrayFromImage(mask)
    moved = np.roll(voxels, tuple(draw.integers(-2, 3, 2)), axis=(1, 2))
    return changed(mask, moved.astype(np.uint8))


def changed(like: sitk.Image, voxels: np.ndarray) -> sitk.Image:
    """Other voxels on the same grid."""
    image = sitk.GetImageFromArray(voxels.astype(np.uint8 if voxels.dtype == np.uint8 else np.float32))
    image.CopyInformation(like)
    return image


def content_of(image: sitk.Image) -> str:
    """What tells one scan from another, whatever file it is in."""
    return hashlib.sha256(sitk.GetArrayFromImage(image).astype(np.float32).tobytes()).hexdigest()


def make_tiny_model(folder: Path, seen: SeenScans = NOTHING_SEEN, seed: int = 0) -> Path:
    """A model folder with a network that knows nothing yet, whatever it says that it was trained on."""
    import torch

    from DDSPSegmentationLib.engine.model import save_model
    from DDSPSegmentationLib.engine.network import DDSPConvNet, NetworkSettings
    from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings

    torch.manual_seed(seed)
    network = DDSPConvNet(NetworkSettings(widths=(2, 4, 4), growth=2, input_size=(16, 32, 32)))
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off").to_dict()
    save_model(folder, [network], preprocessing, seen=seen)
    return folder


def start_registry(folder: Path, model: Path) -> ModelRegistry:
    """A registry whose first version, the tiny network, is active."""
    registry = ModelRegistry(folder)
    registry.publish(model, FIRST_VERSION, {})
    registry.activate(FIRST_VERSION)
    return registry


def always_make_a_version() -> None:
    """Let every retraining of this process make a version: what knows nothing has gained nothing after two steps."""
    from DDSPSegmentationLib.learning.finetuning import FineTuner

    choose = FineTuner._choose_length

    def choose_some(tuner: FineTuner, scores: dict[str, list[float]]) -> tuple[int, dict]:
        length, found = choose(tuner, scores)
        return length or tuner._longest, found

    FineTuner._choose_length = choose_some


def compare_on_a_toy_scan(folder: Path) -> None:
    """Let this process measure drift on a toy scan, not on the bundled one, which takes seconds and shows no more."""
    from DDSPSegmentationLib.learning import comparison

    path = folder / "drift.mha"
    if not path.is_file():
        sitk.WriteImage(scan_of(0)[0], str(path))
    comparison.sample_scan = lambda: path
