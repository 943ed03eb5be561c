import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.code_search import index
from examples.code_search.corpus import Document, ParsedFile, Problem
from examples.code_search.index import Index, Rows

WORDS = ["heap", "push", "socket", "header", "parse", "zip"]
corpora = st.lists(st.dictionaries(st.sampled_from(WORDS), st.integers(1, 9), min_size=1), min_size=1, max_size=12)


def parsed(*documents: dict[str, int]) -> ParsedFile:
    names = [Document("mod.py", number, f"f{number}", "function", "") for number in range(len(documents))]
    return ParsedFile(names, [Counter(terms) for terms in documents])


def build(*documents: dict[str, int], per_batch: int = 2) -> Index:
    """Each document a file of its own, `per_batch` files to a batch."""
    files = [parsed(document) for document in documents]
    return index.merge([index.pack(files[start : start + per_batch]) for start in range(0, len(files), per_batch)])


def all_rows(built: Index) -> Rows:
    return Rows(built.matrix, 0, len(built.documents), len(built.vocabulary.ids))


def test_the_document_with_the_words_comes_first_and_those_without_never_show() -> None:
    built = build({"heap": 3, "push": 1}, {"socket": 2}, {"heap": 1, "socket": 5})
    ranked = all_rows(built).top(built.vocabulary.query("heapPush"), 10)
    assert [row for row, _ in ranked] == [0, 2]
    assert ranked[0][1] > ranked[1][1] > 0


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    built = build({"parse": 1, "zip": 1}, {"parse": 1, "heap": 1}, {"parse": 1, "push": 1})
    ids, idf = built.vocabulary.ids, built.vocabulary.idf
    assert idf[ids["zip"]] > idf[ids["parse"]]
    assert all_rows(built).top(built.vocabulary.query("parse zip"), 1)[0][0] == 0


def test_words_that_the_corpus_does_not_have_make_an_empty_query() -> None:
    built = build({"heap": 1})
    query = built.vocabulary.query("unheard words")
    assert len(query.ids) == len(query.weights) == 0
    assert all_rows(built).top(query, 5) == []


def test_equal_scores_keep_the_order_of_the_rows_whatever_k_is() -> None:
    built = build(*[{"heap": 1}] * 9)
    query = built.vocabulary.query("heap")
    for k in range(1, 10):
        assert [row for row, _ in all_rows(built).top(query, k)] == list(range(k))


def test_problems_of_all_batches_arrive_in_the_index() -> None:
    broken = ParsedFile(problem=Problem("broken.py", "SyntaxError: no"))
    built = index.merge([index.pack([broken, parsed({"zip": 1})]), index.pack([broken])])
    assert [problem.file for problem in built.problems] == ["broken.py", "broken.py"]
    assert len(built.documents) == 1


def test_an_empty_corpus_merges_to_an_empty_index() -> None:
    for batches in ([], [index.pack([])]):
        built = index.merge(batches)
        assert built.documents == []
        assert built.matrix.indptr.tolist() == [0]
        assert index.row_ranges(built.matrix.indptr, 3) == []


@given(corpora, st.integers(1, 5))
def test_how_files_are_batched_does_not_show_in_the_index(documents: list[dict[str, int]], per_batch: int) -> None:
    built, at_once = build(*documents, per_batch=per_batch), build(*documents, per_batch=len(documents))
    assert built.vocabulary.ids == at_once.vocabulary.ids
    np.testing.assert_array_equal(built.matrix.indices, at_once.matrix.indices)
    np.testing.assert_array_equal(built.matrix.data, at_once.matrix.data)


@given(corpora, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), st.integers(1, 14), st.integers(1, 5))
def test_shards_together_rank_as_the_cosine_by_the_book(
    documents: list[dict[str, int]], words: list[str], k: int, shards: int
) -> None:
    """Against a dense matrix in float64: weights (1 + ln tf) * idf, one more entry of the mean length in each row."""
    frequency = {word: sum(word in document for document in documents) for word in WORDS}
    idf = {word: np.log((1 + len(documents)) / (1 + frequency[word])) + 1 for word in WORDS}
    dense = np.array([[(1 + np.log(d[word])) * idf[word] if word in d else 0.0 for word in WORDS] for d in documents])
    lengths = np.linalg.norm(dense, axis=1)
    asked = np.array([(1 + np.log(words.count(w))) * idf[w] if w in words and frequency[w] else 0.0 for w in WORDS])
    expected = dense @ asked / np.sqrt(lengths**2 + lengths.mean() ** 2) / (np.linalg.norm(asked) or 1.0)

    built = build(*documents)
    query = built.vocabulary.query(" ".join(words))
    found: list[tuple[int, float]] = []
    for start, stop in index.row_ranges(built.matrix.indptr, shards):
        rows = Rows(built.matrix, start, stop, len(built.vocabulary.ids))
        found += [(start + row, score) for row, score in rows.top(query, k)]
    best = sorted((score for _, score in found), reverse=True)[:k]
    np.testing.assert_allclose(best, sorted(expected[expected > 0], reverse=True)[:k], rtol=1e-4)
    for row, score in found:
        assert score == pytest.approx(expected[row], rel=1e-4)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 8))
def test_row_ranges_cover_all_rows_and_none_is_empty(lengths: list[int], shards: int) -> None:
    indptr = np.cumsum([0, *lengths], dtype=np.int32)
    ranges = index.row_ranges(indptr, shards)
    assert len(ranges) == min(shards, len(lengths))
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(len(lengths)))
    assert all(start < stop for start, stop in ranges)


def test_row_ranges_balance_the_entries_not_the_rows() -> None:
    indptr = np.cumsum([0, 90, 10, 10, 10, 10, 10, 10, 10, 10, 10], dtype=np.int32)
    assert index.row_ranges(indptr, 2) == [(0, 1), (1, 10)]


def test_read_only_arrays_are_ranked_in_place() -> None:
    built = build(*[{"heap": 1, "push": 2, "zip": 1}] * 50, {"socket": 1})
    for array in (built.matrix.data, built.matrix.indices, built.matrix.indptr):
        array.flags.writeable = False
    for start, stop in index.row_ranges(built.matrix.indptr, 4):
        rows = Rows(built.matrix, start, stop, len(built.vocabulary.ids))
        (row, score), *_ = rows.top(built.vocabulary.query("heap push"), 3)
        assert row == 0
        assert 0 < score < 1
        assert rows.copied_bytes == 4 * (stop - start + 1)  # the row offsets


def test_what_travels_between_processes_survives_pickling() -> None:
    built = build({"heap": 1}, {"zip": 2})
    again: Index = pickle.loads(pickle.dumps(built))
    assert again.documents == built.documents
    np.testing.assert_array_equal(again.matrix.data, built.matrix.data)
    assert again.vocabulary.ids == built.vocabulary.ids
