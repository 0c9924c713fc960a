"""What every step is computed from: the state, and what the agent was given (clock, randomness, policy, limits)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import final

from agentmesh.assurance import Guarantees
from agentmesh.audit.counts import Counts
from agentmesh.engine.budgets import Budgets
from agentmesh.engine.offers import Offers
from agentmesh.engine.replay import UnopenedKnocks
from agentmesh.engine.state import AgentState, Peer
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import ArgumentInvalid, EnvelopeReflected, PeerNotAllowed, WrongMesh, WrongRecipient
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.limits import OPEN_SESSIONS_PER_PEER, UINT_MAX, Limits
from agentmesh.policy import Policy
from agentmesh.primitives.entropy import CheckedEntropy, Entropy
from agentmesh.primitives.keys import Receipt, Redacted, SessionId, TranscriptHash
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.pending import Pending, Undecided

Clock = Callable[[], int]


def system_clock_ms() -> int:
    """Return the system's clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def read_clock(clock: Clock) -> int:
    """Return what a clock shows.

    Raises:
        ArgumentInvalid: it does not return milliseconds since the epoch as an int.
    """
    try:
        now_ms: object = clock()
    except Exception:
        now_ms = None
    if type(now_ms) is not int or not 0 <= now_ms <= UINT_MAX:
        raise ArgumentInvalid("clock")
    return now_ms


@final
class Core(Redacted):
    """The state and the arguments of one agent.

    Attributes:
        state: What must not be lost.
        limits: What the agent allows.
        now_ms: Returns what the clock shows; see `read_clock`.
        policy: Who decides.
        entropy: Where randomness comes from.
        budgets: Token buckets.
        recording: Records are wanted.
        acknowledge: What is opened is to be acknowledged.
        unopened: Genuine KNOCKs that did not open; in memory only.
        unheard: Sessions whose peer sends again what was opened: it did not hear of it; in memory only.
        signals: The signal that was opened last in a session: one that comes again asks for nothing; in memory only.
        counted: What is counted for the audit trail; in memory only.
        reliable: Outbox and inbox are kept.
        in_order: Messages are handed up by their indices, where they are kept.
        offers: When what is in the outbox is due again; in memory only.
        passed: Up to which index messages of a session are awaited no more; in memory only.
    """

    __slots__ = (
        "acknowledge",
        "budgets",
        "counted",
        "entropy",
        "in_order",
        "limits",
        "now_ms",
        "offers",
        "passed",
        "policy",
        "recording",
        "reliable",
        "signals",
        "state",
        "unheard",
        "unopened",
    )

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
        self.state: AgentState = state
        self.now_ms: Clock = partial(read_clock, clock)
        self.entropy: CheckedEntropy = CheckedEntropy(entropy)
        self.policy: Policy = policy
        self.limits: Limits = limits
        self.budgets: Budgets = Budgets(limits)
        self.unopened: UnopenedKnocks = UnopenedKnocks(limits.unopened_knocks)
        self.recording: bool = recording
        self.acknowledge: bool = acknowledge
        self.reliable: bool = reliable
        self.in_order: bool = in_order
        self.offers: Offers = Offers(limits)
        self.passed: dict[SessionId, int] = {}
        self.unheard: dict[SessionId, None] = {}
        self.signals: dict[SessionId, Receipt] = {}
        self.counted: Counts = Counts(state.mesh, state.identity.did, max_peers=limits.refusal_records_per_minute)

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

    def check_allowed(self, peer: IdentityKey) -> None:
        """Ask the policy whether this peer may be sent to and heard now; whatever goes wrong denies.

        Raises:
            PeerNotAllowed: it may not.
        """
        try:
            if self.policy.still_allowed(peer) is True:
                return
        except Exception:  # noqa: S110 - a policy that fails, however, denies
            pass
        raise PeerNotAllowed(peer.did)

    # --- strangers and the known -------------------------------------------------------------------------------------

    def is_known(self, key: bytes) -> bool:
        """Ask the policy whether it knows this identity; whatever goes wrong makes a stranger."""
        try:
            is_known = _optional(self.policy, "is_known")
            return is_known is not None and is_known(key) is True
        except Exception:
            return False

    def must_leave(self, limit: int, *, known: bool) -> int:
        """Return how much of a limit a sender must leave for others: nothing where nobody is told apart."""
        if known:
            return 0
        try:
            apart = _optional(self.policy, "is_known") is not None
        except Exception:
            apart = True
        return limit // self.limits.reserved_one_in if apart else 0

    def take_check(self, key: bytes, now_ms: int, *, known: bool) -> bool:
        """Take a signature check for a KNOCK that claims this key.

        A known key has a share that strangers must leave, and has it at its own rate only: whoever forges KNOCKs in
        its name, or replays them, is a stranger from there on, and uses up nothing of the others.
        """
        checks, most = self.budgets.signature_checks, self.limits.signature_checks_per_second
        if known and checks.has(None, now_ms) and self.budgets.known_checks.take(key, now_ms):
            return checks.take(None, now_ms)
        return checks.take(None, now_ms, leave=self.must_leave(most, known=False))

    def may_use(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int) -> bool:
        """Ask the policy, if it has an opinion, whether such a bundle may serve; whatever goes wrong denies."""
        try:
            may_use = _optional(self.policy, "may_use")
            return may_use is None or may_use(peer, bundle_class, now_ms) is True
        except Exception:
            return False

    def may_converse(self, peer: IdentityKey, guarantees: Guarantees) -> bool:
        """Ask the policy, if it has an opinion, whether a session may give this; whatever goes wrong denies."""
        try:
            may_converse = _optional(self.policy, "may_converse")
            return may_converse is None or may_converse(peer, guarantees) is True
        except Exception:
            return False

    def bundle_used(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int) -> None:
        """Tell the policy, if it counts, that a KNOCK opened on such a bundle."""
        try:
            used = _optional(self.policy, "used")
            if used is not None:
                used(peer, bundle_class, now_ms)
        except Exception:  # noqa: S110 - it has happened; a policy that cannot count is asked again before the next
            pass

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

    def has_room(self, peer: Peer | None, now_ms: int, *, replaced: int = 0, leave: int = 0) -> bool:
        """Say whether one more session with this peer can be held, with room left for `leave` of others."""
        return (
            len(self.open_sessions(peer, now_ms)) - replaced < OPEN_SESSIONS_PER_PEER
            and len(self.state.sessions) < self.limits.sessions_max - leave
        )

    def gives_way(self, initiator: IdentityKey, knock_ms: int, now_ms: int, *, fresh: bool) -> list[Session]:
        """Return the sessions that a KNOCK of this peer supersedes when it is accepted. Section 7.

        A fresh one: all that the peer had entered before, because it says that it holds none. Another one: beyond five,
        those of its earlier KNOCKs whose ACCEPT may never have come, the oldest first.
        """
        held = self.open_sessions(self.state.peers.get(initiator.raw), now_ms)
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


def _optional(policy: Policy, name: str) -> Callable[..., object] | None:
    """Return a method that a policy may have besides, or `None`: `BundlePolicy`, `GuaranteePolicy`, `KnownSenders` ...

    By name, because `isinstance` with such a protocol costs as much as a signature check.
    """
    method: Callable[..., object] | None = getattr(policy, name, None)
    return method


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
