"""Evaluation on made-up glands: rows, summaries, pictures, and what happens to cases that cannot be compared."""

import csv
import math
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import Canceled, DatasetError, InputError, StorageError
from DDSPSegmentationLib.engine.images import write_image
from DDSPSegmentationLib.engine.metrics import METRICS, REGIONS, compare_masks, promise12_style_score
from DDSPSegmentationLib.engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR
from DDSPSegmentationLib.engine.segmentation import EXPECTED_COLUMNS, ExpectedDice, Segmentation, measure_gland
from DDSPSegmentationLib.learning.evaluation import (
    FailedCase,
    evaluate_folders,
    evaluate_model,
    evaluate_predictions,
)
from DDSPSegmentationLib.learning.statistics import mean_interval


def gland(shift=0.0, radius=9.0, size=(40, 36, 12)):
    """A mask of an ellipsoid, moved ``shift`` voxels to the left."""
    z, y, x = np.ogrid[: size[2], : size[1], : size[0]]
    inside = ((x - 20 - shift) / radius) ** 2 + ((y - 18) / radius) ** 2 + ((z - 6) / 4.5) ** 2 <= 1
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.SetSpacing((2.0, 2.0, 3.0))
    return mask


def scan(seed=0):
    values = np.random.default_rng(seed).normal(100, 20, (12, 36, 40)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((2.0, 2.0, 3.0))
    return image


def cases_of(shifts, centers=None, image=None):
    centers = centers or [""] * len(shifts)
    return [
        (f"Case{number:02d}", center, image, gland(shift), gland(), {"expected_dice": 0.9})
        for number, (shift, center) in enumerate(zip(shifts, centers, strict=True))
    ]


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary_row(folder, group, measure):
    found = [row for row in rows_of(folder / "summary.csv") if row["group"] == group and row["measure"] == measure]
    assert len(found) == 1, (group, measure)
    return found[0]


def test_each_case_has_a_row_with_all_measures_and_the_score(tmp_path):
    evaluate_predictions(cases_of([0, 2], ["A", "B"]), tmp_path)
    rows = rows_of(tmp_path / "cases.csv")
    assert [(row["case"], row["center"], row["error"]) for row in rows] == [("Case00", "A", ""), ("Case01", "B", "")]
    wanted = compare_masks(gland(2), gland())
    for region in REGIONS:
        for metric in METRICS:
            assert float(rows[1][f"{region}_{metric}"]) == pytest.approx(getattr(wanted[region], metric), rel=1e-5)
    assert float(rows[1]["score"]) == pytest.approx(promise12_style_score(wanted), rel=1e-5)
    assert float(rows[1]["expected_dice"]) == 0.9
    assert float(rows[1]["reference_ml"]) == pytest.approx(measure_gland(gland()).volume_ml, rel=1e-5)
    assert float(rows[0]["score"]) == 100


def test_without_expected_dice_there_is_no_such_column(tmp_path):
    evaluate_predictions([("Case00", "", None, gland(), gland(), {})], tmp_path)
    assert "expected_dice" not in rows_of(tmp_path / "cases.csv")[0]
    assert not any(row["measure"] == "expected_dice" for row in rows_of(tmp_path / "summary.csv"))


def test_the_summary_has_the_statistics_of_all_cases_and_of_each_center(tmp_path):
    shifts, centers = [0, 1, 2, 3, 5], ["A", "A", "B", "B", "B"]
    summary = evaluate_predictions(cases_of(shifts, centers), tmp_path)
    dice = np.array([result.dice for result in summary.results])
    for group, members in (("overall", dice), ("A", dice[:2]), ("B", dice[2:])):
        row = summary_row(tmp_path, group, "whole_dsc")
        assert int(row["cases"]) == members.size
        assert float(row["mean"]) == pytest.approx(members.mean(), rel=1e-5)
        assert float(row["sd"]) == pytest.approx(members.std(ddof=1), rel=1e-5)
        assert float(row["median"]) == pytest.approx(np.median(members), rel=1e-5)
        assert float(row["min"]) == pytest.approx(members.min(), rel=1e-5)
        assert float(row["max"]) == pytest.approx(members.max(), rel=1e-5)
        interval = mean_interval(members)
        assert [row["ci95_low"], row["ci95_high"]] == (
            ["", ""] if interval is None else [f"{end:.6g}" for end in interval]
        )
    assert {row["group"] for row in rows_of(tmp_path / "summary.csv")} == {"overall", "A", "B"}


def test_several_scans_of_a_patient_count_as_one_in_mean_and_interval(tmp_path):
    shifts, patients = [0, 6, 6, 6, 1, 2, 3], ["P0", "P1", "P1", "P1", "P2", "P3", "P4"]
    cases = [
        AReference(f"Case{n}", "A", patient, shift)
        for n, (shift, patient) in enumerate(zip(shifts, patients, strict=True))
    ]
    summary = evaluate_model(an_answer, cases, tmp_path)
    dice = np.array([result.dice for result in summary.results])
    by_patient = [dice[0], dice[1:4].mean(), *dice[4:]]
    found = summary.statistics["overall"]["whole_dsc"]
    assert (found.cases, found.minimum) == (7, dice[1]) and found.mean == pytest.approx(np.mean(by_patient))
    assert found.sd == pytest.approx(np.std(by_patient, ddof=1))
    assert (found.low, found.high) == pytest.approx(mean_interval(by_patient))


def test_the_same_cases_give_the_same_files(tmp_path):
    for folder in ("one", "two"):
        evaluate_predictions(cases_of([0, 0.7, 1, 1.6, 2.2, 3, 4.1, 5, 6.3]), tmp_path / folder)
    for name in ("cases.csv", "summary.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_single_case_has_no_spread_and_no_interval(tmp_path):
    evaluate_predictions(cases_of([1]), tmp_path)
    row = summary_row(tmp_path, "overall", "whole_dsc")
    assert row["cases"] == "1" and row["sd"] == row["ci95_low"] == row["ci95_high"] == ""


def test_a_case_kept_apart_is_in_no_mean_and_has_its_own_row(tmp_path):
    cases = cases_of([0, 1, 6], ["A", "A", "A"])
    summary = evaluate_predictions(cases, tmp_path, apart={"Case02": "315 ml"})
    dice = [result.dice for result in summary.results]
    assert summary.statistics["overall"]["whole_dsc"].mean == pytest.approx(np.mean(dice[:2]))
    assert summary.statistics["A"]["whole_dsc"].mean == pytest.approx(np.mean(dice[:2]))
    assert float(summary_row(tmp_path, "Case02 (315 ml)", "whole_dsc")["mean"]) == pytest.approx(dice[2], rel=1e-5)
    assert rows_of(tmp_path / "cases.csv")[2]["apart"] == "315 ml"
    assert "Case02 (315 ml)" in summary.text()
    assert f"Lowest Dice: Case02 {dice[2]:.3f}" in summary.text()


def test_an_empty_prediction_counts_as_dice_zero_and_is_named_as_without_distance(tmp_path):
    empty = sitk.Image(gland()) * 0
    summary = evaluate_predictions([*cases_of([0, 1]), ("Missed", "", None, empty, gland(), {})], tmp_path)
    overall = summary.statistics["overall"]
    assert overall["whole_dsc"].cases == 3 and overall["whole_dsc"].minimum == 0
    assert overall["whole_abd_mm"].cases == 2 and overall["whole_abd_mm"].undefined == 1
    assert math.isfinite(overall["whole_abd_mm"].mean)
    assert rows_of(tmp_path / "cases.csv")[2]["whole_abd_mm"] == "inf"
    assert "Missed (whole)" in summary.text()


def test_masks_on_different_grids_are_a_row_with_the_reason_and_do_not_stop_the_run(tmp_path):
    moved = gland()
    moved.SetOrigin((0, 0, 5))
    cases = [("Moved", "A", None, moved, gland(), {}), *cases_of([1])]
    summary = evaluate_predictions(cases, tmp_path)
    rows = rows_of(tmp_path / "cases.csv")
    assert "origin 0, 0, 5" in rows[0]["error"] and "origin 0, 0, 0" in rows[0]["error"]
    assert rows[0]["whole_dsc"] == "" and float(rows[1]["whole_dsc"]) > 0.8
    assert [result.name for result in summary.failed] == ["Moved"]
    assert summary.statistics["overall"]["whole_dsc"].cases == 1
    assert f"Moved: not compared. {rows[0]['error']}" in summary.text()


def test_when_every_case_fails_the_rows_are_still_written(tmp_path):
    summary = evaluate_predictions([FailedCase("Case00", "A", "Damaged file.")], tmp_path)
    assert rows_of(tmp_path / "cases.csv")[0]["error"] == "Damaged file."
    assert "Case00" in summary.text() and "Damaged file." in summary.text()


def test_no_case_at_all_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no case"):
        evaluate_predictions([], tmp_path)


def test_the_four_worst_cases_have_pictures_the_worst_first(tmp_path):
    pytest.importorskip("matplotlib")
    evaluate_predictions(cases_of([0, 5, 1, 4, 3, 2], image=scan()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "boxplots.png",
        "cases.csv",
        "summary.csv",
        "worst-1-Case01.png",
        "worst-2-Case03.png",
        "worst-3-Case04.png",
        "worst-4-Case05.png",
    ]


def test_the_worst_picture_shows_prediction_and_reference_in_their_colors(tmp_path):
    evaluate_predictions(cases_of([4], image=scan()), tmp_path)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "worst-1-Case00.png"))).reshape(-1, 3)
    for color in (PROSTATE_COLOR, REFERENCE_COLOR):
        assert (pixels == color).all(axis=1).sum() > 50


def test_pictures_of_an_earlier_evaluation_do_not_stay(tmp_path):
    evaluate_predictions(cases_of([1, 2, 3], image=scan()), tmp_path)
    (tmp_path / "worst-notes.png").write_bytes(b"the user's own")
    evaluate_predictions(cases_of([1], image=scan()), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("worst-*")) == ["worst-1-Case00.png", "worst-notes.png"]


def test_a_name_that_is_no_file_name_still_gets_its_picture(tmp_path):
    evaluate_predictions([("../a case", "", scan(), gland(1), gland(), {})], tmp_path / "out")
    assert (tmp_path / "out" / "worst-1-.._a_case.png").is_file()


def test_box_plots_show_something_for_each_center(tmp_path):
    pytest.importorskip("matplotlib")
    cases = [*cases_of([0, 1, 2, 4], ["A", "A", "B", "B"]), FailedCase("Broken", "C", "Damaged file.")]
    summary = evaluate_predictions(cases, tmp_path, apart={"Case03": "315 ml"})
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "boxplots.png")))
    assert picture.shape[0] > 500 and picture.std() > 10
    assert not any("boxplots" in notice for notice in summary.notices)


def test_without_matplotlib_everything_but_the_box_plots_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "boxplots.png").write_bytes(b"of an earlier evaluation")
    summary = evaluate_predictions(cases_of([0, 1]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "summary.csv"]
    assert "No boxplots.png: matplotlib is not installed." in summary.text()


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        evaluate_predictions(cases_of([0]), tmp_path / "taken")


def test_the_text_says_how_good_the_expected_dice_is(tmp_path):
    answers = (0.95, 0.8, 0.7, 0.9, 0.6)
    cases = [list(case) for case in cases_of([0, 1, 6, 8, 9])]
    for case, expected in zip(cases, answers, strict=True):
        case[5] = {"expected_dice": expected}
    summary = evaluate_predictions(cases, tmp_path)
    dice = [result.dice for result in summary.results]
    assert dice[1] > 0.85 > dice[2] > dice[3] > dice[4]
    error = np.abs(np.subtract(answers, dice)).mean()
    assert f"mean absolute error {error:.3f}; below 0.85 it caught 2 of 3 cases, with 1 false alarms" in summary.text()


def test_the_text_calls_the_score_promise12_style_and_fits_a_terminal(tmp_path):
    text = evaluate_predictions(cases_of([0, 1, 2], ["A", "B", "B"]), tmp_path).text()
    assert "PROMISE12-style, not the challenge's official score" in text
    assert max(map(len, text.splitlines())) <= 120


EXPECTED = ExpectedDice(0.91234, 0.85, 0.94)
DAMAGED = InputError("The file is bad.", "Copy it again.")


@dataclass
class AReference:
    """Stands for what a dataset reader yields."""

    name: str
    center: str = "A"
    patient: str = "P1"
    shift: float = 0.0
    damaged: bool = False

    def load_image(self, doubts=None):
        if self.damaged:
            raise DAMAGED
        return scan()

    def load_mask(self, doubts=None):
        return gland(self.shift)


def an_answer(image, case=None, expected_dice=EXPECTED):
    mask = gland()
    mask.CopyInformation(image)
    empty = sitk.Cast(mask, sitk.sitkFloat32) * 0
    return Segmentation(
        mask=mask,
        probability=empty,
        uncertainty=empty,
        measurements=measure_gland(mask),
        expected_dice=expected_dice,
        features=None,
        slice_doubts=[],
        warnings=["Look again."],
        notices=[],
        seconds={"network": 1.5},
        peak_memory_mb={},
        model_version="1",
        model_sha256="",
        mode="fast",
        threshold=0.5,
        bias_field="fast",
        device="cpu",
        precision="float32",
    )


def test_what_was_assumed_of_masks_is_told_with_their_row(tmp_path):
    for folder, mask in (("predictions", gland()[:, :, 1:11]), ("references", gland())):
        (tmp_path / folder).mkdir()
        write_image(mask, tmp_path / folder / "A.nrrd")
        write_image(gland(), tmp_path / folder / "B.nrrd")
    (tmp_path / "references" / "B.nrrd").unlink()
    write_image(gland(), tmp_path / "references" / "B.nii", compress=False)
    content = bytearray((tmp_path / "references" / "B.nii").read_bytes())
    content[252:256] = bytes(4)  # the codes of qform and sform
    (tmp_path / "references" / "B.nii").write_bytes(content)
    summary = evaluate_folders(tmp_path / "predictions", tmp_path / "references", tmp_path / "out")
    notes = {row["case"]: row["notes"] for row in rows_of(tmp_path / "out" / "cases.csv")}
    assert notes["A"] == "The prediction has 10 slices and the reference 12: there is no gland on the others."
    assert notes["B"].startswith("Its reference: The file does not say the scan's orientation")
    assert all(f"{name}: {note}" in summary.text() for name, note in notes.items())


def test_what_a_scans_file_leaves_open_is_told_when_a_model_is_evaluated(tmp_path):
    @dataclass
    class Doubtful(AReference):
        def load_image(self, doubts=None):
            doubts.append("Check the sides.")
            return scan()

    summary = evaluate_model(an_answer, [Doubtful("A"), AReference("B")], tmp_path)
    assert "A: Check the sides." in summary.text().splitlines()
    assert [row["notes"] for row in rows_of(tmp_path / "cases.csv")] == ["Check the sides.", ""]


def test_a_model_is_evaluated_on_whole_cases_against_their_references(tmp_path):
    steps = []
    cases = [AReference("Case00"), AReference("Case01", shift=2)]
    summary = evaluate_model(an_answer, cases, tmp_path, lambda phase, fraction: steps.append((phase, fraction)))
    rows = rows_of(tmp_path / "cases.csv")
    assert [float(row["whole_dsc"]) for row in rows] == pytest.approx([1, summary.results[1].dice], rel=1e-5)
    assert summary.results[1].regions == compare_masks(gland(), gland(2))
    assert rows[0]["warnings"] == "Look again." and rows[0]["patient"] == "P1"
    assert [rows[0][name] for name in EXPECTED_COLUMNS] == ["0.912", "0.85", "0.94"]
    assert f"Inside its interval lay {sum(0.85 <= r.dice <= 0.94 for r in summary.results)} of 2" in summary.text()
    assert steps == [("Case00", 0), ("Case01", 0.5), ("evaluated", 1)]
    assert (tmp_path / "worst-1-Case01.png").is_file()


def test_a_version_without_an_expected_dice_is_evaluated_as_well(tmp_path):
    summary = evaluate_model(lambda image, case: an_answer(image, case, None), [AReference("Case00")], tmp_path)
    (row,) = rows_of(tmp_path / "cases.csv")
    assert [row[name] for name in EXPECTED_COLUMNS] == ["", "", ""] and float(row["whole_dsc"]) == 1
    assert "xpected Dice" not in summary.text() and "interval lay" not in summary.text()
    assert not any(row["measure"] == "expected_dice" for row in rows_of(tmp_path / "summary.csv"))


def test_an_expected_dice_of_0_is_a_number_and_intervals_are_counted_where_there_are_any(tmp_path):
    cases = [list(case) for case in cases_of([0, 1, 6, 8])]
    for case, expected in zip(cases, [(0.0, 0.0, 0.3), (0.9, 0.8, 1.0), (0.9, 0.89, 0.91), None], strict=True):
        case[5] = dict(zip(EXPECTED_COLUMNS, expected or [""] * 3, strict=True))
    summary = evaluate_predictions(cases, tmp_path)
    assert summary.results[0].measure("expected_dice") == 0.0 and summary.results[1].dice > 0.8
    assert summary.statistics["overall"]["expected_dice"].cases == 3
    assert "Inside its interval lay 1 of 3 cases; four of five are meant to" in summary.text()


def test_a_case_that_cannot_be_read_or_segmented_does_not_stop_the_evaluation(tmp_path):
    def segment(image, case):
        if len(asked) == 1:
            asked.append(image)
            raise InputError("Volume 'x' is constant.", "Load it again.")
        asked.append(image)
        return an_answer(image, case)

    asked = []
    cases = [AReference("Case00"), AReference("Case01"), AReference("Case02", damaged=True), AReference("Case03")]
    summary = evaluate_model(segment, cases, tmp_path)
    assert [result.error for result in summary.results] == [
        "",
        "Volume 'x' is constant. Load it again.",
        str(DAMAGED),
        "",
    ]


def test_canceling_stops_the_evaluation(tmp_path):
    def cancel(phase, fraction):
        raise Canceled

    with pytest.raises(Canceled):
        evaluate_model(an_answer, [AReference("Case00")], tmp_path, cancel)
    with pytest.raises(Canceled):
        evaluate_model(lambda image, case: cancel("", 0), [AReference("Case00")], tmp_path)


@pytest.fixture
def folders(tmp_path):
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
    return tmp_path / "predictions", tmp_path / "references", tmp_path / "out"


def test_folders_are_paired_by_file_stem_whatever_the_format(folders):
    predictions, references, output = folders
    for name, shift in (("a.seg.nrrd", 0), ("b.nii.gz", 1), ("c.mha", 2), ("d.nrrd", 3), ("e_segmentation.mha", 4)):
        write_image(gland(shift), predictions / name)
    for name in ("a_segmentation.mha", "b.seg.nrrd", "c.nii.gz", "d_segmentation.nrrd", "e.nii"):
        write_image(gland(), references / name)
    sitk.WriteImage(gland(), str(references / "f_segmentation.mhd"))
    write_image(gland(5), predictions / "f.seg.nrrd")
    (predictions / "measurements.csv").write_text("not a mask")
    (predictions / "._a.nrrd").write_text("left by another system")
    summary = evaluate_folders(predictions, references, output)
    assert [result.name for result in summary.results] == list("abcdef")
    wanted = [compare_masks(gland(shift), gland())["whole"].dsc for shift in range(6)]
    assert [result.dice for result in summary.results] == pytest.approx(wanted)
    assert summary.unmatched == () and not summary.failed
    assert (output / "cases.csv").is_file() and (output / "summary.csv").is_file()


def test_in_the_challenge_layout_the_scan_beside_its_reference_is_left_aside(folders):
    predictions, references, output = folders
    sitk.WriteImage(scan(), str(references / "Case00.mhd"))
    sitk.WriteImage(gland(), str(references / "Case00_segmentation.mhd"))
    write_image(gland(1), predictions / "Case00.seg.nrrd")
    summary = evaluate_folders(predictions, references, output)
    assert summary.results[0].regions == compare_masks(gland(1), gland())


def test_files_without_a_partner_are_named(folders):
    predictions, references, output = folders
    for name in ("a.nrrd", "only predicted.nrrd"):
        write_image(gland(), predictions / name)
    for name in ("a.nrrd", "only-reference.nii.gz"):
        write_image(gland(), references / name)
    summary = evaluate_folders(predictions, references, output)
    assert [result.name for result in summary.results] == ["a"]
    assert set(summary.unmatched) == {"only predicted.nrrd", "only-reference.nii.gz"}
    assert "no prediction: only-reference.nii.gz" in summary.text()
    assert "no reference: only predicted.nrrd" in summary.text()


def test_folders_in_which_nothing_pairs_are_an_error_that_shows_both_sides(folders):
    predictions, references, output = folders
    write_image(gland(), predictions / "mine.nrrd")
    with pytest.raises(DatasetError, match=r"mine\.nrrd against no masks"):
        evaluate_folders(predictions, references, output)
    write_image(gland(), references / "theirs.nrrd")
    with pytest.raises(DatasetError, match=r"mine\.nrrd against theirs\.nrrd"):
        evaluate_folders(predictions, references, output)
    assert not output.exists()


def test_a_missing_folder_is_named_without_its_place(tmp_path):
    with pytest.raises(DatasetError, match="There is no folder 'gone'") as raised:
        evaluate_folders(tmp_path / "gone", tmp_path, tmp_path / "out")
    assert str(tmp_path) not in str(raised.value)


def test_a_pair_that_cannot_be_compared_is_a_row_and_the_others_are_evaluated(folders):
    predictions, references, output = folders
    for name in ("good", "other-grid", "damaged", "scan"):
        write_image(gland(), predictions / f"{name}.nrrd")
        write_image(gland(), references / f"{name}.nrrd")
    write_image(sitk.BinShrink(gland(), (2, 2, 1)), references / "other-grid.nrrd")
    (predictions / "damaged.nrrd").write_bytes((predictions / "damaged.nrrd").read_bytes()[:200])
    write_image(scan(), predictions / "scan.nrrd")
    for offset in (3e3, 1e5):
        far = gland()
        far.SetOrigin([offset] * 3)
        write_image(far, predictions / f"far-away{offset:g}.nrrd")
        write_image(gland(), references / f"far-away{offset:g}.nrrd")
    summary = evaluate_folders(predictions, references, output)
    errors = {result.name: result.error for result in summary.results}
    assert errors["good"] == ""
    assert all("too far apart" in error for name, error in errors.items() if name.startswith("far-away"))
    assert "40x36x12 voxels" in errors["other-grid"] and "20x18x12 voxels" in errors["other-grid"]
    assert "damaged.nrrd" in errors["damaged"] and "scan.nrrd" in errors["scan"]


def test_masks_saved_no_larger_than_their_glands_are_compared_as_the_whole_ones_are(folders):
    predictions, references, output = folders
    for name, predicted, expected in (
        ("whole", gland(1.0), gland()),
        ("reference", gland(1.0), gland()[10:32, 8:29, 1:11]),
        ("prediction", gland(1.0)[10:33, 8:29, 1:11], gland()),
        ("both", gland(1.0)[11:33, 8:29, 1:11], gland()[10:32, 7:28, :12]),
    ):
        write_image(predicted, predictions / f"{name}.nrrd")
        write_image(expected, references / f"{name}.nrrd")
    results = {result.name: result for result in evaluate_folders(predictions, references, output).results}
    assert len(results) == 4 and all(result.regions == results["whole"].regions for result in results.values())


def test_two_files_of_one_stem_are_an_error_row_that_names_both(folders):
    predictions, references, output = folders
    for name in ("a.nrrd", "a.nii.gz", "b.nrrd"):
        write_image(gland(), predictions / name)
    for name in ("a.nrrd", "b.nrrd"):
        write_image(gland(), references / name)
    summary = evaluate_folders(predictions, references, output)
    assert "a.nii.gz, a.nrrd" in summary.results[0].error and not summary.results[1].error
