"""Makes docs/terminal.svg: a real run of the demo in a terminal, drawn by rich from what tmux saw.

apt-get install tmux && .venv/bin/python scripts/terminal_picture.py
"""

import io
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

REPO = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 104, 34
SESSION = "asrbatch-picture"


def main() -> None:
    model, manifest = (_printed(script, what) for script, what in (("get_model", "tiny.en"), ("get_speech", "demo")))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "whisper-tiny.en").symlink_to(model)
        Path(folder, "manifest.jsonl").symlink_to(manifest)
        screen = _seen(folder, "asrbatch transcribe manifest.jsonl --model ./whisper-tiny.en -o run/out.jsonl")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen), end="")
    drawn = console.export_svg(title="asrbatch")
    # A page that shows it fetches nothing: rich would have it load a font.
    (REPO / "docs/terminal.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))


def _printed(script: str, what: str) -> str:
    command = [str(REPO / ".venv/bin/python"), str(REPO / f"scripts/{script}.py"), what]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _seen(folder: str, command: str) -> str:
    """The screen, with its colours, once the command has ended."""
    shell = (
        f"cd {shlex.quote(folder)}; PATH={shlex.quote(str(REPO / '.venv/bin'))}:$PATH PS1='$ ' bash --norc --noprofile"
    )
    _tmux("new-session", "-d", "-s", SESSION, "-x", str(WIDTH), "-y", str(HEIGHT), shell)
    try:
        time.sleep(1.0)  # for the prompt
        _tmux("send-keys", "-t", SESSION, command, "Enter")
        done = Path(folder, "run/out.done.json")
        while not done.exists():
            time.sleep(0.2)
        time.sleep(3.0)  # for the summary
        return _tmux("capture-pane", "-e", "-p", "-t", SESSION).rstrip()
    finally:
        _tmux("kill-session", "-t", SESSION)


def _tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
