"""The batch runner's own rules, with a light segmenter that really writes masks."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine import errors
from DDSPSegmentationLib.engine.file_doubts import NO_ORIENTATION
from DDSPSegmentationLib.engine.html_page import RESEARCH_ONLY
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import ExpectedDice, Segmentation, measure_gland
from DDSPSegmentationLib.library.folder_lock import LOCK_NAME, FolderLock, lock_holder
from DDSPSegmentationLib.service.batch import BatchSettings, run_batch
from DDSPSegmentationLib.service.batch_record import BatchRecord, without_folders
from DDSPSegmentationLib.service.case_work import do_case
from DDSPSegmentationLib.service.inputs import InputCase, Skipped
from DDSPSegmentationLib.service.mask_files import write_mask
from DDSPSegmentationLib.service.report import write_report
from DDSPSegmentationLib.service.review_states import decide, read_decisions

SETTINGS = BatchSettings(RunSettings(), ".seg.nrrd", "1", "0" * 64)


@dataclass
class FakeCase:
    """A scan made from a seed; ``trouble`` is raised when it is loaded."""

    name: str
    seed: int = 0
    trouble: BaseException | None = None
    kind: str = "file"

    @property
    def key(self) -> str:
        return self.name

    def fingerprint(self) -> str:
        return f"seed {self.seed}"

    def files(self):
        return [], True

    def load(self, doubts=None) -> sitk.Image:
        if self.trouble is not None:
            raise self.trouble
        voxels = np.random.default_rng(self.seed).normal(100, 5, (12, 48, 48)).astype(np.float32)
        voxels[3:9, 16:32, 14 : 30 + self.seed % 5] += 100
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing((1.5, 1.5, 4.0))
        image.SetMetaData("0010|0010", "Secret^Patient")
        return image


class FakeSegmenter:
    """Thresholds at 150 and writes the mask; keeps the names it was called with."""

    def __init__(self, wait=0.0, expected_dice=None, warnings=(), warned=None, doubts=None):
        self.calls, self.wait = [], wait
        self.expected_dice, self.warnings, self.warned = expected_dice or {}, list(warnings), warned
        self.doubts = doubts or {}

    def __call__(self, name, image, mask_path) -> Segmentation:
        self.calls.append(name)
        mask = image > 150
        time.sleep(self.wait)
        write_mask(mask, mask_path)
        time.sleep(self.wait)
        gray = sitk.Cast(mask, sitk.sitkFloat32)
        dice = self.expected_dice.get(name, 0.9)
        expected = None if dice is None else ExpectedDice(dice, dice - 0.05, dice + 0.03)
        warnings = list(self.warnings) if self.warned is None or name in self.warned else []
        return Segmentation(
            mask, gray, gray, measure_gland(mask), expected, None, self.doubts.get(name, []), warnings, [],
            {"segment": 0.01}, {"segment": 100.0}, "1", "0" * 64, "fast", 0.5, "full", "cpu", "float32",
        )  # fmt: skip


def in_this_process(segment):
    """What a batch does with each case, without a process of its own."""
    return lambda case, outputs, tell: do_case(case, outputs, segment, tell)


class Lines(list):
    def __call__(self, line):
        self.append(line)


def run(folder, cases, segment=None, settings=SETTINGS, skipped=(), progress=None):
    segment = segment or FakeSegmenter()
    do = in_this_process(segment)
    return run_batch(cases, skipped, folder, settings, do, Lines() if progress is None else progress), segment


def cases(count=3):
    return [FakeCase(f"case{number}", number) for number in range(count)]


def record(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def all_text(folder):
    """Everything written, as text, lock and pictures included."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_every_case_gets_mask_picture_row_and_entry(tmp_path):
    result, _ = run(tmp_path, cases())
    assert (result.exit_code, result.done, result.failed) == (0, ["case0", "case1", "case2"], {})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        LOCK_NAME, "thumbnails", "run.json", "measurements.csv", "report.html",
        *(f"case{number}{end}" for number in range(3) for end in (".seg.nrrd", ".png")),
    }  # fmt: skip
    with open(tmp_path / "measurements.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["case0", "case1", "case2"]
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case1.seg.nrrd")))
    assert float(rows[1]["volume_ml"]) == pytest.approx(mask.sum() * 9 / 1000, abs=0.01)
    entry = record(tmp_path)["cases"]["case1"]
    assert entry["seconds"] == {"segment": 0.01} and entry["peak_memory_mb"] == {"segment": 100.0}
    assert record(tmp_path)["model_sha256"] == "0" * 64 and record(tmp_path)["settings"]["mode"] == "standard"


def test_second_run_does_nothing(tmp_path):
    run(tmp_path, cases())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.seg.nrrd")}
    result, segment = run(tmp_path, cases())
    assert (result.exit_code, segment.calls, len(result.unchanged)) == (0, [], 3)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.seg.nrrd")}


@pytest.mark.parametrize("missing", ["case1.seg.nrrd", "case1.png", "thumbnails/case1.png"])
def test_only_what_is_missing_is_redone(tmp_path, missing):
    run(tmp_path, cases())
    (tmp_path / missing).unlink()
    result, segment = run(tmp_path, cases())
    assert segment.calls == ["case1"] and result.exit_code == 0 and (tmp_path / missing).is_file()


def test_only_a_changed_input_is_redone(tmp_path):
    run(tmp_path, cases())
    changed = cases()
    changed[2].seed = 9
    _, segment = run(tmp_path, changed)
    assert segment.calls == ["case2"] and record(tmp_path)["cases"]["case2"]["identity"]["input"] == "seed 9"


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, run=RunSettings(mode="paper")),
        replace(SETTINGS, run=RunSettings(threshold=0.4)),
        replace(SETTINGS, run=RunSettings(bias_field="off")),
        replace(SETTINGS, model_sha256="1" * 64),
    ],
)
def test_changed_settings_or_model_redo_everything(tmp_path, changed):
    run(tmp_path, cases())
    _, segment = run(tmp_path, cases(), settings=changed)
    assert len(segment.calls) == 3
    _, segment = run(tmp_path, cases(), settings=changed)
    assert segment.calls == []


def test_another_device_or_place_of_the_model_redoes_nothing(tmp_path):
    run(tmp_path, cases())
    elsewhere = replace(SETTINGS, run=RunSettings(device="cpu", model="/elsewhere"))
    _, segment = run(tmp_path, cases(), settings=elsewhere)
    assert segment.calls == []


def test_new_version_of_the_package_redoes_everything(tmp_path, monkeypatch):
    run(tmp_path, cases(1))
    monkeypatch.setattr("DDSPSegmentationLib.service.batch.__version__", "99.0")
    _, segment = run(tmp_path, cases(1))
    assert segment.calls == ["case0"]


def test_other_format_replaces_our_own_mask(tmp_path):
    run(tmp_path, cases(1))
    run(tmp_path, cases(1), settings=replace(SETTINGS, mask_suffix=".nii.gz"))
    assert (tmp_path / "case0.nii.gz").is_file() and not (tmp_path / "case0.seg.nrrd").exists()


def test_a_corrected_mask_is_kept_beside_the_new_one(tmp_path):
    run(tmp_path, cases(1))
    (tmp_path / "case0.seg.nrrd").write_bytes(b"a radiologist's work")
    lines = Lines()
    _, segment = run(tmp_path, cases(1), progress=lines)
    assert segment.calls == ["case0"]
    assert (tmp_path / "case0.kept-1.seg.nrrd").read_bytes() == b"a radiologist's work"
    assert any("kept as 'case0.kept-1.seg.nrrd'" in line for line in lines)
    _, segment = run(tmp_path, cases(1))
    assert segment.calls == []


def test_a_case_more_lists_no_folder_more(tmp_path, monkeypatch):
    def listings(count):
        listed = []
        for name in ("scandir", "listdir"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda place=".", real=real: listed.append(place) or real(place))
        run(tmp_path / str(count), cases(count))
        monkeypatch.undo()
        return len(listed)

    run(tmp_path / "before", cases(1))  # whatever is imported on first use
    assert listings(2) == listings(6)


def test_a_failing_case_is_listed_and_stops_nothing(tmp_path):
    inputs = cases()
    inputs[1].trouble = errors.InputError("Bad 'case1'.", "Try again.")
    result, _ = run(tmp_path, inputs)
    assert result.exit_code == 1 and result.done == ["case0", "case2"]
    assert result.failed == {"case1": "Bad 'case1'. Try again."}
    assert "Bad &#x27;case1&#x27;." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert record(tmp_path)["cases"]["case1"] == {"state": "failed", "reason": result.failed["case1"]}
    assert not (tmp_path / "unexpected-errors.log").exists()


def test_a_failed_case_is_tried_again_and_its_old_mask_is_gone(tmp_path):
    run(tmp_path, cases())
    broken = cases()
    broken[1].seed, broken[1].trouble = 7, errors.InputError("Damaged.")
    run(tmp_path, broken)
    assert not (tmp_path / "case1.seg.nrrd").exists() and not (tmp_path / "case1.png").exists()
    result, segment = run(tmp_path, cases())
    assert segment.calls == ["case1"] and result.exit_code == 0


def test_a_case_that_fails_early_does_not_cost_a_corrected_mask(tmp_path):
    run(tmp_path, cases(1))
    (tmp_path / "case0.seg.nrrd").write_bytes(b"a radiologist's work")
    broken = FakeCase("case0")
    broken.fingerprint = lambda: (_ for _ in ()).throw(errors.InputError("Gone."))
    run(tmp_path, [broken])
    assert (tmp_path / "case0.seg.nrrd").read_bytes() == b"a radiologist's work"


def test_unexpected_error_is_one_plain_line_and_its_place_goes_to_a_log(tmp_path):
    inputs = cases()
    inputs[0].trouble = ZeroDivisionError("division of /home/meier/scan.nrrd\nsecond line")
    lines = Lines()
    result, _ = run(tmp_path, inputs, progress=lines)
    assert result.exit_code == 1 and len(result.done) == 2
    assert result.failed["case0"] == "Unexpected error (ZeroDivisionError: division of scan.nrrd)"
    assert any(line.endswith(result.failed["case0"]) for line in lines)
    log = (tmp_path / "unexpected-errors.log").read_text(encoding="utf-8")
    assert "test_batch.py:" in log and "/home" not in log and str(Path(__file__).parent) not in log


def test_a_segmenter_that_writes_no_mask_is_noticed(tmp_path):
    elsewhere = FakeSegmenter()
    result, _ = run(tmp_path, cases(1), lambda name, image, path: elsewhere(name, image, tmp_path / "other.nii.gz"))
    assert result.exit_code == 1 and "case0.seg.nrrd" in result.message


def test_missing_torch_ends_the_run_with_exit_code_3(tmp_path):
    def segment(*_):
        raise errors.TorchMissingError("No torch.", "Install it.")

    result, _ = run(tmp_path, cases(), segment)
    assert (result.exit_code, result.message) == (3, "No torch. Install it.")


def test_an_unusable_model_ends_the_run_at_once(tmp_path):
    calls = []

    def segment(*arguments):
        calls.append(arguments)
        raise errors.ModelError("Unusable.")

    result, _ = run(tmp_path, cases(), segment)
    assert result.exit_code == 2 and len(calls) == 1 and result.message == "Unusable."


def test_skipped_inputs_are_listed_with_their_reason(tmp_path):
    run(tmp_path, cases(1), skipped=[Skipped("localizer <1>", "no T2 name")])
    assert record(tmp_path)["skipped"] == [{"name": "localizer <1>", "reason": "no T2 name"}]
    assert "localizer &lt;1&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_output_that_is_a_file_or_not_writable_is_a_usage_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    result, _ = run(tmp_path / "file", cases(1))
    assert result.exit_code == 2 and "is a file" in result.message
    real = os.open

    def refuse(path, *arguments, **named):
        if str(path).endswith(LOCK_NAME):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    result, _ = run(tmp_path / "out", cases(1))
    assert result.exit_code == 2 and "Permission denied" in result.message


def test_full_disk_stops_the_run_cleanly_and_says_how_to_go_on(tmp_path, monkeypatch):
    real = os.replace

    def fill(source, target):
        if str(target).endswith("case1.seg.nrrd"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", fill)
    result, segment = run(tmp_path, cases())
    assert result.exit_code == 1 and result.done == ["case0"] and segment.calls == ["case0", "case1"]
    assert "case1" in result.message and "command" in result.message
    assert [path.name for path in tmp_path.rglob(".ddsp*")] == [LOCK_NAME]
    assert not (tmp_path / "case1.seg.nrrd").exists()
    monkeypatch.undo()
    result, segment = run(tmp_path, cases())
    assert result.exit_code == 0 and segment.calls == ["case1", "case2"]


def test_one_file_held_by_another_program_fails_that_case_only(tmp_path, monkeypatch):
    real = os.replace

    def hold(source, target):
        if str(target).endswith("case1.seg.nrrd"):
            raise PermissionError(13, "Permission denied")
        return real(source, target)

    monkeypatch.setattr(os, "replace", hold)
    result, _ = run(tmp_path, cases())
    assert result.exit_code == 1 and result.done == ["case0", "case2"] and list(result.failed) == ["case1"]


def test_full_disk_at_every_write_leaves_a_folder_that_can_go_on(tmp_path, monkeypatch):
    """The n-th rename fails, for every n that a whole run has; then the disk has space again."""
    real, count, n = os.replace, [0], 0

    def replace_or_fail(source, target):
        count[0] += 1
        if count[0] == n:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace_or_fail)
    run(tmp_path / "whole", cases(1))
    total = count[0]
    assert total > 6
    for n in range(1, total + 1):
        folder, count[0] = tmp_path / str(n), 0
        result, _ = run(folder, cases(1))
        assert result.exit_code == 1 and result.message, n
        assert [path.name for path in folder.rglob(".ddsp*")] == [LOCK_NAME]
        count[0] = -10_000
        result, _ = run(folder, cases(1))
        assert result.exit_code == 0 and result.failed == {}
        assert (folder / "case0.seg.nrrd").read_bytes() == (tmp_path / "whole" / "case0.seg.nrrd").read_bytes()
        assert not list(folder.glob("*.kept-*"))


def test_interrupt_ends_cleanly_and_the_next_run_goes_on(tmp_path):
    inputs = cases()
    inputs[1].trouble = KeyboardInterrupt()
    result, _ = run(tmp_path, inputs)
    assert result.exit_code == 1 and result.done == ["case0"]
    assert (
        result.message == "Stopped after 1 of 3 cases; their results are kept. Run the same command again to continue."
    )
    assert "not complete" in (tmp_path / "report.html").read_text(encoding="utf-8")
    result, segment = run(tmp_path, cases())
    assert result.exit_code == 0 and segment.calls == ["case1", "case2"] and not list(tmp_path.glob("*.kept-*"))


KILLED_RUN = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
sys.path[:0] = {paths!r}
from test_batch import FakeSegmenter, SETTINGS, cases, in_this_process
from DDSPSegmentationLib.service.batch import run_batch
say = lambda line: print(line, flush=True)
result = run_batch(cases(6), [], Path({folder!r}), SETTINGS, in_this_process(FakeSegmenter(wait=0.05)), say)
say(f"exit {{result.exit_code}}: {{result.message}}")
"""


def start_slow_run(folder):
    paths = [str(Path(__file__).parent), str(Path(sys.modules["DDSPSegmentationLib"].__file__).parents[1])]
    script = KILLED_RUN.format(paths=paths, folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX only; on Windows the rules are the same")
def test_killed_run_redoes_only_what_was_not_finished(tmp_path):
    folder = tmp_path / "out"
    process = start_slow_run(folder)
    finished = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(" ml, " in line for line in finished) and (folder / LOCK_NAME).exists()
    result, segment = run(folder, cases(6))
    assert result.exit_code == 0
    assert 2 <= len(result.unchanged) <= 4 and segment.calls == [f"case{n}" for n in range(len(result.unchanged), 6)]
    assert [path.name for path in folder.rglob(".ddsp*")] == [LOCK_NAME]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX only; on Windows the rules are the same")
def test_kills_at_many_instants_leave_nothing_half_written(tmp_path):
    folder, whole = tmp_path / "out", tmp_path / "whole"
    run(whole, cases(6))
    for attempt in range(5):
        process = start_slow_run(folder)
        process.stdout.readline()
        time.sleep(0.04 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in [*folder.glob("*.seg.nrrd"), *folder.rglob("case*.png")]:
            sitk.ReadImage(str(path))
        record(folder)
    result, _ = run(folder, cases(6))
    assert result.exit_code == 0 and not list(folder.glob("*.kept-*"))
    assert [path.name for path in folder.rglob(".ddsp*")] == [LOCK_NAME]
    for path in [*whole.glob("*.seg.nrrd"), *whole.rglob("*.png")]:
        assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a console, not to one process")
def test_ctrl_c_ends_the_process_cleanly_and_unlocks_the_folder(tmp_path):
    process = start_slow_run(tmp_path / "out")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert re.search(r"exit 1: .* of 6 cases", output)
    assert process.returncode == 0 and lock_holder(tmp_path / "out") is None
    assert run(tmp_path / "out", cases(6))[0].exit_code == 0


def test_leftovers_of_our_own_pattern_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".ddsp-0123456789ab.nrrd").write_bytes(b"half")
    (tmp_path / ".ddsp-notes.txt").write_text("mine")
    run(tmp_path, cases(1))
    assert sorted(path.name for path in tmp_path.glob(".ddsp*")) == [".ddsp-notes.txt", LOCK_NAME]


def test_second_run_into_the_same_folder_is_refused_while_the_first_lives(tmp_path):
    with FolderLock(tmp_path):
        result, segment = run(tmp_path, cases(1))
        assert result.exit_code == 2 and "in use by another run" in result.message and segment.calls == []
    assert run(tmp_path, cases(1))[0].exit_code == 0


def test_a_run_of_another_living_process_is_refused_by_name(tmp_path):
    folder = tmp_path / "out"
    process = start_slow_run(folder)
    try:
        process.stdout.readline()
        result, _ = run(folder, cases(1))
        assert result.exit_code == 2 and f"process {process.pid}" in result.message
    finally:
        process.kill()
        process.communicate()


def test_the_lock_file_that_a_run_of_an_older_version_left_is_no_obstacle(tmp_path):
    lock = {"process": os.getpid(), "host": "another-host", "since": "2026-01-01 00:00:00"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(lock))
    assert run(tmp_path, cases(1))[0].exit_code == 0


def test_outputs_hold_no_folder_and_no_tag(tmp_path):
    folder = tmp_path / "geheim" / "out"
    inputs = cases()
    inputs[1].trouble = FileNotFoundError(2, "No such file", str(tmp_path / "geheim" / "patient.nrrd"))
    inputs[2].trouble = RuntimeError(f"in {tmp_path}/geheim/patient.nrrd: bad")
    segment = FakeSegmenter(warnings=[f"See {tmp_path}/geheim/patient.nrrd"])
    run(folder, inputs, segment, skipped=[Skipped("x", f"{tmp_path}/geheim/y.dcm is odd")])
    text = all_text(folder)
    assert "geheim" not in text and str(tmp_path) not in text and "Secret" not in text and "patient.nrrd" in text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("No such file: '/home/a b/c.nrrd'", "No such file: 'c.nrrd'"),
        (r"cannot open C:\Users\Jörg\scan.nii.gz now", "cannot open scan.nii.gz now"),
        (r"\\server\share\x.nrrd", "x.nrrd"),
        ("error:/data/x.nrrd", "error:x.nrrd"),
        ("0.5 mm/s and 1/2, base / apex, and/or", "0.5 mm/s and 1/2, base / apex, and/or"),
        ("~/scans/x.nrrd", "x.nrrd"),
    ],
)
def test_folders_are_taken_out_of_a_text(text, cleaned):
    assert without_folders(text) == cleaned


def test_report_shows_doubtful_cases_first_with_warnings_escaped(tmp_path):
    segment = FakeSegmenter(expected_dice={"case0": 0.93, "case1": 0.41, "case2": 0.8}, warnings=["<b>&odd</b>"])
    run(tmp_path, cases(), segment)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", html) == ["case1", "case2", "case0"]
    assert RESEARCH_ONLY in html and "0 skipped; 2 doubtful, 1 check; 3 to review." in html
    assert re.findall(r'<dd class="word">(.*?)</dd>', html) == ["doubtful", "doubtful", "check"]  # 0.93 with a warning
    assert "&lt;b&gt;&amp;odd&lt;/b&gt;" in html and "<b>" not in html
    assert html.count("data:image/png;base64,") == 3
    assert not re.search(r"https?://|<script|<link|@import", html)


def test_report_keeps_a_case_name_with_special_characters_apart_from_its_markup(tmp_path):
    case = FakeCase("größe 5 & 'x' #1%")
    result, _ = run(tmp_path, [case])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert result.exit_code == 0 and "<h3>größe 5 &amp; &#x27;x&#x27; #1%</h3>" in html
    assert 'href="gr%C3%B6%C3%9Fe%205%20%26%20%27x%27%20%231%25.png"' in html


def test_not_a_number_is_written_as_null_and_shown_as_unknown(tmp_path):
    def without_time(name, image, mask_path):
        return replace(FakeSegmenter()(name, image, mask_path), seconds={"segment": float("nan")})

    result, _ = run(tmp_path, cases(1), without_time)
    assert result.exit_code == 0 and record(tmp_path)["cases"]["case0"]["measurements"]["seconds"] is None
    assert ">unknown s on cpu</dd>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_without_an_expected_dice_the_report_goes_by_warnings_then_by_the_least_certain_slice(tmp_path):
    segment = FakeSegmenter(
        expected_dice=dict.fromkeys(f"case{number}" for number in range(4)),
        warnings=["Look."],
        warned=["case2"],
        doubts={"case0": [None, 0.1, 0.2], "case1": [0.4, None], "case2": [0.01], "case3": [None]},
    )
    result, _ = run(tmp_path, cases(4), segment)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert result.exit_code == 0 and re.findall(r"<h3>(.*?)</h3>", html) == ["case2", "case1", "case0", "case3"]
    assert "; 1 check; 4 to review." in html and "xpected Dice" not in html
    assert html.count('<article class="check">') == 1 and html.count('<article class="unjudged">') == 3
    with open(tmp_path / "measurements.csv", newline="", encoding="utf-8") as file:
        assert [row["expected_dice"] for row in csv.DictReader(file)] == [""] * 4


def test_an_expected_dice_of_an_older_record_has_no_interval_and_is_not_shown(tmp_path):
    run(tmp_path, cases(2))
    assert "0.90 (0.85 to 0.93)" in (tmp_path / "report.html").read_text(encoding="utf-8")
    content = record(tmp_path)
    for entry in content["cases"].values():
        del entry["measurements"]["expected_dice_low"], entry["slice_doubts"]
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    write_report(BatchRecord.read(tmp_path), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h3>case0</h3>" in html and "xpected Dice" not in html and '<article class="doubtful">' not in html


def test_a_folder_of_before_gives_one_table_without_an_expected_dice_that_had_no_interval(tmp_path):
    run(tmp_path, cases(1))
    columns = next(csv.reader((tmp_path / "measurements.csv").read_text(encoding="utf-8").splitlines()))
    content = record(tmp_path)
    for name in ("expected_dice_low", "expected_dice_high"):
        del content["cases"]["case0"]["measurements"][name]
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    run(tmp_path, [FakeCase("new", 7)])
    with open(tmp_path / "measurements.csv", newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        old, new = rows
        assert rows.fieldnames == columns
    figures = [[row[name] for name in columns if name.startswith("expected_dice")] for row in (old, new)]
    assert figures == [["", "", ""], ["0.9", "0.85", "0.93"]]


def test_cases_of_an_earlier_run_stay_listed_while_their_mask_is_there(tmp_path):
    run(tmp_path, cases(2))
    run(tmp_path, [FakeCase("other", 5)])
    assert set(record(tmp_path)["cases"]) == {"case0", "case1", "other"}
    (tmp_path / "case0.seg.nrrd").unlink()
    run(tmp_path, [FakeCase("other", 5)])
    assert set(record(tmp_path)["cases"]) == {"case1", "other"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "cases": {"a": 3}}']
)
def test_damaged_run_file_means_that_everything_is_redone(tmp_path, content):
    run(tmp_path, cases(1))
    (tmp_path / "run.json").write_text(content)
    result, segment = run(tmp_path, cases(1))
    assert result.exit_code == 0 and segment.calls == ["case0"]


def test_run_file_of_a_newer_version_is_refused(tmp_path):
    run(tmp_path, cases(1))
    (tmp_path / "run.json").write_text('{"schema_version": 99, "cases": {}}')
    result, segment = run(tmp_path, cases(1))
    assert result.exit_code == 2 and "newer version" in result.message and segment.calls == []


def test_progress_is_one_line_a_case_with_number_seconds_and_time_left(tmp_path):
    lines = Lines()
    run(tmp_path, cases(2), progress=lines)
    assert re.fullmatch(r"\[1/2\] case0: [\d.]+ ml, expected Dice 0.9, good, [\d.]+ s, about \d+ s left", lines[0])
    assert re.fullmatch(r"\[2/2\] case1: [\d.]+ ml, expected Dice 0.9, good, [\d.]+ s", lines[1]) and len(lines) == 2


def test_what_a_file_leaves_open_is_told_at_once_and_stays_with_the_result(tmp_path):
    sitk.WriteImage(FakeCase("T2").load(), str(tmp_path / "T2.nii"))
    content = bytearray((tmp_path / "T2.nii").read_bytes())
    content[252:256] = bytes(4)  # the codes of qform and sform
    (tmp_path / "T2.nii").write_bytes(content)
    lines = Lines()
    run(tmp_path / "out", [InputCase("T2", tmp_path / "T2.nii")], progress=lines)
    assert lines[0].endswith(NO_ORIENTATION)
    assert record(tmp_path / "out")["cases"]["T2"]["warnings"] == [NO_ORIENTATION]
    assert NO_ORIENTATION in (tmp_path / "out" / "measurements.csv").read_text(encoding="utf-8-sig")


def test_a_line_of_progress_names_no_expected_dice_where_there_is_none(tmp_path):
    lines = Lines()
    run(tmp_path, cases(1), FakeSegmenter(expected_dice={"case0": None}), progress=lines)
    assert re.fullmatch(r"\[1/1\] case0: [\d.]+ ml, [\d.]+ s", lines[0])


def test_a_mask_edited_after_a_killed_run_is_kept(tmp_path):
    run(tmp_path, cases(2))
    content = record(tmp_path)
    content["cases"]["case0"]["state"] = "running"  # as a kill in the middle of the case leaves it
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    edited = b"somebody's work"
    (tmp_path / "case0.seg.nrrd").write_bytes(edited)
    run(tmp_path, cases(2))
    assert (tmp_path / "case0.kept-1.seg.nrrd").read_bytes() == edited


def test_a_run_that_ends_at_once_leaves_earlier_results_in_the_tables(tmp_path):
    def unusable_model(name, image, mask_path):
        raise errors.ModelError("The weights are damaged.", "Choose another model.")

    run(tmp_path, cases(2))
    run(tmp_path, cases(2), unusable_model, replace(SETTINGS, model_sha256="f" * 64))
    assert {entry["state"] for entry in record(tmp_path)["cases"].values()} == {"done"}
    assert "case0" in (tmp_path / "measurements.csv").read_text(encoding="utf-8")


def test_each_case_is_a_line_of_a_record_that_is_json(tmp_path):
    run(tmp_path, cases(2))
    lines = (tmp_path / "run.json").read_text(encoding="utf-8").splitlines()
    assert [line[5:10] for line in lines if line[1:].startswith('   "case')] == ["case0", "case1"]
    (tmp_path / "run.json").write_text(json.dumps(record(tmp_path), indent=2), encoding="utf-8")  # as of before
    _, segment = run(tmp_path, cases(2))
    assert segment.calls == []


def test_what_the_journal_noted_after_the_record_was_written_counts(tmp_path):
    run(tmp_path, cases(2))
    content = record(tmp_path)
    entry = content["cases"].pop("case1")
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    noted = json.dumps({"case": "case1", "entry": entry})
    (tmp_path / "run.jsonl").write_text(f"{noted}\n{noted[:50]}", encoding="utf-8")  # the last line was cut off
    _, segment = run(tmp_path, cases(2))
    assert segment.calls == [] and len(record(tmp_path)["cases"]) == 2 and not (tmp_path / "run.jsonl").exists()


# ---- what a person decides


def states_in(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    return dict(
        zip(re.findall(r"<h3>(.*?)</h3>", html), re.findall(r'<dd class="state">(.*?)</dd>', html), strict=True)
    )


def test_decisions_stand_in_the_report_and_outlive_a_rerun(tmp_path):
    run(tmp_path, cases())
    masks = {name: entry["mask"]["sha256"] for name, entry in record(tmp_path)["cases"].items()}
    decide(tmp_path, "accepted", {"case1": masks["case1"]})
    decide(tmp_path, "rejected", {"case2": masks["case2"]})
    kept = (tmp_path / "review.json").read_bytes()
    run(tmp_path, cases(4))
    assert (tmp_path / "review.json").read_bytes() == kept
    assert states_in(tmp_path) == {"case0": "to review", "case1": "accepted", "case2": "rejected", "case3": "to review"}
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 to review, 1 accepted, 1 rejected." in html


def test_a_decision_is_about_one_mask(tmp_path):
    run(tmp_path, cases(1))
    decide(tmp_path, "accepted", {"case0": record(tmp_path)["cases"]["case0"]["mask"]["sha256"]})
    run(tmp_path, [FakeCase("case0", seed=3)])
    assert states_in(tmp_path) == {"case0": "to review"}
    assert read_decisions(tmp_path)["case0"].state == "accepted"  # nothing of it is lost


def test_a_damaged_review_is_left_alone_and_told_to_who_reviews(tmp_path):
    run(tmp_path, cases(1))
    (tmp_path / "review.json").write_text("{", encoding="utf-8")
    result, _ = run(tmp_path, cases(2))
    assert result.exit_code == 0 and states_in(tmp_path) == {"case0": "to review", "case1": "to review"}
    with pytest.raises(errors.StorageError, match=r"review.json in '.*' is damaged"):
        decide(tmp_path, "accepted", {"case0": "0" * 64})
    assert (tmp_path / "review.json").read_text(encoding="utf-8") == "{"


def test_an_unknown_state_is_refused(tmp_path):
    with pytest.raises(errors.InputError, match="'maybe' is no state.*to review, corrected, accepted, rejected"):
        decide(tmp_path, "maybe", {"case0": "0" * 64})
    assert not (tmp_path / "review.json").exists()


def test_many_cases_come_in_pages_that_are_small_and_linked(tmp_path):
    run(tmp_path, cases(1))
    content = record(tmp_path)
    entry = content["cases"]["case0"]
    content["cases"] = {f"case{number:05d}": entry for number in range(10_000)}
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    started = time.monotonic()
    write_report(BatchRecord.read(tmp_path), tmp_path)
    assert time.monotonic() - started < 20
    pages = sorted(tmp_path.glob("report*.html"))
    assert len(pages) == 50 and max(page.stat().st_size for page in pages) < 500_000
    first = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'href="report-50.html"' in first and 'src="thumbnails/case00000.png"' in first
    names = [name for page in pages for name in re.findall(r"<h3>(.*?)</h3>", page.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names)) == 10_000
    content["cases"] = {"case0": entry}
    (tmp_path / "run.json").write_text(json.dumps(content), encoding="utf-8")
    write_report(BatchRecord.read(tmp_path), tmp_path)
    assert [page.name for page in tmp_path.glob("report*.html")] == ["report.html"]


# ---- several at once


def run_at_once(folder, inputs, do, jobs=3, **named):
    return run_batch(inputs, [], folder, SETTINGS, do, named.pop("lines", Lines()), jobs=jobs, **named)


def test_several_at_once_give_the_results_of_one_after_the_other(tmp_path):
    inputs = cases(5)
    inputs[2].trouble = errors.InputError("Damaged.")
    run(tmp_path / "one", inputs)
    lines = Lines()
    result = run_at_once(tmp_path / "several", inputs, in_this_process(FakeSegmenter()), lines=lines)
    assert result.exit_code == 1 and result.failed == {"case2": "Damaged."}
    assert sorted(result.done) == ["case0", "case1", "case3", "case4"]
    assert sorted(line.split(":")[0] for line in lines) == [f"[{number + 1}/5] case{number}" for number in range(5)]
    ours, theirs = record(tmp_path / "several"), record(tmp_path / "one")
    assert ours["cases"] == theirs["cases"] and ours["state"] == "finished"
    assert (tmp_path / "several" / "measurements.csv").read_bytes() == (
        tmp_path / "one" / "measurements.csv"
    ).read_bytes()


def test_so_many_are_at_work_at_once_and_no_more(tmp_path):
    at_work, most, mutex, met = [], [0], threading.Lock(), threading.Barrier(3)
    do_one = in_this_process(FakeSegmenter())

    def do(case, outputs, tell):
        with mutex:
            at_work.append(case.name)
            most[0] = max(most[0], len(at_work))
        met.wait(timeout=60)
        try:
            return do_one(case, outputs, tell)
        finally:
            with mutex:
                at_work.remove(case.name)

    assert run_at_once(tmp_path, cases(6), do).exit_code == 0 and most[0] == 3


@pytest.mark.parametrize(
    ("raised", "exit_code"), [(errors.ModelError("Unusable."), 2), (KeyboardInterrupt(), 1), (OSError(28, "full"), 1)]
)
def test_what_concerns_all_ends_those_at_work_and_says_nothing_of_them(tmp_path, raised, exit_code):
    ended, at_work = threading.Event(), threading.Event()

    def do(case, outputs, tell):
        if case.name == "case0":
            assert at_work.wait(60)
            raise raised
        at_work.set()
        assert ended.wait(60)
        raise errors.InputError("It was killed.")

    result = run_at_once(tmp_path, cases(3), do, jobs=2, end_work=ended.set)
    assert result.exit_code == exit_code and result.message and "case1" not in result.failed
    assert "It was killed" not in all_text(tmp_path)
    result, segment = run(tmp_path, cases(3))
    assert result.exit_code == 0 and len(segment.calls) == 3
