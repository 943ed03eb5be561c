"""Length-prefixed msgpack frames: four bytes of length (little endian), then one message.

Bad input becomes WireError at this one door.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from aioray.wire.calls import CallMessage
from aioray.wire.control import ControlMessage
from aioray.wire.plans import Passed

MAX_FRAME_NBYTES = 1 << 30
_PREFIX = struct.Struct("<I")
_unpack_prefix = _PREFIX.unpack_from
_encode_into = msgspec.msgpack.Encoder().encode_into

call_decoder: msgspec.msgpack.Decoder[CallMessage] = msgspec.msgpack.Decoder(CallMessage)
passed_decoder: msgspec.msgpack.Decoder[Passed] = msgspec.msgpack.Decoder(Passed)
control_decoder: msgspec.msgpack.Decoder[ControlMessage] = msgspec.msgpack.Decoder(ControlMessage)


class WireError(Exception):
    """The peer sent bytes that are no frame of ours; its connection is closed."""


def append_frame(out: bytearray, message: msgspec.Struct) -> None:
    """Encode one message at the end of `out`. What cannot be encoded raises, and leaves `out` as it was."""
    at = len(out)
    out += b"\0\0\0\0"
    try:
        _encode_into(message, out, -1)
        nbytes = len(out) - at - 4
        if nbytes > MAX_FRAME_NBYTES:
            raise OverflowError(f"a message of {nbytes} bytes is too large, at most {MAX_FRAME_NBYTES} are allowed")
    except BaseException:  # half a frame would make rubbish of all that follows
        del out[at:]
        raise
    _PREFIX.pack_into(out, at, nbytes)


def fill_frame(frame: bytearray, message: msgspec.Struct) -> None:
    """Make `frame`, which has four bytes or more, that of one small message."""
    _encode_into(message, frame, 4)
    _PREFIX.pack_into(frame, 0, len(frame) - 4)


def one_frame(data: memoryview, nbytes: int, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """The message, where the first `nbytes` of `data` are just one frame; else None. Less work than `split_frames`."""
    if nbytes < 4 or _unpack_prefix(data, 0)[0] != nbytes - 4:
        return None
    try:
        return decoder.decode(data[4:nbytes])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(f"{nbytes - 4} bytes are no message of ours: {exc}") from exc


def split_frames(data: bytes | bytearray | memoryview, decoder: msgspec.msgpack.Decoder[Any]) -> tuple[list[Any], int]:
    """Decode the whole frames in `data`; return them and how many bytes they took."""
    messages = []
    at, end = 0, len(data)
    decode = decoder.decode
    with memoryview(data) as view:
        while end - at >= 4:
            (length,) = _unpack_prefix(data, at)
            if length > MAX_FRAME_NBYTES:
                raise _too_long(length)
            stop = at + 4 + length
            if stop > end:
                break
            try:
                messages.append(decode(view[at + 4 : stop]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:  # of text, of nesting
                raise WireError(f"{length} bytes are no message of ours: {exc}") from exc
            at = stop
    return messages, at


def announced_nbytes(data: bytes | bytearray | memoryview) -> int:
    """How long the first, not yet complete frame in `data` will be, prefix included; 0 when not known yet."""
    if len(data) < 4:
        return 0
    length = int(_unpack_prefix(data, 0)[0])
    if length > MAX_FRAME_NBYTES:
        raise _too_long(length)
    return length + 4


def _too_long(length: int) -> WireError:
    return WireError(f"a frame of {length} bytes was announced, at most {MAX_FRAME_NBYTES} are allowed")
