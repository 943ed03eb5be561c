"""What workers print is shown by the driver's program, line by line, with a prefix that says who printed it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.processes.programs import run

if TYPE_CHECKING:
    import pathlib

PRINTING = """
import logging, os, sys
import aioray as ray

@ray.remote
def say(text):
    print(text)

@ray.remote
def complain(text):
    print(text, file=sys.stderr)

@ray.remote
def from_c(text):
    os.write(1, text.encode() + b"\\n")

@ray.remote
class Speaker:
    def __init__(self):
        print("I am up")
    def say(self, text, end="\\n"):
        print(text, end=end)
    def from_c(self, text):
        os.write(1, text.encode() + b"\\n")
    def log(self, text):
        logging.warning("%s", text)
    def log_info(self, text):
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("mine").info("%s", text)

@ray.remote
class AsyncSpeaker:
    async def say(self, text):
        print(text)

"""
INIT = "ray.init(num_cpus=1)\n"


def lines(text: str) -> list[str]:
    """With N in the place of pids."""
    return re.sub(r"pid=\d+", "pid=N", text).splitlines()


def test_lines_of_tasks_and_actors_carry_their_names(tmp_path: pathlib.Path) -> None:
    out, err = run(
        tmp_path,
        PRINTING
        + INIT
        + """
ray.get(say.remote("one"))
ray.get(complain.remote("two"))
speaker = Speaker.remote()
ray.get(speaker.say.remote("three\\nfour"))
ray.get(AsyncSpeaker.remote().say.remote("five"))
ray.get(say.options(name="other").remote("six"))
""",
    )
    said = lines(out)
    assert sorted(said) == sorted(
        [
            "(say pid=N) one",
            "(Speaker pid=N) I am up",
            "(Speaker pid=N) three",
            "(Speaker pid=N) four",
            "(AsyncSpeaker pid=N) five",
            "(other pid=N) six",
        ]
    )
    assert said.index("(Speaker pid=N) I am up") < said.index("(Speaker pid=N) three")
    assert lines(err) == ["(complain pid=N) two"]


def test_what_c_code_prints_is_shown_too(tmp_path: pathlib.Path) -> None:
    out, _ = run(
        tmp_path,
        PRINTING
        + INIT
        + """
ray.get(from_c.remote("C one"))
speaker = Speaker.remote()
ray.get(speaker.from_c.remote("C two"))
""",
    )
    assert sorted(lines(out)) == ["(Speaker pid=N) C two", "(Speaker pid=N) I am up", "(from_c pid=N) C one"]


def test_logging_of_workers_is_shown(tmp_path: pathlib.Path) -> None:
    _, err = run(
        tmp_path,
        PRINTING
        + INIT
        + """
speaker = Speaker.remote()
ray.get(speaker.log.remote("careful"))
ray.get(Speaker.remote().log_info.remote("by the way"))
""",
    )
    assert sorted(lines(err)) == ["(Speaker pid=N) INFO:mine:by the way", "(Speaker pid=N) WARNING:root:careful"]


def test_the_prefix_can_be_turned_off_by_the_program_and_by_the_environment(tmp_path: pathlib.Path) -> None:
    task = "ray.get(say.remote('plain'))\n"
    configured = 'ray.init(num_cpus=1, _system_config={"log_prefix": False})\n'
    assert run(tmp_path, PRINTING + configured + task)[0] == "plain\n"
    assert run(tmp_path, PRINTING + INIT + task, AIORAY_log_prefix="0")[0] == "plain\n"


def test_a_driver_that_does_not_want_to_hear_hears_nothing(tmp_path: pathlib.Path) -> None:
    calls = "ray.get([say.remote('a'), complain.remote('b'), from_c.remote('c'), Speaker.remote().say.remote('d')])\n"
    assert run(tmp_path, PRINTING + "ray.init(num_cpus=1, log_to_driver=False)\n" + calls) == ("", "")


def test_the_last_lines_before_the_end_of_the_program_are_shown(tmp_path: pathlib.Path) -> None:
    """However it ends; a thousand lines, and one without its end."""
    body = """
speaker = Speaker.remote()
ray.get([speaker.say.remote(f"line {n}") for n in range(1000)])
ray.get(speaker.say.remote("last words", end=""))
"""
    for ending in ("", "ray.shutdown()\n", "del speaker\n", "ray.kill(speaker)\n"):
        out, _ = run(tmp_path, PRINTING + INIT + body + ending)
        shown = lines(out)
        assert shown[:1001] == ["(Speaker pid=N) I am up", *(f"(Speaker pid=N) line {n}" for n in range(1000))]


def test_what_an_actor_printed_right_before_it_was_killed_is_shown(tmp_path: pathlib.Path) -> None:
    out, _ = run(
        tmp_path,
        PRINTING
        + INIT
        + """
for n in range(5):
    speaker = Speaker.remote()
    ray.get(speaker.say.remote(f"goodbye {n}"))
    ray.kill(speaker)
""",
    )
    assert [line for line in lines(out) if "goodbye" in line] == [f"(Speaker pid=N) goodbye {n}" for n in range(5)]


def test_what_an_actor_prints_when_it_leaves_is_shown(tmp_path: pathlib.Path) -> None:
    out, _ = run(
        tmp_path,
        PRINTING
        + INIT
        + """
@ray.remote
class Leaver:
    def __init__(self):
        import atexit
        atexit.register(print, "leaving")
    def pid(self):
        print("no newline", end="")
        return os.getpid()

leaver = Leaver.remote()
fd = os.pidfd_open(ray.get(leaver.pid.remote()))
del leaver
import select
select.select([fd], [], [], 10)
""",
    )
    assert lines(out) == ["(Leaver pid=N) no newlineleaving"]


def test_workers_of_an_embedded_cluster_are_shown_too(tmp_path: pathlib.Path) -> None:
    out, err = run(
        tmp_path,
        PRINTING
        + """
import asyncio

async def main():
    async with ray.connect(num_cpus=1):
        await say.remote("one")
        await complain.remote("two")
        speaker = AsyncSpeaker.remote()
        await speaker.say.remote("three")

asyncio.run(main())
""",
    )
    assert sorted(lines(out)) == ["(AsyncSpeaker pid=N) three", "(say pid=N) one"]
    assert lines(err) == ["(complain pid=N) two"]


def test_a_very_long_line_and_bytes_that_are_no_text_do_no_harm(tmp_path: pathlib.Path) -> None:
    out, _ = run(
        tmp_path,
        PRINTING
        + INIT
        + """
@ray.remote
def odd():
    print("x" * 3_000_000)
    os.write(1, b"\\xff\\xfe\\n")
    print("after")

ray.get(odd.remote())
""",
    )
    assert out.count("x") == 3_000_000
    assert lines(out)[-2:] == ["(odd pid=N) \ufffd\ufffd", "(odd pid=N) after"]
