"""Slicer module: outlines the prostate on T2-weighted MRI. A shell around DDSPSegmentationLib."""

import pathlib
import sys

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Slicer appends a module's folder to sys.path: a copy of the library that somebody installed would come before ours.
if sys.path[0] != str(folder := pathlib.Path(__file__).resolve().parent):
    sys.path.insert(0, str(folder))
if (loaded := sys.modules.get("DDSPSegmentationLib")) and pathlib.Path(loaded.__path__[0]).resolve().parent != folder:
    for name in [name for name in sys.modules if name.split(".")[0] == "DDSPSegmentationLib"]:
        del sys.modules[name]

from DDSPSegmentationLib.engine.errors import TorchMissingError
from DDSPSegmentationLib.engine.resources import resource_folder
from DDSPSegmentationLib.scene.self_test import SelfTestChecks

SAMPLE_NAME = "ProstateX-0000"
SAMPLE_TITLE = f"DDSPSegmentation: {SAMPLE_NAME}"  # what Sample Data calls it
SAMPLE_CHECKSUM = "SHA256:f60a7360a398540b40583a99a839e78b37768c6afb52e696384873e4c251af91"


class DDSPSegmentation(ScriptedLoadableModule):
    """What Slicer lists the module under."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DDSP Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Volumes", "Markups", "Colors", "Plots", "Tables"]
        parent.contributors = ["DDSPSegmentation contributors"]
        parent.helpText = _(
            "Outlines the whole prostate on an axial T2-weighted MRI scan, measures it, and says how sure it is. "
            "Choose the scan, press Segment Prostate, and check the contour slice by slice.<br>"
            "Research use only. Not a medical device.<br>"
            "Please cite: Liu Q, Fu M, Jiang H, Gong X. Densely Dilated Spatial Pooling Convolutional Network using "
            "benign loss functions for imbalanced volumetric prostate segmentation."
        )
        parent.acknowledgementText = _(
            "The networks were trained on data of the PROMISE12 challenge (Litjens et al., Medical Image Analysis 18, "
            "2014) and on Prostate-3T, The Cancer Imaging Archive, CC BY 3.0, doi 10.7937/K9/TCIA.2015.QJTV5IL5, with "
            "the masks of NCI-ISBI 2013, doi 10.7937/K9/TCIA.2015.zF0vlOPv. The sample scan is ProstateX-0000 of "
            "SPIE-AAPM-NCI PROSTATEx, The Cancer Imaging Archive, CC BY 3.0, doi 10.7937/K9TCIA.2017.MURS5CL."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the scan that comes with the module in Sample Data; it is copied from the disk, not downloaded."""
    import SampleData

    resources = resource_folder()
    icon = resources / "Icons" / "DDSPSegmentation.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Segmentation",
        sampleName=SAMPLE_TITLE,
        uris=(resources / "SampleData" / f"{SAMPLE_NAME}.nrrd").as_uri(),
        fileNames=f"{SAMPLE_NAME}.nrrd",
        nodeNames=SAMPLE_NAME,
        checksums=SAMPLE_CHECKSUM,
        thumbnailFileName=str(icon) if icon.exists() else None,
    )


class DDSPSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the .ui file and hands it to the panel, which does the rest."""

    def __init__(self, parent=None):
        self.logic = self.panel = self._panelWidget = None
        ScriptedLoadableModuleWidget.__init__(self, parent)  # starts the mixin too

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from DDSPSegmentationLib.scene.panel.panel import Panel

        self.logic = DDSPSegmentationLogic()
        self._panelWidget = slicer.util.loadUI(self.resourcePath("UI/DDSPSegmentation.ui"))
        self.layout.addWidget(self._panelWidget)
        self.layout.addStretch(1)
        self.ui = slicer.util.childWidgetVariables(self._panelWidget)
        self._panelWidget.setMRMLScene(slicer.mrmlScene)
        self.panel = Panel(self.ui, self.logic.getParameterNode, __file__)

    def enter(self):
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self):
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None
            self._panelWidget.setMRMLScene(None)
            self._panelWidget.deleteLater()  # a reload would leave it in the module's widget, hidden and still at work
            self._panelWidget = None
        self.removeObservers()

    def onReload(self):
        wasEntered = self.panel is not None and self.panel.isEntered
        self.cleanup()
        for name in [name for name in sys.modules if name.split(".")[0] == "DDSPSegmentationLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        if wasEntered:  # Slicer sets the new widget up, and enters it only when the user comes back
            getattr(slicer.modules, type(self).__name__).enter()


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
        mode="standard",
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
            mode: "standard", "fast" or "paper".
            device: "auto", "cpu", "cuda" or "mps".
            model: name or folder of a model version; None: the active one.
            runner: object with InProcessRunner's segment(); None: a worker process where Slicer has a window, else
                this process.
            overwriteEdited: replace a contour that somebody edited or drew.
            biasField: "full", "fast" or "off"; None: the mode's own choice.
            threshold: probability from which a voxel counts as prostate.
            location: (R, A, S) in mm, a point in the gland; None: it is searched for.
            progress: called with (phase, fraction); may raise Canceled.

        Returns:
            ProstateResult: outputSegmentationNode, tableNode, segmentation, message.

        Raises:
            DDSPSegmentationError: with cause and next step in the user's words.
        """
        from DDSPSegmentationLib.engine.run_settings import RunSettings
        from DDSPSegmentationLib.library.model_registry import resolve_model
        from DDSPSegmentationLib.scene import conversion, results
        from DDSPSegmentationLib.scene.user_folders import model_registry

        results.check_output_node(outputSegmentationNode)
        image = conversion.image_from_volume_node(volumeNode)
        before = results.state_of(volumeNode)
        settings = RunSettings(
            mode=mode,
            threshold=threshold,
            bias_field=biasField,
            device=device,
            model=resolve_model(model, model_registry()),
            location=None if location is None else conversion.lps_from_ras(location),
        )
        runner = runner or self._defaultRunner()
        segmentation = runner.segment(image, settings, name=volumeNode.GetName(), progress=progress)
        results.check_unchanged(volumeNode, before)
        return results.place_result(segmentation, volumeNode, outputSegmentationNode, overwriteEdited)

    def addUncertaintyVolume(self, result, volumeNode):
        """Show where the network was unsure about a result, as a volume in [0, 1] on the scan's grid."""
        from DDSPSegmentationLib.scene.results import add_uncertainty_volume

        return add_uncertainty_volume(result.segmentation.uncertainty, result.outputSegmentationNode, volumeNode)

    def acceptCase(self, segmentationNode, volumeNode, samePatientAs=""):
        """Store a result, corrected or not, in the user's case library, to learn from it.

        Args:
            segmentationNode: what segmentProstate made; volumeNode: the scan that it was made from.
            samePatientAs: id of a case whose patient this is, where DICOM does not tell.

        Returns:
            Stored: case (id, number, split), warnings, is_new; library.undo(stored) takes it back.

        Raises:
            DDSPSegmentationError: the contour is refused, or the library cannot be written.
        """
        from DDSPSegmentationLib.scene.case_exchange import store_result
        from DDSPSegmentationLib.scene.user_folders import case_library

        return store_result(case_library(), segmentationNode, volumeNode, samePatientAs)

    def fineTune(self, casesFolder=None, modelsFolder=None, replayFolder="", device="auto", progress=None):
        """Retrain the active version of the network on the training cases of a library, and wait for it.

        The new version is a candidate, compared with the old one on the hold-out cases; nothing is activated.

        Args:
            casesFolder, modelsFolder: None: the user's own.
            replayFolder: images with masks of an earlier training, to rehearse; "" for none.
            device: "auto", "cpu", "cuda" or "mps".
            progress: called with (stage, fraction); may raise Canceled.

        Returns:
            ModelVersion: name, comparison (verdict, recommendation, sentences), ledger.

        Raises:
            DDSPSegmentationError: with cause and next step in the user's words.
        """
        from DDSPSegmentationLib.scene.retraining_client import fine_tune

        return fine_tune(casesFolder, modelsFolder, replayFolder, device, progress)

    def _defaultRunner(self):
        """PyTorch never loads into a Slicer with a window: its libraries may clash, and its memory would stay."""
        from DDSPSegmentationLib.scene.user_folders import has_window

        if has_window():
            from DDSPSegmentationLib.scene.shared_worker import shared_worker

            return shared_worker()
        if self._inProcessRunner is None:
            from DDSPSegmentationLib.service.runner import InProcessRunner

            self._inProcessRunner = InProcessRunner()
        return self._inProcessRunner


class DDSPSegmentationTest(SelfTestChecks, ScriptedLoadableModuleTest):
    """The whole way in a real Slicer, on the scan that comes with the module: logic, worker and panel."""

    def setUp(self):
        import SampleData

        slicer.mrmlScene.Clear()
        registerSampleData()
        self.volumeNode = SampleData.SampleDataLogic().downloadSamples(SAMPLE_TITLE)[0]
        self.logic = DDSPSegmentationLogic()

    def test_SampleScan(self):
        failures = self.runChecks().failures
        self.assertEqual(failures, [], "these checks failed; the lines above say why")
        self.delayDisplay("DDSP Segmentation: " + (self.logic.missingTorch() or "passed"))
