"""The long stages on tiny data, each run in a process of its own and disturbed there.

The processes are forked from one that has imported everything, so that a case takes parts of a
second.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mcnn_book.simulate import bbbc021 as simulated
from mcnn_core import features, preprocessing
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.features import embed_screen
from mcnn_core.model import MCNN, NetworkConfig
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.store import Store
from mcnn_core.surrogate import surrogate_classes
from mcnn_core.training import RECIPES, load_model, train
from tests.children import PRELOAD
from tests.faults.rights import lower_rights

NETWORK = NetworkConfig(
    (4, 4), fusion=8, hidden=16, norm=True, pool_between=True, average=True, dropout=0.2
)
RECIPE = replace(RECIPES["default"], epochs=3, batch=6, seed=1)


# ------------------------------------------------------------------------------ stages


def screen(folder: Path) -> None:
    """Draw a small screen into ``screen``."""
    simulated.simulate_screen(
        folder / "screen", 0, simulated.LAYOUTS["tiny"], 48, 64, workers=1, progress=False
    )


def store(folder: Path) -> None:
    """Pre-process ``data/screen.csv`` into ``store``."""
    preprocessing.preprocess(
        read_loaddata(folder / "data" / "screen.csv"),
        folder / "store",
        preprocessing.Conversion(multiple=4),
        workers=1,
        progress=False,
    )


def model(folder: Path) -> None:
    """Train on the wells of the store into ``model``."""
    table = read_loaddata(folder / "data" / "screen.csv").table
    classes = surrogate_classes(
        table, ["Metadata_Plate", "Metadata_Well"], np.ones(len(table), bool)
    )
    train(
        Store.open(folder / "store"),
        classes["label"].to_numpy(),
        NETWORK,
        RECIPE,
        folder / "model",
        progress=False,
    )


def embedding(folder: Path) -> None:
    """Send every field through the network, in parts of 8 that are kept in ``embedding``."""
    features.PART = 8
    np.save(
        folder / "embedding.npy",
        embed_screen(
            load_model(folder / "model"),
            Store.open(folder / "store"),
            folder / "embedding",
            progress=False,
        ),
    )


STAGES = {stage.__name__: stage for stage in (screen, store, model, embedding)}


# ------------------------------------------------------------------------------ disturbances


@dataclass(frozen=True)
class Disturbance:
    """What happens to a process: at the `count`-th passing of a `point`, or from its start.

    Attributes
    ----------
    point : str
        "drawn" a well, "read" an image, "step" of the optimiser, "fields" sent through the network,
        or "moved NAME": a file whose name ends in NAME has been moved into place.
    act : str
        "kill" (-9), "interrupt" (Ctrl-C), "pause" until the file ``go`` is there, or "swap":
        replace the last image of the screen.
    limit : int
        No file can grow beyond so many bytes, as on a full disk; with act "kill" the attempt ends
        the process.
    bound : bool
        The process has no right to write where a folder's mode forbids it, whoever runs it.
    """

    point: str = ""
    count: int = 1
    act: str = ""
    limit: int = 0
    bound: bool = False


def _counted(
    function: Callable, act: Callable, count: int, counts: Callable = lambda *given: True
) -> Callable:
    """Return `function`, which calls `act` after its `count`-th call that counts."""
    passed = 0

    def wrapped(*given, **named):
        nonlocal passed
        result = function(*given, **named)
        if counts(*given):
            passed += 1
            if passed == count:
                act()
        return result

    return wrapped


def _act(name: str, folder: Path) -> Callable[[], None]:
    def pause() -> None:
        (folder / "paused").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)

    def swap() -> None:
        last = max((folder / "data").rglob("*.tif"))
        shutil.copy(min((folder / "data").rglob("*.tif")), folder / "other.tif")
        os.replace(folder / "other.tif", last)

    return {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
        "pause": pause,
        "swap": swap,
    }[name]


def disturb(folder: Path, how: Disturbance) -> None:
    """Arrange for a disturbance of this process."""
    if how.bound:
        lower_rights()
    if how.limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how.act == "kill" else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (how.limit, resource.RLIM_INFINITY))
    if not how.point:
        return
    act, (point, _, name) = _act(how.act, folder), how.point.partition(" ")
    owner, attribute = {
        "drawn": (simulated, "_write_well"),
        "read": (preprocessing, "read_image"),
        "step": (torch.optim.AdamW, "step"),
        "fields": (MCNN, "embed"),
        "moved": (os, "replace"),
    }[point]
    counts = (
        (lambda *given: os.fspath(given[1]).endswith(name))
        if point == "moved"
        else (lambda *given: True)
    )
    setattr(owner, attribute, _counted(getattr(owner, attribute), act, how.count, counts))


# ------------------------------------------------------------------------------ processes


def _warm() -> None:
    """Make libraries load what they load when first used, once and not in every process."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    # Its own is shared between processes, and what a killed one leaves of that is complained of.
    tqdm.set_lock(threading.RLock())


if (
    multiprocessing.parent_process() is None
    and __name__ != "__main__"
    and "forkserver" in " ".join(sys.argv + list(sys.orig_argv))
):
    _warm()


def _child(stage: str, folder: Path, how: Disturbance, told: Connection) -> None:
    os.dup2(told.fileno(), 1)  # a pipe, which no limit on the size of files cuts off
    os.dup2(told.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    try:
        disturb(folder, how)
        STAGES[stage](folder)
    except (InputError, MissingStageError, OSError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(2)
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
        os._exit(130)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


@dataclass(frozen=True)
class Run:
    """A process that has been started."""

    process: multiprocessing.process.BaseProcess
    told: Connection

    def end(self) -> tuple[int, str]:
        """Wait for the end; return exit code and what was printed.

        The exit code is minus the signal where one ended it.
        """
        self.process.join(600)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError("the process hangs")
        with open(self.told.fileno(), "rb", closefd=False) as pipe:
            text = pipe.read().decode()
        self.told.close()
        return self.process.exitcode, text


def start(stage: str, folder: Path, how: Disturbance = Disturbance()) -> Run:
    """Start a stage in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(stage, folder, how, tell))
    process.start()
    tell.close()
    return Run(process, told)


def run(stage: str, folder: Path, how: Disturbance = Disturbance()) -> tuple[int, str]:
    """Run a stage to its end, however that comes."""
    return start(stage, folder, how).end()
