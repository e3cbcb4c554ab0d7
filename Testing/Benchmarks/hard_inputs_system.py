"""Links, pipes, closed folders; model versions packed again; batches of much that is bad; runs that are ended."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

from hard_inputs_dicom import save_series, series_of
from hard_inputs_expected import (
    EVALUATE_MODEL,
    IMPORT,
    IMPORT_MODEL,
    SEGMENT_MODEL,
    Built,
    Clean,
    Outcome,
    done,
    hard,
    refused,
)
from hard_inputs_files import save_meta, save_nifti, save_nrrd
from hard_inputs_names import FILE_NAME, LATIN1, PERCENT_SIGN, with_another
from hard_inputs_run import MODEL, zipped

LINKS, SPECIAL, CLOSED, MODELS = "links", "pipes, devices, folders", "may not be read", "model files"
BATCHES, ENDED = "batches", "ended by the user"


def links(slug: str, what: str, add: Callable[[Path], object], *right: Outcome, kind: str = LINKS, **how) -> None:
    """A sound T2.nii.gz with something beside it that is made by ``add``."""

    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "T2.nii.gz", clean.scans[0])
        add(folder)
        return Built({"scan": clean.grid(), "same": clean.grid()})

    hard(slug, kind, what, build, *(right or (done(),)), **how)


_NAMED = "link"
_BESIDE = refused(_NAMED, done=("scan",))
_TOLD = done(says=(_NAMED,))
links(
    "link-dangling",
    "sub-01.nii.gz is a link to nothing, as in a data set that was not fetched",
    lambda f: (f / "sub-01.nii.gz").symlink_to("../.git/annex/objects/aa/x.nii.gz"),
    _BESIDE,
)
links(
    "link-to-itself",
    "loop.nii.gz is a link to itself",
    lambda f: (f / "loop.nii.gz").symlink_to("loop.nii.gz"),
    _BESIDE,
    _TOLD,
)
links(
    "link-in-a-circle",
    "a.nii.gz leads to b.nii.gz and back",
    lambda f: ((f / "a.nii.gz").symlink_to("b.nii.gz"), (f / "b.nii.gz").symlink_to("a.nii.gz")),
    refused(_NAMED, _NAMED, done=("scan",)),
    _TOLD,
)
links("link-to-own-folder", "a link to the folder it lies in", lambda f: (f / "again").symlink_to("."), done())
links("link-to-parent", "a link to the folder above", lambda f: (f / "up").symlink_to(".."), done())
links("link-to-root", "a link to /", lambda f: (f / "everything").symlink_to("/"), done())
links(
    "link-to-scan",
    "a link to the scan beside it: one scan",
    lambda f: (f / "U2.nii.gz").symlink_to("T2.nii.gz"),
    done(),
)
links(
    "link-hard",
    "a hard link to the scan",
    lambda f: os.link(f / "T2.nii.gz", f / "U2.nii.gz"),
    done(),
    done("scan", "same"),
)
links(
    "link-dangling-slice",
    "IM0001.dcm is a link to nothing",
    lambda f: (f / "IM0001.dcm").symlink_to("gone.dcm"),
    _BESIDE,
    _TOLD,
)
links(
    "link-dangling-folder",
    "a folder is a link to nothing",
    lambda f: (f / "exam").symlink_to("gone"),
    _BESIDE,
    _TOLD,
)
links(
    "link-to-zero",
    "zero.nii.gz is a link to /dev/zero",
    lambda f: (f / "zero.nii.gz").symlink_to("/dev/zero"),
    refused("device|no file|not a file|regular", done=("scan",)),
    done(says=("zero.nii.gz",)),
)
links(
    "link-to-null",
    "null.nii.gz is a link to /dev/null",
    lambda f: (f / "null.nii.gz").symlink_to("/dev/null"),
    refused("device|no file|not a file|empty|regular", done=("scan",)),
    done(says=("null.nii.gz",)),
)


def _linked_folder(folder: Path, clean: Clean) -> Built:
    save_series(series_of(clean.scans[0]), folder.parent / "store")
    (folder / "series").symlink_to("../store")
    return Built({"scan": clean.grid()})


hard("link-folder-alone", LINKS, "nothing but a link to the DICOM folder", _linked_folder, done(), refused("link"))


def _linked_file(folder: Path, clean: Clean) -> Built:
    (folder.parent / "store").mkdir()
    save_nifti(folder.parent / "store" / "MD5-0123.nii.gz", clean.scans[0])
    (folder / "T2.nii.gz").symlink_to("../store/MD5-0123.nii.gz")
    return Built({"scan": clean.grid()})


hard("link-file", LINKS, "T2.nii.gz is a link to a file of another name, as git-annex keeps it", _linked_file, done())


def _linked_mhd(folder: Path, clean: Clean) -> Built:
    (folder.parent / "store").mkdir()
    save_meta(folder.parent / "store" / "Case00.mhd", clean.scans[0])
    (folder / "Case00.mhd").symlink_to("../store/Case00.mhd")
    return Built({"scan": clean.grid()})


hard(
    "link-mhd",
    LINKS,
    "a link to an .mhd whose .raw lies where it leads",
    _linked_mhd,
    done(),
    refused("link|beside|missing"),
)


def _linked_other_suffix(folder: Path, clean: Clean) -> Built:
    (folder.parent / "store").mkdir()
    save_nifti(folder.parent / "store" / "blob", clean.scans[0], compress=True)
    (folder / "T2.nii.gz").symlink_to("../store/blob")
    return Built({"scan": clean.grid()})


hard("link-to-blob", LINKS, "a link to a file without suffix", _linked_other_suffix, done())


def _import_dangling(folder: Path, clean: Clean) -> Built:
    for name, number in (("A", 1), ("B", 2)):
        save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
    save_nifti(folder / "B_mask.nii.gz", clean.mask(2))
    (folder / "A_mask.nii.gz").symlink_to("gone.nii.gz")
    return Built({"scan": clean.case(2)})


hard(
    "import-dangling-mask",
    LINKS,
    "a mask that is a link to nothing, beside a sound pair",
    _import_dangling,
    refused("link", done=("scan",)),
    command=IMPORT,
)


def _import_looped(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "B.nii.gz", clean.scans[2])
    save_nifti(folder / "B_mask.nii.gz", clean.mask(2))
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    (folder / "again").symlink_to(".")
    return Built({"scan": clean.case(2)})


hard(
    "import-loops",
    LINKS,
    "links to itself and to its folder, beside a sound pair",
    _import_looped,
    done(),
    refused("link", done=("scan",)),
    command=IMPORT,
)

# Pipes, devices, folders ----------------------------------------------------------------------------------------------

_NO_FILE = refused("pipe|socket|no file|not a file|regular|special", done=("scan",))


def special(slug: str, what: str, add: Callable[[Path], object], *right: Outcome, **how) -> None:
    links(slug, what, add, *right, kind=SPECIAL, **how)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have no more than 107 letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


_TOLD_OF = done(says=("pipe|no file|not a file|regular|special",))
special("pipe-nifti", "U2.nii.gz is a pipe", lambda f: os.mkfifo(f / "U2.nii.gz"), _NO_FILE, _TOLD_OF)
special("pipe-mhd", "U2.mhd is a pipe", lambda f: os.mkfifo(f / "U2.mhd"), _NO_FILE, _TOLD_OF)
special("pipe-nrrd", "U2.nrrd is a pipe", lambda f: os.mkfifo(f / "U2.nrrd"), _NO_FILE, _TOLD_OF)
special("pipe-dcm", "IM1.dcm is a pipe", lambda f: os.mkfifo(f / "IM1.dcm"), _NO_FILE, _TOLD_OF)
special("pipe-without-suffix", "a pipe called events", lambda f: os.mkfifo(f / "events"), done())
special(
    "pipe-link",
    "U2.nii.gz leads to a pipe",
    lambda f: (os.mkfifo(f / "events"), (f / "U2.nii.gz").symlink_to("events")),
    _NO_FILE,
    _TOLD_OF,
)
special("socket-nifti", "U2.nii.gz is a socket", lambda f: _socket(f / "U2.nii.gz"), _NO_FILE, _TOLD_OF)
special(
    "folder-called-nifti",
    "a folder called U2.nii.gz, empty",
    lambda f: (f / "U2.nii.gz").mkdir(),
    done(),
    refused("folder", done=("scan",)),
    done(says=("folder",)),
)


def _scan_in_odd_folder(folder: Path, clean: Clean) -> Built:
    (folder / "U2.nii.gz").mkdir()
    save_nifti(folder / "U2.nii.gz" / "T2.nii.gz", clean.scans[0])
    return Built({"scan": clean.grid()})


hard("folder-called-nifti-with-scan", SPECIAL, "T2.nii.gz in a folder called U2.nii.gz", _scan_in_odd_folder, done())


def _pipe_given(folder: Path, clean: Clean) -> Built:
    os.mkfifo(folder / "T2.nii.gz")
    return Built(given=("in/T2.nii.gz",))


hard("pipe-given", SPECIAL, "a pipe is given", _pipe_given, refused("pipe|no file|not a file|regular|special|neither"))


def _mhd_over_pipe(folder: Path, clean: Clean) -> Built:
    built = with_another(folder, clean)
    save_meta(folder / "T2.mhd", clean.scans[0])
    (folder / "T2.raw").unlink()
    os.mkfifo(folder / "T2.raw")
    return built


hard(
    "pipe-raw-of-mhd",
    SPECIAL,
    "the .raw of an .mhd is a pipe",
    _mhd_over_pipe,
    refused("pipe|no file|not a file|missing|regular|special|not beside", done=("before",)),
)


def _import_pipe(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "B.nii.gz", clean.scans[2])
    save_nifti(folder / "B_mask.nii.gz", clean.mask(2))
    os.mkfifo(folder / "A.nii.gz")
    save_nifti(folder / "A_mask.nii.gz", clean.mask(1))
    return Built({"scan": clean.case(2)})


hard(
    "import-pipe",
    SPECIAL,
    "a scan that is a pipe, beside a sound pair",
    _import_pipe,
    refused("A\\b", done=("scan",)),
    done("scan", says=("\\bA\\b|A_mask",)),
    command=IMPORT,
)
hard("nothing-in-folder", SPECIAL, "an empty folder", lambda folder, clean: Built(), refused("no scan"))
hard(
    "nothing-there",
    SPECIAL,
    "a folder that does not exist",
    lambda folder, clean: Built(given=("in/none",)),
    refused("exist"),
)


def _given_twice(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    return Built({"scan": clean.grid()}, given=("in", "in/T2.nii.gz", "in/../in"))


hard("given-twice", SPECIAL, "one scan, given in three ways", _given_twice, done())


def _output_is_file(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    (folder.parent / "out").write_text("a file")
    return Built()


hard("output-is-a-file", SPECIAL, "the output folder is a file", _output_is_file, refused("out"))

# May not be read ------------------------------------------------------------------------------------------------------


def _closed_file(name: str):
    def build(folder: Path, clean: Clean) -> Built:
        built = with_another(folder, clean)
        path = folder / name
        save = save_meta if name.endswith("mhd") else save_nrrd if name.endswith("nrrd") else save_nifti
        save(path, clean.scans[0])
        path.with_suffix(".raw" if name.endswith("mhd") else path.suffix).chmod(0)
        return built

    return build


_CLOSED = (
    refused("may not be read|permission|cannot be read", done=("before",)),
    done("before", says=("may not be read",)),
)
for _name in ("T2.nii.gz", "T2.nrrd", "T2.mhd"):
    hard(
        f"closed-{_name[3:].replace('.', '-')}",
        CLOSED,
        f"a {_name} without permission{' for its .raw' if 'mhd' in _name else ''}",
        _closed_file(_name),
        *_CLOSED,
        nobody=True,
    )


def _closed_folder(folder: Path, clean: Clean) -> Built:
    built = with_another(folder, clean)
    (folder / "exam").mkdir()
    save_nifti(folder / "exam" / "T2.nii.gz", clean.scans[0])
    (folder / "exam").chmod(0)
    return built


hard(
    "closed-folder",
    CLOSED,
    "a folder without permission beside a scan",
    _closed_folder,
    done("before", says=("may not be opened|permission",)),
    nobody=True,
)


def _closed_slice(folder: Path, clean: Clean) -> Built:
    built = with_another(folder, clean)
    save_series(series_of(clean.scans[0]), folder / "series")[4].chmod(0)
    return built


hard(
    "closed-slice",
    CLOSED,
    "a DICOM slice without permission",
    _closed_slice,
    refused("may not be read|permission|cannot be read|lack", done=("before",)),
    nobody=True,
)


def _closed_mask(folder: Path, clean: Clean) -> Built:
    for name, number in (("A", 1), ("B", 2)):
        save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
        save_nifti(folder / f"{name}_mask.nii.gz", clean.mask(number))
    (folder / "A_mask.nii.gz").chmod(0)
    return Built({"scan": clean.case(2)})


hard(
    "import-closed-mask",
    CLOSED,
    "a mask without permission, beside a sound pair",
    _closed_mask,
    refused("may read|may not be read|permission|cannot be read", done=("scan",)),
    command=IMPORT,
    nobody=True,
)


def _closed_output(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    (folder.parent / "out").mkdir()
    (folder.parent / "out").chmod(0o555)
    return Built()


hard(
    "closed-output",
    CLOSED,
    "an output folder that may not be written to",
    _closed_output,
    refused("write|permission|out"),
    nobody=True,
)

# Model versions -------------------------------------------------------------------------------------------------------

APPLE_DOUBLE = b"\0\5\26\7"


def files_of(archive: bytes) -> dict[str, bytes]:
    import io

    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


Repack = Callable[[dict[str, bytes]], "dict[str, bytes] | bytes"]


def model(
    slug: str, what: str, repack: Repack, *right: Outcome, name: str = "model.zip", compression=zipfile.ZIP_DEFLATED
):
    def build(folder: Path, clean: Clean) -> Built:
        packed = repack(files_of(clean.model))
        content = packed if isinstance(packed, bytes) else zipped(packed, compression)
        (folder / name).write_bytes(content)
        return Built(given=(f"in/{name}",))

    hard(slug, MODELS, what, build, *right, command=IMPORT_MODEL)


_IMPORTED = done(MODEL)
_AGAIN = refused("packed again|unpacked", exits=(2,))
model("model-as-exported", "a version as it was exported", lambda files: files, _IMPORTED)
model(
    "model-macos-flat",
    "packed again on macOS",
    lambda files: files | {f"__MACOSX/._{name}": APPLE_DOUBLE + bytes(120) for name in files},
    _IMPORTED,
    _AGAIN,
)
model(
    "model-macos-folder",
    "its folder packed again on macOS",
    lambda files: (
        {f"{MODEL}/{name}": content for name, content in files.items()}
        | {f"__MACOSX/{MODEL}/._{name}": APPLE_DOUBLE + bytes(120) for name in files}
    ),
    _IMPORTED,
    _AGAIN,
)
model(
    "model-windows-folder",
    "its folder packed again on Windows",
    lambda files: {f"{MODEL}/{name}": content for name, content in files.items()},
    _IMPORTED,
    _AGAIN,
)
model(
    "model-windows-backslash",
    "packed again with backslashes",
    lambda files: {f"{MODEL}\\{name}": content for name, content in files.items()},
    _IMPORTED,
    _AGAIN,
)
model(
    "model-folder-entry",
    "with an entry for the folder itself",
    lambda files: {f"{MODEL}/": b"", **{f"{MODEL}/{name}": content for name, content in files.items()}},
    _IMPORTED,
    _AGAIN,
)
model(
    "model-ds-store",
    "with a .DS_Store",
    lambda files: files | {".DS_Store": bytes(99)},
    _IMPORTED,
    _AGAIN,
    refused("DS_Store"),
)
model(
    "model-thumbs",
    "with a desktop.ini",
    lambda files: files | {"desktop.ini": b"[x]"},
    _IMPORTED,
    _AGAIN,
    refused("desktop.ini"),
)
model(
    "model-stored", "packed again without compression", lambda files: files, _IMPORTED, compression=zipfile.ZIP_STORED
)
model(
    "model-lzma",
    "packed again with LZMA",
    lambda files: files,
    _IMPORTED,
    refused("compression"),
    compression=zipfile.ZIP_LZMA,
)
model(
    "model-zip-in-zip",
    "the .zip packed into another",
    lambda files: {"model.zip": zipped(files)},
    _IMPORTED,
    refused("packed|zip"),
)
model(
    "model-named-otherwise", "renamed by a browser: model (1).zip", lambda files: files, _IMPORTED, name="model (1).zip"
)
model("model-capital-suffix", "called MODEL.ZIP", lambda files: files, _IMPORTED, name="MODEL.ZIP")
model(
    "model-latin1-name",
    "called Pr\\xfcfung.zip",
    lambda files: files,
    _IMPORTED,
    refused(FILE_NAME),
    name=f"{LATIN1}.zip",
)
model("model-percent-name", "called model %d.zip", lambda files: files, _IMPORTED, name="model %d.zip")
model(
    "model-cut",
    "half of the file",
    lambda files: zipped(files)[: len(zipped(files)) // 2],
    refused("damaged|truncated"),
)
model(
    "model-flipped",
    "a flipped bit",
    lambda files: (lambda content: content[:90000] + bytes([content[90000] ^ 1]) + content[90001:])(zipped(files)),
    refused("damaged|changed"),
)
model("model-empty", "an empty file", lambda files: b"", refused("damaged|empty"))
model("model-html", "an HTML page", lambda files: b"<!DOCTYPE html>" * 9, refused("damaged|no .zip"))
model(
    "model-manifest-missing",
    "without manifest.json",
    lambda files: {name: content for name, content in files.items() if name != "manifest.json"},
    refused("manifest"),
)
model(
    "model-weights-missing",
    "without weights.pt",
    lambda files: {name: content for name, content in files.items() if name != "weights.pt"},
    refused("weights"),
)
model(
    "model-description-bom",
    "model.json saved again with a byte order mark",
    lambda files: files | {"model.json": b"\xef\xbb\xbf" + files["model.json"]},
    refused("changed"),
)
model(
    "model-description-crlf",
    "model.json with CRLF",
    lambda files: (
        files | {"model.json": json.dumps(json.loads(files["model.json"]), indent=2).replace("\n", "\r\n").encode()}
    ),
    refused("changed"),
)


def _foreign_weights(files: dict[str, bytes]) -> dict[str, bytes]:
    """Checksums that are right over weights that are none."""
    weights = zipped({"archive/data.pkl": b"cos\nsystem\n(S'true'\ntR."})
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["weights.pt"] = hashlib.sha256(weights).hexdigest()
    return files | {"weights.pt": weights, "manifest.json": json.dumps(manifest).encode()}


model("model-foreign-weights", "weights that are a pickle of a command", _foreign_weights, refused("weights"))
model(
    "model-other-network",
    "a zip of nnU-Net results",
    lambda files: {"fold_0/checkpoint_final.pth": bytes(999), "dataset.json": b"{}", "plans.json": b"{}"},
    refused("not an exported|does not belong|manifest"),
)


def _given_as_model(
    slug: str, what: str, make: Callable[[Path, bytes], str], *right: Outcome, command=SEGMENT_MODEL
) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        (folder / "scans").mkdir()
        save_nifti(folder / "scans" / "T2.nii.gz", clean.scans[0])
        return Built({"scan": clean.grid(dice=0.97)}, given=(make(folder, clean.model),))

    hard(slug, MODELS, what, build, *right, command=command)


def _as_zip(folder: Path, archive: bytes) -> str:
    (folder / "X.zip").write_bytes(archive)
    return "in/X.zip"


def _as_folder(folder: Path, archive: bytes) -> str:
    place = folder / MODEL
    place.mkdir()
    for name, content in files_of(archive).items():
        (place / name).write_bytes(content)
    return f"in/{MODEL}"


def _as_weights(folder: Path, archive: bytes) -> str:
    _as_folder(folder, archive)
    return f"in/{MODEL}/weights.pt"


def _as_folder_above(folder: Path, archive: bytes) -> str:
    (folder / "models").mkdir()
    _as_folder(folder / "models", archive)
    return "in/models"


_FIRST = refused("import", exits=(2,))
_given_as_model("model-zip-given", "segment --model X.zip", _as_zip, _FIRST)
_given_as_model("model-folder-given", "segment --model with the unpacked folder", _as_folder, done(), _FIRST)
_given_as_model(
    "model-weights-given", "segment --model weights.pt", _as_weights, refused("weights|folder|version|model")
)
_given_as_model("model-folder-above-given", "segment --model with the folder above", _as_folder_above, refused("model"))
_given_as_model(
    "model-missing-given",
    "segment --model with a name that is not there",
    lambda folder, archive: "no-such",
    refused("no-such"),
)


def _evaluate_zip(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    for part in ("images", "labels"):
        (folder / part).mkdir()
        save_nifti(folder / part / "A.nii.gz", clean.scans[1] if part == "images" else clean.mask(1))
    (folder / "X.zip").write_bytes(clean.model)
    return Built(extra=("--model", "in/X.zip"))


hard("model-zip-evaluate", MODELS, "evaluate --model X.zip", _evaluate_zip, _FIRST, command=EVALUATE_MODEL)


def _evaluate_scans(folder: Path, clean: Clean) -> Built:
    """One sound case, one whose scan is called with %, one whose scan is cut."""
    for part in ("images", "labels"):
        (folder / part).mkdir()
        for name, number in (("A", 1), ("Z", 0)):
            save_nifti(
                folder / part / f"{name}.nii.gz", clean.scans[number] if part == "images" else clean.mask(number)
            )
        save_meta(folder / part / "M %d.mhd", clean.scans[2] if part == "images" else clean.mask(2))
    path = folder / "images" / "Z.nii.gz"
    path.write_bytes(path.read_bytes()[:9999])
    return Built({"A": clean.grid(1), "M %d": clean.grid(2)})


hard(
    "evaluate-model-hard-scans",
    BATCHES,
    "a model on a sound scan, one called M %d.mhd and one that is cut",
    _evaluate_scans,
    refused("truncated|damaged", done=("A", "M %d")),
    refused("truncated|damaged", PERCENT_SIGN, done=("A",)),
    command=EVALUATE_MODEL,
)

# Batches --------------------------------------------------------------------------------------------------------------


def _everything(folder: Path, clean: Clean) -> Built:
    """Sound scans first, in the middle and last; between them what is refused, one line each."""
    for name, number in (("A", 1), ("M", 2), ("Z", 0)):
        save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
    (folder / "C.nii.gz").write_bytes(b"")
    save_nifti(folder / "D.nii.gz", clean.scans[0], changes=[(80, "f", 0.0)], codes=(1, 0))
    (folder / "N.mhd").write_text("ObjectType = Image\nNDims = 3\nDimSize = 3 3 3\nElementDataFile = gone %d.raw\n")
    (folder / "P.nrrd").write_bytes(b"NRRD0005\ntype: int\n\n")
    (folder / "Q.mha").write_bytes(b"\xff" * 3000)
    return Built({"A": clean.grid(1), "M": clean.grid(2), "Z": clean.grid(0)})


_FIVE = refused("^error: C", "^error: D", "^error: N", "^error: P", "^error: Q", done=("A", "M", "Z"))
hard("batch-of-much", BATCHES, "three sound scans and five that cannot be read", _everything, _FIVE)
hard("batch-of-much-again", BATCHES, "the same, given twice into one output", _everything, _FIVE, runs=2)


def _percent_and_latin1(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_meta(folder / "B %d.mhd", clean.scans[0])
    save_nifti(folder / f"C{LATIN1}.nii.gz", clean.scans[0])
    save_nifti(folder / "Z.nii.gz", clean.scans[2])
    one = clean.grid(0)
    return Built({"A": clean.grid(1), "Z": clean.grid(2), "percent": one, "latin1": one})


_SOME = (
    done("A", "Z", "percent", "latin1"),
    refused(PERCENT_SIGN, done=("A", "Z", "latin1")),
    refused(FILE_NAME, done=("A", "Z", "percent")),
    refused(PERCENT_SIGN, FILE_NAME, done=("A", "Z")),
)
hard("batch-of-names", BATCHES, "B %d.mhd and CPr\\xfcfung.nii.gz between sound scans", _percent_and_latin1, *_SOME)
hard("batch-of-names-again", BATCHES, "the same, given twice into one output", _percent_and_latin1, *_SOME, runs=2)
hard("batch-of-names-process", BATCHES, "the same as a process", _percent_and_latin1, *_SOME, process=True)


def _import_much(folder: Path, clean: Clean) -> Built:
    for name, number in (("A", 1), ("Z", 2)):
        save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
        save_nifti(folder / f"{name}_mask.nii.gz", clean.mask(number))
    for name, content in (("C", b""), ("D", b"\xff" * 3000)):
        (folder / f"{name}.nii.gz").write_bytes(content)
        save_nifti(folder / f"{name}_mask.nii.gz", clean.mask(1))
    save_nifti(folder / "E.nii.gz", clean.scans[1])
    (folder / "E_mask.nii.gz").write_bytes(b"NRRD")
    return Built({"A": clean.case(1), "Z": clean.case(2)})


hard(
    "import-of-much",
    BATCHES,
    "two sound pairs and three that cannot be read",
    _import_much,
    refused("C\\b", "D\\b", "E", done=("A", "Z")),
    command=IMPORT,
)

# Ended ----------------------------------------------------------------------------------------------------------------


def _several(folder: Path, clean: Clean) -> Built:
    for number in range(6):
        save_nifti(folder / f"P{number}.nii.gz", clean.scans[number % 3])
    return Built({str(number): clean.grid(number % 3) for number in range(6)})


# What was kept, and that a rerun goes on: 1 as for a run that left cases undone, or the shell's own 128 + signal.
for _signal, _codes in ((signal.SIGINT, (1, 130)), (signal.SIGTERM, (1, 143))):
    hard(
        f"ended-by-{_signal.name.lower()}",
        ENDED,
        f"{_signal.name} after the first of six scans, then the same command again",
        _several,
        done(*map(str, range(6)), says=("unchanged",)),
        runs=2,
        interrupt=_signal,
        interrupted=Outcome(_codes, refusals=("stopped|kept|continue|again",)),
    )
# Nothing can be said then; the next run must find whole files and go on.
hard(
    "ended-by-sigkill",
    ENDED,
    "SIGKILL after the first of six scans, then the same command again",
    _several,
    done(*map(str, range(6)), says=("unchanged",)),
    runs=2,
    interrupt=signal.SIGKILL,
)
