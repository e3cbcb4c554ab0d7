"""One process of a training run of several: ``python distributed_parts.py FOLDER compare|until_stopped``.

The environment says which process it is, as torchrun would. ``compare`` leaves what it found in FOLDER/found<rank>.pt.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from learning_parts import gradients_of, run_toy_training, toy_plan, toy_trainer

from DDSPSegmentationLib.engine.errors import ModelError
from DDSPSegmentationLib.learning.processes import Processes

SGD = {"optimizer": "sgd", "learning_rate": 1e-2, "momentum": 0.9, "gradient_clip": 0.0, "batch_size": 1, "steps": 5}
FROZEN = {**SGD, "frozen_batch_norm": True, "accumulation": 2}


def compare(folder: Path) -> None:
    start = torch.load(folder / "start.pt", weights_only=True)
    found: dict[str, object] = {}

    trainer = toy_trainer(folder / "unused", toy_plan(**FROZEN), start_from=start)
    rank = trainer.processes.rank
    found["samples"] = [trainer.make_batch(0, part) for part in range(2)]
    found["loss"] = trainer.train_step()
    found["gradients"] = gradients_of(trainer)

    trainer = toy_trainer(folder / "unused", toy_plan(**SGD), start_from=start)
    found["live_loss"] = trainer.train_step()

    # Stopped after two steps, resumed by all from the folder of the first, whose files are there when the run returns.
    toy_trainer(folder / f"rank{rank}", toy_plan(**FROZEN), start_from=start).run(until=2)
    trainer = toy_trainer(folder / "rank0", toy_plan(**FROZEN), start_from=start)
    trainer.load_checkpoint()
    trainer.run(until=4)
    found["weights"] = trainer.network.state_dict()

    trainer = toy_trainer(folder / "unused", toy_plan(**SGD, supervision=(0.8, 0.2, 0.0)))
    found["unsupervised"] = [trainer.train_step() for _ in range(2)]

    trainer = toy_trainer(folder / "unused", toy_plan(**SGD), start_from=start)
    if rank == 1:
        draw = trainer.make_batch
        trainer.make_batch = lambda step, part: tuple(tensor * math.nan for tensor in draw(step, part))
    try:
        trainer.train_step()
    except ModelError as error:
        found["error"] = str(error)

    torch.save(found, folder / f"found{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2] == "compare":
        compare(Path(sys.argv[1]))
    else:
        run_toy_training(Path(sys.argv[1]), {"steps": 100_000, "batch_size": 1}, checkpoint_minutes=60)
    Processes.join(torch.device("cpu")).leave()
