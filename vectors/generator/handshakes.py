"""The family handshake: both sides, every key on the way, and points that must be refused."""

from __future__ import annotations

from typing import Any

from agentmesh.identity import Identity
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import EXTRACT, FIRST_ROOT, HEADER_AB, HEADER_BA, KNOCK_KEY, SESSION_ID, TRANSCRIPT
from generator import curve, wire
from generator.bundles import items_of, signed
from generator.codes import BAD_KEY, BAD_SIGNATURE, POINT
from generator.world import (
    ALICE,
    BOB,
    EXPIRES_MS,
    LAST_RESORT,
    MALLORY,
    MESH,
    NOW_MS,
    ONE_TIME,
    OTHER_ONE_TIME,
    Files,
    Stock,
    encapsulation,
    token,
)

Json = dict[str, Any]


def derived(
    stock: Stock,
    initiator: Identity,
    ephemeral_secret: bytes,
    index: int,
    *,
    expires_ms: int = EXPIRES_MS,
    mesh: str = MESH,
) -> Json:
    """Return every value of a handshake by the text's own formulas, from the initiator's secrets."""
    ciphertext, shared_kem = encapsulation(stock, index)
    ephemeral = _crypto.x25519_public(ephemeral_secret)
    dh1 = _crypto.x25519(initiator.dh_secret, stock.prekey)
    dh2 = _crypto.x25519(ephemeral_secret, BOB.key.dh)
    dh3 = _crypto.x25519(ephemeral_secret, stock.prekey)
    items = (
        mesh.encode(),
        initiator.key.raw,
        BOB.key.raw,
        stock.published.ref,
        ephemeral,
        ciphertext,
        expires_ms.to_bytes(8, "big"),
    )
    listed = b"".join(len(item).to_bytes(4, "big") + item for item in items)
    th = _crypto.kdf(b"", TRANSCRIPT, listed, 64)
    prk = _crypto.kdf(th, EXTRACT, dh1 + dh2 + dh3 + shared_kem, 64)
    return {
        "initiator_dh": initiator.key.dh.hex(),
        "responder_dh": BOB.key.dh.hex(),
        "ephemeral": ephemeral.hex(),
        "dh1": dh1.hex(),
        "dh2": dh2.hex(),
        "dh3": dh3.hex(),
        "ss": shared_kem.hex(),
        "list": listed.hex(),
        "th": th.hex(),
        "prk": prk.hex(),
        "root": _crypto.kdf(prk, FIRST_ROOT, b"", 32).hex(),
        "intent_key": _crypto.kdf(prk, KNOCK_KEY, b"", 32).hex(),
        "hk_ba": _crypto.kdf(prk, HEADER_BA, b"", 32).hex(),
        "hk_ab": _crypto.kdf(prk, HEADER_AB, b"", 32).hex(),
        "session_id": _crypto.kdf(prk, SESSION_ID, b"", 16).hex(),
    }


RESULTS = ("th", "session_id", "root", "intent_key", "hk_ba", "hk_ab")


def initiation(stock: Stock, data: bytes | None = None, *, index: int = 0, who: Identity = ALICE) -> Json:
    """Return the input of `handshake.initiate`."""
    ciphertext, shared = encapsulation(stock, index)
    return {
        "identity_seed": who.seed.reveal().hex(),
        "bundle": (stock.data if data is None else data).hex(),
        "did": BOB.did,
        "mesh": MESH,
        "now_ms": NOW_MS,
        "expires_ms": EXPIRES_MS,
        "ephemeral_secret": token(f"alice/ephemeral/{index}").hex(),
        "kem_ciphertext": ciphertext.hex(),
        "kem_shared_secret": shared.hex(),
    }


def response(stock: Stock, *, index: int = 0, **changes: Any) -> Json:
    """Return the input of `handshake.respond`."""
    return {
        "identity_seed": BOB.seed.reveal().hex(),
        "prekey_secret": stock.prekey_secret.hex(),
        "kem_seed": stock.kem_seed.hex(),
        "mesh": MESH,
        "initiator": ALICE.key.raw.hex(),
        "bundle_ref": stock.published.ref.hex(),
        "ephemeral": _crypto.x25519_public(token(f"alice/ephemeral/{index}")).hex(),
        "kem_ciphertext": encapsulation(stock, index)[0].hex(),
        "expires_ms": EXPIRES_MS,
        **changes,
    }


def handshake() -> Files:
    """Return the family handshake."""
    files = Files("handshake")
    for name, stock, index in (
        ("one-time", ONE_TIME, 0),
        ("one-time-again", ONE_TIME, 1),
        ("last-resort", LAST_RESORT, 0),
    ):
        values = derived(stock, ALICE, token(f"alice/ephemeral/{index}"), index)
        results = {key: values[key] for key in RESULTS}
        files.add(
            f"initiate-{name}",
            "handshake.initiate",
            "Alice's side, on a bundle that she verifies first",
            spec="5",
            given=initiation(stock, index=index),
            intermediate=values,
            output=results,
        )
        files.add(
            f"respond-{name}",
            "handshake.respond",
            "Bob's side of the same handshake: equal results",
            spec="5",
            given=response(stock, index=index),
            intermediate=values,
            output=results,
        )
    _other_inputs(files)
    _refuse(files)
    return files


def _other_inputs(files: Files) -> None:
    ciphertext = encapsulation(ONE_TIME)[0]
    files.add_each("handshake.respond", "5", (
        (f"respond-{name}", f"{comment}; no error, but keys that open nothing", response(ONE_TIME, **change))
        for name, comment, change in (
            ("other-mesh", "another mesh: th and every key differ", {"mesh": "example/other"}),
            ("other-expiry", "expires is part of th", {"expires_ms": EXPIRES_MS + 1}),
            ("other-bundle-ref", "bundle_ref, and through it the KEM key, is part of th",
             {"bundle_ref": OTHER_ONE_TIME.published.ref.hex()}),
            ("other-initiator", "another identity: DH1 and th differ", {"initiator": MALLORY.key.raw.hex()}),
            ("altered-ciphertext", "a flipped bit of ct: implicit rejection gives another ss, and th differs too",
             {"kem_ciphertext": wire.flipped(ciphertext, 500).hex()}),
            ("swapped-ciphertext", "a ciphertext made for another key of Bob's",
             {"kem_ciphertext": encapsulation(OTHER_ONE_TIME)[0].hex()}),
        )
    ))  # fmt: skip


def _refuse(files: Files) -> None:
    for index, (comment, point) in enumerate(curve.X25519_SMALL_ORDER):
        files.add(
            f"refuse-respond-ephemeral-{index}",
            "handshake.respond",
            f"EK of small order: {comment}",
            spec="5",
            given=response(ONE_TIME, ephemeral=point.hex()),
            expect=POINT,
        )
        if index > 4:
            continue  # the prekey of a bundle is held to its encoding by `bundle.verify`
        data = signed(wire.with_item(items_of(ONE_TIME), 4, wire.binary(point)))
        files.add(
            f"refuse-initiate-prekey-{index}",
            "handshake.initiate",
            f"a prekey of small order under Bob's good signature: {comment}",
            spec="5",
            given=initiation(ONE_TIME, data),
            expect=POINT,
        )
    genuine = bytes.fromhex(response(ONE_TIME)["ephemeral"])
    top_bit = wire.flipped(genuine, 31, 0x80)
    ciphertext = encapsulation(ONE_TIME)[0]
    mixed = curve.add(ALICE.key.raw, curve.TORSION[4][1])
    files.add_each("handshake.respond", "5", (
        (f"refuse-respond-{name}", comment, response(ONE_TIME, **change), expect)
        for name, comment, change, expect in (
            ("ephemeral-top-bit", "EK with its top bit set", {"ephemeral": top_bit.hex()}, POINT),
            ("ephemeral-short", "EK of 31 bytes", {"ephemeral": genuine[:-1].hex()}, POINT),
            ("ciphertext-short", "ct of 1,087 bytes", {"kem_ciphertext": ciphertext[:-1].hex()}, POINT),
            ("ciphertext-removed", "no ct", {"kem_ciphertext": ""}, POINT),
            ("initiator-small-order", "A of small order", {"initiator": curve.TORSION[1][1].hex()}, BAD_KEY),
            ("initiator-mixed-order", "A of mixed order", {"initiator": mixed.hex()}, BAD_KEY),
        )
    ))  # fmt: skip
    swapped = wire.with_item(items_of(ONE_TIME), 5, wire.binary(OTHER_ONE_TIME.kem_key))
    key = next(key for name, _, key in curve.bad_kem_keys(ONE_TIME.kem_key) if name == "key-modulus")
    files.add_each("handshake.initiate", "5", (
        (f"refuse-initiate-{name}", comment, initiation(ONE_TIME, data), expect)
        for name, comment, data, expect in (
            ("kem-key-modulus", "an unreduced KEM key under Bob's good signature",
             signed(wire.with_item(items_of(ONE_TIME), 5, wire.binary(key))), POINT),
            ("kem-key-swapped", "the KEM key of another bundle under the old signature",
             wire.pair(swapped, ONE_TIME.data[-64:]), BAD_SIGNATURE),
        )
    ))  # fmt: skip
