"""Runtime environments with real processes: what tasks and actors find around them, and what failing ones disturb."""

from __future__ import annotations

import os
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

import aioray
from aioray.exceptions import InvalidOptionError, RuntimeEnvSetupError
from aioray.runtime_env import RuntimeEnv
from tests.api.support import Meeting, eventually, started

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with started(num_cpus=2, runtime_env={"env_vars": {"AIORAY_TEST_JOB": "job", "AIORAY_TEST_BOTH": "job"}}):
        yield aioray


def variable(name: str) -> str | None:
    return os.environ.get(name)


def whereabouts() -> tuple[int, str, str]:
    return os.getpid(), os.getcwd(), sys.path[0]


def run_module(name: str) -> Any:
    return __import__(name).value()


def is_there(path: str) -> bool:
    return os.path.exists(path)


class Asked:
    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def childs_variable(self, name: str) -> Any:
        return aioray.get(aioray.remote(variable).remote(name))


def wheel(directory: pathlib.Path, name: str, value: int, version: str = "1.0") -> str:
    """A package that pip installs without a network and without building anything."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"def value():\n    return {value}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"]))
    return str(path)


# variables


def test_the_jobs_variables_are_everywhere_and_those_of_a_task_are_added(ray: Any) -> None:
    ask = ray.remote(variable)
    ours = ask.options(runtime_env={"env_vars": {"AIORAY_TEST_BOTH": "task", "AIORAY_TEST_TASK": "task"}})
    names = ["AIORAY_TEST_JOB", "AIORAY_TEST_BOTH", "AIORAY_TEST_TASK"]
    assert ray.get([ask.remote(name) for name in names]) == ["job", "job", None]
    assert ray.get([ours.remote(name) for name in names]) == ["job", "task", "task"]
    assert ray.get([ask.remote(name) for name in names]) == ["job", "job", None]


def test_an_actor_has_its_environment_and_its_tasks_inherit_it(ray: Any) -> None:
    actor = ray.remote(Asked).options(runtime_env=RuntimeEnv(env_vars={"AIORAY_TEST_A": "actor"})).remote()
    assert ray.get(actor.variable.remote("AIORAY_TEST_A")) == "actor"
    assert ray.get(actor.childs_variable.remote("AIORAY_TEST_A")) == "actor"
    assert ray.get(actor.childs_variable.remote("AIORAY_TEST_JOB")) == "job"


def test_light_actors_share_a_process_only_with_their_like(ray: Any) -> None:
    light = ray.remote(Asked).options(isolation="shared")
    actors = [light.options(runtime_env={"env_vars": {"AIORAY_TEST_A": text}}).remote() for text in "xyx"]
    assert ray.get([actor.variable.remote("AIORAY_TEST_A") for actor in actors]) == ["x", "y", "x"]


def test_what_python_reads_when_it_starts_works_too(ray: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "found_by_path.py").write_text("def value():\n    return 5\n")

    def seed() -> tuple[bool, Any]:
        return not sys.flags.hash_randomization, run_module("found_by_path")

    variables = {"PYTHONHASHSEED": "0", "PYTHONPATH": str(tmp_path)}
    assert ray.get(ray.remote(seed).options(runtime_env={"env_vars": variables}).remote()) == (True, 5)


# files


def test_the_working_directory_is_a_copy_and_comes_first_on_the_path(ray: Any, tmp_path: pathlib.Path) -> None:
    """
    1. a task finds its data by relative path, and its module; nothing else is there
    2. the directory changes: who asks now gets the new one
    """
    (tmp_path / "data.txt").write_text("one")
    (tmp_path / "modul_of_dir.py").write_text("def value():\n    return open('data.txt').read()\n")
    (tmp_path / "large.bin").write_text("x")
    env = {"working_dir": str(tmp_path), "excludes": ["*.bin"]}
    where = ray.remote(whereabouts).options(runtime_env=env)
    read = ray.remote(run_module).options(runtime_env=env)
    (_, cwd, first), text = ray.get([where.remote(), read.remote("modul_of_dir")])
    assert cwd == first != str(tmp_path)
    assert sorted({*os.listdir(cwd)} - {"__pycache__"}) == ["data.txt", "modul_of_dir.py"]
    assert text == "one"
    (tmp_path / "data.txt").write_text("two")
    assert ray.get(read.options(runtime_env=env).remote("modul_of_dir")) == "two"
    assert ray.get(read.remote("modul_of_dir")) == "one"


def test_modules_are_brought_by_path_and_as_themselves(ray: Any, tmp_path: pathlib.Path) -> None:
    package = tmp_path / "brought_package"
    package.mkdir()
    (package / "__init__.py").write_text("from brought_package.part import value\n")
    (package / "part.py").write_text("def value():\n    return 'package'\n")
    (tmp_path / "brought_file.py").write_text("def value():\n    return 'file'\n")
    run = ray.remote(run_module)
    env = {"py_modules": [str(package), tmp_path / "brought_file.py"]}
    both = [run.options(runtime_env=env).remote(name) for name in ("brought_package", "brought_file")]
    assert ray.get(both) == ["package", "file"]
    with pytest.raises(ModuleNotFoundError):
        ray.get(run.remote("brought_file"))


async def test_too_large_a_directory_is_refused_at_the_call(nothing_left: None, tmp_path: pathlib.Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"x" * 2000)
    async with aioray.connect(num_cpus=1, _system_config={"runtime_env_max_nbytes": 1000}):
        with pytest.raises(InvalidOptionError, match=r"2,000 bytes.*large\.bin"):
            aioray.remote(variable).options(runtime_env={"working_dir": str(tmp_path)}).remote("A")
        assert await aioray.remote(variable).remote("AIORAY_TEST_NONE") is None


async def test_a_job_has_a_working_directory_and_nothing_of_it_is_left(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "of_the_job.py").write_text("def value():\n    return 'job'\n")
    async with aioray.connect(num_cpus=1, runtime_env={"working_dir": str(tmp_path)}):
        assert await aioray.remote(run_module).remote("of_the_job") == "job"
        _, cwd, _ = await aioray.remote(whereabouts).remote()
        assert is_there(cwd)
    assert not is_there(cwd)


async def test_a_job_whose_directory_cannot_be_copied_does_not_start(
    nothing_left: None, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "large.bin").write_bytes(b"x" * 2000)
    options: dict[str, Any] = {"runtime_env": {"working_dir": str(tmp_path)}, "num_cpus": 1}
    with pytest.raises(InvalidOptionError, match="2,000 bytes"):
        await aioray.connect(_system_config={"runtime_env_max_nbytes": 1000}, **options)


# packages


def test_packages_are_installed_once_however_many_ask(ray: Any, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "pip.log"
    pip = {
        "packages": [wheel(tmp_path, "aioray_test_one", 1)],
        "pip_install_options": ["--log", str(log), "--no-index"],
    }
    run = ray.remote(run_module).options(runtime_env={"pip": pip})
    assert ray.get([run.remote("aioray_test_one") for _ in range(20)]) == [1] * 20
    actor = ray.remote(Asked).options(runtime_env={"pip": pip}).remote()
    assert ray.get(actor.variable.remote("AIORAY_TEST_JOB")) == "job"
    assert log.read_text().count("Successfully installed aioray-test-one") == 1
    with pytest.raises(ModuleNotFoundError):
        ray.get(ray.remote(run_module).remote("aioray_test_one"))


def test_two_versions_of_a_package_live_beside_each_other(ray: Any, tmp_path: pathlib.Path) -> None:
    run = ray.remote(num_cpus=0.1)(run_module)
    envs = [
        {"pip": {"packages": [wheel(tmp_path, "aioray_test_two", int(version), version)]}} for version in ("1", "2")
    ]
    refs = [run.options(runtime_env=env).remote("aioray_test_two") for env in envs]
    assert ray.get(refs) == [1, 2]


def test_what_is_installed_wins_over_what_the_zygote_has_imported(ray: Any, tmp_path: pathlib.Path) -> None:
    run = ray.remote(run_module).options(runtime_env={"pip": [wheel(tmp_path, "numpy", 7, "99.0")]})
    assert ray.get(run.remote("numpy")) == 7


def test_a_failing_install_says_what_pip_said_and_disturbs_nobody(ray: Any, tmp_path: pathlib.Path) -> None:
    """
    1. tasks and an actor whose packages do not exist fail with pip's words; a task beside them does not
    2. with the environment mended the same function runs
    """
    run = ray.remote(num_cpus=0.1)(run_module)
    pip = {"packages": ["aioray-test-no-such"], "pip_install_options": ["--no-index"]}
    broken = run.options(runtime_env={"pip": pip})
    refs = [broken.remote("x") for _ in range(5)]
    assert ray.get(ray.remote(variable).remote("AIORAY_TEST_JOB")) == "job"
    for ref in refs:
        with pytest.raises(RuntimeEnvSetupError, match=r"(?s)run_module\(\): pip install failed.*aioray-test-no-such"):
            ray.get(ref)
    for isolation in ("process", "shared"):
        actor = ray.remote(Asked).options(runtime_env={"pip": pip}, isolation=isolation).remote()
        with pytest.raises(RuntimeEnvSetupError, match=r"actor Asked: pip install failed"):
            ray.get(actor.variable.remote("A"))
    mended = run.options(runtime_env={"pip": [wheel(tmp_path, "aioray_test_mended", 3)]})
    assert ray.get(mended.remote("aioray_test_mended")) == 3


def test_an_install_holds_no_cpu_can_be_explained_and_takes_no_longer_than_it_may(
    ray: Any, tmp_path: pathlib.Path
) -> None:
    """
    1. pip reads its requirements from a pipe that nobody writes to: it hangs
    2. meanwhile the node is free for others
    3. time is up
    """
    hanging = Meeting(tmp_path / "hanging.whl")
    options = {"packages": ["x"], "pip_install_options": ["-r", hanging.path]}
    env = {"pip": options, "config": {"setup_timeout_seconds": 2}}
    ref = ray.remote(num_cpus=2)(variable).options(runtime_env=env).remote("A")
    eventually(lambda: ray.explain(ref).endswith("its runtime environment is being set up"))
    assert ray.get(ray.remote(num_cpus=2)(variable).remote("AIORAY_TEST_JOB")) == "job"
    with pytest.raises(RuntimeEnvSetupError, match="took longer than 2 s"):
        ray.get(ref)


async def test_a_cluster_that_ends_takes_its_installs_with_it(nothing_left: None, tmp_path: pathlib.Path) -> None:
    hanging = Meeting(tmp_path / "hanging")
    async with aioray.connect(num_cpus=1):
        options = {"packages": ["x"], "pip_install_options": ["-r", hanging.path]}
        ref = aioray.remote(variable).options(runtime_env={"pip": options}).remote("A")
        await aioray.wait([ref], timeout=0.1)
        hanging.here()  # pip has opened it


def test_workers_of_environments_are_reused_and_forked_fast(ray: Any) -> None:
    where = ray.remote(whereabouts)
    one = where.options(runtime_env={"env_vars": {"AIORAY_TEST_A": "1"}})
    pids = {ray.get(one.remote())[0] for _ in range(5)}
    assert len(pids) == 1
    assert ray.get(where.remote())[0] not in pids
