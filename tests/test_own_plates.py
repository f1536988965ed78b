"""Screens that the code has never seen.

What is shown of them, and whole books of the most different ones.
"""

import ast
import contextlib
import copy
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import odd_screens
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from mcnn_book.check.examine import check
from mcnn_book.sheets import copy_fields, example_rows
from mcnn_book.words import answers, facts
from mcnn_book.workspace import Workspace
from mcnn_core.machine.files import read_json
from mcnn_core.readers.images import check_headers, read_field
from mcnn_core.readers.loaddata import read_loaddata
from tools import book

FACTS = (
    "has_compounds",
    "has_doses",
    "has_mechanisms",
    "has_batches",
    "has_any_controls",
    "has_controls",
)
KNOWN = {
    "bare": (),
    "doses": ("has_compounds", "has_doses", "has_any_controls", "has_controls"),
    "jpegs": (),
    "one_batch": ("has_compounds", "has_mechanisms", "has_any_controls"),
    "many_wells": ("has_compounds",),
    "hostile": FACTS,
}
#: Questions of `answers` that each screen can answer.
ANSWERS = {
    "bare": "ynnnnnn",
    "doses": "ynnyyyn",
    "jpegs": "ynnnnnn",
    "one_batch": "yynynny",
    "many_wells": "ynnnnnn",
    "hostile": "yynynny",
}


@pytest.fixture(scope="session", params=odd_screens.SCREENS)
def odd(request, tmp_path_factory):
    """Each small screen: its name and what was read."""
    folder = tmp_path_factory.mktemp("odd") / request.param
    return request.param, read_loaddata(odd_screens.SCREENS[request.param](folder))


def test_what_a_screen_names_and_can_answer(odd):
    name, screen = odd
    assert [key for key, value in facts(screen.table).items() if value] == [
        key for key in FACTS if key in KNOWN[name]
    ]
    found = answers(screen.table)
    assert "".join(answer[0] for answer in found["answer"]) == ANSWERS[name]
    assert ((found["why"] == "") == (found["answer"] == "yes")).all()


def test_example_of_a_screen_reads_back(odd, tmp_path):
    _, screen = odd
    rows = example_rows(screen.table, 20)
    assert 4 <= len(rows) <= 20 and len(set(rows)) == len(rows)
    example = read_loaddata(copy_fields(screen, tmp_path / "example", rows))
    assert example.channels == screen.channels and check_headers(example) == check_headers(screen)
    columns = [name for name in screen.table if name.startswith("Metadata_")]
    pd.testing.assert_frame_equal(
        example.table[columns], screen.table.loc[rows, columns].reset_index(drop=True)
    )
    assert (read_field(example, len(rows) - 1) == read_field(screen, rows[-1])).all()


def test_png_is_read(tmp_path):
    table = odd_screens.layout(["P"], ["A01"], sites=2)
    screen = read_loaddata(
        odd_screens.write(tmp_path / "png", table, ("DNA",), (32, 32), [0, 1], "png")
    )
    assert check_headers(screen) == (32, 32) and read_field(screen, 1).max() > 0


# The chapters, executed in this process ------------------------------------

CHAPTERS = book.chapters(book.Build(screen="plates.csv"))
TABLES = (
    "similarity.csv",
    "potency.csv",
    "clusters.csv",
    "novel.csv",
    "suspects.csv",
    "predictions.csv",
    "own_plates/check.json",
    "own_plates/profiles_well.h5ad",
)


def outputs_of(cell, space: dict) -> list:
    """Run a code cell as a notebook would, and return what it shows.

    Tables as HTML, each figure as the texts in it.
    """
    tree = ast.parse(book.python_lines(cell.source))
    last = (
        tree.body.pop()
        if tree.body
        and isinstance(tree.body[-1], ast.Expr)
        and not cell.source.rstrip().endswith(";")
        else None
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), space)
        value = (
            None
            if last is None
            else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        )
    shown = (
        [nbformat.v4.new_output("stream", text=printed.getvalue())] if printed.getvalue() else []
    )
    if value is not None and not isinstance(value, (Axes, str)):
        shown.append(
            nbformat.v4.new_output(
                "display_data",
                {"text/html": value._repr_html_() if hasattr(value, "_repr_html_") else str(value)},
            )
        )
    for number in plt.get_fignums():
        figure = plt.figure(number)
        figure.draw_without_rendering()  # what cannot be laid out warns
        words = "\n".join(text.get_text() for text in figure.findobj(Text))
        shown.append(nbformat.v4.new_output("display_data", {"image/png": words}))
    plt.close("all")
    return shown


def run_book(csv: Path, out: Path) -> dict:
    """Run the notebooks of a report and return each as its page shows it.

    The results are in the text.
    """
    given = {"screen": str(csv), "out": str(out), "epochs": 1, "max_steps": 2, "inside": 1}
    given["supervised"] = False
    facts, pages = {}, {}
    for name in CHAPTERS:
        source, space = book.read_source(name), {"__name__": "__main__"}
        run = copy.deepcopy(source)
        for cell in book.code_cells(run):
            cell.outputs = outputs_of(cell, space)
            if "parameters" in book.tags(cell):
                space |= {
                    key: value
                    for key, value in given.items()
                    if key in book.known_parameters(source)
                }
        facts |= read_json(out / "results" / f"{name}.json")
        pages[name] = book.weave(source, run, facts, report=True)
    for page in pages.values():
        for cell in page.cells:
            texts = [
                cell.source,
                cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", ""),
            ]
            cell["said"] = [
                re.sub(
                    r"\{result\}`([^`:]+)(?::[^`]*)?`",
                    lambda found: str(facts[found[1]]) if not found[1].startswith("run.") else "1",
                    text,
                )
                for text in texts
            ]
    return pages


@pytest.fixture(scope="module", params=["bare", "doses", "hostile"])
def own_report(request, tmp_path_factory):
    """Run the chapters of three screens that differ most."""
    folder = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "_glue", lambda *given: None)
        csv = odd_screens.SCREENS[request.param](folder / request.param)
        return request.param, run_book(csv, folder / "out"), folder / "out"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_report_has_no_empty_figure_and_speaks_of_its_screen(own_report):
    name, pages, out = own_report
    for table in TABLES:
        assert (out / table).is_file()
    for chapter, page in pages.items():
        figures = {
            cell.metadata["mystnb"]["figure"]["name"]
            for cell in page.cells
            if "figure" in cell.metadata.get("mystnb", {})
        }
        for cell in page.cells:
            text, caption = (
                cell["said"]
                if cell.cell_type == "markdown" or "figure" in cell.metadata.get("mystnb", {})
                else ("", "")
            )
            assert "not available" not in caption + (
                text if cell.cell_type == "markdown" else ""
            ), (chapter, text)
            shown = caption + (text if cell.cell_type == "markdown" else "")
            assert not re.search(r"simulat|SX-\d", shown), (chapter, text)
            assert not caption or name in caption, (chapter, caption)
            for shown in re.findall(
                r"\{numref\}`([\w-]+)`", text if cell.cell_type == "markdown" else ""
            ):
                assert shown in figures or any(
                    shown in book.labels(one) for other in pages.values() for one in other.cells
                ), (chapter, shown)
            if caption:
                drawn = [
                    output.data["image/png"]
                    for output in cell.outputs
                    if "image/png" in output.get("data", {})
                ]
                assert drawn and not any("not available" in words for words in drawn), (
                    chapter,
                    caption,
                )


def test_names_reach_pages_as_text(own_report):
    _, pages, _ = own_report
    for page in pages.values():
        for cell in book.code_cells(page):
            for output in cell.outputs:
                html = output.get("data", {}).get("text/html", "")
                assert not re.search(r"<script>alert|<b>plate|<i>a</i>", html)


def test_the_summary_says_what_a_screen_cannot_answer_and_why(own_report):
    name, pages, _ = own_report
    said = " ".join(cell["said"][0] for cell in pages["24_summary"].cells)
    missing = {
        "bare": (
            "Not answered: no mechanism has two compounds (Metadata_MoA, Metadata_Compound).",
            "Not answered: not every plate has a negative control (Metadata_control_type negcon, "
            "or the compound DMSO).",
        ),
        "doses": ("Not answered: no mechanism has two compounds",),
        "hostile": (),
    }[name]
    for words in missing:
        assert words in said
    assert ("Not answered: no mechanism" in said) == bool(missing)


def test_a_report_is_figures_tables_and_little_else(own_report):
    _, pages, _ = own_report
    for chapter, page in pages.items():
        for cell in book.code_cells(page):
            assert "hide-input" in book.tags(cell) and cell.outputs, (chapter, cell.source)
        for cell in page.cells:
            heading = re.fullmatch(r"(\([\w-]+\)=\n+)*#+ .*", cell.source)
            assert cell.cell_type == "code" or heading or "report" in book.tags(cell)
        assert "# " in page.cells[0].source and "parameters" not in str(page.metadata)


# Real screens ---------------------------------------------------------------


@pytest.mark.parametrize("name", odd_screens.REAL)
def test_real_fields_in_a_table_are_read_and_checked(name, shared_data, tmp_path):
    """Other sizes, channels and layouts, real pixels.

    The table is accepted, headers agree, and the doctor finds no error.
    """
    path = odd_screens.REAL[name](tmp_path / name, shared_data)
    screen = read_loaddata(path)
    sizes = {"two_fields": (512, 640), "kimorph_wells": (510, 512), "crop_fields": (136, 136)}
    assert check_headers(screen) == sizes[name] and len(screen.channels) == 3
    known = facts(screen.table)
    assert known["has_mechanisms"] == known["has_doses"] == (name == "crop_fields") and known[
        "has_compounds"
    ] == (name != "two_fields")
    assert not known["has_controls"]  # none is marked on every plate of these samples
    assert check(str(path), out=tmp_path).counts()["error"] == 0
