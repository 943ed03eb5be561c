"""pip, in a process that ends with the node that started it."""

from __future__ import annotations

import os
import signal
import sys

from aioray_node.pool.zygote import hear_of_parents_end


def main() -> None:
    parent = os.getppid()
    hear_of_parents_end(signal.SIGKILL)  # and so does pip: that survives exec
    if os.getppid() == parent:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "pip", *sys.argv[1:]])


if __name__ == "__main__":
    main()
