"""Attachments: files of any size, sealed in chunks, on any store, named by a reference (docs/protocol.md, section 6.6).

Nothing here touches a file or a network, and nothing needs an agent. `agentmesh.store` has what does.
"""

from __future__ import annotations

from agentmesh.attachments.disclosure import AttachmentDisclosure, verify_attachment
from agentmesh.attachments.opening import AttachmentOpener
from agentmesh.attachments.reference import Attachment, Reference, UnknownReference, parse_reference
from agentmesh.attachments.sealing import AttachmentSealer
from agentmesh.attachments.sizes import Layout

__all__ = [
    "Attachment",
    "AttachmentDisclosure",
    "AttachmentOpener",
    "AttachmentSealer",
    "Layout",
    "Reference",
    "UnknownReference",
    "parse_reference",
    "verify_attachment",
]
