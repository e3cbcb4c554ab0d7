"""Images and whole answers as temporary files between the worker process and its client."""

from __future__ import annotations

import dataclasses
import shutil
import typing
import weakref
from pathlib import Path

import SimpleITK as sitk

from ..engine.errors import StorageError
from ..engine.files import as_json
from ..engine.images import erase_metadata, silent_itk, without_metadata
from ..engine.segmentation import ExpectedDice, Segmentation
from .protocol import garbled

# What the client shows at once; the others are large and wait in their files until somebody asks.
READ_AT_ONCE = ("mask",)


def write_temporary(image: sitk.Image, path: Path) -> None:
    """Write an image fast: uncompressed MetaImage, exact geometry, without the metadata (it may name the patient).

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    if image.GetMetaDataKeys():
        image = without_metadata(image)
    voxels = sitk.GetArrayViewFromImage(image).nbytes
    try:
        with silent_itk():
            sitk.WriteImage(image, str(path), useCompression=False)
        whole = path.stat().st_size > voxels
    except (RuntimeError, OSError) as error:
        raise _storage_error(path) from error
    if not whole:  # ITK does not always notice a disk that fills up
        raise _storage_error(path)


def read_temporary(path: Path) -> sitk.Image:
    """Read what ``write_temporary`` wrote.

    Raises:
        StorageError: it is gone or damaged.
    """
    try:
        with silent_itk():
            return erase_metadata(sitk.ReadImage(str(path), imageIO="MetaImageIO"))
    except RuntimeError as error:
        raise StorageError(
            f"'{path.name}' is missing from the temporary folder or damaged.", "Segment the scan again."
        ) from error


def save_segmentation(segmentation: Segmentation, folder: Path) -> dict:
    """Write the images into ``folder`` and return everything as JSON can hold it; NaN becomes null.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    message = {}
    for field in dataclasses.fields(segmentation):
        value = getattr(segmentation, field.name)
        if isinstance(value, sitk.Image):
            file_name = f"{field.name}.mha"
            write_temporary(value, folder / file_name)
            value = file_name
        message[field.name] = as_json(value)
    return message


class StoredSegmentation(Segmentation):
    """A Segmentation that reads its probability and uncertainty from their files when they are first asked for.

    Its folder is deleted with it, or when Python ends.
    """

    _waiting: dict[str, Path]

    @classmethod
    def load(cls, message: dict, folder: Path) -> StoredSegmentation:
        """The answer that ``save_segmentation`` made; it owns ``folder`` from now on.

        Raises:
            WorkerError: the message is not such an answer.
            StorageError: the mask's file cannot be read.
        """
        segmentation = cls.__new__(cls)
        weakref.finalize(segmentation, shutil.rmtree, str(folder), ignore_errors=True)
        segmentation._waiting = {}
        hints = typing.get_type_hints(Segmentation)
        try:
            for field in dataclasses.fields(Segmentation):
                value, kind = message[field.name], hints[field.name]
                is_record = isinstance(kind, type) and dataclasses.is_dataclass(kind)
                if kind is sitk.Image:
                    segmentation._waiting[field.name] = folder / Path(value).name
                else:
                    setattr(segmentation, field.name, kind(**value) if is_record else value)
            if segmentation.expected_dice is not None:
                segmentation.expected_dice = ExpectedDice(*segmentation.expected_dice)
        except (KeyError, TypeError):
            raise garbled() from None
        for name in READ_AT_ONCE:
            getattr(segmentation, name)
        return segmentation

    def __getattr__(self, name: str):
        path = self.__dict__.get("_waiting", {}).get(name)
        if path is None:
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        image = read_temporary(path)
        setattr(self, name, image)
        return image


def _storage_error(path: Path) -> StorageError:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
    except OSError:
        free = "it is missing or may not be written"
    return StorageError(
        f"'{path.name}' could not be written to the temporary folder '{path.parent}' ({free}).",
        "Free some space on its disk, then try again.",
    )
