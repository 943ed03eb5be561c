"""joblib on the cluster: after `register_ray()`, `with joblib.parallel_backend("ray"):` runs Parallel's calls there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import aioray
from aioray.util.multiprocessing import Pool
from aioray.util.waiting import refuse_in_loop

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Iterator


def register_ray() -> None:
    """Make the backend known to joblib as "ray". Raises ImportError where joblib is not installed."""
    _register("ray")


def register_aioray() -> None:
    """Make the backend known to joblib as "aioray". Raises ImportError where joblib is not installed."""
    _register("aioray")


def _run(fn: Callable[[], Any]) -> Any:
    return fn()


def _register(name: str) -> None:
    try:
        from joblib import register_parallel_backend
        from joblib.parallel import AutoBatchingMixin, ParallelBackendBase
    except ImportError as exc:
        raise ImportError("joblib is not installed: pip install 'aioray[joblib]'") from exc

    class ClusterBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc] # joblib is untyped
        """A Pool of `n_jobs` processes. ray_remote_args: options of the actors that they are."""

        supports_retrieve_callback = True
        supports_timeout = True
        default_n_jobs = -1

        def __init__(self, *, ray_remote_args: dict[str, Any] | None = None, **options: Any) -> None:
            super().__init__(**options)
            self._ray_remote_args = ray_remote_args
            self._pool: Pool | None = None
            self._n_jobs = 1

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            """As joblib counts: -1 is all CPUs of the cluster, -2 all but one."""
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if n_jobs is not None and n_jobs > 0:
                return n_jobs
            if not aioray.is_initialized():
                aioray.init()
            cpus = int(aioray.cluster_resources()["CPU"])
            return max(1, cpus + 1 + (-1 if n_jobs is None else n_jobs))

        def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
            refuse_in_loop("joblib.Parallel(...)(calls)", "await asyncio.to_thread(joblib.Parallel(...), calls)")
            self.parallel = parallel
            self._n_jobs = self.effective_n_jobs(n_jobs)
            self._pool = Pool(self._n_jobs, ray_remote_args=self._ray_remote_args)
            self._run = self._pool._crew.runtime.put(_run)
            return self._n_jobs

        def submit(
            self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None
        ) -> concurrent.futures.Future[list[Any]]:
            assert self._pool is not None, "joblib configures a backend before it submits"
            future = self._pool._crew.submit(self._run, "value", [func])
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: concurrent.futures.Future[list[Any]]) -> Any:
            return out.result()[0]

        def terminate(self) -> None:
            super().terminate()
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.terminate()

        def abort_everything(self, ensure_ready: bool = True) -> None:
            self.terminate()
            if ensure_ready:
                self.configure(self._n_jobs, self.parallel)

        @contextlib.contextmanager
        def retrieval_context(self) -> Iterator[None]:
            """While joblib waits: a task that waits lends its CPU to others."""
            assert self._pool is not None, "joblib configures a backend before it retrieves"
            runtime = self._pool._crew.runtime
            runtime.on_block(True)
            try:
                yield
            finally:
                runtime.on_block(False)

    register_parallel_backend(name, ClusterBackend)
