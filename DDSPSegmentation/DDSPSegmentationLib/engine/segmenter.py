"""The engine's front door: one scan in, one segmentation out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from .confidence import Calibration, pair_features
from .devices import choose_device, choose_precision, peak_memory_mb, set_threads
from .errors import InputError, is_out_of_memory, not_enough_memory
from .images import about_rounding, about_small_view, check_image
from .inference import GlandPredictor, Prediction
from .model import load_networks
from .preprocessing import Grid, PreprocessingSettings, prepare
from .quality import NOT_AXIAL, NOT_CALIBRATED, SOME_SEE_NONE, uncertainty_map
from .run_settings import DEFAULTS, RunSettings
from .segmentation import Segmentation
from .thresholding import gland_above

Progress = Callable[[str, float], None]
PHASES = ("Preprocessing", "Segmenting", "Measuring")
ONE_ALONE = "Memory ran out: one network answered instead of {asked}."
FELL_BACK = "The GPU ran out of memory; the processor is used instead."


class Segmenter:
    """A loaded model that segments scans; keep it, loading takes longer than segmenting.

    Args:
        model_folder: a model version; ``None`` is the built-in one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``float32`` or ``bfloat16``.

    Raises:
        ModelError, DeviceError: the model or the device cannot be used.
    """

    def __init__(self, model_folder: Path | str | None = None, device: str = "auto", precision: str = "auto"):
        set_threads()
        self.networks, self.model = load_networks(model_folder)
        for network in self.networks:
            network.fold_batch_norm()  # in float32, cast afterwards: the other way round would round twice
        self.preprocessing = PreprocessingSettings.from_dict(self.model.preprocessing)
        self.calibration = Calibration.from_dict(self.model.calibration)
        self._fell_back = False
        self._move_to(choose_device(device), precision)

    def _move_to(self, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, choose_precision(precision, device)
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        for network in self.networks:
            network.place(device, dtype)

    def segment(
        self,
        image: sitk.Image,
        settings: RunSettings = DEFAULTS,
        *,
        name: str = "volume",
        members: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment the prostate on a T2-weighted scan.

        Args:
            image: 3D scalar scan, any orientation, LPS mm.
            settings: how; model and device are this segmenter's own, whatever they say.
            name: what error messages call the scan.
            members: numbers of the networks that may answer, ``None``: all; the first of them locates, and in every
                mode but ``standard`` it answers alone.
            progress: called with phase and fraction, which never go back; raising ``Canceled`` in it ends the work.

        Raises:
            InputError: the scan cannot be segmented, or the version has no such members; Canceled; DeviceError.
        """
        preprocessing = self.preprocessing
        if settings.bias_field is not None:
            preprocessing = replace(preprocessing, bias_field=settings.bias_field)
        check_image(image, name)
        asked = self._numbers(members, settings.mode)
        clock = _Clock(progress or (lambda phase, fraction: None))
        with clock.phase("Preprocessing"):
            volume, grid = prepare(image, preprocessing)
            center = None if settings.location is None else _index_inside(grid, settings.location, image, name)

        def answer(numbers: Sequence[int]) -> Segmentation:
            with clock.phase("Segmenting"):
                prediction = self._predict(volume, center, settings.mode, numbers, clock)
            with clock.phase("Measuring"):
                return self._measured(image, grid, prediction, settings, preprocessing.bias_field, len(asked))

        result = _within_memory(answer, asked)
        clock.notify("Measuring", 1.0)
        result.seconds, result.peak_memory_mb = clock.seconds, clock.peak_memory_mb
        return result

    def _numbers(self, members: Sequence[int] | None, mode: str) -> Sequence[int]:
        """The networks that are to answer."""
        known = range(len(self.networks))
        members = known if members is None else members
        unknown = [number for number in members if isinstance(number, bool) or number not in known]
        if unknown or not members:
            cause = f"There are no networks {unknown} of version '{self.model.version}'; it has 0 to {known[-1]}."
            raise InputError(cause, "Name at least one of them, or none for those of the mode.")
        return members if mode == "standard" else members[:1]

    def _measured(
        self, image: sitk.Image, grid: Grid, prediction: Prediction, settings: RunSettings, bias_field: str, asked: int
    ) -> Segmentation:
        """The answer on the scan's own grid, and what is measured on it."""
        probability = grid.restore_image(grid.to_native(prediction.probability), image)
        gland = gland_above(probability, settings.threshold)
        found_any = gland.measurements.volume_ml > 0
        uncertainty = grid.to_native(uncertainty_map(prediction.probability, prediction.disagreement))
        uncalibrated = self._uncalibrated(settings, bias_field, len(prediction.members))
        features = pair_features(prediction.members, grid.spacing_mm)
        calibration = self.calibration if found_any and not uncalibrated else None
        expected = calibration.expect(features) if calibration and features else None
        warnings = about_small_view(image) + ([] if grid.is_axial else [NOT_AXIAL])
        warnings += gland.warnings(expected and expected.value)
        if features is None and len(prediction.members) > 1 and found_any:
            warnings.append(SOME_SEE_NONE)
        return Segmentation(
            mask=gland.mask,
            probability=probability,
            uncertainty=grid.restore_image(uncertainty, image),
            measurements=gland.measurements,
            expected_dice=expected,
            features=features,
            slice_doubts=gland.slice_doubts,
            warnings=warnings,
            notices=self._notices(uncalibrated, asked, len(prediction.members)) + about_rounding(image),
            seconds={},
            peak_memory_mb={},
            model_version=self.model.version,
            model_sha256=self.model.sha256,
            mode=settings.mode,
            threshold=settings.threshold,
            bias_field=bias_field,
            device=self.device.type,
            precision=self.precision,
        )

    def _uncalibrated(self, settings: RunSettings, bias_field: str, members: int) -> str:
        """What nobody has compared with experts' masks, of version, mode, threshold and bias field; "" when all was."""
        calibration = self.calibration
        if calibration is None:
            return f"version '{self.model.version}'"
        if settings.mode != calibration.mode:
            return f"mode {settings.mode}"
        if members < 2:
            return "one network alone"
        if settings.threshold != calibration.threshold:
            return f"the threshold {settings.threshold:g}"
        return "" if bias_field == self.preprocessing.bias_field else f"bias field {bias_field}"

    def _notices(self, uncalibrated: str, asked: int, answered: int) -> list[str]:
        notices = [NOT_CALIBRATED.format(what=uncalibrated)] if uncalibrated else []
        notices += [FELL_BACK] * self._fell_back
        return notices + [ONE_ALONE.format(asked=asked)] * (answered < asked)

    def _predict(
        self, volume: np.ndarray, center: np.ndarray | None, mode: str, members: Sequence[int], clock: _Clock
    ) -> Prediction:
        predictor = GlandPredictor(*(self.networks[number] for number in members), central=mode == "paper")
        try:
            return predictor.predict(volume, center, lambda fraction: clock.notify("Segmenting", fraction))
        except (RuntimeError, MemoryError) as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        # Outside the handler: its traceback would keep the tensors alive.
        self._move_to(torch.device("cpu"), "auto")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._fell_back = True
        return self._predict(volume, center, mode, members, clock)


def _within_memory(answer: Callable[[Sequence[int]], Segmentation], numbers: Sequence[int]) -> Segmentation:
    """The answer of all these networks, or of the first alone where memory runs out. Raises DeviceError."""
    try:
        return answer(numbers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(numbers) == 1:
            raise not_enough_memory() from error
    # Outside the handler: its traceback would keep the arrays alive.
    return _within_memory(answer, numbers[:1])


def _index_inside(grid: Grid, location: tuple[float, float, float], image: sitk.Image, name: str) -> np.ndarray:
    index = grid.index_of(location, image)
    if (index < -0.5).any() or (index > np.array(grid.size) - 0.5).any():
        raise InputError(f"The point that marks the prostate lies outside '{name}'.", "Place it inside the gland.")
    return index


class _Clock:
    """Seconds and peak memory per phase, progress to the caller: work that is done again never takes it back."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.furthest = (0, 0.0)  # number of a phase, fraction
        self.seconds: dict[str, float] = {}
        self.peak_memory_mb: dict[str, float] = {}

    def notify(self, phase: str, fraction: float) -> None:
        self.furthest = max(self.furthest, (PHASES.index(phase), fraction))
        number, reached = self.furthest
        self.progress(PHASES[number], reached)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.notify(name, 0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.peak_memory_mb[name] = peak_memory_mb()
