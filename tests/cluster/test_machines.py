"""Nodes with addresses of their own, as on several machines."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cluster.machines import Machine, Network, why_not
from tests.gcs.test_app import certificates

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def can_be_had(nothing_left: None) -> None:
    if reason := why_not():
        pytest.skip(reason)


BEGIN = """
import os, time
import numpy as np
import aioray

aioray.init(address="auto", _temp_dir=os.environ["AIORAY_TEST_TEMP_DIR"])
THERE = {"resources": {"there": 0.1}}
LARGE = 3_000_000

def where():
    return aioray.get_runtime_context().get_node_id()

class Counter:
    def __init__(self, start):
        self.count = int(start.sum())
    def add(self, amount):
        self.count += amount
        return self.count
    def twice(self, array):
        return 2 * array
"""


@pytest.fixture
def two(can_be_had: None) -> Iterator[tuple[Machine, Machine]]:
    """The first has the head, the second the resource `there`."""
    with Network(2) as network:
        here, there = network.machines
        address = here.start_head("--num-cpus=1")
        there.join(address, "--num-cpus=2", '--resources={"there": 1}', environ={"AIORAY_AUTH_TOKEN": here.token()})
        yield here, there


def test_tasks_actors_and_large_values_cross_from_machine_to_machine(two: tuple[Machine, Machine]) -> None:
    """
    1. a task and an actor run there, called over TCP
    2. large arguments go there, a large result (of a speculative call) comes here, twice though it is brought once
    3. a compiled graph has its actor there, to and from which large values go
    """
    here, _ = two
    told = here.run(
        BEGIN
        + """
assert aioray.get(aioray.remote(where).options(**THERE).remote()) != where()
ones = np.ones(LARGE)
actor = aioray.remote(Counter).options(**THERE).remote(ones)
assert aioray.get([actor.add.remote(1) for _ in range(100)])[-1] == LARGE + 100
made = aioray.remote(lambda array: array + 1).options(speculative=True, **THERE).remote(aioray.put(ones))
assert aioray.get(made).sum() == 2 * LARGE
assert aioray.get(aioray.remote(lambda array: array.sum()).options(**THERE).remote(made)) == 2 * LARGE
with aioray.dag.InputNode() as given:
    graph = actor.twice.bind(given).experimental_compile()
some = ones[:LARGE // 10]
assert aioray.get(graph.execute(some)).sum() == 2 * some.sum()
graph.teardown()
aioray.shutdown()
print("good")
"""
    )
    assert told == "good\n"


def test_what_ran_on_a_machine_that_is_cut_off_goes_on_elsewhere(can_be_had: None) -> None:
    """
    1. an actor, a task and a large value are on the second of three machines, and its link is cut
    2. the actor and the task go on on the third; the value is lost, and says so
    """
    quick = {"AIORAY_heartbeat_timeout_ms": "1000"}
    with Network(3) as network:
        here, second, third = network.machines
        address = here.start_head("--num-cpus=1", environ=quick)
        known = {"AIORAY_AUTH_TOKEN": here.token(), **quick}
        second.join(address, '--resources={"there": 1}', "--num-cpus=2", environ=known)
        text = (
            BEGIN
            + """
actor = aioray.remote(Counter).options(max_restarts=1, max_task_retries=-1, **THERE).remote(np.ones(5))
assert aioray.get(actor.add.remote(1)) == 6
@aioray.remote(resources={"there": 0.1})
def stay(begun):
    if os.path.exists(begun):
        return "done"
    open(begun, "w").close()
    time.sleep(3600)

made = aioray.remote(lambda: np.ones(LARGE)).options(**THERE).remote()
assert aioray.get(aioray.remote(lambda array: array.sum()).options(**THERE).remote(made)) == LARGE
begun = os.path.join(os.environ["AIORAY_TEST_TEMP_DIR"], "begun")
staying = stay.remote(begun)
while not os.path.exists(begun):
    time.sleep(0.01)
print("cut", flush=True)
input()
print(aioray.get(actor.add.remote(1), timeout=20), flush=True)
print(aioray.get(staying, timeout=20), flush=True)
try:
    aioray.get(made, timeout=20)
except aioray.exceptions.ObjectLostError as exc:
    print("lost", flush=True)
print(len([node for node in aioray.nodes() if node["Alive"]]), flush=True)
aioray.shutdown()
"""
        )
        with here.program(text, quick) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "cut\n", process.communicate()
            third.join(address, '--resources={"there": 1}', "--num-cpus=2", environ=known)
            network.cut(second)
            out, err = process.communicate("\n", timeout=60)
        assert out.split() == ["6", "done", "lost", "2"], err


FAR = """
import asyncio, os
import numpy as np
import aioray

LARGE = 500_000

class Counter:
    def __init__(self, start):
        self.count = int(start.sum())
    def add(self, amount):
        self.count += amount
        return self.count
    def twice(self, array):
        return 2 * array

def use():
    ones = aioray.put(np.ones(LARGE))
    yield ones
    there = {"resources": {"there": 0.1}}
    made = aioray.remote(lambda array: array + 1).options(speculative=True, **there).remote(ones)
    yield made
    actor = aioray.remote(Counter).options(**there).remote(made)
    yield actor.add.remote(1)
    yield aioray.remote(lambda array: [aioray.put(array), array.sum()]).remote(made)

def check(ones, made, count, inside, total, again):
    assert ones.sum() == LARGE and made.sum() == again.sum() == 2 * LARGE and not made.flags.writeable
    assert (count, total) == (2 * LARGE + 1, 2 * LARGE)

with aioray.init(address=os.environ["HEAD"]):
    refs = list(use())
    ones, made, count, (inside, total) = aioray.get(refs)
    check(ones, made, count, inside, total, aioray.get(inside))
    actor = aioray.remote(Counter).options(resources={"there": 0.1}).remote(ones)
    with aioray.dag.InputNode() as given:
        graph = actor.twice.bind(given).experimental_compile()
    assert aioray.get(graph.execute(ones)).sum() == 2 * LARGE
    graph.teardown()
    del actor, graph, given
    try:
        aioray.put(np.ones(100 << 20))
    except aioray.exceptions.ObjectStoreFullError:
        print("full", flush=True)

async def main():
    async with aioray.connect(address=os.environ["HEAD"]):
        ones, made, count, (inside, total) = await asyncio.gather(*use())
        check(ones, made, count, inside, total, await inside)

asyncio.run(main())
print("good")
"""

# Its files are sent, of which the machines of the cluster could see none.
FAR_FILES = """
import asyncio, os
import aioray

def found(name):
    return __import__(name).VALUE
found = aioray.remote(found)
there = {"resources": {"there": 0.1}}
os.chdir(os.environ["FILES"])
with open("one.py", "w") as one, open("two.py", "w") as two:
    print("VALUE = 1", file=one)
    print("VALUE = 2", file=two)

async def main():
    async with aioray.connect(address=os.environ["HEAD"], runtime_env={"working_dir": "."}):
        both = found.options(runtime_env={"py_modules": ["two.py"]}, **there)
        print(await found.options(**there).remote("one"), await both.remote("two"), await both.remote("one"))

with aioray.init(address=os.environ["HEAD"], runtime_env={"py_modules": ["one.py"]}):
    os.unlink("one.py")
    print(aioray.get([found.remote("one"), found.options(**there).remote("one")]))
with open("one.py", "w") as one:
    print("VALUE = 3", file=one)
asyncio.run(main())
"""


# The end of a program is heard some time after it. A worker may have a little left to fill.
LITTLE_IS_USED = """
import aioray, os, time

aioray.init(address="auto", _temp_dir=os.environ["AIORAY_TEST_TEMP_DIR"])
total, deadline = aioray.cluster_resources()["object_store_memory"], time.monotonic() + 10
while total - aioray.available_resources()["object_store_memory"] > 1 << 20 and time.monotonic() < deadline:
    time.sleep(0.01)
print("yes" if time.monotonic() < deadline else "no")
"""


def test_a_program_on_a_machine_without_a_node_joins_over_the_network(can_be_had: None, tmp_path: pathlib.Path) -> None:
    """
    1. without the token it is told what is missing, with a wrong one that it is wrong
    2. in both faces it puts, gets, and calls, speculatively, too, and a compiled graph gives it a large output; what it
       let go of is free again
    3. in both faces its files are there for its tasks
    """
    with Network(3) as network:
        here, there, without = network.machines
        address = here.start_head("--num-cpus=1")
        token = here.token()
        there.join(address, "--num-cpus=1", '--resources={"there": 1}', environ={"AIORAY_AUTH_TOKEN": token})
        join = f"import aioray, os; aioray.init(address={address!r}, _temp_dir=os.environ['AIORAY_TEST_TEMP_DIR'])"
        with without.program(join) as process:
            assert "set AIORAY_AUTH_TOKEN" in process.communicate()[1]
        with without.program(join, {"AIORAY_AUTH_TOKEN": "wrong"}) as process:
            assert "AuthenticationError" in process.communicate()[1]
        environ = {"AIORAY_AUTH_TOKEN": token, "HEAD": address}
        assert without.run(FAR, environ) == "full\ngood\n"
        assert without.run(FAR_FILES, {**environ, "FILES": str(tmp_path)}) == "[1, 1]\n3 2 3\n"
        assert here.run(LITTLE_IS_USED) == "yes\n"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make certificates with")
def test_with_certificates_all_that_crosses_the_network_is_encrypted(can_be_had: None, tmp_path: pathlib.Path) -> None:
    """
    1. a node joins, a program on a third machine calls and brings large values
    2. one without certificates is refused
    """
    with Network(3) as network:
        here, there, without = network.machines
        certified = certificates(tmp_path)
        address = here.start_head("--num-cpus=1", environ=certified)
        known = {"AIORAY_AUTH_TOKEN": here.token(), "HEAD": address}
        there.join(address, "--num-cpus=1", '--resources={"there": 1}', environ={**known, **certified})
        assert without.run(FAR, {**known, **certified}) == "full\ngood\n"
        with without.program(FAR, known) as process:
            assert "does not answer" in process.communicate()[1]
        with without.program(KNOCK, {"HEAD": address}) as process:
            assert process.communicate()[0] == "refused\n"


KNOCK = """
import os, socket
host, port = os.environ["HEAD"].split(":")
with socket.create_connection((host, int(port))) as sock:
    sock.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    try:
        print("answered" if sock.recv(100).startswith(b"HTTP") else "refused")
    except ConnectionResetError:
        print("refused")
"""
