"""A scan that crashes, hangs or eats the process that reads it ends that scan alone: real processes, real deaths."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.service import case_process
from DDSPSegmentationLib.service.batch import BatchSettings, run_batch
from DDSPSegmentationLib.service.batch_record import LOG_FILE, UnexpectedError
from DDSPSegmentationLib.service.case_process import CaseProcess, CaseProcesses
from DDSPSegmentationLib.service.case_work import Outputs
from DDSPSegmentationLib.service.inputs import InputCase, collect_inputs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX; on Windows exit codes tell the same")
SAMPLE = Path(__file__).parents[2] / "DDSPSegmentation" / "Resources" / "SampleData" / "ProstateX-0000.nrrd"
WILD = [sys.executable, str(Path(__file__).with_name("wild_case_worker.py"))]
SETTINGS = RunSettings(bias_field="off", device="cpu")
ENDINGS = {
    "segv": "it crashed with SIGSEGV",
    "abort": "it crashed with SIGABRT",
    "fpe": "it crashed with SIGFPE",
    "killed": "it was killed, most likely because memory ran out",
    "exit": "exit code 7",
}


@pytest.fixture(scope="module")
def doing():
    with CaseProcess(SETTINGS, 120.0, WILD) as process:
        yield process


@pytest.fixture
def scan(tmp_path):
    """A scan by a name; what the name begins with is what its reader does."""

    def make(name):
        path = tmp_path / f"{name}.nrrd"
        shutil.copyfile(SAMPLE, path)
        return InputCase(name, path)

    return make


@pytest.fixture
def outputs(tmp_path):
    return Outputs(tmp_path / "mask.nii.gz", tmp_path / "picture.png", tmp_path / "thumbnail.png")


def nothing(phase, fraction):
    pass


def pid_of(process):
    return process._process.pid


def test_a_sound_scan_is_done_and_tells_how_far_it_is(doing, scan, outputs):
    phases = []
    facts = doing(scan("sound"), outputs, lambda phase, fraction: phases.append(phase))
    assert 40 < facts["measurements"]["volume_ml"] < 55 and facts["device"] == "cpu"
    assert all(path.is_file() for path in outputs[:3]) and sitk.ReadImage(str(outputs.mask)).GetSize() == (384, 384, 19)
    assert phases[0] == "Reading" and {"Segmenting", "Drawing"} <= set(phases)


@pytest.mark.parametrize("name", ENDINGS)
def test_a_scan_that_ends_the_process_is_told_and_the_next_one_is_done(doing, scan, outputs, name):
    with pytest.raises(InputError) as caught:
        doing(scan(f"{name}-1"), outputs, nothing)
    assert f"Reading '{name}-1' ended the process that did it ({ENDINGS[name]})." == caught.value.cause
    assert caught.value.next_step
    assert doing(scan("sound"), outputs, nothing)["measurements"]["volume_ml"] > 40


def test_a_crash_says_where_it_was(doing, scan, outputs):
    with pytest.raises(InputError) as caught:
        doing(scan("segv-2"), outputs, nothing)
    assert any("in wild" in frame for frame in caught.value.frames)
    assert not any("/" in frame for frame in caught.value.frames)


def test_a_scan_that_eats_all_memory_ends_alone(doing, scan, outputs):
    with pytest.raises((InputError, Exception)) as caught:
        doing(scan("eats-1"), outputs, nothing)
    assert "memory" in str(caught.value)
    assert doing(scan("sound"), outputs, nothing)["measurements"]["volume_ml"] > 40


def test_a_scan_that_hangs_is_given_up_at_the_time_limit(scan, outputs):
    with CaseProcess(SETTINGS, 2.0, WILD) as process:
        started = time.monotonic()
        with pytest.raises(InputError, match="Reading 'hang-1' took longer than 2 s and was stopped.*--time-limit"):
            process(scan("hang-1"), outputs, nothing)
        assert time.monotonic() - started < 10


def test_what_libraries_print_is_no_answer(doing, scan, outputs):
    assert doing(scan("prints-1"), outputs, nothing)["measurements"]["volume_ml"] > 40


def test_an_error_of_ours_keeps_the_process_and_says_where(doing, scan, outputs):
    doing(scan("sound"), outputs, nothing)
    before = pid_of(doing)
    with pytest.raises(UnexpectedError, match="nobody thought of this") as caught:
        doing(scan("fault-1"), outputs, nothing)
    assert any("in wild" in frame for frame in caught.value.frames)
    with pytest.raises(InputError, match="is empty|not|truncated"):
        broken = scan("broken")
        broken.source.write_bytes(b"NRRD0004\n")
        doing(broken, outputs, nothing)
    assert doing(scan("sound"), outputs, nothing) and pid_of(doing) == before


def test_nothing_is_left_when_the_batch_is_over(scan, outputs):
    with CaseProcess(SETTINGS, 60.0, WILD) as process:
        process(scan("sound"), outputs, nothing)
        pid = pid_of(process)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_beside_another_scan_is_that_scan_s_alone(tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name in ("segv-1", "sound"):
        shutil.copyfile(SAMPLE, folder / f"{name}.nrrd")
    cases, skipped = collect_inputs([folder])
    settings = BatchSettings(SETTINGS, ".nii.gz", "1", "0" * 64)
    with CaseProcesses(2, SETTINGS, 120.0, WILD) as processes:
        result = run_batch(cases, skipped, out, settings, processes, lambda line: None, jobs=2, end_work=processes.kill)
    assert result.done == ["sound"] and "SIGSEGV" in result.failed["segv-1"]


@pytest.mark.parametrize(("asked", "told"), [("", "4"), ("2", "2"), ("16", "4"), ("x", "4")])
def test_processes_divide_the_cores_among_them(monkeypatch, asked, told):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(case_process, "usable_cores", lambda: 8)
    assert set(case_process._threads_of_each(2).values()) == {told}
    assert set(case_process._threads_of_each(100).values()) == {"1"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when it next reads its standard input")
def test_the_process_goes_with_a_batch_that_is_killed(tmp_path):
    scan = tmp_path / "hang-1.nrrd"
    shutil.copyfile(SAMPLE, scan)
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(SAMPLE.parents[2])]!r}\n"
        "from pathlib import Path\n"
        "from test_case_process import *\n"
        "process = CaseProcess(SETTINGS, 600.0, WILD)\n"
        "tell = lambda phase, fraction: print(pid_of(process), flush=True)\n"
        f"process(InputCase('hang-1', Path({str(scan)!r})), Outputs(*[Path('x')] * 3), tell)\n"
    )
    batch = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(batch.stdout.readline())
    batch.send_signal(signal.SIGKILL)
    batch.communicate()
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_batch_goes_on_after_every_kind_of_death_and_a_rerun_does_not_die(tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name in ("a-sound", "abort-1", "fault-1", "segv-1", "z-sound"):
        shutil.copyfile(SAMPLE, folder / f"{name}.nrrd")
    cases, skipped = collect_inputs([folder])
    settings = BatchSettings(SETTINGS, ".nii.gz", "1", "0" * 64)
    for run in range(2):
        with CaseProcess(SETTINGS, 120.0, WILD) as process:
            result = run_batch(cases, skipped, out, settings, process, lambda line: None)
        assert result.exit_code == 1 and set(result.failed) == {"abort-1", "fault-1", "segv-1"}
        assert (result.unchanged if run else result.done) == ["a-sound", "z-sound"]
        assert "SIGABRT" in result.failed["abort-1"] and "nobody thought of this" in result.failed["fault-1"]
    assert "in wild" in (out / LOG_FILE).read_text(encoding="utf-8")
    assert not list(out.glob("*-1.nii.gz")) and len(list(out.glob("*.nii.gz"))) == 2
