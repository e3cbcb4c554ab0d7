"""Runs the command line on an input, in a forked child or as a process, and collects what it left behind."""

from __future__ import annotations

import atexit
import csv
import ctypes
import faulthandler
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import types
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from hard_inputs_expected import COMMANDS, GIVEN, SEGMENT, Built, Clean, Found, Input, Result
from hard_inputs_files import Volume, read_meta, read_nifti, read_nrrd, sample, save_nifti
from scipy.ndimage import affine_transform, gaussian_filter

PACKAGE = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
MOST_MEMORY = 12 << 30  # of addresses; torch alone takes a few GB of them
MODEL = "hospital-2"
_SECUREBITS, _NO_ROOT, _NO_ROOT_LOCKED, _CAPABILITY_VERSION = 28, 1, 2, 0x20080522
_PROGRAM = "DDSPSegmentationLib.service.command_line"


def run_input(entry: Input, built: Built, folder: Path, seconds: float, interrupt: int = 0) -> Found:
    """Give the input to its command; its working folder is ``folder``, its home a folder in that."""
    arguments = [word for part in COMMANDS[entry.command] for word in (built.given if part == GIVEN else (part,))]
    before = _contents(folder / "in")
    found = run([*arguments, *built.extra], folder, seconds, entry.process or bool(interrupt), entry.nobody, interrupt)
    changed = {name for name, size in before.items() ^ _contents(folder / "in").items()}
    found.leftovers += [f"a change of the input: {name!a}" for name in sorted(changed)]
    return found


def run(
    arguments: list[str],
    folder: Path,
    seconds: float,
    process: bool = False,
    nobody: bool = False,
    interrupt: int = 0,
) -> Found:
    """One run of the command line in ``folder``, ended after so many seconds at the latest.

    Args:
        process: a new interpreter instead of a fork of this one.
        nobody: without root's privileges.
        interrupt: a signal sent as soon as the run has told of its first scan.
    """
    (folder / "home").mkdir(exist_ok=True)
    outputs = [open(folder / name, "w+b") for name in ("stdout.txt", "stderr.txt")]  # noqa: SIM115
    try:
        start = _new_process if process else _forked
        child = start(arguments, folder, [output.fileno() for output in outputs], nobody)
        ended, exit_code = _wait(child, seconds, folder / "stdout.txt", interrupt)
        lines = [(folder / name).read_bytes().decode("utf-8", "backslashreplace") for name in _STREAMS]
    finally:
        for output in outputs:
            output.close()
    return Found(ended, exit_code, *([line for line in text.split("\n") if line.strip()] for text in lines))


_STREAMS = ("stdout.txt", "stderr.txt")


def _forked(arguments: list[str], folder: Path, descriptors: list[int], nobody: bool) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        faulthandler.disable()  # pytest's would tell of every death
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[1], 2)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        _as_in_a_new_process(folder, nobody)
        os.environ.update(_environment(folder))
        atexit._clear()
        _fork_case_workers()
        code = _called(arguments)
        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class ForkedWorker:
    """Stands for the ``subprocess.Popen`` of a case worker: the same code in a fork, which has torch loaded already."""

    def __init__(self, command, stdin, stdout, stderr, env, start_new_session):
        requests, answers = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _be_case_worker((requests[0], answers[1], stderr.fileno()), (requests[1], answers[0]), env)
        os.close(requests[0])
        os.close(answers[1])
        self.stdin, self.stdout = os.fdopen(requests[1], "wb"), os.fdopen(answers[0], "rb")

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int | None:
        return self._waited(0)

    def _waited(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _be_case_worker(descriptors: tuple[int, int, int], others: tuple[int, int], env: dict[str, str]) -> None:
    from DDSPSegmentationLib.service import case_worker

    try:
        os.setsid()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
        for descriptor in (*descriptors, *others):
            os.close(descriptor)
        os.environ.update(env)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        case_worker.main()
    finally:
        os._exit(70)


def _fork_case_workers() -> None:
    """Let the command line start its case workers as forks: loading torch takes longer than most scans."""
    from DDSPSegmentationLib.service import case_process

    case_process.subprocess = types.SimpleNamespace(Popen=ForkedWorker, PIPE=subprocess.PIPE)


def _called(arguments: list[str]) -> int:
    from DDSPSegmentationLib.service.command_line import main

    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1


def _new_process(arguments: list[str], folder: Path, descriptors: list[int], nobody: bool) -> int:
    return subprocess.Popen(
        [sys.executable, "-m", _PROGRAM, *map(os.fsencode, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=descriptors[0],
        stderr=descriptors[1],
        start_new_session=True,
        env=os.environ | _environment(folder) | {"PYTHONPATH": str(PACKAGE)},
        preexec_fn=lambda: _as_in_a_terminal(folder, nobody),
    ).pid


def _environment(folder: Path) -> dict[str, str]:
    home = str(folder / "home")
    return {"HOME": home, "USERPROFILE": home, "MPLCONFIGDIR": home, "TMPDIR": home, "PYTHONFAULTHANDLER": ""}


def _as_in_a_terminal(folder: Path, nobody: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts in the background ignore it
    _as_in_a_new_process(folder, nobody)


def _as_in_a_new_process(folder: Path, nobody: bool) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    if nobody and os.geteuid() == 0:
        _without_privileges()


def _without_privileges() -> None:
    """Root, and what it starts, may read no more than a file's permissions say (Linux; see capabilities(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SECUREBITS, _NO_ROOT | _NO_ROOT_LOCKED, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the privileges of what is started cannot be dropped")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "privileges cannot be dropped")


def _wait(child: int, seconds: float, told: Path, interrupt: int) -> tuple[str, int | None]:
    """How a child ended ("" by itself) and its exit code; whatever it had started is ended with it."""
    deadline, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
        if interrupt and b"[1/" in told.read_bytes():
            os.kill(child, interrupt)
            interrupt = 0
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
        return f"did not end within {seconds:.0f} s", None
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}", None
    return "", os.WEXITSTATUS(status)


def look_at(command: str, folder: Path, found: Found) -> None:
    """Add the results of the run to what was found, and what should not have stayed."""
    for written in ("out", "library", "models"):
        found.leftovers += [
            path.name for path in (folder / written).rglob(".ddsp-*") if path.name != ".ddsp-segmentation.lock"
        ]
    if command.startswith("segment"):
        written = (folder / "out").iterdir() if (folder / "out").is_dir() else ()
        found.results = [_mask(path) for path in sorted(written) if path.name.endswith((".nii.gz", ".seg.nrrd"))]
        with suppress(OSError, ValueError):
            record = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
            found.recorded = list(_texts(record))
    elif command == "cases import":
        found.results = [_stored(path) for path in sorted((folder / "library" / "cases").glob("*/case.json"))]
    elif command.startswith("evaluate"):
        found.results = _compared(folder / "out" / "cases.csv")
    else:
        found.results = [Result(path.name) for path in sorted((folder / "models" / "versions").glob("[!.]*"))]


def _mask(path: Path) -> Result:
    try:
        if path.name.endswith(".nrrd"):
            return Result(path.name, read_nrrd(path))
        return Result(path.name, read_nifti(path), read_nifti(path, "qform"))
    except (ValueError, KeyError, OSError, EOFError):
        return Result(path.name)


def _stored(record: Path) -> Result:
    case, library = record.parent.name, record.parents[2]
    masks = sorted(record.parent.glob("mask-*.mha"), key=lambda path: int(path.stem[5:]))
    scan = next(library.glob(f"images*/{case}_0000.mha"))
    patient = json.loads(record.read_text(encoding="utf-8"))["patient"]
    return Result(case, read_meta(masks[-1]), scan=read_meta(scan).voxels, patient=patient)


def _compared(path: Path) -> list[Result]:
    if not path.is_file():
        return []
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    return [Result(row["case"], dice=float(row["whole_dsc"])) for row in rows if row.get("whole_dsc")]


def _texts(values: object):
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)


def _contents(folder: Path) -> dict[str, int]:
    """Names and sizes of what is in a folder, without following a link."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            with suppress(OSError):
                found[path] = 0 if os.path.isdir(path) else os.lstat(path).st_size
    return found


def load_program() -> None:
    """Load once what every fork needs; nothing is computed here, so that no thread is left behind by a fork."""
    import DDSPSegmentationLib.engine.pictures
    import DDSPSegmentationLib.engine.segmenter  # and torch with it
    import DDSPSegmentationLib.learning.evaluation
    import DDSPSegmentationLib.service.case_worker
    import DDSPSegmentationLib.service.command_line
    import DDSPSegmentationLib.service.model_commands
    import DDSPSegmentationLib.service.retraining_commands  # noqa: F401


def clean_scans(folder: Path) -> Clean:
    """The scans that are built from, segmented once as plain files, and an exported model version."""
    scans = patients()
    (folder / "in").mkdir(parents=True)
    for number, scan in enumerate(scans):
        save_nifti(folder / "in" / f"P{number}.nii.gz", scan)
    found = run([part if part != GIVEN else "in" for part in COMMANDS[SEGMENT]], folder, 600)
    if found.ended or found.exit_code:
        raise RuntimeError(f"the clean scans cannot be segmented: {found.ended} {found.err}")
    glands = tuple(read_nifti(folder / "out" / f"P{number}.nii.gz").voxels != 0 for number in range(len(scans)))
    return Clean(scans, glands, exported_model())


def patients() -> tuple[Volume, ...]:
    """The bundled scan, and two that the product does not know again: turned, zoomed, mirrored, of other grays."""
    first = sample()
    noise = np.random.default_rng(0).normal(0, 1, first.voxels.shape)
    second = np.round(_other_body(first.voxels[::-1], 9, 1.12, 1) * 1.6 + 3 * noise).clip(0).astype(np.int16)
    third = np.round(_other_body(first.voxels, -11, 0.88, 2) ** 1.1 / 2 + 8 * np.abs(noise)).astype(np.int16)
    part = first.with_voxels(third).cropped((slice(16, 368), slice(16, 368), slice(0, 19)))
    larger = part.affine.copy()
    larger[:3, :2] *= 1.12
    return first, first.with_voxels(second), Volume(part.voxels, larger)


def _other_body(voxels: np.ndarray, degrees: float, zoom: float, seed: int) -> np.ndarray:
    """Turned about the slices' normal and zoomed around the middle of the slices, with a texture of its own."""
    angle = np.radians(degrees)
    back = np.eye(3)
    back[:2, :2] = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    middle = (np.array(voxels.shape) - 1) / 2
    turned = affine_transform(voxels.astype(float), back, middle - back @ middle, order=1, mode="nearest")
    texture = gaussian_filter(np.random.default_rng(seed).normal(0, 1, voxels.shape), (6, 6, 1))
    return (turned * (1 + 0.3 * texture / texture.std())).clip(0)


def exported_model() -> bytes:
    """The built-in version under another name, as ``models export`` writes it."""
    from DDSPSegmentationLib.engine.model import builtin_model_folder
    from DDSPSegmentationLib.library.model_version import manifest_text

    folder = builtin_model_folder()
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    files = {
        "model.json": json.dumps(description | {"version": MODEL}).encode(),
        "weights.pt": (folder / "weights.pt").read_bytes(),
        "MODEL_CARD.md": (folder / "MODEL_CARD.md").read_bytes(),
    }
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return zipped({"manifest.json": manifest_text(MODEL, checksums).encode(), **files})


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, compression)
    return buffer.getvalue()
