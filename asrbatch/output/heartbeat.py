"""Signs of life, written while the main thread is busy: the lease's beat and the run record."""

import threading
import time

from ..errors import OutputError
from .lease import Lease
from .record import REFRESH_S, RunRecord


class Heartbeat:
    """A thread that refreshes a lease and a run record, and hands what goes wrong there to whoever calls `check`.

    Start it as soon as the lease is held: taking in a long rows file takes longer than a lease may be silent.

    Attributes:
        record: refreshed as well, once it is set.
        failure: why no more signs of life are given; None while they are.
    """

    def __init__(self, lease: Lease):
        self._lease = lease
        self.record: RunRecord | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asrbatch-heartbeat", daemon=True)
        self.failure: OutputError | None = None

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Call before anything that only the holder may do.

        Raises:
            OutputError: the thread failed; or this process was stopped for a while, and another has taken over.
        """
        if self.failure is not None:
            raise self.failure
        self._lease.ensure()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        written_at = time.monotonic()
        try:
            while not self._end.wait(self._lease.refresh_s):
                self._lease.refresh()
                if self.record is not None and time.monotonic() - written_at >= REFRESH_S - self._lease.refresh_s / 2:
                    written_at = time.monotonic()
                    self.record.write()
        except OutputError as e:
            self.failure = e
