"""Small things of Ray's API: refs to nothing, where objects are, the pickler of code."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioray
from aioray import ObjectRef, cloudpickle
from aioray.exceptions import InvalidOptionError, ObjectLostError
from aioray.experimental import get_local_object_locations, get_object_locations
from tests.api.support import started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    with started(num_cpus=1):
        yield aioray


@aioray.remote
def same(value: Any) -> Any:
    return value


@aioray.remote
def is_nil(refs: list[ObjectRef[Any]]) -> bool:
    return refs[0].is_nil() and refs[0] is ObjectRef.nil()


def test_there_is_one_ref_to_nothing(machine: Any) -> None:
    nil = ObjectRef.nil()
    assert nil.is_nil()
    assert nil is ObjectRef.nil()
    assert nil.binary() == bytes(16)
    assert copy.deepcopy([nil]) == [nil]
    assert pickle.loads(pickle.dumps(nil)) is nil
    assert aioray.get(is_nil.remote([nil]))
    assert aioray.get(same.remote([nil]))[0] is nil
    with pytest.raises(ObjectLostError, match="nothing makes it"):
        aioray.get(nil)


def test_random_refs_differ_and_are_to_nothing(machine: Any) -> None:
    one, other = ObjectRef.from_random(), ObjectRef.from_random()
    assert one != other
    assert not one.is_nil()
    assert aioray.get(same.remote([one]))[0] is one
    with pytest.raises(ObjectLostError, match=one.hex()):
        aioray.get(one)
    with pytest.raises(ObjectLostError, match=one.hex()):
        aioray.get(same.remote(one))
    assert aioray.wait([one, other], num_returns=2) == ([one, other], [])


def test_locations_of_objects_are_told(machine: Any) -> None:
    small, large = aioray.put(b"x"), aioray.put(np.zeros(1 << 20))
    nil = ObjectRef.nil()
    here = [aioray.get_runtime_context().get_node_id()]
    found = get_object_locations([small, large, nil])
    assert [found[ref]["node_ids"] for ref in (small, large, nil)] == [here, here, []]
    assert found[small]["object_size"] < 100 < 8 << 20 <= found[large]["object_size"]
    assert found[nil]["object_size"] is None
    assert not any(each["did_spill"] for each in found.values())
    assert get_local_object_locations([large]) == {large: found[large]}
    with pytest.raises(InvalidOptionError, match="timeout_ms"):
        get_object_locations([small], timeout_ms=-2)
    with pytest.raises(TypeError, match="takes refs"):
        get_object_locations([1])  # type: ignore[list-item]


def test_cloudpickle_is_at_hand() -> None:
    factor = 3
    code = cloudpickle.dumps(lambda x: x * factor)
    assert cloudpickle.loads(code)(2) == 6
    assert issubclass(cloudpickle.CloudPickler, pickle.Pickler)
