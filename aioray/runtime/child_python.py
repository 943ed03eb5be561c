"""Starting a fresh Python that imports what this one does, whatever lies in its working directory."""

from __future__ import annotations

import json
import os
import sys

_CODE = "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); from {module} import main; main()"


def command(module: str, *arguments: str, also_from: str = "") -> list[str]:
    """What to execute so that `module.main()` finds `arguments` in sys.argv; `also_from`: one more import directory.

    The path goes as an argument: PYTHONPATH would reach whatever the user's code starts, and `-m` would look in the
    working directory first, where there may be anything.
    """
    paths = [path or os.getcwd() for path in sys.path] + ([also_from] if also_from else [])
    return [sys.executable, "-P", "-c", _CODE.format(module=module), json.dumps(paths), *arguments]
