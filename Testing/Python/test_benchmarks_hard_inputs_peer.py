"""A reader alone is judged by the grid it gives and the exceptions it raises, and its death is told."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from benchmark_parts import imported

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, and names that are not UTF-8")
OUTCOMES = {
    "forms-1-1": "",
    "cut-half-mha": "",
    "series-uid-halves": "other grid or voxels",
    "flipped-z-mha-0.3": "read, to be refused",
    "sign-mixed-case": "refused, to be read",
}


@pytest.fixture(scope="module")
def peer():
    with imported("hard_inputs_peer") as module:
        yield module


def test_what_a_reader_alone_makes_of_some_inputs(peer, tmp_path):
    clean = peer.scans()
    asked = {entry.slug: entry for entry in peer.entries(slugs=tuple(OUTCOMES))}
    outcomes = {slug: peer.check(entry, clean, tmp_path / slug, 60) for slug, entry in asked.items()}
    assert outcomes == OUTCOMES
    assert "| **all** | **5** | **2** | **0** | **0** | **1** | **1** | **1** |" in peer.table(outcomes)


def test_what_is_left_out_is_there_and_the_kinds_are_those_of_the_corpus(peer):
    assert set(peer.CORPUS) >= peer.KNOWLEDGE
    assert {entry.kind for entry in peer.CORPUS.values()} >= set(peer.KINDS)
    assert not peer.KNOWLEDGE & {entry.slug for entry in peer.entries()}
    assert len(peer.entries()) > 350


def test_a_death_and_a_hang_of_the_reader_are_told(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "read_all", lambda paths, folder: os.abort())
    assert peer.read_in_child([], tmp_path, 20).ended == peer.DIED
    monkeypatch.setattr(peer, "read_all", lambda paths, folder: time.sleep(60))
    assert peer.read_in_child([], tmp_path, 0.5).ended == peer.HUNG


def test_another_place_and_voxels_of_another_scan_do_not_fit(peer):
    from hard_inputs_expected import Grid
    from hard_inputs_files import Volume

    voxels = np.random.default_rng(0).normal(0, 1, (8, 9, 10))
    grid = Grid(voxels, np.diag([0.5, 0.5, 3.0, 1.0]))
    assert peer._fits(grid, Volume(5 * voxels - 3, grid.affine))
    assert not peer._fits(grid, Volume(voxels, grid.affine + np.diag([0.3, 0, 0], 1)))
    assert not peer._fits(grid, Volume(voxels[::-1], grid.affine))
    assert not peer._fits(grid, Volume(voxels[1:], grid.affine))
