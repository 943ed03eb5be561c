"""A single Call as bytes, without a frame: what a constructor is created with, and created again with."""

from __future__ import annotations

import msgspec

from aioray.wire.calls import Call

_decoder = msgspec.msgpack.Decoder(Call)


def decode_call(data: bytes) -> Call:
    """A single encoded Call."""
    return _decoder.decode(data)


def encode_call(call: Call) -> bytes:
    """The opposite of `decode_call`."""
    return msgspec.msgpack.encode(call)
