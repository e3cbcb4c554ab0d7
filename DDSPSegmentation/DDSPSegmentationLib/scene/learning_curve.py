"""The live curve of a retraining in Slicer's plot view: loss and Dice, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from slicer.i18n import tr as _

CURVE = "DDSPSegmentation.LearningCurve"  # marks our chart, so that it is found again after the module was reloaded
LAYOUT_BEFORE = "DDSPSegmentation.LayoutBefore"
COLORS = {"loss": (0.80, 0.33, 0.20), "dice": (0.16, 0.47, 0.71)}

# (step, loss, Dice); None where it was not measured at that step.
Point = tuple[int, float | None, float | None]


class LearningCurve:
    """One chart of the scene; everything it is made of is found through the chart, and none of it is ever saved."""

    def __init__(self):
        self._drawn: tuple = ()

    @property
    def isShown(self) -> bool:
        """Whether the chart is in the scene and the layout has a place for it."""
        manager = slicer.app.layoutManager()
        return self._chart() is not None and manager is not None and manager.layout == _layout_with_plot()

    def show(self, points: Sequence[Point]) -> None:
        """Show the chart in Slicer's plot view; without a window nothing happens."""
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        chart = self._chart() or self._addChart()
        if manager.layout != _layout_with_plot():
            chart.SetAttribute(LAYOUT_BEFORE, str(manager.layout))
        self.update(points)
        slicer.modules.plots.logic().ShowChartInLayout(chart)

    def update(self, points: Sequence[Point]) -> None:
        """Bring the chart up to date; without one, as after the scene was closed, nothing happens."""
        chart = self._chart()
        if chart is None or (chart.GetID(), points) == self._drawn:
            return
        self._drawn = chart.GetID(), list(points)
        wasModifying = chart.StartModify()
        for number, position in enumerate((1, 2)):
            measured = np.array([(point[0], point[position]) for point in points if point[position] is not None])
            # The plot view passes over a table without columns; one point is no line yet.
            columns = measured.T if len(measured) > 1 else []
            tableNode = chart.GetNthPlotSeriesNode(number).GetTableNode()
            slicer.util.updateTableFromArray(tableNode, list(columns), ["Step", "Value"])
        if points:  # the view chooses its range when a line comes, not when it grows
            chart.SetXAxisRangeAuto(False)
            chart.SetXAxisRange(0, max(points[-1][0], 1))
            chart.SetYAxisRangeAuto(False)
            chart.SetYAxisRange(0, max([1.0, *(loss for _step, loss, _dice in points if loss is not None)]))
        chart.EndModify(wasModifying)

    def hide(self) -> None:
        """Take the chart out of the scene; the layout is again what it was, unless the user chose another one."""
        chart = self._chart()
        if chart is None:
            return
        before, wasShown = chart.GetAttribute(LAYOUT_BEFORE), self.isShown
        seriesNodes = [chart.GetNthPlotSeriesNode(number) for number in range(chart.GetNumberOfPlotSeriesNodes())]
        tableNodes = [node.GetTableNode() for node in seriesNodes if node is not None]
        for node in [chart, *seriesNodes, *tableNodes]:
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        if before and wasShown:
            slicer.app.layoutManager().setLayout(int(before))

    @staticmethod
    def _chart():
        charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
        return next((node for node in charts if node.GetAttribute(CURVE)), None)

    @staticmethod
    def _addChart():
        # The chart stays visible to selectors: the plot view's own one lets go of a chart that it cannot list.
        chart = _add("vtkMRMLPlotChartNode", _("Retraining"), hidden=False)
        chart.SetAttribute(CURVE, "chart")
        chart.SetTitle(_("Retraining"))
        chart.SetXAxisTitle(_("Step"))
        chart.SetYAxisTitle(_("Loss and Dice"))
        # Two tables, because a line breaks off wherever its column has no value.
        for kind, name in (("loss", _("Loss")), ("dice", _("Dice of patients left out"))):
            tableNode = _add("vtkMRMLTableNode", name)
            seriesNode = _add("vtkMRMLPlotSeriesNode", name)
            seriesNode.SetPlotType(seriesNode.PlotTypeScatter)
            seriesNode.SetMarkerStyle(seriesNode.MarkerStyleNone if kind == "loss" else seriesNode.MarkerStyleCircle)
            seriesNode.SetLineWidth(2)
            seriesNode.SetColor(COLORS[kind])
            seriesNode.SetAndObserveTableNodeID(tableNode.GetID())
            seriesNode.SetXColumnName("Step")
            seriesNode.SetYColumnName("Value")
            chart.AddAndObservePlotSeriesNodeID(seriesNode.GetID())
        return chart


def _add(className: str, name: str, hidden: bool = True):
    """A node that no scene is ever saved with."""
    node = getattr(slicer, className)()
    node.SetName(name)
    node.SetSaveWithScene(False)
    node.SetHideFromEditors(hidden)
    return slicer.mrmlScene.AddNode(node)


def _layout_with_plot() -> int:
    """The layout that shows a plot beside what is shown now; the present one when it does."""
    return slicer.modules.plots.logic().GetLayoutWithPlot(slicer.app.layoutManager().layout)
