"""What every step of an agent that speaks AGT's protocol is computed from, and the seam that it runs through."""

from __future__ import annotations

from typing import Any, Final, TypeVar, final

from agentmesh.agt.early import EarlyMessages
from agentmesh.agt.frames import frame_object
from agentmesh.agt.rows import AgtChanges
from agentmesh.agt.state import AgtState
from agentmesh.agt_identity import is_mesh_did
from agentmesh.assurance import guarantees_of
from agentmesh.engine.batch import Batch
from agentmesh.engine.changes import InboxPut
from agentmesh.engine.event_rows import is_kept
from agentmesh.engine.hooks import Clock, Hooks
from agentmesh.engine.inbox import HandedUp, is_from_peer, size_of
from agentmesh.engine.seam import Seam
from agentmesh.engine.state import Change, Changes, Step
from agentmesh.errors import AgentMeshError, InboxFull, PeerNotAllowed
from agentmesh.events import Event
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.limits import Limits
from agentmesh.policy import Policy
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import SessionId

_OVER_MAX: Final = 1024  # 64 bytes each
_SHARES: Final = 4  # of the inbox: one peer fills one at most
_Output = TypeVar("_Output")


@final
class AgtCore(Hooks):
    """The state and the arguments of one agent.

    Attributes:
        state: What must not be lost.
        early: Messages that came before their KNOCK; in memory only.
        told: What `poll` has told, and tells again once prekeys were made; in memory only.
        tried: KNOCKs that were tried by the old KDF of the npm package, once each, and whether their maker runs it; in
            memory only.
    """

    __slots__ = ("_over", "early", "state", "told", "tried")

    def __init__(
        self,
        state: AgtState,
        *,
        clock: Clock,
        entropy: Entropy,
        policy: Policy,
        limits: Limits,
        recording: bool,
        reliable: bool,
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
        self.state: AgtState = state
        self.early: EarlyMessages = EarlyMessages()
        self.told: set[type[Event]] = set()
        self.tried: dict[SessionId, bool] = {}
        self._over: dict[bytes, None] = {}

    def note_over(self, chain: bytes) -> None:
        """Note that a first chain belongs to what is over: what its sender goes on sending precedes no KNOCK.

        In memory only, and the oldest make room: what is forgotten is held for a while, as if its KNOCK were to come.
        """
        self._over[chain] = None
        if len(self._over) > _OVER_MAX:
            del self._over[next(iter(self._over))]

    def is_over(self, chain: bytes) -> bool:
        """Say whether a first chain is of what is over."""
        return chain in self._over

    def check_peer(self, peer: IdentityKey, bundle_class: BundleClass) -> None:
        """Ask the policy whether this peer may be sent to and heard now, over what such a session gives.

        Raises:
            PeerNotAllowed: it may not.
        """
        self.check_allowed(peer)
        if not self.may_converse(peer, guarantees_of(peer, bundle_class)):
            raise PeerNotAllowed(peer.did)


@final
class AgtSeam(Seam):
    """The lock, the journal and the commit of such an agent."""

    __slots__ = ()

    def _kept(self, step: Step[_Output], now_ms: int) -> Step[_Output]:
        try:
            return kept(self._core, step, now_ms)
        except InboxFull:  # the step takes no effect
            charged, step.charged = step.charged, None
            if charged is not None:
                self._core.budgets.knocks.give_back(charged)
            raise

    def _changes_of(self, step: Step[Any]) -> Changes:
        return AgtChanges(step.changes, self._core.state, step.generation)

    def _new_batch(self) -> Batch:
        state = self._core.state

        def told(changes: tuple[Change, ...]) -> Changes:
            return AgtChanges(changes, state, None)

        return Batch(state, told)

    def _claimed_sender(self, envelope: bytes) -> str:
        try:
            sender = frame_object(envelope, self._core.limits.envelope_max_bytes).get("from")
        except AgentMeshError:
            return ""
        return sender if is_mesh_did(sender) and isinstance(sender, str) else ""


def kept(core: AgtCore, step: Step[_Output], now_ms: int) -> Step[_Output]:
    """Return a step with the events that it hands up kept, until the application has done with them. Section 7.3.

    Raises:
        InboxFull: those of a peer have no room.
    """
    output: Any = step.output
    if type(output) is not tuple or not output or not isinstance(output[0], Event):
        return step
    inbox = core.state.inbox
    sequence, changes = inbox.last_sequence, list(step.changes)
    by_peer: dict[str, tuple[int, int]] = {}
    for event in output:
        if is_from_peer(event):
            did, size = event.peer.did, size_of(event)
            count, held_bytes = by_peer.get(did, (0, 0))
            if not _has_room(core, did, count, held_bytes + size):
                raise InboxFull
            by_peer[did] = (count + 1, held_bytes + size)
        if is_kept(event):
            sequence += 1
            changes.append(InboxPut(HandedUp(sequence, event, now_ms)))
    step.changes = tuple(changes)
    return step


def _has_room(core: AgtCore, did: str, count: int, more_bytes: int) -> bool:
    """Say whether one more event of a peer can be kept, behind `count` others of the same step."""
    inbox, limits = core.state.inbox, core.limits
    for (held, held_bytes), shares in ((inbox.from_peers, 1), (inbox.from_peer(did), _SHARES)):
        if held + count >= max(1, limits.inbox_max_events // shares):
            return False
        if held + count and held_bytes + more_bytes > limits.inbox_max_bytes // shares:
            return False  # what is larger than a share may lie there alone
    return True
