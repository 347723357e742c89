"""One writer per output file, also where `flock` cannot be trusted (NFS, Lustre).

The lease is a small file that its holder rewrites every few seconds. Whoever finds one judges it on its own clock:
unchanged for `STALE_AFTER_S`, it is dead; changed, its holder is alive and the newcomer is refused. A holder on this
very machine is asked of the kernel instead, so that a crashed run resumes at once. Clocks of different machines are
never compared.

A holder keeps its file open and writes its heartbeat into it, so a holder that was wrongly judged dead writes into a
file that is no longer at the lease's path, finds that out before its next row, and stops.
"""

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LeaseError
from .files import explained

REFRESH_S = 10.0
STALE_AFTER_S = 60.0
_POLL_S = 1.0


class Lease:
    """Acquired on construction, released by `release`.

    Args:
        path: the lease file.
        say: told, in one line, when a foreign lease must be watched before it can be judged.

    Raises:
        LeaseError: another process writes this output.
        OutputError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        say: Callable[[str], None] = lambda line: None,
        refresh_s: float = REFRESH_S,
        stale_after_s: float = STALE_AFTER_S,
    ):
        self.path = path
        self.refresh_s = refresh_s
        self.token = secrets.token_hex(16)
        self._beat = 0
        self._stale_after_s = stale_after_s
        with explained(path):
            self._fd = self._acquire(say)
        self._confirmed = time.monotonic()

    def refresh(self) -> None:
        """Shows the others that we live; call every `refresh_s`.

        Raises:
            LeaseError: another process has taken over.
        """
        self._verify()
        self._beat += 1
        with explained(self.path):
            self._write(self._fd)

    def ensure(self) -> None:
        """Call before writing a row: cheap while refreshes are regular, a look at the file after a pause.

        Raises:
            LeaseError: another process has taken over.
        """
        if time.monotonic() - self._confirmed > 2 * self.refresh_s:
            self._verify()

    def release(self) -> None:
        if _token(_read(self.path)) == self.token:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def _acquire(self, say: Callable[[str], None]) -> int:
        while True:
            try:
                fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            except FileExistsError:
                self._remove_dead(say)
                continue
            self._write(fd)
            return fd

    def _remove_dead(self, say: Callable[[str], None]) -> None:
        """Returns when the lease that stands there is gone; raises when its holder lives."""
        content = _read(self.path)
        if content is None:
            return
        alive = _is_alive_here(content)
        if alive:
            raise self._refusal(content)
        if alive is None:
            self._watch(content, say)
        if _read(self.path) != content:
            return  # somebody else was faster: judge theirs anew
        aside = self.path.with_name(f"{self.path.name}.{self.token}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _read(aside) != content:  # between the look and the rename another process took over: give it back
            try:
                os.link(aside, self.path)
            except OSError as e:
                if e.errno != errno.EEXIST:
                    raise
        aside.unlink(missing_ok=True)

    def _watch(self, content: str, say: Callable[[str], None]) -> None:
        say(
            f"{self.path.name} is held by {_holder(content)}; watching it for {self._stale_after_s:g} s to see whether "
            "that process still lives"
        )
        deadline = time.monotonic() + self._stale_after_s
        while time.monotonic() < deadline:
            time.sleep(min(_POLL_S, self._stale_after_s / 10))
            now = _read(self.path)
            if now is None:
                return
            if now != content:
                raise self._refusal(now)

    def _verify(self) -> None:
        # A process that judged us dead may be giving the lease back at this moment, so an absent file is looked for twice.
        for _ in range(2):
            content = _read(self.path)
            if _token(content) == self.token:
                self._confirmed = time.monotonic()
                return
            if content is not None:
                break
            time.sleep(0.2)
        taken_by = f"taken over by {_holder(content)}" if content else "removed"
        raise LeaseError(
            f"{self.path}: our lease was {taken_by}; this process stops before it writes another row. "
            "Rows written so far are kept"
        )

    def _refusal(self, content: str) -> LeaseError:
        return LeaseError(
            f"{self.path}: {_holder(content)} is writing this output; wait for it, stop it, or choose another --output"
        )

    def _write(self, fd: int) -> None:
        content = {"token": self.token, **_self(), "beat": self._beat}
        os.pwrite(fd, json.dumps(content).ljust(512).encode() + b"\n", 0)  # one length, so that a rewrite leaves no tail
        os.fsync(fd)


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_start": _start_time(os.getpid()),
        "pid_space": _pid_space(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _is_alive_here(content: str) -> bool | None:
    """Whether the holder lives, when this machine's kernel can tell; None when only time can."""
    holder = _parsed(content)
    space = _pid_space()
    if not space or holder.get("pid_space") != space:
        return None
    return _start_time(int(holder["pid"])) == holder.get("pid_start")


def _pid_space() -> str | None:
    """Names the set of processes whose ids mean the same: one boot of one machine, one PID namespace (containers)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """When the process began, in clock ticks since boot: tells a live holder from a later process with its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _read(path: Path) -> str | None:
    """The lease as it stands now; opening anew makes network file systems look."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _parsed(content: str | None) -> dict[str, Any]:
    try:
        value = json.loads(content or "")
    except ValueError:  # just being created, or torn: judged by time alone
        return {}
    return value if isinstance(value, dict) else {}


def _token(content: str | None) -> str | None:
    return _parsed(content).get("token")


def _holder(content: str | None) -> str:
    holder = _parsed(content)
    job = f", SLURM job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}{job}"
