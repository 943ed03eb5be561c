"""The asyncio way: connect, await tasks together, talk to an actor. Run: python examples/hello_async.py"""

import asyncio

import aioray


@aioray.remote
def square(x: int) -> int:
    return x * x


@aioray.remote
class Counter(aioray.Actor):
    def __init__(self) -> None:
        self.total = 0

    @aioray.method
    def add(self, n: int) -> int:
        self.total += n
        return self.total


async def main() -> None:
    async with aioray.connect(num_cpus=2):
        squares = await asyncio.gather(*(square.remote(i) for i in range(5)))
        print("squares:", squares)
        counter = Counter.remote()
        for n in squares:
            total = await counter.add.remote(n)
        print("total:", total)


if __name__ == "__main__":
    asyncio.run(main())
