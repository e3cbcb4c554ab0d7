"""What a caller chooses about a run besides the scan itself: one object from the click to the network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

# Nothing here may import torch or ITK: what they print while they load would end up among the worker's events.
from .errors import InputError

MODES = ("standard", "fast", "paper")
BIAS_FIELD_MODES = ("full", "fast", "off")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class RunSettings:
    """How one scan is to be segmented.

    Attributes:
        mode: ``standard``, all networks of the version; ``fast``, one of them; ``paper``, one network that sees the
            plain central crop alone, its main output, as published.
        threshold: of the probability, between 0 and 1.
        bias_field: ``full``, ``fast`` or ``off``; ``None`` takes the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``; whether this machine has it, ``devices.choose_device`` says.
        model: folder of a model version; ``None`` is the built-in one.
        location: a point (x, y, z) LPS mm in the gland, when the user gave one.

    Raises:
        InputError: a value that no run can have, named with what it may be.
    """

    mode: str = "standard"
    threshold: float = 0.5
    bias_field: str | None = None
    device: str = "auto"
    model: Path | str | None = None
    location: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"Mode '{self.mode}' is unknown.", f"Choose one of {', '.join(MODES)}.")
        if not 0 < self.threshold < 1:
            cause = f"Threshold {self.threshold:g} is not between 0 and 1."
            raise InputError(cause, "Choose 0.5 unless you know better.")
        if self.bias_field is not None and self.bias_field not in BIAS_FIELD_MODES:
            cause = f"Bias field '{self.bias_field}' is unknown."
            raise InputError(cause, f"Choose one of {', '.join(BIAS_FIELD_MODES)}.")
        if self.location is not None:
            point = tuple(float(value) for value in self.location)
            if len(point) != 3 or not all(map(math.isfinite, point)):
                raise InputError(f"Location {point} is not a point.", "Give three coordinates in mm.")
            object.__setattr__(self, "location", point)

    def to_dict(self) -> dict:
        """The settings as JSON can hold them."""
        return {**asdict(self), "model": None if self.model is None else str(self.model)}

    @classmethod
    def from_dict(cls, values: dict) -> RunSettings:
        """What ``to_dict`` made.

        Raises:
            InputError: a setting that this version does not know, or a value that no run can have.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            cause = f"Settings are unknown: {', '.join(sorted(unknown))}."
            raise InputError(cause, f"Known are {', '.join(field.name for field in fields(cls))}.")
        return cls(**values)


DEFAULTS = RunSettings()
