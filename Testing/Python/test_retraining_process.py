"""The retraining's own process: killed at any moment it goes on, without its Slicer it ends, and it makes way."""

import errno
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from learning_parts import PACKAGE_FOLDER
from retraining_parts import (
    PARENT,
    QUICK,
    QUICK_PYTHON,
    another_at_work,
    make_library,
    make_registry,
    small_sample,
    tuned_versions,
    write_json,
)
from worker_parts import is_running, wait_until

from DDSPSegmentationLib.engine.errors import DatasetError, StorageError, WorkerError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.learning import comparison
from DDSPSegmentationLib.learning.finetuning import FineTuningProgress
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.library.folder_lock import FolderInUseError, Holder, lock_holder
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service import retraining_process, retraining_run, retraining_status
from DDSPSegmentationLib.service.processes import kill_process
from DDSPSegmentationLib.service.retraining import make_job, retrain
from DDSPSegmentationLib.service.retraining_job import START_AGAIN
from DDSPSegmentationLib.service.retraining_process import (
    EXIT_NOT_NEEDED,
    EXIT_STOPPED,
    cancel_retraining,
    discard_run,
    explain,
    pause_retraining,
    start_retraining_process,
    unfinished_runs,
)
from DDSPSegmentationLib.service.retraining_run import CANDIDATE_FILE, NothingGained
from DDSPSegmentationLib.service.retraining_status import (
    DISCARDED,
    DONE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    RUNNING,
    StatusWriter,
    read_curve,
    read_status,
)

TRAINING_STAGES = ("Cross-validation", "Training on")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    make_library(folder / "cases", training=5, hold_out=1)
    make_registry(folder / "models")
    return folder


@pytest.fixture
def place(stored, tmp_path, monkeypatch):
    """A folder with cases and models; processes started for it use one thread and a small sample scan."""
    for name in ("cases", "models"):
        shutil.copytree(stored / name, tmp_path / name)
    monkeypatch.setenv("SAMPLE", str(small_sample(tmp_path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def started(place):
    """Starts a run's process; whatever is left at the end is ended."""
    processes = []

    def start(run_folder, **options):
        processes.append(start_retraining_process(run_folder, QUICK_PYTHON, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def job(place):
    return make_job(place / "cases", place / "models")


def wait_for(run_folder, condition, seconds=120):
    assert wait_until(lambda: condition(read_status(run_folder)), seconds), read_status(run_folder)
    return read_status(run_folder)


def is_training(status):
    return status.state == RUNNING and status.stage.startswith(TRAINING_STAGES)


def versions_of(place):
    return tuned_versions(ModelRegistry(place / "models"))


# ---- a run from its start to its end


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory):
    """A run that nobody disturbed: its folder, what its process was like, its version."""
    place = tmp_path_factory.mktemp("whole")
    for name in ("cases", "models"):
        shutil.copytree(stored / name, place / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPLE", str(small_sample(place)))
        patch.setenv("OMP_NUM_THREADS", "1")
        run_folder = job(place)
        process = start_retraining_process(run_folder, QUICK_PYTHON)
        status = wait_for(run_folder, is_training)
        seen = {"status": status, "niceness": os.getpriority(os.PRIO_PROCESS, status.pid), "pid": process.pid}
        assert process.wait(120) == 0
    (version,) = versions_of(place)
    return run_folder, seen, version


def test_the_process_publishes_a_candidate_and_says_so(whole):
    run_folder, _, version = whole
    status = read_status(run_folder)
    assert (status.state, status.version, status.fraction) == (DONE, version.name, 1.0)
    assert version.comparison["new_version"] == version.name
    assert unfinished_runs(run_folder.parents[1]) == []


def test_the_process_makes_way_for_others_and_says_who_it_is(whole):
    _, seen, _ = whole
    assert seen["status"].pid == seen["pid"]
    assert seen["niceness"] >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)


def test_the_curve_has_loss_and_dice_over_rising_steps(whole):
    rows = read_curve(whole[0])
    steps = [step for step, _, _ in rows]
    assert steps == sorted(steps) and steps[-1] >= 8
    assert sum(loss is not None for _, loss, _ in rows) > 3 and sum(dice is not None for _, _, dice in rows) > 3


def test_nothing_of_a_finished_run_stays_but_what_is_shown(whole):
    assert sorted(path.name for path in whole[0].iterdir()) == [
        "curve.csv",
        "retraining.log",
        "run.lock",
        "status.json",
    ]
    assert (whole[0] / "retraining.log").read_text() == ""


def test_a_finished_run_is_discarded_without_its_version(whole):
    run_folder, _, version = whole
    copy = run_folder.with_name("copy")
    shutil.copytree(run_folder, copy)
    discard_run(copy)
    assert not copy.exists() and read_status(copy).state == DISCARDED
    assert version.folder.is_dir()


# ---- ended from outside


def test_a_process_killed_at_random_moments_goes_on_to_the_very_same_end(place, started, whole, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    run_folder = job(place)
    for fraction in sorted(random.Random(7).uniform(0, 1) for _ in range(3)):
        process = started(run_folder)
        wait_for(run_folder, lambda status, at=fraction: status.state == DONE or status.pid and status.fraction >= at)
        process.kill()
        process.wait()
        if read_status(run_folder).state == DONE:
            break
        (status,) = unfinished_runs(place / "models")
        assert (status.folder, status.state) == (run_folder, INTERRUPTED) and status.made
    if read_status(run_folder).state != DONE:
        assert started(run_folder).wait(120) == 0
    (version,) = versions_of(place)
    assert version.ledger["weights_sha256"] == whole[2].ledger["weights_sha256"]
    assert version.comparison["verdict"] == whole[2].comparison["verdict"]
    steps = [step for step, _, _ in read_curve(run_folder)]
    assert steps == sorted(steps)


PARENT_PROGRAM = """
import sys
from DDSPSegmentationLib.service.retraining_process import start_retraining_process
process = start_retraining_process(sys.argv[1], {command!r})
print(process.pid, flush=True)
if {forgets}:  # as a reload of the module does
    for name in [name for name in sys.modules if name.startswith("DDSPSegmentationLib")]:
        del sys.modules[name]
    del process
    import gc; gc.collect()
input()
"""


@pytest.mark.parametrize("forgets", [False, True], ids=["", "also after a reload, and not because of it"])
def test_the_process_ends_soon_after_its_parent(place, monkeypatch, forgets):
    monkeypatch.setenv("STEP_SECONDS", "0.3")
    run_folder = job(place)
    program = PARENT_PROGRAM.format(command=QUICK_PYTHON, forgets=forgets)
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER)}
    command = [sys.executable, "-c", program, str(run_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        pid = int(parent.stdout.readline())
        assert wait_for(run_folder, is_training).pid == pid
        parent.kill()
        killed = time.monotonic()
        assert wait_until(lambda: not is_running(pid) and read_status(run_folder).state == INTERRUPTED, 30)
        assert time.monotonic() - killed < 2


def test_a_process_that_starts_after_its_parent_has_ended_does_nothing(place):
    run_folder = job(place)
    command = [*QUICK_PYTHON, "-m", "DDSPSegmentationLib.service.retraining_process", str(run_folder)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER)}
    assert subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, timeout=60).returncode != 0
    # Ended while it tried its drive's locks, it leaves a fork behind that has the lock for one more moment.
    assert wait_until(lambda: read_status(run_folder).state == INTERRUPTED, 10)
    assert versions_of(place) == []


def test_a_paused_run_waits_between_two_steps_and_then_goes_on(place, started, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    run_folder = job(place)
    process = started(run_folder)
    wait_for(run_folder, is_training)
    pause_retraining(run_folder, True)
    before = wait_for(run_folder, lambda status: status.state == PAUSED)
    time.sleep(1.5)
    assert read_status(run_folder) == before
    # Terminated while it waits, it stops with a checkpoint; and a start does not find it paused.
    process.terminate()
    assert process.wait(30) == EXIT_STOPPED
    assert read_status(run_folder).state == INTERRUPTED
    monkeypatch.setenv("STEP_SECONDS", "0")
    process = started(run_folder)
    wait_for(run_folder, lambda status: status.state == RUNNING and status.pid == process.pid)
    pause_retraining(run_folder, True)
    wait_for(run_folder, lambda status: status.state == PAUSED)
    pause_retraining(run_folder, False)
    assert process.wait(120) == 0 and len(versions_of(place)) == 1


def test_canceling_ends_the_process_and_leaves_nothing(place, started, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.3")
    run_folder = job(place)
    process = started(run_folder)
    status = wait_for(run_folder, is_training)
    with pytest.raises(FolderInUseError, match=str(process.pid)):
        discard_run(run_folder)
    with pytest.raises(FolderInUseError, match="at work already"):
        started(run_folder)
    with pytest.raises(FolderInUseError, match=str(process.pid)):
        job(place)
    cancel_retraining(run_folder)
    assert process.wait(10) == EXIT_NOT_NEEDED and not is_running(status.pid)  # it ended by itself
    assert read_status(run_folder).state == DISCARDED and versions_of(place) == []
    assert [path.name for path in run_folder.parent.iterdir() if path.is_dir()] == []
    assert len(CaseLibrary(place / "cases").cases()) == 6
    assert job(place).is_dir()


def test_canceling_a_run_before_its_process_has_said_a_word_ends_it_too(place, started):
    run_folder = job(place)
    process = started(run_folder)
    cancel_retraining(run_folder)
    assert process.wait(60) != 0
    assert [path.name for path in run_folder.parent.iterdir() if path.is_dir()] == []


def test_a_process_that_does_not_hear_is_ended_by_force(place):
    run_folder = job(place)
    with another_at_work(run_folder) as deaf:
        assert read_status(run_folder).state == RUNNING and read_status(run_folder).pid == deaf.pid
        cancel_retraining(run_folder, patience_seconds=0.2)
        assert deaf.wait(10) == -signal.SIGKILL
    assert read_status(run_folder).state == DISCARDED


def test_a_process_that_took_up_the_run_meanwhile_is_not_ended_in_the_place_of_the_one_before(place, monkeypatch):
    run_folder = job(place)
    with another_at_work(run_folder) as other:
        holders = iter([Holder(4711, socket.gethostname(), "long ago")])
        monkeypatch.setattr(retraining_process, "lock_holder", lambda *words: next(holders, lock_holder(*words)))
        monkeypatch.setattr(retraining_process, "CANCEL_SECONDS", 0.2)
        with pytest.raises(FolderInUseError, match="at work in process"):
            cancel_retraining(run_folder, patience_seconds=0.2)
        assert other.poll() is None and run_folder.is_dir()


# ---- what a status is worth


def test_a_process_with_the_id_of_an_earlier_one_is_not_taken_for_it(place):
    """Killed, it leaves its words in the lock file; its id then belongs to somebody else."""
    run_folder = job(place)
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with another_at_work(run_folder, stranger.pid) as earlier:
            assert read_status(run_folder).pid == stranger.pid
            earlier.kill()
            earlier.wait()
        assert str(stranger.pid) in (run_folder / "run.lock").read_text()
        assert read_status(run_folder).state == INTERRUPTED and read_status(run_folder).pid == 0
        cancel_retraining(run_folder)
        assert not run_folder.exists() and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


@pytest.mark.parametrize("pid", [1, 0, -1])
def test_no_process_of_the_system_is_ever_ended(place, monkeypatch, pid):
    with pytest.raises(ValueError, match="not a process that may be ended"):
        kill_process(pid)
    run_folder = job(place)
    monkeypatch.setattr(retraining_process, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(retraining_process, "kill_process", lambda pid: pytest.fail(f"{pid} was to be ended"))
    with another_at_work(run_folder, pid), pytest.raises(FolderInUseError):
        cancel_retraining(run_folder, patience_seconds=0.2)
    assert run_folder.is_dir()


def test_a_run_that_another_computer_works_on_is_running_and_not_ended_by_force(place, monkeypatch):
    run_folder = job(place)
    monkeypatch.setattr(retraining_process, "CANCEL_SECONDS", 0.2)
    with another_at_work(run_folder) as other:
        monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
        assert read_status(run_folder).state == RUNNING
        with pytest.raises(FolderInUseError):
            cancel_retraining(run_folder, patience_seconds=0.2)
        assert other.poll() is None


def test_what_a_process_says_of_its_end_is_believed_when_it_has_ended(place):
    run_folder = job(place)
    with another_at_work(run_folder):
        for state in (DONE, FAILED):
            write_text(json.dumps({"state": state}), run_folder / "status.json")
            assert read_status(run_folder).state == RUNNING
        StatusWriter(run_folder).set_state(PAUSED)
        assert read_status(run_folder).state == PAUSED
    assert read_status(run_folder).state == INTERRUPTED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 7}', '{"state": "running", "pid": "x"}', '{"none": []}'])
def test_a_damaged_status_is_an_interrupted_run(place, text):
    run_folder = job(place)
    (run_folder / "status.json").write_text(text)
    assert read_status(run_folder).state == INTERRUPTED
    assert [status.folder for status in unfinished_runs(place / "models")] == [run_folder]


def test_a_run_of_an_older_version_has_its_date_and_can_only_be_discarded(place):
    run_folder = job(place)
    made = read_status(run_folder).made
    write_json(run_folder / "job.json", schema_version=1, cases=[{"id": "a3f9-0001", "origin": "told by 0.1.0"}])
    assert made.startswith("20") and read_status(run_folder).made == made
    with pytest.raises(DatasetError, match="begun by an older version of the extension") as caught:
        retraining_process.start_retraining_process(run_folder)
    assert caught.value.next_step == START_AGAIN
    discard_run(run_folder)
    assert unfinished_runs(place / "models") == []


def test_a_run_of_a_newer_version_says_to_update(place):
    run_folder = job(place)
    write_json(run_folder / "job.json", schema_version=99)
    with pytest.raises(DatasetError, match="another version of the extension .* Update the extension, or discard"):
        retraining_process.start_retraining_process(run_folder)


@pytest.mark.parametrize("helps", [True, False])
def test_the_outcome_is_known_before_anything_of_the_run_is_deleted(place, one_thread, monkeypatch, helps):
    """As after a kill in this moment; what the run has left then is deleted by the next one."""
    settings = QUICK if helps else replace(QUICK, learning_rate=1e-9)
    monkeypatch.setattr(retraining_process, "retrain", functools.partial(retrain, settings=settings))
    monkeypatch.setattr(comparison, "sample_scan", lambda: place / "sample.nrrd")
    run_folder, found = job(place), []

    def look(folder):
        shutil.copytree(folder, folder.with_name("run-killed"), ignore=shutil.ignore_patterns("*.lock"))
        found.append(read_status(folder.with_name("run-killed")))

    monkeypatch.setattr(retraining_run, "_clear", look)
    with suppress(NothingGained):
        retraining_process.ReportedRun(run_folder).run()
    (status,) = found
    assert status.state == DONE and bool(status.version) == helps and bool(status.message) != helps
    assert unfinished_runs(place / "models") == []
    kept = job(place)
    assert [path for path in kept.parent.iterdir() if path.is_dir()] == [kept]


def test_a_run_that_was_never_started_can_be_started_or_discarded(place):
    run_folder = job(place)
    assert read_status(run_folder).state == INTERRUPTED
    discard_run(run_folder)
    assert unfinished_runs(place / "models") == [] and unfinished_runs(place / "none") == []
    with pytest.raises(DatasetError, match="not there any more"):
        start_retraining_process(run_folder)


def test_the_curve_of_a_resumed_run_forgets_the_steps_that_were_lost(tmp_path):
    def tell(*steps):
        writer = StatusWriter(tmp_path)
        for step in steps:
            writer.tell(FineTuningProgress("Training", step / 20, 1.0, step, 20, loss=1 / step))

    tell(5, 10, 15)
    tell(10, 15, 20)
    assert [step for step, _, _ in read_curve(tmp_path)] == [5, 10, 15, 20]
    with open(tmp_path / "curve.csv", "a") as file:
        file.write("25,0.")  # being written
    assert len(read_curve(tmp_path)) >= 4


def test_the_status_is_renewed_every_second_while_steps_are_taken(tmp_path):
    writer = StatusWriter(tmp_path)
    writer.tell(FineTuningProgress("Training", 0.1, 1.0))
    writer.tell(FineTuningProgress("Training", 0.2, 1.0))
    assert read_status(tmp_path).fraction == 0.1
    time.sleep(1.1)
    writer.tell(FineTuningProgress("Training", 0.3, 1.0))
    assert read_status(tmp_path).fraction == 0.3


# ---- what goes wrong


def test_the_last_word_is_said_on_a_full_disk(tmp_path, monkeypatch):
    writer = StatusWriter(tmp_path)
    writer.tell(FineTuningProgress("A stage with a long name " * 20, 0.5, 1.0))

    def full(*_):
        raise StorageError("No room.")

    monkeypatch.setattr(retraining_status, "write_json", full)
    writer.end(FAILED, message="No room.")
    assert (read_status(tmp_path).state, read_status(tmp_path).message) == (FAILED, "No room.")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full."),
        (RuntimeError("[enforce fail] . PytorchStreamWriter: No space left"), "The disk is full."),
        (MemoryError(), "The computer ran out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "The computer ran out of memory."),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "The GPU ran out of memory."),
        (KeyError("Mr Smith.nrrd"), "(KeyError)"),
    ],
)
def test_every_error_has_a_cause_and_a_next_step_that_name_no_patient(error, words):
    explained = explain(error)
    assert words in explained.cause and explained.next_step and "Smith" not in str(explained)


def test_a_failed_run_says_why_and_can_be_resumed(place, started):
    run_folder = job(place)
    away = place / "away"
    (place / "models" / "versions" / PARENT).rename(away)
    assert started(run_folder).wait(60) != 0
    status = read_status(run_folder)
    assert status.state == FAILED and PARENT in status.message and status.next_step
    assert unfinished_runs(place / "models")[0].state == FAILED
    assert status.message in (run_folder / "retraining.log").read_text()
    away.rename(place / "models" / "versions" / PARENT)
    started(run_folder)
    wait_for(run_folder, is_training)


def test_without_pytorch_the_run_says_what_to_install(place):
    code = "import os, sys; sys.modules['torch'] = None\n"
    code += "from DDSPSegmentationLib.service import retraining_process as p; os._exit(p.main(sys.argv[3:]))"
    run_folder = job(place)
    assert start_retraining_process(run_folder, [sys.executable, "-c", code]).wait(60) != 0
    status = read_status(run_folder)
    assert status.state == FAILED and "PyTorch" in status.message and "install" in status.next_step.lower()


def test_a_program_that_is_not_there_is_named_as_the_reason(place):
    run_folder = job(place)
    with pytest.raises(WorkerError, match="could not be started"):
        start_retraining_process(run_folder, [str(place / "no python")])
    assert read_status(run_folder).state == FAILED


def test_discarding_a_run_takes_the_candidate_that_was_not_compared_with_it(place, one_thread, monkeypatch):
    run_folder = job(place)

    def broken(*_, **__):
        raise StorageError("No room.")

    monkeypatch.setattr(retraining_run, "compare_versions", broken)
    with pytest.raises(StorageError):
        retrain(run_folder, settings=QUICK)
    assert versions_of(place) == [] and (run_folder / CANDIDATE_FILE).is_file()
    discard_run(run_folder)
    assert versions_of(place) == [] and not run_folder.exists()
