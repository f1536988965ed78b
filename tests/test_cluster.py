"""A real scheduler and real worker processes on loopback.

One of them is killed by the system in the middle of its work.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_rows, write_screen, write_store

from mcnn_core import features, preprocessing
from mcnn_core.errors import InputError
from mcnn_core.machine import scheduler as scheduler_module
from mcnn_core.machine.scheduler import pool
from mcnn_core.model import CONFIGS, MCNN
from mcnn_core.readers.loaddata import read_loaddata

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
HOST = ["--host", "127.0.0.1"]

#: Loaded by both workers before they start. In its second task the doomed one leaves half of what
#: it should write, says so, and hangs; the other waits for that in its own second task, so that it
#: cannot be done before.
PRELOAD = """
import os, pathlib, time
from mcnn_core import {module}

calls, said = [], pathlib.Path(os.environ["SAID"])
plain = {module}.__dict__.setdefault("plain", {module}.{function})  # a worker loads this file twice

def hang(*arguments, **options):
    calls.append(arguments)
    if len(calls) == 2 and "DOOMED" in os.environ:
        {half}
        said.touch()
        time.sleep(600)
    while len(calls) == 2 and not said.exists():
        time.sleep(0.02)
    return plain(*arguments, **options)

{module}.{function} = hang
"""
HALF_A_BLOCK = "os.pwrite(os.open(arguments[-2], os.O_WRONLY), bytes([99]) * 100, arguments[-1])"
HALF_A_PART = (
    "(pathlib.Path(os.environ['SAID']).parent / 'there' / "
    "'.part_00000004.npy.01234567-1-1.part.npy').write_bytes(b'half')"
)


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, arguments)],
        env=ENVIRONMENT | environment,
        cwd=environment.get("PYTHONPATH", ROOT),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process):
    process.kill()  # SIGKILL; nothing if it has ended
    process.wait()


def until(true, process, seconds=600):
    limit = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < limit, (
            "the process ended or did nothing"
        )
        time.sleep(0.02)


@contextmanager
def scheduling(folder):
    """Yield the process and the address of a scheduler."""
    file = folder / "scheduler.json"
    process = start(
        "scheduler",
        *HOST,
        "--port",
        0,
        "--no-dashboard",
        "--no-jupyter",
        "--scheduler-file",
        file,
        DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1",
    )
    try:
        until(lambda: file.exists() and file.read_text().endswith("}"), process)
        yield process, json.loads(file.read_text())["address"]
    finally:
        kill(process)


@contextmanager
def working(address, *variants):
    """Yield the processes of workers, one for each set of variables of the environment.

    That is once the scheduler has all of them.
    """
    from distributed import Client

    processes = [
        start(
            "worker",
            address,
            *HOST,
            "--nthreads",
            1,
            "--no-dashboard",
            variant.get("NANNY", "--no-nanny"),
            **variant,
        )
        for variant in variants
    ]
    try:
        with Client(address, set_as_default=False) as client:
            for process in processes:
                until(lambda: len(client.nthreads()) == len(processes), process)
        yield processes
    finally:
        for process in processes:
            kill(process)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with scheduling(tmp_path_factory.mktemp("scheduler")) as (_, address):
        yield address


@pytest.fixture
def screen(tmp_path):
    return read_loaddata(
        write_screen(
            tmp_path,
            tiny_rows(plates=2, wells=("B02", "B03", "B04", "B05"), sites=3),
            shape=(24, 32),
        )
    )


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in (".lock", ".mcnn")
    }


def while_one_of_two_is_killed(address, folder, preload, task, *arguments, **options):
    """Return what a task makes of two workers, one of which is killed.

    It is in the middle of its second piece of the task.
    """
    (folder / "preload.py").write_text(preload)
    both = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(folder / "preload.py"),
        "SAID": str(folder / "said"),
    }
    with (
        working(address, both, both | {"DOOMED": "1"}) as (_, doomed),
        ThreadPoolExecutor(1) as thread,
    ):
        run = thread.submit(task, *arguments, **options)
        until(lambda: (folder / "said").exists() or run.done(), doomed)
        assert not run.done(), run.result()
        kill(doomed)
        return run.result(timeout=600)


def test_a_worker_killed_in_preprocessing_leaves_no_trace(address, screen, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocessing, "BLOCK", 2)
    how = preprocessing.Conversion(multiple=10)
    here = preprocessing.preprocess(screen, tmp_path / "here", how, progress=False)
    preload = PRELOAD.format(module="preprocessing", function="_write", half=HALF_A_BLOCK)
    there = while_one_of_two_is_killed(
        address,
        tmp_path,
        preload,
        preprocessing.preprocess,
        screen,
        tmp_path / "there",
        how,
        workers=address,
    )
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert (there.pixels == here.pixels).all()
    there.verify()
    rows = [
        row
        for block in there.manifest["blocks"]
        for row in range(block["first"], block["first"] + block["fields"])
    ]
    assert sorted(rows) == list(range(len(screen.table)))


def test_a_worker_killed_in_embedding_leaves_no_trace(address, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PART", 2)
    store = write_store(
        tmp_path / "store",
        np.random.default_rng(0).integers(0, 256, (17, 32, 64, 3), dtype=np.uint8),
    )
    torch.manual_seed(0)
    model, threads = MCNN(CONFIGS["default"], 4, 3, 32, 64).eval(), torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has
    try:
        here = features.embed_screen(model, store, tmp_path / "here", progress=False)
    finally:
        torch.set_num_threads(threads)
    preload = PRELOAD.format(module="features", function="embed", half=HALF_A_PART)
    there = while_one_of_two_is_killed(
        address,
        tmp_path,
        preload,
        features.embed_screen,
        model,
        store,
        tmp_path / "there",
        scheduler=address,
        progress=False,
    )
    assert there.shape == (17, 128) and (there == here).all()
    assert {
        name: text
        for name, text in contents(tmp_path / "there").items()
        if not name.startswith(".")
    } == contents(tmp_path / "here")


# ------------------------------------------------------------------ a cluster that cannot do it


def refused(address, folder, files=()) -> InputError:
    with pytest.raises(InputError) as error, pool(address, folder, files):
        pass
    assert not list(folder.glob("*shared*"))
    return error.value


@pytest.mark.parametrize("wrong", ["tcp://127.0.0.1:1", "127.0.0.1:1", "nonsense", "ftp://x:1"])
def test_a_scheduler_that_does_not_answer(monkeypatch, tmp_path, wrong):
    monkeypatch.setattr(scheduler_module, "PATIENCE", 1.0)
    assert f"no scheduler answers at {wrong!r}; start one" in str(refused(wrong, tmp_path))


def test_a_cluster_without_its_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "install it here" in str(refused("tcp://127.0.0.1:1", tmp_path))


def test_what_the_library_asserts_on_a_busy_machine_is_no_bare_error(monkeypatch, tmp_path):
    def fails(error):
        def function(*given, **options):
            raise error

        return function

    monkeypatch.setattr("distributed.Client", fails(AssertionError))
    assert "is this machine busy" in str(refused("tcp://127.0.0.1:1", tmp_path))
    client = SimpleNamespace(wait_for_workers=fails(TimeoutError), close=fails(AssertionError))
    monkeypatch.setattr("distributed.Client", lambda *given, **options: client)
    assert "has no workers" in str(refused("tcp://127.0.0.1:1", tmp_path))


def test_a_scheduler_without_workers(monkeypatch, address, tmp_path):
    monkeypatch.setattr(scheduler_module, "PATIENCE", 5.0)
    assert "has no workers; start workers (dask worker ADDRESS)" in str(refused(address, tmp_path))


def test_workers_that_cannot_take_part_are_named_together(address, tmp_path):
    """One has another source of the package, one has none, one is right but does not see a file."""
    for name in ("other", "none"):
        (tmp_path / name / "mcnn_core").mkdir(parents=True)
    shutil.copytree(ROOT / "mcnn_core", tmp_path / "other" / "mcnn_core", dirs_exist_ok=True)
    with (tmp_path / "other" / "mcnn_core" / "errors.py").open("a") as errors:
        errors.write("\n# changed\n")
    (tmp_path / "none" / "mcnn_core" / "__init__.py").write_text(
        "raise ModuleNotFoundError('as where it is not installed')\n"
    )
    with working(
        address, {}, {"PYTHONPATH": str(tmp_path / "other")}, {"PYTHONPATH": str(tmp_path / "none")}
    ):
        problems = refused(address, tmp_path, [str(tmp_path / "a.tif")]).problems
        late = late_task(address)
    own = scheduler_module.software()["mcnn_core"]
    assert len(problems) == 4 and all(
        problem.startswith("worker tcp://127.0.0.1:") for problem in problems
    )
    assert (
        sum(
            "a.tif: every machine needs the same folders under the same paths" in problem
            for problem in problems
        )
        == 2
    )
    assert sum(f", where the run has {own}" in problem for problem in problems) == 1
    assert (
        sum("cannot run this package: ModuleNotFoundError" in problem for problem in problems) == 1
    )
    assert "has other software than the run" in late


def late_task(address) -> str:
    """Return what a task says that falls to a worker with other software.

    It is one that was not there when they were checked.
    """
    from distributed import Client

    with Client(address, set_as_default=False) as client, pytest.raises(InputError) as error:
        told = client.run(lambda: __import__("mcnn_core").__file__, on_error="return")
        other = next(worker for worker, path in told.items() if "/other/" in str(path))
        client.submit(
            scheduler_module._task,
            scheduler_module.software(),
            os.getcwd,
            workers=[other],
            pure=False,
        ).result()
    return str(error.value)


def test_no_worker_is_left(monkeypatch, address, tmp_path):
    with (
        working(address, {}) as (worker,),
        pytest.raises(InputError, match="no worker is left; start workers"),
        pool(address, tmp_path) as tasks,
    ):
        pending = {tasks.submit(time.sleep, 60): "long"}
        monkeypatch.setattr(scheduler_module, "PATIENCE", 1.0)
        kill(worker)
        list(tasks.finished(pending))


def test_a_task_that_kills_every_worker(monkeypatch, address, tmp_path):
    """As one does that needs more memory than there is.

    The nanny starts the worker again, and the scheduler gives up in the end.
    """
    monkeypatch.setattr(scheduler_module, "PATIENCE", 300.0)
    with (
        working(address, {"NANNY": "--nanny"}),
        pytest.raises(InputError, match="several workers died of one task"),
        pool(address, tmp_path) as tasks,
    ):
        list(tasks.finished({tasks.submit(os._exit, 1): "deadly"}))


def test_the_scheduler_is_lost(tmp_path):
    with (
        scheduling(tmp_path) as (scheduler, address),
        working(address, {}),
        pytest.raises(InputError, match="the scheduler was lost"),
        pool(address, tmp_path) as tasks,
    ):
        pending = {tasks.submit(time.sleep, 60): "long"}
        kill(scheduler)
        list(tasks.finished(pending))


def test_what_a_task_raises_is_passed_on(address, tmp_path):
    with (
        working(address, {}),
        pool(address, tmp_path) as tasks,
        pytest.raises(ZeroDivisionError),
    ):
        list(tasks.finished({tasks.submit(divmod, 1, 0): ""}))
    with pool(1, tmp_path) as tasks, pytest.raises(ZeroDivisionError):
        list(tasks.finished({tasks.submit(divmod, 1, 0): ""}))


def test_threads_do_all_tasks(tmp_path):
    with pool(3, tmp_path) as tasks:
        pending, found = {tasks.submit(pow, number, 2): number for number in range(20)}, {}
        while pending:
            found |= dict(tasks.finished(pending))
    assert found == {number: number**2 for number in range(20)} and tasks.slots == 3
