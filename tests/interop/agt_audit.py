"""Run by the environment of agent-governance-toolkit-core: its own audit code over entries from stdin.

Nothing of this project is imported here; `agentmesh` is the peer's package.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

from agentmesh.governance.audit import AuditEntry, MerkleAuditChain


def verdicts(entries: list[dict[str, Any]]) -> dict[str, Any]:
    parsed = [AuditEntry(**entry) for entry in entries]
    chain = MerkleAuditChain()
    for entry in entries:
        chain.add_entry(AuditEntry(**entry))  # overwrites both hashes by its own
    # A chain that was read from elsewhere, its hashes as they came.
    read = MerkleAuditChain()
    read._entries = [AuditEntry(**entry) for entry in entries]
    root = chain.get_root_hash()
    return {
        "verified": [entry.verify_hash() for entry in parsed],
        "hashes": [entry.entry_hash for entry in chain._entries],
        "previous": [entry.previous_hash for entry in chain._entries],
        "chain": chain.verify_chain(),
        "read": read.verify_chain(),
        "proved": [
            chain.verify_proof(entry.entry_hash, chain.get_proof(entry.entry_id), root) for entry in chain._entries
        ],
        "events": [entry.to_cloudevent() for entry in parsed],
    }


json.dump(
    {
        "version": version("agent-governance-toolkit-core"),
        "logs": [verdicts(entries) for entries in json.load(sys.stdin)],
    },
    sys.stdout,
)
