"""Amounts of resources, counted in ten-thousandths: 0.1 + 0.2 of a GPU is 0.3 of a GPU, and sums come out even."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

UNIT = 10_000  # fixed point: this many make one whole CPU, GPU, byte of "memory", ...

Resources = dict[str, int]


def from_floats(amounts: Mapping[str, float]) -> Resources:
    """Fixed-point amounts, zeros left out. Raises ValueError for one that is negative, not finite or below 1/10,000."""
    demand: Resources = {}
    for name, amount in amounts.items():
        if not math.isfinite(amount) or amount < 0 or 0 < amount < 1 / UNIT:
            raise ValueError(f"{name}={amount!r}: an amount is 0 or at least {1 / UNIT} and finite")
        if amount:
            demand[name] = round(amount * UNIT)
    return demand


def to_floats(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: amount / UNIT for name, amount in amounts.items()}


def without_zeros(demand: Mapping[str, int]) -> Resources:
    """The same demand in its one normal form. Raises ValueError for a negative amount."""
    for name, amount in demand.items():
        if amount < 0:
            raise ValueError(f"a demand cannot be negative: {name}={amount}")
    return {name: amount for name, amount in demand.items() if amount}


def in_words(demand: Mapping[str, int]) -> str:
    """Such as "2 CPU, 0.5 GPU, 7.8 GiB memory"; "nothing" for an empty demand."""
    return ", ".join(f"{_amount(name, amount)} {name}" for name, amount in demand.items()) or "nothing"


@dataclass(slots=True)
class NodeResources:
    """What one node has, and how much of it is free. `available` + everything taken == `total`, always."""

    total: Resources
    available: Resources = field(init=False)  # below zero only by `acquire_forced`

    def __post_init__(self) -> None:
        self.total = without_zeros(self.total)
        self.available = dict(self.total)

    def could_ever_fit(self, demand: Mapping[str, int]) -> bool:
        return all(amount <= self.total.get(name, 0) for name, amount in demand.items())

    def fits(self, demand: Mapping[str, int]) -> bool:
        available = self.available
        # `not amount`: who asks for no CPU is not held up by a CPU count that is below zero just now.
        return all(not amount or amount <= available.get(name, 0) for name, amount in demand.items())

    def acquire(self, demand: Mapping[str, int]) -> None:
        """Raises ValueError, and takes nothing, when it does not fit."""
        if not self.fits(demand):
            raise ValueError(f"needs {in_words(demand)}, free are {in_words(self.available)}")
        self.acquire_forced(demand)

    def acquire_forced(self, demand: Mapping[str, int]) -> None:
        """Take it even where that leaves less than nothing: a worker that was blocked goes on, ready or not."""
        for name, amount in without_zeros(demand).items():
            self.available[name] -= amount

    def release(self, demand: Mapping[str, int]) -> None:
        """Raises ValueError, and gives nothing back, when more comes back than was ever taken."""
        demand = without_zeros(demand)
        for name, amount in demand.items():
            if self.available.get(name, 0) + amount > self.total.get(name, 0):
                raise ValueError(f"{in_words({name: amount})} came back that nobody had taken")
        for name, amount in demand.items():
            self.available[name] += amount

    def grow(self, more: Mapping[str, int]) -> None:
        """The node has more from here on."""
        for name, amount in without_zeros(more).items():
            self.total[name] = self.total.get(name, 0) + amount
            self.available[name] = self.available.get(name, 0) + amount

    def drop(self, names: Iterable[str]) -> None:
        """The node has these no more. Raises ValueError, and drops nothing, when some of it is taken."""
        names = [name for name in names if name in self.total]
        taken = {name: self.total[name] - self.available[name] for name in names}
        if any(taken.values()):
            raise ValueError(f"still in use: {in_words(without_zeros(taken))}")
        for name in names:
            del self.total[name], self.available[name]

    def missing(self, demand: Mapping[str, int], whose: str = "this node") -> str:
        """What the whole node is too small for, such as "needs 8 CPU, this node has 2"; "" when it could ever fit."""
        texts = []
        for name, amount in demand.items():
            total = self.total.get(name, 0)
            if amount > total:
                # Exact where the difference would not be seen.
                words = _amount if _amount(name, amount) != _amount(name, total) else _exact
                texts.append(f"needs {words(name, amount)} {name}, {whose} has {words(name, total)}")
        return "; ".join(texts)

    def as_floats(self) -> dict[str, float]:
        """What is available, in whole units: for people and for the wire. `to_floats(self.total)` has the rest."""
        return to_floats(self.available)


def _amount(name: str, amount: int) -> str:
    if name not in ("memory", "object_store_memory") or abs(amount) < 1024 * UNIT:
        return _number(amount)
    size, unit = abs(amount) / UNIT / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{'-' if amount < 0 else ''}{size:.1f}".removesuffix(".0") + f" {unit}"


def _exact(name: str, amount: int) -> str:
    return _number(amount)


def _number(amount: int) -> str:
    whole, rest = divmod(abs(amount), UNIT)
    text = f"{whole}.{rest:04}".rstrip("0") if rest else str(whole)  # exact, however many bytes of memory
    return f"-{text}" if amount < 0 else text
