"""Training: learns, resumes to the bit, survives kills and full disks, and follows the paper's plan."""

import csv
import errno
import math
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_parts import (
    PATIENCE_SECONDS,
    assert_same_gradients,
    gradients_of,
    identity_of,
    start_toy_training,
    toy_cases,
    toy_plan,
    toy_trainer,
    wait_for_line,
    warm_weights,
)

from DDSPSegmentationLib.engine.bundled_scan import bundled_scan_file
from DDSPSegmentationLib.engine.errors import DatasetError, ModelError, StorageError
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.model import load_networks
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.learning import training
from DDSPSegmentationLib.learning.augmentation import PAPER_AUGMENTATION
from DDSPSegmentationLib.learning.dataset import PreparedCase
from DDSPSegmentationLib.learning.plans import PLANS, TrainingPlan, choose_plan
from DDSPSegmentationLib.learning.processes import Processes
from DDSPSegmentationLib.learning.training import CHECKPOINT_FILE
from DDSPSegmentationLib.learning.training_log import CURVE_FILE, LOG_COLUMNS, LOG_FILE, draw_curve

pytestmark = pytest.mark.usefixtures("one_thread")
DAMAGED = "checkpoint is damaged"


def copied(state):
    return {key: value.clone() for key, value in state.items()}


def assert_same_state(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.allclose(value.double(), other[key].double(), rtol=0, atol=tolerance), key


def read_checkpoint(folder):
    return torch.load(folder / CHECKPOINT_FILE, weights_only=True)


# ---- learning


def test_loss_falls_on_a_toy_task_and_the_published_network_finds_the_glands(tmp_path):
    plain = replace(PAPER_AUGMENTATION, deformation_voxels=(0, 0, 0))
    plan = toy_plan(augmentation=plain, learning_rate=1e-2, steps=60)
    trainer = toy_trainer(tmp_path, plan, validation=toy_cases(1, first=9))
    losses = [trainer.train_step() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]) and np.mean(losses[:5]) > 0.5
    assert trainer.validate() > 0.7


def test_the_papers_plan_trains(tmp_path):
    plan = toy_plan("paper", augmentation=replace(PAPER_AUGMENTATION, deformation_voxels=(0.0, 5.0, 5.0)))
    trainer = toy_trainer(tmp_path, plan)
    losses = [trainer.train_step() for _ in range(25)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.02


def test_validation_cases_are_never_trained_on_and_never_change_the_weights(tmp_path):
    plan = toy_plan(steps=4, validation_interval=2)
    alone = toy_trainer(tmp_path / "a", plan)
    checked = toy_trainer(tmp_path / "b", plan, validation=toy_cases(2, first=7))
    seen = []
    draw = checked.case_of
    checked.case_of = lambda sample: seen.append(draw(sample)) or seen[-1]
    alone.run()
    checked.run()
    assert {case.name for case in seen} == {"toy0", "toy1", "toy2"}
    assert_same_state(alone.network.state_dict(), checked.network.state_dict())
    assert [row["step"] for row in checked.log if row["validation_dice"] != ""] == [2, 4]


def test_a_case_in_training_and_validation_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="both training and validation"):
        toy_trainer(tmp_path, validation=toy_cases(1))
    with pytest.raises(DatasetError, match="no training cases"):
        toy_trainer(tmp_path, training=[])


def test_a_copy_of_a_training_scan_under_another_name_never_validates(tmp_path):
    copy = replace(toy_cases(1, first=9)[0], identity=toy_cases(1)[0].identity)
    with pytest.raises(DatasetError, match="'toy9' is a copy of training case 'toy0'"):
        toy_trainer(tmp_path, validation=[copy])


def test_the_scan_that_everybody_has_is_never_trained_on_nor_rehearsed(tmp_path):
    bundled = replace(toy_cases(1, first=9)[0], identity=ScanIdentity(read_image(bundled_scan_file())))
    for options in ({"training": [bundled]}, {"replay": [bundled]}):
        with pytest.raises(DatasetError, match="'toy9' is the scan"):
            toy_trainer(tmp_path, **options)


def test_weights_to_start_from_are_taken(tmp_path):
    first = toy_trainer(tmp_path / "a")
    first.train_step()
    second = toy_trainer(tmp_path / "b", start_from=copied(first.network.state_dict()))
    assert_same_state(second.network.state_dict(), first.network.state_dict())
    assert_same_state(second.average, first.network.state_dict())


# ---- samples


def test_samples_follow_from_seed_and_number_alone(tmp_path):
    one, other = toy_trainer(tmp_path), toy_trainer(tmp_path)
    for _ in range(2):
        other.train_step()
    torch.manual_seed(99)
    for a, b in zip(one.make_batch(5, 0), other.make_batch(5, 0), strict=True):
        assert torch.equal(a, b)


def test_another_run_seed_gives_other_augmentations_and_another_order(tmp_path):
    one, other = (toy_trainer(tmp_path, toy_plan(seed=seed), training=toy_cases(9)) for seed in (0, 1))
    assert [one.case_of(n).name for n in range(9)] != [other.case_of(n).name for n in range(9)]
    one, other = (toy_trainer(tmp_path, toy_plan(seed=seed), training=toy_cases(1)) for seed in (0, 1))
    assert not torch.equal(one.make_sample(5)[0], other.make_sample(5)[0])


def test_every_sample_is_augmented_anew(tmp_path):
    trainer = toy_trainer(tmp_path, training=toy_cases(1))
    samples = [trainer.make_sample(number)[0] for number in range(6)]
    assert all(not torch.equal(samples[i], samples[j]) for i in range(6) for j in range(i))


def test_every_epoch_is_a_fresh_order_of_all_cases(tmp_path):
    trainer = toy_trainer(tmp_path, training=toy_cases(5))
    epochs = [[trainer.case_of(5 * epoch + position).name for position in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == [f"toy{number}" for number in range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_share_every_steps_samples_without_gap_or_overlap(tmp_path, accumulation):
    whole = toy_trainer(tmp_path, toy_plan(batch_size=4, accumulation=accumulation))
    share = toy_trainer(tmp_path, toy_plan(batch_size=2, accumulation=accumulation))
    for step in range(2):
        for accumulated in range(accumulation):
            parts = []
            for rank in range(2):
                share.processes = Processes(rank, 2)
                parts.append(share.make_batch(step, accumulated))
            for together, *separate in zip(whole.make_batch(step, accumulated), *parts, strict=True):
                assert torch.equal(together, torch.cat(separate))


def test_half_of_the_samples_come_without_bias_field_correction(tmp_path):
    blank = np.zeros((20, 40, 40), np.float16)
    case = PreparedCase("a", blank + 1, blank + 5, blank, (10.0, 20.0, 20.0), identity_of(blank))
    plain = replace(PAPER_AUGMENTATION, deformation_voxels=(0, 0, 0))
    for share in (0.0, 0.5, 1.0):
        trainer = toy_trainer(tmp_path, toy_plan(augmentation=replace(plain, uncorrected=share)), training=[case])
        found = np.mean([trainer.make_sample(number)[0].mean().item() > 3 for number in range(40)])
        assert abs(found - share) < (0.2 if share == 0.5 else 1e-9)


def test_crops_are_small_at_first_and_then_as_large_as_the_network_expects(tmp_path):
    trainer = toy_trainer(tmp_path, toy_plan(steps=4, small_crop=(8, 16, 16)))
    sizes = [tuple(trainer.make_batch(step, 0)[0].shape[2:]) for step in range(4)]
    assert sizes == [(8, 16, 16)] * 2 + [(16, 32, 32)] * 2


# ---- steps


def test_two_accumulated_batches_of_one_give_the_gradients_of_one_batch_of_two(tmp_path):
    start, found = warm_weights(tmp_path), []
    for settings in ({"batch_size": 2}, {"batch_size": 1, "accumulation": 2}):
        plan = toy_plan(frozen_batch_norm=True, gradient_clip=0.0, **settings)
        trainer = toy_trainer(tmp_path, plan, start_from=start)
        found.append((trainer.train_step(), gradients_of(trainer)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert_same_gradients(found[1][1], found[0][1])


def test_frozen_batch_norm_keeps_its_statistics_and_live_does_not(tmp_path):
    for frozen in (True, False):
        trainer = toy_trainer(tmp_path, toy_plan(frozen_batch_norm=frozen))
        before = copied(trainer.network.state_dict())
        trainer.train_step()
        after = trainer.network.state_dict()
        changed = {key for key in after if "running" in key and not torch.equal(after[key], before[key])}
        assert bool(changed) != frozen


def test_an_output_without_supervision_is_left_as_it_was(tmp_path):
    trainer = toy_trainer(tmp_path, toy_plan(supervision=(0.8, 0.2, 0.0)))
    before = copied(trainer.network.state_dict())
    trainer.train_step()
    after = trainer.network.state_dict()
    assert torch.equal(after["head3.weight"], before["head3.weight"])
    assert not torch.equal(after["head2.weight"], before["head2.weight"])


def test_gradients_are_clipped_to_the_plans_norm(tmp_path):
    trainer = toy_trainer(tmp_path, toy_plan(gradient_clip=1e-3))
    trainer.train_step()
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients_of(trainer).values()))
    assert norm == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("decay", [0.5, 0.0])
def test_average_of_the_weights_follows_its_formula(tmp_path, decay):
    trainer = toy_trainer(tmp_path, toy_plan(ema_decay=decay))
    expected = copied(trainer.network.state_dict())
    for step in range(5):
        trainer.train_step()
        share = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for key, value in trainer.network.state_dict().items():
            expected[key] = share * expected[key] + (1 - share) * value if value.is_floating_point() else value.clone()
    assert_same_state(trainer.average, expected, 1e-6)
    apart = [key for key, value in trainer.network.state_dict().items() if not torch.equal(trainer.average[key], value)]
    assert bool(apart) == bool(decay)


# ---- plans


def test_paper_plan_has_the_papers_learning_rates_and_optimizer(tmp_path):
    plan = PLANS["paper"]
    expected = {0: 1e-3, 9_999: 1e-3, 10_000: 2e-4, 19_999: 2e-4, 20_000: 4e-5, 30_000: 8e-6, 39_999: 8e-6}
    assert {step: plan.learning_rate_at(step) for step in expected} == pytest.approx(expected)
    assert (plan.steps, plan.batch_size, plan.accumulation, plan.ema_decay, plan.gradient_clip) == (40_000, 2, 1, 0, 0)
    trainer = toy_trainer(tmp_path, toy_plan("paper"))
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (1e-3, 0.99, 0.005, False)


def test_the_optimizer_uses_the_learning_rate_of_its_step(tmp_path):
    trainer = toy_trainer(tmp_path, toy_plan("paper"))
    trainer.step = 10_000
    trainer.train_step()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)


def test_improved_plan_warms_up_stays_and_falls(tmp_path):
    plan = PLANS["improved"]
    rates = np.array([plan.learning_rate_at(step) for step in range(plan.steps)])
    top = rates == plan.learning_rate
    first, last = np.flatnonzero(top)[[0, -1]]
    assert top[first : last + 1].all()
    assert (np.diff(rates[: first + 1]) > 0).all() and (np.diff(rates[last:]) <= 0).all()
    assert first < 0.05 * plan.steps and last == pytest.approx((1 - plan.decay_share) * plan.steps, abs=2)
    assert 0 < rates[0] < 0.1 * plan.learning_rate and 0 < rates[-1] <= 0.0101 * plan.learning_rate
    assert isinstance(toy_trainer(tmp_path).optimizer, torch.optim.AdamW)


def test_a_prolonged_run_shares_warm_up_and_plateau():
    short, long = choose_plan("improved", steps=2000), choose_plan("improved", steps=6000)
    assert all(short.learning_rate_at(step) == long.learning_rate_at(step) for step in range(1200))


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "rmsprop"}, {"schedule": "cosine"}, {"loss": "focal"}, {"steps": 0}, {"batch_size": 0}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TrainingPlan("mine", **changes)


# ---- going on


@pytest.mark.parametrize(
    ("name", "settings"),
    [("improved", {}), ("improved", {"batch_size": 1, "accumulation": 2}), ("paper", {"ema_decay": 0.9})],
    ids=["improved", "accumulated", "paper"],
)
def test_a_resumed_run_repeats_the_straight_one(tmp_path, name, settings):
    plan = toy_plan(name, **settings)
    straight = toy_trainer(tmp_path / "straight", plan)
    expected = [straight.train_step() for _ in range(7)]
    first = toy_trainer(tmp_path / "run", plan)
    begun = [first.train_step() for _ in range(3)]
    first.save_checkpoint()
    torch.manual_seed(1234)
    second = toy_trainer(tmp_path / "run", plan)
    second.load_checkpoint()
    assert second.step == 3
    assert_same_state(second.average, first.average)
    resumed = [second.train_step() for _ in range(4)]
    assert begun + resumed == pytest.approx(expected, abs=1e-6)
    assert_same_state(second.network.state_dict(), straight.network.state_dict(), 1e-6)
    assert_same_state(second.average, straight.average, 1e-6)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """Folder of a run that was stopped after three steps; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    toy_trainer(folder).run(until=3)
    return folder


@pytest.fixture
def run_folder(stopped_run, tmp_path):
    return shutil.copytree(stopped_run, tmp_path / "run")


def test_more_steps_are_no_other_plan(run_folder):
    trainer = toy_trainer(run_folder, toy_plan(steps=90))
    trainer.load_checkpoint()
    assert trainer.step == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.5}, "learning_rate: 0.001, now 0.5"),
        ({"seed": 7}, "seed: 0, now 7"),
        ({"widths": (4, 8, 12)}, r"network.widths: \[4, 8, 8\], now \[4, 8, 12\]"),
        ({"augmentation": PAPER_AUGMENTATION}, "augmentation.flip: 0.5, now 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_changed_plan_is_refused_with_what_changed(run_folder, changes, words):
    trainer = toy_trainer(run_folder, toy_plan(**changes))
    before = copied(trainer.network.state_dict())
    with pytest.raises(ModelError, match=words):
        trainer.load_checkpoint()
    assert trainer.step == 0
    assert_same_state(trainer.network.state_dict(), before)


def test_other_cases_are_refused_by_name(run_folder):
    with pytest.raises(ModelError, match="training cases: toy3"):
        toy_trainer(run_folder, training=toy_cases(4)).load_checkpoint()
    with pytest.raises(ModelError, match="training cases: their order"):
        toy_trainer(run_folder, training=toy_cases(3)[::-1]).load_checkpoint()


def test_other_scans_under_the_same_names_are_refused_by_name(run_folder):
    changed = [replace(toy_cases(1, first=50)[0], name="toy0"), *toy_cases(3)[1:]]
    with pytest.raises(ModelError, match="scans: toy0"):
        toy_trainer(run_folder, training=changed).load_checkpoint()


def test_a_run_resumes_with_its_parent_alone_and_keeps_what_the_parent_had_seen(tmp_path):
    old = toy_cases(1, first=70)[0]
    start = {
        "start_from": copied(toy_trainer(tmp_path / "parent").network.state_dict()),
        "seen_before": NOTHING_SEEN.with_training([("old", old.identity)]),
        "facts": {"training": {"parent": "second"}},
    }
    toy_trainer(tmp_path / "run", **start).run(until=1)
    other = {key: value + 1 for key, value in start["start_from"].items()}
    for changes, words in (
        (dict.fromkeys(start) | {"seen_before": NOTHING_SEEN}, r"parent: second \(.*\), now none"),
        (start | {"start_from": other}, "parent: second"),
        (start | {"seen_before": NOTHING_SEEN}, "what the parent had seen"),
    ):
        with pytest.raises(ModelError, match=words):
            toy_trainer(tmp_path / "run", **changes).load_checkpoint()
    resumed = toy_trainer(tmp_path / "run", **start)
    resumed.load_checkpoint()
    resumed.run(until=2)
    description = load_networks(tmp_path / "run" / "model")[1]
    assert description.seen.known and description.was_trained_on(old.identity)


def test_a_checkpoint_that_does_not_say_what_was_seen_goes_on_and_cannot_tell(run_folder):
    state = read_checkpoint(run_folder)
    del state["seen"], state["parent"]
    torch.save(state, run_folder / CHECKPOINT_FILE)
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    trainer.run(until=4)
    description = load_networks(run_folder / "model")[1]
    assert description.was_trained_on(toy_cases(1)[0].identity)
    assert description.was_trained_on(toy_cases(1, first=70)[0].identity) is None


def test_another_number_of_processes_is_refused_since_it_would_see_other_samples(run_folder):
    state = read_checkpoint(run_folder)
    torch.save({**state, "processes": 2}, run_folder / CHECKPOINT_FILE)
    with pytest.raises(ModelError, match="processes: 2, now 1"):
        toy_trainer(run_folder).load_checkpoint()


def test_a_checkpoint_that_does_not_say_its_number_of_processes_was_made_by_one(run_folder):
    state = read_checkpoint(run_folder)
    del state["processes"]
    torch.save(state, run_folder / CHECKPOINT_FILE)
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    assert trainer.step == 3


@pytest.mark.parametrize("damage", ["empty", "truncated", "scribbled", "foreign", "of another network"])
def test_damaged_checkpoint_is_a_clear_error(run_folder, damage):
    path = run_folder / CHECKPOINT_FILE
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "of another network":
        torch.save({**read_checkpoint(run_folder), "network": {"a": torch.zeros(3)}}, path)
    else:
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "scribbled": b"\1" * 500}[damage])
    with pytest.raises(ModelError, match=DAMAGED):
        toy_trainer(run_folder).load_checkpoint()


def test_a_checkpoint_never_runs_code(run_folder):
    class Harm:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code was run')",))

    torch.save({"plan": Harm()}, run_folder / CHECKPOINT_FILE)
    with pytest.raises(ModelError, match=DAMAGED):
        toy_trainer(run_folder).load_checkpoint()


def test_nothing_to_resume_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="'fresh' has no checkpoint"):
        toy_trainer(tmp_path / "fresh").load_checkpoint()


# ---- files


def test_a_run_leaves_log_curve_checkpoint_and_a_model_with_the_averaged_weights(tmp_path):
    trainer = toy_trainer(tmp_path / "run", toy_plan(steps=12, validation_interval=6), validation=toy_cases(1, first=9))
    assert trainer.run()
    with open(tmp_path / "run" / LOG_FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LOG_COLUMNS and [row["step"] for row in rows] == ["6", "10", "12"]
    assert [row["validation_dice"] != "" for row in rows] == [True, False, True]
    assert all(0 < float(row["loss"]) < 1 and float(row["seconds"]) > 0 for row in rows)
    assert float(rows[2]["learning_rate"]) == pytest.approx(trainer.plan.learning_rate_at(11))
    (network,), description = load_networks(tmp_path / "run" / "model")
    assert_same_state(network.state_dict(), {k: v.half().float() if v.is_floating_point() else v
                                             for k, v in trainer.average.items()}, 1e-7)  # fmt: skip
    assert description.training["cases"] == ["toy0", "toy1", "toy2"] and description.training["steps"] == 12
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert read_checkpoint(tmp_path / "run")["step"] == 12


def test_the_curve_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [{"step": 10 * n, "loss": 1 / n, "validation_dice": "" if n % 5 else 0.8} for n in range(1, 120)]
    draw_curve(rows, tmp_path / CURVE_FILE)
    assert (tmp_path / CURVE_FILE).read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [CURVE_FILE]


def test_without_matplotlib_there_is_the_table_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    toy_trainer(tmp_path).run(until=1)
    assert (tmp_path / LOG_FILE).is_file() and not (tmp_path / CURVE_FILE).exists()


def test_progress_shows_step_loss_and_time_left(tmp_path):
    said = []
    toy_trainer(tmp_path, toy_plan(steps=20), progress=said.append).run(until=10)
    (line,) = said
    assert line.startswith("[############............] 10/20 loss 0.") and "min left" in line


def test_a_run_of_some_minutes_stops_and_says_so(tmp_path):
    said = []
    trainer = toy_trainer(tmp_path, progress=said.append)
    assert not trainer.run(minutes=1e-9)
    assert trainer.step == 1 and "stopped at step 1 of 40" in said[-1] and read_checkpoint(tmp_path)["step"] == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(run_folder, monkeypatch, error):
    before = (run_folder / CHECKPOINT_FILE).read_bytes()
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()

    def half(state, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(StorageError, match="'checkpoint.pt'.*disk.*last one is kept"):
        trainer.run(until=4)
    assert (run_folder / CHECKPOINT_FILE).read_bytes() == before
    assert not list(run_folder.glob(".*"))


def test_a_disk_that_fills_up_under_the_curve_keeps_the_checkpoint_written_before(run_folder, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")

    def full(self, path, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", full)
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    trainer.log.append({"step": 3, "loss": 0.5, "learning_rate": 1e-3, "seconds": 1.0, "validation_dice": ""})
    with pytest.raises(StorageError, match="'curve.png'"):
        trainer.run(until=4)
    assert read_checkpoint(run_folder)["step"] == 4 and not list(run_folder.glob(".*"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_weights_and_checkpoint(run_folder, value):
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    before, draw = copied(trainer.network.state_dict()), trainer.make_batch
    trainer.make_batch = lambda step, part: tuple(t * (value if step == 5 else 1) for t in draw(step, part))
    with pytest.raises(ModelError, match="Step 6 is not finite .loss nan.*[Rr]esume"):
        trainer.run()
    weights = dict(trainer.network.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert any(not torch.equal(weight, before[name]) for name, weight in weights.items())
    assert trainer.step == 5 and read_checkpoint(run_folder)["step"] == 3


def test_gradients_that_are_not_finite_stop_the_run_before_they_reach_the_weights(tmp_path):
    trainer = toy_trainer(tmp_path, toy_plan(gradient_clip=0.0))
    before = copied(trainer.network.state_dict())
    trainer.network.head1.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ModelError, match="gradient norm (inf|nan)"):
        trainer.train_step()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.network.named_parameters())


# ---- signals and kills


def test_handlers_of_signals_are_put_back_and_a_thread_trains_without_them(tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainer = toy_trainer(tmp_path)
    trainer.run(until=1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    thread = threading.Thread(target=trainer.run, kwargs={"until": 2})
    thread.start()
    thread.join()
    assert trainer.step == 2


def test_a_signal_during_validation_does_not_wait_for_its_end(tmp_path, monkeypatch):
    trainer = toy_trainer(tmp_path, toy_plan(validation_interval=1), validation=toy_cases(3, first=7))
    seen = []

    class SlowPredictor:
        def __init__(self, network):
            pass

        def predict(self, volume):
            seen.append(volume)
            signal.raise_signal(signal.SIGTERM)
            return type("Prediction", (), {"probability": np.zeros(volume.shape)})

    monkeypatch.setattr(training, "GlandPredictor", SlowPredictor)
    assert not trainer.run()
    assert len(seen) == 1 and trainer.step == 1 and read_checkpoint(tmp_path)["step"] == 1
    assert trainer.log[-1]["validation_dice"] == ""


def test_a_run_can_be_started_again_after_a_signal(tmp_path):
    trainer = toy_trainer(tmp_path)
    take_step = trainer.train_step
    trainer.train_step = lambda: signal.raise_signal(signal.SIGTERM) or take_step()
    trainer.run()
    trainer.train_step = take_step
    trainer.run(until=4)
    assert trainer.step == 4


def test_sigterm_writes_a_checkpoint_at_once_ends_cleanly_and_the_run_goes_on(tmp_path):
    process = start_toy_training(tmp_path / "run", plan={"steps": 100_000}, checkpoint_minutes=60)
    wait_for_line(process, "step 2")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    ended = int(output.split("ended at ")[1])
    assert 2 <= ended < 1000 and read_checkpoint(tmp_path / "run")["step"] == ended
    trainer = toy_trainer(tmp_path / "run")
    trainer.load_checkpoint()
    trainer.run(until=ended + 1)
    assert trainer.step == ended + 1


def test_a_kill_at_any_instant_leaves_a_checkpoint_that_loads(tmp_path):
    """Each process writes a checkpoint every step, so that most kills fall into the writing of some file."""
    draw, folder, step = np.random.default_rng(0), tmp_path / "run", 0
    toy_trainer(folder).run(until=1)
    for _ in range(3):
        process = start_toy_training(folder, plan={"steps": 100_000}, resume=True)
        wait_for_line(process, "step")
        time.sleep(draw.uniform(0, 1.0))
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        trainer = toy_trainer(folder, toy_plan(steps=100_000))
        trainer.load_checkpoint()
        assert trainer.step >= max(1, step) and all(torch.isfinite(value).all() for value in trainer.average.values())
        step = trainer.step
    trainer.run(until=step + 1)
    assert trainer.step == step + 1 and load_networks(folder / "model")[1].training["steps"] == step + 1


@pytest.mark.parametrize("file", [CHECKPOINT_FILE, LOG_FILE, CURVE_FILE])
def test_a_kill_between_writing_and_renaming_keeps_the_last_file(run_folder, monkeypatch, file):
    """The instant that a random kill seldom hits."""
    if file == CURVE_FILE:
        pytest.importorskip("matplotlib")
    before = (run_folder / file).read_bytes()

    class Killed(BaseException):
        pass

    rename = os.replace

    def killed(source, target):
        if str(target).endswith(file):
            raise Killed
        rename(source, target)

    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        trainer.run(until=5)
    assert (run_folder / file).read_bytes() == before
    monkeypatch.undo()
    trainer = toy_trainer(run_folder)
    trainer.load_checkpoint()
    trainer.run(until=6)
    assert trainer.step == 6 and not list(run_folder.glob(".*"))
