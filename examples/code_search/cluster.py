"""The part that runs on the cluster: tasks parse batches of files, one task merges them, actors hold the shards.

    find_files -> parse_batch (many) -> merge_batches -> put the matrix once -> Shard (one per row range)

The tasks read the tree themselves: on several machines it must be at the same path on each.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioray
from examples.code_search import corpus, index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BATCH_BYTES = 128 << 10  # about 40 ms of parsing: small enough to balance, large enough to hide the call
SAMPLE = 300  # names kept to try the index out with


class EmptyCorpusError(Exception):
    """There is nothing to index below this directory."""

    def __init__(self, root: str, problems: int) -> None:
        super().__init__(root, problems)
        self.root, self.problems = root, problems

    def __str__(self) -> str:
        unreadable = f" ({self.problems} could not be read)" if self.problems else ""
        return f"no Python definitions found under {self.root}{unreadable}"


@dataclass(frozen=True, slots=True)
class Hit:
    file: str
    line: int
    name: str
    kind: corpus.Kind
    score: float  # cosine, 0..1
    snippet: str


@dataclass(frozen=True, slots=True)
class ShardFigures:
    pid: int
    documents: int
    copied_bytes: int  # of the arrays it was given: row offsets only
    mapped_from: str  # the file that backs the entries: shared memory, or "" when they came inside a message


@dataclass(frozen=True, slots=True)
class Figures:
    """What building the index took. `seconds` has one entry per phase, in order."""

    root: str
    files: int
    source_bytes: int
    problems: list[corpus.Problem]
    documents: int
    terms: int
    entries: int  # numbers in the sparse matrix
    matrix_bytes: int
    parse_tasks: int
    seconds: dict[str, float]


@aioray.remote
def find_files(root: str, include_tests: bool) -> corpus.Tree:
    return corpus.find_files(Path(root), include_tests=include_tests)


@aioray.remote
def parse_batch(root: str, files: list[str]) -> index.Batch:
    return index.pack(corpus.parse_file(Path(root), file) for file in files)


@aioray.remote
def merge_batches(*batches: index.Batch) -> index.Index:
    return index.merge(batches)


class Shard:
    """Ranks one range of rows. The arrays arrive as read-only views of the node's shared memory."""

    def __init__(
        self,
        data: index.Floats,
        indices: index.Ints,
        indptr: index.Ints,
        rows: tuple[int, int],
        terms: int,
        documents: list[corpus.Document],
    ) -> None:
        self._rows = index.Rows(index.Matrix(data, indices, indptr), *rows, terms)
        self._mapped_from = mapping_of(data)
        self._documents = documents

    def search(self, query: index.Query, k: int) -> list[Hit]:
        hits = []
        for row, score in self._rows.top(query, k):
            found = self._documents[row]
            hits.append(Hit(found.file, found.line, found.name, found.kind, score, found.snippet))
        return hits

    def figures(self) -> ShardFigures:
        return ShardFigures(os.getpid(), len(self._documents), self._rows.copied_bytes, self._mapped_from)


def mapping_of(array: index.Floats) -> str:
    """The file that the kernel says the array's memory is mapped from; "" for memory of this process alone."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, inode, *name = line.split(maxsplit=5)
        first, last = (int(edge, 16) for edge in addresses.split("-"))
        if first <= address < last:
            return name[0] if inode != "0" else ""  # [heap] and the like have no inode
    return ""


ShardActor = aioray.remote(Shard)  # called, not as a decorator: mypy does not look at what class decorators return


class SearchIndex:
    """The finished index, as the driver sees it: the vocabulary, and handles to the shards that hold the rest."""

    def __init__(self, shards: list[Any], vocabulary: index.Vocabulary, sample: list[str], figures: Figures) -> None:
        self._shards = shards
        self._vocabulary = vocabulary
        self.sample = sample  # names of definitions from all over the corpus
        self.figures = figures

    async def search(self, text: str, k: int) -> list[Hit]:
        """The `k` best hits of all shards, best first."""
        query = self._vocabulary.query(text)
        if not len(query.ids):
            return []
        found = await asyncio.gather(*(shard.search.remote(query, k) for shard in self._shards))
        return best(itertools.chain.from_iterable(found), k)

    async def shard_figures(self) -> list[ShardFigures]:
        figures: list[ShardFigures] = await asyncio.gather(*(shard.figures.remote() for shard in self._shards))
        return figures


def best(hits: Iterable[Hit], k: int) -> list[Hit]:
    return heapq.nsmallest(k, hits, key=lambda hit: (-hit.score, hit.file, hit.line))


async def build_index(
    root: Path,
    *,
    shards: int,
    include_tests: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SearchIndex:
    """Index the tree below `root` on the connected cluster; `progress(done, total)` hears of files parsed.

    Raises EmptyCorpusError, NotADirectoryError, and whatever a task died of.
    """
    seconds: dict[str, float] = {}
    clock = _Laps(seconds)
    tree = await find_files.remote(str(root), include_tests)
    clock.lap("find files")

    batches = corpus.batches(tree.files, BATCH_BYTES)
    refs = [parse_batch.remote(str(root), batch) for batch in batches]
    sizes = {ref: len(batch) for ref, batch in zip(refs, batches, strict=True)}
    done, total = 0, len(tree.files)
    progress(done, total)
    async for ref in aioray.as_completed(refs):
        done += sizes[ref]
        progress(done, total)
    clock.lap("parse")

    merged = await merge_batches.remote(*refs)  # as arguments of their own, refs arrive as values
    problems = tree.problems + merged.problems
    if not merged.documents:
        raise EmptyCorpusError(str(root), len(problems))
    clock.lap("merge")

    matrix, terms = merged.matrix, len(merged.vocabulary.ids)
    arrays = [aioray.put(array) for array in (matrix.data, matrix.indices, matrix.indptr)]  # once, for all shards
    handles = [
        ShardActor.options(num_cpus=0).remote(*arrays, (start, stop), terms, merged.documents[start:stop])
        for start, stop in index.row_ranges(matrix.indptr, shards)
    ]
    await asyncio.gather(*(handle.figures.remote() for handle in handles))  # they answer: they are up
    clock.lap("share")

    figures = Figures(
        root=str(root),
        files=total,
        source_bytes=sum(file.nbytes for file in tree.files),
        problems=problems,
        documents=len(merged.documents),
        terms=terms,
        entries=len(matrix.data),
        matrix_bytes=matrix.nbytes,
        parse_tasks=len(refs),
        seconds=seconds,
    )
    names = [document.name for document in merged.documents if len(document.name) <= 100]
    sample = [name for name in names[:: max(1, len(names) // SAMPLE)] if corpus.count_terms(name)][:SAMPLE]
    # A copy: a view of one array would keep the bytes of all of `merged` in shared memory, a second matrix among them.
    vocabulary = index.Vocabulary(merged.vocabulary.ids, merged.vocabulary.idf.copy())
    return SearchIndex(handles, vocabulary, sample, figures)


class _Laps:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[phase], self._last = now - self._last, now
