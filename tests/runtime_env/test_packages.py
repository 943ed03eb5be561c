from __future__ import annotations

import errno
import os
import pathlib
import zipfile
from typing import TYPE_CHECKING

import pytest

from aioray.runtime_env.package_error import PackageError
from aioray.runtime_env.packages import Packages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def written(directory: pathlib.Path, files: Mapping[str, str]) -> pathlib.Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def files_in(directory: str) -> set[str]:
    root = pathlib.Path(directory)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


class Copies:
    """Packages of a session, with their copies made at once."""

    def __init__(self, session_dir: str) -> None:
        self._packages = Packages(session_dir, max_nbytes=1000)

    def directory(self, source: str, excludes: Sequence[str] = ()) -> str:
        return self._packages.copied(self._packages.directory(source, excludes))

    def module(self, source: str) -> str:
        return self._packages.copied(self._packages.module(source))


@pytest.fixture
def packages(tmp_path: pathlib.Path) -> Copies:
    return Copies(str(tmp_path / "session"))


def test_the_same_content_is_one_package_and_other_content_another(tmp_path: pathlib.Path, packages: Copies) -> None:
    one = written(tmp_path / "one", {"a.py": "1", "b/c.txt": "2"})
    two = written(tmp_path / "two", {"a.py": "1", "b/c.txt": "2"})
    first = packages.directory(str(one))
    assert packages.directory(str(two)) == first
    assert files_in(first) == {"a.py", "b/c.txt"}
    (two / "a.py").write_text("3")
    assert packages.directory(str(two)) != first
    assert (pathlib.Path(first) / "a.py").read_text() == "1"


def test_names_count_as_well_as_contents(tmp_path: pathlib.Path, packages: Copies) -> None:
    one = written(tmp_path / "one", {"a": "b", "c": ""})
    two = written(tmp_path / "two", {"a": "", "c": "b"})
    assert packages.directory(str(one)) != packages.directory(str(two))


def test_what_is_excluded_or_ignored_is_left_out(tmp_path: pathlib.Path, packages: Copies) -> None:
    names = ["keep.py", "big.bin", "logs/x.log", "sub/skip.tmp", "sub/keep.tmp2", ".git/HEAD", "__pycache__/x.pyc"]
    source = written(tmp_path / "source", dict.fromkeys(names, "x"))
    written(source, {".gitignore": "logs/\n", "sub/.gitignore": "/skip.tmp\n"})
    found = files_in(packages.directory(str(source), ["*.bin"]))
    assert found == {"keep.py", ".gitignore", "sub/.gitignore", "sub/keep.tmp2"}


def test_a_link_in_a_circle_ends(tmp_path: pathlib.Path, packages: Copies) -> None:
    source = written(tmp_path / "source", {"a/b.txt": "x"})
    (source / "a/up").symlink_to(source)
    (source / "other").symlink_to(written(tmp_path / "elsewhere", {"c.txt": "x"}))
    assert files_in(packages.directory(str(source))) == {"a/b.txt", "other/c.txt"}


def test_too_much_is_refused_with_the_largest_file_and_what_helps(tmp_path: pathlib.Path, packages: Copies) -> None:
    source = written(tmp_path / "source", {"small": "x", "data/large": "x" * 1000})
    with pytest.raises(PackageError, match=r"1,001 bytes in 2 files, and 1,000 are allowed.*excludes.*data/large"):
        packages.directory(str(source))
    assert files_in(packages.directory(str(source), ["data"])) == {"small"}


def test_a_module_keeps_its_name_and_a_program_its_mode(tmp_path: pathlib.Path, packages: Copies) -> None:
    source = written(tmp_path / "pack", {"__init__.py": "", "run.sh": "#!/bin/sh"})
    (source / "run.sh").chmod(0o755)
    found = packages.module(str(source))
    assert files_in(found) == {"pack/__init__.py", "pack/run.sh"}
    assert os.access(f"{found}/pack/run.sh", os.X_OK)
    assert files_in(packages.module(str(source / "__init__.py"))) == {"__init__.py"}


def test_an_archive_is_unpacked_and_stays_where_it_belongs(tmp_path: pathlib.Path, packages: Copies) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", "x")
        archive.writestr("../../outside.py", "x")
        archive.writestr("skip/b.py", "x")
    assert files_in(packages.directory(str(path), ["skip"])) == {"a.py", "outside.py"}
    assert not (tmp_path / "outside.py").exists()
    path.write_text("no archive")
    with pytest.raises(PackageError, match="is no zip archive"):
        packages.directory(str(path))


def test_nothing_half_made_is_left_when_copying_fails(
    tmp_path: pathlib.Path, packages: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "source", {"a.py": "x"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.py")

    monkeypatch.setattr("aioray.runtime_env.packages.shutil.copy2", full)
    with pytest.raises(PackageError, match="No space left on device"):
        packages.directory(str(source))
    assert not list((tmp_path / "session").rglob("making-*"))
