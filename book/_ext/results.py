"""The roles ``result`` and ``recorded``: numbers on a page, from the files that hold them.

``{result}`screen.n_fields``` shows a number of this very build, from ``results.json``;
``{result}`mechanisms.nsc.overall.trained.seed0:.1%``` with a Python format.
``{recorded}`study.json::nsc.mean``` shows one that ``make study`` has stored in
``book/recorded/``; dots go down into nested objects. A key that does not exist is
a warning, which ends the build.
"""

import json
import os
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from mcnn_book.workspace import format_number

logger = logging.getLogger(__name__)


def look_up(tree, key: str):
    """Return the value at `key`, where dots may be part of a name or lead into a nested object."""
    if key in tree:
        return tree[key]
    head, found, rest = "", None, key
    while "." in rest:
        first, _, rest = rest.partition(".")
        head = f"{head}.{first}" if head else first
        if isinstance(tree.get(head), dict):
            found = tree[head]
            return look_up(found, rest)
    raise KeyError(key)


def show(value, spec: str) -> str:
    """Return a number as text, in the given Python format or as prose writes it.

    A text stays as it is.
    """
    return format(value, spec) if spec and not isinstance(value, str) else format_number(value)


class NumberRole(SphinxRole):
    """A number from a JSON file."""

    def place(self) -> tuple[Path, str]:
        """Return the file and the key (with its format)."""
        return Path(os.environ["MCNN_OUT"]) / "results.json", self.text

    def run(self):
        """Return the number as a text node, and note that the page depends on the file."""
        path, text = self.place()
        key, _, spec = text.partition(":")
        self.env.note_dependency(str(path))
        try:
            value = look_up(json.loads(path.read_text(encoding="utf-8")), key)
            shown = show(value, spec)
        except (OSError, KeyError, ValueError) as error:
            logger.warning(
                "no number %r in %s: %s", text, path.name, error, location=self.get_location()
            )
            value = shown = f"({key}?)"
        # a text may be a name from the screen's table: never mathematics, and its direction
        # is its own
        return [
            nodes.inline(
                self.rawtext,
                shown,
                classes=["name", "mathjax_ignore"] if isinstance(value, str) else ["number"],
            )
        ], []


class RecordedRole(NumberRole):
    """A number that ``make study`` has stored."""

    def place(self) -> tuple[Path, str]:
        """Return the file and the key (with its format)."""
        name, _, text = self.text.partition("::")
        return Path(self.env.srcdir) / "book" / "recorded" / name, text


def setup(app):
    """Set this extension up, called by Sphinx."""
    app.add_role("result", NumberRole())
    app.add_role("recorded", RecordedRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
