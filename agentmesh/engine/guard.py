"""The façade's edge: what its calls take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import Limits
from agentmesh.primitives.arguments import bytes_argument
from agentmesh.primitives.backend import check_backend
from agentmesh.primitives.entropy import Entropy, SystemEntropy, check_entropy
from agentmesh.primitives.keys import BundleRef, SessionId


def check_flags(**flags: object) -> None:
    """Refuse a flag that is not a bool: a string that says no would mean yes.

    Raises:
        ArgumentInvalid: names the flag.
    """
    for name, value in flags.items():
        if type(value) is not bool:
            raise ArgumentInvalid(name, "not a bool")


def session_id_argument(session_id: object) -> SessionId | None:
    """Return a session id, 16 bytes, or `None`.

    Raises:
        ArgumentInvalid: it is neither.
    """
    return None if session_id is None else SessionId(bytes_argument("session_id", session_id, 16, 16))


def refs_argument(refs: Iterable[object]) -> tuple[BundleRef, ...]:
    """Return names of bundles, each 32 bytes.

    Raises:
        ArgumentInvalid: they are none.
    """
    if isinstance(refs, str | bytes | bytearray | memoryview) or not isinstance(refs, Iterable):
        raise ArgumentInvalid("refs", "not several refs")
    return tuple(BundleRef(bytes_argument("refs", ref, 32, 32)) for ref in refs)


_METHODS: Final = {
    "entropy": ("token", "encapsulate"),
    "policy": ("may_knock", "decide", "still_allowed"),
    "journal": ("commit",),
}
# What a clock shows that counts seconds, from 2001 on: in milliseconds it would be a day early in 1970.
_SECONDS: Final = range(10**9, 10**10)


def check_given(*, clock: object, limits: object, **hooks: object) -> None:
    """Refuse what an agent cannot be made with: a hook that is not `None` and lacks a method that it is there for.

    Raises:
        ArgumentInvalid: names it, and says what is wrong with it.
    """
    if not callable(clock):
        raise ArgumentInvalid("clock", "cannot be called")
    if limits is not None and not isinstance(limits, Limits):
        raise ArgumentInvalid("limits", "not Limits")
    for name, hook in hooks.items():
        if isinstance(hook, type):
            raise ArgumentInvalid(name, "a class, not an instance: call it")
        if hook is not None and not all(callable(getattr(hook, method, None)) for method in _METHODS[name]):
            raise ArgumentInvalid(name, "without a method of its kind")


def check_clock(now_ms: int) -> None:
    """Refuse a clock that counts seconds, before anything is made by it.

    Raises:
        ArgumentInvalid: names it.
    """
    if now_ms in _SECONDS:
        raise ArgumentInvalid("clock", "seconds, not milliseconds since the epoch", now_ms)


def working_entropy(entropy: Entropy | None) -> Entropy:
    """Return where randomness comes from, once it and the cryptography under it have shown that they work.

    Raises:
        BackendUnfit: this machine's cryptography lacks what the protocol needs.
        RandomnessFailed: the source is visibly stuck.
    """
    check_backend()
    source = SystemEntropy() if entropy is None else entropy
    check_entropy(source)
    return source
