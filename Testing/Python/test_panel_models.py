"""The section Learn > Models as a person uses it: look, activate, roll back, delete, hand on."""

import json
import shlex
import sys
import time

import pytest
import qt
import slicer
from panel_parts import cut_off, focused, module_panel, narrow_window, squeezed, wait_for
from registry_parts import BUILTIN, of_another_architecture, publish, vouch
from slicer_stand_in import closeModule, dialogs, enterModule, leaveModule

from DDSPSegmentationLib.engine.model import describe_model
from DDSPSegmentationLib.learning.comparison_record import SCHEMA_VERSION
from DDSPSegmentationLib.library import model_registry
from DDSPSegmentationLib.library.folder_lock import lock_holder
from DDSPSegmentationLib.library.model_archive import EXPORT_AGAIN
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.scene import model_process

ACTIVATED, KEEP = "segments from now on", "Keep the Old One"
NAME, STATE, AGREEMENT = range(3)
LEFT_OUT = {"dice_before": 0.85, "dice_after": 0.861}
BETTER = ["The new version is better: mean Dice 0.871 -> 0.893 on 5 patients kept for checking.", "Activate it."]
WORSE = ["The new version is worse: mean Dice 0.871 -> 0.802 on 5 patients kept for checking.", "Keep the old one."]


def compared(sentences, recommendation, old=0.871, new=0.893, old_version=BUILTIN, schema=SCHEMA_VERSION):
    """Files of a comparison, as a retraining attaches them."""
    summary = {"old": {"dice": old}, "new": {"dice": new}}
    values = {"sentences": sentences, "recommendation": recommendation, "hold_out_summary": summary}
    values |= {"old_version": old_version, "schema_version": schema, "cross_validation": LEFT_OUT}
    return {"comparison.json": json.dumps(values).encode(), "comparison.html": b"<html>Old and new</html>"}


@pytest.fixture
def registry(home):
    return ModelRegistry(home / "DDSPSegmentation" / "Models")


@pytest.fixture
def let_python_run(monkeypatch, tmp_path):
    """Versions are tried by a Python that first runs other code."""

    def let(code):
        code = f"import runpy, sys; sys.argv = sys.argv[2:]; {code}; runpy.run_module(sys.argv[0], run_name='__main__')"
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(model_process, "python_program", lambda: str(python))

    return let


@pytest.fixture
def weights_are_fine(monkeypatch, let_python_run):
    """Weights are not read for every click: what tries them is a Python without PyTorch, which is quick."""
    monkeypatch.setattr(model_registry, "_try_weights", lambda folder: None)
    let_python_run("sys.modules['torch'] = None")


@pytest.fixture
def better(registry, tmp_path):
    return publish(registry, "better", tmp_path, files=compared(BETTER, "activate"))


@pytest.fixture
def worse(registry, tmp_path):
    return publish(registry, "worse", tmp_path, 3.0, compared(WORSE, "keep", new=0.802), date="2024-06-02")


def rows(person):
    """Name, state, and agreement of the old version and of this one; the first two are two lines of one cell."""
    table = person.ui.modelsTable
    return [[*table.item(row, 0).text().split("\n"), table.item(row, 1).text()] for row in range(table.rowCount)]


def states(person):
    return {row[NAME]: row[STATE] for row in rows(person)}


def choose(person, name):
    person.ui.learnCollapsibleButton.collapsed = False
    person.ui.modelsTable.selectRow([row[NAME] for row in rows(person)].index(name))


def change(person, button):
    """Click on what tries a version, and wait until it was tried."""
    button.click()
    models = person.panel.learn.models
    assert wait_for(lambda: not models.isChanging, 120), person.status


def reason(button):
    assert not button.enabled
    return button.toolTip


def asked(person):
    """The open question and its answers."""
    ui = person.ui
    assert not ui.learnQuestionFrame.isHidden() and ui.questionFrame.isHidden()
    answers = [ui.learnFirstAnswerButton.text, ui.learnSecondAnswerButton.text]
    return f"{ui.learnQuestionLabel.text} {ui.learnQuestionDetailsLabel.text}".strip(), answers


# ---- what is shown


def test_the_table_tells_each_version_with_its_figures_and_state(person, better, worse):
    person.open_learn()
    assert rows(person) == [
        [BUILTIN, "active, built in", ""],
        ["better", "candidate", "0.871 -> 0.893"],
        ["worse", "candidate", "0.871 -> 0.802"],
    ]
    table = person.ui.modelsTable
    assert [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)] == [
        "Version", "Agreement",
    ]  # fmt: skip
    assert "hold-out" in table.horizontalHeaderItem(1).toolTip()
    assert int(table.item(1, 1).data(qt.Qt.TextAlignmentRole)) & int(qt.Qt.AlignRight)


def test_what_the_table_has_no_room_for_stands_below_it(person, better):
    person.open_learn()
    assert person.ui.chosenVersionLabel.text == f"Made on {describe_model().date}, trained on 66 cases."
    choose(person, "better")
    assert person.ui.chosenVersionLabel.text == (
        f"Made on 2024-05-01 from {BUILTIN}, trained on 1 case.\n"
        "Agreement on patients left out of the training in turn: 0.850 -> 0.861."
    )


@pytest.mark.parametrize("width", [350, 421, 560])
def test_the_table_needs_no_scrolling_sideways(person, registry, tmp_path, width):
    publish(registry, "tuned-2026-11-30-da03", tmp_path, files=compared(BETTER, "keep"))
    choose(person, "tuned-2026-11-30-da03")
    with module_panel(person, width) as (panel, area):
        person.ui.activateModelButton.click()
        assert cut_off(panel) == [] and squeezed(panel) == []
        table = person.ui.modelsTable
        assert table.horizontalScrollBar().maximum == area.horizontalScrollBar().maximum == 0
        assert table.columnWidth(0) + table.columnWidth(1) <= table.viewport().width
        words = table.fontMetrics().boundingRect("tuned-2026-11-30-da03").width()
        assert words < table.columnWidth(0)


def test_the_chooser_of_a_model_is_there_when_there_is_one_to_choose(person, registry, tmp_path, weights_are_fine):
    ui = person.ui
    ui.advancedCollapsibleButton.collapsed = False
    assert ui.modelComboBox.isHidden() and ui.modelLabel.isHidden()
    publish(registry, "second", tmp_path, files=compared(BETTER, "activate"))
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert not ui.modelComboBox.isHidden() and not ui.modelLabel.isHidden()
    choose(person, "second")
    ui.deleteModelButton.click()
    ui.learnSecondAnswerButton.click()
    assert ui.modelComboBox.isHidden() and ui.modelLabel.isHidden()


def test_a_version_that_came_without_its_page_says_so(person, registry, tmp_path):
    files = {"comparison.json": compared(BETTER, "activate")["comparison.json"]}
    publish(registry, "handed-on", tmp_path, files=files)
    choose(person, "handed-on")
    assert reason(person.ui.showComparisonButton).startswith("<p>Page not exported")
    assert person.ui.comparisonLabel.text == "\n".join(BETTER)


def test_the_question_stands_below_the_models_and_hands_the_keyboard_to_no_field(person, registry, tmp_path, t2):
    publish(registry, "doubtful", tmp_path, files=compared(WORSE, "keep"))
    choose(person, "doubtful")
    ui = person.ui
    ui.activateModelButton.click()
    assert ui.learnQuestionLabel.text == "Activate doubtful?" and ui.learnQuestionDetailsLabel.text == WORSE[-1]
    layout = ui.learnCollapsibleButton.layout()
    assert layout.indexOf(ui.learnQuestionFrame) == layout.indexOf(ui.modelsGroupBox) + 1
    ui.learnFirstAnswerButton.setFocus()
    ui.learnFirstAnswerButton.click()
    assert focused(person) == "learnCollapsibleButton"


def test_the_active_version_is_chosen_at_first_and_the_comparison_follows_the_choice(person, better):
    person.open_learn()
    assert person.ui.comparisonLabel.text == ""
    assert "active already" in reason(person.ui.activateModelButton)
    assert "no comparison" in reason(person.ui.showComparisonButton)
    choose(person, "better")
    assert person.ui.comparisonLabel.text == "\n".join(BETTER)
    assert person.ui.activateModelButton.enabled and person.ui.showComparisonButton.enabled
    assert ACTIVATED in person.ui.activateModelButton.toolTip


def test_a_damaged_version_is_shown_with_the_reason_and_cannot_be_activated(person, better):
    (better.folder / "weights.pt").write_bytes(b"not weights")
    person.open_learn()
    assert states(person)["better"] == "damaged"
    assert "'weights.pt' of model 'better' is damaged" in person.ui.modelsTable.item(1, NAME).toolTip()
    choose(person, "better")
    assert "is damaged" in reason(person.ui.activateModelButton) and "is damaged" in reason(person.ui.exportModelButton)
    assert "is damaged" in person.ui.comparisonLabel.text
    assert person.ui.deleteModelButton.enabled


def test_a_version_that_cannot_even_be_described_is_in_the_table(person, better):
    (better.folder / "model.json").write_text("{")
    person.open_learn()
    assert rows(person)[1][NAME] == "better" and states(person)["better"] == "damaged"


def test_what_another_slicer_publishes_is_seen_at_the_next_visit_and_the_choice_stays(person, better, registry,
                                                                                      tmp_path):  # fmt: skip
    choose(person, "better")
    publish(registry, "another", tmp_path, 4.0)
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert "another" in states(person)
    assert person.ui.comparisonLabel.text == "\n".join(BETTER)


def test_everything_fits_into_a_narrow_panel(person, better, worse):
    choose(person, "worse")
    change(person, person.ui.activateModelButton)
    with narrow_window(person) as panel:
        assert cut_off(panel) == []


# ---- activate and roll back


def test_a_recommended_version_is_activated_at_a_click_and_segments_from_then_on(person, better, registry):
    """With the weights really read, in another process than Slicer's."""
    choose(person, "better")
    torch = sys.modules.get("torch")
    change(person, person.ui.activateModelButton)
    assert person.status == f"better {ACTIVATED}." and person.ui.learnQuestionFrame.isHidden()
    assert registry.active().name == "better" and states(person)["better"] == "active"
    assert states(person)[BUILTIN] == "built in"
    assert person.panel.advanced.asked().model == str(better.folder)
    assert person.ui.modelComboBox.currentText == "better"
    assert sys.modules.get("torch") is torch


def test_the_window_answers_and_the_registry_is_free_while_weights_are_tried(person, better, registry, tmp_path,
                                                                            let_python_run):  # fmt: skip
    """Trying them takes as long as the test wants."""
    began, go_on = tmp_path / "began", tmp_path / "go on"
    wait = f"[sleep(0.01) for _ in iter(Path({str(go_on)!r}).exists, True)]"
    slow = f"tried = lambda folder: (Path({str(began)!r}).touch(), {wait})"
    let_python_run(
        f"from pathlib import Path; from time import sleep; {slow}; "
        "from DDSPSegmentationLib.library import model_registry; model_registry._try_weights = tried"
    )
    choose(person, "better")
    clicked = time.monotonic()
    person.ui.activateModelButton.click()
    assert time.monotonic() - clicked < 1.0
    assert person.status == "Trying the weights; you can go on working."
    assert wait_for(began.exists, 120)
    for _ in range(20):
        before = time.monotonic()
        slicer.app.processEvents()
        assert time.monotonic() - before < 1.0
        assert lock_holder(registry.folder, model_registry.LOCK_FILE) is None
    publish(registry, "meanwhile", tmp_path, 5.0)
    person.panel.learn.refresh()
    ui = person.ui
    for button in (ui.activateModelButton, ui.deleteModelButton, ui.importModelButton, ui.rollBackButton):
        assert not button.enabled
    assert person.panel.learn.models.isChanging and registry.active().name == BUILTIN
    go_on.touch()
    assert wait_for(lambda: not person.panel.learn.models.isChanging, 120)
    assert person.status == f"better {ACTIVATED}." and registry.active().name == "better"
    assert person.ui.importModelButton.enabled and states(person)["meanwhile"] == "candidate"


def test_a_slicer_without_its_python_says_so_and_activates_nothing(person, better, registry, monkeypatch):
    monkeypatch.setattr(model_process, "python_program", lambda: str(better.folder / "no python"))
    choose(person, "better")
    change(person, person.ui.activateModelButton)
    assert "no python" in person.status and registry.active().name == BUILTIN
    assert person.ui.activateModelButton.enabled


def test_closing_the_module_ends_what_tries_a_version(person, better, registry):
    choose(person, "better")
    person.ui.activateModelButton.click()
    closeModule("DDSPSegmentation")
    slicer.app.processEvents()
    assert registry.active().name == BUILTIN


def test_a_recommendation_from_before_the_gain_had_to_be_proven_is_asked_about(person, registry, tmp_path):
    publish(registry, "lucky", tmp_path, files=compared(BETTER, "activate", schema=1))
    choose(person, "lucky")
    person.ui.activateModelButton.click()
    question, answers = asked(person)
    assert "asked for less proof" in question and answers[0] == KEEP and registry.active().name == BUILTIN


@pytest.mark.parametrize("files", [compared(WORSE, "keep"), {}])
def test_a_version_that_is_not_recommended_is_asked_about_and_keeping_is_the_first_answer(
    person, registry, tmp_path, files, weights_are_fine
):
    publish(registry, "doubtful", tmp_path, files=files)
    choose(person, "doubtful")
    change(person, person.ui.activateModelButton)
    question, answers = asked(person)
    assert (WORSE[-1] if files else "It was not compared") in question
    assert answers == [KEEP, "Activate Anyway"]
    assert f"{BUILTIN} goes on segmenting" in person.ui.learnFirstAnswerButton.toolTip
    person.ui.learnFirstAnswerButton.click()
    assert registry.active().name == BUILTIN and person.status == f"{BUILTIN} stays active."
    change(person, person.ui.activateModelButton)
    change(person, person.ui.learnSecondAnswerButton)
    assert registry.active().name == "doubtful" and person.status == f"doubtful {ACTIVATED}."


def test_a_version_that_was_better_than_another_one_than_the_active_is_asked_about(
    person, better, registry, tmp_path, weights_are_fine
):
    publish(registry, "best", tmp_path, 3.0, compared(BETTER, "activate", old_version="better"))
    choose(person, "best")
    change(person, person.ui.activateModelButton)
    question, answers = asked(person)
    assert f"with better, not with {BUILTIN}." in question and answers[0] == KEEP
    person.ui.learnFirstAnswerButton.click()
    assert registry.active().name == BUILTIN
    registry.activate("better")
    person.panel.learn.refresh()
    choose(person, "best")
    change(person, person.ui.activateModelButton)
    assert registry.active().name == "best" and person.ui.learnQuestionFrame.isHidden()


def test_one_click_rolls_back_to_the_version_that_the_tooltip_names(person, better, worse, registry, weights_are_fine):
    person.open_learn()
    assert "No other version" in reason(person.ui.rollBackButton)
    for name in ("better", "worse"):
        registry.activate(name)
    person.panel.learn.refresh()
    for name in ("better", BUILTIN):
        assert person.ui.rollBackButton.enabled and f"Go back to {name}." in person.ui.rollBackButton.toolTip
        change(person, person.ui.rollBackButton)
        assert registry.active().name == name and person.status == f"{name} {ACTIVATED}."
    assert not person.ui.rollBackButton.enabled
    assert person.panel.advanced.asked().model is None


def test_an_active_version_that_is_damaged_is_named_and_rolling_back_helps(person, better, registry, weights_are_fine):
    registry.activate("better")
    (better.folder / "weights.pt").unlink()
    person.open_learn()
    assert "'better'" in person.ui.comparisonLabel.text
    assert f"Go back to {BUILTIN}." in person.ui.rollBackButton.toolTip
    change(person, person.ui.rollBackButton)
    assert registry.active().name == BUILTIN and person.ui.comparisonLabel.text == ""


def test_weights_that_cannot_be_used_are_not_activated(person, better, registry):
    """Files and checksums agree, but the network that they describe is another one."""
    of_another_architecture(better.folder)
    vouch(better.folder)
    choose(person, "better")
    change(person, person.ui.activateModelButton)
    assert "weights" in person.status and registry.active().name == BUILTIN


# ---- delete, hand on, look at the comparison


def test_deleting_asks_first_and_leaves_the_active_and_the_built_in_version_alone(person, better, worse, registry,
                                                                                 weights_are_fine):  # fmt: skip
    registry.activate("better")
    choose(person, BUILTIN)
    assert "stays" in reason(person.ui.deleteModelButton)
    choose(person, "better")
    assert "is active" in reason(person.ui.deleteModelButton)
    choose(person, "worse")
    person.ui.deleteModelButton.click()
    assert asked(person)[1] == ["Keep", "Delete"]
    person.ui.learnFirstAnswerButton.click()
    assert person.status == "worse stays." and worse.folder.is_dir()
    person.ui.deleteModelButton.click()
    change(person, person.ui.learnSecondAnswerButton)
    assert person.status == "worse was deleted." and not worse.folder.exists()
    assert states(person) == {BUILTIN: "built in", "better": "active"}


def test_pictures_of_scans_are_deleted_after_a_question_that_names_them_and_figures_stay(person, registry, tmp_path):
    files = {**compared(WORSE, "keep"), "worst-1-a.png": b"x" * 250_000}
    publish(registry, "worse", tmp_path, 3.0, files)
    choose(person, BUILTIN)
    assert "no pictures" in reason(person.ui.deletePicturesButton)
    choose(person, "worse")
    said = person.ui.comparisonLabel.text
    person.ui.deletePicturesButton.click()
    question, answers = asked(person)
    assert "comparison.html, worst-1-a.png (0.3 MB) go" in question and answers == ["Keep", "Delete"]
    person.ui.learnFirstAnswerButton.click()
    assert person.status == "The pictures stay." and len(registry.version("worse").pictures) == 2
    person.ui.deletePicturesButton.click()
    person.ui.learnSecondAnswerButton.click()
    assert person.status == "The pictures of worse were deleted." and registry.version("worse").pictures == []
    assert reason(person.ui.showComparisonButton) and person.ui.comparisonLabel.text == said
    assert "no pictures" in reason(person.ui.deletePicturesButton)


def test_a_version_is_handed_on_as_one_file_and_comes_in_as_a_candidate(person, better, registry, tmp_path,
                                                                       weights_are_fine):  # fmt: skip
    choose(person, BUILTIN)
    assert "everywhere already" in reason(person.ui.exportModelButton)
    choose(person, "better")
    dialogs.planned.append(str(tmp_path / "handed on"))  # without the suffix
    person.ui.exportModelButton.click()
    path = tmp_path / "handed on.zip"
    assert path.is_file() and person.status == f"Written: {path}"
    registry.delete("better")
    dialogs.planned.append(str(path))
    change(person, person.ui.importModelButton)
    assert person.status == "better is here as a candidate; Activate makes it segment."
    assert states(person)["better"] == "candidate" and registry.active().name == BUILTIN
    assert person.ui.comparisonLabel.text == "\n".join(BETTER)


def test_an_existing_file_is_not_replaced_unasked(person, better, tmp_path):
    (tmp_path / "kept.zip").write_text("something else")
    choose(person, "better")
    dialogs.planned.append(str(tmp_path / "kept"))
    person.ui.exportModelButton.click()
    assert "kept.zip" in person.status and (tmp_path / "kept.zip").read_text() == "something else"


def test_a_file_that_is_no_version_is_refused_with_the_reason(person, registry, tmp_path):
    (tmp_path / "foreign.zip").write_text("no archive")
    person.open_learn()
    dialogs.planned.append(str(tmp_path / "foreign.zip"))
    change(person, person.ui.importModelButton)
    assert "'foreign.zip'" in person.status and EXPORT_AGAIN in person.status
    assert list(states(person)) == [BUILTIN]


def test_thinking_better_of_it_changes_nothing(person, better, registry):
    choose(person, "better")
    before = person.status
    dialogs.planned.extend(["", ""])
    person.ui.exportModelButton.click()
    change(person, person.ui.importModelButton)
    assert person.status == before and list(states(person)) == [BUILTIN, "better"]


def test_the_comparison_is_opened_where_pages_are_read(person, better, monkeypatch):
    opened = []

    class Services:
        answer = True

        @classmethod
        def openUrl(cls, url):
            opened.append(url.toLocalFile())
            return cls.answer

    monkeypatch.setattr(qt, "QDesktopServices", Services, raising=False)
    choose(person, "better")
    person.ui.showComparisonButton.click()
    assert opened == [str(better.folder / "comparison.html")]
    Services.answer = False
    person.ui.showComparisonButton.click()
    assert person.status == f"No program opens the report: {better.folder / 'comparison.html'}"


def test_what_is_shown_survives_a_models_folder_that_cannot_be_read(person, registry, home):
    registry.folder.mkdir(parents=True)
    (registry.folder / "active.json").write_text("{")
    person.open_learn()
    assert rows(person)[0][NAME] == BUILTIN and "active.json" in person.ui.comparisonLabel.text
    edit = registry.folder / "active.json"
    edit.unlink()
    slicer.app.processEvents()
    person.panel.learn.refresh()
    assert person.ui.comparisonLabel.text == ""
