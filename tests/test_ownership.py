"""No command changes or removes a file that this project has not written.

That holds whatever folder it is given.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import tiny_rows, write_screen

from mcnn_book import transfer
from mcnn_book.__main__ import main
from mcnn_book.sheets import copy_fields
from mcnn_book.workspace import Workspace, claim_output
from mcnn_core import features, preprocessing, training
from mcnn_core.errors import InputError
from mcnn_core.machine import files
from mcnn_core.machine.files import MARKER, atomic, discard, sha256, write_table
from mcnn_core.model import NetworkConfig
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.store import Store
from mcnn_core.surrogate import surrogate_classes

ROOT = Path(__file__).resolve().parents[1]
#: Names that this project itself writes, in places where it writes them: a user's file may bear any
#: of them.
TAKEN = [
    ".lock", ".doit.json", "results.json", "explore.html", "check.html", "check.json",
    "fields.parquet", "screen.json", "surrogate.parquet", "features.parquet", "predictions.csv",
    "comparison.csv", "potency.csv", "clusters.csv", "novel.csv", "suspects.csv", "controls.csv",
    "enrichment.csv", "activations.npy", "network.yml", "history.csv", "embedding.json",
    "weights.safetensors", "part_00000000.npy", "part_00000000.npy.sha256", "epoch_001.safetensors",
    "epoch_001.sha256", "epoch_999.safetensors", "epoch_999.sha256", "store.json", "pixels.npy",
    "store/store.json", "store/pixels.npy", "store/mine.txt",
    "model/epoch_001.safetensors", "model/epoch_777.sha256", "model/network.yml",
    "model/history.csv", "model/mine.txt", "exec/01_screen.json", "exec/01_screen.ipynb",
    "exec/01_screen.failed.ipynb", "results/01_screen.json", "html/index.html", "html/.nojekyll",
    "html/book/intro.html", "src/conf.py", "src/book/intro.md", "src/notebooks/01_screen.ipynb",
    "figures/a.png", "screen/truth.csv", "screen/BBBC021_v1_image.csv", "screen/images/a.tif",
    "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv", "truth.csv", "go.obo", "go.gaf",
    "conf/plateconf.txt", "fetched.json", "Week1/Week1_22123/a.tif", "own_plates/example.csv",
    "kimorph/model/epoch_001.sha256", ".store.work/.lock", ".store.work/pixels.npy",
    "activations/part_00000000.npy", "images/a.tif", "example.csv",
]  # fmt: skip


def pour(folder: Path, seed: int) -> None:
    """Put some hundred files, links and folders of a user's into a folder.

    They go wherever no file is there yet.
    """
    draw = random.Random(seed)
    names = TAKEN + [
        "/".join(
            [
                *(
                    draw.choice("abcü .") * 2 + str(draw.randrange(9))
                    for _ in range(draw.randrange(3))
                ),
                f"{n}.txt",
            ]
        )
        for n in range(220)
    ]
    for name in names:
        path = folder / name
        if not os.path.lexists(path) and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw.randbytes(draw.randrange(60)))
    (folder / "empty" / "deep").mkdir(parents=True, exist_ok=True)
    for name, target in (("to_file", "0.txt"), ("to_nothing", "absent"), ("to_folder", "empty")):
        if not os.path.lexists(folder / name):
            (folder / name).symlink_to(target)


def snapshot(folder: Path) -> dict[str, object]:
    """Return what identifies every file, link and empty folder below a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(folder))] = (
                sha256(path),
                facts.st_size,
                facts.st_mode,
                facts.st_mtime_ns,
            )
        elif not any(path.iterdir()):
            found[str(path.relative_to(folder))] = "empty folder"
    return found


# -------------------------------------- commands: each writes into the folder that it is given


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Make a screen, its store, classes and an untrained network."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("one", 0), ("two", 1)):
        write_screen(folder / name, tiny_rows(sites=3), shape=(16, 16), seed=seed)
    screen = read_loaddata(folder / "one" / "screen.csv")
    how = preprocessing.Conversion(multiple=4)
    preprocessing.preprocess(screen, folder / "store", how, workers=1, progress=False)
    return folder


NETWORK = NetworkConfig((4, 4), fusion=8, hidden=16, norm=True, pool_between=True, average=True)
SIZE = ("--layout", "tiny", "--height", "64", "--width", "96", "--workers", "1")


def _store(data: Path) -> Store:
    return Store.open(data / "store")


def _trained(data: Path, folder: Path, run: int) -> None:
    table = read_loaddata(data / "one" / "screen.csv").table
    classes = surrogate_classes(
        table, ["Metadata_Plate", "Metadata_Well"], np.ones(len(table), bool)
    )
    recipe = training.replace(training.RECIPES["default"], epochs=1, batch=4, seed=run)
    training.train(
        _store(data), classes["label"].to_numpy(), NETWORK, recipe, folder, progress=False
    )


def _recorded(data: Path, folder: Path, run: int) -> None:
    work = Workspace(str(folder), "08_mechanisms")
    write_table(work.path("predictions.csv"), pd.DataFrame({"a": [run]}))
    work.glue_figure = None
    files.write_json(work.path("results") / "08_mechanisms.json", {"run": run})


def _checked(data: Path, folder: Path, run: int) -> None:
    main(
        ["check", "--screen", str(data / ("one", "two")[run] / "screen.csv"), "--out", str(folder)]
    )


COMMANDS: dict[str, Callable[[Path, Path, int], None]] = {
    "simulate": lambda data, folder, run: main(
        ["simulate", "--out", str(folder), "--seed", str(run), *SIZE]
    ),
    "simulate kimorph": lambda data, folder, run: main(
        ["simulate", "--screen", "kimorph", "--out", str(folder), "--seed", str(run), *SIZE]
    ),
    "preprocess": lambda data, folder, run: main(
        [
            "preprocess",
            "--screen",
            str(data / ("one", "two")[run] / "screen.csv"),
            "--out",
            str(folder),
            "--bin",
            "1",
        ]
    ),
    "preprocess below": lambda data, folder, run: preprocessing.preprocess(
        read_loaddata(data / ("one", "two")[run] / "screen.csv"),
        folder / "store",
        workers=1,
        progress=False,
    ),
    "train": _trained,
    "train below": lambda data, folder, run: _trained(data, folder / "model", run),
    "embed": lambda data, folder, run: features.embed_screen(
        training.untrained_model(_store(data), np.arange(12) % 2, NETWORK, run),
        _store(data),
        folder,
        progress=False,
    ),
    "check": _checked,
    "copy of fields": lambda data, folder, run: copy_fields(
        read_loaddata(data / "one" / "screen.csv"), folder, [run]
    ),
    "notebook": _recorded,
    "output folder": lambda data, folder, run: claim_output(folder, ROOT),
    "data bbbc021": lambda data, folder, run: main(
        ["data", "--screen", "bbbc021", "--data", str(folder), "--from", "http://127.0.0.1:9/"]
    ),
    "data kimorph": lambda data, folder, run: main(
        ["data", "--screen", "kimorph", "--data", str(folder), "--from", "http://127.0.0.1:9/"]
    ),
    "clean": lambda data, folder, run: discard(folder),
}


def told(command: str, data: Path, folder: Path, run: int) -> str:
    """Run a command; return its refusal, "" if it ended well."""
    try:
        COMMANDS[command](data, folder, run)
    except SystemExit as end:
        return end.code if isinstance(end.code, str) else ""
    except (InputError, OSError) as error:
        return f"error: {error}"
    return ""


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_full_of_a_users_files_is_refused_in_one_line(command, data, tmp_path):
    pour(tmp_path / "folder", 1)
    before = snapshot(tmp_path)
    text = told(command, data, tmp_path / "folder", 0)
    assert snapshot(tmp_path) == before
    if command != "clean":
        assert "was not made by this program" in text.splitlines()[0], text


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_user_puts_into_a_folder_of_ours_stays(command, data, tmp_path):
    """The command has made the folder, and the user has put files of his own into it.

    They are under names of ours too; then it runs again, on other input.
    """
    folder = tmp_path / "folder"
    told(command, data, folder, 0)
    folder.mkdir(exist_ok=True)
    ours = snapshot(folder)
    pour(folder, 2)
    theirs = {
        name: facts
        for name, facts in snapshot(tmp_path).items()
        if name.removeprefix("folder/") not in ours
    }
    assert len(theirs) > 200
    text = told(command, data, folder, 1)
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in theirs} == theirs, text
    assert "Traceback" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_was_made_for_something_else_is_refused(command, data, tmp_path):
    folder = tmp_path / "folder"
    with atomic(folder, "collection of stamps") as temporary:
        pour(temporary, 3)
    before = snapshot(tmp_path)
    text = told(command, data, folder, 0)
    if command == "clean":  # of a folder of ours all that we have written goes, and nothing else
        assert snapshot(tmp_path).keys() <= {f"folder/{MARKER}"} | {
            name for name in before if before[name] == "empty folder"
        }
        return
    assert snapshot(tmp_path) == before
    assert "collection of stamps" in text.splitlines()[0] or command.endswith("below"), text
