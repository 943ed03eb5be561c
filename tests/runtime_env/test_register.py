from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from aioray.exceptions import InvalidOptionError
from aioray.runtime_env import RuntimeEnv, archives
from aioray.runtime_env.environment import Environment, package_dir
from aioray.runtime_env.resolving import Environments

if TYPE_CHECKING:
    import pathlib


class Head:
    """What a process asks it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.pieces: list[bytes] = []
        self.has_room = True
        self.user = b"job"

    def ask(self, what: str, **args: Any) -> Any:
        if what == "put_package":
            if not self.has_room:
                raise ValueError("the key-value store has no room")
            assert args["index"] == len(self.pieces)
            self.pieces.append(args["data"])
        self.asked.append((what, args))
        return "7" if what == "begin_package" else None

    def whats(self) -> list[str]:
        return [what for what, _ in self.asked]

    def environments(self, session_dir: str) -> Environments:
        return Environments("", session_dir, 10 << 20, self.ask, lambda: self.user)


@pytest.fixture
def head() -> Head:
    return Head()


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "data.bin").write_bytes(os.urandom(3 << 20))
    return directory


def test_a_copy_is_offered_once_for_each_who_uses_it(head: Head, source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    environments = head.environments(str(tmp_path / "session"))
    text = environments.resolve(RuntimeEnv(working_dir=source))
    assert environments.resolve(RuntimeEnv(working_dir=source)) == text
    head.user = b"actor"
    environments.resolve(RuntimeEnv(working_dir=source))
    name = os.path.basename(Environment.of(text).working_dir)
    assert head.asked == [("offer_package", {"name": name, "user": user}) for user in (b"job", b"actor")]


def test_without_a_node_on_this_machine_it_is_sent_once(
    head: Head, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """
    1. a directory and a module go in pieces, and nothing of that stays here
    2. again it is not sent; what comes out at a node is what went in
    """
    environments = head.environments("")
    env = RuntimeEnv(working_dir=source)
    environment = Environment.of(environments.resolve(env))
    assert not os.path.isabs(environment.working_dir)
    assert package_dir("/session", environment.working_dir) == f"/session/environments/{environment.working_dir}"
    assert head.whats() == ["begin_package", *["put_package"] * len(head.pieces), "package_sent"]
    sent = {"name": environment.working_dir, "upload": "7", "pieces": len(head.pieces), "error": ""}
    assert head.asked[-1] == ("package_sent", sent)
    assert len(head.pieces) > 2
    environments.resolve(env)
    assert len(head.asked) == len(head.pieces) + 2
    (tmp_path / "archive").write_bytes(b"".join(head.pieces))
    (tmp_path / "target").mkdir()
    archives.unpack(str(tmp_path / "archive"), str(tmp_path / "target"))
    assert (tmp_path / "target/data.bin").read_bytes() == (source / "data.bin").read_bytes()


def test_what_cannot_be_sent_is_refused_at_the_call_and_the_head_is_told(head: Head, source: pathlib.Path) -> None:
    head.has_room = False
    environments = head.environments("")
    with pytest.raises(InvalidOptionError, match=r"py_modules: it cannot be sent to the cluster: .* has no room"):
        environments.resolve(RuntimeEnv(py_modules=[source]))
    assert head.asked[-1][0] == "package_sent"
    assert head.asked[-1][1]["error"] == "the key-value store has no room"
    head.has_room = True
    environments.resolve(RuntimeEnv(py_modules=[source]))
    assert head.asked[-1][1]["error"] == ""
