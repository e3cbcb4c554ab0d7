"""The processes of a training run: which one this is, what they agree on, and how they are asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Processes:
    """This process among those of a run started by torchrun; alone otherwise."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Join the run that torchrun describes in the environment (``RANK``, ``WORLD_SIZE``, ...)."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if device.type == "cuda":  # one GPU for each process of a machine
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any of the processes raises its flag; all of them must ask at the same step."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags)

    def leave(self) -> None:
        """End the run together: who goes first would take the connection away from the others."""
        if self.count > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


@contextmanager
def stop_signals(handler: Callable[[int, object], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call a handler inside the block; a thread other than the main one has no signals."""
    previous: dict[signal.Signals, Any] = {}
    try:
        with suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGINT):
                previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            if before is not None:  # None: it was not set from Python
                signal.signal(number, before)
