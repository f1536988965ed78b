"""`mcnn_core.workspace`: places, missing stages and recorded numbers."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mcnn_core import workspace as module
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.workspace import Workspace, claim_output, commit, find_root, format_number, provenance

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


@pytest.mark.parametrize("out, expected", [("", ROOT / "_build"), ("b/c", ROOT / "b/c"), ("/x/y", Path("/x/y"))])
def test_out_is_relative_to_the_root(out, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace(out, "01_screen").path("store") == expected / "store"


def test_need_names_the_notebook_to_run(tmp_path):
    space = Workspace(tmp_path, "05_training")
    with pytest.raises(MissingStageError, match=r"store\.json is missing: run notebooks/02_preprocessing\.ipynb first"):
        space.need("store/store.json", notebook="02_preprocessing")
    (tmp_path / "fields.parquet").touch()
    assert space.need("fields.parquet", notebook="01_screen") == tmp_path / "fields.parquet"


def test_record_is_flat_immediate_and_glued(tmp_path, glued):
    space = Workspace(tmp_path, "08_mechanisms")
    space.record(n=np.int64(103), name="cosine")
    space.record(**{"nsc.overall.trained.seed0": np.float32(0.5)})
    kept = json.loads((tmp_path / "results/08_mechanisms.json").read_text())
    assert kept == {"mechanisms.n": 103, "mechanisms.name": "cosine", "mechanisms.nsc.overall.trained.seed0": 0.5}
    assert glued == {"mechanisms.n": "103", "mechanisms.name": "cosine", "mechanisms.nsc.overall.trained.seed0": "0.5"}


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
        space.record(good=1, nan=float("nan"), infinite=np.inf, array=np.zeros(2), nothing=None)
    assert [line.split(" = ")[0] for line in raised.value.problems] == [
        "features.nan", "features.infinite", "features.array", "features.nothing",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir()) and not glued


def test_glue_carries_the_text_of_the_page(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("myst_nb.glue", lambda key, value, display: seen.append((key, value, display)))
    Workspace(tmp_path, "01_screen").record(n_fields=1208)
    assert seen == [("screen.n_fields", "1,208", False)]


@pytest.mark.parametrize(
    "value, text",
    [(11126215, "11,126,215"), (0.87378, "0.874"), (12345.6, "12,346"), (12.0, "12"), (True, "True"), ("a b", "a b"), (0, "0")],
)
def test_numbers_read_as_prose(value, text):
    assert format_number(value) == text


def test_commit_and_provenance(tmp_path, monkeypatch):
    assert commit(tmp_path) == "unknown"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "c"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    kept = provenance(tmp_path)
    assert len(kept["commit"]) == 40 and kept["processor"] and kept["version.torch"]


def test_processor_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    assert module.processor() == module.platform.machine()


@pytest.mark.parametrize(("place", "text"), [
    ("repository", "is this repository"), (".", "holds this repository"), ("home", "is your home folder"), ("data", "is the folder of SCREEN"),
    ("/", "holds this repository"), ("images", "is the folder of DATA"), ("link", "is the folder of DATA"), ("theirs", "holds 'a.txt' and was not made by"),
    ("theirs/a.txt", "is not a folder")])
def test_an_output_folder_is_a_folder_of_its_own(tmp_path, monkeypatch, place, text):
    for name in ("repository", "home", "data", "images", "theirs"):
        (tmp_path / name).mkdir()
    for name in ("data/plates.csv", "theirs/a.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("images")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = sorted(map(str, tmp_path.rglob("*")))
    sources = {"SCREEN": tmp_path / "data" / "plates.csv", "DATA": tmp_path / "images"}
    with pytest.raises(InputError, match=text):
        claim_output(tmp_path / place, tmp_path / "repository", **sources)
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    for below in ("repository/_build", "data/results", "~/results"):
        out = claim_output(tmp_path / below if below[0] != "~" else below, tmp_path / "repository", **sources)
        assert os.listdir(out) == [".mcnn"] and claim_output(out, tmp_path / "repository") == out
