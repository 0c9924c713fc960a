"""What runs one agent: it starts it, starts it again from what was written, and holds it to what a refusal is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NotRequired, TypedDict, TypeVar, Unpack

from agentmesh.agent import Agent
from agentmesh.audit.journal import AuditJournal
from agentmesh.audit.log import AuditLog
from agentmesh.audit.sink import Sink
from agentmesh.engine.export import export_agent, restore_agent
from agentmesh.engine.hooks import Clock
from agentmesh.engine.upkeep import Shelf
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import Policy
from agentmesh.primitives import _crypto
from agentmesh.primitives.entropy import Entropy
from agentmesh.testing.entropy import KemKeys, SeededEntropy, SharedEntropy
from agentmesh.testing.pair import MESH

_R = TypeVar("_R")


class Surroundings(TypedDict):
    """What an agent has beside identity, state and journal."""

    clock: Clock
    entropy: Entropy
    policy: Policy | None
    limits: Limits | None
    acknowledge: NotRequired[bool]
    reliable: NotRequired[bool]


class Host:
    """One agent, and all that it needs to start again. When the state is written is for a subclass to say.

    Attributes:
        did: Its DID, which no restart changes.
        agent: The agent as it is now: a restart puts another object in its place.
        sink: Where its audit log is, if it has one.
        journal: Over that log; every start verifies it.
    """

    __slots__ = ("_around", "agent", "did", "journal", "sink")

    def __init__(
        self, mesh: str, *, identity: Identity | None = None, sink: Sink | None = None, **around: Unpack[Surroundings]
    ) -> None:
        self._around = around
        self.sink: Sink | None = sink
        self.start(mesh, identity)
        self.did: str = self.agent.did

    def start(self, mesh: str, identity: Identity | None) -> None:
        """Start with an identity and nothing else; with a fresh one if `None`."""
        self._open_log()
        self.agent: Agent = Agent.create(mesh, identity=identity, journal=self.journal, **self._around)

    def restart(self, written: bytes) -> None:
        """Start from an exported state."""
        self._open_log()
        self.agent = self.restore(written)
        after = self.agent.export_state()
        if after != written and after != self.brought_to_now(written):
            self.broke("a restored agent exports another state")

    def restore(self, written: bytes) -> Agent:
        """Return the agent that an exported state makes."""
        return Agent.restore(written, journal=self.journal, **self._around)

    def refused(self, error: AgentMeshError, before: bytes) -> None:
        """Hold the agent to what a refusal is: the exported state is byte for byte what it was before."""
        after = self.agent.export_state()
        # Time alone takes bundles out of an export, so what was written before is brought to this moment too.
        if after != before and after != self.brought_to_now(before):
            self.broke(f"a refusal changed the exported state: {error.code}")

    def brought_to_now(self, exported: bytes) -> bytes:
        """Return what this exported state is by the agent's clock, which lets bundles expire."""
        now_ms = self.agent._core.now_ms()
        return export_agent(restore_agent(exported, now_ms), now_ms)

    def broke(self, rule: str) -> None:
        """Say which rule the agent broke."""
        raise AssertionError(rule)

    def _open_log(self) -> None:
        self.journal: AuditJournal | None = None if self.sink is None else AuditJournal(AuditLog(self.sink))


class WritingHost(Host):
    """The host of a simulated mesh: it exports after every call, and compares after every refusal.

    Attributes:
        errors: How often which error was raised, by class; shared by the hosts of a mesh.
    """

    __slots__ = ("_identity", "_kem_keys", "_written", "errors")

    def __init__(
        self,
        seed: str,
        *,
        clock: Clock,
        policy: Policy | None,
        limits: Limits | None,
        acknowledge: bool,
        reliable: bool,
        kem_keys: KemKeys,
        errors: Counter[type[AgentMeshError]],
    ) -> None:
        self._identity = Identity.generate(SeededEntropy(seed))
        self._kem_keys = kem_keys
        self.errors: Counter[type[AgentMeshError]] = errors
        entropy = SharedEntropy(f"{seed}/session", kem_keys)
        super().__init__(
            MESH,
            identity=self._identity,
            clock=clock,
            entropy=entropy,
            policy=policy,
            limits=limits,
            acknowledge=acknowledge,
            reliable=reliable,
        )
        self._written = self.agent.export_state()

    def crash(self) -> None:
        """Start from the state that was exported after the last call."""
        self.restart(self._written)

    def lose_state(self) -> None:
        """Start with the identity and nothing else."""
        self.start(MESH, self._identity)
        self._written = self.agent.export_state()

    def publish(self, one_time: int, *, last_resort: bool) -> Shelf:
        """Publish bundles, and let every agent of the mesh know their ML-KEM keys."""
        shelf = self.agent.publish_bundles(one_time, last_resort=last_resort)
        self._written = self.agent.export_state()
        for bundle in self.agent._core.state.bundles.values():
            if bundle.secrets is not None:
                live = bundle.secrets.kem_key
                self._kem_keys[_crypto.kem_public(live)] = live
        return shelf

    def attempt(self, call: Callable[[Agent], _R]) -> _R | AgentMeshError:
        """Return what the call returns, or the error of the library that it raises, which is counted.

        Raises:
            ArgumentInvalid: the caller of the simulator is at fault.
        """
        try:
            result = call(self.agent)
        except ArgumentInvalid:
            raise
        except AgentMeshError as error:
            self.errors[type(error)] += 1
            self.refused(error, self._written)
            return error
        self._written = self.agent.export_state()
        return result
