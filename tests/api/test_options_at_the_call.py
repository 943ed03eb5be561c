"""Bad options, and a cluster that is started, used and ended in every order: it fails where the mistake is."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

import aioray as ray
from aioray.exceptions import InvalidOptionError, RaySystemError
from tests.api.support import started

if TYPE_CHECKING:
    from collections.abc import Iterator


@ray.remote
def same(value: Any) -> Any:
    return value


@pytest.fixture
def nothing_runs(nothing_left: None) -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_cpus", -1),
        ("num_cpus", "2"),
        ("num_cpus", 0.00001),
        ("num_cpus", float("inf")),
        ("num_gpus", 1.5),
        ("memory", 1.5),
        ("resources", {"CPU": 1}),
        ("resources", {"x": -1}),
        ("resources", ["x"]),
        ("num_returns", "x"),
        ("num_returns", -1),
        ("max_retries", -2),
        ("scheduling_strategy", "SOMEWHERE"),
        ("name", ""),
        ("num_cpu", 1),
        ("max_concurrency", 2),
    ],
)
def test_a_bad_option_of_a_task_is_named_with_its_value_wherever_it_is_given(option: str, value: Any) -> None:
    for give in (
        lambda: ray.remote(**{option: value}),
        lambda: ray.remote(**{option: value})(lambda: None),
        lambda: same.options(**{option: value}),
        lambda: same._remote(args=(1,), **{option: value}),
    ):
        if give.__code__.co_names[:1] == ("ray",) and "remote" in give.__code__.co_names:
            give = lambda: ray.remote(**{option: value})(lambda: None)  # noqa: E731 # without a target it cannot know
        with pytest.raises(InvalidOptionError) as caught:
            give()
        assert caught.value.option == option
        assert repr(value) in str(caught.value)
        assert option in str(caught.value)


def test_remote_takes_functions_and_classes_and_options_by_name() -> None:
    with pytest.raises(TypeError, match="not for int"):
        ray.remote(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="by name"):
        ray.remote(lambda: 1, num_cpus=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="remote already"):
        ray.remote(same)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_cpus", -1),
        ("num_cpus", True),
        ("num_cpus", "4"),
        ("num_cpus", float("inf")),
        ("num_cpus", 0.00001),
        ("num_gpus", float("nan")),
        ("resources", {"CPU": 1}),
        ("resources", {"object_store_memory": 1}),
        ("resources", {"x": "1"}),
        ("resources", {"x": float("inf")}),
        ("resources", {"": 1}),
        ("resources", {1: 1}),
        ("resources", ["x"]),
        ("object_store_memory", 5),
        ("object_store_memory", 1 << 60),
        ("object_store_memory", "1GB"),
        ("address", "10.0.0.1"),
        ("address", "10.0.0.1:port"),
        ("address", 6379),
        ("include_dashboard", True),
        ("include_dashboard", 0),
        ("dashboard_host", ""),
        ("dashboard_port", 0),
        ("inline", 1),
        ("inline", None),
        ("_node_ip_address", "192.0.2.1"),
        ("_node_ip_address", "0.0.0.0"),
        ("_node_ip_address", "localhost"),
        ("_node_ip_address", 5),
        ("namespace", 5),
        ("log_to_driver", "no"),
        ("_temp_dir", 7),
        ("logging_level", "LOUD"),
        ("no_such_option", None),
        ("no_such_option", 1),
        ("runtime_env", {"conda": "x"}),
        ("num_gpus", 0.5),
        ("_system_config", {"no_such_tunable": 1}),
        ("_system_config", {"lease_idle_ms": "soon"}),
    ],
)
def test_a_bad_option_of_init_is_named_with_its_value_and_nothing_is_started(
    nothing_runs: None, option: str, value: Any
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        ray.init(**{option: value})
    inner = next(iter(value)) if option == "_system_config" else option
    assert caught.value.option == inner
    assert inner in str(caught.value)
    assert not ray.is_initialized()


def test_what_asks_for_no_dashboard_may_be_said(nothing_runs: None) -> None:
    nothing: dict[str, Any] = {"dashboard_host": None, "dashboard_port": None}
    with ray.init(num_cpus=1, include_dashboard=False, **nothing) as context:
        assert context.dashboard_url is None


@pytest.mark.parametrize("inline", [False, True])
def test_a_head_with_an_address_is_joined_there_from_elsewhere(
    nothing_runs: None, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    async def square_there(address: str) -> int:
        with tempfile.TemporaryDirectory() as elsewhere:  # where no node of this machine is found
            async with ray.connect(address, _temp_dir=elsewhere) as cluster:
                assert cluster.address_info["address"].startswith("127.0.0.2:")
                there: int = await same.remote(9)
                return there

    with ray.init(num_cpus=1, _node_ip_address="127.0.0.2", inline=inline) as context:
        assert asyncio.run(joined("auto")) == context["node_id"]
        assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.2"
        assert context["gcs_address"].startswith("127.0.0.2:")
        monkeypatch.setenv("AIORAY_AUTH_TOKEN", pathlib.Path(context["token_path"]).read_text())
        assert asyncio.run(square_there(context["gcs_address"])) == 9
        with pytest.raises(InvalidOptionError, match=r"_node_ip_address.*runs already"):
            asyncio.run(joined_with_an_address(context["gcs_address"]))


async def joined(address: str) -> str:
    async with ray.connect(address) as cluster:
        there: str = cluster.address_info["node_id"]
        return there


async def joined_with_an_address(address: str) -> None:
    await ray.connect(address, _node_ip_address="127.0.0.1")


def test_a_place_for_sessions_that_cannot_be_used_is_an_error_of_init(
    nothing_runs: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RaySystemError, match="file"):
        ray.init(num_cpus=1, _temp_dir=str(tmp_path / "file"))
    assert not ray.is_initialized()
    with pytest.raises(InvalidOptionError, match=r"_temp_dir=.*too long for sockets.*at most \d+ bytes"):
        ray.init(num_cpus=1, _temp_dir=str(tmp_path / ("long" * 25)))
    with tempfile.TemporaryDirectory() as short, ray.init(num_cpus=1, _temp_dir=f"{short}/new") as context:
        assert context["session_dir"].startswith(f"{short}/new/")
        assert ray.get(same.remote(1)) == 1


def test_init_twice_is_an_error_unless_it_is_said_not_to_be(nothing_runs: None) -> None:
    context = ray.init(num_cpus=1)
    with pytest.raises(RuntimeError, match="shutdown"):
        ray.init()
    again = ray.init(num_cpus=7, ignore_reinit_error=True)
    assert again.address_info == context.address_info
    assert ray.cluster_resources()["CPU"] == 1
    assert ray.get(same.remote(1)) == 1


def test_a_task_or_actor_is_in_its_cluster_and_starts_no_other(nothing_runs: None) -> None:
    def init_again() -> Any:
        with pytest.raises(RuntimeError, match="a task or actor has a cluster"):
            ray.init()
        with ray.init(num_cpus=7, ignore_reinit_error=True) as context:
            pass
        ray.shutdown()  # as in a program that is imported: ends nothing
        return context["session_dir"], ray.is_initialized(), same.remote(1)

    class Asynchronous:
        async def init_again(self) -> Any:
            return init_again()

    context = ray.init(num_cpus=2)
    for ref in (ray.remote(init_again).remote(), ray.remote(Asynchronous).remote().init_again.remote()):
        session, is_initialized, call = ray.get(ref)
        assert (session, is_initialized, ray.get(call)) == (context["session_dir"], True, 1)


def test_the_logger_of_the_package_is_configured_as_init_says(
    nothing_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("aioray")
    before = logger.level, logger.handlers[:], logger.propagate
    try:
        with ray.init(num_cpus=1, configure_logging=False, logging_level="ERROR", logging_format="never"):
            assert (logger.level, logger.handlers[:], logger.propagate) == before
        with ray.init(num_cpus=1, logging_level="WARNING", logging_format="%(levelname)s! %(message)s"):
            logger.info("too little")
            logger.warning("enough")
        assert capsys.readouterr().err == "WARNING! enough\n"
    finally:
        logger.level, logger.handlers[:], logger.propagate = before


def test_init_and_shutdown_five_times_in_a_row(nothing_runs: None) -> None:
    @ray.remote
    def number(n: int) -> int:
        return n + 1

    sessions = set()
    for n in range(5):
        assert not ray.is_initialized()
        context = ray.init(num_cpus=1)
        assert ray.is_initialized()
        sessions.add(context["session_dir"])
        assert ray.get(number.remote(n)) == n + 1
        assert ray.get(ray.put(b"x" * 200_000)) == b"x" * 200_000
        ray.shutdown()
        ray.shutdown()
    assert len(sessions) == 5


def test_with_init_ends_the_cluster_also_when_the_block_raises(nothing_runs: None) -> None:
    def fail() -> None:
        with ray.init(num_cpus=1):
            assert ray.get(same.remote(1)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not ray.is_initialized()


def test_a_first_call_without_init_starts_a_cluster(nothing_runs: None) -> None:
    assert not ray.is_initialized()
    assert ray.get(same.remote(1)) == 1
    assert ray.is_initialized()


def test_the_resources_of_the_machine_are_what_init_said() -> None:
    with started(num_cpus=3, num_gpus=1, resources={"disk": 0.5}, object_store_memory=32.0 * 2**20):
        total = ray.cluster_resources()
        assert (total["CPU"], total["GPU"], total["disk"]) == (3, 1, 0.5)
        assert total["object_store_memory"] == 32 << 20
        (node,) = ray.nodes()
        assert node["Alive"]
        assert node["Resources"]["CPU"] == 3
        assert ray.available_resources()["disk"] == 0.5
        here = {f"node:{ray.util.get_node_ip_address()}": 0.01, "node:__internal_head__": 0.001}
        assert ray.get(same.options(resources=here).remote(1), timeout=20) == 1


def test_a_node_without_cpus_takes_what_asks_for_none(caplog: pytest.LogCaptureFixture) -> None:
    with started(num_cpus=0):
        assert ray.get(same.options(num_cpus=0).remote(1), timeout=20) == 1
        ref = same.remote(2)
        assert ray.wait([ref], timeout=0.1) == ([], [ref])
        assert "CPU" in ray.explain(ref)


def test_threads_that_need_a_cluster_at_the_same_time_start_one(nothing_runs: None) -> None:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: results.append(ray.get(same.remote(n)))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]


def test_a_name_for_a_call_shows_in_its_error(nothing_runs: None) -> None:
    with started(num_cpus=1):

        @ray.remote
        def fail() -> None:
            raise ValueError("v")

        for name in ("first", "second"):
            with pytest.raises(ValueError, match=f"{name}\\(\\) failed"):
                ray.get(fail.options(name=name).remote())
        with pytest.raises(ValueError, match=r"fail\(\) failed"):
            ray.get(fail.remote())
