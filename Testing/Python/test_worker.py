"""The worker process, driven through its pipes: answers, stays usable after any failure, and is never left behind."""

import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, phantom, rotation
from worker_parts import PACKAGE_ROOT, WORKER, is_running, wait_until

import DDSPSegmentationLib
from DDSPSegmentationLib.engine.errors import not_enough_memory
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.service import protocol
from DDSPSegmentationLib.service.runner import INSTALL_TORCH, InProcessRunner
from DDSPSegmentationLib.service.stored_segmentation import StoredSegmentation, write_temporary

# A worker whose runner does something else before, or instead of, segmenting.
CHANGED_WORKER = """
import ctypes, os, sys, time
from DDSPSegmentationLib.service import runner, worker
segment = runner.InProcessRunner.segment
def changed(self, image, settings, *, name, progress):
    {change}
    return segment(self, image, settings, name=name, progress=progress)
runner.InProcessRunner.segment = changed
worker.main()
"""


ODD = """
    if name == "noisy":
        print('from Python')
        os.write(1, b'from below\\n')
        ctypes.CDLL(None).puts(b'from C')
        ctypes.CDLL(None).fflush(None)
    elif name == "large":
        raise MemoryError
    elif name == "Doe^Jane":
        raise KeyError(name)
"""


def changed_worker(change):
    return [sys.executable, "-c", CHANGED_WORKER.format(change=change)]


class Process:
    """A worker and its pipes; events and what it prints are collected by threads."""

    def __init__(self, folder, command=WORKER, path=PACKAGE_ROOT, **popen):
        self.folder = folder
        self.printed = b""
        self._events = queue.Queue()
        self._number = 0
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        self.popen = subprocess.Popen(command, env=environment, cwd=folder, **pipes, **popen)
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_events, self._read_printed)]
        for thread in self._threads:
            thread.start()

    def _read_events(self):
        for line in self.popen.stdout:
            self._events.put(line)

    def _read_printed(self):
        while data := os.read(self.popen.stderr.fileno(), 65536):
            self.printed += data

    def event(self, seconds=120):
        """The next event that is not a line for the log."""
        while (event := json.loads(self._events.get(timeout=seconds)))["event"] == "log":
            pass
        return event

    def write(self, line):
        self.popen.stdin.write(line.encode())
        self.popen.stdin.flush()

    def ask(self, image, name="volume", model=None, **settings):
        """Send a request, whatever the settings, without waiting for the answer; returns its id."""
        self._number += 1
        path = image
        if isinstance(image, sitk.Image):
            path = self.folder / f"{self._number}.mha"
            write_temporary(image, path)
        output = self.folder / f"out{self._number}"
        request = protocol.segment_request(
            str(self._number), path, output, RunSettings(device="cpu", model=model), name
        )
        request["settings"] |= settings
        self.write(protocol.encode_line(request))
        return str(self._number)

    def answer(self, request_id=None):
        """The next result or error, and every progress before it."""
        told = []
        while (event := self.event())["event"] == "progress":
            told.append(event)
        assert request_id in (None, event["id"])
        return event, told

    def segment(self, image, **settings):
        request_id = self.ask(image, **settings)
        answer, _told = self.answer(request_id)
        assert answer["event"] == "result", answer
        return StoredSegmentation.load(answer["segmentation"], self.folder / f"out{request_id}")

    def end(self):
        self.popen.stdin.close()
        code = self.popen.wait(10)
        for thread in self._threads:
            thread.join(10)
        self.popen.stdout.close()
        self.popen.stderr.close()
        return code


@pytest.fixture
def start(tmp_path):
    processes = []

    def start_one(*arguments, **named):
        process = Process(tmp_path, *arguments, **named)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.popen.kill()
        process.popen.wait()


@pytest.fixture
def worker(start):
    """A worker that said hello, for a test that ends it."""
    process = start()
    assert process.event()["event"] == "hello"
    return process


@pytest.fixture(scope="module")
def lasting_worker(tmp_path_factory):
    """A worker that said hello, for all tests that leave it alive."""
    process = Process(tmp_path_factory.mktemp("worker"))
    assert process.event()["event"] == "hello"
    yield process
    assert process.end() == 0


@pytest.fixture(scope="module")
def odd_worker(tmp_path_factory):
    """A lasting worker to which something happens with scans of some names."""
    process = Process(tmp_path_factory.mktemp("worker"), changed_worker(ODD))
    assert process.event()["event"] == "hello"
    yield process
    assert process.end() == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bright_model(tmp_path_factory.mktemp("models") / "bright")


def voxels(image):
    return sitk.GetArrayViewFromImage(image)


def geometry(image):
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def test_the_first_event_says_who_answers(start):
    process = start()
    hello = process.event()
    protocol.check_hello(hello)
    assert hello["pid"] == process.popen.pid and hello["package"] == DDSPSegmentationLib.__version__
    assert hello["python"] == ".".join(map(str, sys.version_info[:3]))
    assert hello["devices"][-1] == "cpu" and hello["auto"]


def test_the_answer_is_the_one_of_the_runner_in_this_process(lasting_worker, model):
    scan, _ = phantom(direction=rotation((10, 20, 5)), origin=(-31.123456789012, 7.1, -812.3))
    settings = {"mode": "paper", "threshold": 0.4, "bias_field": "off", "model": model}
    here = InProcessRunner().segment(scan, RunSettings(device="cpu", **settings))
    there = lasting_worker.segment(scan, **settings)
    for name in ("mask", "probability", "uncertainty"):
        one, other = getattr(here, name), getattr(there, name)
        assert one.GetPixelID() == other.GetPixelID() and np.allclose(voxels(one), voxels(other), atol=1e-5), name
        assert geometry(one) == geometry(other) and not other.GetMetaDataKeys(), name
    assert there.measurements == here.measurements and there.as_row().keys() == here.as_row().keys()
    assert there.slice_doubts == pytest.approx(here.slice_doubts, abs=1e-4)
    assert (there.mode, there.threshold, there.bias_field, there.device) == ("paper", 0.4, "off", "cpu")
    assert there.seconds.keys() == here.seconds.keys() and there.peak_memory_mb["Segmenting"] > 0


def test_progress_carries_the_request_and_the_time(lasting_worker, model):
    scan, _ = phantom()
    request_id = lasting_worker.ask(scan, model=model, location=(47.0, 47.0, 25.0))
    answer, told = lasting_worker.answer(request_id)
    assert answer["event"] == "result" and {event["id"] for event in told} == {request_id}
    assert list(dict.fromkeys(event["phase"] for event in told)) == ["Preprocessing", "Segmenting", "Measuring"]
    seconds = [event["seconds"] for event in told]
    assert seconds == sorted(seconds) and all(0 <= event["fraction"] <= 1 for event in told)


def test_whatever_is_printed_lands_on_stderr(odd_worker, model):
    odd_worker.segment(phantom()[0], model=model, name="noisy")
    lines = (b"from Python", b"from below", b"from C")
    assert wait_until(lambda: all(line in odd_worker.printed for line in lines))


def test_a_second_request_meanwhile_is_refused_and_the_first_is_answered(start, model, tmp_path):
    gate = tmp_path / "gate"
    process = start(changed_worker(f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"))
    assert process.event()["event"] == "hello"
    first, second = (process.ask(phantom()[0], model=model) for _ in range(2))
    refused, _told = process.answer(second)
    assert refused["type"] == "WorkerError" and "under way" in refused["cause"]
    gate.touch()
    assert process.answer(first)[0]["event"] == "result"
    process.segment(phantom()[0], model=model)


@pytest.mark.parametrize("change", ["time.sleep(600)", "while True: pass", "ctypes.CDLL(None).sleep(600)"])
def test_a_worker_ends_when_its_input_closes_whatever_it_does(start, change):
    process = start(changed_worker(change))
    assert process.event()["event"] == "hello"
    process.ask(phantom()[0])
    time.sleep(0.3)
    assert process.end() == 0


def test_a_worker_ends_when_its_input_closes_while_it_computes(worker, sample_scan):
    worker.ask(sitk.ReadImage(str(sample_scan)), mode="paper", bias_field="full")
    assert worker.event()["phase"] == "Preprocessing"
    time.sleep(0.3)
    assert worker.end() == 0


def test_a_worker_ends_when_its_input_closes_before_it_said_hello(start):
    process = start()
    time.sleep(0.2)
    assert process.end() == 0


def test_a_worker_ends_with_the_program_that_started_it(tmp_path):
    owner = (
        "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); "
        "print(p.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE_ROOT}
    command = [sys.executable, "-c", owner, *WORKER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert json.loads(process.stdout.readline())["pid"] == pid
        process.kill()
    assert wait_until(lambda: not is_running(pid), 10)


def test_the_worker_starts_no_processes(lasting_worker, model):
    from DDSPSegmentationLib.scene.worker_process import descendants

    lasting_worker.segment(phantom()[0], model=model)
    pid = lasting_worker.popen.pid
    assert descendants(pid) == [] and pid in descendants(os.getpid())


def test_each_refused_scan_is_one_error_and_the_next_one_is_done(worker, model, tmp_path):
    scan, _ = phantom()
    damaged = tmp_path / "damaged.mha"
    write_temporary(scan, damaged)
    damaged.write_bytes(damaged.read_bytes()[:5000])
    for image, settings, kind, words in (
        (tmp_path / "absent.mha", {}, "StorageError", "missing from the temporary folder"),
        (damaged, {}, "StorageError", "damaged"),
        (scan[:, :, :3], {}, "InputError", "'Müller^Hans' has 3 slices"),
        (scan, {"mode": "best"}, "InputError", "'best'"),
        (scan, {"flip": True}, "InputError", "flip"),
        (scan, {"location": (9e3, 0, 0)}, "InputError", "'Müller^Hans'"),
        (scan, {"model": tmp_path}, "ModelError", ""),
    ):
        answer, _told = worker.answer(worker.ask(image, **{"name": "Müller^Hans", "model": model, **settings}))
        assert answer["event"] == "error" and answer["type"] == kind and words in answer["cause"], answer
        assert answer["next_step"] or "slices" in words
    assert voxels(worker.segment(scan, model=model).mask).any()
    worker.end()
    assert not list(tmp_path.glob("out*"))  # the answer took its files along
    assert b"Hans" not in worker.printed


def test_an_internal_error_is_one_sentence_with_its_details_in_the_log_alone(odd_worker, model):
    request_id = odd_worker.ask(phantom()[0], model=model, name="Doe^Jane")
    answer, _told = odd_worker.answer(request_id)
    assert answer["type"] == "WorkerError" and answer["cause"] == "The engine failed unexpectedly (KeyError)."
    assert "Show Log" in answer["next_step"]
    odd_worker.segment(phantom()[0], model=model)
    assert wait_until(lambda: b"KeyError" in odd_worker.printed)  # its last line
    assert b"Traceback" in odd_worker.printed and b"Doe^Jane" not in odd_worker.printed
    assert not (odd_worker.folder / f"out{request_id}").exists()


def test_too_little_memory_is_told_as_such(odd_worker, model):
    answer, _told = odd_worker.answer(odd_worker.ask(phantom()[0], model=model, name="large"))
    assert (answer["type"], answer["cause"]) == ("DeviceError", not_enough_memory().cause)


def test_a_disk_that_fills_up_under_the_result_is_told_and_nothing_is_left(start, model, tmp_path):
    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start(preexec_fn=little_room)
    assert process.event()["event"] == "hello"
    for _ in range(2):
        answer, _told = process.answer(process.ask(phantom()[0], model=model))
        assert answer["type"] == "StorageError", answer
        assert answer["next_step"] and not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("line", ["what?\n", "[1]\n", '{"request": "sing", "id": "a"}\n', '{"request": "segment"}\n'])
def test_a_line_that_is_no_request_is_refused_and_the_next_one_is_done(lasting_worker, model, line):
    lasting_worker.write(line)
    answer = lasting_worker.event()
    assert answer["event"] == "error" and answer["type"] == "WorkerError"
    lasting_worker.segment(phantom()[0], model=model)


def test_missing_and_old_torch_are_the_first_and_last_event(start):
    for version, words in (("None", "PyTorch is "), ("'2.3.0'", "2.3.0")):
        change = f"""
import importlib.metadata as metadata
from DDSPSegmentationLib.service import worker
def version(package):
    if {version} is None: raise metadata.PackageNotFoundError(package)
    return {version}
metadata.version = version
worker.main()
"""
        process = start([sys.executable, "-c", change])
        event = process.event()
        assert (event["event"], event["type"], event["id"]) == ("error", "TorchMissingError", None)
        assert words in event["cause"] and event["next_step"] == INSTALL_TORCH
        assert process.popen.wait(10) == 3


def test_a_torch_that_does_not_load_is_told(start, tmp_path):
    (tmp_path / "front" / "torch").mkdir(parents=True)
    (tmp_path / "front" / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so: cannot open\\nmore')")
    process = start(path=os.pathsep.join([str(tmp_path / "front"), PACKAGE_ROOT]))
    event = process.event()
    assert event["type"] == "TorchMissingError" and "libtorch.so: cannot open." in event["cause"]
    assert process.popen.wait(10) == 3


def test_accented_and_long_paths_work(tmp_path, model):
    folder = tmp_path / ("Prostatë Ünïcode 前立腺 " + "x" * 80) / ("y" * 100)
    folder.mkdir(parents=True)
    process = Process(folder)
    assert process.event()["event"] == "hello"
    assert voxels(process.segment(phantom()[0], model=model).mask).any()
    process.end()


def test_a_killed_worker_is_killed_by_that_signal(worker):
    worker.popen.kill()
    assert worker.popen.wait(10) == -signal.SIGKILL


def test_temporary_scans_and_answers_go_with_a_client_that_is_gone_and_nothing_else(worker, model, tmp_path):
    own = tmp_path / "patient.mha"
    write_temporary(phantom()[0], own)
    worker.segment(phantom()[0], model=model)
    output, kept = tmp_path / "2", tmp_path / "scan of the user.mha"
    own.rename(kept)
    worker.write(
        protocol.encode_line(protocol.segment_request("2", kept, output, RunSettings(device="cpu", model=model), ""))
    )
    assert worker.answer("2")[0]["event"] == "result" and (output / "mask.mha").exists()
    assert (tmp_path / "1.mha").exists()
    assert worker.end() == 0
    assert not (tmp_path / "1.mha").exists() and not output.exists() and kept.exists()
