"""Who gets in: policy on KNOCKs, trust, revocation and rate limits (docs/protocol.md, sections 5.1 and 9)."""

from agentmesh.admission.access import AdmissionPolicy, Tier, Why
from agentmesh.admission.at_rest import StateKey, open_state, seal_state
from agentmesh.admission.buckets import Buckets, Rate
from agentmesh.admission.graph import DIRECT_THRESHOLD, TrustGraph
from agentmesh.admission.ledger import TrustLedger
from agentmesh.admission.policy import BundlePolicy, KnownSenders
from agentmesh.admission.records import refusal_record, statement_record
from agentmesh.admission.relay import RelayLimiter
from agentmesh.admission.revocation import RevocationList
from agentmesh.admission.statements import (
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
from agentmesh.admission.succession import Successions

__all__ = [
    "DIRECT_THRESHOLD",
    "AdmissionPolicy",
    "Buckets",
    "BundlePolicy",
    "Continuity",
    "KnownSenders",
    "Rate",
    "RelayLimiter",
    "Revocation",
    "RevocationList",
    "StateKey",
    "Statement",
    "Successions",
    "Tier",
    "TrustEdge",
    "TrustGraph",
    "TrustLedger",
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
