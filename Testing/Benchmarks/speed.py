"""Seconds per phase and peak memory of a warm model, in every mode and for three scans: one command.

    python Testing/Benchmarks/speed.py [--networks 5] [--repeats 10] [--precision auto]

Each scan is segmented once unmeasured, then ``--repeats`` times; the median of each phase is printed. A peer in the
same run, a plain 3x3x3 convolution of the network's largest size, says how fast the machine was at that moment. With
``--networks`` the version measured has so many copies of the built-in version's first network: speed and memory ask
for no other weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import SimpleITK as sitk  # noqa: E402

SAMPLE = REPOSITORY / "DDSPSegmentation" / "Resources" / "SampleData" / "ProstateX-0000.nrrd"


def large_scan() -> sitk.Image:
    """The sample scan resampled to 512x512x46 voxels over the same field of view."""
    scan = sitk.ReadImage(str(SAMPLE))
    size = (512, 512, 46)
    spacing = [n * step / m for n, step, m in zip(scan.GetSize(), scan.GetSpacing(), size, strict=True)]
    geometry = scan.GetOrigin(), spacing, scan.GetDirection()
    return sitk.Resample(scan, size, sitk.Transform(), sitk.sitkLinear, *geometry, 0, scan.GetPixelID())


def padded_scan() -> sitk.Image:
    """The sample scan with as much of zeros around it, in plane, as it is wide itself."""
    scan = sitk.ReadImage(str(SAMPLE))
    border = [scan.GetWidth() // 2, scan.GetHeight() // 2, 0]
    return sitk.ConstantPad(scan, border, border, 0)


SCANS = {"sample": lambda: sitk.ReadImage(str(SAMPLE)), "large": large_scan, "padded": padded_scan}


def copies_of_the_built_in(count: int, folder: Path) -> Path:
    """A version whose networks are all the built-in version's first one."""
    from DDSPSegmentationLib.engine.model import load_networks, save_model

    networks, built_in = load_networks()
    save_model(folder, networks[:1] * count, built_in.preprocessing)
    return folder


def peer_seconds(repeats: int) -> float:
    """Median of a float32 3x3x3 convolution, 32 to 16 channels, 48x96x96 voxels."""
    import torch

    layer, crop = torch.nn.Conv3d(32, 16, 3, padding=1), torch.rand(1, 32, 48, 96, 96)
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            layer(crop)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def measure(
    scan: sitk.Image, model: Path, mode: str, bias_field: str, precision: str, repeats: int
) -> tuple[dict[str, float], float]:
    """Median seconds per phase with a warm model, and the process's peak memory in MB."""
    from DDSPSegmentationLib.engine.run_settings import RunSettings
    from DDSPSegmentationLib.engine.segmenter import Segmenter

    segmenter, settings = Segmenter(model, precision=precision), RunSettings(mode=mode, bias_field=bias_field)
    seconds, peak = [], 0.0
    for _ in range(repeats + 1):
        result = segmenter.segment(scan, settings)
        seconds.append(result.seconds)
        peak = max(result.peak_memory_mb.values())
        del result  # a worker keeps no answer either
    return {phase: statistics.median(one[phase] for one in seconds[1:]) for phase in seconds[0]}, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--one", nargs=4, metavar=("SCAN", "MODEL", "MODE", "BIAS_FIELD"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        name, model, mode, bias_field = chosen.one
        scan = SCANS[name]()
        phases, peak = measure(scan, Path(model), mode, bias_field, chosen.precision, chosen.repeats)
        size = "x".join(map(str, scan.GetSize()))
        cells = "".join(f"{seconds:15.2f}" for seconds in (*phases.values(), sum(phases.values())))
        print(f"{size:14s}{mode:>10s}{bias_field:>6s}{cells}{peak:10.0f}", flush=True)
        return
    print(f"{chosen.networks} networks; peer (one convolution): {peer_seconds(chosen.repeats):.3f} s")
    columns = "".join(f"{title:>15s}" for title in ("Preprocessing", "Segmenting", "Measuring", "sum s"))
    print(f"{'scan':14s}{'mode':>10s}{'N4':>6s}{columns}{'peak MB':>10s}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = copies_of_the_built_in(chosen.networks, Path(folder, "copies"))
        kinds = [("sample", mode, "fast") for mode in ("standard", "fast", "paper")]
        kinds += [("sample", "standard", "off"), ("sample", "fast", "full")]
        kinds += [(scan, mode, "fast") for scan in ("large", "padded") for mode in ("standard", "fast")]
        for scan, mode, bias_field in kinds:  # a process each: peak memory never falls within one
            repeats = "1" if bias_field == "full" else str(chosen.repeats)
            one = ["--one", scan, str(model), mode, bias_field, "--repeats", repeats, "--precision", chosen.precision]
            subprocess.run([sys.executable, __file__, *one], check=True)
    print(f"peer (one convolution): {peer_seconds(chosen.repeats):.3f} s")


if __name__ == "__main__":
    main()
