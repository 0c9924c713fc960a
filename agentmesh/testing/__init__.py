"""Shipped for users' own tests: a manual clock, seeded randomness, strategies, and a simulated mesh.

Nothing here is for production: the randomness repeats itself on purpose. `agentmesh.testing.strategies` needs the extra
`testing` (Hypothesis) and is imported by its own name; all else here needs nothing more than the library.
"""

from agentmesh.testing.broker import AtOnce, ManualTimer, MemoryBroker, MemoryTransport
from agentmesh.testing.clock import ManualClock
from agentmesh.testing.entropy import SeededEntropy
from agentmesh.testing.faulty_backend import FaultyBackend, Moment
from agentmesh.testing.mutation import Mutation, Tampering, forge, with_body, with_header
from agentmesh.testing.network import HONEST, Faults
from agentmesh.testing.pair import Pair, agent_pair, establish, established_pair
from agentmesh.testing.shelf import BundleShelf
from agentmesh.testing.simulator import MeshSimulator

__all__ = [
    "HONEST",
    "AtOnce",
    "BundleShelf",
    "Faults",
    "FaultyBackend",
    "ManualClock",
    "ManualTimer",
    "MemoryBroker",
    "MemoryTransport",
    "MeshSimulator",
    "Moment",
    "Mutation",
    "Pair",
    "SeededEntropy",
    "Tampering",
    "agent_pair",
    "establish",
    "established_pair",
    "forge",
    "with_body",
    "with_header",
]
