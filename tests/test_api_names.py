"""Ray's public names, by area: each is here, documented, or says that it is not there yet.

What a name does is shown by the test that `shown.py` has for it; here, that each is known, and works or is refused.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray.options import TABLE

# Where a name is imported from, and the names that are there. What is no class, function or module has no docstring.
PRESENT = {
    "aioray": """
        init connect disconnect shutdown is_initialized remote method get put wait as_completed cancel kill get_actor
        explain get_gpu_ids get_runtime_context LoggingConfig nodes cluster_resources available_resources ObjectRef
        ObjectRefGenerator DynamicObjectRefGenerator ActorID NodeID JobID WorkerID TaskID ObjectID PlacementGroupID
        checkpoint Actor ActorClass ActorHandle Cluster
        actor util exceptions runtime_context runtime_env dag cloudpickle experimental job_config
        testing cluster_utils timeline
        """,
    "aioray.actor": "exit_actor ActorHandle",
    "aioray.cloudpickle": "dumps loads CloudPickler",
    "aioray.cluster_utils": "Cluster",
    "aioray.dag": "InputNode MultiOutputNode DAGNode FunctionNode ClassNode ClassMethodNode InputAttributeNode",
    "aioray.exceptions": """
        RayError RayTaskError RayActorError ActorDiedError ActorUnavailableError TaskCancelledError WorkerCrashedError
        NodeDiedError GetTimeoutError ObjectLostError ObjectReconstructionFailedError
        ObjectReconstructionFailedMaxAttemptsExceededError ObjectReconstructionFailedLineageEvictedError OwnerDiedError
        ObjectFreedError ObjectFetchTimedOutError ReferenceCountingAssertionError ObjectStoreFullError OutOfDiskError
        OutOfMemoryError RuntimeEnvSetupError TaskPlacementGroupRemoved ActorPlacementGroupRemoved
        PendingCallsLimitExceeded TaskUnschedulableError ActorUnschedulableError ActorAlreadyExistsError
        AuthenticationError AsyncioActorExit ObjectRefStreamEndOfStreamError UnserializableException RaySystemError
        """,
    "aioray.experimental": "get_object_locations get_local_object_locations",
    "aioray.job_config": "JobConfig",
    "aioray.runtime_context": "RuntimeContext get_runtime_context",
    "aioray.runtime_env": "RuntimeEnv",
    "aioray.testing": "LocalCluster",
    "aioray.util": """
        ActorPool as_completed map_unordered inspect_serializability register_serializer deregister_serializer
        list_named_actors get_node_ip_address ActorGroup Executor log_once tqdm
        placement_group placement_group_table get_placement_group get_current_placement_group remove_placement_group
        queue multiprocessing joblib collective actor_group iter accelerators state metrics
        """,
    "aioray.util.actor_group": "ActorGroup",
    "aioray.util.iter": "from_items from_range from_iterators from_actors ParallelIterator LocalIterator",
    "aioray.util.joblib": "register_ray register_aioray",
    "aioray.util.metrics": "Counter Gauge Histogram prometheus_text",
    "aioray.util.multiprocessing": "Pool",
    "aioray.util.placement_group": """
        PlacementGroup placement_group placement_group_table get_placement_group get_current_placement_group
        remove_placement_group
        """,
    "aioray.util.queue": "Queue Empty Full",
    "aioray.util.scheduling_strategies": """
        NodeAffinitySchedulingStrategy NodeLabelSchedulingStrategy In NotIn Exists DoesNotExist
        PlacementGroupSchedulingStrategy
        """,
    "aioray.util.state": """
        list_actors list_jobs list_nodes list_placement_groups list_tasks
        get_actor get_node get_placement_group get_task summarize_actors summarize_tasks
        """,
}

MEMBERS = {
    "ObjectRef": "hex binary task_id job_id future is_nil nil from_random",
    "runtime_context.RuntimeContext": """
        job_id node_id worker_id task_id actor_id namespace gcs_address runtime_env current_actor
        was_current_actor_reconstructed is_canceled get_job_id get_node_id get_worker_id get_task_id get_actor_id
        get_runtime_env_string get_actor_name get_task_name get_task_function_name get_assigned_resources
        get_accelerator_ids get_node_labels get_placement_group_id should_capture_child_tasks_in_placement_group
        get_session_name get_temp_dir
        """,
    "ActorHandle": "__ray_ready__ __ray_call__ __ray_terminate__",
    "dag.DAGNode": "execute experimental_compile",
    "cluster_utils.Cluster": "add_node remove_node wait_for_nodes list_all_nodes connect address shutdown",
}

# Not there yet: to ask for one says so, by its name, and to import it fails as importing what is not there does.
LATER = {
    "aioray": """
        progress data tune serve train job_submission autoscaler integrations
        """,
    "aioray.util": """
        rpdb
        """,
}

INIT = [
    "address",
    "num_cpus",
    "num_gpus",
    "resources",
    "labels",
    "object_store_memory",
    "ignore_reinit_error",
    "include_dashboard",
    "dashboard_host",
    "dashboard_port",
    "job_config",
    "configure_logging",
    "logging_level",
    "logging_format",
    "logging_config",
    "log_to_driver",
    "namespace",
    "runtime_env",
    "_system_config",
    "_temp_dir",
    "_node_ip_address",
    "inline",
]

OF_BOTH = [
    "num_cpus",
    "num_gpus",
    "memory",
    "object_store_memory",
    "resources",
    "accelerator_type",
    "label_selector",
    "fallback_strategy",
    "scheduling_strategy",
    "placement_group",
    "placement_group_bundle_index",
    "placement_group_capture_child_tasks",
    "runtime_env",
    "name",
    "enable_task_events",
]
OF_TASKS = [
    "num_returns",
    "max_retries",
    "retry_exceptions",
    "max_calls",
    "_generator_backpressure_num_objects",
    "speculative",
    "_labels",
    "timeout",
    "deadline",
]
OF_ACTORS = [
    "max_concurrency",
    "max_restarts",
    "max_task_retries",
    "max_pending_calls",
    "lifetime",
    "namespace",
    "get_if_exists",
    "concurrency_groups",
    "allow_out_of_order_execution",
    "isolation",
    "_labels",
]


def pairs(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(where, name) for where, text in names.items() for name in text.split()]


@pytest.mark.parametrize(("module", "name"), pairs(PRESENT))
def test_a_name_is_where_ray_has_it_and_is_documented(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert inspect.getdoc(found), f"{module}.{name} has no docstring"


@pytest.mark.parametrize(("owner", "name"), pairs(MEMBERS))
def test_a_member_is_there_and_is_documented(owner: str, name: str) -> None:
    found: Any = aioray
    for part in owner.split("."):
        found = getattr(found, part)
    if name.startswith("__ray_"):  # of every handle, whatever its class
        return
    assert inspect.getdoc(inspect.getattr_static(found, name)), f"{owner}.{name} has no docstring"


@pytest.mark.parametrize(("module", "name"), pairs(LATER))
def test_a_name_of_later_says_so(module: str, name: str) -> None:
    """When this fails because the name is there now: move it from LATER to PRESENT, and take it out of `later.py`."""
    found = importlib.import_module(module)
    assert not hasattr(found, name)
    with pytest.raises(AttributeError, match=rf"{module}\.{name} is not there yet \(.+\): README.md says what is"):
        getattr(found, name)
    with pytest.raises(ImportError, match=rf"cannot import name '{name}' from '{module}'"):
        exec(f"from {module} import {name}")
    with pytest.raises(ModuleNotFoundError, match=rf"No module named '{module}.{name}'"):
        importlib.import_module(f"{module}.{name}")


def test_what_nobody_has_is_no_name_of_later() -> None:
    with pytest.raises(AttributeError, match="module 'aioray' has no attribute 'reomte'"):
        aioray.reomte  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'aioray\.util' has no attribute 'Actorpool'"):
        aioray.util.Actorpool  # noqa: B018


def test_starting_does_not_import_what_a_program_may_never_need() -> None:
    program = (
        "import sys, aioray\n"
        "late = {'cloudpickle', 'dag', 'experimental', 'job_config', 'util'}\n"
        "assert not {f'aioray.{name}' for name in late} & set(sys.modules)\n"
        "assert late <= set(dir(aioray))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_all_of_the_package_is_public_and_there() -> None:
    assert sorted(aioray.__all__) == sorted(set(aioray.__all__))
    assert {name for where, name in pairs(PRESENT) if where == "aioray"} <= set(aioray.__all__)
    for name in aioray.__all__:
        getattr(aioray, name)


# options

# What asks for something that is not there yet, and must be refused rather than ignored.
ASKS_FOR_MORE: dict[str, Any] = {
    "dashboard_host": "0.0.0.0",
    "dashboard_port": 8265,
    "include_dashboard": True,
}
# Each of the others does what it says: `shown.py` names a test for each.
WORKS_IN_INIT = [
    "inline",
    "address",
    "labels",
    "num_cpus",
    "num_gpus",
    "resources",
    "object_store_memory",
    "ignore_reinit_error",
    "job_config",
    "configure_logging",
    "logging_level",
    "logging_format",
    "logging_config",
    "log_to_driver",
    "namespace",
    "runtime_env",
    "_system_config",
    "_temp_dir",
    "_node_ip_address",
]


def is_refused(owner: str, name: str) -> bool:
    """Whether an option of "task", "actor" or "init" is not there yet: of tasks and actors, all are."""
    return owner == "init" and name not in WORKS_IN_INIT


def test_the_table_has_every_option_of_tasks_and_of_actors() -> None:
    assert set(OF_BOTH + OF_TASKS) <= set(TABLE["task"])
    assert set(OF_BOTH + OF_ACTORS) <= set(TABLE["actor"])


@pytest.mark.parametrize("name", [name for name in INIT if name not in WORKS_IN_INIT])
def test_what_init_cannot_do_yet_is_refused_by_name_before_anything_starts(name: str) -> None:
    init: Any = aioray.init
    with pytest.raises(InvalidOptionError, match="not there yet") as it:
        init(**{name: ASKS_FOR_MORE[name]})
    assert it.value.option == name
    assert not aioray.is_initialized()


@pytest.mark.parametrize("name", WORKS_IN_INIT)
def test_what_init_takes_is_in_its_signature_and_in_its_words(name: str) -> None:
    assert name in inspect.signature(aioray.init).parameters
    assert name in (aioray.init.__doc__ or "")
