"""Where the processes of a cluster find modules: where the driver does, and nowhere else."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {
    "init": """
        import os
        import aioray as ray
        import beside

        @ray.remote
        def seen():
            return beside.__file__, os.environ.get("PYTHONPATH")

        with ray.init(num_cpus=1):
            print(ray.get(seen.remote()))
    """,
    "connect": """
        import asyncio
        import os
        import aioray
        import beside

        @aioray.remote
        def seen():
            return beside.__file__, os.environ.get("PYTHONPATH")

        async def main():
            async with aioray.connect(num_cpus=1):
                print(await seen.remote())

        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("face", PROGRAMS)
def test_a_program_runs_wherever_it_is_started_from_and_finds_its_own_modules(
    face: str, tmp_path: pathlib.Path
) -> None:
    """Even where a directory has modules called like those that a node imports."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "beside.py").write_text("")
    (home / "program.py").write_text(textwrap.dedent(PROGRAMS[face]))
    for name in ("json", "msgspec", "aioray_node", "numpy", "cloudpickle"):
        (elsewhere / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name}')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, home / "program.py"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The environment is the user's: what a task starts is none of our business.
    assert done.stdout == f"({str(home / 'beside.py')!r}, None)\n"
