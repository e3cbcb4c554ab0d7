"""The module's self test, here in the stand-in for Slicer: what it prints, and how its script ends."""

import runpy
import sys

import pytest
import slicer
from panel_parts import MODULE_FILE
from slicer_stand_in import closeModule, openModule

from DDSPSegmentationLib.scene.self_test_lines import CheckLines

SCRIPT = MODULE_FILE.parents[1] / "Testing" / "Slicer" / "run_self_test.py"
NEEDS_WINDOW = "needs Slicer's window"


@pytest.fixture
def run_checks(capsys):
    """Call it for the lines that the self test prints: title to ("ok", "FAIL" or "skip", the reason)."""

    def run():
        openModule(MODULE_FILE)
        test = sys.modules["DDSPSegmentation"].DDSPSegmentationTest("test_SampleScan")
        test.setUp()
        test.test_SampleScan()
        lines = {}
        for line in capsys.readouterr().out.splitlines():
            state, _, text = line.partition(" ")
            if state in ("ok", "FAIL", "skip"):
                title, _, reason = text.strip().partition(": needs")
                assert title not in lines
                lines[title] = state, f"needs{reason}" if reason else ""
        return lines

    yield run
    closeModule("DDSPSegmentation")


def test_self_test_passes_in_a_window_and_skips_what_the_plugin_of_slicer_does(slicer_window, own_worker, run_checks):
    slicer.util.mainWindow().show()
    lines = run_checks()
    skipped = {title for title, (state, _reason) in lines.items() if state == "skip"}
    assert skipped == {"DICOM SEG as Slicer's own plugin reads it"}
    assert {"layers after segmenting", "error log still over the whole pass", "scene saved and loaded"} <= set(lines)


def test_self_test_without_a_window_says_what_needs_one(slicer_without_window, run_checks):
    lines = run_checks()
    for title in ("layers after segmenting", "focus after a question of the panel", "panel after the scene is closed"):
        assert lines[title][0] == "skip" and lines[title][1].startswith(NEEDS_WINDOW)
    assert lines["scene saved and loaded"][0] == lines["retraining of ten steps to a candidate"][0] == "ok"


def test_failed_check_is_told_with_its_reason_and_the_next_one_is_done(capsys):
    lines = CheckLines()
    with lines.held():
        assert lines.run("first", lambda: 1 / 0) is None
        assert lines.run("second", lambda: "done") == "done"
        lines.run("third", lambda: 1 / 0, "needs a scan")
        assert capsys.readouterr().out == ""  # Slicer logs what is printed
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "FAIL first: division by zero" and "Traceback" in said[1]
    assert said[-2:] == ["ok   second", "skip third: needs a scan"]
    assert lines.failures == ["first"]


@pytest.mark.parametrize(("test", "code"), [(lambda: None, 0), (lambda: 1 / 0, 1)])
def test_script_ends_slicer_with_the_status_of_the_test(slicer_window, monkeypatch, test, code):
    ended = []
    monkeypatch.setattr(slicer, "selfTests", {"DDSPSegmentation": test}, raising=False)
    monkeypatch.setattr(slicer.util, "exit", ended.append)
    openModule(MODULE_FILE)
    runpy.run_path(str(SCRIPT))
    closeModule("DDSPSegmentation")
    assert ended == [code]
