"""The path of one call through the package, recorded while it runs: which public functions it goes through, in order.

What is left out is named here: properties, and what is no step of an envelope's way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from types import CodeType, FrameType

import attrs
from attrs import define, field

import agentmesh
from agentmesh.primitives import _crypto
from agentmesh.session.needs import Suite
from agentmesh.session.suite import SUITE

PACKAGE = Path(agentmesh.__file__).parent

# No step of the way: what only looks something up, counts bytes or says a name. Each is `module:function`.
LEFT_OUT = (
    "engine.hooks:Hooks.must_leave",
    "engine.hooks:Hooks.is_known",
    "engine.core:Core.gives_way",
    "engine.core:Core.open_sessions",
    "engine.core:Core.sending_session",
    "engine.guard:make_call",
    "engine.replay:KnockMemory.get",
    "engine.replay:KnockMemory.is_full",
    "engine.state:*",
    "engine.verdicts:request_of",
    "envelope:Header.*",
    "envelope:envelope_prefix",
    "envelope:is_mesh_name",
    "envelope:long_time",
    "handshake.prekeys:PublishedBundle.used",
    "handshake.prekeys:is_valid_at",
    "identity:is_did_shaped",
    "identity:signed_part",
    "primitives._wire:*",
    "primitives.keys:Secret.reveal",
    "session.established:Session.ending",
    "session.established:Session.may_send",
    "session.facts:*",
    "session.held:*",
    "testing.*:*",
)
# A step of the way whose inside is none: how a log keeps what it is given, how bytes become fields.
CLOSED = (
    "audit.log:AuditLog.append",
    "engine.gate:decide",
    "engine.replay:KnockMemory.remember",
    "handshake.knock:decode_content",
    "handshake.knock:parse_knock_body",
    "primitives.padding:*",
)


@define
class Call:
    """One call of a public function or method, how often it came in a row, and what it called."""

    module: str
    name: str
    times: int = 1
    inner: list[Call] = field(factory=list)


def _named() -> dict[object, tuple[str, str]]:
    """Return what goes by another name: the ratchet calls its suite's fields, and some primitives are libsodium's own.

    A function is known by its code; what is compiled has none, and is known by itself.
    """
    fields = {f"SUITE.{at.name}": getattr(SUITE, at.name) for at in attrs.fields(Suite)}
    named = {call.__code__: ("session.suite", name) for name, call in fields.items() if callable(call)}
    primitives = {name: getattr(_crypto, name) for name in ("kdf", "secretbox", "secretbox_try_open")}
    return {
        **named,
        **{getattr(call, "__code__", call): ("primitives._crypto", name) for name, call in primitives.items()},
    }


def _properties() -> frozenset[CodeType]:
    """Return the code of every property of the package's classes."""
    return frozenset(
        value.fget.__code__
        for name, module in sys.modules.items()
        if name.split(".")[0] == "agentmesh"
        for owner in vars(module).values()
        if isinstance(owner, type)
        for value in vars(owner).values()
        if isinstance(value, property) and value.fget is not None
    )


_used: set[str] = set()


def _is_one_of(module: str, name: str, patterns: tuple[str, ...]) -> bool:
    matching = {pattern for pattern in patterns if fnmatchcase(f"{module}:{name}", pattern)}
    _used.update(matching)
    return bool(matching)


def unused() -> set[str]:
    """Return what of `LEFT_OUT` and `CLOSED` has met no call so far: it names what is gone."""
    return {*LEFT_OUT, *CLOSED} - _used


def record(call: Callable[[], object]) -> list[Call]:
    """Return what `call` calls in the package, as a tree: public functions and methods, in their order."""
    named, properties = _named(), _properties()
    compiled = [call for call in named if not isinstance(call, CodeType)]

    def shown(code: CodeType) -> tuple[str, str] | None:
        if code in named:
            return named[code]
        path = Path(code.co_filename)
        if code in properties or not path.is_relative_to(PACKAGE):
            return None
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = code.co_qualname
        is_private = any(part.startswith(("_", "<")) for part in name.split("."))
        return None if is_private or _is_one_of(module, name, LEFT_OUT) else (module, name)

    root = Call("", "")
    stack: list[Call | None] = [root]  # None below what is closed

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and len(stack) > 1:
            stack.pop()
        if event == "c_call" and stack[-1] is not None and argument in compiled:
            stack[-1].inner.append(Call(*named[argument]))
        if event != "call":
            return
        step, above = shown(frame.f_code), stack[-1]
        if above is None or step is None:
            stack.append(above)
            return
        above.inner.append(made := Call(*step))
        stack.append(None if _is_one_of(*step, CLOSED) else made)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return _folded(root.inner)


def _folded(calls: list[Call]) -> list[Call]:
    """Return the calls with those that come again right behind themselves counted."""
    folded: list[Call] = []
    for call in calls:
        call.inner = _folded(call.inner)
        last = folded[-1] if folded else None
        if last is not None and (last.module, last.name, last.inner) == (call.module, call.name, call.inner):
            last.times += 1
        else:
            folded.append(call)
    return folded
