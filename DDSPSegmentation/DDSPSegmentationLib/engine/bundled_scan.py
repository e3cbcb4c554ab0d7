"""The scan that comes with the product: for the tutorial, the self test, and to see how much a new version drifts."""

from __future__ import annotations

from pathlib import Path

from .resources import resource_folder
from .scan_identity import ScanIdentity, SeenGroup, SeenScan, SeenScans

_SALT = "ed9855da3e4caf790452a419ace8c380e01cd4f4ce87e3b4b7603b93f83cd613"
_DIGEST = "535789f08b3cdd84b552e01858acf1887126f55a91a60eb9af5402f8a30ad97f"
_FINGERPRINT = (
    "1cf4580dc256131e0f2df7ccae6f8c5d41de0025f74b50d4dd5d86c804900bfb63a01715f8521ead9aa1fa01e49644a3"
    "7644c70edce978193e6974a1878a287ede6491f8306026ff6366cc96b6b381d6580ba32d1ecb4968eecb18e0232d89f0"
)
_BUNDLED = SeenScans((SeenGroup(_SALT, (SeenScan("ProstateX-0000", _DIGEST, _FINGERPRINT),)),), known=True)


def bundled_scan_file() -> Path:
    return resource_folder() / "SampleData" / "ProstateX-0000.nrrd"


def is_bundled(scan: ScanIdentity) -> bool:
    """Whether a scan is the bundled one, or a copy of it.

    Everybody has it and tries it first: it is no patient of this hospital. No version is trained on it either, since
    every new one is checked on it.
    """
    return bool(_BUNDLED.find(scan))
