from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from aioray.runtime_env import archives
from tests.runtime_env.test_packages import written

if TYPE_CHECKING:
    import pathlib


def test_what_is_packed_comes_out_as_it_went_in(tmp_path: pathlib.Path) -> None:
    """Whatever the names, and with programs that can be run; of the directory just the files that are named."""
    names = {"a.py": "a", "deep/er/b.txt": "b", "run.sh": "#!/bin/sh", "odd name\n\udcff": "c"}
    source = written(tmp_path / "source", {**names, "written_by_a_task": "x"})
    (source / "run.sh").chmod(0o755)
    archive, target = str(tmp_path / "archive"), tmp_path / "target"
    archives.pack(str(source), list(names), archive)
    target.mkdir()
    archives.unpack(archive, str(target))
    assert archives.files_in(str(target)) == sorted(names)
    assert {name: (target / name).read_text() for name in names} == names
    assert os.access(target / "run.sh", os.X_OK)
    assert not os.access(target / "a.py", os.X_OK)


def test_an_empty_package_is_one_too(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source").mkdir()
    archives.pack(str(tmp_path / "source"), [], str(tmp_path / "archive"))
    archives.unpack(str(tmp_path / "archive"), str(tmp_path / "source"))
    assert archives.files_in(str(tmp_path / "source")) == []


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_nothing_is_written_outside(tmp_path: pathlib.Path, name: str) -> None:
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "target").mkdir()
    with pytest.raises(tarfile.TarError, match="no file of a package"):
        archives.unpack(str(tmp_path / "archive"), str(tmp_path / "target"))
    assert not (tmp_path / "outside").exists()


def test_links_are_no_files_of_a_package(tmp_path: pathlib.Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "archive", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(tarfile.TarError, match="'link' is no file"):
        archives.unpack(str(tmp_path / "archive"), str(tmp_path))
