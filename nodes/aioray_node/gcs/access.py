"""Who may talk to the cluster: its token."""

from __future__ import annotations

import os
import pathlib
import secrets
from typing import TYPE_CHECKING

from aioray.exceptions import AuthenticationError
from aioray.runtime.dialing import TOKEN_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_VARIABLE, TOKEN_PATH_VARIABLE = "AIORAY_AUTH_TOKEN", "AIORAY_AUTH_TOKEN_PATH"
_TOKEN_NBYTES = 32


def make_token(session_dir: pathlib.Path, environ: Mapping[str, str]) -> str:
    """The token of a cluster to come, that of the environment or a new one, for this user alone to read."""
    token = _from_environment(environ) or secrets.token_hex(_TOKEN_NBYTES)
    keep_token(session_dir, token)
    return token


def keep_token(session_dir: pathlib.Path, token: str) -> None:
    """Write it where the processes of the node find it, for this user alone to read."""
    written = session_dir / f"{TOKEN_FILE}.new"
    fd = os.open(written, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(token)
    written.rename(session_dir / TOKEN_FILE)  # who waits for it must not find half of it


def find_token(environ: Mapping[str, str], path: str | None = None) -> str:
    """The token of a cluster to join: of the environment, or in the file. Raises AuthenticationError without one."""
    token = _from_environment(environ)
    if token is None and path:
        token = _read(path, "the token of the cluster")
    if token is None:
        raise AuthenticationError(
            f"a cluster's token is needed to join it: set {TOKEN_VARIABLE}, or {TOKEN_PATH_VARIABLE} to a file that has"
            f" it; the head's is in the file {TOKEN_FILE!r} of its session directory"
        )
    return token


def _from_environment(environ: Mapping[str, str]) -> str | None:
    if token := environ.get(TOKEN_VARIABLE, "").strip():
        return token
    if path := environ.get(TOKEN_PATH_VARIABLE):
        return _read(path, TOKEN_PATH_VARIABLE)
    return None


def _read(path: str, what: str) -> str:
    try:
        token = pathlib.Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise AuthenticationError(f"{what} cannot be read from {path}: {exc}") from exc
    if not token:
        raise AuthenticationError(f"{what}: {path} is empty")
    return token
