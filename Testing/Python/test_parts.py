"""Parts of a batch: who does which case, what they leave in the folder that they share, and how it is merged."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from test_batch import SETTINGS, FakeCase, FakeSegmenter, Lines, in_this_process, record

from DDSPSegmentationLib.engine.errors import InputError, StorageError
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.library.folder_lock import FolderInUseError
from DDSPSegmentationLib.service import part_record
from DDSPSegmentationLib.service.arguments import command_parser
from DDSPSegmentationLib.service.batch import run_batch
from DDSPSegmentationLib.service.batch_review import BatchReview
from DDSPSegmentationLib.service.case_entries import CaseEntries, Journal, journal_lines
from DDSPSegmentationLib.service.command_line import main
from DDSPSegmentationLib.service.inputs import Skipped, collect_inputs
from DDSPSegmentationLib.service.part_record import claim_part, merge_parts, read_turns, recorded_count
from DDSPSegmentationLib.service.parts import Listed, Part, choose_part
from DDSPSegmentationLib.service.review_states import decide, read_decisions

COUNT = 3
SCANS = [FakeCase(f"patient{number}", number) for number in range(8)]  # 3, 3 and 2 of them in the parts


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Whoever gives no sign of life for half a second is believed to be dead."""
    monkeypatch.setattr(part_record, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(part_record, "WATCH_SECONDS", 0.5)


def run(folder, number, cases=SCANS, count=COUNT, segment=None, settings=SETTINGS, skipped=(), lines=None):
    segment = segment or FakeSegmenter()
    lines = Lines() if lines is None else lines
    part = Part(number, count, "a test")
    return run_batch(cases, skipped, folder, settings, in_this_process(segment), lines, part=part), segment


def run_all(folder, cases=SCANS, **named):
    return [run(folder, number, cases, **named) for number in range(COUNT)]


def merge(folder, capsys):
    code = main(["report", str(folder)])
    return code, capsys.readouterr().out


def names_of(number, cases=SCANS, count=COUNT):
    return [case.name for case in cases if Part(number, count).holds(case.key)]


def files_of(folder):
    """All files but those of the parts themselves."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if not path.startswith("parts/")}


# ---- which part


SLURM = {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in (("ID", "5"), ("MIN", "1"), ("MAX", "16"), ("COUNT", "16"))
}


@pytest.mark.parametrize(
    ("count", "number", "environment", "part", "origin"),
    [
        (None, None, {}, None, ""),
        (4, 3, {}, (3, 4), "--num-parts and --part-id"),
        (4, 3, SLURM, (3, 4), "--num-parts and --part-id"),
        (None, None, SLURM, (4, 16), "SLURM_ARRAY_TASK_ID=5 of 1 to 16"),
        (16, None, SLURM, (4, 16), "SLURM_ARRAY_TASK_ID=5"),
        (1, None, SLURM, None, ""),
        (1, None, SLURM | {"SLURM_ARRAY_TASK_COUNT": "2"}, None, ""),
        (8, None, {"JOB_COMPLETION_INDEX": "7"}, (7, 8), "JOB_COMPLETION_INDEX=7"),
        (
            None,
            None,
            {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "9"},
            (0, 9),
            "AWS_BATCH_JOB_ARRAY_SIZE=9",
        ),
        (9, None, {"AWS_BATCH_JOB_ARRAY_INDEX": "2"}, (2, 9), "AWS_BATCH_JOB_ARRAY_INDEX=2"),
    ],
)
def test_the_part_is_that_of_the_options_or_of_the_scheduler(count, number, environment, part, origin):
    chosen = choose_part(count, number, environment)
    assert (chosen and (chosen.number, chosen.count)) == part
    assert chosen is None or origin in chosen.origin


@pytest.mark.parametrize(
    ("count", "number", "environment", "said"),
    [
        (None, 3, {}, "--part-id alone"),
        (4, None, {}, "--num-parts alone"),
        (4, 4, {}, "no part 4 of 4"),
        (8, None, SLURM, "--num-parts says 8"),
        (None, None, SLURM | {"SLURM_ARRAY_TASK_COUNT": "2"}, "is no row without gaps"),
        (None, None, SLURM | {"SLURM_ARRAY_TASK_STEP": "2"}, "is no row without gaps"),
        (None, None, SLURM | {"SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x'"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
        (None, None, {"JOB_COMPLETION_INDEX": "7"}, "Give --num-parts"),
        (None, None, {"AWS_BATCH_JOB_ARRAY_INDEX": "7"}, "Give --num-parts"),
        (4, None, {"JOB_COMPLETION_INDEX": "7"}, "no part 7 of 4"),
        (4, None, {"JOB_COMPLETION_INDEX": ""}, "JOB_COMPLETION_INDEX is ''"),
    ],
)
def test_a_part_that_is_not_wholly_known_is_refused(count, number, environment, said):
    with pytest.raises(InputError, match=said) as caught:
        choose_part(count, number, environment)
    assert caught.value.next_step


def test_some_tasks_of_a_recorded_array_are_refused_with_the_recorded_number(tmp_path, capsys, monkeypatch):
    run(tmp_path / "out", 0)
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD")
    for name, value in (("ID", "7"), ("MIN", "3"), ("MAX", "7"), ("COUNT", "2"), ("STEP", "4")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    before = files_of(tmp_path)
    assert main(["segment", str(tmp_path / "scan.nrrd"), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "has 2 tasks from 3 to 7" in err and f"Submit the array of all {COUNT} parts again" in err
    assert f"--num-parts {COUNT} and --part-id" in err and len(err.splitlines()) == 1 and files_of(tmp_path) == before


def test_every_case_is_of_one_part_and_other_cases_move_none():
    assert sorted(name for number in range(COUNT) for name in names_of(number)) == [case.name for case in SCANS]
    sizes = [sum(Part(number, 4).holds(f"scan-{index}") for index in range(4000)) for number in range(4)]
    assert sum(sizes) == 4000 and min(sizes) > 900


def test_a_scan_that_is_renamed_by_another_of_its_name_stays_in_its_part(tmp_path):
    for place in ("a/T2.nrrd", "b/T2.nrrd", "c/deep/T2.nrrd"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"NRRD")
    alone = collect_inputs([tmp_path / "a", tmp_path / "c"])[0]
    together = collect_inputs([tmp_path / "a", tmp_path / "b", tmp_path / "c"])[0]
    key_of = {case.source: case.key for case in together}
    assert all(key_of[case.source] == case.key for case in alone)
    assert alone[0].name == "T2" and "T2" not in [case.name for case in together]


# ---- parts at work


def test_parts_fill_one_folder_and_their_merge_is_that_of_a_run_in_one(tmp_path, capsys):
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    run_batch(SCANS, [Skipped("x", "odd")], whole, SETTINGS, in_this_process(FakeSegmenter()), Lines())
    results = run_all(folder, skipped=[Skipped("x", "odd")])
    assert [result.done for result, _ in results] == [names_of(number) for number in range(COUNT)]
    assert not (folder / "run.json").exists() and recorded_count(folder) == COUNT
    code, out = merge(folder, capsys)
    assert code == 0 and "8 segmented, 0 failed, 0 missing" in out
    assert files_of(folder) == files_of(whole) - {".ddsp-segmentation.lock"}
    for name in [*(f"{case.name}.seg.nrrd" for case in SCANS), "measurements.csv"]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = record(folder), record(whole)
    assert ours["cases"] == theirs["cases"] and ours["skipped"] == theirs["skipped"] == [{"name": "x", "reason": "odd"}]
    assert ours["state"] == "finished" and ours["parts"] == COUNT and ours["settings"] == theirs["settings"]
    assert not list(folder.rglob(".ddsp-*")) and not list((folder / "parts").rglob("turn-*/"))


def test_a_decision_outlives_the_merge(tmp_path, capsys):
    run_all(tmp_path)
    merge(tmp_path, capsys)
    BatchReview(tmp_path).decide(["patient3"], "accepted")
    run_all(tmp_path)
    assert merge(tmp_path, capsys)[0] == 0 and read_decisions(tmp_path)["patient3"].state == "accepted"
    assert "7 to review, 1 accepted" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_review_before_the_merge_says_to_merge(tmp_path):
    run_all(tmp_path)
    with pytest.raises(InputError, match="report"):
        BatchReview(tmp_path)


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    run_all(tmp_path)
    result, segment = run(tmp_path, 1)
    assert segment.calls == [] and result.unchanged == names_of(1) and result.exit_code == 0


def test_a_part_without_a_case_is_done_at_once(tmp_path, capsys):
    alone = [SCANS[0]]
    for number in range(COUNT):
        assert run(tmp_path, number, alone)[0].exit_code == 0
    assert merge(tmp_path, capsys)[0] == 0


def test_added_scans_move_none_and_only_they_are_done(tmp_path, capsys):
    run_all(tmp_path)
    more = [FakeCase("added", 3), *SCANS, FakeCase("late", 5)]
    assert sorted(name for _, segment in run_all(tmp_path, more) for name in segment.calls) == ["added", "late"]
    assert merge(tmp_path, capsys)[0] == 0 and len(record(tmp_path)["cases"]) == 10


@pytest.mark.parametrize("count", [2, 16])
def test_another_number_of_parts_is_refused_with_the_recorded_one(tmp_path, count):
    run(tmp_path, 0)
    result, segment = run(tmp_path, 1, count=count)
    assert result.exit_code == 2 and segment.calls == []
    assert f"divided into {COUNT} parts" in result.message and f"--num-parts {COUNT}" in result.message


def test_a_run_in_one_and_a_run_in_parts_never_share_a_folder(tmp_path):
    run(tmp_path / "parts", 0)
    result = run_batch(SCANS, [], tmp_path / "parts", SETTINGS, in_this_process(FakeSegmenter()), Lines())
    assert result.exit_code == 2 and "divided into 3 parts" in result.message
    run_batch(SCANS[:1], [], tmp_path / "whole", SETTINGS, in_this_process(FakeSegmenter()), Lines())
    result, _ = run(tmp_path / "whole", 0)
    assert result.exit_code == 2 and "not divided into parts" in result.message


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99, "parts": 3}', '{"schema_version": 1}'])
def test_a_damaged_number_of_parts_is_refused(tmp_path, content):
    run(tmp_path, 0)
    (tmp_path / "parts" / "parts.json").write_text(content)
    result, _ = run(tmp_path, 0)
    assert result.exit_code == 2 and "damaged or of a newer version" in result.message


def test_the_first_of_two_numbers_of_parts_wins_and_the_other_hears_of_it(tmp_path, monkeypatch):
    real = part_record.write_json

    def write_later(values, path):
        monkeypatch.setattr(part_record, "write_json", real)
        part_record.record_parts(tmp_path, Part(0, 7))  # another part, between our look and our own attempt
        real(values, path)

    monkeypatch.setattr(part_record, "write_json", write_later)
    result, _ = run(tmp_path, 0)
    assert result.exit_code == 2 and "divided into 7 parts" in result.message
    assert not list(tmp_path.glob(".ddsp-*"))


# ---- started twice, killed, requeued


PART = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_batch import FakeSegmenter, SETTINGS, in_this_process
from test_parts import COUNT, SCANS
from DDSPSegmentationLib.service import part_record
from DDSPSegmentationLib.service.arguments import command_parser
from DDSPSegmentationLib.service.batch import run_batch
from DDSPSegmentationLib.service.parts import Part
part_record.BEAT_SECONDS = 0.1
say = lambda line: print(line, flush=True)
segment = in_this_process(FakeSegmenter(wait={wait!r}))
result = run_batch(SCANS, [], Path({folder!r}), SETTINGS, segment, say, part=Part(0, COUNT, "a test"))
say(f"exit {{result.exit_code}}: {{result.message}}")
"""


def start_part(folder, wait):
    paths = [str(Path(__file__).parent), str(Path(sys.modules["DDSPSegmentationLib"].__file__).parents[1])]
    script = PART.format(paths=paths, folder=str(folder), wait=wait)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_part_started_twice_is_refused_by_name_and_a_killed_one_is_taken_up(tmp_path, capsys, monkeypatch):
    process = start_part(tmp_path, wait=1.0)
    try:
        assert "of this part" in process.stdout.readline() and " ml, " in process.stdout.readline()
        with monkeypatch.context() as patient:
            patient.setattr(part_record, "WATCH_SECONDS", 60.0)  # on a busy computer a sign of life takes its time
            result, segment = run(tmp_path, 0)
        assert result.exit_code == 1 and segment.calls == []
        assert f"Part 0 of 3 is at work in '{tmp_path.name}': process {process.pid} on host" in result.message
    finally:
        process.kill()
        process.communicate()
    code, out = merge(tmp_path, capsys)
    assert code == 1 and "part 0 of 3: has not ended" in out and "part 2 of 3: has not begun" in out
    lines = Lines()
    result, segment = run(tmp_path, 0, lines=lines)
    assert "Watching for 0 s whether an earlier start of part 0 of 3 is still at work." in lines
    assert result.exit_code == 0 and result.unchanged and segment.calls
    assert result.unchanged + result.done == names_of(0)
    run(tmp_path, 1), run(tmp_path, 2)
    assert merge(tmp_path, capsys)[0] == 0 and not list(tmp_path.glob("*.kept-*"))
    assert [path.name for path in (tmp_path / "parts" / "part-0").iterdir()].count("turn-1") == 0


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_part_that_was_believed_dead_stops_when_it_wakes(tmp_path, capsys):
    process = start_part(tmp_path, wait=0.3)
    assert "of this part" in process.stdout.readline() and " ml, " in process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    result, _ = run(tmp_path, 0)
    assert result.exit_code == 0
    masks = {path: path.read_bytes() for path in tmp_path.glob("*.seg.nrrd")}
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert "exit 1: Part 0 of 3 was taken over by a later start" in out
    assert {path: path.read_bytes() for path in tmp_path.glob("*.seg.nrrd")} == masks
    run(tmp_path, 1), run(tmp_path, 2)
    assert merge(tmp_path, capsys)[0] == 0


def test_of_two_starts_at_one_moment_one_is_refused(tmp_path):
    part = Part(0, COUNT)
    one, other = (claim_part(tmp_path, part, Listed(0, "")) for _ in range(2))
    with one.open(), pytest.raises(FolderInUseError, match="started by another process at this moment"), other.open():
        pass


def test_a_line_that_a_kill_cut_off_costs_that_case_alone(tmp_path):
    run_all(tmp_path)
    turn = tmp_path / "parts" / "part-0" / "turn-1.jsonl"
    lines = turn.read_bytes().splitlines(keepends=True)
    last = max(index for index, line in enumerate(lines) if b'"done"' in line)
    turn.write_bytes(b"".join(lines[:last]) + lines[last][:40])
    result, segment = run(tmp_path, 0)
    assert segment.calls == names_of(0)[-1:] and result.exit_code == 0 and not list(tmp_path.glob("*.kept-*"))
    assert read_turns(tmp_path, 0, CaseEntries()).last == 2


def test_a_line_that_a_full_disk_cut_off_spoils_no_other(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "turn.jsonl")
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="'turn.jsonl' cannot be written"):
        journal.add({"case": 1})
    (tmp_path / "turn.jsonl").write_bytes(b'{"ca')
    monkeypatch.setattr(os, "fsync", real)
    journal._file.seek(0, os.SEEK_END)
    journal.add({"case": 2})
    journal.close()
    assert list(journal_lines(tmp_path / "turn.jsonl")) == [{"case": 2}]


def test_a_full_disk_stops_a_part_and_leaves_nothing_half_done(tmp_path, monkeypatch, capsys):
    real = Path.replace

    def fill(path, target):
        if str(target).endswith(f"{names_of(0)[1]}.seg.nrrd"):
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", fill)
    result, _ = run(tmp_path, 0)
    assert result.exit_code == 1 and result.done == names_of(0)[:1] and "command" in result.message
    monkeypatch.undo()
    run_all(tmp_path)
    assert merge(tmp_path, capsys)[0] == 0 and not list(tmp_path.glob("*.kept-*"))


def test_a_mask_that_somebody_changed_is_kept_beside_the_new_one(tmp_path):
    run(tmp_path, 0)
    name = names_of(0)[0]
    (tmp_path / f"{name}.seg.nrrd").write_bytes(b"a radiologist's work")
    _, segment = run(tmp_path, 0)
    assert segment.calls == [name]
    assert (tmp_path / f"{name}.kept-1.seg.nrrd").read_bytes() == b"a radiologist's work"


# ---- the merge


def test_the_merge_names_parts_and_cases_that_are_missing(tmp_path, capsys):
    broken = [replace(case, trouble=KeyboardInterrupt()) if case.name == names_of(1)[1] else case for case in SCANS]
    run(tmp_path, 0), run(tmp_path, 1, broken)
    (tmp_path / f"{names_of(0)[0]}.seg.nrrd").unlink()
    code, out = merge(tmp_path, capsys)
    assert code == 1
    assert "missing: part 1 of 3: stopped: Stopped after 1 of" in out
    assert "missing: part 2 of 3: has not begun" in out
    assert f"missing: {names_of(0)[0]}: of part 0: its mask is not there" in out
    assert f"missing: {names_of(1)[1]}: of part 1: was being done" in out
    assert f"missing: {names_of(1)[2]}: of part 1: not done yet" in out
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Missing</h2>" in html and "not complete (incomplete: " in html
    with open(tmp_path / "measurements.csv", newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == sorted([*names_of(0)[1:], names_of(1)[0]])
    run_all(tmp_path)
    assert merge(tmp_path, capsys)[0] == 0
    assert "Missing" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_failed_case_is_told_by_the_merge_until_it_is_done(tmp_path, capsys):
    broken = [replace(case, trouble=InputError("Bad.", "Look.")) if case.name == "patient4" else case for case in SCANS]
    run_all(tmp_path, broken)
    code, out = merge(tmp_path, capsys)
    assert code == 1 and "failed: patient4: Bad. Look." in out and "7 segmented, 1 failed, 0 missing" in out
    run_all(tmp_path)
    assert merge(tmp_path, capsys)[0] == 0


def test_parts_that_were_given_other_scans_or_settings_are_told(tmp_path, capsys):
    run(tmp_path, 0), run(tmp_path, 1, [*SCANS, FakeCase("added", 3)])
    run(tmp_path, 2, settings=replace(SETTINGS, run=RunSettings(mode="paper")))
    code, out = merge(tmp_path, capsys)
    assert code == 1 and "part 1 of 3: was given other scans (9) than the first part (8)" in out
    assert "part 2 of 3: was run with other settings (settings) than the first part" in out


KILLED_MERGE = """
import os, signal, sys
sys.path.insert(0, {library!r})
from DDSPSegmentationLib.service.command_line import main
os.replace = lambda aside, path: os.kill(os.getpid(), signal.SIGKILL)
main(["report", {folder!r}])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX only; on Windows the rules are the same")
def test_what_a_killed_merge_left_goes_with_a_later_one_and_no_file_that_another_may_be_writing(tmp_path, capsys):
    run_all(tmp_path)
    library = str(Path(sys.modules["DDSPSegmentationLib"].__file__).parents[1])
    script = KILLED_MERGE.format(library=library, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    [left] = tmp_path.glob(".ddsp-*")
    assert merge(tmp_path, capsys)[0] == 0 and left.exists()
    os.utime(left, (0, left.stat().st_mtime - 700))
    assert merge(tmp_path, capsys)[0] == 0 and not left.exists()


@pytest.mark.parametrize("filled", [False, True])
def test_the_merge_of_a_folder_without_parts_is_one_line(tmp_path, capsys, filled):
    if filled:
        run_batch(SCANS[:1], [], tmp_path, SETTINGS, in_this_process(FakeSegmenter()), Lines())
    code = main(["report", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 2 and len(err.splitlines()) == 1 and "is no output folder that parts of a batch have filled" in err


def test_what_is_written_names_no_folder_and_no_tag(tmp_path, capsys):
    folder = tmp_path / "geheim" / "out"
    folder.mkdir(parents=True)
    odd = [replace(SCANS[0], trouble=RuntimeError(f"in {tmp_path}/geheim/patient.nrrd: bad")), *SCANS[1:]]
    run_all(folder, odd, skipped=[Skipped("x", f"{tmp_path}/geheim/y.dcm is odd")])
    merge(folder, capsys)
    text = "\n".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())
    assert "geheim" not in text and str(tmp_path) not in text and "Secret" not in text and "patient.nrrd" in text


def test_masks_of_parts_are_whole_images(tmp_path):
    run(tmp_path, 0)
    for name in names_of(0):
        assert sitk.ReadImage(str(tmp_path / f"{name}.seg.nrrd")).GetSize() == (48, 48, 12)
        assert (tmp_path / "thumbnails" / f"{name}.png").is_file()


def test_a_review_by_hand_of_the_merged_folder_knows_its_masks(tmp_path, capsys):
    run_all(tmp_path)
    merge(tmp_path, capsys)
    entry = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["cases"]["patient1"]
    decide(tmp_path, "rejected", {"patient1": entry["mask"]["sha256"]})
    assert BatchReview(tmp_path).state("patient1") == "rejected" and merge_parts(tmp_path).head["missing"] == []


# ---- what lies in docs/cluster


CLUSTER = Path(__file__).parents[2] / "docs" / "cluster"


def test_the_kubernetes_job_says_as_many_parts_as_it_has_and_asks_for_no_rights():
    text = (CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8")
    words = json.loads(re.search(r"args: (\[.*\])", text)[1])
    chosen = command_parser().parse_args(words)
    assert chosen.num_parts == int(re.search(r"completions: (\d+)", text)[1])
    for said in ("completionMode: Indexed", "runAsNonRoot: true", "readOnlyRootFilesystem: true", 'drop: ["ALL"]'):
        assert said in text
    assert 'policyTypes: ["Ingress", "Egress"]' in text and "egress:" not in text and "\t" not in text


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_kubernetes_own_schemas_know_all_that_the_job_says(version):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate (23 MB)").validate
    import yaml  # comes with it

    said = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert [document["kind"] for document in said] == ["Job", "NetworkPolicy"]
    for document in said:
        validate(document, version, strict=True)


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_the_slurm_script_is_a_shell_s_and_calls_the_command_line():
    path = CLUSTER / "segment.sbatch"
    assert subprocess.run(["sh", "-n", path], capture_output=True).returncode == 0
    call = re.search(r"ddsp-segmentation (segment .*)", path.read_text(encoding="utf-8"))[1]
    assert command_parser().parse_args(shlex.split(call)).num_parts is None


def test_the_container_copies_what_the_package_is_built_of_and_runs_as_nobody():
    text = (CLUSTER / "Containerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"pyproject.toml", "README.md", "LICENSE", "DDSPSegmentation"} <= set(copied)
    assert all((CLUSTER.parents[1] / name).exists() for name in copied)
    assert re.search(r"^USER 65534:65534$", text, re.MULTILINE) and "TMPDIR=/scratch" in text
