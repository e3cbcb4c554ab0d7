"""Stand-ins for the parts of Slicer that neither slicer-core nor the headless host has, for tests only.

install() makes importable what a script may import inside Slicer: qt, ctk, slicer.parameterNodeWrapper, SampleData,
SegmentStatistics. window() gives slicer.app, views and a main window for as long as it is entered; openModule() shows
a module in it. test_slicer_contract.py, which passes in a real Slicer, says whether they behave as the real ones do.
"""

import contextlib
import functools
import sys
from types import ModuleType, SimpleNamespace

import slicer

from . import (
    ctk_widgets,
    dialogs,
    module_window,
    mrml_widgets,
    parameter_nodes,
    sample_data,
    segment_editor,
    segment_effects,
    segment_statistics,
)
from .application import Application, add_hierarchy_items
from .module_window import closeModule, enterModule, leaveModule, openModule
from .python_qt import QtModule
from .ui_files import QUiLoader

__all__ = [
    "Application",
    "add_hierarchy_items",
    "closeModule",
    "dialogs",
    "enterModule",
    "install",
    "leaveModule",
    "openModule",
    "window",
]


def install() -> None:
    """Make the packages importable that a window of Slicer has and slicer-core lacks."""
    qt = QtModule("qt")
    classes = {
        name: thing
        for part in (ctk_widgets, mrml_widgets, segment_editor, segment_effects, module_window)
        for name, thing in vars(part).items()
        if name.startswith(("ctk", "qMRML", "qSlicer"))
    }
    qt.QUiLoader = functools.partial(QUiLoader, classes, qt)
    for name, thing in classes.items():
        if not name.startswith("ctk"):
            setattr(slicer, name, thing)
    sys.modules.setdefault("qt", qt)
    sys.modules.setdefault("ctk", ctk_widgets)
    sys.modules.setdefault("SampleData", sample_data)
    sys.modules.setdefault("SegmentStatistics", segment_statistics)
    sys.modules.setdefault("slicer.parameterNodeWrapper", parameter_nodes)
    slicer.parameterNodeWrapper = parameter_nodes


@contextlib.contextmanager
def window(host, hasLayout: bool = True):
    """slicer.app and the base classes of module files as in a window, around a headless host; gives the application.

    Raises at its end the first exception that nobody caught meanwhile, in a slot or an observer.
    """
    install()
    modules, base, hook = slicer.modules, sys.modules["slicer.ScriptedLoadableModule"], sys.excepthook
    uncaught = []

    def keep(kind, error, traceback):
        uncaught.append(error)
        hook(kind, error, traceback)

    sys.excepthook = keep
    dialogs.forget()
    slicer.modules = SimpleNamespace(**vars(modules))
    slicer.ScriptedLoadableModule = sys.modules[base.__name__] = _module_base(base)
    slicer.app = application = Application(host.scene, host.logics["application"], hasLayout)
    try:
        yield application
    finally:
        application.close()
        host.scene.Clear(0)
        application.processEvents()
        del slicer.app
        slicer.modules, sys.excepthook = modules, hook
        slicer.ScriptedLoadableModule = sys.modules[base.__name__] = base
    if uncaught:
        raise uncaught[0]


def _module_base(headless):
    module = ModuleType(headless.__name__, headless.__doc__)
    vars(module).update({name: getattr(headless, name) for name in headless.__all__}, __all__=headless.__all__)
    module.ScriptedLoadableModule = module_window.ScriptedLoadableModule
    module.ScriptedLoadableModuleWidget = module_window.ScriptedLoadableModuleWidget
    return module
