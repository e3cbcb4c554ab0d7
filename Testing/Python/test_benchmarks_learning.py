"""Short runs of the benchmarks that watch over the hold-out and over what a kill may destroy."""

import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "Benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch, one_thread):
    """The benchmarks can be imported; whatever they change in this process is put back."""
    from DDSPSegmentationLib.learning import comparison

    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(comparison, "sample_scan", comparison.sample_scan)


def test_no_hold_out_case_was_ever_in_a_training_list(tmp_path):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=3, seed=0)
    assert results["leaks"] == []
    assert results["versions"] == 3 and results["held_out"]["case"] > 0
    assert len(results["done"]) > 4 and results["done"]["new patient"] > 3  # what was done, and how often


def test_a_patient_that_changed_its_split_is_found(tmp_path):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=1, seed=0, fault="library")
    assert any("changed its split" in leak for leak in results["leaks"])


def test_a_job_that_trains_on_a_hold_out_case_is_refused(tmp_path):
    import no_leakage

    results = no_leakage.run(tmp_path, rounds=1, seed=0, fault="job")
    assert "hold-out" in results["refusal"] and results["versions"] == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_kills_leave_library_and_registry_whole(tmp_path):
    import nothing_lost

    results = nothing_lost.run(tmp_path, kills=4, seed=0)
    assert [hit["problems"] for hit in results["hits"]] == [[]] * 4
