"""log_once."""

from __future__ import annotations

import threading

_lock = threading.Lock()
_seen: set[str] = set()  # of this process: "once" means nothing else


def log_once(key: str) -> bool:
    """Whether this is the first call with `key` in this process: `if log_once("slow"): log.warning(...)`."""
    if not isinstance(key, str):
        raise TypeError(f"log_once takes a text, not a {type(key).__name__}")
    with _lock:
        first = key not in _seen
        _seen.add(key)
    return first
