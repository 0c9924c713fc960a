"""How an error leaves the façade: without the frames it came through."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from agentmesh.errors import AgentMeshError, StoreError

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
