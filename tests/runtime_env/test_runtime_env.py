from __future__ import annotations

import copy
import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.exceptions import InvalidOptionError
from aioray.options import task_options
from aioray.runtime_env import RuntimeEnv
from aioray.runtime_env.environment import Environment
from aioray.runtime_env.resolving import Environments

if TYPE_CHECKING:
    import pathlib


@pytest.fixture
def environments(tmp_path: pathlib.Path) -> Environments:
    return Environments("", str(tmp_path / "session"), 1000, lambda what, **args: None, lambda: b"job")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"env_var": {}}, "env_var: no such field; did you mean env_vars"),
        ({"conda": "base"}, "conda: not there yet"),
        ({"env_vars": {"A": 1}}, "env_vars: A is 1, not a text"),
        ({"env_vars": {"A=B": "1"}}, "'A=B' is not the name of a variable"),
        ({"env_vars": ["A"]}, "env_vars: not a dict"),
        ({"working_dir": "/no/such/directory"}, "working_dir: no such directory"),
        ({"working_dir": "s3://bucket/x.zip"}, "not there yet"),
        ({"working_dir": 3}, "3 is not a path"),
        ({"py_modules": "x"}, "py_modules: not a list"),
        ({"py_modules": ["/no/such"]}, "/no/such is no directory"),
        ({"py_modules": ["x.whl"]}, "is a wheel: that is for pip"),
        ({"pip": ["-r other.txt"]}, "cannot refer to others"),
        ({"pip": [3]}, "3 is not a line of text"),
        ({"pip": "/no/such/requirements.txt"}, "is no file of requirements"),
        ({"pip": {"packages": ["x"], "pip_version": "==23"}}, "'pip_version': no such part, or not there yet"),
        ({"config": {"eager_install": True}}, "only setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": -1}}, "number of seconds above 0"),
        ({"excludes": ["*.log"]}, "only together with working_dir or py_modules"),
        ("pandas", "not a dict"),
    ],
)
def test_a_bad_field_is_refused_at_the_call_by_name(given: Any, match: str) -> None:
    with pytest.raises(InvalidOptionError, match="runtime_env") as caught:
        task_options({"runtime_env": given})
    assert match in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_runtime_env_is_checked_copied_and_pickled(tmp_path: pathlib.Path) -> None:
    variables = {"A": "1"}
    env = RuntimeEnv(env_vars=variables, working_dir=str(tmp_path), pip=None)
    variables["A"] = "2"
    assert env == {"env_vars": {"A": "1"}, "working_dir": str(tmp_path)} == env.to_dict()
    assert pickle.loads(pickle.dumps(env)) == copy.deepcopy(env) == env
    for change in (lambda: env.update(working_di="x"), lambda: env.setdefault("pi", []), lambda: RuntimeEnv(x=1)):
        with pytest.raises(InvalidOptionError):
            change()
    assert task_options({"runtime_env": env}).runtime_env == env


def test_a_file_of_requirements_is_read_at_the_call(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\n\nsome>=1 \\\n  --hash=sha256:abc\n--index-url https://example.org\n")
    lines = ["some>=1    --hash=sha256:abc", "--index-url https://example.org"]
    assert RuntimeEnv(pip=str(path))["pip"] == {"packages": lines}


def test_variables_are_added_to_the_parents_and_other_fields_replace_theirs(
    environments: Environments, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "x.py").write_text("")
    (tmp_path / "y.py").write_text("")
    first = RuntimeEnv(env_vars={"A": "1", "B": "1"}, py_modules=[str(tmp_path / "x.py")], pip=["some"])
    environments.own = environments.resolve(first)
    assert environments.resolve(RuntimeEnv()) == environments.own
    child = Environment.of(
        environments.resolve(RuntimeEnv(env_vars={"B": "2", "C": "2"}, py_modules=[str(tmp_path / "y.py")]))
    )
    assert child.env_vars == {"A": "1", "B": "2", "C": "2"}
    assert [os.listdir(path) for path in child.py_modules] == [["y.py"]]
    assert child.pip == ["some"]
    assert Environment.of(environments.resolve(RuntimeEnv(pip=[]))).pip == []


def test_a_local_wheel_is_known_by_its_content(environments: Environments, tmp_path: pathlib.Path) -> None:
    wheel = tmp_path / "some-1-py3-none-any.whl"
    wheel.write_bytes(b"1")
    one = environments.resolve(RuntimeEnv(pip=[str(wheel)]))
    assert environments.resolve(RuntimeEnv(pip=[str(wheel)])) == one
    wheel.write_bytes(b"22")
    assert environments.resolve(RuntimeEnv(pip=[str(wheel)])) != one


def test_too_many_variables_for_one_packet_are_refused(environments: Environments) -> None:
    with pytest.raises(InvalidOptionError, match="more than 49,152 bytes"):
        environments.resolve(RuntimeEnv(env_vars={"A": "x" * 50_000}))


def test_a_variable_may_refer_to_what_is_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIORAY_TEST_A", "a")
    monkeypatch.delenv("AIORAY_TEST_NONE", raising=False)
    monkeypatch.setenv("AIORAY_TEST_B", "")
    Environment({"AIORAY_TEST_A": "b", "AIORAY_TEST_B": "${AIORAY_TEST_A}:${AIORAY_TEST_NONE}:$x"}).set_variables()
    assert os.environ["AIORAY_TEST_B"] == "a::$x"


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_the_same_environment_is_the_same_text_and_comes_back(env_vars: dict[str, str]) -> None:
    text = Environment(env_vars=env_vars).text()
    assert Environment(env_vars=dict(reversed(env_vars.items()))).text() == text
    assert Environment.of(text).env_vars == env_vars
    assert (text == "") == (not env_vars)
    assert not text or json.loads(text) == {"env_vars": env_vars}
