"""The audit trail: records, the log, its proofs, and what it is good for (docs/protocol.md, section 8).

An agent writes one through a journal; anybody verifies it with the functions of this package, which look at their
arguments alone. The file sink is `agentmesh.store.LogFile`.
"""

from agentmesh.audit.checkpoint import Checkpoint, claimed_by, sign_checkpoint, verify_checkpoint, verify_growth
from agentmesh.audit.compare import Comparison, Finding, Found, compare, owner_of
from agentmesh.audit.disclosure import Disclosed, verify_disclosure
from agentmesh.audit.exports import agt_canonical_text, to_agt_entries, to_cloud_events, to_json_lines, to_kars_events
from agentmesh.audit.journal import AuditJournal, OnFailure
from agentmesh.audit.log import AuditLog, MemorySink, Sink, VerifiedLog, verified_records, verify_entries, verify_entry
from agentmesh.audit.merkle import EntryHash, RootHash, leaf_hash, verify_consistency, verify_inclusion
from agentmesh.audit.record import AuditEvent, Outcome, Record, decode_entry

__all__ = [
    "AuditEvent",
    "AuditJournal",
    "AuditLog",
    "Checkpoint",
    "Comparison",
    "Disclosed",
    "EntryHash",
    "Finding",
    "Found",
    "MemorySink",
    "OnFailure",
    "Outcome",
    "Record",
    "RootHash",
    "Sink",
    "VerifiedLog",
    "agt_canonical_text",
    "claimed_by",
    "compare",
    "decode_entry",
    "leaf_hash",
    "owner_of",
    "sign_checkpoint",
    "to_agt_entries",
    "to_cloud_events",
    "to_json_lines",
    "to_kars_events",
    "verified_records",
    "verify_checkpoint",
    "verify_consistency",
    "verify_disclosure",
    "verify_entries",
    "verify_entry",
    "verify_growth",
    "verify_inclusion",
]
