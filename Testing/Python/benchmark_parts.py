"""What tests of the benchmarks share: a benchmark that is imported for as long as it is needed."""

import contextlib
import importlib
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "Benchmarks"


@contextlib.contextmanager
def imported(name):
    """A benchmark as a module; those that it imports can be found meanwhile."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
