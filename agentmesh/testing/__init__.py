"""Shipped for users' own tests: a manual clock, seeded randomness, strategies, and a simulated mesh.

Nothing here is for production: the randomness repeats itself on purpose.
"""

from agentmesh.testing.clock import ManualClock
from agentmesh.testing.entropy import SeededEntropy
from agentmesh.testing.pair import Pair, agent_pair, establish, established_pair

__all__ = ["ManualClock", "Pair", "SeededEntropy", "agent_pair", "establish", "established_pair"]
