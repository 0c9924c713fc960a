"""What an application may know of a session: values, no secrets (docs/protocol.md, section 7)."""

from __future__ import annotations

from attrs import field, frozen

from agentmesh.assurance import Assurance, Guarantees, guarantees_of
from agentmesh.engine.core import Core
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import number_of_actions
from agentmesh.identity import IdentityKey
from agentmesh.primitives.keys import SessionId
from agentmesh.session.epochs import Offering
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.held import Held, Open
from agentmesh.session.phases import TRANSITIONS, Phase


@frozen(kw_only=True)
class SessionStatus:
    """Where a session stands.

    Attributes:
        phase: Pending, undecided, established, rejected, closed, expired or truncated.
        detail: A fixed word on how it ended.
        bundle_class: What its KNOCK was made on. With a last-resort bundle the intent and the early payload have
            forward secrecy only once that bundle's secrets go.
        initiated: This agent knocked.
        sends: This is the session that `send` uses for the peer.
        assurance: What is known of the other side.
        number_in: The highest index of a data message that was opened; 0 before the first.
        missing: The indices of the peer's data messages that are known to exist and were not opened, as ranges.
        kept_keys: Keys that are kept for messages that were skipped: so many can still come.
        kept_at: The positions of those messages, as ranges, ascending. A position counts signals too, so the number of
            each is at most its position, and the same where the peer has sent none. What is missing, was skipped and
            is not of them is lost.
        data_sent: The index of the last data message that was sealed, early payload included; 0 before the first.
        data_opened: Data messages opened, early payload included.
        delivered: The indices of this side's data messages that the peer has said it opened, as ranges.
        messages_left_out: What `max_messages` leaves this side, or `None`.
        messages_left_in: What `max_messages` leaves the peer, or `None`.
        allowed_actions: What data messages may carry, or `None`.
        ends_at_ms: When it ends by itself, or `None`.
        closing: This side, or the peer, has closed it, or a fresh KNOCK has taken its place.
        epoch: How many secrets of ML-KEM were mixed into its keys after the handshake.
        epoch_turns: For how many chains of this side the epoch has stood; `None` where the peer is the initiator. Where
            it grows and grows, the peer does not answer offers, or a relay holds back what carries them.
    """

    phase: Phase
    detail: str = ""
    bundle_class: BundleClass
    initiated: bool
    sends: bool = False
    assurance: Assurance
    number_in: int = 0
    missing: tuple[range, ...] = ()
    kept_keys: int = 0
    kept_at: tuple[range, ...] = ()
    data_sent: int = 0
    data_opened: int = 0
    delivered: tuple[range, ...] = ()
    messages_left_out: int | None = None
    messages_left_in: int | None = None
    allowed_actions: tuple[str, ...] | None = field(default=None, repr=number_of_actions)
    ends_at_ms: int | None = None
    closing: bool = False
    epoch: int = 0
    epoch_turns: int | None = None


@frozen(kw_only=True)
class SessionView:
    """One session, as it stood when it was asked for.

    Attributes:
        peer: The other side.
        session_id: 16 bytes.
        status: Where it stands.
    """

    peer: IdentityKey
    session_id: SessionId = field(repr=lambda value: value.hex())
    status: SessionStatus

    @property
    def guarantees(self) -> Guarantees:
        """What the session gives: less where the peer speaks AGT's protocol, or where it began as a last resort."""
        return guarantees_of(self.peer, self.status.bundle_class)


def view_of(held: Held, now_ms: int, *, sends: bool) -> SessionView:
    """Return the view of a session in any phase."""
    if isinstance(held, Ended):
        return SessionView(peer=held.peer, session_id=held.session_id, status=_ended_status(held))
    facts = held.facts
    if isinstance(held, Session):
        status = _session_status(held, now_ms, sends)
    else:
        status = SessionStatus(
            phase=_phase_now(held, now_ms),
            bundle_class=facts.bundle_class,
            initiated=facts.initiator,
            assurance=Assurance.NONE if facts.initiator else Assurance.SIGNED,
            ends_at_ms=held.deadline_ms,
        )
    return SessionView(peer=facts.peer, session_id=facts.session_id, status=status)


def views_of(core: Core, did: str) -> tuple[SessionView, ...]:
    """Return views of all sessions with a peer, oldest first.

    Raises:
        ArgumentInvalid: not a DID.
    """
    now_ms = core.now_ms()
    peer = core.state.peer(did)
    if peer is None:
        return ()
    sending = core.sending_session(peer, now_ms)
    return tuple(view_of(held, now_ms, sends=held is sending) for held in peer.sessions)


def _phase_now(held: Open, now_ms: int) -> Phase:
    happening = held.ending(now_ms)
    return held.phase if happening is None else TRANSITIONS[held.phase, happening]


def _ended_status(ended: Ended) -> SessionStatus:
    return SessionStatus(
        phase=ended.phase,
        detail=ended.detail,
        bundle_class=ended.bundle_class,
        initiated=ended.initiated,
        assurance=Assurance.NONE,
        data_sent=ended.data_sent,
        data_opened=ended.data_opened,
    )


def _session_status(session: Session, now_ms: int, sends: bool) -> SessionStatus:
    number_in = session.received.last
    epochs = session.ratchet.epochs
    max_messages = session.conditions.max_messages
    return SessionStatus(
        phase=_phase_now(session, now_ms),
        bundle_class=session.facts.bundle_class,
        initiated=session.facts.initiator,
        sends=sends,
        assurance=Assurance.CONFIRMED if session.confirmed else Assurance.SIGNED,
        number_in=number_in,
        missing=session.missing,
        kept_keys=len(session.ratchet.skipped),
        kept_at=session.facts.positions_in(session.ratchet.numbers(session.ratchet.skipped)),
        data_sent=session.data_sent,
        data_opened=session.received.count,
        delivered=tuple(range(first, last + 1) for first, last in session.acknowledged.ranges),
        messages_left_out=None if max_messages is None else max(0, max_messages - session.data_sent),
        messages_left_in=None if max_messages is None else max(0, max_messages - number_in),
        allowed_actions=session.conditions.allowed_actions,
        ends_at_ms=session.deadline_ms,
        closing=(session.own_close_at_ms, session.peer_close, session.superseded_at_ms) != (None, None, None),
        epoch=epochs.epoch,
        epoch_turns=epochs.turns if isinstance(epochs, Offering) else None,
    )
