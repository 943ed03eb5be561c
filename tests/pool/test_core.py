import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from aioray_node.pool.core import (
    DEFAULT,
    Bind,
    Command,
    Event,
    Fork,
    ForkFailed,
    Free,
    Kill,
    Kind,
    Lost,
    Need,
    Retire,
    Starved,
    State,
    Tick,
    Unneed,
    WakeAt,
    WorkerDown,
    WorkerUp,
    check,
    handle,
)


def run(state: State, event: Event, now: float = 0.0) -> list[Command]:
    commands = handle(state, event, now)
    check(state)
    return commands


def warm(*worker_ids: str, max_idle: int = 8) -> State:
    """A pool that keeps these workers warm: the last one is the newest."""
    state = State(prestart=len(worker_ids), max_idle=max_idle, idle_reap_s=60.0)
    assert run(state, Tick()) == [Fork()] * len(worker_ids)
    for worker_id in worker_ids:
        assert run(state, WorkerUp(worker_id)) == []
    return state


def test_the_first_tick_starts_the_prestarted_workers_and_the_next_starts_no_more() -> None:
    state = State(prestart=2, max_idle=4)
    assert run(state, Tick()) == [Fork(), Fork()]
    assert run(state, Tick()) == []
    assert run(state, WorkerUp("w1")) == []
    assert list(state.default.idle) == ["w1"]


def test_a_task_takes_the_newest_idle_worker_and_nothing_is_forked_for_it() -> None:
    state = warm("w1", "w2")
    assert run(state, Need(1, fresh=False)) == [Bind(1, "w2")]
    assert run(state, Free(1, reusable=True)) == []
    assert run(state, Need(2, fresh=False)) == [Bind(2, "w2")]


def test_a_task_that_finds_no_idle_worker_gets_a_new_one() -> None:
    state = warm("w1")
    assert run(state, Need(1, fresh=False)) == [Bind(1, "w1")]
    assert run(state, Need(2, fresh=False)) == [Fork()]
    assert run(state, WorkerUp("w2")) == [Bind(2, "w2")]


def test_a_worker_that_comes_back_first_serves_the_oldest_who_waits() -> None:
    """
    1. 1 has w1; 2 and 3 wait for two forks
    2. 1 ends: 2 gets w1 at once
    3. both forks come up: 3 gets one, the other stays idle and is reaped in time
    """
    state = State(prestart=0, max_idle=4, idle_reap_s=60.0)
    assert run(state, Need(1, fresh=False)) == [Fork()]
    assert run(state, WorkerUp("w1")) == [Bind(1, "w1")]
    assert run(state, Need(2, fresh=False)) == [Fork()]
    assert run(state, Need(3, fresh=False)) == [Fork()]
    assert run(state, Free(1, reusable=True), now=1.0) == [Bind(2, "w1")]
    assert run(state, WorkerUp("w2"), now=2.0) == [Bind(3, "w2")]
    assert run(state, WorkerUp("w3"), now=3.0) == [WakeAt(63.0)]
    assert run(state, Tick(), now=63.0) == [Retire("w3")]


def test_an_actor_takes_a_warm_worker_and_the_pool_forks_another() -> None:
    state = warm("w1", "w2")
    assert run(state, Need(1, fresh=True)) == [Bind(1, "w2"), Fork()]
    assert run(state, WorkerUp("w3")) == []
    assert list(state.default.idle) == ["w1", "w3"]


def test_an_actor_that_has_to_wait_leaves_the_pool_warm_too() -> None:
    state = State(prestart=1, max_idle=4)
    assert run(state, Need(1, fresh=True)) == [Fork(), Fork()]
    assert run(state, WorkerUp("w1")) == [Bind(1, "w1")]
    assert run(state, WorkerUp("w2")) == []


def test_a_lease_that_wants_no_worker_any_more_leaves_the_queue() -> None:
    state = warm("w1")
    run(state, Need(1, fresh=True))
    assert run(state, Need(2, fresh=False)) == []  # it may have the worker that replaces w1
    assert run(state, Unneed(2)) == []
    assert run(state, Unneed(2)) == []
    assert run(state, Unneed(1)) == []
    assert state.default.bound == {1: "w1"}
    assert run(state, WorkerUp("w2")) == []


def test_free_of_a_lease_that_still_waits_is_an_unneed() -> None:
    state = State(prestart=0, max_idle=1)
    assert run(state, Need(1, fresh=True)) == [Fork()]
    assert run(state, Free(1, reusable=False)) == []
    assert run(state, WorkerUp("w1"), now=1.0) == [WakeAt(61.0)]


def test_a_worker_that_is_not_fit_for_the_next_lease_is_killed_and_replaced() -> None:
    state = warm("w1")
    run(state, Need(1, fresh=False))
    assert run(state, Free(1, reusable=False)) == [Kill("w1"), Fork()]
    assert run(state, WorkerDown("w1")) == []


def test_a_lease_hears_that_its_worker_died() -> None:
    state = warm("w1")
    run(state, Need(1, fresh=False))
    assert run(state, WorkerDown("w1")) == [Lost(1, "w1"), Fork()]
    assert run(state, WorkerDown("w1")) == []
    assert run(state, Free(1, reusable=True)) == []


def test_an_idle_worker_that_dies_is_replaced() -> None:
    state = warm("w1", "w2")
    assert run(state, WorkerDown("w1")) == [Fork()]
    assert run(state, Need(1, fresh=False)) == [Bind(1, "w2")]


def test_idle_workers_above_the_prestart_count_are_reaped_oldest_first() -> None:
    """
    1. three tasks made the pool grow from one worker to three
    2. they end at 10, 20 and 30 s; the pool keeps one, so the first two to come back are on notice
    3. a timer that comes a hair early is asked for again
    """
    state = warm("w1")
    run(state, Need(1, fresh=False))
    run(state, Need(2, fresh=False))
    run(state, Need(3, fresh=False))
    run(state, WorkerUp("w2"))
    run(state, WorkerUp("w3"))
    assert run(state, Free(1, reusable=True), now=10.0) == []
    assert run(state, Free(2, reusable=True), now=20.0) == [WakeAt(70.0)]
    assert run(state, Free(3, reusable=True), now=30.0) == []
    assert run(state, Tick(), now=69.9995) == [WakeAt(70.0)]
    assert run(state, Tick(), now=70.0) == [Retire("w1"), WakeAt(80.0)]
    assert run(state, Tick(), now=80.0) == [Retire("w2")]
    assert run(state, Tick(), now=1000.0) == []
    assert list(state.default.idle) == ["w3"]


def test_more_idle_workers_than_allowed_are_killed_at_once() -> None:
    state = warm("w1", max_idle=1)
    run(state, Need(1, fresh=False))
    run(state, Need(2, fresh=False))
    run(state, WorkerUp("w2"))
    assert run(state, Free(1, reusable=True)) == []
    assert run(state, Free(2, reusable=True)) == [Retire("w1")]


def test_a_failed_fork_is_tried_again_later_and_later_and_then_those_who_wait_hear_of_it() -> None:
    state = State(prestart=0, max_idle=1, max_fork_failures=3, fork_backoff_s=1.0)
    assert run(state, Need(1, fresh=False), now=0.0) == [Fork()]
    assert run(state, ForkFailed("no memory"), now=0.0) == [WakeAt(1.0)]
    assert run(state, Tick(), now=1.0) == [Fork()]
    assert run(state, ForkFailed("no memory"), now=1.0) == [WakeAt(3.0)]
    assert run(state, Tick(), now=3.0) == [Fork()]
    assert run(state, ForkFailed("no memory"), now=3.0) == [Starved(1, "no memory")]
    assert run(state, Need(2, fresh=False), now=4.0) == [WakeAt(7.0)]
    assert run(state, Tick(), now=7.0) == [Fork()]
    assert run(state, ForkFailed("no memory"), now=7.0) == [Starved(2, "no memory")]


def test_a_batch_of_forks_that_fails_together_counts_as_one_failure() -> None:
    state = State(prestart=5, max_idle=5, max_fork_failures=3, fork_backoff_s=1.0)
    assert run(state, Need(1, fresh=False)) == [Fork()] * 5
    assert run(state, ForkFailed("busy")) == [WakeAt(1.0)]
    for _ in range(4):
        assert run(state, ForkFailed("busy")) == []
    assert run(state, Tick(), now=1.0) == [Fork()] * 5


def test_a_worker_that_comes_up_ends_the_back_off() -> None:
    state = State(prestart=2, max_idle=2, fork_backoff_s=1.0)
    run(state, Tick())
    assert run(state, ForkFailed("busy")) == [WakeAt(1.0)]
    assert run(state, WorkerUp("w1")) == [Fork()]
    assert state.default.fork_failures == 0


def test_saying_it_twice_changes_nothing() -> None:
    state = warm("w1")
    assert run(state, WorkerUp("w1")) == []
    assert run(state, Need(1, fresh=True)) == [Bind(1, "w1"), Fork()]
    assert run(state, Need(1, fresh=True)) == []
    assert run(state, WorkerUp("w1")) == []
    assert run(state, Need(2, fresh=False)) == []
    assert run(state, Need(2, fresh=True)) == []
    assert state.default.fresh == {1}


def test_a_pool_may_not_keep_more_warm_than_it_may_have_idle() -> None:
    with pytest.raises(ValueError, match="prestart=3 must be between 0 and max_idle=2"):
        State(prestart=3, max_idle=2)


ODD = Kind(environment="odd")
GPU_0, GPU_1 = Kind(gpus=("0",)), Kind(gpus=("1",))


def test_a_lease_never_gets_a_worker_of_another_kind() -> None:
    """
    1. a warm worker is idle, and is not for a lease of another environment: one is forked for that
    2. it comes back, and is not for a lease of no environment, nor for one with a GPU
    """
    state = warm("w1")
    assert run(state, Need(1, fresh=False, kind=ODD)) == [Fork(ODD)]
    assert run(state, WorkerUp("w2", ODD)) == [Bind(1, "w2")]
    assert run(state, Free(1, reusable=True), now=1.0) == [WakeAt(61.0)]
    assert run(state, Need(2, fresh=False)) == [Bind(2, "w1")]
    assert run(state, Need(3, fresh=False)) == [Fork()]
    assert run(state, Need(4, fresh=False, kind=GPU_0)) == [Fork(GPU_0)]
    assert run(state, Need(5, fresh=False, kind=ODD)) == [Bind(5, "w2")]


def test_only_the_default_kind_is_kept_warm_and_idle_ones_of_others_are_reaped() -> None:
    state = warm("w1")
    assert run(state, Need(1, fresh=True, kind=ODD)) == [Fork(ODD)]
    assert run(state, WorkerUp("w2", ODD)) == [Bind(1, "w2")]
    assert run(state, Free(1, reusable=True), now=10.0) == [WakeAt(70.0)]
    assert run(state, Tick(), now=70.0) == [Retire("w2")]
    assert state.stocks.keys() == {DEFAULT}


def test_a_worker_that_has_seen_a_gpu_serves_nobody_else() -> None:
    state = warm("w1")
    run(state, Need(1, fresh=False, kind=GPU_0))
    assert run(state, WorkerUp("w2", GPU_0)) == [Bind(1, "w2")]
    assert run(state, Free(1, reusable=True)) == [Retire("w2")]
    assert run(state, Need(2, fresh=False, kind=GPU_0)) == [Fork(GPU_0)]


def test_too_many_idle_workers_of_odd_kinds_go_before_the_warm_ones() -> None:
    state = warm("w1", max_idle=1)
    run(state, Need(1, fresh=False, kind=ODD))
    run(state, WorkerUp("w2", ODD))
    assert run(state, Free(1, reusable=True), now=1.0) == [Retire("w2")]
    assert list(state.default.idle) == ["w1"]


def test_an_environment_in_which_no_worker_starts_holds_up_nobody_else() -> None:
    state = State(prestart=0, max_idle=1, max_fork_failures=1, fork_backoff_s=1.0)
    assert run(state, Need(1, fresh=False, kind=ODD)) == [Fork(ODD)]
    assert run(state, Need(2, fresh=False)) == [Fork()]
    assert run(state, ForkFailed("exited with status 1", ODD)) == [Starved(1, "exited with status 1")]
    assert run(state, WorkerUp("w1")) == [Bind(2, "w1")]
    assert run(state, Need(3, fresh=False, kind=ODD)) == [Fork(ODD)]


class Pool(RuleBasedStateMachine):
    """Any order of events: `check` holds, a worker serves one lease at a time, everybody who waits hears."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.state = State(prestart=2, max_idle=3, idle_reap_s=10.0, fork_backoff_s=1.0)
        self.now = 0.0
        self.forking: list[Kind] = []
        self.alive: dict[str, Kind] = {}
        self.kinds: dict[int, Kind] = {}  # lease_id -> what it asked for
        self.serving: dict[int, str] = {}  # lease_id -> worker_id
        self.unheard: set[int] = set()  # leases that wait for a word
        self.ids = 0

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event, self.now):
            match command:
                case Fork(kind):
                    self.forking.append(kind)
                case Bind(lease_id, worker_id):
                    assert worker_id in self.alive
                    assert worker_id not in self.serving.values()
                    assert self.alive[worker_id] == self.kinds[lease_id]
                    self.unheard.remove(lease_id)
                    self.serving[lease_id] = worker_id
                case Kill(worker_id) | Retire(worker_id):
                    assert worker_id not in self.serving.values()
                    del self.alive[worker_id]
                case Lost(lease_id, worker_id):
                    assert self.serving.pop(lease_id) == worker_id
                case Starved(lease_id):
                    self.unheard.remove(lease_id)
                case WakeAt(when):
                    assert when > self.now

    @rule(target=leases, fresh=st.booleans(), kind=st.sampled_from([DEFAULT, DEFAULT, ODD, GPU_0, GPU_1]))
    def need(self, fresh: bool, kind: Kind) -> int:
        lease_id = self.new_id()
        self.unheard.add(lease_id)
        self.kinds[lease_id] = kind
        self.feed(Need(lease_id, fresh, kind))
        return lease_id

    @rule(lease_id=leases)
    def unneed(self, lease_id: int) -> None:
        self.unheard.discard(lease_id)
        self.feed(Unneed(lease_id))

    @rule(lease_id=consumes(leases), reusable=st.booleans())
    def free(self, lease_id: int, reusable: bool) -> None:
        self.unheard.discard(lease_id)
        self.serving.pop(lease_id, None)
        self.feed(Free(lease_id, reusable))

    @precondition(lambda self: self.forking)
    @rule()
    def come_up(self) -> None:
        kind = self.forking.pop(0)
        worker_id = f"w{self.new_id()}"
        self.alive[worker_id] = kind
        self.feed(WorkerUp(worker_id, kind))

    @precondition(lambda self: self.forking)
    @rule()
    def fail_to_fork(self) -> None:
        self.feed(ForkFailed("no memory", self.forking.pop(0)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[worker_id]
        self.feed(WorkerDown(worker_id))

    @rule(seconds=st.sampled_from([0.5, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.state.wake_at is not None and self.now >= self.state.wake_at:
            self.feed(Tick())

    @invariant()
    def state_is_sound(self) -> None:
        check(self.state)
        stocks = self.state.stocks
        for kind in {*stocks, *self.forking}:
            assert stocks[kind].starting == self.forking.count(kind)
        idle = {worker_id: kind for kind, stock in stocks.items() for worker_id in stock.idle}
        serving = {worker_id: self.kinds[lease_id] for lease_id, worker_id in self.serving.items()}
        assert idle | serving == self.alive
        assert {lease_id: worker_id for each in stocks.values() for lease_id, worker_id in each.bound.items()} == (
            self.serving
        )
        assert {lease_id for each in stocks.values() for lease_id in each.needs} == self.unheard

    def teardown(self) -> None:
        self.pass_time(11.0)  # longer than any back-off
        while self.forking:
            self.come_up()  # with forks that work again everybody is served
            self.state_is_sound()
        assert not self.unheard
        default = self.state.default
        assert len(default.idle) + len(default.bound) - len(default.fresh) >= self.state.prestart


TestPool = Pool.TestCase
