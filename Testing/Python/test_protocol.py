"""What worker and client say to each other: lines, errors, and answers whose images wait in files."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, phantom
from worker_parts import PACKAGE_ROOT

import DDSPSegmentationLib
from DDSPSegmentationLib.engine import errors
from DDSPSegmentationLib.engine.errors import DeviceError, InputError, StorageError, WorkerError
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import ExpectedDice
from DDSPSegmentationLib.service import protocol
from DDSPSegmentationLib.service.runner import InProcessRunner
from DDSPSegmentationLib.service.stored_segmentation import StoredSegmentation, save_segmentation, write_temporary


@pytest.fixture
def model(tmp_path):
    return bright_model(tmp_path / "bright")


def voxels(image):
    return sitk.GetArrayViewFromImage(image)


def test_the_words_of_the_protocol_load_neither_torch_nor_itk():
    code = "import sys, DDSPSegmentationLib.service.protocol; sys.exit(bool({'torch', 'SimpleITK'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PACKAGE_ROOT}).returncode == 0


def test_a_message_is_one_ascii_line_and_comes_back():
    message = {"event": "log", "text": "Prostatë\n前立腺 \u2028 \x00"}
    line = protocol.encode_line(message)
    assert line.isascii() and line.count("\n") == 1 and line.endswith("\n")
    assert protocol.decode_line(line) == protocol.decode_line(line.encode()) == message


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"null", b"[]", b"{", b'{"a": 1} x', b"[" * 100_000])
def test_anything_else_is_unreadable(line):
    with pytest.raises(WorkerError, match="unreadable"):
        protocol.decode_line(line)


def test_every_error_of_the_family_comes_back_as_what_it_was():
    family = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(family) >= 9
    for kind in family:
        message = protocol.decode_line(protocol.encode_line(protocol.error_message(kind("Cause é.", "Next."), "7")))
        back = protocol.error_of(message)
        assert (type(back), back.cause, back.next_step) == (kind, "Cause é.", "Next.")


def test_an_error_derived_elsewhere_comes_back_as_the_nearest_of_the_family():
    class Odd(InputError):
        pass

    assert type(protocol.error_of(protocol.error_message(Odd("Cause.", ""), None))) is InputError
    assert type(protocol.error_of(protocol.error_message(MemoryError(), None))) is DeviceError
    assert type(protocol.error_of({"cause": 3})) is WorkerError


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("protocol", 1, "protocol '1' instead of '2'"),
        ("package", "9.9", f"version '9.9' instead of '{DDSPSegmentationLib.__version__}'"),
        ("folder", "/elsewhere", "folder '/elsewhere' instead of"),
        ("pid", "12", "unreadable"),
        ("devices", None, "unreadable"),
    ],
)
def test_a_worker_of_another_installation_is_named(key, value, words):
    hello = protocol.hello_message(1234, "2.5.0", ["cpu"], "CPU")
    protocol.check_hello(hello)
    with pytest.raises(WorkerError, match=words):
        protocol.check_hello({**hello, key: value})


@pytest.fixture
def answer(model, tmp_path):
    """An answer as the client has it."""
    segmentation = InProcessRunner().segment(phantom()[0], RunSettings(device="cpu", model=model))
    segmentation.threshold, segmentation.seconds = math.nan, {"Segmenting": np.float32(0.5)}
    segmentation.expected_dice, segmentation.features = ExpectedDice(0.88, 0.84, 0.91), [2.5, 3.0]
    (tmp_path / "answer").mkdir()
    message = protocol.decode_line(protocol.encode_line(save_segmentation(segmentation, tmp_path / "answer")))
    return StoredSegmentation.load(message, tmp_path / "answer")


def test_large_images_wait_in_their_files_until_they_are_asked_for(answer, tmp_path):
    (tmp_path / "answer" / "mask.mha").unlink()
    assert voxels(answer.mask).any() and answer.threshold is None and answer.seconds == {"Segmenting": 0.5}
    assert answer.expected_dice == ExpectedDice(0.88, 0.84, 0.91) and answer.expected_dice.low == 0.84
    assert answer.features == [2.5, 3.0]
    assert voxels(answer.probability).max() > 0.5
    assert answer.probability is answer.probability
    (tmp_path / "answer" / "uncertainty.mha").unlink()
    with pytest.raises(StorageError, match="'uncertainty.mha' is missing"):
        answer.uncertainty  # noqa: B018
    with pytest.raises(AttributeError):
        answer.nothing  # noqa: B018


def test_the_files_go_with_the_answer(model, tmp_path):
    segmentation = InProcessRunner().segment(phantom()[0], RunSettings(device="cpu", model=model))
    folder = tmp_path / "answer"
    folder.mkdir()
    loaded = StoredSegmentation.load(save_segmentation(segmentation, folder), folder)
    assert folder.exists()
    del loaded
    assert not folder.exists()


@pytest.mark.parametrize("change", [{"mask": None}, {"mask": 3}, {"measurements": {"volume": 3}}])
def test_an_answer_with_anything_missing_is_unreadable(model, tmp_path, change):
    message = save_segmentation(
        InProcessRunner().segment(phantom()[0], RunSettings(device="cpu", model=model)), tmp_path
    )
    with pytest.raises(WorkerError, match="unreadable"):
        StoredSegmentation.load({**message, **change}, tmp_path / "x")
    del message["warnings"]
    with pytest.raises(WorkerError, match="unreadable"):
        StoredSegmentation.load(message, tmp_path / "x")


def test_no_metadata_of_a_scan_reaches_the_disk(tmp_path):
    scan, _ = phantom()
    scan.SetMetaData("0010|0010", "Doe^Jane")
    write_temporary(scan, tmp_path / "scan.mha")
    assert b"Doe" not in (tmp_path / "scan.mha").read_bytes() and scan.GetMetaData("0010|0010") == "Doe^Jane"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."),
    ],
    ids=str,
)
def test_a_lack_of_memory_is_known_by_its_words_everywhere(error):
    assert errors.is_out_of_memory(error) and not errors.is_out_of_memory(RuntimeError("No such file in memory"))
    assert type(protocol.error_of(protocol.error_message(error, "7"))) is DeviceError
