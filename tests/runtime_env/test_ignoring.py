import pytest

from aioray.runtime_env.ignoring import is_ignored, parse


def ignored(lines: str, path: str, base: str = "", *, is_dir: bool = False) -> bool:
    return is_ignored([(base, rule) for rule in parse(lines)], path, is_dir=is_dir)


@pytest.mark.parametrize(
    ("pattern", "paths", "others"),
    [
        ("*.log", ["a.log", "x/y/a.log"], ["a.logs", "log"]),
        ("/a", ["a"], ["x/a"]),
        ("x/a", ["x/a"], ["y/x/a", "a"]),
        ("**/a", ["a", "x/y/a"], ["ab"]),
        ("x/**", ["x/a", "x/y/z"], ["x", "y/x/a"]),
        ("x/**/z", ["x/z", "x/y/z"], ["z"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[ab]c", ["ac"], ["cc"]),
        ("[!ab]c", ["cc"], ["ac"]),
        ("\\#a", ["#a"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("# a", [], ["# a", "a"]),
        ("", [], ["a"]),
        ("[", ["["], ["a"]),
    ],
)
def test_a_pattern_means_what_it_means_to_git(pattern: str, paths: list[str], others: list[str]) -> None:
    assert [path for path in paths if not ignored(pattern, path)] == []
    assert [path for path in others if ignored(pattern, path)] == []


def test_a_pattern_with_a_slash_at_its_end_is_for_directories() -> None:
    assert ignored("build/", "build", is_dir=True)
    assert not ignored("build/", "build")


def test_the_last_pattern_that_matches_decides() -> None:
    assert not ignored("*.log\n!keep.log", "keep.log")
    assert ignored("!keep.log\n*.log", "keep.log")


def test_patterns_of_a_directory_are_for_what_is_in_it() -> None:
    assert ignored("/a", "x/a", base="x/")
    assert not ignored("/a", "a", base="x/")
