"""Disclosure: one message opened to an auditor, provably, without another (docs/protocol.md, section 8.1).

The message key of one message opens that message and no other, and the key commitment kc leaves no second key that
opens the same envelope to other content. What a disclosure proves is about the *log's owner*: it saw these bytes. It is
evidence of the sender only with an inclusion proof of the receipt, as a message sealed, in a checkpoint signed by the
sender: message keys are symmetric, and anybody can make an envelope with one of its own.
"""

from __future__ import annotations

from typing import final

from attrs import field, frozen

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.envelope import Header, Kind, OuterEnvelope
from agentmesh.errors import AgentMeshError, ArgumentInvalid, DisclosureInvalid
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import Disclosure, MessageKey
from agentmesh.session.content import ContentType, References, parse_close, parse_content
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.session.suite import SUITE


@final
@frozen(kw_only=True)
class Disclosed:
    """A message that was proved to be what an envelope and its record stand for. It prints nothing of itself.

    Attributes:
        header: The envelope's outer header.
        content_type: Data or close.
        action: The action that the message names, or `None` where it is the KNOCK's, which is not disclosed.
        data: The data.
        attachments: What the message names: whoever is shown it can open each of them.
    """

    header: Header
    content_type: ContentType
    action: str | None = field(repr=False)
    data: bytes = field(repr=lambda data: f"<{len(data)} bytes>")
    attachments: References = ()


def verify_disclosure(
    envelope: bytes, disclosure: Disclosure, record: Record, *, limits: Limits | None = None
) -> Disclosed:
    """Return the content of an envelope, once envelope, record and disclosure have been proved to belong together.

    Args:
        envelope: The envelope, as it was sent.
        disclosure: th and message key, from either side: `Sealed.disclosure` or `MessageReceived.disclosure`.
        record: The record of this envelope, from a log that was verified (`verify_entry`, `verified_records`).
        limits: For the envelope's size.

    Raises:
        ArgumentInvalid: an argument of another type.
        DisclosureInvalid: another envelope, record, session, key or content.
    """
    if not isinstance(disclosure, Disclosure):
        raise ArgumentInvalid("disclosure")
    if not isinstance(record, Record):
        raise ArgumentInvalid("record")
    try:
        return _disclosed(OuterEnvelope.parse(envelope, limits), disclosure, record)
    except ArgumentInvalid:
        raise
    except AgentMeshError:
        pass
    raise DisclosureInvalid


def _disclosed(outer: OuterEnvelope, disclosure: Disclosure, record: Record) -> Disclosed:
    header = outer.header
    session_id = outer.body[:SESSION_ID_BYTES]
    same = (
        record.event in (AuditEvent.MESSAGE_SEALED, AuditEvent.MESSAGE_OPENED)
        and header.kind is Kind.MESSAGE
        and (record.sender, record.recipient, record.mesh) == (header.sender, header.recipient, header.mesh)
        and (record.envelope_time_ms, record.size_bytes) == (header.time_ms, outer.size_bytes)
        and record.session_id == session_id
        and _crypto.constant_time_equal(record.receipt, outer.receipt)
    )
    if not same:
        raise DisclosureInvalid
    frame = SUITE.parse(outer.body, SESSION_ID_BYTES)
    message_key = MessageKey(disclosure.key.reveal())
    padded = SUITE.open_body(message_key, frame, session_id + disclosure.th + outer.header_bytes)
    content_type, action, data, references = parse_content(padded)
    if content_type in (ContentType.ACCEPT, ContentType.SIGNAL):
        raise DisclosureInvalid  # no receiver takes the one in a kind 4, and nobody records the other
    if content_type is ContentType.CLOSE:
        parse_close(data)
    return Disclosed(header=header, content_type=content_type, action=action, data=data, attachments=references)
