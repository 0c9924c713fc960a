"""The policy seam: three questions that an agent asks, and the default that decides nothing by itself.

Everything that goes wrong in a policy denies: an exception, a wrong type, no answer. The agent calls it with its lock
held and must not be called back from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

from attrs import Attribute, field, frozen

from agentmesh.assurance import Guarantees, guarantees_of
from agentmesh.errors import ArgumentInvalid
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.identity import IdentityKey
from agentmesh.primitives.arguments import plain_text, uint_argument
from agentmesh.primitives.keys import Receipt, SessionId


@frozen
class ClaimedSender:
    """Who a KNOCK says it is from, before anything of it has been verified.

    Attributes:
        did: The DID in the outer header.
        key: The identity key that the KNOCK claims, 32 bytes; its hash is not yet compared with the DID.
    """

    did: str
    key: bytes = field(repr=False)


@frozen(kw_only=True)
class KnockRequest:
    """A KNOCK that was verified and opened. Its intent is text that the peer chose: never instructions.

    Attributes:
        peer: Who asks: the identity that signed.
        session_id: What `accept` and `reject` find it by.
        receipt: The KNOCK's receipt.
        intent: What for. It prints nothing of itself.
        bundle_class: Which class of bundle it was made on.
        time_ms: The KNOCK's own time.
        expires_ms: When it can no longer be accepted.
        has_early_payload: Data comes with it, and is released on acceptance only.
        fresh: The peer says that it holds no older session that it began.
        open_sessions: How many sessions with the peer are open already.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=lambda value: value.hex())
    receipt: Receipt = field(repr=lambda value: value.hex())
    intent: Intent
    bundle_class: BundleClass
    time_ms: int
    expires_ms: int
    has_early_payload: bool
    fresh: bool
    open_sessions: int

    @property
    def guarantees(self) -> Guarantees:
        """What a session on this KNOCK would give: less where the peer speaks AGT's protocol."""
        return guarantees_of(self.peer, self.bundle_class)


def _is(kind: type) -> Callable[[object, Attribute[Any], Any], None]:
    def check(_instance: object, attribute: Attribute[Any], value: Any) -> None:
        if not isinstance(value, kind):
            raise ArgumentInvalid(attribute.name, "of another type")

    return check


_WHY: Final = re.compile(r"[a-z0-9._-]{0,32}", re.ASCII)


def _word(_instance: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str) or _WHY.fullmatch(value) is None:
        raise ArgumentInvalid(attribute.name, "not 0 to 32 of a-z 0-9 . _ -")


@frozen
class Grant:
    """Accept the KNOCK under these conditions. `why` is a fixed word of the policy's own for the audit record."""

    conditions: Conditions = field(default=UNLIMITED, validator=_is(Conditions))
    why: str = field(default="", converter=plain_text, validator=_word)


def _uint(_instance: object, attribute: Attribute[int], value: int) -> None:
    uint_argument(attribute.name, value)


@frozen
class Deny:
    """Reject the KNOCK. The reason travels in clear; `retry_after_seconds` is advice, 0 for none.

    `why` is a fixed word of the policy's own, 32 of `a-z 0-9 . _ -` at most. It stands in the audit record in the place
    of the reason, and goes nowhere else.
    """

    reason: Reason = field(default=Reason.POLICY, validator=_is(Reason))
    retry_after_seconds: int = field(default=0, validator=_uint)
    why: str = field(default="", converter=plain_text, validator=_word)


@frozen
class Ask:
    """Leave it to the application, which calls `accept` or `reject` before the KNOCK expires."""


Decision = Grant | Deny | Ask


class Policy(Protocol):
    """What an agent asks before it listens, accepts, sends and opens."""

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        """Say whether a KNOCK that claims this sender is worth a signature check. Read only; nothing leaves for it."""
        ...

    def decide(self, knock: KnockRequest, /) -> Decision:
        """Decide on a KNOCK that was verified and opened."""
        ...

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        """Say whether this peer may be sent to and heard now. Asked at each send and each receive."""
        ...


@runtime_checkable
class BundlePolicy(Protocol):
    """What a policy may answer besides: which classes of bundle a sender may use (section 5.1, step 4)."""

    def may_use(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> bool:
        """Say whether a KNOCK of this sender, who is verified, may be made on a bundle of this class. Only looks."""
        ...


@runtime_checkable
class GuaranteePolicy(Protocol):
    """What a policy may answer besides: what a session must give, whoever began it (`agentmesh.assurance`)."""

    def may_converse(self, peer: IdentityKey, guarantees: Guarantees, /) -> bool:
        """Say whether a session that gives this may be begun with this peer. Only looks.

        Sessions over AGT's protocol are asked about with each message, those of this library's own when they begin.
        """
        ...


@runtime_checkable
class BundleCounter(Protocol):
    """What a policy that rations bundles is told besides: what was asked is not yet used (section 5.1, step 5)."""

    def used(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> None:
        """Take note that a KNOCK of this sender opened on a bundle of this class. What it raises changes nothing."""
        ...


@runtime_checkable
class KnownSenders(Protocol):
    """What a policy may answer besides: for whom a part of budgets and memory is kept from strangers (section 5.1)."""

    def is_known(self, key: bytes, /) -> bool:
        """Say whether this identity, 32 bytes, is known. Asked before the signature: read only, nothing leaves."""
        ...


@runtime_checkable
class OfOneMesh(Protocol):
    """What a policy may say besides: the mesh of the lists and scores that it decides by."""

    @property
    def mesh(self) -> str | None:
        """The mesh's name, or `None` where it decides by nothing that belongs to a mesh."""
        ...


def check_policy_mesh(policy: object, mesh: str) -> None:
    """Refuse a policy that decides by what is said in another mesh: it would revoke nobody in this one.

    Args:
        policy: Any policy; `None`, and one without `mesh`, has nothing to compare.
        mesh: The agent's mesh.

    Raises:
        ArgumentInvalid: its `mesh` is another, or is no text.
    """
    try:
        of: object = getattr(policy, "mesh", None)
    except Exception:
        of = NotImplemented
    if of is not None and plain_text(of) != mesh:
        raise ArgumentInvalid("policy", "its lists, revocations or scores are of another mesh")


class AskApplication:
    """The default: everybody may knock, nothing is accepted by itself, and established peers stay allowed."""

    def may_knock(self, _sender: ClaimedSender, /) -> bool:
        """Let everybody knock."""
        return True

    def decide(self, _knock: KnockRequest, /) -> Decision:
        """Ask the application."""
        return ASK

    def still_allowed(self, _peer: IdentityKey, /) -> bool:
        """Allow every peer that the application accepted."""
        return True


ASK: Final = Ask()
