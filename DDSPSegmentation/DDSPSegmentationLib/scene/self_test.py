"""What the module's self test checks in a real Slicer: on the scan that comes with it, and on made-up patients."""

import math
import pathlib
import subprocess
import tempfile
import time

import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _


class SelfTestChecks:
    """Mixed into the module's test; ``setUp`` gives it ``volumeNode``, the bundled scan, and ``logic``."""

    def maskOf(self, node):
        segmentId = node.GetSegmentation().GetSegmentIdBySegmentName("Prostate")
        return slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, self.volumeNode)

    def eraseSlice(self, node):
        """Edit as a person would: the middle slice is empty afterwards."""
        edited = self.maskOf(node).copy()
        edited[edited.shape[0] // 2] = 0
        segmentId = node.GetSegmentation().GetSegmentIdBySegmentName("Prostate")
        slicer.util.updateSegmentBinaryLabelmapFromArray(edited, node, segmentId, self.volumeNode)
        return edited

    def checkResult(self):
        result = self.logic.segmentProstate(self.volumeNode)
        node = result.outputSegmentationNode
        mask = self.maskOf(node)
        self.assertEqual(mask.shape, slicer.util.arrayFromVolume(self.volumeNode).shape)
        ml = int((mask != 0).sum()) * math.prod(self.volumeNode.GetSpacing()) / 1000
        self.assertTrue(10 < ml < 250, f"{ml} ml")
        self.assertAlmostEqual(ml, result.segmentation.measurements.volume_ml, delta=0.01)
        self.assertAlmostEqual(ml, slicer.util.arrayFromTableColumn(result.tableNode, "volume_ml")[0], delta=0.01)
        terminology = vtk.reference("")
        self.assertTrue(node.GetSegmentation().GetNthSegment(0).GetTag("TerminologyEntry", terminology))
        self.assertIn("SCT^41216001^Prostate", str(terminology))
        self.assertIs(self.logic.segmentProstate(self.volumeNode).outputSegmentationNode, node)
        for className in ("vtkMRMLSegmentationNode", "vtkMRMLTableNode"):
            self.assertEqual(len(slicer.util.getNodesByClass(className)), 1)
        return node

    def checkWorker(self, node):
        """The process of its own finds what this process found, or what it found itself before."""
        from DDSPSegmentationLib.scene.shared_worker import shared_worker

        before = self.maskOf(node)
        result = self.logic.segmentProstate(self.volumeNode, runner=shared_worker())
        self.assertIs(result.outputSegmentationNode, node)
        self.assertTrue((self.maskOf(node) == before).all())

    def checkRotatedVolume(self, node):
        before = self.maskOf(node)
        turn = vtk.vtkTransform()
        turn.Translate(12.5, -30, 7)
        turn.RotateZ(11)
        transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transformNode.SetMatrixTransformToParent(turn.GetMatrix())
        self.volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
        self.assertIs(self.logic.segmentProstate(self.volumeNode).outputSegmentationNode, node)
        self.assertIs(node.GetParentTransformNode(), transformNode)
        self.assertTrue((self.maskOf(node) == before).all())

    def checkEditedContourIsKept(self, node):
        edited = self.eraseSlice(node)
        result = self.logic.segmentProstate(self.volumeNode)
        self.assertIsNot(result.outputSegmentationNode, node)
        self.assertIn(node.GetName(), result.message)
        self.assertTrue((self.maskOf(node) == edited).all())

    def checkLearning(self, folder):
        """Made-up patients are accepted, corrected and reopened; a tiny network is retrained on them and compared."""
        from DDSPSegmentationLib.learning.finetuning_settings import LEAST_CASES
        from DDSPSegmentationLib.learning.made_up import VERSION, made_up_scan
        from DDSPSegmentationLib.library.case_library import TRAINING, CaseLibrary
        from DDSPSegmentationLib.library.model_registry import ModelRegistry
        from DDSPSegmentationLib.service.retraining import plan_retraining

        registry = ModelRegistry(pathlib.Path(folder, "Models"))
        library = CaseLibrary(pathlib.Path(folder, "Cases"), registry)
        self.makeVersion(registry.folder)
        self.assertEqual(registry.active().name, VERSION)
        self.checkCase(library, *made_up_scan(0))
        self.assertTrue(plan_retraining(library.folder, registry.folder).obstacles)  # one case is too few
        number = 1
        while library.split_counts()[TRAINING] < LEAST_CASES:
            self.storeContour(library, *made_up_scan(number))
            number += 1
        version = self.logic.fineTune(library.folder, registry.folder, device="cpu")
        self.assertEqual(version.comparison["old_version"], VERSION)
        training = [case.id for case in library.cases() if case.split == TRAINING]
        self.assertEqual(version.description.training["cases"], training)
        self.assertEqual(registry.active().name, VERSION)  # a candidate is not activated

    def makeVersion(self, folder):
        from DDSPSegmentationLib.scene.worker_process import python_program
        from DDSPSegmentationLib.service.processes import python_environment

        command = [python_program(), "-m", "DDSPSegmentationLib.learning.made_up", str(folder)]
        subprocess.run(command, env=python_environment(), check=True, timeout=600)

    def storeContour(self, library, image, mask):
        """Accept a contour as a person would who drew it; the scene is as it was afterwards."""
        from DDSPSegmentationLib.learning.made_up import VERSION
        from DDSPSegmentationLib.scene.case_exchange import store_result
        from DDSPSegmentationLib.scene.conversion import add_volume_node
        from DDSPSegmentationLib.scene.results import place_contour

        volumeNode, drawn = add_volume_node(image, "made up"), sitk.GetArrayFromImage(mask)
        node = place_contour(drawn, drawn, volumeNode, VERSION, "")
        stored = store_result(library, node, volumeNode)
        for placed in (node, volumeNode):
            slicer.mrmlScene.RemoveNode(placed)
        return stored

    def checkCase(self, library, image, mask):
        """Accept, reopen, edit, accept again, take back."""
        from DDSPSegmentationLib.scene.case_exchange import reopen, store_result

        first = self.storeContour(library, image, mask)
        volumeNode, node = reopen(first.case)
        segmentId = node.GetSegmentation().GetNthSegmentID(0)
        edited = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, volumeNode).copy()
        edited[int(edited.any(axis=(1, 2)).nonzero()[0][-1])] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(edited, node, segmentId, volumeNode)
        second = store_result(library, node, volumeNode)
        self.assertTrue(first.is_new and not second.is_new)
        self.assertEqual([revision.state for revision in second.case.revisions], ["unedited", "corrected"])
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(second.case.mask_path)))
        self.assertTrue((mask == edited).all())
        library.undo(second)
        self.assertEqual(library.case(first.case.id).current.number, 1)
        for reopened in (node, volumeNode):
            slicer.mrmlScene.RemoveNode(reopened)

    def checkAccept(self, ui):
        """The large button stores the case where the user wants it, and Undo takes it back."""
        from DDSPSegmentationLib.library.case_library import CaseLibrary
        from DDSPSegmentationLib.scene.settings import PREFIX

        settings = slicer.app.userSettings()
        chosen = settings.value(PREFIX + "casesFolder")
        with tempfile.TemporaryDirectory() as folder:
            settings.setValue(PREFIX + "casesFolder", folder)
            try:
                ui.acceptButton.click()
                self.assertEqual(len(CaseLibrary(folder).cases()), 1, ui.statusLabel.text)
                ui.undoAcceptButton.click()
                self.assertEqual(CaseLibrary(folder).cases(), [])
            finally:
                settings.remove(PREFIX + "casesFolder")
                if chosen is not None:
                    settings.setValue(PREFIX + "casesFolder", chosen)

    def checkPanel(self):
        """Click, cancel, click again, review, correct, undo, accept, close the scene."""
        slicer.mrmlScene.Clear()
        slicer.util.selectModule("DDSPSegmentation")
        ui = slicer.util.getModuleWidget("DDSPSegmentation").ui
        self.assertFalse(ui.segmentButton.enabled)
        self.setUp()
        self.waitFor(lambda: ui.inputSelector.currentNode() is self.volumeNode, "the volume is preselected")
        self.assertTrue(ui.segmentButton.enabled, ui.segmentButton.toolTip)
        ui.segmentButton.click()
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        ui.segmentButton.click()  # a double click is one
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        self._waitOutDoubleClick()
        ui.segmentButton.click()
        self.waitFor(lambda: ui.segmentButton.text == _("Segment Prostate"), "the run is canceled")
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [])
        self._waitOutDoubleClick()
        ui.segmentButton.click()
        self.waitFor(lambda: ui.segmentButton.text == _("Segment Prostate"), "the run ends")
        node = ui.outputSelector.currentNode()
        self.assertIsNotNone(node, ui.statusLabel.text)
        self.assertIn(" ml", ui.volumeLabel.text)
        ui.uncertaintyCheckBox.click()
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        self.assertIsNotNone(composite.GetForegroundVolumeID())
        ui.nextSliceButton.click()
        ui.uncertaintyCheckBox.click()
        self.assertIsNone(composite.GetForegroundVolumeID())
        before, volume = self.maskOf(node), ui.volumeLabel.text
        self.eraseSlice(node)
        self.waitFor(lambda: ui.volumeLabel.text != volume, "the volume follows the edit")
        ui.resetButton.click()
        self.waitFor(lambda: ui.volumeLabel.text == volume, "the network's result is back")
        self.assertTrue((self.maskOf(node) == before).all())
        self.checkAccept(ui)
        slicer.mrmlScene.Clear()
        self.assertFalse(ui.segmentButton.enabled)
        self.assertFalse(ui.resultCollapsibleButton.visible)

    def _waitOutDoubleClick(self):
        from .panel.segment_section import DOUBLE_CLICK_S

        end = time.monotonic() + DOUBLE_CLICK_S
        self.waitFor(lambda: time.monotonic() > end, "half a second passes")

    def waitFor(self, condition, what, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, f"not within {seconds} s: {what}")
            slicer.app.processEvents()
            time.sleep(0.01)
