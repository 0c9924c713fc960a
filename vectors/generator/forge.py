"""KNOCKs from their parts, each of which can be another one, under a good signature or the old one."""

from __future__ import annotations

from typing import Any, Final

from attrs import evolve, frozen

from agentmesh.envelope import receipt_of
from agentmesh.identity import Identity, signed_part
from agentmesh.primitives._labels import INTENT, SIGN_KNOCK, SignatureLabel
from agentmesh.primitives.aead import seal
from agentmesh.primitives.padding import pad
from generator import wire
from generator.handshakes import derived
from generator.world import ALICE, BOB, EXPIRES_MS, MESH, NOW_MS, ONE_TIME, Stock, encapsulation, token

Json = dict[str, Any]

ACTION: Final = "summarise"
CAPABILITIES: Final = ("text/plain", "translate")
DETAIL: Final = b"the report of the third quarter"


def content(
    action: str = ACTION,
    capabilities: tuple[str, ...] = CAPABILITIES,
    detail: bytes = DETAIL,
    early_payload: bytes | None = None,
    fresh: int = 1,
) -> bytes:
    """Return the encoded content of a KNOCK."""
    intent = wire.array(
        wire.text(action.encode()),
        wire.array(*(wire.text(item.encode()) for item in capabilities)),
        wire.binary(detail),
    )
    return wire.array(intent, wire.NIL if early_payload is None else wire.binary(early_payload), wire.uint(fresh))


@frozen(kw_only=True)
class ForgedKnock:
    """A KNOCK in parts."""

    header_items: list[bytes]
    inner_items: list[bytes]
    signer: Identity
    values: Json
    content: bytes
    padded: bytes
    sealed: bytes

    @property
    def header(self) -> bytes:
        """The encoded outer header."""
        return wire.array(*self.header_items)

    @property
    def inner(self) -> bytes:
        """The encoded inner part."""
        return wire.array(*self.inner_items)

    def signature(self, label: SignatureLabel = SIGN_KNOCK) -> bytes:
        """Return the signer's signature over header and inner part."""
        return self.signer.sign(label, signed_part(self.header, self.inner))

    @property
    def envelope(self) -> bytes:
        """The envelope, with a good signature."""
        return self.signed_with(self.signature())

    @property
    def receipt(self) -> bytes:
        """The receipt of the envelope."""
        return receipt_of(self.envelope)

    def signed_with(self, signature: bytes) -> bytes:
        """Return the envelope under this signature."""
        return self.around(self.inner, signature)

    def around(self, inner: bytes, signature: bytes | None = None) -> bytes:
        """Return the envelope around another inner part; it is signed for where no signature is given."""
        good = self.signer.sign(SIGN_KNOCK, signed_part(self.header, inner))
        body = wire.pair(inner, good if signature is None else signature)
        return wire.pair(self.header, body)

    def with_header(self, index: int, item: bytes) -> ForgedKnock:
        """Return it with another field in its header; nothing is sealed again."""
        return evolve(self, header_items=wire.replaced(self.header_items, index, item))

    def with_inner(self, index: int, item: bytes) -> ForgedKnock:
        """Return it with another field in its inner part."""
        return evolve(self, inner_items=wire.replaced(self.inner_items, index, item))

    def keys(self) -> Json:
        """Return the keys on the way, and the content: what its receiver derives."""
        return {key: value for key, value in self.values.items() if key != "list"} | {"content": self.content.hex()}

    def intermediate(self) -> Json:
        """Return every value on the way."""
        return {
            **self.values,
            "header": self.header.hex(),
            "content": self.content.hex(),
            "padded": self.padded.hex(),
            "sealed": self.sealed.hex(),
            "inner": self.inner.hex(),
            "signature": self.signature().hex(),
        }


def knock(
    stock: Stock = ONE_TIME,
    *,
    index: int = 0,
    number: int | None = None,
    who: Identity = ALICE,
    time_ms: int = NOW_MS,
    expires_ms: int = EXPIRES_MS,
    inside: bytes | None = None,
    padded: bytes | None = None,
) -> ForgedKnock:
    """Return a KNOCK of `who` at Bob.

    Args:
        stock: The bundle.
        index: Which recorded encapsulation it uses.
        number: Which ephemeral key, where it is not that of `index`.
        who: Who knocks.
        time_ms: The header's time.
        expires_ms: When it expires.
        inside: The encoded content, if it is not the usual one.
        padded: What is sealed, if it is not the content in good padding.
    """
    ephemeral_secret = token(f"alice/ephemeral/{index if number is None else number}")
    values = derived(stock, who, ephemeral_secret, index, expires_ms=expires_ms)
    header_items = [
        wire.uint(1),
        wire.uint(1),
        wire.text(MESH.encode()),
        wire.text(who.did.encode()),
        wire.text(BOB.did.encode()),
        wire.uint(time_ms),
    ]
    inside = content() if inside is None else inside
    padded = pad(inside) if padded is None else padded
    header = wire.array(*header_items)
    sealed = seal(bytes.fromhex(values["intent_key"]), INTENT, header, padded, token("alice/knock/nonce", 24))
    inner_items = [
        wire.binary(who.key.raw),
        wire.binary(stock.published.ref),
        wire.binary(bytes.fromhex(values["ephemeral"])),
        wire.binary(encapsulation(stock, index)[0]),
        wire.uint(expires_ms),
        wire.binary(sealed),
    ]
    return ForgedKnock(
        header_items=header_items,
        inner_items=inner_items,
        signer=who,
        values=values,
        content=inside,
        padded=padded,
        sealed=sealed,
    )
