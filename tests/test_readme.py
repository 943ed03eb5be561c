"""What README.md shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
EXPECTED = [
    "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n285\n",
    "[50000000.0, ",
    "12\n",
    "('fast', 'one', [0]",
    "['us', 'us']\n",
    "True\n",
    "3.0\n8.0\n[True, True, False]\n",
    "failed\nwork ZeroDivisionError ",
    """['aioray_pages_total{outcome="gone"} 1.0', 'aioray_pages_total{outcome="ok"} 3.0']""",
    "fetched\nanswer its time was up",
    "[0, 30, 60, 90, 120]\n",
    "5\n10\n",
]


def test_readme_shows_an_async_program_and_sync_ones() -> None:
    assert len(PROGRAMS) == len(EXPECTED) == 12


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("program", "expected"),
    list(zip(PROGRAMS, EXPECTED, strict=True)),
    ids=[
        "async",
        "sync",
        "typed",
        "environment",
        "where",
        "groups",
        "nodes",
        "events",
        "metrics",
        "failing",
        "compiled",
        "actors",
    ],
)
def test_a_program_of_the_readme_runs(program: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout.replace("np.float64(", "").replace(")", "")


def test_every_file_that_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    names = set(re.findall(r"\b([a-z_]+\.py)\b", text))
    there = {path.name for folder in ("aioray", "nodes", "tests", "bench") for path in (ROOT / folder).rglob("*.py")}
    assert names - there == set()
