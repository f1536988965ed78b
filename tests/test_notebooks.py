"""The notebooks as files: pairs that agree, parameters that exist, prose before functions."""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import NotebookDifference, compare_notebooks

import mcnn_book
import mcnn_core
from tools import book

ROOT = Path(__file__).resolve().parents[1]
NAMES = book.notebook_names()
PARAMETERS = {
    "19_one_page": ["out", "seed", "steps"],
    "01_screen": [
        *("out", "seed", "screen", "data", "platemap", "channels"),
        *("time", "planes", "incomplete", "sizes"),
        *("layout", "height", "width", "taxol"),
    ],
    "02_preprocessing": [
        "out",
        "reference",
        "illumination",
        "bin",
        "network",
        "workers",
        "scheduler",
    ],
    "03_surrogate_classes": ["out", "surrogate"],
    "04_network": ["out", "network"],
    "05_training": [
        *("out", "seed", "network", "recipe", "epochs", "batch", "max_steps", "inside")
    ],
    "06_features": ["out", "scheduler"],
    "07_profiles": ["out", "normalisation"],
    "08_mechanisms": [
        "out",
        "seed",
        "network",
        "recipe",
        "epochs",
        "batch",
        "max_steps",
        "supervised",
    ],
    "09_whole_screen": [
        "out",
        "seed",
        "recipe",
        "epochs",
        "batch",
        "max_steps",
        "choice",
        "scheduler",
    ],
    "10_potency": ["out", "compounds"],
    "11_clusters": ["out"],
    "12_novel": ["out"],
    "13_controls": [
        "out",
        "seed",
        "screen",
        "data",
        "layout",
        "network",
        "recipe",
        "epochs",
        "batch",
        "max_steps",
        "by",
        "controls",
        "negative",
    ],
    "14_genes": ["out", "controls", "obo", "gaf", "gaf_column", "node_size", "real"],
    "15_recorded": ["out"],
    "16_choosing": ["out", "n"],
    "17_own_plates": ["out", "fields"],
    "18_scale": ["out", "cores", "core_hour", "gb_month", "months", "memory", "training_epochs"],
    "24_summary": ["out", "screen", "data"],
    "20_gene_summary": ["out", "data"],
    "21_features": ["out", "features", "screen"],
    "22_real_plates": ["out", "data"],
    "23_behind": ["out"],
}


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree_and_carry_no_outputs(name):
    text = jupytext.read(ROOT / "notebooks" / f"{name}.md")
    paired = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(paired)
    compare_notebooks(paired, text, "md:myst", allow_expected_differences=True)
    assert (ROOT / "notebooks" / f"{name}.ipynb").read_text() == book.paired_text(name), (
        "make notebooks brings the pair into step"
    )
    assert not [cell for cell in book.code_cells(paired) if cell.outputs or cell.execution_count]
    assert paired.metadata["jupytext"]["formats"] == "ipynb,md:myst"


def test_a_drifted_pair_is_seen():
    text = book.read_source(NAMES[0])
    drifted = nbformat.from_dict(text)
    drifted.cells[-1] = nbformat.from_dict({**drifted.cells[-1], "source": "drifted = True"})
    with pytest.raises(NotebookDifference):
        compare_notebooks(drifted, text, "md:myst", allow_expected_differences=True)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    cells = [cell for cell in book.read_source(name).cells if "parameters" in book.tags(cell)]
    assert len(cells) == 1
    assert list(book.known_parameters(book.read_source(name))) == PARAMETERS[name]


@pytest.mark.parametrize("profile", book.read_profiles())
def test_every_key_of_a_profile_is_a_parameter(profile):
    known = set().union(*(book.known_parameters(book.read_source(name)) for name in NAMES))
    assert set(book.read_profiles()[profile]) <= known - {"out"}


def test_profiles_are_the_three_promised():
    profiles = book.read_profiles()
    assert list(profiles) == ["tiny", "default", "paper"]
    paper = {
        "height": 1024,
        "width": 1280,
        "bin": 1,
        "network": "published",
        "recipe": "published",
        "epochs": 27,
    }
    assert paper.items() <= profiles["paper"].items()


#: Chapters that show their own step.
SHOWING = [name for name in NAMES if int(name[:2]) in (*range(2, 9), *range(10, 15))]


@pytest.mark.parametrize("name", NAMES)
def test_set_up_is_one_folded_cell_after_the_parameters(name):
    cells = book.code_cells(book.read_source(name))
    opening = [cell for cell in cells if "Workspace(" in cell.source]
    assert len(opening) == 1 and cells.index(opening[0]) == 1
    assert "parameters" in book.tags(cells[0])
    assert set(book.tags(opening[0])) == {"hide-input", "remove-output"}
    prompt = opening[0].metadata["mystnb"]["code_prompt_show"]
    assert prompt.startswith("Set up: imports")
    elsewhere = [cell for cell in cells if cell is not opening[0] and "idea" not in book.tags(cell)]
    for cell in elsewhere:
        assert "from mcnn_core" not in cell.source and "import mcnn_core" not in cell.source


#: What only scripts need of the packages.
FOR_SCRIPTS = {"InputError", "Screen", "read_loaddata", "read_bbbc021", "read_imagehts"}


def imported(name: str) -> list[tuple[str, str]]:
    """Return what a chapter imports of ours, as (module, name)."""
    cells = book.code_cells(book.read_source(name))
    nodes = [node for cell in cells for node in ast.walk(ast.parse(book.python_lines(cell.source)))]
    named = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    found = [(str(node.module), alias.name) for node in named for alias in node.names]
    plain = [node for node in nodes if isinstance(node, ast.Import)]
    found += [(alias.name, "") for node in plain for alias in node.names]
    return [pair for pair in found if pair[0].startswith("mcnn_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_imports_what_the_packages_themselves_offer(name):
    offered = {package.__name__: package.__all__ for package in (mcnn_core, mcnn_book)}
    assert [pair for pair in imported(name) if pair[1] not in offered.get(pair[0], [])] == []


def test_what_the_packages_offer_is_there_and_used():
    used = {pair for name in NAMES for pair in imported(name)}
    for package in (mcnn_core, mcnn_book):
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert (package.__name__, name) in used or name in FOR_SCRIPTS, name


@pytest.mark.parametrize("name", NAMES)
def test_prose_of_the_book_is_unconditional(name):
    for cell in book.read_source(name).cells:
        conditions = [tag for tag in book.tags(cell) if tag.startswith(("if:", "unless:"))]
        if cell.cell_type == "markdown" and conditions:
            assert "report" in book.tags(cell), cell.source


@pytest.mark.parametrize("name", SHOWING)
def test_a_chapter_shows_its_step_and_compares_it_with_the_package(name):
    cells = [cell for cell in book.code_cells(book.read_source(name)) if "idea" in book.tags(cell)]
    assert len(cells) == 1 and book.tags(cells[0]) == ["idea"]
    lines = [line.strip() for line in cells[0].source.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    assert 6 <= len(lines) <= 40
    assert any("assert" in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_alternative_texts(name):
    for cell in book.code_cells(book.read_source(name)):
        if "figure" in cell.metadata.get("mystnb", {}):
            assert cell.metadata["mystnb"].get("image", {}).get("alt"), cell.source


@pytest.mark.parametrize("name", NAMES)
def test_workspace_bears_the_notebooks_name(name):
    code = "\n".join(cell.source for cell in book.code_cells(book.read_source(name)))
    assert re.search(rf'Workspace\(out, "{name}"', code)


def test_needs_name_earlier_notebooks():
    for name in NAMES:
        code = "\n".join(cell.source for cell in book.code_cells(book.read_source(name)))
        for needed in re.findall(r'notebook="([^"]*)"', code):
            assert needed in NAMES and needed < name


@pytest.mark.parametrize("name", NAMES)
def test_what_earlier_notebooks_left_is_asked_for_by_need(name):
    """A rerun writes to a folder of its own, where `Workspace.path` leads.

    It does not find what others have left there.
    """
    code = "\n".join(cell.source for cell in book.code_cells(book.read_source(name)))
    assert not re.findall(r"(?:read_\w+|load_\w+|Store\.open)\(work\.(?:out|path).*", code)
