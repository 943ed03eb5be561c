"""Which names a test function mentions: in its own text, and in the functions, classes and texts that it uses."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_WORD = re.compile(r"\w+")


@functools.cache
def _top_level(path: str) -> dict[str, tuple[str, ast.stmt]]:
    """What a module defines, or imports from other tests, by name: the file where it is, and its text."""
    found: dict[str, tuple[str, ast.stmt]] = {}
    for node in ast.parse((ROOT / path).read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = (path, node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = (path, node)
            case ast.ImportFrom(module=str(module), names=aliases) if module.startswith("tests."):
                there = module.replace(".", "/")
                for alias in aliases:
                    if (ROOT / f"{there}.py").exists():
                        defined = _top_level(f"{there}.py").get(alias.name)
                        if defined is not None:
                            found[alias.asname or alias.name] = defined
            case ast.ImportFrom(module=str(module), names=aliases):
                for alias in aliases:  # to use a name is to mention where it is from, and what it is called there
                    found[alias.asname or alias.name] = (path, ast.Expr(ast.Constant(f"{module} {alias.name}")))
    return found


def _docstrings(node: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for each in ast.walk(node):
        match each:
            case ast.FunctionDef(body=[ast.Expr(value=doc), *_]) | ast.AsyncFunctionDef(body=[ast.Expr(value=doc), *_]):
                found.add(doc)
            case ast.ClassDef(body=[ast.Expr(value=doc), *_]):
                found.add(doc)
    return {doc for doc in found if isinstance(doc, ast.Constant)}


def _words(node: ast.AST) -> set[str]:
    """Names, attributes, keywords, and the words of texts; not those of docstrings."""
    words: set[str] = set()
    docstrings = _docstrings(node)
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.alias(name=name):
                words.add(name)
            case ast.arg(arg=name):
                words.add(name)
            case ast.Constant(value=str(text)) if each not in docstrings:
                words |= set(_WORD.findall(text))
    return words


@functools.cache
def mentioned(test: str) -> frozenset[str]:
    """The names that `test`, such as "tests/api/test_tasks.py::test_it", mentions. Raises KeyError: no such test."""
    path, _, name = test.partition("::")
    words: set[str] = set()
    seen: set[ast.AST] = set()
    waiting = [_top_level(path)[name]]
    while waiting:
        where, node = waiting.pop()
        if node not in seen:
            seen.add(node)
            there = _words(node)
            words |= there
            known = _top_level(where)
            waiting += [known[word] for word in there if word in known and not word.startswith("test_")]
    return frozenset(words)
