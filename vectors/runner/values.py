"""What vectors are written in: hex strings, names of labels, conditions, limits, and randomness by name."""

from __future__ import annotations

from typing import Any

from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KDF_LABELS, SIGNATURE_LABELS, KdfLabel, SignatureLabel

Json = dict[str, Any]

SIGNATURE_NAMES = {label[len(b"agentmesh/v1/") : -1].decode(): label for label in SIGNATURE_LABELS}
HASHED = ("receipt", "attachment")  # what is not signed, but hashed, under such a label
_KDF_LABELS = {label.decode(): label for label in KDF_LABELS}


def unhex(value: str) -> bytes:
    """Return the bytes of a hex string."""
    return bytes.fromhex(value)


def unhex_or_none(value: str | None) -> bytes | None:
    """Return the bytes of a hex string, or `None`."""
    return None if value is None else bytes.fromhex(value)


def hex_or_none(value: bytes | None) -> str | None:
    """Return bytes as a hex string, or `None`."""
    return None if value is None else value.hex()


def signature_label(name: str) -> SignatureLabel:
    """Return the label of this name: `bundle` gives `agentmesh/v1/bundle` and a zero byte."""
    return SIGNATURE_NAMES[name]


def kdf_label(name: str) -> KdfLabel:
    """Return the KDF label of this name."""
    return _KDF_LABELS[name]


def identity_of(given: Json, name: str = "identity_seed") -> Identity:
    """Return the identity of a seed in a vector's input."""
    return Identity.from_seed(unhex(given[name]))


def limits_of(given: Json) -> Limits:
    """Return the limits that a vector sets, the defaults for those that it does not."""
    return Limits(**given.get("limits", {}))


def conditions_of(fields: Json) -> Conditions:
    """Return the conditions of a JSON object with their three fields."""
    return Conditions(**fields)


def conditions_json(conditions: Conditions) -> Json:
    """Return conditions as a JSON object."""
    actions = conditions.allowed_actions
    return {
        "max_messages": conditions.max_messages,
        "ttl_seconds": conditions.ttl_seconds,
        "allowed_actions": None if actions is None else list(actions),
    }


# --- randomness ------------------------------------------------------------------------------------------------------


_DRAWN = {32: "ratchet_secret", _crypto.NONCE_BYTES: "nonce", _crypto.KEM_SEED_BYTES: "kem_seed"}


class Draws:
    """Randomness as a vector gives it: each draw is a named value of the input or of the step that is running."""

    def __init__(self) -> None:
        self._values: Json | None = None
        self._idle = 0

    def begin(self, values: Json) -> None:
        """Take draws from these values from now on."""
        self._values = values

    def token(self, size: int, /) -> bytes:
        """Return the value of the running step with this size."""
        if self._values is None:  # an agent tries its source before it uses it; those draws decide nothing
            self._idle += 1
            return _crypto.sha256(self._idle.to_bytes(4, "big"))[:size]
        return self.draw(self._values, _DRAWN[size], size)

    def draw(self, values: Json, name: str, _size: int) -> bytes:
        """Return the value of this name."""
        return unhex(values[name])

    def encapsulate(self, _public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return the encapsulation that the input gives."""
        if self._values is None:
            raise LookupError("no encapsulation outside a step")
        return unhex(self._values["kem_ciphertext"]), unhex(self._values["kem_shared_secret"])


class Script:
    """Randomness in the order in which one call draws it."""

    def __init__(self, given: Json, *names: str) -> None:
        self._given = given
        self._names = list(names)

    def token(self, size: int, /) -> bytes:
        """Return the next of the named values."""
        value = unhex(self._given[self._names.pop(0)])
        if len(value) != size:
            raise ValueError("a draw of another size")
        return value

    def encapsulate(self, _public_key: bytes, /) -> tuple[bytes, bytes]:
        """Return the encapsulation that the input gives."""
        return unhex(self._given["kem_ciphertext"]), unhex(self._given["kem_shared_secret"])
