"""GPUs, where there are none: what is found in files that look like a machine with some, and who gets which."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError
from aioray_node import gpus
from aioray_node.gpus import Gpu, device_files, find, nvidia_smi
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib

A100, T4 = "NVIDIA A100-SXM4-40GB", "Tesla T4"


def machine(root: pathlib.Path, models: list[str], minors: list[int]) -> pathlib.Path:
    (root / "dev").mkdir(exist_ok=True)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in minors)):
        (root / "dev" / name).touch()
    for minor, model in enumerate(models):
        directory = root / f"proc/driver/nvidia/gpus/0000:0{minor}:00.0"
        directory.mkdir(parents=True)
        (directory / "information").write_text(f"Model: \t\t {model}\nIRQ: 1\nDevice Minor: \t {minor}\n")
    return root


def test_gpus_are_found_by_their_files_and_only_those_that_are_there(tmp_path: pathlib.Path) -> None:
    assert device_files(tmp_path) is None
    machine(tmp_path, [A100, A100, T4], minors=[0, 2])  # a container that was given two of three
    assert device_files(tmp_path) == [A100, T4]


def test_gpus_are_found_by_nvidia_smi(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{A100}'\necho '{T4}'\n")
    tool.chmod(0o755)
    assert nvidia_smi() == [A100, T4]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert nvidia_smi() is None


@pytest.mark.parametrize(
    ("visible", "num_gpus", "ids"),
    [
        (None, None, ["0", "1", "2"]),
        (None, 2, ["0", "1"]),
        (None, 4, ["0", "1", "2", "3"]),
        (None, 0, []),
        ("2,0", None, ["2", "0"]),
        ("2,0", 1, ["2"]),
        ("", None, []),
        ("1,-1,2", None, ["1"]),
        ("GPU-8f2a, GPU-77c1", None, ["GPU-8f2a", "GPU-77c1"]),
    ],
)
def test_what_is_visible_to_the_driver_is_the_nodes(visible: str | None, num_gpus: int | None, ids: list[str]) -> None:
    environ = {} if visible is None else {gpus.VISIBLE: visible}
    assert [gpu.device_id for gpu in find(num_gpus, environ, [lambda: None, lambda: [A100, A100, T4]])] == ids


def test_more_gpus_than_are_visible_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match=r"num_gpus=3.*at most 2, as CUDA_VISIBLE_DEVICES='0,1' says"):
        find(3, {gpus.VISIBLE: "0,1"}, [lambda: [A100] * 4])


def test_where_there_are_none_variables_make_none() -> None:
    assert find(None, {gpus.VISIBLE: "0,1"}, [lambda: None]) == []


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (A100, "A100"), (T4, "T4"), ("NVIDIA H100 80GB HBM3", "H100"), ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA A10G", "A10G"), ("NVIDIA L40S", "L40S"), ("NVIDIA GeForce RTX 4090", "RTX-4090"), ("", ""),
    ],
)  # fmt: skip
def test_the_kind_of_a_gpu_is_in_its_model(model: str, kind: str) -> None:
    assert Gpu("0", model).kind == kind
    assert gpus.kinds([Gpu("0", model)]) == ({f"accelerator_type:{kind}": 1.0} if kind else {})


# with real workers, and GPUs that are only counted


@pytest.fixture(scope="module")
def ray() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(gpus.VISIBLE, "4,7")
        with started(num_cpus=4, num_gpus=2, resources={"accelerator_type:A100": 1}):
            yield aioray


def what_is_here() -> tuple[list[int], str, int]:
    assert aioray.get_runtime_context().get_accelerator_ids() == {"GPU": [str(gpu) for gpu in aioray.get_gpu_ids()]}
    return list(map(int, aioray.get_gpu_ids())), os.environ[gpus.VISIBLE], os.getpid()


def test_whole_gpus_go_to_one_task_each(ray: Any, tmp_path: pathlib.Path) -> None:
    first, second = Meeting(tmp_path / "first"), Meeting(tmp_path / "second")

    def use(meeting: Meeting) -> Any:
        meeting.wait()
        return what_is_here()

    use_gpu = ray.remote(num_gpus=1)(use)
    refs = [use_gpu.remote(first), use_gpu.remote(second)]
    first.here()  # both run now, or this would wait for ever
    second.here()
    found = ray.get(refs)
    assert sorted((ids, text) for ids, text, _ in found) == [([4], "4"), ([7], "7")]
    assert ray.get_gpu_ids() == []


def test_two_gpus_are_both_and_a_task_without_sees_none(ray: Any) -> None:
    assert ray.get(ray.remote(num_gpus=2)(what_is_here).remote())[:2] == ([4, 7], "4,7")
    assert ray.get(ray.remote(what_is_here).remote())[:2] == ([], "")


def test_halves_share_a_gpu_and_a_whole_one_gets_the_other(ray: Any) -> None:
    class Holder:
        def look(self) -> Any:
            return what_is_here()

    half = ray.remote(num_gpus=0.5)(Holder)
    one, two = half.remote(), half.remote()
    whole = ray.remote(num_gpus=1)(Holder).remote()
    ids = [found[0] for found in ray.get([one.look.remote(), two.look.remote(), whole.look.remote()])]
    assert ids[0] == ids[1]
    assert sorted([*ids[0], *ids[2]]) == [4, 7]


def test_a_worker_that_had_gpus_is_not_reused_for_others(ray: Any) -> None:
    use = ray.remote(what_is_here)
    with_gpu = ray.get(use.options(num_gpus=1).remote())
    without = ray.get([use.remote() for _ in range(4)])
    assert with_gpu[2] not in {pid for *_, pid in without}
    assert {text for _, text, _ in without} == {""}


def test_a_kind_of_gpu_can_be_asked_for(ray: Any) -> None:
    use = ray.remote(num_gpus=1, accelerator_type="A100")(what_is_here)
    assert use._options.demand()["accelerator_type:A100"] == 10
    assert len(ray.get(use.remote())[0]) == 1
    other = ray.remote(accelerator_type="H100")(what_is_here).remote()
    eventually(lambda: "can never run here: needs 0.001 accelerator_type:H100" in ray.explain(other))
    ray.cancel(other)


def test_variables_of_an_environment_show_gpus_only_to_who_has_none(ray: Any) -> None:
    use = ray.remote(runtime_env={"env_vars": {gpus.VISIBLE: "9"}})(what_is_here)
    assert ray.get(use.remote())[1] == "9"
    assert ray.get(use.options(num_gpus=1).remote())[1] in ("4", "7")


def test_devices_are_hidden_from_who_asked_for_none_unless_that_is_turned_off() -> None:
    assert gpus.visible_environ((), hide_at_zero=True, given={}) == {gpus.VISIBLE: ""}
    assert gpus.visible_environ((), hide_at_zero=True, given={gpus.VISIBLE: "9"}) == {}
    assert gpus.visible_environ((), hide_at_zero=False, given={}) == {}
    assert gpus.visible_environ(("1", "3"), hide_at_zero=False, given={}) == {gpus.VISIBLE: "1,3"}
