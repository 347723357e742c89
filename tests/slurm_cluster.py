"""A real SLURM on this machine for as long as the tests run: munged, slurmctld and slurmd in a folder of their own.

Nothing of the machine's own set-up is used or changed: own key, own sockets, free ports. The daemons run in the
foreground as our children and end when we do, whatever ends us. Knows nothing about asrbatch.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
HOW_TO_GET_IT = "run scripts/install_slurm.sh, or apt-get install slurmctld slurmd slurm-client munge"

# Jobs that have ended stay listed for an hour, so that a test can still ask how; a requeued task's wait is cut by the
# tests. `KillWait`: what is preempted drains its engine first, on a slow machine slowly. `config_overrides`: the node
# has the CPUs said here, whatever the machine has.
CONFIGURATION = """
ClusterName=asrbatch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
KillWait=60
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:a100:2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if _which(program) is None]


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """The client side.

    Attributes:
        environment: what SLURM's commands need to find this cluster.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**ours, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, program: str, *arguments: object) -> str:
        """Runs one of SLURM's commands; its standard output."""
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """Every job and array element since the start, by `ID` or `ID_ELEMENT`: `JobState`, `ExitCode`, `Restarts`, …

        Elements that wait together are one entry, `ID_[1-3]`.
        """
        found = {}
        for line in self.call("scontrol", "--oneliner", "show", "jobs").splitlines():
            job = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" not in job:
                continue
            element = job.get("ArrayTaskId", "")
            element = element if element.isdecimal() or not element else f"[{element}]"
            found[f"{job['ArrayJobId']}_{element}" if element else job["JobId"]] = job
        return found

    def state(self, job: str) -> str:
        """`PENDING`, `RUNNING`, `COMPLETED`, …; empty while an element still waits with others."""
        return self.jobs().get(job, {}).get("JobState", "")

    def wait_for(self, job: str, *states: str, timeout_s: float = 120.0, hurry: bool = True) -> dict[str, str]:
        """Waits for one of the states; with `hurry`, tasks that wait after a requeue are started at once."""

        def there() -> dict[str, str] | None:
            jobs = self.jobs()
            if hurry:
                self.start_requeued(jobs)
            return jobs[job] if jobs.get(job, {}).get("JobState") in states else None

        return wait_until(there, f"{job} is {' or '.join(states)}", timeout_s, lambda: str(self.jobs().get(job)))

    def start_requeued(self, jobs: dict[str, dict[str, str]]) -> None:
        """SLURM keeps a requeued job back for two minutes; this skips the wait."""
        for name, job in jobs.items():
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                with contextlib.suppress(AssertionError):  # it has begun meanwhile
                    self.call("scontrol", "update", f"JobId={name}", "StartTime=now")


def wait_until(
    there: Callable, what: str, timeout_s: float = 60.0, seen: Callable[[], str] = str, every_s: float = 0.1
):
    """Calls `there` until it answers with something true, and returns that."""
    deadline = time.monotonic() + timeout_s
    while not (answer := there()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}; {seen()}"
        time.sleep(every_s)
    return answer


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Starts a cluster of one node with 2 CPUs; stops it at the end, its jobs first."""
    folder = Path(tempfile.mkdtemp(prefix="asrbatch-slurm-", dir="/tmp"))  # short: a socket's path has 108 bytes
    folder.chmod(0o755)  # munge wants its socket reachable for everybody
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _write_configuration(folder)
        cluster = Cluster(folder)
        _start(stack, cluster, "munged", *_munge_options(folder))
        wait_until((folder / "munge.sock").exists, "munged's socket")
        _start(stack, cluster, "slurmctld", "-D", "-f", folder / "slurm.conf")
        _start(stack, cluster, "slurmd", "-D", "-f", folder / "slurm.conf")
        wait_until(lambda: _is_idle(cluster), "an idle node", seen=lambda: _logs(folder))
        stack.callback(_cancel_all, cluster)
        yield cluster


def _write_configuration(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    facts = {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "ctld_port": _free_port(),
        "slurmd_port": _free_port(),
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    # No GPUs, but SLURM deals them out as if they were.
    (folder / "gres.conf").write_text("Name=gpu Type=a100 File=/dev/zero\nName=gpu Type=a100 File=/dev/null\n")


def _munge_options(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
    return [
        "--foreground",
        "--force",
        *(f"--{o}={folder / n}" for o, n in names.items()),
        f"--seed-file={folder}/munge.seed",
    ]


def _start(stack: contextlib.ExitStack, cluster: Cluster, program: str, *arguments: object) -> None:
    said = open(cluster.folder / f"{program}.out", "wb")
    stack.callback(said.close)
    # It ends when the thread that started it ends, even by SIGKILL.
    command = ["setpriv", "--pdeathsig", "TERM", _which(program), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=said, stderr=said, env=cluster.environment, start_new_session=True)
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_idle(cluster: Cluster) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env=cluster.environment, timeout=60
    )
    return done.stdout.strip() == "idle"


def _cancel_all(cluster: Cluster) -> None:
    subprocess.run(["scancel", "--user", str(os.getuid())], env=cluster.environment, timeout=60, check=False)
    active = {"RUNNING", "COMPLETING", "PENDING", "SUSPENDED"}
    wait_until(lambda: not any(job["JobState"] in active for job in cluster.jobs().values()), "no job left")


def _logs(folder: Path) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in sorted(folder.glob("*.out"))
    )


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]
