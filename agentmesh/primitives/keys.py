"""Key types: what may be shown, and what must never be.

Long-lived secrets are wrapped (`Secret`); public values that are 32 bytes long have a type each, so that a bundle_ref
can not stand where a receipt belongs. Keys that live inside one call (message, chain and box keys) are plain bytes
under a `NewType`: a wrapper would cost more than the cryptography it guards.
"""

from __future__ import annotations

from typing import Any, ClassVar, NewType, NoReturn, final

from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless

# Public values, all bytes. Each names one thing.
Ed25519PublicKey = NewType("Ed25519PublicKey", bytes)  # 32
X25519PublicKey = NewType("X25519PublicKey", bytes)  # 32
KemPublicKey = NewType("KemPublicKey", bytes)  # 1184
KemCiphertext = NewType("KemCiphertext", bytes)  # 1088
Signature = NewType("Signature", bytes)  # 64
BundleRef = NewType("BundleRef", bytes)  # 32
Receipt = NewType("Receipt", bytes)  # 32
SessionId = NewType("SessionId", bytes)  # 16
TranscriptHash = NewType("TranscriptHash", bytes)  # 64

# Secrets that live inside one call, or in a state object that redacts itself.
RootKey = NewType("RootKey", bytes)  # 32
ChainKey = NewType("ChainKey", bytes)  # 32
MessageKey = NewType("MessageKey", bytes)  # 32
HeaderKey = NewType("HeaderKey", bytes)  # 32
IntentKey = NewType("IntentKey", bytes)  # 32
X25519Secret = NewType("X25519Secret", bytes)  # 32


class Redacted:
    """A base for whatever holds secrets: it prints nothing of them, and is neither copied nor pickled by accident.

    Subclasses have slots, so that `vars()` finds nothing.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets and is not picklable; use the export methods")

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets and is not copyable; use the export methods")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets and is not copyable; use the export methods")


class Secret(Redacted):
    """A long-lived secret byte string.

    Equality is constant-time; there is no hash, no length, no order. `reveal()` is the one way to the bytes, so that
    every use can be found by its name. Python cannot promise to wipe memory: keep lifetimes short.
    """

    __slots__ = ("_value",)
    size: ClassVar[int] = 32

    @frameless
    def __init__(self, value: BytesLike) -> None:
        """Wrap `value`, exactly `size` bytes; what is bytes-like is copied, and its owner may wipe it.

        Raises:
            ArgumentInvalid: another type or length. Neither the error nor its traceback holds the value.
        """
        self._value = bytes_argument("value", value, self.size, self.size)

    def reveal(self) -> bytes:
        """Return the secret bytes. Never log, print or compare them with `==`."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _crypto.constant_time_equal(self._value, other._value)

    __hash__: Any = None


@final
class IdentitySeed(Secret):
    """The 32-byte seed of an Ed25519 identity (RFC 8032, section 5.1.5): whoever has it is that agent."""

    __slots__ = ()


@final
class PrekeySecret(Secret):
    """The X25519 secret of a published prekey, 32 bytes."""

    __slots__ = ()


@final
class KemSeed(Secret):
    """The seed d || z of an ML-KEM-768 key pair, 64 bytes (FIPS 203, section 7.1)."""

    __slots__ = ()
    size: ClassVar[int] = _crypto.KEM_SEED_BYTES


@final
class DisclosureKey(Secret):
    """The message key of one message, 32 bytes: it opens that one message and no other (section 8.1)."""

    __slots__ = ()


@final
class Disclosure(Secret):
    """What discloses one message and no other: th (64) || message key (32). Section 8.1.

    `reveal()` gives the 96 bytes to hand to an auditor, and `Disclosure(...)` takes them back. Whoever has them and the
    envelope reads the message: keep them as you would keep the message.
    """

    __slots__ = ()
    size = 96

    @property
    def th(self) -> TranscriptHash:
        """The session's transcript hash; not secret."""
        return TranscriptHash(self._value[:64])

    @property
    def key(self) -> DisclosureKey:
        """The message key."""
        return DisclosureKey(self._value[64:])


@final
class AttachmentKey(Secret):
    """The key of one attachment, 32 bytes: whoever has it and the blob has the content (section 6.6)."""

    __slots__ = ()
