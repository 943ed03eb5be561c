"""What a worker is started with: variables, devices, and a Python of its own where a fork would not do."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from aioray.config import Config
from aioray.runtime_env.environment import Environment
from aioray.wire.control import ForkWorker
from aioray_node.gpus import visible_environ

if TYPE_CHECKING:
    from collections.abc import Callable

_START = (
    "import json, sys; told = json.loads(sys.argv[1]); sys.argv = ['']; sys.path[:] = told['sys_path'];"
    " from aioray_node.worker.surroundings import start_again; start_again(told)"
)


def live(order: ForkWorker, config: Config, run: Callable[[ForkWorker, Config], None]) -> None:
    """The life of a worker that was just forked."""
    environment = Environment.of(order.environment)
    environment.set_variables()
    os.environ.update(visible_environ(order.gpus, hide_at_zero=config.hide_gpus_at_zero, given=environment.env_vars))
    if environment.needs_fresh_python:  # else what the zygote has imported would stand for what pip has installed
        _exec(order, config)
    environment.enter(order.session_dir)
    run(order, config)


def _exec(order: ForkWorker, config: Config) -> NoReturn:
    told = {
        "worker_id": order.worker_id,
        "session_dir": order.session_dir,
        "environment": order.environment,
        "gpus": order.gpus,
        "config": msgspec.to_builtins(config),
        "sys_path": sys.path,
    }
    os.execv(sys.executable, [sys.executable, "-P", "-c", _START, json.dumps(told)])


def start_again(told: dict[str, Any]) -> None:
    """The same worker, in a Python that has imported nothing yet."""
    from aioray_node.pool.zygote import end_with
    from aioray_node.worker.main import run_worker  # imported before what is installed for it can be found

    order = ForkWorker(told["worker_id"], told["session_dir"], told["environment"], tuple(told["gpus"]))
    config = msgspec.convert(told["config"], Config)

    def run() -> None:
        Environment.of(order.environment).enter(order.session_dir)
        run_worker(order, config)

    end_with(run)
