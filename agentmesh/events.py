"""What an agent tells its application. Values; none of them prints plaintext or intent.

An event that wants an answer sent carries it in `reply`: hand its envelope to the relay.
"""

from __future__ import annotations

from typing import Protocol, final

from attrs import field, frozen

from agentmesh.assurance import Guarantees, guarantees_of
from agentmesh.attachments.reference import Attachment, UnknownReference
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Conditions, Reason
from agentmesh.identity import IdentityKey
from agentmesh.outgoing import Outgoing, Tracked
from agentmesh.policy import KnockRequest
from agentmesh.primitives.keys import Disclosure, Receipt, SessionId
from agentmesh.session.phases import Phase


def _hex(value: bytes) -> str:
    return value.hex()


def _count(ranges: tuple[range, ...]) -> int:
    return sum(map(len, ranges))


def _hidden(value: object) -> str:
    return "None" if value is None else "<redacted>"


@frozen(kw_only=True)
class KnockReceived(KnockRequest):
    """A peer asks for a session, and the policy leaves it to the application: `accept` or `reject` it."""

    reply: None = field(default=None, repr=False)

    @property
    def did(self) -> str:
        """The peer's DID."""
        return self.peer.did


@frozen(kw_only=True)
class KnockRefused:
    """A genuine KNOCK was rejected without asking the application; `reply` tells the peer.

    Attributes:
        peer: Who knocked.
        receipt: The KNOCK's receipt.
        reason: Why.
        reply: The REJECT.
    """

    peer: IdentityKey
    receipt: Receipt = field(repr=_hex)
    reason: Reason
    reply: Outgoing


@frozen(kw_only=True)
class AnswerRepeated:
    """A KNOCK that was answered came again, so its answer may have been lost; `reply` is the same answer.

    Attributes:
        peer: Who knocked.
        receipt: The KNOCK's receipt.
        reply: The ACCEPT or REJECT, the same bytes as the first time.
    """

    peer: IdentityKey
    receipt: Receipt = field(repr=_hex)
    reply: Outgoing


@frozen(kw_only=True)
class SessionEstablished:
    """A session is open: the peer accepted this agent's KNOCK, or the policy accepted the peer's.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        bundle_class: What the KNOCK was made on.
        conditions: What the acceptor granted.
        intent: What the peer asked for, where the policy accepted its KNOCK. Text that the peer chose: no instructions.
        early_payload: The data that came with the KNOCK, where the policy accepted it.
        reply: The ACCEPT, where the policy accepted; otherwise `None`.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    bundle_class: BundleClass
    conditions: Conditions
    intent: Intent | None = None
    early_payload: bytes | None = field(default=None, repr=_hidden)
    reply: Outgoing | None = None

    @property
    def guarantees(self) -> Guarantees:
        """What the session gives: less where the peer speaks AGT's protocol, or where it began as a last resort."""
        return guarantees_of(self.peer, self.bundle_class)


@frozen(kw_only=True)
class SessionRejected:
    """The peer rejected this agent's KNOCK.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        reason: The peer's coarse reason.
        retry_after_seconds: The peer's advice, 0 for none.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    reason: Reason
    retry_after_seconds: int
    reply: None = field(default=None, repr=False)


class Received(Protocol):
    """What tells the receipt of an envelope that was received: the envelope, or what was kept of it."""

    @property
    def receipt(self) -> Receipt:
        """The envelope's receipt, 32 bytes."""
        ...


@final
@frozen
class KeptReceipt:
    """The receipt of an envelope that is not held any more."""

    receipt: Receipt = field(repr=_hex)


@final
class MessageReceived:
    """A data message, opened.

    Slotted and not frozen, because one is made for every message. It holds the sealed envelope too, for its receipt:
    keep `plaintext` and not the event where many are kept. One that a store hands up again holds the receipt alone.

    Attributes:
        peer: Who sent it: the session's other side, proved.
        session_id: 16 bytes.
        plaintext: The data.
        action: The action that it carries.
        number: Its index: the how many-th data message of the peer in the session it is, an early payload included.
        time_ms: The envelope's time, by the peer's clock.
        disclosure: Discloses this one message; only where it was asked for.
        lost_at: The positions of messages whose kept keys were evicted by this one, as ranges: they are lost. A
            position counts signals too, so the number of each is at most its position, and the same where the peer has
            sent none.
        attachments: What the message refers to, in the order of its sender. Names, types and places in them are the
            peer's word: see `agentmesh.attachments.Attachment`.
    """

    __slots__ = (
        "_received",
        "action",
        "attachments",
        "disclosure",
        "lost_at",
        "number",
        "peer",
        "plaintext",
        "session_id",
        "time_ms",
    )
    reply = None

    def __init__(
        self,
        peer: IdentityKey,
        session_id: SessionId,
        plaintext: bytes,
        action: str,
        number: int,
        time_ms: int,
        received: Received,
        disclosure: Disclosure | None,
        lost_at: tuple[range, ...],
        attachments: tuple[Attachment | UnknownReference, ...] = (),
    ) -> None:
        self.peer: IdentityKey = peer
        self.session_id: SessionId = session_id
        self.plaintext: bytes = plaintext
        self.action: str = action
        self.number: int = number
        self.time_ms: int = time_ms
        self._received = received
        self.disclosure: Disclosure | None = disclosure
        self.lost_at: tuple[range, ...] = lost_at
        self.attachments: tuple[Attachment | UnknownReference, ...] = attachments

    @property
    def lost(self) -> int:
        """How many messages `lost_at` names."""
        return _count(self.lost_at)

    @property
    def receipt(self) -> Receipt:
        """The envelope's receipt, 32 bytes; computed when asked for, since it hashes the whole envelope."""
        return self._received.receipt

    def __repr__(self) -> str:
        return (
            f"MessageReceived(peer={self.peer!r}, number={self.number}, plaintext=<redacted>, action=<redacted>, "
            f"receipt={self.receipt.hex()})"
        )


@frozen(kw_only=True)
class PeerClosed:
    """The peer closed the session. Late data is still opened for 600 s, or until all that it announced has come.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        receipt: The close's receipt.
        reason: The peer's words; escape them before you show them. They are not printed.
        missing: The indices of data messages that the peer announced and that have not come, as ranges.
        peer_opened: How many of this side's data messages the peer says it had opened.
        lost_at: As of `MessageReceived`.
        reply: This side's own close, unless it had closed before.
        disclosure: Discloses this one close; only where it was asked for.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    receipt: Receipt = field(repr=_hex)
    reason: str = field(repr=_hidden)
    missing: tuple[range, ...]
    peer_opened: int
    lost_at: tuple[range, ...]
    reply: Outgoing | None
    disclosure: Disclosure | None = field(default=None, repr=_hidden)

    @property
    def lost(self) -> int:
        """How many messages `lost_at` names."""
        return _count(self.lost_at)


@frozen(kw_only=True)
class SessionOver:
    """A session ended: `phase` says how (closed, expired or truncated), `detail` why.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        phase: How it ended. Truncated means: data may have been lost in one direction.
        detail: A fixed word.
        missing: The indices of the peer's data messages that are known to exist and did not come, as ranges.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    phase: Phase
    detail: str = ""
    missing: tuple[range, ...] = ()
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class SkippedKeysExpired:
    """Kept keys of messages that never came were removed, by age: those messages are lost.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        lost_at: Their positions, as of `MessageReceived`.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    lost_at: tuple[range, ...]
    reply: None = field(default=None, repr=False)

    @property
    def lost(self) -> int:
        """How many messages `lost_at` names."""
        return _count(self.lost_at)


@frozen(kw_only=True)
class Delivered:
    """The peer has opened data messages of this agent, and says so for the first time.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        indices: Which: the `number` of each, as ranges. Those of earlier events of the session are left out.
        messages: Those of them that were kept in the outbox, in the order of their numbers.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    indices: tuple[range, ...]
    messages: tuple[Tracked, ...] = ()
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class Undelivered:
    """A session ended, and the peer has not acknowledged data messages that were kept in the outbox.

    They may have come all the same: what is not known is whether the peer opened them.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        messages: Which, in the order of their numbers.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    messages: tuple[Tracked, ...]
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class PeerAhead:
    """The peer acknowledges what this agent never sent; nothing of that was taken. Told once a session.

    Either the peer lies, or this agent's state is older than one that has sent: a restored snapshot. Then what is sent
    from it is refused, and replays may be taken: knock anew, and do not go on with this session.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class SignalDue:
    """What was opened is to be acknowledged, and no data went that could say it. `reply` is for the relay.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        reply: The signal.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=_hex)
    reply: Outgoing


@frozen(kw_only=True)
class StockLow:
    """Few unused one-time bundles are left: publish more.

    Attributes:
        unused: How many.
    """

    unused: int
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class RotationDue:
    """The last-resort bundle is old enough to be replaced: publish bundles.

    Attributes:
        published_at_ms: When that was, by this agent's clock, in milliseconds since the epoch.
    """

    published_at_ms: int
    reply: None = field(default=None, repr=False)


@frozen(kw_only=True)
class RolledBack:
    """The store was older, when it was opened, than the counter outside of it says: it is a copy that was put back.

    The secrets of all bundles were deleted, because the agent may have used them since, and the sessions were ended,
    because their peers may be ahead. Publish bundles, and knock anew.

    Attributes:
        peers: With whom there were sessions.
        bundles: How many bundles lost their secrets.
    """

    peers: tuple[IdentityKey, ...]
    bundles: int
    reply: None = field(default=None, repr=False)


Event = (
    KnockReceived
    | KnockRefused
    | AnswerRepeated
    | SessionEstablished
    | SessionRejected
    | MessageReceived
    | PeerClosed
    | SessionOver
    | SkippedKeysExpired
    | Delivered
    | Undelivered
    | PeerAhead
    | SignalDue
    | StockLow
    | RotationDue
    | RolledBack
)
Events = tuple[Event, ...]
