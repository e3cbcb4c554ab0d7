"""The main window, and modules opened in it as Slicer opens them: module, widget, setup(), enter()."""

import importlib.util
import pathlib
import sys

import slicer
from PySide6 import QtCore, QtWidgets

from .mrml_widgets import qMRMLWidget
from .python_qt import PythonQtMixin, wrapped

VIEW_COLORS = {"Red": "#f34a33", "1": "#7479bd", "Green": "#6eb04b", "Yellow": "#b9a31f"}


class ScriptedLoadableModule:
    """Base of X: puts the module's texts on its parent."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.categories, parent.dependencies, parent.contributors = "", [], [], []
        parent.helpText = parent.acknowledgementText = ""

    def resourcePath(self, filename):
        return str(pathlib.Path(self.parent.path).parent / "Resources" / filename)


class ScriptedLoadableModuleWidget:
    """Base of XWidget: has no enter() or exit(); cleanup() is called before the module is unloaded."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent
        if parent is None:
            self.parent = qMRMLWidget()
            self.parent.setLayout(wrapped(QtWidgets.QVBoxLayout)())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        return str(pathlib.Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName):
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """Holds the panel of a scripted module; self() is the Python object."""

    def __init__(self, module):
        super().__init__()
        self._module, self._self = module, None
        wrapped(QtWidgets.QVBoxLayout)(self)

    def self(self):
        return self._self

    def reload(self):
        """What reloading does last: make the Python object anew and set it up."""
        name = f"{self._module.name}Widget"
        self._self = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._self)
        self._self.setup()

    def enter(self):
        getattr(self._self, "enter", lambda: None)()

    def exit(self):
        getattr(self._self, "exit", lambda: None)()


class qSlicerScriptedLoadableModule:
    """One scripted module: slicer.modules.NAME."""

    def __init__(self, path):
        self.path = str(path)
        self.name = pathlib.Path(path).stem
        self._representation = None

    def widgetRepresentation(self):
        if self._representation is None:
            self._representation = qSlicerScriptedLoadableModuleWidget(self)
            self._representation.reload()
            self._representation.setMRMLScene(slicer.mrmlScene)
        return self._representation

    def load(self):
        """Read the file afresh, make the class X, and tell the application."""
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        source = sys.modules[self.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(source)
        getattr(source, self.name)(self)
        setattr(slicer.modules, self.name.lower(), self)
        slicer.app.moduleManager().modules[self.name] = self
        slicer.app.raiseSignal("startupCompleted()")

    def unload(self):
        if self._representation is not None:
            slicer.app.moduleManager().raiseSignal("moduleAboutToBeUnloaded(QString)", self.name)
            self._representation.setMRMLScene(None)
            self._representation.setParent(None)
            self._representation.deleteLater()
            self._representation = None
            slicer.app.processEvents()


class qSlicerMainWindow(PythonQtMixin, QtWidgets.QMainWindow):
    """Module panel at the left, views at the right, status bar below."""

    def __init__(self):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.windowTitle = "3D Slicer 5.8.1"
        self._module = None
        self._dock = wrapped(QtWidgets.QDockWidget)("Modules")
        self._dock.setObjectName("PanelDockWidget")
        self._panel = wrapped(QtWidgets.QScrollArea)()
        self._panel.widgetResizable = True
        self._panel.minimumWidth = 460
        self._dock.setWidget(self._panel)
        self.addDockWidget(QtCore.Qt.LeftDockWidgetArea, self._dock)
        self.statusBar()
        self._labels = {}
        views = wrapped(QtWidgets.QWidget)()
        grid = wrapped(QtWidgets.QGridLayout)(views)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(1)
        for number, (name, color) in enumerate(VIEW_COLORS.items()):
            bar, view = wrapped(QtWidgets.QLabel)(name), wrapped(QtWidgets.QLabel)()
            bar.styleSheet = f"background: {color}; color: white; padding: 1px 6px; font-weight: bold"
            view.styleSheet = "background: black"
            view.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Ignored)
            grid.addWidget(bar, number // 2 * 2, number % 2)
            grid.addWidget(view, number // 2 * 2 + 1, number % 2)
            grid.setRowStretch(number // 2 * 2 + 1, 1)
            self._labels[name] = view
        self.setCentralWidget(views)

    def viewLabels(self):
        """View name to the label that stands for the view in pictures of the window."""
        return self._labels

    def moduleSelector(self):
        return self

    @property
    def selectedModule(self):
        return self._module.name if self._module is not None else ""

    def selectModule(self, name):
        """Leave the module shown now, and enter another; an empty name leaves alone."""
        if self._module is not None:
            self._module.widgetRepresentation().exit()
            self._panel.takeWidget()
        self._module = slicer.app.moduleManager().module(name)
        if self._module is not None:
            self._panel.setWidget(self._module.widgetRepresentation())
            self._module.widgetRepresentation().show()
            self._module.widgetRepresentation().enter()


def openModule(path):
    """Load a module file and show its panel, as a user does who selects it; returns the module widget (XWidget).

    enterModule(), leaveModule() and closeModule() do the rest of what happens to it. A file that is open already
    is only entered again.
    """
    name = pathlib.Path(path).stem
    if slicer.app.moduleManager().module(name) is None:
        qSlicerScriptedLoadableModule(path).load()
    enterModule(name)
    return slicer.app.moduleManager().module(name).widgetRepresentation().self()


def enterModule(name):
    window = slicer.util.mainWindow()
    if window is not None:
        window.selectModule(name)
    else:
        slicer.app.moduleManager().module(name).widgetRepresentation().enter()


def leaveModule(name):
    """The user goes to another module."""
    window = slicer.util.mainWindow()
    if window is None:
        slicer.app.moduleManager().module(name).widgetRepresentation().exit()
    elif window.selectedModule == name:
        window.selectModule("")


def closeModule(name):
    """Slicer ends: the module is left, cleaned up and deleted."""
    module = slicer.app.moduleManager().modules.pop(name, None)
    if module is not None:
        window = slicer.util.mainWindow()
        if window is not None and window.selectedModule == name:
            window.selectModule("")
        module.unload()
        sys.modules.pop(name, None)
