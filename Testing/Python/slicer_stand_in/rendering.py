"""Pictures of the views, drawn by Slicer's own displayable managers, without a screen.

Every function gives None where this machine cannot render; canRender() says so beforehand.
"""

import contextlib
import functools
import subprocess
import sys

import numpy as np
import slicer
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy

SIZE = (500, 500)
SLICE_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
)
TRIAL = """
import vtk
window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
renderer.SetBackground(1, 0, 0)
window.SetOffScreenRendering(1)
window.AddRenderer(renderer)
window.Render()
pixels = vtk.vtkUnsignedCharArray()
window.GetPixelData(0, 0, 3, 3, 0, pixels, 0)
raise SystemExit(pixels.GetValue(0) != 255)
"""


@functools.cache
def canRender():
    """Tried in a process of its own: where there is no way to draw, VTK may end the process."""
    try:
        return subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def renderSlice(name="Red", size=SIZE, fit=False):
    """What a slice view shows, as colors (rows, columns, 3) in 0..255: volumes, segments, markups, color legend."""
    if not canRender():
        return None
    widget = slicer.app.layoutManager().sliceWidget(name)
    logic = widget.sliceLogic()
    logic.ResizeSliceNode(*size)
    if fit:
        logic.FitSliceToBackground()
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    with _view(factory, SLICE_MANAGERS, widget.mrmlSliceNode(), size) as (window, renderer):
        if logic.GetImageDataConnection() is not None:
            mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
            mapper.SetColorWindow(255)
            mapper.SetColorLevel(127.5)
            mapper.SetInputConnection(logic.GetImageDataConnection())
            actor.SetMapper(mapper)
            actor.GetProperty().SetDisplayLocationToBackground()
            renderer.AddViewProp(actor)
        return _pixels(window)


def renderThreeD(size=SIZE, zoom=1.0):
    """What the 3D view shows, from the front, as colors (rows, columns, 3) in 0..255."""
    if not canRender():
        return None
    node = slicer.app.layoutManager().threeDWidget(0).mrmlViewNode()
    factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
    with _view(factory, THREE_D_MANAGERS, node, size) as (window, renderer):
        renderer.ResetCamera()
        renderer.GetActiveCamera().Zoom(zoom)
        return _pixels(window)


def savePicture(pixels, path):
    """Write the colors that a render function gave as a PNG file."""
    _image(pixels).save(str(path))


def windowPicture(path, size=(1400, 900)):
    """The whole main window, its views drawn as well as this machine can, as a PNG file."""
    window = slicer.util.mainWindow()
    window.resize(*size)
    window.show()
    slicer.app.processEvents()
    for name, label in window.viewLabels().items():
        room = (max(label.width, 50), max(label.height, 50))
        pixels = renderThreeD(room) if name == "1" else renderSlice(name, room)
        if pixels is not None:
            label.setPixmap(QtGui.QPixmap.fromImage(_image(pixels)))
    slicer.app.processEvents()
    window.grab().save(str(path))


@contextlib.contextmanager
def _view(factory, managers, node, size):
    """A window off the screen with the displayable managers of one view."""
    factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    for manager in managers:
        if not factory.IsDisplayableManagerRegistered(manager):
            factory.RegisterDisplayableManager(manager)
    window, renderer, interactor = vtk.vtkRenderWindow(), vtk.vtkRenderer(), vtk.vtkRenderWindowInteractor()
    window.SetOffScreenRendering(1)
    window.SetSize(*size)
    window.AddRenderer(renderer)
    interactor.SetRenderWindow(window)
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    try:
        yield window, renderer
    finally:
        group.SetMRMLDisplayableNode(None)
        window.Finalize()


def _pixels(window):
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    columns, rows, _ = image.GetDimensions()
    colors = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)
    return np.ascontiguousarray(colors[::-1, :, :3])


def _image(pixels):
    rows, columns, _ = pixels.shape
    return QtGui.QImage(pixels.data, columns, rows, 3 * columns, QtGui.QImage.Format_RGB888).copy()
