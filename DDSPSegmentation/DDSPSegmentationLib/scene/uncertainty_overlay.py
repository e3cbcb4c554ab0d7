"""The doubt of the network, laid over the scan in the slice views that show it."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .slice_views import slice_logics

# Slicer loads the first two from files; the last one is built in.
COLOR_MAPS = ("Inferno", "Magma", "Iron")
VISIBLE_DOUBT = 0.1
# Above 1, or rounding while the volume is resliced would cut holes where the doubt is greatest.
MOST_VISIBLE_DOUBT = 1.1
LEGEND_SIZE, LEGEND_PLACE, LEGEND_FONT = (0.06, 0.3), (0.98, 0.5), 12  # shares of the view; points


class UncertaintyOverlay:
    """The doubt of the network as the foreground of the slice views that show its scan, and what it displaced there."""

    def __init__(self):
        self._volume_node = None
        # Keyed by the composite node itself: an ID may be another node's after the scene was closed.
        self._displaced: dict = {}

    def is_shown(self) -> bool:
        return bool(self._displaced and _is_there(self._volume_node))

    def show(
        self,
        volume_node: slicer.vtkMRMLScalarVolumeNode,
        scan_node: slicer.vtkMRMLScalarVolumeNode,
        opacity: float,
    ) -> None:
        """Lay a volume of doubt in [0, 1] over the views that show its scan.

        Called again it takes in the views that show the scan since, leaves those that show another one by now, and
        those in which the user chose another foreground.
        """
        logics = slice_logics()
        if not logics:
            return
        if volume_node is not self._volume_node:
            self._hide_legend()
            self._displaced = {view: layer for view, layer in self._displaced.items() if self._is_ours(view)}
            self._volume_node = volume_node
            for composite in self._displaced:
                composite.SetForegroundVolumeID(volume_node.GetID())
        _color(volume_node)
        for logic in logics:
            composite = logic.GetSliceCompositeNode()
            has_scan = composite.GetBackgroundVolumeID() == scan_node.GetID()
            if has_scan and composite not in self._displaced:
                self._displaced[composite] = self._layer_of(composite)
                composite.SetForegroundVolumeID(volume_node.GetID())
            elif not has_scan and composite in self._displaced:
                self._give_back(composite, *self._displaced.pop(composite))
        self.set_opacity(opacity)
        self._show_legend(logics)

    def set_opacity(self, opacity: float) -> None:
        """0 to see the scan alone, 1 to see the doubt alone; views with a foreground of the user's are left."""
        for composite in self._displaced:
            if self._is_ours(composite):
                composite.SetForegroundOpacity(opacity)

    def hide(self) -> None:
        """Bring back the foreground each view had, unless the user chose another one meanwhile."""
        for composite, (volume_node, opacity) in self._displaced.items():
            self._give_back(composite, volume_node, opacity)
        self._hide_legend()
        self.forget()

    def forget(self) -> None:
        """Let go of every node, as they are: the scene is closing, or was closed."""
        self._volume_node, self._displaced = None, {}

    def _give_back(self, composite: slicer.vtkMRMLSliceCompositeNode, volume_node, opacity: float) -> None:
        if _is_there(composite) and self._is_ours(composite):
            composite.SetForegroundVolumeID(volume_node.GetID() if _is_there(volume_node) else None)
            composite.SetForegroundOpacity(opacity)

    def _is_ours(self, composite: slicer.vtkMRMLSliceCompositeNode) -> bool:
        """A volume that was deleted while it was shown leaves an empty foreground behind."""
        shown = composite.GetForegroundVolumeID()
        return shown == self._volume_node.GetID() if _is_there(self._volume_node) else shown is None

    def _layer_of(self, composite: slicer.vtkMRMLSliceCompositeNode) -> tuple:
        volume_id = composite.GetForegroundVolumeID()
        volume_node = slicer.mrmlScene.GetNodeByID(volume_id) if volume_id else None
        if volume_node is self._volume_node:  # left in a scene that was saved with it
            return None, 0.0
        return volume_node, composite.GetForegroundOpacity()

    def _show_legend(self, logics: list[slicer.vtkMRMLSliceLogic]) -> None:
        """Once, small, at the edge of the first view that shows the doubt."""
        views = [logic.GetSliceNode() for logic in logics if logic.GetSliceCompositeNode() in self._displaced]
        if not views:
            self._hide_legend()
            return
        first = next((view for view in views if view.IsMappedInLayout()), views[0])
        display_node = self._volume_node.GetDisplayNode()
        legend_node = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(display_node)
        with slicer.util.NodeModify(legend_node):
            legend_node.SetTitleText(_("Uncertainty"))
            legend_node.SetLabelFormat("%.1f")
            legend_node.SetNumberOfLabels(3)
            legend_node.SetSize(*LEGEND_SIZE)
            legend_node.SetPosition(*LEGEND_PLACE)
            for text in (legend_node.GetTitleTextProperty(), legend_node.GetLabelTextProperty()):
                text.SetFontSize(LEGEND_FONT)
            legend_node.RemoveAllViewNodeIDs()
            legend_node.AddViewNodeID(first.GetID())
            legend_node.SetVisibility(True)

    def _hide_legend(self) -> None:
        if _is_there(self._volume_node):
            legend_node = slicer.modules.colors.logic().GetColorLegendDisplayNode(self._volume_node)
            if legend_node is not None:
                legend_node.SetVisibility(False)


def _color(volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    volume_node.CreateDefaultDisplayNodes()
    display_node = volume_node.GetScalarVolumeDisplayNode()
    found = (slicer.mrmlScene.GetFirstNode(name, "vtkMRMLColorTableNode") for name in COLOR_MAPS)
    color_node = next((node for node in found if node is not None), None)
    with slicer.util.NodeModify(display_node):
        if color_node is not None:
            display_node.SetAndObserveColorNodeID(color_node.GetID())
        display_node.SetAutoWindowLevel(False)
        display_node.SetWindowLevelMinMax(0.0, 1.0)
        display_node.SetAutoThreshold(False)
        display_node.SetThreshold(VISIBLE_DOUBT, MOST_VISIBLE_DOUBT)
        display_node.SetApplyThreshold(True)


def _is_there(node: slicer.vtkMRMLNode | None) -> bool:
    return bool(slicer.mrmlScene.IsNodePresent(node))
