"""The wall between the packages, and the floors of the method: who imports whom."""

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
