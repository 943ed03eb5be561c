"""Rounds, medians and ratios; and that a measurement, whatever it does, leaves an outcome and no process."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import psutil
import pytest

from bench.rows import BY_KEY, Row, Side
from bench.runner import Job, Outcome, as_json, measure, plan, read_outcome, run, summarize

TASK, START, PUT = BY_KEY["task_sync"], BY_KEY["start_sync"], BY_KEY["put_100b"]


def made(row: Row, **values: list[float | str]) -> list[Outcome]:
    """Outcomes of rounds: a figure, or a string for a failure."""
    sides: dict[Side, list[float | str]] = {side: values[side] for side in row.sides if side in values}
    return [
        Outcome(Job(number, row, side), failure=what)
        if isinstance(what, str)
        else Outcome(Job(number, row, side), what)
        for side, rounds in sides.items()
        for number, what in enumerate(rounds, 1)
    ]


# -- what is measured, and in which order


def test_the_sides_of_a_row_follow_one_another_in_every_round() -> None:
    jobs = plan([TASK, PUT], ["limit", "ours", "ray"], rounds=2)
    assert [(job.round, job.row.key, job.side) for job in jobs] == [
        (1, "task_sync", "limit"),
        (1, "task_sync", "ours"),
        (1, "task_sync", "ray"),
        (1, "put_100b", "ours"),
        (1, "put_100b", "ray"),
        (2, "task_sync", "limit"),
        (2, "task_sync", "ours"),
        (2, "task_sync", "ray"),
        (2, "put_100b", "ours"),
        (2, "put_100b", "ray"),
    ]


def test_long_rows_are_measured_in_the_first_round_only() -> None:
    assert len(plan([BY_KEY["flat_tasks"]], ["limit", "ours"], rounds=3)) == 1


def test_an_interrupt_keeps_what_was_measured_before_it() -> None:
    jobs = plan([TASK], ["limit", "ours"], rounds=1)

    def interrupted_at_ours(job: Job) -> Outcome:
        if job.side == "ours":
            raise KeyboardInterrupt
        return Outcome(job, 1.0)

    told: list[int] = []
    assert run(jobs, interrupted_at_ours, lambda number, _: told.append(number)) == [Outcome(jobs[0], 1.0)]
    assert told == [1]


# -- what follows from the figures


def test_the_ratio_is_that_of_the_medians() -> None:
    (line,) = summarize(made(TASK, limit=[4_000, 5_000, 9_000], ours=[3_000, 1_000, 3_500], ray=[300, 300, 300]))
    assert (line.median("limit"), line.median("ours"), line.ratio) == (5_000, 3_000, 0.6)
    assert line.met is True
    assert line.times_ray == 10


def test_where_lower_is_better_goals_are_upper_bounds_and_ray_is_divided_by_us() -> None:
    (line,) = summarize(made(START, limit=[0.4], ours=[0.8], ray=[8.0]))
    assert (line.ratio, line.met, line.times_ray) == (2.0, True, 10.0)
    (line,) = summarize(made(START, limit=[0.4], ours=[0.81]))
    assert line.met is False


def test_a_goal_that_is_a_figure_needs_no_limit() -> None:
    assert [summarize(made(PUT, ours=[figure]))[0].met for figure in (149_999, 150_000)] == [False, True]


def test_failed_rounds_are_left_out_of_the_median_and_kept_beside_it() -> None:
    (line,) = summarize(made(TASK, limit=[4_000, 6_000], ours=["timed out", 3_000]))
    assert line.median("ours") == 3_000
    assert line.cells["ours"].failures == ("timed out",)


@pytest.mark.parametrize(
    "outcomes", [made(TASK, ours=[1.0]), made(TASK, limit=[1.0]), made(TASK, limit=[1.0], ours=["died"])]
)
def test_without_both_figures_there_is_no_ratio_and_no_verdict(outcomes: list[Outcome]) -> None:
    (line,) = summarize(outcomes)
    assert (line.ratio, line.met, line.times_ray) == (None, None, None)


def test_lines_come_in_the_order_of_the_table() -> None:
    lines = summarize([*made(PUT, ours=[1.0]), *made(TASK, ours=[1.0])])
    assert [line.row for line in lines] == [TASK, PUT]


def test_the_json_has_medians_ratios_and_every_measurement() -> None:
    outcomes = made(TASK, limit=[10.0], ours=[8.0, "died"])
    text = json.loads(as_json(summarize(outcomes), outcomes, {"cpus": 2}))
    assert text["about"] == {"cpus": 2}
    assert text["rows"][0]["medians"] == {"limit": 10.0, "ours": 8.0}
    assert text["rows"][0]["failures"] == {"ours": ["died"]}
    assert (text["rows"][0]["ours_to_limit"], text["rows"][0]["met"]) == (0.8, True)
    assert [measurement["failure"] for measurement in text["measurements"]] == [None, None, "died"]


# -- what a measuring program says

JOB = Job(1, TASK, "ours")


def test_the_figure_is_found_among_what_workers_print() -> None:
    stdout = 'hello\n{"value": 1.5, "detail": {"calls": 3}}\n(worker) {"value": "none"}\n17\n'
    assert read_outcome(JOB, None, stdout, "") == Outcome(JOB, 1.5, detail={"calls": 3})


@pytest.mark.parametrize(
    ("failure", "stdout", "stderr", "reason"),
    [
        (None, "17\n", "", "printed no figure"),
        ("exit status 1", "", "Traceback ...\nValueError: no\n\n", "ValueError: no"),
        ("exit status 1", "", "", "exit status 1"),
        ("exit status 1", '{"value": 1, "detail": {}}', "died on leaving\n", "died on leaving"),
        ("timed out after 9 s", "", "some warning", "timed out after 9 s"),
        ("killed by SIGSEGV", "", "Fatal Python error", "killed by SIGSEGV"),
    ],
)
def test_a_failure_gives_its_reason(failure: str | None, stdout: str, stderr: str, reason: str) -> None:
    outcome = read_outcome(JOB, failure, stdout, stderr)
    assert (outcome.value, outcome.failure) == (None, reason)


# -- processes (small ones, no cluster)


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_measurement_is_what_its_process_prints_last() -> None:
    outcome = measure(JOB, python("""print('{"value": 2, "detail": {}}')"""))
    assert (outcome.value, outcome.failure, outcome.left_behind) == (2.0, None, ())


def test_a_measurement_that_hangs_is_ended() -> None:
    job = replace(JOB, row=replace(TASK, timeout_s=0.5))
    outcome = measure(job, python("import time; time.sleep(600)"))
    assert outcome.failure == "timed out after 0.5 s"
    assert outcome.took_s < 30


def test_what_a_measurement_leaves_behind_is_named_and_ended() -> None:
    """The stray has a session of its own and its parent is gone: only its mark tells where it came from."""
    stray = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    outcome = measure(
        Job(1, TASK, "limit"),
        python(
            f"import subprocess, sys; p = subprocess.Popen({stray}, start_new_session=True); p.returncode = 0\n"
            """print('{"value": 1, "detail": {"pid": %d}}' % p.pid)"""
        ),
    )
    assert outcome.value == 1.0
    assert len(outcome.left_behind) == 1
    assert "time.sleep(600)" in outcome.left_behind[0]
    assert not psutil.pid_exists(outcome.detail["pid"]) or psutil.Process(outcome.detail["pid"]).status() == "zombie"
