"""The key-value store of the GCS: bytes by namespace and key, in memory, bounded. Pure.

Who does not hear an answer asks again with the same request id, and is answered the same.
"""

from __future__ import annotations

from msgspec import field

from aioray.record import Record

_REMEMBERED = 10_000  # answers to requests that have changed something
_OVERHEAD_NBYTES = 100  # what an entry takes beside key and value


class KvFull(LookupError):
    """There is no room for that value."""


class State(Record):
    max_nbytes: int
    nbytes: int = 0
    spaces: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    answers: dict[bytes, bool] = field(default_factory=dict)  # request id -> what was answered; oldest first


def put(state: State, namespace: str, key: bytes, value: bytes, *, overwrite: bool, request_id: bytes) -> bool:
    """Whether the key is new. Raises KvFull, and changes nothing then."""
    if request_id in state.answers:
        return state.answers[request_id]
    space = state.spaces.get(namespace, {})
    before = space.get(key)
    if before is None or overwrite:
        freed = 0 if before is None else _nbytes(key, before)
        nbytes = state.nbytes - freed + _nbytes(key, value)
        if nbytes > state.max_nbytes:
            raise KvFull(
                f"the key-value store has no room for {len(value)} bytes: it holds {state.nbytes}, and may hold"
                f" gcs_kv_max_nbytes={state.max_nbytes}"
            )
        state.nbytes = nbytes
        state.spaces.setdefault(namespace, space)[key] = value
    return _remember(state, request_id, before is None)


def get(state: State, namespace: str, key: bytes) -> bytes | None:
    return state.spaces.get(namespace, {}).get(key)


def delete(state: State, namespace: str, key: bytes, *, request_id: bytes) -> bool:
    """Whether it was there."""
    if request_id in state.answers:
        return state.answers[request_id]
    space = state.spaces.get(namespace, {})
    value = space.pop(key, None)
    if value is not None:
        state.nbytes -= _nbytes(key, value)
        if not space:
            del state.spaces[namespace]
    return _remember(state, request_id, value is not None)


def delete_all(state: State, namespace: str, prefix: bytes) -> None:
    """All keys that begin so."""
    space = state.spaces.get(namespace, {})
    for key in [key for key in space if key.startswith(prefix)]:
        state.nbytes -= _nbytes(key, space.pop(key))
    if not space:
        state.spaces.pop(namespace, None)


def keys(state: State, namespace: str, prefix: bytes, limit: int) -> list[bytes]:
    """In the order in which they came."""
    found = (key for key in state.spaces.get(namespace, {}) if key.startswith(prefix))
    return [key for key, _ in zip(found, range(limit), strict=False)]


def check(state: State) -> None:
    """Assert what holds between any two calls."""
    held = [_nbytes(key, value) for space in state.spaces.values() for key, value in space.items()]
    assert state.nbytes == sum(held) <= state.max_nbytes, state
    assert all(state.spaces.values()), f"an empty namespace is kept: {state}"
    assert len(state.answers) <= _REMEMBERED, state


def _nbytes(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD_NBYTES


def _remember(state: State, request_id: bytes, answer: bool) -> bool:
    state.answers[request_id] = answer
    if len(state.answers) > _REMEMBERED:
        del state.answers[next(iter(state.answers))]
    return answer
