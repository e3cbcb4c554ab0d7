"""Which DICOM files are the slices of one scan: screenshots among them are none, and archives split scans up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..engine.images import MINIMUM_SLICES
from .dicom_files import DicomFile

UNEVEN_SPACING = 0.01
ROUNDED_STEP_MM = 0.11  # by so much steps differ where positions were rounded to tenths of a millimetre
MOST_SLICES_LOST = 2


def strays_among(files: Sequence[DicomFile]) -> list[DicomFile]:
    """Images under the UID of a series that are no slices of it, as workstations leave their screenshots.

    That is color, secondary capture, and what has neither a place nor the matrix of the slices that have one. A slice
    that merely lost its place is none: the series lacks it. Empty where no slice would be left.
    """
    slices = [file for file in files if not (file.color or file.capture)]
    sizes = {file.size for file in slices if file.position}
    slices = [file for file in slices if file.position or file.size in sizes or not sizes]
    among = set(map(id, slices))
    kept = [file for file in files if not file.readable or id(file) in among]
    if len(kept) == len(files) or not any(file.readable for file in kept):
        return []
    return [file for file in files if file.readable and id(file) not in among]


def joined_series(scans: Mapping[str, Sequence[DicomFile]]) -> list[tuple[str, ...]]:
    """The UIDs of each scan: one, or those of series that were one before something gave its parts their own.

    Parts are of one study, frame of reference, name and grid, and lie in one even stack without a place taken twice;
    up to ``MOST_SLICES_LOST`` between two neighbors may be lost, so that loading the whole refuses it for the gap.
    """
    alike: dict[object, list[str]] = {}
    for uid, files in scans.items():
        alike.setdefault(_kind(uid, files), []).append(uid)
    joined: list[tuple[str, ...]] = []
    for uids in alike.values():
        if len(uids) > 1 and _is_one_stack([scans[uid] for uid in uids]):
            joined.append(tuple(sorted(uids)))
        else:
            joined += [(uid,) for uid in uids]
    place = {uid: number for number, uid in enumerate(scans)}
    return sorted(joined, key=lambda uids: min(place[uid] for uid in uids))


def files_of_scan(chosen: DicomFile, files: Iterable[DicomFile]) -> list[DicomFile]:
    """All files of the scan that one of them belongs to, with what else has the UIDs of its series."""
    groups: dict[str, list[DicomFile]] = {}
    for file in files:
        groups.setdefault(file.series, []).append(file)
    slices = {uid: [file for file in group if file not in strays_among(group)] for uid, group in groups.items() if uid}
    uids = next(uids for uids in joined_series(slices) if chosen.series in uids)
    return [file for uid in uids for file in groups[uid]]


def doubts_about_parts(files: Iterable[DicomFile]) -> list[str]:
    """A sentence on a scan whose slices came in several series."""
    count = len({file.series for file in files})
    words = (
        f"Its slices came as {count} series (SeriesInstanceUID) and were put together: see whether they are one scan."
    )
    return [words] if count > 1 else []


def _kind(uid: str, files: Sequence[DicomFile]) -> object:
    """Alike in all series that may be parts of one; of no other's where a file does not say enough."""
    placed = [file for file in files if file.position and file.orientation and file.spacing and file.frames == 1]
    if not placed or not placed[0].room[0]:
        return uid
    first = placed[0]
    orientation, spacing = tuple(np.round(first.orientation, 3)), tuple(np.round(first.spacing, 4))
    return first.room, first.facts, first.echo_number, first.size, orientation, spacing


def _is_one_stack(parts: Iterable[Sequence[DicomFile]]) -> bool:
    parts = [[file for file in files if file.position and file.orientation] for files in parts]
    normal = parts[0][0].axes[2]
    steps = np.diff(np.sort([float(normal @ file.position) for files in parts for file in files]))
    usual = float(np.median(steps))
    if steps.min() <= max(0.01, UNEVEN_SPACING * usual):
        return False  # the same place again: another acquisition
    if max(map(len, parts)) < MINIMUM_SLICES:
        return True  # none is a scan of its own
    whole = np.rint(steps / usual)
    uneven = np.abs(steps - whole * usual).max() > max(UNEVEN_SPACING * usual, ROUNDED_STEP_MM)
    return not uneven and 1 <= whole.min() and whole.max() <= 1 + MOST_SLICES_LOST
