"""Which GPUs a lease gets: whole ones for itself, parts of one beside others. Pure.

A part goes where the least is free that is enough, so that whole devices stay whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aioray_node.scheduling.resources import UNIT


@dataclass(slots=True)
class Devices:
    """`count` equal devices, numbered from 0; amounts in ten-thousandths of one."""

    count: int
    free: list[int] = field(init=False)  # of each device
    capacity: list[int] = field(init=False)  # the same, when nothing is taken

    def __post_init__(self) -> None:
        self.free = [UNIT] * self.count
        self.capacity = list(self.free)

    @classmethod
    def of(cls, parts: dict[int, int], count: int) -> Devices:
        """Just what `acquire` has given, of `count` devices: to be given on in turn."""
        devices = cls(count)
        devices.capacity = [parts.get(device, 0) for device in range(count)]
        devices.free = list(devices.capacity)
        return devices

    def copy(self) -> Devices:
        """The same devices, to plan with."""
        other = Devices(self.count)
        other.free, other.capacity = list(self.free), list(self.capacity)
        return other

    def fits(self, amount: int) -> bool:
        return not amount or self._choose(amount) is not None

    def acquire(self, amount: int) -> dict[int, int]:
        """Device -> how much of it was taken. Raises ValueError, and takes nothing, when it does not fit."""
        taken = self._choose(amount)
        if taken is None:
            raise ValueError(f"{amount / UNIT:g} GPU asked for; free of each: {[part / UNIT for part in self.free]}")
        for device, part in taken.items():
            self.free[device] -= part
        return taken

    def release(self, taken: dict[int, int]) -> None:
        """Raises ValueError when more comes back than was taken."""
        for device, part in taken.items():
            if self.free[device] + part > self.capacity[device]:
                raise ValueError(f"more of GPU {device} came back than was taken")
            self.free[device] += part

    def shrink(self, taken: dict[int, int], amount: int) -> dict[int, int]:
        """Give back all but `amount` of what was taken, from the last device on; what is left."""
        left: dict[int, int] = {}
        for device, part in taken.items():
            left_here = min(part, amount)
            amount -= left_here
            self.free[device] += part - left_here
            if left_here:
                left[device] = left_here
        return left

    def _choose(self, amount: int) -> dict[int, int] | None:
        whole, part = divmod(amount, UNIT)
        chosen = [device for device, free in enumerate(self.free) if free == UNIT][:whole]
        if len(chosen) < whole:
            return None
        taken = dict.fromkeys(chosen, UNIT)
        if part:
            roomy = [(free, device) for device, free in enumerate(self.free) if free >= part and device not in taken]
            if not roomy:
                return None
            taken[min(roomy)[1]] = part
        return taken
