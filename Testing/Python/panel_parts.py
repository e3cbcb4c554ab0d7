"""What tests of the panel share: the module opened as in Slicer, one warm worker, and a person at the keyboard."""

import contextlib
import dataclasses
import time
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
import slicer

from DDSPSegmentationLib.engine.segmentation import Segmentation

MODULE_FILE = Path(__file__).resolve().parents[2] / "DDSPSegmentation" / "DDSPSegmentation.py"
SAMPLE = MODULE_FILE.parent / "Resources" / "SampleData" / "ProstateX-0000.nrrd"
READY, RUNNING = "Segment Prostate", "Cancel"
# What the panel says, for the tests of more than one file.
LOAD = "Load an axial T2-weighted scan: drag it into Slicer, or open Sample Data."
PRESS, CHECK, CORRECTED = "Press Segment Prostate.", "Check the contour", "Corrected."
PREPARING, SEGMENTING = "Preparing the scan", "Segmenting"
OF_NETWORK, NO_PSA = "of the network's contour", "enter the PSA"
UNCALIBRATED = "not calibrated"


def wait_for(condition, seconds=60.0):
    """Let Slicer work until something is true; returns whether it became so."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.005)
    return bool(condition())


def load_sample(name="T2"):
    """The bundled scan, loaded and shown as by a user."""
    from DDSPSegmentationLib.scene.conversion import add_volume_node

    volume = add_volume_node(sitk.ReadImage(str(SAMPLE)), name)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.app.processEvents()
    return volume


_known_answers = []


def _remembered(answer):
    """The answer without its files, which go with its nodes."""
    _known_answers.append(Segmentation(**{f.name: getattr(answer, f.name) for f in dataclasses.fields(Segmentation)}))
    return answer


class Person:
    """Clicks and reads what the panel shows.

    Attributes:
        widget: the module widget; ``ui``: its widgets by name; ``panel``: the object behind them.
    """

    def __init__(self, widget):
        self.widget, self.ui = widget, widget.ui

    @property
    def panel(self):
        return self.widget.panel

    @property
    def status(self):
        return self.ui.statusLabel.text

    @property
    def result(self):
        """The segmentation whose figures the panel shows, or None."""
        return self.ui.outputSelector.currentNode()

    def start(self):
        assert self.ui.segmentButton.text == READY and self.ui.segmentButton.enabled, self.ui.segmentButton.toolTip
        self.ui.segmentButton.click()

    def segment(self):
        """One click, then wait for the result."""
        self.start()
        assert self.ui.segmentButton.text == RUNNING, self.status
        assert wait_for(lambda: self.ui.segmentButton.text == READY), self.status
        return self.result

    def segment_at_once(self):
        """The result of a run on the bundled scan, for tests of what comes after; only a session's first is a run."""
        import qt

        from DDSPSegmentationLib.scene.shared_worker import shared_worker

        worker = shared_worker()
        submit = worker.submit

        def answer(image, settings, *, onResult, **options):
            if _known_answers:
                qt.QTimer.singleShot(0, lambda: onResult(dataclasses.replace(_known_answers[0])))
            else:
                submit(image, settings, onResult=lambda found: onResult(_remembered(found)), **options)

        with mock.patch.object(worker, "submit", answer):
            return self.segment()

    def set_psa(self, psa):
        """Click into the field, write, and press Enter."""
        from PySide6 import QtCore, QtTest

        self.ui.psaLineEdit.text = f"{psa:g}" if isinstance(psa, (int, float)) else psa
        QtTest.QTest.keyClick(self.ui.psaLineEdit, QtCore.Qt.Key_Return)

    def wait_for_phase(self, words):
        assert wait_for(lambda: self.status.startswith(words)), self.status

    def shows_result(self):
        return not self.ui.resultCollapsibleButton.isHidden()

    def paint(self, radius_mm=8.0):
        """A stroke of the brush at the edge of the gland, as in the Segment Editor."""
        editor = self.panel.correct.editor
        editor.setActiveEffectByName("Paint")
        bounds = [0.0] * 6
        self.result.GetRASBounds(bounds)
        middle = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
        editor.paintSphere([bounds[1], middle[1], middle[2]], radius_mm)
        editor.setActiveEffect(None)

    def settle(self):
        """Until the figures follow the last edit; the pause before them is cut short."""
        slicer.app.processEvents()
        pause = self.panel.correct._settling
        if pause.isActive():
            pause.start(0)
        assert wait_for(lambda: not pause.isActive())
        slicer.app.processEvents()

    # ---- what is seen, and a few more gestures

    @property
    def volume(self):
        return self.ui.inputSelector.currentNode()

    @property
    def editor(self):
        return self.panel.correct.editor

    def mask(self, node=None):
        """Voxels of the segment Prostate on the grid of its volume."""
        from DDSPSegmentationLib.scene.conversion import read_segment
        from DDSPSegmentationLib.scene.result_nodes import own_segment_id, volume_of

        node = node or self.result
        return read_segment(node, own_segment_id(node), volume_of(node))

    def write(self, mask, node=None):
        """Another contour, as a script or another module sets it."""
        from DDSPSegmentationLib.scene.conversion import write_segment
        from DDSPSegmentationLib.scene.result_nodes import own_segment_id, volume_of

        node = node or self.result
        write_segment(mask, node, own_segment_id(node), volume_of(node))

    def erase_top(self):
        """Correct the contour: its two uppermost slices go; returns what is left."""
        mask = self.mask().copy()
        mask[np.flatnonzero(mask.any(axis=(1, 2)))[-2:]] = 0
        self.write(mask)
        self.settle()
        return mask

    def stroke(self, radius_mm=8.0):
        """A stroke while a tool is active already."""
        bounds = [0.0] * 6
        self.result.GetRASBounds(bounds)
        middle = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
        self.editor.paintSphere([bounds[1], middle[1], middle[2]], radius_mm)

    def foregrounds(self):
        """What lies over the scan in each slice view: (volume or None, opacity)."""
        layers = []
        for name in slicer.app.layoutManager().sliceViewNames():
            composite = slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()
            volume_id = composite.GetForegroundVolumeID()
            layers.append((slicer.mrmlScene.GetNodeByID(volume_id or ""), composite.GetForegroundOpacity()))
        return layers

    def table(self):
        """The measurements of the result shown, column by column; None without a table."""
        from DDSPSegmentationLib.scene.result_nodes import table_of

        node = table_of(self.result, self.volume)
        if node is None:
            return None
        table = node.GetTable()
        return {
            table.GetColumnName(number): table.GetColumn(number).GetValue(0)
            for number in range(table.GetNumberOfColumns())
        }

    def has_surface(self):
        return self.result.GetSegmentation().ContainsRepresentation("Closed surface")

    # ---- cases

    def accept(self, note=None):
        """The large button at the end of Correct; returns what the status line says then."""
        if note is not None:
            self.ui.noteLineEdit.text = note
        self.ui.acceptButton.click()
        return self.status

    def open_learn(self):
        self.ui.learnCollapsibleButton.collapsed = False

    def cases(self):
        """The rows of the table of cases, top down: (number, state, use, agreement, note)."""
        table = self.ui.casesTable
        items = [[table.item(row, column) for column in range(table.columnCount)] for row in range(table.rowCount)]
        return [tuple(item.text() for item in row) for row in items]

    def choose_cases(self, *numbers):
        """Select the rows of these cases, and no others."""
        table = self.ui.casesTable
        for row in range(table.rowCount):
            for column in range(table.columnCount):
                table.item(row, column).setSelected(int(table.item(row, 0).text()) in numbers)


def add_result(seed=0, name="T2", expected_dice=0.9, radii=(4, 8, 8), warnings=None):
    """A small scan in the scene with what a network that is right makes of it, at once: (volume, segmentation).

    Without an expected Dice the network was not calibrated.
    """
    from learning_parts import toy_scan
    from scene_parts import ThresholdRunner

    from DDSPSegmentationLib.engine.quality import NOT_CALIBRATED
    from DDSPSegmentationLib.engine.run_settings import RunSettings
    from DDSPSegmentationLib.engine.segmentation import ExpectedDice
    from DDSPSegmentationLib.scene.conversion import add_volume_node
    from DDSPSegmentationLib.scene.results import place_result

    image, mask = toy_scan(seed, radii=radii)
    volume = add_volume_node(image, name)
    segmentation = ThresholdRunner().segment(mask * 100, RunSettings(device="cpu"), name=name)
    if expected_dice is None:
        segmentation.expected_dice = None
        segmentation.notices = [NOT_CALIBRATED.format(what="version 'threshold-1'")]
    else:
        segmentation.expected_dice = ExpectedDice(expected_dice, expected_dice - 0.04, expected_dice + 0.03)
    if warnings is not None:
        segmentation.warnings = warnings
    return volume, place_result(segmentation, volume).outputSegmentationNode


@contextlib.contextmanager
def a_session(worker, settings=None, hasLayout=True):
    """One session of Slicer with the module open and an empty scene; tests that need two of them begin one by one.

    Args:
        settings: what user_settings() told at the end of an earlier one.
        hasLayout: without it Slicer has no main window.
    """
    from headless_host import start
    from slicer_stand_in import closeModule, openModule, window

    from DDSPSegmentationLib.scene import shared_worker

    with (
        window(start(), hasLayout) as application,
        mock.patch.object(shared_worker, "_worker", worker),
        mock.patch("DDSPSegmentationLib.scene.panel.panel.end_shared_worker", lambda: None),
    ):
        if settings is not None:
            for name, value in settings.items():
                application.userSettings().setValue(name, value)
        yield Person(openModule(MODULE_FILE))
        closeModule("DDSPSegmentation")
        worker.onStateChanged = None


def user_settings():
    """What Slicer remembers of the user."""
    settings = slicer.app.userSettings()
    return {name: settings.value(name) for name in settings.allKeys()}


def save_scene(folder):
    """Save the scene with all its data into a folder; returns the .mrml file."""
    folder.mkdir()
    assert slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(folder), None)
    return next(folder.rglob("*.mrml"))


def load_scene(path):
    """Replace the scene by the one of a file."""
    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Connect()
    slicer.app.processEvents()


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def node_ids():
    """IDs of all nodes but those of the views and the panel itself, which come and go as they like."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(number) for number in range(scene.GetNumberOfNodes())]
    return [node.GetID() for node in nodes if not node.GetHideFromEditors() or node.IsA("vtkMRMLStorableNode")]


def add_point(ras, name="P"):
    """A point list with one point in the world."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.AddControlPointWorld(ras)
    return node


@contextlib.contextmanager
def narrow_window(person, width=350):
    """The panel in a window that is so narrow, without the Segment Editor, which is as wide as Slicer made it."""
    import qt
    from slicer_stand_in import enterModule, leaveModule

    leaveModule("DDSPSegmentation")  # the main window lets go of the panel
    panel, frame = person.widget.parent, qt.QWidget()
    person.editor.setVisible(False)
    frame.setFixedWidth(width)
    column = qt.QVBoxLayout(frame)
    column.setContentsMargins(0, 0, 0, 0)
    column.addWidget(panel)
    panel.show()
    frame.show()
    person.widget.enter()
    try:
        yield panel
    finally:
        person.widget.exit()
        panel.setParent(None)
        frame.deleteLater()
        enterModule("DDSPSegmentation")


def cut_off(panel):
    """The visible labels, buttons and check boxes of a panel whose text does not fit, or that are not all in it."""
    import qt

    slicer.app.processEvents()
    found = []
    for kind in (qt.QLabel, qt.QPushButton, qt.QCheckBox):
        for widget in panel.findChildren(kind):
            if not widget.isVisibleTo(panel):
                continue
            wraps = kind is qt.QLabel and widget.wordWrap
            if not wraps and widget.width < widget.sizeHint.width():
                found.append(f"{widget.objectName}: {widget.width} < {widget.sizeHint.width()}")
            if widget.mapTo(panel, qt.QPoint(widget.width, 0)).x() > panel.width:
                found.append(f"{widget.objectName} sticks out")
    return found


@contextlib.contextmanager
def module_panel(person, width, height=900):
    """The panel as Slicer's module panel holds it: scrolled up and down, never sideways; yields panel and scroll area.

    Without the Segment Editor, which is as wide as Slicer made it.
    """
    import qt
    from slicer_stand_in import enterModule, leaveModule

    leaveModule("DDSPSegmentation")
    panel, area, contents = person.widget.parent, qt.QScrollArea(), qt.QWidget()
    person.editor.setVisible(False)
    area.widgetResizable = True
    area.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
    column = qt.QVBoxLayout(contents)
    column.setSizeConstraint(qt.QLayout.SetMinAndMaxSize)
    column.setContentsMargins(0, 0, 0, 0)
    column.addWidget(panel, 1)
    panel.layout().setContentsMargins(0, 0, 0, 0)
    area.setWidget(contents)
    area.resize(width, height)
    panel.show()
    area.show()
    person.widget.enter()
    try:
        yield panel, area
    finally:
        person.widget.exit()
        panel.setParent(None)
        area.deleteLater()
        enterModule("DDSPSegmentation")


def squeezed(panel):
    """The visible widgets of a panel that are lower than they must be, or lie over a neighbor."""
    import qt

    for _ in range(5):
        slicer.app.processEvents()
    found = []
    for parent in panel.findChildren(qt.QWidget):
        layout = parent.layout() if parent.isVisibleTo(panel) else None
        items = [] if layout is None else [layout.itemAt(number) for number in range(layout.count())]
        items = [item for item in items if item.widget() is not None and item.widget().isVisibleTo(panel)]
        for number, item in enumerate(items):
            widget, byWidth = item.widget(), item.hasHeightForWidth()
            least = item.heightForWidth(widget.width) if byWidth else item.minimumSize().height()
            if widget.height < least:
                found.append(f"{widget.objectName}: {widget.height} < {least}")
            found += [
                f"{widget.objectName} over {other.widget().objectName}"
                for other in items[number + 1 :]
                if widget.geometry.intersects(other.widget().geometry)
            ]
    return found


def focused(person):
    """Name of the widget that the next key goes to."""
    widget = person.widget.parent.window().focusWidget()
    return "" if widget is None else widget.objectName
