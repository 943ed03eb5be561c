"""The whole of it on a real cluster, over a tiny tree: through the app in this loop, and as the two commands."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from examples.code_search.cluster import EmptyCorpusError
from examples.code_search.service import INDEX, Settings, make_app

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "examples.code_search")

TREE: dict[str, str | bytes] = {
    "queues.py": '''
        """Priority queues."""

        def push_item(heap, item):
            """Put an item onto the heap."""

        class PriorityQueue:
            def pop_smallest(self):
                return heap_pop(self.items)
    ''',
    "net/http_headers.py": '''
        def parse_headers(lines):
            """Cut header lines into names and values: <b>bold</b> & brave."""
    ''',
    "net/old.py": "print 'a python two file about gophers'\n",
    "net/latin.py": b"name = '\xe9'\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, content in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.replace("\n        ", "\n").encode())
    return tmp_path / "tree"


async def get(client: TestClient[Any, Any], path: str, **params: str) -> tuple[int, Any]:
    async with client.get(path, params=params) as response:
        return response.status, await response.json()


async def test_a_tree_is_indexed_served_and_queried_inside_one_aiohttp_app(tree: Path) -> None:
    """
    1. the app starts: a cluster in this loop, every file parsed, progress told
    2. /search finds definitions by parts of their names and words of their text, in both shards
    3. what could not be parsed is searchable in chunks, or at least reported
    4. bad input is answered 400, with what is allowed
    5. /stats tells the figures, and that the shards share the matrix
    6. the page shows hits, escaped
    """
    told: list[tuple[int, int]] = []
    settings = Settings(tree, shards=2, num_cpus=2, progress=lambda done, total: told.append((done, total)))
    async with TestClient(TestServer(make_app(settings))) as client:
        assert told[0] == (0, 4)
        assert told[-1] == (4, 4)

        status, answer = await get(client, "/search", q="heap push", k="2")
        assert status == 200
        assert answer["query"] == "heap push"
        (first, *_) = answer["hits"]
        assert (first["file"], first["line"], first["name"], first["kind"]) == ("queues.py", 4, "push_item", "function")
        assert first["snippet"].startswith("def push_item(heap, item):")
        assert 0 < first["score"] <= 1
        assert len(answer["hits"]) == 2
        (header, *_) = (await get(client, "/search", q="header"))[1]["hits"]
        assert (header["file"], header["line"]) == ("net/http_headers.py", 2)
        assert (await get(client, "/search", q="nosuchword"))[1]["hits"] == []

        (chunk,) = (await get(client, "/search", q="gopher"))[1]["hits"]
        assert (chunk["file"], chunk["kind"]) == ("net/old.py", "chunk")

        for params in ({}, {"q": ""}, {"q": "heap", "k": "0"}, {"q": "heap", "k": "many"}):
            status, answer = await get(client, "/search", **params)
            assert status == 400
            assert answer["error"]

        status, stats = await get(client, "/stats")
        assert status == 200
        assert stats["files"] == 4
        assert stats["problems"]["count"] == 2
        assert {problem["file"] for problem in stats["problems"]["first"]} == {"net/old.py", "net/latin.py"}
        assert list(stats["seconds"]) == ["start cluster", "find files", "parse", "merge", "share"]
        pids = {shard["pid"] for shard in stats["shards"]}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert sum(shard["documents"] for shard in stats["shards"]) == stats["documents"]
        assert sum(shard["copied_bytes"] for shard in stats["shards"]) == 4 * (stats["documents"] + 2)  # row offsets

        async with client.get("/", params={"q": "header"}) as response:
            page = await response.text()
        assert response.status == 200
        assert "net/http_headers.py:2" in page
        assert "&lt;b&gt;bold&lt;/b&gt; &amp; brave" in page
        async with client.get("/", params={"q": "<i>"}) as response:
            assert response.status == 400
            assert "<i>" not in await response.text()


async def test_many_queries_at_once_get_each_their_own_answer(tree: Path) -> None:
    app = make_app(Settings(tree, shards=2, num_cpus=2))
    async with TestClient(TestServer(app)):
        words = ["push_item", "parse_headers", "pop_smallest", "gophers"] * 25
        answers = await asyncio.gather(*(app[INDEX].search(word, 1) for word in words))
        names = [hits[0].name for hits in answers]
        assert names == ["push_item", "parse_headers", "PriorityQueue.pop_smallest", "net.old:1-2"] * 25


async def test_a_large_matrix_is_mapped_by_every_shard_from_the_same_shared_memory(tmp_path: Path) -> None:
    for part in range(4):
        functions = (
            f"def f{part}_{number}():\n    return {' + '.join(f'w{number * word % 9973}' for word in range(100))}\n"
            for number in range(200)
        )
        (tmp_path / f"part{part}.py").write_text("".join(functions))
    app = make_app(Settings(tmp_path, shards=2, num_cpus=2))
    async with TestClient(TestServer(app)):
        assert app[INDEX].figures.matrix_bytes > 400_000
        shards = await app[INDEX].shard_figures()
        assert {Path(shard.mapped_from).parent for shard in shards} == {Path("/dev/shm")}
        assert len({shard.mapped_from for shard in shards}) == 1
        assert sum(shard.copied_bytes for shard in shards) < 10_000


async def test_a_tree_without_python_stops_the_start_with_a_clear_error(tmp_path: Path) -> None:
    client = TestClient(TestServer(make_app(Settings(tmp_path, shards=2, num_cpus=2))))
    with pytest.raises(EmptyCorpusError, match="no Python definitions found under"):
        await client.start_server()
    await client.close()


def test_the_demo_prints_hits_and_figures_and_leaves_with_zero(tree: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", str(tree), "--num-cpus", "2", "--queries", "20"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"0\.\d{3}  queues\.py:4  function push_item", done.stdout)
    for figure in ("4/4 files", "definitions", "parse tasks/s", "matrix", "query p99", "Shut down in"):
        assert figure in done.stdout
    assert "not parsed: net/old.py: SyntaxError" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_served_index_answers_until_it_is_told_to_stop(tree: Path, signum: signal.Signals) -> None:
    command = [*COMMAND, "serve", str(tree), "--port", "0", "--num-cpus", "2"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as served:
        assert served.stdout is not None
        try:
            printed = ""
            while (found := re.search(r"http://127\.0\.0\.1:\d+", printed)) is None:
                line = served.stdout.readline()
                assert line, printed  # it left before it served
                printed += line
            with urllib.request.urlopen(f"{found[0]}/?q=push+item", timeout=30) as page:
                assert b"queues.py:4" in page.read()
            served.send_signal(signum)
            rest = served.stdout.read()
            assert served.wait(timeout=30) == 0, rest
            assert rest.splitlines()[-1] == "Stopped."
        finally:
            served.kill()
