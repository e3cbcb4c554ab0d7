"""Short runs of the benchmarks that watch over the hold-out and over what a kill may destroy."""

import os
import sys

import pytest
from benchmark_parts import BENCHMARKS


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch, one_thread):
    """The benchmarks can be imported; whatever they change in this process is put back."""
    from DDSPSegmentationLib.learning import comparison
    from DDSPSegmentationLib.learning.finetuning import FineTuner

    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(comparison, "sample_scan", comparison.sample_scan)
    monkeypatch.setattr(FineTuner, "_choose_length", FineTuner._choose_length)


def test_nothing_that_a_version_saw_is_called_unseen(tmp_path):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=2, seed=0)
    assert results["leaks"] == []
    for hospital in results["hospitals"]:
        assert hospital["versions"] == 2 and hospital["held_out"]["case"] > 0
        assert hospital["asked"] > 20 and hospital["mistaken"] == 0
        assert hospital["done"]["new patient"] > 3 and hospital["done"]["retrained with rehearsal"] == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("library", "changed its split"),
        ("door", "which is hold-out case"),
        ("rehearsal", "says False"),
        ("patients", "is held out and in the ledger's replay list"),
        ("exchange", "says False"),
    ],
)
def test_what_is_called_unseen_although_it_was_seen_is_noticed(tmp_path, fault, words):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=1, seed=0, fault=fault)
    assert any(words in leak for leak in results["leaks"])


def test_a_job_that_trains_on_a_hold_out_case_is_refused(tmp_path):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=1, seed=0, fault="job")
    assert "kept for checking" in results["refusal"] and results["hospitals"][0]["versions"] == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_kills_leave_library_and_registry_whole(tmp_path):
    import nothing_lost

    results = nothing_lost.run(tmp_path, kills=4, seed=0)
    assert [hit["problems"] for hit in results["hits"]] == [[]] * 4


def test_a_base_of_two_networks_is_retrained_on_right_and_wrong_masks_of_cases_that_it_never_saw(tmp_path, monkeypatch):
    import poisoned
    from learning_parts import taught_network, write_images_and_labels
    from retraining_parts import QUICK, small_sample

    from DDSPSegmentationLib.engine.model import save_model
    from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
    from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
    from DDSPSegmentationLib.learning import comparison
    from DDSPSegmentationLib.learning.dataset import read_dataset
    from DDSPSegmentationLib.learning.ensemble import LEFT_OUT

    sample = small_sample(tmp_path)
    monkeypatch.setattr(comparison, "sample_scan", lambda: sample)
    dataset = write_images_and_labels(tmp_path / "center", [f"case{number}" for number in range(9)])
    seen = next(case for case in read_dataset(dataset) if case.name == "case3")
    save_model(
        tmp_path / "base",
        [taught_network(tmp_path / "taught")] * 2,
        PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off").to_dict(),
        members=[{"left_out": list(folds)} for folds in (LEFT_OUT[0], LEFT_OUT[3])],
        seen=NOTHING_SEEN.with_training([("another name", ScanIdentity(seen.load_image()))], {"another name": 0}),
    )
    cases = poisoned.never_seen(dataset, tmp_path / "base")
    assert [case.name for case in cases] == [f"case{number}" for number in range(9) if number != 3]
    benchmark = poisoned.Benchmark(tmp_path / "base", cases, tmp_path, QUICK)
    benchmark.repeat(1)
    benchmark.run(["mirrored"])
    repeat = benchmark.results["repeats"]["1"]
    assert len(repeat["training"]) == 5 and len(repeat["agreement"]) in (0, 4), "none where not to train is best"
    assert set(benchmark.results["variants"]) == {"mirrored", "everything mirrored"}
    assert "right masks once more (1): " in poisoned.report(benchmark.results)
    repeat.update(agreement={}, gain=None)
    assert "right masks once more (1): not to train is best" in poisoned.report(benchmark.results)
