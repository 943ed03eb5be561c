"""`aioray metrics`: what is counted and measured in a cluster, as Prometheus reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_command(commands: Any) -> None:
    """Add it to the parser's subcommands."""
    metrics = commands.add_parser("metrics", help="of programs and nodes, as text", description=_metrics.__doc__)
    metrics.add_argument(
        "--address", default="auto", metavar="HOST:PORT", help="of the cluster (default: the newest on this machine)"
    )
    metrics.add_argument("--temp-dir", metavar="DIRECTORY")
    metrics.set_defaults(run=_metrics)


def _metrics(given: argparse.Namespace) -> int:
    """Print all metrics in the text format of Prometheus, which reads the same at http://HOST:PORT/metrics, with the
    cluster's token as a bearer token."""
    import msgspec

    from aioray.cluster_questions import ask_cluster
    from aioray.prometheus_text import rendered
    from aioray.wire.metrics import Metric

    _, found = ask_cluster(given.address, given.temp_dir, "metrics")
    print(rendered(msgspec.convert(found, list[Metric])), end="")
    return 0
