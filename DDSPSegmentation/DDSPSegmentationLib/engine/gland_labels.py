"""Which of the labels in a mask are the prostate: by their names where a file gives names, never by a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError
from .image_headers import text_header

SHOWN_NAMES = 6
GIVE_GLAND = "Give a mask of the prostate alone, or call its label 'prostate' (or its zones PZ, TZ, CZ and AFS)."

_GLAND = {
    "prostate", "prostate gland", "whole gland", "whole prostate", "prostate whole gland", "wg", "gland", "prostata",
}  # fmt: skip
_ZONES = {
    "pz", "tz", "cz", "cg", "afs", "afms", "peripheral zone", "transition zone", "transitional zone", "central zone",
    "central gland", "inner gland", "anterior fibromuscular stroma", "peripheral", "transition", "transitional",
}  # fmt: skip
_OF_PROSTATE = re.compile(r"\b(of (the )?)?prostat(e|ic)\b")
_LEFT_OUT = {"background", "ignore", "unlabeled", "unlabelled", "void", "none", ""}
_OTHER_STRUCTURES = re.compile(
    r"bladder|blase|vessie|rectum|rektum|bowel|urethra|lesion|tumou?r|cancer|carcinoma|cyst|seminal|vesicle|muscle"
    r"|bone|femur|femoral|pelvis|sacrum|vessel|artery|vein|nerve|bundle|lymph|node|needle|catheter|coil|body|fat"
)
_SEGMENT = re.compile(r"segment(\d+)_(name|labelvalue|layer)")


@dataclass(frozen=True)
class Label:
    """One structure of a mask: its name, the values that its voxels have, and in which layer of the file they lie."""

    name: str
    values: tuple[int, ...]
    layer: int = 0


def chosen_labels(labels: list[Label], title: str) -> list[Label]:
    """The labels that are the prostate: called so, else its zones, else the only one unless called otherwise.

    Args:
        title: what a message calls the mask.

    Raises:
        InputError: none is called so; the names are told.
    """
    named = [label for label in labels if _plain(label.name) not in _LEFT_OUT]
    glands = [label for label in named if _plain(label.name) in _GLAND]
    zones = [label for label in named if _OF_PROSTATE.sub("", _plain(label.name)).strip() in _ZONES]
    if glands or zones:
        return glands or zones
    if len(named) == 1 and not _OTHER_STRUCTURES.search(_plain(named[0].name)):
        return named
    if not named:
        raise InputError(f"Mask '{title}' names no structure.", GIVE_GLAND)
    names = ", ".join(label.name for label in named[:SHOWN_NAMES])
    more = f" and {len(named) - SHOWN_NAMES} more" if len(named) > SHOWN_NAMES else ""
    raise InputError(f"Mask '{title}' holds {names}{more}, and none of them is called the prostate.", GIVE_GLAND)


def segments_of(path: Path) -> list[Label]:
    """The segments that the header of an NRRD file tells of, as Slicer writes them; none in other files."""
    if not path.name.lower().endswith((".nrrd", ".nhdr")):
        return []
    told: dict[int, dict[str, str]] = {}
    for key, value in text_header(path, ":")[0].items():
        if match := _SEGMENT.fullmatch(key):
            told.setdefault(int(match[1]), {})[match[2]] = value.removeprefix("=").strip()
    labels = []
    for number, facts in sorted(told.items()):
        value, layer = (facts.get(key, usual) for key, usual in (("labelvalue", "1"), ("layer", "0")))
        if not (value.lstrip("-").isdigit() and layer.isdigit()):
            raise InputError(f"Segment {number} of '{path.name}' has no label value.", "Save the segmentation again.")
        labels.append(Label(facts.get("name", ""), (int(value),), int(layer)))
    return labels


def labels_in_description(values: object) -> list[Label]:
    """``labels`` of a dataset.json: names by value (Decathlon), or values by name, lists for regions (nnU-Net)."""
    if not isinstance(values, Mapping):
        return []
    labels = []
    for key, value in values.items():
        if isinstance(value, str):
            labels.append(Label(value, (int(key),)))
        else:
            labels.append(Label(str(key), tuple(map(int, value if isinstance(value, list) else [value]))))
    return labels


def inside(voxels: np.ndarray, labels: list[Label]) -> np.ndarray:
    """Where a mask (z, y, x, or z, y, x, layer) has one of the labels; bool (z, y, x)."""
    layers = voxels[..., None] if voxels.ndim == 3 else voxels
    result = np.zeros(layers.shape[:3], bool)
    for label in labels:
        result |= np.isin(layers[..., label.layer], label.values)
    return result


def _plain(name: str) -> str:
    """A name in lower case, with its separators and the additions of some tools taken out."""
    words = re.sub(r"[\s_\-.]+", " ", name).strip().lower()
    return re.sub(r"^(segment|label|mask) | (segmentation|segment|mask|label|\d+)$", "", words)
