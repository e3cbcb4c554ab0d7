"""Made-up patients, and a network that learned a little from three of them: what the self test retrains on.

``python -m DDSPSegmentationLib.learning.made_up FOLDER`` makes that network the active version of a models folder; it
runs in a process of its own, since PyTorch never loads into a Slicer with a window.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

VERSION = "made-up"
SIZE, SPACING_MM = (12, 36, 40), (2.0, 2.0, 4.0)  # (z, y, x) and (x, y, z): about the least that passes as a scan
STEPS = 10  # after so few there is much left to learn


def made_up_scan(number: int) -> tuple[sitk.Image, sitk.Image]:
    """A noisy scan with a bright gland somewhere in its middle, and the gland's mask."""
    draw = np.random.default_rng(number)
    center, radii = (6, 18, 20) + draw.uniform(-1, 1, 3) * (0.5, 3, 3), draw.uniform(0.9, 1.1, 3) * (4, 8, 8)
    grid = np.ogrid[tuple(slice(0, count) for count in SIZE)]
    gland = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True)) <= 1
    voxels = draw.normal(100, 10, SIZE) + 60 * gland
    image, mask = sitk.GetImageFromArray(voxels.astype(np.float32)), sitk.GetImageFromArray(gland.astype(np.uint8))
    for part in (image, mask):
        part.SetSpacing(SPACING_MM)
    return image, mask


def make_version(models_folder: Path) -> None:
    """Train a tiny network for a few steps, publish and activate it."""
    from ..engine.network import NetworkSettings
    from ..engine.preprocessing import PreprocessingSettings
    from ..library.model_registry import ModelRegistry
    from .dataset import Case, prepare_dataset
    from .plans import choose_plan
    from .training import Trainer

    preprocessing = PreprocessingSettings(spacing_mm=SPACING_MM, bias_field="off")
    network = NetworkSettings(widths=(4, 8, 8), growth=4, input_size=(16, 32, 32))
    plan = choose_plan("improved", network=network, preprocessing=preprocessing, steps=STEPS, learning_rate=1e-2)
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for number in range(1000, 1003):
            case = Case(str(number), Path(folder, f"{number}.mha"), Path(folder, f"{number}-mask.mha"))
            for part, path in zip(made_up_scan(number), (case.image_path, case.label_path), strict=True):
                sitk.WriteImage(part, str(path))
            cases.append(case)
        prepared = prepare_dataset(cases, preprocessing, None, lambda text: None)
        Trainer(plan, prepared, [], Path(folder, "run"), device="cpu", progress=lambda text: None).run()
        registry = ModelRegistry(models_folder)
        registry.publish(Path(folder, "run", "model"), VERSION, {})
        registry.activate(VERSION)


if __name__ == "__main__":
    make_version(Path(sys.argv[1]))
