"""Disclosure of one attachment, without the message that named it or any other (docs/protocol.md, section 8.4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import ClassVar, Final, ParamSpec, TypeVar, final

from agentmesh.attachments.opening import AttachmentOpener
from agentmesh.attachments.reference import RECEIPT_BYTES, Attachment
from agentmesh.errors import AgentMeshError, ArgumentInvalid, DisclosureInvalid
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import bytes_argument, frameless, limits_argument, uint_argument
from agentmesh.primitives.keys import AttachmentKey, Receipt, Secret

_SIZES: Final = Struct(">QB")  # size, exponent
_P = ParamSpec("_P")
_R = TypeVar("_R")


@final
class AttachmentDisclosure(Secret):
    """What discloses one attachment, and nothing else: key (32) || size (8) || chunk exponent (1). Section 8.4.

    `reveal()` gives the 41 bytes to hand to an auditor, and `AttachmentDisclosure(...)` takes them back. Whoever has
    them and the blob has the file: keep them as you would keep the file.
    """

    __slots__ = ()
    size: ClassVar[int] = _crypto.KEY_BYTES + _SIZES.size

    @classmethod
    def of(cls, attachment: Attachment) -> AttachmentDisclosure:
        """Return what discloses an attachment; name, type and address are not in it.

        Raises:
            ArgumentInvalid: not an `Attachment`.
        """
        if not isinstance(attachment, Attachment):
            raise ArgumentInvalid("attachment", "not an Attachment")
        return cls(attachment.key.reveal() + _SIZES.pack(attachment.size, attachment.chunk_exponent))

    def attachment(self, receipt: Receipt) -> Attachment:
        """Return the attachment that has this receipt, if it is the right one; without name, type and address.

        Raises:
            ArgumentInvalid: no receipt, or sizes that no attachment has.
        """
        size, exponent = _SIZES.unpack_from(self._value, _crypto.KEY_BYTES)
        key = AttachmentKey(self._value[: _crypto.KEY_BYTES])
        return Attachment(key=key, size=size, chunk_exponent=exponent, receipt=receipt)


@frameless
def verify_attachment(
    disclosure: AttachmentDisclosure,
    fetch: Callable[[int, int], bytes],
    *,
    receipt: Receipt,
    size_bytes: int,
    limits: Limits | None = None,
) -> Attachment:
    """Return the attachment that a disclosure opens, once every chunk of its blob has been opened under it.

    With what is returned the file can be read, from this blob or from any other copy. It takes one chunk of memory, and
    the index.

    Args:
        disclosure: Key and sizes.
        fetch: Given (offset, length), the bytes of the blob that stand there. What it raises comes through.
        receipt: That of the record, from a log that was verified.
        size_bytes: That of the record: bytes of the blob.
        limits: For the size of the data.

    Raises:
        ArgumentInvalid: an argument of another type.
        DisclosureInvalid: disclosure, record and blob do not belong together.
    """
    if not isinstance(disclosure, AttachmentDisclosure):
        raise ArgumentInvalid("disclosure", "not an AttachmentDisclosure")
    if not callable(fetch):
        raise ArgumentInvalid("fetch", "not callable")
    receipt = Receipt(bytes_argument("receipt", receipt, RECEIPT_BYTES, RECEIPT_BYTES))
    uint_argument("size_bytes", size_bytes)
    limits = limits_argument(limits)
    attachment = _proved(disclosure.attachment, receipt)
    if attachment.blob_bytes != size_bytes:
        raise DisclosureInvalid
    opener = _proved(partial(AttachmentOpener, limits=limits), attachment)
    _proved(opener.take_tail, fetch(*opener.tail_range))
    for number in range(attachment.layout.last):
        _proved(opener.open, number, fetch(*opener.range_of(number)))
    return attachment


def _proved(step: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Return what a step returns, with one error for all that can be wrong in it; `fetch` is outside of it."""
    try:
        return step(*args, **kwargs)
    except AgentMeshError:
        pass
    del args, kwargs  # a traceback keeps this frame
    raise DisclosureInvalid
