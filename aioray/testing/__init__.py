"""For tests of programs that use aioray: clusters of many nodes on this machine, which leave nothing behind."""

from aioray.testing.local_cluster import LocalCluster
from aioray.testing.process_nodes import LocalNode

__all__ = ["LocalCluster", "LocalNode"]
