"""pip, in a process that ends with the node that started it."""

from __future__ import annotations

import os
import sys

from aioray_node.pool.zygote import die_with_parent


def main() -> None:
    parent = os.getppid()
    die_with_parent()  # and so does pip: that survives exec
    if os.getppid() == parent:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "pip", *sys.argv[1:]])


if __name__ == "__main__":
    main()
