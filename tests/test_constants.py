"""What the API pages say of constants."""

import importlib.util

from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring, NumpyDocstring

from mcnn_book.workspace import find_root


def test_a_comment_with_a_colon_stays_whole(monkeypatch):
    monkeypatch.setattr(
        GoogleDocstring,
        "_consume_inline_attribute",
        GoogleDocstring._consume_inline_attribute,  # set back when the test ends
    )
    path = find_root() / "book" / "_ext" / "constants.py"
    module = importlib.util.module_from_spec(
        spec := importlib.util.spec_from_file_location("constants", path)
    )
    spec.loader.exec_module(module)
    module.setup(None)
    text = ["Rows mapped together: what they need", "fits a cache."]
    shown = NumpyDocstring(text, Config(), what="data", name="ROWS").lines()
    assert "\n".join(shown).strip() == "\n".join(text)
