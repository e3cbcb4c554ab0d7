"""qt.QUiLoader: a .ui file becomes wrapped widgets, those of CTK and MRML among them."""

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets


class QUiLoader:
    """load(file) makes the widgets of a .ui file and its connections; custom maps class names to our own classes."""

    def __init__(self, custom, qt_module):
        self._custom, self._qt = custom, qt_module

    def load(self, file, parent=None):
        # Qt knows no signal with MRML objects: connections are made here, once the widgets are there.
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        made = []
        if connections is not None:
            made = [[part.text for part in connection][:4] for connection in connections]
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        loader = _Loader(self._custom, self._qt)
        widget = loader.load(buffer, parent)
        if widget is None:
            print(loader.errorString())
            return None
        widget._made = loader.made  # PySide6 forgets the class of an object that nothing in Python refers to
        named = {QtCore.QObject.objectName(one): one for one in loader.made}
        for sender, signal, receiver, slot in made:
            named[sender].connect(signal, getattr(named[receiver], slot.partition("(")[0]))
        return widget


class _Loader(QtUiTools.QUiLoader):
    def __init__(self, custom, qt_module):
        super().__init__()
        self._custom, self._qt = custom, qt_module
        self.made = []

    def createWidget(self, class_name, parent=None, name=""):
        made = (self._custom.get(class_name) or getattr(self._qt, class_name))(parent)
        return self._keep(made, name)

    def createLayout(self, class_name, parent=None, name=""):
        # Inside another layout, Qt adds the new one by itself.
        owner = None if isinstance(parent, QtWidgets.QLayout) else parent
        return self._keep(getattr(self._qt, class_name)(owner), name)

    def createAction(self, parent=None, name=""):
        return self._keep(self._qt.QAction(parent), name)

    def _keep(self, made, name):
        made.setObjectName(name)
        self.made.append(made)
        return made
