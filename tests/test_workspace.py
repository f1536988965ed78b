"""`mcnn_book.workspace`: places, missing stages and recorded numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import NOTEBOOK, small_repository
from matplotlib.figure import Figure

from mcnn_book import workspace as module
from mcnn_book.workspace import (
    Workspace,
    claim_output,
    clean,
    commit,
    find_root,
    format_number,
    provenance,
)
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine.files import MARKER, atomic, claim, exclusive, write_json
from tools import book

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def glued(monkeypatch):
    kept = {}
    monkeypatch.setattr(Workspace, "_glue", lambda self, key, value: kept.update({key: value}))
    return kept


def test_root_is_found_from_any_folder(tmp_path, monkeypatch):
    assert find_root(ROOT / "notebooks") == ROOT
    monkeypatch.chdir(tmp_path)
    assert find_root() == ROOT  # no _config.yml upwards: the package's own parent


def test_another_book_is_no_root(tmp_path):
    (tmp_path / "_config.yml").touch()
    assert find_root(tmp_path) == ROOT


@pytest.mark.parametrize(
    "out, expected", [("", "r/_rerun/01_screen"), ("b/c", "r/b/c"), ("{}/y", "y")]
)
def test_out_is_relative_to_the_root(out, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_root", lambda: tmp_path / "r")
    assert (
        Workspace(out.format(tmp_path), "01_screen").path("store") == tmp_path / expected / "store"
    )


def test_need_names_the_notebook_to_run(tmp_path):
    space = Workspace(tmp_path, "05_training")
    with pytest.raises(
        MissingStageError,
        match=r"store\.json is missing: run notebooks/02_preprocessing\.ipynb first, with out=",
    ):
        space.need("store/store.json", notebook="02_preprocessing")
    (tmp_path / "fields.parquet").touch()
    assert space.need("fields.parquet", notebook="01_screen") == tmp_path / "fields.parquet"


def test_without_out_the_book_is_read_and_stays_as_it_is(tmp_path, monkeypatch, glued, capsys):
    monkeypatch.setattr(module, "find_root", lambda: tmp_path)
    claim(tmp_path / "_build", "output folder")
    for name in (
        "results/08_mechanisms.json",
        "figures/mechanisms.overview.png",
        "predictions.csv",
        "features.parquet",
    ):
        with atomic(tmp_path / "_build" / name) as temporary:
            temporary.write_text("the book's")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    space = Workspace("", "08_mechanisms")
    said = capsys.readouterr().out
    assert (
        len(said.splitlines()) == 1
        and f"reads from {tmp_path / '_build'}" in said
        and f"writes to {tmp_path / '_rerun/08_mechanisms'};" in said
    )
    assert (
        space.need("features.parquet", notebook="06_features")
        == tmp_path / "_build/features.parquet"
    )
    space.record(n=1)
    space.glue_figure("overview", Figure())
    write_json(space.path("predictions.csv"), 1)
    assert {path: path.read_bytes() for path in before} == before
    assert all(
        (tmp_path / "_rerun/08_mechanisms" / name).is_file()
        for name in ("results/08_mechanisms.json", "predictions.csv")
    )
    # What the book lacks comes from the rerun of the notebook that makes it.
    next_one = Workspace("", "09_whole_screen")
    with pytest.raises(
        MissingStageError,
        match=r"_build/comparison\.csv and .*_rerun/08_mechanisms/comparison\.csv are missing: "
        r"make book, or run notebooks/08_mechanisms\.ipynb first",
    ):
        next_one.need("comparison.csv", notebook="08_mechanisms")
    write_json(space.path("comparison.csv"), 1)
    assert next_one.need("comparison.csv", notebook="08_mechanisms") == space.path("comparison.csv")


def test_the_readmes_papermill_leaves_the_book_alone(tmp_path):
    code = (
        'from mcnn_book.workspace import Workspace\n\nspace = Workspace(out, "02_second")\n'
        'space.path("table.csv").write_text('
        'space.need("kept.txt", notebook="01_first").read_text() + str(seed))'
    )
    second = NOTEBOOK.format(title="Second", parameters="", prose="", code=code)
    root = small_repository(
        tmp_path / "repository",
        second.replace("02_second", "01_first"),
        second,
        "# Small\n",
        "default: {}\n",
    )
    book.sync_pairs(root)
    claim(root / "_build", "output folder")
    for name in ("kept.txt", "table.csv"):
        with atomic(root / "_build" / name) as temporary:
            temporary.write_text("the book's ")
    before = {path: path.read_bytes() for path in (root / "_build").rglob("*")}
    command = [
        sys.executable,
        "-m",
        "papermill",
        "notebooks/02_second.ipynb",
        tmp_path / "out.ipynb",
        "-p",
        "seed",
        "3",
    ]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    assert {path: path.read_bytes() for path in (root / "_build").rglob("*")} == before
    assert (root / "_rerun/02_second/table.csv").read_text() == "the book's 3"


def test_notebooks_share_a_folder_which_no_build_takes_meanwhile(tmp_path, monkeypatch):
    claim(tmp_path / "out", "output folder")
    with (
        pytest.raises(InputError, match="out is in use by another run"),
        exclusive(tmp_path / "out"),
    ):
        Workspace(tmp_path / "out", "01_first")
    Workspace(tmp_path / "out", "01_first")
    Workspace(tmp_path / "out", "02_second")
    with (
        pytest.raises(
            InputError,
            match=rf"in use by another run \(process {os.getpid()} on .*, notebook 01_first\)",
        ),
        exclusive(tmp_path / "out"),
    ):
        pass
    monkeypatch.setenv("MCNN_BUILD", str(tmp_path / "book"))
    with exclusive(tmp_path / "book"):
        assert Workspace(tmp_path / "book", "01_first").path("a") == tmp_path / "book/a"


def test_clean_removes_what_is_ours_and_names_the_rest(tmp_path, capsys):
    for name in ("_build", "_rerun/08_mechanisms", "_rerun/09_whole_screen"):
        claim(tmp_path / name, "output folder")
        write_json(tmp_path / name / "results" / "a.json", 1)
        claim(tmp_path / name / "model", "trained network")
        write_json(tmp_path / name / "model" / "a.json", 1)
    (tmp_path / "_build" / "model" / "mine.txt").write_text("mine")
    with (
        exclusive(tmp_path / "_build" / "model"),
        pytest.raises(InputError, match="model is in use by another run"),
    ):
        clean(tmp_path)
    assert (tmp_path / "_build/results/a.json").exists()
    clean(tmp_path)
    assert (
        capsys.readouterr().out == f"{tmp_path / '_build'} keeps 'model/mine.txt': "
        "not known to be written by this program\n"
    )
    assert [
        str(path.relative_to(tmp_path))
        for path in sorted(tmp_path.rglob("*.*"))
        if path.name != MARKER
    ] == ["_build/model/mine.txt"]
    assert not (tmp_path / "_rerun").exists()


def test_clean_leaves_a_folder_that_is_not_known_to_be_ours(tmp_path, capsys):
    (tmp_path / "_build").mkdir()
    (tmp_path / "_build" / "features.parquet").write_text("mine")
    clean(tmp_path)
    assert (
        "keeps 'features.parquet'" in capsys.readouterr().out
        and (tmp_path / "_build/features.parquet").read_text() == "mine"
    )


def test_record_is_flat_immediate_and_glued(tmp_path, glued):
    space = Workspace(tmp_path, "08_mechanisms")
    space.record(n=np.int64(103), name="cosine")
    space.record(**{"nsc.overall.trained.seed0": np.float32(0.5)})
    kept = json.loads((tmp_path / "results/08_mechanisms.json").read_text())
    assert kept == {
        "mechanisms.n": 103,
        "mechanisms.name": "cosine",
        "mechanisms.nsc.overall.trained.seed0": 0.5,
    }
    assert glued == {
        "mechanisms.n": "103",
        "mechanisms.name": "cosine",
        "mechanisms.nsc.overall.trained.seed0": "0.5",
    }


def test_tables_are_recorded_by_row_and_column_and_missing_numbers_as_text(tmp_path, glued):
    space = Workspace(tmp_path, "15_recorded")
    table = pd.DataFrame({"lowest": [1, 2], "highest": [0.5, np.nan]}, index=["lead", "rank"])
    space.record(table, {"n": np.int64(3)}, table["lowest"].add_prefix("all."), kimorph=table)
    kept = json.loads((tmp_path / "results/15_recorded.json").read_text())
    rows = {"lead.lowest": 1, "lead.highest": 0.5, "rank.lowest": 2}
    rows["rank.highest"] = "not available"
    expected = rows | {f"kimorph.{key}": value for key, value in rows.items()}
    expected |= {"n": 3, "all.lead": 1, "all.rank": 2}
    assert kept == {f"recorded.{key}": value for key, value in expected.items()}
    assert set(glued) == set(kept) and glued["recorded.rank.highest"] == "not available"


def test_section_can_differ_from_the_chapter(tmp_path, glued):
    space = Workspace(tmp_path, "04_network", section="model")
    space.record(parameters=11126215)
    figure = Figure()
    space.glue_figure("drawing", figure)
    assert glued == {"model.parameters": "11,126,215", "model.drawing": figure}
    assert (tmp_path / "figures/model.drawing.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "results/04_network.json").exists()


def test_bad_results_are_refused_all_at_once(tmp_path, glued):
    space = Workspace(tmp_path, "06_features")
    with pytest.raises(InputError) as raised:
        space.record(good=1, infinite=np.inf, array=np.zeros(2), nothing=None, table={"a": [1]})
    assert [line.split(" = ")[0] for line in raised.value.problems] == [
        "features.infinite", "features.array", "features.nothing", "features.table.a",
    ]  # fmt: skip
    assert not (tmp_path / "results").exists() and not glued


def test_glue_carries_the_text_of_the_page(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "myst_nb.glue", lambda key, value, display: seen.append((key, value, display))
    )
    Workspace(tmp_path, "01_screen").record(n_fields=1208)
    assert seen == [("screen.n_fields", "1,208", False)]


@pytest.mark.parametrize(
    "value, text",
    [
        (11126215, "11,126,215"),
        (0.87378, "0.874"),
        (12345.6, "12,346"),
        (12.0, "12"),
        (True, "True"),
        ("a b", "a b"),
        (0, "0"),
    ],
)
def test_numbers_read_as_prose(value, text):
    assert format_number(value) == text


def test_commit_and_provenance(tmp_path, monkeypatch):
    assert commit(tmp_path) == "unknown"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "c"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    kept = provenance(tmp_path)
    assert len(kept["commit"]) == 40 and kept["processor"] and kept["version.torch"]


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=b", *arguments], cwd=folder, check=True
    )


def test_a_commit_that_is_not_what_runs_is_marked(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("mcnn_core/a.py", "book/recorded/study.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "c")
    clean = commit(tmp_path)
    (tmp_path / "book/recorded/study.json").write_text("2")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/log.txt").touch()
    assert len(clean) == 40 and commit(tmp_path) == clean
    (tmp_path / "mcnn_core/b.py").touch()
    assert commit(tmp_path) == f"{clean}-dirty"
    (tmp_path / "mcnn_core/b.py").unlink()
    (tmp_path / "mcnn_core/a.py").write_text("2")
    assert commit(tmp_path) == f"{clean}-dirty"


def test_processor_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    assert module.processor() == module.platform.machine()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("repository", "is this repository"),
        (".", "holds this repository"),
        ("home", "is your home folder"),
        ("data", "is the folder of SCREEN"),
        ("/", "holds this repository"),
        ("images", "is the folder of DATA"),
        ("link", "is the folder of DATA"),
        ("theirs", "holds 'a.txt' and was not made by"),
        ("theirs/a.txt", "is not a folder"),
    ],
)
def test_an_output_folder_is_a_folder_of_its_own(tmp_path, monkeypatch, place, text):
    for name in ("repository", "home", "data", "images", "theirs"):
        (tmp_path / name).mkdir()
    for name in ("data/plates.csv", "theirs/a.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("images")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = sorted(map(str, tmp_path.rglob("*")))
    sources = {"SCREEN": [tmp_path / "data" / "plates.csv"], "DATA": [tmp_path / "images"]}
    with pytest.raises(InputError, match=text):
        claim_output(tmp_path / place, tmp_path / "repository", **sources)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    for below in ("repository/_build", "data/results", "~/results"):
        out = claim_output(
            tmp_path / below if below[0] != "~" else below, tmp_path / "repository", **sources
        )
        assert os.listdir(out) == [".mcnn"] and claim_output(out, tmp_path / "repository") == out
