"""AGT's X3DH: both sides agree, on what the definition says, and on nothing with a key that is none."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.agt.agreement import context_of, initiate, respond
from agentmesh.errors import BadPoint
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import RootKey, X25519PublicKey, X25519Secret

brisk = settings(max_examples=max(1, settings().max_examples // 2))
seeds = st.binary(min_size=32, max_size=32)
P = 2**255 - 19
NO_KEYS = [
    u.to_bytes(32, "little")
    for u in (
        0,
        1,
        P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P,
        P + 1,
        P + 9,
        2**255 + 9,
        2**256 - 1,
    )
] + [b"", bytes(31), bytes(33)]


class Made(NamedTuple):
    """Everything that goes into one agreement."""

    a: Identity
    b: Identity
    signed: X25519Secret
    one_time: X25519Secret | None
    ephemeral: X25519Secret

    def initiated(self) -> RootKey:
        one_time = None if self.one_time is None else public(self.one_time)
        return initiate(self.a, self.b.key.dh, public(self.signed), one_time, self.ephemeral)

    def responded(self, *, legacy: bool = False) -> RootKey:
        ephemeral = public(self.ephemeral)
        return respond(self.b, self.a.key.dh, ephemeral, self.signed, self.one_time, legacy=legacy)


secrets = seeds.map(X25519Secret)
agreements = st.builds(
    Made, seeds.map(Identity.from_seed), seeds.map(Identity.from_seed), secrets, st.none() | secrets, secrets
)
ONE = Made(
    Identity.from_seed(b"a" * 32),
    Identity.from_seed(b"b" * 32),
    X25519Secret(b"s" * 32),
    X25519Secret(b"o" * 32),
    X25519Secret(b"e" * 32),
)


def public(secret: bytes) -> X25519PublicKey:
    return X25519PublicKey(_crypto.x25519_public(secret))


def openssl(secret: bytes, theirs: bytes) -> bytes:
    private = x25519.X25519PrivateKey.from_private_bytes(secret)
    return private.exchange(x25519.X25519PublicKey.from_public_bytes(theirs))


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt, ikm, "sha256"), info + b"\x01", "sha256")


def image(seed: bytes) -> bytes:
    return hashlib.sha512(seed).digest()[:32]  # OpenSSL clamps it


@given(agreements)
@brisk
def test_both_sides_agree_on_what_the_definition_says(made: Made) -> None:
    # As A computes it: with its own secrets, and public keys of B alone.
    ika, signed = image(made.a.seed.reveal()), public(made.signed)
    agreed = openssl(ika, signed) + openssl(made.ephemeral, made.b.key.dh) + openssl(made.ephemeral, signed)
    if made.one_time is not None:
        agreed += openssl(made.ephemeral, public(made.one_time))
    expected = hkdf(b"\xff" * 32 + agreed, bytes(32), b"AgentMesh_X3DH_v1")
    assert made.initiated() == made.responded() == expected
    assert made.responded(legacy=True) == hkdf(agreed, b"\xff" * 32, b"AgentMesh_X3DH_v1") != expected


def test_the_two_kdfs_on_counted_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check values of both: the agreed bytes are 0 to 95."""
    pieces = iter([bytes(range(at, at + 32)) for at in (0, 32, 64)] * 2)
    monkeypatch.setattr(_crypto, "x25519", lambda *_: next(pieces))
    made = ONE._replace(one_time=None)
    today, legacy = made.responded().hex(), made.responded(legacy=True).hex()
    assert (today[:8], today[-4:]) == ("f8682588", "5bfa")
    assert (legacy[:8], legacy[-4:]) == ("4d1a12fa", "e22b")


@given(agreements, st.sampled_from(Made._fields), seeds)
@brisk
def test_every_key_counts(made: Made, name: str, seed: bytes) -> None:
    other = made._replace(**{name: Identity.from_seed(seed) if name in "ab" else X25519Secret(seed)})
    assert other.initiated() == other.responded()
    same = (
        _crypto.x25519_public(seed) == _crypto.x25519_public(getattr(made, name) or bytes(32))
        if name not in "ab"
        else (getattr(made, name).seed.reveal() == seed)
    )
    if not same:
        assert other.initiated() != made.initiated()


def test_the_zeroth_one_time_prekey_and_none_differ() -> None:
    assert ONE.initiated() != ONE._replace(one_time=None).initiated()


@pytest.mark.parametrize("bad", NO_KEYS, ids=lambda bad: bad.hex()[:16] or "empty")
def test_no_key_of_the_peer_may_be_none(bad: bytes) -> None:
    wrong, a, b = X25519PublicKey(bad), ONE.a, ONE.b
    signed, one_time, ephemeral = public(ONE.signed), public(b"o" * 32), public(ONE.ephemeral)
    calls = [
        lambda: initiate(a, wrong, signed, one_time, ONE.ephemeral),
        lambda: initiate(a, b.key.dh, wrong, one_time, ONE.ephemeral),
        lambda: initiate(a, b.key.dh, signed, wrong, ONE.ephemeral),
        lambda: respond(b, wrong, ephemeral, ONE.signed, None),
        lambda: respond(b, a.key.dh, wrong, ONE.signed, None),
        lambda: respond(b, a.key.dh, wrong, ONE.signed, ONE.one_time, legacy=True),
    ]
    for call in calls:
        with pytest.raises(BadPoint) as caught:
            call()
        # No frame that is kept has a secret among its locals.
        trace, frames = caught.value.__traceback__, []
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert not {"initiate", "respond", "_dh", "x25519"} & set(frames)


def test_the_context_keeps_the_initiator_first() -> None:
    a, b = ONE.a.key, ONE.b.key
    assert context_of("did:mesh:a", "did:mesh:b", a.dh, b.dh) == b"did:mesh:a|did:mesh:b" + a.dh + b.dh
    assert context_of("did:mesh:a", "did:mesh:b", a.dh, b.dh) != context_of("did:mesh:b", "did:mesh:a", b.dh, a.dh)
