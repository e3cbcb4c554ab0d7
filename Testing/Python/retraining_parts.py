"""Small parts for the retraining tests: a library of toy scans, a registry with a tiny network, quick settings.

``QUICK_PYTHON`` is the command of a Python in which a retraining takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from learning_parts import PACKAGE_FOLDER, taught_network, toy_scan

from DDSPSegmentationLib.engine.model import BUILTIN_MODEL
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.learning.finetuning_settings import FineTuningSettings
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.library.case_records import HOLD_OUT, TRAINING
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service.retraining_run import RUN_LOCK

QUICK_SETTINGS = {"learning_rate": 3e-3, "least_steps": 4, "most_steps": 4, "stops": (0.5, 1.0), "folds": 2}
QUICK = FineTuningSettings(**QUICK_SETTINGS)
PARENT = "tiny-1"
SALT = "5a" * 32  # the drawn splits depend on it alone

# The real process, but with few steps, the checkpoints of a minute in each, and steps that take as long as is said.
QUICK_PYTHON = [
    sys.executable,
    "-c",
    f"""
import functools, os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
from DDSPSegmentationLib.learning import comparison, finetuning, training
from DDSPSegmentationLib.service import retraining_process
finetuning.FineTuningSettings = functools.partial(finetuning.FineTuningSettings, **{QUICK_SETTINGS!r})
finetuning.SAVE_SECONDS = 0.0
train_step = training.Trainer.train_step
def slow_step(self):
    time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    return train_step(self)
training.Trainer.train_step = slow_step
sample = os.environ.get("SAMPLE")
if sample:
    comparison.sample_scan = lambda: __import__("pathlib").Path(sample)
os._exit(retraining_process.main(sys.argv[3:]))
""",
]


@contextlib.contextmanager
def another_at_work(run_folder: Path, pid: int | None = None):
    """A process that holds a run's lock and does not hear; it may call itself by another id."""
    code = "import os, sys, DDSPSegmentationLib.library.folder_lock as locks\n"
    code += "" if pid is None else f"os.getpid = lambda: {pid}\n"
    code += f"with locks.FolderLock({str(run_folder)!r}, {RUN_LOCK!r}): print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, env=environment) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def make_library(folder: Path, training: int = 5, hold_out: int = 2) -> CaseLibrary:
    """A library with so many patients of each split, one case each."""
    folder.mkdir(parents=True)
    (folder / "salt").write_text(SALT)
    library = CaseLibrary(folder)
    wanted = {TRAINING: training, HOLD_OUT: hold_out}
    number = 0
    while any(wanted.values()):
        number += 1
        image, mask = numbered_scan(number)
        stored = library.add(image, mask, patient_key=f"patient {number}", source_name=f"source{number}")
        if not wanted[stored.case.split]:
            library.delete(stored.case.id)
            continue
        wanted[stored.case.split] -= 1
    return library


def numbered_scan(number: int) -> tuple[sitk.Image, sitk.Image]:
    """One of many toy scans of different patients."""
    draw = np.random.default_rng(number)
    center = tuple(np.array((6, 18, 20)) + draw.uniform(-1, 1, 3) * (0.5, 3, 3))
    return toy_scan(number, center, tuple(draw.uniform(0.9, 1.1, 3) * (4, 8, 8)))


def make_registry(folder: Path, **facts) -> ModelRegistry:
    """A registry whose active version has a tiny network that knows little yet."""
    from DDSPSegmentationLib.engine.model import save_model
    from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings

    made = folder.parent / f"made-{folder.name}"
    seen = NOTHING_SEEN.with_training([("old-1", ScanIdentity(numbered_scan(901)[0]))])
    facts = {"training": {"cases": ["old-1"], "replay": ["rehearsed-1"]}, "seen": seen, **facts}
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off")
    save_model(made, [taught_network(folder.parent / f"taught-{folder.name}")], preprocessing.to_dict(), **facts)
    registry = ModelRegistry(folder)
    registry.publish(made, PARENT, {})
    registry.activate(PARENT)
    return registry


def small_sample(folder: Path) -> Path:
    """A toy scan in the place of the bundled one, which takes longer."""
    path = folder / "sample.nrrd"
    sitk.WriteImage(numbered_scan(99)[0], str(path))
    return path


def tuned_versions(registry: ModelRegistry) -> list:
    return [version for version in registry.versions() if version.name not in (PARENT, BUILTIN_MODEL)]


def write_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
