"""``import ctk``: the widgets of CTK that panels use, on real Qt."""

from PySide6 import QtCore, QtGui, QtWidgets

from .dialogs import answer_box
from .python_qt import PythonQtMixin, wrapped

ARROW_SIZE = 8
HEADER_MARGIN = 6


class _HidesChildren:
    """Of a widget that shows its children only while it is checked; the class adds what changes in its own size."""

    def _show_children(self):
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget):
                self._force_visibility(child)

    def _force_visibility(self, child):
        """Show or hide a child for the section's sake; what the panel asked of it is kept apart."""
        self._forcing = True
        QtWidgets.QWidget.setVisible(child, self.isChecked() and self._wanted.get(id(child), True))
        child.setAttribute(QtCore.Qt.WA_WState_ExplicitShowHide, False)
        self._forcing = False

    def childEvent(self, event):
        if event.added() and isinstance(event.child(), QtWidgets.QWidget):
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, child, event):
        shown = {QtCore.QEvent.ShowToParent: True, QtCore.QEvent.HideToParent: False}.get(event.type())
        if shown is not None and not self.__dict__.get("_forcing", True):
            self._wanted[id(child)] = shown
            if shown and not self.isChecked():
                self._force_visibility(child)
        return False


class ctkCollapsibleButton(_HidesChildren, PythonQtMixin, QtWidgets.QAbstractButton):
    """A section with a header; collapsed, it shows the header alone."""

    contentsCollapsed = QtCore.Signal(bool)
    signatures = {"contentsCollapsed(bool)": "contentsCollapsed"}

    def __init__(self, text=None, parent=None):
        if not isinstance(text, str):
            text, parent = "", text or parent
        super().__init__(parent)
        self._forcing = False
        self._wanted = {}
        QtWidgets.QAbstractButton.setText(self, text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(2, self._header_height(), 2, 2)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.toggled.connect(self._on_toggled)

    def _header_height(self):
        return self.fontMetrics().height() + 2 * HEADER_MARGIN

    def _on_toggled(self, shown):
        self._show_children()
        self.setMaximumHeight(16777215 if shown else self._header_height())
        self.updateGeometry()
        self.contentsCollapsed.emit(not shown)

    def sizeHint(self):
        header = QtCore.QSize(
            self.fontMetrics().horizontalAdvance(QtWidgets.QAbstractButton.text(self)) + 40, self._header_height()
        )
        layout = QtWidgets.QWidget.layout(self)
        return header.expandedTo(layout.totalSizeHint()) if layout is not None and self.isChecked() else header

    minimumSizeHint = sizeHint

    def hitButton(self, position):
        return position.y() < self._header_height()

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.Antialiasing)
        palette, height = QtWidgets.QWidget.palette(self), self._header_height()
        width = QtWidgets.QWidget.width(self)
        painter.setPen(palette.mid().color())
        if self.isChecked():
            painter.drawRect(0, height - 1, width - 1, QtWidgets.QWidget.height(self) - height)
        painter.setBrush(palette.button())
        painter.drawRect(0, 0, width - 1, height - 1)
        painter.setPen(QtCore.Qt.NoPen)
        painter.setBrush(palette.buttonText())
        painter.translate(HEADER_MARGIN + ARROW_SIZE / 2, height / 2)
        painter.rotate(0 if self.isChecked() else -90)
        half = ARROW_SIZE / 2
        corners = ((-half, -half / 2), (half, -half / 2), (0, half))
        painter.drawPolygon([QtCore.QPointF(*corner) for corner in corners])
        painter.resetTransform()
        painter.setPen(palette.buttonText().color())
        room = QtCore.QRect(2 * HEADER_MARGIN + ARROW_SIZE, 0, width, height)
        painter.drawText(room, QtCore.Qt.AlignVCenter | QtCore.Qt.AlignLeft, QtWidgets.QAbstractButton.text(self))

    def setCollapsed(self, collapsed):
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, lambda self: not self.isChecked(), setCollapsed)
    flat = QtCore.Property(bool, lambda self: True, lambda self, flat: None)


class ctkCollapsibleGroupBox(_HidesChildren, PythonQtMixin, QtWidgets.QGroupBox):
    """A group box with a header that opens and closes it."""

    def __init__(self, title=None, parent=None):
        if not isinstance(title, str):
            title, parent = "", title or parent
        super().__init__(title, parent)
        self._forcing = False
        self._wanted = {}
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._on_toggled)

    def _on_toggled(self, shown):
        self._show_children()
        self.setMaximumHeight(16777215 if shown else self.fontMetrics().height() + 2 * HEADER_MARGIN)

    def setCollapsed(self, collapsed):
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, lambda self: not self.isChecked(), setCollapsed)


def _of_box(name, kind):
    """A property of a slider widget that is one of its spin box."""

    def write(self, value):
        setattr(self._box, name, value)
        self._match_slider()

    return QtCore.Property(kind, lambda self: getattr(self._box, name), write)


class ctkSliderWidget(PythonQtMixin, QtWidgets.QWidget):
    """A slider and a spin box with one value."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    signatures = {"valueChanged(double)": "valueChanged", "valueIsChanging(double)": "valueIsChanging"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = wrapped(QtWidgets.QDoubleSpinBox)()
        self._slider = wrapped(QtWidgets.QSlider)(QtCore.Qt.Horizontal)
        row = wrapped(QtWidgets.QHBoxLayout)(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self._box.setRange(0.0, 99.0)
        self._match_slider()
        self._box.valueChanged.connect(self._on_box)
        self._slider.valueChanged.connect(self._on_slider)

    def _match_slider(self):
        was = self._slider.blockSignals(True)
        box = self._box
        self._slider.setRange(0, min(round((box.maximum - box.minimum) / box.singleStep), 2**30))
        self._slider.setValue(round((box.value - box.minimum) / box.singleStep))
        self._slider.blockSignals(was)

    def _on_box(self, value):
        self._match_slider()
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _on_slider(self, step):
        self._box.setValue(self._box.minimum + step * self._box.singleStep)

    def setRange(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    value = _of_box("value", float)
    minimum = _of_box("minimum", float)
    maximum = _of_box("maximum", float)
    singleStep = _of_box("singleStep", float)
    decimals = _of_box("decimals", int)
    suffix = _of_box("suffix", str)
    prefix = _of_box("prefix", str)
    pageStep = QtCore.Property(float, lambda self: 10 * self._box.singleStep, lambda self, step: None)
    tracking = QtCore.Property(bool, lambda self: True, lambda self, on: None)


class ctkDoubleSpinBox(PythonQtMixin, QtWidgets.QDoubleSpinBox):
    pass


class ctkComboBox(PythonQtMixin, QtWidgets.QComboBox):
    defaultText = QtCore.Property(
        str, lambda self: self.placeholderText, lambda self, text: self.setPlaceholderText(text)
    )


class ctkCheckBox(PythonQtMixin, QtWidgets.QCheckBox):
    pass


class ctkMessageBox(PythonQtMixin, QtWidgets.QMessageBox):
    """A message box that may be told not to come again; here it always comes."""

    exec_ = answer_box

    dontShowAgainSettingsKey = QtCore.Property(str, lambda self: "", lambda self, key: None)
    dontShowAgainVisible = QtCore.Property(bool, lambda self: False, lambda self, visible: None)
