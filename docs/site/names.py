"""The reference: the docstring of every public name, and links to it from wherever a page or a docstring names it."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole
from sphinx.util.nodes import make_refnode

from agentmesh import errors
from docs.tables import public_names

# The comment of a page that docstrings take the place of: those of a whole module, or of the names behind the colon.
MARK = re.compile(r"^<!-- docstrings: (?P<module>[\w.]+)(?:: (?P<names>[\w ]+))? -->$", re.MULTILINE)
# Where a name that several modules offer has its docstring; elsewhere stands a line that leads there.
HOMES = ("agentmesh.errors", "agentmesh.attachments")
# What a page can mean as a name: a class, what stands in one, or a place in the package.
NAMED = re.compile(r"(?:agentmesh\.)?(?:\w+\.)*[A-Z]\w*[a-z]\w*(?:\.\w+)?|agentmesh(?:\.\w+)+")
# By the code of each error, the class that has it.
CODES = {
    error.code: f"agentmesh.errors.{name}"
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, errors.AgentMeshError) and error.hint
}


def elsewhere(module: str, name: str) -> str | None:
    """Return the module that has the docstring of a name which `module` offers too, or None where it is here."""
    value = getattr(importlib.import_module(module), name)
    homes = [home for home in HOMES if home != module and name in public_names(home)]
    return next((home for home in homes if getattr(importlib.import_module(home), name) is value), None)


def docstrings(module: str, names: list[str]) -> str:
    """Return, in reStructuredText, what makes autodoc document these names of a module, in their order."""
    lines, moved = [f".. py:currentmodule:: {module}", ""], []
    for name in names:
        value = getattr(importlib.import_module(module), name)
        if home := elsewhere(module, name):
            moved.append(f":py:class:`{home}.{name}`")
        elif inspect.isclass(value):
            # What comes of Python's own classes is not shown again with each of ours.
            pythons = [base.__name__ for base in value.__mro__ if not base.__module__.startswith("agentmesh")]
            lines += [f".. autoclass:: {module}.{name}", f"   :inherited-members: {', '.join(pythons)}"]
            lines += ["   :show-inheritance:"] if issubclass(value, Exception) else []
        elif inspect.isfunction(value):
            lines += [f".. autofunction:: {module}.{name}"]
        else:
            lines += [f".. autodata:: {module}.{name}", "   :no-value:"]
        lines += [""]
    return "\n".join([*lines, *([f"Also here: {', '.join(moved)}."] if moved else []), ""])


def _insert(_app: Sphinx, _page: str, source: list[str]) -> None:
    def block(mark: re.Match[str]) -> str:
        names = mark["names"].split() if mark["names"] else public_names(mark["module"])
        return f"```{{eval-rst}}\n{docstrings(mark['module'], names)}```"

    source[0] = MARK.sub(block, source[0])


class Ticked(XRefRole):
    """What stands in single backticks in a docstring: code, and a link where it is a name that the site has."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, _has_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.partition("(")[0]


def find(documented: dict[str, Any], target: str) -> str | None:
    """Return the one documented name that `target` can mean, be it its end alone or the place of its definition."""
    own = [name for name, entry in documented.items() if not entry.aliased]
    last = target.rpartition(".")[2]
    is_class = target.startswith("agentmesh.") and last[:1].isupper()  # a module's own name is no name within it
    for wanted in (target, last) if is_class else (target,):
        found = [name for name in own if name == wanted or name.endswith(f".{wanted}")]
        if len(found) == 1:
            return found[0]
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> nodes.Element | None:
    """Link what stands elsewhere than where it is named; leave what is private or not of this library as text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    documented = env.domains.python_domain.objects
    if found := find(documented, target):
        entry = documented[found]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, shown, found)
    is_ours = target.partition(".")[0] == "agentmesh" and not target.rpartition(".")[2].startswith("_")
    return None if is_ours and node["reftype"] != "ticked" else shown


def _signature(
    _app: Sphinx, _what: str, _name: str, value: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show no arguments of what is made by its class methods: they are of the inside."""
    return ("" if inspect.isclass(value) and "core:" in (signature or "") else signature), returned


def _link(app: Sphinx, page: nodes.document) -> None:
    """Make what stands in backticks on a page a link: the name of a class, what stands in one, the code of an error."""
    for code in list(page.findall(nodes.literal)):
        name = CODES.get(code.astext(), code.astext().partition("(")[0])
        if NAMED.fullmatch(name) and not isinstance(code.parent, nodes.reference | pending_xref):
            link = pending_xref("", refdomain="py", reftype="ticked", reftarget=name, refdoc=app.env.docname)
            code.replace_self(link)
            link += code
    for label in page.findall(nodes.field_name):
        if label.astext() == "Variables":  # as Sphinx calls what a class lists as its attributes
            label[:] = [nodes.Text("Attributes")]


def setup(app: Sphinx) -> None:
    app.add_role_to_domain("py", "ticked", Ticked(warn_dangling=False))
    app.connect("source-read", _insert)
    app.connect("doctree-read", _link)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _signature)
