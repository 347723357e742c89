"""One writer per output file, also where `flock` cannot be trusted (NFS, Lustre).

The lease is a small file that its holder rewrites every few seconds (a beat). Whoever finds one judges it on its own
clock: unchanged for `STALE_AFTER_S`, its holder is dead; changed, it is alive and the newcomer is refused. A holder on
this very machine is asked of the kernel instead, so that a crashed run resumes at once. Clocks of different machines
are never compared.

Taking over must not be possible for two at once. A newcomer that has judged a lease dead claims its succession: it
links its own lease to a name made of the dead lease's token, which exactly one can do, since a link fails where a name
exists and no token is ever used again. A claim whose maker dies is itself claimed the same way, so claims form a
chain, and the last link of the chain that begins at the lease's path is the holder. The claimant looks at the whole
chain once more, then renames its lease to the path. A holder that wakes up beats first and looks for a claim
afterwards, the claimant claims first and looks for a beat afterwards: at least one of the two sees the other.

Signs of life, written while the main thread is busy: the lease's beat and the run record.
"""

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from asrbatch.errors import LeaseError, LeaseRemovedError, UsageError
from asrbatch.formatting import show_text
from asrbatch.storage.files import explained, refuse_irregular, temporary_path
from asrbatch.storage.processes import describe_self, is_alive_here
from asrbatch.storage.record import RECORD_REFRESH_S, RunRecord
from asrbatch.timeouts import running_s

# Six beats may be lost before a holder is taken for dead: file systems stall for some seconds, and say nothing.
REFRESH_S = 10.0
STALE_AFTER_S = 60.0
_POLL_S = 1.0
_GIVE_WAY_S = 0.2
# Bounds every loop that others can lengthen.
_ATTEMPTS = 100
# What follows the lease's own name: a token, or the place of a torn lease in the chain.
_CLAIM = r"(?:[0-9a-f]{32}|\d{1,3})"


class Lease:
    """Acquired on construction, released by `release`. Threads may share it.

    Attributes:
        lost: another process has taken over, and this one has noticed.
        judged_by_time: an earlier holder, since the last release, was found dead by time alone. It may still wake up
            and finish a write that it was in the middle of; see `Journal`'s `new_file`.

    Args:
        path: the lease file.
        log: receives, in one line, when a foreign lease must be watched before it can be judged.

    Raises:
        LeaseError: another process writes this output.
        OutputError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        log: Callable[[str], None] = lambda line: None,
        refresh_s: float = REFRESH_S,
        stale_after_s: float = STALE_AFTER_S,
    ):
        self.path = path
        self.refresh_s = refresh_s
        self.token = secrets.token_hex(16)
        self.lost = self.judged_by_time = False
        self._stale_after_s = stale_after_s
        self._beats = 0
        self._lock = threading.Lock()
        self._own = temporary_path(path)
        with explained(path):
            # Written in full under a name of its own and only then linked: nobody ever finds half a first lease.
            self._fd = os.open(self._own, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            try:
                self._beat()
                self._acquire(log)
                self.refresh()
                self._remove_claims()
            except BaseException:
                os.close(self._fd)
                raise
            finally:
                self._own.unlink(missing_ok=True)

    def refresh(self) -> None:
        """Shows the others that we live, and makes sure that none has taken over; call every `refresh_s`.

        Raises:
            LeaseError: another process has taken over.
            OutputError: the disk refused.
        """
        with self._lock, explained(self.path):
            self._check()
            # Of before the beat: a write that took long proves nothing about the time after it began.
            began = _now()
            self._beat()
            if not self._is_ours():
                time.sleep(_GIVE_WAY_S)  # a claimant that sees this beat gives way
                self.lost = not self._is_ours()
            self._check()
            self._confirmed = began

    def ensure(self) -> None:
        """Call before writing a row: cheap while refreshes are regular, a refresh after a pause.

        Raises:
            LeaseError: another process has taken over.
            OutputError: the disk refused.
        """
        self._check()
        # After a pause (SIGSTOP, a suspended machine) the heartbeat's thread is as late as the one that writes.
        if _now() - self._confirmed > 2 * self.refresh_s:
            self.refresh()

    def release(self) -> None:
        """Removes the lease if it is still ours. What cannot be removed, the next process will judge dead."""
        claim = self._beside(self.token)
        with suppress(OSError, UsageError):
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))  # fails where another has claimed; afterwards nobody can
            if _token(_read(self.path)) == self.token:
                self.path.unlink()
            claim.unlink()
        os.close(self._fd)

    def _acquire(self, log: Callable[[str], None]) -> None:
        for _ in range(_ATTEMPTS):
            if self._link(self.path):
                return
            chain = self._chain()
            if chain and self._is_dead(*chain[-1], log) and self._take_over(chain):
                return
        raise LeaseError(
            f"{self.path}: other processes keep taking it; run the same command again when they have ended"
        )

    def _link(self, path: Path) -> bool:
        """Puts our lease at `path` unless something is there: atomic on every file system, NFS included."""
        try:
            os.link(self._own, path)
        except FileExistsError:
            return _token(_read(path)) == self.token  # NFS may carry a link out, lose its answer, and try again
        return True

    def _chain(self) -> list[tuple[Path, str]]:
        """Leases with their contents, from the one at `path` through its claims to the present holder's."""
        chain: list[tuple[Path, str]] = []
        path = self.path
        while (content := _read(path)) is not None and len(chain) < _ATTEMPTS:
            chain.append((path, content))
            path = self._claim_on(chain)
        return chain

    def _claim_on(self, chain: list[tuple[Path, str]]) -> Path:
        """Where the successor of the chain's last lease stands; a torn lease, which has no token, counts by place."""
        return self._beside(_token(chain[-1][1]) or str(len(chain)))

    def _is_dead(self, path: Path, content: str, log: Callable[[str], None]) -> bool:
        """Whether the holder is dead; False when its lease went away. Raises when it lives."""
        alive = is_alive_here(_parsed(content))
        if alive:
            raise self._refusal(content)
        # So that a run that crashed resumes at once, without a minute of watching.
        if alive is False:
            return True
        log(
            f"{self.path} is held by {_holder(content)}; watching it for {self._stale_after_s:g} s to see whether that "
            "process still lives"
        )
        # Time in which we were stopped ourselves, and perhaps the holder with us, proves nothing.
        deadline = running_s() + self._stale_after_s
        while running_s() < deadline:
            time.sleep(min(_POLL_S, self._stale_after_s / 10))
            now = _read(path)
            if now is None:
                return False
            if now != content:
                raise self._refusal(now)
        return True

    def _take_over(self, chain: list[tuple[Path, str]]) -> bool:
        holders = [_parsed(content) for _, content in chain]
        self.judged_by_time |= any(is_alive_here(each) is None or each.get("judged_by_time") for each in holders)
        # Who was found dead by time alone may still be in the middle of a write, however many took over since.
        self._beat()  # whoever takes over from us must know
        claim = self._claim_on(chain)
        if not self._link(claim):
            return False
        if self._chain() != [*chain, (claim, _read(self._own))]:  # someone beat, or was faster
            claim.unlink(missing_ok=True)
            return False
        os.rename(self._own, self.path)
        for path, _ in [*chain[1:], (claim, "")]:  # nothing leads to them any more
            path.unlink(missing_ok=True)
        return True

    def _remove_claims(self) -> None:
        """Removes claims of processes that died while they took over or let go: from our lease nothing leads to them,
        and whoever made one and wakes up finds another lease in place of the one it claimed."""
        # Listed first: what is claimed later is not among them.
        claim = re.compile(re.escape(f".{self.path.name}.") + _CLAIM)
        found = {self.path.with_name(name) for name in os.listdir(self.path.parent) if claim.fullmatch(name)}
        chain = {path for path, _ in self._chain()}
        if self._is_ours():
            for path in found - chain:
                path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        return _token(_read(self.path)) == self.token and not self._beside(self.token).exists()

    def _check(self) -> None:
        if not self.lost:
            return
        stops = "this process stops before it writes another row"
        content = _read(self.path)
        # A lease that was removed names nobody to wait for.
        if not content:
            fix = "Put the folder back if it was moved, and run the same command again: it goes on with its rows"
            raise LeaseRemovedError(f"{self.path}: our lease was removed; {stops}. {fix}")
        fix = "Rows written so far are kept; run the same command again when that process has ended"
        raise LeaseError(f"{self.path}: our lease was taken over by {_holder(content)}; {stops}. {fix}")

    def _refusal(self, content: str) -> LeaseError:
        return LeaseError(
            f"{self.path}: {_holder(content)} is writing this output; wait for it, stop it, or choose another --output"
        )

    def _beat(self) -> None:
        self._beats += 1
        content = {"token": self.token, **describe_self(), "judged_by_time": self.judged_by_time, "beat": self._beats}
        os.pwrite(self._fd, json.dumps(content).ljust(512).encode() + b"\n", 0)  # one length: no tail of an older one
        os.fsync(self._fd)

    def _beside(self, name: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{name}")


def holder_has_ended(path: Path) -> bool:
    """Whether this machine's kernel knows that the process named in a lease is no more; False where
    only time can tell.
    """
    try:
        content = _read(path)
    except (OSError, UsageError):  # nobody's business here: who writes will hear of it
        return False
    return content is not None and is_alive_here(_parsed(content)) is False


def _now() -> float:
    """Seconds on a clock that also runs while the machine sleeps."""
    # CLOCK_MONOTONIC stands still while a laptop sleeps, and with it the age of our own lease.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(path: Path) -> str | None:
    """The lease as it stands now; opening anew makes network file systems look. Raises UsageError: it is no file."""
    refuse_irregular(path)
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8", errors="replace")
    return None


def _parsed(content: str | None) -> dict[str, Any]:
    try:
        value = json.loads(content or "")
    except ValueError:  # torn: judged by time alone
        return {}
    return value if isinstance(value, dict) else {}


def _token(content: str | None) -> str | None:
    token = _parsed(content).get("token")
    return token if isinstance(token, str) and token.isalnum() else None


def _holder(content: str | None) -> str:
    holder = _parsed(content)
    # Whoever wrote the lease chose how long they are.
    pid, host, job = (show_text(str(holder.get(name) or "")) for name in ("pid", "host", "slurm_job"))
    return f"process {pid or '?'} on {host or 'another machine'}" + (f", SLURM job {job}" if job else "")


class Heartbeat:
    """Holds a lease and, by a thread that refreshes it and a run record, shows that its holder lives.

    What goes wrong in that thread is handed to whoever calls `check`. It runs from the moment the lease is held: taking
    in a long rows file takes longer than a lease may be silent.

    Attributes:
        record: refreshed as well, once it is set.
        failure: why no more signs of life are given; None while they are.

    Args:
        path, log: those of `Lease`, whose errors it raises.
    """

    def __init__(self, path: Path, log: Callable[[str], None]):
        self.lease = Lease(path, log=log)
        self.record: RunRecord | None = None
        self.failure: BaseException | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asrbatch-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Call before anything that only the holder may do.

        Raises:
            OutputError: this process was stopped for a while, and another has taken over.
            BaseException: what the thread failed with; OutputError where the disk refused.
        """
        if self.failure is not None:
            raise self.failure
        self.lease.ensure()

    def close(self) -> None:
        """Ends the thread, then lets the lease go."""
        self._end.set()
        self._thread.join()
        self.lease.release()

    def _run(self) -> None:
        written_at = time.monotonic()
        refresh_s = self.lease.refresh_s
        try:
            while not self._end.wait(refresh_s):
                self.lease.refresh()
                # The record is larger and read by fewer: it is written less often than the lease.
                if self.record is not None and time.monotonic() - written_at >= RECORD_REFRESH_S - refresh_s / 2:
                    written_at = time.monotonic()
                    self.record.write()
        except BaseException as e:  # whatever it is: a heart that stops in silence loses the lease
            self.failure = e
