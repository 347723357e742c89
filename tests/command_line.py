"""The command in the tests' own process: no start of Python, which costs more than most commands do themselves.

For tests of what a command says, writes and ends with. Those of its process (signals, standard input, lost streams,
what is imported, a terminal) start it by `cli` or `start_cli` of conftest.py, and so does one test of each command.
"""

import io
import logging
import os
import signal
import subprocess
import sys
import warnings

import huggingface_hub.constants
import pytest

from asrbatch.cli import app
from asrbatch.cli.process import stop_signals


@pytest.fixture
def cli_here(tmp_path, monkeypatch):
    """As `cli`: runs the command in an empty folder; returns what is known of a finished process.

    `cwd` None: where the tests are."""

    def call(*arguments, cwd=tmp_path, env=None) -> subprocess.CompletedProcess:
        words = ["asrbatch", *map(str, arguments)]
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
        handlers = {number: signal.getsignal(number) for number in stop_signals()}
        as_it_was, as_records_were = dict(os.environ), logging.getLogRecordFactory()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # `main` wraps it
            # A command that looks at a model takes its process off line; that of the tests has others to serve.
            patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
            patch.setattr(app, "_leave", lambda code: None)  # it would end the tests
            if cwd is not None:
                patch.chdir(cwd)
            try:
                os.environ |= env or {}
                code = app.main()
            finally:
                os.environ.clear()
                os.environ |= as_it_was
                logging.setLogRecordFactory(as_records_were)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        said = []
        for stream in streams:
            stream.flush()
            said.append(stream.buffer.getvalue().decode())
        return subprocess.CompletedProcess(words, code, *said)

    return call
