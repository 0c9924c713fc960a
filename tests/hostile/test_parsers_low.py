"""Every decoder of the lower layers against hostile bytes: errors of ours only, in bounded memory, and nothing accepted
that is not the one form of what it says."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import envelope
from agentmesh.envelope import Header, Kind, OuterEnvelope
from agentmesh.errors import (
    AgentMeshError,
    BadDid,
    BadIdentityKey,
    BadPoint,
    BadSignature,
    BundleExpired,
    BundleIdentityMismatch,
    BundleMeshMismatch,
    DecryptionFailed,
    Malformed,
    TooLarge,
    UnknownVersion,
)
from agentmesh.handshake.agreement import initiate, respond
from agentmesh.handshake.prekeys import (
    PUBLISHED_LAYOUT,
    BundleClass,
    export_published,
    issue_bundle,
    restore_published,
    verify_bundle,
)
from agentmesh.identity import Identity, IdentityKey, parse_did, sign_statement, split_statement, verify_statement
from agentmesh.primitives import _crypto, _wire, aead, padding
from agentmesh.primitives._labels import MESSAGE, SIGN_TRUST
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.primitives.keys import KemCiphertext, TranscriptHash, X25519PublicKey

brisk = settings(max_examples=max(1, settings().max_examples // 2))
MESH, NOW = "example/prod", 1_700_000_000_000
ALICE, BOB = Identity.from_seed(b"alice123" * 4), Identity.from_seed(b"bob12345" * 4)
BUNDLE, PUBLISHED = issue_bundle(
    BOB, bundle_class=BundleClass.ONE_TIME, mesh=MESH, not_before_ms=NOW, not_after_ms=NOW + 10, entropy=SystemEntropy()
)
INITIATION = initiate(
    ALICE, verify_bundle(BUNDLE, did=BOB.did, mesh=MESH, now_ms=NOW), expires_ms=NOW + 5, entropy=SystemEntropy()
)
HEADER = Header(kind=Kind.KNOCK, mesh=MESH, sender=ALICE.did, recipient=BOB.did, time_ms=NOW)
KEM_KEY = _crypto.kem_key(bytes(64))
SEALED = aead.seal(bytes(32), MESSAGE, b"context", padding.pad(b"a text"), bytes(range(24)))
EXPORTED = _wire.encode(export_published(PUBLISHED))
USED = _wire.encode(export_published(PUBLISHED.used()))


def read_envelope(data: bytes) -> bytes:
    outer = OuterEnvelope.parse(data)
    return envelope.build(outer.header.encode(), outer.body)


def read_pair(data: bytes) -> bytes:
    return _wire.encode(_wire.decode_pair(data, 4096))


def read_statement(data: bytes) -> bytes:
    body, signature = split_statement(data, 4096)
    return _wire.encode([verify_statement(ALICE.key, SIGN_TRUST, body, signature), signature])


def read_bundle(data: bytes) -> bytes:
    bundle = verify_bundle(data, did=BOB.did, mesh=MESH, now_ms=NOW)
    assert bundle.ref == PUBLISHED.ref
    return BUNDLE


def read_published(data: bytes) -> bytes:
    return _wire.encode(export_published(restore_published(_wire.decode(data, PUBLISHED_LAYOUT, 1000))))


def read_sealed(data: bytes) -> bytes:
    assert aead.open_sealed(bytes(32), MESSAGE, b"context", data) == padding.pad(b"a text")
    return SEALED


def read_point(data: bytes) -> bytes:
    secrets = PUBLISHED.secrets
    assert secrets is not None
    respond(
        BOB, secrets, initiator=ALICE.key, ephemeral=X25519PublicKey(data), kem_ciphertext=INITIATION.kem_ciphertext,
        th=TranscriptHash(bytes(64)),
    )  # fmt: skip
    return data


def read_ciphertext(data: bytes) -> bytes:
    assert len(_crypto.kem_decapsulate(KEM_KEY, KemCiphertext(data))) == 32
    return data


def read_kem_key(data: bytes) -> bytes:
    _crypto.kem_check(data)
    return data


def read_signature(data: bytes) -> bytes:
    ALICE.key.verify(SIGN_TRUST, b"body", data)
    return ALICE.sign(SIGN_TRUST, b"body")


@attrs.frozen
class Decoder:
    """A decoder, written so that it returns the one encoding of what it took; good inputs; and how it refuses."""

    read: Callable[[bytes], bytes]
    samples: tuple[bytes, ...]
    errors: tuple[type[AgentMeshError], ...]


DECODERS = {
    "header": Decoder(lambda d: Header.decode(d).encode(), (HEADER.encode(),), (Malformed, TooLarge, UnknownVersion)),
    "envelope": Decoder(
        read_envelope,
        (envelope.build(HEADER.encode(), b""), envelope.build(HEADER.encode(), bytes(range(256)) * 2)),
        (Malformed, TooLarge, UnknownVersion),
    ),
    "pair": Decoder(read_pair, (_wire.encode([b"a", b"b" * 300]), _wire.encode([b"", b""])), (Malformed, TooLarge)),
    "statement": Decoder(
        read_statement, (sign_statement(ALICE, SIGN_TRUST, b"a body"),), (Malformed, TooLarge, BadSignature)
    ),
    "bundle": Decoder(
        read_bundle,
        (BUNDLE,),
        (
            Malformed, TooLarge, UnknownVersion, BundleIdentityMismatch, BundleMeshMismatch, BundleExpired,
            BadIdentityKey, BadPoint, BadSignature,
        ),
    ),
    "published": Decoder(read_published, (EXPORTED, USED), (Malformed, TooLarge)),
    "sealed": Decoder(read_sealed, (SEALED,), (DecryptionFailed,)),
    "padded": Decoder(
        lambda d: padding.pad(padding.unpad(d)),
        (padding.pad(b""), padding.pad(b"x" * 64), padding.pad(bytes(900))),
        (DecryptionFailed,),
    ),
    "identity key": Decoder(lambda d: IdentityKey(d).raw, (ALICE.key.raw, BOB.key.raw), (BadIdentityKey,)),
    "ephemeral key": Decoder(read_point, (INITIATION.ephemeral,), (BadPoint,)),
    "KEM key": Decoder(read_kem_key, (_crypto.kem_public(KEM_KEY),), (BadPoint,)),
    "KEM ciphertext": Decoder(read_ciphertext, (INITIATION.kem_ciphertext,), (BadPoint,)),
    "signature": Decoder(read_signature, (ALICE.sign(SIGN_TRUST, b"body"),), (BadSignature,)),
    "DID": Decoder(
        lambda d: parse_did(d.decode("latin-1")).encode(), (ALICE.did.encode(), BOB.did.encode()), (BadDid,)
    ),
}  # fmt: skip
each_decoder = pytest.mark.parametrize("name", DECODERS)


def put(decoder: Decoder, data: bytes) -> bool:
    """Offer bytes; say whether they were taken. Anything but one of the decoder's own errors fails the test."""
    try:
        canonical = decoder.read(data)
    except decoder.errors as error:
        if error.__context__ is not None or error.__cause__ is not None:
            raise
        return False
    assert canonical == data
    return True


@pytest.fixture(autouse=True)
def _nothing_changes() -> Iterator[None]:
    yield
    assert _wire.encode(export_published(PUBLISHED)) == EXPORTED


# --- mutations of good inputs -----------------------------------------------------------------------------------------


@each_decoder
def test_good_inputs_are_taken(name: str) -> None:
    for sample in DECODERS[name].samples:
        assert put(DECODERS[name], sample)


@each_decoder
def test_every_truncation_and_extension(name: str) -> None:
    decoder = DECODERS[name]
    for sample in decoder.samples:
        changed = [sample[:cut] for cut in range(len(sample))]
        changed += [sample + tail for tail in (b"\x00", b"\xc0", b"\xff", sample)]
        taken = sum(put(decoder, data) for data in changed)
        # Nothing in a DID or a padding says how long it was: another length may be another name, or another text.
        assert taken == 0 or name in ("DID", "padded")


@each_decoder
def test_flipped_bits(name: str) -> None:
    decoder = DECODERS[name]
    taken = total = 0
    for sample in decoder.samples:
        for bit in range(0, 8 * len(sample), 1 if len(sample) < 400 else 7):
            altered = bytearray(sample)
            altered[bit // 8] ^= 1 << bit % 8
            total += 1
            taken += put(decoder, bytes(altered))
    assert total > 200
    if name in ("bundle", "statement", "signature", "sealed"):
        assert taken == 0  # authentic ones have one form


SPICES = [
    b"\x00",
    b"\x80",
    b"\x90",
    b"\xc0",
    b"\xc1",
    b"\xc4\x00",
    b"\xc6\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xff",
]


@each_decoder
@given(st.data())
@brisk
def test_arbitrary_surgery(name: str, data: st.DataObject) -> None:
    decoder = DECODERS[name]
    mutated = bytearray(data.draw(st.sampled_from(decoder.samples)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        end = min(len(mutated), start + data.draw(st.integers(0, 40)))
        mutated[start:end] = data.draw(
            st.binary(max_size=12) | st.sampled_from(SPICES) | st.just(bytes(mutated[start:end]) * 2)
        )
    put(decoder, bytes(mutated))


@each_decoder
def test_a_thousand_random_mutations(name: str) -> None:
    decoder, source = DECODERS[name], random.Random(name)
    for _ in range(1000):
        mutated = bytearray(source.choice(decoder.samples))
        for _ in range(source.randint(1, 8)):
            mutated[source.randrange(len(mutated))] = source.randrange(256)
        put(decoder, bytes(mutated))


@each_decoder
@given(noise=st.binary(max_size=400))
@brisk
def test_noise(name: str, noise: bytes) -> None:
    put(DECODERS[name], noise)


# --- one decoder's input in another -----------------------------------------------------------------------------------


def test_no_input_passes_for_another() -> None:
    # What has no structure but its length is whatever it is used for: a point, a key, a ciphertext. A pair is any pair,
    # and one ciphertext in 256 ends as a padded text does.
    raw = {"ephemeral key", "identity key", "KEM ciphertext", "KEM key", "pair"}
    for (name, decoder), (other, source) in itertools.permutations(DECODERS.items(), 2):
        for sample in source.samples:
            if put(decoder, sample):
                assert name in raw or (name == "padded" and sample.endswith((b"\x80", b"\x00"))), (name, other)


# --- hostile structures -----------------------------------------------------------------------------------------------


def tree(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = b"\x92" + data + data
    return data


SIZE = 1 << 18
BOMBS = {
    "empty": b"",
    "600 arrays deep": b"\x91" * 600 + b"\xc0",
    "100,000 arrays deep": b"\x91" * 100_000,
    "100,000 maps deep": b"\x81\xa0" * 100_000,
    "100,000 pairs deep": b"\x92\xc4\x00" * 100_000,
    "a claim of 4 GiB of bytes": b"\x92\xc6\xff\xff\xff\xff",
    "a claim of 4 GiB of text": b"\x92\xdb\xff\xff\xff\xff",
    "a claim of 2^32 elements": b"\xdd\xff\xff\xff\xff",
    "a claim of 2^32 pairs": b"\xdf\xff\xff\xff\xff",
    "a claim of 4 GiB of ext": b"\xc9\xff\xff\xff\xff\x01",
    "as many elements as bytes": b"\xdd" + struct.pack(">I", SIZE) + b"\xc0" * SIZE,
    "as many arrays as bytes": b"\xdd" + struct.pack(">I", SIZE) + b"\x90" * SIZE,
    "as many texts as bytes": b"\xdd" + struct.pack(">I", SIZE) + b"\xa0" * SIZE,
    "arrays in a pair": b"\x92\xdd" + struct.pack(">I", SIZE) + b"\x90" * SIZE + b"\xc4\x00",
    "nested claims": (b"\xdd" + struct.pack(">I", SIZE - 1)) * 1000 + bytes(SIZE),
    "a tree": tree(17),
    "a repeated key": b"\x82\xa1a\x01\xa1a\x02",
    "timestamps": b"\x92" + b"\xd6\xff" + bytes(4) + b"\xd7\xff" + bytes(8),
    "zeros": bytes(SIZE),
    "ones": b"\xff" * SIZE,
    "markers": b"\x80" * SIZE,
    "a pickle": b"\x80\x04\x95\x17\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "a header of bombs": msgpack.packb([b"\x91" * 300, b""]),
    "a body of bombs": msgpack.packb([tree(10), b""]),
}


# To a pair, bytes are bytes; and a text of markers, padded, is one marker longer.
NO_BOMBS = {("pair", "a header of bombs"), ("pair", "a body of bombs"), ("padded", "markers")}


@each_decoder
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_little_memory(name: str, bomb: str) -> None:
    decoder, data = DECODERS[name], BOMBS[bomb]
    if (name, bomb) in NO_BOMBS:
        assert put(decoder, data)
        return
    tracemalloc.start()
    try:
        taken = put(decoder, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not taken
    assert peak < 2 * len(data) + 100_000


@each_decoder
def test_what_is_far_too_large_is_refused(name: str) -> None:
    for size in (3 << 20, 20 << 20):
        assert not put(DECODERS[name], b"\x92" * size)
