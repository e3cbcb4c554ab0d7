"""The benchmark on a real Slurm: what it makes, and what it says where there is no Slurm. It is not run whole here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from benchmark_parts import BENCHMARKS, imported

from DDSPSegmentationLib.service.inputs import collect_inputs
from DDSPSegmentationLib.service.parts import Part

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Slurm is for Linux")


def run_with(folder, path):
    """The benchmark with this search path, its temporary files in the folder."""
    environment = os.environ | {"PATH": str(path), "TMPDIR": str(folder)}
    command = [sys.executable, str(BENCHMARKS / "cluster.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_without_slurm_it_is_skipped_with_a_line_that_says_how_to_get_it(tmp_path):
    ended = run_with(tmp_path, tmp_path / "nowhere")
    assert ended.returncode == 0 and ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 1 and ended.stdout.startswith("Skipped: ")
    assert "sbatch" in ended.stdout and "apt install slurm-wlm munge" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_slurm_that_does_not_start_is_told_with_its_last_words(tmp_path):
    with imported("cluster_slurm") as cluster_slurm:
        programs = cluster_slurm.PROGRAMS
    path, temporary = tmp_path / "bin", tmp_path / "temporary"
    path.mkdir(), temporary.mkdir()
    for name in programs:
        (path / name).write_text("#!/bin/sh\necho the key is bad\nexit 1\n")
        (path / name).chmod(0o755)
    ended = run_with(temporary, path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "Skipped: munged ended at once; its last words: the key is bad\n"
    assert list(temporary.iterdir()) == []


def test_its_scans_are_other_ones_and_as_many_for_each_part(tmp_path):
    with imported("cluster") as cluster:
        names = cluster.make_scans(tmp_path / "scans")
    cases, skipped = collect_inputs([tmp_path / "scans"])
    assert sorted(case.name for case in cases) == names and not skipped
    assert len({case.fingerprint() for case in cases}) == cluster.PARTS * cluster.OF_EACH
    for number in range(cluster.PARTS):
        assert sum(Part(number, cluster.PARTS).holds(case.key) for case in cases) == cluster.OF_EACH
