"""What leaves for a relay: one shape, an envelope with its receipt (docs/protocol.md, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from attrs import define, field, frozen

from agentmesh.envelope import receipt_of
from agentmesh.errors import BatchOpen, LocalError
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.primitives.keys import Disclosure, Receipt, SessionId

LABEL_MAX_BYTES: Final = 64  # the name of a row or a task fits; more belongs into a store of the application's own


def _size(value: bytes) -> str:
    return f"<{len(value)} bytes>"


def _hidden(value: object) -> str:
    return "None" if value is None else "<redacted>"


def _hex(value: bytes) -> str:
    return value.hex()


class Withholding:
    """What a batch may withhold until it is durable: to read it before raises `BatchOpen`."""

    __slots__ = ()
    withheld: ClassVar[tuple[str, ...]] = ()

    def can_read(self, name: str) -> bool:
        """Say whether an attribute is not withheld."""
        try:
            getattr(self, name)
        except BatchOpen:
            return False
        return True

    if not TYPE_CHECKING:  # a checker would take every name for one that is there

        def __getattr__(self, name: str) -> Any:
            if name in type(self).withheld:
                raise BatchOpen
            raise AttributeError(name)


@define(repr=False, unsafe_hash=True)
class Outgoing(Withholding):
    """An envelope to hand to a relay. Every call that makes one returns this, or one of the kinds below.

    Not frozen, because one is made for every message.

    Attributes:
        envelope: The bytes; `bytes(outgoing)` gives them too.
    """

    withheld: ClassVar[tuple[str, ...]] = ("envelope",)
    envelope: bytes = field(repr=_size)
    _receipt: Receipt | None = field(default=None, init=False, eq=False, repr=False)

    @property
    def receipt(self) -> Receipt:
        """The envelope's receipt, 32 bytes; computed when asked for, since it hashes the whole envelope."""
        receipt = self._receipt
        if receipt is None:
            receipt = receipt_of(self.envelope)
            object.__setattr__(self, "_receipt", receipt)  # some kinds are frozen
        return receipt

    def __bytes__(self) -> bytes:
        return self.envelope

    def __repr__(self) -> str:
        if not self.can_read("envelope"):
            return f"{type(self).__name__}(<withheld>)"
        return f"{type(self).__name__}(envelope={_size(self.envelope)}, receipt={self.receipt.hex()})"


@final
@frozen(repr=False, kw_only=True)
class Knock(Outgoing):
    """A KNOCK, and what became of the call.

    There may be no answer to it: a peer that is busy says nothing. Hand the same bytes to the relay again, and after a
    while knock on another bundle (docs/how-to/closing.md).

    Attributes:
        session_id: The pending session, 16 bytes.
        bundle_class: The class of the bundle that it was made on.
        early_payload_withheld: The early payload was *not* sent, because the bundle is a last-resort one and the caller
            did not ask for it with `early_with_last_resort`. Send it after the acceptance.
    """

    session_id: SessionId
    bundle_class: BundleClass
    early_payload_withheld: bool


@final
@frozen(repr=False, kw_only=True)
class Accepted(Outgoing):
    """An ACCEPT, and the session that it begins.

    Attributes:
        session_id: The session, 16 bytes.
        early_payload: The data that came with the KNOCK, now released, or `None`. Where the agent is reliable it is in
            the `inbox` too, as `SessionEstablished`, until that is done.
    """

    withheld: ClassVar[tuple[str, ...]] = ("envelope", "early_payload")
    session_id: SessionId
    early_payload: bytes | None = field(eq=False)


@final
@define(repr=False, unsafe_hash=True)
class Sealed(Outgoing):
    """A data message or a close.

    Attributes:
        number: The index of a data message: 1 for the first of this side, an early payload included. Of a close one
            more than the last index; of a signal 0.
        disclosure: Discloses this one message; only where it was asked for.
    """

    number: int
    disclosure: Disclosure | None = field(default=None, eq=False)


@final
@frozen
class SentTo:
    """What became of one peer's message of `send_many`: it was sealed, or there is an error.

    Attributes:
        did: The peer.
        sealed: Its message, to hand to a relay.
        error: Why there is none: what `send` would have raised.
    """

    did: str
    sealed: Sealed | None
    error: LocalError | None


@final
@frozen(repr=False)
class SentMany(Withholding):
    """What `send_many` made: a message for each peer, or why there is none.

    Attributes:
        results: One for each peer, in the order in which they were named.
    """

    withheld: ClassVar[tuple[str, ...]] = ("results",)
    results: tuple[SentTo, ...]

    @property
    def failed(self) -> tuple[SentTo, ...]:
        """Those of them that have an error."""
        return tuple(one for one in self.results if one.error is not None)

    def __repr__(self) -> str:
        if not self.can_read("results"):
            return "SentMany(<withheld>)"
        return f"SentMany(<{len(self.results) - len(self.failed)} sealed>, <{len(self.failed)} failed>)"


@final
@frozen(kw_only=True)
class Tracked:
    """A data message that is, or was, kept in the outbox until its peer acknowledges it.

    Attributes:
        receipt: Its envelope's receipt.
        number: Its index, as of `Sealed`.
        label: What the application attached to know it by, 0 to 64 bytes. It stays on this side, and is not printed.
    """

    receipt: Receipt = field(repr=_hex)
    number: int
    label: bytes = field(repr=_hidden)
