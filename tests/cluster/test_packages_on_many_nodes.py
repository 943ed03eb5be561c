"""Files of a program on nodes that can see its directories, and on nodes that cannot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import aioray
from aioray import current
from tests.cluster.hand_fed import HandFedCluster
from tests.cluster.machines import Network, why_not

if TYPE_CHECKING:
    import pathlib

THERE = {"there": 0.1}


def read() -> tuple[str, str]:
    """What is in the working directory, and where that is."""
    with open("data.txt") as file:
        return file.read(), os.getcwd()


def read_on_the_other_node(directory: str) -> tuple[str, str]:
    found: tuple[str, str] = aioray.get(aioray.remote(read).options(runtime_env={"working_dir": directory}).remote())
    return found


async def test_nodes_of_one_machine_find_the_copy_that_was_made_and_store_nothing(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    """
    1. a working directory of the driver is that of a task on the other node
    2. one that a task there names is that of a task here
    """
    (tmp_path / "data.txt").write_text("one")
    async with HandFedCluster({"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1.0}}) as cluster:
        here, there = (node.node_id for node in cluster.nodes)
        task = aioray.remote(read).options(runtime_env={"working_dir": str(tmp_path)}, resources=THERE)
        text, cwd = await task.remote()
        assert text == "one"
        assert here in cwd
        (tmp_path / "data.txt").write_text("two")
        outer = aioray.remote(read_on_the_other_node).options(resources={"there": 1}, num_cpus=1)
        text, cwd = await outer.remote(str(tmp_path))
        assert text == "two"
        assert there in cwd
        assert current.get().ask("kv_keys", namespace="aioray.packages") == []


PROGRAM = """
import os, shutil, sys, time
import aioray
import aioray.util.state
from aioray import current

def init(**options):
    aioray.init(address="auto", _temp_dir=os.environ["AIORAY_TEST_TEMP_DIR"], namespace="n", **options)

def stored():
    keys = current.get().ask("kv_keys", namespace="aioray.packages")
    return sorted({key.partition(b"-")[0].decode() for key in keys})

def until(is_true):
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline, stored()
        time.sleep(0.01)
"""

FIRST = (
    PROGRAM
    + """
def found():
    import brought, part
    return brought.value(), part.VALUE

class Finder:
    def found(self):
        listed = {*os.listdir(".")} - {"__pycache__"}
        return found(), sorted(listed), aioray.get_runtime_context().get_node_id() in os.getcwd()

def named_there(directory):
    os.mkdir(directory)
    with open(directory + "/named.py", "w") as file:
        print("VALUE = 7", file=file)
    env = {"py_modules": [directory + "/named.py"]}
    read = aioray.remote(lambda: __import__("named").VALUE)
    return aioray.get(read.options(runtime_env=env, resources={"here": 0.1}).remote())

source = os.environ["SOURCE"]
init(runtime_env={"working_dir": source + "/dir", "py_modules": [source + "/part"], "excludes": ["*.bin"]})
shutil.rmtree(source)
task = aioray.remote(num_cpus=0.1)(found)
assert aioray.get(task.remote()) == ("data", 5)
assert stored() == []
print("join", flush=True)
input()
there = {"resources": {"there": 0.1}}
assert aioray.get([task.options(**there).remote() for _ in range(10)]) == [("data", 5)] * 10
actor = aioray.remote(Finder).options(name="finder", lifetime="detached", **there).remote()
assert aioray.get(actor.found.remote()) == (("data", 5), ["brought.py", "data.txt"], True)
assert aioray.get(aioray.remote(named_there).options(**there).remote(source)) == 7
assert stored() == ["dir", "mod"]
aioray.shutdown()
"""
)

SECOND = (
    PROGRAM
    + """
init()
until(lambda: all(job.status == "FINISHED" for job in aioray.util.state.list_jobs() if job.pid != os.getpid()))
assert stored() == ["dir", "mod"]
aioray.kill(aioray.get_actor("finder"))
until(lambda: stored() == [])
aioray.shutdown()
"""
)


def test_files_of_a_program_reach_machines_that_cannot_see_them_and_go_with_who_uses_them(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    """
    1. a program names directories, and removes them: its tasks have what was there, and nothing is stored
    2. another machine joins: ten tasks and a detached actor have it there, in the session of that node
    3. what a task names there is found by one on the first machine
    4. the program ends: the store keeps the packages for the actor, until that ends, too
    """
    if reason := why_not():
        pytest.skip(reason)
    for name, text in {
        "dir/brought.py": "def value():\n    return open('data.txt').read()\n",
        "dir/data.txt": "data",
        "dir/data.bin": "x",
        "part/__init__.py": "VALUE = 5\n",
    }.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    with Network(2) as network:
        here, there = network.machines
        here.hide(there)
        there.hide(here)
        address = here.start_head("--num-cpus=1", '--resources={"here": 1}')
        with here.program(FIRST, {"SOURCE": str(tmp_path / "source")}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "join\n", process.communicate()
            known = {"AIORAY_AUTH_TOKEN": here.token()}
            there.join(address, "--num-cpus=1", '--resources={"there": 1}', environ=known)
            _, err = process.communicate("\n", timeout=60)
            assert process.returncode == 0, err
        here.run(SECOND)
