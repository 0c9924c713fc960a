"""The outer envelope: what a relay reads, and the one form of it (section 4)."""

from __future__ import annotations

import hashlib
import itertools
from enum import StrEnum
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import envelope
from agentmesh.envelope import Header, Kind, OuterEnvelope, envelope_head, is_mesh_name, message_heads, receipt_of
from agentmesh.errors import ArgumentInvalid, Malformed, RemoteError, TooLarge, UnknownVersion
from agentmesh.identity import DID_PREFIX
from agentmesh.limits import DID_MAX_BYTES, MESH_MAX_BYTES, UINT_MAX, Limits
from agentmesh.primitives import _wire

brisk = settings(max_examples=max(1, settings().max_examples // 2))
MESH_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789._/-"
# Letters that look or count like good ones: accented, full-width, Cyrillic, an Arabic digit, invisible, half, script.
BEYOND = "\u00e9\uff41\u0430\u0663\u200b\ud800\U0001d4b6"
meshes = st.text(MESH_LETTERS, min_size=1, max_size=MESH_MAX_BYTES)
dids = st.text(
    "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=1, max_size=DID_MAX_BYTES - len(DID_PREFIX)
).map(DID_PREFIX.__add__)
times = st.integers(0, UINT_MAX) | st.sampled_from([0, 127, 128, 2**32 - 1, 2**32, UINT_MAX])
headers = st.builds(Header, kind=st.sampled_from(Kind), mesh=meshes, sender=dids, recipient=dids, time_ms=times)
bodies = st.binary(max_size=400)

ALICE, BOB = DID_PREFIX + "2" * 27, DID_PREFIX + "3" * 27
HEADER = Header(kind=Kind.MESSAGE, mesh="example/prod", sender=ALICE, recipient=BOB, time_ms=1_700_000_000_000)


def header_with(**changes: Any) -> bytes:
    """The header's encoding by msgpack itself, with fields that `Header` would not take."""
    fields = {"version": 1, "kind": 4, "mesh": HEADER.mesh, "sender": ALICE, "recipient": BOB, "time": 5, **changes}
    packed: bytes = msgpack.packb(list(fields.values()))
    return packed


# --- headers ----------------------------------------------------------------------------------------------------------


@given(headers)
def test_headers_round_trip(header: Header) -> None:
    data = header.encode()
    assert Header.decode(data) == header
    assert data == msgpack.packb([1, int(header.kind), header.mesh, header.sender, header.recipient, header.time_ms])


def test_the_longest_header_passes() -> None:
    did = DID_PREFIX + "2" * (DID_MAX_BYTES - len(DID_PREFIX))
    longest = Header(kind=Kind.KNOCK, mesh="m" * MESH_MAX_BYTES, sender=did, recipient=did, time_ms=UINT_MAX)
    assert Header.decode(longest.encode()) == longest
    for change in ({"sender": did + "2"}, {"recipient": did + "2"}, {"mesh": "m" * 65}, {"time_ms": UINT_MAX + 1}):
        with pytest.raises(ArgumentInvalid):
            attrs.evolve(longest, **change).encode()


in_place = st.integers(1, 114).map(lambda count: DID_PREFIX + "1" * count)  # what stands in for a peer's DID


@given(meshes, dids | in_place, dids | in_place, st.integers(2**32, UINT_MAX))
def test_what_all_messages_of_an_agent_begin_with_is_what_an_encoder_writes(
    mesh: str, own: str, peer: str, time_ms: int
) -> None:
    heads = message_heads(mesh, own, len(peer))
    time = time_ms.to_bytes(8, "big")
    for before, behind, sender, recipient in (
        (heads.outwards, heads.before_time, own, peer),
        (heads.inwards, heads.behind, peer, own),
    ):
        header = Header(kind=Kind.MESSAGE, mesh=mesh, sender=sender, recipient=recipient, time_ms=time_ms).encode()
        assert before + peer.encode() + behind + time == envelope_head(header)
        assert (before + peer.encode() + behind + time)[heads.header_at :] == header


def test_a_mesh_name_has_forty_letters() -> None:
    for letter in [*map(chr, range(256)), *BEYOND]:
        good = letter in MESH_LETTERS
        for name in (letter, "a" + letter, letter + "a", letter * 16):
            assert is_mesh_name(name) is good
            if good:
                assert Header.decode(header_with(mesh=name)).mesh == name
                continue
            with pytest.raises(ArgumentInvalid) as caught:
                attrs.evolve(HEADER, mesh=name).encode()
            assert caught.value.argument == "mesh"
            if letter != "\ud800":  # which no encoder writes
                with pytest.raises(Malformed):
                    Header.decode(header_with(mesh=name))


def test_a_mesh_name_has_one_to_64_letters() -> None:
    assert is_mesh_name("a")
    assert is_mesh_name("a" * 64)
    for wrong in ("", "a" * 65, "a\n", b"a", None, 1, ["a"]):
        assert not is_mesh_name(wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(("mesh",), ("", "A", "a b", "a\n", b"a", None, 5, "a" * 65)),
        *itertools.product(("time_ms",), (-1, UINT_MAX + 1, 2**64, 1.0, True, None, "5")),
        *itertools.product(("sender", "recipient"), ("", "did:mesh:2", DID_PREFIX + "2" * 115, b"did", None, 5)),
        *itertools.product(("sender", "recipient"), (DID_PREFIX + "\ud800",)),
        *itertools.product(("kind",), (0, 5, 255, None, "4", True)),
    ],
)
def test_encode_refuses_what_no_receiver_takes(field: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        attrs.evolve(HEADER, **{field: value}).encode()
    assert caught.value.argument == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(("version", "kind", "time"), (-1, UINT_MAX + 1, 1.0, True, None, "1", b"1", [])),
        *itertools.product(("mesh",), ("", "A", "a b", "a" * 65, b"a", None, 5)),
        *itertools.product(("sender", "recipient"), ("", "did:mesh:2", "DID:agentmesh:2", b"did:agentmesh:2", None)),
        *itertools.product(("sender", "recipient"), (DID_PREFIX + "2" * 115,)),
        ("extra", 1),
        ("extra", None),
    ],
)
def test_decode_refuses_a_bad_field(field: str, value: Any) -> None:
    with pytest.raises(Malformed):
        Header.decode(header_with(**{field: value}))


def test_a_missing_field_is_refused() -> None:
    fields = msgpack.unpackb(HEADER.encode())
    for index in range(len(fields)):
        with pytest.raises(Malformed):
            Header.decode(msgpack.packb(fields[:index] + fields[index + 1 :]))


@pytest.mark.parametrize("version", [0, 2, 127, 128, 255, UINT_MAX])
def test_another_version_is_unknown(version: int) -> None:
    with pytest.raises(UnknownVersion):
        Header.decode(header_with(version=version))
    with pytest.raises(UnknownVersion):
        OuterEnvelope.parse(_wire.encode([header_with(version=version), b"body"]))


@pytest.mark.parametrize("kind", [0, 5, 127, 128, 255, UINT_MAX])
def test_another_kind_is_unknown(kind: int) -> None:
    with pytest.raises(UnknownVersion):
        Header.decode(header_with(kind=kind))
    with pytest.raises(UnknownVersion):
        OuterEnvelope.parse(_wire.encode([header_with(kind=kind), b"body"]))


def test_kinds_have_the_numbers_of_the_protocol() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {"KNOCK": 1, "ACCEPT": 2, "REJECT": 3, "MESSAGE": 4}


def test_an_oversize_header_is_refused_unparsed() -> None:
    with pytest.raises(TooLarge):
        Header.decode(header_with(sender=ALICE + "2" * 10_000))
    with pytest.raises(TooLarge):
        Header.decode(b"\xc1" * 1000)
    with pytest.raises(TooLarge):
        OuterEnvelope.parse(_wire.encode([b"\xc1" * 1000, b"body"]))


# --- a header in two halves: what a session's envelopes share, and the time -------------------------------------------


def time_behind(header: Header, header_bytes: bytes) -> int | None:
    """Return what an envelope with these bytes as its header tells of its time to whoever expects such a header."""
    outer = OuterEnvelope(envelope.build(header_bytes, b"body"), Limits())
    return outer.time_behind(envelope.envelope_prefix(header.prefix()))


long_times = st.integers(2**32, UINT_MAX) | st.sampled_from([2**32, 2**32 + 1, 2**48, UINT_MAX])


@given(headers, long_times)
def test_a_header_is_its_prefix_and_its_time(header: Header, time_ms: int) -> None:
    expected = attrs.evolve(header, time_ms=time_ms).encode()
    time = envelope.long_time(time_ms)
    assert time is not None
    assert header.prefix() + time == expected
    whole = envelope.build(expected, b"body")
    before = envelope.envelope_prefix(header.prefix())
    assert envelope.build_behind(before + time, b"bo", b"dy") == whole
    assert envelope.build_behind(envelope.envelope_head(expected), b"body") == whole
    assert time_behind(header, expected) == time_ms
    assert header.prefix() == attrs.evolve(header, time_ms=0).prefix()


@given(headers, times)
def test_a_time_of_another_form_is_left_to_the_codec(header: Header, time_ms: int) -> None:
    whole = attrs.evolve(header, time_ms=time_ms).encode()
    if time_ms < 2**32:
        assert envelope.long_time(time_ms) is None
        assert time_behind(header, whole) is None
    # The eight bytes could hold it; canonical they would not be.
    forced = header.prefix() + (time_ms % 2**32).to_bytes(8, "big")
    assert time_behind(header, forced) is None
    with pytest.raises(Malformed):
        Header.decode(forced)


@pytest.mark.parametrize("time_ms", [-1, 0, 2**32 - 1, UINT_MAX + 1, 2**64 - 1, 2**64])
def test_a_time_out_of_range_has_no_eight_bytes(time_ms: int) -> None:
    assert envelope.long_time(time_ms) is None


@given(headers, st.data())
@settings(max_examples=3 * settings().max_examples)
def test_the_quick_way_takes_nothing_that_the_codec_refuses(header: Header, data: st.DataObject) -> None:
    mutated = bytearray(header.encode())
    for _ in range(data.draw(st.integers(0, 2))):
        mutated[data.draw(st.integers(0, len(mutated) - 1) | st.integers(-9, -1))] = data.draw(st.integers(0, 255))
    for candidate in (bytes(mutated), bytes(mutated[:-1]), bytes(mutated) + b"\x00"):
        time_ms = time_behind(header, candidate)
        if time_ms is None:
            continue
        assert Header.decode(candidate) == attrs.evolve(header, time_ms=time_ms)


# --- envelopes --------------------------------------------------------------------------------------------------------


@given(headers, bodies | st.sampled_from([bytes(255), bytes(256), bytes(65535), bytes(65536)]))
@brisk
def test_envelopes_round_trip(header: Header, body: bytes) -> None:
    data = envelope.build(header.encode(), body)
    outer = OuterEnvelope.parse(data)
    assert outer.header == header
    assert outer.header_bytes == header.encode()
    assert outer.body == body
    assert outer.size_bytes == len(data)
    assert outer.receipt == receipt_of(data)
    assert data == msgpack.packb([header.encode(), body])


@given(st.binary(max_size=300))
@brisk
def test_the_receipt_is_sha256_under_its_label(data: bytes) -> None:
    assert receipt_of(data) == hashlib.sha256(b"agentmesh/v1/receipt\x00" + data).digest()


def test_a_published_receipt() -> None:
    data = envelope.build(HEADER.encode(), b"body")
    assert data[:2] == b"\x92\xc4"
    expected = hashlib.sha256(b"agentmesh/v1/receipt" + b"\x00" + data).hexdigest()
    assert OuterEnvelope.parse(data).receipt.hex() == expected


SAMPLE = envelope.build(HEADER.encode(), b"a sealed body of forty bytes, or somewhat")


@given(st.data())
@settings(max_examples=5 * settings().max_examples)
def test_a_mutation_is_refused_or_is_another_envelope_in_its_one_form(data: st.DataObject) -> None:
    mutated = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    if mutated == SAMPLE:
        return
    try:
        outer = OuterEnvelope.parse(bytes(mutated))
    except RemoteError:
        return
    assert envelope.build(outer.header_bytes, outer.body) == mutated
    assert outer.header.encode() == outer.header_bytes
    assert outer.receipt != receipt_of(SAMPLE)


def test_every_flipped_bit_of_the_framing_changes_or_refuses() -> None:
    genuine = OuterEnvelope.parse(SAMPLE)
    passed = 0
    for bit in range(8 * len(SAMPLE)):
        altered = bytearray(SAMPLE)
        altered[bit // 8] ^= 1 << bit % 8
        try:
            outer = OuterEnvelope.parse(bytes(altered))
        except (Malformed, UnknownVersion, TooLarge):
            continue
        passed += 1
        assert (outer.header_bytes, outer.body) != (genuine.header_bytes, genuine.body)
        assert outer.receipt != genuine.receipt
    # Bits of names, time and body can be flipped into other good ones: only the keys of the recipient tell.
    assert passed > 300


def test_every_truncation_extension_and_longer_form_is_refused() -> None:
    for cut in range(len(SAMPLE)):
        with pytest.raises(Malformed):
            OuterEnvelope.parse(SAMPLE[:cut])
    header_bytes, body = HEADER.encode(), b"body"
    short = [b"\x92", b"\xc4" + bytes([len(header_bytes)]) + header_bytes, b"\xc4\x04" + body]
    assert OuterEnvelope.parse(b"".join(short)).body == body
    longer = [
        [b"\xdc\x00\x02", b"\xdd\x00\x00\x00\x02"],
        [b"\xc5\x00" + short[1][1:], b"\xc6\x00\x00\x00" + short[1][1:]],
        [b"\xc5\x00" + short[2][1:], b"\xc6\x00\x00\x00" + short[2][1:]],
    ]
    for index, forms in enumerate(longer):
        for form in forms:
            with pytest.raises(Malformed):
                OuterEnvelope.parse(b"".join([*short[:index], form, *short[index + 1 :]]))
    for tail in (b"\x00", b"\xc0", SAMPLE):
        with pytest.raises(Malformed):
            OuterEnvelope.parse(SAMPLE + tail)
    assert header_bytes[0] == 0x96
    for head in (b"\xdc\x00\x06" + header_bytes[1:], header_bytes[:1] + b"\xcc\x01" + header_bytes[2:]):
        with pytest.raises(Malformed):
            OuterEnvelope.parse(envelope.build(head, body))


def test_the_size_limit_holds_at_the_byte() -> None:
    small = {"plaintext_max_bytes": 1, "intent_detail_max_bytes": 1, "capabilities_max": 1}
    for limits in (Limits(envelope_max_bytes=5000, **small), Limits(envelope_max_bytes=70_000, **small), None):
        maximum = 2 << 20 if limits is None else limits.envelope_max_bytes
        spare = maximum - len(envelope.build(HEADER.encode(), b""))
        # The body's length takes one byte in an empty one, and up to three more.
        [body] = [
            bytes(spare - more)
            for more in (0, 1, 3)
            if len(envelope.build(HEADER.encode(), bytes(spare - more))) == maximum
        ]
        data = envelope.build(HEADER.encode(), body)
        assert len(data) == maximum
        assert OuterEnvelope.parse(data, limits).body == body
        with pytest.raises(TooLarge):
            OuterEnvelope.parse(envelope.build(HEADER.encode(), body + b"\x00"), limits)
        with pytest.raises(TooLarge):
            OuterEnvelope.parse(b"\xc1" * (maximum + 1), limits)


@pytest.mark.parametrize("wrong", [None, "", "envelope", 5, [b""]])
def test_an_envelope_is_bytes(wrong: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        OuterEnvelope.parse(wrong)
    assert caught.value.argument == "envelope"


def test_an_envelope_may_stand_in_a_buffer() -> None:
    buffer = bytearray(SAMPLE)
    outer = OuterEnvelope.parse(buffer)  # type: ignore[arg-type]
    buffer[:] = bytes(len(buffer))  # whoever reads from a socket uses its buffer again
    assert type(outer.envelope) is bytes
    assert outer.envelope == OuterEnvelope.parse(memoryview(SAMPLE)).envelope == SAMPLE  # type: ignore[arg-type]


@pytest.mark.parametrize("falsy", [0, False, "", b"", [], {}, ()])
def test_limits_that_are_false_are_not_the_defaults(falsy: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        OuterEnvelope.parse(SAMPLE, falsy)
    assert caught.value.argument == "limits"


class Names(StrEnum):
    MESH = "acme/payments"
    ALICE = ALICE


@pytest.mark.parametrize("mesh", ["..", "../..", "/etc", "a//b", ".", "-rf"])
def test_a_mesh_name_is_no_path(mesh: str) -> None:
    # The protocol's grammar stays as it is: section 4 says what must not be made of a name.
    assert is_mesh_name(mesh)
    assert "must never become a path" in (is_mesh_name.__doc__ or "")


def test_a_header_takes_an_enum_s_text_and_keeps_plain_text() -> None:
    header = attrs.evolve(HEADER, mesh=Names.MESH, sender=Names.ALICE)
    assert {type(value) for value in (header.mesh, header.sender, header.recipient)} == {str}
    assert header.encode() == attrs.evolve(HEADER, mesh="acme/payments", sender=ALICE).encode()


@given(st.binary(max_size=200))
@brisk
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        OuterEnvelope.parse(data)
    assert type(caught.value) in (Malformed, TooLarge, UnknownVersion)
    assert caught.value.__context__ is None


def test_repr_shows_the_header_and_no_body() -> None:
    outer = OuterEnvelope.parse(envelope.build(HEADER.encode(), b"CANARY-BODY"))
    assert "CANARY" not in repr(outer)
    assert outer.receipt.hex() in repr(outer)
    assert ALICE in repr(outer)
