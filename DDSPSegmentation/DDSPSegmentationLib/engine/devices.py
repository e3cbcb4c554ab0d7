"""Where the network runs: processor or GPU, in which precision, on how many threads, with how much memory."""

from __future__ import annotations

import os
import sys

import torch

from .cores import usable_cores
from .errors import DeviceError
from .run_settings import DEVICES

PRECISIONS = ("auto", "float32", "bfloat16")


def usable_devices() -> list[torch.device]:
    """The devices of this machine, the best first."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [torch.device(name) for name in usable if usable[name]]


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on; ``auto`` takes a usable GPU first.

    Raises:
        DeviceError: the named device is unknown or cannot be used here.
    """
    if name not in DEVICES:
        raise DeviceError(f"Device '{name}' is unknown.", f"Choose one of {', '.join(DEVICES)}.")
    found = [device for device in usable_devices() if name in ("auto", device.type)]
    if not found:
        raise DeviceError(f"Device '{name}' cannot be used on this machine.", "Choose 'auto' or 'cpu'.")
    return found[0]


def choose_precision(name: str, device: torch.device) -> str:
    """``bfloat16`` where the device computes in it natively, else ``float32``."""
    if name not in PRECISIONS:
        raise DeviceError(f"Precision '{name}' is unknown.", f"Choose one of {', '.join(PRECISIONS)}.")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    if device.type == "cpu" and cpu_has_bfloat16():
        return "bfloat16"
    return "float32"


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; emulated bfloat16 would be slower than float32."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def set_threads() -> int:
    """Use the cores this process may run on, at most 8: beyond that the network's small layers gain nothing."""
    threads = max(1, min(8, usable_cores()))
    if torch.get_num_threads() > threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def peak_memory_mb() -> float:
    """Peak resident memory of this process since it started, in MB (10^6 bytes); 0 where it cannot be asked."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
