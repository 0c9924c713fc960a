"""What every step is computed from: the state, and what the agent was given (clock, randomness, policy, limits)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, final

from agentmesh.admission.buckets import Buckets, Rate
from agentmesh.admission.policy import Policy
from agentmesh.audit.record import AuditEvent, Record
from agentmesh.entropy import CheckedEntropy, Entropy
from agentmesh.errors import ArgumentInvalid, PeerNotAllowed
from agentmesh.facts import Ended
from agentmesh.identity import IdentityKey
from agentmesh.keys import Redacted, TranscriptHash
from agentmesh.limits import OPEN_SESSIONS_PER_PEER, UINT_MAX, Limits
from agentmesh.pending import Pending, Undecided
from agentmesh.session import Session
from agentmesh.state import AgentState, Peer

Clock = Callable[[], int]


def system_clock_ms() -> int:
    """Return the system's clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@final
class Budgets:
    """What strangers can make this agent do: token buckets, kept in memory only (section 5.1).

    Attributes:
        signature_checks: Conversions and signature checks of KNOCKs, all senders together.
        failed_checks: Failed checks, for each one-time bundle_ref.
        knocks: KNOCKs, for each identity; charged once its signature has been verified.
        answers: Repeated answers, for each th.
    """

    __slots__ = ("answers", "failed_checks", "knocks", "signature_checks")

    def __init__(self, limits: Limits) -> None:
        checks = limits.signature_checks_per_second
        self.signature_checks = Buckets(Rate(checks, checks, 1000), max_keys=1)
        refill_ms = limits.failed_checks_refill_seconds * 1000
        self.failed_checks = Buckets(Rate(limits.failed_checks_per_bundle, 1, refill_ms), max_keys=limits.bundles_max)
        refill_ms = limits.knock_refill_seconds * 1000
        self.knocks = Buckets(Rate(limits.knocks_per_identity, 1, refill_ms), max_keys=limits.tracked_identities)
        refill_ms = limits.answer_refill_seconds * 1000
        self.answers = Buckets(Rate(limits.answers_per_knock, 1, refill_ms), max_keys=limits.remembered_knocks)


@final
class Core(Redacted):
    """The state and the arguments of one agent.

    Attributes:
        state: What must not be lost.
        limits: What the agent allows.
        policy: Who decides.
        entropy: Where randomness comes from.
        budgets: Token buckets.
        recording: Records are wanted.
    """

    __slots__ = ("_clock", "budgets", "entropy", "limits", "policy", "recording", "state")

    def __init__(
        self, state: AgentState, *, clock: Clock, entropy: Entropy, policy: Policy, limits: Limits, recording: bool
    ) -> None:
        self.state = state
        self._clock = clock
        self.entropy = CheckedEntropy(entropy)
        self.policy = policy
        self.limits = limits
        self.budgets = Budgets(limits)
        self.recording = recording

    def now_ms(self) -> int:
        """Return the clock.

        Raises:
            ArgumentInvalid: the clock does not return milliseconds since the epoch as an int.
        """
        try:
            now_ms: object = self._clock()
        except Exception:
            now_ms = None
        if type(now_ms) is not int or not 0 <= now_ms <= UINT_MAX:
            raise ArgumentInvalid("clock")
        return now_ms

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
        raise PeerNotAllowed

    def withdraw(self, th: TranscriptHash) -> None:
        """Take back what a KNOCK changed in memory alone, because its step was not committed: it may come again."""
        memo = self.state.knocks.get(th)
        if memo is not None and not memo.durable:
            self.state.knocks.withdraw(th)
            self.budgets.knocks.give_back(memo.initiator)

    # --- which of a peer's sessions ----------------------------------------------------------------------------------

    def open_sessions(self, peer: Peer | None, now_ms: int) -> list[Pending | Undecided | Session]:
        """Return a peer's open sessions: neither over nor superseded. Section 7."""
        if peer is None:
            return []
        return [
            held
            for held in peer.sessions.values()
            if not isinstance(held, Ended)
            and not (isinstance(held, Session) and (held.superseded_at_ms is not None or held.ending(now_ms)))
            and not (not isinstance(held, Session) and now_ms > held.deadline_ms)
        ]

    def has_room(self, peer: Peer | None, now_ms: int, *, replaced: int = 0) -> bool:
        """Say whether one more session with this peer can be held."""
        return (
            len(self.open_sessions(peer, now_ms)) - replaced < OPEN_SESSIONS_PER_PEER
            and len(self.state.sessions) < self.limits.sessions_max
        )

    def sending_session(self, peer: Peer, now_ms: int) -> Session | None:
        """Return the session that sends: the one whose KNOCK is the latest, ties by the smaller th. Section 7."""
        best: Session | None = None
        for held in peer.sessions.values():
            if isinstance(held, Session) and held.may_send(now_ms) and (best is None or _precedes(held, best)):
                best = held
        return best

    # --- records -----------------------------------------------------------------------------------------------------

    def record(self, event: AuditEvent, now_ms: int, *, sender: str = "", **fields: Any) -> tuple[Record, ...]:
        """Return the record of an event with these fields of `Record`, or nothing where no journal reads it."""
        if not self.recording:
            return ()
        state = self.state
        return (Record(event, at_ms=now_ms, mesh=state.mesh, sender=sender or state.identity.did, **fields),)


def _precedes(held: Session, best: Session) -> bool:
    ours, theirs = held.facts, best.facts
    if ours.knock_time_ms != theirs.knock_time_ms:
        return ours.knock_time_ms > theirs.knock_time_ms
    return ours.th < theirs.th
