"""register_serializer makes a class fit to be sent; inspect_serializability says why something is not."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from aioray import cloudpickle
from aioray.exceptions import InvalidOptionError, SerializationError
from aioray.util import deregister_serializer, inspect_serializability, register_serializer
from tests.util.classes import Custom, Locked, double_task, make_custom, one_more, to_custom, to_number, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def registered() -> Iterator[None]:
    register_serializer(Custom, serializer=to_number, deserializer=to_custom)
    yield
    deregister_serializer(Custom)


@pytest.mark.usefixtures("registered")
def test_a_registered_class_goes_to_tasks_and_comes_back_from_them(shared_ray: Any) -> None:
    """
    1. the driver, which registered it, sends one
    2. a task that was given one can send one back: the functions came with it
    """
    assert shared_ray.get(value_of.remote(Custom(5))) == 5
    assert shared_ray.get(one_more.remote(Custom(5))).value == 6
    assert shared_ray.get(shared_ray.put([Custom(7)]))[0].value == 7


def test_a_task_that_makes_such_objects_itself_registers_them_itself(shared_ray: Any) -> None:
    try:
        assert shared_ray.get(make_custom.remote(3)).value == 3
    finally:
        deregister_serializer(Custom)  # receiving one has registered it here


def test_functions_without_a_name_will_do(shared_ray: Any) -> None:
    register_serializer(Locked, serializer=lambda obj: obj.value, deserializer=lambda value: Locked(10 * value))
    try:
        assert shared_ray.get(value_of.remote(Locked(2))) == 20
    finally:
        deregister_serializer(Locked)


def test_after_deregistering_everything_is_as_before(shared_ray: Any) -> None:
    register_serializer(Custom, serializer=to_number, deserializer=to_custom)
    register_serializer(Custom, serializer=to_number, deserializer=to_custom)  # again: the last one counts
    assert pickle.loads(pickle.dumps(Custom(1))).value == 1
    deregister_serializer(Custom)
    deregister_serializer(Custom)
    assert Custom not in copyreg.dispatch_table
    with pytest.raises(SerializationError, match=r"args\[0\]\.lock"):
        value_of.remote(Custom(1))


def test_what_is_of_a_module_that_workers_do_not_have_travels_by_value_where_that_was_said(
    shared_ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As argument, inside a container that was put, and as a result; the class is the same one when it comes back."""
    module = types.ModuleType("only_here")
    code = "class Point:\n    def __init__(self, x): self.x = x\ndef double(p): return Point(p.x * 2)\n"
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    cloudpickle.register_pickle_by_value(module)
    try:
        double = shared_ray.remote(module.double)
        assert shared_ray.get(double.remote(module.Point(2))).x == 4
        assert type(shared_ray.get(shared_ray.put([module.Point(1)]))[0]) is module.Point
        assert type(shared_ray.get(double.remote(module.Point(2)))) is module.Point
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_only_classes_and_functions_are_taken() -> None:
    with pytest.raises(TypeError, match="for a class, not for a int"):
        register_serializer(5, serializer=to_number, deserializer=to_custom)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="never be called"):
        register_serializer(dict, serializer=to_number, deserializer=to_custom)
    with pytest.raises(TypeError, match="deserializer must be callable"):
        register_serializer(Custom, serializer=to_number, deserializer=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="for a class"):
        deregister_serializer("Custom")  # type: ignore[arg-type]


# inspecting


def test_what_can_be_sent_is_said_to_be_so(shared_ray: Any) -> None:
    printed = io.StringIO()
    assert inspect_serializability([1, "a", shared_ray.put(1)], name="things", print_file=printed) == (True, set())
    assert printed.getvalue() == "things can be sent to another process\n"
    assert inspect_serializability(double_task, print_file=printed)[0]


def test_each_culprit_is_named_by_the_path_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = threading.Lock(), threading.Lock()
    value = {"a": [1, first], "b": Locked(1), "c": {"deep": second}}
    fine, failures = inspect_serializability(value, name="value", depth=5)
    assert not fine
    assert {failure.name: failure.obj for failure in failures} == {
        "value['a'][1]": first,
        "value['b'].lock": value["b"].lock,  # type: ignore[attr-defined]
        "value['c']['deep']": second,
    }
    printed = capsys.readouterr().out
    assert printed.startswith("value cannot be sent to another process, since 3 parts of it cannot:\n")
    assert "value['b'].lock (a lock): TypeError: cannot pickle '_thread.lock' object" in printed


def test_what_a_function_has_captured_is_looked_into(capsys: pytest.CaptureFixture[str]) -> None:
    lock = threading.Lock()

    def uses_it() -> Any:
        return lock

    fine, failures = inspect_serializability(uses_it)
    assert not fine
    assert [failure.obj for failure in failures] == [lock]
    assert "uses_it" in capsys.readouterr().out


def test_depth_limits_how_far_it_looks() -> None:
    lock = threading.Lock()
    _, failures = inspect_serializability([[[lock]]], name="nest", depth=1, print_file=io.StringIO())
    assert [failure.name for failure in failures] == ["nest[0]"]
    with pytest.raises(InvalidOptionError, match="depth"):
        inspect_serializability(1, depth=0)
