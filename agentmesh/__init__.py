"""AgentMesh: end-to-end encrypted, auditable conversations between AI agents.

Applications use `Agent` and the values around it. Each layer below is importable and useful alone: `agentmesh.prekeys`,
`agentmesh.handshake`, `agentmesh.knock`, `agentmesh.verdict`, `agentmesh.ratchet`, `agentmesh.session`,
`agentmesh.envelope`, `agentmesh.identity`, `agentmesh.aead`.
"""

from agentmesh.admission.policy import Ask, AskApplication, ClaimedSender, Deny, Grant, KnockRequest, Policy
from agentmesh.agent import Agent
from agentmesh.entropy import Entropy, SystemEntropy
from agentmesh.envelope import Header, Kind, OuterEnvelope
from agentmesh.errors import AgentMeshError, LocalError, RemoteError, StoreError, TryAgain
from agentmesh.events import (
    Accepted,
    AnswerRepeated,
    Event,
    KnockReceived,
    KnockRefused,
    MessageReceived,
    PeerClosed,
    RotationDue,
    SessionEstablished,
    SessionOver,
    SessionRejected,
    SkippedKeysExpired,
    StockLow,
)
from agentmesh.exchange import Knock
from agentmesh.facts import Phase
from agentmesh.identity import Identity, IdentityKey
from agentmesh.knock import Intent
from agentmesh.limits import Limits
from agentmesh.prekeys import BundleClass
from agentmesh.status import Assurance, SessionStatus, SessionView
from agentmesh.upkeep import Shelf
from agentmesh.verdict import Conditions, Reason

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "Agent",
    "AgentMeshError",
    "AnswerRepeated",
    "Ask",
    "AskApplication",
    "Assurance",
    "BundleClass",
    "ClaimedSender",
    "Conditions",
    "Deny",
    "Entropy",
    "Event",
    "Grant",
    "Header",
    "Identity",
    "IdentityKey",
    "Intent",
    "Kind",
    "Knock",
    "KnockReceived",
    "KnockRefused",
    "KnockRequest",
    "Limits",
    "LocalError",
    "MessageReceived",
    "OuterEnvelope",
    "PeerClosed",
    "Phase",
    "Policy",
    "Reason",
    "RemoteError",
    "RotationDue",
    "SessionEstablished",
    "SessionOver",
    "SessionRejected",
    "SessionStatus",
    "SessionView",
    "Shelf",
    "SkippedKeysExpired",
    "StockLow",
    "StoreError",
    "SystemEntropy",
    "TryAgain",
    "__version__",
]
