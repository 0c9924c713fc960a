"""The keys on the way: a suite that works as the library's and notes what each step derives."""

from __future__ import annotations

from typing import Any, Final
from unittest import mock

from attrs import evolve
from runner.values import Draws

from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import MESSAGE
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.needs import RatchetHeader
from agentmesh.session.suite import SUITE, Frame
from generator.world import token

Json = dict[str, Any]

_events: Json = {}
_chains: dict[MessageKey, tuple[ChainKey, ChainKey]] = {}


def begin() -> None:
    """Forget what was noted: a step begins."""
    _events.clear()
    _chains.clear()


def events() -> Json:
    """Return what the step derived, in the order in which it did."""
    return dict(_events)


def _key_pair(entropy: Entropy) -> tuple[X25519Secret, X25519PublicKey]:
    secret, public = SUITE.key_pair(entropy)
    _events["ratchet_public"] = public.hex()
    return secret, public


def _dh(secret: X25519Secret, public: X25519PublicKey) -> bytes:
    shared = SUITE.dh(secret, public)
    _events["dh_sending" if "ratchet_public" in _events else "dh_receiving"] = shared.hex()
    return shared


def _kdf_root(root: RootKey, shared: bytes) -> tuple[RootKey, ChainKey, HeaderKey]:
    derived = SUITE.kdf_root(root, shared)
    names = ("rk", "cks", "nhks") if "ratchet_public" in _events else ("rk_between", "ckr", "nhkr")
    if len(shared) > _crypto.KEY_BYTES:
        _events["mixed_sending" if "ratchet_public" in _events else "mixed_receiving"] = shared[
            _crypto.KEY_BYTES :
        ].hex()
    _events.update({name: value.hex() for name, value in zip(names, derived, strict=True)})
    return derived


def _kdf_chain(chain_key: ChainKey) -> tuple[ChainKey, MessageKey]:
    after, message_key = SUITE.kdf_chain(chain_key)
    _chains[message_key] = (chain_key, after)
    return after, message_key


def _message_keys(message_key: MessageKey, nonce: bytes, sealed_header: bytes, context: bytes) -> Json:
    derived = _crypto.kdf(message_key, MESSAGE, nonce + sealed_header + context, 64)
    return {"mk": message_key.hex(), "bk": derived[:32].hex(), "kc": derived[32:].hex()}


def _clear(header: RatchetHeader) -> bytes:
    key, *numbers = header
    return key + b"".join(number.to_bytes(4, "big") for number in numbers)


def _seal(
    header_key: HeaderKey, message_key: MessageKey, header: RatchetHeader, context: bytes, padded: bytes, nonce: bytes
) -> tuple[bytes, ...]:
    parts = SUITE.seal(header_key, message_key, header, context, padded, nonce)
    chain_key, after = _chains[message_key]
    noted = {
        "hk": header_key.hex(),
        "ratchet_header": _clear(header).hex(),
        "ck": chain_key.hex(),
        "ck_next": after.hex(),
        **_message_keys(message_key, nonce, parts[0][len(nonce) :], context),
        "box_content": padded.hex(),
    }
    if "ratchet_header" in _events:  # a close is answered in the step that opens it
        _events["answer"] = noted
    else:
        _events.update(noted)
    return parts


def _open_header(header_key: HeaderKey, frame: Frame) -> RatchetHeader | None:
    header = SUITE.open_header(header_key, frame)
    if header is not None:
        _events.update({"hk": header_key.hex(), "ratchet_header": _clear(header).hex()})
    return header


def _open_body(message_key: MessageKey, frame: Frame, context: bytes) -> bytes:
    if message_key in _chains:
        chain_key, after = _chains[message_key]
        _events.update({"ck": chain_key.hex(), "ck_next": after.hex()})
    (nonce, sealed_header, _), _, _ = frame
    _events.update(_message_keys(message_key, nonce, sealed_header, context))
    padded = SUITE.open_body(message_key, frame, context)
    _events["box_content"] = padded.hex()
    return padded


TRACED: Final = evolve(
    SUITE,
    key_pair=_key_pair,
    dh=_dh,
    kdf_root=_kdf_root,
    kdf_chain=_kdf_chain,
    seal=_seal,
    open_header=_open_header,
    open_body=_open_body,
)


def install() -> None:
    """Have every ratchet that is made or restored from now on note what it derives."""
    for module in ("agentmesh.session.pending", "agentmesh.session.ratchet_export", "agentmesh.engine.knocking"):
        mock.patch(f"{module}.SUITE", TRACED).start()


class Recorder(Draws):
    """Randomness that derives what a step lacks by the scenario's name, and writes it into the step."""

    def __init__(self, scenario: str) -> None:
        super().__init__()
        self._scenario = scenario
        self._count = 0

    def draw(self, values: Json, name: str, size: int) -> bytes:
        """Return the next value, which the step then gives."""
        if name in values:
            raise LookupError(f"{self._scenario}: a step draws {name} twice")
        self._count += 1
        value = token(f"{self._scenario}/{self._count}", size)
        values[name] = value.hex()
        return value
