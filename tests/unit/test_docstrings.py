"""Docstrings name what exists: every back-ticked name, and every error under "Raises", resolves where it stands."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import agentmesh
from agentmesh import errors

PACKAGE = Path(agentmesh.__file__).parent
TICKED = re.compile(r"(?<!`)`([^`]+)`(?!`)")
NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\([^()]*\))?")

# What is named and is no name of Python's, each with what it is.
NOT_OURS = {
    "th": "the protocol's transcript hash",
    "verify_": "how names of functions begin",
    **dict.fromkeys(
        ("AuditEntry", "MerkleAuditChain", "entry_hash", "previous_hash", "verify_hash"),
        "of the Agent Governance Toolkit, whose form of a log one module writes",
    ),
}


class Place(NamedTuple):
    module: str
    line: int
    scopes: tuple[ast.AST, ...]  # the classes and functions around it, from the outside in, itself the last
    text: str


@cache
def trees() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def places(module: str, tree: ast.Module) -> Iterator[Place]:
    def below(node: ast.AST, scopes: tuple[ast.AST, ...]) -> Iterator[Place]:
        inner = scopes
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = scopes if isinstance(node, ast.Module) else (*scopes, node)
            if text := ast.get_docstring(node):
                yield Place(module, node.body[0].lineno, inner, text)
        for child in ast.iter_child_nodes(node):
            yield from below(child, inner)

    yield from below(tree, ())


# --- what a name can be ----------------------------------------------------------------------------------------------


@cache
def given_to_self() -> dict[str, set[str]]:
    """Return, by the name of each class here, what its methods assign to `self.`."""
    found: dict[str, set[str]] = {}
    for tree in trees().values():
        for owner in ast.walk(tree):
            if isinstance(owner, ast.ClassDef):
                found.setdefault(owner.name, set()).update(
                    node.attr
                    for node in ast.walk(owner)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and ast.unparse(node.value) == "self"
                )
    return found


@cache
def members(kind: type) -> frozenset[str]:
    """Everything that stands behind the dot of an instance: methods, annotations, slots, and what `self.` is given."""
    names = set(dir(kind)) | {field.name for field in getattr(kind, "__attrs_attrs__", ())}
    for base in kind.__mro__:
        names |= set(getattr(base, "__annotations__", ())) | set(getattr(base, "__slots__", ()))
        names |= given_to_self().get(base.__name__, set())
    return frozenset(names)


@cache
def known_members() -> frozenset[str]:
    """What stands behind the dot of anything here, for values whose type the docstring's place does not tell."""
    names: set[str] = set()
    for module in trees():
        for value in vars(imported(module)).values():
            if inspect.isclass(value) and value.__module__.startswith("agentmesh"):
                names |= members(value)
    return frozenset(names) - set(dir(object))


@cache
def defined_anywhere() -> dict[str, list[object]]:
    """Return what stands at the top of any module here, by its name."""
    found: dict[str, list[object]] = {}
    for module in trees():
        for name, value in vars(imported(module)).items():
            found.setdefault(name, []).append(value)
    return found


@cache
def words() -> frozenset[str]:
    """Return every argument, and every fixed text of one word, anywhere here: what a plain word may mean."""
    found: set[str] = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)
    return frozenset(found)


@cache
def facade() -> frozenset[str]:
    """Return what every reader knows by its bare name: limits, conditions, the calls of `Agent` and their arguments."""
    calls = [vars(agentmesh.Agent)[name] for name in vars(agentmesh.Agent) if not name.startswith("_")]
    taken = {name for call in calls if inspect.isfunction(call) for name in inspect.signature(call).parameters}
    return members(agentmesh.Limits) | members(agentmesh.Agent) | members(agentmesh.Conditions) | taken


def imported(module: str) -> Any:
    return importlib.import_module(module)


@cache
def last_parts() -> frozenset[str]:
    """A module, or a room, may be called by its own name alone."""
    return frozenset(part for module in trees() for part in module.split("."))


def arguments(scopes: tuple[ast.AST, ...]) -> dict[str, str]:
    """Return the arguments of the functions around, each with its annotation."""
    found = {}
    for scope in scopes:
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            given = scope.args
            for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
                if each is not None:
                    found[each.arg] = "" if each.annotation is None else ast.unparse(each.annotation)
    return found


def classes(place: Place) -> Iterator[type]:
    module = imported(place.module)
    for scope in place.scopes:
        if isinstance(scope, ast.ClassDef) and inspect.isclass(kind := getattr(module, scope.name, None)):
            yield kind


def constructor_arguments(place: Place) -> set[str]:
    """What a class takes, which its docstring may name."""
    return {
        name
        for scope in place.scopes
        if isinstance(scope, ast.ClassDef)
        for node in scope.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for name in arguments((node,))
    }


def follows(value: object, rest: list[str]) -> bool:
    for name in rest:
        if inspect.isclass(value):
            if name not in members(value):
                return False
            value = getattr(value, name, None)
        elif inspect.ismodule(value):
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        else:  # an instance of something: only that the name exists at all can be said
            return name in known_members()
    return True


def resolves(name: str, place: Place) -> bool:
    first, *rest = name.split(".")
    module, taken = imported(place.module), arguments(place.scopes)
    if name in NOT_OURS or hasattr(builtins, name) or name in trees():
        return True
    if first == "agentmesh":
        head, _, last = name.rpartition(".")
        return head in trees() and hasattr(imported(head), last)
    if first in taken or first in constructor_arguments(place):
        kinds = [getattr(module, word, None) for word in re.findall(r"\w+", taken.get(first, ""))]
        return any(follows(kind, rest) for kind in kinds if inspect.isclass(kind)) or all(
            part in known_members() for part in rest
        )
    for owner in [*classes(place), *(vars(module).values() if not rest else ())]:
        if inspect.isclass(owner) and owner.__module__ in (place.module, "builtins") and first in members(owner):
            return follows(getattr(owner, first, None), rest)
    if hasattr(module, first):
        return follows(getattr(module, first), rest)
    if first in defined_anywhere():
        return any(follows(value, rest) for value in defined_anywhere()[first])
    if not rest and first in facade():
        return True
    if not rest and first.islower() and "_" not in first and first in words() | known_members():
        return True
    if first in last_parts():
        owners = [imported(full) for full in trees() if full.rpartition(".")[2] == first]
        return any(follows(owner, rest) for owner in owners)
    return False


def unresolved(place: Place) -> Iterator[str]:
    for span in TICKED.findall(place.text):
        match = NAME.fullmatch(span)
        if match and not resolves(match[1], place):
            yield f"{place.module}:{place.line}: `{span}`"


def unknown_errors(place: Place) -> Iterator[str]:
    _, _, raises = place.text.partition("Raises:\n")
    section = re.split(r"\n(?=\S)", raises)[0]
    indent = re.match(r" *", section)
    assert indent is not None
    for line in re.findall(rf"^{indent[0]}(?! )(.+?):", section, re.MULTILINE):
        for name in re.split(r", (?:and )?|\s+and ", line):
            known = getattr(errors, name, None) or getattr(builtins, name, None)
            if not (inspect.isclass(known) and issubclass(known, BaseException)):
                yield f"{place.module}:{place.line}: {name}"


@pytest.mark.parametrize("module", trees())
def test_every_name_in_a_docstring_exists(module: str) -> None:
    found = [breach for place in places(module, trees()[module]) for breach in unresolved(place)]
    assert found == []


@pytest.mark.parametrize("module", trees())
def test_every_error_that_a_docstring_promises_exists(module: str) -> None:
    found = [breach for place in places(module, trees()[module]) for breach in unknown_errors(place)]
    assert found == []


# --- the search finds what it looks for ------------------------------------------------------------------------------


def at(source: str) -> list[Place]:
    return list(places("agentmesh.identity", ast.parse(source)))


@pytest.mark.parametrize(
    "name",
    [
        "IdentityKey", "IdentityKey.verify", "IdentityKey.raw", "did_of()", "did_of(key)", "parse_did",
        "agentmesh.relay", "agentmesh.relay.RelayLimiter", "limits", "padding.pad", "None", "ValueError", "BadDid",
        "Agent.knock", "th", "given.time_ms", "given", "not a name", "a || b", "0..5", "TooLarge.got",
    ],
)  # fmt: skip
def test_what_exists_is_found(name: str) -> None:
    [place] = at(f'def f(given):\n    """Say `{name}`."""')
    assert list(unresolved(place)) == []


@pytest.mark.parametrize(
    "name",
    [
        "IdentityKeys", "IdentityKey.check", "did_off()", "agentmesh.relays", "agentmesh.relay.Limiter", "paddings.pad",
        "padding.pads", "BadDids", "Agent.knocks", "given.no_such_member", "no_such_word", "_gone", "TooLarge.most",
    ],
)  # fmt: skip
def test_what_does_not_exist_is_told(name: str) -> None:
    [place] = at(f'def f(given):\n    """Say `{name}`."""')
    assert list(unresolved(place)) == [f"agentmesh.identity:2: `{name}`"]


def test_errors_are_looked_up_too() -> None:
    promise = 'def f():\n    """Do.\n\n    Raises:\n        BadDid, {}: it is\n            none: or so.\n    """'
    assert not list(unknown_errors(at(promise.format("ArgumentInvalid"))[0]))
    assert list(unknown_errors(at(promise.format("ArgumentWrong"))[0])) == ["agentmesh.identity:2: ArgumentWrong"]


def test_no_exception_is_left_over() -> None:
    texts = [place.text for module, tree in trees().items() for place in places(module, tree)]
    assert NOT_OURS.keys() <= {span for text in texts for span in TICKED.findall(text)}
