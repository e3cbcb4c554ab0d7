"""The client on real retrainings in processes of their own, and the logic's way to wait for one."""

import sys
import time
from pathlib import Path

import pytest
import slicer
from retraining_client_parts import (
    SENTENCES,
    furnish,
    let_python_slicer_retrain,
    make_stored,
    run_folders,
    the_run,
    trains,
)
from retraining_parts import PARENT, QUICK, tuned_versions
from worker_parts import is_running, wait_until

from DDSPSegmentationLib.engine.errors import Canceled, DatasetError, WorkerError
from DDSPSegmentationLib.library.folder_lock import FolderInUseError
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.scene import retraining_client
from DDSPSegmentationLib.scene.retraining_client import RetrainingClient, fine_tune
from DDSPSegmentationLib.service import retraining_run
from DDSPSegmentationLib.service.processes import kill_process
from DDSPSegmentationLib.service.retraining import retrain
from DDSPSegmentationLib.service.retraining_status import DISCARDED, DONE, FAILED, INTERRUPTED, PAUSED, RUNNING

PATIENCE_SECONDS = 300  # a busy machine gives little to a process that makes way for all others
SLOW = "1.0"  # seconds a step


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return make_stored(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def folders(slicer_window, home, stored, monkeypatch):
    """Cases and models of a user who works in Slicer's window."""
    let_python_slicer_retrain()
    return furnish(home, stored, monkeypatch)


@pytest.fixture
def make_client(folders):
    clients = []

    def make():
        clients.append(RetrainingClient())
        return clients[-1]

    yield make
    for client in clients:
        client.cancel(wait=True)


def start(client, folders):
    client.start(*folders, "", "cpu")
    return client


def look_until(client, condition, seconds=PATIENCE_SECONDS):
    """Look as the panel does, until something is true of the status; returns that status."""
    looked = []
    assert wait_until(lambda: looked.append(client.look()) or condition(looked[-1]), seconds, look_again), looked[-1]
    return looked[-1]


def look_again():
    slicer.app.processEvents()
    time.sleep(0.05)


def at_work(client, folders):
    look_until(start(client, folders), lambda status: status.stage.startswith("Cross-validation"))
    return the_run(folders[1])


def test_a_run_that_is_only_followed_goes_to_its_end(make_client, folders):
    client = start(make_client(), folders)
    assert client.isRunning and client.look().state == RUNNING
    points, stages = [], []

    def done(status):
        points.append(len(client.points()))
        stages.append(status.stage)
        return status.state == DONE

    status = look_until(client, done)
    (version,) = tuned_versions(ModelRegistry(folders[1]))
    assert status.version == version.name and version.comparison["sentences"] == SENTENCES
    assert points == sorted(points) and points[-1] > 5
    assert any(stage.startswith("Cross-validation") for stage in stages)
    assert not client.isRunning and run_folders(folders[1]) == []
    assert len(client.points()) == points[-1]


def test_a_canceled_run_leaves_no_process_and_no_folder(make_client, folders, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    client = make_client()
    pid = at_work(client, folders).pid
    began = time.monotonic()
    client.cancel()
    client.look()
    assert time.monotonic() - began < 1  # Slicer's window waits for nothing
    assert look_until(client, lambda status: status.state != RUNNING, 10).state == DISCARDED
    assert not client.isRunning and not is_running(pid)
    assert run_folders(folders[1]) == [] and tuned_versions(ModelRegistry(folders[1])) == []


def test_canceling_right_after_the_start_does_not_wait(make_client, folders):
    client = start(make_client(), folders)
    began = time.monotonic()
    client.cancel()
    first = client.look()
    assert time.monotonic() - began < 1
    if first.state == RUNNING:
        assert look_until(client, lambda status: status.state != RUNNING).state == DISCARDED
    assert run_folders(folders[1]) == []


def test_it_waits_while_a_scan_is_segmented_also_when_it_starts_meanwhile(make_client, folders):
    client = make_client()
    client.yieldTo(True)
    start(client, folders)
    status = look_until(client, lambda status: status.state == PAUSED)
    time.sleep(0.5)
    assert client.look().step == status.step
    client.yieldTo(False)
    look_until(client, lambda status: status.state == RUNNING and status.step > status.steps / 4)


def test_a_client_of_a_reloaded_module_takes_up_what_goes_on(make_client, folders, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    first = make_client()
    pid = at_work(first, folders).pid
    first.yieldTo(True)
    look_until(first, lambda status: status.state == PAUSED)
    second = make_client()
    assert second.find(folders[1]) == [] and second.isRunning
    assert look_until(second, lambda status: status.state == RUNNING).pid == pid
    second.cancel()
    assert look_until(second, lambda status: status.state != RUNNING, 10).state == DISCARDED
    assert not is_running(pid)
    assert first.look().state == DISCARDED and not first.isRunning


def test_a_process_that_was_killed_is_offered_and_goes_on(make_client, folders, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    client = make_client()
    kill_process(at_work(client, folders).pid)
    look_until(client, lambda status: status.state == INTERRUPTED, 10)
    assert not client.isRunning
    (other,) = client.find(folders[1])
    assert other.state == INTERRUPTED and not client.isRunning
    monkeypatch.setenv("STEP_SECONDS", "0")
    client.resume(other.folder)
    assert look_until(client, lambda status: status.state != RUNNING).state == DONE


def test_a_run_of_another_slicer_is_left_to_it(make_client, folders, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    first = make_client()
    folder = at_work(first, folders).folder
    (folder / "slicer.txt").write_text("process 1 on host elsewhere")
    client = make_client()
    (other,) = client.find(folders[1])
    assert other.state == RUNNING and not client.isRunning
    with pytest.raises(FolderInUseError):
        start(client, folders)


def test_a_program_that_ends_without_a_word_is_noticed_at_once(make_client, folders):
    Path(slicer.app.slicerHome, "bin", "PythonSlicer").write_text("#!/bin/sh\nexit 1\n")
    client = start(make_client(), folders)
    status = look_until(client, lambda status: status.state != RUNNING, 5)
    assert status.state == FAILED and "(exit code 1)" in status.message and "retraining.log" in status.next_step
    assert not client.isRunning and client.find(folders[1]) == [status] and not client.isRunning


def test_a_slicer_without_its_python_says_so_and_leaves_nothing(make_client, folders):
    Path(slicer.app.slicerHome, "bin", "PythonSlicer").unlink()
    with pytest.raises(WorkerError, match="PythonSlicer"):
        start(make_client(), folders)
    assert run_folders(folders[1]) == []


# ---- fine_tune


def test_a_script_in_a_window_waits_for_the_candidate_and_hears_of_its_progress(folders):
    torch, told = sys.modules.get("torch"), []
    version = fine_tune(device="cpu", progress=lambda stage, fraction: told.append((stage, fraction)))
    assert version.name in [one.name for one in tuned_versions(ModelRegistry(folders[1]))]
    fractions = [fraction for _stage, fraction in told]
    assert fractions == sorted(fractions) and 0 <= fractions[0] and fractions[-1] <= 1
    assert sys.modules.get("torch") is torch and ModelRegistry(folders[1]).active().name == PARENT


def test_what_progress_raises_ends_the_process_and_is_raised(folders, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    pids = []

    def stop(stage, fraction):
        if trains(folders[1]):
            pids.append(the_run(folders[1]).pid)
            raise Canceled()

    with pytest.raises(Canceled):
        fine_tune(*folders, device="cpu", progress=stop)
    assert not is_running(pids[0]) and run_folders(folders[1]) == []


def test_without_a_window_the_work_is_done_in_this_process(slicer_without_window, home, stored, monkeypatch):
    folders = furnish(home, stored, monkeypatch)
    monkeypatch.setattr(retraining_client, "retrain", lambda *parts: retrain(*parts, settings=QUICK))
    monkeypatch.setattr(retraining_client, "start_retraining_process", None)
    compare = retraining_run.compare_versions
    monkeypatch.setattr(
        retraining_run, "compare_versions", lambda *parts, **named: compare(*parts, **named, sample=None)
    )
    told = []
    version = retraining_client.fine_tune(progress=lambda stage, fraction: told.append(stage))
    assert tuned_versions(ModelRegistry(folders[1]))[0].name == version.name
    assert told[-1] == "Done" and run_folders(folders[1]) == []

    def stop(stage, fraction):
        raise Canceled()

    with pytest.raises(Canceled):
        retraining_client.fine_tune(progress=stop)
    assert run_folders(folders[1]) == []


def test_too_few_cases_are_refused_before_anything_starts(slicer_window, home):
    with pytest.raises(DatasetError, match="0 training cases"):
        fine_tune(device="cpu")
    assert run_folders(home / "DDSPSegmentation" / "Models") == []
