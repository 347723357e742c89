"""The lease among real processes: some on this machine, some in another PID namespace, stopped, killed, and racing."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from new_process import in_new_process
from processes import die_at

from asrbatch.errors import LeaseError, OutputError
from asrbatch.storage.lease import Heartbeat, Lease
from asrbatch.storage.paths import RunPaths
from asrbatch.storage.record import RunRecord

REFRESH_S, STALE_S = 0.1, 0.8
TIMES = {"refresh_s": REFRESH_S, "stale_after_s": STALE_S}

# Acquires, says so, then does as it is told, a line at a time. Says what came of it.
HOLDER = """
import sys, threading, time
from pathlib import Path
from asrbatch.errors import LeaseError
from asrbatch.storage import lease as module, processes

path, elsewhere = Path(sys.argv[1]), sys.argv[2] == "pretend"
if elsewhere:
    processes.pid_space = lambda: "another machine's"
try:
    lease = module.Lease(path, log=lambda line: print("says", line, flush=True), refresh_s=0.1, stale_after_s=0.8)
except LeaseError as e:
    sys.exit(print("refused", e))
print("holds", lease.judged_by_time, flush=True)
for line in sys.stdin:
    try:
        match line.split():
            case "ensure", seconds:
                end = time.monotonic() + float(seconds)
                lease.ensure()
                while time.monotonic() < end:
                    lease.ensure()
                    time.sleep(0.02)
            case "refresh", seconds:
                end = time.monotonic() + float(seconds)
                lease.refresh()
                while time.monotonic() < end:
                    lease.refresh()
                    time.sleep(0.1)
            case "release",:
                lease.release()
        print("done", flush=True)
    except LeaseError as e:
        print("lost", e, flush=True)
"""


def may_have_namespaces() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


class Holders:
    """Processes that take a lease and are told what to do with it."""

    def __init__(self):
        self._namespaces = may_have_namespaces()
        self._started = []

    def start(self, path: Path, *, elsewhere: bool = False) -> "Holder":
        # Another PID namespace is another machine to the lease: process ids mean nothing there.
        unshare = (
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if elsewhere and self._namespaces else []
        )
        pretend = "pretend" if elsewhere and not self._namespaces else "be yourself"
        holder = Holder([*unshare, sys.executable, "-c", HOLDER, str(path), pretend])
        self._started.append(holder)
        return holder

    def close(self):
        for holder in self._started:
            holder.process.kill()
            holder.process.communicate()


class Holder:
    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> str:
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holders():
    started = Holders()
    yield started
    started.close()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "out.lease"


def content(path: Path) -> dict:
    return json.loads(path.read_text())


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def dead_lease(path: Path) -> None:
    """Leaves the lease of a process of this machine that was killed."""
    child = os.fork()
    if not child:
        Lease(path)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def foreign_lease(path: Path, **more) -> None:
    """Leaves the lease of a process of another machine."""
    holder = {
        "token": os.urandom(16).hex(),
        "host": "node7",
        "pid": os.getpid(),
        "pid_start": "1",
        "pid_space": "other/pid:[1]",
    }
    path.write_text(json.dumps({**holder, "slurm_job": "4711", **more}))


def never(line: str) -> None:
    raise AssertionError(f"was to be judged at once: {line}")


# On one machine


def test_acquire_and_release(path):
    lease = Lease(path, log=never)
    assert content(path)["pid"] == os.getpid()
    assert not lease.judged_by_time
    assert names(path) == ["out.lease"]
    lease.ensure()
    lease.refresh()
    lease.release()
    assert names(path) == []
    Lease(path, log=never).release()


def test_second_is_refused_at_once(path, holders):
    first = holders.start(path)
    assert first.hear() == "holds False"
    with pytest.raises(LeaseError) as error:
        Lease(path, log=never, stale_after_s=3600)
    message = str(error.value)
    assert message.startswith(f"{path}: process {first.process.pid} on {os.uname().nodename} is writing this output")
    assert "wait for it, stop it, or choose another --output" in message
    assert names(path) == ["out.lease"]
    assert first.ask("refresh 0") == "done"


def test_second_of_the_same_process_is_refused(path):
    lease = Lease(path)
    with pytest.raises(LeaseError, match=f"process {os.getpid()} "):
        Lease(path, log=never)
    lease.release()


def test_stopped_holder_of_this_machine_is_alive(path, holders):
    first = holders.start(path)
    assert first.hear() == "holds False"
    first.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * STALE_S)
    with pytest.raises(LeaseError, match=f"process {first.process.pid} "):
        Lease(path, log=never, **TIMES)


@pytest.mark.parametrize("reaped", [True, False])
def test_killed_holder_is_succeeded_at_once(path, holders, reaped):
    first = holders.start(path)
    assert first.hear() == "holds False"
    first.process.kill()
    os.waitid(os.P_PID, first.process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))  # otherwise it stays a zombie
    lease = Lease(path, log=never)
    assert not lease.judged_by_time
    assert names(path) == ["out.lease"]
    assert content(path)["pid"] == os.getpid()
    lease.release()
    assert names(path) == []


def test_process_id_of_the_dead_holder_given_to_another(path, holders):
    other = holders.start(path.with_name("other.lease"))
    assert other.hear() == "holds False"
    reused = {**content(path.with_name("other.lease")), "token": "0" * 32}
    path.write_text(json.dumps(reused))
    with pytest.raises(LeaseError):  # as it is, the holder lives
        Lease(path, log=never)
    path.write_text(json.dumps({**reused, "pid_start": str(int(reused["pid_start"]) - 1)}))
    Lease(path, log=never).release()


def test_holder_of_another_user_is_alive():
    """It may not be signalled, and where /proc hides it only time can tell; it must never pass for dead."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = Path(folder, "out.lease")
        mine = Lease(path)
        facts = {
            **content(path),
            "pid": 1,
            "pid_start": Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19],
        }
        mine.release()
        path.write_text(json.dumps(facts))
        path.chmod(0o644)
        child = os.fork()
        if not child:
            status = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                with contextlib.suppress(
                    PermissionError
                ):  # otherwise process 1 is our own, which tests nothing but passes
                    os.kill(1, 0)
                Lease(path, log=never)
            except LeaseError as e:
                status = 0 if "process 1 on" in str(e) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def test_release_only_once_it_is_ours(path):
    lease = Lease(path)
    foreign_lease(path)
    theirs = path.read_text()
    lease.release()
    assert path.read_text() == theirs
    assert names(path) == ["out.lease"]


def test_lost_to_somebody_who_removed_it(path):
    lease = Lease(path)
    path.unlink()
    with pytest.raises(
        LeaseError, match=r"out\.lease: our lease was removed; this process stops before it writes another row"
    ):
        lease.refresh()
    assert lease.lost
    with pytest.raises(LeaseError):
        lease.ensure()
    assert names(path) == []


def test_no_folder_for_it(tmp_path):
    with pytest.raises(OutputError, match="the folder does not exist") as error:
        Lease(tmp_path / "absent" / "out.lease")
    assert str(error.value).startswith(str(tmp_path / "absent" / "out.lease"))


# Across machines


def test_foreign_holder_that_beats_is_alive(path, holders):
    first = holders.start(path, elsewhere=True)
    assert first.hear() == "holds False"
    first.tell("refresh 1.2")
    said = []
    with pytest.raises(LeaseError, match=r"process \d+ on .* is writing this output; wait for it"):
        Lease(path, log=said.append, **TIMES)
    assert len(said) == 1
    assert f"{path} is held by process " in said[0] and "watching it for 0.8 s" in said[0]
    assert first.hear() == "done"
    assert first.ask("refresh 0") == "done"


def test_foreign_holder_whose_rows_alone_keep_it_alive(path, holders):
    """No heartbeat thread: `ensure` before each row beats by itself before the lease could go stale."""
    first = holders.start(path, elsewhere=True)
    assert first.hear() == "holds False"
    first.tell("ensure 1.5")
    with pytest.raises(LeaseError, match="is writing this output"):
        Lease(path, **TIMES)
    assert first.hear() == "done"


def test_foreign_holder_that_is_dead_is_succeeded_in_time(path, holders):
    first = holders.start(path, elsewhere=True)
    assert first.hear() == "holds False"
    first.kill()
    said = []
    began = time.monotonic()
    lease = Lease(path, log=said.append, **TIMES)
    assert time.monotonic() - began >= STALE_S
    assert len(said) == 1
    assert lease.judged_by_time
    assert content(path)["pid"] == os.getpid()
    assert names(path) == ["out.lease"]
    lease.release()


def test_foreign_holder_is_named(path):
    foreign_lease(path)
    said = []
    Lease(path, log=said.append, **TIMES).release()
    assert "process " in said[0] and " on node7, SLURM job 4711; watching" in said[0]


def test_newcomer_elsewhere_cannot_ask_our_kernel(path, holders):
    """A container sees the same boot of the same machine, but other processes: it judges by time."""
    ours = Lease(path, **TIMES)
    stop = threading.Event()

    def beat():
        while not stop.wait(REFRESH_S):
            ours.refresh()

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        newcomer = holders.start(path, elsewhere=True)
        assert newcomer.hear().startswith("says ")
        assert newcomer.hear().startswith(f"refused {path}: process {os.getpid()} on ")
    finally:
        stop.set()
        beating.join()
    ours.ensure()
    ours.release()


def test_foreign_lease_that_is_released_while_watched(path):
    foreign_lease(path)
    threading.Timer(0.3, path.unlink).start()
    lease = Lease(path, **TIMES)
    assert not lease.judged_by_time
    lease.release()


@pytest.mark.parametrize(
    "text", ["", "{", '{"token": ', "null", "[]", "\0" * 512, '{"token": "../../x"}', '{"pid": "x"}']
)
def test_torn_lease_is_judged_by_time(path, text):
    path.write_text(text)
    said = []
    began = time.monotonic()
    lease = Lease(path, log=said.append, refresh_s=REFRESH_S, stale_after_s=0.2)
    assert time.monotonic() - began >= 0.2
    assert len(said) == 1
    lease.refresh()
    lease.release()
    assert names(path) == []


@pytest.mark.parametrize("first_act", ["ensure 0", "refresh 0"])
def test_stopped_holder_wakes_up_after_it_was_succeeded(path, holders, first_act):
    first = holders.start(path)
    assert first.hear() == "holds False"
    first.process.send_signal(signal.SIGSTOP)
    second = holders.start(path, elsewhere=True)
    assert second.hear().startswith(f"says {path} is held by process {first.process.pid} on ")
    assert second.hear() == "holds True"
    second_lease = content(path)
    first.process.send_signal(signal.SIGCONT)
    answer = first.ask(first_act)
    assert answer.startswith(f"lost {path}: our lease was taken over by process {second_lease['pid']} on ")
    assert "stops before it writes another row" in answer
    assert "run the same command again" in answer
    assert first.ask("ensure 0").startswith("lost ")
    assert first.ask("release") == "done"
    assert content(path)["token"] == second_lease["token"]
    assert second.ask("refresh 0") == "done"
    assert second.ask("release") == "done"
    assert names(path) == []


def test_stopped_holder_that_wakes_up_in_time_keeps_it(path, holders):
    first = holders.start(path)
    assert first.hear() == "holds False"
    first.process.send_signal(signal.SIGSTOP)
    second = holders.start(path, elsewhere=True)
    assert second.hear().startswith("says ")
    first.process.send_signal(signal.SIGCONT)
    assert first.ask("ensure 0.3") == "done"
    assert second.hear().startswith("refused ")
    assert first.ask("ensure 0") == "done"


def test_a_lease_judged_by_time_is_remembered_until_it_is_released(path, holders):
    foreign_lease(path)
    second = holders.start(path)
    assert second.hear().startswith("says ")
    assert second.hear() == "holds True"
    second.kill()
    third = Lease(path, log=never)
    assert third.judged_by_time  # the first may still wake up, and the second may not have got round to anything
    third.release()
    fourth = Lease(path, log=never)
    assert not fourth.judged_by_time
    fourth.release()


# Killed on the way


def test_newcomers_killed_at_every_step_of_taking_over(path):
    """Each leaves the lease in a state from which the next goes on at once; also when two in a row die."""
    in_new_process(kill_newcomers, path)


def kill_newcomers(path: Path) -> None:
    steps = 0
    dead_lease(path)
    while die_at(steps, lambda: Lease(path, log=never)):
        steps += 1
        Lease(path, log=never).release()
        assert not path.exists()
        dead_lease(path)
    assert steps > 10
    pairs = random.Random(1).sample(list(itertools.product(range(steps), range(steps))), 40)
    for first, second in pairs:
        path.unlink(missing_ok=True)
        dead_lease(path)
        assert die_at(first, lambda: Lease(path, log=never))
        die_at(second, lambda: Lease(path, log=never))
        lease = Lease(path, log=never)
        lease.ensure()
        lease.release()
        assert not path.exists()


def test_holder_killed_at_every_step_of_its_life(path):
    for step in itertools.count():
        died = die_at(step, lambda: Lease(path).release())
        lease = Lease(path, refresh_s=REFRESH_S, stale_after_s=0.2)  # a release cut in two is judged by time
        lease.ensure()
        lease.release()
        assert not path.exists()
        if not died:
            break
    assert step > 10


# Racing

RACERS = 8


def race(path: Path, rounds: int, prepare, hold_s: tuple[float, float], **times) -> list[int]:
    """Lets eight processes try for the lease at the same moment, again and again.

    Each pauses at random before it opens, links, renames or removes a file, as on a slow network: every window between
    two steps is wide enough for the others to step in.

    Returns how many held it in each round, one after another. The file `inside` can be made by one process at a time:
    should two hold the lease together, the second fails.
    """
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(RACERS)
    held, together, spurious = (context.Array("i", rounds) for _ in range(3))

    def racer(number: int) -> None:
        moments = random.Random(number)
        inside = path.with_name("inside")

        def dawdle(event: str, arguments: tuple) -> None:
            if event in ("open", "os.link", "os.rename", "os.remove") and "lease" in str(arguments[0]):
                time.sleep(moments.choice((0, 0, 0.001, 0.005)))

        sys.addaudithook(dawdle)
        for turn in range(rounds):
            if number == 0:
                prepare(path)
            barrier.wait(60)
            try:
                lease = Lease(path, **times)
            except LeaseError:
                barrier.wait(60)
                continue
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                with together.get_lock():
                    together[turn] += 1
            else:
                with held.get_lock():
                    held[turn] += 1
                time.sleep(moments.uniform(*hold_s))
                try:
                    lease.ensure()
                    lease.refresh()
                except LeaseError:
                    with spurious.get_lock():
                        spurious[turn] += 1
                inside.unlink()
            lease.release()
            barrier.wait(60)

    processes = [context.Process(target=racer, args=(number,)) for number in range(RACERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * RACERS
    assert sum(together) == 0, "two held it at the same moment"
    assert sum(spurious) == 0, "a holder lost it to nobody"
    return list(held)


def test_race_for_a_free_lease(path):
    held = race(path, 10, lambda path: None, (0.0, 0.004))
    assert min(held) >= 1
    assert not path.exists()


def test_race_for_a_dead_lease(path):
    held = race(path, 25, dead_lease, (0.0, 0.004))
    assert min(held) >= 1
    assert not path.exists()


def test_race_for_a_lease_that_only_time_proves_dead(path):
    held = race(path, 3, foreign_lease, (0.3, 0.3), refresh_s=0.05, stale_after_s=1.0)
    assert min(held) >= 1
    assert not path.exists()


def test_whatever_stops_the_signs_of_life_is_raised(tmp_path, monkeypatch):
    """Before, errors other than those of the disk ended them in silence, and another process could take over."""
    monkeypatch.setattr("asrbatch.storage.lease.RECORD_REFRESH_S", 0)
    heartbeat = Heartbeat(tmp_path / "out.lease", print)
    heartbeat.lease.refresh_s = 0.01
    heartbeat.record = RunRecord(RunPaths(tmp_path / "out.jsonl"), None, {"no JSON": float("nan")}, 1)
    heartbeat._run()
    with pytest.raises(ValueError, match="not JSON compliant"):
        heartbeat.check()
    heartbeat.close()
