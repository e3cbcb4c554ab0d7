"""Voxels that are no scan's, types and dimensions that few expect, and files that are damaged or something else."""

from __future__ import annotations

import bz2
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hard_inputs_dicom import save_series, series_of
from hard_inputs_expected import EVALUATE, IMPORT, Built, Clean, Grid, Outcome, done, hard, refused
from hard_inputs_files import (
    Volume,
    meta_header,
    nifti_header,
    nrrd_header,
    packed,
    save_meta,
    save_nifti,
    save_nrrd,
)

GRAY, TYPES, DIMENSIONS, DAMAGED, FOREIGN = (
    "voxel values",
    "voxel types",
    "dimensions",
    "truncated and bit-flipped files",
    "other files under an image's name",
)


def voxels(
    slug: str, row: str, what: str, change: Callable[[np.ndarray], np.ndarray], *right: Outcome, dice=0.99, **how
):
    """The sample with its voxels changed, as one NIfTI file; the mask on the grid of its first three dimensions."""

    def build(folder: Path, clean: Clean) -> Built:
        scan = clean.scans[0]
        changed = change(scan.voxels)
        save_nifti(folder / "T2.nii.gz", scan.with_voxels(changed), **how)
        return Built({"scan": clean.grid(dice=dice)})

    hard(slug, row, what, build, *(right or (done(),)))


def _with(index, value, kind="f4") -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x = x.astype(kind)
        x[index] = value
        return x

    return change


_CORNER = (slice(0, 40), slice(0, 40))
_NUMBERS = refused("not numbers|NaN|infinite")
voxels("nan-one", GRAY, "one voxel is NaN", _with((5, 5, 5), np.nan), _NUMBERS, done(says=("NaN|not numbers",)))
voxels("nan-corner", GRAY, "NaN outside the body", _with(_CORNER, np.nan), _NUMBERS, done(says=("NaN|not numbers",)))
voxels("nan-all", GRAY, "NaN everywhere", _with(..., np.nan), _NUMBERS)
voxels("inf-one", GRAY, "one voxel is infinite", _with((190, 190, 9), np.inf), _NUMBERS)
voxels("minus-inf-corner", GRAY, "minus infinity outside", _with(_CORNER, -np.inf), _NUMBERS)
voxels("constant-zero", GRAY, "zeros everywhere", np.zeros_like, refused("constant"))
voxels("constant-float", GRAY, "7.5 everywhere", _with(..., 7.5), refused("constant"))
voxels(
    "two-values", GRAY, "a labelmap as scan", lambda x: (x > 300).astype(np.int16), refused("labelmap|different values")
)
voxels("huge-one", GRAY, "one voxel of 3e38", _with((5, 5, 5), 3e38), done(), refused("value"))
voxels(
    "huge-all",
    GRAY,
    "all values times 1e30",
    lambda x: x.astype(np.float32) * np.float32(1e30),
    done(),
    refused("value"),
)
voxels("huge-double", GRAY, "all values times 1e300", lambda x: x.astype(np.float64) * 1e300, done(), refused("value"))
voxels(
    "tiny-all",
    GRAY,
    "all values times 1e-30",
    lambda x: x.astype(np.float32) * np.float32(1e-30),
    done(),
    refused("value"),
)
voxels("from-0-to-1", GRAY, "values from 0 to 1", lambda x: (x / 1118).astype(np.float32))
voxels(
    "around-0",
    GRAY,
    "normalized to mean 0 and standard deviation 1",
    lambda x: ((x - x.mean()) / x.std()).astype("f4"),
    dice=0.97,
)
voxels(
    "minus-1000",
    GRAY,
    "all values less 1000, padding too",
    lambda x: (x - 1000).astype(np.int16),
    done(),
    refused("CT"),
)
voxels("padding-negative", GRAY, "padding of -2000 outside", _with(_CORNER, -2000, "i2"), done())
voxels("spike", GRAY, "one voxel of 32767", _with((5, 5, 5), 32767, "i2"), done())
voxels("eight-bits", GRAY, "windowed to 8 bits", lambda x: (x.clip(0, 636) * 0.4).astype(np.uint8), dice=0.97)
voxels(
    "slices-of-zeros", GRAY, "the last slice is zero", _with((slice(None), slice(None), 18), 0, "i2"), done(), dice=0.93
)
voxels("interpolated-negative", GRAY, "slightly negative values, as splines leave them", lambda x: x.astype("f4") - 3.7)

for _kind in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
    _fits = {"u1": lambda x: x / 1118 * 255, "i1": lambda x: x / 1118 * 127}.get(_kind, lambda x: x)
    voxels(
        f"type-{_kind}",
        TYPES,
        f"voxels of numpy's type {_kind}",
        lambda x, kind=_kind, fits=_fits: np.round(fits(x)).astype(kind),
        dice=0.97 if _kind in ("u1", "i1") else 0.99,
    )
voxels(
    "type-u8-large",
    TYPES,
    "uint64 with an offset of 2**60",
    lambda x: x.astype("u8") * 2**40 + 2**60,
    done(),
    refused("value"),
    dice=0.97,
)
_COMPLEX = refused("complex")
voxels("type-complex", TYPES, "complex voxels", lambda x: x.astype(np.complex64), _COMPLEX)
_COLOR = refused("colou?r|values in each voxel|RGB")
voxels(
    "type-rgb",
    TYPES,
    "RGB voxels",
    lambda x: np.tile((x // 5).astype("u1"), (3, 1, 1)),
    _COLOR,
    kind=128,
    bits=24,
    changes=[(42, "h", 384)],
)
voxels(
    "type-rgba",
    TYPES,
    "RGBA voxels",
    lambda x: np.tile((x // 5).astype("u1"), (4, 1, 1)),
    _COLOR,
    kind=2304,
    bits=32,
    changes=[(42, "h", 384)],
)
_TYPE = refused("type|not a readable|bit|format")
voxels(
    "type-float128",
    TYPES,
    "voxels of 128 bits",
    lambda x: np.repeat(x.astype("f8"), 2, axis=0),
    _TYPE,
    kind=1536,
    bits=128,
    changes=[(42, "h", 384)],
)
voxels(
    "type-bits",
    TYPES,
    "voxels of one bit",
    lambda x: (x > 300).astype("u1"),
    _TYPE,
    refused("labelmap|constant|truncated"),
    kind=1,
    bits=1,
)
voxels("type-unknown", TYPES, "a type that does not exist", lambda x: x, _TYPE, kind=77)
# bitpix and datatype disagree: which is right, nobody knows, and the sizes below would all fit int16.
voxels(
    "type-contradicts",
    TYPES,
    "datatype int16 with 8 bits",
    lambda x: x,
    done(),
    refused("bit|type|truncated|readable"),
    bits=8,
)

for _suffix, _endian in (("nrrd", ">"), ("mha", ">"), ("mhd", ">")):

    def _big(folder: Path, clean: Clean, suffix=_suffix) -> None:
        scan = clean.scans[0].with_voxels(clean.scans[0].voxels.astype(">i2"))
        save = save_nrrd if suffix == "nrrd" else save_meta
        save(folder / f"T2.{suffix}", scan)

    hard(f"big-endian-{_suffix}", TYPES, f"a big-endian .{_suffix}", _big, done())


def _nrrd_text(folder: Path, clean: Clean) -> Built:
    part = clean.scans[0].cropped((slice(64, 320), slice(64, 320), slice(0, 19)))
    text = " ".join(map(str, part.voxels.ravel(order="F"))) + "\n"
    (folder / "T2.nrrd").write_text(nrrd_header(part, {"encoding": "ascii", "endian": ""}) + "\n" + text)
    return Built({"scan": Grid(clean.glands[0][64:320, 64:320], part.affine, dice=0.97)})


hard("nrrd-ascii", TYPES, "an NRRD file whose voxels are text", _nrrd_text, done())


def _nrrd_bz2(folder: Path, clean: Clean) -> None:
    scan = clean.scans[0]
    content = nrrd_header(scan, {"encoding": "bzip2"}).encode() + b"\n" + bz2.compress(scan.voxels.tobytes(order="F"))
    (folder / "T2.nrrd").write_bytes(content)


hard("nrrd-bzip2", TYPES, "an NRRD file compressed by bzip2", _nrrd_bz2, done(), refused("bzip2|encoding|compress"))


def _nrrd(slug: str, what: str, extra: dict, *right: Outcome, grid=None) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        save_nrrd(folder / "T2.nrrd", clean.scans[0], extra)
        return Built({"scan": grid(clean) if grid else clean.grid()})

    hard(slug, TYPES, what, build, *(right or (done(),)))


def _ras_header(scan: Volume) -> dict[str, str]:
    flipped = np.diag([-1, -1, 1, 1]) @ scan.affine
    vectors = [f"({','.join(format(x, '.17g') for x in flipped[:3, axis])})" for axis in range(4)]
    return {"space": "right-anterior-superior", "space directions": " ".join(vectors[:3]), "space origin": vectors[3]}


def _nrrd_ras(folder: Path, clean: Clean) -> None:
    save_nrrd(folder / "T2.nrrd", clean.scans[0], _ras_header(clean.scans[0]))


hard("nrrd-ras", TYPES, "an NRRD file in RAS", _nrrd_ras, done())
# That the field of view is odd, which follows from a spacing of 1 mm that nobody gave, is not the cause.
_UNKNOWN = refused(
    r"(no|without|missing) (a )?(voxel |slice )?spacing|spacing (is |of .* )?(missing|unknown)|ElementSpacing"
)
_NOWHERE = (done(says=("orientation|left and right|space|position",)), refused("orientation|space|direction|spacing"))
_ANYWHERE = lambda clean: Grid(clean.glands[0], None)  # noqa: E731
_nrrd(
    "nrrd-without-space",
    "an NRRD file with spacings alone, no space",
    {"space": "", "space directions": "", "space origin": "", "spacings": "0.5 0.5 3"},
    *_NOWHERE,
    grid=_ANYWHERE,
)
_nrrd(
    "nrrd-without-spacing",
    "an NRRD file without space and spacings",
    {"space": "", "space directions": "", "space origin": ""},
    _UNKNOWN,
)
_nrrd(
    "nrrd-direction-zero",
    "a space direction of zeros",
    {"space directions": "(0.5,0,0) (0,0.5,0) (0,0,0)"},
    refused("spacing|direction"),
)
_nrrd(
    "nrrd-direction-nan",
    "a space direction of NaN",
    {"space directions": "(0.5,0,0) (0,nan,0) (0,0,3)"},
    refused("spacing|direction|numbers"),
)
_nrrd("nrrd-crlf", "a comment with CR in its header", {"content": "T2\r"}, done())


def _meta(slug: str, what: str, extra: dict, *right: Outcome) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        save_meta(folder / "T2.mha", clean.scans[0], extra=extra)
        return Built({"scan": clean.grid()})

    hard(slug, TYPES, what, build, *right)


_STEP = refused("spacing|voxel size")
_meta("mha-spacing-missing", "a MetaImage without ElementSpacing", {"ElementSpacing": ""}, _UNKNOWN)
_meta("mha-spacing-zero", "a MetaImage with a spacing of 0", {"ElementSpacing": "0.5 0.5 0"}, _STEP)
_meta(
    "mha-spacing-comma", "a MetaImage with decimal commas", {"ElementSpacing": "0,5 0,5 3,0"}, _STEP, refused("comma")
)
_meta("mha-spacing-nan", "a MetaImage with a spacing of NaN", {"ElementSpacing": "nan nan 3"}, _STEP)
_meta(
    "mha-matrix-zero",
    "a TransformMatrix of zeros",
    {"TransformMatrix": "0 0 0 0 0 0 0 0 0"},
    refused("direction|axes|matrix|orthogonal"),
)
_meta("mha-comment", "a comment with umlauts", {"Comment": "Prüfung äöü"}, done())


def _mha_compressed(folder: Path, clean: Clean) -> None:
    save_meta(folder / "T2.mha", clean.scans[0], compress=True)


hard("mha-compressed", TYPES, "a compressed MetaImage", _mha_compressed, done())


def _mha_compressed_no_size(folder: Path, clean: Clean) -> None:
    scan = clean.scans[0]
    header = meta_header(scan, "LOCAL", {"CompressedData": "True"}).encode()
    (folder / "T2.mha").write_bytes(header + zlib.compress(scan.voxels.tobytes(order="F"), 1))


hard("mha-compressed-without-size", TYPES, "compressed without CompressedDataSize", _mha_compressed_no_size, done())

# Dimensions ----------------------------------------------------------------------------------------------------------

_THREE = refused("dimension|volumes|4D|5D|time")
voxels("dims-2d", DIMENSIONS, "one slice, two dimensions", lambda x: x[:, :, 9], refused("slice"))
voxels("dims-one-slice", DIMENSIONS, "one slice, three dimensions", lambda x: x[:, :, 9:10], refused("slice"))
voxels("dims-one-row", DIMENSIONS, "one column of voxels", lambda x: x[190:191], refused("voxels|slice|field of view"))
voxels("dims-4d-one", DIMENSIONS, "four dimensions, one volume", lambda x: x[..., None])
voxels("dims-4d-two", DIMENSIONS, "two volumes", lambda x: np.stack([x, x // 2], -1), _THREE)
voxels("dims-4d-many", DIMENSIONS, "twelve volumes", lambda x: np.stack([x] * 12, -1), _THREE)
voxels("dims-5d-one", DIMENSIONS, "five dimensions, one volume", lambda x: x[..., None, None], done(), _THREE)
voxels(
    "dims-5d-vector",
    DIMENSIONS,
    "a vector in each voxel",
    lambda x: np.stack([x] * 3, -1)[:, :, :, None],
    _THREE,
    refused("values in each voxel"),
)
voxels("dims-7d", DIMENSIONS, "seven dimensions, one volume", lambda x: x.reshape(*x.shape, 1, 1, 1, 1), done(), _THREE)
voxels(
    "dims-zero",
    DIMENSIONS,
    "dim[3] is 0",
    lambda x: x,
    refused("empty|slice|dimension|header|readable"),
    changes=[(46, "h", 0)],
)
voxels(
    "dims-negative",
    DIMENSIONS,
    "dim[1] is -384",
    lambda x: x,
    refused("dimension|header|readable|empty|size|truncated"),
    changes=[(42, "h", -384)],
)
voxels(
    "dims-none", DIMENSIONS, "dim[0] is 0", lambda x: x, refused("dimension|header|readable"), changes=[(40, "h", 0)]
)
voxels(
    "dims-nine", DIMENSIONS, "dim[0] is 9", lambda x: x, refused("dimension|header|readable"), changes=[(40, "h", 9)]
)
voxels(
    "dims-more-than-there",
    DIMENSIONS,
    "the header promises 400 slices",
    lambda x: x,
    refused("truncated"),
    changes=[(46, "h", 400)],
)
voxels(
    "dims-fewer-than-there",
    DIMENSIONS,
    "the file is longer than its header says",
    lambda x: np.concatenate([x, x], 2),
    done(),
    refused("longer|more|size|bytes"),
    changes=[(46, "h", 19)],
)


def _vector_mha(folder: Path, clean: Clean) -> None:
    scan = clean.scans[0]
    header = meta_header(scan, "LOCAL", {"ElementNumberOfChannels": "3"}).encode()
    (folder / "T2.mha").write_bytes(header + np.repeat(scan.voxels.ravel(order="F"), 3).tobytes())


hard("dims-mha-channels", DIMENSIONS, "a MetaImage of three channels", _vector_mha, _COLOR)


def _vector_nrrd(folder: Path, clean: Clean) -> None:
    save_nrrd(
        folder / "T2.nrrd",
        clean.scans[0].with_voxels(np.stack([clean.scans[0].voxels] * 3)),
        {"kinds": "vector domain domain domain"},
    )


hard("dims-nrrd-vector", DIMENSIONS, "an NRRD file of vectors", _vector_nrrd, _COLOR)


def _sparse(slug: str, what: str, size: str, number_of_bytes: int, reason: str) -> None:
    """A file with a hole: it takes no room on the disk and is whole by its length."""

    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "A.nii.gz", clean.scans[1])
        header = meta_header(clean.scans[0], "T2.raw", {"DimSize": size})
        (folder / "T2.mhd").write_text(header, newline="\n")
        (folder / "T2.raw").touch()
        os.truncate(folder / "T2.raw", number_of_bytes)
        return Built({"before": clean.grid(1)})

    hard(slug, DIMENSIONS, what, build, refused(reason, done=("before",)))


_TOO_LARGE = "memory|too large|too many|field of view"  # they are all there, and not damaged
_sparse("dims-memory", "13 GB of zeros: too much to read", "20000 20000 16", 20000 * 20000 * 16 * 2, _TOO_LARGE)
_sparse("dims-overflow", "a size whose product passes 2**64", "4000000000 4000000000 4", 1000, "large|many|truncated")

# Damaged -------------------------------------------------------------------------------------------------------------


def _write(path: Path, scan: Volume) -> None:
    name = path.name
    if name == "T2.raw.nrrd":
        save_nrrd(path, scan, {"encoding": "raw"})
    elif name.endswith("nrrd"):
        save_nrrd(path, scan)
    elif name.endswith("z.mha"):
        save_meta(path, scan, compress=True)
    elif name.endswith((".mha", ".mhd")):
        save_meta(path, scan)
    else:
        save_nifti(path, scan)


def damaged(slug: str, what: str, name: str, damage: Callable[[bytes], bytes], target: str = "") -> None:
    """A damaged file between two sound ones."""

    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "A.nii.gz", clean.scans[1])
        save_nifti(folder / "Z.nii.gz", clean.scans[2])
        _write(folder / name, clean.scans[0])
        path = folder / (target or name)
        path.write_bytes(damage(path.read_bytes()))
        return Built({"before": clean.grid(1), "after": clean.grid(2)})

    hard(
        slug,
        DAMAGED,
        what,
        build,
        refused(
            "truncated|damaged|empty|not a readable|missing|header|not all there|voxels in plane",
            done=("before", "after"),
        ),
    )


def _flipped(content: bytes, share: float) -> bytes:
    place = int(len(content) * share)
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


FORMATS = ("T2.nii", "T2.nii.gz", "T2.nrrd", "T2.raw.nrrd", "T2.mha", "T2z.mha")
for _name in FORMATS:
    _slug = _name[2:].strip(".").replace(".", "-")
    damaged(f"cut-ten-{_slug}", f"the first ten bytes of {_name}", _name, lambda content: content[:10])
    damaged(f"cut-300-{_slug}", f"the first 300 bytes of {_name}", _name, lambda content: content[:300])
    damaged(f"cut-half-{_slug}", f"the first half of {_name}", _name, lambda content: content[: len(content) // 2])
    damaged(f"cut-end-{_slug}", f"{_name} without its last ten bytes", _name, lambda content: content[:-10])
for _name in ("T2.nii.gz", "T2.nrrd", "T2z.mha"):
    _slug = _name[2:].strip(".").replace(".", "-")
    for _share in (0.3, 0.9):
        damaged(
            f"flipped-{_slug}-{_share}",
            f"a bit of {_name}'s compressed voxels",
            _name,
            lambda content, share=_share: _flipped(content, share),
        )
damaged("flipped-magic-nii", "a bit of T2.nii's magic", "T2.nii", lambda c: c[:344] + b"n+3\0" + c[348:])
damaged("flipped-size-nii", "sizeof_hdr is 349", "T2.nii", lambda c: b"\x5d\x01\0\0" + c[4:])
damaged("flipped-magic-nrrd", "NRXD for NRRD", "T2.nrrd", lambda c: b"NRXD" + c[4:])
damaged("flipped-sizes-nrrd", "sizes: 3x4", "T2.raw.nrrd", lambda c: c.replace(b"sizes: 384", b"sizes: 3x4", 1))
damaged("flipped-type-mha", "MET_SHOXT", "T2.mha", lambda c: c.replace(b"MET_SHORT", b"MET_SHOXT", 1))
damaged("flipped-dims-mha", "NDims = 9", "T2.mha", lambda c: c.replace(b"NDims = 3", b"NDims = 9", 1))
damaged(
    "cut-raw-of-mhd", "half of the .raw of an .mhd", "T2.mhd", lambda content: content[: len(content) // 2], "T2.raw"
)
damaged("empty-raw-of-mhd", "an empty .raw beside an .mhd", "T2.mhd", lambda content: b"", "T2.raw")
damaged("no-data-line-mhd", "an .mhd without ElementDataFile", "T2.mhd", lambda c: c[: c.index(b"ElementDataFile")])
damaged("zeros-nii", "T2.nii is zeros, as after a crash", "T2.nii", lambda content: bytes(len(content)))

# Other files ---------------------------------------------------------------------------------------------------------


def foreign(slug: str, what: str, name: str, content: Callable[[Clean], bytes], *right: Outcome) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "A.nii.gz", clean.scans[1])
        (folder / name).write_bytes(content(clean))
        return Built({"before": clean.grid(1), "scan": clean.grid()})

    hard(slug, FOREIGN, what, build, *right)


_NONE = refused("not a readable|damaged|truncated|not a|is a|empty|compressed|download", done=("before",))
foreign("empty-nii-gz", "an empty T2.nii.gz", "T2.nii.gz", lambda clean: b"", _NONE)
foreign("empty-mhd", "an empty T2.mhd", "T2.mhd", lambda clean: b"", _NONE)
foreign(
    "html",
    "an HTML page (an archive's error) called T2.nii.gz",
    "T2.nii.gz",
    lambda clean: b"<!DOCTYPE html>" * 9,
    _NONE,
)
foreign("html-nrrd", "an HTML page called T2.nrrd", "T2.nrrd", lambda clean: b"<!DOCTYPE html>" * 9, _NONE)
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
foreign("lfs-pointer", "a Git LFS pointer called T2.nii.gz", "T2.nii.gz", lambda clean: _LFS, _NONE)
foreign("lfs-pointer-mha", "a Git LFS pointer called T2.mha", "T2.mha", lambda clean: _LFS, _NONE)
foreign("zip", "a .zip called T2.nii.gz", "T2.nii.gz", lambda clean: b"PK\3\4" + bytes(999), _NONE)
foreign("bzip2", "a bzip2 file called T2.nii.gz", "T2.nii.gz", lambda clean: bz2.compress(bytes(999)), _NONE)
foreign("gz-of-text", "a compressed text called T2.nii.gz", "T2.nii.gz", lambda clean: packed(b"no scan" * 99), _NONE)


def _nrrd_content(clean: Clean) -> bytes:
    scan = clean.scans[0]
    return nrrd_header(scan).encode() + b"\n" + packed(scan.voxels.tobytes(order="F"))


def _nifti_content(clean: Clean) -> bytes:
    return bytes(nifti_header(clean.scans[0])) + clean.scans[0].voxels.tobytes(order="F")


# Whether a reader goes by the name or the content is its own affair; no wrong mask, no wrong word.
_EITHER = (done("before", "scan"), _NONE)
foreign("nrrd-called-nii", "an NRRD file called T2.nii", "T2.nii", _nrrd_content, *_EITHER)
foreign("nifti-called-nrrd", "a NIfTI file called T2.nrrd", "T2.nrrd", _nifti_content, *_EITHER)
foreign("nifti-called-mha", "a NIfTI file called T2.mha", "T2.mha", _nifti_content, *_EITHER)


def _dicom_called_nii(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_series(series_of(clean.scans[0])[:1], folder, ["T2.nii"])
    return Built({"before": clean.grid(1)})


hard("dicom-called-nii", FOREIGN, "a DICOM slice called T2.nii", _dicom_called_nii, _NONE)


def _damaged_pair(folder: Path, clean: Clean) -> Built:
    for name, number in (("A", 1), ("B", 2)):
        save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
        save_nifti(folder / f"{name}_mask.nii.gz", clean.mask(number))
    path = folder / "B_mask.nii.gz"
    path.write_bytes(path.read_bytes()[:900])
    return Built({"before": clean.case(1)})


hard(
    "import-cut-mask",
    DAMAGED,
    "a truncated mask beside a sound pair",
    _damaged_pair,
    refused("truncated|damaged", done=("before",)),
    command=IMPORT,
)


def _damaged_prediction(folder: Path, clean: Clean) -> Built:
    for part in ("predictions", "references"):
        (folder / part).mkdir()
        for name, number in (("A", 1), ("B", 2)):
            save_nrrd(folder / part / f"{name}.nrrd", clean.mask(number))
    path = folder / "predictions" / "B.nrrd"
    path.write_bytes(path.read_bytes()[:-99])
    return Built({"A": clean.grid(1)})


hard(
    "evaluate-cut-mask",
    DAMAGED,
    "a truncated prediction beside a sound one",
    _damaged_prediction,
    refused("truncated|damaged", done=("A",)),
    command=EVALUATE,
)
