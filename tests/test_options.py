"""The option table: what is accepted, what becomes of it, and that nothing is accepted and then ignored."""

import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.exceptions import InvalidOptionError
from aioray.options import (
    ACTOR_DEFAULTS,
    METHOD_DEFAULTS,
    TABLE,
    TASK_DEFAULTS,
    ActorOptions,
    Kind,
    MethodOptions,
    Option,
    TaskOptions,
    actor_options,
    method_options,
    task_options,
)
from aioray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ROWS = [(kind, row) for kind in TABLE for row in TABLE[kind].values()]
MIB = 1024 * 1024


def options(kind: Kind, given: dict[str, Any]) -> TaskOptions | ActorOptions | MethodOptions:
    match kind:
        case "task":
            return task_options(given)
        case "actor":
            return actor_options(given)
        case "method":
            return method_options(given)


def refused(kind: Kind, **given: Any) -> InvalidOptionError:
    with pytest.raises(InvalidOptionError) as caught:
        options(kind, given)
    return caught.value


def test_the_defaults_are_those_of_ray() -> None:
    task, actor = task_options({}), actor_options({})
    assert (task.num_returns, task.max_retries) == (None, 3)
    assert (actor.max_restarts, actor.max_task_retries, actor.max_pending_calls) == (0, 0, -1)
    assert task.demand() == {"CPU": 10_000}
    assert actor.placement_demand() == {"CPU": 10_000}
    assert actor.running_demand() == actor.demand() == {}


def test_an_actor_with_num_cpus_holds_them_while_it_runs_too() -> None:
    actor = actor_options({"num_cpus": 0.5})
    assert actor.placement_demand() == actor.running_demand() == {"CPU": 5_000}
    assert actor_options({"num_cpus": 0}).placement_demand() == {}


def test_a_demand_counts_in_ten_thousandths_and_leaves_out_zeros() -> None:
    task = task_options({"num_cpus": 0, "num_gpus": 0.25, "memory": 100 * MIB, "resources": {"a": 0.0001, "b": 0}})
    assert task.demand() == {"GPU": 2_500, "memory": 100 * MIB * 10_000, "a": 1}


def test_a_demand_is_computed_once() -> None:
    task = task_options({"num_gpus": 1})
    assert task.demand() is task.demand()


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_every_option_has_a_field_and_every_field_a_row(kind: Kind, row: Option) -> None:
    defaults: Any = {"task": TASK_DEFAULTS, "actor": ACTOR_DEFAULTS, "method": METHOD_DEFAULTS}[kind]
    derived = {"_demand", "_placement", "_running", "_strategy"}
    names = set(defaults.__struct_fields__) - derived
    assert row.name in names
    assert names <= TABLE[kind].keys()


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_every_default_and_none_may_be_given(kind: Kind, row: Option) -> None:
    assert options(kind, {row.name: row.default}) == options(kind, {})
    assert (options(kind, {row.name: None}) == options(kind, {})) != row.takes_none


@pytest.mark.parametrize("name", ["num_cpus", "num_gpus", "memory"])
@pytest.mark.parametrize("value", [-1, True, "1", math.nan, math.inf, 1e300, 10**400, [], 0.00001, -0.5])
def test_an_amount_that_cannot_be_is_refused(name: str, value: Any) -> None:
    for kind in TABLE:
        if name in TABLE[kind]:
            assert refused(kind, **{name: value}).option == name
    if name != "memory":
        assert "x: " in refused("task", resources={"x": value}).reason


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("task", {"num_gpus": 1.5}),
        ("task", {"memory": 1.5}),
        ("task", {"resources": {"CPU": 1}}),
        ("task", {"resources": {"GPU": 1}}),
        ("task", {"resources": {"memory": 1}}),
        ("task", {"resources": {3: 1}}),
        ("task", {"resources": {"": 1}}),
        ("task", {"resources": ["a"]}),
        ("task", {"_labels": {"team": 1}}),
        ("task", {"_labels": ["team"]}),
        ("task", {"speculative": 1}),
        ("task", {"num_returns": -1}),
        ("task", {"num_returns": 32769}),  # an id has 16 bits for which of the values it is
        ("task", {"num_returns": 1.0}),
        ("task", {"num_returns": True}),
        ("task", {"num_returns": "dynamik"}),
        ("task", {"_generator_backpressure_num_objects": 0}),
        ("task", {"_generator_backpressure_num_objects": -2}),
        ("task", {"_generator_backpressure_num_objects": 1.5}),
        ("task", {"max_retries": -2}),
        ("task", {"retry_exceptions": ValueError}),
        ("task", {"retry_exceptions": [ValueError("an instance")]}),
        ("task", {"retry_exceptions": 1}),
        ("task", {"retry_exceptions": [KeyboardInterrupt]}),
        ("method", {"retry_exceptions": [SystemExit]}),
        ("method", {"retry_exceptions": ValueError}),
        ("method", {"name": ""}),
        ("task", {"max_calls": -1}),
        ("task", {"timeout": 0}),
        ("method", {"timeout": -1}),
        ("method", {"deadline": "soon"}),
        ("task", {"name": ""}),
        ("task", {"name": 3}),
        ("task", {"scheduling_strategy": "SPRAED"}),
        ("task", {"scheduling_strategy": object()}),
        ("task", {"scheduling_strategy": NodeAffinitySchedulingStrategy}),
        ("actor", {"scheduling_strategy": None, "label_selector": ["a"]}),
        ("task", {"label_selector": {"a": 1}}),
        ("task", {"label_selector": {"a/b/c": "x"}}),
        ("task", {"label_selector": {"": "x"}}),
        ("task", {"label_selector": {"a": "!"}}),
        ("task", {"label_selector": {"a": "in()"}}),
        ("actor", {"label_selector": {"a": "in(b,,c)"}}),
        ("actor", {"label_selector": {"a": "in(b"}}),
        ("actor", {"label_selector": {"a": "two words"}}),
        ("actor", {"label_selector": {"a": "x" * 64}}),
        ("task", {"fallback_strategy": {"label_selector": {}}}),
        ("task", {"fallback_strategy": [{"a": "b"}]}),
        ("task", {"fallback_strategy": [{"label_selector": {"a": "b"}, "num_cpus": 1}]}),
        ("actor", {"fallback_strategy": [{"label_selector": {"a": "!!b"}}]}),
        ("task", {"runtime_env": {"env_vars": {"A": 1}}}),
        ("actor", {"runtime_env": {"env_var": {}}}),
        ("actor", {"accelerator_type": 3}),
        ("actor", {"max_concurrency": 0}),
        ("actor", {"lifetime": "forever"}),
        ("actor", {"get_if_exists": 1}),
        ("actor", {"max_restarts": -2}),
        ("actor", {"max_restarts": False}),
        ("actor", {"max_task_retries": -2}),
        ("actor", {"max_pending_calls": 0}),
        ("actor", {"allow_out_of_order_execution": 1}),
        ("actor", {"namespace": ""}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_for_good(kind: Kind, given: dict[str, Any]) -> None:
    error = refused(kind, **given)
    assert error.option in given
    assert "not there yet" not in str(error)
    assert error.allowed in str(error)


def test_an_unknown_option_is_refused_with_the_nearest_and_all_names() -> None:
    error = refused("task", num_cpu=1)
    assert "did you mean num_cpus?" in str(error)
    assert "max_retries" in error.allowed
    assert "max_restarts" not in error.allowed
    assert "did you mean" not in str(refused("actor", zzzzz=1))


def test_an_option_of_the_other_kind_is_refused_and_says_whose_it_is() -> None:
    assert "only actors do" in str(refused("task", max_restarts=0))
    assert "only tasks and methods do" in str(refused("actor", num_returns=1))
    assert "only tasks and actors do" in str(refused("method", num_cpus=1))
    assert "only methods do" in str(refused("actor", concurrency_group="io"))


def test_task_events_can_be_turned_off() -> None:
    assert task_options({}).enable_task_events
    assert not task_options({"enable_task_events": False}).enable_task_events
    assert not actor_options({"enable_task_events": False}).enable_task_events
    assert refused("task", enable_task_events="no").reason == "not a bool"


def test_options_are_laid_over_a_base() -> None:
    base = task_options({"num_cpus": 2, "name": "a", "resources": {"x": 1}})
    over = task_options({"name": None, "num_gpus": 1}, base)
    assert (over.num_cpus, over.num_gpus, over.name, over.resources) == (2.0, 1.0, None, {"x": 1.0})
    assert over.demand() == {"CPU": 20_000, "GPU": 10_000, "x": 10_000}
    assert base.name == "a"
    assert task_options({}, base) is base
    held = actor_options({"lifetime": "detached"}, actor_options({"num_cpus": 2}))
    assert (held.lifetime, held.running_demand()) == ("detached", {"CPU": 20_000})


def test_options_are_values() -> None:
    one, other = (actor_options({"resources": {"x": 1}, "max_concurrency": 4}) for _ in range(2))
    assert one == other
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again.placement_demand() == one.placement_demand()
    with pytest.raises(AttributeError):
        one.name = "x"  # type: ignore[misc]


def test_what_the_user_does_to_the_dict_later_changes_nothing() -> None:
    resources = {"x": 1.0}
    task = task_options({"resources": resources})
    resources["x"] = 2.0
    assert task.resources == {"x": 1.0}


def test_numbers_of_numpy_and_computed_floats_are_fine() -> None:
    task = task_options({"num_cpus": np.int64(2), "num_gpus": np.float64(0.5), "memory": 0.5 * 1024**3})
    assert (task.num_cpus, task.num_gpus, task.memory) == (2.0, 0.5, 512 * MIB)
    assert task_options({"num_cpus": 0.1 + 0.2}).demand() == {"CPU": 3_000}
    assert task_options({"num_cpus": sum([0.1] * 10)}).demand() == {"CPU": 10_000}


@given(st.integers(0, 10**9))
def test_any_whole_number_of_units_is_counted_exactly(units: int) -> None:
    task = task_options({"num_cpus": units / 10_000, "resources": {"x": Fraction(units, 10_000)}})
    assert task.demand() == ({"CPU": units, "x": units} if units else {})


@given(st.integers(0, 10**9), st.floats(0.01, 0.99))
def test_any_finer_amount_is_refused(units: int, part: float) -> None:
    assert refused("task", num_cpus=(units + part) / 10_000).reason == "finer than 0.0001"


@given(st.integers(0, 2**63 // 10_000 - 1))
def test_memory_is_counted_to_the_byte(nbytes: int) -> None:
    assert task_options({"num_cpus": 0, "memory": nbytes}).demand().get("memory", 0) == nbytes * 10_000


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dictionaries(st.text(), st.floats())


@given(st.sampled_from(ROWS), values)
def test_any_value_is_taken_or_refused_by_name(case: tuple[Kind, Option], value: Any) -> None:
    kind, row = case
    try:
        taken = options(kind, {row.name: value})
    except InvalidOptionError as exc:
        error = pickle.loads(pickle.dumps(exc))
    else:
        if not isinstance(taken, MethodOptions):
            assert all(0 < units < 2**63 for units in taken.demand().values())
        return
    assert (error.option, error.allowed) == (row.name, row.allowed)
