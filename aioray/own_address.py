"""An IP address of this machine, at which others are to reach it."""

from __future__ import annotations

import ipaddress
import socket

from aioray.exceptions import InvalidOptionError

_ALLOWED = "an IP address of this machine, as others reach it"


def checked_ip(option: str, text: object) -> str:
    """`text`, if a node can listen there. Raises InvalidOptionError that names the option."""
    if not isinstance(text, str):
        raise InvalidOptionError(option, text, _ALLOWED)
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as exc:
        raise InvalidOptionError(option, text, _ALLOWED, str(exc)) from None
    if ip.is_unspecified or ip.is_multicast:
        raise InvalidOptionError(option, text, _ALLOWED, "nobody can dial it")
    with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError as exc:
            raise InvalidOptionError(option, text, _ALLOWED, f"{exc.strerror}") from None
    return str(ip)
