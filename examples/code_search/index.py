"""Term counts to TF-IDF to ranked rows: numpy and scipy only, no cluster, no files.

A batch of parsed files is packed into flat arrays (cheap to send), batches merge into one `Index`, and a range of its
rows answers queries. Queries have length 1 and so have rows, so a dot product is the cosine; see `_lengths` for the one
entry of a row that is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from examples.code_search.corpus import Document, ParsedFile, Problem, count_terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some parsed files: documents[i] has counts[j] times terms[indices[j]], for j in indptr[i]:indptr[i + 1]."""

    documents: list[Document]
    problems: list[Problem]
    terms: list[str]
    indptr: Ints
    indices: Ints
    counts: Ints


@dataclass(frozen=True, slots=True)
class Matrix:
    """A TF-IDF matrix in CSR form, one row per document. The arrays may be read-only views of shared memory."""

    data: Floats
    indices: Ints
    indptr: Ints

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.indices.nbytes + self.indptr.nbytes


@dataclass(frozen=True, slots=True)
class Query:
    """A query's weights; ids and weights are equally long, and empty if the corpus has none of its words."""

    ids: Ints
    weights: Floats


@dataclass(frozen=True, slots=True)
class Vocabulary:
    ids: dict[str, int]
    idf: Floats

    def query(self, text: str) -> Query:
        known = {self.ids[term]: count for term, count in count_terms(text).items() if term in self.ids}
        ids = np.fromiter(known.keys(), np.int32, len(known))
        counts = np.fromiter(known.values(), np.int32, len(known))
        weights = (1 + np.log(counts)) * self.idf[ids]
        norm = float(np.linalg.norm(weights)) or 1.0
        return Query(ids, (weights / norm).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Index:
    matrix: Matrix
    vocabulary: Vocabulary
    documents: list[Document]  # documents[i] is row i
    problems: list[Problem]


def pack(files: Iterable[ParsedFile]) -> Batch:
    documents: list[Document] = []
    problems: list[Problem] = []
    ids: dict[str, int] = {}
    lengths, indices, counts = [0], list[int](), list[int]()
    for file in files:
        documents += file.documents
        if file.problem is not None:
            problems.append(file.problem)
        for terms in file.terms:
            lengths.append(len(terms))
            indices += [ids.setdefault(term, len(ids)) for term in terms]
            counts += terms.values()
    indptr = np.cumsum(lengths, dtype=np.int32)
    return Batch(documents, problems, list(ids), indptr, np.array(indices, np.int32), np.array(counts, np.int32))


def merge(batches: Sequence[Batch]) -> Index:
    """One index of all batches: shared vocabulary, weights (1 + ln tf) * idf, rows scaled as `_lengths` says."""
    terms = sorted(set[str]().union(*(batch.terms for batch in batches)))
    ids = {term: number for number, term in enumerate(terms)}
    documents = [document for batch in batches for document in batch.documents]
    indices, counts = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    lengths = [np.zeros(1, np.int64)]
    for batch in batches:
        to_shared = np.fromiter((ids[term] for term in batch.terms), np.int32, len(batch.terms))
        indices.append(to_shared[batch.indices])
        counts.append(batch.counts)
        lengths.append(np.diff(batch.indptr))
    columns, indptr = np.concatenate(indices), np.cumsum(np.concatenate(lengths))
    idf = _idf(columns, len(terms), len(documents))
    weights = (1 + np.log(np.concatenate(counts))) * idf[columns]
    rows = sparse.csr_array((weights.astype(np.float32), columns, indptr), shape=(len(documents), len(terms)))
    rows.sort_indices()  # neighbours in a row are neighbours in the dense query: fewer cache misses
    rows.data /= np.repeat(_lengths(rows), np.diff(rows.indptr))
    matrix = Matrix(rows.data, rows.indices.astype(np.int32, copy=False), rows.indptr.astype(np.int32, copy=False))
    problems = [problem for batch in batches for problem in batch.problems]
    return Index(matrix, Vocabulary(ids, idf), documents, problems)


def _idf(columns: Ints, terms: int, documents: int) -> Floats:
    frequency = np.bincount(columns, minlength=terms)  # a term occurs once among the columns of a row
    return (np.log((1 + documents) / (1 + frequency)) + 1).astype(np.float32)


def _lengths(rows: sparse.csr_array) -> Floats:
    """What each row is divided by: its length with one more entry, of the mean length, that no query asks for.

    Without that entry every two-line method whose name has one of the words would outrank the function that does it.
    """
    squares: Floats = rows.multiply(rows).sum(axis=1)
    padding = np.sqrt(squares).mean() if len(squares) else 0.0
    return np.sqrt(squares + padding**2).astype(np.float32)


def row_ranges(indptr: Ints, shards: int) -> list[tuple[int, int]]:
    """Cut the rows into at most `shards` ranges (start, stop) of about as many entries each; none is empty."""
    rows = len(indptr) - 1
    shards = min(shards, rows)
    cuts = [0]
    for shard in range(1, shards):
        wanted = int(np.searchsorted(indptr, indptr[-1] * shard / shards))
        cuts.append(min(max(wanted, cuts[-1] + 1), rows - (shards - shard)))
    return list(zip(cuts, [*cuts[1:], rows], strict=True)) if rows else []


class Rows:
    """Rows start..stop of a matrix, ready to rank. `data` and `indices` stay views: nothing large is copied."""

    def __init__(self, matrix: Matrix, start: int, stop: int, terms: int) -> None:
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        indptr = matrix.indptr[start : stop + 1] - matrix.indptr[start]
        self._csr = sparse.csr_array((stop - start, terms), dtype=np.float32)
        # Not through the constructor: it copies views that are less than half of their base.
        self._csr.data, self._csr.indices = matrix.data[first:last], matrix.indices[first:last]
        self._csr.indptr = indptr
        inputs = (matrix.data, matrix.indices, matrix.indptr)
        held = (self._csr.data, self._csr.indices, self._csr.indptr)
        self.copied_bytes = sum(
            mine.nbytes for mine, given in zip(held, inputs, strict=True) if not np.may_share_memory(mine, given)
        )

    def top(self, query: Query, k: int) -> list[tuple[int, float]]:
        """The `k` best (row, cosine), best first; row counts from `start`. Rows without any of the words never show."""
        dense = np.zeros(self._csr.shape[1], np.float32)
        dense[query.ids] = query.weights
        scores: Floats = self._csr @ dense
        found = np.flatnonzero(scores)
        if len(found) > k:  # everything as good as the k-th, so that ties do not depend on the partition
            found = found[scores[found] >= np.partition(scores[found], -k)[-k]]
        best = found[np.argsort(-scores[found], kind="stable")][:k]
        return [(int(row), float(scores[row])) for row in best]
