"""The pickler of code, under Ray's name for it: what aioray itself uses where plain pickle cannot do it."""

from __future__ import annotations

from cloudpickle import (
    CloudPickler,
    dump,
    dumps,
    load,
    loads,
    register_pickle_by_value,
    unregister_pickle_by_value,
)

__all__ = [
    "CloudPickler",
    "dump",
    "dumps",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]
