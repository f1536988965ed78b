"""Where tasks run: the threads of this process, or the workers of a dask.distributed cluster.

Pre-processing and embedding are cut into tasks that do not depend on each other. By default they
run here. To spread them over several machines, all of which see the same files under the same paths
and have this repository installed at the same commit, start one scheduler and, on every machine,
workers::

    dask scheduler                                            # prints its address, tcp://HOST:8786
    dask worker tcp://HOST:8786 --nworkers auto --nthreads 1  # on each machine

and name the scheduler::

    make book PARAMS="scheduler=tcp://HOST:8786" ...
    preprocess(screen, "store", workers="tcp://HOST:8786")
    embed_screen(model, store, "activations", scheduler="tcp://HOST:8786")

Workers may come and go: the task of one that dies is given to another, and since a task writes the
same bytes at the same place whoever does it, and does it once or twice, the result is that of one
machine (of the embedding: of one with the same processor and the same number of threads per
worker). When no worker is left the run stops; the same command resumes with what is missing. A
scheduler does what anyone who reaches its port asks: keep it within a network that you trust.
"""

import hashlib
import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic

# Tasks (a function of a module and its arguments) that may run in any order, and what takes in the
# number of each and its result.
Stage = tuple[list[tuple], Callable[[int, Any], None]]

#: Seconds that a run waits for the scheduler to answer, and for a worker while there is none.
PATIENCE = 30.0

RESUME = (
    "start workers (dask worker ADDRESS), then give the same command again: "
    "it resumes with what is missing"
)


@lru_cache
def software() -> dict[str, str]:
    """Return what all machines must share: the package's source, Python, NumPy and torch."""
    code, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return {
        "mcnn_core": code.hexdigest()[:12],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "torch")},
    }


def _unlike(expected: dict[str, str]) -> list[str]:
    """Return in what the software of this process differs from that of the run."""
    return [
        f"{name} {software()[name]}, where the run has {version}"
        for name, version in expected.items()
        if software()[name] != version
    ]


def _unfit(expected: dict[str, str], mark: str, files: Sequence[str]) -> list[str]:
    """Return why this worker cannot take part: other software, or files that it does not see."""
    absent = [path for path in (mark, *files) if not Path(path).is_file()]
    return _unlike(expected) + [
        f"does not see {path}: every machine needs the same folders under the same paths"
        for path in absent
    ]


def _task(expected: dict[str, str], function: Callable, *args: Any) -> Any:
    """Run a task on a worker, which may have joined after the others were checked."""
    if unlike := _unlike(expected):
        raise InputError(
            f"A worker on {platform.node()} has other software than the run; "
            "install the same commit and requirements",
            unlike,
        )
    return function(*args)


class Pool:
    """Runs tasks; made by `pool`.

    Attributes
    ----------
    slots : int
        Tasks that run at the same time.
    """

    def __init__(self, executor: Executor, slots: int, client: Any = None):
        self._executor, self._client, self.slots = executor, client, slots
        self._killed: tuple[type[Exception], ...] = ()
        if client:
            from distributed import KilledWorker

            self._address, self._killed = client.scheduler.address, (KilledWorker,)

    def submit(self, function: Callable, *args: Any) -> Future:
        """Start a task: a function of a module, which on a cluster finds its arguments copied."""
        return (
            self._executor.submit(_task, software(), function, *args)
            if self._client
            else self._executor.submit(function, *args)
        )

    def finished(self, pending: dict[Future, Any]) -> Iterator[tuple[Any, Any]]:
        """Wait until some of the tasks in `pending` are done.

        Take them out, and yield what they stand for and their results.

        Raises
        ------
        InputError
            If the cluster has no scheduler or no worker any more, or a task has killed several
            workers. What a task raises is passed on.
        """
        alone = time.monotonic()  # since when there may have been no worker
        while not (
            done := wait(
                pending, timeout=1 if self._client else None, return_when=FIRST_COMPLETED
            ).done
        ):
            if self._workers():
                alone = time.monotonic()
            elif time.monotonic() - alone > PATIENCE:
                raise InputError(f"{self._address}: no worker is left; {RESUME}")
        for future in done:
            what = pending.pop(future)
            try:
                result = future.result()
            except CancelledError:
                raise self._lost() from None
            except self._killed as error:
                raise InputError(
                    f"{self._address}: several workers died of one task, "
                    f"perhaps for lack of memory; {RESUME}",
                    [str(error)],
                ) from error
            yield what, result

    def run(self, jobs: Iterable[Generator[Stage, None, None]]) -> None:
        """Run jobs: each yields its stages, and the next when all results of one are taken in.

        A job is begun when the others have too few tasks to keep all slots busy.
        """
        waiting, left = iter(jobs), Counter[Generator]()
        pending: dict[Future, tuple] = {}

        def proceed(job: Generator[Stage, None, None]) -> None:
            tasks, take = next(job, ([], None))
            left[job] = len(tasks)
            for number, task in enumerate(tasks):
                pending[self.submit(*task)] = job, take, number

        while True:
            while len(pending) < 2 * self.slots and (job := next(waiting, None)):
                proceed(job)
            if not pending:
                return
            for (job, take, number), result in self.finished(pending):
                take(number, result)
                left[job] -= 1
                if not left[job]:
                    proceed(job)

    def _workers(self) -> int:
        try:
            return len(self._client.nthreads())
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._lost() from error

    def _lost(self) -> InputError:
        return InputError(
            f"{self._address}: the scheduler was lost; "
            "start it and its workers again, and give the same command"
        )


def _check(client: Any, folder: Path, files: Sequence[str]) -> None:
    """Refuse a cluster of which a worker cannot do its part; all of them are named."""
    mark = folder / f"shared-{uuid.uuid4().hex}"
    with atomic(mark) as temporary:
        temporary.touch()
    try:
        replies = client.run(_unfit, software(), str(mark), list(files), on_error="return")
    finally:
        mark.unlink()
    problems = [
        f"worker {address} {problem}"
        for address, found in sorted(replies.items())
        for problem in (found if isinstance(found, list) else [f"cannot run this package: {found}"])
    ]
    if problems:
        raise InputError("Workers of the cluster cannot take part", problems)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Give a client of the scheduler at an address, until the block ends."""
    try:
        from distributed import Client  # only clusters need it
    except ModuleNotFoundError:
        raise InputError(
            "a cluster needs the package distributed: install it here and on every machine "
            "(.venv/bin/pip install distributed, in the version that requirements-tests.txt names)"
        ) from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    # On a busy machine its own thread may not have begun when it expects it to.
    except (OSError, ValueError, TimeoutError, AssertionError) as error:
        raise InputError(
            f"no scheduler answers at {address!r}; "
            "start one (dask scheduler) and give the address that it prints, tcp://HOST:8786",
            [str(error) or "it could not be asked: is this machine busy?"],
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError, AssertionError):  # a lost one hears no farewell
            client.close()


@contextmanager
def pool(workers: int | str, folder: Path, files: Sequence[str] = ()) -> Iterator[Pool]:
    """Give a place to run tasks, until the block ends.

    Tasks that have not begun by then are dropped.

    Parameters
    ----------
    workers : int or str
        Number of threads of this process, or the address of a dask.distributed scheduler,
        ``tcp://HOST:PORT``.
    folder : Path
        Existing folder that the tasks write to; every worker must see it.
    files : sequence of str
        Files that every worker must see.

    Raises
    ------
    InputError
        If no scheduler answers there, it has no workers, or some of them have other software or do
        not see the files.
    """
    if isinstance(workers, int):
        executor = ThreadPoolExecutor(workers)
        try:
            yield Pool(executor, workers)
        finally:
            executor.shutdown(cancel_futures=True)
        return
    with _connected(workers) as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise InputError(f"{workers}: the scheduler has no workers; {RESUME}") from None
        _check(client, folder, files)
        executor = client.get_executor()
        try:
            yield Pool(executor, sum(client.nthreads().values()), client)
        finally:
            executor.shutdown(wait=False)
