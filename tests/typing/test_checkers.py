"""What type checkers say of programs: right ones pass, and each wrong line is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "programs"
PROGRAMS = sorted(FOLDER.glob("*.py"))
Lines = dict[str, dict[int, str]]  # program, line, what is said of it


@pytest.fixture(scope="module")
def found_by_pyright() -> Lines:
    """By basedpyright, which is pyright as PyPI has it: with what it runs on. In the mode that is pyright's own."""
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project"]
    done = subprocess.run([*command, str(FOLDER)], capture_output=True, text=True, check=False)
    found: Lines = {}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each["severity"] == "error":
            lines = found.setdefault(Path(each["file"]).name, {})
            lines[each["range"]["start"]["line"] + 1] = each["message"]
    return found


@pytest.fixture(scope="module")
def found_by_mypy() -> Lines:
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", "--hide-error-context"]
    output, errors, _ = mypy.api.run([*config, *map(str, PROGRAMS)])
    assert not errors
    found: Lines = {}
    for path, line, message in re.findall(r"^(.*?):(\d+): error: (.*)$", output, re.MULTILINE):
        found.setdefault(Path(path).name, {})[int(line)] = message
    return found


def marked(program: Path) -> set[int]:
    """The lines with a comment that says that they are wrong."""
    return {at for at, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# E")}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_refuses_the_lines_that_are_wrong_and_no_others(
    checker: str, program: Path, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(f"found_by_{checker}").get(program.name, {})
    wrong = marked(program)
    assert wrong
    assert {line: found[line] for line in found.keys() - wrong} == {}, "refused, but right"
    assert wrong - found.keys() == set(), "wrong, but not refused"
