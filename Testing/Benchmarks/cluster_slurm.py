"""A Slurm of its own on this computer, in one folder and for as long as it is needed: ``Slurm``.

Its daemons, keys, ports and states are its own, so that one that is installed here or at work is left alone. It has two
nodes of one processor, each of which can be made to fail. Whoever starts it needs no rights of root.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue")
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
START_SECONDS = 60.0
CONFIGURATION = """\
ClusterName=ddsp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
MinJobAge=3600
JobRequeue=0
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=8192
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=8192
PartitionName=all Nodes=ALL Default=YES State=UP
"""

T = TypeVar("T")


class NotStarted(Exception):
    """Slurm is not here, or does not run; the text says why and what helps."""


def wait_for(what: str, question: Callable[[], T], seconds: float, every: float = 0.25) -> T:
    """What a question answers once that is true. Raises TimeoutError: it is not within the time."""
    give_up = time.monotonic() + seconds
    while not (answer := question()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(every)
    return answer


class Slurm:
    """Used as a context, at whose end nothing of it runs any more.

    Args:
        folder: is made; other users must be able to enter those that it lies in.
        environment: variables that every command and so every job gets.

    Raises:
        NotStarted: from the start of the context.
    """

    def __init__(self, folder: Path, environment: dict[str, str]):
        self._folder = folder
        self._mark = {"SLURM_CONF": str(folder / "slurm.conf")}
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.environment = outside | environment | self._mark
        self._daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Slurm:
        lacking = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH_PATH)]
        if lacking:
            cause = f"{', '.join(lacking)} not found"
            raise NotStarted(f"{cause}; Debian and Ubuntu have them: apt install slurm-wlm munge")
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *ending: object) -> None:
        self._end()

    def run(self, *words: object) -> subprocess.CompletedProcess:
        """A command of Slurm's or another one, as a user of this cluster would give it."""
        command = [str(word) for word in words]
        return subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def ask(self, *words: object) -> str:
        """What a command prints. Raises RuntimeError: it failed."""
        ended = self.run(*words)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: exit code {ended.returncode}. {ended.stderr.strip()}")
        return ended.stdout

    def version(self) -> str:
        return self.ask("sinfo", "--version").strip()

    def tasks(self) -> list[dict[str, str]]:
        """What Slurm says of each task of each array, those that have ended included."""
        lines = self.ask("scontrol", "--oneliner", "--all", "show", "job").splitlines()
        every = [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]
        return [one for one in every if "ArrayTaskId" in one]

    def node_state(self, node: str) -> str:
        """One word, as sinfo has it, such as idle or down; with a star where the node does not answer."""
        return self.ask("sinfo", "--noheader", "--nodes", node, "--format", "%t").strip()

    def fail(self, node: str) -> None:
        """As if its plug were pulled: everything stands still, so that nobody can tell of it, and is gone."""
        mark = self._mark | {"SLURMD_NODENAME": node}
        _send(mark, signal.SIGSTOP)
        _send_until_none(mark, signal.SIGKILL)
        self._daemons.pop(node).wait()

    def start_node(self, node: str) -> None:
        self._daemons[node] = self._daemon(node, "slurmd", "-D", "-N", node, SLURMD_NODENAME=node)

    # ---- start and end

    def _start(self) -> None:
        for name in ("", "state", *NODES):
            (self._folder / name).mkdir(mode=0o755)
        user = pwd.getpwuid(os.getuid()).pw_name
        host = socket.gethostname().partition(".")[0]
        facts = {"folder": self._folder, "user": user, "host": host, "ports": _free_ports(3), "nodes": NODES}
        (self._folder / "slurm.conf").write_text(CONFIGURATION.format(**facts), encoding="utf-8")
        key = self._folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={self._folder / 'munge'}.{name}" for name in ("key", "pid", "log", "seed")]
        socket_path = self._folder / "munge.socket"
        self._daemons["munged"] = self._daemon("munged", "munged", "--foreground", f"--socket={socket_path}", *files)
        self._wait_until_up("munged", socket_path.exists)
        self._daemons["slurmctld"] = self._daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self._wait_until_up("slurmctld", lambda: self.run("sinfo").returncode == 0)
        for node in NODES:
            self._wait_until_up(node, lambda node=node: self.node_state(node) == "idle")

    def _daemon(self, name: str, program: str, *words: str, **variables: str) -> subprocess.Popen:
        with open(self._folder / f"{name}.out", "ab") as out:
            return subprocess.Popen(
                [str(shutil.which(program, path=SEARCH_PATH)), *words],
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us
            )

    def _wait_until_up(self, name: str, is_up: Callable[[], bool]) -> None:
        def up_or_gone() -> bool:
            gone = [one for one, process in self._daemons.items() if process.poll() is not None]
            if gone:
                raise NotStarted(f"{gone[0]} ended at once; {self._last_words(gone[0])}")
            return is_up()

        try:
            wait_for(name, up_or_gone, START_SECONDS)
        except TimeoutError:
            raise NotStarted(f"{name} is not up after {START_SECONDS:.0f} s; {self._last_words(name)}") from None

    def _last_words(self, name: str) -> str:
        lines = (self._folder / f"{name}.out").read_text(encoding="utf-8", errors="replace").splitlines()
        return f"its last words: {lines[-1]}" if lines else "it said nothing"

    def _end(self) -> None:
        """Daemons and jobs, whatever state they are in; they are known by the configuration that they were given."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        _send_until_none(self._mark, signal.SIGKILL)
        for process in self._daemons.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _send_until_none(mark: dict[str, str], number: int) -> None:
    """What started another process just before its end is followed."""
    wait_for("processes to end", lambda: not _send(mark, number), START_SECONDS)


def _send(mark: dict[str, str], number: int) -> int:
    """Send a signal to all processes whose environment has these variables; to how many it went.

    Children come first: those that stand still would be woken by the system when their parent is gone.
    """
    processes = sorted(_processes(mark), reverse=True)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
    return len(processes)


def _processes(mark: dict[str, str]) -> Iterator[int]:
    wanted = {f"{name}={value}".encode() for name, value in mark.items()}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                yield int(folder.name)
