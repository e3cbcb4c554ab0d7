"""Seconds per phase and peak memory of the warm model, and the share of N4: one command.

    python Testing/Benchmarks/speed.py [--repeats 5] [--precision auto]

Each scan is segmented once unmeasured, then ``--repeats`` times; the median of each phase is printed. A peer in the
same run, a plain 3x3x3 convolution of the network's largest size, says how fast the machine was at that moment.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
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


def measure(scan: sitk.Image, bias_field: str, precision: str, repeats: int) -> tuple[dict[str, float], float]:
    """Median seconds per phase with a warm model, and the process's peak memory in MB."""
    from DDSPSegmentationLib.engine.run_settings import RunSettings
    from DDSPSegmentationLib.engine.segmenter import Segmenter

    segmenter = Segmenter(precision=precision)
    results = [segmenter.segment(scan, RunSettings(bias_field=bias_field)) for _ in range(repeats + 1)][1:]
    phases = {phase: statistics.median(r.seconds[phase] for r in results) for phase in results[0].seconds}
    return phases, max(results[-1].peak_memory_mb.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--one", nargs=2, metavar=("SCAN", "BIAS_FIELD"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        scan = sitk.ReadImage(str(SAMPLE)) if chosen.one[0] == "sample" else large_scan()
        phases, peak = measure(scan, chosen.one[1], chosen.precision, chosen.repeats)
        size = "x".join(map(str, scan.GetSize()))
        cells = "".join(f"{seconds:15.2f}" for seconds in (*phases.values(), sum(phases.values())))
        print(f"{size:14s}{chosen.one[1]:>6s}{cells}{peak:10.0f}")
        return
    print(f"peer (one convolution): {peer_seconds(chosen.repeats):.3f} s")
    columns = "".join(f"{title:>15s}" for title in ("Preprocessing", "Segmenting", "Measuring", "sum s"))
    print(f"{'scan':14s}{'N4':>6s}{columns}{'peak MB':>10s}")
    for scan in ("sample", "large"):
        for bias_field in ("off", "fast", "full"):  # a process each: peak memory never falls within one
            repeats = "1" if bias_field == "full" else str(chosen.repeats)
            arguments = ["--one", scan, bias_field, "--repeats", repeats, "--precision", chosen.precision]
            subprocess.run([sys.executable, __file__, *arguments], check=True)
    print(f"peer (one convolution): {peer_seconds(chosen.repeats):.3f} s")


if __name__ == "__main__":
    main()
