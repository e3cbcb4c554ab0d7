"""slicer.app.layoutManager(): real nodes and logics of the views of a conventional layout, without windows."""

import slicer
import vtk

from .signals import Signals
from .slice_controller import SliceController

VIEW_SIZE = (400, 400)


class LayoutManager(Signals):
    """Red, Green and Yellow slice views and one 3D view, as vtkMRMLLayoutLogic makes them."""

    signals = ("layoutChanged(int)",)

    def __init__(self, scene, applicationLogic):
        self._application = applicationLogic
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._layoutLogic = slicer.vtkMRMLLayoutLogic()
        self._layoutLogic.SetMRMLApplicationLogic(applicationLogic)
        self._layoutLogic.SetMRMLScene(scene)
        self._sliceLogics, self._viewLogics = vtk.vtkCollection(), vtk.vtkCollection()
        self._sliceWidgets, self._threeDWidgets, self._controllers = {}, [], []
        self._layoutNode = self._layoutLogic.GetLayoutNode()
        self._shownLayout = self.layout
        self._tag = self._layoutNode.AddObserver("ModifiedEvent", self._on_layout_node)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        views = self._layoutLogic.GetViewNodes()
        for number in range(views.GetNumberOfItems()):
            self._add_view(scene, views.GetItemAsObject(number))
        applicationLogic.SetSliceLogics(self._sliceLogics)
        applicationLogic.SetViewLogics(self._viewLogics)

    def _add_view(self, scene, node):
        node.SetMappedInLayout(True)
        is_slice = node.IsA("vtkMRMLSliceNode")
        logic = slicer.vtkMRMLSliceLogic() if is_slice else slicer.vtkMRMLViewLogic()
        logic.SetMRMLApplicationLogic(self._application)
        logic.SetMRMLScene(scene)
        if is_slice:
            logic.SetSliceNode(node)
            logic.ResizeSliceNode(*VIEW_SIZE)
            self._sliceLogics.AddItem(logic)
            self._sliceWidgets[node.GetLayoutName()] = SliceWidget(logic)
            self._controllers.append(SliceController(scene, logic.GetSliceCompositeNode()))
        else:
            logic.AddViewNode(node.GetLayoutName())
            self._viewLogics.AddItem(logic)
            self._threeDWidgets.append(ThreeDWidget(node))

    def close(self):
        """Take the views out of the scene again."""
        for controller in self._controllers:
            controller.close()
        for logics in (self._sliceLogics, self._viewLogics):
            for number in range(logics.GetNumberOfItems()):
                logic = logics.GetItemAsObject(number)
                node = logic.GetSliceNode() if logic.IsA("vtkMRMLSliceLogic") else logic.GetViewNode()
                scene = logic.GetMRMLScene()
                composite = logic.GetSliceCompositeNode() if logic.IsA("vtkMRMLSliceLogic") else None
                logic.SetMRMLScene(None)
                for gone in (node, composite):
                    if gone is not None and gone.GetScene() is not None:
                        scene.RemoveNode(gone)
        self._layoutNode.RemoveObserver(self._tag)
        self._application.SetSliceLogics(None)
        self._application.SetViewLogics(None)
        self._layoutLogic.SetMRMLScene(None)

    # ---- what qMRMLLayoutManager is asked for

    @property
    def layout(self):
        return self._layoutLogic.GetLayoutNode().GetViewArrangement()

    @layout.setter
    def layout(self, number):
        self.setLayout(number)

    def setLayout(self, number):
        self._layoutLogic.GetLayoutNode().SetViewArrangement(number)

    def _on_layout_node(self, caller, event):
        """Module logics change the layout through its node."""
        if self.layout != self._shownLayout:
            self._shownLayout = self.layout
            self.raiseSignal("layoutChanged(int)", self.layout)

    def layoutLogic(self):
        return self._layoutLogic

    def sliceViewNames(self):
        return tuple(self._sliceWidgets)

    def sliceWidget(self, name):
        return self._sliceWidgets.get(name)

    def mrmlSliceLogics(self):
        return self._sliceLogics

    @property
    def threeDViewCount(self):
        return len(self._threeDWidgets)

    def threeDWidget(self, index):
        return self._threeDWidgets[index] if index < len(self._threeDWidgets) else None

    tableViewCount = 0

    @property
    def plotViewCount(self):
        return len(self._plot_nodes())

    def plotWidget(self, index):
        nodes = self._plot_nodes()
        return PlotWidget(nodes[index]) if index < len(nodes) else None

    def _plot_nodes(self):
        views = self._layoutLogic.GetViewNodes()
        nodes = [views.GetItemAsObject(number) for number in range(views.GetNumberOfItems())]
        return [node for node in nodes if node.IsA("vtkMRMLPlotViewNode")]

    def viewport(self):
        return slicer.util.mainWindow().centralWidget()

    def resetThreeDViews(self):
        for widget in self._threeDWidgets:
            widget.threeDView().resetFocalPoint()

    def resetSliceViews(self):
        for widget in self._sliceWidgets.values():
            widget.sliceLogic().FitSliceToBackground()


class SliceWidget:
    """One slice view: its nodes, its logic, and the controller's commands."""

    def __init__(self, logic):
        self._logic = logic

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceController(self):
        return self

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()

    def setSliceVisible(self, visible):
        self.mrmlSliceNode().SetSliceVisible(visible)

    def setSliceOffsetValue(self, offset):
        self._logic.SetSliceOffset(offset)

    def sliceView(self):
        return self

    def forceRender(self):
        pass

    scheduleRender = forceRender


class ThreeDWidget:
    """One 3D view: its node, and commands that keep count of themselves."""

    def __init__(self, node):
        self._node = node
        self.resets = 0

    def mrmlViewNode(self):
        return self._node

    def threeDView(self):
        return self

    def threeDController(self):
        return self

    def resetFocalPoint(self):
        self.resets += 1

    resetCamera = resetFocalPoint

    def forceRender(self):
        pass


class PlotWidget:
    """One plot view: its node."""

    def __init__(self, node):
        self._node = node

    def mrmlPlotViewNode(self):
        return self._node
