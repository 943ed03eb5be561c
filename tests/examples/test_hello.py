"""The two smallest programs, each run as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(script: str) -> list[str]:
    done = subprocess.run([sys.executable, EXAMPLES / script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_hello_async_gathers_tasks_and_talks_to_an_actor() -> None:
    assert output_of("hello_async.py") == ["squares: [0, 1, 4, 9, 16]", "total: 30"]


def test_hello_sync_waits_gets_and_passes_refs_to_an_actor() -> None:
    assert output_of("hello_sync.py") == ["ready: 2 waiting: 3", "squares: [0, 1, 4, 9, 16]", "total: 30"]
