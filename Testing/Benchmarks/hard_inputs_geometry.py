"""Where the voxels lie: forms of NIfTI, slight rounding, planes, exams of several scans, and small fields of view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hard_inputs_dicom import save_series, series_of
from hard_inputs_expected import Built, Clean, Grid, Outcome, done, hard, refused
from hard_inputs_files import Volume, nifti_header, nifti_voxels, packed, save_meta, save_nifti, save_nrrd

FORMS, ROUNDED, PLANES, VIEW = "NIfTI: forms and variants", "rounded directions", "planes and exams", "field of view"


def nifti(slug: str, what: str, *right: Outcome, name: str = "T2.nii.gz", grid=None, kind: str = FORMS, **how) -> None:
    """The sample as one NIfTI file; see ``save_nifti``. Arguments that are functions are asked with the scan."""

    def build(folder: Path, clean: Clean) -> Built:
        scan = clean.scans[0]
        told = {key: value(scan) if callable(value) else value for key, value in how.items()}
        save_nifti(folder / name, scan, **told)
        return Built({"scan": grid(clean) if grid else clean.grid()})

    hard(slug, kind, what, build, *(right or (done(),)))


def turned(scan: Volume, degrees: float = 8, shift=(9, -6, 12)) -> np.ndarray:
    """The scan's affine after a registration: turned about the body's axis and moved (LPS mm)."""
    angle, moved = np.radians(degrees), np.eye(4)
    moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, 3] = shift
    return moved @ scan.affine


def anywhere(clean: Clean) -> Grid:
    return Grid(clean.glands[0], None)


for _q, _s in ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (3, 3), (4, 4), (0, 5)):
    nifti(f"forms-{_q}-{_s}", f"qform code {_q}, sform code {_s}, both the scanner's", codes=(_q, _s))
nifti(
    "forms-0-0",
    "qform and sform code 0: no orientation at all",
    done(says=("orientation|left and right|qform|sform",)),
    codes=(0, 0),
    grid=anywhere,
)
nifti(
    "forms-0-0-empty",
    "codes 0 and nothing but zeros in both forms",
    done(says=("orientation|left and right|qform|sform",)),
    codes=(0, 0),
    changes=[(256, "18f", *[0.0] * 18)],
    grid=anywhere,
)
# Which of the two places the mask has is free, where it is said that there are two.
_DISAGREE = done(says=("qform|sform|disagree|contradict",))


for _slug, _degrees, _shift in (
    ("8-degrees", 8, (9, -6, 12)),
    ("2-mm", 0, (2, 0, 0)),
    ("far", 0, (0, 0, 200)),
    ("flipped", 180, (0, 0, 0)),
):
    nifti(
        f"forms-disagree-{_slug}",
        f"the sform (code 2) lies elsewhere than the qform (code 1): {_degrees} degrees, {_shift} mm",
        _DISAGREE,
        codes=(1, 2),
        sform=lambda scan, degrees=_degrees, shift=_shift: turned(scan, degrees, shift),
        grid=anywhere,
    )
nifti(
    "forms-disagree-rounding",
    "the forms differ by 0.02 mm, as single precision leaves them",
    done(),
    codes=(1, 1),
    sform=lambda scan: turned(scan, 0, (0.02, 0, 0)),
)
nifti(
    "sform-zeros",
    "sform code 1 with a matrix of zeros",
    refused("affine|sform|numbers|spacing"),
    codes=(0, 1),
    changes=[(280, "12f", *[0.0] * 12)],
)
nifti(
    "sform-zeros-qform-good",
    "the same beside a good qform",
    done(says=("sform|affine",)),
    refused("sform|affine"),
    codes=(1, 1),
    changes=[(280, "12f", *[0.0] * 12)],
)
nifti(
    "sform-nan",
    "sform code 1 with NaN",
    refused("affine|sform|numbers"),
    codes=(1, 1),
    changes=[(280, "f", float("nan"))],
)
nifti(
    "quaternion-too-long",
    "a quaternion longer than 1",
    refused("qform|quaternion|orientation"),
    codes=(1, 0),
    changes=[(256, "3f", 0.9, 0.9, 0.9)],
)
nifti(
    "quaternion-nan",
    "a quaternion of NaN",
    refused("qform|quaternion|orientation|numbers"),
    codes=(1, 0),
    changes=[(256, "3f", *[float("nan")] * 3)],
)
nifti(
    "origin-nan",
    "a qform without a valid origin",
    refused("origin|qform|numbers"),
    codes=(1, 0),
    changes=[(268, "f", float("inf"))],
)
nifti(
    "pixdim-0-zero",
    "pixdim[0] is 0, as some writers leave it",
    done(),
    codes=(1, 0),
    changes=[(76, "f", 0.0)],
    grid=lambda clean: clean.grid(),
)
_STEP = refused("spacing|voxel size|pixdim")
nifti("pixdim-zero", "pixdim of 0 mm", _STEP, codes=(1, 0), changes=[(80, "3f", 0.0, 0.0, 0.0)])
nifti("pixdim-zero-through", "slices 0 mm apart", _STEP, codes=(1, 0), changes=[(88, "f", 0.0)])
nifti("pixdim-negative", "pixdim of -0.5 mm", _STEP, codes=(1, 0), changes=[(80, "2f", -0.5, -0.5)])
nifti("pixdim-nan", "pixdim NaN", _STEP, codes=(1, 0), changes=[(80, "f", float("nan"))])
nifti(
    "pixdim-contradicts", "pixdim 1 mm where the sform has 0.5 mm", _STEP, codes=(0, 1), changes=[(80, "2f", 1.0, 1.0)]
)
# The units say metres or micrometres while the numbers are the same: who believes them sees a body of a kilometre.
nifti("units-unknown", "no units", units=0)
nifti("units-meters", "the same numbers, called metres", done(), refused("unit|field of view|spacing"), units=1)
nifti(
    "units-micrometers", "the same numbers, called micrometres", done(), refused("unit|field of view|spacing"), units=3
)


def _in_micrometers(folder: Path, clean: Clean) -> Built:
    scan = clean.scans[0]
    large = scan.moved(np.diag([1000.0, 1000.0, 1000.0, 1.0]))
    save_nifti(folder / "T2.nii.gz", large, units=3)
    return Built({"scan": clean.grid(), "scan um": Grid(clean.glands[0], large.affine)})


hard(
    "units-micrometers-true",
    FORMS,
    "sizes in micrometres, as the units say",
    _in_micrometers,
    done(),
    refused("unit|micrometer|field of view|spacing"),
)
nifti("affine-radiological", "stored left-handed, the common case", codes=(1, 1))


def _stored_otherwise(order: tuple[int, ...], flips: tuple[int, ...]):
    """The same scan with its axes in another order and direction on disk."""

    def build(folder: Path, clean: Clean) -> Built:
        scan, gland = clean.scans[0], clean.glands[0]
        affine = scan.affine.copy()
        for axis in flips:
            affine[:3, 3] += affine[:3, axis] * (scan.voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
        affine[:3, :3] = affine[:3, list(order)]
        voxels, gland = (np.ascontiguousarray(np.transpose(np.flip(x, flips), order)) for x in (scan.voxels, gland))
        save_nifti(folder / "T2.nii.gz", Volume(voxels, affine))
        return Built({"scan": Grid(gland, affine, dice=0.985)})

    return build


for _slug, _order, _flips in (
    ("slices-first", (2, 0, 1), ()),
    ("rows-first", (1, 0, 2), ()),
    ("head-first", (0, 1, 2), (2,)),
    ("all-flipped", (0, 1, 2), (0, 1, 2)),
    ("mirrored", (0, 1, 2), (0,)),
):
    hard(f"axes-{_slug}", FORMS, f"axes {_order}, flipped {_flips}", _stored_otherwise(_order, _flips), done())

_TWO = refused("NIfTI-2")
for _name in ("T2.nii.gz", "T2.nii"):
    nifti(f"nifti-2-{_name[3:].replace('.', '-')}", f"NIfTI-2 called {_name}", done(), _TWO, name=_name, version=2)
nifti("nifti-2-big-endian", "big-endian NIfTI-2", done(), _TWO, version=2, endian=">")
nifti("big-endian", "big-endian NIfTI-1", endian=">")
nifti("big-endian-nii", "big-endian NIfTI-1, not compressed", endian=">", name="T2.nii")
# That its compressed data cannot be unpacked is not the cause.
_ZIPPED = refused("(not|is|was) compressed|compressed twice|rename")
nifti("gz-not-compressed", "a plain NIfTI file called T2.nii.gz", done(), _ZIPPED, compress=False)
nifti("nii-compressed", "a compressed NIfTI file called T2.nii", done(), _ZIPPED, name="T2.nii", compress=True)


def _gz_twice(folder: Path, clean: Clean) -> None:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    (folder / "T2.nii.gz").write_bytes(packed((folder / "T2.nii.gz").read_bytes()))


hard("gz-twice", FORMS, "compressed twice", _gz_twice, done(), _ZIPPED)


def _gz_parts(folder: Path, clean: Clean) -> None:
    save_nifti(folder / "T2.nii", clean.scans[0])
    content = (folder / "T2.nii").read_bytes()
    (folder / "T2.nii").unlink()
    (folder / "T2.nii.gz").write_bytes(packed(content[: 1 << 20]) + packed(content[1 << 20 :]))


hard(
    "gz-of-two-streams", FORMS, "two gzip streams one after the other, as parallel compressors write", _gz_parts, done()
)


def _gz_rubbish(folder: Path, clean: Clean) -> None:
    save_nifti(folder / "T2.nii.gz", clean.scans[0])
    with open(folder / "T2.nii.gz", "ab") as file:
        file.write(bytes(512))


hard("gz-zeros-after", FORMS, "zeros after the gzip stream, as tapes leave them", _gz_rubbish, done())


def _pair(suffixes: tuple[str, str], compress: bool = False, magic: bytes = b"ni1\0"):
    def build(folder: Path, clean: Clean) -> None:
        scan = clean.scans[0]
        header = nifti_header(scan, pair=True)
        header[344:348] = magic
        for suffix, content in zip(suffixes, (bytes(header), nifti_voxels(scan.voxels)), strict=True):
            (folder / f"T2{suffix}").write_bytes(packed(content) if compress else content)

    return build


_PAIR = (done(), refused(r"\.hdr|\.img|pair", exits=(1, 2)))
hard("hdr-img", FORMS, "a NIfTI pair T2.hdr, T2.img", _pair((".hdr", ".img")), *_PAIR)
hard("hdr-img-gz", FORMS, "a compressed pair", _pair((".hdr.gz", ".img.gz"), True), *_PAIR)
hard(
    "hdr-img-analyze",
    FORMS,
    "an Analyze 7.5 pair",
    _pair((".hdr", ".img"), magic=bytes(4)),
    refused(r"\.hdr|\.img|pair|Analyze"),
)
hard(
    "hdr-alone",
    FORMS,
    "T2.hdr whose T2.img is missing",
    lambda folder, clean: (folder / "T2.hdr").write_bytes(bytes(nifti_header(clean.scans[0], pair=True))) and None,
    refused(r"\.hdr|\.img|pair"),
)
hard(
    "nii-of-a-pair",
    FORMS,
    "the header of a pair called T2.nii",
    lambda folder, clean: (folder / "T2.nii").write_bytes(bytes(nifti_header(clean.scans[0], pair=True))) and None,
    refused(r"T2.nii.*(truncated|pair|not a readable)"),
)


def _with_extension(folder: Path, clean: Clean) -> None:
    """Free text between header and voxels, as many tools add it."""
    scan = clean.scans[0]
    header = nifti_header(scan)
    header[348] = 1
    header[108:112] = np.float32(352 + 64).tobytes()
    note = b"\x40\0\0\0\x06\0\0\0" + b"a comment".ljust(56, b"\0")
    (folder / "T2.nii.gz").write_bytes(packed(bytes(header) + note + nifti_voxels(scan.voxels)))


hard("nifti-extension", FORMS, "a NIfTI extension with a comment", _with_extension, done())
nifti(
    "offset-zero",
    "vox_offset 0 in a single file",
    done(),
    refused("header|offset|damaged|truncated"),
    changes=[(108, "f", 0.0)],
)
nifti("offset-huge", "vox_offset beyond the file", refused("truncated|offset"), changes=[(108, "f", 1e9)])
nifti(
    "offset-nan",
    "vox_offset NaN",
    refused("truncated|offset|damaged|header|readable"),
    changes=[(108, "f", float("nan"))],
)
nifti("slope-nan", "scl_slope NaN, as some tools write for none", done(), scale=(float("nan"), float("nan")))
nifti("slope-2", "scl_slope 2 and scl_inter -7", scale=(2, -7))
nifti("slope-zero-inter", "scl_slope 0 (none) with scl_inter 5", scale=(0, 5))
nifti(
    "slope-negative", "scl_slope -1: inverted gray values", done(), refused("slope|inverted|negative"), scale=(-1, 1118)
)
nifti("description-latin1", "a description that is not UTF-8", changes=[(148, "8s", b"Pr\xfcfung\xff")])

# Rounded ------------------------------------------------------------------------------------------------------------


def _save_sheared(suffix: str, scan: Volume, path: Path) -> None:
    if suffix == "nii.gz":
        save_nifti(path, scan, codes=(0, 1))
    elif suffix == "nrrd":
        save_nrrd(path, scan)
    else:
        save_meta(path, scan)


def _sheared(suffix: str, by: float, kept: bool = False):
    def build(folder: Path, clean: Clean) -> Built:
        scan = clean.scans[0].sheared(by)
        _save_sheared(suffix, scan, folder / f"T2.{suffix}")
        if kept:
            return Built({"scan": Grid(clean.glands[0], scan.affine, place_mm=0.001)}, extra=("--format", "seg.nrrd"))
        # Axes that share the error among them are off by this much at the corner farthest from the origin, 265 mm.
        return Built({"scan": Grid(clean.glands[0], scan.affine, place_mm=0.02 + by * 135)})

    return build


for _suffix in ("nii.gz", "nrrd", "mha"):
    for _by in (0.0003, 0.001, 0.0019):
        hard(
            f"leaning-{_suffix.replace('.', '-')}-{round(_by * 1e4):04d}",
            ROUNDED,
            f"axes {_by} off orthogonal in a .{_suffix} file, as rounding leaves it",
            _sheared(_suffix, _by),
            done(notes=("orthogonal",)),
        )
    for _by in (0.0023, 0.01, 0.1):
        hard(
            f"leaning-{_suffix.replace('.', '-')}-{round(_by * 1e4):04d}",
            ROUNDED,
            f"axes {_by} off orthogonal in a .{_suffix} file: more than rounding",
            _sheared(_suffix, _by),
            refused("orthogonal|shear"),
        )


# A mask in NRRD keeps the input's own directions digit for digit.
for _suffix in ("nrrd", "mha"):
    hard(
        f"leaning-{_suffix}-kept",
        ROUNDED,
        f"axes 0.001 off orthogonal in a .{_suffix} file; the mask as .seg.nrrd",
        _sheared(_suffix, 0.001, kept=True),
        done(notes=("orthogonal",)),
    )


def _rounded_axes(digits: int):
    def build(folder: Path, clean: Clean) -> Built:
        scan = clean.scans[0]
        affine = scan.affine.copy()
        affine[:3, :3] = np.round(scan.axes, digits) * scan.spacing
        save_meta(
            folder / "T2.mha", scan, extra={"TransformMatrix": " ".join(f"{x:.{digits}f}" for x in scan.axes.T.ravel())}
        )
        return Built({"scan": Grid(clean.glands[0], affine, place_mm=0.6)})

    return build


for _digits in (3, 4):
    hard(
        f"leaning-mha-{_digits}-decimals",
        ROUNDED,
        f"a TransformMatrix of {_digits} decimals",
        _rounded_axes(_digits),
        done(),
    )

# Planes and exams ----------------------------------------------------------------------------------------------------

CORONAL = np.array([(1, 0, 0), (0, 0, -1), (0, 1, 0)], float).T
SAGITTAL = np.array([(0, 1, 0), (0, 0, -1), (-1, 0, 0)], float).T


def tilted(degrees: float) -> np.ndarray:
    """Axial axes turned about the left-right axis."""
    angle = np.radians(degrees)
    return np.array([(1, 0, 0), (0, np.cos(angle), -np.sin(angle)), (0, np.sin(angle), np.cos(angle))]).T


def _plane(axes: np.ndarray, name: str, dicom: bool = False, dice: float = 0.85):
    def build(folder: Path, clean: Clean) -> Built:
        scan = clean.scans[0].resliced(axes, (0.6, 0.6, 3.0), (320, 320, 27))
        gland = clean.scans[0].with_voxels(clean.glands[0].astype(np.int16) * 100)
        right = gland.resliced(axes, (0.6, 0.6, 3.0), (320, 320, 27)).voxels >= 50
        if dicom:
            save_series(series_of(scan, name=name), folder / "series")
        else:
            save_meta(folder / f"{name}.mha", scan, compress=True)
        return Built({"scan": Grid(right, scan.affine, dice=dice)})

    return build


for _slug, _axes, _pattern in (("coronal", CORONAL, "coronal"), ("sagittal", SAGITTAL, "sagittal")):
    for _name, _dicom in (("t2", False), ("t2", True), (f"t2_{_slug[:3]}", False), (f"t2_tse_{_slug[:3]}", True)):
        _where = "DICOM" if _dicom else "file"
        hard(
            f"{_slug}-{_where.lower()}{'-named' if _name != 't2' else ''}",
            PLANES,
            f"a {_slug} T2 alone ({_where}, called {_name})",
            _plane(_axes, _name, _dicom),
            refused(_pattern),
        )
hard("tilted-20", PLANES, "slices tilted by 20 degrees", _plane(tilted(20), "t2"), done())
# A file was chosen by its user: a mask that says what it was made of is as right as a refusal.
hard(
    "tilted-45",
    PLANES,
    "slices tilted by 45 degrees: neither axial nor coronal",
    _plane(tilted(45), "t2", dice=0.7),
    refused("tilted|oblique|degrees"),
    done(says=("tilted|oblique|degrees",)),
)
hard(
    "tilted-45-dicom",
    PLANES,
    "the same as DICOM",
    _plane(tilted(45), "t2_tse", True),
    refused("tilted|oblique|degrees"),
)


def _picai(names: dict[str, str], suffix: str = "mha", layout: str = "10000/10000_1000000_{}"):
    """An exam of several scans; ``names`` says what each file shows."""

    def build(folder: Path, clean: Clean) -> Built:
        sample = clean.scans[0]
        coarse = sample.resliced(sample.axes, (2.0, 2.0, 3.0), (84, 128, 19))
        shown = {
            "t2": lambda: sample,
            "sag": lambda: sample.resliced(SAGITTAL, (0.6, 0.6, 3.0), (320, 320, 27)),
            "cor": lambda: sample.resliced(CORONAL, (0.6, 0.6, 3.0), (320, 320, 27)),
            "adc": lambda: coarse.with_voxels(np.clip(2600 - 2 * coarse.voxels, 0, None).astype(np.int16)),
            "hbv": lambda: coarse.with_voxels((coarse.voxels // 6).astype(np.int16)),
        }
        for name, what in names.items():
            path = folder / f"{layout.format(name)}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "mha":
                save_meta(path, shown[what](), compress=True)
            else:
                save_nifti(path, shown[what]())
        return Built({"scan": clean.grid()})

    return build


_ALL = {"t2w": "t2", "sag": "sag", "cor": "cor", "adc": "adc", "hbv": "hbv"}
_PASSED = done(says=("sag", "cor", "adc", "hbv"))
hard("picai-exam", PLANES, "a PI-CAI exam: t2w, sag, cor, adc, hbv", _picai(_ALL), _PASSED)
hard("picai-exam-nifti", PLANES, "the same as .nii.gz", _picai(_ALL, "nii.gz"), _PASSED)
hard("picai-upper-case", PLANES, "the same in capitals", _picai({k.upper(): v for k, v in _ALL.items()}), _PASSED)
hard("picai-t2-adc", PLANES, "t2w and adc", _picai({"t2w": "t2", "adc": "adc"}), done(says=("adc",)))
hard(
    "picai-without-t2", PLANES, "adc and hbv alone", _picai({"adc": "adc", "hbv": "hbv"}), refused("ADC map|diffusion")
)
hard("picai-adc-alone", PLANES, "adc alone", _picai({"adc": "adc"}), refused("ADC map|diffusion"))
hard("picai-sagittal-alone", PLANES, "sag alone", _picai({"sag": "sag"}), refused("sagittal"))
hard(
    "bids-subject",
    PLANES,
    "a BIDS subject with T2w and dwi",
    _picai({"sub-01_acq-ax_T2w": "t2", "sub-01_dwi": "hbv"}, "nii.gz", "sub-01/anat/{}"),
    done(says=("dwi|diffusion",)),
)
hard(
    "exam-spelled-out",
    PLANES,
    "names spelled out: T2 axial, T2 sagittal, T2 koronar, ADC Karte",
    _picai({"T2 axial": "t2", "T2 sagittal": "sag", "T2 koronar": "cor", "ADC Karte": "adc"}, "nii.gz", "Müller/{}"),
    done(says=("sagittal", "koronar", "ADC")),
)


def _dicom_exam(folder: Path, clean: Clean) -> Built:
    for number, (name, axes) in enumerate((("t2_tse_sag", SAGITTAL), ("t2_tse_cor", CORONAL)), 5):
        other = clean.scans[0].resliced(axes, (0.6, 0.6, 3.0), (320, 320, 27))
        save_series(series_of(other, number, name), folder / name)
    adc = clean.scans[0].with_voxels(np.clip(2600 - 2 * clean.scans[0].voxels, 0, 4095).astype(np.int16))
    slices = series_of(adc, 8, "ep2d_diff_tra_ADC")
    for plane in slices:
        plane.ImageType, plane.ScanningSequence, plane.EchoTime = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "EP", "63"
    save_series(slices, folder / "adc")
    save_series(series_of(clean.scans[0], 4), folder / "t2_tse_tra")
    return Built({"scan": clean.grid()})


hard(
    "dicom-exam",
    PLANES,
    "a DICOM exam: transverse, sagittal, coronal T2 and ADC",
    _dicom_exam,
    done(says=("sagittal", "coronal", "adc|diffusion")),
)

# Field of view -------------------------------------------------------------------------------------------------------


def _cropped(x_mm: float, y_mm: float, slices: tuple[int, int] = (0, 19), dice: float = 0.95):
    """Around the gland's middle; it is 55 mm wide, 44 mm deep and on slices 4 to 18."""

    def build(folder: Path, clean: Clean) -> Built:
        gland, scan = clean.glands[0], clean.scans[0]
        low, high = (np.argwhere(gland).min(0), np.argwhere(gland).max(0))
        box = []
        for axis, extent in enumerate((x_mm, y_mm)):
            count = min(scan.voxels.shape[axis], round(extent / scan.spacing[axis]))
            start = max(0, int((low[axis] + high[axis] + 1 - count) // 2))
            box.append(slice(start, start + count))
        box.append(slice(*slices))
        small = scan.cropped(box)
        save_nifti(folder / "T2.nii.gz", small)
        return Built({"scan": Grid(gland[tuple(box)], small.affine, dice=dice)})

    return build


_WARNED = done(says=("field of view|edge",))
_SMALL = refused("field of view")
for _x, _y in ((120, 120), (80, 80), (65, 65)):
    hard(f"view-{_x}-{_y}", VIEW, f"{_x} x {_y} mm around the gland", _cropped(_x, _y), done())
# Below 60 mm the network lacks what it knows to lie around the gland, whatever the scan is padded with (its edge, a
# mirror of it, its mean): the mask differs from that of the whole scan by as much as experts do from each other, and by
# more the less is left. What is asked for is what it can give, and the warning. Five PROMISE12 scans cut to 46 to 61 mm
# have Dice 0.892 to 0.938 with the expert's mask there, and 0.931 to 0.945 whole.
for _x, _y, _dice in ((190, 55, 0.95), (190, 50, 0.92), (190, 45, 0.87)):
    _front = f"{_y} mm from front to back, the whole gland in it"
    hard(f"view-{_x}-{_y}", VIEW, _front, _cropped(_x, _y, dice=_dice), _WARNED)
hard("view-58-58", VIEW, "58 x 58 mm, the whole gland in it", _cropped(58, 58, dice=0.92), _WARNED)
hard("view-58-190", VIEW, "58 mm from side to side, the whole gland in it", _cropped(58, 180, dice=0.92), _WARNED)
# From 55 mm on the gland's sides are cut off: the part that shows, with a warning, or a refusal.
for _x, _y in ((55, 180), (50, 180), (45, 180), (40, 180), (55, 55), (50, 50), (45, 45), (40, 40), (190, 40)):
    _cut = _cropped(_x, _y, dice={(50, 50): 0.87, (45, 45): 0.75}.get((_x, _y), 0.9))
    hard(f"view-{_x}-{_y}", VIEW, f"{_x} x {_y} mm: the gland reaches its edge", _cut, _WARNED, _SMALL)
for _x, _y in ((30, 30), (20, 180)):
    hard(f"view-{_x}-{_y}", VIEW, f"{_x} x {_y} mm: less than a gland", _cropped(_x, _y), _SMALL, refused("voxels"))
hard("view-slices-14", VIEW, "14 slices, 42 mm", _cropped(190, 180, (4, 18), dice=0.9), _WARNED, done())
hard("view-slices-10", VIEW, "10 slices, 30 mm: less than a gland", _cropped(190, 180, (6, 16)), _SMALL, _WARNED)
