from aioray.runtime.spinning import MAX_SKIPS, Spinning


def test_a_program_whose_answers_come_quickly_looks_before_each_wait() -> None:
    spinning = Spinning()
    for _ in range(100):
        assert spinning.is_worth_it()
        spinning.hit()


def test_looking_in_vain_gets_rarer_and_rarer() -> None:
    spinning = Spinning()
    looks = 0
    for _ in range(10_000):
        if spinning.is_worth_it():
            looks += 1
            spinning.missed()
    assert looks <= 10_000 / MAX_SKIPS + 8


def test_one_hit_makes_up_for_all_misses() -> None:
    spinning = Spinning()
    for _ in range(1000):
        if spinning.is_worth_it():
            spinning.missed()
    while not spinning.is_worth_it():
        pass
    spinning.hit()
    assert all(spinning.is_worth_it() for _ in range(10))


def test_what_has_cost_much_is_not_tried_for_long() -> None:
    spinning = Spinning()
    assert spinning.is_worth_it()
    spinning.lost(1000)
    assert not any(spinning.is_worth_it() for _ in range(1000))
    assert spinning.is_worth_it()
