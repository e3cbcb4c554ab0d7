"""Recognizes a scan by what is in it: a digest of its voxels, and a fingerprint that outlives resampling.

Names decide nothing: files are renamed, and every hospital has a Case01.

What a list of seen scans reveals to whoever gets a version: for a scan that he HAS, whether it or a copy of it was
trained on or rehearsed. Digest and fingerprint are alike in that: the digest has no salt, and the fingerprint's salt
lies beside it. He cannot make a picture of either, nor find out who a patient is without having the patient's scan. An
export can leave both out; the version then cannot tell what it was trained on, see ``SeenScans.known``.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk

BITS = 768
LIMIT = 0.17
STEP_MM = 2.0
DETAIL_MM, SURROUNDINGS_MM = 2.0, 6.0
WINDOW = (5, 16, 16)  # half extents in steps (z, y, x)
PAIR_STEPS = (2.0, 10.0)
SHIFTS = (3, 4, 4)  # in steps either way (z, y, x)
SALT_BYTES = 32
MOST_FOLDS = 100
_WINDOW_SIZE = tuple(2 * (half + shift) + 1 for half, shift in zip(WINDOW, SHIFTS, strict=True))
_OFF_ROUND_MM = 0.0013  # what is halfway between two hundredths then is no spacing that a scanner has


def voxel_digest(image: sitk.Image) -> str:
    """SHA-256 of size, spacing and values of a scan, whatever type the values are kept in; no salt, 64 digits."""
    voxels = np.ascontiguousarray(sitk.GetArrayViewFromImage(image), dtype="<f4")
    # Spacings differ in their last digits by who read the scan. Without the shift 0.625 would round either way.
    grid = repr((image.GetSize(), [round(step + _OFF_ROUND_MM, 2) for step in image.GetSpacing()]))
    return hashlib.sha256(grid.encode() + hashlib.sha256(voxels.data).digest()).hexdigest()


class ScanIdentity:
    """What a scan is recognized by; both parts are computed when they are first asked for."""

    def __init__(self, image: sitk.Image):
        self._image = image
        self._found: dict[SeenGroup, list[SeenScan]] = {}

    @classmethod
    def of_parts(cls, digest: str, texture: ScanTexture) -> ScanIdentity:
        """An identity that was computed earlier; it keeps no scan in memory."""
        identity = cls.__new__(cls)
        identity._found = {}
        identity.digest, identity.texture = digest, texture
        return identity

    def without_image(self) -> ScanIdentity:
        """Both parts, computed now, so that the scan itself can be forgotten."""
        return self.of_parts(self.digest, self.texture)

    @cached_property
    def digest(self) -> str:
        """See :func:`voxel_digest`."""
        return voxel_digest(self._image)

    @cached_property
    def texture(self) -> ScanTexture:
        return ScanTexture(self._image)

    def found_in(self, group: SeenGroup) -> list[SeenScan]:
        """The scans of a group that this one is or looks like a copy of, the nearest first; asked once of each group.

        A version keeps the groups of those it came from, so that several versions ask for the same ones.
        """
        if group not in self._found:
            same = [seen for seen in group.scans if seen.digest == self.digest]
            others = [seen for seen in group.scans if seen.digest != self.digest]
            similar: list[SeenScan] = []
            if others:
                prints = [seen.fingerprint for seen in others]
                distances = self.texture.distances(prints, bytes.fromhex(group.salt))
                similar = [others[number] for number in np.argsort(distances) if distances[number] <= LIMIT]
            self._found[group] = [*same, *similar]
        return self._found[group]


@dataclass(frozen=True)
class SeenScan:
    """A scan that a version saw.

    Attributes:
        name: what it was called there; ``digest``: its own; ``fingerprint``: under its group's salt.
        fold: the fold that its patient is in, which some members of the version left out; ``None``: all saw it.
    """

    name: str
    digest: str
    fingerprint: str
    fold: int | None = None


@dataclass(frozen=True)
class SeenGroup:
    """The scans of one training, with the random salt (hexadecimal) that their fingerprints were read under."""

    salt: str
    scans: tuple[SeenScan, ...]


@dataclass(frozen=True)
class SeenScans:
    """Every scan that a version or one that it came from was trained on or rehearsed.

    Attributes:
        groups: one for each training, the version's own last.
        known: whether the list is whole; a version that was exported without it, or made before there was one, is not.
    """

    groups: tuple[SeenGroup, ...] = ()
    known: bool = False

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of all scans of all groups."""
        return frozenset(scan.digest for group in self.groups for scan in group.scans)

    @property
    def last_training(self) -> SeenScans:
        """What the version itself was trained on or rehearsed, without what it came from."""
        return SeenScans(self.groups[-1:], self.known)

    def find(self, scan: ScanIdentity) -> str:
        """Name of the scan that this one is, or is a copy of; "" when it is none of them."""
        if scan.digest in self.digests:
            return next(seen.name for group in self.groups for seen in group.scans if seen.digest == scan.digest)
        return next((seen.name for seen in self.matches(scan)), "")

    def matches(self, scan: ScanIdentity) -> list[SeenScan]:
        """All scans that this one is or looks like a copy of; of each training the nearest first."""
        return [seen for group in self.groups for seen in scan.found_in(group)]

    def with_training(
        self, scans: Sequence[tuple[str, ScanIdentity]], folds: Mapping[str, int | None] | None = None
    ) -> SeenScans:
        """This and the scans (name, identity) of one training more, under a salt of its own; ``folds`` by name."""
        if not scans:
            return self
        salt = secrets.token_bytes(SALT_BYTES)
        fold_of = folds or {}
        seen = tuple(
            SeenScan(name, scan.digest, scan.texture.fingerprint(salt), fold_of.get(name)) for name, scan in scans
        )
        return SeenScans((*self.groups, SeenGroup(salt.hex(), seen)), self.known)

    def to_dict(self) -> dict:
        """As model.json keeps it."""
        groups = [{"salt": group.salt, "scans": [vars(scan) for scan in group.scans]} for group in self.groups]
        return {"known": self.known, "groups": groups}

    @classmethod
    def from_dict(cls, values: dict) -> SeenScans:
        """Raises ValueError, KeyError, TypeError or AttributeError for what is damaged."""
        groups = []
        for group in values["groups"]:
            scans = tuple(
                SeenScan(str(scan["name"]), scan["digest"], scan["fingerprint"], _fold(scan.get("fold")))
                for scan in group["scans"]
            )
            if len(bytes.fromhex(group["salt"])) != SALT_BYTES:
                raise ValueError("a salt of another length")
            if any(len(bytes.fromhex(s.digest)) != 32 or len(bytes.fromhex(s.fingerprint)) != BITS // 8 for s in scans):
                raise ValueError("a digest or fingerprint of another length")
            groups.append(SeenGroup(group["salt"], scans))
        return cls(tuple(groups), values["known"] is True)


def checked_fold(value: object) -> int:
    """The number of a fold as a file gives it. Raises TypeError, ValueError for what is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"fold {value!r} is not a number")
    if not 0 <= value < MOST_FOLDS:
        raise ValueError(f"a fold outside 0 to {MOST_FOLDS - 1}")
    return value


def _fold(value: object) -> int | None:
    return None if value is None else checked_fold(value)


NOTHING_SEEN = SeenScans(known=True)


class ScanTexture:
    """The fine structure in the middle of a scan, from which a fingerprint of 768 bits is read.

    Each bit says at which of two places, less than 20 mm apart, the scan is brighter against its surroundings. The
    places are drawn from a salt: without it the bits say nothing, and no picture can be made of them.
    Two scans are compared over shifts of 8 mm in plane and 6 mm through plane and mirrored left to right; their
    distance is the smallest share of bits that differ.

    Measured on 66 scans of 57 patients of four centers (40 of PROMISE12, 26 of Prostate-3T) under three salts, with
    ``Testing/Benchmarks/scan_recognition.py``. The nine scans that are in both, there with twice the resolution, are
    at most 0.113 apart. A scan and its copy are at most 0.130 apart; by kind of copy: in other units 0.000, gamma of
    0.6 0.066, noise of half the scan's standard deviation 0.130, under the brightness of a coil 0.023, mirrored 0.085,
    cropped by 8 mm or ten voxels on one side 0.118, so without its origin 0.077, cropped and mirrored 0.094, resampled
    to 0.5 to 2 mm in plane and 1 to 4 mm through plane 0.124. Two patients are at least 0.229 apart, also when one scan
    is such a copy, and 999 of 1000 pairs at least 0.26. With ``LIMIT`` none of 2 826 true matches is missed and none of
    192 240 false ones made, and so it is with any limit from 0.14 to 0.22: no single pair decides it. Not recognized
    are cropping that moves the middle by more than the shifts, turning, and mirroring along another axis.
    """

    def __init__(self, image: sitk.Image):
        self.window = _middle_of(_texture(image))

    @classmethod
    def of_window(cls, window: np.ndarray) -> ScanTexture:
        """One whose ``window`` (z, y, x) was kept."""
        if window.shape != _WINDOW_SIZE:
            raise ValueError(f"a texture of {window.shape} places")
        texture = cls.__new__(cls)
        texture.window = np.asarray(window, np.float32)
        return texture

    def fingerprint(self, salt: bytes) -> str:
        """Hexadecimal digits."""
        bits = _read(self.window, _pairs(salt), (0, 0, 0))[0]
        return np.packbits(bits).tobytes().hex()

    def nearest(self, fingerprints: Mapping[str, str], salt: bytes) -> tuple[str, float]:
        """The name of the nearest fingerprint and its distance in [0, 1]; ("", 1) among none."""
        if not fingerprints:
            return "", 1.0
        distances = self.distances(list(fingerprints.values()), salt)
        best = int(distances.argmin())
        return list(fingerprints)[best], float(distances[best])

    def distances(self, fingerprints: Sequence[str], salt: bytes) -> np.ndarray:
        """Share of bits that differ from each fingerprint, at the shift where they are the fewest."""
        stored = _signs(np.array([np.unpackbits(np.frombuffer(bytes.fromhex(f), np.uint8)) for f in fingerprints]))
        pairs = _pairs(salt)
        closest = np.full(len(fingerprints), -1.0)
        for window in (self.window, np.ascontiguousarray(self.window[:, :, ::-1])):
            agreement = _signs(_read(window, pairs, SHIFTS)) @ stored.T / BITS
            closest = np.maximum(closest, agreement.max(axis=0))
        return (1 - closest) / 2


def _texture(image: sitk.Image) -> np.ndarray:
    """Brightness against the surroundings in units of its local spread (z, y, x), 2 mm a step, axes of the patient."""
    image = sitk.DICOMOrient(sitk.Cast(image, sitk.sitkFloat32), "LPS")
    image = sitk.BinShrink(image, [max(1, round(STEP_MM / step)) for step in image.GetSpacing()])
    extent = [count * step for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    size = [max(5, int(length / STEP_MM)) for length in extent]
    middle = image.TransformContinuousIndexToPhysicalPoint([(count - 1) / 2 for count in image.GetSize()])
    turn = np.reshape(image.GetDirection(), (3, 3))
    origin = np.array(middle) - turn @ (np.array(size) - 1) * STEP_MM / 2
    image = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, origin.tolist(), (STEP_MM,) * 3, image.GetDirection(),
        0.0, sitk.sitkFloat32, True,
    )  # fmt: skip

    def blurred(part: sitk.Image, millimetres: float) -> sitk.Image:
        return sitk.SmoothingRecursiveGaussian(part, millimetres)

    detail = blurred(image, DETAIL_MM) - blurred(image, SURROUNDINGS_MM)
    spread = np.sqrt(np.maximum(sitk.GetArrayFromImage(blurred(detail * detail, SURROUNDINGS_MM)), 0))
    detail = sitk.GetArrayFromImage(detail)
    return detail / (spread + 1e-6 * np.abs(detail).max() + np.finfo(np.float32).tiny)


def _pairs(salt: bytes) -> np.ndarray:
    """Pairs of places (BITS, 2, 3) in steps off the middle; drawn without NumPy, whose draws may change."""
    stream = hashlib.shake_256(b"near copies" + salt).digest(64 * BITS)
    draws = np.frombuffer(stream, np.uint8).astype(int)
    widths = np.array([2 * half + 1 for half in WINDOW])
    places = draws[: len(draws) // 6 * 6].reshape(-1, 2, 3) % widths - np.array(WINDOW)
    distance = np.linalg.norm(places[:, 0] - places[:, 1], axis=1)
    return places[(distance >= PAIR_STEPS[0]) & (distance <= PAIR_STEPS[1])][:BITS]


def _middle_of(texture: np.ndarray) -> np.ndarray:
    """What fingerprints and their shifts are read from (``_WINDOW_SIZE``); beyond the scan its edge goes on."""
    middle = [(count - 1) // 2 for count in texture.shape]
    texture = np.pad(texture, [(size // 2,) * 2 for size in _WINDOW_SIZE], mode="edge")
    return texture[tuple(slice(start, start + size) for start, size in zip(middle, _WINDOW_SIZE, strict=True))]


def _read(window: np.ndarray, pairs: np.ndarray, reach: tuple[int, int, int]) -> np.ndarray:
    """Bits (shifts, BITS) for every shift of up to ``reach`` steps."""
    shifted = np.lib.stride_tricks.sliding_window_view(window, [2 * steps + 1 for steps in reach])
    starts = pairs + np.array(window.shape) // 2 - np.array(reach)
    one, other = (shifted[tuple(starts[:, which].T)] for which in (0, 1))
    return (one > other).reshape(len(pairs), -1).T


def _signs(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.float32) * 2 - 1
