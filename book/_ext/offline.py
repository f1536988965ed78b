"""Keep pages free of what needs a kernel or the network.

The theme brings sphinx-thebe, whose variables are declared twice (an error in the
browser's console) and whose script would come from a remote address; no page here
starts a kernel, so both of its scripts are dropped.
"""


def drop_thebe(app, pagename, templatename, context, doctree):
    """Leave thebe's scripts out of the page."""
    context["script_files"] = [
        script for script in context.get("script_files", []) if not is_thebe(script)
    ]


def is_thebe(script) -> bool:
    """Whether a script is thebe's, by its file name or its body."""
    attributes = getattr(script, "attributes", {})
    return "thebe" in str(getattr(script, "filename", script) or "") or "thebe" in str(
        attributes.get("body", "")
    )


def setup(app):
    """Set this extension up, called by Sphinx."""
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
