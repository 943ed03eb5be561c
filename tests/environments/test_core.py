from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from aioray_node.environments.core import (
    Command,
    Event,
    Failed,
    GoOn,
    Ready,
    Refuse,
    SetUp,
    State,
    Unwanted,
    Wanted,
    check,
    handle,
)


def run(state: State, event: Event) -> list[Command]:
    commands = handle(state, event)
    check(state)
    return commands


def test_an_environment_is_set_up_once_however_many_ask() -> None:
    state = State()
    assert run(state, Wanted(1, "pandas")) == [SetUp("pandas")]
    assert run(state, Wanted(2, "pandas")) == []
    assert run(state, Wanted(3, "scipy")) == [SetUp("scipy")]
    assert run(state, Ready("pandas")) == [GoOn(1), GoOn(2)]
    assert run(state, Wanted(4, "pandas")) == [GoOn(4)]


def test_a_failure_is_told_to_all_who_wait_and_the_next_one_has_it_tried_again() -> None:
    state = State()
    run(state, Wanted(1, "pandas"))
    run(state, Wanted(2, "pandas"))
    assert run(state, Failed("pandas", "no network")) == [Refuse(1, "no network"), Refuse(2, "no network")]
    assert run(state, Wanted(3, "pandas")) == [SetUp("pandas")]
    assert run(state, Ready("pandas")) == [GoOn(3)]


def test_a_lease_that_is_over_hears_nothing() -> None:
    state = State()
    run(state, Wanted(1, "pandas"))
    assert run(state, Unwanted(1)) == []
    assert run(state, Unwanted(1)) == []
    assert run(state, Wanted(2, "pandas")) == []  # it is still being set up
    assert run(state, Ready("pandas")) == [GoOn(2)]


class Environments(RuleBasedStateMachine):
    """Any order of events: nothing is set up twice at a time, and everybody who waits hears once."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.at_work: set[str] = set()
        self.unheard: dict[int, str] = {}
        self.next_id = 0

    def feed(self, event: Event) -> None:
        for command in handle(self.state, event):
            match command:
                case SetUp(environment):
                    assert environment not in self.at_work
                    self.at_work.add(environment)
                case GoOn(lease_id):
                    assert self.unheard.pop(lease_id) not in self.at_work
                case Refuse(lease_id):
                    assert isinstance(event, Failed)
                    assert self.unheard.pop(lease_id) == event.environment

    @rule(target=leases, environment=st.sampled_from("ab"))
    def want(self, environment: str) -> int:
        self.next_id += 1
        self.unheard[self.next_id] = environment
        self.feed(Wanted(self.next_id, environment))
        return self.next_id

    @rule(lease_id=leases)
    def give_up(self, lease_id: int) -> None:
        self.unheard.pop(lease_id, None)
        self.feed(Unwanted(lease_id))

    @rule(works=st.booleans(), data=st.data())
    def finish(self, works: bool, data: st.DataObject) -> None:
        if self.at_work:
            environment = data.draw(st.sampled_from(sorted(self.at_work)))
            self.at_work.remove(environment)
            self.feed(Ready(environment) if works else Failed(environment, "broken"))

    @invariant()
    def state_is_sound(self) -> None:
        check(self.state)
        assert self.state.where == self.unheard
        assert self.state.waiting.keys() == self.at_work


TestEnvironments = Environments.TestCase
