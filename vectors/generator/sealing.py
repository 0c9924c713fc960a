"""The families kdf, aead and padding: one call each."""

from __future__ import annotations

from typing import Any, Final

from runner.values import kdf_label

from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KDF_LABELS
from generator import twokeys
from generator.codes import UNOPENED
from generator.wire import flipped
from generator.world import Files, token

Json = dict[str, Any]

BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


# --- kdf -------------------------------------------------------------------------------------------------------------


def kdf() -> Files:
    """Return the family kdf."""
    files = Files("kdf")
    sizes = {"am1-session-id": 16, "am1-transcript": 64, "am1-extract": 64, "am1-chain": 64, "am1-message": 64}
    sizes["am1-intent"] = 64
    for label in KDF_LABELS:
        name = label.decode()
        given = {
            "key": "" if name == "am1-transcript" else token(f"kdf/{name}").hex(),
            "label": name,
            "data": b"the data".hex(),
            "length": sizes.get(name, 32),
        }
        files.add(
            f"hash-{name.removeprefix('am1-')}",
            "kdf.hash",
            f"the label {name}",
            spec="1.1",
            given=given,
            intermediate={"personalisation": label.ljust(16, b"\x00").hex()},
        )
    for name, comment, change in (
        ("no-key-no-data", "no key and no data", {"key": "", "data": ""}),
        ("long-key", "a key of 64 bytes, the longest", {"key": token("kdf/long", 64).hex()}),
        ("one-block", "128 bytes of data: exactly one block", {"data": bytes(range(128)).hex()}),
        ("two-blocks", "129 bytes of data", {"data": bytes(range(129)).hex()}),
        ("digest-1", "the digest size is a parameter, not a truncation: one byte", {"length": 1}),
        ("digest-32", "the same input with 32 bytes", {"length": 32}),
        ("digest-64", "the same input with 64 bytes: its first 32 are other ones", {"length": 64}),
    ):
        base = {"key": token("kdf/base").hex(), "label": "am1-chain", "data": b"the data".hex(), "length": 64}
        files.add(name, "kdf.hash", comment, spec="1.1", given={**base, **change})
    files.add(
        "root",
        "kdf.root",
        "the three keys of a root step: three labels under one key",
        spec="6",
        given={"rk": token("kdf/root").hex(), "dh": token("kdf/shared").hex(), "pq": ""},
    )
    files.add(
        "root-mixed",
        "kdf.root",
        "the root step that begins an epoch: its secret stands behind the agreement's",
        spec="6",
        given={"rk": token("kdf/root").hex(), "dh": token("kdf/shared").hex(), "pq": token("kdf/epoch").hex()},
    )
    files.add(
        "chain",
        "kdf.chain",
        "a chain step: 64 bytes, the next chain key and the message key",
        spec="6",
        given={"ck": token("kdf/chain").hex()},
    )
    return files


# --- aead ------------------------------------------------------------------------------------------------------------


def _aead_keys(given: Json) -> Json:
    nonce = given.get("nonce") or given["sealed"][:48]
    derived = _crypto.kdf(
        bytes.fromhex(given["key"]),
        kdf_label(given["label"]),
        bytes.fromhex(nonce + given["context"]),
        64,
    )
    return {"bk": derived[:32].hex(), "kc": derived[32:].hex()}


def aead() -> Files:
    """Return the family aead."""
    files = Files("aead")
    base = {"key": token("aead/key").hex(), "label": "am1-intent", "context": b"the context".hex()}
    nonce = token("aead/nonce", 24).hex()
    for name, comment, change in (
        ("plain", "33 bytes of plaintext", {}),
        ("empty-plaintext", "no plaintext", {"plaintext": ""}),
        ("empty-context", "no context", {"context": ""}),
        ("long-key", "a key of 64 bytes", {"key": token("aead/long", 64).hex()}),
        ("other-label", "the same key under another label", {"label": "am1-state"}),
        ("blocks", "130 bytes of plaintext: more than two blocks of XSalsa20", {"plaintext": bytes(range(130)).hex()}),
    ):
        given = {**base, "plaintext": b"thirty-three bytes of plaintext!!".hex(), "nonce": nonce, **change}
        made = files.add(f"seal-{name}", "aead.seal", comment, spec="1.2", given=given, intermediate=_aead_keys(given))
        given = {**base, **{k: v for k, v in change.items() if k in base}, "sealed": made["output"]["sealed"]}
        files.add(
            f"open-{name}", "aead.open", f"{comment}, opened", spec="1.2", given=given, intermediate=_aead_keys(given)
        )
    _aead_refusals(files, base, bytes.fromhex(files.by_name["seal-plain"]["output"]["sealed"]))
    key_one, key_two = token("aead/two-keys/1"), token("aead/two-keys/2")
    context = bytes.fromhex(base["context"])
    sealed = twokeys.sealed_for_two(key_one, key_two, kdf_label("am1-intent"), context, token("aead/two", 24))
    for name, key, expect in (
        ("open-one-of-two-keys", key_one, "ok"),
        ("refuse-other-of-two-keys", key_two, UNOPENED),
    ):
        given = {**base, "key": key.hex(), "sealed": sealed.hex()}
        files.add(
            name,
            "aead.open",
            "one box with a good tag under the box keys of two keys: the commitment lets it open under one alone",
            spec="1.2",
            given=given,
            expect=expect,
            intermediate=_aead_keys(given),
        )
    return files


def _aead_refusals(files: Files, base: Json, sealed: bytes) -> None:
    bad: list[tuple[str, str, Json]] = [
        ("flipped-nonce", "a bit of the nonce flipped", {"sealed": flipped(sealed, 0).hex()}),
        ("flipped-nonce-end", "a bit of the nonce's last byte flipped", {"sealed": flipped(sealed, 23, 0x80).hex()}),
        ("flipped-commitment", "a bit of kc flipped", {"sealed": flipped(sealed, 24).hex()}),
        ("flipped-commitment-end", "a bit of kc's last byte flipped", {"sealed": flipped(sealed, 55, 0x80).hex()}),
        ("flipped-tag", "a bit of the Poly1305 tag flipped", {"sealed": flipped(sealed, 56).hex()}),
        ("flipped-tag-end", "a bit of the tag's last byte flipped", {"sealed": flipped(sealed, 71, 0x80).hex()}),
        ("flipped-ciphertext", "a bit of the ciphertext flipped", {"sealed": flipped(sealed, 72).hex()}),
        ("flipped-ciphertext-end", "the last bit flipped", {"sealed": flipped(sealed, -1).hex()}),
        ("zero-commitment", "kc replaced by zeros", {"sealed": (sealed[:24] + bytes(32) + sealed[56:]).hex()}),
        ("appended", "a byte behind", {"sealed": (sealed + b"\x00").hex()}),
        ("other-context", "a bit of the context flipped", {"context": flipped(b"the context", 0).hex()}),
        ("longer-context", "a byte more of context", {"context": b"the context\x00".hex()}),
        ("no-context", "the context left away", {"context": ""}),
        ("other-label", "another label", {"label": "am1-state"}),
        ("other-key", "a bit of the key flipped", {"key": flipped(bytes.fromhex(base["key"]), 0).hex()}),
    ]
    for size in (0, 1, 23, 24, 55, 56, 71, 72, len(sealed) - 1):
        bad.append((f"truncated-{size}", f"cut after {size} bytes", {"sealed": sealed[:size].hex()}))
    for name, comment, change in bad:
        given = {**base, "sealed": sealed.hex(), **change}
        files.add(
            f"refuse-{name}",
            "aead.open",
            comment,
            spec="1.2",
            given=given,
            expect=UNOPENED,
            intermediate=_aead_keys(given),
        )


# --- padding ---------------------------------------------------------------------------------------------------------


def padding() -> Files:
    """Return the family padding."""
    files = Files("padding")
    edges = [1, 2, 63, 64, 65, 66, 71, 72, 73, 127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025, 4095, 4097]
    edges += [65_535, 65_536, 65_537, 1_000_000, 1 << 20, (1 << 20) + 1, (1 << 20) + 2]
    files.add(
        "lengths",
        "padding.length",
        "Padme of L, at least 64: L is the length with the marker",
        spec="1.2",
        given={"lengths": edges},
    )
    for length in (0, 1, 62, 63, 64, 71, 72, 128, 200):
        data = bytes(1 + index % 255 for index in range(length))
        made = files.add(f"pad-{length}", "padding.pad", f"{length} bytes", spec="1.2", given={"plaintext": data.hex()})
        files.add(
            f"unpad-{length}",
            "padding.unpad",
            f"{length} bytes",
            spec="1.2",
            given={"padded": made["output"]["padded"]},
        )
    marker = bytes(10) + b"\x80" + bytes(20) + b"\x80" + bytes(32)
    files.add(
        "unpad-markers-inside",
        "padding.unpad",
        "only the last 0x80 is the marker; zeros before it are content",
        spec="1.2",
        given={"padded": marker.hex()},
    )
    data = bytes(range(1, 41))
    files.add_each("padding.unpad", "1.2", (
        (f"refuse-{name}", comment, {"padded": bad.hex()}, UNOPENED)
        for name, comment, bad in (
            ("empty", "no bytes", b""),
            ("zeros", "no marker", bytes(64)),
            ("no-marker", "content to the end", data + b"\x01" * 24),
            ("byte-behind-marker", "something other than zero behind the marker", data + b"\x80" + bytes(22) + b"\x01"),
            ("short", "63 bytes: below the smallest", data + b"\x80" + bytes(22)),
            ("unpadded", "the marker and no zeros", data + b"\x80"),
            ("long-by-one", "65 bytes for what fits 64", data + b"\x80" + bytes(24)),
            ("next-step", "72 bytes for what fits 64", data + b"\x80" + bytes(31)),
            ("double", "128 bytes for what fits 64", data + b"\x80" + bytes(87)),
            ("not-a-step", "a length that is no Padme length", b"\x01" * 64 + b"\x80" + bytes(1)),
            ("other-marker", "0x81 for 0x80", data + b"\x81" + bytes(23)),
        )
    ))  # fmt: skip
    return files
