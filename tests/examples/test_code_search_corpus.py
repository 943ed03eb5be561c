import ast
import os
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.code_search import corpus
from examples.code_search.corpus import ParsedFile, SourceFile


def parse(text: str, file: str = "pkg/mod.py") -> ParsedFile:
    return corpus.parse_source(textwrap.dedent(text), file)


def found(parsed: ParsedFile) -> list[tuple[str, str, int]]:
    return [(document.kind, document.name, document.line) for document in parsed.documents]


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("word", "terms"),
    [
        ("as_completed", ("completed", "as_completed")),
        ("parseHTTPHeaders", ("parse", "http", "header", "parsehttpheaders")),
        ("HTTPServer", ("http", "server", "httpserver")),
        ("__init__", ("init",)),
        ("base64", ("base64",)),
        ("sha256Sum", ("sha256", "sum", "sha256sum")),
        ("process", ("process",)),
        ("self", ()),
        ("x", ()),
        ("Größe_wert", ("grösse", "wert", "grösse_wert")),
    ],
)
def test_identifiers_split_at_underscores_and_capitals_and_stay_findable_whole(
    word: str, terms: tuple[str, ...]
) -> None:
    assert corpus.split_identifier(word) == terms


@given(st.text(max_size=80))
def test_any_text_has_terms_that_are_found_again_by_their_own_spelling(text: str) -> None:
    for term in corpus.count_terms(text):
        assert term == term.casefold()
        assert len(term) > 1


def test_terms_are_counted_once_per_occurrence_in_every_spelling() -> None:
    counts = corpus.count_terms("heap_push heapPush HEAP heaps")
    assert counts["heap"] == 4
    assert counts["push"] == 2
    assert counts["heap_push"] == 1


def test_functions_classes_and_methods_are_documents_with_the_line_of_their_def() -> None:
    parsed = parse(
        '''
        """Tools for queues."""

        import os

        @decorated
        async def fetch(url): ...

        class Queue(Base):
            limit = 10

            def push(self, item):
                def helper(): ...

            class Full(Exception): ...
        '''
    )
    assert found(parsed) == [
        ("function", "fetch", 7),
        ("class", "Queue", 9),
        ("method", "Queue.push", 12),
        ("class", "Queue.Full", 15),
        ("module", "pkg.mod", 1),
    ]
    assert parsed.problem is None


def test_definitions_under_if_try_with_and_match_are_found_too() -> None:
    parsed = parse(
        """
        if posix:
            def spawn(): ...
        else:
            try:
                def spawn(): ...
            except ImportError:
                class Spawn: ...
        match system:
            case "linux":
                def pidfd(): ...
        """
    )
    assert [document.name for document in parsed.documents] == ["spawn", "spawn", "Spawn", "pidfd", "pkg.mod"]


def test_a_line_counts_for_the_innermost_definition_and_the_name_counts_more() -> None:
    parsed = parse(
        """
        constant = zebra
        class Animal:
            colour = giraffe
            def eat(self):
                return lion
        """
    )
    terms = {document.name: counts for document, counts in zip(parsed.documents, parsed.terms, strict=True)}
    assert [name for name, counts in terms.items() if "zebra" in counts] == ["pkg.mod"]
    assert [name for name, counts in terms.items() if "giraffe" in counts] == ["Animal"]
    assert [name for name, counts in terms.items() if "lion" in counts] == ["Animal.eat"]
    assert terms["Animal.eat"]["eat"] == 1 + corpus.NAME_WEIGHT
    assert terms["Animal.eat"]["mod"] == 1  # the module's name belongs to all that is in it


def test_lines_are_counted_as_the_parser_counts_them() -> None:
    text = "x = 1\f\r\n\fy = 2\rdef after_form_feeds():\n    return 3\n"
    (document, *_) = corpus.parse_source(text, "mod.py").documents
    assert document.line == ast.parse(text).body[2].lineno == 3
    assert document.snippet.startswith("def after_form_feeds")


def test_a_snippet_is_dedented_and_short() -> None:
    body = "\n".join(f"        line_{number} = {'x' * 300}" for number in range(20))
    parsed = corpus.parse_source(f"class A:\n    def method(self):\n{body}\n", "mod.py")
    (snippet,) = [document.snippet for document in parsed.documents if document.kind == "method"]
    assert snippet.startswith("def method(self):\n    line_0")
    assert len(snippet.splitlines()) == corpus.SNIPPET_LINES
    assert max(map(len, snippet.splitlines())) <= corpus.SNIPPET_COLUMNS


def test_an_empty_module_is_no_document() -> None:
    assert parse("", "pkg/__init__.py") == ParsedFile()


def test_a_package_is_named_without_its_init_file() -> None:
    assert [document.name for document in parse("words = 1", "pkg/sub/__init__.py").documents] == ["pkg.sub"]
    assert corpus.module_name("__init__.py") == "__init__"


@pytest.mark.parametrize("text", ["print 'python two'\n", "x = (\n", "null = '\0'\n"])
def test_what_does_not_parse_is_reported_and_searchable_in_chunks(text: str) -> None:
    lines = text + "\n".join(f"line_{number}" for number in range(2 * corpus.CHUNK_LINES))
    parsed = corpus.parse_source(lines, "old.py")
    assert parsed.problem is not None
    assert parsed.problem.file == "old.py"
    assert parsed.problem.searchable
    assert parsed.problem.reason
    assert [document.line for document in parsed.documents] == [1, 1 + corpus.CHUNK_LINES, 1 + 2 * corpus.CHUNK_LINES]
    assert {document.kind for document in parsed.documents} == {"chunk"}


def test_source_nested_too_deep_for_the_parser_is_reported() -> None:
    problem = corpus.parse_source("x = " + "(" * 5000 + ")" * 5000, "deep.py").problem
    assert problem is not None


def test_invalid_escapes_in_the_corpus_are_not_our_warnings() -> None:
    assert corpus.parse_source("pattern = '\\d'\n", "mod.py").problem is None  # pytest makes warnings errors


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# -*- coding: latin-1 -*-\ngröße = 1\n".encode("latin-1"), None),
        (b"\xef\xbb\xbfvalue = 1\n", None),
        ("wert = 'größe'\n".encode("latin-1"), "SyntaxError"),  # no coding line: must be UTF-8
        (b"# coding: no-such-encoding\n", "SyntaxError"),
        (b"# coding: hex\n", "LookupError"),  # an encoding, but not of text
        (b"# coding: utf-8\n\n\n\xff\n", "UnicodeDecodeError"),
    ],
)
def test_encodings_are_honoured_and_broken_ones_reported(tmp_path: Path, source: bytes, expected: str | None) -> None:
    write(tmp_path, {"mod.py": source})
    parsed = corpus.parse_file(tmp_path, "mod.py")
    if expected is None:
        assert parsed.problem is None
        assert len(parsed.documents) == 1
    else:
        assert parsed.problem is not None
        assert parsed.problem.reason.startswith(expected)
        assert not parsed.problem.searchable


def test_a_file_that_went_away_is_reported(tmp_path: Path) -> None:
    problem = corpus.parse_file(tmp_path, "gone.py").problem
    assert problem is not None
    assert problem.reason == "FileNotFoundError: No such file or directory"


def test_files_are_found_sorted_without_caches_packages_environments_and_tests(tmp_path: Path) -> None:
    names = ["b.py", "a/x.py", "a/notes.txt", "a/site-packages/dep.py", "a/__pycache__/x.py", ".git/hook.py"]
    names += ["env/pyvenv.cfg", "env/lib/y.py", "a/test/t.py", "a/testing.py"]
    write(tmp_path, dict.fromkeys(names, "word = 1\n"))
    tree = corpus.find_files(tmp_path)
    assert [file.path for file in tree.files] == ["b.py", "a/testing.py", "a/x.py"]
    assert tree.problems == []
    assert [file.path for file in corpus.find_files(tmp_path, include_tests=True).files] == [
        *(file.path for file in tree.files),
        "a/test/t.py",
    ]


def test_broken_links_and_pipes_are_reported_not_read(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to("nowhere.py")
    os.mkfifo(tmp_path / "pipe.py")
    tree = corpus.find_files(tmp_path)
    assert tree.files == []
    assert {problem.file: problem.reason for problem in tree.problems} == {
        "link.py": "FileNotFoundError: No such file or directory",
        "pipe.py": "not a regular file",
    }


def test_a_file_name_that_is_no_utf8_is_still_read_and_shown(tmp_path: Path) -> None:
    path = os.fsdecode(b"\xff.py")
    (tmp_path / path).write_text("def word(): ...\n")
    (file,) = corpus.find_files(tmp_path).files
    assert {document.file for document in corpus.parse_file(tmp_path, file.path).documents} == {"?.py"}


def test_a_root_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        corpus.find_files(tmp_path / "nowhere")


@given(st.lists(st.integers(0, 300)), st.integers(1, 200))
def test_batches_hold_every_file_once_and_only_a_large_file_makes_a_large_batch(sizes: list[int], nbytes: int) -> None:
    files = [SourceFile(str(number), size) for number, size in enumerate(sizes)]
    size_of = {file.path: file.nbytes for file in files}
    cut = corpus.batches(files, nbytes)
    assert sorted(path for batch in cut for path in batch) == sorted(size_of)
    weights = [sum(size_of[path] for path in batch) for batch in cut]
    assert weights == sorted(weights, reverse=True)
    for batch, weight in zip(cut, weights, strict=True):
        assert weight <= nbytes or len(batch) == 1 or sum(size_of[path] > 0 for path in batch) == 1
