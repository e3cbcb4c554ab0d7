"""Color maps that Slicer reads from files which slicer-core lacks; their colors are matplotlib's."""

import matplotlib
import slicer

NAMES = ("Inferno", "Magma", "Plasma", "Viridis", "Cividis")


def keep_color_maps(scene):
    """Have these color nodes in the scene, and again after it was closed; returns the observer's tag."""
    _add(scene)
    return scene.AddObserver(scene.EndCloseEvent, lambda caller, event: _add(scene))


def remove_color_maps(scene):
    """Leave a scene as slicer-core has it."""
    for name in NAMES:
        node = scene.GetNodeByID(f"vtkMRMLColorTableNodeFile{name}.txt")
        if node is not None:
            scene.RemoveNode(node)


def _add(scene):
    for name in NAMES:
        node = scene.GetNodeByID(f"vtkMRMLColorTableNodeFile{name}.txt")
        if node is None:
            node = slicer.vtkMRMLColorTableNode()
            node.SetSingletonTag(f"File{name}.txt")
            node.SetSaveWithScene(False)
            node = scene.AddNode(node)
        node.SetName(name)
        node.SetAttribute("Category", "Discrete")
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        for number, color in enumerate(matplotlib.colormaps[name.lower()](range(256))):
            node.SetColor(number, *color)
