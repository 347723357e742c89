"""Keeps a lease alive while the main thread is busy."""

import threading

from ..errors import OutputError
from .lease import Lease


class Heartbeat:
    """A thread that refreshes a lease, and hands what goes wrong there to whoever calls `check`.

    Attributes:
        lost: why the lease is no longer ours; None while it is.
    """

    def __init__(self, lease: Lease):
        self._lease = lease
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asrbatch-heartbeat", daemon=True)
        self.lost: OutputError | None = None

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._lease.refresh_s):
            try:
                self._lease.refresh()
            except OutputError as e:
                self.lost = e
                return
