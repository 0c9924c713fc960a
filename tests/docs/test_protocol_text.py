"""docs/protocol.md suffices: an agent made of its formulas alone converses with the library's, in both roles.

The formulas are read from the page and evaluated as they stand there, over hashlib, PyNaCl and cryptography. Nothing of
agentmesh computes on this side; what is imported is the other end of the conversation, and what to compare with.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from hypothesis import example, given
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from agentmesh import Agent, Conditions, Identity, Intent, Reason, trust
from agentmesh.attachments import (
    Attachment,
    AttachmentDisclosure,
    AttachmentOpener,
    AttachmentSealer,
    parse_reference,
)
from agentmesh.audit.journal import AuditJournal
from agentmesh.audit.log import AuditLog
from agentmesh.audit.sink import MemorySink
from agentmesh.limits import Limits
from agentmesh.outgoing import Outgoing
from agentmesh.primitives import _wire
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.primitives.keys import RootKey
from agentmesh.primitives.padding import padded_length
from agentmesh.session.epochs import Answering, Offering, parse_item
from agentmesh.session.suite import SUITE
from agentmesh.store.sealing import Sealer
from agentmesh.testing import ManualClock
from agentmesh.trust import Statement

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
MESH = "example/text"
DAY_MS = 86_400_000

# --- the page as formulas --------------------------------------------------------------------------------------------

_HEADING = re.compile(r"^#+ (?P<number>\d+(?:\.\d+)?)\.? ")
_FORMULA = re.compile(r"^(?P<name>\w+(?: \|\| \w+)*) += (?P<sides>.+)$")


@cache
def formulas() -> dict[tuple[str, str], list[str]]:
    """Return the right-hand sides of every formula, by section and name."""
    found: dict[tuple[str, str], list[str]] = {}
    section, in_text, lines = "", False, PAGE.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```"):
            in_text = line == "```text"
            continue
        heading = _HEADING.match(line)
        if heading is not None:
            section = heading["number"]
        if not in_text:
            continue
        following = (later.strip() for later in lines[number + 1 :] if not later.startswith("```"))
        while line.count("(") > line.count(")"):
            line += " " + next(following)
        formula = _FORMULA.match(line)
        if formula is not None:
            assert (section, formula["name"]) not in found, (section, formula["name"])
            found[section, formula["name"]] = formula["sides"].split(" = ")
    return found


_TRANSLATIONS = (
    (r"SHA-256", "sha256"),
    (r"\[([a-z]+)\]", r'label("\1")'),
    (r"\b(am1(?:-[a-z]+)+)", r'"\1"'),
    (r"\b0x([0-9a-f]{2})\b", r"bytes([0x\1])"),
    (r"\|\|", "+"),
    (r'""', 'b""'),
    (r"\bnone\b", 'b""'),
    (r"\bclass\b", "class_"),
    (r"\blist\(", "lengths("),
)


def evaluate(section: str, name: str, side: int = 0, /, **scope: Any) -> Any:
    """Return the value of a formula. `X || Y = ...` gives the halves."""
    source = formulas()[section, name][side]
    for pattern, replacement in _TRANSLATIONS:
        source = re.sub(pattern, replacement, source)
    value = eval(source, {"__builtins__": {}}, {**FUNCTIONS, **scope})
    if "||" in name:
        half = len(value) // 2
        return value[:half], value[half:]
    return value


# --- the conventions, sections 1.1 to 1.3 ----------------------------------------------------------------------------


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def kdf(key: bytes, label: str, data: str | bytes, size: int) -> bytes:
    return hashlib.blake2b(as_bytes(data), digest_size=size, key=key, person=label.encode()).digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def big_endian(size: int) -> Callable[[int], bytes]:
    return lambda value: value.to_bytes(size, "big")


def len32(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big")


def lengths(*items: str | bytes) -> bytes:
    return b"".join(len32(as_bytes(item)) + as_bytes(item) for item in items)


def msgpack(*items: Any) -> bytes:
    return pack(items)


def pack(value: Any) -> bytes:
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        if value < 0x80:
            return bytes([value])
        size, head = next((s, h) for s, h in ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)) if value < 1 << (8 * s))
        return bytes([head]) + value.to_bytes(size, "big")
    if isinstance(value, tuple | list):
        count = len(value)
        head_bytes = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        return head_bytes + b"".join(map(pack, value))
    data = as_bytes(value)
    if isinstance(value, str) and len(data) < 32:
        return bytes([0xA0 | len(data)]) + data
    heads = (0xD9, 0xDA, 0xDB) if isinstance(value, str) else (0xC4, 0xC5, 0xC6)
    size, head = next((s, h) for s, h in zip((1, 2, 4), heads, strict=True) if len(data) < 1 << (8 * s))
    return bytes([head]) + len(data).to_bytes(size, "big") + data


def unpack(data: bytes) -> list[Any]:
    value, end = _unpack(data, 0)
    assert end == len(data)
    assert isinstance(value, list)
    assert pack(value) == data  # one encoding
    return value


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    head, at = data[at], at + 1
    if head < 0x80:
        return head, at
    if head == 0xC0:
        return None, at
    if 0xCC <= head <= 0xCF:
        size = 1 << (head - 0xCC)
        return int.from_bytes(data[at : at + size], "big"), at + size
    if head in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB) or 0xA0 <= head < 0xC0:
        if head < 0xC0:
            size = head & 0x1F
        else:
            width = 1 << (head - (0xC4 if head < 0xD0 else 0xD9))
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        item = data[at : at + size]
        return item if head in (0xC4, 0xC5, 0xC6) else item.decode(), at + size
    assert 0x90 <= head < 0xA0 or head == 0xDC
    count = head & 0x0F
    if head == 0xDC:
        count, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    items = []
    for _ in range(count):
        item, at = _unpack(data, at)
        items.append(item)
    return items, at


def padme(length: int) -> int:
    if length <= 64:
        return 64
    exponent = math.floor(math.log2(length))
    step = 1 << (exponent - (math.floor(math.log2(exponent)) + 1))
    return -(-length // step) * step


def pad(data: bytes) -> bytes:
    return (data + b"\x80").ljust(padme(len(data) + 1), b"\x00")


def unpad(padded: bytes) -> bytes:
    data = padded.rstrip(b"\x00")
    assert data[-1:] == b"\x80"
    assert padme(len(data)) == len(padded)
    return data[:-1]


def label(name: str) -> bytes:
    return b"agentmesh/v1/" + name.encode() + b"\x00"


def base58btc(data: bytes) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = alphabet[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\x00"))) + text


def sign(signing_key: bytes, message: bytes) -> bytes:
    return bindings.crypto_sign(message, signing_key)[:64]


def verifier(public_key: bytes, signature: bytes) -> Callable[[object, bytes], bytes]:
    """Return a Sign() that gives this signature, once it has been verified over what is to be signed."""

    def give(_signing_key: object, message: bytes) -> bytes:
        bindings.crypto_sign_ed25519_pk_to_curve25519(public_key)
        bindings.crypto_sign_open(signature + message, public_key)
        return signature

    return give


FUNCTIONS: dict[str, Any] = {
    "X25519": bindings.crypto_scalarmult,
    "Sign": sign,
    "base58btc": base58btc,
    "bytes": bytes,
    "kdf": kdf,
    "label": label,
    "len": len,
    "len32": len32,
    "lengths": lengths,
    "msgpack": msgpack,
    "pad": pad,
    "secretbox": bindings.crypto_secretbox_easy,
    "sha256": sha256,
    "u32": big_endian(4),
    "u64": big_endian(8),
    "u8": big_endian(1),
}


def sealer(nonce: bytes) -> Callable[[bytes, str, bytes, bytes], bytes]:
    """Return the seal() of section 1.2 with this nonce."""

    def seal(key: bytes, kdf_label: str, context: bytes, plaintext: bytes) -> bytes:
        bk, kc = evaluate("1.2", "bk || kc", key=key, label=kdf_label, nonce=nonce, context=context)
        sealed: bytes = evaluate("1.2", "sealed", nonce=nonce, kc=kc, plaintext=plaintext, bk=bk)
        return sealed

    return seal


def test_every_kdf_label_stands_in_a_formula() -> None:
    table = set(re.findall(r"^\| `(am1-[a-z-]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    used = {found for sides in formulas().values() for side in sides for found in re.findall(r"am1(?:-[a-z]+)+", side)}
    assert used == table


@given(st.integers(1, 1 << 21))
@example(64)
@example(65)
def test_padme_as_the_page_defines_it_is_what_the_library_pads_to(length: int) -> None:
    assert padme(length) == padded_length(length)


_SCALARS = st.none() | st.integers(0, 2**53 - 1) | st.binary(max_size=300) | st.text(max_size=80)


@given(st.lists(_SCALARS | st.lists(_SCALARS, max_size=20), max_size=20))
def test_the_encoding_of_the_page_is_that_of_the_library(value: list[Any]) -> None:
    assert pack(value) == _wire.encode(value)
    assert unpack(pack(value)) == value


# --- an agent made of the page ---------------------------------------------------------------------------------------


def key_pair() -> tuple[bytes, bytes]:
    secret = os.urandom(32)
    return secret, bindings.crypto_scalarmult_base(secret)


class Self:
    """An identity: ik, IK, xk, XK, did (section 2)."""

    def __init__(self) -> None:
        self.IK, self.ik = bindings.crypto_sign_seed_keypair(os.urandom(32))
        self.XK = bindings.crypto_sign_ed25519_pk_to_curve25519(self.IK)
        self.xk = bindings.crypto_sign_ed25519_sk_to_curve25519(self.ik)
        self.did: str = evaluate("2", "did", IK=self.IK)


class Ratchet:
    """Section 6, without skipped keys: this test loses and reorders nothing."""

    def __init__(self, root: bytes, r: bytes, R: bytes, nhks: bytes, nhkr: bytes) -> None:  # noqa: N803 - the page's
        self.rk, self.r, self.R, self.nhks, self.nhkr = root, r, R, nhks, nhkr
        self.hks = self.hkr = self.cks = self.ckr = b""
        self.pn = self.sent = self.received = 0

    def kdf_root(self, shared: bytes) -> tuple[bytes, bytes, bytes]:
        return tuple(evaluate("6", name, rk=self.rk, dh=shared, pq=b"") for name in ("rk_next", "ck", "nhk"))  # type: ignore[return-value]

    def start_as_b(self, ephemeral: bytes, hk_ba: bytes) -> None:
        self.rk, self.cks, self.nhks = self.kdf_root(bindings.crypto_scalarmult(self.r, ephemeral))
        self.hks = hk_ba

    def turn(self, peer_key: bytes) -> None:
        self.hkr = self.nhkr
        self.rk, self.ckr, self.nhkr = self.kdf_root(bindings.crypto_scalarmult(self.r, peer_key))
        self.pn, self.sent, self.received, self.hks = self.sent, 0, 0, self.nhks
        self.r, self.R = key_pair()
        self.rk, self.cks, self.nhks = self.kdf_root(bindings.crypto_scalarmult(self.r, peer_key))

    def seal(self, session: SimpleNamespace, header: bytes, plaintext: bytes) -> bytes:
        self.cks, mk = evaluate("6", "ck_next || mk", ck=self.cks)
        scope = {"nonce": os.urandom(24), "header": header, "plaintext": plaintext, "mk": mk, **vars(session)}
        scope["ratchet_header"] = evaluate("6", "ratchet_header", R=self.R, epoch=0, pn=self.pn, n=self.sent)
        scope["sealed_header"] = evaluate("6", "sealed_header", hk=self.hks, **scope)
        scope["bk"], scope["kc"] = evaluate("6", "bk || kc", **scope)
        self.sent += 1
        body: bytes = evaluate("6", "message_body", **scope)
        return body

    def open(self, session: SimpleNamespace, header: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Return (R of the sender, plaintext)."""
        assert body[:16] == session.session_id
        nonce, sealed_header, kc, box = body[16:40], body[40:100], body[100:132], body[132:]
        try:
            clear = bindings.crypto_secretbox_open_easy(sealed_header, nonce, self.hkr) if self.hkr else b""
        except CryptoError:
            clear = b""
        if not clear:
            clear = bindings.crypto_secretbox_open_easy(sealed_header, nonce, self.nhkr)
            self.turn(clear[:32])
        assert (clear[32:36], int.from_bytes(clear[40:], "big")) == (bytes(4), self.received)
        self.received += 1
        self.ckr, mk = evaluate("6", "ck_next || mk", ck=self.ckr)
        scope = {"nonce": nonce, "sealed_header": sealed_header, "header": header, "mk": mk, **vars(session)}
        bk, expected = evaluate("6", "bk || kc", **scope)
        assert hmac.compare_digest(kc, expected)
        return clear[:32], unpad(bindings.crypto_secretbox_open_easy(box, nonce, bk))


def data_plaintext(index: int, data: bytes, action: bytes = b"", **parts: Any) -> bytes:
    plaintext: bytes = evaluate(
        "6",
        "data_plaintext",
        index=index,
        action=action,
        data=data,
        **({"parts": 0, "item": b"", "ack": b"", "refs": b""} | parts),
    )
    return plaintext


class Textual:
    """An agent that knows nothing but the page."""

    def __init__(self, clock: ManualClock) -> None:
        self.me = Self()
        self.clock = clock
        self.session = SimpleNamespace()
        self.index = 0

    def header(self, kind: int, recipient: str, time_ms: int | None = None) -> bytes:
        scope = {"kind": kind, "mesh": MESH, "sender": self.me.did, "recipient": recipient}
        header: bytes = evaluate("4", "header", time=time_ms or self.clock(), **scope)
        return header

    def publish(self) -> bytes:
        """Return a one-time bundle (section 3)."""
        self.p, self.P = key_pair()
        self.kem = MLKEM768PrivateKey.generate()
        scope = {
            "class_": 1,
            "mesh": MESH,
            "IK": self.me.IK,
            "ik": self.me.ik,
            "P": self.P,
            "KEM": self.kem.public_key().public_bytes_raw(),
            "not_before": self.clock(),
            "not_after": self.clock() + 30 * DAY_MS,
        }
        scope["bundle_body"] = evaluate("3", "bundle_body", **scope)
        self.bundle_ref = evaluate("3", "bundle_ref", **scope)
        bundle: bytes = evaluate("3", "bundle", **scope)
        return bundle

    def derive(self, scope: dict[str, Any]) -> dict[str, bytes]:
        """Return what section 5 derives from DH1, DH2, DH3, ss and the public values."""
        derived = {"th": evaluate("5", "th", **scope)}
        derived["prk"] = evaluate("5", "prk", **derived, **scope)
        for name in ("root", "intent_key", "hk_ba", "hk_ab", "session_id"):
            derived[name] = evaluate("5", name, **derived)
        return derived

    # --- as B ----------------------------------------------------------------------------------------------------

    def take_knock(self, outgoing: Outgoing) -> tuple[list[Any], bytes | None, int]:
        """Return (intent, early payload, fresh) of a KNOCK, having verified and reproduced all of its bytes."""
        envelope = bytes(outgoing)
        header, body = unpack(envelope)
        _, kind, mesh, sender, recipient, _ = unpack(header)
        assert (kind, mesh, recipient) == (1, MESH, self.me.did)
        inner, signature = unpack(body)
        IK_A, bundle_ref, EK, ct, expires, sealed_intent = unpack(inner)  # noqa: N806 - the page's names
        assert sender == evaluate("2", "did", IK=IK_A)
        assert bundle_ref == self.bundle_ref
        XK_A = bindings.crypto_sign_ed25519_pk_to_curve25519(IK_A)  # noqa: N806
        scope = {
            "header": header,
            "inner": inner,
            "mesh": mesh,
            "IK_A": IK_A,
            "IK_B": self.me.IK,
            "bundle_ref": bundle_ref,
            "EK": EK,
            "ct": ct,
            "expires": expires,
            "ss": self.kem.decapsulate(ct),
        }
        assert evaluate("5", "knock_body", Sign=verifier(IK_A, signature), ik_a=None, **scope) == body
        secrets = {"p_b": self.p, "xk_b": self.me.xk, "XK_A": XK_A, "EK": EK}
        scope.update((name, evaluate("5", name, 1, **secrets)) for name in ("DH1", "DH2", "DH3"))
        derived = self.derive(scope)
        nonce, kc, box = sealed_intent[:24], sealed_intent[24:56], sealed_intent[56:]
        opening = {"key": derived["intent_key"], "label": "am1-intent", "nonce": nonce, "context": header}
        bk, expected = evaluate("1.2", "bk || kc", **opening)
        assert hmac.compare_digest(kc, expected)
        content = unpad(bindings.crypto_secretbox_open_easy(box, nonce, bk))
        sealed = evaluate(
            "5", "sealed_intent", seal=sealer(nonce), header=header, content=content, intent_key=derived["intent_key"]
        )
        assert sealed == sealed_intent
        self.session = SimpleNamespace(session_id=derived["session_id"], th=derived["th"])
        self.receipt, self.peer, self.EK, self.derived = (
            evaluate("4", "receipt", envelope=envelope),
            sender,
            EK,
            derived,
        )
        intent, early_payload, fresh = unpack(content)
        return intent, early_payload, fresh

    def accept(self, max_messages: int | None, ttl_seconds: int | None, allowed_actions: list[str] | None) -> bytes:
        r, R_B = key_pair()  # noqa: N806
        self.ratchet = Ratchet(self.derived["root"], r, R_B, b"", self.derived["hk_ab"])
        self.ratchet.start_as_b(self.EK, self.derived["hk_ba"])
        header = self.header(2, self.peer)
        scope = {"max_messages": max_messages, "ttl_seconds": ttl_seconds, "allowed_actions": allowed_actions}
        conditions = evaluate("5.2", "conditions", **scope)
        content = evaluate(
            "5.2",
            "accept_content",
            header=header,
            th=self.session.th,
            knock_receipt=self.receipt,
            R_B=R_B,
            conditions=conditions,
            ik_b=self.me.ik,
        )
        return self.envelope(header, evaluate("6", "accept_plaintext", accept_content=content))

    def reject(self, reason: str) -> bytes:
        header = self.header(3, self.peer)
        content = evaluate("5.2", "reject_content", knock_receipt=self.receipt, reason=reason, retry_after=7)
        body = evaluate("5.2", "reject_body", reject_content=content, header=header, ik_b=self.me.ik)
        envelope: bytes = evaluate("4", "envelope", header=header, body=body)
        return envelope

    # --- as A ----------------------------------------------------------------------------------------------------

    def take_bundle(self, bundle: bytes) -> None:
        body, signature = unpack(bundle)
        version, _, mesh, self.IK_B, self.P_B, self.KEM_B, _, self.not_after = unpack(body)
        assert (version, mesh) == (1, MESH)
        assert evaluate("3", "bundle", bundle_body=body, Sign=verifier(self.IK_B, signature), ik=None) == bundle
        self.peer = evaluate("2", "did", IK=self.IK_B)
        self.bundle_ref = evaluate("3", "bundle_ref", bundle_body=body)

    def knock(self, action: str, capabilities: list[str], detail: bytes, early_payload: bytes | None) -> bytes:
        e, EK = key_pair()  # noqa: N806
        ss, ct = MLKEM768PublicKey.from_public_bytes(self.KEM_B).encapsulate()
        header = self.header(1, self.peer)
        scope = {
            "mesh": MESH,
            "IK_A": self.me.IK,
            "IK_B": self.IK_B,
            "bundle_ref": self.bundle_ref,
            "EK": EK,
            "ct": ct,
            "ss": ss,
            "expires": self.clock() + DAY_MS,
            "header": header,
            "ik_a": self.me.ik,
        }
        XK_B = bindings.crypto_sign_ed25519_pk_to_curve25519(self.IK_B)  # noqa: N806
        secrets = {"xk_a": self.me.xk, "e": e, "P_B": self.P_B, "XK_B": XK_B}
        scope.update((name, evaluate("5", name, 0, **secrets)) for name in ("DH1", "DH2", "DH3"))
        derived = self.derive(scope)
        intent = {"action": action, "capabilities": capabilities, "detail": detail}
        scope["content"] = evaluate("5", "content", early_payload=early_payload, fresh=1, **intent)
        scope["intent_key"] = derived["intent_key"]
        scope["sealed_intent"] = evaluate("5", "sealed_intent", seal=sealer(os.urandom(24)), **scope)
        scope["inner"] = evaluate("5", "inner", **scope)
        envelope: bytes = evaluate("4", "envelope", header=header, body=evaluate("5", "knock_body", **scope))
        self.receipt = evaluate("4", "receipt", envelope=envelope)
        self.session = SimpleNamespace(session_id=derived["session_id"], th=derived["th"])
        self.ratchet = Ratchet(derived["root"], e, EK, derived["hk_ab"], derived["hk_ba"])
        return envelope

    def take_accept(self, envelope: bytes) -> list[Any]:
        """Return the conditions of an ACCEPT, verified."""
        header, body = unpack(envelope)
        assert unpack(header)[1] == 2
        R_B, plaintext = self.ratchet.open(self.session, header, body)  # noqa: N806
        conditions, signature = unpack(plaintext[1:])
        scope = {"header": header, "knock_receipt": self.receipt, "R_B": R_B, "th": self.session.th}
        content = evaluate(
            "5.2", "accept_content", Sign=verifier(self.IK_B, signature), ik_b=None, conditions=conditions, **scope
        )
        assert evaluate("6", "accept_plaintext", accept_content=content) == plaintext
        return unpack(conditions)

    def take_reject(self, envelope: bytes) -> list[Any]:
        header, body = unpack(envelope)
        content, signature = unpack(body)
        scope = {"reject_content": content, "header": header, "Sign": verifier(self.IK_B, signature), "ik_b": None}
        assert evaluate("5.2", "reject_body", **scope) == body
        return unpack(content)

    # --- both ----------------------------------------------------------------------------------------------------

    def envelope(self, header: bytes, plaintext: bytes) -> bytes:
        body = self.ratchet.seal(self.session, header, plaintext)
        envelope: bytes = evaluate("4", "envelope", header=header, body=body)
        return envelope

    def send(self, data: bytes, action: bytes = b"") -> bytes:
        self.index += 1
        plaintext = data_plaintext(self.index, data, action)
        return self.envelope(self.header(4, self.peer), plaintext)

    def close(self, reason: str, data_sent: int, data_opened: int) -> bytes:
        counts = {"data_sent": data_sent, "data_opened": data_opened}
        return self.envelope(self.header(4, self.peer), evaluate("6", "close_plaintext", reason=reason, **counts))

    def receive(self, envelope: bytes | Outgoing) -> bytes:
        envelope = bytes(envelope)
        header, body = unpack(envelope)
        assert unpack(header)[1] == 4
        return self.ratchet.open(self.session, header, body)[1]


# --- epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 2, 2**32 - 1])
def test_an_offer_and_its_answer_are_what_section_6_3_says(epoch: int) -> None:
    seed, limits = os.urandom(64), Limits(epoch_turns=1)
    live = MLKEM768PrivateKey.from_seed_bytes(seed)
    ek = live.public_key().public_bytes_raw()
    offered, half = Offering(epoch - 1, turns=1).item_out(0, SimpleNamespace(token=lambda _size: seed), limits)
    assert offered == evaluate("6.3", "offer", epoch=epoch, ek=ek)
    answering = Answering(epoch - 1).take(parse_item(offered, True), SystemEntropy())
    ct = answering.answer[4:1092]
    pq, tag = evaluate("6.3", "pq || tag", ss=live.decapsulate(ct), epoch=epoch, ek=ek, ct=ct)
    assert answering.answer == evaluate("6.3", "answer", epoch=epoch, ct=ct, tag=tag)
    assert answering.secret == half.take(parse_item(answering.answer, False), SystemEntropy()).secret == pq
    assert (len(offered), len(answering.answer)) == (1188, 1124)


@pytest.mark.parametrize("pq", [b"", bytes(range(32))])
def test_the_root_step_is_what_section_6_says(pq: bytes) -> None:
    root, dh = os.urandom(32), os.urandom(32)
    stated = tuple(evaluate("6", name, rk=root, dh=dh, pq=pq) for name in ("rk_next", "ck", "nhk"))
    assert SUITE.kdf_root(RootKey(root), dh + pq) == stated


# --- it converses with the library's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("early_payload", [None, b"early"])
def test_the_library_knocks_at_an_agent_made_of_the_page(early_payload: bytes | None) -> None:
    clock = ManualClock()
    alice, bob = Agent.create(MESH, clock=clock), Textual(clock)
    intent = Intent("summarise", capabilities=["a", "b"], detail=bytes(200))
    knock = alice.knock(bob.me.did, bob.publish(), intent, early_payload=early_payload)
    assert bob.take_knock(knock) == (["summarise", ["a", "b"], bytes(200)], early_payload, 1)
    assert bob.receipt == knock.receipt
    assert bob.session.session_id == knock.session_id

    [event] = alice.receive(bob.accept(3, 3600, ["summarise", "ask"]))
    assert event.conditions == Conditions(max_messages=3, ttl_seconds=3600, allowed_actions=["summarise", "ask"])
    first = 1 + (early_payload is not None)
    assert bob.receive(alice.send(bob.me.did, b"one")) == data_plaintext(first, b"one")
    assert bob.receive(alice.send(bob.me.did, b"two", action="ask")) == data_plaintext(first + 1, b"two", b"ask")
    for turn in range(3):
        [event] = alice.receive(bob.send(b"answer %d" % turn, b"ask" if turn else b""))
        assert (event.plaintext, event.action) == (b"answer %d" % turn, "ask" if turn else "summarise")
        assert event.number == turn + 1
        if turn == 0 and early_payload is None:
            assert bob.receive(alice.send(bob.me.did, b"three")) == data_plaintext(3, b"three")
    sent = 3
    closed, over = alice.receive(bob.close("done", 3, sent))
    assert (closed.reason, closed.missing, closed.peer_opened, over.phase) == ("done", (), sent, "closed")
    answer = bob.receive(closed.reply)
    assert (answer[:1], unpack(answer[1:])) == (b"\x02", ["", sent, 3])


def test_an_agent_made_of_the_page_knocks_at_the_library() -> None:
    clock = ManualClock()
    alice, bob = Textual(clock), Agent.create(MESH, clock=clock)
    alice.take_bundle(bob.publish_bundles(1).one_time[0])
    [event] = bob.receive(alice.knock("report", ["x"], b"detail", b"early"))
    assert (event.did, event.intent.action, event.intent.capabilities) == (alice.me.did, "report", ("x",))
    assert (event.intent.detail, event.fresh, event.receipt) == (b"detail", True, alice.receipt)

    accepted = bob.accept(event, Conditions(max_messages=9))
    assert (accepted.early_payload, accepted.session_id) == (b"early", alice.session.session_id)
    assert alice.take_accept(accepted.envelope) == [9, None, None]
    alice.index = 1  # the early payload's
    [event] = bob.receive(alice.send(b"hello", b"greet"))
    assert (event.plaintext, event.action, event.number) == (b"hello", "greet", 2)
    assert alice.receive(bob.send(alice.me.did, bytes(5000))) == data_plaintext(1, bytes(5000))
    [event] = bob.receive(alice.send(b""))
    assert (event.plaintext, event.action, event.number) == (b"", "report", 3)
    close = alice.receive(bob.close(alice.me.did, "enough"))
    assert (close[:1], unpack(close[1:])) == (b"\x02", ["enough", 1, 3])
    closed, over = bob.receive(alice.close("", 3, 1))
    assert (closed.missing, over.phase, closed.reply) == ((), "closed", None)


def test_signals_and_acknowledgements_go_both_ways() -> None:
    clock = ManualClock()
    alice, bob = Textual(clock), Agent.create(MESH, clock=clock, acknowledge=True)
    alice.take_bundle(bob.publish_bundles(1).one_time[0])
    [event] = bob.receive(alice.knock("report", [], b"", None))
    alice.take_accept(bob.accept(event).envelope)
    for _ in range(2):
        bob.receive(alice.send(b"said"))
    alice.send(b"lost")
    bob.receive(alice.send(b"said"))
    ack = evaluate("6", "ack", k=2, ranges=b"".join(n.to_bytes(4, "big") for n in (1, 2, 4, 4)))
    assert alice.receive(bob.send(alice.me.did, b"heard")) == data_plaintext(1, b"heard", parts=4, ack=ack)
    bob.receive(alice.send(b"more"))
    clock.advance(ms=250)
    [signal] = [event.reply for event in bob.poll() if event.reply is not None]
    ack = evaluate("6", "ack", k=2, ranges=b"".join(n.to_bytes(4, "big") for n in (1, 2, 4, 5)))
    assert alice.receive(signal) == evaluate("6", "signal_plaintext", parts=4, item=b"", ack=ack)
    ack = evaluate("6", "ack", k=1, ranges=b"".join(n.to_bytes(4, "big") for n in (1, 1)))
    plaintext = evaluate("6", "signal_plaintext", parts=4, item=b"", ack=ack)
    [delivered] = bob.receive(alice.envelope(alice.header(4, alice.peer), plaintext))
    assert delivered.indices == (range(1, 2),)


def test_rejects_go_both_ways() -> None:
    clock = ManualClock()
    library, textual = Agent.create(MESH, clock=clock), Textual(clock)
    textual.take_knock(library.knock(textual.me.did, textual.publish(), Intent("x")).envelope)
    [event] = library.receive(textual.reject("policy"))
    assert (event.reason, event.retry_after_seconds) == (Reason.POLICY, 7)

    textual.take_bundle(library.publish_bundles(1).one_time[0])
    [event] = library.receive(textual.knock("x", [], b"", None))
    rejected = library.reject(event, Reason.BUSY, retry_after_seconds=60).envelope
    assert textual.take_reject(rejected) == [textual.receipt, "busy", 60]


def test_what_was_altered_is_refused_by_the_page_too() -> None:
    clock = ManualClock()
    alice, bob = Agent.create(MESH, clock=clock), Textual(clock)
    knock = bytes(alice.knock(bob.me.did, bob.publish(), Intent("x")).envelope)
    altered = knock[:-1] + bytes([knock[-1] ^ 1])
    with pytest.raises(Exception, match=r"forged|corrupt"):
        bob.take_knock(altered)
    bob.take_knock(knock)


class Drawn:
    """Randomness, and what was drawn of it, in order."""

    def __init__(self) -> None:
        self.tokens: list[bytes] = []

    def token(self, size: int) -> bytes:
        self.tokens.append(os.urandom(size))
        return self.tokens[-1]

    encapsulate = SystemEntropy().encapsulate


def test_what_stands_in_a_store_is_what_the_page_says() -> None:
    entropy, name, passphrase = Drawn(), "agent", "correct horse"
    library = Sealer.new(name, passphrase, entropy=entropy)
    salt, data_key, _ = entropy.tokens
    rows: dict[tuple[str, bytes], bytes | None] = {
        ("session", b"k" * 16): b"s" * 300, ("agent", b""): b"seed", ("log", bytes(7) + b"\x05"): b"entry"
    }  # fmt: skip
    put, _ = library.seal_rows(rows, 1, 9)

    key_row = put["key", b""]
    *head, wrapped = unpack(key_row)
    assert head == [1, 1, salt, 3, 65536]
    w = argon2id.kdf(32, passphrase.encode(), salt, opslimit=head[3], memlimit=head[4] << 10)
    scope: dict[str, Any] = {"name": name, "how": 1, "salt": salt, "passes": 3, "memory": 65536, "D": data_key, "W": w}
    assert wrapped == evaluate("7.2", "wrapped", seal=sealer(wrapped[:24]), **scope)
    keys = {key: evaluate("7.2", key, **scope) for key in ("row_key", "name_key", "set_key")}

    def stored(kind: str, hidden: bytes, key: bytes, data: bytes) -> bytes:
        found = put[kind, hidden]
        parts = {"number": 1, "kind": kind, "hidden": hidden, "key": key, "data": data}
        assert found == evaluate("7.2", "stored", seal=sealer(found[8:32]), name=name, **parts, **keys)
        return found

    total = 0
    for (kind, key), data in rows.items():
        assert data is not None
        if kind == "log":
            stored(kind, key, key, data)
            continue
        hidden = evaluate("7.2", "hidden", kind=kind, key=key, **keys)
        row = stored(kind, hidden, key, data)
        share = evaluate("7.2", "share", kc=row[32:64], tag=row[64:80], **keys)
        total ^= int.from_bytes(share, "big")
    stored("head", b"", b"", msgpack(1, 9, 2, total.to_bytes(32, "big"), 5, 6))
    assert len(put) == len(rows) + 2


# --- attachments, section 6.6 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 64, 65, 65536, 65537, 200_000])
def test_an_attachment_made_of_the_page_is_opened_and_the_librarys_is_the_pages(size: int) -> None:
    ak, c, data = os.urandom(32), 16, os.urandom(size)
    P = padme(max(size, 1))  # noqa: N806 - the page's
    n = -(-P // 2**c)
    padded = data.ljust(P, b"\x00")
    chunks = []
    for i in range(n):
        context = evaluate("6.6", "outer" if i == n - 1 else "inner", i=i, c=c, size=size)
        piece = padded[i * 2**c : (i + 1) * 2**c]
        seal = sealer(os.urandom(24))
        chunks.append(evaluate("6.6", "chunk", seal=seal, ak=ak, context=context, piece=piece))
    index = b"".join(evaluate("6.6", "leaf", chunk=chunk) for chunk in chunks)
    receipt = evaluate("6.6", "receipt", c=c, P=P, index=index)
    fields = {"name": "a name", "media_type": "a/type", "where": "there"}
    reference = parse_reference(evaluate("6.6", "reference", ak=ak, size=size, c=c, receipt=receipt, **fields))
    assert isinstance(reference, Attachment)
    assert reference.blob_id == evaluate("6.6", "blob_id", ak=ak)
    assert (reference.padded_bytes, reference.chunks, reference.name) == (P, n, "a name")
    opener = AttachmentOpener(reference)
    opener.take_tail(chunks[-1] + index)
    assert b"".join(opener.open(i, chunk) for i, chunk in enumerate(chunks)) == data
    disclosed = evaluate("8.4", "attachment_disclosure", ak=ak, size=size, c=c)
    assert AttachmentDisclosure.of(reference).reveal() == disclosed
    sealing = AttachmentSealer(chunk_exponent=c, **fields)  # and the other way round
    *made, made_index = [*sealing.update(data), *sealing.finish()]
    ak = sealing.attachment.key.reveal()
    for i, chunk in enumerate(made):
        context = evaluate("6.6", "outer" if i == n - 1 else "inner", i=i, c=c, size=size)
        piece = padded[i * 2**c : (i + 1) * 2**c]
        assert chunk == evaluate("6.6", "chunk", seal=sealer(chunk[:24]), ak=ak, context=context, piece=piece)
    assert made_index == b"".join(evaluate("6.6", "leaf", chunk=chunk) for chunk in made)
    receipt = evaluate("6.6", "receipt", c=c, P=P, index=made_index)
    encoded = evaluate("6.6", "reference", ak=ak, size=size, c=c, receipt=receipt, **fields)
    assert sealing.attachment.encode() == encoded


_CHANGES = {"label": (r"am1-[a-z-]+", "am1-wrong"), "signature": (r"\[[a-z]+\]", "[trust]")}


@pytest.mark.parametrize(
    ("section", "name", "change"),
    [
        pytest.param(section, name, change, id=f"{section} {name}")
        for (section, name), sides in formulas().items()
        for change, (pattern, _) in _CHANGES.items()
        if section != "8" and name != "receipt" and re.search(pattern, sides[0])
    ],
)
def test_a_page_with_one_wrong_label_does_not_suffice(
    section: str, name: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, wrong = _CHANGES[change]
    sides = [re.sub(pattern, wrong, side) for side in formulas()[section, name]]
    monkeypatch.setitem(formulas(), (section, name), sides)
    conversations: tuple[Callable[[], None], ...] = (
        lambda: test_the_library_knocks_at_an_agent_made_of_the_page(None),
        test_an_agent_made_of_the_page_knocks_at_the_library,
        test_rejects_go_both_ways,
        lambda: test_an_offer_and_its_answer_are_what_section_6_3_says(1),
        test_what_stands_in_a_store_is_what_the_page_says,
        lambda: test_an_attachment_made_of_the_page_is_opened_and_the_librarys_is_the_pages(65537),
    )
    failed = 0
    for conversation in conversations:
        try:
            conversation()
        except Exception:
            failed += 1
    assert failed


# --- the audit log, section 8 ----------------------------------------------------------------------------------------


def test_entries_and_checkpoints_are_what_section_8_says() -> None:
    clock = ManualClock()
    log = AuditLog(MemorySink())
    me = Self()
    identity = Identity.from_seed(me.ik[:32])
    alice = Agent.create(MESH, identity=identity, clock=clock, journal=AuditJournal(log))
    bob = Textual(clock)
    knock = alice.knock(bob.me.did, bob.publish(), Intent("x"))
    bob.take_knock(knock)
    alice.receive(bob.accept(None, None, None))
    sealed = alice.send(bob.me.did, b"hello", disclosable=True)

    names = "sequence previous at event mesh sender recipient envelope_time receipt session_id number size class_"
    previous, leaves, fields = bytes(32), [], []
    for sequence, entry in enumerate(log.entries()):
        version, *values = unpack(entry)
        fields.append(dict(zip([*names.split(), "decision", "reason", "count"], values, strict=True)))
        assert (version, fields[-1]["sequence"], fields[-1]["previous"]) == (1, sequence, previous)
        assert evaluate("8", "entry", **fields[-1]) == entry
        previous = evaluate("8", "entry_hash", entry=entry)
        leaves.append(previous)
    assert [(entry["event"], entry["decision"], entry["number"]) for entry in fields] == [
        ("knock.sent", "info", 0),
        ("knock.accepted", "allow", 0),
        ("message.sealed", "info", 1),
    ]
    assert fields[0]["receipt"] == bob.receipt
    assert fields[2]["receipt"] == sealed.receipt
    assert fields[2]["size"] == len(sealed.envelope)
    assert fields[2]["class_"] == 1

    first = sha256(b"\x01" + leaves[0] + leaves[1])
    root = sha256(b"\x01" + first + leaves[2])  # RFC 9162, section 2.1.1
    scope = {"mesh": MESH, "IK": me.IK, "ik": me.ik, "size": 3, "time": clock(), "root": root}
    scope["checkpoint_body"] = evaluate("8", "checkpoint_body", **scope)
    checkpoint = log.checkpoint(identity, mesh=MESH, time_ms=clock())
    assert checkpoint.statement == evaluate("8", "checkpoint", **scope)


def test_a_disclosed_key_opens_its_envelope_as_section_8_1_says() -> None:
    clock = ManualClock()
    alice, bob = Agent.create(MESH, clock=clock), Textual(clock)
    bob.take_knock(alice.knock(bob.me.did, bob.publish(), Intent("x")).envelope)
    alice.receive(bob.accept(None, None, None))
    sealed = alice.send(bob.me.did, b"hello", disclosable=True)
    header, body = unpack(sealed.envelope)
    scope = {"nonce": body[16:40], "sealed_header": body[40:100], "header": header, **vars(bob.session)}
    bk, kc = evaluate("6", "bk || kc", mk=sealed.disclosure.key.reveal(), **scope)
    assert kc == body[100:132]
    assert unpad(bindings.crypto_secretbox_open_easy(body[132:], body[16:40], bk)) == data_plaintext(1, b"hello")


# --- signed statements, section 9.1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trust", "edge", "continuity", "revocation"])
def test_statements_are_what_section_9_1_says(name: str) -> None:
    me, other = Self(), Self()
    issuer, subject = (Identity.from_seed(agent.ik[:32]) for agent in (me, other))
    about = {"mesh": MESH, "sequence": 7, "time_ms": DAY_MS}
    issued = {
        "trust": lambda: trust.issue_trust(issuer, subject.key, -150, **about),
        "edge": lambda: trust.issue_edge(issuer, subject.key, 700, **about),
        "continuity": lambda: trust.issue_continuity(issuer, subject, **about),
        "revocation": lambda: trust.issue_revocation(issuer, subject.key, **about),
    }[name]()
    scope: dict[str, Any] = {"issuer": me.IK, "subject": other.IK, "mesh": MESH, "sequence": 7, "time": DAY_MS}
    scope |= {"label": label(name), "issuer_key": me.ik, "subject_key": other.ik}
    scope |= {"direction": 0, "amount": 150, "weight": 700}
    scope["head"] = evaluate("9.1", "head", **scope)
    scope["consent"] = evaluate("9.1", "consent", **scope)
    scope["body"] = evaluate("9.1", f"{name}_body", **scope)
    statement = evaluate("9.1", "statement", **scope)
    assert statement == issued
    verified: Statement = getattr(trust, f"verify_{name}")(statement, mesh=MESH)
    assert verified.digest == evaluate("9.1", "digest", **scope)
