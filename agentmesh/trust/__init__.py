"""Who gets in: policy on KNOCKs, trust, revocation and rate limits (docs/protocol.md, sections 5.1 and 9)."""

from agentmesh.trust.admission import AdmissionPolicy, Tier, Why
from agentmesh.trust.graph import TrustGraph
from agentmesh.trust.ledger import TrustLedger
from agentmesh.trust.lists import AdmissionLists
from agentmesh.trust.paths import DIRECT_THRESHOLD, TrustPaths
from agentmesh.trust.records import refusal_record, statement_record
from agentmesh.trust.revocation import RevocationList
from agentmesh.trust.sealing import StateKey, open_state, seal_state
from agentmesh.trust.statements import (
    Continuity,
    Revocation,
    Statement,
    TrustEdge,
    TrustUpdate,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    verify_continuity,
    verify_edge,
    verify_revocation,
    verify_trust,
)
from agentmesh.trust.succession import Successions

__all__ = [
    "DIRECT_THRESHOLD",
    "AdmissionLists",
    "AdmissionPolicy",
    "Continuity",
    "Revocation",
    "RevocationList",
    "StateKey",
    "Statement",
    "Successions",
    "Tier",
    "TrustEdge",
    "TrustGraph",
    "TrustLedger",
    "TrustPaths",
    "TrustUpdate",
    "Why",
    "issue_continuity",
    "issue_edge",
    "issue_revocation",
    "issue_trust",
    "open_state",
    "refusal_record",
    "seal_state",
    "statement_record",
    "verify_continuity",
    "verify_edge",
    "verify_revocation",
    "verify_trust",
]
