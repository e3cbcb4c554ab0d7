"""Say where the demonstration's results are and what was measured: python Testing/demo.py FOLDER."""

import csv
import sys
from pathlib import Path


def describe(folder: Path) -> str:
    """What lies in the output folder of a batch run, as lines for a terminal; volumes in ml, lengths in mm."""
    lines = [""]
    with open(folder / "measurements.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            diameters = " x ".join(row[f"{axis}_mm"] for axis in ("left_right", "antero_posterior", "cranio_caudal"))
            expected = f", expected Dice {row['expected_dice']}" if row["expected_dice"] else ""
            lines += [
                f"{row['case']}: prostate volume {row['volume_ml']} ml, {diameters} mm{expected}",
                *([f"  warning       {row['warnings']}"] if row["warnings"] else []),
                f"  segmentation  {folder / (row['case'] + '.seg.nrrd')}",
                f"  picture       {folder / (row['case'] + '.png')}",
            ]
    return "\n".join([*lines, f"  report        {folder / 'report.html'}", "Research use only. Not a medical device."])


if __name__ == "__main__":
    print(describe(Path(sys.argv[1])))
