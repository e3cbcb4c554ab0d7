"""Training of the network: resumable to the bit, safe to kill, the same on one process or many."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..engine.bundled_scan import is_bundled
from ..engine.devices import choose_device, choose_precision
from ..engine.errors import DatasetError, ModelError, StorageError
from ..engine.files import delete_leftovers, make_folder, write_aside
from ..engine.inference import GlandPredictor
from ..engine.losses import LOSSES, multi_supervision
from ..engine.metrics import dice
from ..engine.model import save_model
from ..engine.network import DDSPConvNet
from ..engine.scan_identity import NOTHING_SEEN, SeenScans
from .augmentation import random_crop
from .dataset import PreparedCase
from .plans import TrainingPlan
from .processes import Processes, stop_signals
from .training_log import write_log

CHECKPOINT_FILE = "checkpoint.pt"


class Trainer:
    """Trains one network on prepared cases.

    Every sample's case and augmentation follow from the plan's seed and the sample's number alone, so that a resumed
    run sees exactly what it would have seen. Under torchrun each process takes its share of every step's samples.
    With live batch norm, each process normalizes with the statistics of its own share (SyncBatchNorm on CUDA); with
    frozen batch norm, several processes compute the very gradients of one. Only the first process validates and
    writes files; on several machines the folder must be shared, so that all of them can resume.

    Args:
        plan: how to train.
        training, validation: prepared cases; validation never influences the weights.
        folder: log, curve, checkpoint and the published model go here.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; ``precision``: ``auto``, ``float32`` or ``bfloat16``.
        start_from: weights to begin with instead of the paper's initialization.
        replay: prepared cases of the old training that are rehearsed beside the new ones.
        seen_before: what the version that ``start_from`` comes from had seen; without one nothing was.
        facts: further fields of the published ``ModelDescription``, for instance what a parent version measured.
        checkpoint_minutes: a kill loses at most so much.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        training: Sequence[PreparedCase],
        validation: Sequence[PreparedCase],
        folder: Path | str,
        *,
        device: str = "auto",
        precision: str = "auto",
        start_from: dict[str, Tensor] | None = None,
        replay: Sequence[PreparedCase] = (),
        seen_before: SeenScans = NOTHING_SEEN,
        facts: dict[str, Any] | None = None,
        checkpoint_minutes: float = 3.0,
        progress: Callable[[str], None] = print,
    ):
        if not training:
            raise DatasetError("There are no training cases.", "Name a data set with at least one case.")
        if {case.name for case in (*training, *replay)} & {case.name for case in validation}:
            raise DatasetError("A case is in both training and validation.", "Correct the folds.")
        _check_scans([*training, *replay], validation)
        self.plan, self.training, self.validation, self.replay = plan, list(training), list(validation), list(replay)
        self.folder, self.facts, self.seen_before = Path(folder), facts or {}, seen_before
        self._parent = "none"
        if start_from is not None:
            name = self.facts.get("training", {}).get("parent", "weights")
            self._parent = f"{name} ({_weights_digest(start_from)})"
        self.checkpoint_minutes, self.progress = checkpoint_minutes, progress
        self.device = choose_device(device)
        self.processes = Processes.join(self.device)
        self.precision = choose_precision(precision, self.device)
        torch.manual_seed(plan.seed)
        network = DDSPConvNet(plan.network)
        if start_from is not None:
            network.load_state_dict(start_from)
        for weight, head in zip(plan.network.supervision, (network.head1, network.head2, network.head3), strict=True):
            head.requires_grad_(weight > 0)  # processes would wait for the gradients of an unsupervised output
        if self.device.type == "cuda" and self.processes.count > 1 and not plan.frozen_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.network = network.place(self.device)
        self.parallel: Any = self.network
        if self.processes.count > 1:
            self.parallel = DistributedDataParallel(self.network)
        self.optimizer = _optimizer(plan, self.network)
        self.average = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self._start = {key: value.clone() for key, value in self.average.items()}
        self.step = 0
        self.log: list[dict[str, float | str]] = []
        self._stopped_by: int | None = None

    # ---- samples

    def case_of(self, sample: int) -> PreparedCase:
        """The case of a sample: every epoch is a fresh order of the new cases, and another of the replayed ones."""
        if not self.replay:
            return self._in_turn(self.training, sample)
        replayed = math.floor(sample * self.plan.replay_share)  # of the samples before this one, evenly spread
        if math.floor((sample + 1) * self.plan.replay_share) > replayed:
            return self._in_turn(self.replay, replayed)
        return self._in_turn(self.training, sample - replayed)

    def _in_turn(self, cases: Sequence[PreparedCase], number: int) -> PreparedCase:
        epoch, position = divmod(number, len(cases))
        order = list(range(len(cases)))
        random.Random(self.plan.seed * 1_000_003 + epoch).shuffle(order)
        return cases[order[position]]

    def make_batch(self, step: int, accumulated: int) -> tuple[Tensor, Tensor]:
        """Images and references (batch, 1, z, y, x) of this process for one forward pass."""
        plan, processes = self.plan, self.processes
        first = ((step * plan.accumulation + accumulated) * processes.count + processes.rank) * plan.batch_size
        pairs = [self.make_sample(first + number) for number in range(plan.batch_size)]
        images, references = (torch.stack(parts)[:, None] for parts in zip(*pairs, strict=True))
        return images.contiguous(memory_format=torch.channels_last_3d), references

    def make_sample(self, sample: int) -> tuple[Tensor, Tensor]:
        case = self.case_of(sample)
        seed = int(np.random.SeedSequence([self.plan.seed, sample]).generate_state(1, np.uint64)[0]) >> 1
        settings = self.plan.augmentation
        uncorrected = random.Random(seed).random() < settings.uncorrected
        image = torch.from_numpy(case.uncorrected if uncorrected else case.corrected).to(self.device)
        label = torch.from_numpy(case.label).to(self.device)
        spacing = self.plan.preprocessing.spacing_mm[::-1]
        samples_per_step = self.plan.batch_size * self.plan.accumulation * self.processes.count
        size = self.plan.crop_size_at(sample // samples_per_step)
        return random_crop(image, label, case.gland_center, settings, size, spacing, seed)

    # ---- steps

    def train_step(self) -> float:
        """One optimizer step; gives the mean loss over its samples on this process.

        Raises:
            ModelError: loss or gradients are not finite; the weights stay as they were.
        """
        plan = self.plan
        self._set_mode()
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for accumulated in range(plan.accumulation):
            last = accumulated == plan.accumulation - 1
            waits = not last and isinstance(self.parallel, DistributedDataParallel)
            with self.parallel.no_sync() if waits else nullcontext():
                total += self.accumulate_gradients(*self.make_batch(self.step, accumulated)) / plan.accumulation
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), plan.gradient_clip or math.inf)
        if not (math.isfinite(total) and math.isfinite(norm)):
            found = f"loss {total:g}, gradient norm {norm:g}"
            raise ModelError(
                f"Step {self.step + 1} is not finite ({found}).", "Resume the run, or lower the learning rate."
            )
        self.optimizer.step()
        self._pull_to_start()
        self._update_average()
        self.step += 1
        return total

    def accumulate_gradients(self, images: Tensor, references: Tensor) -> float:
        plan = self.plan
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = self.parallel(images)
        loss = multi_supervision(outputs, references, LOSSES[plan.loss], plan.network.supervision)
        (loss / plan.accumulation).backward()
        return loss.item()

    def _set_mode(self) -> None:
        self.parallel.train()
        if self.plan.frozen_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    @torch.no_grad()
    def _pull_to_start(self) -> None:
        if self.plan.anchor:
            for name, parameter in self.network.named_parameters():
                parameter.lerp_(self._start[name], self.plan.learning_rate_at(self.step) * self.plan.anchor)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A short memory at first, so that the random start is forgotten.
        decay = min(self.plan.ema_decay, (1 + self.step) / (10 + self.step)) if self.plan.ema_decay else 0.0
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    # ---- the run

    def run(self, until: int | None = None, minutes: float | None = None) -> bool:
        """Train to the plan's last step, or ``until`` a step, or for some minutes; publish the model at the end.

        SIGTERM and Ctrl-C, to any of the processes, end the run after the step under way, with a checkpoint.

        Returns:
            Whether the plan's last step was reached.
        """
        plan = self.plan
        until = plan.steps if until is None else min(until, plan.steps)
        self._stopped_by = None
        with stop_signals(self._stop):
            started = saved = time.monotonic()
            first = self.step
            losses: list[float] = []
            while self.step < until:
                losses.append(self.train_step())
                elapsed = time.monotonic() - started
                check = self.validation and (self.step % plan.validation_interval == 0 or self.step == plan.steps)
                if check or self.step % 10 == 0 or self.step == until:
                    self._record(losses, elapsed / (self.step - first), bool(check), until)
                    losses = []
                if time.monotonic() - saved > 60 * self.checkpoint_minutes:
                    self.save_checkpoint()
                    saved = time.monotonic()
                out_of_time = minutes is not None and elapsed > 60 * minutes
                if self.processes.any(out_of_time or self._stopped_by is not None, self.device):
                    break
            self.save_checkpoint()
            self.processes.any(False, self.device)  # all wait until the files are there
        if self.step < until and self.processes.rank == 0:
            self.progress(f"stopped at step {self.step} of {self.plan.steps}; go on with --resume")
        return self.step >= self.plan.steps

    def _stop(self, number: int, frame: object) -> None:
        self._stopped_by = number

    def _record(self, losses: list[float], seconds_per_step: float, check: bool, until: int) -> None:
        if self.processes.rank:
            return
        dice = self.validate() if check else None
        row = {
            "step": self.step,
            "loss": float(np.mean(losses)),
            "learning_rate": self.plan.learning_rate_at(self.step - 1),
            "seconds": seconds_per_step,
            "validation_dice": "" if dice is None else dice,
        }
        self.log.append(row)
        left = (until - self.step) * seconds_per_step / 60
        filled = round(24 * self.step / self.plan.steps)
        text = f"[{'#' * filled}{'.' * (24 - filled)}] {self.step}/{self.plan.steps} loss {row['loss']:.4f}"
        text += f" {seconds_per_step:.2f} s/step {left:.0f} min left"
        self.progress(text if dice is None else f"{text} validation Dice {dice:.4f}")

    def validate(self) -> float | None:
        """Mean Dice of the averaged weights on the validation cases, whole scans on the network's grid.

        ``None`` when a signal came meanwhile: whoever sent it may not wait.
        """
        scores = []
        for case in self.validation:
            if self._stopped_by is not None:
                return None
            scores.append(self.validate_case(case))
        return float(np.mean(scores))

    def validate_case(self, case: PreparedCase) -> float:
        """Dice of the averaged weights on one case, on the network's grid."""
        predictor = GlandPredictor(self.averaged_network())
        predicted = predictor.predict(case.corrected.astype(np.float32)).probability > 0.5
        return dice(predicted, case.label >= 0.5)

    def averaged_network(self) -> DDSPConvNet:
        """The network that is published: averaged weights, eval mode, folded, in the precision of the run."""
        network = self._published_network()
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return network.eval().fold_batch_norm().place(self.device, dtype)

    def _published_network(self) -> DDSPConvNet:
        weights = {
            key: self._start[key].lerp(value, self.plan.new_share) if value.is_floating_point() else value
            for key, value in self.average.items()
        }
        network = DDSPConvNet(self.plan.network)
        network.load_state_dict(weights)
        return network

    # ---- files

    @cached_property
    def seen(self) -> SeenScans:
        """The scans that the weights come from: those of this training, rehearsed ones too, and all before."""
        return self.seen_before.with_training([(case.name, case.identity) for case in (*self.training, *self.replay)])

    def save_checkpoint(self) -> None:
        """Write checkpoint, log and curve atomically, and publish the averaged weights as a model folder."""
        if self.processes.rank:
            return
        state = {
            "plan": json.dumps(asdict(self.plan), sort_keys=True),
            "cases": [case.name for case in (*self.training, *self.replay)],
            "seen": self.seen.to_dict(),
            "parent": self._parent,
            "processes": self.processes.count,
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "log": self.log,
        }

        def write(aside: Path) -> None:
            with open(aside, "wb") as file:
                torch.save(state, file)

        make_folder(self.folder)
        try:
            write_aside(self.folder / CHECKPOINT_FILE, ".pt", write)
        except StorageError as error:
            raise StorageError(error.cause, "Free space, then resume: the last one is kept.") from error
        write_log(self.log, self.folder)
        self.publish(self.folder / "model")

    def load_checkpoint(self) -> None:
        """Go on exactly where the last checkpoint was written; only the number of steps may have changed.

        A checkpoint of a version that kept neither parent nor scans goes on, but nobody can tell what it has seen.

        Raises:
            ModelError: there is no checkpoint, it is damaged, or made with other settings, cases or processes.
        """
        path = self.folder / CHECKPOINT_FILE
        if not path.is_file():
            raise ModelError(f"Folder '{self.folder.name}' has no checkpoint.", "Start without --resume.")
        if not self.processes.rank:
            delete_leftovers(self.folder)
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            changes = self._changes_since(state)
            if not changes:
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.average = {key: value.to(self.device) for key, value in state["average"].items()}
                self.step, self.log = state["step"], state["log"]
                if "seen" in state:
                    self.seen = SeenScans.from_dict(state["seen"])
                else:
                    self.seen = replace(self.seen, known=False)
        except Exception as error:  # torch raises many types for damaged and foreign files
            raise ModelError(
                "The checkpoint is damaged.", "Start without --resume, from the last model if there is one."
            ) from error
        if changes:
            raise ModelError(
                f"The checkpoint was made with other settings ({', '.join(changes[:5])}).", "Resume with the same ones."
            )

    def _changes_since(self, state: dict) -> list[str]:
        then, now = json.loads(state["plan"]), json.loads(json.dumps(asdict(self.plan)))
        changes = [text for key in now if key != "steps" for text in _differences(key, then.get(key), now[key])]
        cases = [case.name for case in (*self.training, *self.replay)]
        if state["cases"] != cases:
            apart = sorted(set(state["cases"]) ^ set(cases))
            changes.append(f"training cases: {', '.join(apart[:5]) or 'their order'}")
        elif "seen" in state:
            changes += self._other_scans(SeenScans.from_dict(state["seen"]))
        changes += _differences("parent", state.get("parent", self._parent), self._parent)
        return changes + _differences("processes", state.get("processes", 1), self.processes.count)

    def _other_scans(self, then: SeenScans) -> list[str]:
        """The names tell little: whose scans are others now, of this training or of those before."""
        old, new = ([seen for group in seen.groups for seen in group.scans] for seen in (then, self.seen))
        if [scan.digest for scan in old] == [scan.digest for scan in new] and then.known == self.seen.known:
            return []
        apart = sorted({scan.name for scan in new if scan.digest not in then.digests})
        return [f"scans: {', '.join(apart[:5]) or 'what the parent had seen'}"]

    def publish(self, folder: Path) -> None:
        """Save the averaged weights as a model version."""
        network = self._published_network()
        training = {
            "plan": self.plan.name,
            "steps": self.step,
            "loss": self.plan.loss,
            "seed": self.plan.seed,
            "cases": [case.name for case in self.training],
        }
        facts = {"version": self.folder.name, "date": time.strftime("%Y-%m-%d"), "seen": self.seen, **self.facts}
        facts["training"] = {**training, **facts.get("training", {})}
        save_model(folder, [network], self.plan.preprocessing.to_dict(), **facts)


def _optimizer(plan: TrainingPlan, network: nn.Module) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
    return torch.optim.AdamW(network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)


def _check_scans(training: Sequence[PreparedCase], validation: Sequence[PreparedCase]) -> None:
    """Names decide nothing: no copy of a training scan validates, and nobody trains on the bundled scan."""
    bundled = [case.name for case in training if is_bundled(case.identity)]
    if bundled:
        raise DatasetError(
            f"Case '{bundled[0]}' is the scan that comes with the extension; every new version is checked on it.",
            "Take it out of the data set.",
        )
    if not validation:
        return
    trained = NOTHING_SEEN.with_training([(case.name, case.identity) for case in training])
    for case in validation:
        twin = trained.find(case.identity)
        if twin:
            raise DatasetError(
                f"Validation case '{case.name}' is a copy of training case '{twin}'.",
                "Take one of them out, or name one patient for both in index.csv.",
            )


def _weights_digest(weights: dict[str, Tensor]) -> str:
    """Twelve digits that tell these weights from others."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _differences(name: str, then: object, now: object) -> list[str]:
    """What differs between two settings, each as ``name: then, now now``."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [text for key in now for text in _differences(f"{name}.{key}", then.get(key), now[key])]
    return [] if then == now else [f"{name}: {then}, now {now}"]
