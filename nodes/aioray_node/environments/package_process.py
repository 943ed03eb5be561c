"""Packing and unpacking packages, in a process that ends with the node that started it."""

from __future__ import annotations

import os
import signal
import sys
import tarfile

from aioray.runtime_env import archives
from aioray.runtime_env.packages import listed, settle
from aioray_node.pool.zygote import hear_of_parents_end


def main() -> None:
    parent = os.getppid()
    hear_of_parents_end(signal.SIGKILL)
    if os.getppid() != parent:
        return
    what, directory, archive = sys.argv[1:]
    try:
        if what == "pack":
            archives.pack(directory, listed(directory), archive)
        else:
            making = f"{archive}-files"
            os.mkdir(making, 0o700)
            archives.unpack(archive, making)
            settle(making, directory)
    except (OSError, tarfile.TarError, EOFError) as exc:
        sys.exit(f"{what}: {exc}")


if __name__ == "__main__":
    main()
