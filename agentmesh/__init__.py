"""AgentMesh: end-to-end encrypted, auditable conversations between AI agents.

Applications use `Agent` and the values around it. The rooms below are importable and useful alone:
`agentmesh.primitives`, `agentmesh.identity`, `agentmesh.envelope`, `agentmesh.handshake`, `agentmesh.session`,
`agentmesh.audit`, `agentmesh.trust`, `agentmesh.relay`, `agentmesh.retries`, `agentmesh.attachments`, `agentmesh.agt`,
`agentmesh.courier`.
"""

import sys

# `python -m agentmesh` comes by here before a line of the command's own, which is to end in one line from its first
# moment. While Python looks for the module that it is to run, it is called "-m"; the script has its own name.
_is_command = bool(sys.argv) and sys.argv[0].rpartition("/")[2] in ("-m", "agentmesh", "agentmesh-e2ee")

try:
    from agentmesh.agent import Agent
    from agentmesh.assurance import Assurance, Guarantee
    from agentmesh.attachments.reference import Attachment, UnknownReference
    from agentmesh.engine.batch import Batch
    from agentmesh.engine.hooks import Clock
    from agentmesh.engine.outbox import Waiting
    from agentmesh.engine.state import Change, Journal
    from agentmesh.engine.status import SessionStatus, SessionView
    from agentmesh.engine.upkeep import Shelf
    from agentmesh.envelope import Header, Kind, OuterEnvelope
    from agentmesh.errors import AgentMeshError, LocalError, RemoteError, StoreError, TryAgain
    from agentmesh.events import (
        AnswerRepeated,
        Delivered,
        Event,
        KnockReceived,
        KnockRefused,
        MessageReceived,
        PeerAhead,
        PeerClosed,
        RolledBack,
        RotationDue,
        SessionEstablished,
        SessionOver,
        SessionRejected,
        SignalDue,
        SkippedKeysExpired,
        StockLow,
        Undelivered,
    )
    from agentmesh.handshake.knock import Intent
    from agentmesh.handshake.prekeys import BundleClass
    from agentmesh.handshake.verdict import Conditions, Reason
    from agentmesh.identity import Identity, IdentityKey
    from agentmesh.limits import Limits
    from agentmesh.outgoing import Accepted, Knock, Outgoing, Sealed, SentMany, SentTo, Tracked
    from agentmesh.policy import Ask, AskApplication, ClaimedSender, Deny, Grant, KnockRequest, Policy
    from agentmesh.primitives.entropy import Entropy, SystemEntropy
    from agentmesh.primitives.keys import Disclosure, SessionId
    from agentmesh.session.phases import Phase
except KeyboardInterrupt:
    if _is_command:
        raise SystemExit(130) from None
    raise
except ImportError as _missing:
    # Most likely because files of another package of our name stand among ours, of which the error itself says nothing.
    from agentmesh.namesake import about_namesake

    _told = about_namesake()
    if not _told:
        raise
    if _is_command:
        raise SystemExit(f"agentmesh: {_told}") from None
    raise ImportError(_told, name=_missing.name, path=_missing.path) from _missing

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "Agent",
    "AgentMeshError",
    "AnswerRepeated",
    "Ask",
    "AskApplication",
    "Assurance",
    "Attachment",
    "Batch",
    "BundleClass",
    "Change",
    "ClaimedSender",
    "Clock",
    "Conditions",
    "Delivered",
    "Deny",
    "Disclosure",
    "Entropy",
    "Event",
    "Grant",
    "Guarantee",
    "Header",
    "Identity",
    "IdentityKey",
    "Intent",
    "Journal",
    "Kind",
    "Knock",
    "KnockReceived",
    "KnockRefused",
    "KnockRequest",
    "Limits",
    "LocalError",
    "MessageReceived",
    "OuterEnvelope",
    "Outgoing",
    "PeerAhead",
    "PeerClosed",
    "Phase",
    "Policy",
    "Reason",
    "RemoteError",
    "RolledBack",
    "RotationDue",
    "Sealed",
    "SentMany",
    "SentTo",
    "SessionEstablished",
    "SessionId",
    "SessionOver",
    "SessionRejected",
    "SessionStatus",
    "SessionView",
    "Shelf",
    "SignalDue",
    "SkippedKeysExpired",
    "StockLow",
    "StoreError",
    "SystemEntropy",
    "Tracked",
    "TryAgain",
    "Undelivered",
    "UnknownReference",
    "Waiting",
    "__version__",
]


def __dir__() -> list[str]:
    """Return the public names alone: the rooms are no part of the interface until they are imported by name."""
    return list(__all__)
