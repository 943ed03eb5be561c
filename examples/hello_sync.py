"""The same from a plain script, in Ray's own words. Run: python examples/hello_sync.py"""

import aioray as ray


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total


ray.init(num_cpus=2)
refs = [square.remote(i) for i in range(5)]
ready, waiting = ray.wait(refs, num_returns=2)
print("ready:", len(ready), "waiting:", len(waiting))
print("squares:", ray.get(refs))
counter = Counter.remote()  # type: ignore[attr-defined]  # mypy does not see class decorators
print("total:", ray.get([counter.add.remote(ref) for ref in refs])[-1])
ray.shutdown()
