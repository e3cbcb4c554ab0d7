"""What tests of a retraining from inside Slicer share: a user's cases and models, and a PythonSlicer that is quick.

A pretended retraining is the real process, with its status, its lock and its watch over Slicer; only that it takes
steps without learning anything, so that it needs no PyTorch, and publishes a copy of the version it started from.
"""

import contextlib
import shlex
import shutil
import sys
from pathlib import Path

import slicer
from retraining_parts import make_library, make_registry, small_sample

from DDSPSegmentationLib.service.retraining_status import RUNNING, read_status

PRETENDED_STEPS = 40
SENTENCES = ["Too few cases to judge. 1 patient was kept for checking.", "Keep the old version."]
PRETENDED_PYTHON = [
    sys.executable,
    "-c",
    f"""
import json, os, sys, time
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service import retraining_process
from DDSPSegmentationLib.service.retraining_job import RetrainingJob
from DDSPSegmentationLib.learning.finetuning import FineTuningProgress
from DDSPSegmentationLib.service.retraining_run import NothingGained

def retrain(folder, progress, pause, ended):
    job = RetrainingJob.read(folder)
    registry = ModelRegistry(job.models_folder)
    with retraining_process.retraining_lock(registry.runs_folder):
        for step in range(1, {PRETENDED_STEPS} + 1):
            pause()
            time.sleep(float(os.environ.get("STEP_SECONDS", "0.05")))
            share = step / {PRETENDED_STEPS}
            dice = share if step % 5 == 0 else None
            progress(FineTuningProgress("Cross-validation 1 of 1", share, 300 * (1 - share), step, 40, 1 / step, dice))
        if "HELPS_NOBODY" in os.environ:
            outcome = NothingGained("Training does not help yet.", "The old version stays.")
            ended(outcome)
            (folder / "job.json").unlink()
            raise outcome
        comparison = {{"sentences": {SENTENCES!r}, "recommendation": "keep", "verdict": "too few cases to judge"}}
        files = {{"comparison.json": json.dumps(comparison).encode()}}
        version = registry.publish(registry.version(job.parent).folder, "tuned-" + job.token[:4], files)
        ended(version)
        (folder / "job.json").unlink()
    return version

retraining_process.retrain, retraining_process.load_torch = retrain, lambda: None
os._exit(retraining_process.main(sys.argv[3:]))
""",
]
TRAINING_STAGES = ("Cross-validation", "Training on")


def make_stored(folder, training=5, hold_out=1):
    """Cases and models as a user has them below the home folder, to be copied for each test."""
    make_library(folder / "Cases", training, hold_out)
    make_registry(folder / "Models")
    return folder


def furnish(home, stored, monkeypatch):
    """Give a user these cases and models; retrainings in processes use one thread and a small sample scan."""
    shutil.copytree(stored, home / "DDSPSegmentation")
    monkeypatch.setenv("SAMPLE", str(small_sample(home)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return home / "DDSPSegmentation" / "Cases", home / "DDSPSegmentation" / "Models"


def let_python_slicer_retrain(command=PRETENDED_PYTHON):
    """From now on retrainings take seconds; all else that the launcher starts is as ever."""
    quick = " ".join(map(shlex.quote, command))
    launcher = Path(slicer.app.slicerHome, "bin", "PythonSlicer")
    launcher.write_text(
        "#!/bin/sh\n"
        f'case "$2" in *retraining_process) {quick} "$@" ;; *) {shlex.quote(sys.executable)} "$@" ;; esac\n'
        "code=$?\n[ $code -lt 128 ] || exit 1\nexit $code\n"
    )


def run_folders(models):
    runs = Path(models) / "runs"
    return sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []


def the_run(models):
    """How the only run stands."""
    (folder,) = run_folders(models)
    return read_status(folder)


def is_training(status):
    return status.state == RUNNING and status.pid > 0 and status.stage.startswith(TRAINING_STAGES)


def trains(models):
    """Whether there is a run that takes steps."""
    with contextlib.suppress(ValueError):
        return is_training(the_run(models))
    return False
