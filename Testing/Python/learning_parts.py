"""Small parts for the learning tests: toy glands as prepared cases, scans on disk, and a plan that trains in seconds.

Run as a script it is one process of a training run, for tests that end processes or start several:
``python learning_parts.py FOLDER SETTINGS``; SETTINGS is JSON with the keyword arguments of ``run_toy_training``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import SimpleITK as sitk

PACKAGE_FOLDER = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
PATIENCE_SECONDS = 300  # a busy machine takes long to import PyTorch
SIZE, SPACING_MM = (12, 36, 40), (4.0, 2.0, 2.0)  # z, y, x: about the least that passes as a scan


def ellipsoid(size, center, radii) -> np.ndarray:
    """Boolean array (z, y, x); center and radii in voxels."""
    grid = np.ogrid[tuple(slice(0, n) for n in size)]
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True)) <= 1


def toy_scan(seed=0, center=(6, 18, 20), radii=(4, 8, 8)) -> tuple[sitk.Image, sitk.Image]:
    """A noisy scan with a bright gland and its mask."""
    gland = ellipsoid(SIZE, center, radii)
    voxels = np.random.default_rng(seed).normal(100, 10, SIZE) + 60 * gland
    image, mask = sitk.GetImageFromArray(voxels.astype(np.float32)), sitk.GetImageFromArray(gland.astype(np.uint8))
    for part in (image, mask):
        part.SetSpacing(SPACING_MM[::-1])
        part.SetOrigin((5.0, -7.0, 11.0))
    return image, mask


def write_images_and_labels(folder: Path, names, suffix=".nii.gz") -> Path:
    """A data set of toy scans in the layout images/ and labels/."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        for part, image in zip(("images", "labels"), toy_scan(seed), strict=True):
            sitk.WriteImage(image, str(folder / part / f"{name}{suffix}"))
    return folder


def toy_case(name: str, seed: int, size=(20, 40, 40)):
    """A prepared case: a bright ellipsoid off the middle, in noise."""
    from DDSPSegmentationLib.learning.dataset import PreparedCase

    draw = np.random.default_rng(seed)
    center = np.array(size) / 2 + draw.uniform(-3, 3, 3)
    gland = ellipsoid(size, center, (5, 9, 9))
    image = (draw.normal(0, 0.3, size) + 2 * gland).astype(np.float16)
    label = gland.astype(np.float16)
    return PreparedCase(name, image, image * np.float16(0.9), label, tuple(map(float, center)), identity_of(image))


def identity_of(voxels: np.ndarray):
    """What a scan of these voxels (z, y, x) is recognized by."""
    from DDSPSegmentationLib.engine.scan_identity import ScanIdentity

    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing(SPACING_MM[::-1])
    return ScanIdentity(image).without_image()


def toy_cases(count=3, first=0):
    return [toy_case(f"toy{number}", number) for number in range(first, first + count)]


def toy_plan(name="improved", widths=(4, 8, 8), supervision=(0.8, 0.15, 0.05), **changes):
    """A plan with a small network and small crops."""
    from DDSPSegmentationLib.engine.network import NetworkSettings
    from DDSPSegmentationLib.learning.plans import choose_plan

    network = NetworkSettings(widths=widths, growth=4, input_size=(16, 32, 32), supervision=supervision)
    return choose_plan(name, **{"network": network, "steps": 40, **changes})


def toy_trainer(folder, plan=None, training=None, validation=(), **options):
    from DDSPSegmentationLib.learning.training import Trainer

    training = toy_cases() if training is None else training
    options = {"device": "cpu", "precision": "float32", "progress": lambda text: None, **options}
    return Trainer(plan or toy_plan(), training, validation, folder, **options)


def taught_network(folder, steps=16):
    """A tiny network that has begun to learn what a toy gland is: training it further helps."""
    trainer = toy_trainer(folder, toy_plan(steps=steps, learning_rate=1e-2, ema_decay=0.0))
    for _ in range(steps):
        trainer.train_step()
    return trainer.network


def warm_weights(folder) -> dict:
    """Weights and batch-norm statistics after some steps: no gradient is as small as those of the first step."""
    trainer = toy_trainer(folder, toy_plan(learning_rate=1e-2))
    for _ in range(6):
        trainer.train_step()
    return trainer.network.state_dict()


def gradients_of(trainer) -> dict:
    return {name: parameter.grad.clone() for name, parameter in trainer.network.named_parameters()}


def assert_same_gradients(found: dict, expected: dict) -> None:
    """Equal within 1e-5, and those of layers with small gradients within a thousandth of their largest."""
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        assert float((found[name] - gradient).abs().max()) < min(1e-5, 1e-3 * largest + 1e-9), name


def run_toy_training(folder: Path, plan=None, resume=False, until=None, checkpoint_minutes=0.0) -> None:
    """Train in this process, saying ``step N`` after each step."""
    trainer = toy_trainer(folder, toy_plan(**(plan or {})), checkpoint_minutes=checkpoint_minutes)
    if resume:
        trainer.load_checkpoint()
        print(f"resumed at {trainer.step}", flush=True)
    take_step = trainer.train_step

    def announced_step():
        loss = take_step()
        print(f"step {trainer.step}", flush=True)
        return loss

    trainer.train_step = announced_step
    trainer.run(until=until)
    print(f"ended at {trainer.step}", flush=True)


def start_script(script: Path, *words: str, **environment: str) -> subprocess.Popen:
    """A Python process on one thread with the package on its path, its output piped as text."""
    path = os.pathsep.join((str(PACKAGE_FOLDER), str(Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_toy_training(folder: Path, **settings) -> subprocess.Popen:
    return start_script(Path(__file__), str(folder), json.dumps(settings))


def wait_for_line(process: subprocess.Popen, start: str) -> str:
    """Read a process's output up to a line that starts so; a process that takes too long is ended."""
    watchdog = threading.Timer(PATIENCE_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith(start):
                return line.strip()
    finally:
        watchdog.cancel()
    raise AssertionError(f"the process ended without '{start}': {process.communicate()[1]}")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    run_toy_training(Path(sys.argv[1]), **json.loads(sys.argv[2]))
