"""``import SampleData``: sources that modules register, copied into the cache, checked and loaded, as in Slicer 5.8."""

import hashlib
import logging
import os
import urllib.request

import slicer
import vtk


class SampleDataSource:
    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
    ):
        self.sampleName = sampleName
        self.sampleDescription = sampleDescription or sampleName
        self.thumbnailFileName, self.customDownloader = thumbnailFileName, customDownloader
        self.loadFileProperties = loadFileProperties or {}
        several = isinstance(uris, list | tuple)
        count = len(uris) if several else 1

        def listed(value):
            return value if several and isinstance(value, list | tuple) else [value] * count

        self.uris, self.fileNames, self.nodeNames = listed(uris), listed(fileNames), listed(nodeNames)
        self.checksums, self.loadFiles, self.loadFileTypes = listed(checksums), listed(loadFiles), listed(loadFileTypes)
        fields = (self.uris, self.fileNames, self.nodeNames, self.checksums, self.loadFiles, self.loadFileTypes)
        if len({len(field) for field in fields}) > 1:
            raise ValueError("All fields of sample data source must have the same length")

    def __eq__(self, other):
        return vars(self) == vars(other)


def _sources():
    if not hasattr(slicer.modules, "sampleDataSources"):
        slicer.modules.sampleDataSources = {}
    return slicer.modules.sampleDataSources


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(category="Custom", **fields):
        source = SampleDataSource(**fields)
        registered = _sources().setdefault(category, [])
        if source not in registered:
            registered.append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category=None):
        return _sources() if category is None else _sources().get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category, sampleDataSource):
        return sampleDataSource in _sources().get(category, [])

    def __init__(self, logMessage=None):
        if logMessage is not None:
            self.logMessage = logMessage

    def logMessage(self, message, logLevel=logging.DEBUG):
        logging.log(logLevel, message)

    def sourceForSampleName(self, sampleName):
        return next((one for many in _sources().values() for one in many if one.sampleName == sampleName), None)

    def downloadSample(self, sampleName):
        return self.downloadSamples(sampleName)[0]

    def downloadSamples(self, sampleName):
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadFromSource(self, source, maximumAttemptsCount=3):
        """The loaded nodes; where none could be loaded (a wrong checksum among the reasons), the paths, as in 5.8."""
        nodes, paths = [], []
        rows = zip(source.uris, source.fileNames, source.nodeNames, source.checksums, source.loadFiles, strict=True)
        for uri, file_name, node_name, checksum, load_file in rows:
            for _attempt in range(maximumAttemptsCount):
                try:
                    path = self.downloadFile(uri, slicer.app.cachePath, file_name, checksum)
                except ValueError as error:
                    self.logMessage(str(error), logging.ERROR)
                    continue
                paths.append(path)
                if load_file is False:
                    nodes.append(path)
                    break
                node = self.loadNode(path, node_name, source.loadFileProperties)
                if node is not None:
                    nodes.append(node)
                    break
                self.logMessage("Load failed", logging.ERROR)
        return nodes or paths

    def downloadFile(self, uri, destFolderPath, name, checksum=None):
        path = os.path.join(destFolderPath, name)
        if os.path.exists(path) and not _fits(path, checksum):
            os.remove(path)
        if not os.path.exists(path):
            try:
                urllib.request.urlretrieve(uri, path)
            except OSError as error:
                raise ValueError(f"Failed to download {uri} to {path}") from error
            if not _fits(path, checksum):
                self.logMessage(f"Checksum verification failed for {name}", logging.ERROR)
                os.remove(path)
        return path

    def loadNode(self, path, name, properties):
        if not os.path.exists(path):
            return None
        loaded = vtk.vtkCollection()
        kind = "SegmentationFile" if path.endswith(".seg.nrrd") else "VolumeFile"
        asked = {**properties, "fileName": path, "name": name}
        if not slicer.app.coreIOManager().loadNodes(kind, asked, loaded, None):
            return None
        node = loaded.GetItemAsObject(0)
        slicer.mrmlScene.RemoveNode(node.GetStorageNode())
        return node


def _fits(path, checksum):
    if checksum is None:
        return True
    kind, digest = checksum.split(":")
    with open(path, "rb") as file:
        return hashlib.new(kind, file.read()).hexdigest() == digest


def downloadSample(sampleName):
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName):
    return SampleDataLogic().downloadSamples(sampleName)
