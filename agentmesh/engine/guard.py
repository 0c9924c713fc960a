"""The façade's edge: what its calls take, and what each call that changes something begins and ends with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, overload

from agentmesh.attachments.reference import Attachment
from agentmesh.engine.core import Core
from agentmesh.engine.hooks import Clock
from agentmesh.engine.seam import INSIDE, Seam
from agentmesh.engine.state import AgentState, Step
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.identity import did_argument
from agentmesh.limits import REFERENCES_MAX, Limits
from agentmesh.namesake import warn_of_namesake
from agentmesh.outgoing import LABEL_MAX_BYTES
from agentmesh.policy import AskApplication, KnockRequest, Policy
from agentmesh.primitives.arguments import bare, bytes_argument
from agentmesh.primitives.backend import check_backend
from agentmesh.primitives.entropy import Entropy, SystemEntropy, check_entropy
from agentmesh.primitives.keys import BundleRef, SessionId


class _Seamed(Protocol):
    _seam: Seam


class HasPolicy(Protocol):
    """The state of an agent, as far as it tells whether the agent had a policy of its own."""

    has_policy: bool


_Self = TypeVar("_Self", bound=_Seamed)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def make_call(seam: Seam, compute: Callable[[], _R]) -> _R: ...


@overload
def make_call(
    seam: Seam, compute: Callable[..., Step[_R]], asked: tuple[Any, ...], envelope: bytes | None = None
) -> _R: ...


def make_call(
    seam: Seam, compute: Callable[..., Any], asked: tuple[Any, ...] | None = None, envelope: bytes | None = None
) -> Any:
    """Make a call that changes something and may be broken off anywhere: its output is kept until it has returned.

    It holds the agent's lock. See `agentmesh.engine.seam`.

    Args:
        seam: The agent's.
        compute: Where nothing is `asked`, the call, within which `Seam.run` may be called; else what that is to run.
        asked: As for `Seam.run`.
        envelope: As for `Seam.run`.

    Raises:
        ForkedChild, ReentrantCall: a child of a fork, or a hook, makes it; before any lock.
    """
    lock, step = seam.lock, None
    if INSIDE and (refusal := seam.refusal()) is not None:
        raise refusal
    try:
        with lock:
            INSIDE[lock] = None
            try:
                output = compute() if asked is None else seam.run(compute, asked, envelope)
                if seam.batch is not None:
                    output = seam.batch.hold(output)
                step, seam.step = seam.step, None
            finally:
                del INSIDE[lock]
        return output  # where nothing is called any more, Python looks for no signal
    except AgentMeshError:
        raise
    except BaseException:
        if step is not None:
            seam.left.append(step)  # one call, so that nothing comes before it
            seam.keep()
        raise


def changing(call: Callable[Concatenate[_Self, _P], _R]) -> Callable[Concatenate[_Self, _P], _R]:
    """Make a method of an agent a call that changes something, may be broken off anywhere, and is `frameless`.

    See `make_call`. The two that every message passes are written out, without this.
    """

    @functools.wraps(call)
    def guarded(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return make_call(self._seam, partial(call, self, *args, **kwargs))
        except AgentMeshError as error:
            left = error
        del self, args, kwargs  # this frame stays in the traceback
        raise bare(left)

    return guarded


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


def label_argument(label: object, core: Core) -> bytes:
    """Return what an application attaches to a message, 0 to 64 bytes.

    Raises:
        ArgumentInvalid: it is too long or no bytes, or nothing keeps it.
    """
    attached = bytes_argument("label", label, 0, LABEL_MAX_BYTES)
    if attached and not core.reliable:
        raise ArgumentInvalid("label", "given, and the agent is not reliable: nothing keeps it")
    return attached


def attachments_argument(attachments: Iterable[object]) -> tuple[Attachment, ...]:
    """Return what a message names, at most 16.

    Raises:
        ArgumentInvalid: not attachments, or more.
    """
    if isinstance(attachments, str | bytes | bytearray | memoryview) or not isinstance(attachments, Iterable):
        raise ArgumentInvalid("attachments", "not several attachments")
    named = tuple(islice(attachments, REFERENCES_MAX + 1))
    if len(named) > REFERENCES_MAX:
        raise ArgumentInvalid("attachments", "over the limit", allowed=REFERENCES_MAX)
    found = tuple(one for one in named if isinstance(one, Attachment))
    if len(found) != len(named):
        raise ArgumentInvalid("attachments", "one of them is no Attachment")
    return found


def dids_argument(dids: Iterable[object], most: int) -> tuple[str, ...]:
    """Return names of peers, each once.

    Raises:
        ArgumentInvalid: one is none, or stands twice, or there are more than so many.
    """
    if isinstance(dids, str | bytes) or not isinstance(dids, Iterable):
        raise ArgumentInvalid("dids", "not several DIDs")
    named = tuple(
        did_argument("dids", did)  # type: ignore[arg-type]
        for did in islice(dids, most + 1)
    )
    if len(named) > most:  # one more than may be, and no further: an iterator need not end
        raise ArgumentInvalid("dids", "too many", allowed=most)
    if len(set(named)) != len(named):
        raise ArgumentInvalid("dids", "one of them stands twice: its messages would share a key")
    return named


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
    "counter": ("read", "advance"),
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


def check_milliseconds(now_ms: int) -> None:
    """Refuse a clock that counts seconds.

    Raises:
        ArgumentInvalid: it shows what would be a day early in 1970.
    """
    if now_ms in _SECONDS:
        raise ArgumentInvalid("clock", "seconds, not milliseconds since the epoch", now_ms)


def check_policy_kept(policy: Policy | None, state: HasPolicy) -> None:
    """Refuse that an agent which had a policy of its own comes back without one: it would admit whom that refused.

    Raises:
        ArgumentInvalid: there was a policy and there is none. `AskApplication()` gives it up on purpose.
    """
    if state.has_policy and policy is None:
        raise ArgumentInvalid("policy", "none, and the agent had one: pass it, or AskApplication() to give it up")


def check_boxes_kept(reliable: bool, state: AgentState) -> None:
    """Refuse that an agent whose outbox or inbox is not empty comes back without them: what waits would be lost.

    Raises:
        ArgumentInvalid: there is something, and it would not be kept.
    """
    if not reliable and (state.outbox or state.inbox):
        raise ArgumentInvalid("reliable", "no, and there is something in the outbox or inbox of the agent")


def core_of(
    state: AgentState,
    clock: Clock,
    entropy: Entropy,
    policy: Policy | None,
    limits: Limits | None,
    *,
    recording: bool,
    acknowledge: bool,
    reliable: bool = False,
    in_order: bool = False,
) -> Core:
    """Return the core of an agent: this state, and what was given or stands for what was not.

    Raises:
        ArgumentInvalid: the clock counts seconds, or shows no time; or an order is asked for that nothing keeps.
    """
    if in_order and not reliable:
        raise ArgumentInvalid("in_order", "yes, and the agent is not reliable: nothing holds what came early")
    policy = AskApplication() if policy is None else policy
    core = Core(
        state,
        clock=clock,
        entropy=entropy,
        policy=policy,
        limits=Limits() if limits is None else limits,
        recording=recording,
        acknowledge=acknowledge,
        reliable=reliable,
        in_order=in_order,
    )
    check_milliseconds(core.now_ms())
    state.reliable = reliable
    state.has_policy = type(policy) is not AskApplication  # a subclass is the application's own
    return core


def working_entropy(entropy: Entropy | None) -> Entropy:
    """Return where randomness comes from, once it and the cryptography under it have shown that they work.

    Raises:
        BackendUnfit: this machine's cryptography lacks what the protocol needs.
        RandomnessFailed: the source is visibly stuck.
    """
    check_backend()
    warn_of_namesake()
    source = SystemEntropy() if entropy is None else entropy
    check_entropy(source)
    return source


def session_of_knock(knock: object) -> SessionId:
    """Return the session that the event of a KNOCK is about.

    Raises:
        ArgumentInvalid: it is no such event.
    """
    if not isinstance(knock, KnockRequest):
        raise ArgumentInvalid("knock", "not the event of a KNOCK")
    return knock.session_id
