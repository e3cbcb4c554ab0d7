"""The corpus of hard inputs is complete, its builders build, and its judge tells right from wrong."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_parts import imported

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, pipes, names that are not UTF-8, and forks")
QUICK = (
    "pixel-spacing-missing",
    "forms-1-1",
    "value-255",
    "value-empty",
    "evaluate-255",
    "model-as-exported",
    "nothing-in-folder",
)


@pytest.fixture(scope="module")
def benchmark():
    with imported("hard_inputs") as module:
        yield module


@pytest.fixture(scope="module")
def corpus(benchmark):
    return list(benchmark.CORPUS.values())


def test_there_are_more_than_two_hundred_inputs_of_many_kinds(corpus):
    assert len(corpus) >= 200
    assert len({entry.slug for entry in corpus}) == len(corpus)
    assert len({entry.kind for entry in corpus}) >= 20
    assert all(re.fullmatch(r"[a-z0-9.-]+", entry.slug) and entry.what for entry in corpus)


def test_it_is_written_down_what_is_right_for_each(corpus):
    from hard_inputs_expected import COMMANDS

    for entry in corpus:
        assert entry.right and entry.command in COMMANDS, entry.slug
        for outcome in entry.right:
            assert outcome.exits and set(outcome.exits) <= {0, 1, 2}, entry.slug
            # A run that succeeds leaves something behind that is looked at, unless it lies elsewhere; one that is
            # refused says why.
            assert outcome.done or outcome.refusals or entry.slug == "latin1-output", entry.slug
            assert 0 in outcome.exits or outcome.refusals, entry.slug
            for pattern in (*outcome.refusals, *outcome.says, *outcome.notes):
                assert pattern and not re.search(pattern, ""), entry.slug


def test_quick_inputs_are_built_and_found_right(benchmark, corpus, tmp_path):
    entries = [entry for entry in corpus if entry.slug in QUICK]
    lines: list[str] = []
    outcomes = benchmark.check_all(entries, tmp_path, lines.append)
    assert sorted(outcomes) == sorted(QUICK)
    assert outcomes == dict.fromkeys(outcomes, []), lines
    assert "| **all** | **7** | **7** | **0** |" in benchmark.table(outcomes)
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]  # nothing is kept that nobody asked for


def test_a_run_that_dies_or_hangs_is_told_and_ends(benchmark, tmp_path, monkeypatch):
    import hard_inputs_run

    monkeypatch.setattr(hard_inputs_run, "_called", lambda arguments: os.abort())
    assert hard_inputs_run.run(["info"], _made(tmp_path / "dies"), 20).ended == "died of SIGABRT"
    monkeypatch.setattr(hard_inputs_run, "_called", lambda arguments: os.read(os.pipe()[0], 1))
    assert hard_inputs_run.run(["info"], _made(tmp_path / "hangs"), 0.5).ended == "did not end within 0 s"
    monkeypatch.setattr(hard_inputs_run, "_called", lambda arguments: bytearray(1 << 40))
    found = hard_inputs_run.run(["info"], _made(tmp_path / "eats"), 20)
    assert found.exit_code == 70 and "MemoryError" in found.err[-1]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def right(benchmark):
    """Two small masks that are expected, and a run that wrote both."""
    from hard_inputs_expected import Found, Grid, Result
    from hard_inputs_files import Volume

    gland = np.zeros((20, 20, 10), bool)
    gland[5:15, 5:15, 3:8] = True
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    grids = {"one": Grid(gland, affine), "other": Grid(gland[:, :, :9], affine)}
    results = [Result(name, Volume(grid.gland.astype(np.uint8), affine)) for name, grid in grids.items()]
    return grids, Found(exit_code=0, out=["2 segmented"], results=results)


def test_the_judge_passes_what_is_right(right):
    from hard_inputs_expected import done, judge, refused

    grids, found = right
    assert judge([done("one", "other")], grids, found) == []
    assert judge([refused("percent"), done("other", "one")], grids, found) == []  # any of the outcomes will do
    refusal = replace(found, exit_code=1, results=found.results[:1], err=["error: B: the name has a percent sign."])
    assert judge([refused("percent", done=("one",))], grids, refusal) == []


def _with_result(found, change):
    from hard_inputs_files import Volume

    volume = found.results[0].volume
    changed = change(Volume(volume.voxels.copy(), volume.affine.copy()))
    return replace(found, results=[replace(found.results[0], volume=changed), *found.results[1:]])


def _moved(volume):
    volume.affine[0, 3] += 0.5
    return volume


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda found: replace(found, ended="died of SIGSEGV", exit_code=None), "died of SIGSEGV"),
        (lambda found: replace(found, exit_code=1), "exit code 1"),
        (lambda found: replace(found, results=found.results[:1]), "no result for 'other'"),
        (lambda found: replace(found, results=[*found.results, found.results[0]]), "nobody expects: 'one'"),
        (lambda found: replace(found, results=[*found.results[1:], replace(found.results[0], volume=None)]), "'one'"),
        (lambda found: _with_result(found, lambda volume: volume.with_voxels(1 - volume.voxels)), "'one'"),
        (lambda found: _with_result(found, _moved), "'one'"),
        (lambda found: replace(found, err=["error: something"]), "1 lines of refusal, not 0"),
        (lambda found: replace(found, err=["Traceback (most recent call last):"]), "jargon 'Traceback'"),
        (lambda found: replace(found, out=["/x/image.cxx:12: itk::ERROR"]), "jargon"),
        (lambda found: replace(found, out=["1 \udcfc"]), "cannot be printed"),
        (lambda found: replace(found, leftovers=[".ddsp-0123"]), "left behind: .ddsp-0123"),
    ],
)
def test_the_judge_notices_what_is_wrong(right, spoil, words):
    from hard_inputs_expected import done, judge

    grids, found = right
    faults = judge([done("one", "other")], grids, spoil(found))
    assert any(words in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("err", "results", "words"),
    [
        (["error: it failed."], 1, "refused, but not for /percent/"),
        (["error: a percent sign.", "error: again."], 1, "2 lines of refusal, not 1"),
        ([], 1, "0 lines of refusal, not 1"),
        (["error: a percent sign."], 2, "nobody expects: 'other'"),
        (["error: a percent sign."], 0, "no result for 'one'"),
    ],
)
def test_the_judge_notices_a_wrong_refusal(right, err, results, words):
    from hard_inputs_expected import judge, refused

    grids, found = right
    found = replace(found, exit_code=1, err=err, results=found.results[:results])
    faults = judge([refused("percent", done=("one",))], grids, found)
    assert any(words in fault for fault in faults), faults


def test_the_judge_reads_words_voxels_and_patients(right):
    from hard_inputs_expected import done, judge

    grids, found = right
    assert judge([done("one", "other", says=("segmented",))], grids, found) == []
    assert judge([done("one", "other", says=("orthogonal",))], grids, found) == ["no line says /orthogonal/"]
    told = replace(found, recorded=["The axes were made orthogonal."])
    assert judge([done("one", "other", notes=("orthogonal",))], grids, told) == []
    assert judge([done("one", "other", says=("orthogonal",))], grids, told) != []
    grids = {name: replace(grid, voxels=np.zeros(3)) for name, grid in grids.items()}
    stored = [replace(result, scan=np.zeros(3), patient=str(number)) for number, result in enumerate(found.results)]
    assert judge([done("one", "other")], grids, replace(found, results=stored)) == []
    assert "one patient" in judge([done("one", "other", one_patient=True)], grids, replace(found, results=stored))[0]
    stored[1].scan = np.ones(3)
    assert "other voxels" in judge([done("one", "other")], grids, replace(found, results=stored))[0]


def test_files_are_read_as_they_were_written(benchmark, tmp_path):
    from hard_inputs_files import read_meta, read_nifti, sample, save_meta, save_nifti

    scan = sample()
    assert scan.voxels.shape == (384, 384, 19)
    save_nifti(tmp_path / "T2.nii.gz", scan)
    save_meta(tmp_path / "T2.mha", scan, compress=True)
    for volume in (
        *(read_nifti(tmp_path / "T2.nii.gz", form) for form in ("sform", "qform")),
        read_meta(tmp_path / "T2.mha"),
    ):
        assert np.array_equal(volume.voxels, scan.voxels)
        assert np.allclose(volume.affine, scan.affine, atol=3e-4)  # what a quaternion in single precision holds


def test_a_plain_file_is_the_bundled_scan_for_itk_too(benchmark, sample_scan, tmp_path):
    import SimpleITK as sitk
    from hard_inputs_files import sample, save_nifti, save_nrrd

    save_nifti(tmp_path / "T2.nii", sample(), codes=(1, 0))
    save_nrrd(tmp_path / "T2.nrrd", sample())
    expected = sitk.ReadImage(str(sample_scan))
    for name in ("T2.nii", "T2.nrrd"):
        image = sitk.ReadImage(str(tmp_path / name))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
        assert np.allclose(image.GetDirection(), expected.GetDirection(), atol=3e-4)
        assert np.allclose(image.GetOrigin(), expected.GetOrigin(), atol=1e-3)
