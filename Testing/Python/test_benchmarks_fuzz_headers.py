"""Mutants are the same again, untouched files are read for what they are, and the judge tells right from wrong."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from benchmark_parts import imported

pytestmark = pytest.mark.skipif(os.name == "nt", reason="alarms and limits of a process are POSIX")
ROUNDS = 3


@pytest.fixture(scope="module")
def benchmark():
    with imported("fuzz_headers") as module:
        yield module


@pytest.fixture(scope="module")
def reader(benchmark):
    with benchmark.Reader(7) as reader:
        yield reader


def test_untouched_files_are_read_for_what_they_are(benchmark, reader):
    for kind in benchmark.FORMATS:
        expected = benchmark.REFUSED if kind in benchmark.NEVER_READ else benchmark.HARMLESS
        outcome, text = reader.outcome_of(kind, benchmark.untouched(kind))
        assert outcome == expected and bool(text) == (outcome == benchmark.REFUSED), (kind, text)


def test_a_few_mutants_of_each_format_are_refused_or_read_as_they_say(benchmark, reader):
    told: list[str] = []
    counts = benchmark.run(range(ROUNDS * len(benchmark.FORMATS)), reader, told.append, float("inf"))
    assert not any(of[benchmark.WRONG] for of in counts.values()), told
    assert {kind: of.total() for kind, of in counts.items()} == dict.fromkeys(benchmark.FORMATS, ROUNDS)
    assert f"| **all** | **{ROUNDS * len(benchmark.FORMATS)}** |" in benchmark.table(counts)


def test_a_number_makes_its_mutant_again_and_another_seed_makes_another_one(benchmark):
    for number, kind in enumerate(benchmark.FORMATS):
        mutants = [benchmark.mutant(kind, seed, number) for seed in (1, 1, 2, 3)]
        assert mutants[0] == mutants[1]
        assert any(mutant != mutants[0] for mutant in mutants[2:])


def test_a_place_that_the_header_truly_states_is_as_stated(benchmark, reader):
    files = dict(benchmark.untouched("mha"))
    before, _, after = files["T2.mha"].partition(b"Offset = ")
    files["T2.mha"] = before + b"Offset = 1 2 3\n" + after.partition(b"\n")[2]
    assert reader.outcome_of("mha", files) == (benchmark.STATED, "")


def test_the_judge_notices_voxels_and_places_that_nobody_stated(benchmark):
    from fuzz_headers_stated import stated_volume

    scan = benchmark.scan()
    says = stated_volume(scan)
    assert says.faults(scan.voxels, scan.affine) == []
    moved = scan.affine + np.diag([0.05, 0, 0], 1)[:4, :4]
    assert "mm off" in says.faults(scan.voxels, moved)[0]
    assert says.faults(scan.voxels[::-1], scan.affine) == ["other voxels"]
    assert "voxels, not" in says.faults(scan.voxels[:, :, 1:], scan.affine)[0]
    without_place = replace(says, places=())
    assert without_place.faults(scan.voxels, moved @ np.diag([1, 1, 1.1, 1])) != []


def test_the_judge_notices_words_that_help_nobody_and_masks_that_end_their_reader(benchmark):
    death = "Reading 'T2' ended the process that did it (it crashed with SIGSEGV). Export it again."
    assert benchmark._refused("File 'T2.mha' is truncated.", "mha")[0] == benchmark.REFUSED
    assert benchmark._refused("itk::ERROR", "mha")[0] == benchmark.WRONG
    assert benchmark._refused(death, "mha")[0] == benchmark.DIED
    assert benchmark._refused(death, "seg.nrrd")[0] == benchmark.WRONG
