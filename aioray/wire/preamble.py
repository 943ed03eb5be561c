"""The first bytes over TCP, from who dials: that it speaks our protocol, in which version, and knows the token. Pure.

They have a fixed length and no structure: until they are right, nothing that a stranger sends is decoded. The proof is
no token, so who reads it cannot open the GCS with it; but it can be sent again, and what follows can be read. TLS is
for networks where that matters.
"""

from __future__ import annotations

import hmac
import struct

from aioray.wire.control import PROTOCOL_VERSION

_MAGIC = b"aioray"
_HEAD = struct.Struct("<6sH")
_PROOF_NBYTES = 32
PREAMBLE_NBYTES = _HEAD.size + _PROOF_NBYTES


def preamble(token: str, version: int = PROTOCOL_VERSION) -> bytes:
    """What to send first."""
    head = _HEAD.pack(_MAGIC, version)
    return head + hmac.digest(token.encode(), b"line " + head, "sha256")


def what_is_wrong(received: bytes, token: str) -> str:
    """Why this is not the preamble of one of ours; "" when it is, or may become one when more has come."""
    if not _MAGIC.startswith(received[: len(_MAGIC)]):
        return "what it sent first is not what aioray says first"
    if len(received) < _HEAD.size:
        return ""
    _, version = _HEAD.unpack_from(received)
    if version != PROTOCOL_VERSION:
        return f"protocol version {version} was offered, this cluster speaks {PROTOCOL_VERSION}"
    if len(received) >= PREAMBLE_NBYTES and not hmac.compare_digest(received, preamble(token)):
        return "it does not know the token of this cluster"
    return ""
