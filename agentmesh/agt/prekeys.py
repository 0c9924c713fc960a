"""This agent's prekeys: secrets that a KNOCK may name, kept until they have served (docs/agt.md, section 4).

A KNOCK names its one-time prekey by number, and its signed prekey not at all. So of signed prekeys the present one and
the one before it are kept, and a KNOCK is tried on both. Numbers go up for the agent's whole life, over restarts too:
used again for another key, a KNOCK that lay at the relay would be answered with the wrong one.
"""

from __future__ import annotations

from typing import Any, Final, final

from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import PrekeySecret, Redacted, X25519PublicKey, X25519Secret

SIGNED_KEPT: Final = 2  # the present one, and the one that bundles fetched before the change still name
NUMBER_MAX: Final = 2**32 - 1


@final
class Prekey(Redacted):
    """A prekey of this agent, never changed.

    Attributes:
        is_signed: A signed prekey; a one-time prekey otherwise.
        number: Its id at the registry, from 0 on.
        made_ms: When it was made.
        secret: Its X25519 secret.
        public: Its public half, 32 bytes.
    """

    __slots__ = ("is_signed", "made_ms", "number", "public", "secret")

    def __init__(self, secret: PrekeySecret, *, is_signed: bool, number: int, made_ms: int) -> None:
        self.is_signed: bool = is_signed
        self.number: int = number
        self.made_ms: int = made_ms
        self.secret: PrekeySecret = secret
        self.public: X25519PublicKey = X25519PublicKey(_crypto.x25519_public(secret.reveal()))

    @property
    def name(self) -> bytes:
        """What it is found by: its kind, and its number."""
        return prekey_name(self.number, is_signed=self.is_signed)

    @property
    def dh_secret(self) -> X25519Secret:
        """Its secret, for one agreement."""
        return X25519Secret(self.secret.reveal())


def prekey_name(number: int, *, is_signed: bool) -> bytes:
    """Return what a prekey is found by, 5 bytes."""
    return (b"s" if is_signed else b"o") + number.to_bytes(4, "big")


def new_prekey(entropy: Entropy, number: int, now_ms: int, *, is_signed: bool) -> Prekey:
    """Return a fresh prekey."""
    return Prekey(PrekeySecret(entropy.token(32)), is_signed=is_signed, number=number, made_ms=now_ms)


# --- at rest ---------------------------------------------------------------------------------------------------------

PREKEY: Final = _wire.array(_wire.Uint(1), _wire.Uint(NUMBER_MAX), _wire.Uint(), _wire.Bin(32))


def prekey_fields(prekey: Prekey) -> list[Any]:
    """Return what `PREKEY` lays out: secret."""
    return [int(prekey.is_signed), prekey.number, prekey.made_ms, prekey.secret.reveal()]


def restore_prekey(fields: list[Any]) -> Prekey:
    """Return the prekey of these fields."""
    is_signed, number, made_ms, secret = fields
    return Prekey(PrekeySecret(secret), is_signed=bool(is_signed), number=number, made_ms=made_ms)
