"""Tunables: where their values come from, in which order, and what is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.config import Config, load
from aioray.exceptions import InvalidOptionError

NAMES = Config.__struct_fields__


def test_nothing_given_is_the_defaults() -> None:
    assert load(None, {}) == load({}, {"PATH": "/bin"}) == Config()
    assert Config().inline_max_nbytes == 102_400


def test_the_environment_beats_the_default_and_the_overrides_beat_the_environment() -> None:
    environ = {"AIORAY_lease_idle_ms": "20", "AIORAY_PIPELINE_MAX_DEPTH": "5", "AIORAY_log_prefix": "false"}
    config = load({"lease_idle_ms": 30}, environ)
    assert (config.lease_idle_ms, config.pipeline_max_depth, config.log_prefix) == (30.0, 5, False)
    assert isinstance(config.lease_idle_ms, float)


def test_the_name_as_it_stands_beats_the_one_in_capitals() -> None:
    assert load(None, {"AIORAY_PIPELINE_MAX_DEPTH": "5", "AIORAY_pipeline_max_depth": "6"}).pipeline_max_depth == 6


def test_variables_that_are_no_tunables_are_left_alone() -> None:
    assert load(None, {"AIORAY_ADDRESS": "10.0.0.1:6379"}) == Config()


def test_an_unknown_override_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidOptionError, match=r"did you mean inline_max_nbytes\?") as caught:
        load({"inline_max_bytes": 1}, {})
    assert caught.value.option == "inline_max_bytes"
    with pytest.raises(InvalidOptionError, match="no such tunable"):
        load({"zzzzz": 1}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inline_max_nbytes", -1),
        ("inline_max_nbytes", 1.5),
        ("inline_max_nbytes", True),
        ("inline_max_nbytes", None),
        ("inline_max_nbytes", "many"),
        ("lease_idle_ms", "nan"),
        ("lease_idle_ms", float("inf")),
        ("pipeline_max_depth", 0),
        ("prestart_workers", -2),
        ("object_store_fraction", 0),
        ("object_store_fraction", 1.1),
        ("zygote_preload", 3),
        ("log_prefix", "perhaps"),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        load({name: value}, {})
    assert caught.value.option == name
    assert caught.value.allowed


def test_an_error_in_the_environment_names_the_variable() -> None:
    with pytest.raises(InvalidOptionError, match=r"AIORAY_PIPELINE_MAX_DEPTH=.*>= 1"):
        load(None, {"AIORAY_PIPELINE_MAX_DEPTH": "0"})


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.integers(1, 1) for name in ("pipeline_max_depth", "worker_idle_reap_s")}
    )
)
def test_what_was_given_as_a_value_may_be_given_as_a_text(values: dict[str, int]) -> None:
    assert load(values, {}) == load(None, {f"AIORAY_{name}": str(value) for name, value in values.items()})


def test_a_config_crosses_the_wire() -> None:
    config = load({"zygote_preload": "numpy,pandas", "prestart_workers": 0}, {})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


@pytest.mark.parametrize("name", NAMES)
def test_every_default_is_within_its_own_range(name: str) -> None:
    assert load({name: getattr(Config(), name)}, {}) == Config()
