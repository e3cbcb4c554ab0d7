"""What the scene saves about the panel: the nodes chosen and how they are shown."""

from collections.abc import Callable
from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

CHOSEN_NODES = ("inputVolume", "outputSegmentation", "location")
# Choices that the user keeps when the scene is closed; the nodes go with it.
KEPT_ON_CLOSE = (
    "threshold",
    "showContour",
    "showFill",
    "showSurface",
    "uncertaintyOpacity",
    "surfaceSmoothing",
    "zoomToGland",
)


@parameterNodeWrapper
class PanelParameters:
    """Typed view of the module's parameter node; the names are those that the .ui file connects widgets to.

    Attributes:
        location: a point list or a box that says where the prostate is.
        threshold: of the probability, for the next run and for a contour that nobody edited.
        uncertaintyOpacity, surfaceSmoothing: in [0, 1].
        zoomToGland: whether a new result is looked at from near.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    location: slicer.vtkMRMLMarkupsNode
    threshold: Annotated[float, WithinRange(0.05, 0.95)] = 0.5
    showContour: bool = True
    showFill: bool = False
    showSurface: bool = True
    showUncertainty: bool = False
    zoomToGland: bool = True
    uncertaintyOpacity: Annotated[float, WithinRange(0, 1)] = 0.5
    surfaceSmoothing: Annotated[float, WithinRange(0, 1)] = 0.5


def connect_widgets(parameters: PanelParameters, ui) -> Callable[[], None]:
    """Bind the widgets that name a parameter; returns what undoes it.

    Slicer 5.8 neither tells the tag of a connection nor removes its observer, which would write to deleted widgets.
    """
    node, observers = parameters.parameterNode, []

    def observe(event, callback, priority=0.0):
        observers.append(node.AddObserver(event, callback, priority))
        return observers[-1]

    parameters.AddObserver = observe
    tag = parameters.connectGui(ui)

    def disconnect() -> None:
        parameters.disconnectGui(0 if tag is None else tag)  # a second time does nothing
        while observers:
            node.RemoveObserver(observers.pop())

    return disconnect
