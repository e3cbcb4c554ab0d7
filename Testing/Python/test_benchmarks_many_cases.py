"""The simulation of a very large batch runs to its end, in parts and in one."""

from __future__ import annotations

import os
import re
import sys

import pytest
from benchmark_parts import imported

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


@pytest.mark.parametrize("parts", [1, 2])
def test_each_step_says_its_seconds_and_its_memory(capfd, monkeypatch, tmp_path, parts):
    words = ["--cases", "9", "--parts", str(parts), "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["many_cases.py", *words])
    with imported("many_cases") as many_cases:
        assert many_cases.main() == 0
    line = r"^(.+): [\d.]+ s, [\d.]+ s of them at work \(\d+ us a case\), peak \d+ MB$"
    found = re.findall(line, capfd.readouterr().out, re.MULTILINE)
    steps = ["listing", "stub's run of the first half", "resuming until the first new case", "stub's run of the rest"]
    steps += ["finding out that all is done"]
    assert found == (steps if parts == 1 else [*steps, "merge"]) and not list(tmp_path.iterdir())


def test_dicom_series_are_made_and_all_of_them_are_listed(capfd, monkeypatch, tmp_path):
    with imported("many_cases") as many_cases:
        many_cases.make_series(tmp_path / "scans", 3)
        cases, skipped = many_cases.collect_inputs([tmp_path / "scans"])
        assert len({case.name for case in cases}) == 3 and not skipped
        assert {len(case.files()[0]) for case in cases} == {many_cases.SLICES}
        monkeypatch.setattr(sys, "argv", ["many_cases.py", "--series", "3", "--folder", str(tmp_path)])
        assert many_cases.main() == 0
    assert re.match(r"listing: [\d.]+ s, .* peak \d+ MB$", capfd.readouterr().out)
