"""Run by the environment of the referees: PyPI's X3DH and DoubleRatchet, with the parameters of AGT's protocol.

JSON lines in, JSON lines out; bytes are hex. Nothing of this project is imported here. What they would draw at random
and can be told is told by the request: nonces and ratchet keys. The ephemeral key and the prekeys of X3DH are drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from typing import Any

import doubleratchet
import x3dh
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from doubleratchet.recommended import (
    HashFunction,
    diffie_hellman_ratchet_curve25519,
    kdf_hkdf,
    kdf_separate_hmacs,
)
from x3dh.identity_key_pair import IdentityKeyPairSeed

TOLD: dict[str, bytes] = {}


class Aead(doubleratchet.AEAD):
    @staticmethod
    async def encrypt(plaintext: bytes, key: bytes, associated_data: bytes) -> bytes:
        nonce = TOLD.pop("nonce")
        return nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated_data)

    @staticmethod
    async def decrypt(ciphertext: bytes, key: bytes, associated_data: bytes) -> bytes:
        try:
            return ChaCha20Poly1305(key).decrypt(ciphertext[:12], ciphertext[12:], associated_data)
        except InvalidTag as error:
            raise doubleratchet.aead.AuthenticationFailedException from error


class RootKdf(kdf_hkdf.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"AgentMesh_Ratchet_v1"


class ChainKdf(kdf_separate_hmacs.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256


class DiffieHellman(diffie_hellman_ratchet_curve25519.DiffieHellmanRatchet):
    @staticmethod
    def _generate_priv() -> bytes:
        return TOLD["fresh"]


class Ratchet(doubleratchet.DoubleRatchet):
    @staticmethod
    def _build_associated_data(associated_data: bytes, header: doubleratchet.Header) -> bytes:
        counts = (header.previous_sending_chain_length, header.sending_chain_length)
        return associated_data + header.ratchet_pub + b"".join(count.to_bytes(4, "big") for count in counts)


class Person(x3dh.BaseState):
    @staticmethod
    def _encode_public_key(key_format: x3dh.IdentityKeyFormat, pub: bytes) -> bytes:
        return pub


SETTINGS: dict[str, Any] = {
    "diffie_hellman_ratchet_class": DiffieHellman,
    "root_chain_kdf": RootKdf,
    "message_chain_kdf": ChainKdf,
    "message_chain_constant": b"\x02\x01",  # the chain's next key comes first
    "dos_protection_threshold": 1000,
    "max_num_skipped_message_keys": 2000,
    "aead": Aead,
}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waited")


def message_of(data: bytes) -> doubleratchet.EncryptedMessage:
    counts = [int.from_bytes(data[at : at + 4], "big") for at in (32, 36)]
    return doubleratchet.EncryptedMessage(doubleratchet.Header(data[:32], *counts), data[40:])


def bytes_of(message: doubleratchet.EncryptedMessage) -> bytes:
    key, previous, n = message.header
    return key + previous.to_bytes(4, "big") + n.to_bytes(4, "big") + message.ciphertext


class Referee:
    """One person of X3DH, and one ratchet."""

    # --- X3DH ---

    def do_person(self, seed: bytes, one_time: int) -> dict[str, Any]:
        pair = IdentityKeyPairSeed(seed)
        form, info = x3dh.IdentityKeyFormat.ED_25519, b"AgentMesh_X3DH_v1"
        self._person = Person.create(form, x3dh.HashFunction.SHA_256, info, pair)
        self._person.generate_pre_keys(one_time)
        bundle = self._person.bundle
        return {
            "identity": bundle.identity_key,
            "signed": bundle.signed_pre_key,
            "signature": bundle.signed_pre_key_sig,
            "one_time": next(iter(bundle.pre_keys), None),
        }

    def do_initiate(self, identity: bytes, signed: bytes, signature: bytes, one_time: bytes | None) -> dict[str, Any]:
        bundle = x3dh.Bundle(identity, signed, signature, frozenset(() if one_time is None else (one_time,)))
        secret, _, header = run(self._person.get_shared_secret_active(bundle, require_pre_key=False))
        return {"secret": secret, "ephemeral": header.ephemeral_key, "one_time": header.pre_key}

    def do_respond(self, identity: bytes, ephemeral: bytes, signed: bytes, one_time: bytes | None) -> dict[str, Any]:
        header = x3dh.Header(identity, ephemeral, signed, one_time)
        return {"secret": run(self._person.get_shared_secret_passive(header, require_pre_key=False))[0]}

    # --- the ratchet ---

    def do_first_out(self, secret: bytes, signed: bytes, plaintext: bytes, context: bytes) -> dict[str, Any]:
        self._ratchet, message = run(
            Ratchet.encrypt_initial_message(
                **SETTINGS,
                shared_secret=secret,
                recipient_ratchet_pub=signed,
                message=plaintext,
                associated_data=context,
            )
        )
        return {"message": bytes_of(message)}

    def do_first_in(self, secret: bytes, signed_secret: bytes, message: bytes, context: bytes) -> dict[str, Any]:
        self._ratchet, plaintext = run(
            Ratchet.decrypt_initial_message(
                **SETTINGS,
                shared_secret=secret,
                own_ratchet_priv=signed_secret,
                message=message_of(message),
                associated_data=context,
            )
        )
        return {"plaintext": plaintext}

    def do_seal(self, plaintext: bytes, context: bytes) -> dict[str, Any]:
        return {"message": bytes_of(run(self._ratchet.encrypt_message(plaintext, context)))}

    def do_open(self, message: bytes, context: bytes) -> dict[str, Any]:
        refused = (
            doubleratchet.aead.AuthenticationFailedException,
            doubleratchet.DuplicateMessageException,
            doubleratchet.DoSProtectionException,
        )
        try:
            return {"plaintext": run(self._ratchet.decrypt_message(message_of(message), context))}
        except refused:
            return {"plaintext": None}

    def do_state(self) -> dict[str, Any]:
        model = self._ratchet.model
        inner = model.diffie_hellman_ratchet
        chains = inner.symmetric_key_ratchet
        return {
            "secret": inner.own_ratchet_priv,
            "peer": inner.other_ratchet_pub,
            "root": inner.root_chain.key,
            "sending": chains.sending_chain.key,
            "receiving": None if chains.receiving_chain is None else chains.receiving_chain.key,
            "skipped": b"".join(sorted(key.message_key for key in model.skipped_message_keys)),
        }


referee = Referee()
for line in sys.stdin:
    request = json.loads(line)
    do = getattr(referee, f"do_{request.pop('do')}")
    arguments = {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in request.items()}
    TOLD |= {name: arguments.pop(name) for name in ("nonce", "fresh") if name in arguments}
    try:
        answer = {name: value.hex() if isinstance(value, bytes) else value for name, value in do(**arguments).items()}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
