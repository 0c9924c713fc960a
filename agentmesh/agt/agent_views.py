"""What can be asked of an agent in AGT's mesh, and changes nothing: the half of the façade that only looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentmesh.agt import knocking, registry, upkeep
from agentmesh.agt.core import AgtCore
from agentmesh.agt.link import RelayLink
from agentmesh.agt.registry import HttpRequest
from agentmesh.agt.rows import export_agent
from agentmesh.agt.views import views_of
from agentmesh.agt_identity import AgtIdentity, AgtIdentityKey, mesh_did_argument
from agentmesh.engine.hooks import Clock
from agentmesh.engine.seam import Seam
from agentmesh.engine.status import SessionView
from agentmesh.errors import BatchOpen
from agentmesh.events import Events, KnockReceived, RotationDue, StockLow
from agentmesh.primitives.arguments import frameless
from agentmesh.primitives.keys import Redacted


class AgtAgentViews(Redacted):
    """An agent, as far as it can be looked at. `agentmesh.agt.AgtAgent` is what can be made, and does something."""

    __slots__ = ("_clock", "_core", "_seam")
    _clock: Clock
    _core: AgtCore
    _seam: Seam

    # --- who it is ---------------------------------------------------------------------------------------------------

    @property
    def did(self) -> str:
        """This agent's name: `did:mesh:...`."""
        return self._core.state.identity.did

    @property
    def key(self) -> AgtIdentityKey:
        """This agent's public identity key."""
        return self._core.state.identity.key

    @property
    def identity(self) -> AgtIdentity:
        """This agent's own identity. It prints its DID and nothing else."""
        self._seam.birthplace.check()
        return self._core.state.identity

    @property
    def mesh(self) -> str:
        """What policy and audit records call its mesh."""
        return self._core.state.mesh

    @property
    def generation(self) -> int:
        """How many calls changed its state, in all. Keep it elsewhere too, to notice an older export."""
        return self._seam.look(lambda: self._core.state.generation)

    # --- the registry and the relay ----------------------------------------------------------------------------------

    def registration(
        self, *, capabilities: Iterable[str] = (), metadata: Mapping[str, str] | None = None
    ) -> HttpRequest:
        """Return the request that makes this agent known to the registry.

        Args:
            capabilities: What it can be found by, at most 64 of at most 128 bytes; AGT's clients put their name here.
            metadata: Texts by name, which anybody may read.

        Raises:
            ArgumentInvalid: an argument of another form.
        """
        now_ms = self._core.now_ms()
        return registry.registration(self.identity, now_ms, capabilities=capabilities, metadata=metadata)

    def heartbeat(self) -> HttpRequest:
        """Return the request that tells the registry that this agent is alive: it then shows it as online for 90 s."""
        return registry.heartbeat(self.identity, self._core.now_ms())

    def withdrawal(self) -> HttpRequest:
        """Return the request that has the registry forget this agent."""
        return registry.withdrawal(self.identity, self._core.now_ms())

    def rating(self, did: str, score: float, reason: str = "") -> HttpRequest:
        """Return the request that tells the registry what this agent thinks of a peer.

        Args:
            did: Whom, `did:mesh:...`; not this agent.
            score: 0 to 1.
            reason: Why, at most 1,024 bytes of text.

        Raises:
            ArgumentInvalid: an argument of another form.
        """
        return registry.reputation(self.identity, self._core.now_ms(), did, score, reason)

    @frameless
    def link(self, token: str | None = None) -> RelayLink:
        """Return what keeps one connection to the relay going: its first frame, heartbeats, acknowledgements, closes.

        Args:
            token: What the relay asks for besides, if anything. It is a secret.

        Raises:
            ArgumentInvalid: not a token.
        """
        return RelayLink(self.identity, self._clock, token, entropy=self._core.entropy)

    # --- what waits --------------------------------------------------------------------------------------------------

    @frameless
    def inbox(self) -> Events:
        """Return the events that were handed up and are not `done`, oldest first, where the agent is reliable.

        Raises:
            BatchOpen: in a batch.
        """
        return self._seam.look(lambda: tuple(handed.event for handed in self._durable().state.inbox))

    @frameless
    def pending_knocks(self) -> tuple[KnockReceived, ...]:
        """Return the KNOCKs that wait for the application's decision, oldest first.

        Raises:
            BatchOpen: in a batch.
        """
        return self._seam.look(lambda: knocking.waiting(self._durable()))

    def _durable(self) -> AgtCore:
        if self._seam.batch is not None:
            raise BatchOpen
        return self._core

    # --- time ------------------------------------------------------------------------------------------------------

    @property
    def next_deadline_ms(self) -> int | None:
        """The time, in milliseconds since the epoch, at which `poll` is to be called next, or `None`."""
        return self._seam.look(self._next_deadline_ms)

    def _next_deadline_ms(self) -> int | None:
        times = [*upkeep.deadlines_ms(self._core)]
        if RotationDue not in self._core.told and self._core.state.signed_prekeys():
            times.append(upkeep.rotation_due_ms(self._core))
        if StockLow not in self._core.told and upkeep.is_low(self._core, self._core.state.unused):
            times.append(self._core.now_ms())
        if self._seam.refusals_due_ms is not None:
            times.append(self._seam.refusals_due_ms)
        return min(times, default=None)

    # --- sessions and state ------------------------------------------------------------------------------------------

    @frameless
    def sessions(self, did: str) -> tuple[SessionView, ...]:
        """Return views of all sessions with a peer, oldest first.

        Raises:
            ArgumentInvalid: not a DID of AGT's mesh.
        """
        did = mesh_did_argument("did", did)
        return self._seam.look(lambda: views_of(self._core, did))

    @frameless
    def export_state(self) -> bytes:
        """Return the whole state as canonical bytes: *secret and unsealed*."""
        return self._seam.look(lambda: export_agent(self._core.state))

    def __repr__(self) -> str:
        return f"AgtAgent({self.did}, mesh={self.mesh!r}, <redacted>)"
