"""Changes of a segmentation that are no edits, and must not end what Redo can bring back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import slicer

FIRST = 1000.0  # priority of an observer that is asked before all others


@contextmanager
def unseen_by_undo(node: slicer.vtkMRMLSegmentationNode) -> Iterator[None]:
    """Make or remove the surface of a segmentation, or note something on it, without the Segment Editor's history.

    The editor takes every change of a segment for an edit, that of its surface or its tags too.
    """
    segmentation = node.GetSegmentation()

    def stop(caller, event) -> None:
        segmentation.GetCommand(tag).SetAbortFlag(1)

    tag = segmentation.AddObserver(slicer.vtkSegmentation.SegmentModified, stop, FIRST)
    try:
        yield
    finally:
        segmentation.RemoveObserver(tag)
