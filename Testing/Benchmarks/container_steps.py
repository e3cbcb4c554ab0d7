"""Does what docs/cluster/Containerfile says without a container: its steps in a bare Debian, then a scan; one command.

    python Testing/Benchmarks/container_steps.py [--suite bookworm] [--wheels FOLDER]

Debian's own Python stands in place of the base image. The packages are fetched beforehand, for a Python of the same
version (or are in FOLDER), so that every step runs without a network. The bundled scan is then segmented by the user
that the file names, in a root folder that is mounted read-only, with a /scratch of its own, an input that is mounted
read-only, and no network. It needs root, debootstrap, and a Debian mirror; without the first two it says so and ends.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONTAINERFILE = REPOSITORY / "docs" / "cluster" / "Containerfile"
SAMPLE_DATA = REPOSITORY / "DDSPSegmentation" / "Resources" / "SampleData"
DEBIAN_PYTHON = "python3,python3-venv,python-is-python3"
ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "sh", "-euc")


class Stage:
    """What the steps from one FROM to the next have made: a root folder, its variables and its working folder."""

    def __init__(self, root: Path, base: Path, arguments: dict[str, str]):
        self.root, self.folder, self.user, self.arguments = root, "/", "0:0", arguments
        self.variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        subprocess.run(["cp", "-a", base, root], check=True)

    def text(self, words: str) -> str:
        known = self.variables | self.arguments
        return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda found: known[found[1] or found[2]], words)

    def inside(self, path: str) -> Path:
        return self.root / os.path.join(self.folder, path).lstrip("/")

    def run(self, command: str, mounts: str = "") -> None:
        variables = [f"{name}={value}" for name, value in (self.variables | self.arguments).items()]
        inside = ["env", "-i", "-C", self.folder, *variables, "sh", "-euc", command]
        there = f"exec chroot --userspec={self.user} {self.root} {shlex.join(inside)}"
        subprocess.run([*ALONE, f"mount -t proc proc {self.root}/proc\n{mounts}\n{there}"], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--wheels", type=Path, help="a folder with the wheels of requirements/run.txt")
    chosen = parser.parse_args()
    if os.geteuid() or not shutil.which("debootstrap"):
        print("skipped: this needs root and debootstrap (Debian, Ubuntu: sudo apt install debootstrap).")
        return 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place, "base")
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={DEBIAN_PYTHON}", chosen.suite, base]
        subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(chosen.wheels or fetched(Path(place, "wheels"), base), base / "wheels")
        image, entry = build(Path(place), base)
        segment(image, entry, Path(place, "results"))
    print("All steps ran; the bundled scan was segmented without root, network, or anything to write to but /scratch.")
    return 0


def fetched(folder: Path, base: Path) -> Path:
    [python] = (base / "usr" / "lib").glob("python3.*")
    words = ["--dest", folder, "--only-binary=:all:", f"--python-version={python.name.removeprefix('python')}"]
    requirements = REPOSITORY / "requirements" / "run.txt"
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *words, "-r", requirements], check=True)
    return folder


def build(place: Path, base: Path) -> tuple[Stage, list[str]]:
    """The last stage of the Containerfile and its entry point. Raises ValueError: an instruction is not known here."""
    stages: dict[str, Stage] = {}
    stage, entry = None, []
    text = CONTAINERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in (line for line in text.splitlines() if line.strip() and not line.startswith("#")):
        print(line, flush=True)
        word, _, rest = line.partition(" ")
        if word == "FROM":
            name = rest.partition(" AS ")[2] or f"stage {len(stages)}"
            offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
            stage = stages[name] = Stage(place / name.replace(" ", "-"), base, offline)
        elif stage is None and word == "ARG":
            continue  # the base image
        elif stage is None:
            raise ValueError(f"{word} before any FROM")
        elif word == "ARG":
            name, _, value = rest.partition("=")
            stage.arguments[name] = value
        elif word == "ENV":
            stage.variables |= dict(pair.split("=", 1) for pair in shlex.split(stage.text(rest)))
        elif word == "WORKDIR":
            stage.folder = rest
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            copy(stage, stages, rest.split())
        elif word == "RUN":
            stage.run(rest)
        elif word == "USER":
            stage.user = rest
        elif word == "ENTRYPOINT":
            entry = shlex.split(rest.strip("[]").replace(",", " "))
        elif word != "CMD":
            raise ValueError(f"{word} is not known here")
    assert stage is not None
    shutil.rmtree(stage.root / "wheels")
    return stage, entry


def copy(stage: Stage, stages: dict[str, Stage], words: list[str]) -> None:
    """COPY; a folder's content goes into the folder named."""
    of = stages[words.pop(0).removeprefix("--from=")] if words[0].startswith("--from=") else None
    target = stage.inside(words[-1])
    for word in words[:-1]:
        source = of.inside(word) if of else REPOSITORY / word
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            into = target / source.name if words[-1].endswith("/") else target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, into)


def segment(image: Stage, entry: list[str], results: Path) -> None:
    """The bundled scan, as the pod of kubernetes.yaml would. Raises RuntimeError: it could write elsewhere."""
    root = image.root
    results.mkdir()
    os.chown(results, *map(int, image.user.split(":")))
    for name in ("scans", "results"):
        (root / name).mkdir()
    (root / "dev" / "shm").mkdir(exist_ok=True)
    mounts = f"""
mount --bind {root} {root}
mount -o remount,bind,ro {root}
mount -t proc proc {root}/proc
mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm
mount -t tmpfs -o mode=1777,size=2g tmpfs {root}/scratch
mount --bind {SAMPLE_DATA} {root}/scans
mount -o remount,bind,ro {root}/scans
mount --bind {results} {root}/results
"""
    image.arguments.clear()
    image.run(
        "for place in / /opt/ddsp /scans /usr; do ! touch $place/written 2>/dev/null || exit 9; done\n"
        "python -c 'import socket; assert [name for _, name in socket.if_nameindex()] == [\"lo\"]' || exit 9\n"
        f"exec {shlex.join(entry)} segment /scans --output /results",
        mounts,
    )
    found = sorted(path.name for path in results.iterdir())
    print(f"written to /results: {', '.join(found)}")
    if "report.html" not in found or not any(name.endswith(".seg.nrrd") for name in found):
        raise RuntimeError("There is no mask or no report.")


if __name__ == "__main__":
    sys.exit(main())
