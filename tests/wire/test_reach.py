"""Addresses that are passed on from machine to machine, and what each makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioray.wire.preamble import PREAMBLE_NBYTES, preamble, what_is_wrong
from aioray.wire.reach import host_and_port, nearest, reachable

WORDS = st.text(st.characters(exclude_characters=" ", categories=("L", "N", "P")), min_size=1)
PATHS = st.text().map(lambda text: f"/{text}")


@given(PATHS, WORDS.filter(lambda word: not word.startswith("/")), WORDS, WORDS)
def test_each_machine_takes_what_leads_there_from_it(path: str, tcp: str, machine: str, other: str) -> None:
    address = reachable(path, tcp, machine)
    assert nearest(address, machine) == path
    assert nearest(address, f"not {machine}") == tcp
    assert nearest(reachable(path), other) == path
    assert nearest(tcp, other) == tcp


def test_an_ipv6_address_has_brackets() -> None:
    assert (host_and_port("::1", 5), host_and_port("127.0.0.1", 5)) == ("[::1]:5", "127.0.0.1:5")


@given(st.text(), st.integers(0, PREAMBLE_NBYTES))
def test_a_preamble_is_right_however_much_of_it_has_come(token: str, nbytes: int) -> None:
    assert what_is_wrong(preamble(token)[:nbytes], token) == ""


@given(st.binary(min_size=PREAMBLE_NBYTES, max_size=PREAMBLE_NBYTES), st.integers(0, PREAMBLE_NBYTES - 1))
def test_nothing_else_is_right(rubbish: bytes, at: int) -> None:
    assert what_is_wrong(rubbish, "token") != ""
    changed = bytearray(preamble("token"))
    changed[at] ^= 1
    assert what_is_wrong(bytes(changed), "token") != ""


@pytest.mark.parametrize("token", ["", "Token", "token "])
def test_another_token_is_wrong(token: str) -> None:
    assert "token" in what_is_wrong(preamble("token"), token)
