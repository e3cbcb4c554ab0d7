"""The point or box with which a user says where the prostate is."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ..engine.errors import InputError


def location_of(markupsNode: slicer.vtkMRMLMarkupsNode | None) -> tuple[float, float, float] | None:
    """The first point of a point list or the center of a box, in the world (R, A, S) mm.

    Raises:
        InputError: nothing was placed yet.
    """
    if markupsNode is None:
        return None
    if markupsNode.GetNumberOfDefinedControlPoints() == 0:
        raise InputError(
            _("'{name}' has no point yet.").format(name=markupsNode.GetName()),
            _("Click into the prostate in a slice view, or choose 'Find automatically'."),
        )
    place = [0.0, 0.0, 0.0]
    if isinstance(markupsNode, slicer.vtkMRMLMarkupsROINode):
        markupsNode.GetCenterWorld(place)
    else:
        first = next(
            number for number in range(markupsNode.GetNumberOfControlPoints())
            if markupsNode.GetNthControlPointPositionStatus(number) == markupsNode.PositionDefined
        )  # fmt: skip
        markupsNode.GetNthControlPointPositionWorld(first, place)
    return tuple(place)


def start_placing(markupsNode: slicer.vtkMRMLMarkupsNode) -> None:
    """Let the next click into a slice view place the point or the box."""
    markupsNode.CreateDefaultDisplayNodes()
    slicer.modules.markups.logic().SetActiveList(markupsNode)
    # Not the logic's StartPlaceMode, which places a point list whatever kind is active.
    slicer.app.applicationLogic().GetInteractionNode().SwitchToSinglePlaceMode()


def set_visible(markupsNode: slicer.vtkMRMLMarkupsNode | None, visible: bool) -> None:
    """Show or hide a point or box in all views; nothing where there is none."""
    displayNode = None if markupsNode is None else markupsNode.GetDisplayNode()
    if displayNode is not None:
        displayNode.SetVisibility(visible)
