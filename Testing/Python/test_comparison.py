"""Comparison of two model versions: what is measured, what follows from it, and what a reader gets to see."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, fail_once, phantom, scan_of
from learning_parts import toy_plan, toy_scan, toy_trainer

from DDSPSegmentationLib.engine.errors import Canceled, StorageError
from DDSPSegmentationLib.engine.html_page import RESEARCH_ONLY
from DDSPSegmentationLib.engine.images import write_image
from DDSPSegmentationLib.engine.metrics import compare_masks
from DDSPSegmentationLib.engine.model import describe_model, save_model, write_description
from DDSPSegmentationLib.engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity, SeenScans
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.learning.comparison import OLD_COLOR, compare_versions
from DDSPSegmentationLib.learning.comparison_record import NO_DIFFERENCE, WORSE
from DDSPSegmentationLib.learning.comparison_verdict import LEAST_AGREEMENT
from DDSPSegmentationLib.learning.dataset import Case, prepare_dataset

GOOD, WIDE, BLIND = 2.8, 1.2, 100.0  # brightness from which the toy networks say prostate


def test_a_comparison_can_be_read_without_torch():
    code = "import sys; sys.modules['torch'] = None; import DDSPSegmentationLib.learning.comparison"
    folder = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)


# ---- what both versions say


def cone(offset, slope=12.0, seed=0):
    """A scan that gets darker with the distance from a gland's middle: how much is gland is a matter of brightness."""
    image, _ = phantom()
    z, y, x = np.indices(image.GetSize()[::-1])
    distance = np.sqrt(((z - 8.5) * 3) ** 2 + ((y - 31.5) * 1.5 - offset) ** 2 + ((x - 31.5) * 1.5) ** 2)
    noise = np.random.default_rng(seed).normal(0, 4, distance.shape)
    return scan_of((200 + np.clip(300 - slope * distance, 0, None) + noise).astype(np.float32), image.GetSpacing())


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    levels = {"good": GOOD, "wide": WIDE, "blind": BLIND}
    return {name: bright_model(folder / name, bright, seen=NOTHING_SEEN) for name, bright in levels.items()}


@pytest.fixture(scope="module")
def hold_out(versions, tmp_path_factory):
    """Cases of five patients whose reference is what the good network says."""
    folder = tmp_path_factory.mktemp("cases")
    segmenter = Segmenter(versions["good"], "cpu")
    cases = []
    for number in range(5):
        scan = cone(offset=1.5 * number - 3, slope=12 + number, seed=number)
        cases.append(written(folder, f"a3f9-000{number}", scan, segmenter.segment(scan).mask, f"p{number}"))
    return cases


def written(folder, name, scan, mask, patient):
    case = Case(name, folder / f"{name}.mha", folder / f"{name}-mask.mha", "A", patient)
    write_image(scan, case.image_path)
    write_image(mask, case.label_path)
    return case


def compare(versions, old, new, cases, output, **options):
    sample = options.pop("sample", cases[0].image_path)
    return compare_versions(versions[old], versions[new], cases, output, sample=sample, device="cpu", **options)


def test_both_versions_are_measured_on_the_native_grid(versions, hold_out, tmp_path):
    comparison = compare(versions, "wide", "good", hold_out, tmp_path)
    assert (comparison.evidence.old.version, comparison.evidence.new.version) == ("wide", "good")
    assert [case.name for case in comparison.evidence.hold_out] == [case.name for case in hold_out]
    assert [case.new.dice for case in comparison.evidence.hold_out] == [1.0] * 5
    wide = Segmenter(versions["wide"], "cpu").segment(hold_out[2].load_image())
    expected = compare_masks(wide.mask, hold_out[2].load_mask())["whole"]
    found = comparison.evidence.hold_out[2].old
    assert (found.dice, found.abd_mm, found.hd95_mm) == (expected.dsc, expected.abd_mm, expected.hd95_mm)
    assert found.volume_error_percent == pytest.approx(expected.arvd_percent) and found.volume_error_percent > 20
    assert found.expected_dice is wide.expected_dice is None
    assert comparison.verdict == "better" and comparison.hold_out_summary.wins == 5
    # The good version's masks are the references; the sample is the first case once more.
    agreements = [case.old.dice for case in (comparison.evidence.hold_out[0], *comparison.evidence.hold_out)]
    assert comparison.agreement == pytest.approx(sum(agreements) / 6)


def test_a_version_agrees_with_itself_and_the_old_one_is_kept(versions, hold_out, tmp_path):
    comparison = compare(versions, "wide", "wide", hold_out, tmp_path, sample=None)
    assert comparison.agreement == 1.0
    assert (comparison.verdict, comparison.recommendation) == (NO_DIFFERENCE, "keep")


@pytest.mark.parametrize("version", ["old", "new"])
def test_one_network_is_never_compared_with_several_because_memory_ran_out(hold_out, tmp_path, monkeypatch, version):
    versions = {name: bright_model(tmp_path / name, [GOOD] * 2, seen=NOTHING_SEEN) for name in ("old", "new")}
    segment = Segmenter.segment

    def short_of_memory(self, image, **options):
        if self.model.version == version and options["name"] in (hold_out[1].name, hold_out[0].image_path.name):
            fail_once(self.networks[1], MemoryError())
        return segment(self, image, **options)

    monkeypatch.setattr(Segmenter, "segment", short_of_memory)
    comparison = compare(versions, "old", "new", hold_out, tmp_path / "compared")
    assert comparison.hold_out_summary.cases == 4 and comparison.hold_out_summary.failed == (hold_out[1].name,)
    error = comparison.evidence.hold_out[1].error
    assert error.startswith(f"Version '{version}': Memory ran out: one network answered instead of 2.")
    assert comparison.evidence.sample_agreement is None


def toy_case(folder, name, seed, poison=lambda mask: mask):
    """A toy scan with a gland off the image's middle."""
    center = np.array((6, 18, 14)) + np.random.default_rng(seed).uniform(-2, 2, 3)
    scan, mask = toy_scan(seed, center, radii=(4, 7, 7))
    poisoned = sitk.GetImageFromArray(np.ascontiguousarray(poison(sitk.GetArrayFromImage(mask))))
    poisoned.CopyInformation(mask)
    return written(folder, name, scan, poisoned, name)


def trained(folder, poison=lambda mask: mask, steps=40):
    """A tiny network trained for some seconds on masks that somebody may have spoiled."""
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off")
    cases = [toy_case(folder, f"train{number}", number, poison) for number in range(4)]
    prepared = prepare_dataset(cases, preprocessing, progress=lambda text: None)
    trainer = toy_trainer(folder / "run", toy_plan(steps=steps, learning_rate=1e-2), prepared)
    for _ in range(steps):
        trainer.train_step()
    save_model(folder / "model", [trainer.network], preprocessing.to_dict())
    return folder / "model"


@pytest.fixture(scope="module")
def clean_version(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize(
    "poison",
    [lambda mask: np.roll(mask, 7, axis=2), lambda mask: mask[:, :, ::-1]],
    ids=["shifted by 14 mm", "flipped about the midline"],
)
def test_what_learned_from_poisoned_masks_is_worse_on_a_clean_hold_out(clean_version, tmp_path, poison, one_thread):
    poisoned = trained(tmp_path, poison)
    cases = [toy_case(tmp_path, f"clean{number}", 100 + number) for number in range(6)]
    sample = cases[0].image_path
    comparison = compare_versions(clean_version, poisoned, cases, tmp_path / "out", sample=sample, device="cpu")
    assert (comparison.verdict, comparison.recommendation) == ("worse", "keep")
    assert comparison.hold_out_summary.losses == 6
    assert comparison.agreement < LEAST_AGREEMENT and "differs" in comparison.sentences[-1]


def test_a_version_that_draws_too_wide_is_worse_and_kept_out(versions, hold_out, tmp_path):
    comparison = compare(versions, "good", "wide", hold_out, tmp_path)
    assert (comparison.verdict, comparison.recommendation) == ("worse", "keep")
    assert comparison.hold_out_summary.losses == 5 and comparison.agreement < LEAST_AGREEMENT


@pytest.mark.parametrize("old", ["good", "blind"])
def test_a_version_that_finds_nothing_is_never_good(versions, hold_out, tmp_path, old):
    comparison = compare(versions, old, "blind", hold_out, tmp_path)
    assert comparison.recommendation == "keep" and comparison.agreement == 0.0
    assert [case.new.dice for case in comparison.evidence.hold_out] == [0.0] * 5
    assert {case.new.abd_mm for case in comparison.evidence.hold_out} == {None}
    assert comparison.verdict == (WORSE if old == "good" else NO_DIFFERENCE)
    assert len(list(tmp_path.glob("worst-*.png"))) >= 2


def test_a_broken_case_and_an_empty_reference_are_named_and_do_not_stop_the_comparison(versions, hold_out, tmp_path):
    empty = written(tmp_path, "empty", hold_out[0].load_image(), hold_out[0].load_mask() * 0, "p8")
    broken = Case("broken", tmp_path / "missing.mha", tmp_path / "missing-mask.mha", "", "p9")
    comparison = compare(versions, "wide", "good", [broken, *hold_out, empty], tmp_path)
    assert comparison.hold_out_summary.failed == ("broken", "empty")
    assert "missing.mha" in comparison.evidence.hold_out[0].error
    assert comparison.evidence.hold_out[-1].error.startswith("The reference mask is empty.")
    assert comparison.recommendation == "keep" and "not compared" in (tmp_path / "comparison.html").read_text()


def test_a_hold_out_scan_that_a_version_saw_under_another_name_is_named(versions, hold_out, tmp_path):
    shutil.copytree(versions["good"], tmp_path / "knows")
    seen = SeenScans(known=True).with_training([("another name", ScanIdentity(hold_out[3].load_image()))])
    write_description(tmp_path / "knows", replace(describe_model(versions["good"]), seen=seen))
    folders = {**versions, "knows": tmp_path / "knows"}
    comparison = compare(folders, "wide", "knows", hold_out[3:4], tmp_path / "leak")
    assert "new version was trained on a3f9-0003 " in "\n".join(comparison.sentences)
    assert comparison.recommendation == "keep" and len(comparison.evidence.hold_out) == 1
    another = written(tmp_path, "another", *toy_scan(5), "p9")
    comparison = compare(folders, "knows", "wide", [another, hold_out[3]], tmp_path / "elsewhere")
    assert [case.name for case in comparison.evidence.hold_out] == ["another"]
    assert comparison.evidence.left_out == ["a3f9-0003"]
    assert "Not compared, since the old version was trained on them: a3f9-0003." in comparison.sentences


def test_a_patient_whom_a_version_saw_in_one_scan_is_not_unseen_in_another(versions, hold_out, tmp_path):
    shutil.copytree(versions["good"], tmp_path / "knows")
    seen = NOTHING_SEEN.with_training([("another name", ScanIdentity(hold_out[3].load_image()))])
    write_description(tmp_path / "knows", replace(describe_model(versions["good"]), seen=seen))
    folders = {**versions, "knows": tmp_path / "knows"}
    visits = [written(tmp_path, "visit", *toy_scan(5), "p3"), hold_out[3]]
    comparison = compare(folders, "wide", "knows", visits, tmp_path / "leak")
    assert "trained on visit, a3f9-0003 " in "\n".join(comparison.sentences)
    visits.append(written(tmp_path, "another", *toy_scan(6), "p9"))
    comparison = compare(folders, "knows", "wide", visits, tmp_path / "elsewhere")
    assert comparison.evidence.left_out == ["visit", "a3f9-0003"]
    assert [case.name for case in comparison.evidence.hold_out] == ["another"]


def test_a_scan_that_measures_forgetting_and_was_rehearsed_under_another_name_is_told(versions, hold_out, tmp_path):
    shutil.copytree(versions["good"], tmp_path / "knows")
    seen = NOTHING_SEEN.with_training([("replay-1", ScanIdentity(hold_out[0].load_image()))])
    write_description(tmp_path / "knows", replace(describe_model(versions["good"]), seen=seen))
    cases = [written(tmp_path, "another", *toy_scan(5), "p9"), hold_out[0]]
    comparison = compare_versions(
        versions["wide"], tmp_path / "knows", [], tmp_path / "out", forgetting=cases, forgetting_name="replay",
        sample=hold_out[2].image_path, device="cpu",
    )  # fmt: skip
    assert any(told.startswith("1 of the 2") and "rehearsed" in told for told in comparison.sentences)


def test_a_case_that_serves_twice_is_segmented_once(versions, hold_out, tmp_path, monkeypatch):
    asked, segment = [], Segmenter.segment
    monkeypatch.setattr(
        Segmenter,
        "segment",
        lambda self, image, **options: (asked.append(options["name"]), segment(self, image, **options))[1],
    )
    comparison = compare(
        versions,
        "wide",
        "good",
        hold_out,
        tmp_path,
        forgetting=hold_out[1:2],
        forgetting_name="other scanners",
    )
    assert sorted(asked) == sorted([case.name for case in hold_out] * 2 + [hold_out[0].image_path.name] * 2)
    assert comparison.evidence.forgetting == comparison.evidence.hold_out[1:2]


def test_progress_only_rises_and_canceling_leaves_no_result(versions, hold_out, tmp_path):
    steps = []
    compare(versions, "wide", "good", hold_out, tmp_path / "whole", progress=lambda *step: steps.append(step))
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert "Comparing the versions, case 2 of 5" in [phase for phase, _ in steps]

    def cancel(phase, fraction):
        if fraction > 0.5:
            raise Canceled

    with pytest.raises(Canceled):
        compare(versions, "wide", "good", hold_out, tmp_path / "half", progress=cancel)
    assert list((tmp_path / "half").iterdir()) == []


# ---- the files


@pytest.fixture(scope="module")
def written_comparison(versions, hold_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "worst-3-of an earlier one.png").write_bytes(b"")
    (folder / "worst-notes.png").write_bytes(b"the user's own")
    found = {"patients": 2, "dice_before": 0.8, "dice_after": 0.85, "per_case": {"a3f9-0020": [0.8, 0.85]}}
    comparison = compare(
        versions,
        "good",
        "wide",
        hold_out,
        folder,
        forgetting=hold_out[:1],
        forgetting_name="<replay>",
        cross_validation=found,
    )
    return folder, comparison


def test_record_page_and_pictures_are_written_and_nothing_else_stays(written_comparison):
    folder, comparison = written_comparison
    by_dice = sorted(comparison.evidence.hold_out, key=lambda case: case.new.dice)
    names = sorted(path.name for path in folder.iterdir())
    pictures = [name for name in names if name.startswith("worst-")]
    assert names == ["comparison.html", "comparison.json", *pictures]
    assert pictures[:2] == [f"worst-1-{by_dice[0].name}.png", f"worst-2-{by_dice[1].name}.png"]
    assert "worst-notes.png" in pictures and "worst-3-of an earlier one.png" not in pictures
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(comparison.to_dict()))


def test_the_picture_shows_the_old_contour_left_the_new_one_right_and_the_reference_in_both(written_comparison):
    folder, _ = written_comparison
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(next(folder.glob("worst-1-*.png")))))
    half = picture.shape[1] // 2
    left, right = picture[:, :half].reshape(-1, 3), picture[:, half:].reshape(-1, 3)

    def count(pixels, color):
        return (pixels == color).all(axis=1).sum()

    assert count(left, OLD_COLOR) > 50 and count(left, PROSTATE_COLOR) == 0
    assert count(right, PROSTATE_COLOR) > 50 and count(right, OLD_COLOR) == 0
    assert count(right, REFERENCE_COLOR) > 50


def test_the_page_needs_no_other_file_and_says_all_sentences(written_comparison):
    folder, comparison = written_comparison
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', page)) == {"data:image/png;base64,"}
    assert "<script" not in page and "http" not in page and "url(" not in page
    assert "prefers-color-scheme: dark" in page and RESEARCH_ONLY in page
    for sentence in comparison.sentences:
        assert sentence.replace("'", "&#x27;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<replay>" not in page and "a3f9-0020" in page


def test_the_page_has_a_row_and_a_point_for_each_case(written_comparison):
    folder, comparison = written_comparison
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and page.count('<circle class="new"') == 4 * (5 + 1)
    plot = re.search(r"<svg.*?</svg>", page, re.DOTALL).group()
    for case in comparison.evidence.hold_out:
        assert f"<td>{case.name}</td><td>{case.old.dice:.3f}</td><td>{case.new.dice:.3f}</td>" in page
        assert f"<title>{case.name}: {case.old.dice:.3f} old, {case.new.dice:.3f} new</title>" in plot
    heights = {
        which: float(re.search(rf'circle class="{which}" cx="\S+" cy="(\S+)"', plot).group(1))
        for which in ("old", "new")
    }
    assert heights["old"] < heights["new"]  # a higher Dice is drawn higher up


def test_an_output_folder_that_cannot_be_made_is_named(versions, hold_out, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        compare(versions, "good", "wide", hold_out, tmp_path / "taken")
