"""``ddsp-segmentation review``: what is to be looked at in the folder of a batch, and what was decided."""

from __future__ import annotations

import argparse
from pathlib import Path

from .batch_review import BatchReview
from .review_states import counts
from .terminal import say


def review(chosen: argparse.Namespace) -> int:
    """List the scans, the most doubtful first; or note a state for some, and write the report anew."""
    batch = BatchReview(Path(chosen.folder))
    if chosen.state:
        batch.decide(chosen.cases, chosen.state)
        batch.write_report()
    rows = batch.rows()
    for row in rows:
        say(f"{row.title}: {row.state}{f' ({row.word})' if row.word else ''}")
    say(counts([row.state for row in rows]) or "No case has been segmented.")
    return 0
