"""Stand-ins for the parts of Slicer that neither slicer-core nor the headless host has, for tests only.

install() makes ``import qt`` and ``from slicer.parameterNodeWrapper import ...`` work; Application is what slicer.app
is asked for. test_slicer_contract.py, which passes in a real Slicer, says whether they behave as the real ones do.
"""

import sys

import slicer

from . import parameter_nodes
from .application import Application, add_hierarchy_items
from .python_qt import QtModule

__all__ = ["Application", "add_hierarchy_items", "install"]


def install() -> None:
    sys.modules.setdefault("qt", QtModule("qt"))
    sys.modules.setdefault("slicer.parameterNodeWrapper", parameter_nodes)
    slicer.parameterNodeWrapper = parameter_nodes
