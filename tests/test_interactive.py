"""Interactive figures as HTML: what they hold, and that nothing in them is taken for markup."""

import base64
import gzip
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mcnn_book import interactive
from mcnn_core.errors import InputError

EVIL = "<script>alert('a' + \"b\")</script>"
GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def new_notebook(monkeypatch):
    monkeypatch.setattr(interactive.Interactive, "carrier", None)


def models(shown):
    """Return the serialised models of a figure by type.

    They are read from its script as the browser reads them.
    """
    text = re.search(r"docs_json = '(.*?)';\n", shown.body)[1]
    (document,) = json.loads(html.unescape(text.replace("\\\\", "\\"))).values()
    found = {}

    def collect(value):
        if isinstance(value, dict):
            if value.get("type") == "object" and "id" in value:
                found.setdefault(value["name"], []).append(value.get("attributes", {}))
            for part in value.values():
                collect(part)
        if isinstance(value, list):
            for part in value:
                collect(part)

    collect(document)
    return found


def entries(value):
    return dict(value["entries"])


def arguments(shown, key):
    """Return one argument of the first callback that has it."""
    return next(
        entries(one["args"])[key]
        for one in models(shown)["CustomJS"]
        if key in entries(one["args"])
    )


def numbers(value):
    return np.frombuffer(
        gzip.decompress(base64.b64decode(value["array"]["data"])), value["dtype"]
    ).reshape(value["shape"])


def treatments(n):
    return pd.DataFrame(
        {"name": [f"drug {i}" for i in range(n)], "cluster": np.repeat([1, 2, 3], [1, 1, n - 2])}
    )


def square(n):
    upper = np.triu(GENERATOR.uniform(0, 1.8, (n, n)), 1)
    return upper + upper.T


def pictures(n):
    return [GENERATOR.integers(0, 256, (20, 30, 3), dtype=np.uint8)] * n


def shown_points():
    rows = [
        (compound, dose, mechanism, 1 + m / 10, 0.1, 3, m == 1 and dose > 1)
        for compound in ("b", "a")
        for dose in (10.0, 0.1)
        for m, mechanism in enumerate(["negative control", "Eg5", "KI", "PS", "PD"])
    ]
    return pd.DataFrame(
        rows, columns=["compound", "concentration", "mechanism", "median", "mad", "n", "annotated"]
    )


def shown_fits():
    return pd.DataFrame(
        [("b", 2.0, 1.0, 4.0, "fit")], columns=["compound", "ec50", "low", "high", "status"]
    )


def all_three(text):
    points = shown_points().replace({"compound": {"b": text}, "mechanism": {"Eg5": text}})
    return [
        interactive.matrix(
            square(4), treatments(4).assign(name=text, Metadata_MoA=text), pictures(4), alt=text
        ),
        interactive.table(pd.DataFrame({text: [text, "b"]}), alt=text),
        interactive.curves(points, shown_fits().assign(compound=text, status=text), alt=text),
    ]


def test_the_library_comes_once_and_stays_with_the_first():
    first, second = (
        interactive.table(pd.DataFrame({"a": [1]})),
        interactive.table(pd.DataFrame({"a": [2]})),
    )
    assert "Bokeh.set_log_level" in first._repr_html_()
    assert second._repr_html_() == second.body and len(second.body) < 20_000
    assert "Bokeh.set_log_level" in first._repr_html_()  # shown again, it is whole again


def test_nothing_is_loaded():
    scripts = re.findall(
        r"<(?:script|link|img|iframe)\b([^>]*)>",
        interactive.STYLE + "".join(shown.body for shown in all_three("a")),
    )
    assert scripts and not [
        attributes for attributes in scripts if "src=" in attributes or "href=" in attributes
    ]
    pieces = interactive.library().split("</script>")
    assert len(pieces) == 5  # three parts of the library, its log level, what follows
    assert not [
        piece for piece in pieces if "<!--" in piece and "<script" in piece.partition("<!--")[2]
    ]  # or the end would be overlooked


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_names_are_text(kind):
    shown = all_three(EVIL)[kind]
    assert (
        "alert" in shown.body
        and "<script>alert" not in shown.body
        and shown.body.count("</script>") == 1
    )
    assert f'aria-label="{html.escape(EVIL)}"' in shown.body and "mathjax_ignore" in shown.body


def test_names_reach_the_page_as_they_are():
    matrix, table, curves = all_three(EVIL)
    assert (
        arguments(matrix, "names") == [EVIL] * 4 and arguments(matrix, "mechanisms") == [EVIL] * 4
    )
    (column,) = models(table)["TableColumn"]
    assert column["title"] == html.escape(EVIL)  # the grid's headings are HTML, its cells are not
    assert entries(models(table)["ColumnDataSource"][0]["data"])["column0"] == [EVIL, "b"]
    assert arguments(curves, "compounds") == [EVIL, "a"] and EVIL in arguments(curves, "mechanisms")


def test_matrix_holds_its_data():
    distances = square(5)
    shown = interactive.matrix(
        distances, treatments(5).assign(Metadata_MoA=["", "Eg5", None, "KI", "KI"]), pictures(5)
    )
    source = next(
        entries(one["data"])
        for one in models(shown)["ColumnDataSource"]
        if "image" in entries(one["data"])
    )
    np.testing.assert_allclose(
        numbers(source["image"][0]) * interactive.STEP, distances, atol=interactive.STEP
    )
    assert arguments(shown, "notes") == [
        "cluster 1",
        "cluster 2, Eg5",
        "cluster 3",
        "cluster 3, KI",
        "cluster 3, KI",
    ]
    squares = next(
        entries(one["data"])
        for one in models(shown)["ColumnDataSource"]
        if "left" in entries(one["data"])
    )
    assert numbers(squares["left"]).tolist() == [0, 1, 2] and numbers(
        squares["right"]
    ).tolist() == [1, 2, 5]
    assert {
        (mapper["low"], round(mapper["high"], 9)) for mapper in models(shown)["LinearColorMapper"]
    } == {(0, round(distances.max(), 9)), (0, round(distances.max() / interactive.STEP, 9))}


def test_matrix_of_equal_treatments_is_all_near():
    assert "aria-label" in interactive.matrix(np.zeros((3, 3)), treatments(3), pictures(3)).body


def test_a_screen_of_961_treatments_fits_a_page():
    y, x = np.mgrid[:128, :128]
    cells = (
        200 * np.exp(-((x % 43 - 20.0) ** 2 + (y % 37 - 18.0) ** 2) / 60)[..., None] * [0.3, 1, 0.6]
    )
    images = [(cells + GENERATOR.uniform(0, 20, cells.shape)).astype(np.uint8)] * 961
    page = interactive.matrix(square(961), treatments(961), images)._repr_html_()
    assert len(page) < 12e6


def test_thumbnails_are_small_jpegs():
    start = "data:image/jpeg;base64,"
    address = interactive.data_uri(np.full((256, 512, 3), (200, 10, 10), np.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(address.removeprefix(start))))
    assert address.startswith(start) and image.size == (128, 64)
    np.testing.assert_allclose(np.asarray(image)[20, 20], (200, 10, 10), atol=8)


def test_matrix_names_what_does_not_fit():
    with pytest.raises(InputError, match="4 treatments, found"):
        interactive.matrix(square(5), treatments(4), pictures(4))
    with pytest.raises(InputError, match=r"found .* and 3"):
        interactive.matrix(square(4), treatments(4), pictures(3))
    with pytest.raises(InputError) as error:
        interactive.matrix(square(4), treatments(4)[["name"]], pictures(4))
    assert error.value.problems == ["cluster"]


def test_table_keeps_numbers_as_numbers():
    frame = pd.DataFrame(
        {
            "well": pd.Series(["A01", None, "B01"], dtype="string"),
            "dose": [0.003, np.nan, 10],
            "n": [1, 2, 30],
            "hit": [True, False, True],
        }
    )
    shown = interactive.table(frame, {"dose": "0.000"})
    data = entries(models(shown)["ColumnDataSource"][0]["data"])
    assert data["column0"] == ["A01", "", "B01"] and data["column3"] == ["True", "False", "True"]
    np.testing.assert_array_equal(numbers(data["column1"]), frame["dose"])
    assert [one["format"] for one in models(shown)["NumberFormatter"]] == ["0.000", "0"]
    assert "3 of 3 rows" in shown.body and arguments(shown, "searched") == ["column0", "column3"]
    assert arguments(shown, "titles") == ["well", "dose", "n", "hit"]


def test_table_of_nothing_and_columns_of_one_name():
    assert (
        "0 of 0 rows"
        in interactive.table(pd.DataFrame({"a": [], "b": pd.Series([], dtype=str)})).body
    )
    twins = interactive.table(pd.DataFrame([[1.0, "x"]], columns=["a", "a"]))
    assert entries(models(twins)["ColumnDataSource"][0]["data"])["column1"] == ["x"]


def test_curves_hold_every_point_by_rising_concentration():
    shown = interactive.curves(shown_points(), shown_fits())
    assert arguments(shown, "compounds") == ["b", "a"] and arguments(shown, "mechanisms") == [
        "Eg5",
        "KI",
        "PD",
        "PS",
        "negative control",
    ]
    first = entries(arguments(shown, "panels")[0][0])
    assert (
        first["x"] == [0.1, 10.0]
        and first["y"] == [1.1, 1.1]
        and first["low"] == [1.0, 1.0]
        and first["n"] == [3, 3]
    )
    assert first["ring"][1] == 1.1 and first["ring"][0] == {"type": "number", "value": "nan"}


def test_curves_colour_the_annotated_and_the_most_similar():
    shown = interactive.curves(shown_points(), shown_fits())
    # Eg5 is annotated, KI, PD and PS are high, DMSO is neither.
    assert arguments(shown, "emphasised") == [[0, 1, 2, 3]] * 2
    colours = arguments(shown, "colours")
    assert colours[-1] == "#000000" and len(set(colours)) == 5


def test_curves_say_what_the_fit_gave():
    fits = [
        entries(one) for one in arguments(interactive.curves(shown_points(), shown_fits()), "fits")
    ]
    assert fits[0] == {"ec50": 2.0, "low": 1.0, "high": 4.0, "status": "fit"}
    assert fits[1]["status"] == "" and fits[1]["ec50"] == {"type": "number", "value": "nan"}


def test_a_mechanism_without_points_has_an_empty_line():
    points = shown_points()
    shown = interactive.curves(
        points[(points["compound"] == "b") | (points["mechanism"] != "KI")], shown_fits().iloc[:0]
    )
    assert entries(arguments(shown, "panels")[1][1])["x"] == []


def test_curves_without_points_or_with_bad_ones():
    assert "not available" in interactive.curves(shown_points().iloc[:0], shown_fits()).body
    with pytest.raises(InputError) as error:
        interactive.curves(shown_points().replace({"concentration": {0.1: 0.0}}), shown_fits())
    assert error.value.problems == ["b", "a"]
    with pytest.raises(InputError) as error:
        interactive.curves(shown_points(), shown_fits()[["compound", "ec50"]])
    assert error.value.problems == ["low", "high", "status"]
