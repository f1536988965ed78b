"""Say in words what a reference led to, where this screen has no data for it.

Parts of chapters are left out where a screen cannot answer (`tools.book.holds`), and whole pages of
the book where a report does without them; other pages refer to them all the same. What was left
out stands in the metadata of the woven notebooks, and by page in ``elsewhere.json``, so a reference
that is merely wrong stays a warning.
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
    path = Path(app.srcdir, "elsewhere.json")
    app.elsewhere = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    app.absent = {
        label
        for page in pages
        for label in json.loads(page.read_text(encoding="utf-8"))["metadata"].get("absent", [])
    }


def resolve(app, env, node, contnode):
    """Return the words in place of a reference to something left out."""
    target, kind = node.get("reftarget"), node.get("reftype")
    if node.get("refdomain") != "std" or kind not in WORDS:
        return None
    if target in app.elsewhere or target in app.absent:
        if node.get("refexplicit") and kind == "ref":
            return contnode
        title = app.elsewhere.get(target)
        return nodes.inline("", f"“{title}” in the book" if title else WORDS[kind])
    return None


def setup(app):
    """Set this extension up, called by Sphinx."""
    app.connect("builder-inited", collect)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
