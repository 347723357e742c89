"""The decoder process: that it decodes as our own process would, and outlives crashes, hangs and its parent.

The hang is a real one: opening a file on which a lease is held.
"""

import errno
import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from audio_loading import decode, load_audio, request
from processes import hangs_in_pipe, hold_file, is_running, let_go, wait_until

from asrbatch.audio.decoder import Decoder
from asrbatch.errors import AsrbatchError, RowError

RATE = 16000
LONG_S = 60.0  # long enough that it is never reached unless something hangs


@pytest.fixture
def start():
    """Makes decoders and closes them."""
    made = []

    def call(timeout_s: float = LONG_S, **options) -> Decoder:
        made.append(Decoder(timeout_s=timeout_s, **options))
        return made[-1]

    yield call
    for decoder in made:
        decoder.close()


@pytest.fixture
def held(tmp_path) -> str:
    return str(hold_file(tmp_path / "hang.wav"))


def child_of(decoder: Decoder) -> int:
    return decoder._process.pid


def hung_child(decoder: Decoder, but: int = 0) -> int:
    """Its process id, or 0 while there is none."""
    process = decoder._process
    return process.pid if process and process.pid != but and hangs_in_pipe(process.pid) else 0


def kill_when_it_hangs(decoder: Decoder, signals: list[int]) -> threading.Thread:
    def run():
        killed = 0
        for number in signals:
            killed = wait_until(functools.partial(hung_child, decoder, killed))
            os.kill(killed, number)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def same(a, b) -> bool:
    return np.array_equal(a.samples, b.samples) and (a.sample_rate, a.flags) == (b.sample_rate, b.flags)


def test_decodes_like_our_own_process(start, speech_wav):
    decoder = start()
    for options in ({}, {"offset_s": 1.0, "duration_s": 9.0}, {"sample_rate": 8000, "channel": 0}):
        asked = request(str(speech_wav), **options)
        got = decode(decoder, asked)
        assert same(got, load_audio(asked))
        assert got.samples.dtype == np.float32 and got.samples.flags.writeable and got.read_s > 0
        data = speech_wav.read_bytes()
        assert same(decode(decoder, request(data, **options)), got)
    assert got.duration_s == pytest.approx(sf.info(speech_wav).duration, abs=1e-3)
    assert decode(decoder, request(str(speech_wav), offset_s=1.0, duration_s=9.0)).flags == ("duration_mismatch",)


def test_one_child_serves_many_rows(start, speech_wav):
    decoder = start()
    decode(decoder, request(str(speech_wav)))
    pid = child_of(decoder)
    for _ in range(20):
        decode(decoder, request(str(speech_wav)))
        with pytest.raises(RowError):
            decode(decoder, request(b"not audio"))
    assert child_of(decoder) == pid


def test_row_errors_arrive_as_they_were(start, tmp_path):
    decoder = start()
    nan = tmp_path / "nan.wav"
    sf.write(nan, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    for source, options in (
        (str(tmp_path / "no.wav"), {}), (b"", {}), (b"hello" * 100, {}), (str(nan), {}), (str(nan), {"channel": 3}),
        (str(nan), {"max_s": 0.5}), (str(tmp_path), {}),
    ):  # fmt: skip
        asked = request(source, **options)
        with pytest.raises(RowError) as here:
            load_audio(asked)
        with pytest.raises(RowError) as there:
            decode(decoder, asked)
        assert (there.value.kind, there.value.message) == (here.value.kind, here.value.message)


def test_an_unforeseen_exception_costs_one_row(start, speech_wav):
    decoder = start()
    with pytest.raises(RowError) as caught:
        decode(decoder, request(3.5))  # no path, no bytes: a defect of the caller
    assert caught.value.kind == "unreadable" and "TypeError" in caught.value.message
    pid = child_of(decoder)
    decode(decoder, request(str(speech_wav)))
    assert child_of(decoder) == pid


def test_a_hang_is_killed_twice_and_the_next_row_is_fine(start, speech_wav, held):
    decoder = start(timeout_s=1.0)
    children = []

    def watch_two_children():
        children.append(wait_until(lambda: hung_child(decoder)))
        children.append(wait_until(lambda: hung_child(decoder, but=children[0])))

    watcher = threading.Thread(target=watch_two_children)
    watcher.start()
    with pytest.raises(RowError) as caught:
        decode(decoder, request(held))
    watcher.join()
    assert (caught.value.kind, caught.value.message) == (
        "decode_timeout",
        "row 7: decoding took longer than 1 s, twice",
    )
    assert same(decode(decoder, request(str(speech_wav))), load_audio(request(str(speech_wav))))
    assert child_of(decoder) not in children
    wait_until(lambda: not any(map(is_running, children)))


def test_a_huge_timeout_is_fine(start, speech_wav):
    for timeout_s in (1e12, float("inf")):
        assert decode(start(timeout_s=timeout_s), request(str(speech_wav))).duration_s > 1


def test_no_descriptor_is_left_open(start, speech_wav):
    decoder = start()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        decode(decoder, request(str(speech_wav)))
        os.kill(child_of(decoder), signal.SIGKILL)
        decode(decoder, request(str(speech_wav)))
    decoder.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_crash_is_tried_twice_and_the_next_row_is_fine(start, speech_wav, held):
    decoder = start()
    killer = kill_when_it_hangs(decoder, [signal.SIGSEGV, signal.SIGSEGV])
    with pytest.raises(RowError) as caught:
        decode(decoder, request(held))
    killer.join()
    assert caught.value.kind == "decode_crash"
    text = "row 7: decoding ended its process (signal 11, Segmentation fault), twice"
    assert caught.value.message == text
    assert decode(decoder, request(str(speech_wav))).duration_s > 1


def test_a_crash_that_does_not_come_again_costs_nothing(start, speech_wav, held):
    decoder = start()
    decode(decoder, request(str(speech_wav)))
    os.kill(child_of(decoder), signal.SIGKILL)  # between two rows, as the OOM killer might
    assert decode(decoder, request(str(speech_wav))).duration_s > 1
    killer = kill_when_it_hangs(decoder, [signal.SIGKILL])

    def open_at_the_second_try():
        killer.join()
        wait_until(lambda: hung_child(decoder))
        let_go(Path(held))

    writer = threading.Thread(target=open_at_the_second_try)
    writer.start()
    with pytest.raises(RowError) as caught:
        decode(decoder, request(held))
    writer.join()
    assert caught.value.kind == "unreadable" and caught.value.message.startswith("row 7: no decoder can read it")


def test_a_crash_then_a_hang_tells_both(start, held):
    decoder = start(timeout_s=3.0)
    killer = kill_when_it_hangs(decoder, [signal.SIGABRT])
    with pytest.raises(RowError) as caught:
        decode(decoder, request(held))
    killer.join()
    assert caught.value.kind == "decode_timeout"
    assert caught.value.message.endswith("ended its process (signal 6, Aborted), then took longer than 3 s")


def test_ctrl_c_and_termination_leave_the_child_to_its_parent(start, speech_wav):
    decoder = start()
    decode(decoder, request(str(speech_wav)))
    pid = child_of(decoder)
    assert os.getsid(pid) == pid  # a terminal's Ctrl-C does not reach it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
        decode(decoder, request(str(speech_wav)))
    assert child_of(decoder) == pid


def test_close_ends_the_child(start, speech_wav, held):
    decoder = start()
    decode(decoder, request(str(speech_wav)))
    pid = child_of(decoder)
    decoder.close()
    decoder.close()
    wait_until(lambda: not is_running(pid))
    with pytest.raises(AsrbatchError, match="the decoder was closed"):
        decode(decoder, request(str(speech_wav)))

    abandoned = start()  # from another thread, while it hangs
    closer = threading.Thread(target=lambda: wait_until(lambda: hung_child(abandoned)) and abandoned.close())
    closer.start()
    with pytest.raises(AsrbatchError, match="the decoder was closed"):
        decode(abandoned, request(held))
    closer.join()


PARENT = """
import sys
from asrbatch.audio.clip import Clip
from asrbatch.audio.decoder import Decoder, DecodeRequest
decoder = Decoder(timeout_s=600)
list(decoder.stream(DecodeRequest(sys.argv[1], Clip("first"), 16000)))
print(decoder._process.pid, flush=True)
if len(sys.argv) > 2:
    list(decoder.stream(DecodeRequest(sys.argv[2], Clip("hangs"), 16000)))
sys.stdin.read()
"""


@pytest.mark.parametrize("hung", [False, True])
@pytest.mark.parametrize("forked", [False, True])
def test_the_child_ends_when_its_parent_is_killed(speech_wav, held, hung, forked):
    """Also when the parent had forked a process that holds copies of its pipes, and lives on."""
    command = [sys.executable, "-c", PARENT, str(speech_wav), *([held] if hung else [])]
    if forked:
        command[2] = PARENT.replace(
            "print(", "import os; os.fork() or (__import__('time').sleep(30), os._exit(0))\nprint("
        )
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        child = int(parent.stdout.readline())
        if hung:
            wait_until(lambda: hangs_in_pipe(child))
        assert is_running(child)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(child), most_s=20)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def test_parallel_decoders_give_what_one_gives(start, speech_wav, tmp_path):
    x, _ = sf.read(speech_wav, dtype="float32")
    files = []
    for i in range(12):
        files.append(str(tmp_path / f"{i}.flac"))
        sf.write(files[-1], np.roll(x, 997 * i), (8000, 16000, 44100)[i % 3])
    expected = [load_audio(request(path)) for path in files]
    got: dict[str, object] = {}

    def work(mine: list[str]):
        decoder = start()
        for path in mine * 3:
            got[path] = decode(decoder, request(path))

    threads = [threading.Thread(target=work, args=(files[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(got[path], audio) for path, audio in zip(files, expected, strict=True))


def test_the_child_imports_only_what_it_needs():
    imports = "import sys, asrbatch.audio.decoder, asrbatch.audio.load"
    program = f"{imports}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"av", "soundfile", "soxr", "numpy"} <= set(loaded)
    assert not {"torch", "vllm", "typer", "rich", "datasets", "pandas", "scipy"} & set(loaded)


def test_the_parent_loads_no_decoder():
    program = "import sys, asrbatch.audio.decoder; print(*sorted({'av', 'soundfile', 'soxr'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""
    )


def test_what_the_child_prints_goes_to_the_log(start, held, tmp_path, capfd):
    with open(tmp_path / "log", "w") as log:
        decoder = start(log_fd=log.fileno())
        killer = kill_when_it_hangs(decoder, [signal.SIGSEGV, signal.SIGSEGV])
        with pytest.raises(RowError):
            decode(decoder, request(held))
        killer.join()
    assert "Segmentation fault" in (tmp_path / "log").read_text()  # faulthandler's traceback
    assert capfd.readouterr() == ("", "")


def test_a_file_in_the_working_directory_does_not_replace_a_library(start, speech_wav, tmp_path, monkeypatch):
    for name in ("soundfile.py", "av.py", "asrbatch.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')\n")
    monkeypatch.chdir(tmp_path)
    assert decode(start(), request(str(speech_wav))).duration_s > 1


def test_a_child_that_cannot_start_is_not_the_rows_fault(start, speech_wav, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AsrbatchError, match=r"the decoder process ended while it started \(exit status 1\)"):
        decode(start(), request(str(speech_wav)))


@pytest.mark.parametrize(("kills", "outcome"), [(1, "decoded"), (2, "decoded"), (3, "decoded"), (6, "decode_crash")])
def test_a_child_killed_while_it_starts_is_started_again(start, speech_wav, monkeypatch, kills, outcome):
    """As the OOM killer does; six times, and the row is given up, not the run."""
    killed, new_child = [], Decoder._new_child

    def killing(self):
        child = new_child(self)
        if len(killed) < kills:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(Decoder, "_new_child", killing)
    decoder = start()
    if outcome == "decoded":
        assert decode(decoder, request(str(speech_wav))).duration_s > 1
    else:
        with pytest.raises(RowError, match=r"ended while it started \(signal 9, Killed\), 3 times, twice") as caught:
            decode(decoder, request(str(speech_wav)))
        assert caught.value.kind == outcome
    assert len(killed) == kills
    assert decode(decoder, request(str(speech_wav))).duration_s > 1, "and the next row is fine"


@pytest.mark.parametrize(("refusals", "outcome"), [(1, "decoded"), (2, "decoded"), (6, "decode_crash")])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_a_process_that_the_system_refuses_is_asked_for_again(
    start, speech_wav, monkeypatch, number, refusals, outcome
):
    """Before, OSError ended the run."""
    monkeypatch.setattr("asrbatch.audio.decoder.START_AGAIN_S", 0.0)
    refused, popen = [], subprocess.Popen

    def refusing(*args, **kwargs):
        if len(refused) < refusals:
            refused.append(args)
            raise OSError(number, os.strerror(number))
        return popen(*args, **kwargs)

    monkeypatch.setattr("asrbatch.child_process.subprocess.Popen", refusing)
    decoder = start()
    if outcome == "decoded":
        assert decode(decoder, request(str(speech_wav))).duration_s > 1
    else:
        with pytest.raises(RowError, match=rf"could not start its process: {os.strerror(number)}, 3 times") as caught:
            decode(decoder, request(str(speech_wav)))
        assert caught.value.kind == outcome
    assert len(refused) == refusals
    assert decode(decoder, request(str(speech_wav))).duration_s > 1, "and the next row is fine"


def test_a_process_that_cannot_be_started_is_the_runs_error(start, speech_wav, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/gone")
    with pytest.raises(AsrbatchError, match="decoding could not start its process: No such file or directory"):
        decode(start(), request(str(speech_wav)))


def test_a_child_killed_ahead_of_its_first_file_stops_nothing(start, speech_wav, monkeypatch):
    monkeypatch.setattr("asrbatch.audio.decoder.START_TRIES", 1)
    decoder, new_child = start(), Decoder._new_child

    def killing(self):
        child = new_child(self)
        os.kill(child.pid, signal.SIGKILL)
        monkeypatch.undo()
        return child

    monkeypatch.setattr(Decoder, "_new_child", killing)
    decoder.start()
    assert decode(decoder, request(str(speech_wav))).duration_s > 1
