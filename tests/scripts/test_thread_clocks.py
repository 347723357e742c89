"""scripts/thread_clocks.py: who holds a lock, and for how long, by a process in which that is known."""

import multiprocessing
import threading
import time

import pytest
from conftest import REPO


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def measured(connection, seconds):
    """Holds the lock for so many seconds in a preprocess thread, and lets it go for half a second."""
    from thread_clocks import Clocks

    clocks = Clocks()
    connection.send(clocks.lock)
    clocks.begin()

    def work():
        clocks.name_thread()
        spin(seconds)
        time.sleep(0.5)
        clocks.end()

    threading.Thread(target=work, name="asrbatch-preprocess-0").start()
    while not clocks.used:
        time.sleep(0.05)
    connection.send(clocks.used)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_the_time_that_a_thread_holds_the_lock_is_seen_from_outside(seconds, monkeypatch):
    monkeypatch.syspath_prepend(REPO / "scripts")  # the child inherits it
    from thread_clocks import LOOP, OTHER, PREPARATION, LockWatch

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measured, args=(theirs, seconds))
    child.start()
    held_s = LockWatch(child.pid, ours.recv()).until(ours)
    used = ours.recv()
    child.join()
    held = held_s(used)
    # Others keep the cores busy, so that looks come late and the thread runs in pieces.
    assert held[PREPARATION] == pytest.approx(seconds, abs=0.2) and held[LOOP] + held[OTHER] < 0.2
    assert used["cpu"][PREPARATION] == pytest.approx(seconds, abs=0.1) and used["cpu"][LOOP] < 0.1
    assert used["pss"] == used["io"]["decoders wrote"] == 0
