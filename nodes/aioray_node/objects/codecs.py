"""What chunks may be compressed with between nodes. The packages are extras, imported when a codec is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioray.exceptions import InvalidOptionError
from aioray.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

CODECS = ("", "lz4", "zstd")
_ALLOWED = "'lz4', 'zstd', or '' for none"


class Codec(Record, frozen=True):
    """`decompress(data, nbytes)` gives `nbytes` bytes, or raises ValueError."""

    name: str
    compress: Callable[[memoryview], bytes]
    decompress: Callable[[bytearray, int], bytes]


def find(name: str) -> Codec | None:
    """The codec of that name; None for "". Raises InvalidOptionError where there is none, or its package is not."""
    if name == "":
        return None
    if name not in CODECS:
        raise InvalidOptionError("transfer_codec", name, _ALLOWED, "no such codec")
    try:
        return _lz4() if name == "lz4" else _zstd()
    except ImportError:
        reason = f"its package is not installed: pip install 'aioray[{name}]'"
        raise InvalidOptionError("transfer_codec", name, _ALLOWED, reason) from None


def _lz4() -> Codec:
    from lz4 import block

    def compress(data: memoryview) -> bytes:
        return bytes(block.compress(data, store_size=False))

    def decompress(data: bytearray, nbytes: int) -> bytes:
        try:
            return bytes(block.decompress(data, uncompressed_size=nbytes))
        except block.LZ4BlockError as exc:
            raise ValueError(str(exc)) from exc

    return Codec("lz4", compress, decompress)


def _zstd() -> Codec:
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()

    def decompress(data: bytearray, nbytes: int) -> bytes:
        try:
            return decompressor.decompress(bytes(data), max_output_size=nbytes)
        except zstandard.ZstdError as exc:
            raise ValueError(str(exc)) from exc

    return Codec("zstd", compressor.compress, decompress)
