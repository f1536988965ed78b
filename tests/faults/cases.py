"""The faults: what is done to a run, and what must hold after it.

A case gets an empty folder and a `Good` one, made by undisturbed runs. It returns what happened and
what was kept, in a line each, and fails by an AssertionError.
"""

import ast
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch

from mcnn_book.__main__ import main
from mcnn_book.workspace import Workspace
from mcnn_core.errors import InputError
from mcnn_core.machine import files
from mcnn_core.training import load_model
from tests.faults.stages import Disturbance, run, start
from tests.helpers import NOTEBOOK, small_repository, tiny_rows, write_screen

ROOT = Path(__file__).resolve().parents[2]
KILLED, REFUSED, STOPPED = -signal.SIGKILL, 2, 130

#: What can go wrong, in the order of the page's table.
KINDS = (
    "folder in the way",
    "no right to write",
    "full disk",
    "two at once",
    "interrupt",
    "kill",
    "damage",
)


@dataclass(frozen=True)
class Case:
    """One fault."""

    name: str
    stage: str
    kinds: tuple[str, ...]  #: of `KINDS`
    act: Callable[[Path, "Good"], tuple[str, str]]


CASES: list[Case] = []


def case(stage: str, name: str, *kinds: str) -> Callable:
    """Add a function to `CASES`."""
    assert kinds and set(kinds) <= set(KINDS), kinds

    def add(act: Callable) -> Callable:
        CASES.append(Case(name, stage, kinds, act))
        return act

    return add


class Good:
    """What undisturbed runs leave, made once for all cases.

    Attributes
    ----------
    folder : Path
        ``data`` (screen.csv and images), ``store``, ``model``, ``embedding`` and ``embedding.npy``.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        write_screen(
            folder / "data", tiny_rows(plates=3, wells=("B02", "C03"), sites=6), shape=(16, 16)
        )
        for stage in ("screen", "store", "model", "embedding"):
            assert run(stage, folder) == (0, "")

    def copy(self, folder: Path, *names: str) -> None:
        """Copy the screen and parts of what follows from it into a case's folder."""
        for name in ("data", *names):
            shutil.copytree(self.folder / name, folder / name)

    def same_screen(self, folder: Path) -> None:
        """Fail if a simulated screen is not that of the undisturbed run, to the bit."""
        assert contents(folder / "screen") == contents(self.folder / "screen")

    def same_store(self, folder: Path) -> None:
        """Fail if a store is not that of the undisturbed run, to the bit."""
        for name in ("pixels.npy", "store.json"):
            assert (folder / "store" / name).read_bytes() == (
                self.folder / "store" / name
            ).read_bytes(), name

    def same_model(self, folder: Path) -> None:
        """Fail if weights or history are not those of the undisturbed run, to the bit.

        Its seconds are left out.
        """
        one, other = (load_model(where / "model").state_dict() for where in (folder, self.folder))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        one, other = (
            pd.read_csv(where / "model" / "history.csv").drop(columns="seconds")
            for where in (folder, self.folder)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)

    def same_embedding(self, folder: Path) -> None:
        """Fail if an embedding is not that of the undisturbed run, to the bit."""
        assert (folder / "embedding.npy").read_bytes() == (
            self.folder / "embedding.npy"
        ).read_bytes()

    def same(self, stage: str, folder: Path) -> None:
        """Fail if a stage's result is not that of the undisturbed run."""
        {
            "screen": self.same_screen,
            "store": self.same_store,
            "model": self.same_model,
            "embedding": self.same_embedding,
        }[stage](folder)


BEFORE = {"screen": (), "store": (), "model": ("store",), "embedding": ("store", "model")}


def contents(folder: Path) -> dict[str, bytes]:
    """Return what every file in a folder holds; locks and markers left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".mcnn")
    }


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files below a folder."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if path.name not in (".lock", ".mcnn")
    ]


def told(text: str, folder: Path) -> str:
    """Return a message as the table shows it.

    That is without what differs from run to run and from machine to machine.
    """
    text = re.sub(r"process \d+ on [^)]*", "process N on HOST", text.replace(f"{folder}/", ""))
    return re.sub(r"\.[0-9a-f]{8}-\d+-\d+\.part", ".N.part", text)


def clear(text: str, *words: str) -> str:
    """Return the first line of an error; fail if it is a traceback or lacks one of the words."""
    assert text and "Traceback" not in text, text
    assert all(word in text for word in words), text
    return text.splitlines()[0]


def goes_on(good: Good, stage: str, folder: Path) -> None:
    """Run a stage again, undisturbed.

    It must end with the undisturbed result and leave no temporary file.
    """
    code, text = run(stage, folder)
    assert code == 0, text
    good.same(stage, folder)
    assert not leftovers(folder), leftovers(folder)


# ---------------------------------------------------- kill, Ctrl-C, no room, in each stage

POINTS = {
    "screen": ("drawn", 3, "while a screen is simulated"),
    "store": ("read", 100, "in the middle of pre-processing"),
    "model": ("step", 9, "in the middle of an epoch"),
    "embedding": ("fields", 3, "in the middle of embedding"),
}
WRITTEN = {
    "screen": "an image is",
    "store": "pixels are",
    "model": "a checkpoint is",
    "embedding": "a part is",
}
RUNS = {"store": "pre-processings", "model": "trainings", "embedding": "embeddings"}
LIMITS = {
    "screen": 3_000,
    "store": 5_000,
    "model": 16_000,
    "embedding": 500,
}  # bytes: less than the pixels, a checkpoint, a part
FULL = {
    "screen": ("could not be written", "screen"),
    "store": ("File too large", "store"),
    "model": ("File too large", "epoch_001"),
    "embedding": ("File too large", "part_"),
}  # what is said

for _stage, (_point, _count, _where) in POINTS.items():

    @case(_stage, f"kill -9 {_where}", "kill")
    def _(folder: Path, good: Good, stage=_stage, point=_point, count=_count) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        before = contents(good.folder / "data")
        code, _ = run(stage, folder, Disturbance(point, count, "kill"))
        assert code == KILLED
        kept = BEFORE[stage]
        assert (
            all(contents(folder / name) == contents(good.folder / name) for name in kept)
            and contents(folder / "data") == before
        )
        goes_on(good, stage, folder)
        return "the process was gone at once", (
            "nothing of the half screen; the next run drew the same bits"
            if stage == "screen"
            else "what was done; the next run resumed to the same bits"
        )

    @case(_stage, f"Ctrl-C {_where}", "interrupt")
    def _(folder: Path, good: Good, stage=_stage, point=_point, count=_count) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        code, text = run(stage, folder, Disturbance(point, count, "interrupt"))
        assert code == STOPPED, text
        goes_on(good, stage, folder)
        return "the run stopped", (
            "nothing of the half screen; the next run drew the same bits"
            if stage == "screen"
            else "what was done; the next run resumed to the same bits"
        )

    @case(
        _stage,
        f"no room for the file while {WRITTEN[_stage]} written",
        "full disk",
    )
    def _(folder: Path, good: Good, stage=_stage) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        if stage == "embedding":  # begun, so that larger files than a part are there
            assert run(stage, folder, Disturbance("fields", 2, "kill"))[0] == KILLED
        code, text = run(stage, folder, Disturbance(limit=LIMITS[stage]))
        assert code == REFUSED, text
        said = clear(text, *FULL[stage])
        goes_on(good, stage, folder)
        return told(
            said, folder
        ), "what was there before; with room again the run resumed to the same bits"

    @case(_stage, f"a foreign folder where the {_stage} belongs", "folder in the way")
    def _(folder: Path, good: Good, stage=_stage) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        (folder / stage / "photos").mkdir(parents=True)
        for name in ("notes.txt", "epoch_001.sha256", "store.json", "photos/cat.jpg"):
            (folder / stage / name).write_text(name)
        before = contents(folder)
        code, text = run(stage, folder)
        assert code == REFUSED and len(text.splitlines()) == 1, text
        said = clear(
            text,
            stage,
            "holds 'epoch_001.sha256', 'notes.txt', 'photos' and 1 more "
            "and was not made by this program",
        )
        assert contents(folder) == before
        os.replace(folder / stage, folder / "theirs")
        goes_on(good, stage, folder)
        return told(
            said, folder
        ), "everything; with that folder out of the way the run ended with the same bits"

    if _stage == "screen":
        # nothing of it is kept between runs: two at once are two screens, of which the last stays
        continue

    @case(
        _stage,
        f"two {RUNS[_stage]} into one folder at once",
        "two at once",
    )
    def _(folder: Path, good: Good, stage=_stage, point=_point) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        first = start(stage, folder, Disturbance(point, 1, "pause"))
        while not (folder / "paused").exists():
            assert first.process.is_alive(), first.end()
            time.sleep(0.01)
        code, text = run(stage, folder)
        (folder / "go").touch()
        assert code == REFUSED, text
        said = clear(text, str(folder), "another run")
        assert first.end() == (0, "")
        good.same(stage, folder)
        return f"the second: {told(said, folder)}", "the first run ended with the same bits"


for _stage in POINTS:

    @case(_stage, f"no right to write the folder of the {_stage}", "no right to write")
    def _(folder: Path, good: Good, stage=_stage) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        before, target = (
            contents(folder),
            folder if stage in ("screen", "store") else folder / stage,
        )
        target.mkdir(exist_ok=True)
        target.chmod(0o555)
        try:
            code, text = run(stage, folder, Disturbance(bound=True))
        finally:
            target.chmod(0o755)
        assert code == REFUSED, text
        said = clear(text, "Permission denied", str(folder))
        assert contents(folder) == before
        goes_on(good, stage, folder)
        return told(
            said, folder
        ), "everything; with the right to write the run ended with the same bits"


@case("store", "kill -9 while a store is made anew over an older one", "kill")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    last = max((folder / "data").rglob("*.tif"))
    image = tifffile.imread(last)
    tifffile.imwrite(last, image + 1)
    assert run("store", folder, Disturbance("read", 100, "kill"))[0] == KILLED
    assert contents(folder / "store") == contents(good.folder / "store")
    tifffile.imwrite(last, image)
    goes_on(good, "store", folder)
    return "the process was gone at once", "the older store, whole, until the new one was"


# ------------------------------------------------------------------------------ images and tables


def _hurt_image(
    hurt: Callable[[Path], None], *words: str
) -> Callable[[Path, Good], tuple[str, str]]:
    def act(folder: Path, good: Good) -> tuple[str, str]:
        good.copy(folder, "store")
        last = max((folder / "data").rglob("*.tif"))
        whole = last.read_bytes()
        hurt(last)
        code, text = run("store", folder)
        assert code == REFUSED, text
        clear(text, last.name, *words)
        assert contents(folder / "store") == contents(good.folder / "store")
        last.write_bytes(whole)
        goes_on(good, "store", folder)
        return told(
            text.splitlines()[1].strip(" -"), folder
        ), "the older store; with the image mended the same bits"

    return act


def _huge(path: Path) -> None:
    """Write a TIFF of 60,000 x 60,000 pixels, 7.2 GB, in 330 bytes."""
    tags = {
        256: (4, 60_000),
        257: (4, 60_000),
        258: (3, 16),
        259: (3, 1),
        262: (3, 1),
        273: (4, 122),
        277: (3, 1),
        278: (4, 60_000),
        279: (4, 208),
    }
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in tags.items()
    )
    path.write_bytes((b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries).ljust(330, b"\0"))


case("store", "a TIFF that is truncated", "damage")(
    _hurt_image(lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated")
)
case("store", "a TIFF of 7 GB, as its 330 bytes say", "damage")(
    _hurt_image(_huge, "at most", "got 60000 x 60000", "plate P3")
)
case("store", "a TIFF of another data type", "damage")(
    _hurt_image(
        lambda path: tifffile.imwrite(path, tifffile.imread(path).astype(np.complex64)), "complex64"
    )
)
case("store", "a TIFF that is missing", "damage")(_hurt_image(Path.unlink, "does not exist"))


@case("store", "a TIFF replaced while pre-processing runs", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    last = max((folder / "data").rglob("*.tif"))
    whole = last.read_bytes()
    code, text = run("store", folder, Disturbance("read", 100, "swap"))
    assert code == REFUSED, text
    clear(text, last.name, "has changed while")
    assert contents(folder / "store") == contents(good.folder / "store")
    last.write_bytes(whole)
    goes_on(good, "store", folder)
    return told(
        text.splitlines()[1].strip(" -"), folder
    ), "the older store; with the image as before the same bits"


def _change_table(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "data" / "screen.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


@case("model", "the table has lost a row since pre-processing", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store", "model")
    _change_table(folder, lambda table: table.iloc[1:])
    code, text = run("model", folder)
    assert code == REFUSED, text
    said = clear(text, "36 fields in the store, but 35 labels")
    assert contents(folder / "model") == contents(good.folder / "model")
    return said, "store and checkpoints"


@case("model", "the store is made anew while a training reads it", "two at once")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    first = start("model", folder, Disturbance("step", 9, "pause"))
    while not (folder / "paused").exists():
        assert first.process.is_alive(), first.end()
        time.sleep(0.01)
    last = max((folder / "data").rglob("*.tif"))
    whole = last.read_bytes()
    tifffile.imwrite(last, tifffile.imread(last) // 2)
    assert run("store", folder) == (0, "")
    (folder / "go").touch()
    assert first.end() == (0, "")
    good.same_model(folder)
    code, text = run("model", folder)
    assert code == REFUSED, text
    said = clear(text, "belongs to another training", "store")
    last.write_bytes(whole)
    goes_on(good, "store", folder)
    goes_on(good, "model", folder)
    return (
        f"the training ended on the store that it had begun with; the next: {told(said, folder)}",
        "with the image as before the same bits",
    )


@case("model", "the table names other wells since the training began", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store", "model")
    _change_table(
        folder,
        lambda table: table.assign(
            Metadata_Well=table["Metadata_Well"].mask(table["Metadata_Plate"] == "P3", "C03"),
            Metadata_Site=range(1, 37),
        ),
    )
    code, text = run("model", folder)
    assert code == REFUSED, text
    said = clear(text, "belongs to another training", "surrogate classes")
    assert contents(folder / "model") == contents(good.folder / "model")
    return told(said, folder), "the checkpoints of the training before"


# ------------------------------------------------------------------------------ the store


def _flip(path: Path, place: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def _hurt_store(
    hurt: Callable[[Path], None], stage: str = "model"
) -> Callable[[Path, Good], tuple[str, str]]:
    def act(folder: Path, good: Good) -> tuple[str, str]:
        good.copy(folder, *BEFORE[stage])
        hurt(folder / "store")
        code, text = run(stage, folder)
        assert code == REFUSED, text
        said = clear(text, "store", "pre-process again")
        assert not list(folder.glob("model/epoch*")) or stage == "embedding"
        shutil.rmtree(folder / "store")
        goes_on(good, "store", folder)
        goes_on(good, stage, folder)
        return told(
            said, folder
        ), "nothing was computed from it; pre-processed again, the same bits"

    return act


case("store", "a store with a missing block (its last rows)", "damage")(
    _hurt_store(lambda store: os.truncate(store / "pixels.npy", 12_000))
)
case("store", "a store with a block too many", "damage")(
    _hurt_store(lambda store: os.truncate(store / "pixels.npy", 21_632))
)
case("store", "a store with an altered block, before training", "damage")(
    _hurt_store(lambda store: _flip(store / "pixels.npy", -700))
)
case("store", "a store with an altered block, before embedding", "damage")(
    _hurt_store(lambda store: _flip(store / "pixels.npy", -700), "embedding")
)
case("store", "a store without its pixels", "damage")(
    _hurt_store(lambda store: (store / "pixels.npy").unlink())
)
case("store", "a store whose description was emptied", "damage")(
    _hurt_store(lambda store: (store / "store.json").write_bytes(b""))
)


# ------------------------------------------------------------------------------ checkpoints


@case("model", "killed in the middle of a checkpoint's tensor file", "kill")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    assert run("model", folder, Disturbance("moved epoch_001.sha256", 1, "kill"))[0] == KILLED
    first = contents(folder / "model")
    assert (
        run("model", folder, Disturbance(limit=LIMITS["model"], act="kill"))[0] == -signal.SIGXFSZ
    )
    assert first.items() - contents(folder / "model").items() <= {
        ("history.csv", first["history.csv"])
    }
    goes_on(good, "model", folder)
    return (
        "the process was gone with half a file written",
        "the checkpoint before; the next run resumed to the same bits",
    )


@case("model", "kill -9 between a checkpoint's tensor file and its hash", "kill")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    assert run("model", folder, Disturbance("moved epoch_002.safetensors", 1, "kill"))[0] == KILLED
    there = contents(folder / "model")
    assert (
        "epoch_001.sha256" in there
        and "epoch_002.safetensors" in there
        and "epoch_002.sha256" not in there
    )
    goes_on(good, "model", folder)
    return (
        "the process was gone with a tensor file that has no hash",
        "the checkpoint before; the next run resumed to the same bits",
    )


def _hurt_checkpoint(hurt: Callable[[Path], None]) -> Callable[[Path, Good], tuple[str, str]]:
    def act(folder: Path, good: Good) -> tuple[str, str]:
        good.copy(folder, "store", "model")
        newest = max((folder / "model").glob("epoch_*.safetensors"))
        hurt(newest)
        for stage in ("model", "embedding"):
            code, text = run(stage, folder)
            assert code == REFUSED, text
            said = clear(text, newest.name, "damaged")
        older = contents(good.folder / "model")
        assert all(
            content == older[name]
            for name, content in contents(folder / "model").items()
            if name != newest.name
        )
        for path in (folder / "model").glob(f"{newest.stem}.*"):
            path.unlink()
        goes_on(good, "model", folder)
        return told(said, folder), "the checkpoint before; from there to the same bits"

    return act


case("model", "a checkpoint that is truncated", "damage")(
    _hurt_checkpoint(lambda path: os.truncate(path, 20_000))
)
case("model", "a checkpoint that is empty", "damage")(
    _hurt_checkpoint(lambda path: os.truncate(path, 0))
)
case("model", "a checkpoint with one bit flipped", "damage")(
    _hurt_checkpoint(lambda path: _flip(path, -9))
)


@case("model", "a checkpoint of another class map", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store")
    _change_table(
        folder,
        lambda table: table.assign(
            Metadata_Well=table["Metadata_Well"].where(table["Metadata_Plate"] != "P1", "B02"),
            Metadata_Site=range(1, 37),
        ),
    )
    assert run("model", folder)[0] == 0
    other = contents(folder / "model")
    shutil.copy(good.folder / "data" / "screen.csv", folder / "data" / "screen.csv")
    code, text = run("model", folder)
    assert code == REFUSED, text
    said = clear(text, "belongs to another training")
    assert contents(folder / "model") == other
    shutil.rmtree(folder / "model")
    goes_on(good, "model", folder)
    return told(said, folder), "the checkpoints of the other training"


@case("model", "a checkpoint whose header claims a tensor of 4 TB, with the right hash", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    good.copy(folder, "store", "model")
    newest = max((folder / "model").glob("epoch_*.safetensors"))
    header = json.dumps(
        {
            "x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]},
            "__metadata__": {"state": "{}"},
        }
    ).encode()
    newest.write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    newest.with_suffix(".sha256").write_text(
        f"{files.sha256(newest)}  {newest.name}\n", encoding="ascii"
    )
    for stage in ("model", "embedding"):
        code, text = run(stage, folder)
        assert code == REFUSED, text
        said = clear(text, newest.name)
    for path in (folder / "model").glob(f"{newest.stem}.*"):
        path.unlink()
    goes_on(good, "model", folder)
    return told(said, folder), "the checkpoint before; from there to the same bits"


@case("embedding", "a kept part of an embedding is truncated", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    return _hurt_part(folder, good, lambda path: os.truncate(path, 300))


@case("embedding", "a kept part of an embedding has one bit flipped", "damage")
def _(folder: Path, good: Good) -> tuple[str, str]:
    return _hurt_part(folder, good, lambda path: _flip(path, -9))


def _hurt_part(folder: Path, good: Good, hurt: Callable[[Path], None]) -> tuple[str, str]:
    """Either the part is refused by name, or it is computed again."""
    good.copy(folder, "store", "model", "embedding")
    part = min((folder / "embedding").glob("part_*.npy"))
    hurt(part)
    code, text = run("embedding", folder)
    if code:
        assert code == REFUSED, text
        said = clear(text, part.name)
        part.unlink()
    goes_on(good, "embedding", folder)
    return told(
        said, folder
    ) if code else "the part was found damaged and computed again", "the other parts; the same bits"


# ------------------------------------------------------------------------------ the book

#: The second notebook waits, if told to, where it can be met: after it has begun, before it has
#: written.
WAITING = """\
import os
import pathlib
import time

from mcnn_core.machine.files import atomic
from mcnn_book.workspace import Workspace

space = Workspace(out, "02_second")
pathlib.Path(os.environ["MET"] + ".here").touch()
while os.path.exists(os.environ["MET"]):
    time.sleep(0.05)
with atomic(space.path("kept.txt")) as temporary:
    temporary.write_text("kept " * 20_000)
space.record(n=2)"""
FIRST = """\
from mcnn_book.workspace import Workspace

space = Workspace(out, "01_first")
space.record(n=1)"""


def _notebook(title: str, code: str) -> str:
    return NOTEBOOK.format(
        title=title, parameters="", prose=f"It is {{result}}`{title.lower()}.n`.", code=code
    )


def _build(
    root: Path, out: Path, *tasks: str, limit: int = 0, bound: bool = False
) -> subprocess.Popen:
    """Start a build.

    See `Disturbance` for `limit`, which also holds for the processes it starts, and `bound`.
    """
    code = f"""
        import resource, runpy, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if {limit}:
            # Python ignores SIGXFSZ from its start
            resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
        if {bound}:
            runpy.run_path({str(ROOT / "tests" / "faults" / "rights.py")!r})["lower_rights"]()
        sys.argv = ["tools.run", "doit", "run", *sys.argv[1:]]
        runpy.run_module("tools.run", run_name="__main__", alter_sys=True)
    """
    environment = os.environ | {
        "OUT": str(out),
        "PROFILE": "tiny",
        "PYTHONPATH": str(root),
        "MET": f"{root}/met",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("SCREEN", "DATA", "SEED", "SURROGATE", "PARAMS"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *tasks],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _built(root: Path, out: Path, *tasks: str) -> str:
    """Build to the end; fail if that fails."""
    process = _build(root, out, *tasks)
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 0, text
    return text


def _kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()  # not read to its end: what the build had started may still hold it open


def _met(root: Path, process: subprocess.Popen) -> None:
    """Wait until the second notebook waits."""
    while not (root / "met.here").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def _results(out: Path) -> dict:
    """Return the numbers of a book, without those of the machine and the clock."""
    return {
        key: value
        for key, value in json.loads((out / "results.json").read_text(encoding="utf-8")).items()
        if not key.startswith("run.seconds")
    }


def _pages(out: Path) -> dict[str, bytes]:
    return contents(out / "html")


def _repository_of(folder: Path, good: Good) -> tuple[Path, Path]:
    """Return a repository of the case's own and its output folder.

    They come with the numbers of an undisturbed book to compare with.
    """
    root = small_repository(
        folder / "repository",
        _notebook("First", FIRST),
        _notebook("Second", WAITING),
        "# Small\n",
        "tiny: {}\ndefault: {}\n",
    )
    if not hasattr(good, "results"):
        _built(root, good.folder / "out", "merge")
        good.results = _results(good.folder / "out")
    (root / "met").touch()
    (root / "met.here").unlink(missing_ok=True)
    return root, folder / "out"


def _same_numbers(good: Good, root: Path, out: Path) -> str:
    """Build again, undisturbed, and return what was printed.

    The numbers must be those of the undisturbed book.
    """
    (root / "met").unlink(missing_ok=True)
    text = _built(root, out, "merge")
    assert _results(out) == good.results and (out / "kept.txt").read_text() == "kept " * 20_000
    return text


def _goes_on(good: Good, root: Path, out: Path) -> str:
    """Build a stopped book again and return what was kept.

    What was done before is not done again, and the numbers are the same.
    """
    text = _same_numbers(good, root, out)
    assert "01_first: running" not in text and "02_second: done" in text, text
    return "the notebooks before, which did not run again; the same numbers"


@case("book", "a foreign folder where the output belongs", "folder in the way")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    for name in (
        "results.json",
        ".lock",
        "screen/a.tif",
        "html/index.html",
        "src/conf.py",
        "exec/01_first.json",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    before = contents(folder)
    process = _build(root, out)
    text = process.communicate(timeout=600)[0]
    assert process.returncode and len(text.splitlines()) == 1, text
    said = clear(
        text, "out holds '.lock', 'exec', 'html' and 3 more and was not made by this program"
    )
    assert contents(folder) == before and (out / ".lock").read_text() == ".lock"
    os.replace(out, folder / "theirs")
    _same_numbers(good, root, out)
    return told(said, folder), "everything; with that folder out of the way the same numbers"


@case("book", "kill -9 while a notebook of the book runs", "kill")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    process = _build(root, out, "merge")
    _met(root, process)
    _kill(process)
    return "the build was gone at once, its notebook a second later", _goes_on(good, root, out)


@case("book", "Ctrl-C while a notebook of the book runs", "interrupt")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    process = _build(root, out, "merge")
    _met(root, process)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=600)[0]
    assert (
        process.returncode
        and "Traceback" not in text
        and "stopped; the same command resumes" in text
    ), text
    return "the build stopped and said that the same command resumes", _goes_on(good, root, out)


@case("book", "no room for the file while a notebook of the book runs", "full disk")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    (root / "met").unlink()
    process = _build(root, out, "merge", limit=80_000)
    text = process.communicate(timeout=600)[0]
    assert (
        process.returncode and "notebook 02_second failed" in text and "File too large" in text
    ), text
    return "notebook 02_second failed: OSError: File too large", _goes_on(good, root, out)


@case("book", "two builds into one output folder at once", "two at once")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    first = _build(root, out, "merge")
    _met(root, first)
    second = _build(root, out, "merge")
    text = second.communicate(timeout=600)[0]
    assert second.returncode and text.startswith("error: ") and len(text.splitlines()) == 1, text
    said = clear(text, str(out), f"process {first.pid} ")
    (root / "met").unlink()
    text = first.communicate(timeout=600)[0]
    assert first.returncode == 0, text
    assert _results(out) == good.results
    return f"the second: {told(said, folder)}", "the first ended with the same numbers"


@case("book", "other commands into the output folder of a book that is being built", "two at once")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    first = _build(root, out, "merge")
    _met(root, first)
    screen, store = str(good.folder / "data" / "screen.csv"), out / "store"
    done, refused = [], []
    for name, command in {
        "check": lambda: main(["check", "--screen", screen, "--out", str(out)]),
        "preprocess": lambda: main(
            ["preprocess", "--screen", screen, "--out", str(store), "--multiple", "4"]
        ),
        "simulate": lambda: main(
            ["simulate", "--out", str(out), "--seed", "0", "--layout", "tiny"]
        ),
        "data": lambda: main(["data", "--screen", "kimorph", "--data", str(out)]),
        "train": lambda: main(["train", "--out", str(out)]),
        "a notebook by hand": lambda: Workspace(str(out), "02_second"),
        "a second book": lambda: _built(root, out),
    }.items():
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                command()
            done.append(name)
        except (SystemExit, InputError, AssertionError) as end:
            # 1: the check has found an error.
            (done if end.args[:1] in ((0,), (1,)) else refused).append(name)
    assert (done, refused) == (
        ["check", "preprocess"],
        ["simulate", "data", "train", "a notebook by hand", "a second book"],
    ), (done, refused)
    good.same_store(out)
    (root / "met").unlink()
    text = first.communicate(timeout=600)[0]
    assert first.returncode == 0 and _results(out) == good.results, text
    assert "running" not in _same_numbers(good, root, out) and (out / "check.html").exists()
    return (
        f"{', '.join(done)}: did their work meanwhile; "
        f"{', '.join(refused)}: refused in one message",
        "the book ended with the same numbers, and is current",
    )


@case("book", "no right to write the output folder", "no right to write")
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    out.mkdir()
    out.chmod(0o555)
    process = _build(root, out, "merge", bound=True)
    text = process.communicate(timeout=600)[0]
    out.chmod(0o755)
    assert process.returncode and len(text.splitlines()) == 1, text
    said = clear(text, "Permission denied", str(out))
    assert not list(out.iterdir())
    _same_numbers(good, root, out)
    return told(said, folder), "nothing was begun; with the right to write the same numbers"


@case(
    "book",
    "files of a book were damaged: the build's own state, a result, an executed notebook",
    "damage",
)
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, out = _repository_of(folder, good)
    _same_numbers(good, root, out)
    os.truncate(out / ".doit.json", 100)
    text = _same_numbers(good, root, out)
    assert "was not whole" in text and "running" not in text
    _flip(out / "kept.txt", 1_000)
    os.truncate(out / "exec" / "01_first.ipynb", 100)
    text = _same_numbers(good, root, out)
    assert "01_first: done" in text and "02_second: done" in text
    return "the state was written anew; the two notebooks ran again", "all else; the same numbers"


@case(
    "book",
    "pages: kill -9, then no room for a file, while they are rendered, then some deleted and "
    "damaged; output folder with spaces and other scripts in its name",
    "kill",
    "full disk",
    "damage",
)
def _(folder: Path, good: Good) -> tuple[str, str]:
    root, _ = _repository_of(folder, good)
    out, page = (
        folder / "mein Buch \u2013 本 ümlaut e\u0301 \u05d0\u05d1",
        root / "book" / "intro.md",
    )
    _same_numbers(good, root, out)
    _built(root, out)
    whole, text = _pages(out), page.read_text(encoding="utf-8")
    assert (
        "url=book/intro.html" in whole["index.html"].decode()
        and b">2<" in whole["notebooks/02_second.html"]
    )
    page.write_text(f"{text}\nAnother sentence.\n", encoding="utf-8")
    process = _build(root, out)
    while not [*out.glob(".html.*/book/*.html")]:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    _kill(process)
    assert _pages(out) == whole
    process = _build(root, out, limit=30_000)
    text_full = process.communicate(timeout=600)[0]
    assert (
        process.returncode
        and "the book was not rendered" in text_full
        and "File too large" in text_full
    ), text_full
    assert "Traceback" not in text_full, text_full
    assert _pages(out) == whole
    assert (
        "running" not in _built(root, out)
        and b"Another sentence." in _pages(out)["book/intro.html"]
    )
    page.write_text(text, encoding="utf-8")
    _built(root, out)
    after = _pages(out)
    assert after.keys() == whole.keys()
    assert not [name for name in whole if after[name] != whole[name]], [
        name for name in whole if after[name] != whole[name]
    ]
    assert not [
        name
        for name in os.listdir(out)
        if name.startswith(".") and name not in (".lock", ".mcnn", ".doit.json")
    ]
    (out / "html" / "objects.inv").unlink()
    os.truncate(out / "html" / "book" / "intro.html", 100)
    (out / "html" / ".nojekyll").touch()
    (out / "results.json").write_text("{}")
    assert "running" not in _built(root, out)
    assert _pages(out) == after | {".nojekyll": b""} and _results(out) == good.results
    return (
        "the build was gone at once; then: the book was not rendered; then the damage was found",
        "the pages before, whole, both times; then the same bits, "
        "and a foreign file among the pages",
    )


# ------------------------------------------------------------------------------ order of writing


@case(
    "files",
    "order of writing: what is moved into place is on the disk before, and the move after",
    "kill",
)
def _(folder: Path, good: Good) -> tuple[str, str]:
    code = f"""
        import os, pathlib
        calls, fsync, replace = [], os.fsync, os.replace
        os.fsync = lambda handle: (
            calls.append(("fsync", os.readlink(f"/proc/self/fd/{{handle}}"))), fsync(handle))
        os.replace = lambda old, new: (
            calls.append(("replace", str(old), str(new))), replace(old, new))
        from mcnn_core.machine import files
        home = pathlib.Path({str(folder)!r})
        for run in range(2):
            files.write_json(home / "a.json", run)
            with files.atomic(home / "folder", "test") as temporary:
                temporary.mkdir()
                (temporary / "inside").write_text(str(run))
        print(calls)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    calls = ast.literal_eval(ended.stdout)
    moves = [
        (at, call)
        for at, call in enumerate(calls)
        if call[0] == "replace" and call[2] in (str(folder / "a.json"), str(folder / "folder"))
    ]
    assert len(moves) == 4
    for at, (_, old, new) in moves:
        synced = [call[1] for call in calls[:at] if call[0] == "fsync"]
        assert old in synced and (new.endswith(".json") or f"{old}/inside" in synced)
        assert ("fsync", str(folder)) in calls[at + 1 :]
        assert calls.index(("fsync", str(folder)), at) < next(
            (later for later, _ in moves if later > at), len(calls)
        )
    return (
        "fsync of the file, rename, fsync of its folder, in this order",
        "the old file or the new one, never a part",
    )
