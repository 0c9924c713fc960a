"""The suite of version 1 (section 6): the form of a message, its derivations, and what does not open."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult, crypto_secretbox_easy, crypto_secretbox_open_easy

from agentmesh.errors import BadPoint, DecryptionFailed, Malformed
from agentmesh.limits import COUNTER_MAX
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.needs import RatchetHeader
from agentmesh.session.suite import MESSAGE_OVERHEAD_BYTES, SUITE
from agentmesh.testing import SeededEntropy

brisk = settings(max_examples=max(1, settings().max_examples // 2))
keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=24, max_size=24)
counters = st.integers(0, COUNTER_MAX)
headers = st.tuples(keys.map(X25519PublicKey), counters, counters, counters)


def blake(key: bytes, label: bytes, data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=label.ljust(16, b"\x00")).digest()


def sealed(
    header: RatchetHeader,
    plaintext: bytes = b"plaintext",
    *,
    header_key: bytes = b"h" * 32,
    message_key: bytes = b"m" * 32,
    context: bytes = b"context",
    nonce: bytes = b"n" * 24,
) -> bytes:
    return b"".join(SUITE.seal(HeaderKey(header_key), MessageKey(message_key), header, context, plaintext, nonce))


HEADER = (X25519PublicKey(b"k" * 32), 2, 3, 7)


@given(headers, keys, keys, st.binary(max_size=80), st.binary(max_size=200), nonces)
@brisk
def test_the_form_of_a_message_is_the_protocols(
    header: RatchetHeader, header_key: bytes, message_key: bytes, context: bytes, plaintext: bytes, nonce: bytes
) -> None:
    message = sealed(header, plaintext, header_key=header_key, message_key=message_key, context=context, nonce=nonce)
    key, *numbers = header
    clear = key + b"".join(number.to_bytes(4, "big") for number in numbers)
    sealed_header = crypto_secretbox_easy(clear, nonce, header_key)
    derived = blake(message_key, b"am1-message", nonce + sealed_header + context, 64)
    box = crypto_secretbox_easy(plaintext, nonce, derived[:32])
    assert message == nonce + sealed_header + derived[32:] + box
    assert len(message) == MESSAGE_OVERHEAD_BYTES + len(plaintext) == 132 + len(plaintext)


@given(headers, keys, keys, st.binary(max_size=80), st.binary(max_size=200), nonces, st.integers(0, 40))
@brisk
def test_what_is_sealed_opens_wherever_it_begins(
    header: RatchetHeader,
    header_key: bytes,
    message_key: bytes,
    context: bytes,
    plaintext: bytes,
    nonce: bytes,
    start: int,
) -> None:
    message = sealed(header, plaintext, header_key=header_key, message_key=message_key, context=context, nonce=nonce)
    frame = SUITE.parse(bytes(start) + message, start)
    assert SUITE.open_header(HeaderKey(header_key), frame) == header
    assert SUITE.open_body(MessageKey(message_key), frame, context) == plaintext


@given(keys, keys | st.binary(min_size=64, max_size=64))  # an agreement, or one with the secret of an epoch behind it
def test_the_derivations_are_the_protocols(key: bytes, shared: bytes) -> None:
    root, chain, header = SUITE.kdf_root(RootKey(key), shared)
    assert root == blake(key, b"am1-ratchet-root", shared, 32)
    assert chain == blake(key, b"am1-ratchet-ck", shared, 32)
    assert header == blake(key, b"am1-ratchet-hk", shared, 32)
    assert SUITE.kdf_chain(ChainKey(key)) == (
        blake(key, b"am1-chain", b"", 64)[:32],
        blake(key, b"am1-chain", b"", 64)[32:],
    )


@given(st.integers())
@brisk
def test_both_sides_agree(seed: int) -> None:
    entropy = SeededEntropy(seed)
    (secret, public), (other_secret, other_public) = SUITE.key_pair(entropy), SUITE.key_pair(entropy)
    assert SUITE.dh(secret, other_public) == SUITE.dh(other_secret, public) == crypto_scalarmult(secret, other_public)


@pytest.mark.parametrize(
    "point",
    [bytes(31), bytes(33), b"", bytes(32), b"\x01" + bytes(31), b"\xff" * 32, bytes(31) + b"\x80"],
    ids=["31 bytes", "33 bytes", "none", "0", "1", "2^256 - 1", "0 and the top bit"],
)
def test_a_bad_point_is_refused(point: bytes) -> None:
    with pytest.raises(BadPoint):
        SUITE.dh(X25519Secret(b"s" * 32), X25519PublicKey(point))


def test_two_encodings_of_an_honest_point_are_one_too_many() -> None:
    public = SUITE.key_pair(SeededEntropy(1))[1]
    with_top_bit = public[:31] + bytes([public[31] | 0x80])
    assert crypto_scalarmult(b"s" * 32, with_top_bit) == SUITE.dh(X25519Secret(b"s" * 32), public)
    with pytest.raises(BadPoint):
        SUITE.dh(X25519Secret(b"s" * 32), X25519PublicKey(with_top_bit))


@given(st.integers(0, MESSAGE_OVERHEAD_BYTES - 1), st.integers(0, 20))
@brisk
def test_what_cannot_hold_a_message_is_malformed(length: int, start: int) -> None:
    with pytest.raises(Malformed):
        SUITE.parse(bytes(start + length), start)
    assert SUITE.parse(bytes(start + MESSAGE_OVERHEAD_BYTES), start)


def test_every_flipped_bit_fails_the_body() -> None:
    message = sealed(HEADER)
    for bit in range(8 * len(message)):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        frame = SUITE.parse(bytes(flipped), 0)
        if bit < 8 * 84:  # nonce and sealed header
            assert SUITE.open_header(HeaderKey(b"h" * 32), frame) is None
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(b"m" * 32), frame, b"context")


@given(keys, st.binary(max_size=40))
@brisk
def test_another_key_or_context_opens_nothing(key: bytes, context: bytes) -> None:
    frame = SUITE.parse(sealed(HEADER), 0)
    if key != b"h" * 32:
        assert SUITE.open_header(HeaderKey(key), frame) is None
    if (key, context) != (b"m" * 32, b"context"):
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(key), frame, context)
    if context != b"context":
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(b"m" * 32), frame, context)


def test_header_and_context_cannot_trade_bytes() -> None:
    # nonce and sealed header have fixed lengths, so what is joined in the derivation can be cut in one way alone.
    frame = SUITE.parse(sealed(HEADER, context=b"xcontext"), 0)
    with pytest.raises(DecryptionFailed):
        SUITE.open_body(MessageKey(b"m" * 32), frame, b"context")


def test_the_body_is_bound_to_its_header() -> None:
    one, two = sealed(HEADER, nonce=b"1" * 24), sealed((*HEADER[:3], 8), nonce=b"1" * 24)
    for spliced in (one[:84] + two[84:], two[:84] + one[84:], one[:116] + two[116:]):
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(b"m" * 32), SUITE.parse(spliced, 0), b"context")


# --- the commitment --------------------------------------------------------------------------------------------------


@given(keys, keys, nonces, st.binary(max_size=64))
@brisk
def test_a_box_that_opens_without_its_commitment_is_refused(
    mine: bytes, other: bytes, nonce: bytes, plaintext: bytes
) -> None:
    if mine == other:
        return
    message = sealed(HEADER, plaintext, message_key=mine, nonce=nonce)
    foreign = sealed(HEADER, plaintext, message_key=other, nonce=nonce)
    assert message[:84] == foreign[:84]
    # The box alone opens under the one key, the commitment alone names the other: neither holder takes it.
    swapped = SUITE.parse(foreign[:116] + message[116:], 0)
    derived = blake(mine, b"am1-message", nonce + message[24:84] + b"context", 64)
    assert crypto_secretbox_open_easy(message[116:], nonce, derived[:32]) == plaintext
    for key in (mine, other):
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(key), swapped, b"context")


def test_the_commitment_is_compared_first_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    compare, unbox = _crypto.constant_time_equal, _crypto.secretbox_try_open

    def compared(first: bytes, second: bytes) -> bool:
        events.append("compare")
        return compare(first, second)

    def opened(box: bytes, nonce: bytes, key: bytes) -> bytes | None:
        events.append("open")
        return unbox(box, nonce, key)

    monkeypatch.setattr(_crypto, "constant_time_equal", compared)
    monkeypatch.setattr(_crypto, "secretbox_try_open", opened)
    frame = SUITE.parse(sealed(HEADER), 0)
    SUITE.open_body(MessageKey(b"m" * 32), frame, b"context")
    assert events == ["compare", "open"]
    events.clear()
    with pytest.raises(DecryptionFailed):
        SUITE.open_body(MessageKey(b"x" * 32), frame, b"context")
    assert events == ["compare"]


def test_both_boxes_under_one_nonce_have_two_keys() -> None:
    # A header key equal to a message's box key would repeat a keystream; they come from different derivations.
    message = sealed(HEADER, bytes(44), header_key=b"m" * 32, message_key=b"m" * 32)
    assert message[40:84] != message[132:176]
