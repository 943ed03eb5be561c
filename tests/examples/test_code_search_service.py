"""The parts of the service that need no cluster: checking requests, drawing the page, reading the command line."""

from pathlib import Path

import numpy as np
import pytest

from examples.code_search import __main__ as cli
from examples.code_search import demo, service
from examples.code_search.cluster import Hit, best, mapping_of
from examples.code_search.service import BadQueryError, Request

NASTY = '<script>alert("x & y")</script>'


def hit(score: float = 0.5, file: str = "a.py", line: int = 1) -> Hit:
    return Hit(file, line, "f", "function", score, "def f(): ...")


def test_a_good_request_is_read_and_k_is_ten_unless_given() -> None:
    assert service.read_request("binary search", None) == Request("binary search", 10)
    assert service.read_request("binary search", "3") == Request("binary search", 3)


@pytest.mark.parametrize("query", ["", "   ", "++ --", "the of", "x"])
def test_a_query_without_a_word_is_refused(query: str) -> None:
    with pytest.raises(BadQueryError, match="q has no word"):
        service.read_request(query, None)


def test_a_missing_and_an_endless_query_are_refused() -> None:
    with pytest.raises(BadQueryError, match="q is missing"):
        service.read_request(None, "5")
    with pytest.raises(BadQueryError, match="q has 201 characters; at most 200"):
        service.read_request("w" * 201, None)


@pytest.mark.parametrize("k", ["0", "101", "-1", "1.5", "ten", "", "1_0", "٣", "9" * 5000])
def test_a_bad_k_is_refused_with_what_is_allowed(k: str) -> None:
    with pytest.raises(BadQueryError, match="k must be a whole number from 1 to 100") as refused:
        service.read_request("heap", k)
    assert len(str(refused.value)) < 100


def test_the_page_escapes_all_that_comes_from_outside() -> None:
    hits = service.render_hits([Hit(NASTY, 7, NASTY, "function", 0.5, NASTY)])
    page = service.render_page(query=NASTY, about=NASTY, results=hits)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&quot;x &amp; y&quot;)&lt;/script&gt;") == 6


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = service.render_page(query="", about="", results="")
    assert "http" not in page.replace("http-equiv", "")
    assert "$" not in page


def test_hits_of_several_shards_merge_best_first_and_ties_by_place() -> None:
    hits = [hit(0.2), hit(0.9), hit(0.5, "b.py"), hit(0.5, "a.py", 9), hit(0.5, "a.py", 2)]
    assert best(hits, 4) == [hit(0.9), hit(0.5, "a.py", 2), hit(0.5, "a.py", 9), hit(0.5, "b.py")]


def test_the_standard_library_is_the_corpus_unless_another_is_given(tmp_path: Path) -> None:
    assert (cli.read_arguments(["demo"]).path / "asyncio" / "tasks.py").is_file()
    assert cli.read_arguments(["serve", str(tmp_path), "--port", "0"]).path == tmp_path.resolve()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["demo", "/no/such/place"], "is not a directory"),
        (["demo", "--shards", "0"], "must be 1 or more"),
        (["serve", "--port", "70000"], "must be from 0"),
        ([], "required"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.read_arguments(argv)
    assert complaint in capsys.readouterr().err


def test_a_tree_of_ones_own_is_asked_for_names_of_its_own(tmp_path: Path) -> None:
    names = [f"name_{number}" for number in range(60)]
    questions = demo.questions_for(tmp_path, names)
    assert len(questions) == len(demo.QUESTIONS)
    assert set(questions) <= set(names)
    assert demo.questions_for(tmp_path, ["only_one"]) == ["only_one"]


def test_what_an_array_is_mapped_from_is_told_by_the_kernel(tmp_path: Path) -> None:
    assert mapping_of(np.zeros(1 << 20, np.float32)) == ""
    mapped = np.memmap(tmp_path / "array", np.float32, "w+", shape=16)
    assert mapping_of(mapped) == mapping_of(mapped[3:]) == str(tmp_path / "array")
