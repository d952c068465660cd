"""A Slurm cluster of two nodes on this machine: controller, munge and two slurmd, in a folder of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
NODES = ("n1", "n2")
GOING_ON = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED")
SETTLING = 10
"""Seconds for nodes to confirm that nothing is left of a job; a dead one leaves it COMPLETING, which is an end too."""

SETTINGS = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
SlurmdTimeout={silence}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs={cpus} RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs={cpus} RealMemory=2000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=10 State=UP
"""
"""slurm.conf."""

SILENCE = 60
"""Seconds after which the controller calls a silent node down; Slurm's default is 300."""


@dataclass(frozen=True)
class Ended:
    """A job that is over: Slurm's state (COMPLETING if a node is dead), exit code of its script, all that it wrote."""

    state: str
    exit_code: int
    output: str


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


class Cluster:
    """A running cluster. `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's settings, its output captured."""
        return subprocess.run(
            command, env=self.environment | more, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self) -> None:
        host = socket.gethostname().partition(".")[0]
        for name in ("munge", "controller", *NODES):
            (self.folder / name).mkdir(mode=0o755)
        ports = dict(zip(("controller_port", "n1_port", "n2_port"), free_ports(3), strict=True))
        (self.folder / "slurm.conf").write_text(
            SETTINGS.format(host=host, folder=self.folder, cpus=os.cpu_count(), silence=SILENCE, **ports)
        )
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.checked("munged", *(f"--{option}={self.folder}/munge/{name}" for option, name in munge.items()))
        self.checked("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.states().count("idle") == len(NODES), 30, "nodes to be idle")

    def checked(self, *command: str) -> None:
        done = self.run(*command)
        assert done.returncode == 0, f"{command[0]}: {done.stderr}"

    def start_node(self, node: str) -> None:
        self.checked("slurmd", "-N", node)

    def states(self) -> list[str]:
        """States of the nodes, as sinfo says."""
        return self.run("sinfo", "--noheader", "--Node", "--format=%T").stdout.split()

    def stop(self) -> None:
        self.run("scancel", "--user=root")
        time.sleep(1)
        for pid_file in ("n1.pid", "n2.pid", "controller.pid", "munge/pid"):
            kill_of(self.folder / pid_file, signal.SIGTERM)
        time.sleep(2)
        for pid in self.processes():  # keepers of steps whose node was killed
            kill(pid, signal.SIGKILL)

    def wait(self, job: str, seconds: float, output: Path) -> Ended:
        """The job's end.

        Raises:
            TimeoutError: it has not ended within that many seconds.
        """
        try:
            wait_until(lambda: self.state(job)[0] not in GOING_ON, seconds, f"job {job} to end")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it wrote:\n{text_of(output)}") from None
        end = time.monotonic() + SETTLING
        while self.state(job)[0] == "COMPLETING" and time.monotonic() < end:
            time.sleep(0.5)
        return Ended(*self.state(job), text_of(output))

    def state(self, job: str) -> tuple[str, int]:
        """Slurm's state of a job and its exit code so far."""
        text = self.run("scontrol", "show", "job", job).stdout
        state, code = re.search(r"JobState=(\w+)", text), re.search(r"ExitCode=(\d+):", text)
        assert state, text
        assert code, text
        return state[1], int(code[1])

    def kill_node(self, node: str) -> None:
        """Everything of a node dies at once: its slurmd, its steps' keepers, and what the jobs run there."""
        kill_of(self.folder / f"{node}.pid", signal.SIGKILL)
        on_node = self.processes(f"SLURMD_NODENAME={node}")
        for pid in on_node | {keeper for keeper in map(parent, on_node) if is_keeper(keeper)}:
            kill(pid, signal.SIGKILL)

    def processes(self, *variables: str) -> set[int]:
        """Processes of this cluster that have these variables, each as NAME=VALUE."""
        wanted = {variable.encode() for variable in (f"SLURM_CONF={self.folder}/slurm.conf", *variables)}
        found: set[int] = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                    found.add(int(process.name))
            except OSError:  # it ended while it was looked at
                continue
        return found


def parent(pid: int) -> int:
    """Its parent process; 0 if it has ended."""
    found = re.search(r"PPid:\s*(\d+)", text_of(Path(f"/proc/{pid}/status")))
    return int(found[1]) if found else 0


def is_keeper(pid: int) -> bool:
    """Whether this process is Slurm's keeper of a step: its own environment does not name its node."""
    return text_of(Path(f"/proc/{pid}/comm")).strip() == "slurmstepd"


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster that lives as long as the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm.", dir="/tmp"))  # short: sockets below it; munge wants it readable
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Asks every half second.

    Raises:
        TimeoutError: not true within that many seconds.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def kill_of(pid_file: Path, number: signal.Signals) -> None:
    if pid_file.exists() and (text := pid_file.read_text().strip()):
        kill(int(text), number)


def kill(pid: int, number: signal.Signals) -> None:
    """Signals a process that may have ended meanwhile."""
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, number)


def text_of(path: Path) -> str:
    """What a file says; nothing if it is not there, or no more."""
    try:
        return path.read_text()
    except OSError:
        return ""
