"""The wall between the packages, and the floors of the method: who imports whom."""

import ast
from functools import cache

import pytest

from tools import book

MODULES = book.module_names()


def imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports, without packages that only hold others."""
    tree = ast.parse(book.module_file(module).read_text(encoding="utf-8"))
    return set(book.imported_directly(ast.unparse(tree))) & set(MODULES) - {module}


@cache
def floor(module: str, above: tuple[str, ...] = ()) -> int:
    """Return 1 for a module that imports none of ours, else one above the highest it imports."""
    assert module not in above, f"import cycle: {' -> '.join((*above, module))}"
    return 1 + max((floor(other, (*above, module)) for other in imports(module)), default=0)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("mcnn_core")])
def test_the_method_stands_alone(module):
    assert not [name for name in imports(module) if name.startswith("mcnn_book")]


def test_no_module_imports_in_a_circle_and_the_method_has_few_floors():
    floors = {module: floor(module) for module in MODULES}
    assert max(value for name, value in floors.items() if name.startswith("mcnn_core")) <= 6
