"""What is written to the journal, and how it looks there. Pure.

A record is of a kind and has a key; a later one of the same key replaces the one before. Its version says how its data
is laid out: a change that a reader would get wrong makes a new version. Fields are appended within one.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from aioray.wire.values import Value


class RecordError(ValueError):
    """What the journal has is no record that we know: damaged, or of a later release."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Field order is the format: append fields with defaults, never reorder."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def key(self) -> bytes:
        raise NotImplementedError


class CheckpointRecord(Record, frozen=True):
    """The newest checkpoint of an actor. Of one in shared memory (`value.nbytes`) the bytes are the record's blob."""

    kind: ClassVar[str] = "checkpoint"

    actor_id: bytes
    restarts: int  # the life that took it
    value: Value

    @property
    def key(self) -> bytes:
        return self.actor_id


_KINDS: dict[str, type[Record]] = {each.kind: each for each in (CheckpointRecord,)}
_encoder = msgspec.msgpack.Encoder()


def encode(record: Record) -> bytes:
    """The data of a record; its kind, key and version stand beside it."""
    return _encoder.encode(record)


def decode(kind: str, version: int, data: bytes) -> Record:
    """Raises RecordError."""
    record_type = _KINDS.get(kind)
    if record_type is None:
        raise RecordError(f"no such kind of record: {kind!r}")
    if version != record_type.version:
        raise RecordError(f"a {kind} of version {version}; this release knows version {record_type.version}")
    try:
        return msgspec.msgpack.decode(data, type=record_type)
    except msgspec.DecodeError as exc:
        raise RecordError(f"a {kind} that is damaged: {exc}") from None
