"""Disks and machines of a test's own, as Linux namespaces: full or read-only mounts, other nodes, other clocks.

Works as root, and for other users where the kernel lets them make user namespaces. Needs util-linux (`unshare`,
`nsenter`, `mount`). Nothing is left behind: a namespace ends with its last process.
"""

import functools
import os
import subprocess
import time
from pathlib import Path

import pytest

_AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
_HINT = (
    "needs Linux namespaces: run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0); in a container, give it CAP_SYS_ADMIN (docker run --privileged)"
)


@functools.cache
def _missing() -> str | None:
    """What keeps tests from making namespaces; None when nothing does."""
    script = 'mount -t tmpfs tmpfs /mnt && hostname elsewhere && echo x >/mnt/x && mount --bind /mnt/x "$0"'
    command = [
        "unshare",
        *_AS_ROOT,
        "--mount",
        "--pid",
        "--uts",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        script,
        _BOOT_ID,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as e:
        return str(e)
    return None if done.returncode == 0 else done.stderr.strip()


_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def namespaces():
    """Skips the test where namespaces are not to be had, and says how to run it; in CI that is a failure."""
    if problem := _missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{_HINT}; here: {problem}")


def start(*arguments: object, **options) -> subprocess.Popen:
    """Starts a command of this machine; what it prints is there as text."""
    return subprocess.Popen(
        [*map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


class Disk:
    """A small file system of its own, at a folder that only commands started through it see.

    A context manager. Like a node's mount, it can be made larger or read-only while commands use it.

    Args:
        folder: where it is mounted; made when absent.
        options: of `mount -t tmpfs`, such as `size=64k,nr_inodes=10`.
    """

    def __init__(self, folder: Path, options: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._keeper = start("unshare", *_AS_ROOT, "--mount", "sh", "-c", "echo up && exec sleep infinity")
        assert self._keeper.stdout.readline() == "up\n"
        self.sh(f"mount -t tmpfs -o {options} tmpfs {folder}")

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.kill()
        self._keeper.communicate()

    @property
    def seen(self) -> Path:
        """The folder as the commands see it, for a test that looks at it from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{self.folder}")

    def start(self, *arguments: object, **options) -> subprocess.Popen:
        """Starts a command that sees the disk. `options` are those of `subprocess.Popen`."""
        user = ["--user", "--preserve-credentials"] if _AS_ROOT else []
        return start("nsenter", "--target", self._keeper.pid, *user, "--mount", "--", *arguments, **options)

    def sh(self, script: str) -> None:
        """Runs a shell script that sees the disk."""
        process = self.start("sh", "-ec", script)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr

    def remount(self, options: str) -> None:
        self.sh(f"mount -o remount,{options} {self.folder}")

    def cover_read_only(self) -> None:
        """From now on no file of the folder can be opened for writing; files that are open stay so.

        A read-only remount proper is refused while files are open for writing.
        """
        self.sh(f"mount --bind {self.folder} {self.folder} && mount -o remount,bind,ro {self.folder}")

    def uncover(self) -> None:
        self.sh(f"umount {self.folder}")


class Machines:
    """Commands on machines of their own: host name, boot and process ids are theirs, the file system is shared.

    A context manager; what still runs at the end is killed.

    Args:
        folder: for the files that stand in for boot ids.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._started: list[subprocess.Popen] = []

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()  # `--kill-child`: the command goes with it
            process.communicate()

    def start(self, host: str, *arguments: object, uptime_s: int = 0, **options) -> subprocess.Popen:
        """Starts a command on the machine `host`; each call boots it anew.

        Args:
            uptime_s: so much longer the machine claims to have been up than this one.
            options: of `subprocess.Popen`.
        """
        boot_id = self._folder / f"boot-{host}-{len(self._started)}"
        boot_id.write_text(f"{boot_id.name}\n")
        stage_times = ["--time", "--boottime", str(uptime_s), "--monotonic", str(uptime_s)] if uptime_s else []
        spaces = ["--mount", "--pid", "--uts", *stage_times, "--fork", "--kill-child", "--mount-proc"]
        script = f'hostname {host} && mount --bind {boot_id} {_BOOT_ID} && exec "$@"'
        process = start("unshare", *_AS_ROOT, *spaces, "sh", "-ec", script, "sh", *arguments, **options)
        self._started.append(process)
        return process


def start_elsewhen(*arguments: object, **options) -> subprocess.Popen:
    """Starts a command of this very machine whose monotonic clocks are a day ahead; see `start`."""
    stage_times = ["--time", "--boottime", "86400", "--monotonic", "86400"]
    return start("unshare", *_AS_ROOT, *stage_times, "--fork", "--kill-child", *arguments, **options)


def command_of(process: subprocess.Popen, timeout_s: float = 10.0) -> int:
    """The process id, as we see it, of a command that `unshare --fork` started: for signals."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + timeout_s
    while not (found := children.read_text().split()):
        assert process.poll() is None and time.monotonic() < deadline, "the machine did not start"
        time.sleep(0.01)
    return int(found[0])
