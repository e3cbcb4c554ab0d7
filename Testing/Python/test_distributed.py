"""Training in two processes: what one process would compute, and all stop together."""

import signal
import socket
from pathlib import Path

import pytest
import torch
from distributed_parts import FROZEN, SGD
from learning_parts import (
    PATIENCE_SECONDS,
    assert_same_gradients,
    gradients_of,
    start_script,
    toy_plan,
    toy_trainer,
    wait_for_line,
    warm_weights,
)

from DDSPSegmentationLib.engine.model import load_networks
from DDSPSegmentationLib.learning.processes import Processes
from DDSPSegmentationLib.learning.training import CHECKPOINT_FILE, Trainer
from DDSPSegmentationLib.learning.training_log import LOG_FILE

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="PyTorch without gloo"
)
SCRIPT = Path(__file__).with_name("distributed_parts.py")


def start_two(folder, scenario):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        start_script(SCRIPT, str(folder), scenario, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                     MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank in range(2)
    ]  # fmt: skip


def end_both(processes):
    """Wait for both; whichever hangs is ended and fails the test. Gives what each printed since."""
    try:
        answers = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in answers]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder, start weights, and what each of two processes found (see distributed_parts.py)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("two")
    start = warm_weights(folder)
    torch.save(start, folder / "start.pt")
    end_both(start_two(folder, "compare"))
    yield folder, start, [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in range(2)]
    torch.set_num_threads(threads)


@pytest.fixture
def one(two, tmp_path):
    """A single process with batches of two, beside the two with batches of one."""
    return toy_trainer(tmp_path, toy_plan(**{**FROZEN, "batch_size": 2}), start_from=two[1])


def test_two_processes_see_the_samples_of_one(two, one):
    for part in range(2):
        for number, together in enumerate(one.make_batch(0, part)):
            assert torch.equal(together, torch.cat([found["samples"][part][number] for found in two[2]]))


def test_two_processes_with_frozen_batch_norm_compute_loss_and_gradients_of_one(two, one):
    loss, found = one.train_step(), two[2]
    assert sum(each["loss"] for each in found) / 2 == pytest.approx(loss, abs=1e-5)
    assert found[0]["loss"] != found[1]["loss"]
    for each in found:
        assert_same_gradients(each["gradients"], gradients_of(one))


def test_two_processes_stopped_and_resumed_reach_the_weights_of_one(two, one):
    for _ in range(4):
        one.train_step()
    for found in two[2]:
        for name, value in one.network.state_dict().items():
            assert torch.allclose(found["weights"][name].double(), value.double(), rtol=0, atol=1e-5), name


def test_live_batch_norm_normalizes_with_the_statistics_of_each_process(two, tmp_path):
    _, start, found = two
    for rank, each in enumerate(found):
        alone = toy_trainer(tmp_path, toy_plan(**SGD), start_from=start)
        draw = alone.make_batch
        alone.make_batch = lambda step, part, rank=rank, draw=draw: draw(2 * step + rank, part)
        assert alone.train_step() == pytest.approx(each["live_loss"], abs=1e-6)
    together = toy_trainer(tmp_path, toy_plan(**{**SGD, "batch_size": 2}), start_from=start).train_step()
    assert abs(sum(each["live_loss"] for each in found) / 2 - together) > 1e-5
    assert "each process normalizes with the statistics of its own share" in Trainer.__doc__


def test_only_the_first_process_writes_files_and_they_are_whole(two):
    folder, _, _ = two
    assert not (folder / "rank1").exists() and not (folder / "unused").exists()
    names = {path.name for path in (folder / "rank0").iterdir()}
    assert {CHECKPOINT_FILE, LOG_FILE, "model"} <= names and not [name for name in names if name.startswith(".")]
    state = torch.load(folder / "rank0" / CHECKPOINT_FILE, weights_only=True)
    assert (state["step"], state["processes"]) == (4, 2) and not any("module." in key for key in state["network"])
    (network,), description = load_networks(folder / "rank0" / "model")
    assert description.training["steps"] == 4
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_an_unsupervised_output_does_not_hold_up_the_others(two):
    assert all(0 < loss <= 1 for found in two[2] for loss in found["unsupervised"])


def test_a_sample_that_is_not_finite_stops_all_processes_with_the_same_error(two):
    for found in two[2]:
        assert "Step 1 " in found["error"]


@pytest.mark.parametrize(("kind", "backend", "gpus"), [("cuda", "nccl", [3]), ("cpu", "gloo", [])])
def test_each_process_of_a_machine_takes_its_own_gpu_where_there_are_any(monkeypatch, kind, backend, gpus):
    chosen, backends = [], []
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", backends.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 7)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    assert Processes.join(torch.device(kind)) == Processes(7, 8)
    assert (chosen, backends) == (gpus, [backend])


def test_sigterm_to_one_process_ends_both_at_the_same_step_with_a_checkpoint(tmp_path):
    processes = start_two(tmp_path / "run", "until_stopped")
    wait_for_line(processes[0], "step 2")
    wait_for_line(processes[1], "step 2")
    processes[1].send_signal(signal.SIGTERM)
    ended = {int(output.split("ended at ")[1]) for output in end_both(processes)}
    assert len(ended) == 1
    state = torch.load(tmp_path / "run" / CHECKPOINT_FILE, weights_only=True)
    assert {state["step"]} == ended and state["processes"] == 2
