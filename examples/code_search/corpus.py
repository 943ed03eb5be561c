"""Find Python files and cut each into documents: one per function or class, one for what is left of the module.

Pure: reads files and returns plain data, knows nothing of clusters. No file is dropped in silence; each one that
cannot be read or parsed leaves a `Problem` that says why.
"""

from __future__ import annotations

import ast
import functools
import io
import os
import re
import stat
import sysconfig
import textwrap
import tokenize
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Kind = Literal["module", "class", "function", "method", "chunk"]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

CHUNK_LINES = 40  # a file that does not parse is searchable in pieces of this many lines
SNIPPET_LINES = 6
SNIPPET_COLUMNS = 160
NAME_WEIGHT = 4  # a word in a definition's name says more than the same word in its body
SKIPPED_DIRS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
TEST_DIRS = frozenset({"test", "tests", "idle_test"})

_WORD = re.compile(r"[^\W\d]\w*")
_BOUNDARY = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NEWLINE = re.compile(r"\r\n|\r|\n")  # the line ends `ast` counts; str.splitlines() also splits at form feeds
_COMMON = """
    an and are as at be by can for from has have if in is it its not of on or that the this to was when which will with
    cls def elif else false none pass return self true
"""
_STOP_WORDS = frozenset(_COMMON.split())


@dataclass(frozen=True, slots=True)
class SourceFile:
    path: str  # relative to the root of its tree
    nbytes: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file is not in the index as it should be."""

    file: str
    reason: str
    searchable: bool = False  # True: does not parse, but its text is indexed in chunks


@dataclass(frozen=True, slots=True)
class Tree:
    files: list[SourceFile]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class Document:
    """What a hit points to."""

    file: str
    line: int  # from 1
    name: str
    kind: Kind
    snippet: str


@dataclass(frozen=True, slots=True)
class ParsedFile:
    documents: list[Document] = field(default_factory=list)
    terms: list[Counter[str]] = field(default_factory=list)  # terms[i] belongs to documents[i]
    problem: Problem | None = None


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(root: Path, *, include_tests: bool = False) -> Tree:
    """All `*.py` files below `root`, sorted; links to directories and virtual environments are not followed.

    Raises NotADirectoryError when `root` is not a directory.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a directory")
    skipped = SKIPPED_DIRS if include_tests else SKIPPED_DIRS | TEST_DIRS
    tree = Tree([], [])

    def unreadable(error: OSError) -> None:
        tree.problems.append(Problem(_relative(str(error.filename), root), _reason(error)))

    for folder, dirs, names in os.walk(root, onerror=unreadable):
        if "pyvenv.cfg" in names and folder != str(root):
            dirs.clear()
            continue
        dirs[:] = sorted(d for d in dirs if d not in skipped and not d.startswith("."))
        for name in sorted(names):
            if name.endswith(".py"):
                _add_file(tree, root, os.path.join(folder, name))
    return tree


def _add_file(tree: Tree, root: Path, path: str) -> None:
    relative = os.path.relpath(path, root)
    try:
        status = os.stat(path)
    except OSError as exc:  # a broken link, most often
        tree.problems.append(Problem(_printable(relative), _reason(exc)))
        return
    if stat.S_ISREG(status.st_mode):
        tree.files.append(SourceFile(relative, status.st_size))
    else:  # reading a pipe would wait for ever
        tree.problems.append(Problem(_printable(relative), "not a regular file"))


def batches(files: Iterable[SourceFile], nbytes: int) -> list[list[str]]:
    """Cut `files` into lists of paths with about `nbytes` of source each, the heaviest first (no long tail)."""
    cut: list[tuple[int, list[str]]] = []
    weight, paths = 0, list[str]()
    for file in files:
        if paths and weight + file.nbytes > nbytes:
            cut.append((weight, paths))
            weight, paths = 0, []
        weight += file.nbytes
        paths.append(file.path)
    if paths:
        cut.append((weight, paths))
    return [paths for _, paths in sorted(cut, key=lambda item: -item[0])]


def parse_file(root: Path, path: str) -> ParsedFile:
    """Read and cut one file; `path` is relative to `root`. Never raises for what is in the file."""
    shown = _printable(path)
    try:
        text = decode((root / path).read_bytes())
    except (OSError, SyntaxError, UnicodeError, LookupError) as exc:
        return ParsedFile(problem=Problem(shown, _reason(exc)))
    return parse_source(text, shown)


def decode(source: bytes) -> str:
    """The text of a Python file: by its BOM or coding line, else UTF-8.

    Raises SyntaxError, UnicodeError or LookupError when the file does not keep to that.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding)


def parse_source(text: str, file: str) -> ParsedFile:
    """Cut source text into documents; text that does not parse is cut into chunks of lines, and that is reported."""
    lines = _NEWLINE.split(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like: not our code to warn about
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        return _chunks(lines, file, Problem(file, _reason(exc), searchable=True))
    parsed = ParsedFile()
    module = module_name(file)
    taken: set[int] = set()  # lines that belong to a definition
    for node, scope, kind in sorted(_definitions(tree), key=lambda found: found[0].lineno):
        own = set(range(_first_line(node), (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.ClassDef):  # its methods are documents of their own
            for inner, _, _ in _definitions(node):
                own -= set(range(_first_line(inner), (inner.end_lineno or inner.lineno) + 1))
        taken |= own
        name = f"{scope}{node.name}"
        _add(parsed, Document(file, node.lineno, name, kind, _snippet(lines, node.lineno)), _pick(lines, own), module)
    rest = _pick(lines, set(range(1, len(lines) + 1)) - taken)
    _add(parsed, Document(file, 1, module, "module", _snippet(lines, 1)), rest, "")
    return parsed


def _definitions(parent: ast.AST, scope: str = "") -> Iterator[tuple[Definition, str, Kind]]:
    """Functions and classes below `parent`, but none inside a function; those under `if`, `try`, `with` too."""
    in_class = isinstance(parent, ast.ClassDef)
    waiting = list(ast.iter_child_nodes(parent))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, scope, "method" if in_class else "function"
        elif isinstance(node, ast.ClassDef):
            yield node, scope, "class"
            yield from _definitions(node, f"{scope}{node.name}.")
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            waiting.extend(ast.iter_child_nodes(node))


def _chunks(lines: list[str], file: str, problem: Problem) -> ParsedFile:
    parsed = ParsedFile(problem=problem)
    for first in range(1, len(lines) + 1, CHUNK_LINES):
        last = min(first + CHUNK_LINES - 1, len(lines))
        document = Document(file, first, f"{module_name(file)}:{first}-{last}", "chunk", _snippet(lines, first))
        _add(parsed, document, "\n".join(lines[first - 1 : last]), "")
    return parsed


def _add(parsed: ParsedFile, document: Document, text: str, module: str) -> None:
    terms = count_terms(text)
    if not terms:
        return  # an empty __init__.py has nothing to find
    terms.update(count_terms(module))
    for term, count in count_terms(document.name).items():
        terms[term] += NAME_WEIGHT * count
    parsed.documents.append(document)
    parsed.terms.append(terms)


def count_terms(text: str) -> Counter[str]:
    """How often each term occurs in source code or prose; the query goes through the same door."""
    counts: Counter[str] = Counter()
    for word, count in Counter(_WORD.findall(text)).items():
        for term in split_identifier(word):
            counts[term] += count
    return counts


@functools.lru_cache(maxsize=1 << 16)
def split_identifier(word: str) -> tuple[str, ...]:
    """`parse_HTTPHeaders` -> parse, http, header, parse_httpheaders: its parts, and itself if it has several."""
    parts = [part for part in _BOUNDARY.split(word) if part]
    terms = [_singular(part.casefold()) for part in parts]
    if len(parts) > 1:
        terms.append(word.strip("_").casefold())
    return tuple(term for term in terms if len(term) > 1 and term not in _STOP_WORDS)


def _singular(word: str) -> str:
    """Fold `headers` into `header`; rough, and harmless since documents and queries are folded alike."""
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def module_name(file: str) -> str:
    parts = PurePath(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _first_line(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _pick(lines: list[str], numbers: set[int]) -> str:
    return "\n".join(lines[number - 1] for number in sorted(numbers))


def _snippet(lines: list[str], line: int) -> str:
    cut = [_printable(text.rstrip())[:SNIPPET_COLUMNS] for text in lines[line - 1 : line - 1 + SNIPPET_LINES]]
    return textwrap.dedent("\n".join(cut)).strip("\n")


def _relative(path: str, root: Path) -> str:
    return _printable(os.path.relpath(path, root))


def _printable(text: str) -> str:
    """Without lone surrogates (undecodable file names): what we show must encode as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reason(exc: BaseException) -> str:
    if isinstance(exc, OSError):
        return f"{type(exc).__name__}: {exc.strerror or exc}"
    if isinstance(exc, SyntaxError):
        where = f" (line {exc.lineno})" if exc.lineno else ""
        return f"{type(exc).__name__}: {_printable(exc.msg)}{where}"
    return f"{type(exc).__name__}: {_printable(str(exc))}"
