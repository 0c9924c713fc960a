"""The frames of AGT's relay: captured ones read and built again, and nothing else than ours raised on others."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt.encoding import read_timestamp, std64, timestamp, unbase64, url64, write_object
from agentmesh.agt.frames import (
    FRAME_MAX_BYTES,
    MESSAGE_MAX_BYTES,
    AgtFrame,
    AgtKnock,
    AgtSealed,
    KnockFrame,
    MessageFrame,
    RelayNotice,
    VerdictFrame,
    accept_frame,
    ack_frame,
    connect_frame,
    disconnect_frame,
    frame_id,
    frame_receipt,
    heartbeat_frame,
    knock_frame,
    message_frame,
    parse_frame,
    reject_frame,
)
from agentmesh.agt_identity import AgtIdentity, identity_of_dh
from agentmesh.envelope import receipt_of
from agentmesh.errors import (
    ArgumentInvalid,
    BadDid,
    BadPoint,
    Malformed,
    RandomnessFailed,
    RemoteError,
    TooLarge,
    UnknownVersion,
)
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.primitives.keys import SessionId, X25519PublicKey
from agentmesh.testing import SeededEntropy

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "agt"
KATS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(VECTORS.glob("kat-*.json"))}
MAX = 1 << 21
P = 2**255 - 19

ALICE, BOB = (AgtIdentity.from_seed(bytes([seed]) * 32) for seed in (1, 2))
POINT = ALICE.key.dh


def built(frame: Any) -> bytes:
    """Build what was read again."""
    routing = (frame.sender, frame.recipient, frame.frame_id, frame.time_ms)
    if isinstance(frame, KnockFrame):
        return knock_frame(
            *routing, dh=frame.dh, ephemeral=frame.ephemeral, one_time_id=frame.one_time_id, action=frame.action
        )
    if isinstance(frame, MessageFrame):
        return message_frame(*routing, frame.message)
    assert isinstance(frame, VerdictFrame)
    if frame.accepted:
        return accept_frame(*routing, frame.knock_id)
    return reject_frame(*routing, frame.knock_id, frame.reason)


# --- captured frames --------------------------------------------------------------------------------------------------

# What was captured are objects with their keys in order, not the bytes: clients and relay write JSON each in their way.
# So equal bytes here mean the same fields, values and order, written compactly.
ROUTED = [
    pytest.param(frame, id=f"{name}-{frame['type']}-{number}")
    for name, kat in KATS.items()
    for number, frame in enumerate([kat["frames"]["knock"], kat["frames"]["knock_accept"], *kat["frames"]["messages"]])
    if frame is not None
]


@pytest.mark.parametrize("captured", ROUTED)
def test_a_captured_frame_is_read_and_built_again(captured: dict[str, Any]) -> None:
    frame = parse_frame(write_object(captured), MAX)
    assert built(frame) == write_object(captured)
    assert not isinstance(frame, RelayNotice)
    assert (frame.sender, frame.recipient, frame.frame_id) == (captured["from"], captured["to"], captured["id"])
    assert timestamp(frame.time_ms) == captured["ts"]
    if isinstance(frame, KnockFrame):
        assert identity_of_dh(frame.sender, frame.dh).did == frame.sender
        assert frame.one_time_id == 0  # an id as any other
    if isinstance(frame, MessageFrame):
        header = captured["header"]
        numbers = header["pn"].to_bytes(4, "big") + header["n"].to_bytes(4, "big")
        assert frame.message == unbase64(header["dh"]) + numbers + unbase64(captured["ciphertext"])


@pytest.mark.parametrize("name", [name for name, kat in KATS.items() if not kat["legacy_kdf"]])
@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_a_captured_connection_is_built_again(name: str, side: str) -> None:
    captured = KATS[name]["frames"]["connect"][side]
    identity = AgtIdentity.from_seed(bytes.fromhex(KATS[name][side]["ed25519_seed"]))
    now_ms = read_timestamp(captured["timestamp"])
    assert connect_frame(identity, now_ms) == write_object(captured)
    assert json.loads(connect_frame(identity, now_ms, "a token")) == {**captured, "token": "a token"}


@pytest.mark.parametrize("name", KATS)
def test_captured_acknowledgements_and_notices(name: str) -> None:
    for ack in KATS[name]["frames"]["acks"]:
        assert ack_frame(ack["id"]) == write_object(ack)
    for notice in KATS[name]["frames"]["server_to_client_other"]:
        assert parse_frame(write_object(notice), MAX) == RelayNotice(notice["detail"])


def test_what_keeps_a_connection_is_written_as_measured() -> None:
    assert heartbeat_frame(ALICE.did, 5) == (
        b'{"v":1,"type":"heartbeat","from":"%s","ts":"1970-01-01T00:00:00.005Z"}' % ALICE.did.encode()
    )
    assert disconnect_frame(ALICE.did) == b'{"v":1,"type":"disconnect","from":"%s"}' % ALICE.did.encode()


# --- frames of any content --------------------------------------------------------------------------------------------

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=32)
points = st.integers(0, P - 1).map(lambda u: X25519PublicKey(u.to_bytes(32, "little")))
counters = st.integers(0, 2**32 - 1)
routing = {
    "sender": st.just(ALICE.did),
    "recipient": st.just(BOB.did),
    "frame_id": ids,
    "time_ms": st.integers(0, 253_402_300_799_999),
}
knocks = st.builds(
    KnockFrame,
    **routing,
    action=st.text(st.characters(codec="utf-8"), min_size=1, max_size=32),
    dh=points,
    ephemeral=points,
    one_time_id=st.none() | counters,
)
messages = st.builds(
    MessageFrame,
    **routing,
    message=st.builds(
        lambda dh, pn, n, sealed: dh + pn.to_bytes(4, "big") + n.to_bytes(4, "big") + sealed,
        points,
        counters,
        counters,
        st.binary(min_size=28, max_size=80),
    ),
)
accepts = st.builds(VerdictFrame, **routing, knock_id=ids, accepted=st.just(True), reason=st.just(""))
rejects = st.builds(VerdictFrame, **routing, knock_id=ids, accepted=st.just(False), reason=ids)
frames = st.one_of(knocks, messages, accepts, rejects)


def rewritten(data: bytes) -> bytes:
    """Write a frame as a relay may: keys turned round, blanks, no escapes, fields of its own."""
    fields = json.loads(data)
    return json.dumps({"x": {"y": [1, None]}, **dict(reversed(fields.items()))}, ensure_ascii=False, indent=1).encode()


@given(frames)
def test_frames_round_trip(frame: Any) -> None:
    data = built(frame)
    assert data.isascii()
    for form in (data, data.decode(), rewritten(data), rewritten(data).decode(), bytearray(data)):
        assert parse_frame(form, MAX) == frame


@given(frames, frames)
def test_a_receipt_is_that_of_the_fields(one: Any, other: Any) -> None:
    sent, received = AgtFrame(built(one)), AgtFrame(rewritten(built(one)))
    assert sent.receipt == received.receipt == frame_receipt(one)
    assert sent.text.encode() == bytes(sent) == sent.envelope
    later = attrs.evolve(one, time_ms=0)
    assert frame_receipt(later) == frame_receipt(one)  # nobody vouches for the time
    if attrs.evolve(other, time_ms=0) != later:
        assert frame_receipt(other) != frame_receipt(one)


@given(messages, knocks, rejects)
def test_every_field_is_part_of_the_receipt(message: MessageFrame, knock: KnockFrame, reject: VerdictFrame) -> None:
    for frame in (message, knock, reject):
        for name, other in {
            "sender": BOB.did, "recipient": ALICE.did, "frame_id": "other" * 9, "message": bytes(99),
            "action": "other" * 9, "dh": bytes([7] * 32), "ephemeral": bytes([7] * 32), "one_time_id": 2**32,
            "knock_id": "other" * 9, "accepted": True, "reason": "other" * 9,
        }.items():  # fmt: skip
            if hasattr(frame, name):
                assert frame_receipt(attrs.evolve(frame, **{name: other})) != frame_receipt(frame)


def test_what_no_peer_gets_has_the_receipt_of_its_bytes() -> None:
    for data in (connect_frame(ALICE, 0), heartbeat_frame(ALICE.did, 0), ack_frame("id"), disconnect_frame(ALICE.did)):
        assert AgtFrame(data).receipt == receipt_of(data)
    notice = b'{"type":"error","detail":"x"}'
    assert AgtFrame(notice).receipt == frame_receipt(RelayNotice("x"))


# --- strictness -------------------------------------------------------------------------------------------------------

KNOCK = json.loads(
    knock_frame(ALICE.did, BOB.did, "id", 5, dh=POINT, ephemeral=BOB.key.dh, one_time_id=0, action="act")
)
MESSAGE = json.loads(message_frame(ALICE.did, BOB.did, "id", 5, POINT + bytes(8) + bytes(28)))
ACCEPT = json.loads(accept_frame(ALICE.did, BOB.did, "id", 5, "knock"))
REJECT = json.loads(reject_frame(ALICE.did, BOB.did, "id", 5, "knock"))


def changed(frame: dict[str, Any], path: str, *value: Any) -> bytes:
    """Return a frame with one field replaced, or without it where there is no value."""
    fields = json.loads(json.dumps(frame))
    *parents, name = path.split(".")
    inner = fields
    for parent in parents:
        inner = inner[parent]
    if value:
        inner[name] = value[0]
    else:
        del inner[name]
    return json.dumps(fields).encode()


NOT_COUNTERS = [-1, 2**32, 2**64, True, False, 1.0, 0.5, "0", [], {}]
NOT_TEXTS = [5, True, None, [], {}, "", "x" * 129, "\u00e9" * 65]
NOT_DIDS = ["", None, 5, "did:agentmesh:" + "2" * 27, ALICE.did.upper(), ALICE.did + "0"]
NOT_KEYS = [None, 5, "", std64(bytes(31)), std64(bytes(33)), std64(POINT)[:-2] + "B=", std64(POINT) + "=", "!" * 44]
NOT_POINTS = [std64((P + 1).to_bytes(32, "little")), std64(b"\xff" * 32), std64(bytes(31) + b"\x80")]
NOT_OBJECTS = [None, 5, "x", [], True]

REFUSED: list[tuple[dict[str, Any], str, list[Any], type[RemoteError]]] = [
    *((frame, name, NOT_DIDS, BadDid) for frame in (KNOCK, MESSAGE, ACCEPT, REJECT) for name in ("from", "to")),
    *((frame, "id", NOT_TEXTS, Malformed) for frame in (KNOCK, MESSAGE, ACCEPT, REJECT)),
    *((frame, "knock_id", NOT_TEXTS, Malformed) for frame in (ACCEPT, REJECT)),
    (REJECT, "reason", [5, True, [], {}, "x" * 129], Malformed),
    (KNOCK, "intent", [5, "x", [], True], Malformed),
    (KNOCK, "intent.action", [5, True, [], {}, "", "x" * 129], Malformed),
    (KNOCK, "establishment", NOT_OBJECTS, Malformed),
    (KNOCK, "establishment.ik", NOT_KEYS, Malformed),
    (KNOCK, "establishment.ek", NOT_KEYS, Malformed),
    (KNOCK, "establishment.ik", NOT_POINTS, BadPoint),
    (KNOCK, "establishment.ek", NOT_POINTS, BadPoint),
    (KNOCK, "establishment.otk", NOT_COUNTERS, Malformed),
    (MESSAGE, "header", NOT_OBJECTS, Malformed),
    (MESSAGE, "header.dh", NOT_KEYS, Malformed),
    (MESSAGE, "header.dh", NOT_POINTS, BadPoint),
    (MESSAGE, "header.pn", [*NOT_COUNTERS, None], Malformed),
    (MESSAGE, "header.n", [*NOT_COUNTERS, None], Malformed),
    (MESSAGE, "ciphertext", [None, 5, "", std64(bytes(27)), std64(bytes(28)) + "=", "A" * 41], Malformed),
    *((frame, "type", [None, 5, True, [], {}], Malformed) for frame in (KNOCK, MESSAGE)),
    (KNOCK, "type", ["", "prekey_request", "connect", "ack", "heartbeat", "KNOCK"], UnknownVersion),
    *((frame, "v", [0, 2, True, 1.0, "1", None, []], UnknownVersion) for frame in (KNOCK, MESSAGE, ACCEPT, REJECT)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "path", "value", "error"),
    [
        pytest.param(frame, path, value, error, id=f"{frame['type']}-{path}-{str(value)[:12]!r}")
        for frame, path, values, error in REFUSED
        for value in values
    ],
)
def test_a_field_out_of_its_form_is_refused(
    frame: dict[str, Any], path: str, value: Any, error: type[RemoteError]
) -> None:
    with pytest.raises(error) as refused:
        parse_frame(changed(frame, path, value), MAX)
    assert type(refused.value) is error


@pytest.mark.parametrize(
    ("frame", "path"),
    [(frame, name) for frame in (KNOCK, MESSAGE, ACCEPT, REJECT) for name in ("type", "from", "to", "id")]
    + [(KNOCK, "establishment"), (KNOCK, "establishment.ik"), (KNOCK, "establishment.ek"), (MESSAGE, "header")]
    + [(MESSAGE, f"header.{name}") for name in ("dh", "pn", "n")]
    + [(MESSAGE, "ciphertext"), (ACCEPT, "knock_id"), (REJECT, "knock_id")],
)
def test_a_missing_field_is_refused(frame: dict[str, Any], path: str) -> None:
    with pytest.raises((Malformed, BadDid)):
        parse_frame(changed(frame, path), MAX)


@pytest.mark.parametrize("otk", [0, 1, 2**32 - 1])
def test_every_id_of_a_one_time_prekey_is_one(otk: int) -> None:
    frame = parse_frame(changed(KNOCK, "establishment.otk", otk), MAX)
    assert isinstance(frame, KnockFrame)
    assert frame.one_time_id == otk


def test_what_peers_leave_out_may_be_left_out() -> None:
    expected = parse_frame(json.dumps(KNOCK).encode(), MAX)
    assert parse_frame(changed(KNOCK, "v"), MAX) == expected
    for absent in (changed(KNOCK, "establishment.otk"), changed(KNOCK, "establishment.otk", None)):
        assert parse_frame(absent, MAX) == attrs.evolve(expected, one_time_id=None)
    assert b"otk" not in built(attrs.evolve(expected, one_time_id=None))
    for bare in (changed(KNOCK, "intent"), changed(KNOCK, "intent", None), changed(KNOCK, "intent.action")):
        assert parse_frame(bare, MAX) == attrs.evolve(expected, action="establish_session")
    for silent in (changed(REJECT, "reason"), changed(REJECT, "reason", None)):
        assert parse_frame(silent, MAX) == attrs.evolve(parse_frame(json.dumps(REJECT), MAX), reason="")


@pytest.mark.parametrize("ts", [None, 5, "", "yesterday", "2026-08-24T06:18:02.472", "x" * 1000, [], {}])
def test_a_time_that_is_not_to_be_read_is_none(ts: Any) -> None:
    for frame in (KNOCK, MESSAGE, ACCEPT, REJECT):
        for data in (changed(frame, "ts", ts), changed(frame, "ts")):
            read = parse_frame(data, MAX)
            assert not isinstance(read, RelayNotice)
            assert read.time_ms == 0


def test_fields_that_are_not_known_say_nothing() -> None:
    # Of these, some clients take `plaintext` for a licence to read the ciphertext as text.
    for frame in (KNOCK, MESSAGE, ACCEPT, REJECT):
        for name, value in {"plaintext": True, "signature": "x", "x3dh": {}, "accepted": False}.items():
            assert parse_frame(changed(frame, name, value), MAX) == parse_frame(json.dumps(frame), MAX)


@pytest.mark.parametrize("write", [std64, url64, lambda data: std64(data).rstrip("="), lambda data: url64(data) + "="])
def test_every_flavour_of_base64_is_read(write: Any) -> None:
    # 32 bytes, 28 and 29: with one, two and no sign of padding.
    key = X25519PublicKey(bytes([0xFB, 0xFF] * 15) + b"\xfb\x7f")
    assert "/" in std64(key)
    frame = parse_frame(changed(MESSAGE, "header.dh", write(key)), MAX)
    assert isinstance(frame, MessageFrame)
    assert frame.message[:32] == key
    knock = parse_frame(changed(KNOCK, "establishment.ek", write(key)), MAX)
    assert isinstance(knock, KnockFrame)
    assert knock.ephemeral == key


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
names = st.sampled_from(["ik", "dh", "n", "action"])
json_values = st.recursive(
    scalars | st.sampled_from([std64(POINT), ALICE.did]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
PATHS = [(frame, name) for frame in (KNOCK, MESSAGE, ACCEPT, REJECT) for name in frame] + [
    (frame, f"{name}.{inner}")
    for frame in (KNOCK, MESSAGE)
    for name, fields in frame.items()
    if isinstance(fields, dict)
    for inner in fields
]


@given(st.sampled_from(PATHS), json_values)
def test_any_value_of_a_field_is_read_or_refused_typed(place: tuple[dict[str, Any], str], value: Any) -> None:
    with contextlib.suppress(RemoteError):
        parse_frame(changed(*place, value), MAX)


@given(frames, st.integers(0, 4), st.binary(max_size=3), st.randoms())
def test_any_mutation_is_read_or_refused_typed(frame: Any, cut: int, put: bytes, chance: Any) -> None:
    data = built(frame)
    at = chance.randrange(len(data))
    broken = data[:at] + put + data[at + cut :]
    for form in (broken, broken.decode("utf-8", "surrogateescape")):
        with contextlib.suppress(RemoteError):
            parse_frame(form, MAX)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_anything_is_read_or_refused_typed(data: bytes | str) -> None:
    with contextlib.suppress(RemoteError):
        parse_frame(data, MAX)


@pytest.mark.parametrize("notice", [{}, {"detail": None}, {"detail": 5}, {"detail": ["x"]}])
def test_a_notice_without_words_is_one(notice: dict[str, Any]) -> None:
    assert parse_frame(write_object({"type": "error", **notice}), MAX) == RelayNotice("")


def test_a_notice_is_cut() -> None:
    assert parse_frame(write_object({"type": "error", "detail": "x" * 5000}), MAX) == RelayNotice("x" * 200)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: data.decode()])
def test_a_frame_over_the_limit_is_refused_by_its_size_alone(form: Any) -> None:
    data = json.dumps(MESSAGE).encode()
    assert parse_frame(form(data), len(data)) == parse_frame(data, MAX)
    for junk in (data, b"x" * len(data)):
        with pytest.raises(TooLarge) as refused:
            parse_frame(form(junk), len(data) - 1)
        assert (refused.value.got, refused.value.allowed) == (len(data), len(data) - 1)


def test_text_is_measured_in_bytes() -> None:
    data = json.dumps({**MESSAGE, "x": "\u00e9" * 20}, ensure_ascii=False)
    with pytest.raises(TooLarge):
        parse_frame(data, len(data) + 19)
    assert parse_frame(data, len(data) + 20) == parse_frame(json.dumps(MESSAGE), MAX)
    with pytest.raises(Malformed):
        parse_frame(json.dumps({**MESSAGE, "x": "\ud800"}, ensure_ascii=False), MAX)


@pytest.mark.parametrize("data", [None, 5, {}, ["x"]])
def test_what_is_neither_text_nor_bytes_is_the_callers_error(data: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        parse_frame(data, MAX)


def test_a_flood_of_fields_takes_bounded_memory() -> None:
    data = json.dumps(MESSAGE)[:-1].encode() + b',"x":[' + b"[]," * 600_000 + b"1]}"
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            parse_frame(data, MAX)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_longest_message_fits_and_no_longer_one_is_made() -> None:
    longest = b"\xff" * 40 + bytes(MESSAGE_MAX_BYTES - 40)
    routing = (ALICE.did, BOB.did, frame_id(SeededEntropy(1)), 253_402_300_799_999)
    data = message_frame(*routing, longest)
    # As any relay may write it, blanks and all; and not much under the limit.
    assert FRAME_MAX_BYTES - 512 < len(data) < len(json.dumps(json.loads(data))) <= FRAME_MAX_BYTES
    with pytest.raises(ArgumentInvalid) as refused:
        message_frame(*routing, longest + b"x")
    assert (refused.value.argument, refused.value.allowed) == ("data", MESSAGE_MAX_BYTES)


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_ids_are_random_uuids() -> None:
    for seed in range(20):
        text = frame_id(SeededEntropy(seed))
        assert str(UUID(text)) == text
        assert UUID(text).version == 4
    assert frame_id(SeededEntropy(1)) == frame_id(SeededEntropy(1)) != frame_id(SeededEntropy(2))


def test_an_id_of_a_broken_source_is_refused() -> None:
    class Short:
        def token(self, size: int, /) -> bytes:
            return bytes(size - 1)

        def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
            raise AssertionError

    with pytest.raises(RandomnessFailed):
        frame_id(CheckedEntropy(Short()))


def test_what_leaves_prints_neither_content_nor_token() -> None:
    secret = "a-token-that-is-secret"
    data = connect_frame(ALICE, 0, secret)
    knock = knock_frame(ALICE.did, BOB.did, "an-id", 0, dh=POINT, ephemeral=POINT, one_time_id=None)
    sealed = AgtSealed(message_frame(ALICE.did, BOB.did, "an-id", 0, POINT + bytes(36)), number=1, frame_id="an-id")
    sent = AgtKnock(knock, session_id=SessionId(bytes(16)), bundle_class=BundleClass.ONE_TIME, frame_id="an-id")
    for frame in (AgtFrame(data), sealed, sent):
        assert secret not in repr(frame)
        assert repr(frame).startswith(f"{type(frame).__name__}(envelope=<{len(frame.envelope)} bytes>, receipt=")


@given(frames)
def test_what_came_prints_nothing_that_a_peer_wrote(frame: Any) -> None:
    marked = {name: "PEER" * 4 for name in ("frame_id", "action", "knock_id", "reason") if hasattr(frame, name)}
    assert "PEER" not in repr(attrs.evolve(frame, **marked))
    assert "PEER" not in repr(RelayNotice("PEER"))
