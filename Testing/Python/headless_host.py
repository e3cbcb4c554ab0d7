"""A scene without Slicer: the parts of the application that the logic needs, on the slicer-core wheel.

Call start() before anything that imports slicer.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

_host: HeadlessHost | None = None


@dataclass
class HeadlessHost:
    """What start() made, and what stop() takes away again.

    Attributes:
        scene: the MRML scene, which is slicer.mrmlScene too.
        logics: module name to module logic.
    """

    scene: Any
    logics: dict[str, Any]
    stand_ins: tuple[str, ...] = ()


def start() -> HeadlessHost:
    """Make a scene and the module logics; a second call returns the same host."""
    global _host
    if _host is not None:
        return _host
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logics = _module_logics(scene)
    slicer.modules = SimpleNamespace(**{name: _ModuleStandIn(logic) for name, logic in logics.items()})
    slicer.modules.colors = _ModuleStandIn(
        slicer.vtkSlicerColorLogic
    )  # an instance would look for Slicer's color files
    _host = HeadlessHost(scene, logics, _install_stand_ins())
    return _host


def stop() -> None:
    """Empty the scene and let go of it, so that the process ends without complaints about leaked objects."""
    global _host
    if _host is None:
        return
    import slicer

    _host.scene.Clear(1)
    for name in _host.stand_ins:
        sys.modules.pop(f"slicer.{name}", None)
        delattr(slicer, name)
    del slicer.mrmlScene, slicer.modules
    _host = None


class _ModuleStandIn:
    """What slicer.modules.NAME is asked for here: its logic."""

    def __init__(self, logic: Any):
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


def _module_logics(scene: Any) -> dict[str, Any]:
    """Logics that segmentations, volumes and tables need; segmentations has its scene before any segment is added."""
    import slicer

    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics = {"application": application}
    for name, logic_class in (
        ("colors", slicer.vtkMRMLColorLogic),
        ("segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("volumes", slicer.vtkSlicerVolumesLogic),
        ("markups", slicer.vtkSlicerMarkupsLogic),
        ("plots", slicer.vtkSlicerPlotsLogic),
        ("tables", slicer.vtkSlicerTablesLogic),
    ):
        logic = logic_class()
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name.capitalize(), logic)
        logic.SetMRMLScene(scene)
        logics[name] = logic
    return logics


def _install_stand_ins() -> tuple[str, ...]:
    """Slicer's own Python modules that slicer-core lacks; one that is there is left alone."""
    import slicer

    installed = []
    for name, make in (("ScriptedLoadableModule", _scripted_loadable_module), ("i18n", _i18n)):
        if importlib.util.find_spec(f"slicer.{name}") is None:
            module = make()
            sys.modules[module.__name__] = module
            setattr(slicer, name, module)
            installed.append(name)
    return tuple(installed)


def _i18n() -> ModuleType:
    module = ModuleType("slicer.i18n", "No translation: texts stay as they are.")
    module.tr = lambda text: text
    module.translate = lambda context, text: text
    return module


def _scripted_loadable_module() -> ModuleType:
    import scripted_module_stand_in  # it imports slicer, which start() makes ready first

    module = ModuleType("slicer.ScriptedLoadableModule", scripted_module_stand_in.__doc__)
    for name in scripted_module_stand_in.__all__:
        setattr(module, name, getattr(scripted_module_stand_in, name))
    module.__all__ = scripted_module_stand_in.__all__
    return module
