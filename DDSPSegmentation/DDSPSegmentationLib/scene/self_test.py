"""What the module's self test checks in a real Slicer: on the scan that comes with it, and on made-up patients."""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import subprocess
import tempfile
import time
from unittest import mock

import SimpleITK as sitk
import slicer
import vtk

from .self_test_dicom import DicomChecks
from .self_test_lines import CheckLines
from .self_test_panel import PanelChecks

WHY_NO_WINDOW = "needs Slicer's window, which was started without one"
WHY_NO_TORCH = "needs PyTorch, which this Slicer does not have"
WHY_NO_RESULT = "needs the result of the sample scan"
SHORT_RUN = {"least_steps": 10, "most_steps": 10, "learning_rate": 1e-2}
SHORT_RETRAINING = f"""
import functools, os, sys
from DDSPSegmentationLib.learning import finetuning
from DDSPSegmentationLib.service import retraining_process
finetuning.FineTuningSettings = functools.partial(finetuning.FineTuningSettings, **{SHORT_RUN})
os._exit(retraining_process.main(sys.argv[3:]))
"""


class SelfTestChecks(PanelChecks, DicomChecks):
    """Mixed into the module's test; ``setUp`` gives it ``volumeNode``, the bundled scan, and ``logic``."""

    def runChecks(self) -> CheckLines:
        """Every check that this Slicer can be asked for, one printed line each; what failed is in ``failures``."""
        lines = CheckLines()
        noWindow = "" if self.hasWindow() else WHY_NO_WINDOW
        noTorch = WHY_NO_TORCH if self.logic.missingTorch() else ""
        if noTorch:
            lines.run("without PyTorch nothing is segmented", self.checkMissingTorch)
        node = lines.run("sample scan: mask, figures, table", self.checkResult, noTorch)
        noResult = noTorch or ("" if node is not None else WHY_NO_RESULT)
        lines.run("sample scan: the worker finds the same", lambda: self.checkWorker(node), noResult)
        lines.run("scene saved and loaded", self.checkScene, noResult)
        lines.run("scan under a rotation", self.checkRotatedVolume, noResult)
        lines.run("edited contour is kept", self.checkEditedContourIsKept, noResult)
        with tempfile.TemporaryDirectory() as folder:
            library = lines.run("cases: accept, correct, reopen, take back", lambda: self.checkCases(folder), noTorch)
            noCases = noTorch or ("" if library is not None else "needs the cases of the check above")
            lines.run("retraining of ten steps to a candidate", lambda: self.checkRetraining(library), noCases)
        lines.run("DICOM SEG as Slicer's own plugin reads it", self.checkDicomSeg, self.whyNoDicomSeg())
        self.checkPanel(lines, noWindow or noTorch)
        slicer.mrmlScene.Clear()
        return lines

    @staticmethod
    def hasWindow() -> bool:
        return slicer.app.layoutManager() is not None and slicer.util.mainWindow() is not None

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

    def result(self):
        """The result of the sample scan: that of the check before, or a new one where it left none."""
        from .result_nodes import results_of

        if slicer.mrmlScene.IsNodePresent(self.volumeNode) and results_of(self.volumeNode):
            return results_of(self.volumeNode)[0]
        self.setUp()
        return self.logic.segmentProstate(self.volumeNode).outputSegmentationNode

    def checkMissingTorch(self):
        from ..engine.errors import TorchMissingError

        nodes = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(TorchMissingError):
            self.logic.segmentProstate(self.volumeNode)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

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
        from .shared_worker import shared_worker

        before = self.maskOf(node)
        result = self.logic.segmentProstate(self.volumeNode, runner=shared_worker())
        self.assertIs(result.outputSegmentationNode, node)
        self.assertTrue((self.maskOf(node) == before).all())

    def checkRotatedVolume(self):
        node = self.result()
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

    def checkEditedContourIsKept(self):
        node = self.result()
        edited = self.eraseSlice(node)
        result = self.logic.segmentProstate(self.volumeNode)
        self.assertIsNot(result.outputSegmentationNode, node)
        self.assertIn(node.GetName(), result.message)
        self.assertTrue((self.maskOf(node) == edited).all())

    def checkScene(self):
        """A scene that was saved and loaded has the same contour, which the network made of the same volume."""
        from .result_nodes import facts_of, is_edited, results_of

        node = self.result()
        name, before, facts = self.volumeNode.GetName(), self.maskOf(node), facts_of(node)
        with tempfile.TemporaryDirectory() as folder:
            path = str(pathlib.Path(folder, "scene.mrb"))
            self.assertTrue(slicer.util.saveScene(path, {}))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path, {})
            self.volumeNode = slicer.util.getNode(name)
            (loaded,) = results_of(self.volumeNode)
            self.assertTrue((self.maskOf(loaded) == before).all())
            self.assertEqual(facts_of(loaded), facts)
            self.assertFalse(is_edited(loaded, self.volumeNode))

    def checkCases(self, folder):
        """Made-up patients are accepted, corrected and reopened, until there are enough of them to learn from."""
        from ..learning.finetuning_settings import LEAST_CASES
        from ..learning.made_up import VERSION, made_up_scan
        from ..library.case_library import TRAINING, CaseLibrary
        from ..library.model_registry import ModelRegistry
        from ..service.retraining import plan_retraining

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
        return library

    def checkRetraining(self, library):
        """A tiny network is retrained on them by a process of its own, and compared; nothing is activated."""
        from ..learning.made_up import VERSION
        from ..library.case_library import TRAINING
        from ..library.model_registry import ModelRegistry

        registry = ModelRegistry(library.folder.parent / "Models")
        with _short_retraining():
            version = self.logic.fineTune(library.folder, registry.folder, device="cpu")
        self.assertEqual(version.comparison["old_version"], VERSION)
        training = [case.id for case in library.cases() if case.split == TRAINING]
        self.assertEqual(version.description.training["cases"], training)
        self.assertEqual(registry.active().name, VERSION)

    def makeVersion(self, folder):
        from ..service.processes import python_environment
        from .worker_process import python_program

        command = [python_program(), "-m", "DDSPSegmentationLib.learning.made_up", str(folder)]
        subprocess.run(command, env=python_environment(), check=True, timeout=600)

    def storeContour(self, library, image, mask):
        """Accept a contour as a person would who drew it; the scene is as it was afterwards."""
        from ..learning.made_up import VERSION
        from .case_exchange import store_result
        from .conversion import add_volume_node
        from .results import place_contour

        volumeNode, drawn = add_volume_node(image, "made up"), sitk.GetArrayFromImage(mask)
        node = place_contour(drawn, drawn, volumeNode, VERSION, "")
        stored = store_result(library, node, volumeNode)
        for placed in (node, volumeNode):
            slicer.mrmlScene.RemoveNode(placed)
        return stored

    def checkCase(self, library, image, mask):
        """Accept, reopen, edit, accept again, take back."""
        from .case_exchange import reopen, store_result

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

    def sleep(self, seconds):
        """Let Slicer work for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)

    def waitFor(self, condition, what, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end, f"not within {seconds} s: {what}")
            slicer.app.processEvents()
            time.sleep(0.01)


@contextlib.contextmanager
def _short_retraining():
    """Retrain for ten steps at a time, in whichever process it is done."""
    from .user_folders import has_window

    if has_window():
        from . import retraining_client

        start = retraining_client.start_retraining_process
        shortly = mock.patch.object(
            retraining_client,
            "start_retraining_process",
            lambda folder, command: start(folder, [*command, "-c", SHORT_RETRAINING]),
        )
    else:
        from ..learning import finetuning

        settings = functools.partial(finetuning.FineTuningSettings, **SHORT_RUN)
        shortly = mock.patch.object(finetuning, "FineTuningSettings", settings)
    with shortly:
        yield
