"""Packages on their way to other machines: a directory of plain files as one compressed file, and back."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile

_LEVEL = 1  # source code is a third then; what is smaller still takes three times as long


def files_in(directory: str) -> list[str]:
    """All files, relative to it."""
    found = [os.path.join(top, name) for top, _, names in os.walk(directory) for name in names]
    return sorted(os.path.relpath(path, directory) for path in found)


def pack(directory: str, names: list[str], archive_path: str) -> None:
    """Write files of a directory to an archive. Raises OSError."""
    with tarfile.open(archive_path, "w:gz", compresslevel=_LEVEL) as archive:
        for name in names:
            archive.add(os.path.join(directory, name), name, recursive=False)


def unpack(archive_path: str, directory: str) -> None:
    """Write the files of an archive to a directory that there is. Raises OSError, and tarfile.TarError for rubbish."""
    root = os.path.realpath(directory)
    with tarfile.open(archive_path, "r:gz") as archive:
        for member in archive:
            path = os.path.realpath(os.path.join(root, member.name))
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or not path.startswith(f"{root}{os.sep}"):
                raise tarfile.TarError(f"{member.name!r} is no file of a package")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with content, open(path, "xb") as file:
                shutil.copyfileobj(content, file)
            if member.mode & stat.S_IXUSR:
                os.chmod(path, 0o700)
