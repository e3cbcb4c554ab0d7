"""Slicer module: outlines the prostate on T2-weighted MRI. A shell around DDSPSegmentationLib."""

import logging
import math
import pathlib
import sys

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from DDSPSegmentationLib.engine.errors import DDSPSegmentationError, TorchMissingError

RESOURCES = pathlib.Path(__file__).parent / "Resources"
SAMPLE_NAME = "ProstateX-0000"
SAMPLE_CHECKSUM = "SHA256:f60a7360a398540b40583a99a839e78b37768c6afb52e696384873e4c251af91"


class DDSPSegmentation(ScriptedLoadableModule):
    """What Slicer lists the module under."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DDSP Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["DDSPSegmentation contributors"]
        parent.helpText = _(
            "Outlines the whole prostate on an axial T2-weighted MRI scan, measures it, and says how sure it is. "
            "Choose the scan, press Segment Prostate, and check the contour slice by slice.<br>"
            "Research use only. Not a medical device.<br>"
            "Please cite: Liu Q, Fu M, Jiang H, Gong X. Densely Dilated Spatial Pooling Convolutional Network using "
            "benign loss functions for imbalanced volumetric prostate segmentation."
        )
        parent.acknowledgementText = _(
            "The network was trained on data of the PROMISE12 challenge (Litjens et al., Medical Image Analysis 18, "
            "2014). The sample scan is ProstateX-0000 of SPIE-AAPM-NCI PROSTATEx, The Cancer Imaging Archive, "
            "CC BY 3.0, doi 10.7937/K9TCIA.2017.MURS5CL."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the scan that comes with the module in Sample Data; it is copied from the disk, not downloaded."""
    import SampleData

    icon = RESOURCES / "Icons" / "DDSPSegmentation.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Segmentation",
        sampleName=SAMPLE_NAME,
        uris=(RESOURCES / "SampleData" / f"{SAMPLE_NAME}.nrrd").as_uri(),
        fileNames=f"{SAMPLE_NAME}.nrrd",
        nodeNames=SAMPLE_NAME,
        checksums=SAMPLE_CHECKSUM,
        thumbnailFileName=str(icon) if icon.exists() else None,
    )


class DDSPSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """One volume, one button, and two lines: what to do next, and what was found."""

    def __init__(self, parent=None):
        self.logic = None
        self._running = False
        ScriptedLoadableModuleWidget.__init__(self, parent)  # starts the mixin too

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = DDSPSegmentationLogic()
        panel = slicer.util.loadUI(self.resourcePath("UI/DDSPSegmentation.ui"))
        self.layout.addWidget(panel)
        self.layout.addStretch(1)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
        self.ui.segmentButton.connect("clicked(bool)", self.onSegment)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneClosed)
        self.onInputChanged()

    def cleanup(self):
        self.removeObservers()

    def enter(self):
        if not self.ui.resultLabel.text:  # PyTorch may have been installed meanwhile
            self.onInputChanged()

    def onInputChanged(self, node=None):
        if not self._running:
            self.ui.resultLabel.text = ""
            self.ui.statusLabel.text = self.updateButton() or _("Press Segment Prostate.")

    def onSceneClosed(self, caller, event):
        self.onInputChanged()

    def updateButton(self):
        """Enable the button when it would do something; returns what is missing, which its tooltip says too."""
        missing = ""
        if self._running:
            missing = _("A scan is being segmented.")
        elif self.ui.inputSelector.currentNode() is None:
            missing = _("Load an axial T2 volume and choose it here.")
        else:
            missing = self.logic.missingTorch()
        self.ui.segmentButton.enabled = not missing
        self.ui.segmentButton.toolTip = missing or _("Outline the prostate in the chosen volume.")
        return missing

    def onSegment(self, checked=False):
        if self._running:
            return
        volumeNode = self.ui.inputSelector.currentNode()
        self._running = True
        self.updateButton()
        self.ui.resultLabel.text = ""
        try:
            result = self.logic.segmentProstate(volumeNode, progress=self.onProgress)
            found = self.describe(result)
            nextStep = _("Check the contour slice by slice and correct it in Segment Editor.")
            status = f"{result.message} {nextStep}".strip()
        except DDSPSegmentationError as error:
            found, status = "", str(error)
        except Exception as error:
            logging.exception("Segment Prostate failed")
            found, status = "", _("Unexpected error: {error}. The application log has the details.").format(error=error)
        finally:
            self._running = False
            self.updateButton()
        self.ui.resultLabel.text = found
        self.ui.statusLabel.text = status

    def onProgress(self, phase, fraction):
        import qt

        self.ui.statusLabel.text = f"{phase} ({round(100 * fraction)} %)"
        slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)

    @staticmethod
    def describe(result):
        segmentation = result.segmentation
        found = _("Volume {ml:.1f} ml, expected Dice {dice:.2f}.").format(
            ml=segmentation.measurements.volume_ml, dice=segmentation.expected_dice
        )
        return " ".join([found, *segmentation.warnings, *segmentation.notices])

    def onReload(self):
        for name in [name for name in sys.modules if name.split(".")[0] == "DDSPSegmentationLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DDSPSegmentationLogic(ScriptedLoadableModuleLogic):
    """Segments volumes of the scene; needs no widget and no window."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._inProcessRunner = None

    @staticmethod
    def missingTorch():
        """Why PyTorch cannot be used and how to install it, or an empty text; does not load it."""
        from DDSPSegmentationLib.service.runner import require_torch

        try:
            require_torch()
        except TorchMissingError as error:
            return str(error)
        return ""

    def segmentProstate(
        self,
        volumeNode,
        outputSegmentationNode=None,
        mode="fast",
        device="auto",
        model=None,
        runner=None,
        overwriteEdited=False,
        biasField=None,
        threshold=0.5,
        location=None,
        progress=None,
    ):
        """Outline the prostate of one volume, and put segmentation and measurements beside it in the scene.

        The volume is never changed. A result that nobody edited is updated; an edited contour is kept and the new
        result goes to a new segmentation, unless overwriteEdited. When anything fails, the scene stays as it was.

        Args:
            volumeNode: vtkMRMLScalarVolumeNode, an axial T2-weighted scan.
            outputSegmentationNode: where the segment Prostate goes; None: the volume's earlier result, else a new one.
            mode: "fast", "accurate" or "paper".
            device: "auto", "cpu", "cuda" or "mps".
            model: folder of a model version; None: the built-in one.
            runner: object with the engine's segment(); None: in this process.
            overwriteEdited: replace a contour that somebody edited or drew.
            biasField: "full", "fast" or "off"; None: the mode's own choice.
            threshold: probability from which a voxel counts as prostate.
            location: (R, A, S) in mm, a point in the gland; None: it is searched for.
            progress: called with (phase, fraction); may raise Cancelled.

        Returns:
            ProstateResult: outputSegmentationNode, tableNode, segmentation, message.

        Raises:
            DDSPSegmentationError: with cause and next step in the user's words.
        """
        from DDSPSegmentationLib.scene import conversion, results

        results.check_output_node(outputSegmentationNode)
        image = conversion.image_from_volume_node(volumeNode)
        before = results.state_of(volumeNode)
        segmentation = (runner or self._defaultRunner()).segment(
            image,
            name=volumeNode.GetName(),
            mode=mode,
            threshold=threshold,
            bias_field=biasField,
            device=device,
            model=model,
            location=None if location is None else conversion.lps_from_ras(location),
            progress=progress,
        )
        results.check_unchanged(volumeNode, before)
        return results.place_result(segmentation, volumeNode, outputSegmentationNode, overwriteEdited)

    def addUncertaintyVolume(self, result, volumeNode):
        """Show where the network was unsure about a result, as a volume in [0, 1] on the scan's grid."""
        from DDSPSegmentationLib.scene.results import add_uncertainty_volume

        return add_uncertainty_volume(result, volumeNode)

    def _defaultRunner(self):
        if self._inProcessRunner is None:
            from DDSPSegmentationLib.service.runner import InProcessRunner

            self._inProcessRunner = InProcessRunner()
        return self._inProcessRunner


class DDSPSegmentationTest(ScriptedLoadableModuleTest):
    """The whole way in a real Slicer, on the scan that comes with the module."""

    def setUp(self):
        import SampleData

        slicer.mrmlScene.Clear()
        registerSampleData()
        self.volumeNode = SampleData.SampleDataLogic().downloadSamples(SAMPLE_NAME)[0]
        self.logic = DDSPSegmentationLogic()

    def test_SampleScan(self):
        if self.logic.missingTorch():
            nodes = slicer.mrmlScene.GetNumberOfNodes()
            with self.assertRaises(TorchMissingError):
                self.logic.segmentProstate(self.volumeNode)
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
            self.delayDisplay("DDSP Segmentation: nothing was segmented. " + self.logic.missingTorch())
            return
        node = self.checkResult()
        self.checkRotatedVolume(node)
        self.checkEditedContourIsKept(node)
        if slicer.app.layoutManager() is not None and slicer.util.mainWindow() is not None:
            self.checkPanel()
        self.delayDisplay("DDSP Segmentation: passed")

    def maskOf(self, node):
        segmentId = node.GetSegmentation().GetSegmentIdBySegmentName("Prostate")
        return slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, self.volumeNode)

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
        edited = self.maskOf(node).copy()
        edited[edited.shape[0] // 2] = 0
        segmentId = node.GetSegmentation().GetSegmentIdBySegmentName("Prostate")
        slicer.util.updateSegmentBinaryLabelmapFromArray(edited, node, segmentId, self.volumeNode)
        result = self.logic.segmentProstate(self.volumeNode)
        self.assertIsNot(result.outputSegmentationNode, node)
        self.assertIn(node.GetName(), result.message)
        self.assertTrue((self.maskOf(node) == edited).all())

    def checkPanel(self):
        slicer.util.selectModule("DDSPSegmentation")
        ui = slicer.util.getModuleWidget("DDSPSegmentation").ui
        ui.inputSelector.setCurrentNode(self.volumeNode)
        slicer.app.processEvents()
        self.assertTrue(ui.segmentButton.enabled, ui.segmentButton.toolTip)
        ui.segmentButton.click()
        self.assertIn(" ml", ui.resultLabel.text)
        self.assertTrue(ui.segmentButton.enabled)
