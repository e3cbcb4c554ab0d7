"""The bar above a slice view, qMRMLSliceControllerWidget: it chooses the view's layers, and writes to the error log."""

import slicer

from .error_log import complain
from .mrml_widgets import qMRMLNodeComboBox
from .watched import Watched

LAYERS = {"Background": "vtkMRMLVolumeNode", "Foreground": "vtkMRMLVolumeNode", "Label": "vtkMRMLLabelMapVolumeNode"}


class LayerSelector(qMRMLNodeComboBox):
    """The node selector of one layer; where its volume is deleted it chooses another, as every node selector does."""

    def _on_import(self):
        """The layers are those of the loaded scene, and the bar reads them when everything is there."""
        was = self.blockSignals(True)
        super()._on_import()
        self.blockSignals(was)


class SliceController:
    """Keeps the layers of one view and the selectors of its bar in step, both ways."""

    def __init__(self, scene, composite):
        self._scene, self._composite = scene, composite
        self._watched, self._segmentation_watched = Watched(), Watched()
        self._selectors = {layer: _selector(LayerSelector, kind, noneEnabled=True) for layer, kind in LAYERS.items()}
        self._segmentations = _selector(qMRMLNodeComboBox, "vtkMRMLSegmentationNode")
        for layer, selector in self._selectors.items():
            selector.setMRMLScene(scene)
            selector.currentNodeChanged.connect(self._layer_setter(layer))
        self._segmentations.currentNodeChanged.connect(self._on_segmentation_chosen)
        self._segmentations.setMRMLScene(scene)
        self._watched.add(composite, "ModifiedEvent", lambda caller, event: self._follow_composite())
        self._watched.add(scene, scene.EndBatchProcessEvent, lambda caller, event: self._follow_composite())
        self._follow_composite()

    def close(self):
        self._watched.end()
        self._segmentation_watched.end()
        for selector in (*self._selectors.values(), self._segmentations):
            selector.setMRMLScene(None)
            selector.deleteLater()

    def _layer_setter(self, layer):
        write = getattr(self._composite, f"Set{layer}VolumeID")
        return lambda node: write(node.GetID() if node is not None else None)

    def _follow_composite(self):
        if self._scene.IsBatchProcessing():
            return
        for layer, selector in self._selectors.items():
            volume_id = getattr(self._composite, f"Get{layer}VolumeID")()
            was = selector.blockSignals(True)
            selector.setCurrentNode(self._scene.GetNodeByID(volume_id) if volume_id else None)
            selector.blockSignals(was)

    # ---- the buttons of a segmentation

    def _on_segmentation_chosen(self, node):
        self._segmentation_watched.end()
        if node is None:
            return
        self._show_buttons(node)
        segmentation = slicer.vtkSegmentation
        for event in (node.DisplayModifiedEvent, segmentation.SegmentAdded, segmentation.SegmentRemoved):
            self._segmentation_watched.add(node, event, lambda caller, event: self._show_buttons(caller))

    def _show_buttons(self, node):
        display_node = node.GetDisplayNode()
        if node is not self._segmentations.currentNode() or display_node is None:
            return
        if not display_node.GetVisibility2DOutline() and not display_node.GetVisibility2DFill():
            complain("qMRMLSliceControllerWidget", "Invalid segmentation outline/fill state: neither are on")


def _selector(kind, node_class, noneEnabled=False):
    selector = kind()
    selector.addEnabled = selector.removeEnabled = False
    selector.noneEnabled = noneEnabled
    selector.nodeTypes = [node_class]
    return selector
