"""One writer at a time: real processes, stale locks, locks of other computers."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from learning_parts import start_script, wait_for_line

from DDSPSegmentationLib.library import folder_lock
from DDSPSegmentationLib.library.folder_lock import LOCK_NAME, FolderInUseError, FolderLock, process_is_alive, take_over

HOLDER = """
import sys, time
from DDSPSegmentationLib.library.folder_lock import FolderLock
with FolderLock(sys.argv[1], "library.lock", what="case library"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
COUNTER = """
import sys
from pathlib import Path
from DDSPSegmentationLib.library.folder_lock import FolderLock
path = Path(sys.argv[1], "number")
for _ in range(12):
    with FolderLock(path.parent, wait_seconds=60):
        number = int(path.read_text())
        path.write_text(str(number + 1))
print("counted", flush=True)
"""


@pytest.fixture
def start(tmp_path_factory):
    """Starts a script; what still runs at the end of the test is ended."""
    started = []

    def run(code: str, *words) -> subprocess.Popen:
        script = tmp_path_factory.mktemp("scripts") / "script.py"
        script.write_text(code)
        started.append(start_script(script, *map(str, words)))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lock(folder: Path, process: int, host: str, name: str = LOCK_NAME) -> None:
    content = {"process": process, "host": host, "since": "2026-01-01 00:00:00"}
    (folder / name).write_text(json.dumps(content))


def test_the_lock_is_there_during_the_block_and_gone_afterwards(tmp_path):
    with FolderLock(tmp_path) as lock:
        assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()
        lock.confirm()
    assert list(tmp_path.iterdir()) == [] and lock.note == ""


def test_a_living_holder_is_named_with_host_and_time_and_what_to_do(tmp_path, start):
    process = start(HOLDER, tmp_path, 300)
    wait_for_line(process, "held")
    with pytest.raises(FolderInUseError) as caught, FolderLock(tmp_path, "library.lock", what="case library"):
        pass
    message = str(caught.value)
    assert f"case library '{tmp_path.name}' is in use by process {process.pid} on host" in message
    assert socket.gethostname() in message and "since 20" in message and "'library.lock'" in message


def test_a_short_write_is_waited_for(tmp_path, start):
    wait_for_line(start(HOLDER, tmp_path, 0.5), "held")
    with FolderLock(tmp_path, "library.lock", wait_seconds=60):
        assert json.loads((tmp_path / "library.lock").read_text())["process"] == os.getpid()


def test_a_thread_of_this_process_is_waited_for_too(tmp_path):
    held = threading.Event()

    def briefly():
        with FolderLock(tmp_path):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=briefly)
    thread.start()
    held.wait(10)
    with pytest.raises(FolderInUseError, match="this very process"), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path, wait_seconds=30):
        pass
    thread.join()


def test_the_lock_of_a_killed_process_is_taken_over_and_the_note_says_so(tmp_path, start):
    process = start(HOLDER, tmp_path, 300)
    wait_for_line(process, "held")
    process.kill()
    process.wait()
    with FolderLock(tmp_path, "library.lock") as lock:
        assert f"process {process.pid}" in lock.note and "taken over" in lock.note
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows the state of a process as a file")
def test_a_process_that_has_ended_is_not_alive_before_its_parent_asked_for_it():
    process = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert not process_is_alive(process.pid)
    process.wait()


def test_the_lock_of_another_host_stays_until_a_person_takes_it_over(tmp_path):
    write_lock(tmp_path, dead_process(), "another-host")
    with pytest.raises(FolderInUseError, match="another-host"), FolderLock(tmp_path, wait_seconds=0.2):
        pass
    take_over(tmp_path)
    with FolderLock(tmp_path):
        pass


def test_a_living_process_of_this_host_cannot_be_taken_over(tmp_path, start):
    wait_for_line(start(HOLDER, tmp_path, 300), "held")
    with pytest.raises(FolderInUseError, match="still at work"):
        take_over(tmp_path, "library.lock")
    with FolderLock(tmp_path), pytest.raises(FolderInUseError, match="still at work"):
        take_over(tmp_path)


def test_a_holder_notices_that_its_lock_was_taken_over(tmp_path):
    with FolderLock(tmp_path) as lock:
        write_lock(tmp_path, 1, "another-host")
        with pytest.raises(FolderInUseError, match="taken over by another process"):
            lock.confirm()
    assert "another-host" in (tmp_path / LOCK_NAME).read_text()


def test_a_lock_that_is_just_being_written_is_respected_and_an_old_empty_one_is_not(tmp_path):
    (tmp_path / LOCK_NAME).write_text("")
    with pytest.raises(FolderInUseError, match="just starting"), FolderLock(tmp_path):
        pass
    os.utime(tmp_path / LOCK_NAME, (time.time() - 60, time.time() - 60))
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_finds_a_stale_lock_never_removes_the_one_that_another_made_in_its_place(tmp_path, monkeypatch):
    """The other process comes in between our look at the stale lock and our removing it."""
    write_lock(tmp_path, dead_process(), socket.gethostname())
    real = folder_lock.process_is_alive
    theirs = FolderLock(tmp_path)

    def look_while_another_takes_over(process):
        if not real(process):
            monkeypatch.setattr(folder_lock, "process_is_alive", real)
            theirs.__enter__()
            folder_lock._HELD_HERE.clear()
        return False

    monkeypatch.setattr(folder_lock, "process_is_alive", look_while_another_takes_over)
    ours = FolderLock(tmp_path)
    monkeypatch.setattr(ours, "_created", lambda: False)
    ours._remove_stale()
    theirs.confirm()


def test_a_claim_on_a_stale_lock_that_was_left_behind_is_forgotten(tmp_path, monkeypatch):
    write_lock(tmp_path, dead_process(), socket.gethostname())
    real = os.close
    monkeypatch.setattr(os, "close", lambda number: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), FolderLock(tmp_path):
        pass
    monkeypatch.setattr(os, "close", real)
    claim = next(tmp_path.glob(f"{LOCK_NAME}.*"))
    with pytest.raises(FolderInUseError, match="just starting"), FolderLock(tmp_path):
        pass
    os.utime(claim, (time.time() - 60, time.time() - 60))
    with FolderLock(tmp_path, wait_seconds=10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_three_processes_that_begin_at_a_stale_lock_lose_no_count(tmp_path, start):
    (tmp_path / "number").write_text("0")
    write_lock(tmp_path, dead_process(), socket.gethostname())
    for process in [start(COUNTER, tmp_path) for _ in range(3)]:
        wait_for_line(process, "counted")
    assert (tmp_path / "number").read_text() == "36" and [path.name for path in tmp_path.iterdir()] == ["number"]
