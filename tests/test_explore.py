"""The map of all profiles: places, pictures, and a page that holds names as text."""

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from hostile import NAMES, SCRIPT
from PIL import Image

from mcnn_book import explore
from mcnn_book.results import with_clusters
from mcnn_core.analysis.clusters import cluster_table
from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns
from tools.book import network_loads

GENERATOR = np.random.default_rng(0)


def screen(wells, sites=2, side=(20, 30)):
    """Return the profiles, the table and the pixels of a screen of one plate."""
    names = [f"{chr(65 + well // 24)}{well % 24 + 1:02d}" for well in range(wells)]
    table = pd.DataFrame(
        [("P", well, site) for site in range(sites, 0, -1) for well in names],
        columns=["Metadata_Plate", "Metadata_Well", "Metadata_Site"],
    )
    profiles = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": names,
            "Metadata_Dose": [None, 0.1, *[1.0] * (wells - 2)][:wells],
        }
    )
    features = pd.DataFrame(
        GENERATOR.normal(size=(wells, 5)), columns=[f"MCNN_{i:03d}" for i in range(1, 6)]
    )
    pixels = GENERATOR.integers(0, 256, (len(table), *side, 3), dtype=np.uint8)
    return profiles.join(features), table, pixels


def groups(n=40, d=6):
    """Return profiles in three directions, of very different lengths."""
    centres = np.eye(d)[:3].repeat(n, axis=0) + GENERATOR.normal(0, 0.05, (3 * n, d))
    return pd.DataFrame(
        centres * GENERATOR.uniform(0.1, 10, (3 * n, 1)),
        columns=[f"MCNN_{i:03d}" for i in range(1, d + 1)],
    )


def written(path, name, profiles, strips=None):
    strips = strips or ["data:image/jpeg;base64,x"] * len(profiles)
    explore.write_page(path, name, profiles, explore.plane(profiles), strips)
    text = path.read_text(encoding="utf-8")
    return text, json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


def test_directions_that_agree_lie_together():
    profiles = groups()
    places, label = explore.plane(profiles), np.repeat([0, 1, 2], 40)
    nearest = np.argsort(np.linalg.norm(places[:, None] - places[None], axis=2), axis=1)[:, 1:11]
    assert places.shape == (120, 2) and (label[nearest] == label[:, None]).mean() > 0.95
    np.testing.assert_array_equal(places, explore.plane(profiles))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_profiles_have_places(n, d):
    profiles = pd.DataFrame(
        GENERATOR.normal(size=(n, d)), columns=[f"MCNN_{i:03d}" for i in range(d)]
    )
    assert explore.plane(profiles).shape == (n, 2) and np.isfinite(explore.plane(profiles)).all()
    assert 0 <= explore.kept_neighbours(profiles, explore.plane(profiles)) <= 1


def test_equal_profiles_and_zeros_have_places():
    assert np.isfinite(
        explore.plane(pd.DataFrame(np.ones((20, 4)), columns=list("abcd")).add_prefix("MCNN_"))
    ).all()
    assert np.isfinite(
        explore.plane(pd.DataFrame(np.zeros((20, 4)), columns=list("abcd")).add_prefix("MCNN_"))
    ).all()


def test_kept_neighbours_counts():
    profiles = groups()
    values = profiles.to_numpy()
    assert (
        explore.kept_neighbours(profiles, values / np.linalg.norm(values, axis=1, keepdims=True))
        == 1
    )
    assert explore.kept_neighbours(profiles, GENERATOR.normal(size=(120, 2))) < 0.25


def test_pictures_show_the_fields_of_each_well_by_site():
    profiles, table, pixels = screen(3)
    pixels[:] = 0
    pixels[table.index[(table["Metadata_Well"] == "A02") & (table["Metadata_Site"] == 2)]] = 255
    strips = explore.pictures(profiles, table, pixels)
    opened = [Image.open(io.BytesIO(base64.b64decode(strip.partition(",")[2]))) for strip in strips]
    assert [image.size for image in opened] == [(62, 20)] * 3 and opened[0].format == "JPEG"
    assert (
        np.asarray(opened[1])[:, :28].max() < 40 < 200 < np.asarray(opened[1])[:, 34:].min()
        and np.asarray(opened[0])[:, :28].max() < 40
    )


def test_pictures_of_single_fields_and_of_many():
    profiles, table, pixels = screen(2, sites=12)
    assert len(explore.pictures(table, table, pixels)) == 24
    (first, _) = explore.pictures(profiles, table, pixels)
    assert Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2]))).size == (
        9 * 32 - 2,
        20,
    )


def test_a_profile_without_fields_is_named():
    profiles, table, pixels = screen(3)
    with pytest.raises(InputError) as raised:
        explore.pictures(profiles, table[table["Metadata_Well"] != "A02"], pixels)
    assert raised.value.problems == ["P A02"]


def test_the_page_stays_small_for_13200_fields(monkeypatch, tmp_path):
    profiles, table, pixels = screen(660, sites=20, side=(8, 8))
    monkeypatch.setattr(explore, "PIXELS", 660 * 9 * 4 * 4)
    (strip, *_) = explore.pictures(profiles, table, pixels)
    assert Image.open(io.BytesIO(base64.b64decode(strip.partition(",")[2]))).size == (9 * 6 - 2, 4)
    fields = table.assign(MCNN_001=0.0, MCNN_002=GENERATOR.normal(size=len(table)))
    explore.write_page(
        tmp_path / "p.html", "many", fields, GENERATOR.normal(size=(13200, 2)), ["data:,"] * 13200
    )
    assert (tmp_path / "p.html").stat().st_size < 5e6


def test_the_page_holds_columns_and_loads_nothing(tmp_path):
    profiles, _, _ = screen(5)
    text, data = written(
        tmp_path / "explore.html",
        "my screen",
        profiles.assign(Metadata_Hit=True, Metadata_MoA=["b", None, "a", "b", ""]),
    )
    assert data["columns"]["Dose"]["numbers"] == [None, 0.1, 1, 1, 1] and data["columns"][
        "Hit"
    ] == {"texts": ["True"], "codes": [0] * 5}
    assert (
        data["columns"]["MoA"] == {"texts": ["", "a", "b"], "codes": [2, 0, 1, 2, 0]}
        and data["names"][0] == "P A01"
    )
    assert not network_loads(tmp_path) and "default-src 'none'" in text
    assert "[[" not in text.partition("<script")[0]


def test_names_cannot_end_the_data_nor_fill_the_template(tmp_path):
    names = [*NAMES, "[[library]]", "<!--<script>", "\u2028"]
    profiles = pd.DataFrame(
        {"Metadata_Compound": names, **{f"Metadata_{name}": name for name in names}}
    ).join(groups(9).head(len(names)))
    text, data = written(tmp_path / "explore.html", SCRIPT, profiles)
    assert data["columns"]["Compound"]["texts"] == sorted(names) and set(names) <= set(
        data["columns"]
    )
    assert text.count(SCRIPT) == 0 and "&lt;script&gt;" in text and text.count("</script>") == 4


def test_numbers_must_agree(tmp_path):
    profiles, _, _ = screen(4)
    with pytest.raises(InputError, match="of 4 profiles, found"):
        explore.write_page(tmp_path / "p.html", "x", profiles, np.zeros((3, 2)), [""] * 4)
    with pytest.raises(InputError, match="and 3"):
        explore.write_page(tmp_path / "p.html", "x", profiles, np.zeros((4, 2)), [""] * 3)
    assert not list(tmp_path.iterdir())


def test_wells_get_the_cluster_of_their_treatment():
    treatments = pd.DataFrame(
        {
            "Metadata_Treatment": ["DMSO", "DMSO", "a | 1", ""],
            "Metadata_control_type": ["negcon", "negcon", "trt", "trt"],
            "Metadata_Plate": ["P", "Q", "", "P"],
            "Metadata_Well": ["", "", "", "C01"],
            "Metadata_MoA": "",
            "MCNN_001": [1.0, 1, -1, 0],
            "MCNN_002": [0.0, 0.1, 0, 1],
        }
    )
    clusters, _ = cluster_table(treatments)
    wells = pd.DataFrame(
        {
            "Metadata_Treatment": ["a | 1", "DMSO", "DMSO", "", "a | 1"],
            "Metadata_control_type": ["trt", "negcon", "negcon", "trt", "poscon"],
            "Metadata_Plate": ["P", "Q", "P", "P", "P"],
            "Metadata_Well": ["A01", "B01", "B01", "C01", "D01"],
            "MCNN_001": 1.0,
        },
        index=[7, 5, 3, 2, 1],
    )
    found = with_clusters(wells, clusters)
    number = clusters.sort_index()["cluster"].astype(str).tolist()
    assert found["Metadata_Cluster"].tolist() == [number[2], number[1], number[0], number[3], ""]
    assert feature_columns(found) == ["MCNN_001"]
