"""Sphinx: what the documentation is made of, and how (`make docs`).

It is built offline. Pages are Markdown (MyST); the reference comes from the docstrings,
whose form is Google's, with single backticks for code.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Self, Unpack

from docutils import nodes
from sphinx import addnodes

# The reference shows the fallback, in which every signature and docstring is Python's.
os.environ["SIMPLE_WS_EXTENSION"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pack_examples import pack

import simple_ws
import simple_ws.aio
from simple_ws import errors
from simple_ws.client import aio_connection
from simple_ws.client import blocking as client
from simple_ws.client.options import ConnectOptions

# Names of annotations that those modules import for type checkers only. Without them
# Sphinx would not know which of the two classes called Connection is meant.
for module in (client, simple_ws.aio, aio_connection):
    vars(module).update(ConnectOptions=ConnectOptions, Self=Self, Unpack=Unpack)

project = "simple_ws"
author = copyright = "simple_ws contributors"  # noqa: A001
release = version = simple_ws.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
add_module_names = False
smartquotes_action = "D"  # dashes alone: quotes are those of strings, and straight
default_role = "name"  # below

html_theme = "furo"
html_title = f"simple_ws {release}"
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
# An attribute that is a property as well would be described twice otherwise.
napoleon_use_ivar = True


# ---- Single backticks: code, and a link where it is a name of ours -------------------

#: What docstrings call by the name of its module.
PAGES = {
    "options.Options": "reference/options",
    "client_options.ClientOptions": "reference/connect",
    "errors": "reference/errors",
}


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, *rest: Any
) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """Make the node for what stands between backticks."""
    literal = nodes.literal(rawtext, text)
    where: dict[str, Any] = {"refdoc": inliner.document.settings.env.docname}
    if text in PAGES:
        where |= {"refdomain": "std", "reftype": "doc", "reftarget": f"/{PAGES[text]}"}
        where["refexplicit"] = True
    elif text.partition(".")[0] in simple_ws.__all__:
        home = "simple_ws.errors" if text in errors.__all__ else "simple_ws"
        where |= {"refdomain": "py", "reftype": "obj", "reftarget": f"{home}.{text}"}
    else:
        return [literal], []
    return [addnodes.pending_xref(rawtext, literal, **where)], []


# ---- Docstrings, before napoleon has them --------------------------------------------

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns):")
#: One of several names that are described below each other.
_NAMES = re.compile(r"( +)([\w*]+(?:, \w+)*): (.*)")


def mark_code(lines: list[str]) -> list[str]:
    """Indented text behind a paragraph is code; reStructuredText wants that said."""
    marked: list[str] = []
    in_section = in_code = False
    for line in lines:
        if line and not line.startswith(" "):
            in_section, in_code = bool(_SECTION.fullmatch(line)), False
        elif line.startswith("    ") and not in_section and not in_code:
            in_code = True
            language = "text" if "Error" in line else "python"  # the tree of errors
            marked += ["", f".. code-block:: {language}", ""]
        marked.append(line)
    return marked


def section(lines: list[str], name: str) -> tuple[int, int]:
    """The lines below a heading."""
    if f"{name}:" not in lines:
        return len(lines), len(lines)
    begin = end = lines.index(f"{name}:") + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    return begin, end


def list_results(lines: list[str]) -> None:
    """Several names below *Returns* become a list, as in `Server.stats`."""
    begin, end = section(lines, "Returns")
    if sum(bool(_NAMES.fullmatch(line)) for line in lines[begin:end]) < 2:
        return
    listed = []
    for line in lines[begin:end]:
        match = _NAMES.fullmatch(line)
        if match:
            names = ", ".join(f"``{name}``" for name in match[2].split(", "))
            # Not a colon: what stands before one would be taken for a type.
            listed.append(f"{match[1]}* {names} – {match[3]}")
        else:
            listed.append("      " + line.strip() if line else "")
    lines[begin:end] = listed


def part_attributes(lines: list[str]) -> None:
    """Attributes with one description, as in `host, port`, get it each."""
    begin, end = section(lines, "Attributes")
    entries: list[list[str]] = []
    for line in lines[begin:end]:
        if _NAMES.fullmatch(line) and not line.startswith("     "):
            entries.append([line])
        elif entries:
            entries[-1].append(line)
    parted = []
    for first, *others in entries:
        match = _NAMES.fullmatch(first)
        assert match
        for name in match[2].split(", "):
            parted += [f"{match[1]}{name}: {match[3]}", *others]
    lines[begin:end] = parted


def prepare(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make a docstring what napoleon and reStructuredText want."""
    lines[:] = mark_code(lines)
    list_results(lines)
    part_attributes(lines)


#: In docs/reference, what is written there for a forge (scripts/reference_pages.py).
_WRITTEN = re.compile(r"<!-- autodoc\n(.*?)\n-->\n.*?<!-- end -->", re.DOTALL)
#: What only the built site has.
_ON_THE_SITE = re.compile(r"<!-- on the site: (.*?) -->", re.DOTALL)


def read_directives(app: Any, page: str, source: list[str]) -> None:
    """Put the directives back in the place of what was written from them."""
    source[0] = _WRITTEN.sub(r"```{eval-rst}\n\1\n```", source[0])
    source[0] = _ON_THE_SITE.sub(r"\1", source[0])


def add_examples(app: Any, error: Exception | None) -> None:
    """Put the archive that the page with the examples offers into the site."""
    if error is None and app.builder.format == "html":
        pack(Path(app.outdir) / "examples.zip")


def note_anchors(app: Any, doctree: nodes.document) -> None:
    """Tell MyST of the anchors in tables, such as those of options, for links."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for raw in doctree.findall(nodes.raw):
        for name in re.findall(r'<a id="(\w+)">', raw.astext()):
            slugs[name] = (raw.line, name, name)


#: Signatures of classes: none where only the package makes them.
SIGNATURES = {
    "simple_ws.WebSocket": "(host=None, port=None, **options)",
    "simple_ws.Client": "",
    "simple_ws.Request": "",
    "simple_ws.client.Connection": "",
    "simple_ws.aio.Connection": "",
    "simple_ws.http11.Fields": "",
    "simple_ws.live.History": "",
    "simple_ws.http11.Headers": "",
    "simple_ws.schedule.Job": "",
    "simple_ws.testing.TestClient": "",
    "simple_ws.testing.HTTPAnswer": "",
}


def sign(app: Any, what: str, name: str, *rest: Any) -> tuple[str, None] | None:
    """The signature of a class, where its own would say nothing."""
    return (SIGNATURES[name], None) if name in SIGNATURES else None


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.add_role("name", name_role)
    app.connect("source-read", read_directives)
    app.connect("doctree-read", note_anchors)
    app.connect("build-finished", add_examples)
    app.connect("autodoc-process-docstring", prepare, priority=400)  # napoleon: 500
    app.connect("autodoc-process-signature", sign)
