"""The engine: torch, numpy and SimpleITK only; it knows nothing of Slicer, folders of cases or command lines."""
