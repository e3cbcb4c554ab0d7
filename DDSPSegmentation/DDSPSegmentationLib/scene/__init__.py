"""The Slicer side: the only package that imports slicer, vtk or qt."""
