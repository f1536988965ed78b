"""Say in words what a reference led to, where this screen has no data for it.

Parts of chapters are left out where a screen cannot answer (`tools.book.holds`); other pages refer
to them all the same. What was left out stands in the metadata of the woven notebooks, so a
reference that is merely wrong stays a warning.
"""

import json
from pathlib import Path

from docutils import nodes
from sphinx.util.matching import Matcher

WORDS = {
    "numref": "a figure that this screen has no data for",
    "ref": "a part that this screen has no data for",
}


def collect(app):
    """Read which labels were left out of which notebook."""
    none = Matcher(app.config.exclude_patterns)
    pages = [
        page
        for page in Path(app.srcdir, "notebooks").glob("*.ipynb")
        if not none(f"notebooks/{page.name}")
    ]
    app.absent = {
        label
        for page in pages
        for label in json.loads(page.read_text(encoding="utf-8"))["metadata"].get("absent", [])
    }


def resolve(app, env, node, contnode):
    """Return the words in place of a reference to something left out."""
    if (
        node.get("refdomain") == "std"
        and node.get("reftype") in WORDS
        and node["reftarget"] in app.absent
    ):
        own = node.get("refexplicit") and node["reftype"] == "ref"
        return contnode if own else nodes.inline("", WORDS[node["reftype"]])
    return None


def setup(app):
    """Set this extension up, called by Sphinx."""
    app.connect("builder-inited", collect)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
