"""The self test's part before the panel: what its clicks do to the views, the keyboard and the error log of Slicer."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter

import slicer
from slicer.i18n import tr as _

from .self_test_lines import CheckLines

WHY_NO_STEP = "needs the run of the panel above"
LOG_LEVEL_COLUMN = 2  # of ctkErrorLogAbstractModel
NO_TROUBLE = ("Info", "Debug", "Trace", "Status")
# Slicer itself says so of every scene that was saved with views turned to a scan.
OF_TURNED_VIEWS = "invalid orientation preset name: Reformat"
LONG_TEXT = "This sentence is here to see whether the panel keeps its width. " * 10
# What takes keys for itself.
FIELDS = ("QLineEdit", "QAbstractSpinBox", "QComboBox", "QTextEdit", "QPlainTextEdit")


class PanelChecks:
    """Mixed into the module's test; a whole pass through the panel, with a second scan in the scene."""

    def checkPanel(self, lines: CheckLines, lacking: str) -> None:
        steps = (
            ("focus after a question of the panel", self.checkFocus),
            ("layers with the uncertainty shown and hidden", self.checkUncertaintyLayers),
            ("layers after segmenting again", self.checkLayersOfSecondRun),
            ("layers after the uncertainty is deleted by hand", self.checkDeletedUncertainty),
            ("layers and contours after another scan is chosen", self.checkOtherScan),
            ("the network's contour is shown and hidden", self.checkNetworksContour),
            ("figures follow an edit, Reset brings the contour back", self.checkReset),
            ("panel keeps its width under a long status text", self.checkWidth),
            ("the list of scans to review opens, rejects and takes back", self.checkReviewList),
            ("Accept stores the case, Undo takes it back", self.checkAccept),
            ("layers after a case is reopened", self.checkReopened),
            ("panel and layers after the scene was saved and loaded", self.checkLoadedScene),
            ("panel and layers after the module was reloaded", self.checkReloadedModule),
            ("layers after the scan is deleted during its run", self.checkDeletedScan),
            ("panel after the scene is closed", self.checkClosedScene),
        )  # fmt: skip
        with lines.held(), _other_folders():
            before = [] if lacking else _troubles()
            found = lines.run("layers after segmenting", self.checkRun, lacking)
            noStep = lacking or ("" if found else WHY_NO_STEP)
            for title, check in steps:
                lines.run(title, check, noStep)
            lines.run("error log still over the whole pass", lambda: self.checkErrorLog(before), noStep)

    # ---- what the views hold

    def checkLayers(self, volumeNode, orNothing: bool = False) -> None:
        """No view shows anything that is not of this volume; ``orNothing``: and none need show that."""
        from .result_nodes import VOLUME_ROLE

        slicer.app.processEvents()
        layout = slicer.app.layoutManager()
        for view in layout.sliceViewNames():
            composite = layout.sliceWidget(view).mrmlSliceCompositeNode()
            shown = {
                layer: slicer.mrmlScene.GetNodeByID(getattr(composite, f"Get{layer}VolumeID")() or "")
                for layer in ("Background", "Foreground", "Label")
            }
            background = shown.pop("Background")
            if background is not None or not orNothing:
                self.assertIs(background, volumeNode, f"background of {view}")
            for layer, node in shown.items():
                if node is not None:
                    self.assertIs(node.GetNodeReference(VOLUME_ROLE), volumeNode, f"{node.GetName()}, {layer}, {view}")
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            display = node.GetDisplayNode()
            if display is not None and display.GetVisibility() and not node.GetHideFromEditors():
                self.assertIs(node.GetNodeReference(VOLUME_ROLE), volumeNode, f"contour {node.GetName()}")

    @staticmethod
    def foregrounds() -> set:
        layout = slicer.app.layoutManager()
        views = [layout.sliceWidget(view).mrmlSliceCompositeNode() for view in layout.sliceViewNames()]
        return {view.GetForegroundVolumeID() for view in views}

    # ---- steps of the pass

    @property
    def ui(self):
        return slicer.util.getModuleWidget("DDSPSegmentation").ui

    def waitForRun(self) -> None:
        self.waitFor(lambda: self.ui.segmentButton.text == _("Segment Prostate"), "the run ends")

    def checkRun(self) -> bool:
        """A first run is canceled, a second one ends; another patient's scan lies in the scene meanwhile."""
        from ..learning.made_up import made_up_scan
        from .conversion import add_volume_node
        from .panel.double_click import DOUBLE_CLICK_S

        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DDSPSegmentation")
        ui = self.ui
        self.assertFalse(ui.segmentButton.enabled)
        self.setUp()
        self.waitFor(lambda: ui.inputSelector.currentNode() is self.volumeNode, "the volume is preselected", seconds=20)
        self.otherNode = add_volume_node(made_up_scan(0)[0], "another patient")
        self.assertTrue(ui.segmentButton.enabled, ui.segmentButton.toolTip)
        ui.segmentButton.click()
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        ui.segmentButton.click()  # a double click is one
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        self.sleep(DOUBLE_CLICK_S)
        if ui.segmentButton.text == _("Cancel"):  # a fast machine may have ended by now
            ui.segmentButton.click()
            self.waitForRun()
            self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [])
            self.pause()
            ui.segmentButton.click()
            self.waitForRun()
        self.assertIsNotNone(ui.outputSelector.currentNode(), ui.statusLabel.text)
        self.assertIn(" ml", ui.volumeLabel.text)
        self.checkLayers(self.volumeNode)
        self.assertEqual(self.foregrounds(), {None})
        return True

    def checkFocus(self) -> None:
        """The next key edits no number: it may be meant for a tool."""
        ui, node = self.ui, self.ui.outputSelector.currentNode()
        before, volume = self.maskOf(node), ui.volumeLabel.text
        self.eraseSlice(node)
        self.waitFor(lambda: ui.volumeLabel.text != volume, "the volume follows the edit", seconds=20)
        self.pause()
        ui.segmentButton.setFocus()
        ui.segmentButton.click()
        self.assertFalse(ui.questionFrame.isHidden(), "the panel asks what becomes of the correction")
        ui.thirdAnswerButton.setFocus()
        ui.thirdAnswerButton.click()  # Cancel
        slicer.app.processEvents()
        focused = slicer.util.mainWindow().focusWidget()
        name = "nothing" if focused is None else f"{focused.className()} {focused.objectName}"
        self.assertFalse(focused is not None and any(focused.inherits(field) for field in FIELDS), f"the focus: {name}")
        ui.resetButton.click()
        self.waitFor(lambda: ui.volumeLabel.text == volume, "the network's contour is back", seconds=20)
        self.assertTrue((self.maskOf(node) == before).all())

    def checkUncertaintyLayers(self) -> None:
        ui = self.ui
        ui.uncertaintyCheckBox.click()
        self.checkLayers(self.volumeNode)
        self.assertNotIn(None, self.foregrounds())
        ui.nextSliceButton.click()
        ui.uncertaintyCheckBox.click()
        self.checkLayers(self.volumeNode)
        self.assertEqual(self.foregrounds(), {None})

    def checkLayersOfSecondRun(self) -> None:
        ui = self.ui
        ui.uncertaintyCheckBox.click()
        self.pause()
        ui.segmentButton.click()
        self.waitForRun()
        self.checkLayers(self.volumeNode)
        ui.uncertaintyCheckBox.click()
        self.checkLayers(self.volumeNode)
        self.assertEqual(self.foregrounds(), {None})

    def checkDeletedUncertainty(self) -> None:
        from .results import uncertainty_volume_of

        ui = self.ui
        ui.uncertaintyCheckBox.click()
        slicer.mrmlScene.RemoveNode(uncertainty_volume_of(ui.outputSelector.currentNode()))
        self.checkLayers(self.volumeNode)
        if ui.uncertaintyCheckBox.checked:
            ui.uncertaintyCheckBox.click()
        self.checkLayers(self.volumeNode)
        self.assertEqual(self.foregrounds(), {None})

    def checkOtherScan(self) -> None:
        ui, node = self.ui, self.ui.outputSelector.currentNode()
        ui.inputSelector.setCurrentNode(self.otherNode)
        self.checkLayers(self.otherNode)
        ui.inputSelector.setCurrentNode(self.volumeNode)
        self.checkLayers(self.volumeNode)
        self.assertIs(ui.outputSelector.currentNode(), node)

    def checkNetworksContour(self) -> None:
        ui, node = self.ui, self.ui.outputSelector.currentNode()
        self.eraseSlice(node)
        self.waitFor(lambda: ui.beforeButton.enabled, "the network's contour differs", seconds=20)
        ui.beforeButton.click()
        self.assertFalse(node.GetDisplayNode().GetVisibility())
        ui.beforeButton.click()
        self.assertTrue(node.GetDisplayNode().GetVisibility())
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [node])

    def checkReset(self) -> None:
        """The contour was edited by the step before."""
        ui, node = self.ui, self.ui.outputSelector.currentNode()
        edited, volume = self.maskOf(node), ui.volumeLabel.text
        ui.resetButton.click()
        self.waitFor(lambda: ui.volumeLabel.text != volume, "the volume follows", seconds=20)
        self.assertTrue((self.maskOf(node) != edited).any())

    def checkWidth(self) -> None:
        panel, label = slicer.util.getModuleWidget("DDSPSegmentation").parent, self.ui.statusLabel
        self.sleep(0.3)
        said, width, least = label.text, panel.width, panel.minimumSizeHint.width()
        label.text = LONG_TEXT
        self.sleep(0.3)
        longer, longerLeast = panel.width, panel.minimumSizeHint.width()
        label.text = said
        self.assertLessEqual(longer, width, "width in pixels")
        self.assertLessEqual(longerLeast, least, "least width in pixels")

    def checkReviewList(self) -> None:
        ui = self.ui
        ui.reviewListCollapsibleButton.collapsed = False
        table = ui.reviewTable
        titles = [table.item(row, 0).text() for row in range(table.rowCount)]
        self.assertEqual(titles, [self.volumeNode.GetName()])
        ui.nextScanButton.click()
        self.assertIs(ui.inputSelector.currentNode(), self.volumeNode)
        self.checkLayers(self.volumeNode)
        ui.rejectScanButton.click()
        self.assertFalse(ui.nextScanButton.enabled)
        self.pause()
        ui.rejectScanButton.click()
        self.assertTrue(ui.nextScanButton.enabled, ui.nextScanButton.toolTip)
        self.assertEqual(ui.rejectScanButton.shortcut.toString(), "Ctrl+Backspace")
        ui.reviewListCollapsibleButton.collapsed = True

    def checkAccept(self) -> None:
        from .user_folders import case_library

        ui = self.ui
        ui.acceptButton.click()
        self.assertEqual(len(case_library().cases()), 1, ui.statusLabel.text)
        ui.undoAcceptButton.click()
        self.assertEqual(case_library().cases(), [])

    def checkReopened(self) -> None:
        """The case comes back as a scan of its own, and nothing of the first one is seen."""
        from .result_nodes import case_of, volume_of
        from .user_folders import case_library

        ui, mask = self.ui, self.maskOf(self.ui.outputSelector.currentNode())
        ui.acceptButton.click()
        ui.learnCollapsibleButton.collapsed = False
        (case,) = case_library().cases()
        table = ui.casesTable
        (row,) = [row for row in range(table.rowCount) if table.item(row, 0).text() == str(case.number)]
        table.selectRow(row)
        self.assertTrue(ui.reopenCaseButton.enabled, ui.reopenCaseButton.toolTip)
        ui.reopenCaseButton.click()
        node = ui.outputSelector.currentNode()
        self.assertTrue(case_of(node), ui.statusLabel.text)
        self.assertIs(ui.inputSelector.currentNode(), volume_of(node))
        self.assertIsNot(volume_of(node), self.volumeNode)
        self.checkLayers(volume_of(node))
        segmentId = node.GetSegmentation().GetNthSegmentID(0)
        reopened = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, volume_of(node))
        self.assertTrue(((reopened != 0) == (mask != 0)).all())
        ui.learnCollapsibleButton.collapsed = True

    def checkLoadedScene(self) -> None:
        ui = self.ui
        ui.inputSelector.setCurrentNode(self.volumeNode)
        slicer.app.processEvents()
        name, volume = self.volumeNode.GetName(), ui.volumeLabel.text
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/scene.mrb"
            self.assertTrue(slicer.util.saveScene(path, {}))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path, {})
        self.waitFor(lambda: ui.inputSelector.currentNode() is not None, "the volume is chosen again", seconds=20)
        self.volumeNode = slicer.util.getNode(name)
        self.assertIs(ui.inputSelector.currentNode(), self.volumeNode)
        self.waitFor(lambda: ui.volumeLabel.text == volume, "the figures are those of before", seconds=20)
        self.checkLayers(self.volumeNode)

    def checkReloadedModule(self) -> None:
        """The old panel's editor has let go of the contour: an edit is the new one's alone."""
        node = self.ui.outputSelector.currentNode()
        slicer.util.getModuleWidget("DDSPSegmentation").onReload()
        self.assertIs(self.ui.outputSelector.currentNode(), node)
        before = self.ui.volumeLabel.text
        self.eraseSlice(node)
        self.waitFor(lambda: self.ui.volumeLabel.text != before, "the volume follows the edit", seconds=20)
        self.ui.resetButton.click()
        self.waitFor(lambda: self.ui.volumeLabel.text == before, "the network's contour is back", seconds=20)
        self.checkLayers(self.volumeNode)

    def checkDeletedScan(self) -> None:
        """Slicer puts another scan into the views, unless they are emptied first; nothing may lie over it."""
        ui = self.ui
        self.pause()
        ui.segmentButton.click()
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        slicer.mrmlScene.RemoveNode(self.volumeNode)
        self.waitForRun()
        self.pause()
        self.checkLayers(ui.inputSelector.currentNode(), orNothing=True)

    def checkClosedScene(self) -> None:
        ui = self.ui
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.assertFalse(ui.segmentButton.enabled)
        self.assertTrue(ui.resultCollapsibleButton.isHidden())
        self.assertEqual(self.foregrounds(), {None})

    def checkErrorLog(self, before: list[str]) -> None:
        self.pause()
        new = Counter(_troubles()) - Counter(before)
        self.assertFalse(new, "\n".join(new))

    def pause(self) -> None:
        """Longer than a double click, and than Slicer takes for entries of its log that came together."""
        self.sleep(1.1)


@contextlib.contextmanager
def _other_folders():
    """Cases go to an empty library meanwhile, never to the user's own."""
    from .settings import PREFIX

    settings, name = slicer.app.userSettings(), PREFIX + "casesFolder"
    chosen = settings.value(name)
    with tempfile.TemporaryDirectory() as folder:
        settings.setValue(name, folder)
        try:
            yield
        finally:
            settings.remove(name)
            if chosen is not None:
                settings.setValue(name, chosen)


def _troubles() -> list[str]:
    """Warnings and errors of Slicer's error log."""
    log = slicer.app.errorLogModel()
    rows = range(log.logEntryCount())
    entries = [log.logEntryDescription(row) for row in rows if _level(log, row) not in NO_TROUBLE]
    return [entry for entry in entries if OF_TURNED_VIEWS not in entry]


def _level(log, row: int) -> str:
    try:
        return str(log.data(log.index(row, LOG_LEVEL_COLUMN)))
    except (AttributeError, TypeError, ValueError):  # not every build hands the model's columns out
        return ""
