"""JobConfig: options of a job in one object."""

from __future__ import annotations

from typing import Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.job_config import JobConfig


@aioray.remote
def facts() -> tuple[str, dict[str, Any]]:
    context = aioray.get_runtime_context()
    return context.namespace, context.runtime_env


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("as_dict", [True, False])
def test_a_job_config_is_what_init_takes_otherwise(as_dict: bool) -> None:
    given = {"ray_namespace": "mine", "runtime_env": {"env_vars": {"A": "1"}}}
    with aioray.init(num_cpus=1, job_config=given if as_dict else JobConfig.from_json(given)):
        namespace, env = aioray.get(facts.remote())
    assert namespace == "mine"
    assert env["env_vars"] == {"A": "1"}


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"job_config": 3}, "job_config"),
        ({"job_config": {"namespace": "x"}}, "namespace"),
        ({"job_config": {"metadata": {"a": "b"}}}, "metadata"),
        ({"job_config": {"jvm_options": ["-X"]}}, "jvm_options"),
        ({"job_config": {"ray_namespace": 3}}, "ray_namespace"),
        ({"job_config": {"default_actor_lifetime": "detached"}}, "default_actor_lifetime"),
        ({"job_config": {"ray_namespace": "a"}, "namespace": "b"}, "namespace"),
        ({"job_config": {"runtime_env": {}}, "runtime_env": {}}, "runtime_env"),
    ],
)
def test_a_job_config_that_makes_no_sense_starts_nothing(given: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidOptionError) as it:
        aioray.init(**given)
    assert it.value.option == option
    assert not aioray.is_initialized()
