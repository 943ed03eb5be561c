"""The key-value store of the GCS."""

from __future__ import annotations

import itertools
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioray_node.gcs import kv


class Store:
    """Each request has an id of its own, and is sent twice."""

    def __init__(self, max_nbytes: int = 10_000) -> None:
        self.state = kv.State(max_nbytes)
        self._ids = itertools.count()

    def put(self, key: bytes, value: bytes, namespace: str = "", *, overwrite: bool = True) -> bool:
        request_id = b"%08d" % next(self._ids)
        first, again = (
            kv.put(self.state, namespace, key, value, overwrite=overwrite, request_id=request_id) for _ in range(2)
        )
        kv.check(self.state)
        assert first == again
        return first

    def delete(self, key: bytes, namespace: str = "") -> bool:
        request_id = b"%08d" % next(self._ids)
        first, again = (kv.delete(self.state, namespace, key, request_id=request_id) for _ in range(2))
        kv.check(self.state)
        assert first == again
        return first


def test_values_are_kept_by_namespace_and_key() -> None:
    store = Store()
    assert store.put(b"k", b"1")
    assert store.put(b"k", b"2", "other")
    assert not store.put(b"k", b"3"), "it was there"
    assert not store.put(b"k", b"4", overwrite=False)
    assert kv.get(store.state, "", b"k") == b"3"
    assert kv.get(store.state, "other", b"k") == b"2"
    assert kv.get(store.state, "", b"none") is None
    assert store.delete(b"k")
    assert not store.delete(b"k")
    assert kv.get(store.state, "", b"k") is None


def test_keys_are_found_by_what_they_begin_with() -> None:
    store = Store()
    for key in (b"a1", b"b1", b"a2", b"a3"):
        store.put(key, b"")
    assert kv.keys(store.state, "", b"a", 2) == [b"a1", b"a2"]
    assert kv.keys(store.state, "", b"", 9) == [b"a1", b"b1", b"a2", b"a3"]
    assert kv.keys(store.state, "none", b"", 9) == []


def test_all_keys_that_begin_alike_are_deleted_together() -> None:
    store = Store()
    for key in (b"a1", b"b1", b"a2"):
        store.put(key, b"value", "space")
    for prefix, left in ((b"a", [b"b1"]), (b"none", [b"b1"]), (b"", []), (b"", [])):
        kv.delete_all(store.state, "space", prefix)
        kv.check(store.state)
        assert kv.keys(store.state, "space", b"", 9) == left
    assert store.state.nbytes == 0


def test_a_store_that_is_full_refuses_and_changes_nothing() -> None:
    store = Store(max_nbytes=1000)
    store.put(b"k", bytes(500))
    with pytest.raises(kv.KvFull, match="gcs_kv_max_nbytes=1000"):
        store.put(b"other", bytes(500))
    with pytest.raises(kv.KvFull):
        store.put(b"k", bytes(1000))
    assert kv.get(store.state, "", b"k") == bytes(500)
    store.put(b"k", b"", overwrite=True)
    store.put(b"other", bytes(500))


keys = st.sampled_from([b"a", b"b", b"c"])
steps = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=300), st.booleans()), st.tuples(st.just("delete"), keys)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=40))
def test_it_is_a_dict_with_bounds(story: list[tuple[str, bytes, object, object]]) -> None:
    store, model = Store(max_nbytes=600), dict[bytes, bytes]()
    for what, key, *args in story:
        if what == "delete":
            assert store.delete(key) == (model.pop(key, None) is not None)
            continue
        value, overwrite = cast("tuple[bytes, bool]", args)
        try:
            is_new = store.put(key, value, overwrite=overwrite)
        except kv.KvFull:
            continue
        assert is_new == (key not in model)
        if is_new or overwrite:
            model[key] = value
    assert {key: kv.get(store.state, "", key) for key in (b"a", b"b", b"c")} == {
        key: model.get(key) for key in (b"a", b"b", b"c")
    }
