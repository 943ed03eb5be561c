"""Joining a cluster of which no node runs on this machine: its GCS says where its head is."""

from __future__ import annotations

import http.client
import os
from typing import TYPE_CHECKING

import msgspec

from aioray.exceptions import AuthenticationError, RaySystemError
from aioray.runtime.tls import client_tls
from aioray.wire.gcs import (
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    QUESTION_PATH,
    ClusterStatus,
    Question,
    answer_decoder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_S = 10.0


def head_of(gcs_address: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where the head listens, as host:port. Blocking.

    The token comes from the environment. Raises AuthenticationError, ConnectionError, RaySystemError.
    """
    from aioray_node.gcs.access import find_token

    status = msgspec.convert(_ask(gcs_address, find_token(environ), "status", environ), ClusterStatus)
    for member in status.members:
        if member.end is None and member.facts.is_head:
            for address in member.facts.addresses:
                if not address.startswith("/"):
                    return address
    raise RaySystemError(f"the head of the cluster at {gcs_address} does not listen for programs on other machines")


def _ask(address: str, token: str, what: str, environ: Mapping[str, str]) -> object:
    tls = client_tls(environ)
    host, _, port = address.rpartition(":")
    where = (host.strip("[]"), int(port))
    connection = (
        http.client.HTTPConnection(*where, timeout=_TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(*where, timeout=_TIMEOUT_S, context=tls)
    )
    headers = {"Authorization": f"Bearer {token}", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
    try:
        connection.request("POST", QUESTION_PATH, msgspec.msgpack.encode(Question(what)), headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise ConnectionError(f"the GCS at {address} does not answer: {exc or type(exc).__name__}") from None
    finally:
        connection.close()
    if response.status == 401:
        raise AuthenticationError(f"the GCS at {address} refused this process: {body.decode(errors='replace')}")
    if response.status != 200:
        raise RaySystemError(f"the GCS at {address} refused this process: {body.decode(errors='replace')}")
    answer = answer_decoder.decode(body)
    if answer.error:
        raise RaySystemError(answer.error)
    return answer.data
