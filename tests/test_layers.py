"""The wall between the packages, the floors of the method, and the size of functions."""

import ast
from graphlib import TopologicalSorter

import pytest

from tools import book

MODULES = book.module_names()
#: Floors of the method: a module is one above the highest that it imports.
MOST = 6


def imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports, without packages that only hold others."""
    tree = ast.parse(book.module_file(module).read_text(encoding="utf-8"))
    return set(book.imported_directly(ast.unparse(tree))) & set(MODULES) - {module}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("mcnn_core")])
def test_the_method_stands_alone(module):
    assert not [name for name in imports(module) if name.startswith("mcnn_book")]


def test_no_module_imports_in_a_circle_and_the_method_has_few_floors():
    below = {module: imports(module) for module in MODULES}
    floors: dict[str, int] = {}
    for module in TopologicalSorter(below).static_order():  # CycleError names the circle
        floors[module] = 1 + max((floors[other] for other in below[module]), default=0)
    assert max(value for name, value in floors.items() if name.startswith("mcnn_core")) <= MOST


#: Functions that are longer, or have more parameters, than others may.
LONG = {
    "mcnn_book.check.examine.check",
    "mcnn_book.screens.open_screen",
    "mcnn_book.simulate.kimorph.ontology",
    "mcnn_book.study.choosing.compare_choices",
    "mcnn_book.study.choosing.train_rounds",
}


def size(function: ast.FunctionDef) -> tuple[int, int]:
    """Return the lines of the body without docstring, and the parameters but self and cls."""
    body = function.body[ast.get_docstring(function) is not None :] or function.body
    found = function.args
    names = [one.arg for one in [*found.posonlyargs, *found.args, *found.kwonlyargs]]
    n = len([name for name in names if name not in ("self", "cls")])
    return body[-1].end_lineno - body[0].lineno + 1, n + bool(found.vararg) + bool(found.kwarg)


def test_functions_are_short_and_have_few_parameters():
    large = {
        f"{module}.{node.name}"
        for module in MODULES
        if module.startswith(("mcnn_core", "mcnn_book"))
        for node in ast.walk(ast.parse(book.module_file(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (size(node)[0] > 40 or size(node)[1] > 7)
    }
    assert large == LONG and len(LONG) <= 5
