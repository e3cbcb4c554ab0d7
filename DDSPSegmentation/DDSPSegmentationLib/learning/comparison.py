"""Old model version against new: both segment the same unseen cases, and what they disagree about is written down."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ..engine.bundled_scan import bundled_scan_file as sample_scan
from ..engine.errors import DatasetError, InputError
from ..engine.files import make_folder, write_json, write_text
from ..engine.images import read_image
from ..engine.metrics import compare_masks
from ..engine.model import describe_model
from ..engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR, Color, contour_mosaic, write_png
from ..engine.scan_identity import ScanIdentity
from .comparison_record import TIE, ComparedCase, Evidence, Figures
from .comparison_report import REPORT_FILE, comparison_page
from .comparison_verdict import Comparison
from .dataset import Case

if TYPE_CHECKING:
    from ..engine.segmentation import Segmentation

COMPARISON_FILE = "comparison.json"
OLD_COLOR: Color = (240, 100, 220)
SHOWN_WORST, SHOWN_LOSERS, SHOWN_SLICES = 2, 2, 6
_GAP_PIXELS = 24

Progress = Callable[[str, float], None]
Segment = Callable[[sitk.Image, str, str], "list[Segmentation]"]


@dataclass(frozen=True)
class _Masks:
    """What a picture needs of a case beside the scan itself."""

    case: Case
    figures: ComparedCase
    old: sitk.Image
    new: sitk.Image


def compare_versions(
    old: Path,
    new: Path,
    hold_out: Sequence[Case],
    output: Path,
    *,
    forgetting: Sequence[Case] = (),
    sample: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **known: Any,
) -> Comparison:
    """Compare two model versions on cases neither was trained on; see ``comparison_verdict`` for what follows from it.

    What a version was trained on is told by the scans themselves, and holds for all cases of a patient: a hold-out
    case of a patient whom the old version has seen is left out, one that only the new version has seen stands against
    it.

    Both segment every scan on its native grid, in mode standard. Writes worst-*.png (the old version's contour on the
    left, the new one's on the right, the reference in both), comparison.html, and comparison.json last.

    Args:
        old, new: model folders.
        hold_out: cases that steered nothing; those of one patient count as one.
        output: folder, made when missing; files of an earlier comparison in it are replaced.
        forgetting: cases of what the old version was good at; may share cases with the hold-out.
        sample: one more scan that both segment, to see how far they differ; None is the bundled one.
        progress: called with (phase, fraction); raising Canceled in it ends the work.
        known: what is known beforehand, see ``Evidence``: ``forgetting_name``, ``comparisons``, ``old_masks``,
            ``cross_validation``.

    Raises:
        ModelError, DeviceError: a version or the device cannot be used; StorageError; Canceled.
        A case that cannot be read or segmented is named in the comparison and stands against the new version, and so
        is one in which memory ran out: one network is not compared with several.
    """
    output = Path(output)
    make_folder(output)
    cases = list(dict.fromkeys([*hold_out, *forgetting]))
    notify = progress or (lambda phase, fraction: None)
    notify("Loading both versions", 0.0)
    segment = _load_both(old, new, device, notify, len(cases) + 1)
    old_version, new_version = describe_model(old), describe_model(new)
    scans = _recognized(hold_out, notify)
    old_patients, new_patients = (
        {patient for patient, scan in scans if version.was_trained_on(scan)} for version in (old_version, new_version)
    )
    found: dict[Case, ComparedCase] = {}
    seen: list[str] = []
    rehearsed: list[str] = []
    left_out: list[str] = []
    shown: list[_Masks] = []
    for number, case in enumerate(cases, start=1):
        phase = f"Comparing the versions, case {number} of {len(cases)}"
        try:
            image, reference = case.load_image(), case.load_mask()
            if case in hold_out and _patient(case) in old_patients:
                left_out.append(case.name)
                continue
            if case in hold_out and _patient(case) in new_patients:
                seen.append(case.name)
            if case in forgetting and new_version.seen.last_training.find(ScanIdentity(image)):
                rehearsed.append(case.name)
            before, after = segment(image, case.name, phase)
            figures = _figures(before, reference), _figures(after, reference)
            found[case] = ComparedCase(case.name, case.patient, case.center, *figures, _agreement(before, after))
        except (InputError, DatasetError) as error:
            found[case] = ComparedCase(case.name, case.patient, case.center, error=str(error))
            continue
        if case in hold_out:
            shown = _worth_showing([*shown, _Masks(case, found[case], before.mask, after.mask)])
    evidence = Evidence(
        old=old_version,
        new=new_version,
        hold_out=[found[case] for case in hold_out if case in found],
        forgetting=[found[case] for case in forgetting if case in found],
        seen=seen,
        rehearsed=rehearsed,
        left_out=left_out,
        sample_agreement=_sample_agreement(segment, sample_scan() if sample is None else Path(sample)),
        **known,
    )
    comparison = Comparison(evidence)
    _write(comparison, shown, output)
    notify("Compared", 1.0)
    return comparison


def _patient(case: Case) -> str:
    return case.patient or case.name


def _recognized(cases: Sequence[Case], notify: Progress) -> list[tuple[str, ScanIdentity]]:
    """Patient and identity of each scan; one that cannot be read is named later."""
    scans = []
    for case in cases:
        notify("Looking for scans that a version was trained on", 0.0)
        with suppress(InputError, DatasetError):
            scans.append((_patient(case), ScanIdentity(case.load_image()).without_image()))
    return scans


def _load_both(old: Path, new: Path, device: str, notify: Progress, scans: int) -> Segment:
    """Load both versions; what comes back gives the answers of the old one and of the new one to a scan.

    Args:
        scans: how many they will segment, for the progress.
    """
    from ..engine.segmenter import ONE_ALONE, Segmenter

    segmenters, done = (Segmenter(old, device), Segmenter(new, device)), 0

    def segment(image: sitk.Image, name: str, phase: str) -> list[Segmentation]:
        return [answer(segmenter, image, name, phase) for segmenter in segmenters]

    def answer(segmenter: Segmenter, image: sitk.Image, name: str, phase: str) -> Segmentation:
        """The engine's own steps are passed on, so that a cancellation need not wait for the end of a scan."""
        nonlocal done
        share, done = done / (2 * scans), done + 1
        said = segmenter.segment(image, name=name, progress=lambda *_: notify(phase, share))
        alone = ONE_ALONE.format(asked=len(segmenter.networks))
        if alone in said.notices:
            raise InputError(
                f"Version '{segmenter.model.version}': {alone}", "Close other programs, then compare again."
            )
        return said

    return segment


def _figures(segmentation: Segmentation, reference: sitk.Image) -> Figures:
    expected = int(np.count_nonzero(sitk.GetArrayViewFromImage(reference)))
    if not expected:
        raise DatasetError("The reference mask is empty.", "Correct the case, or take it out.")
    whole = compare_masks(segmentation.mask, reference)["whole"]
    predicted = int(np.count_nonzero(sitk.GetArrayViewFromImage(segmentation.mask)))
    return Figures(
        dice=whole.dsc,
        abd_mm=_finite(whole.abd_mm),
        hd95_mm=_finite(whole.hd95_mm),
        volume_error_percent=100 * (predicted / expected - 1),
        expected_dice=segmentation.expected_dice and segmentation.expected_dice.value,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _agreement(before: Segmentation, after: Segmentation) -> float:
    """Dice of the new mask with the old one; 0 where the new one is empty, even if the old one is empty too."""
    is_empty = not sitk.GetArrayViewFromImage(after.mask).any()
    return 0.0 if is_empty else compare_masks(after.mask, before.mask)["whole"].dsc


def _sample_agreement(segment: Segment, sample: Path) -> float | None:
    try:
        image = read_image(sample)
        return _agreement(*segment(image, sample.name, "Comparing the versions on the sample scan"))
    except InputError:
        return None


def _worth_showing(candidates: Sequence[_Masks]) -> list[_Masks]:
    """The lowest Dice of the new version first, then its largest losses against the old one, no case twice."""
    worst = sorted(candidates, key=lambda masks: masks.figures.new.dice)[:SHOWN_WORST]
    losers = [masks for masks in candidates if masks.figures.gain < -TIE]
    losers = sorted(losers, key=lambda masks: masks.figures.gain)[:SHOWN_LOSERS]
    return [*worst, *(masks for masks in losers if masks not in worst)]


def _write(comparison: Comparison, shown: Sequence[_Masks], folder: Path) -> None:
    for name in (COMPARISON_FILE, REPORT_FILE):
        (folder / name).unlink(missing_ok=True)
    for earlier in folder.glob("worst-[0-9]-*.png"):
        earlier.unlink(missing_ok=True)
    pictures = {}
    for rank, masks in enumerate(shown, start=1):
        path = folder / f"worst-{rank}-{re.sub(r'[^A-Za-z0-9.-]', '_', masks.case.name)[:40]}.png"
        _draw_side_by_side(masks, path)
        pictures[path] = masks.figures
    colors = {"old version": OLD_COLOR, "new version": PROSTATE_COLOR, "reference": REFERENCE_COLOR}
    write_text(comparison_page(comparison, pictures, colors), folder / REPORT_FILE)
    write_json(comparison.to_dict(), folder / COMPARISON_FILE)


def _draw_side_by_side(masks: _Masks, path: Path) -> None:
    image, reference = masks.case.load_image(), masks.case.load_mask()
    halves = [
        contour_mosaic(image, [(reference, REFERENCE_COLOR), (mask, color)], SHOWN_SLICES)
        for mask, color in ((masks.old, OLD_COLOR), (masks.new, PROSTATE_COLOR))
    ]
    gap = np.full((halves[0].shape[0], _GAP_PIXELS, 3), 128, np.uint8)
    write_png(np.concatenate((halves[0], gap, halves[1]), axis=1), path)
