"""Names of files and folders: patterns, other encodings, too long, quoted; and headers that name a second file."""

from __future__ import annotations

import os
from pathlib import Path

from hard_inputs_dicom import save_series, series_of
from hard_inputs_expected import EVALUATE, IMPORT, Built, Clean, Outcome, done, hard, refused
from hard_inputs_files import Volume, meta_header, nrrd_header, save_meta, save_nifti, save_nrrd

PATTERNS, LETTERS, LENGTH, SIGNS, SECOND = (
    "names: patterns",
    "names: not UTF-8",
    "names: too long",
    "names: signs",
    "files of two parts",
)
# A line that merely repeats a name with a percent sign in it does not say what is wrong with it.
PERCENT_SIGN = "percent|rename"
FILE_NAME = r"\bname|rename"
# The scan named here is the second of the run, so that voxels of the one read before would be found in its mask.
_PERCENT = (done("before", "scan"), refused(PERCENT_SIGN, done=("before",)))


def with_another(folder: Path, clean: Clean) -> Built:
    """A sound scan of another patient that is read first."""
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    return Built({"before": clean.grid(1), "scan": clean.grid()})


def save_as(path: Path, volume: Volume) -> None:
    """In the format that the name says."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        save_nifti(path, volume)
    elif name.endswith((".nrrd", ".nhdr")):
        save_nrrd(path, volume, data=path.stem + ".raw.gz" if name.endswith(".nhdr") else "")
    else:
        save_meta(path, volume)


def named(slug: str, kind: str, name: str, *right: Outcome, what: str = "", **how) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        built = with_another(folder, clean)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_as(path, clean.scans[0])
        return built

    hard(slug, kind, what or f"a scan called {name!a}", build, *right, **how)


for _slug, _stem in (
    ("blank-percent", "T2 77 % ax"),
    ("last", "T2 50%"),
    ("d", "T2 %d"),
    ("03d", "T2 %03d"),
    ("s", "T2 %s"),
    ("n", "T2 %n%n%n"),
    ("double", "T2 100%%"),
    ("several", "T2 %d of %d %s"),
    ("positional", "T2 %2$d"),
    ("star", "T2 %*d"),
    ("wide", "T2 %99999d"),
    ("url", "T2%20ax%2Fse"),
    ("alone", "%"),
):
    named(f"percent-{_slug}", PATTERNS, f"{_stem}.mhd", *_PERCENT, what=f"{_stem}.mhd with {_stem}.raw")
for _suffix in ("nii.gz", "nii", "nrrd", "mha", "nhdr"):
    named(f"percent-in-{_suffix.replace('.', '-')}", PATTERNS, f"T2 %d %s.{_suffix}", *_PERCENT)
named("percent-in-folder", PATTERNS, "50 % %d/T2.mhd", *_PERCENT)
named("percent-in-folder-nifti", PATTERNS, "50 % %d/T2.nii.gz", done("before", "scan"))


def _only(header: str, data: str):
    def build(folder: Path, clean: Clean) -> Built:
        save_meta(folder / header, clean.scans[0], data=data)
        return with_another(folder, clean)

    return build


hard("percent-header-only", PATTERNS, "T2 %d.mhd with T2.raw", _only("T2 %d.mhd", "T2.raw"), *_PERCENT)
hard("percent-data-only", PATTERNS, "T2.mhd with T2 %d.raw", _only("T2.mhd", "T2 %d.raw"), *_PERCENT)
hard("percent-data-twice", PATTERNS, "T2.mhd with T2 %d %d.raw", _only("T2.mhd", "T2 %d %d.raw"), *_PERCENT)


def _nhdr(data: str):
    def build(folder: Path, clean: Clean) -> Built:
        save_nrrd(folder / "T2.nhdr", clean.scans[0], {"encoding": "raw"}, data=data)
        return with_another(folder, clean)

    return build


hard("percent-nhdr-data", PATTERNS, "T2.nhdr with T2 %d.raw", _nhdr("T2 %d.raw"), *_PERCENT)
hard("percent-nhdr-data-last", PATTERNS, "T2.nhdr with T2 50%.raw", _nhdr("T2 50%.raw"), *_PERCENT)


def _percent_series(folder: Path, clean: Clean) -> Built:
    save_series(series_of(clean.scans[0]), folder / "100 % %d %s", [f"IM %d {index}.dcm" for index in range(19)])
    return with_another(folder, clean)


hard("percent-dicom", PATTERNS, "a DICOM series in a folder and files with %d", _percent_series, done("before", "scan"))


def _percent_pair(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_nifti(folder / "A_mask.nii.gz", clean.mask(1))
    save_meta(folder / "M 50 %.mhd", clean.scans[2])
    save_meta(folder / "M 50 %_mask.mhd", clean.mask(2))
    return Built({"before": clean.case(1), "scan": clean.case(2)})


hard("import-percent-pair", PATTERNS, "MetaImages with % after a sound pair", _percent_pair, *_PERCENT, command=IMPORT)


def _percent_masks(folder: Path, clean: Clean) -> Built:
    for part in ("predictions", "references"):
        (folder / part).mkdir()
        save_nifti(folder / part / "A.nii.gz", clean.mask(1))
        save_meta(folder / part / "M %d.mhd", clean.mask(0))
    return Built({"A": clean.grid(1), "M %d": clean.grid()})


hard(
    "evaluate-percent",
    PATTERNS,
    "masks called M %d.mhd to be compared, after a sound pair",
    _percent_masks,
    done("A", "M %d"),
    refused(PERCENT_SIGN, done=("A",)),
    command=EVALUATE,
)

# Not UTF-8 -----------------------------------------------------------------------------------------------------------

LATIN1, SHIFT_JIS, CP1251 = (os.fsdecode(name) for name in (b"Pr\xfcfung", b"\x91O\x97\xa7\x91B", b"\xcf\xf0\xee\xf1"))
_RENAME = (done("before", "scan"), refused(FILE_NAME, done=("before",)))
for _suffix in ("nii.gz", "nii", "nrrd", "nhdr", "mha", "mhd"):
    named(f"latin1-{_suffix.replace('.', '-')}", LETTERS, f"{LATIN1}.{_suffix}", *_RENAME)
named("latin1-nifti-process", LETTERS, f"{LATIN1}.nii.gz", *_RENAME, process=True, what="the same as a process")
named("shift-jis-nifti", LETTERS, f"{SHIFT_JIS}.nii.gz", *_RENAME)
named("cp1251-nrrd", LETTERS, f"{CP1251}.nrrd", *_RENAME)
named("latin1-folder", LETTERS, f"{LATIN1}/T2.nii.gz", *_RENAME)
named("latin1-twice", LETTERS, f"{LATIN1}.nii.gz", *_RENAME, runs=2, what="the same, given twice into one output")


def _latin1_series(folder: Path, clean: Clean) -> Built:
    save_series(series_of(clean.scans[0]), folder / LATIN1)
    return with_another(folder, clean)


hard("latin1-dicom-folder", LETTERS, "a DICOM series in a folder Pr\\xfcfung", _latin1_series, *_RENAME)


def _latin1_slices(folder: Path, clean: Clean) -> Built:
    save_series(series_of(clean.scans[0]), folder / "series", [f"{LATIN1}{index}.dcm" for index in range(19)])
    return with_another(folder, clean)


hard("latin1-dicom-files", LETTERS, "DICOM files Pr\\xfcfung0.dcm ...", _latin1_slices, *_RENAME)


def _latin1_neighbor(name: str):
    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "T2.nii.gz", clean.scans[0])
        (folder / name).write_bytes(b"x" * 100)
        return Built({"scan": clean.grid()})

    return build


_NEIGHBOR = (done(), refused("name|damaged|not a readable|truncated", done=("scan",)))
hard(
    "latin1-neighbor-seg",
    LETTERS,
    "beside the scan L\\xe4sion.seg.nrrd, which is skipped",
    _latin1_neighbor(os.fsdecode(b"L\xe4sion.seg.nrrd")),
    done(says=("seg",)),
)
hard(
    "latin1-neighbor-damaged",
    LETTERS,
    "beside the scan a damaged Pr\\xfcfung.nii.gz",
    _latin1_neighbor(LATIN1 + ".nii.gz"),
    *_NEIGHBOR,
)
hard("latin1-neighbor-text", LETTERS, "beside the scan Pr\\xfcfung.txt", _latin1_neighbor(LATIN1 + ".txt"), done())


def _latin1_given(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / f"{LATIN1}.nii.gz", clean.scans[0])
    return Built({"scan": clean.grid()}, given=(f"in/{LATIN1}.nii.gz",))


hard("latin1-argument", LETTERS, "the name itself is given", _latin1_given, done(), refused(FILE_NAME), process=True)


def _latin1_missing(folder: Path, clean: Clean) -> Built:
    return Built(given=(f"in/{LATIN1}.nii.gz",))


hard("latin1-argument-missing", LETTERS, "a name that does not exist", _latin1_missing, refused("exist"), process=True)


def _latin1_output(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    return Built({"scan": clean.grid()}, extra=("--output", f"{LATIN1}/out"))


# Its masks may lie in a folder of that name, where this judge does not look, or it is refused for its name.
hard(
    "latin1-output",
    LETTERS,
    "an output folder Pr\\xfcfung",
    _latin1_output,
    Outcome((0,)),
    refused(FILE_NAME),
    process=True,
)


def _latin1_pair(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_nifti(folder / "A_mask.nii.gz", clean.mask(1))
    save_nifti(folder / f"{LATIN1}.nii.gz", clean.scans[2])
    save_nifti(folder / f"{LATIN1}_mask.nii.gz", clean.mask(2))
    return Built({"before": clean.case(1), "scan": clean.case(2)})


hard("import-latin1-pair", LETTERS, "a pair Pr\\xfcfung beside a sound one", _latin1_pair, *_RENAME, command=IMPORT)


def _latin1_import_folder(folder: Path, clean: Clean) -> Built:
    (folder / LATIN1).mkdir()
    save_nrrd(folder / LATIN1 / "A.nrrd", clean.scans[1])
    save_nrrd(folder / LATIN1 / "A.seg.nrrd", clean.mask(1))
    return Built({"scan": clean.case(1)})


hard(
    "import-latin1-folder",
    LETTERS,
    "a pair in a folder Pr\\xfcfung",
    _latin1_import_folder,
    done(),
    refused(FILE_NAME),
    command=IMPORT,
)


def _latin1_masks(folder: Path, clean: Clean) -> Built:
    for part in ("predictions", "references"):
        (folder / part).mkdir()
        save_nifti(folder / part / "A.nii.gz", clean.mask(1))
        save_nifti(folder / part / f"{LATIN1}.nii.gz", clean.mask(0))
    return Built({"A": clean.grid(1), "Pr\\xfcfung": clean.grid(0), "Pr�fung": clean.grid(0)})


hard(
    "evaluate-latin1",
    LETTERS,
    "masks Pr\\xfcfung.nii.gz to be compared, beside a sound pair",
    _latin1_masks,
    done("A", "Pr\\xfcfung"),
    done("A", "Pr�fung"),
    refused(FILE_NAME, done=("A",)),
    command=EVALUATE,
)

# Too long ------------------------------------------------------------------------------------------------------------

_LONG = (done("before", "scan"), refused("long", done=("before",)))
named("long-name", LENGTH, "x" * 248 + ".nii.gz", *_LONG, what="a file name of 255 letters")
named("long-name-letters", LENGTH, "ü" * 124 + ".nii.gz", *_LONG, what="a file name of 255 bytes in 131 letters")
named("long-name-mhd", LENGTH, "x" * 251 + ".mhd", *_LONG, what="an .mhd with a name of 255 letters")
named("long-folders", LENGTH, "/".join(["y" * 200] * 8) + "/T2.nii.gz", *_LONG, what="folders of 1 600 letters")


def _alike(folder: Path, clean: Clean) -> Built:
    for last, number in (("a", 0), ("b", 1)):
        save_nifti(folder / f"{'x' * 240}{last}.nii.gz", clean.scans[number])
    return Built({"one": clean.grid(0), "other": clean.grid(1)})


hard("long-names-alike", LENGTH, "two long names that differ in their last letter", _alike, done("one", "other"))


def _too_deep(folder: Path, clean: Clean) -> Built:
    """Deeper than a path may be long: made step by step."""
    built = with_another(folder, clean)
    here = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(21):
            os.mkdir("z" * 200)
            os.chdir("z" * 200)
        save_nifti(Path("T2.nii.gz"), clean.scans[0])
    finally:
        os.chdir(here)
    return built


hard("long-path", LENGTH, "a scan below a path of 4 200 letters", _too_deep, *_LONG, done("before", says=("long",)))
for _slug, _given in (
    ("name", "q" * 300 + ".nii.gz"),
    ("path", "/".join(["q" * 200] * 22)),
):
    hard(
        f"long-argument-{_slug}",
        LENGTH,
        "an argument longer than a name or path may be",
        lambda folder, clean, given=_given: Built(given=(given,)),
        refused("long|exist"),
    )


def _long_output(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    return Built(given=("in",), extra=("--output", "o" * 300))


hard("long-output", LENGTH, "an output folder with a name of 300 letters", _long_output, refused("long|cannot be"))

# Signs ---------------------------------------------------------------------------------------------------------------

_BOTH = done("before", "scan")
for _slug, _name in (
    ("quotes", "T2 \"best\" 'ax'.nii.gz"),
    ("newline", "T2\nax.nii.gz"),
    ("newline-error", "T2\nerror: all lost.nii.gz"),
    ("tab", "T2\tax.nii.gz"),
    ("escape", "T2\x1b[31mred.nii.gz"),
    ("bell", "T2\x07.nii.gz"),
    ("dash", "-T2.nii.gz"),
    ("dashes", "--output.nii.gz"),
    ("backslash", "T2\\ax.nii.gz"),
    ("shell", "T2;$(touch x)`touch y`&.nii.gz"),
    ("glob", "T2[1]*?.nii.gz"),
    ("braces", "{T2}{0}.nii.gz"),
    ("html", "<b>T2<script>.nii.gz"),
    ("formula", "=1+1.nii.gz"),
    ("emoji", "T2 🩻.nii.gz"),
    ("right-to-left", "T2 \u202egpj.nii.gz"),
    ("decomposed", "Pru\u0308fung.nii.gz"),
    ("blank-end", "T2 .nii.gz"),
    ("dot-end", "T2..nii.gz"),
    ("reserved", "CON.nii.gz"),
    ("upper-case", "T2.NII.GZ"),
    ("mixed-case", "T2.Nii.Gz"),
    ("twice-suffix", "T2.nii.gz.nii.gz"),
    ("only-underscores", "___.nii.gz"),
    ("quotes-mhd", "T2 \"best\" 'ax'.mhd"),
    ("blanks-mhd", "  T2  ax .mhd"),
    ("umlaut-mhd", "Prüfung.mhd"),
    ("japanese-nhdr", "前立腺.nhdr"),
    ("colon-mhd", "T2: ax = 1.mhd"),
):
    # A blank at either end of a MetaImage's data file is not kept by any reader of its header.
    _maybe = (refused("voxels|file|name|blank|beside", done=("before",)),) if _slug == "blanks-mhd" else ()
    named(f"sign-{_slug}", SIGNS, _name, _BOTH, *_maybe)


def _given_dash(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "-T2.nii.gz", clean.scans[0])
    return Built({"scan": clean.grid()}, given=("in/-T2.nii.gz",))


hard("sign-dash-given", SIGNS, "a file whose name begins with a dash is given", _given_dash, done())


def _case_twins(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    save_nifti(folder / "t2.nii.gz", clean.scans[1])
    return Built({"upper": clean.grid(0), "lower": clean.grid(1)})


hard("sign-case-twins", SIGNS, "T2.nii.gz beside t2.nii.gz", _case_twins, done("upper", "lower"))


def _suffix_twins(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    save_nifti(folder / "T2.nii", clean.scans[1])
    save_nrrd(folder / "T2.nrrd", clean.scans[2])
    return Built({str(number): clean.grid(number) for number in range(3)})


hard("sign-suffix-twins", SIGNS, "T2.nii.gz, T2.nii and T2.nrrd of three patients", _suffix_twins, done("0", "1", "2"))

# Headers that name another file --------------------------------------------------------------------------------------


def second(slug: str, what: str, named_in_header: str, data: str, *right: Outcome) -> None:
    """T2.mhd whose header calls its voxels so, and the file that they are really in."""

    def build(folder: Path, clean: Clean) -> Built:
        built = with_another(folder, clean)
        (folder / data).parent.mkdir(exist_ok=True)
        save_meta(folder / "T2.mhd", clean.scans[0], named=named_in_header, data=data)
        return built

    hard(slug, SECOND, what, build, *right)


_GONE = refused("missing|not beside|not there|does not exist", done=("before",))
_SLASH = refused("backslash", done=("before",))
_ELSEWHERE = refused("folder|beside|path|missing", done=("before",))
second("mhd-windows-here", ".\\Case00.raw", ".\\Case00.raw", "Case00.raw", _BOTH, _SLASH)
second("mhd-windows-folder", "raw\\Case00.raw in a subfolder", "raw\\Case00.raw", "raw/Case00.raw", _BOTH, _SLASH)
second("mhd-windows-drive", "C:\\data\\Case00.raw", "C:\\data\\Case00.raw", "Case00.raw", _BOTH, _SLASH, _ELSEWHERE)
second("mhd-absolute", "an absolute path that is gone", "/data/x/Case00.raw", "Case00.raw", _BOTH, _ELSEWHERE)
second("mhd-subfolder", "raw/Case00.raw in a subfolder", "raw/Case00.raw", "raw/Case00.raw", _BOTH)
second("mhd-parent", "../Case00.raw", "../in/Case00.raw", "Case00.raw", _BOTH, _ELSEWHERE)
second("mhd-quoted", 'the name in quotes: "Case00.raw"', '"Case00.raw"', "Case00.raw", _BOTH, _GONE)
second("mhd-case", "CASE00.RAW in the header, Case00.raw on disk", "CASE00.RAW", "Case00.raw", _BOTH, _GONE)
second("mhd-gone", "the voxels are not there", "Other.raw", "Case00.raw", _GONE)
second(
    "mhd-itself",
    "the header names itself",
    "T2.mhd",
    "Case00.raw",
    refused("itself|truncated|voxels|damaged", done=("before",)),
)
second("mhd-latin1-data", "a data file Pr\\xfcfung.raw", f"{LATIN1}.raw", f"{LATIN1}.raw", *_RENAME)
# A device has no end and no voxels of this scan.
_DEVICE = refused("device|no file|not a file|not beside|missing|regular", done=("before",))
second("mhd-zero", "the voxels are /dev/zero", "/dev/zero", "Case00.raw", _DEVICE)
second("mhd-random", "the voxels are /dev/urandom", "/dev/urandom", "Case00.raw", _DEVICE)
second("mhd-stdin", "the voxels are /dev/stdin", "/dev/stdin", "Case00.raw", _DEVICE)


def _nhdr_named(data: str, real: str = "T2.raw"):
    def build(folder: Path, clean: Clean) -> Built:
        built = with_another(folder, clean)
        header = nrrd_header(clean.scans[0], {"encoding": "raw", "data file": data})
        (folder / "T2.nhdr").write_text(header, newline="\n")
        (folder / real).write_bytes(clean.scans[0].voxels.tobytes(order="F"))
        return built

    return build


hard("nhdr-zero", SECOND, "an .nhdr whose voxels are /dev/zero", _nhdr_named("/dev/zero"), _DEVICE)
hard("nhdr-random", SECOND, "an .nhdr whose voxels are /dev/urandom", _nhdr_named("/dev/urandom"), _DEVICE)
hard("nhdr-gone", SECOND, "an .nhdr without its voxels", _nhdr_named("Other.raw"), _GONE)
hard("nhdr-windows", SECOND, "an .nhdr with .\\T2.raw", _nhdr_named(".\\T2.raw"), _BOTH, _SLASH)
hard("nhdr-sound", SECOND, "a sound .nhdr", _nhdr_named("T2.raw"), _BOTH)


def _slices(listed: str):
    def build(folder: Path, clean: Clean) -> Built:
        built = with_another(folder, clean)
        scan, names = clean.scans[0], [f"T2.{index:03d}.raw" for index in range(1, 20)]
        for index, name in enumerate(names):
            (folder / name).write_bytes(scan.voxels[:, :, index].tobytes(order="F"))
        if listed.startswith("nhdr"):
            value = "LIST 2\n" + "\n".join(names) if listed == "nhdr list" else "T2.%03d.raw 1 19 1 2"
            text = nrrd_header(scan, {"encoding": "raw"}) + f"data file: {value}\n"
            (folder / "T2.nhdr").write_text(text, newline="\n")
        else:
            value = "LIST\n" + "\n".join(names) if listed == "mhd list" else "T2.%03d.raw 1 19 1"
            (folder / "T2.mhd").write_text(meta_header(scan, value), newline="\n")
        return built

    return build


_EACH_SLICE = refused("list|pattern|several|one file|slice", done=("before",))
for _listed in ("mhd list", "mhd pattern", "nhdr list", "nhdr pattern"):
    _slug = _listed.replace(" ", "-")
    hard(f"{_slug}-of-slices", SECOND, f"a file for each slice ({_listed})", _slices(_listed), _BOTH, _EACH_SLICE)
