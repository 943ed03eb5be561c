"""Patterns of files to leave out, as in .gitignore. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

from aioray.record import Record


class Rule(Record, frozen=True):
    """One line of patterns; paths are relative to the directory that it was given for, with slashes."""

    regex: re.Pattern[str]
    directories_only: bool
    keeps: bool  # began with !: what it matches stays after all

    def matches(self, path: str, *, is_dir: bool) -> bool:
        return (is_dir or not self.directories_only) and self.regex.fullmatch(path) is not None


def parse(lines: str) -> list[Rule]:
    """The rules in a text of lines. Blank lines and comments are none."""
    return [rule for line in lines.splitlines() if (rule := _rule(line)) is not None]


def is_ignored(rules: list[tuple[str, Rule]], path: str, *, is_dir: bool) -> bool:
    """The last rule that matches decides. Each rule comes with the directory that it is for ("" or "a/b/")."""
    for base, rule in reversed(rules):
        if path.startswith(base) and rule.matches(path[len(base) :], is_dir=is_dir):
            return not rule.keeps
    return False


@lru_cache(maxsize=1024)
def _rule(line: str) -> Rule | None:
    pattern = line.rstrip("\r\n")
    while pattern.endswith(" ") and not pattern.endswith("\\ "):
        pattern = pattern[:-1]
    if not pattern or pattern.startswith("#"):
        return None
    keeps = pattern.startswith("!")
    pattern = pattern.removeprefix("!")
    directories_only = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        return None
    regex = _translated(pattern)
    return Rule(re.compile(regex if anchored else f"(?:.*/)?{regex}", re.DOTALL), directories_only, keeps)


def _translated(pattern: str) -> str:
    out = ""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out += "(?:.*/)?"
            at += 3
        elif pattern[at:] == "**" and (at == 0 or pattern[at - 1] == "/"):
            out += ".+"
            at += 2
        elif char == "*":
            out += "[^/]*"
            at += 1
        elif char == "?":
            out += "[^/]"
            at += 1
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            out += f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            at = end + 1
        else:
            if char == "\\" and at + 1 < len(pattern):
                at += 1
                char = pattern[at]
            out += re.escape(char)
            at += 1
    return out
