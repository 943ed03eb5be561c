"""Names of Ray's that are not there yet: who asks for one is told so, and not that it is a mistake."""

from __future__ import annotations

_BY_MODULE = {
    "aioray": {
        "autoscaler": "clusters of more than one machine",
        "data": "the library",
        "integrations": "integrations (ours)",
        "job_submission": "jobs",
        "progress": "progress of tasks",
        "serve": "the library",
        "train": "the library",
        "tune": "the library",
    },
    "aioray.util": {
        "rpdb": "a debugger that attaches",
    },
}


def missing(module: str, name: str) -> AttributeError:
    """What to raise for a name that a module has not."""
    subject = _BY_MODULE.get(module, {}).get(name)
    if subject is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    return AttributeError(f"{module}.{name} is not there yet ({subject}): README.md says what is", name=name)
