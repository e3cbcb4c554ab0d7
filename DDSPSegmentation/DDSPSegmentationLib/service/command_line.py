"""``ddsp-segmentation``: the engine from the shell. Every error is one line on stderr and a non-zero exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..engine.errors import (
    DatasetError,
    DDSPSegmentationError,
    DeviceError,
    InputError,
    ModelError,
    TorchMissingError,
)
from ..engine.model import ModelDescription, describe_model
from ..engine.run_settings import RunSettings
from ..engine.scan_identity import NOTHING_SEEN
from ..library.model_registry import ModelRegistry, resolve_model
from .arguments import ANY_SERIES, DICOM_FORMAT, command_parser
from .batch import EXIT_DONE, EXIT_SOME_FAILED, EXIT_TORCH_MISSING, EXIT_USAGE, BatchSettings, run_batch
from .batch_record import error_text
from .case_process import CaseProcesses
from .case_work import MAPS
from .inputs import InputCase, Skipped, collect_inputs, reasons_of
from .mask_files import MASK_SUFFIXES
from .part_record import check_parts, recorded_count
from .parts import choose_part
from .report import REPORT_FILE
from .runner import InProcessRunner, require_torch
from .terminal import say, show_doing

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..engine.network import DDSPConvNet
    from ..engine.segmentation import Segmentation
    from ..learning.dataset import Case, PreparedCase

_KEPT_APART = "named with --apart"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    chosen = command_parser().parse_args(arguments)
    with _ended_as_by_ctrl_c():
        return guarded(lambda: _command(chosen.command)(chosen))


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, as a system that shuts down or a queue of jobs sends it, ends a run with the same words."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function of a command; modules that say what they do with our ``say`` are imported when they are asked."""
    if name in _COMMANDS:
        return _COMMANDS[name]
    return getattr(importlib.import_module(f".{_ELSEWHERE[name]}", __package__), name)


def guarded(command: Callable[[], int]) -> int:
    """Run a command; whatever it raises becomes one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show a name's letters must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        return command()
    except TorchMissingError as error:
        return _complain(str(error), EXIT_TORCH_MISSING)
    except (ModelError, DeviceError, DatasetError) as error:
        return _complain(str(error), EXIT_USAGE)
    except DDSPSegmentationError as error:
        return _complain(str(error), EXIT_SOME_FAILED)
    except KeyboardInterrupt:
        return _complain("Stopped.", EXIT_SOME_FAILED)
    except Exception as error:  # a fault of ours: one line that says where, so that it can be reported
        place = traceback.extract_tb(error.__traceback__)[-1]
        return _complain(f"{error_text(error)} at {Path(place.filename).name}:{place.lineno}", EXIT_SOME_FAILED)


def segment(chosen: argparse.Namespace) -> int:
    """``segment``: the batch runner with this Python."""
    return segment_inputs(chosen, [sys.executable])


def segment_inputs(chosen: argparse.Namespace, python: Sequence[str]) -> int:
    """Segment what the arguments name into their output folder, say how it went, return the exit code.

    Args:
        chosen: see ``arguments.add_segment_arguments``.
        python: the command that starts a Python with this package and torch, for the process that does the scans.
    """
    require_torch()
    model = str(resolve_model(chosen.model))  # one version for all scans, whatever is activated meanwhile
    run = RunSettings(chosen.mode, chosen.threshold, chosen.bias_field, chosen.device, model, chosen.location)
    description = describe_model(model)
    _check_device(chosen.device)
    output, as_dicom = Path(chosen.output), chosen.format == DICOM_FORMAT
    try:
        _check_format(chosen)
        _check_paths(output, chosen.inputs)
        part = choose_part(chosen.num_parts, chosen.part_id, os.environ, recorded_count(output))
        if part is not None:
            say(f"{str(part).capitalize()}, by {part.origin}.")
        check_parts(output, part)
        show_doing("Looking for scans")
        cases, skipped = collect_inputs(chosen.inputs, chosen.series == ANY_SERIES)
        if as_dicom:
            cases, others = _told_apart(cases, skipped)
            skipped += others
        _check_one_scan(chosen, len(cases))
    except InputError as error:
        return _complain(str(error), EXIT_USAGE)
    maps = tuple(name for name in MAPS if getattr(chosen, name))
    mask_suffix = MASK_SUFFIXES["seg.nrrd" if as_dicom else chosen.format]
    about = description.version, description.sha256
    settings = BatchSettings(run, mask_suffix, *about, maps, as_dicom, chosen.psa)
    if as_dicom:
        from .dicom_results import CARRIES_PATIENT

        say(CARRIES_PATIENT)
    with CaseProcesses(chosen.jobs, run, chosen.time_limit, python, chosen.psa) as do_case:
        result = run_batch(cases, skipped, output, settings, do_case, say, show_doing, part, chosen.jobs, do_case.kill)
    for name, reason in result.failed.items():
        _complain(f"{name}: {reason}", result.exit_code)
    if result.message:
        _complain(result.message, result.exit_code)
    counts = f"{len(result.done)} segmented, {len(result.unchanged)} unchanged, {len(result.failed)} failed"
    reached = result.done or result.unchanged or result.failed
    if part is not None and (reached or result.exit_code == EXIT_DONE):
        say(f"{counts}. When all parts are done: ddsp-segmentation report {output}")
    elif part is None and (output / REPORT_FILE).is_file():
        say(f"{counts}. See {output / REPORT_FILE}")
    return result.exit_code


def _check_device(name: str) -> None:
    """Refuse a device that is not there before any scan is read; ``auto`` always finds one."""
    if name != "auto":
        from ..engine.devices import choose_device

        choose_device(name)


def _check_format(chosen: argparse.Namespace) -> None:
    if chosen.format == DICOM_FORMAT:
        from .dicom_results import require_highdicom

        require_highdicom()
    elif chosen.psa:
        raise InputError(
            f"--psa is for the report in DICOM, and --format is {chosen.format}.", "Add --format dicom-seg."
        )


def _told_apart(cases: Sequence[InputCase], skipped: Sequence[Skipped]) -> tuple[list[InputCase], list[Skipped]]:
    """The DICOM series among the scans, and why the others are passed over where DICOM is to be written.

    Raises:
        InputError: there is no series.
    """
    reason = f"is no DICOM series, which --format {DICOM_FORMAT} is for; segment it with another --format"
    series = [case for case in cases if case.files()[1]]
    others = [case.files()[0][0].name for case in cases if not case.files()[1]]
    if not series:
        found = f"'{others[0]}' is none" if len(others) == 1 else f"none of the {len(others)} scans found is one"
        passed_over = f" (passed over: {reasons_of(skipped)})" if skipped else ""
        cause = f"--format {DICOM_FORMAT} is for DICOM series, and {found}{passed_over}."
        raise InputError(cause, "Give a DICOM series, or choose another --format.")
    return series, [Skipped(name, reason) for name in others]


def _check_one_scan(chosen: argparse.Namespace, count: int) -> None:
    for is_given, what in (
        (chosen.location, "--location and --roi are places in one scan"),
        (chosen.psa, "--psa is that of one patient"),
    ):
        if is_given and count > 1:
            raise InputError(f"{what}, and the inputs are {count}.", "Name one scan.")


def _check_paths(output: Path, inputs: Sequence[str]) -> None:
    """Every input exists, and masks never land among the scans: one could replace a scan or be taken for one later."""
    try:
        output.exists()
    except OSError as error:
        cause = f"The output folder '{output.name[:40]}' cannot be used: {error.strerror}."
        raise InputError(cause, "Choose another one.") from error
    for path in map(Path, inputs):
        if not os.path.lexists(path):  # false for a name that is longer than any may be, too
            raise InputError(f"Input '{path.name}' does not exist.", "Check its name and folder.")
        folder = path if path.is_dir() else path.parent
        inside = path.is_dir() and folder.resolve() in output.resolve().parents
        if inside or folder.resolve() == output.resolve():
            raise InputError(
                f"The output folder '{output.name}' is among the inputs ('{path.name}').",
                "Choose a folder that holds no scans and lies outside the input folders.",
            )


def train(chosen: argparse.Namespace) -> int:
    """``train``: prepare the cases of a folder, train, publish the model; 1 when stopped before its end."""
    require_torch()
    from ..engine.model import load_networks
    from ..engine.preprocessing import PreprocessingSettings
    from ..learning.dataset import prepare_dataset, select_folds, split_folds
    from ..learning.plans import choose_plan
    from ..learning.training import CHECKPOINT_FILE, Trainer
    from ..learning.training_log import line_progress

    cases = _read_cases(chosen.dataset)
    training, validation = select_folds(cases, split_folds(cases, chosen.dataset), chosen.fold)
    if not chosen.resume and (Path(chosen.output) / CHECKPOINT_FILE).exists():
        cause = f"Folder '{Path(chosen.output).name}' already holds a training run."
        raise DatasetError(cause, "Add --resume to go on with it, or choose another output folder.")
    changes: dict[str, object] = {"steps": chosen.steps} if chosen.steps else {}
    networks: list[DDSPConvNet] = []
    parent: ModelDescription | None = None
    facts: dict[str, object] = {"license": chosen.license}
    if chosen.start_from:  # its architecture and preprocessing belong to the weights; what it measured stays on record
        networks, parent = load_networks(resolve_model(chosen.start_from))
        preprocessing = PreprocessingSettings.from_dict(parent.preprocessing)
        changes |= {"network": networks[0].settings, "preprocessing": preprocessing}
        facts |= {"training": {"parent": parent.version}}
        if len(networks) == 1:  # what several measured together is true of none of them alone
            facts |= {"metrics": {"measured_on": f"parent version {parent.version}", **parent.metrics}}
    plan = choose_plan(chosen.plan, **changes)
    cache = chosen.cache or Path(chosen.output) / "cache"
    prepared_validation = prepare_dataset(validation, plan.preprocessing, cache, say)
    start_from = networks[_first_that_saw_none(prepared_validation, parent)].state_dict() if parent else None
    trainer = Trainer(
        plan,
        prepare_dataset(training, plan.preprocessing, cache, say),
        prepared_validation,
        chosen.output,
        device=chosen.device,
        start_from=start_from,
        seen_before=parent.seen if parent else NOTHING_SEEN,
        facts=facts,
        progress=line_progress,
    )
    if chosen.resume:
        trainer.load_checkpoint()
    finished = trainer.run(minutes=chosen.minutes)
    trainer.processes.leave()
    model = Path(chosen.output) / "model"
    if trainer.processes.rank:
        return 0
    say(f"The model is in {model}")
    return 0 if finished or chosen.minutes else EXIT_SOME_FAILED


def _first_that_saw_none(validation: Sequence[PreparedCase], parent: ModelDescription) -> int:
    """Number of the network of a version to go on from: nothing that it saw validates what comes from it.

    Raises:
        DatasetError: each of them was trained on a validation case.
    """
    count = len(parent.members)
    unseen_by = {
        case.name: set(parent.members_that_never_saw(case.identity))
        for case in validation
        if parent.was_trained_on(case.identity)
    }
    number = min(set(range(count)).intersection(*unseen_by.values()), default=None)
    if number is None and count > 1:
        cause = f"Each of the {count} networks of model '{parent.version}' was trained on some of the {len(validation)}"
        raise DatasetError(
            f"{cause} validation cases.", "Choose folds that one of them left out together, or --fold all."
        )
    if number is None:
        cause = f"Model '{parent.version}' was trained on {len(unseen_by)} of the validation cases"
        raise DatasetError(f"{cause} ({next(iter(unseen_by))}, ...).", "Choose the fold it left out, or --fold all.")
    if validation and not parent.seen.known:
        say(f"Note: nobody can tell whether model '{parent.version}' was trained on the validation cases.")
    if count > 1:
        why = ", the first that was not trained on a validation case" if validation and parent.seen.known else ""
        say(f"Starting from network {number + 1} of the {count} of model '{parent.version}'{why}.")
    return number


def evaluate(chosen: argparse.Namespace) -> int:
    """``evaluate``: two folders of masks, or a model on a data set; 1 when a case could not be compared."""
    by_folders = chosen.predictions is not None or chosen.references is not None
    complete = chosen.predictions is not None and chosen.references is not None
    if by_folders == (chosen.dataset is not None) or by_folders != complete:
        return _complain("Give either --predictions and --references, or --dataset.", EXIT_USAGE)
    apart = dict.fromkeys(chosen.apart, _KEPT_APART)
    if by_folders:
        from ..learning.evaluation import evaluate_folders

        summary = evaluate_folders(chosen.predictions, chosen.references, chosen.output, apart=apart)
    else:
        summary = _evaluate_model(chosen, apart)
    say(summary.text())
    say(f"Written to {chosen.output}")
    return EXIT_SOME_FAILED if summary.failed else 0


def _evaluate_model(chosen: argparse.Namespace, apart: dict[str, str]):
    require_torch()
    from ..learning.dataset import select_folds, split_folds
    from ..learning.ensemble import unseen_members
    from ..learning.evaluation import evaluate_model

    model = resolve_model(chosen.model)
    cases = _read_cases(chosen.dataset)
    if chosen.fold:
        cases = select_folds(cases, split_folds(cases, chosen.dataset), chosen.fold)[1]
    description = describe_model(model)
    unseen = unseen_members(description, cases)
    _say_seen(unseen, len(description.members))
    runner = InProcessRunner()
    settings = RunSettings(mode=chosen.mode, bias_field=chosen.bias_field, device=chosen.device, model=model)

    def segment_scan(image: sitk.Image, case: Case) -> Segmentation:
        return runner.segment(image, settings, name="scan", members=unseen[case.name] or None)

    def progress(name: str, fraction: float) -> None:
        say(f"[{round(fraction * len(cases))}/{len(cases)}] {name}")

    return evaluate_model(segment_scan, cases, chosen.output, progress, apart=apart)


def _say_seen(unseen: Mapping[str, list[int] | None], count: int) -> None:
    """Who answers: of a patient whom some networks of a version were trained on, the others alone."""
    some = sum(members is not None and 0 < len(members) < count for members in unseen.values())
    none = sum(members == [] for members in unseen.values())
    unknown = sum(members is None for members in unseen.values())
    of_these = f"of these {len(unseen)} cases"
    if some:
        say(f"Note: {some} {of_these} are answered only by the networks that were not trained on their patient.")
    if none:
        say(f"Note: the model was trained on the patients of {none} {of_these}; their Dice flatters it.")
    if unknown:
        say(f"Note: nobody can tell whether the model was trained on {unknown} {of_these}.")


def _read_cases(folders: list[str]) -> list[Case]:
    """The cases of data sets; said is what is unsure about whose they are."""
    from ..learning.case_index import about_leading_zeros, about_unknown_patients
    from ..learning.dataset import read_datasets

    cases = read_datasets(folders)
    unknown = about_unknown_patients(sum(not case.patient_is_known for case in cases), len(cases))
    alike = about_leading_zeros(case.patient for case in cases if case.patient_is_known)
    for note in filter(None, (unknown, alike)):
        say(f"Note: {note}")
    return cases


def info(chosen: argparse.Namespace) -> int:
    """``info``: what is installed and what the model is; devices and layers, which need torch loaded, when asked."""
    say(f"DDSPSegmentation {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "SimpleITK", "numpy"):
        say(f"{package}: {_installed(package)}")
    registry = ModelRegistry()
    folder = resolve_model(chosen.model, registry)
    description = describe_model(folder)
    origin = "given" if chosen.model else "built-in" if registry.active().builtin else "active"
    say(f"model: {description.version} ({origin}), SHA-256 {description.sha256}")
    say(f"active version: {_active_version(registry)}")
    for title, facts in (("training", description.training), ("measured", description.metrics)):
        for key, value in facts.items():
            say(f"  {title}, {key}: {_in_words(value)}")
    if description.license:
        say(f"  terms: {description.license}")
    say(f"networks: {len(description.members)}")
    if chosen.all and _installed("torch") != _MISSING:
        from ..engine.network import NetworkSettings, summarize

        say(f"devices: {', '.join(_devices())}")
        say(str(summarize(NetworkSettings.from_dict(description.network))))
    return 0


def _in_words(value: object) -> str:
    """A fact of a model's description on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(one)}" for key, one in value.items())
    return f"{len(value)} listed" if isinstance(value, (list, tuple)) else str(value)


def _active_version(registry: ModelRegistry) -> str:
    try:
        version = registry.active()
        return f"{version.name} ({version.note})" if version.note else version.name
    except ModelError as error:
        return f"none ({error})"


_MISSING = "not installed"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING


def _devices() -> list[str]:
    from ..engine.devices import choose_precision, usable_devices

    return [f"{device.type} ({choose_precision('auto', device)})" for device in usable_devices()]


def _complain(line: str, exit_code: int) -> int:
    say(f"error: {' '.join(line.split())}", sys.stderr)
    return exit_code


_COMMANDS = {"segment": segment, "train": train, "evaluate": evaluate, "info": info}
_ELSEWHERE = {
    "models": "model_commands",
    "finetune": "retraining_commands",
    "cases": "retraining_commands",
    "review": "review_command",
    "report": "report_command",
}


if __name__ == "__main__":
    sys.exit(main())
