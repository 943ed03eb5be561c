"""The command `aioray`: start, stop and look at clusters."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import aioray
from aioray.cli import listing, metrics, nodes, status
from aioray.exceptions import InvalidOptionError, RayError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with 0, with 1 when it cannot be done, and with 2 for bad options; the reason goes to stderr."""
    parser = argparse.ArgumentParser(prog="aioray", description="Start, stop and look at clusters.")
    parser.add_argument("--version", action="version", version=f"aioray {aioray.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    nodes.add_commands(commands)
    status.add_command(commands)
    listing.add_commands(commands)
    metrics.add_command(commands)
    given = parser.parse_args(arguments)
    try:
        sys.exit(given.run(given))
    except InvalidOptionError as exc:
        if exc.option in vars(given):  # as it is written here, not as in Python
            exc.option = f"--{exc.option.replace('_', '-')}"
        print(f"aioray: {exc}", file=sys.stderr)
        sys.exit(2)
    except (RayError, ConnectionError) as exc:
        print(f"aioray: {exc}", file=sys.stderr)
        sys.exit(1)
