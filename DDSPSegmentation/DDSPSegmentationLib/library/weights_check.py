"""Tries a model version's weights in a process of its own, for hosts that must not load torch themselves.

``python -m DDSPSegmentationLib.library.weights_check FOLDER`` ends with 0 when the weights can be used or torch is not
there to try them; otherwise its last line of output is the reason as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ..engine.errors import ModelError

PATIENCE_SECONDS = 300


def check_weights(folder: Path) -> None:
    """Read the weights into the network that the description names; without torch nothing can be tried.

    Raises:
        ModelError: see ``engine.model.load_network``.
    """
    try:
        import torch  # noqa: F401
    except (ImportError, OSError):
        return
    from ..engine.model import load_network

    load_network(folder)


def check_weights_elsewhere(python: str, folder: Path) -> None:
    """``check_weights`` in another process.

    Args:
        python: the Python to start.

    Raises:
        ModelError: the weights cannot be used, or that process ended without an answer.
    """
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            [python, "-m", __name__, str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _without_answer(folder, str(error.strerror if isinstance(error, OSError) else "took too long")) from error
    if done.returncode == 0:
        return
    try:
        reason = json.loads(done.stdout.splitlines()[-1])
        raise ModelError(reason["cause"], reason["next_step"])
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise _without_answer(folder, f"exit code {done.returncode}") from error


def _without_answer(folder: Path, reason: str) -> ModelError:
    return ModelError(f"The weights of model '{folder.name}' could not be tried ({reason}).", "Try again.")


if __name__ == "__main__":
    try:
        check_weights(Path(sys.argv[1]))
    except ModelError as error:
        print(json.dumps({"cause": error.cause, "next_step": error.next_step}))
        sys.exit(1)
