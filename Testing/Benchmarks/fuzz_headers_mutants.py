"""Small files of every format whose headers are spoiled, the same ones again for the same seed and number."""

from __future__ import annotations

import gzip
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from hard_inputs_dicom import frames_of, save_series, series_of
from hard_inputs_files import Volume, packed, sample, save_meta, save_nifti, save_nrrd
from pydicom import uid

Files = dict[str, bytes]
Change = Callable[[bytes, np.random.Generator], bytes]

# The untouched files -------------------------------------------------------------------------------------------------


@cache
def scan() -> Volume:
    """A part of the bundled scan, 40 x 48 x 16 voxels of 2.5 x 2 x 3 mm, oblique."""
    part = sample().cropped((slice(92, 292), slice(96, 288), slice(2, 18)))
    affine = part.affine.copy()
    affine[:3, :2] *= (5, 4)
    return Volume(np.ascontiguousarray(part.voxels[::5, ::4]), affine)


def _gland() -> Volume:
    labels = np.zeros(scan().voxels.shape, np.uint8)
    labels[12:28, 14:30, 4:12] = 2
    return scan().with_voxels(labels)


def _nrrd(name: str, volume: Volume, fields: dict | None = None, **how) -> Callable[[Path], None]:
    return lambda folder: save_nrrd(folder / name, volume, fields or {}, **how)


def _dicom(folder: Path, enhanced: bool = False) -> None:
    slices = series_of(scan())
    save_series(frames_of(slices, uid.EnhancedMRImageStorage) if enhanced else slices, folder)


def _compressed_mhd(folder: Path) -> None:
    save_meta(folder / "T2.mhd", scan(), data="T2.zraw", compress=True)


def _pair(folder: Path) -> None:
    save_nifti(folder / "T2.hdr", scan(), pair=True, compress=False)
    content = (folder / "T2.hdr").read_bytes()
    (folder / "T2.hdr").write_bytes(content[:348])
    (folder / "T2.img").write_bytes(content[348:])


_SEGMENT = {"Segment0_Name": "Prostate", "Segment0_LabelValue": "2", "Segment0_Layer": "0"}
_RAW = {"encoding": "raw", "byte skip": "0", "line skip": "0"}
_META = {"HeaderSize": "0", "CenterOfRotation": "0 0 0", "AnatomicalOrientation": "LPS"}
SEEDS: dict[str, Callable[[Path], None]] = {
    "nrrd": _nrrd("T2.nrrd", scan()),
    "nhdr + raw": _nrrd("T2.nhdr", scan(), _RAW, data="T2.raw"),
    "mha": lambda folder: save_meta(folder / "T2.mha", scan(), extra=_META),
    "mhd + raw": lambda folder: save_meta(folder / "T2.mhd", scan(), extra=_META),
    "mhd + zraw": _compressed_mhd,
    "nii": lambda folder: save_nifti(folder / "T2.nii", scan(), scale=(1, 0)),
    "nii.gz": lambda folder: save_nifti(folder / "T2.nii.gz", scan(), codes=(1, 0)),
    "hdr + img": _pair,
    "NIfTI-2": lambda folder: save_nifti(folder / "T2.nii", scan(), version=2),
    "DICOM series": _dicom,
    "enhanced MR": partial(_dicom, enhanced=True),
    "seg.nrrd": _nrrd("T2.seg.nrrd", _gland(), keys=_SEGMENT),
}
FORMATS = tuple(SEEDS)


@cache
def untouched(kind: str) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        SEEDS[kind](Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


# Mutants -------------------------------------------------------------------------------------------------------------

_ODD = [
    b"0", b"-1", b"1", b"2", b"4", b"65536", b"2147483648", b"4294967296", b"18446744073709551616", b"1e308", b"1e-308",
    b"1e20", b"1e6", b"nan", b"inf", b"-inf", b"0x10", b"1,5", b"3.", b"", b"text", b"\xff\xfe", b"%d", b"%n%s",
    b"-0.0", b"1 1", b"\0", b"9" * 400, b"True", b"None",
]  # fmt: skip
_NAMES = [
    b"%d.raw", b"%01d.raw 1 1 1", b"%s%s%n.raw", b"../T2.raw", b"./T2.raw", b"T2.raw ", b"/dev/zero", b"/dev/urandom",
    b"/dev/stdin", b"LIST", b"LIST 3", b"1.raw", b"T2\0.raw", b"T2\xfc.raw", b"T2.mhd", b"T2.nhdr", b"T2.mha", b"",
    b"LOCAL", b"local", b".", b"..\\T2.raw", b"C:\\T2.raw", b"'T2.raw'", b"$HOME/T2.raw", b"`ls`", b"*.raw", b"T2.zraw",
    b"x" * 5000, b"T2.raw\tT2.raw", b"http://localhost/T2.raw", b"skiplist",
]  # fmt: skip
_NUMBER = re.compile(rb"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?")
_NIFTI_1 = [(0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h")]
_NIFTI_1 += [(place, "h") for place in range(40, 56, 2)] + [(place, "f") for place in range(76, 108, 4)]
_NIFTI_1 += [(place, "f") for place in range(256, 328, 4)] + [(place, "B") for place in (344, 348)]
_NIFTI_2 = [(0, "i"), (12, "h"), (14, "h"), (168, "q"), (344, "i"), (348, "i"), (500, "i")]
_NIFTI_2 += [(place, "q") for place in range(16, 80, 8)]
_NIFTI_2 += [(place, "d") for place in (*range(104, 168, 8), 176, 184, *range(352, 496, 8))]
_INTEGERS = [0, -1, 1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1536, 2304, 32767, -32768, 2**31 - 1]
_REALS = [0.0, -1.0, 1.0, 2.0, 0.5, 352.0, 544.0, 1e6, 1e38, -1e38, 1e-38, float("nan"), float("inf"), float("-inf")]
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF")


def _place(length: int, rng: np.random.Generator) -> int:
    return int(rng.integers(max(1, length)))


def _pick(values, rng: np.random.Generator):
    return values[_place(len(values), rng)]


def spoil_bytes(content: bytes, rng: np.random.Generator, header: int) -> bytes:
    """What happens to any file: flipped bits, bytes put in, taken out or zeroed, an end that is missing or too long."""
    if not content:
        return content
    what, start = _place(8, rng), _place(min(header, len(content)), rng)
    length = int(rng.choice([1, 2, 4, 16, 64]))
    garbage = rng.integers(0, 256, length, np.uint8).tobytes()
    if what < 3:
        spoiled = bytearray(content)
        for _ in range(what + 1):
            spoiled[_place(min(header, len(content)), rng)] ^= 1 << _place(8, rng)
        return bytes(spoiled)
    if what == 3:
        return content[:start] + garbage + content[start:]
    if what == 4:
        return content[:start] + content[start + length :]
    if what == 5:
        return content[:start] + bytes(length) + content[start + length :]
    if what == 6:
        return content[: _pick((start, _place(len(content), rng), len(content) - length), rng)]
    return content + garbage


def spoil_lines(content: bytes, rng: np.random.Generator, header: int) -> bytes:
    """A line of a header in text: its value or a number in it, its key, the line gone, twice, or elsewhere."""
    lines, rest = content[:header].splitlines(keepends=True), content[header:]
    if not lines:
        return content
    at, what = _place(len(lines), rng), _place(10, rng)
    key, sign, value = re.match(rb"([^:=]*)([:=]*)(.*)", lines[at], re.DOTALL).groups()
    numbers = list(_NUMBER.finditer(value))
    if what < 4 and numbers:
        number = _pick(numbers, rng)
        changed = b"%.6g" % (float(number[0]) * _pick((-1, 0.5, 0.9, 1.001, 1.1, 2), rng) + _pick((0, 0, 0.5, 1), rng))
        new = _pick((_pick(_ODD, rng), changed, _pick(numbers, rng)[0]), rng)
        lines[at] = key + sign + value[: number.start()] + new + value[number.end() :]
    elif what < 6:
        names = b"ile" in key and rng.random() < 0.9
        lines[at] = key + sign + b" " + _pick(_NAMES if names else _ODD, rng) + b"\n"
    elif what == 6:
        del lines[at]
    elif what == 7:
        lines.insert(_place(len(lines), rng), lines[at])
    elif what == 8:
        other = _place(len(lines), rng)
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = spoil_bytes(key, rng, len(key)) + sign + value if key else lines[at]
    return b"".join(lines) + rest


def spoil_fields(content: bytes, rng: np.random.Generator, fields: list[tuple[int, str]]) -> bytes:
    """A field of a NIfTI header."""
    place, form = _pick(fields, rng)
    if len(content) < place + struct.calcsize(form):
        return content
    old = struct.unpack_from("<" + form, content, place)[0]
    known, types = (_REALS, float) if form in "fd" else (_INTEGERS, int)
    near = (old + 1, old - 1, old * 2, -old, old * 1.05, old + 5)
    value = types(_pick(known, rng) if rng.random() < 0.5 or old != old or abs(old) > 1e37 else _pick(near, rng))
    if types is int:
        bits = 8 * struct.calcsize(form)
        value = value % (1 << bits)
        value -= (1 << bits) if form != "B" and value >> (bits - 1) else 0
    spoiled = bytearray(content)
    struct.pack_into("<" + form, spoiled, place, value)
    return bytes(spoiled)


def _elements(content: bytes) -> list[tuple[int, int, int]]:
    """Where the elements of an uncompressed DICOM file (explicit, little endian) start, have their value, and end."""
    found, at = [], 132
    while at + 8 <= len(content):
        long = content[at + 4 : at + 6] in _LONG
        start = at + (12 if long else 8)
        length = int.from_bytes(content[start - (4 if long else 2) : start], "little")
        found.append((at, start, start + length))
        at = start + length
    return found[:-1]  # all but the pixels


def spoil_elements(content: bytes, rng: np.random.Generator) -> bytes:
    """An element of a DICOM file: its value, its length, its type, or the element gone, twice, or elsewhere."""
    elements = _elements(content)
    if not elements:
        return content
    (at, start, end), what = _pick(elements, rng), _place(9, rng)
    head, value = content[at:start], content[start:end]
    numbers = list(_NUMBER.finditer(value))
    if what < 4:
        new = _pick(_ODD, rng)
        if numbers and what < 3:
            number = _pick(numbers, rng)
            near = b"%.6g" % (float(number[0]) * _pick((-1, 0.9, 1.01, 2), rng) + _pick((0, 0, 0.5), rng))
            new = value[: number.start()] + _pick((new, near), rng) + value[number.end() :]
        elif len(value) in (2, 4) and rng.random() < 0.7:
            new = int(_pick(_INTEGERS, rng) % 65536).to_bytes(2, "little") + value[2:]
        new += b" " * (len(new) % 2)
        size = 4 if head[4:6] in _LONG else 2
        head = head[:-size] + (len(new) % 65536).to_bytes(size, "little")
        return content[:at] + head + new + content[end:]
    if what == 4:
        return content[: start - 2] + rng.integers(0, 256, 2, np.uint8).tobytes() + content[start:]
    if what == 5:
        return content[:at] + content[end:]
    if what == 6:
        other = _pick(elements, rng)[0]
        return content[:other] + content[at:end] + content[other:]
    if what == 7:
        kind = _pick((b"DS", b"US", b"UN", b"SQ", b"FD", b"OB", b"??", b"LO"), rng)
        return content[: at + 4] + kind + content[at + 6 :]
    return spoil_bytes(content, rng, elements[-1][2])


def _spoil_packed(content: bytes, rng: np.random.Generator) -> bytes:
    """A compressed NIfTI file: in its header, or in the stream itself."""
    if rng.random() < 0.3:
        return spoil_bytes(content, rng, len(content))
    try:
        return packed(_spoil_nifti(gzip.decompress(content), rng))
    except (OSError, EOFError, zlib.error):
        return content


def _spoil_nifti(content: bytes, rng: np.random.Generator) -> bytes:
    fields = _NIFTI_2 if content[4:7] == b"n+2" else _NIFTI_1
    return spoil_fields(content, rng, fields) if rng.random() < 0.7 else spoil_bytes(content, rng, 352)


def _spoil_text(content: bytes, rng: np.random.Generator) -> bytes:
    """An NRRD file or a MetaImage, whose header ends at an empty line or behind the name of its voxels' file."""
    found = re.search(rb"\n\n|^ElementDataFile[^\n]*\n", content, re.MULTILINE)
    header = found.end() if found else len(content)
    return spoil_lines(content, rng, header) if rng.random() < 0.7 else spoil_bytes(content, rng, header)


def mutant(kind: str, seed: int, number: int) -> Files:
    """The files of a mutant; the same seed and number give the same ones."""
    rng = np.random.default_rng([seed, number])
    files = dict(untouched(kind))
    names = [name for name in files if not name.endswith((".raw", ".zraw", ".img"))]
    changes: dict[str, Change] = {"DICOM series": spoil_elements, "enhanced MR": spoil_elements}
    change = changes.get(kind, _spoil_text)
    change = {"nii": _spoil_nifti, "NIfTI-2": _spoil_nifti, "hdr + img": _spoil_nifti}.get(kind, change)
    change = _spoil_packed if kind == "nii.gz" else change
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        again = int(rng.integers(2**32))
        chosen = names if rng.random() < 0.5 else [_pick(names, rng)]
        for name in chosen:
            files[name] = change(files[name], np.random.default_rng(again))
    for name in set(files) - set(names):
        if rng.random() < 0.15:
            files[name] = spoil_bytes(files[name], rng, len(files[name]))
    if kind.endswith("raw"):
        files["1.raw"] = scan().voxels[::-1].tobytes(order="F")  # of somebody else, where a pattern would look
    return files
