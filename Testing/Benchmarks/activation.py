"""How often is a version recommended that is no better, and one that is? One command, a few minutes.

    python Testing/Benchmarks/activation.py [--draws 20000]

Draws the change of Dice of so many hold-out patients, one case each, and asks the verdict itself (judge). All changes
scatter by 0.02 (standard deviation) around a mean of 0, or of 0.03 for a gain:

* no change: normal;
* skewed: exponential, the tail to the left: most patients a little better, a few much worse;
* heavy-tailed: Student's t with three degrees of freedom;
* gain: normal around 0.03.

Ends with 1 when, for any number of patients, no change is recommended in more than 3.5 %, a skewed or heavy-tailed one
in more than 10 %, or, from six patients on, a gain in fewer than 80 % of the draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402

from DDSPSegmentationLib.engine.model import ModelDescription  # noqa: E402
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN  # noqa: E402
from DDSPSegmentationLib.learning.comparison_record import ACTIVATE, ComparedCase, Evidence, Figures  # noqa: E402
from DDSPSegmentationLib.learning.comparison_verdict import Comparison  # noqa: E402

SEED, DRAWS = 20_180_131, 20_000
SPREAD, GAIN = 0.02, 0.03
PATIENTS = range(3, 21)
SURE_FROM = 6
OLD_DICE = 0.85

OLD, NEW = (ModelDescription(name, "", {}, {}, seen=NOTHING_SEEN) for name in ("old", "new"))

CHANGES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "no change": lambda generator, shape: generator.normal(0, SPREAD, shape),
    "skewed": lambda generator, shape: SPREAD * (1 - generator.exponential(1, shape)),
    "heavy-tailed": lambda generator, shape: SPREAD / np.sqrt(3) * generator.standard_t(3, shape),
    "gain": lambda generator, shape: generator.normal(GAIN, SPREAD, shape),
}
MOST = {"no change": 0.035, "skewed": 0.10, "heavy-tailed": 0.10}
LEAST = {"gain": 0.80}


def share_recommended(kind: str, patients: int, draws: int) -> float:
    """Share of the draws in which the verdict recommends to activate the new version."""
    generator = np.random.default_rng([SEED, patients, list(CHANGES).index(kind)])
    changes = CHANGES[kind](generator, (draws, patients)).tolist()
    return sum(_is_recommended(row) for row in changes) / draws


def _is_recommended(changes: list[float]) -> bool:
    old = Figures(OLD_DICE, 1.0, 5.0, 2.0, OLD_DICE)
    cases = [
        ComparedCase(f"c{number}", f"p{number}", "", old, Figures(OLD_DICE + change, 1.0, 5.0, 2.0, OLD_DICE), 0.95)
        for number, change in enumerate(changes)
    ]
    return Comparison(Evidence(OLD, NEW, cases)).recommendation == ACTIVATE


def is_as_promised(kind: str, patients: int, share: float) -> bool:
    if kind in MOST:
        return share <= MOST[kind]
    return patients < SURE_FROM or share >= LEAST[kind]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args().draws
    print(f"Recommended in % of {draws} draws\n{'n':>3}" + "".join(f"{kind:>14}" for kind in CHANGES))
    broken = 0
    for patients in PATIENTS:
        shares = {kind: share_recommended(kind, patients, draws) for kind in CHANGES}
        print(f"{patients:3d}" + "".join(f"{100 * share:14.2f}" for share in shares.values()), flush=True)
        broken += sum(not is_as_promised(kind, patients, share) for kind, share in shares.items())
    print("as promised" if not broken else f"{broken} figures are not as promised")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
