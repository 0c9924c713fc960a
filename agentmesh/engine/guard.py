"""The façade's edge: what a call takes, and how an error leaves it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from agentmesh.errors import AgentMeshError, ArgumentInvalid, StoreError
from agentmesh.limits import Limits

_P = ParamSpec("_P")
_R = TypeVar("_R")


def outermost(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an error of ours leave without the frames it came through: their locals hold keys and plaintexts."""

    @functools.wraps(call)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except AgentMeshError as error:
            left = error
        del args, kwargs  # this frame stays in the traceback, and they hold the plaintext
        left.__context__ = None
        if not isinstance(left, StoreError):  # the journal is the caller's own, and so is its error
            left.__cause__ = None
        raise left.with_traceback(None)

    return guarded


def check_flags(**flags: object) -> None:
    """Refuse a flag that is not a bool: a string that says no would mean yes.

    Raises:
        ArgumentInvalid: names the flag.
    """
    for name, value in flags.items():
        if type(value) is not bool:
            raise ArgumentInvalid(name)


def check_session_id(session_id: object) -> None:
    """Refuse what is neither a session id, 16 bytes, nor `None`.

    Raises:
        ArgumentInvalid: it is neither.
    """
    if session_id is not None and (type(session_id) is not bytes or len(session_id) != 16):
        raise ArgumentInvalid("session_id")


_METHODS: Final = {
    "entropy": ("token", "encapsulate"),
    "policy": ("may_knock", "decide", "still_allowed"),
    "journal": ("commit",),
}


def check_given(*, clock: object, limits: object, **hooks: object) -> None:
    """Refuse what an agent cannot be made with: a hook that is not `None` and lacks a method that it is there for.

    Raises:
        ArgumentInvalid: names it.
    """
    if not callable(clock):
        raise ArgumentInvalid("clock")
    if limits is not None and not isinstance(limits, Limits):
        raise ArgumentInvalid("limits")
    for name, hook in hooks.items():
        if hook is not None and not all(callable(getattr(hook, method, None)) for method in _METHODS[name]):
            raise ArgumentInvalid(name)
