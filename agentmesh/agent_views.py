"""What can be asked of an agent, and changes nothing: the half of the façade that only looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmesh.engine import delivery, knocking, upkeep, verdicts
from agentmesh.engine.core import Core
from agentmesh.engine.export import export_agent
from agentmesh.engine.guard import session_id_argument
from agentmesh.engine.outbox import Waiting
from agentmesh.engine.seam import Seam
from agentmesh.engine.status import SessionView, views_of
from agentmesh.errors import ArgumentInvalid, BatchOpen, NoSession
from agentmesh.events import Events, KnockReceived
from agentmesh.identity import Identity, IdentityKey
from agentmesh.outgoing import Outgoing
from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.keys import Redacted, SessionId

if TYPE_CHECKING:
    from agentmesh.audit.checkpoint import Checkpoint
    from agentmesh.audit.log import AuditLog


class AgentViews(Redacted):
    """An agent, as far as it can be looked at. `agentmesh.agent.Agent` is what can be made, and does something."""

    __slots__ = ("_core", "_rotation_told", "_seam", "_stock_told")
    _core: Core
    _seam: Seam
    _rotation_told: bool
    _stock_told: bool

    @property
    def did(self) -> str:
        """This agent's name: `did:agentmesh:...`."""
        return self._core.state.identity.did

    @property
    def key(self) -> IdentityKey:
        """This agent's public identity key."""
        return self._core.state.identity.key

    @property
    def identity(self) -> Identity:
        """This agent's own identity, to sign with: to succeed, revoke or vouch. It prints its DID and nothing else."""
        self._seam.birthplace.check()
        return self._core.state.identity

    @property
    def mesh(self) -> str:
        """The mesh that it is in."""
        return self._core.state.mesh

    @property
    def is_reliable(self) -> bool:
        """Whether it keeps an outbox and an inbox. Section 7.3."""
        return self._core.reliable

    @property
    def generation(self) -> int:
        """How many calls changed its state, in all. Keep it elsewhere too, to notice an older export. Section 7.1."""
        return self._seam.look(lambda: self._core.state.generation)

    # --- what waits --------------------------------------------------------------------------------------------------

    @frameless
    def pending_knocks(self) -> tuple[KnockReceived, ...]:
        """Return the KNOCKs that wait for the application's decision, oldest first.

        Raises:
            BatchOpen: in a batch: one that came in it is not durable yet.
        """
        return self._seam.look(lambda: verdicts.pending(self._durable(), self._core.now_ms()))

    @frameless
    def pending_envelopes(self, did: str) -> tuple[Outgoing, ...]:
        """Return the KNOCKs to this peer that wait for a verdict: the same bytes, to hand to a relay again.

        Raises:
            BatchOpen: in a batch: one that was made in it is not durable yet.
        """
        return self._seam.look(lambda: knocking.pending(self._durable(), did))

    @frameless
    def outbox(self) -> tuple[Waiting, ...]:
        """Return what is to be handed to the relay now, oldest first, where the agent is reliable. Section 7.3.

        Say `sent` of each that the relay has taken. What was not `sent` since the agent was made, restored or opened is
        due; what was is due again after 5 s, then 10, 20 and so on, up to 10 minutes: always the same bytes.

        Raises:
            BatchOpen: in a batch: what that makes is not durable yet.
        """
        return self._seam.look(lambda: delivery.due(self._durable()))

    @frameless
    def inbox(self) -> Events:
        """Return the events that were handed up and are not `done`, oldest first, where the agent is reliable.

        The same objects that `receive` and `poll` returned; after a restart they come from here. Section 7.3.

        Raises:
            BatchOpen: in a batch: what that was told is not durable yet.
        """
        return self._seam.look(lambda: delivery.not_done(self._durable()))

    def _durable(self) -> Core:
        if self._seam.batch is not None:
            raise BatchOpen
        return self._core

    @property
    def next_deadline_ms(self) -> int | None:
        """The time, in milliseconds since the epoch, at which `poll` is to be called next, or `None`.

        Where the agent is reliable, look into its `outbox` then too.
        """
        return self._seam.look(self._next_deadline_ms)

    def _next_deadline_ms(self) -> int | None:
        deadline_ms = upkeep.next_deadline_ms(self._core, self._core.now_ms(), **self._still_to_tell)
        times = (deadline_ms, self._seam.refusals_due_ms)
        return min((time_ms for time_ms in times if time_ms is not None), default=None)

    @property
    def _still_to_tell(self) -> dict[str, bool]:
        return {"tell_stock": not self._stock_told, "tell_rotation": not self._rotation_told}

    # --- sessions and state ------------------------------------------------------------------------------------------

    @frameless
    def session(self, did: str, session_id: SessionId | None = None) -> SessionView:
        """Return a view of a session with a peer: the one that sends, or the newest, or the one that is named.

        Raises:
            ArgumentInvalid: not a DID.
            NoSession: there is none.
        """
        named = session_id_argument(session_id)
        views = self.sessions(did)
        if named is not None:
            views = tuple(view for view in views if view.session_id == named)
        sending = [view for view in views if view.status.sends]
        if not views:
            raise NoSession
        return (sending or views)[-1]

    @frameless
    def sessions(self, did: str) -> tuple[SessionView, ...]:
        """Return views of all sessions with a peer, oldest first, ended ones that are remembered included.

        Raises:
            ArgumentInvalid: not a DID.
        """
        return self._seam.look(lambda: views_of(self._core, did))

    @frameless
    def export_state(self) -> bytes:
        """Return the whole state, but bundles past their time, as canonical bytes: *secret and unsealed*. Section 7."""
        return self._seam.look(lambda: export_agent(self._core.state, self._core.now_ms()))

    @frameless
    def checkpoint(self, log: AuditLog) -> Checkpoint:
        """Return a checkpoint of this agent over the whole of its log, by its clock. Section 8.

        Raises:
            ArgumentInvalid: not an `AuditLog`.
            OwnerMismatch: another identity's log.
            StoreError: the log cannot be read, or is not what the index beside it says; nothing is signed.
        """
        from agentmesh.audit.log import AuditLog  # here, because most agents keep no log

        if not isinstance(log, AuditLog):
            raise ArgumentInvalid("log", "not an AuditLog")
        log.vouch()  # before the agent is held, because it may read a million entries
        state = self._core.state
        return self._seam.look(lambda: log.checkpoint(state.identity, mesh=state.mesh, time_ms=self._core.now_ms()))

    def __repr__(self) -> str:
        return f"Agent({self.did}, mesh={self.mesh!r}, <redacted>)"
