"""The KNOCK: who asks, what for, sealed and signed (docs/protocol.md, section 5).

    knock body = msgpack [inner, Ed25519(A, [knock] || len32(header) || header || inner)]
    inner      = msgpack [A, bundle_ref, EK, ct, expires, seal(intent key, am1-intent, header, pad(content))]
    content    = msgpack [[action, capabilities, detail], early payload or nil, fresh]

The signature binds the whole of it to the outer header, so that no intent can be grafted onto other keys. What a
receiver checks, and in which order, is in `agentmesh.engine.gate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, final

from attrs import frozen

from agentmesh.errors import ArgumentInvalid, DecryptionFailed, KnockUnopened, Malformed, TooLarge
from agentmesh.handshake.agreement import Initiation
from agentmesh.identity import Identity, IdentityKey, signed_part
from agentmesh.limits import ACTION_MAX_BYTES, CAPABILITY_MAX_BYTES, Limits
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import INTENT, SIGN_KNOCK
from agentmesh.primitives.aead import OVERHEAD_BYTES, open_sealed, seal
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless, text_argument, texts_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import (
    BundleRef,
    Ed25519PublicKey,
    IntentKey,
    KemCiphertext,
    Redacted,
    Signature,
    X25519PublicKey,
)
from agentmesh.primitives.padding import pad, padded_length, unpad

_DESCRIPTION_MAX_BYTES: Final = 2**32 - 1  # `Limits` says what may be sent; this, what could be encoded
_SEALED_MIN_BYTES: Final = OVERHEAD_BYTES + padded_length(1)


@final
@frozen(init=False, repr=False)
class Intent:
    """What the initiator wants. Sealed: only the recipient reads it. It prints nothing of itself.

    A received intent is text that a peer chose: escape it before you show it, and never give it to a model as
    instructions.

    Attributes:
        action: What is asked for, 1 to 128 bytes of UTF-8. The session's data messages carry it unless they name
            another.
        capabilities: What the initiator says it can do; at most 64 of at most 128 bytes.
        detail: Anything more, as bytes.
    """

    action: str
    capabilities: tuple[str, ...]
    detail: bytes

    @frameless
    def __init__(
        self,
        action: str,
        *,
        capabilities: Iterable[str] = (),
        description: str | None = None,
        detail: BytesLike | None = None,
    ) -> None:
        """Make an intent. `description` is a text for `detail`; give one of them or neither.

        Raises:
            ArgumentInvalid: a wrong type or length, or both `description` and `detail`. Neither the error nor its
                traceback holds them.
        """
        if description is not None:
            if detail is not None:
                raise ArgumentInvalid("detail", "description says the same: give one of them")
            detail = text_argument("description", description, 0, _DESCRIPTION_MAX_BYTES).encode()
        self.__attrs_init__(
            text_argument("action", action, 1, ACTION_MAX_BYTES),
            texts_argument("capabilities", capabilities, 0, CAPABILITY_MAX_BYTES),
            b"" if detail is None else bytes_argument("detail", detail),
        )

    @property
    def description(self) -> str | None:
        """The detail as text, or `None` where it is not UTF-8."""
        try:
            return self.detail.decode()
        except UnicodeDecodeError:
            return None

    def __repr__(self) -> str:
        return "Intent(<redacted>)"


@frozen(kw_only=True, repr=False)
class KnockContent:
    """What a KNOCK says to its recipient alone. It prints nothing of itself.

    Attributes:
        intent: What the initiator wants.
        early_payload: Data released to the application only if the KNOCK is accepted, or `None`.
        fresh: The initiator says that it holds no older session that it began with this recipient (section 7).
    """

    intent: Intent
    early_payload: bytes | None
    fresh: bool

    def __repr__(self) -> str:
        return "KnockContent(<redacted>)"


@lru_cache(maxsize=16)  # by limits, of which a process has few
def _content_layout(capabilities_max: int, detail_max_bytes: int, plaintext_max_bytes: int) -> _wire.Array:
    return _wire.array(
        _wire.array(
            _wire.Text(1, ACTION_MAX_BYTES),
            _wire.ArrayOf(_wire.Text(0, CAPABILITY_MAX_BYTES), capabilities_max),
            _wire.Bin(0, detail_max_bytes),
        ),
        _wire.Maybe(_wire.Bin(0, plaintext_max_bytes)),
        _wire.Uint(1),
    )


@lru_cache(maxsize=16)
def _inner_layout(envelope_max_bytes: int) -> _wire.Array:
    return _wire.array(
        _wire.Bin(32),
        _wire.Bin(32),
        _wire.Bin(32),
        _wire.Bin(_crypto.KEM_CIPHERTEXT_BYTES),
        _wire.Uint(),
        _wire.Bin(_SEALED_MIN_BYTES, envelope_max_bytes),
    )


@frameless
def encode_content(content: KnockContent, limits: Limits) -> bytes:
    """Return the canonical encoding of a KNOCK's content.

    Raises:
        ArgumentInvalid: over a limit of the sender's own, which a receiver's will usually equal.
    """
    intent, early_payload = content.intent, content.early_payload
    for argument, got, most in (
        ("intent", len(intent.capabilities), limits.capabilities_max),
        ("intent", len(intent.detail), limits.intent_detail_max_bytes),
        ("early_payload", 0 if early_payload is None else len(early_payload), limits.plaintext_max_bytes),
    ):
        if got > most:
            raise ArgumentInvalid(argument, "over the limit", got, most)
    return _wire.encode([[intent.action, list(intent.capabilities), intent.detail], early_payload, int(content.fresh)])


@frameless
def decode_content(data: bytes, limits: Limits) -> KnockContent:
    """Return the content that `encode_content` wrote.

    Raises:
        TooLarge, Malformed: another shape, or over a limit.
    """
    layout = _content_layout(limits.capabilities_max, limits.intent_detail_max_bytes, limits.plaintext_max_bytes)
    fields = _wire.decode(data, layout, limits.envelope_max_bytes)
    (action, capabilities, detail), early_payload, fresh = fields
    intent = Intent.__new__(Intent)
    intent.__attrs_init__(action, tuple(capabilities), detail)  # the layout has checked what the constructor checks
    return KnockContent(intent=intent, early_payload=early_payload, fresh=bool(fresh))


def build_knock_body(
    identity: Identity,
    initiation: Initiation,
    *,
    bundle_ref: BundleRef,
    expires_ms: int,
    header_bytes: bytes,
    content: bytes,
    entropy: Entropy,
) -> bytes:
    """Return the body of a KNOCK envelope around `content`, the result of `encode_content`. Section 5."""
    sealed = seal(initiation.keys.intent_key, INTENT, header_bytes, pad(content), entropy.token(_crypto.NONCE_BYTES))
    inner = _wire.encode(
        [identity.key.raw, bundle_ref, initiation.ephemeral, initiation.kem_ciphertext, expires_ms, sealed]
    )
    return _wire.encode([inner, identity.sign(SIGN_KNOCK, signed_part(header_bytes, inner))])


@final
class ParsedKnock(Redacted):
    """A KNOCK's body, parsed and nothing more: no signature has been checked and nothing opened.

    Attributes:
        claimed_key: The identity key that it claims, 32 bytes.
        bundle_ref: The bundle that it names.
        ephemeral: EK.
        kem_ciphertext: 1088 bytes.
        expires_ms: When it expires.
        sealed: The sealed content.
    """

    __slots__ = (
        "_inner",
        "_signature",
        "bundle_ref",
        "claimed_key",
        "ephemeral",
        "expires_ms",
        "kem_ciphertext",
        "sealed",
    )

    def __init__(self, inner: bytes, signature: Signature, fields: list[Any]) -> None:
        self._inner = inner
        self._signature = signature
        self.claimed_key: Ed25519PublicKey = Ed25519PublicKey(fields[0])
        self.bundle_ref: BundleRef = BundleRef(fields[1])
        self.ephemeral: X25519PublicKey = X25519PublicKey(fields[2])
        self.kem_ciphertext: KemCiphertext = KemCiphertext(fields[3])
        self.expires_ms: int = fields[4]
        self.sealed: bytes = fields[5]

    def verify(self, initiator: IdentityKey, header_bytes: bytes) -> None:
        """Verify the initiator's signature over header and inner, as received.

        Raises:
            BadSignature: it does not verify.
        """
        initiator.verify(SIGN_KNOCK, signed_part(header_bytes, self._inner), self._signature)

    def open_content(self, intent_key: IntentKey, header_bytes: bytes, limits: Limits) -> KnockContent:
        """Open and parse the sealed content.

        Raises:
            KnockUnopened: wrong keys, altered bytes, bad padding or another shape: one error for all of them.
        """
        try:
            clear = unpad(open_sealed(intent_key, INTENT, header_bytes, self.sealed))
            return decode_content(clear, limits)
        except (DecryptionFailed, Malformed, TooLarge):
            pass
        raise KnockUnopened


def parse_knock_body(body: bytes, limits: Limits) -> ParsedKnock:
    """Return the parts of a KNOCK's body.

    Raises:
        TooLarge, Malformed: not the canonical encoding of one.
    """
    most = limits.envelope_max_bytes
    inner, signature = _wire.decode_pair(body, most)
    return ParsedKnock(inner, Signature(signature), _wire.decode(inner, _inner_layout(most), most))
