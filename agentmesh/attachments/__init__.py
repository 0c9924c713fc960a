"""Attachments: files of any size, sealed in chunks, on any store, named by a reference (docs/protocol.md, section 6.5).

Nothing here touches a file or a network, and nothing needs an agent. `agentmesh.store` has what does.
"""

from __future__ import annotations

from agentmesh.attachments.reference import Attachment, Reference, UnknownReference, parse_reference

__all__ = ["Attachment", "Reference", "UnknownReference", "parse_reference"]
