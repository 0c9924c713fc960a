"""The operations that are one call each."""

from __future__ import annotations

from collections.abc import Callable

from agentmesh.envelope import Header, Kind, OuterEnvelope, build, receipt_of
from agentmesh.handshake.agreement import SessionKeys, initiate, respond, transcript_hash
from agentmesh.handshake.knock import Intent, KnockContent, build_knock_body, encode_content
from agentmesh.handshake.prekeys import BundleClass, BundleSecrets, issue_bundle, verify_bundle
from agentmesh.handshake.verdict import Reason, build_reject_body
from agentmesh.identity import DID_PREFIX, Identity, IdentityKey, did_of, parse_did
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.aead import open_sealed, seal
from agentmesh.primitives.base58 import base58_decode
from agentmesh.primitives.keys import (
    ChainKey,
    KemCiphertext,
    KemSeed,
    PrekeySecret,
    Receipt,
    RootKey,
    X25519PublicKey,
    X25519Secret,
)
from agentmesh.primitives.padding import pad, padded_length, unpad
from agentmesh.session.suite import SUITE
from runner.values import Json, Script, identity_of, kdf_label, limits_of, signature_label, unhex, unhex_or_none

# --- did, keys -------------------------------------------------------------------------------------------------------


def _did_derive(given: Json) -> Json:
    return {"did": did_of(unhex(given["public_key"]))}


def _did_parse(given: Json) -> Json:
    did = parse_did(given["did"])
    return {"hash": base58_decode(did[len(DID_PREFIX) :], 20).hex()}


def _keys_identity(given: Json) -> Json:
    identity = Identity.from_seed(unhex(given["seed"]))
    key = identity.key
    return {
        "public_key": key.raw.hex(),
        "did": key.did,
        "x25519_secret": identity.dh_secret.hex(),
        "x25519_public": key.dh.hex(),
    }


def _keys_convert(given: Json) -> Json:
    return {"x25519_public": IdentityKey(unhex(given["public_key"])).dh.hex()}


def _keys_sign(given: Json) -> Json:
    identity = Identity.from_seed(unhex(given["seed"]))
    return {"signature": identity.sign(signature_label(given["label"]), unhex(given["body"])).hex()}


def _keys_verify(given: Json) -> Json:
    key = IdentityKey(unhex(given["public_key"]))
    key.verify(signature_label(given["label"]), unhex(given["body"]), unhex(given["signature"]))
    return {}


def _keys_agree(given: Json) -> Json:
    return {
        "shared_secret": SUITE.dh(X25519Secret(unhex(given["secret"])), X25519PublicKey(unhex(given["public"]))).hex()
    }


def _keys_kem_key(given: Json) -> Json:
    return {"kem_key": _crypto.kem_public(_crypto.kem_key(unhex(given["kem_seed"]))).hex()}


def _keys_kem_check(given: Json) -> Json:
    _crypto.kem_check(unhex(given["kem_key"]))
    return {}


def _keys_kem_decapsulate(given: Json) -> Json:
    key = _crypto.kem_key(unhex(given["kem_seed"]))
    return {"kem_shared_secret": _crypto.kem_decapsulate(key, unhex(given["kem_ciphertext"])).hex()}


# --- kdf, aead, padding ----------------------------------------------------------------------------------------------


def _kdf_hash(given: Json) -> Json:
    derived = _crypto.kdf(unhex(given["key"]), kdf_label(given["label"]), unhex(given["data"]), given["length"])
    return {"derived": derived.hex()}


def _kdf_root(given: Json) -> Json:
    root, chain_key, header_key = SUITE.kdf_root(RootKey(unhex(given["rk"])), unhex(given["dh"]) + unhex(given["pq"]))
    return {"rk_next": root.hex(), "ck": chain_key.hex(), "nhk": header_key.hex()}


def _kdf_chain(given: Json) -> Json:
    chain_key, message_key = SUITE.kdf_chain(ChainKey(unhex(given["ck"])))
    return {"ck_next": chain_key.hex(), "mk": message_key.hex()}


def _aead_seal(given: Json) -> Json:
    sealed = seal(
        unhex(given["key"]),
        kdf_label(given["label"]),
        unhex(given["context"]),
        unhex(given["plaintext"]),
        unhex(given["nonce"]),
    )
    return {"sealed": sealed.hex()}


def _aead_open(given: Json) -> Json:
    plaintext = open_sealed(
        unhex(given["key"]), kdf_label(given["label"]), unhex(given["context"]), unhex(given["sealed"])
    )
    return {"plaintext": plaintext.hex()}


def _padding_length(given: Json) -> Json:
    return {"padded_lengths": [padded_length(length) for length in given["lengths"]]}


def _padding_pad(given: Json) -> Json:
    return {"padded": pad(unhex(given["plaintext"])).hex()}


def _padding_unpad(given: Json) -> Json:
    return {"plaintext": unpad(unhex(given["padded"])).hex()}


# --- bundle, handshake -----------------------------------------------------------------------------------------------


def _bundle_issue(given: Json) -> Json:
    bundle, published = issue_bundle(
        identity_of(given),
        bundle_class=BundleClass(given["class"]),
        mesh=given["mesh"],
        not_before_ms=given["not_before_ms"],
        not_after_ms=given["not_after_ms"],
        entropy=Script(given, "prekey_secret", "kem_seed"),
    )
    return {"bundle": bundle.hex(), "bundle_ref": published.ref.hex()}


def _bundle_verify(given: Json) -> Json:
    bundle = verify_bundle(unhex(given["bundle"]), did=given["did"], mesh=given["mesh"], now_ms=given["now_ms"])
    return {
        "class": int(bundle.bundle_class),
        "identity": bundle.identity.raw.hex(),
        "prekey": bundle.prekey.hex(),
        "kem_key": bundle.kem_key.hex(),
        "not_before_ms": bundle.not_before_ms,
        "not_after_ms": bundle.not_after_ms,
        "bundle_ref": bundle.ref.hex(),
    }


def _keys_json(keys: SessionKeys) -> Json:
    return {
        "th": keys.th.hex(),
        "session_id": keys.session_id.hex(),
        "root": keys.root.hex(),
        "intent_key": keys.intent_key.hex(),
        "hk_ba": keys.header_key_ba.hex(),
        "hk_ab": keys.header_key_ab.hex(),
    }


def _handshake_initiate(given: Json) -> Json:
    bundle = verify_bundle(unhex(given["bundle"]), did=given["did"], mesh=given["mesh"], now_ms=given["now_ms"])
    initiation = initiate(
        identity_of(given), bundle, expires_ms=given["expires_ms"], entropy=Script(given, "ephemeral_secret")
    )
    return {"ephemeral": initiation.ephemeral.hex(), **_keys_json(initiation.keys)}


def _handshake_respond(given: Json) -> Json:
    identity, initiator = identity_of(given), IdentityKey(unhex(given["initiator"]))
    ephemeral, kem_ciphertext = unhex(given["ephemeral"]), unhex(given["kem_ciphertext"])
    th = transcript_hash(
        mesh=given["mesh"],
        initiator=initiator.raw,
        responder=identity.key.raw,
        bundle_ref=unhex(given["bundle_ref"]),
        ephemeral=ephemeral,
        kem_ciphertext=kem_ciphertext,
        expires_ms=given["expires_ms"],
    )
    keys = respond(
        identity,
        BundleSecrets(PrekeySecret(unhex(given["prekey_secret"])), KemSeed(unhex(given["kem_seed"]))),
        initiator=initiator,
        ephemeral=X25519PublicKey(ephemeral),
        kem_ciphertext=KemCiphertext(kem_ciphertext),
        th=th,
    )
    return _keys_json(keys)


# --- envelope, receipt, and what is built for them -------------------------------------------------------------------


def _envelope_build(given: Json) -> Json:
    header = Header(
        kind=Kind(given["kind"]),
        mesh=given["mesh"],
        sender=given["sender"],
        recipient=given["recipient"],
        time_ms=given["time_ms"],
    ).encode()
    return {"header": header.hex(), "envelope": build(header, unhex(given["body"])).hex()}


def _envelope_parse(given: Json) -> Json:
    outer = OuterEnvelope.parse(unhex(given["envelope"]), limits_of(given))
    header = outer.header
    return {
        "kind": int(header.kind),
        "mesh": header.mesh,
        "sender": header.sender,
        "recipient": header.recipient,
        "time_ms": header.time_ms,
        "header": outer.header_bytes.hex(),
        "body": outer.body.hex(),
    }


def _receipt_compute(given: Json) -> Json:
    return {"receipt": OuterEnvelope.parse(unhex(given["envelope"])).receipt.hex()}


def _knock_build(given: Json) -> Json:
    identity = identity_of(given)
    bundle = verify_bundle(unhex(given["bundle"]), did=given["did"], mesh=given["mesh"], now_ms=given["time_ms"])
    script = Script(given, "ephemeral_secret", "nonce")
    initiation = initiate(identity, bundle, expires_ms=given["expires_ms"], entropy=script)
    header = Header(
        kind=Kind.KNOCK, mesh=given["mesh"], sender=identity.did, recipient=given["did"], time_ms=given["time_ms"]
    ).encode()
    intent = Intent(given["action"], capabilities=given["capabilities"], detail=unhex(given["detail"]))
    content = KnockContent(
        intent=intent, early_payload=unhex_or_none(given["early_payload"]), fresh=given["fresh"] == 1
    )
    body = build_knock_body(
        identity,
        initiation,
        bundle_ref=bundle.ref,
        expires_ms=given["expires_ms"],
        header_bytes=header,
        content=encode_content(content, Limits()),
        entropy=script,
    )
    envelope = build(header, body)
    return {
        "envelope": envelope.hex(),
        "receipt": receipt_of(envelope).hex(),
        "ephemeral": initiation.ephemeral.hex(),
        **_keys_json(initiation.keys),
    }


def _reject_build(given: Json) -> Json:
    identity = identity_of(given)
    header = Header(
        kind=Kind.REJECT,
        mesh=given["mesh"],
        sender=identity.did,
        recipient=given["recipient"],
        time_ms=given["time_ms"],
    ).encode()
    body = build_reject_body(
        identity,
        header_bytes=header,
        knock_receipt=Receipt(unhex(given["knock_receipt"])),
        reason=Reason(given["reason"]),
        retry_after_seconds=given["retry_after_seconds"],
    )
    return {"envelope": build(header, body).hex()}


CALLS: dict[str, Callable[[Json], Json]] = {
    "did.derive": _did_derive,
    "did.parse": _did_parse,
    "keys.identity": _keys_identity,
    "keys.convert": _keys_convert,
    "keys.sign": _keys_sign,
    "keys.verify": _keys_verify,
    "keys.agree": _keys_agree,
    "keys.kem_key": _keys_kem_key,
    "keys.kem_check": _keys_kem_check,
    "keys.kem_decapsulate": _keys_kem_decapsulate,
    "kdf.hash": _kdf_hash,
    "kdf.root": _kdf_root,
    "kdf.chain": _kdf_chain,
    "aead.seal": _aead_seal,
    "aead.open": _aead_open,
    "padding.length": _padding_length,
    "padding.pad": _padding_pad,
    "padding.unpad": _padding_unpad,
    "bundle.issue": _bundle_issue,
    "bundle.verify": _bundle_verify,
    "handshake.initiate": _handshake_initiate,
    "handshake.respond": _handshake_respond,
    "envelope.build": _envelope_build,
    "envelope.parse": _envelope_parse,
    "receipt.compute": _receipt_compute,
    "knock.build": _knock_build,
    "reject.build": _reject_build,
}
