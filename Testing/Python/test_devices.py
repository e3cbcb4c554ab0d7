"""Where the network runs, and in which precision."""

import os

import pytest
import torch

from DDSPSegmentationLib.engine import devices
from DDSPSegmentationLib.engine.devices import (
    choose_device,
    choose_precision,
    peak_memory_mb,
    set_threads,
)
from DDSPSegmentationLib.engine.errors import DeviceError

CPU = torch.device("cpu")


def pretend(monkeypatch, cuda=False, mps=False, capability=(8, 0), bfloat16=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: bfloat16)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")],
)
def test_auto_takes_a_usable_gpu_first(monkeypatch, cuda, mps, expected):
    pretend(monkeypatch, cuda, mps)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_a_clear_error(monkeypatch, name):
    pretend(monkeypatch)
    with pytest.raises(DeviceError, match=f"Device '{name}' cannot be used on this machine. Choose 'auto' or 'cpu'."):
        choose_device(name)


def test_an_unknown_device_is_a_clear_error():
    with pytest.raises(DeviceError, match="Device 'tpu' is unknown. Choose one of auto, cpu, cuda, mps."):
        choose_device("tpu")


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_processor_uses_bfloat16_only_where_it_has_it(monkeypatch, has_it, expected):
    pretend(monkeypatch, bfloat16=has_it)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_gpu_uses_bfloat16_from_ampere_on(monkeypatch, capability, expected):
    pretend(monkeypatch, cuda=True, capability=capability)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_mps_stays_in_float32():
    assert choose_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken(name):
    assert choose_precision(name, CPU) == name


def test_an_unknown_precision_is_a_clear_error():
    with pytest.raises(DeviceError, match="Precision 'float16' is unknown. Choose one of auto, float32, bfloat16."):
        choose_precision("float16", CPU)


def test_an_older_torch_without_the_question_means_no_bfloat16(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert devices.cpu_has_bfloat16() is False


def test_threads_are_the_cores_this_process_may_use(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    try:
        assert set_threads() == 3
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
        assert set_threads() == 8
    finally:
        torch.set_num_threads(before)


def test_threads_set_by_the_user_are_kept(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    try:
        torch.set_num_threads(1)
        assert set_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_peak_memory_is_that_of_a_python_with_torch():
    pytest.importorskip("resource", reason="Windows does not tell")
    assert 50 < peak_memory_mb() < 64_000
