"""Let what is said of a constant hold a colon.

napoleon takes the words before the first colon of such a text for a type.
"""

from sphinx.ext.napoleon.docstring import GoogleDocstring


def whole_text(self: GoogleDocstring) -> tuple[str, list[str]]:
    """Return no type, and all lines as the description."""
    return "", self._consume_to_end()


def setup(app):
    """Set this extension up, called by Sphinx."""
    GoogleDocstring._consume_inline_attribute = whole_text
    return {"parallel_read_safe": True, "parallel_write_safe": True}
