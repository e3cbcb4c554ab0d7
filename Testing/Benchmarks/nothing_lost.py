"""kill -9 at fifty random moments of accept, revise, delete, retrain, publish, activate ...: is anything lost?

    python Testing/Benchmarks/nothing_lost.py --output FOLDER [--kills 50] [--seed 0]

A child process works with the real case library, registry and retraining (a tiny network). It is killed while it does
one operation (or one stage of a retraining): every other time after a random part of its usual time, else just before
a random one of its changes to the file system, so that what is short is hit as well. What it had reported as done is a
promise. The next child, a fresh process, opens library and registry and holds every file against these promises; what
was under way may have happened or not, but nothing in between. Then it writes once to library and registry, resumes or
discards the interrupted retraining, and looks again: every file on the disk must now be accounted for.

Figures: OUTPUT/nothing_lost.json with one entry a kill, and the table that is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from toy_hospital import make_tiny_model, start_registry

from DDSPSegmentationLib.engine.files import write_text

RESULTS_FILE = "nothing_lost.json"
CHILD = Path(__file__).with_name("nothing_lost_child.py")
OPERATIONS = (
    "accept",
    "revise",
    "delete",
    "restore",
    "publish",
    "activate",
    "roll back",
    "delete version",
    "export version",
    "import version",
)
RETRAIN, RETRAIN_SHARE = "retrain", 0.2
BY_THE_CLOCK, BY_A_CHANGE = "by the clock", "by a change"
STARTED, ENDED = "begin", "done"
MEASURED = ("seconds", "changes")


class Life:
    """One child process from its start to its end, and what it said."""

    def __init__(self, folder: Path, seed: int, state: dict, pending: dict | None, planned: str, step: int = 0):
        write_text(json.dumps({"state": state, "pending": pending}), folder / "promises.json")
        operation, _, self._stage = planned.partition(": ")
        words = [
            str(folder),
            "--seed",
            str(seed),
            "--operation",
            operation,
            "--stage",
            self._stage,
            "--step",
            str(step),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.said: list[dict] = []
        self._log = open(folder / "child.log", "a")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), *words, "--step", str(step)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def listen(self, until: str = "", stage: str = "") -> bool:
        """Take in what it says, up to a word of this kind (and stage) or to its end; whether that word came."""
        for line in self._process.stdout:
            word = json.loads(line)
            self.said.append(word)
            if word["word"] == until and word.get("stage", "") == stage:
                return True
        return False

    def kill_after(self, seconds: float) -> None:
        """Let it begin what is planned, wait, kill."""
        if not self._stage or self.listen("stage", self._stage):
            time.sleep(seconds)
            self._process.send_signal(signal.SIGKILL)

    def end(self) -> bool:
        """Whether it was killed, once nothing more comes from it."""
        self.listen()
        self._log.close()
        return self._process.wait() == -signal.SIGKILL

    # ---- what its words mean

    def last(self, kind: str) -> dict:
        return next((word for word in reversed(self.said) if word["word"] == kind), {})

    @property
    def state(self) -> dict:
        """All that it had promised."""
        return next(word["state"] for word in reversed(self.said) if "state" in word)

    @property
    def pending(self) -> dict | None:
        """What was under way."""
        position = {kind: -1 for kind in (STARTED, ENDED)}
        position |= {word["word"]: number for number, word in enumerate(self.said)}
        return self.last(STARTED) if position[STARTED] > position[ENDED] else None

    @property
    def phase(self) -> str:
        if self.pending is None:
            return "between two operations"
        stages = [word["stage"] for word in self.said[self.said.index(self.pending) :] if word["word"] == "stage"]
        return self.pending["operation"] + (f": {stages[-1]}" if stages else "")

    @property
    def problems(self) -> list[str]:
        return self.last("looked").get("problems", ["The library or the registry could not be looked at."])


def usual_times(said: list[dict]) -> dict[str, dict]:
    """Seconds and changes to the file system of each operation, and of each stage of a retraining."""
    usual, stages = {}, []
    for word in said:
        if word["word"] == "stage":
            stages.append(word)
        elif word["word"] == ENDED:
            for stage, following in zip(stages, [*stages, word][1:], strict=True):
                usual[f"{RETRAIN}: {stage['stage']}"] = {key: following[key] - stage[key] for key in MEASURED}
            if not stages:
                usual[word["operation"]] = {key: word[key] for key in MEASURED}
            stages = []
    return usual


def plan(kills: int, stages: list[str], seed: int) -> list[tuple[str, str]]:
    """What each kill hits, and whether by the clock or by a change to the file system."""
    retrainings = round(RETRAIN_SHARE * kills)
    planned = [OPERATIONS[number % len(OPERATIONS)] for number in range(kills - retrainings)]
    first = random.Random(seed).randrange(len(stages))
    planned += [stages[(first + number) % len(stages)] for number in range(retrainings)]
    ways = (BY_THE_CLOCK, BY_A_CHANGE)
    queue = [(phase, ways[(number + planned[:number].count(phase)) % 2]) for number, phase in enumerate(planned)]
    random.Random(seed).shuffle(queue)
    return queue


def run(output: Path, kills: int, seed: int) -> dict:
    """Measure the operations, kill, look, kill again; what came of it is also in OUTPUT/nothing_lost.json."""
    folder = output / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start_registry(folder / "Models", make_tiny_model(folder / "tiny"))
    draw = random.Random(seed)
    measured = Life(folder, seed, {}, None, "measure")
    measured.end()
    if not measured.last("looked"):
        raise SystemExit((folder / "child.log").read_text())
    usual = usual_times(measured.said)
    state, pending, hits = measured.state, None, []
    queue = plan(kills, [phase for phase in usual if phase.startswith(RETRAIN)], seed)
    for number, (planned, way) in enumerate(queue, 1):
        step = draw.randint(1, max(1, usual[planned]["changes"])) if way == BY_A_CHANGE else 0
        life = Life(folder, seed + number, state, pending, planned, step)
        armed = life.listen("armed")
        if armed and not step:
            life.kill_after(draw.uniform(0, usual[planned]["seconds"]))
        killed = life.end()
        if hits:
            settle(hits[-1], life)
        if not armed or not killed:
            hits += [{"phase": "no kill", "problems": ["The child ended by itself; see child.log."]}]
            break
        state, pending = life.state, life.pending
        hits.append({"planned": planned, "way": way, "phase": life.phase, "before": life.last("killed").get("at", "")})
        print(f"{number}/{kills} {life.phase} ({way})", flush=True)
    last = Life(folder, seed + kills + 1, state, pending, "look")
    last.end()
    settle(hits[-1], last)
    results = {
        "kills": len(hits),
        "whole": sum(not hit["problems"] for hit in hits),
        "seed": seed,
        "usual": usual,
        "phases": dict(Counter(hit["phase"] for hit in hits).most_common()),
        "hits": hits,
    }
    write_text(json.dumps(results, indent=2) + "\n", output / RESULTS_FILE)
    if results["whole"] == results["kills"]:
        shutil.rmtree(folder)
    return results


def settle(hit: dict, next_life: Life) -> None:
    """What the next process found after this kill."""
    if "problems" not in hit:
        looked = next_life.last("looked")
        hit["problems"] = next_life.problems
        hit |= {key: looked[key] for key in ("outcome", "interrupted_run") if looked.get(key)}


def report(results: dict) -> str:
    lines = [f"{count:4d}  {phase}" for phase, count in results["phases"].items()]
    outcomes = Counter(hit.get("outcome", "") for hit in results["hits"])
    runs = Counter(hit["interrupted_run"] for hit in results["hits"] if "interrupted_run" in hit)
    lines.append(f"what was under way: {dict(outcomes)}; interrupted retrainings: {dict(runs)}")
    for number, hit in enumerate(results["hits"], 1):
        lines += [f"kill {number} ({hit['phase']}): {problem}" for problem in hit["problems"]]
    lines.append(f"{results['whole']}/{results['kills']} kills left library and registry whole")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    results = run(chosen.output, chosen.kills, chosen.seed)
    print(report(results))
    return int(results["whole"] != chosen.kills)


if __name__ == "__main__":
    sys.exit(main())
