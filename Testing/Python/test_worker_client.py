"""The client on real processes: one answer to each request, whatever happens, and nothing left behind."""

import os
import random
import resource
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, phantom
from headless_host import start as start_headless_host
from worker_parts import PACKAGE_ROOT, SLOW_WORKER, is_running, pretended_worker, wait_until

from DDSPSegmentationLib.engine.errors import (
    Canceled,
    InputError,
    StorageError,
    TorchMissingError,
    WorkerError,
)
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.service.processes import kill_process
from DDSPSegmentationLib.service.protocol import garbled
from DDSPSegmentationLib.service.runner import InProcessRunner

start_headless_host()

import slicer_stand_in  # noqa: E402

slicer_stand_in.install()

import qt  # noqa: E402

from DDSPSegmentationLib.scene.panel.segment_section import PHASE_STARTS  # noqa: E402
from DDSPSegmentationLib.scene.worker_client import WorkerClient  # noqa: E402
from DDSPSegmentationLib.scene.worker_process import (  # noqa: E402
    LOG_BYTES,
    append_to_log,
    descendants,
    worker_command,
)

STARTING, *_ = PHASE_STARTS
SILENT = pretended_worker("listen(); time.sleep(600)")
# What its errors say: cause and next step.
UNREADABLE = garbled().cause
EXITED, LATE = "ended unexpectedly (exit code 5)", "did not start within 1 seconds"
ENDED, LOG = "ended from outside; the computer may have run out of memory", "Show Log under Advanced"
MUTE = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module", autouse=True)
def application():
    yield qt.QApplication.instance() or qt.QApplication([])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bright_model(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture(scope="module")
def expected(model):
    """What the runner of this process says."""
    return InProcessRunner().segment(phantom()[0], RunSettings(model=model, device="cpu"))


@pytest.fixture
def make_client(tmp_path):
    clients = []

    def make(command=None, folder=tmp_path / "session", **settings):
        clients.append(WorkerClient(folder, command, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.stop(wait=True)


def process_events():
    qt.QEventLoop().processEvents()  # the application's own processEvents() of PySide6 gives up a reference to None
    time.sleep(0.002)


def wait_for(condition, seconds=60.0):
    return wait_until(condition, seconds, process_events)


class Answers:
    """What one request was told."""

    def __init__(self, client, image=None, name="volume", **settings):
        self.outcomes, self.phases, self.within_submit = [], [], True
        self.id = client.submit(
            phantom()[0] if image is None else image,
            RunSettings(**settings),
            name=name,
            onProgress=lambda phase, fraction: self.phases.append(phase),
            onResult=self._told,
            onError=self._told,
        )
        self.within_submit = False

    def _told(self, outcome):
        assert not self.within_submit
        self.outcomes.append(outcome)

    def wait(self):
        """The one answer; no second one comes a little later."""
        assert wait_for(lambda: self.outcomes)
        wait_for(lambda: len(self.outcomes) > 1, 0.1)
        assert len(self.outcomes) == 1
        return self.outcomes[0]


def files_of(client):
    return sorted(path.name for path in client.logPath.parent.iterdir() if not path.name.startswith("worker.log"))


def assert_answers_right(client, model, expected):
    answer = Answers(client, model=model, device="cpu").wait()
    assert not isinstance(answer, Exception), answer
    assert np.array_equal(sitk.GetArrayViewFromImage(answer.mask), sitk.GetArrayViewFromImage(expected.mask))


def pause(seconds):
    wait_for(lambda: False, seconds)


def gone(pid):
    return wait_for(lambda: not is_running(pid), 5)


def test_the_answer_is_the_one_of_the_runner_in_this_process(make_client, model, expected):
    client, states = make_client(), []
    client.onStateChanged = lambda: states.append(client.state)
    answers = Answers(client, model=model, device="cpu", name="T2")
    answer = answers.wait()
    assert np.array_equal(sitk.GetArrayViewFromImage(answer.mask), sitk.GetArrayViewFromImage(expected.mask))
    assert np.allclose(sitk.GetArrayViewFromImage(answer.probability), sitk.GetArrayViewFromImage(expected.probability))
    assert answer.measurements == expected.measurements and answer.slice_doubts == expected.slice_doubts
    order = list(dict.fromkeys(answers.phases))
    assert order[0] == STARTING and order[-3:] == ["Preprocessing", "Segmenting", "Measuring"]
    assert states == ["starting", "busy", "ready"]
    assert client.hello["pid"] == client.processId != os.getpid()
    assert files_of(client) == [answers.id]
    del answer, answers.outcomes[:]
    assert files_of(client) == []


def test_a_warm_worker_answers_many_requests(make_client, model, expected):
    client = make_client()
    client.start()
    assert client.state == "starting" and wait_for(lambda: client.state == "ready")
    pid = client.processId
    for _ in range(3):
        assert_answers_right(client, model, expected)
    assert client.processId == pid


def test_scripts_wait_for_the_answer_and_get_its_errors_raised(make_client, model, expected):
    client, told = make_client(), []
    result = client.segment(
        phantom()[0], RunSettings(model=model, device="cpu"), progress=lambda *one: told.append(one)
    )
    assert result.measurements == expected.measurements and told[0] == (STARTING, 0.0)
    with pytest.raises(InputError, match="Mode 'best' is unknown"):
        client.segment(phantom()[0], RunSettings(mode="best"))

    def stop_half_way(phase, fraction):
        if phase == "Segmenting":
            raise Canceled()

    with pytest.raises(Canceled):
        client.segment(phantom()[0], RunSettings(model=model, device="cpu"), progress=stop_half_way)
    with pytest.raises(ZeroDivisionError):
        client.segment(phantom()[0], RunSettings(model=model, device="cpu"), progress=lambda *one: 1 / 0)
    assert client.segment(phantom()[0], RunSettings(model=model, device="cpu")).measurements == expected.measurements


@pytest.mark.parametrize("seed", range(5))
def test_a_cancel_at_any_moment_ends_the_process_and_the_next_scan_is_right(make_client, model, expected, seed):
    client, chance = make_client(SLOW_WORKER), random.Random(seed)
    if seed % 2:
        client.start()
        assert wait_for(lambda: client.state == "ready")
    answers = Answers(client, model=model, device="cpu", name="slow")
    pause(chance.uniform(0, 3))
    pid, started = client.processId, time.monotonic()
    client.cancel()
    assert not answers.outcomes and client.state == "starting"
    assert isinstance(answers.wait(), Canceled)
    assert gone(pid) and time.monotonic() - started < 3
    assert wait_for(lambda: files_of(client) == [])
    assert_answers_right(client, model, expected)


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_worker_is_one_error_and_the_next_scan_is_right(make_client, model, expected, seed):
    client, chance = make_client(SLOW_WORKER), random.Random(seed)
    if seed % 2:
        client.start()
        assert wait_for(lambda: client.state == "ready")
    answers = Answers(client, model=model, device="cpu", name="slow")
    assert wait_for(lambda: client.processId)
    pause(chance.uniform(0, 3))
    os.kill(client.processId, signal.SIGKILL)
    error = answers.wait()
    assert isinstance(error, WorkerError) and ENDED in error.cause
    assert LOG in error.next_step and client.state == "off" and files_of(client) == []
    assert_answers_right(client, model, expected)


def test_a_worker_killed_while_nobody_asks_is_replaced_at_the_next_click(make_client, model, expected):
    client = make_client()
    client.start()
    assert wait_for(lambda: client.state == "ready")
    os.kill(client.processId, signal.SIGKILL)
    assert wait_for(lambda: client.state == "off")
    assert_answers_right(client, model, expected)


@pytest.fixture
def others():
    """Processes that were there before: the warm worker of the panel's tests."""
    return set(descendants(os.getpid()))


LAUNCHER = [sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]) != 0)"]


@pytest.mark.parametrize("while_starting", [True, False])
def test_cancel_reaches_a_worker_behind_a_launcher(others, make_client, while_starting):
    client = make_client(LAUNCHER + (MUTE if while_starting else SILENT))
    answers = Answers(client)
    assert wait_for(lambda: descendants(client.processId) if while_starting else client.state == "busy")
    pids = set(descendants(os.getpid())) - others
    assert len(pids) == 2
    client.cancel()
    assert isinstance(answers.wait(), Canceled) and all(gone(pid) for pid in pids)


def test_a_worker_killed_behind_a_launcher_is_told_like_any_other(make_client):
    client = make_client(LAUNCHER + SILENT)
    answers = Answers(client)
    assert wait_for(lambda: client.state == "busy")
    os.kill(client.processId, signal.SIGKILL)
    assert ENDED in answers.wait().cause


def test_a_second_request_meanwhile_is_refused(make_client):
    client = make_client(SILENT)
    first = Answers(client)
    for state in ("starting", "busy"):
        assert wait_for(lambda state=state: client.state == state)
        with pytest.raises(WorkerError, match="Another segmentation is under way. Wait"):
            Answers(client)
    client.cancel()
    assert isinstance(first.wait(), Canceled)


SAYS = [
    ("print('Segmentation fault?')", UNREADABLE),
    ("sys.stdout.buffer.write(b'\\xff\\x00\\n'); sys.stdout.flush()", UNREADABLE),
    ("print('x' * 17_000_000, end='', flush=True)", UNREADABLE),
    ("say(event='applause', id=id)", UNREADABLE),
    ("say(event='progress', id='other', phase='Segmenting', fraction=0)", UNREADABLE),
    ("say(event='progress', id=id, phase='Segmenting', fraction='half')", UNREADABLE),
    ("say(event='result', id=id, segmentation=None)", UNREADABLE),
    ("say(event='result', id=id, segmentation={})", UNREADABLE),
    ("say(event='error', id=id, type='WorkerError')", UNREADABLE),
    ("say(**hello)", UNREADABLE),
    ("os._exit(5)", EXITED),
    ("sys.stdout.write('{\"event\": '); sys.stdout.flush(); os._exit(5)", EXITED),
    ("os.kill(os.getpid(), 11)", "crashed (code 11)"),
    ("os.kill(os.getpid(), 9)", ENDED),
]


@pytest.mark.parametrize(("says", "cause"), SAYS)
def test_a_worker_that_misbehaves_is_one_clear_error_and_the_next_click_works(make_client, tmp_path, says, cause):
    again = tmp_path / "again"
    answer = "say(event='error', id=id, type='InputError', cause='Right.', next_step='')"
    body = f"id = listen()['id']\nif os.path.exists({str(again)!r}): {answer}\nelse:\n    {says}\ntime.sleep(600)"
    client = make_client(pretended_worker(body))
    answers = Answers(client)
    assert wait_for(lambda: client.processId)
    pid, error = client.processId, answers.wait()
    if "type='WorkerError'" not in says:
        assert isinstance(error, WorkerError) and client.state == "off" and gone(pid)
    assert cause in error.cause and LOG in error.next_step
    assert wait_for(lambda: files_of(client) == [])
    again.touch()
    client.stop()
    assert str(Answers(client).wait()) == "Right."


BEFORE_HELLO = [
    ("say(**{**hello, 'protocol': 7})", WorkerError, "'7'"),
    ("say(**{**hello, 'package': '7'})", WorkerError, "'7'"),
    ("say(**{**hello, 'folder': '/other'})", WorkerError, "'/other'"),
    ("say(event='error', id=None, type='TorchMissingError', cause='None.', next_step='Get it.'); os._exit(3)",
     TorchMissingError, "None."),
    ("say(event='progress', id='', phase='', fraction=0)", WorkerError, UNREADABLE),
    ("print('Welcome!', flush=True)", WorkerError, UNREADABLE),
    ("os._exit(1)", WorkerError, "ended while it was starting (exit code 1)"),
    ("os.close(1)", WorkerError, LATE),
    ("os.close(0)", WorkerError, LATE),
]  # fmt: skip


@pytest.mark.parametrize(("says", "kind", "cause"), BEFORE_HELLO)
def test_a_worker_that_never_gets_ready_is_one_clear_error(make_client, says, kind, cause):
    client = make_client(pretended_worker(f"{says}\ntime.sleep(600)", hello=False), helloSeconds=1)
    answers = Answers(client)
    assert wait_for(lambda: client.processId)
    pid, error = client.processId, answers.wait()
    assert type(error) is kind and cause in error.cause and error.next_step
    assert gone(pid) and client.state == "off" and files_of(client) == []


def test_a_worker_that_lost_its_input_is_noticed(make_client):
    client = make_client(pretended_worker("os.close(0); time.sleep(600)"))
    client.start()
    assert wait_for(lambda: client.state == "ready")
    time.sleep(0.1)
    answers = Answers(client)
    assert isinstance(answers.wait(), WorkerError) and client.state == "off"


def test_a_program_that_is_not_there_is_told(make_client, tmp_path):
    client = make_client([str(tmp_path / "PythonSlicer")])
    client.start()
    assert wait_for(lambda: client.state == "off")
    assert str(tmp_path / "PythonSlicer") in client.logPath.read_text()
    error = Answers(client).wait()
    assert isinstance(error, WorkerError) and str(tmp_path / "PythonSlicer") in error.cause and error.next_step


def test_a_disk_that_is_full_for_the_scan_is_told_and_nothing_is_left(make_client):
    client = make_client(SILENT)
    client.start()
    assert wait_for(lambda: client.state == "ready")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StorageError, match="could not be written to the temporary folder.*Free some space"):
            Answers(client)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_of(client) == [] and client.state == "ready"


def test_a_temporary_folder_that_was_tidied_away_is_made_again(make_client, model, expected):
    client = make_client()
    assert_answers_right(client, model, expected)
    shutil.rmtree(client.logPath.parent)
    assert_answers_right(client, model, expected)


def test_stop_tells_the_request_and_nothing_comes_afterwards(make_client):
    client = make_client(SILENT)
    answers = Answers(client)
    assert wait_for(lambda: client.state == "busy")
    pid = client.processId
    client.stop(wait=True)
    assert [type(one) for one in answers.outcomes] == [Canceled] and client.state == "off"
    assert not is_running(pid) and files_of(client) == []
    client.stop(wait=True)
    client.stop()
    wait_for(lambda: len(answers.outcomes) > 1, 0.2)
    assert len(answers.outcomes) == 1 and client.processId is None and client.hello is None


def test_an_answer_that_arrived_is_told_before_stop_returns(make_client, model):
    client = make_client()
    answers = Answers(client, model=model, device="cpu")
    client.onStateChanged = lambda: client.state == "ready" and client.stop(wait=True)
    assert wait_for(lambda: client.state == "off")
    assert len(answers.outcomes) == 1 and not isinstance(answers.wait(), Exception)


def test_stop_without_waiting_tells_from_the_event_loop(make_client):
    client = make_client(SILENT)
    answers = Answers(client)
    client.stop()
    assert not answers.outcomes and client.state == "off"
    assert isinstance(answers.wait(), Canceled)


@pytest.mark.parametrize("ending", ["cancel", "stop"])
def test_a_progress_callback_may_end_the_request(make_client, ending):
    body = "id = listen()['id']\nfor _ in range(50): say(event='progress', id=id, phase='P', fraction=0)\n"
    client, outcomes, told = make_client(pretended_worker(body + "time.sleep(600)")), [], []

    def on_progress(phase, fraction):
        told.append(phase)
        if phase == "P":
            client.cancel() if ending == "cancel" else client.stop(wait=True)

    client.submit(
        phantom()[0],
        RunSettings(),
        name="T2",
        onProgress=on_progress,
        onResult=outcomes.append,
        onError=outcomes.append,
    )
    assert wait_for(lambda: outcomes)
    pause(0.2)
    assert [type(one) for one in outcomes] == [Canceled] and told.count("P") == 1
    assert client.state == ("off" if ending == "stop" else "ready")


def test_the_next_scan_may_be_asked_for_from_the_answer(make_client):
    body = "while True: say(event='error', id=listen()['id'], type='InputError', cause='No.', next_step='')"
    client, told = make_client(pretended_worker(body)), []

    def on_error(error):
        told.append(error)
        if len(told) < 5:
            client.submit(phantom()[0], RunSettings(), name="T2", onResult=told.append, onError=on_error)

    client.submit(phantom()[0], RunSettings(), name="T2", onResult=told.append, onError=on_error)
    assert wait_for(lambda: len(told) == 5) and {str(error) for error in told} == {"No."}


def test_an_idle_worker_gives_its_memory_back_and_the_next_click_starts_another(make_client):
    body = "while True: say(event='error', id=listen()['id'], type='InputError', cause='No.', next_step='')"
    client = make_client(pretended_worker(body), idleSeconds=0.4)
    client.start()
    assert wait_for(lambda: client.state == "ready")
    pid = client.processId
    assert wait_for(lambda: client.state == "off", 10) and gone(pid)
    assert str(Answers(client).wait()) == "No."
    client.cancel()  # nothing is under way
    assert client.state == "ready"


def test_a_busy_worker_is_not_idle(make_client):
    client = make_client(SILENT, idleSeconds=0.2)
    answers = Answers(client)
    assert wait_for(lambda: client.state == "busy")
    pause(0.6)
    assert client.state == "busy" and not answers.outcomes


def test_starting_twice_starts_one(others, make_client):
    client = make_client(SILENT)
    client.start()
    pid = client.processId
    client.start()
    assert pid and client.processId == pid and len(set(descendants(os.getpid())) - others) == 1


def test_the_log_holds_what_the_worker_printed_and_never_grows_without_bound(make_client):
    print_much = "for n in range(60): os.write(2, b'line %d ' % n + b'x' * 50_000 + b'\\n')\n"
    log = "say(event='log', id=id, text='Prostatë')\n"
    answer = "say(event='error', id=id, type='InputError', cause='', next_step='')\n"
    client = make_client(pretended_worker(f"id = listen()['id']\n{print_much}{log}{answer}time.sleep(600)"))
    Answers(client).wait()
    older = client.logPath.with_name("worker.log.1")
    assert wait_for(lambda: b"line 59 " in client.logPath.read_bytes() + older.read_bytes())
    assert "Prostatë" in (client.logPath.read_bytes() + older.read_bytes()).decode()
    sizes = [path.stat().st_size for path in client.logPath.parent.glob("worker.log*")]
    assert len(sizes) == 2 and max(sizes) <= LOG_BYTES


def test_one_huge_message_does_not_overflow_the_log(tmp_path):
    log = tmp_path / "worker.log"
    append_to_log(log, b"start" + b"x" * 3 * LOG_BYTES + b"end")
    assert log.stat().st_size == LOG_BYTES and log.read_bytes().endswith(b"end")
    append_to_log(tmp_path / "absent" / "worker.log", b"lost")


def test_accented_and_long_folders_work(make_client, tmp_path, model, expected):
    client = make_client(folder=tmp_path / ("Prostatë Ünïcode 前立腺 " + "x" * 80) / ("y" * 100))
    assert_answers_right(client, model, expected)


def test_the_worker_runs_this_very_package_and_writes_nothing_into_it(make_client, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    body = (
        "path = [folder for folder in sys.path if folder]\n"
        "facts = [*path[:2], os.getcwd(), str(sys.dont_write_bytecode), str(sys.flags.utf8_mode)]\n"
        "cause = '|'.join(facts)\n"
        "say(event='error', id=listen()['id'], type='InputError', cause=cause, next_step='')"
    )
    client = make_client(pretended_worker(body))
    session = str(client.logPath.parent)
    assert str(Answers(client).wait()).split("|") == [PACKAGE_ROOT, str(tmp_path), session, "True", "1"]


def test_inside_slicer_the_worker_is_pythonslicer_and_never_sys_executable(monkeypatch, tmp_path):
    import slicer

    monkeypatch.delattr(slicer, "app", raising=False)
    assert worker_command() == [sys.executable, "-m", "DDSPSegmentationLib.service.worker"]
    monkeypatch.setattr(slicer, "app", type("App", (), {"slicerHome": str(tmp_path)}), raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WorkerError, match="PythonSlicer, which runs the engine, is missing"):
        worker_command()
    program = tmp_path / "bin" / "PythonSlicer"
    program.parent.mkdir()
    program.touch(mode=0o755)
    assert worker_command()[0] == str(program)
    (tmp_path / "other").mkdir()
    shutil.copy(program, tmp_path / "other")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert worker_command()[0] == str(tmp_path / "other" / "PythonSlicer")


def test_many_restarts_leave_no_process(others, make_client):
    client = make_client(MUTE)
    for _ in range(20):
        answers = Answers(client)
        client.cancel()
        assert isinstance(answers.wait(), Canceled)
    client.stop(wait=True)
    assert wait_for(lambda: set(descendants(os.getpid())) <= others, 5) and files_of(client) == []


def test_killing_a_process_that_is_gone_is_fine():
    kill_process(2**22 - 7)
    assert descendants(2**22 - 7) == []
