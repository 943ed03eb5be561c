"""Apart from `packages`, which takes longer to import than most programs need."""

from __future__ import annotations


class PackageError(ValueError):
    """What was given cannot be a package: it is not there, is too large, or is no archive."""
