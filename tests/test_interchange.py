"""The lines of the chapter on own plates that hand profiles to other tools."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from mcnn_book.interchange import to_anndata
from mcnn_core.analysis.activity import consistency
from mcnn_core.profiles import feature_columns

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks" / "17_own_plates.md"


@pytest.fixture
def treatments():
    """Three mechanisms of three compounds, and two compounds without one, at two doses each."""
    rng = np.random.default_rng(0)
    names = [(f"{moa}{n}", moa) for moa in "abc" for n in range(3)] + [("u", ""), ("v", "")]
    rows = [(f"{name} | {dose}", name, moa) for name, moa in names for dose in (1, 10)]
    table = pd.DataFrame(rows, columns=[f"Metadata_{k}" for k in ("Treatment", "Compound", "MoA")])
    kind = table["Metadata_MoA"].map({"a": 0, "b": 1, "c": 2, "": 3})
    values = np.eye(4)[kind] + 0.6 * rng.normal(size=(len(table), 4))
    table = table.join(pd.DataFrame(values, columns=[f"MCNN_{k:03d}" for k in range(1, 5)]))
    return table.assign(Metadata_control_type="trt")


@pytest.fixture
def run(treatments, tmp_path, monkeypatch):
    """Return a function that runs the lines that import a package, and returns their names."""
    folder = tmp_path / "my_screen"
    (folder / "own_plates").mkdir(parents=True)
    for name in ("profiles_treatment.parquet", "profiles_well.parquet"):
        treatments.to_parquet(folder / name)
    to_anndata(treatments).write_h5ad(folder / "own_plates/profiles_well.h5ad")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # copairs writes there

    def run_lines(package):
        fences = re.findall(r"```python\n(.*?)```", CHAPTER.read_text(encoding="utf-8"), re.S)
        (lines,) = [one for one in fences if re.search(rf"^(from|import) {package}\b", one, re.M)]
        space = {"pd": pd}
        exec(lines, space)
        return space

    return run_lines


def average_precision(meta, feats, pos_sameby, pos_diffby, neg_sameby, neg_diffby):
    """Do by brute force what copairs 0.5.5 does under this name."""
    unit = feats / np.linalg.norm(feats, axis=1, keepdims=True)
    found = []
    for row in range(len(meta)):
        same = (meta == meta.iloc[row]).to_numpy()
        same = pd.DataFrame(same, columns=meta.columns)
        positive = same[pos_sameby].all(axis=1) & ~same[pos_diffby].any(axis=1)
        negative = same[neg_sameby].all(axis=1) & ~same[neg_diffby].any(axis=1)
        asked = np.flatnonzero(positive | negative)
        hits = positive.to_numpy()[asked[np.argsort(-(unit[asked] @ unit[row]), kind="stable")]]
        found.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return meta.assign(average_precision=found)


def mean_average_precision(ap_scores, sameby, null_size, threshold, seed):
    """Return the means alone: copairs adds p-values."""
    means = ap_scores.groupby(sameby)["average_precision"].mean()
    return means.rename("mean_average_precision").reset_index()


def stand_in(monkeypatch, package, **modules):
    """Let a package that is not installed be one of these modules."""
    if importlib.util.find_spec(package) is None:
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


def test_copairs_is_given_annotated_treatments(run, treatments, monkeypatch):
    """The numbers are those of copairs 0.5.5 on these lines, and ours."""
    functions = SimpleNamespace(
        average_precision=average_precision, mean_average_precision=mean_average_precision
    )
    stand_in(monkeypatch, "copairs", copairs=SimpleNamespace(map=functions), copairs__map=functions)
    held = run("copairs")["held"].set_index("Metadata_MoA")["mean_average_precision"]
    assert held.index.tolist() == ["a", "b", "c"]
    expected = [0.4904024216524217, 0.593616106116106, 0.5315730565730566]
    np.testing.assert_allclose(held, expected, rtol=0, atol=1e-12)
    ours = consistency(treatments)["mean_average_precision"]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The 'mode.copy_on_write'")  # as it is imported
def test_pycytominer_selects_features(run, treatments):
    selected = run("pycytominer")["selected"]
    assert set(feature_columns(selected)) <= set(feature_columns(treatments))
    assert len(selected) == len(treatments) and "Metadata_MoA" in selected


def test_scanpy_is_given_finite_profiles_with_names(run, treatments, monkeypatch):
    """Scanpy 1.11.5 ran these lines; where it is absent, what it is given is looked at."""
    asked = []
    stand_in(
        monkeypatch,
        "scanpy",
        scanpy=SimpleNamespace(
            read_h5ad=anndata.read_h5ad,
            pp=SimpleNamespace(neighbors=lambda data, **options: asked.append(options)),
            tl=SimpleNamespace(umap=lambda data: asked.append(data)),
        ),
    )
    described = run("scanpy")["described"]
    np.testing.assert_array_equal(described.X, treatments[feature_columns(treatments)])
    assert described.obs["Metadata_MoA"].astype(str).tolist() == treatments["Metadata_MoA"].tolist()
    assert not asked or (asked[0] == {"use_rep": "X", "metric": "cosine"} and asked[1] is described)
