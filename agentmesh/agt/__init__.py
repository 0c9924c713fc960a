"""Speak with agents of Microsoft's Agent Governance Toolkit, over its relay and registry (docs/agt.md).

`AgtAgent` is an agent in AGT's mesh: it takes frames of the relay, and makes some. The requests to the registry are
values: the agent makes those that it signs, and the functions here the others.
"""

from agentmesh.agt.agent import AgtAgent
from agentmesh.agt.frames import AgtFrame, AgtKnock, AgtSealed
from agentmesh.agt.graph_file import ProjectionReport
from agentmesh.agt.link import Advice, RelayLink
from agentmesh.agt.projection import TrustProjection
from agentmesh.agt.registry import HttpRequest, describe, discover, fetch, presence, read_answer
from agentmesh.agt_identity import AgtIdentity, AgtIdentityKey

__all__ = [
    "Advice",
    "AgtAgent",
    "AgtFrame",
    "AgtIdentity",
    "AgtIdentityKey",
    "AgtKnock",
    "AgtSealed",
    "HttpRequest",
    "ProjectionReport",
    "RelayLink",
    "TrustProjection",
    "describe",
    "discover",
    "fetch",
    "presence",
    "read_answer",
]
