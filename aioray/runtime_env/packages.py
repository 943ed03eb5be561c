"""Directories, files and archives, copied once into the session of a node under a name that says what is in them.

What has the same files is the same package, wherever it comes from; what has changed is another one. So workers that
have the old one are not disturbed, and copying twice does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from typing import TYPE_CHECKING

from aioray.record import Record
from aioray.runtime_env import archives, ignoring
from aioray.runtime_env.environment import resources_dir
from aioray.runtime_env.package_error import PackageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_NEVER = ".git\n.venv\nvenv\n__pycache__\n"  # `!name` among the excludes brings one of them back
_IGNORE_FILES = (".gitignore", ".rayignore")
_PIECE_NBYTES = 1 << 20


class _File(Record, frozen=True):
    path: str  # relative, with slashes
    source: str
    status: os.stat_result


class Package(Record, frozen=True):
    """What a directory is to contain."""

    name: str  # says what is in it
    fill: Callable[[str], None]  # the directory of that path; raises OSError


class Packages:
    """The packages of one session, as one process knows them."""

    def __init__(self, session_dir: str, max_nbytes: int) -> None:
        self._dir = resources_dir(session_dir)
        self._max_nbytes = max_nbytes
        self._digests: dict[tuple[object, ...], str] = {}  # what files looked like -> what was in them

    def directory(self, source: str, excludes: Sequence[str] = ()) -> Package:
        """What is in a directory, or what a .zip has. Raises PackageError."""
        with told_as_package_error():
            if os.path.isfile(source):
                return self._archive(source, excludes)
            files = self._files(source, excludes)
            return Package(f"dir-{self._digest(files)}", lambda target: _copy(files, target))

    def module(self, source: str, excludes: Sequence[str] = ()) -> Package:
        """A package or module, under its name. Raises PackageError."""
        name = os.path.basename(os.path.normpath(source))
        with told_as_package_error():
            if os.path.isfile(source):
                files = [_File(name, source, os.stat(source))]
                self._check_size(files, source)
            else:
                inside = self._files(source, excludes)
                files = [_File(f"{name}/{file.path}", file.source, file.status) for file in inside]
            return Package(f"mod-{self._digest(files)}", lambda target: _copy(files, target))

    def copied(self, package: Package) -> str:
        """The directory of the session that has it. Raises PackageError."""
        with told_as_package_error():
            return self._once(package)

    def digest_of(self, source: str) -> str:
        """Of a file or directory that somebody else will read."""
        if os.path.isfile(source):
            return self._digest([_File(os.path.basename(source), source, os.stat(source))])
        return self._digest(sorted(_walk(source, "", [("", rule) for rule in ignoring.parse(_NEVER)]), key=_path_of))

    def _files(self, source: str, excludes: Sequence[str]) -> list[_File]:
        rules = [("", rule) for rule in ignoring.parse(_NEVER)]
        last = [("", rule) for each in excludes for rule in ignoring.parse(each)]
        files = sorted(_walk(source, "", rules, last), key=_path_of)
        self._check_size(files, source)
        return files

    def _check_size(self, files: list[_File], source: str) -> None:
        nbytes = sum(file.status.st_size for file in files)
        if nbytes > self._max_nbytes:
            largest = max(files, key=lambda file: file.status.st_size)
            raise PackageError(
                f"{source} has {nbytes:,} bytes in {len(files)} files, and {self._max_nbytes:,} are allowed"
                f" (runtime_env_max_nbytes); `excludes` or a .gitignore leave files out. The largest is {largest.path}"
            )

    def _digest(self, files: list[_File]) -> str:
        looks = tuple(
            (file.path, file.source, file.status.st_size, file.status.st_mtime_ns, file.status.st_ino, _mode(file))
            for file in files
        )
        found = self._digests.get(looks)
        if found is None:
            whole = hashlib.blake2b(digest_size=16)
            for file in files:
                whole.update(f"{len(os.fsencode(file.path))} ".encode() + os.fsencode(file.path))
                whole.update(f" {_mode(file)} {_content_digest(file.source)}".encode())
            found = self._digests[looks] = whole.hexdigest()
        return found

    def _archive(self, source: str, excludes: Sequence[str]) -> Package:
        rules = [("", rule) for each in excludes for rule in ignoring.parse(each)]
        try:
            with zipfile.ZipFile(source) as archive:
                members = [
                    info for info in archive.infolist() if not info.is_dir() and not _is_left_out(rules, info.filename)
                ]
                if sum(info.file_size for info in members) > self._max_nbytes:
                    raise PackageError(f"{source} has more than {self._max_nbytes:,} bytes (runtime_env_max_nbytes)")
                whole = hashlib.blake2b(_content_digest(source).encode(), digest_size=16)
                whole.update(repr(tuple(excludes)).encode())

                return Package(f"zip-{whole.hexdigest()}", lambda target: _extract(source, members, target))
        except zipfile.BadZipFile as exc:
            raise PackageError(f"{source} is no zip archive: {exc}") from None

    def _once(self, package: Package) -> str:
        """Filled by whoever comes first, and never seen half full."""
        final = os.path.join(self._dir, package.name)
        if os.path.isdir(final):
            return final
        os.makedirs(self._dir, mode=0o700, exist_ok=True)
        making = tempfile.mkdtemp(prefix="making-", dir=self._dir)
        try:
            package.fill(making)
            settle(making, final)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return final


def settle(made: str, final: str) -> None:
    """Have a directory, which is complete, where others find it. Raises OSError."""
    try:
        with open(list_of(made), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\0".join(archives.files_in(made)))
        os.rename(list_of(made), list_of(final))
        os.rename(made, final)
    except OSError:
        with contextlib.suppress(OSError):  # as a rule it has its last name
            os.unlink(list_of(made))
        if not os.path.isdir(final):  # else somebody was faster
            raise


def list_of(directory: str) -> str:
    """The file that says what was in the copy of a package at first: what runs in it may write there."""
    return f"{directory}.list"


def listed(directory: str) -> list[str]:
    """What that says. Raises OSError."""
    with open(list_of(directory), encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    return text.split("\0") if text else []


@contextlib.contextmanager
def told_as_package_error() -> Iterator[None]:
    """What the operating system says, in our words."""
    try:
        yield
    except OSError as exc:
        raise PackageError(f"{exc.filename or 'copying'}: {exc.strerror or exc}") from None


def _walk(
    top: str,
    inside: str,
    rules: list[tuple[str, ignoring.Rule]],
    last: Sequence[tuple[str, ignoring.Rule]] = (),
    above: frozenset[str] = frozenset(),
) -> Iterator[_File]:
    above |= {os.path.realpath(os.path.join(top, inside))}
    here = list(rules)
    for name in _IGNORE_FILES:
        with contextlib.suppress(OSError, UnicodeDecodeError), open(os.path.join(top, inside, name)) as lines:
            here += [(inside, rule) for rule in ignoring.parse(lines.read())]
    with os.scandir(os.path.join(top, inside)) as entries:
        for entry in entries:
            path = inside + entry.name
            is_dir = entry.is_dir()
            if ignoring.is_ignored([*here, *last], path, is_dir=is_dir):
                continue
            if is_dir:
                if not entry.is_symlink() or os.path.realpath(entry.path) not in above:  # else it leads in circles
                    yield from _walk(top, f"{path}/", here, last, above)
            elif entry.is_file():
                yield _File(path, entry.path, entry.stat())


def _is_left_out(rules: list[tuple[str, ignoring.Rule]], path: str) -> bool:
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts))]
    return any(ignoring.is_ignored(rules, each, is_dir=True) for each in above) or ignoring.is_ignored(
        rules, path, is_dir=False
    )


def _path_of(file: _File) -> str:
    return file.path


def _mode(file: _File) -> int:
    return 1 if file.status.st_mode & stat.S_IXUSR else 0


def _content_digest(path: str) -> str:
    whole = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as data:
        while piece := data.read(_PIECE_NBYTES):
            whole.update(piece)
    return whole.hexdigest()


def _extract(source: str, members: list[zipfile.ZipInfo], target: str) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            for info in members:
                archive.extract(info, target)  # stays inside the target, whatever the names
    except zipfile.BadZipFile as exc:
        raise PackageError(f"{source} is no zip archive: {exc}") from None


def _copy(files: list[_File], target: str) -> None:
    for file in files:
        path = os.path.join(target, file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy2(file.source, path)
