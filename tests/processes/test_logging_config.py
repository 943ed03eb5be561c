"""`init(logging_config=...)`: what root loggers write, in the driver, in tasks and in actors."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.job_config import JobConfig
from tests.processes.programs import run

if TYPE_CHECKING:
    import pathlib

LOGGING = """
import asyncio, json, logging
import aioray as ray

def ids():
    context = ray.get_runtime_context()
    return [context.get_job_id(), context.get_worker_id(), context.get_node_id(), context.get_task_id()]

@ray.remote
def task(text):
    logging.getLogger("mine").info("%s", text, extra={"more": {1, 2}.__class__})
    return ids()

@ray.remote
class Actor:
    async def method(self, text):
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception(text)
        logging.debug("too little")
        return [*ids(), ray.get_runtime_context().get_actor_id()]
"""


def records(err: str) -> dict[str, dict[str, Any]]:
    """Each line that was logged, by its message."""
    found = [json.loads(line) for line in err.splitlines()]
    return {record["message"]: record for record in found}


def test_records_in_json_say_which_call_they_are_from(tmp_path: pathlib.Path) -> None:
    out, err = run(
        tmp_path,
        LOGGING
        + """
config = ray.LoggingConfig(encoding="JSON", log_level="INFO", additional_log_standard_attrs=["name"])
ray.init(num_cpus=1, logging_config=config)
logging.getLogger("driver").warning("at the driver")
print(json.dumps(ids()))
print(json.dumps(ray.get(task.options(runtime_env={"env_vars": {"A": "b"}}).remote("in a task"))))
print(json.dumps(ray.get(Actor.options(name="Ada").remote().method.remote("in an actor"))))
ray.shutdown()
logging.warning("not ours any more")
""",
    )
    *of_records, last = err.splitlines()
    assert last == "WARNING:root:not ours any more"
    said = records("\n".join(of_records))
    driver, task, actor = (json.loads(line) for line in out.splitlines())
    assert set(said) == {"at the driver", "in a task", "in an actor"}

    names = ["job_id", "worker_id", "node_id", "task_id", "actor_id"]
    for message, ids in (("at the driver", driver), ("in a task", task), ("in an actor", actor)):
        expected = {name: value for name, value in zip(names, ids, strict=False) if value}
        assert {name: value for name, value in said[message].items() if name in names} == expected
    assert said["in a task"] | {"levelname": "INFO", "name": "mine", "task_name": "task"} == said["in a task"]
    assert said["in a task"]["filename"] == "program.py"
    assert said["in a task"]["more"] == "<class 'set'>"  # what JSON has no words for
    assert said["in an actor"] | {"actor_name": "Ada", "task_name": "Actor.method"} == said["in an actor"]
    assert said["in an actor"]["exc_text"].endswith("ZeroDivisionError: division by zero")


def test_text_is_one_line_with_the_ids_at_its_end(tmp_path: pathlib.Path) -> None:
    out, err = run(
        tmp_path,
        LOGGING
        + """
async def main():
    config = ray.job_config.JobConfig()
    config.set_py_logging_config(ray.LoggingConfig(log_level="DEBUG"))
    async with ray.connect(num_cpus=1, job_config=config):
        print((await task.remote("in a task"))[3])
logging.getLogger("asyncio").setLevel("INFO")
asyncio.run(main())
""",
    )
    (line,) = err.splitlines()
    assert re.fullmatch(
        r"\(task pid=\d+\) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO program.py:\d+ -- in a task more=<class 'set'>"
        rf" job_id=\w+ worker_id=\w+ node_id=\w+ task_id={out.strip()} task_name=task task_func_name=task"
        r" timestamp_ns=\d+",
        line,
    )


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"encoding": "XML"}, "encoding"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"additional_log_standard_attrs": ["naem"]}, "additional_log_standard_attrs"),
    ],
)
def test_a_logging_config_that_makes_no_sense_is_refused_where_it_is_made(given: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidOptionError) as it:
        aioray.LoggingConfig(**given)
    assert it.value.option == option


def test_what_is_no_logging_config_or_comes_twice_starts_nothing() -> None:
    twice = JobConfig()
    twice.set_py_logging_config(aioray.LoggingConfig())
    init: Any = aioray.init
    for given in (
        {"logging_config": {"encoding": "JSON"}},
        {"logging_config": aioray.LoggingConfig(), "job_config": twice},
    ):
        with pytest.raises(InvalidOptionError) as it:
            init(**given)
        assert it.value.option == "logging_config"
    assert not aioray.is_initialized()
    assert logging.getLogger().level == logging.WARNING
