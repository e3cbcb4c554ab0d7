"""The command line's words: what may be said, and what each option means."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .. import __version__
from ..engine.html_page import RESEARCH_ONLY
from ..engine.run_settings import BIAS_FIELD_MODES, DEVICES, MODES
from ..engine.segmentation import MOST_PSA
from .case_process import TIME_LIMIT_S
from .case_work import MAPS
from .mask_files import MASK_SUFFIXES
from .review_states import STATES

PLANS = ("improved", "paper")
T2_SERIES, ANY_SERIES = "t2", "any"
DICOM_FORMAT = "dicom-seg"
# As measured in docs/evaluation.md, on the bundled scan and two cores; Dice on patients whom the networks never saw.
MODES_IN_WORDS = (
    "standard: all networks of the version, 1.1 s where there are five; fast: one of them, for old processors, 0.6 s, "
    "a Dice that is 0.005 lower than that of two, the same as standard where there is one alone; paper: one network on "
    "the plain central crop, 0.6 s: as good on usual scans, worse where the gland is large or off the center "
    f"(default: {MODES[0]})"
)
BIAS_FIELDS_IN_WORDS = (
    "correction of the bias field (default: the model's own; the built-in's is fast). fast: 0.4 s; full: 11 s; "
    "off: no time. None was better than another on 19 scans"
)

_EXIT_CODES = "Exit codes: 0 all done, 1 some failed, 2 usage, 3 PyTorch is missing."


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see '{self.prog} --help').\n")


def command_parser() -> Parser:
    """Arguments of ``ddsp-segmentation``; ``command`` is the first word."""
    parser = Parser(prog="ddsp-segmentation", description=f"Prostate segmentation of T2-weighted MRI. {RESEARCH_ONLY}")
    parser.add_argument("--version", action="version", version=f"DDSPSegmentation {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    segment = commands.add_parser(
        "segment", help="outline the prostate on scans", epilog=f"{_EXIT_CODES} {RESEARCH_ONLY}"
    )
    add_segment_arguments(segment)
    _add_review_arguments(commands.add_parser("review", help="list what a batch found, and note what was decided"))
    report = commands.add_parser("report", help="merge what the parts of a batch found, and say what is missing")
    report.add_argument("folder", type=_folder, metavar="FOLDER", help="the --output of all parts")
    _add_train_arguments(commands.add_parser("train", help="train a model on scans with expert masks"))
    _add_evaluate_arguments(commands.add_parser("evaluate", help="compare masks, or a model, with expert masks"))
    info = commands.add_parser("info", help="show versions, the model, devices")
    _add_model(info)
    info.add_argument("--all", action="store_true", help="devices and the network's layers, too (loads PyTorch)")
    _add_models_arguments(commands.add_parser("models", help="list, activate, roll back and hand on model versions"))
    _add_cases_arguments(commands.add_parser("cases", help="list, import and export corrected cases"))
    _add_finetune_arguments(
        commands.add_parser("finetune", help="train the active version on corrected cases and compare the two")
    )
    return parser


def segment_parser(program: str) -> Parser:
    """The arguments of ``segment`` alone, for a script of another name."""
    parser = Parser(prog=program, description=f"Outline the prostate on scans. {RESEARCH_ONLY}", epilog=_EXIT_CODES)
    add_segment_arguments(parser)
    return parser


def add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="NRRD, NIfTI, MHA or MHD file, DICOM folder, or a folder of these"
    )
    parser.add_argument(
        "--series",
        choices=(T2_SERIES, ANY_SERIES),
        default=T2_SERIES,
        help="of DICOM: those named as T2 (default), or any axial one that does not say to be something else",
    )
    _add_output(parser, "where masks, pictures and the report go")
    _add_run(parser)
    parser.add_argument(
        "--time-limit",
        type=_positive,
        default=TIME_LIMIT_S,
        metavar="SECONDS",
        help=f"a scan that takes longer is given up, the others go on (default: {TIME_LIMIT_S:g})",
    )
    parser.add_argument(
        "--jobs",
        type=_positive_int,
        default=1,
        metavar="N",
        help="do so many scans at once, in processes that divide the cores among them (default: 1)",
    )
    parser.add_argument(
        "--num-parts",
        type=_positive_int,
        metavar="N",
        help="divide the scans into so many parts, by the names of the cases, and do one of them; all write into the "
        "same folder, and 'report' merges it (default: the array of Slurm, Kubernetes or AWS Batch this runs in)",
    )
    parser.add_argument(
        "--part-id", type=_whole_number, metavar="K", help="which part this is, from 0 on (default: as --num-parts)"
    )
    parser.add_argument(
        "--format",
        choices=(*MASK_SUFFIXES, DICOM_FORMAT),
        default="seg.nrrd",
        help=f"of the masks; {DICOM_FORMAT}: of DICOM series, beside each .seg.nrrd, a DICOM Segmentation and a report "
        "of the measurements; both carry the patient's name and identifiers (needs highdicom)",
    )
    parser.add_argument(
        "--psa",
        type=_psa,
        metavar="NG_PER_ML",
        help=f"of the patient of the one scan named; its density goes into the report of {DICOM_FORMAT}",
    )
    parser.add_argument("--threshold", type=_probability, default=0.5, help="probability of the contour (default: 0.5)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--location",
        type=_location,
        metavar="R,A,S",
        help="a point in the gland of the one scan named, in mm as Slicer shows it: --location=-3,40,12",
    )
    place.add_argument(
        "--roi",
        type=_middle_of_box,
        dest="location",
        metavar="R,A,S,R,A,S",
        help="or a box around the gland, two opposite corners of it; the search begins at its middle, as in Slicer",
    )
    for name in MAPS:
        parser.add_argument(f"--{name}", action="store_true", help=f"write the {name} map of each scan, too")


def _add_review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=_folder, metavar="FOLDER", help="with the results of 'segment'")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="those that --state is for")
    parser.add_argument("--state", choices=STATES, help="note this state for the cases named")


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    help_text = "PROMISE12, images/ labels/ or nnU-Net; may be given several times"
    parser.add_argument("--dataset", required=True, action="append", metavar="FOLDER", help=help_text)
    _add_output(parser, "log, curve, checkpoint and model go here")
    parser.add_argument("--plan", choices=PLANS, default="improved", help="default: improved")
    help_text = "folds left out for validation, such as 0 or 0,1; 'all': train on every case"
    parser.add_argument("--fold", type=_folds, required=True, help=help_text)
    parser.add_argument("--steps", type=_positive_int, help="optimizer steps (default: the plan's)")
    parser.add_argument("--minutes", type=_positive, help="stop after so long with a checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    _add_device(parser)
    help_text = (
        "begin with the weights of this model (name or folder); of several networks the first that saw no "
        "validation patient"
    )
    parser.add_argument("--start-from", metavar="VERSION", help=help_text)
    parser.add_argument("--license", default="", metavar="TEXT", help="terms of the weights, kept in model.json")
    parser.add_argument("--cache", metavar="FOLDER", help="prepared scans (default: OUTPUT/cache)")


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="FOLDER", help="masks to judge, paired with references by file name")
    parser.add_argument("--references", metavar="FOLDER", help="expert masks")
    help_text = "scans with expert masks, to judge a model; may be given several times"
    parser.add_argument("--dataset", action="append", metavar="FOLDER", help=help_text)
    parser.add_argument("--fold", type=_folds, default=(), help="only the cases of these folds, such as 0 or 0,1")
    _add_run(parser)
    parser.add_argument("--apart", nargs="+", default=[], metavar="CASE", help="cases listed but kept out of the means")
    _add_output(parser, "tables, plots and pictures go here")


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser, "--models")
    actions = parser.add_subparsers(dest="action", metavar="[ACTION]", parser_class=Parser)
    for name, words, help_text in (
        ("list", (), "show the versions, the active one with a star (default)"),
        ("activate", ("name",), "segment with this version from now on"),
        ("roll-back", (), "activate the version before the active one"),
        ("delete", ("name",), "remove a version that is not active"),
        ("export", ("name", "file"), "write a version into one .zip"),
        ("import", ("file",), "add a version from such a .zip"),
    ):
        action = actions.add_parser(name, help=help_text)
        for word in words:
            action.add_argument(word, metavar=word.upper())
        if name == "export":
            help_text = "leave out by which scans it was trained on can be recognized"
            action.add_argument("--without-seen", action="store_true", help=help_text)
        _add_folder(action, "--models", argparse.SUPPRESS)


def _add_cases_arguments(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser, "--cases")
    _add_folder(parser, "--models")
    actions = parser.add_subparsers(dest="action", metavar="[ACTION]", parser_class=Parser)
    for name, help_text in (
        ("list", "show the cases (default)"),
        ("import", "add the scans with masks of a folder"),
        ("export", "write the cases into a folder in the nnU-Net layout"),
    ):
        action = actions.add_parser(name, help=help_text)
        if name != "list":
            action.add_argument("folder", metavar="FOLDER", type=_folder)
        if name == "import":
            help_text = "all scans are of the patient of this case, where index.csv does not say whose they are"
            action.add_argument("--patient-of-case", default="", metavar="CASE", help=help_text)
        _add_folder(action, "--cases", argparse.SUPPRESS)
        _add_folder(action, "--models", argparse.SUPPRESS)


def _add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser, "--cases")
    _add_folder(parser, "--models")
    parser.add_argument(
        "--replay", type=_folder, metavar="FOLDER", help="scans with expert masks to keep the old ability with"
    )
    _add_device(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run that was interrupted")


def _add_folder(parser: argparse.ArgumentParser, option: str, default: str | None = None) -> None:
    """An option that may stand before or after the action: there it must not overwrite what stood before."""
    what = "corrected cases" if option == "--cases" else "model versions"
    help_text = f"where the {what} are (default: ~/DDSPSegmentation/{option[2:].capitalize()})"
    parser.add_argument(option, type=_folder, default=default, metavar="FOLDER", help=help_text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    help_text = "a model version, its name or a folder (default: the active version)"
    parser.add_argument("--model", metavar="VERSION", help=help_text)


def _add_output(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--output", required=True, type=_folder, metavar="FOLDER", help=help_text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    """How scans are segmented."""
    _add_model(parser)
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help=MODES_IN_WORDS)
    parser.add_argument("--bias-field", choices=BIAS_FIELD_MODES, help=BIAS_FIELDS_IN_WORDS)
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto, a GPU when there is one")


def _probability(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _psa(text: str) -> float:
    value = _positive(text)
    if value > MOST_PSA:
        raise argparse.ArgumentTypeError(f"{text} is no PSA in ng/ml, which is {MOST_PSA} at most")
    return value


def _location(text: str) -> tuple[float, float, float]:
    """The point (x, y, z) LPS mm of coordinates R, A, S in mm."""
    right, anterior, superior = _coordinates(text, 3, "three")
    return -right, -anterior, superior


def _middle_of_box(text: str) -> tuple[float, float, float]:
    """The middle (x, y, z) LPS mm of a box with these opposite corners, R, A, S, R, A, S in mm."""
    corners = _coordinates(text, 6, "six")
    right, anterior, superior = ((one + other) / 2 for one, other in zip(corners[:3], corners[3:], strict=True))
    if any(one == other for one, other in zip(corners[:3], corners[3:], strict=True)):
        raise argparse.ArgumentTypeError(f"'{text}' is flat; give two opposite corners of the box")
    return -right, -anterior, superior


def _coordinates(text: str, count: int, in_words: str) -> list[float]:
    parts = text.split(",")
    if len(parts) != count:
        raise argparse.ArgumentTypeError(f"'{text}' is not {in_words} coordinates with commas between them")
    return [_number(part) for part in parts]


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _positive_int(text: str) -> int:
    value = _positive(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(value)


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a folder needs a name")
    return text


def _folds(text: str) -> tuple[int, ...]:
    if text == "all":
        return ()
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number, numbers such as 0,1, nor 'all'")
    return tuple(map(int, parts))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
