"""What runs one simulated agent: it exports the state after every call, and holds the agent to what a refusal is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar, final

from agentmesh.agent import Agent
from agentmesh.engine.upkeep import Shelf
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.events import Event
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import Policy
from agentmesh.primitives import _crypto
from agentmesh.testing.entropy import SeededEntropy
from agentmesh.testing.pair import MESH

_R = TypeVar("_R")

KemKeys = dict[bytes, _crypto.KemKey]


@final
class SharedEntropy(SeededEntropy):
    """Seeded randomness of one agent, which knows the ML-KEM keys of all, so that a run repeats itself to the byte."""

    def __init__(self, seed: str, kem_keys: KemKeys) -> None:
        super().__init__(seed)
        self._kem_keys = kem_keys

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return a ciphertext from the seed, and what its recipient will make of it (FIPS 203's implicit rejection)."""
        live = self._kem_keys.get(public_key)
        if live is None:
            return super().encapsulate(public_key)
        ciphertext = self.token(_crypto.KEM_CIPHERTEXT_BYTES)
        return ciphertext, _crypto.kem_decapsulate(live, ciphertext)


@final
class Host:
    """One agent and the state that it last exported.

    Attributes:
        did: Its DID, which no restart changes.
        agent: The agent as it is now.
        errors: How often which error was raised, by class; shared by the hosts of a mesh.
    """

    def __init__(
        self,
        seed: str,
        *,
        clock: Callable[[], int],
        policy: Policy | None,
        limits: Limits | None,
        kem_keys: KemKeys,
        errors: Counter[type[AgentMeshError]],
    ) -> None:
        self._identity = Identity.generate(SeededEntropy(seed))
        self._clock = clock
        self._entropy = SharedEntropy(f"{seed}/session", kem_keys)
        self._policy = policy
        self._limits = limits
        self._kem_keys = kem_keys
        self.did: str = self._identity.did
        self.errors = errors
        self.start()

    def start(self) -> None:
        """Start with the identity and nothing else."""
        self.agent: Agent = Agent.create(
            MESH,
            identity=self._identity,
            clock=self._clock,
            entropy=self._entropy,
            policy=self._policy,
            limits=self._limits,
        )
        self._exported = self.agent.export_state()

    def restart(self) -> None:
        """Start from the state that was exported after the last call."""
        self.agent = Agent.restore(
            self._exported, clock=self._clock, entropy=self._entropy, policy=self._policy, limits=self._limits
        )
        if self.agent.export_state() != self._exported:
            raise AssertionError("a restored agent exports another state")

    def publish(self, one_time: int, *, last_resort: bool) -> Shelf:
        """Publish bundles, and let every agent of the mesh know their ML-KEM keys."""
        shelf = self.agent.publish_bundles(one_time, last_resort=last_resort)
        self._exported = self.agent.export_state()
        for bundle in self.agent._core.state.bundles.values():
            if bundle.secrets is not None:
                live = bundle.secrets.kem_key
                self._kem_keys[_crypto.kem_public(live)] = live
        return shelf

    def attempt(self, call: Callable[[Agent], _R]) -> _R | None:
        """Return what the call returns, or `None` where it raises an error of the library, which is counted.

        Raises:
            ArgumentInvalid: the caller of the simulator is at fault.
        """
        try:
            result = call(self.agent)
        except ArgumentInvalid:
            raise
        except AgentMeshError as error:
            self._refused(error)
            return None
        self._exported = self.agent.export_state()
        return result

    def offer(self, envelope: bytes) -> tuple[Event, ...] | AgentMeshError:
        """Return the events of an envelope, or the error that it was refused with, which is counted."""
        try:
            events = self.agent.receive(envelope)
        except AgentMeshError as error:
            self._refused(error)
            return error
        self._exported = self.agent.export_state()
        return events

    def _refused(self, error: AgentMeshError) -> None:
        self.errors[type(error)] += 1
        if self.agent.export_state() != self._exported:
            raise AssertionError(f"a refusal changed the exported state: {error.code}")
