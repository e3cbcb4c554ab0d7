"""``ddsp-segmentation finetune`` and ``cases``: retraining and the case library in the shell."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import Canceled, DatasetError
from ..learning.comparison_words import counted
from ..learning.finetuning import FineTuningProgress
from ..learning.training_log import line_progress
from ..library.case_library import CaseLibrary
from ..library.case_records import HOLD_OUT, TRAINING, StoredCase
from ..library.model_registry import ModelRegistry
from ..library.model_version import ModelVersion
from ..library.user_folder import default_cases_folder, default_models_folder
from .batch import EXIT_SOME_FAILED
from .retraining import RetrainingPlan, make_job, plan_retraining
from .retraining_process import ReportedRun, discard_run, unfinished_runs
from .retraining_run import NothingGained
from .runner import require_torch
from .terminal import say


def finetune(chosen: argparse.Namespace) -> int:
    """Retrain in this process; Ctrl-C stops it with a checkpoint, and 1 is returned."""
    require_torch()
    from ..learning.processes import stop_signals

    run_folder = _chosen_run(chosen)
    run = ReportedRun(run_folder, told=_tell)
    try:
        with stop_signals(run.stop):
            version = run.run()
    except Canceled:
        say("\nStopped. Go on with --resume.")
        return EXIT_SOME_FAILED
    except NothingGained as outcome:
        discard_run(run_folder)
        say(f"\n{outcome}")
        return 0
    discard_run(run_folder)
    _say_comparison(version)
    return 0


def _chosen_run(chosen: argparse.Namespace) -> Path:
    """The run to do: a new one, or the last one that was interrupted."""
    models = Path(chosen.models or default_models_folder())
    unfinished = unfinished_runs(models)
    if chosen.resume:
        if not unfinished:
            raise DatasetError("There is no retraining that was interrupted.", "Start without --resume.")
        return unfinished[-1].folder
    if unfinished:
        last = unfinished[-1]
        raise DatasetError(
            f"The retraining of {last.made} is not finished ({last.fraction:.0%} done).",
            f"Add --resume to go on with it, or delete the folder {last.folder}.",
        )
    work = (chosen.cases or default_cases_folder(), models, chosen.replay or "", chosen.device)
    _say_plan(plan_retraining(*work))
    return make_job(*work)


def _say_plan(plan: RetrainingPlan) -> None:
    if plan.obstacles:
        return  # make_job says them
    replay = f", and rehearse cases of the {plan.replay} in the replay folder" if plan.replay else ""
    trained = f"{counted(plan.training, 'case')} of {counted(plan.training_patients, 'patient')}"
    say(f"Fine-tune '{plan.parent}' on {trained}{replay}.")
    held_out = f"{counted(plan.hold_out, 'hold-out case')} of {counted(plan.hold_out_patients, 'patient')}"
    say(f"Then compare on {held_out}.")
    say(f"About {counted(max(1, round(plan.seconds / 60)), 'minute')} on this processor.")
    for note in plan.notes:
        say(f"Note: {note}")


def _tell(told: FineTuningProgress) -> None:
    """One line for each stage, and its progress."""
    filled = round(24 * told.fraction)
    loss = "" if told.loss is None else f" loss {told.loss:.4f}"
    dice = "" if told.dice is None else f" Dice {told.dice:.4f}"
    left = f"{told.seconds_left / 60:.0f} min left"
    line_progress(f"[{'#' * filled}{'.' * (24 - filled)}] {told.stage}{loss}{dice} {left}")


def _say_comparison(version: ModelVersion) -> None:
    comparison = version.comparison
    say("")
    for sentence in comparison.get("sentences", []):
        say(sentence)
    say(f"Version '{version.name}' is a candidate; 'models activate {version.name}' uses it.")
    say(f"See {version.folder / 'comparison.html'}")


def cases(chosen: argparse.Namespace) -> int:
    """List, import or export; 1 when a case of an imported folder was refused."""
    library = CaseLibrary(chosen.cases or default_cases_folder(), ModelRegistry(chosen.models))
    action = chosen.action or "list"
    if action == "import":
        return _import(library, chosen.folder, chosen.patient_of_case)
    if action == "export":
        say(f"{counted(library.export(Path(chosen.folder)), 'case')} exported to {chosen.folder}")
        return 0
    found = library.cases()
    for case in found:
        say(_facts(case))
    counts = library.split_counts()
    say(f"{counted(counts[TRAINING], 'training case')}, {counted(counts[HOLD_OUT], 'hold-out case')}.")
    for problem in library.problems():
        say(f"Problem: {problem}")
    return 0


def _facts(case: StoredCase) -> str:
    current = case.current
    dice = "" if current.dice is None else f", Dice before correction {current.dice:.3f}"
    return f"{case.id}: {current.date[:10]}, {current.state}, {case.split}, revision {current.number}{dice}"


def _import(library: CaseLibrary, folder: str, patient_of: str) -> int:
    """``patient_of`` is a case's number or id, or ""."""
    numbered = {str(case.number): case.id for case in library.cases()} if patient_of else {}
    report = library.import_folder(folder, same_patient_as=numbered.get(patient_of, patient_of))
    for warning in filter(None, (*report.warnings, report.about_patients)):
        say(f"Note: {warning}")
    for name, reason in report.failed.items():
        say(f"Refused: {name}: {reason}")
    say(f"{counted(len(report.stored), 'case')} stored, {len(report.failed)} refused.")
    return EXIT_SOME_FAILED if report.failed else 0
