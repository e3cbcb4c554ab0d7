"""One writer at a time: real processes, threads and forks, killed holders, drives that do not lock."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from learning_parts import start_script, wait_for_line

from DDSPSegmentationLib.engine.errors import StorageError
from DDSPSegmentationLib.library import folder_lock
from DDSPSegmentationLib.library.folder_lock import LOCK_NAME, FolderInUseError, FolderLock, Holder, lock_holder

HOLDER = """
import sys, time
from DDSPSegmentationLib.library.folder_lock import FolderLock
with FolderLock(sys.argv[1], "library.lock", what="case library"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
LOOKER = """
import sys
from DDSPSegmentationLib.library.folder_lock import lock_holder
print("holder", getattr(lock_holder(sys.argv[1], sys.argv[2]), "process", None), flush=True)
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
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


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


@pytest.fixture
def held(tmp_path, start):
    """A process that holds library.lock in the folder."""
    process = start(HOLDER, tmp_path, 300)
    wait_for_line(process, "held")
    return process


def seen_from_outside(start, folder, name=LOCK_NAME) -> str:
    """The process that another one says holds the lock."""
    output, errors = start(LOOKER, folder, name).communicate(timeout=60)
    assert output.startswith("holder"), errors
    return output.split()[1]


def take(folder, **options) -> FolderLock:
    with FolderLock(folder, **options) as lock:
        return lock


def refused(folder, **options) -> str:
    with pytest.raises(FolderInUseError) as caught:
        take(folder, **options)
    return str(caught.value)


# ---- processes


def test_another_process_sees_the_lock_during_the_block_and_not_afterwards(tmp_path, start):
    with FolderLock(tmp_path):
        assert seen_from_outside(start, tmp_path) == str(os.getpid())
    assert seen_from_outside(start, tmp_path) == "None"
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]  # it stays, so that nobody locks a deleted file


def test_a_living_holder_is_named_with_host_and_time_and_what_to_do(tmp_path, held):
    message = refused(tmp_path, name="library.lock", what="case library")
    assert f"case library '{tmp_path.name}' is in use by process {held.pid} on host" in message
    assert socket.gethostname() in message and "since 20" in message and "Wait for it" in message
    holder = lock_holder(tmp_path, "library.lock")
    assert (holder.process, holder.host) == (held.pid, socket.gethostname()) and holder.since.startswith("20")


def test_a_short_write_is_waited_for(tmp_path, start):
    wait_for_line(start(HOLDER, tmp_path, 0.5), "held")
    with FolderLock(tmp_path, "library.lock", wait_seconds=60):
        assert lock_holder(tmp_path, "library.lock").process == os.getpid()


def test_a_killed_holder_frees_the_lock_at_once(tmp_path, held):
    held.kill()
    held.wait()
    assert lock_holder(tmp_path, "library.lock") is None
    take(tmp_path, name="library.lock")


def test_three_processes_lose_no_count(tmp_path, start):
    (tmp_path / "number").write_text("0")
    for process in [start(COUNTER, tmp_path) for _ in range(3)]:
        wait_for_line(process, "counted")
    assert (tmp_path / "number").read_text() == "36"


def test_those_who_only_look_are_not_taken_for_a_holder(tmp_path):
    """Two windows that look at the same moment must not see each other's look."""
    take(tmp_path)
    looked = []

    def look():
        looked.extend(lock_holder(tmp_path) for _ in range(300))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looked == [None] * 600


def test_a_look_at_the_wrong_moment_keeps_nobody_from_taking_the_lock(tmp_path):
    take(tmp_path)
    stopped = threading.Event()

    def look():
        while not stopped.is_set():
            lock_holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            take(tmp_path)
    finally:
        stopped.set()
        thread.join()


def test_a_program_that_a_holder_starts_does_not_hold_the_lock(tmp_path, start):
    with FolderLock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    assert seen_from_outside(start, tmp_path) == "None"
    child.communicate(b"\n")


# ---- this very process


def test_a_second_run_in_this_process_is_refused_and_does_not_lose_the_first_one_its_lock(tmp_path, start):
    with FolderLock(tmp_path):
        assert "another run of this very process" in refused(tmp_path)
        assert lock_holder(tmp_path).process == os.getpid()
        assert seen_from_outside(start, tmp_path) == str(os.getpid())


def test_the_same_folder_under_another_name_is_the_same_folder(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    with FolderLock(folder):
        refused(link)


def test_two_locks_of_one_folder_do_not_exclude_each_other_also_where_files_have_no_number(tmp_path, monkeypatch):
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *words: os.stat_result((*real(*words)[:1], 0, *real(*words)[2:])))
    with FolderLock(tmp_path, "one.lock"), FolderLock(tmp_path, "other.lock"):
        assert lock_holder(tmp_path, "one.lock") and refused(tmp_path, name="other.lock")


def test_a_thread_of_this_process_is_waited_for_too(tmp_path):
    held = threading.Event()

    def briefly():
        with FolderLock(tmp_path):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=briefly)
    thread.start()
    held.wait(10)
    refused(tmp_path)
    take(tmp_path, wait_seconds=30)
    thread.join()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock(tmp_path, start):
    go_on, tell = os.pipe()
    with FolderLock(tmp_path):
        child = os.fork()
        if child == 0:  # lives on after the block of its parent
            os.read(go_on, 1)
            os._exit(0)
    assert seen_from_outside(start, tmp_path) == "None"
    take(tmp_path)
    os.write(tell, b"x")
    os.waitpid(child, 0)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_kept_out_like_any_process_and_leaves_its_parent_the_lock(tmp_path, start):
    with FolderLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                words = refused(tmp_path)
                code = int(f"process {os.getppid()}" not in words)
                lock.__exit__()  # as when it leaves the block, too
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert seen_from_outside(start, tmp_path) == str(os.getpid())


# ---- what lies there already


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": "x"}', "\0" * 600])
def test_a_file_that_nobody_holds_is_simply_taken(tmp_path, text):
    (tmp_path / LOCK_NAME).write_text(text)
    assert lock_holder(tmp_path) is None
    with FolderLock(tmp_path):
        assert lock_holder(tmp_path).process == os.getpid()


@pytest.mark.parametrize("host", [socket.gethostname(), "another-host"])
def test_the_file_of_an_older_version_is_simply_taken(tmp_path, host):
    holder = {"process": os.getpid(), "host": host, "since": "2026-01-01 00:00:00", "token": "5a" * 8}
    (tmp_path / LOCK_NAME).write_text(json.dumps(holder))
    assert lock_holder(tmp_path) is None
    take(tmp_path)


def test_the_words_of_the_holder_before_never_shine_through(tmp_path):
    (tmp_path / LOCK_NAME).write_text("x" * 5000)
    take(tmp_path)
    assert json.loads((tmp_path / LOCK_NAME).read_text())["process"] == os.getpid()


def test_a_holder_that_cannot_be_told_is_still_a_holder(tmp_path, held):
    with open(tmp_path / "library.lock", "r+") as file:
        file.write("?" * 60)
    assert lock_holder(tmp_path, "library.lock") == Holder()
    assert "in use by another process." in refused(tmp_path, name="library.lock")


def test_a_file_that_is_replaced_while_it_is_being_locked_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """As when somebody deletes it between our opening and our locking it."""
    real, replaced = folder_lock._lock, []

    def delete_first(descriptor, **options):
        if not replaced:
            replaced.append((tmp_path / LOCK_NAME).unlink())
        return real(descriptor, **options)

    monkeypatch.setattr(folder_lock, "_lock", delete_first)
    with FolderLock(tmp_path, wait_seconds=10):
        assert (tmp_path / LOCK_NAME).exists() and lock_holder(tmp_path).process == os.getpid()


def test_who_holds_a_lock_whose_file_was_deleted_is_told_before_anything_counts(tmp_path):
    with FolderLock(tmp_path, what="case library") as lock:
        lock.confirm()
        (tmp_path / LOCK_NAME).unlink()
        for _ in range(2):
            with pytest.raises(FolderInUseError, match="of the case library .* was deleted while it was in use"):
                lock.confirm()
            (tmp_path / LOCK_NAME).touch()  # as when another writer has come in


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_whoever_may_write_to_the_folder_may_take_its_lock(tmp_path):
    before = os.umask(0o077)
    try:
        tmp_path.chmod(0o770)
        take(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / LOCK_NAME).stat().st_mode) == 0o660


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions as on POSIX, not for root")
def test_a_folder_that_may_not_be_written_is_a_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\)"):
        take(tmp_path)
    assert lock_holder(tmp_path) is None


# ---- drives that do not lock


def test_this_systems_drive_keeps_another_process_out_and_is_asked_once(tmp_path, monkeypatch):
    asked, real = [], folder_lock._keeps_others_out
    monkeypatch.setattr(folder_lock, "_keeps_others_out", lambda *words: asked.append(words) or real(*words))
    monkeypatch.setattr(folder_lock, "_PROVED", set())
    for _ in range(3):
        take(tmp_path)
    assert len(asked) == 1


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_probe_notices_a_lock_that_keeps_nobody_out(tmp_path):
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    assert not folder_lock._keeps_others_out(descriptor, path)  # nobody has locked it
    folder_lock._lock(descriptor)
    assert folder_lock._keeps_others_out(descriptor, path)
    os.close(descriptor)


def test_a_drive_whose_locks_keep_nobody_out_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_keeps_others_out", lambda *words: False)
    monkeypatch.setattr(folder_lock, "_PROVED", set())
    for _ in range(2):
        with pytest.raises(StorageError, match="file locks have no effect") as caught:
            take(tmp_path, what="case library")
        assert f"case library '{tmp_path.name}'" in str(caught.value) and "drive" in caught.value.next_step
    assert lock_holder(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_drive_that_refuses_to_lock_is_refused_with_the_reason(tmp_path, monkeypatch, number):
    def refuse(descriptor, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_lock, "_lock", refuse)
    with pytest.raises(StorageError, match="cannot be locked") as caught:
        take(tmp_path)
    assert os.strerror(number) in str(caught.value)
    assert lock_holder(tmp_path) is None


# ---- Windows, whose locks belong to an open file and not to a process


@pytest.fixture
def windows(monkeypatch):
    """msvcrt as on Windows: one handle at a time, known by its descriptor; the byte that is locked is checked."""
    holders = {}

    def locking(descriptor, mode, count):
        assert (os.lseek(descriptor, 0, os.SEEK_CUR), count) == (folder_lock._BYTE, 1)
        file = os.fstat(descriptor).st_ino
        if holders.get(file, descriptor) != descriptor or (mode == "unlock") != (file in holders):
            raise PermissionError(errno.EACCES, "Permission denied")
        holders.pop(file) if mode == "unlock" else holders.update({file: descriptor})

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="lock", LK_UNLCK="unlock"))
    monkeypatch.setattr(folder_lock, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(folder_lock, "_PROVED", set())


def test_on_windows_a_handle_excludes_the_others_and_proves_it(windows, tmp_path, monkeypatch):
    with FolderLock(tmp_path):
        assert f"process {os.getpid()}" not in refused(tmp_path)
        monkeypatch.setattr(folder_lock, "_HELD", {})  # as another process sees it
        assert f"process {os.getpid()}" in refused(tmp_path)
        assert lock_holder(tmp_path).process == os.getpid()
    assert lock_holder(tmp_path) is None
    take(tmp_path)


def test_on_windows_too_a_drive_that_does_not_lock_is_refused(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["msvcrt"], "locking", lambda *words: None)
    with pytest.raises(StorageError, match="drive"):
        take(tmp_path)
