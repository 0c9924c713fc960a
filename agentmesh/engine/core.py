"""What every step is computed from: the state, and what the agent was given (clock, randomness, policy, limits)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from agentmesh.engine.hooks import Clock, Hooks
from agentmesh.engine.offers import Offers
from agentmesh.engine.replay import UnopenedKnocks
from agentmesh.engine.state import AgentState, Peer
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import EnvelopeReflected, WrongMesh, WrongRecipient
from agentmesh.identity import IdentityKey
from agentmesh.limits import OPEN_SESSIONS_PER_PEER, Limits
from agentmesh.policy import Policy
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Receipt, SessionId, TranscriptHash
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.pending import Pending, Undecided


@final
class Core(Hooks):
    """The state and the arguments of one agent.

    Attributes:
        state: What must not be lost.
        acknowledge: What is opened is to be acknowledged.
        unopened: Genuine KNOCKs that did not open; in memory only.
        unheard: Sessions whose peer sends again what was opened: it did not hear of it; in memory only.
        signals: The signal that was opened last in a session: one that comes again asks for nothing; in memory only.
        in_order: Messages are handed up by their indices, where they are kept.
        offers: When what is in the outbox is due again; in memory only.
        passed: Up to which index messages of a session are awaited no more; in memory only.
    """

    __slots__ = ("acknowledge", "in_order", "offers", "passed", "signals", "state", "unheard", "unopened")

    def __init__(
        self,
        state: AgentState,
        *,
        clock: Clock,
        entropy: Entropy,
        policy: Policy,
        limits: Limits,
        recording: bool,
        acknowledge: bool,
        reliable: bool = False,
        in_order: bool = False,
    ) -> None:
        super().__init__(
            state.mesh,
            state.identity.did,
            clock=clock,
            entropy=entropy,
            policy=policy,
            limits=limits,
            recording=recording,
            reliable=reliable,
        )
        self.state: AgentState = state
        self.unopened: UnopenedKnocks = UnopenedKnocks(limits.unopened_knocks)
        self.acknowledge: bool = acknowledge
        self.in_order: bool = in_order
        self.offers: Offers = Offers(limits)
        self.passed: dict[SessionId, int] = {}
        self.unheard: dict[SessionId, None] = {}
        self.signals: dict[SessionId, Receipt] = {}

    def route(self, outer: OuterEnvelope) -> Kind:
        """Return what an envelope carries, once its header says that it is for this agent.

        Raises:
            TooLarge, Malformed, UnknownVersion: not a header.
            WrongRecipient, EnvelopeReflected, WrongMesh: for another agent, from this one itself, or of another mesh.
        """
        header, state = outer.header, self.state
        if header.recipient != state.identity.did:
            raise WrongRecipient
        if header.sender == state.identity.did:
            raise EnvelopeReflected
        if header.mesh != state.mesh:
            raise WrongMesh
        return header.kind

    # --- which of a peer's sessions ----------------------------------------------------------------------------------

    def open_sessions(self, peer: Peer | None, now_ms: int) -> list[Pending | Undecided | Session]:
        """Return a peer's open sessions: neither over nor superseded. Section 7."""
        if peer is None:
            return []
        return [
            held
            for held in peer.sessions
            if not isinstance(held, Ended)
            and not (isinstance(held, Session) and (held.superseded_at_ms is not None or held.ending(now_ms)))
            and not (not isinstance(held, Session) and now_ms > held.deadline_ms)
        ]

    def holds_session(self, key: IdentityKey, th: TranscriptHash, now_ms: int) -> bool:
        """Say whether the session of this transcript was established with this peer, and has not ended."""
        peer = self.state.peers.get(key.raw)
        return peer is not None and any(
            isinstance(held, Session) and held.facts.th == th and held.ending(now_ms) is None for held in peer.sessions
        )

    def has_room(self, open_sessions: int, *, leave: int = 0) -> bool:
        """Say whether one more session can be held beside so many of its peer, with room left for `leave` of others."""
        return open_sessions < OPEN_SESSIONS_PER_PEER and len(self.state.sessions) < self.limits.sessions_max - leave

    @staticmethod
    def gives_way(held: Sequence[Pending | Undecided | Session], knock_ms: int, *, fresh: bool) -> list[Session]:
        """Return which of a peer's open sessions a KNOCK of it supersedes when it is accepted. Section 7.

        A fresh one: all that the peer had entered before, because it says that it holds none. Another one: beyond five,
        those of its earlier KNOCKs whose ACCEPT may never have come, the oldest first.
        """
        established = [one for one in held if isinstance(one, Session)]
        if fresh:
            return [one for one in established if _entered_ms(one) < knock_ms]
        surplus = sum(one.facts.initiator or one.facts.knock_time_ms != knock_ms for one in held) + 1
        surplus -= OPEN_SESSIONS_PER_PEER
        unheard = [one for one in established if not one.confirmed and one.facts.knock_time_ms < knock_ms]
        unheard.sort(key=lambda one: (one.facts.knock_time_ms, one.facts.th))
        return unheard[: max(0, surplus)]

    def sending_session(self, peer: Peer, now_ms: int) -> Session | None:
        """Return the session that sends: confirmed, then with the latest KNOCK, then with the smaller th. Section 7."""
        best: Session | None = None
        for held in peer.sessions:
            if isinstance(held, Session) and held.may_send(now_ms) and (best is None or _precedes(held, best)):
                best = held
        return best


def _entered_ms(session: Session) -> int:
    # By the peer's clock in both roles: when it knocked, or when it accepted.
    return session.accepted_at_ms if session.facts.initiator else session.facts.knock_time_ms


def _precedes(held: Session, best: Session) -> bool:
    if held.confirmed is not best.confirmed:
        return held.confirmed
    ours, theirs = held.facts, best.facts
    if ours.knock_time_ms != theirs.knock_time_ms:
        return ours.knock_time_ms > theirs.knock_time_ms
    return ours.th < theirs.th
