"""Masks beside scans, as segmentation tools, challenges and spreadsheets hand them on, and the tables beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from hard_inputs_expected import EVALUATE, IMPORT, Built, Clean, Grid, Outcome, done, hard, refused
from hard_inputs_files import Volume, save_meta, save_nifti, save_nrrd

NAMES, VALUES, SEGMENTS, PLACES = "masks: names", "masks: values", "masks: segments", "masks: place"
PAIRS, TABLES, EVALUATED = "masks: pairs", "dataset.json and index.csv", "masks: evaluate"

# Names ---------------------------------------------------------------------------------------------------------------


def spelled(ending: str) -> str:
    """For a slug: ``_MASK`` is underscore-mask-capital."""
    sign = {"_": "underscore", "-": "dash", ".": "dot"}[ending[0]]
    return f"{sign}-{ending[1:].lower()}{'' if ending.islower() else '-capital'}"


_ENDINGS = ("_seg", "_mask", "-label", "_label", "_segmentation", ".seg", "_MASK", "-mask", "_Segmentation")
for _ending in _ENDINGS:

    def _beside(folder: Path, clean: Clean, ending=_ending) -> Built:
        save_nifti(folder / "T2.nii.gz", clean.scans[0])
        save_nrrd(folder / f"T2{ending}.nrrd", clean.mask(0))
        return Built({"scan": clean.grid()})

    def _pair(folder: Path, clean: Clean, ending=_ending) -> Built:
        save_nifti(folder / "P1.nii.gz", clean.scans[1])
        save_nrrd(folder / f"P1{ending}.nrrd", clean.mask(1))
        return Built({"scan": clean.case(1)})

    _slug = spelled(_ending)
    hard(
        f"segment-beside-{_slug}",
        NAMES,
        f"a scan to segment beside its mask T2{_ending}.nrrd",
        _beside,
        done(says=("mask|segmentation|label",)),
    )
    hard(
        f"import-{_slug}",
        NAMES,
        f"P1.nii.gz with P1{_ending}.nrrd",
        _pair,
        done(),
        command=IMPORT,
    )


def _mask_alone(folder: Path, clean: Clean) -> None:
    save_nifti(folder / "T2_mask.nii.gz", clean.mask(0))


hard("segment-mask-alone", NAMES, "nothing but a mask to segment", _mask_alone, refused("mask|segmentation|label"))

# Values --------------------------------------------------------------------------------------------------------------


def mask(
    slug: str,
    kind: str,
    what: str,
    save: Callable[[Path, Clean], None],
    *right: Outcome,
    grids: Callable[[Clean], dict[str, Grid]] | None = None,
) -> None:
    """P1.nii.gz with the mask that ``save`` puts beside it, to be imported; right is the clean gland."""

    def build(folder: Path, clean: Clean) -> Built:
        save_nifti(folder / "P1.nii.gz", clean.scans[1])
        save(folder, clean)
        return Built({"scan": clean.case(1), **(grids(clean) if grids else {})})

    hard(slug, kind, what, build, *(right or (done(),)), command=IMPORT)


def values(slug: str, what: str, change: Callable[[np.ndarray], np.ndarray], *right: Outcome, **how) -> None:
    """A NIfTI mask of changed values."""

    def save(folder: Path, clean: Clean) -> None:
        labels = change(clean.glands[1])
        save_nifti(folder / "P1_mask.nii.gz", clean.scans[1].with_voxels(labels), **how)

    mask(slug, VALUES, what, save, *right)


def zones_of(gland: np.ndarray) -> np.ndarray:
    """1 before and 2 behind the gland's middle, (x, y, z)."""
    middle = int(np.argwhere(gland)[:, 1].mean())
    zones = gland.astype(np.uint8)
    zones[:, middle:] *= 2
    return zones


values("value-255", "255 inside", lambda x: (x * 255).astype("u1"))
values("value-minus-1", "-1 inside", lambda x: -x.astype("i2"))
values("value-minus-1-int8", "255 read as int8", lambda x: -x.astype("i1"))
values("value-7", "7 inside", lambda x: (x * 7).astype("u1"))
values("value-1000", "1000 inside", lambda x: (x * 1000).astype("i2"))
values("value-float", "float32, 1.0 inside", lambda x: x.astype("f4"))
values("value-double", "float64, 1.0 inside", lambda x: x.astype("f8"))
values(
    "value-1-0000153",
    "1.0000153 inside, as nibabel's scaling to int16 leaves it",
    lambda x: (x * 32767).astype("i2"),
    scale=(1.0000153 / 32767, 0),
)
values("value-0-996", "0.996 inside: 255 levels scaled by 1/256", lambda x: (x * 255).astype("u1"), scale=(1 / 256, 0))
values("value-zones-scaled", "two zones that read as 1.0000153 and 2", lambda x: zones_of(x).astype("f8") * 1.0000153)
values(
    "value-zones-scaled-int16",
    "two zones as int16 with a slope",
    lambda x: (zones_of(x).astype("i4") * 16383).astype("i2"),
    scale=(2 / 32766, 0),
)
values("value-minus-0", "0.0001 outside, 1 inside, as a filter leaves it", lambda x: np.where(x, 1, 1e-4).astype("f4"))
values("value-zones", "zones 1 and 2 without names", zones_of)
values("value-inverted", "1 outside and 0 inside", lambda x: (~x).astype("u1"), refused("edge|volume|invert|whole"))
values(
    "value-probability",
    "probabilities from 0 to 1",
    lambda x: np.where(x, 0.2, 0) + np.random.default_rng(0).random(x.shape) * 0.7 * x,
    refused("probabilit"),
)
values(
    "value-probability-8-bits",
    "probabilities from 0 to 255",
    lambda x: (x * np.random.default_rng(0).integers(1, 255, x.shape)).astype("u1"),
    refused("probabilit|different values"),
)
values(
    "value-scan",
    "the scan itself as mask",
    lambda x: np.random.default_rng(0).integers(0, 900, x.shape).astype("i2"),
    refused("looks like a scan|different values"),
)
values("value-empty", "an empty mask", lambda x: np.zeros(x.shape, "u1"), refused("empty"))
values("value-full", "ones everywhere", lambda x: np.ones(x.shape, "u1"), refused("ml|whole|everywhere"))
values(
    "value-nan", "NaN outside, 1 inside", lambda x: np.where(x, 1, np.nan).astype("f4"), done(), refused("NaN|numbers")
)
values("value-nan-all", "NaN everywhere", lambda x: np.full(x.shape, np.nan, "f4"), refused("NaN|numbers|empty"))
values("value-complex", "complex voxels", lambda x: x.astype("c8"), refused("complex"))
values("value-int64", "int64", lambda x: x.astype("i8"))
values("value-uint64", "uint64", lambda x: x.astype("u8"))
values("value-big-endian", "big-endian int16", lambda x: x.astype("i2"), endian=">")
values("value-4d", "four dimensions, one volume", lambda x: x.astype("u1")[..., None])
values(
    "value-4d-two",
    "two volumes: gland and another",
    lambda x: np.stack([x, x[::-1]], -1).astype("u1"),
    refused("volumes|dimension|4D"),
)
values(
    "value-rgb",
    "RGB voxels",
    lambda x: np.repeat(x.astype("u1") * 255, 3, axis=0),
    refused("colou?r|values in each"),
    kind=128,
    bits=24,
    changes=[(42, "h", 384)],
)
values(
    "value-tiny",
    "a gland of one voxel",
    lambda x: np.where(np.cumsum(x).reshape(x.shape) == 1, x, 0).astype("u1"),
    refused("ml|small"),
)


def _two_glands(x: np.ndarray) -> np.ndarray:
    far = np.roll(x[:, :, ::-1], 130, axis=0)
    return (x | far).astype("u1")


values("value-two-glands", "two glands side by side", _two_glands, refused("parts"))
values(
    "value-ignore-rim",
    "a rim labelled 255 to be ignored, without a word",
    lambda x: np.where(x, 1, np.where(np.roll(x, 4, axis=0) | np.roll(x, -4, axis=0), 255, 0)).astype("u1"),
    refused("255"),
    done(),
)

# Segments with names -------------------------------------------------------------------------------------------------


def bladder_of(gland: np.ndarray) -> np.ndarray:
    """A ball above and before the gland that touches it, so that both together look like one part."""
    inside = np.argwhere(gland)
    x, y = inside[:, 0].mean(), inside[:, 1].min() - 20
    grid = np.indices(gland.shape)
    ball = ((grid[0] - x) / 50) ** 2 + ((grid[1] - y) / 40) ** 2 + ((grid[2] - inside[:, 2].max()) / 5) ** 2 < 1
    return ball & ~gland


def segment_keys(segments: Sequence[tuple[str, int, int]], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Slicer's keys for (name, label value, layer)."""
    keys = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
    }
    for number, (name, value, layer) in enumerate(segments):
        keys |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": name,
            f"Segment{number}_LabelValue": str(value),
            f"Segment{number}_Layer": str(layer),
        }
    return keys | dict(extra or {})


Paint = Callable[[np.ndarray], "list[np.ndarray]"]


def seg_nrrd(
    slug: str, what: str, names: Sequence[str], paint: Paint, *right: Outcome, layers=False, extra=None, grids=None
):
    """P1.seg.nrrd of named segments; ``paint`` answers one bool array a segment, later ones over earlier."""

    def save(folder: Path, clean: Clean) -> None:
        painted = paint(clean.glands[1])
        if layers:
            stack = np.stack([one.astype("u1") for one in painted])
            segments = [(name, 1, number) for number, name in enumerate(names)]
            volume = Volume(stack, clean.scans[1].affine)
        else:
            labels = np.zeros(painted[0].shape, "u1")
            for number, one in enumerate(painted, 1):
                labels[one] = number
            segments = [(name, number, 0) for number, name in enumerate(names, 1)]
            volume = Volume(labels, clean.scans[1].affine)
        save_nrrd(folder / "P1.seg.nrrd", volume, keys=segment_keys(segments, extra))

    mask(slug, SEGMENTS, what, save, *right, grids=grids)


def _alone(gland: np.ndarray) -> list[np.ndarray]:
    return [gland]


def _organs(gland: np.ndarray) -> list[np.ndarray]:
    return [gland, bladder_of(gland)]


def _organs_reversed(gland: np.ndarray) -> list[np.ndarray]:
    return [bladder_of(gland), gland]


def _two_zones(gland: np.ndarray) -> list[np.ndarray]:
    zones = zones_of(gland)
    return [zones == 1, zones == 2]


def _zones_and_bladder(gland: np.ndarray) -> list[np.ndarray]:
    return [*_two_zones(gland), bladder_of(gland)]


def _four_zones(gland: np.ndarray) -> list[np.ndarray]:
    quarters = zones_of(gland).astype(int) + 2 * (np.arange(gland.shape[0])[:, None, None] > gland.shape[0] // 2)
    return [gland & (quarters == number) for number in range(1, 5)]


def _lesion(gland: np.ndarray) -> np.ndarray:
    inside = np.argwhere(gland)
    middle = inside.mean(0)
    grid = np.indices(gland.shape)
    near = ((grid[0] - middle[0]) / 8) ** 2 + ((grid[1] - middle[1]) / 8) ** 2 + ((grid[2] - middle[2]) / 2) ** 2 < 1
    return near & gland


def _gland_and_lesion(gland: np.ndarray) -> list[np.ndarray]:
    return [gland, _lesion(gland)]


_FOUND = refused("prostate.*bladder|bladder.*prostate")
seg_nrrd("segments-one", "one segment Prostate", ["Prostate"], _alone)
seg_nrrd("segments-one-unnamed", "one segment called Segment_1", ["Segment_1"], _alone)
seg_nrrd("segments-organs", "Prostate and Bladder in one layer", ["Prostate", "Bladder"], _organs, done(), _FOUND)
seg_nrrd(
    "segments-organs-reversed",
    "Bladder (1) and Prostate (2)",
    ["Bladder", "Prostate"],
    _organs_reversed,
    done(),
    _FOUND,
)
for _slug, _name in (
    ("lower-case", "prostate"),
    ("capitals", "PROSTATE"),
    ("gland", "Prostate gland"),
    ("whole", "Whole prostate"),
    ("german", "Prostata"),
    ("french", "prostate entière"),
    ("whole-gland", "WG"),
    ("numbered", "prostate_1"),
):
    seg_nrrd(
        f"segments-called-{_slug}", f"'{_name}' and Bladder", [_name, "Bladder"], _organs, done(), refused("bladder")
    )
_UNNAMED = refused("Segment_1|Segment_2|segments")
seg_nrrd("segments-two-unnamed", "Segment_1 and Segment_2", ["Segment_1", "Segment_2"], _organs, _UNNAMED)
seg_nrrd(
    "segments-terminology",
    "Segment_1, coded as prostate, and Segment_2, as bladder",
    ["Segment_1", "Segment_2"],
    _organs,
    done(),
    _UNNAMED,
    extra={
        "Segment0_Tags": "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~SCT^41216001^Prostate~^^~^^~^^~^^|",
        "Segment1_Tags": "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~SCT^89837001^Bladder~^^~^^~^^~^^|",
    },
)
seg_nrrd("segments-without-prostate", "Bladder and Rectum", ["Bladder", "Rectum"], _organs, refused("bladder.*rectum"))
seg_nrrd("segments-bladder-alone", "nothing but a Bladder", ["Bladder"], _alone, refused("bladder"))
for _slug, _names in (
    ("pz-tz", ("PZ", "TZ")),
    ("pz-cg", ("PZ", "CG")),
    ("spelled-out", ("Peripheral zone", "Transition zone")),
    ("of-prostate", ("Transition zone of prostate", "Peripheral zone of prostate")),
):
    seg_nrrd(f"segments-zones-{_slug}", f"zones {' and '.join(_names)}", _names, _two_zones)
seg_nrrd("segments-four-zones", "PZ, TZ, CZ and AFS", ["PZ", "TZ", "CZ", "AFS"], _four_zones)
seg_nrrd(
    "segments-zones-and-bladder",
    "PZ, TZ and Bladder",
    ["PZ", "TZ", "Bladder"],
    _zones_and_bladder,
    done(),
    refused("bladder"),
)
seg_nrrd(
    "layers-overlap",
    "Prostate and a half of it in two layers",
    ["Prostate", "Left half"],
    lambda gland: [gland, gland & (np.arange(gland.shape[0])[:, None, None] < 180)],
    done(),
    refused("Prostate.*Left half"),
    layers=True,
)
seg_nrrd(
    "layers-reversed",
    "a lesion in layer 0, Prostate in layer 1",
    ["Lesion", "Prostate"],
    lambda gland: [_lesion(gland), gland],
    done(),
    refused("lesion"),
    layers=True,
)
seg_nrrd("layers-zones", "PZ and TZ in two layers", ["PZ", "TZ"], _two_zones, layers=True)
seg_nrrd(
    "layers-bladder",
    "Prostate and Bladder in two layers",
    ["Prostate", "Bladder"],
    _organs,
    done(),
    _FOUND,
    layers=True,
)
seg_nrrd(
    "layers-three",
    "Prostate, Bladder and a lesion in three layers",
    ["Prostate", "Bladder", "Lesion"],
    lambda gland: [*_organs(gland), _lesion(gland)],
    done(),
    refused("bladder"),
    layers=True,
)
seg_nrrd(
    "layers-unnamed", "two unnamed segments in two layers", ["Segment_1", "Segment_2"], _organs, _UNNAMED, layers=True
)


def _filled(clean: Clean) -> dict[str, Grid]:
    holed = clean.glands[1] & ~_lesion(clean.glands[1])
    return {"holed": Grid(holed, clean.scans[1].affine, dice=0.99999, voxels=clean.scans[1].voxels)}


# In one layer the lesion cuts its hole into the gland: filled it is the gland; as it is written, or refused, is right.
seg_nrrd(
    "segments-lesion",
    "Prostate with a Lesion in one layer",
    ["Prostate", "Lesion"],
    _gland_and_lesion,
    done(),
    done("holed"),
    refused("lesion"),
    grids=_filled,
)


def _cropped_seg(folder: Path, clean: Clean) -> None:
    """No larger than its gland, as Slicer saves it."""
    inside = np.argwhere(clean.glands[1])
    box = tuple(slice(int(low), int(high) + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    save_nrrd(folder / "P1.seg.nrrd", clean.mask(1).cropped(box), keys=segment_keys([("Prostate", 1, 0)]))


mask("segments-cropped", SEGMENTS, "a .seg.nrrd no larger than its gland", _cropped_seg)

# Place ---------------------------------------------------------------------------------------------------------------


def place(slug: str, what: str, move: Callable[[Volume], Volume], *right: Outcome, **how) -> None:
    def save(folder: Path, clean: Clean) -> None:
        save_nifti(folder / "P1_mask.nii.gz", move(clean.mask(1)), **how)

    mask(slug, PLACES, what, save, *right)


def _shift(*millimetres: float) -> Callable[[Volume], Volume]:
    matrix = np.eye(4)
    matrix[:3, 3] = millimetres
    return lambda volume: volume.moved(matrix)


_GRID = refused("grid|shift")
_ALL = slice(None)
_INNER = (_ALL, _ALL, slice(1, 18))
place(
    "place-fewer-slices",
    "a mask without the first and last slice",
    lambda m: m.cropped(_INNER),
    done(says=("17.*19|slices",)),
)


def _fewer_at_origin(m: Volume) -> Volume:
    return Volume(m.voxels[:, :, 1:-1], m.affine)


def _one_slice_off(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "P1.nii.gz", clean.scans[1])
    save_nifti(folder / "P1_mask.nii.gz", _fewer_at_origin(clean.mask(1)))
    shifted = np.zeros_like(clean.glands[1])
    shifted[:, :, :17] = clean.glands[1][:, :, 1:-1]
    return Built({"scan": Grid(shifted, clean.scans[1].affine, dice=0.99999, voxels=clean.scans[1].voxels)})


hard(
    "place-fewer-slices-at-origin",
    PLACES,
    "the same at the scan's origin, one slice off",
    _one_slice_off,
    done(says=("17.*19|slices",)),
    refused("17.*19|slices"),
    command=IMPORT,
)
place(
    "place-more-slices",
    "a mask of two slices more than the scan",
    lambda m: Volume(np.pad(m.voxels, ((0, 0), (0, 0), (1, 1))), m.affine),
    _GRID,
    refused("slices"),
)
place("place-half-pixel", "shifted by 0.2 mm: less than half a voxel", _shift(0.2, 0, 0))
place("place-two-pixels", "shifted by 1.3 mm", _shift(1.3, 0, 0), _GRID)
place("place-one-voxel", "shifted by one voxel to the side: beyond the scan", lambda m: m.moved(_shift_by(m, 0)), _GRID)
place("place-far", "1 m away", _shift(0, 0, 1000), _GRID)
place(
    "place-no-geometry", "1 mm voxels at the origin: the geometry is lost", lambda m: Volume(m.voxels, np.eye(4)), _GRID
)
place(
    "place-no-forms",
    "qform and sform code 0",
    lambda m: m,
    done(says=("orientation|qform|sform",)),
    _GRID,
    refused("orientation|qform|sform"),
    codes=(0, 0),
)
place(
    "place-other-spacing",
    "at half the resolution",
    lambda m: Volume(m.voxels[::2, ::2], m.affine @ np.diag([2, 2, 1, 1])),
    _GRID,
)
place(
    "place-transposed",
    "with its first two axes exchanged, in place",
    lambda m: Volume(np.swapaxes(m.voxels, 0, 1), m.affine @ np.eye(4)[[1, 0, 2, 3]]),
    done(),
    _GRID,
)


def _shift_by(m: Volume, axis: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = m.affine[:3, axis]
    return matrix


def _flip(m: Volume, axis: int) -> Volume:
    affine = m.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (m.voxels.shape[axis] - 1)
    affine[:3, axis] *= -1
    return Volume(np.flip(m.voxels, axis), affine)


# Another order on disk, the same places: what lies right is right.
for _axis, _slug in enumerate(("left-right", "front-back", "head-foot")):
    place(
        f"place-flipped-{_slug}",
        f"stored from the other end, {_slug}",
        lambda m, axis=_axis: _flip(m, axis),
        done(),
        _GRID,
    )
place("place-sheared", "axes 0.001 off orthogonal", lambda m: m.sheared(0.001), done(), codes=(0, 1))
place(
    "place-rounded",
    "an affine of three decimals",
    lambda m: Volume(m.voxels, np.round(m.affine, 3)),
    done(),
    codes=(0, 1),
)

# Pairs ---------------------------------------------------------------------------------------------------------------


def pairs(slug: str, what: str, build: Callable[[Path, Clean], Built], *right: Outcome) -> None:
    hard(slug, PAIRS, what, build, *right, command=IMPORT)


def _sound(folder: Path, clean: Clean, number: int = 2, name: str = "B") -> None:
    save_nifti(folder / f"{name}.nii.gz", clean.scans[number])
    save_nifti(folder / f"{name}_mask.nii.gz", clean.mask(number))


def _zeros(folder: Path, clean: Clean) -> Built:
    for part in ("images", "labels"):
        (folder / part).mkdir()
        save_nifti(folder / part / "X-0081.nii.gz", clean.scans[2] if part == "images" else clean.mask(2))
    save_nifti(folder / "images" / "X-0080.nii.gz", clean.scans[1])
    save_nifti(folder / "labels" / "X-080.nii.gz", clean.mask(1))
    return Built({"sound": clean.case(2)})


pairs("names-differ-by-zero", "X-0080 with mask X-080 beside a sound pair", _zeros, refused("X-0080", done=("sound",)))


def _scan_without_mask(folder: Path, clean: Clean) -> Built:
    _sound(folder, clean)
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    return Built({"sound": clean.case(2)})


pairs(
    "scan-without-mask",
    "a scan without mask beside a sound pair",
    _scan_without_mask,
    refused("A\\b.*mask", done=("sound",)),
    done("sound", says=("A\\b.*mask|mask.*\\bA\\b",)),
)


def _mask_without_scan(folder: Path, clean: Clean) -> Built:
    _sound(folder, clean)
    save_nifti(folder / "A_mask.nii.gz", clean.mask(1))
    return Built({"sound": clean.case(2)})


pairs(
    "mask-without-scan",
    "a mask without scan beside a sound pair",
    _mask_without_scan,
    refused("A_mask", done=("sound",)),
    done("sound", says=("A_mask",)),
)


def _two_masks(folder: Path, clean: Clean) -> Built:
    _sound(folder, clean)
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_nifti(folder / "A_mask.nii.gz", clean.mask(1))
    other = clean.mask(1).with_voxels(np.roll(clean.mask(1).voxels, 5, axis=0))
    save_nifti(folder / "A_seg.nii.gz", other)
    return Built({"sound": clean.case(2), "one": clean.case(1), "other": Grid(other.voxels != 0, None, dice=0.99999)})


# Two readers may have drawn it; which of them counts is not the program's choice to make in silence.
_CHOOSE = "A_mask.*A_seg|A_seg.*A_mask"
pairs(
    "two-masks",
    "A with A_mask and A_seg that differ",
    _two_masks,
    refused(_CHOOSE, done=("sound",)),
    done("sound", "one", says=(_CHOOSE,)),
    done("sound", "other", says=(_CHOOSE,)),
)


def _other_patients_mask(folder: Path, clean: Clean) -> Built:
    save_nifti(folder / "A.nii.gz", clean.scans[1])
    save_nifti(folder / "A_mask.nii.gz", clean.mask(2))
    return Built()


pairs("mask-of-another", "the mask of another scan", _other_patients_mask, refused("grid"))


def _empty_folder(folder: Path, clean: Clean) -> Built:
    return Built()


pairs("import-empty-folder", "an empty folder", _empty_folder, refused("no scans"))
pairs(
    "import-missing-folder",
    "a folder that does not exist",
    lambda folder, clean: Built(given=("in/none",)),
    refused("exist"),
)
pairs(
    "import-file",
    "a file in the place of a folder",
    lambda folder, clean: (save_nifti(folder / "A.nii.gz", clean.scans[1]), Built(given=("in/A.nii.gz",)))[1],
    refused("no folder|not a folder|is a file"),
)

# Tables --------------------------------------------------------------------------------------------------------------


def nnunet(folder: Path, clean: Clean, labels: Callable[[np.ndarray], np.ndarray], description: bytes) -> Built:
    """imagesTr and labelsTr of two patients, with the dataset.json given."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for number in (1, 2):
        scan = clean.scans[number]
        save_meta(folder / "imagesTr" / f"P{number}_0000.mha", scan)
        save_meta(folder / "imagesTr" / f"P{number}_0001.mha", scan.with_voxels(scan.voxels // 2))
        save_meta(folder / "labelsTr" / f"P{number}.mha", scan.with_voxels(labels(clean.glands[number]).astype("u1")))
    (folder / "dataset.json").write_bytes(description)
    return Built({"1": clean.case(1), "2": clean.case(2)})


def dataset(slug: str, what: str, names: dict | bytes, labels=None, *right: Outcome, encode=None) -> None:
    """``names``: labels of nnU-Net's dataset.json, or all its bytes."""

    def build(folder: Path, clean: Clean) -> Built:
        if isinstance(names, bytes):
            text = names
        else:
            values = {
                "channel_names": {"0": "T2W", "1": "ADC"},
                "labels": names,
                "numTraining": 2,
                "file_ending": ".mha",
            }
            text = (encode or str.encode)(json.dumps(values, ensure_ascii=False, indent=1))
        return nnunet(folder, clean, labels or (lambda gland: gland), text)

    hard(slug, TABLES, what, build, *(right or (done("1", "2"),)), command=IMPORT)


def _labelled(paint: Paint) -> Callable[[np.ndarray], np.ndarray]:
    def labels(gland: np.ndarray) -> np.ndarray:
        values = np.zeros(gland.shape, "u1")
        for number, one in enumerate(paint(gland), 1):
            values[one] = number
        return values

    return labels


def _with_ignore(gland: np.ndarray) -> np.ndarray:
    values = gland.astype("u1")
    values[:10, :10, 0] = 2
    return values


_PROSTATE = {"background": 0, "prostate": 1}
_BOTH = done("1", "2")
dataset("json-plain", "nnU-Net, one label", _PROSTATE)
dataset(
    "json-ignore",
    "a label ignore (2) in a corner",
    _PROSTATE | {"ignore": 2},
    _with_ignore,
    _BOTH,
    refused("ignore", "ignore"),
    refused("ignore"),
)
dataset(
    "json-organs",
    "prostate and bladder",
    _PROSTATE | {"bladder": 2},
    _labelled(_organs),
    _BOTH,
    refused("bladder", "bladder"),
    refused("bladder"),
)
dataset(
    "json-organs-reversed",
    "bladder and prostate",
    {"background": 0, "bladder": 1, "prostate": 2},
    _labelled(_organs_reversed),
    _BOTH,
    refused("bladder", "bladder"),
    refused("bladder"),
)
dataset("json-zones", "PZ and TZ", {"background": 0, "PZ": 1, "TZ": 2}, _labelled(_two_zones))
dataset(
    "json-zones-bladder",
    "PZ, TZ and bladder",
    {"background": 0, "PZ": 1, "TZ": 2, "bladder": 3},
    _labelled(_zones_and_bladder),
    _BOTH,
    refused("bladder", "bladder"),
    refused("bladder"),
)
dataset(
    "json-other-organs",
    "bladder and rectum alone",
    {"background": 0, "bladder": 1, "rectum": 2},
    _labelled(_organs),
    refused("bladder.*rectum", "bladder.*rectum"),
    refused("bladder.*rectum"),
)
dataset(
    "json-regions",
    "regions: whole gland [1, 2], TZ 2",
    {"background": 0, "prostate": [1, 2], "TZ": 2},
    _labelled(_two_zones),
)
dataset(
    "json-old-labels",
    "labels the other way round, as Decathlon writes",
    {"0": "background", "1": "PZ", "2": "TZ"},
    _labelled(_two_zones),
)
dataset(
    "json-old-organs",
    "the same with prostate and bladder",
    {"0": "background", "1": "prostate", "2": "bladder"},
    _labelled(_organs),
    _BOTH,
    refused("bladder", "bladder"),
    refused("bladder"),
)
_GERMAN = _PROSTATE | {"Harnröhre": 2}
for _slug, _encode in (
    ("bom", lambda text: text.encode("utf-8-sig")),
    ("crlf", lambda text: text.replace("\n", "\r\n").encode()),
    ("bom-crlf", lambda text: text.replace("\n", "\r\n").encode("utf-8-sig")),
    ("cp1252", lambda text: text.encode("cp1252")),
):
    dataset(f"json-{_slug}", f"dataset.json as {_slug}", _GERMAN, None, encode=_encode)
dataset(
    "json-utf-16",
    "dataset.json in UTF-16",
    _PROSTATE,
    None,
    _BOTH,
    refused("dataset.json"),
    encode=lambda text: text.encode("utf-16"),
)
for _slug, _content in (
    ("broken", b'{"labels": {"prostate": 1,}'),
    ("empty", b""),
    ("a-list", b"[1, 2]"),
    ("a-text", b'"T2"'),
):
    dataset(f"json-{_slug}", f"dataset.json is {_slug.replace('-', ' ')}", _content, None, refused("dataset.json"))


def _decathlon_macos(folder: Path, clean: Clean) -> Built:
    """Four dimensions, a byte order mark and what macOS leaves behind."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
        (folder / part / "._prostate_00.nii.gz").write_bytes(b"\0\5\26\7" + bytes(60))
    scan = clean.scans[1]
    save_nifti(
        folder / "imagesTr" / "prostate_00.nii.gz", scan.with_voxels(np.stack([scan.voxels, scan.voxels // 2], -1))
    )
    save_nifti(folder / "labelsTr" / "prostate_00.nii.gz", scan.with_voxels(zones_of(clean.glands[1])))
    (folder / "imagesTr" / ".DS_Store").write_bytes(bytes(99))
    (folder / "dataset.json").write_text(
        '{"modality":{"0":"T2","1":"ADC"},"labels":{"0":"background","1":"PZ","2":"TZ"}}', encoding="utf-8-sig"
    )
    return Built({"1": clean.case(1)})


hard(
    "json-decathlon-macos",
    TABLES,
    "Decathlon with a byte order mark and ._ files",
    _decathlon_macos,
    done("1"),
    command=IMPORT,
)


def index(slug: str, what: str, content: bytes, *right: Outcome) -> None:
    def build(folder: Path, clean: Clean) -> Built:
        for part in ("images", "labels"):
            (folder / part).mkdir()
            for name, number in (("A", 1), ("B", 2)):
                save_nifti(
                    folder / part / f"{name}.nii.gz", clean.scans[number] if part == "images" else clean.mask(number)
                )
        (folder / "index.csv").write_bytes(content)
        return Built({"1": clean.case(1), "2": clean.case(2)})

    hard(slug, TABLES, what, build, *(right or (_ONE_PATIENT,)), command=IMPORT)


_ONE_PATIENT = done("1", "2", one_patient=True)
_ROWS = "case,centre,patient\r\nA,Köln,P1\r\nB,Köln,P1\r\n"
_INDEX = refused("index.csv")
index("index-plain", "commas, UTF-8", _ROWS.encode())
index("index-bom", "a byte order mark", _ROWS.encode("utf-8-sig"))
index("index-lf", "line feeds alone", _ROWS.replace("\r", "").encode())
index("index-cr", "carriage returns alone", _ROWS.replace("\n", "").encode())
index("index-cp1252", "Windows-1252", _ROWS.encode("cp1252"))
index("index-semicolons", "semicolons", _ROWS.replace(",", ";").encode())
index("index-semicolons-cp1252", "semicolons in Windows-1252", _ROWS.replace(",", ";").encode("cp1252"))
index("index-semicolons-bom", "semicolons with a byte order mark", _ROWS.replace(",", ";").encode("utf-8-sig"))
index("index-tabs", "tabs", _ROWS.replace(",", "\t").encode())
index(
    "index-utf-16", "tabs in UTF-16, as 'Unicode text'", _ROWS.replace(",", "\t").encode("utf-16"), _ONE_PATIENT, _INDEX
)
index("index-sep-line", "a first line sep=;", ("sep=;\r\n" + _ROWS.replace(",", ";")).encode(), _ONE_PATIENT, _INDEX)
index(
    "index-quoted",
    "every cell in quotes",
    "".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) + "\r\n" for line in _ROWS.split("\r\n") if line
    ).encode(),
)
index(
    "index-blank-lines",
    "empty lines and blanks",
    b"\r\n\r\nCase , Patient\r\n A , P1\r\n,,\r\n B , P1 \r\n\r\n",
    _ONE_PATIENT,
    _INDEX,
)
index(
    "index-with-suffixes",
    "cases with their file suffix",
    b"case,patient\nA.nii.gz,P1\nB.nii.gz,P1\n",
    _ONE_PATIENT,
    _INDEX,
)
index("index-case-missing", "a case is missing", b"case,patient\nA,P1\n", _INDEX)
index("index-twice", "a case twice, of different patients", b"case,patient\nA,P1\nA,P2\nB,P1\n", _INDEX)
index("index-no-columns", "no line of columns", b"A,P1\nB,P1\n", _INDEX)
index("index-empty", "an empty file", b"", _INDEX)
index("index-nul", "zeros, as after a crash", bytes(200), _INDEX)
index("index-quote-open", "a quote that is never closed", b'case,patient\n"A,P1\nB,P1\n', _INDEX)
index("index-xlsx", "a workbook saved under this name", b"PK\3\4\x14\0\6\0" + bytes(400), _INDEX)

# Evaluation ----------------------------------------------------------------------------------------------------------


def evaluated(
    slug: str, what: str, save: Callable[[Path, Clean], None], *right: Outcome, dice: tuple[float, float] = (0.99999, 1)
) -> None:
    """A pair B whose prediction is changed, beside a sound pair A; ``dice`` bounds what is right for it."""

    def build(folder: Path, clean: Clean) -> Built:
        for part in ("predictions", "references"):
            (folder / part).mkdir()
            save_nifti(folder / part / "A.nii.gz", clean.mask(2))
        save_nifti(folder / "references" / "B.nii.gz", clean.mask(1))
        save(folder / "predictions", clean)
        return Built({"A": clean.grid(2), "B": clean.grid(1, dice=dice[0], most_dice=dice[1])})

    hard(slug, EVALUATED, what, build, *(right or (done("A", "B"),)), command=EVALUATE)


for _slug, _change, _how in (
    ("255", lambda x: (x * 255).astype("u1"), {}),
    ("minus-1", lambda x: -x.astype("i2"), {}),
    ("1-0000153", lambda x: (x * 32767).astype("i2"), {"scale": (1.0000153 / 32767, 0)}),
    ("0-996", lambda x: (x * 255).astype("u1"), {"scale": (1 / 256, 0)}),
    ("float", lambda x: x.astype("f4"), {}),
):
    evaluated(
        f"evaluate-{_slug}",
        f"a prediction of values {_slug}",
        lambda folder, clean, change=_change, how=_how: save_nifti(
            folder / "B.nii.gz", clean.scans[1].with_voxels(change(clean.glands[1])), **how
        ),
    )
evaluated(
    "evaluate-probability",
    "a probability map as prediction",
    lambda folder, clean: save_nifti(
        folder / "B.nii.gz",
        clean.scans[1].with_voxels(
            (clean.glands[1] * 0.7).astype("f4") + np.linspace(0, 0.2, 384)[:, None, None].astype("f4")
        ),
    ),
    refused("probabilit", done=("A",)),
)
evaluated(
    "evaluate-moved",
    "a prediction 5 mm off",
    lambda folder, clean: save_nifti(folder / "B.nii.gz", _shift(5.2, 0, 0)(clean.mask(1))),
    refused("grid|place|lie", done=("A",)),
    done("A", "B"),
    dice=(0.5, 0.95),  # where it lies, that is
)
evaluated(
    "evaluate-fewer-slices",
    "a prediction of fewer slices",
    lambda folder, clean: save_nifti(folder / "B.nii.gz", clean.mask(1).cropped(_INNER)),
    done("A", "B", says=("slices|17|completed",)),
    done("A", "B"),
)
evaluated(
    "evaluate-layers",
    "a .seg.nrrd of two layers",
    lambda folder, clean: save_nrrd(
        folder / "B.seg.nrrd",
        Volume(np.stack([one.astype("u1") for one in _organs(clean.glands[1])]), clean.scans[1].affine),
        keys=segment_keys([("Prostate", 1, 0), ("Bladder", 1, 1)]),
    ),
    done("A", "B"),
    refused("Prostate.*Bladder", done=("A",)),
)
evaluated(
    "evaluate-organs",
    "a .seg.nrrd of Prostate and Bladder",
    lambda folder, clean: save_nrrd(
        folder / "B.seg.nrrd",
        Volume(_labelled(_organs)(clean.glands[1]), clean.scans[1].affine),
        keys=segment_keys([("Prostate", 1, 0), ("Bladder", 2, 0)]),
    ),
    done("A", "B"),
    refused("Bladder", done=("A",)),
)
for _ending in ("_seg", "_mask", "-label", "_segmentation", ".seg"):
    evaluated(
        f"evaluate-named-{spelled(_ending)}",
        f"a prediction called B{_ending}",
        lambda folder, clean, ending=_ending: save_nrrd(folder / f"B{ending}.nrrd", clean.mask(1)),
    )
evaluated(
    "evaluate-empty",
    "an empty prediction: compared, with Dice 0",
    lambda folder, clean: save_nifti(
        folder / "B.nii.gz", clean.mask(1).with_voxels(np.zeros_like(clean.mask(1).voxels))
    ),
    dice=(0.0, 0.0),
)
