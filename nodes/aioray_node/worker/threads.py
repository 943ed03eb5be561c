"""How many threads numeric libraries may use: as many as the call has CPUs."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ThreadLimit:
    """Sets OMP/BLAS threads per call; does nothing while the count stays the same."""

    def __init__(self) -> None:
        # A user who set OMP_NUM_THREADS knows better. The zygote's own value is 1 and does not count.
        self._fixed = os.environ.get("OMP_NUM_THREADS", "1") != "1"
        self._count = 1
        self._limits: Any = None

    def apply(self, num_cpus: float) -> None:
        """Allow ceil(num_cpus) threads, one at least."""
        count = max(1, math.ceil(num_cpus))
        if count == self._count or self._fixed:
            return
        self._count = count
        for name in _VARIABLES:  # for what is loaded later
            os.environ[name] = str(count)
        if "numpy" in sys.modules:  # what is loaded already no longer looks at the environment
            import threadpoolctl

            self._limits = threadpoolctl.threadpool_limits(limits=count)
