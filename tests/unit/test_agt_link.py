"""One connection to AGT's relay: heartbeats by a clock, what is acknowledged, and what each end means."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt import AgtAgent
from agentmesh.agt.encoding import write_object
from agentmesh.agt.frames import connect_frame, heartbeat_frame, message_frame
from agentmesh.agt.link import Advice, RelayLink
from agentmesh.agt_identity import AgtIdentity
from agentmesh.errors import ArgumentInvalid, RandomnessFailed
from agentmesh.testing import SeededEntropy

ALICE, BOB = (AgtIdentity.from_seed(bytes([seed]) * 32) for seed in (1, 2))
START_MS = 1_787_552_282_472
MINUTE = 60_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


class Chance:
    """A source whose every byte is the same."""

    def __init__(self, byte: int = 0) -> None:
        self.byte = byte

    def token(self, size: int, /) -> bytes:
        return bytes([self.byte]) * size

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


def linked(token: str | None = None, byte: int = 0) -> tuple[RelayLink, Clock]:
    clock = Clock()
    return RelayLink(ALICE, clock, token, entropy=Chance(byte)), clock


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_connection_begins_with_its_proof() -> None:
    link, clock = linked("token")
    for now_ms in (START_MS, START_MS + 5):
        clock.now_ms = now_ms  # a proof is as old as its time: each connection has its own
        assert link.connect().envelope == connect_frame(ALICE, now_ms, "token")
    assert json.loads(link.disconnect().envelope)["type"] == "disconnect"
    assert "token" not in json.loads(linked()[0].connect().text)


def test_a_heartbeat_is_due_every_half_minute() -> None:
    link, clock = linked()
    clock.now_ms -= 10 * MINUTE
    assert link.heartbeat() is None
    clock.now_ms = START_MS
    assert link.heartbeat() is None  # nothing is connected, and the first frame is to be connect's
    assert link.next_heartbeat_ms == START_MS + 30_000
    link.connect()
    for beat in range(1, 20):
        due_ms = START_MS + beat * 30_000
        assert link.next_heartbeat_ms == due_ms
        clock.now_ms = due_ms - 1
        assert link.heartbeat() is None
        clock.now_ms = due_ms
        assert link.next_heartbeat_ms == due_ms
        frame = link.heartbeat()
        assert frame is not None
        assert frame.envelope == heartbeat_frame(ALICE.did, due_ms)
        assert link.heartbeat() is None
        assert not link.has_lapsed


def test_no_other_frame_stands_for_a_heartbeat() -> None:
    link, clock = linked()
    link.connect()
    for _ in range(3):
        clock.now_ms += 10_000
        link.ack(message_frame(BOB.did, ALICE.did, "id", 0, bytes(68)))
    assert link.heartbeat() is not None


def test_a_gap_between_heartbeats_is_mended_by_a_new_connection_alone() -> None:
    link, clock = linked()
    link.connect()
    clock.now_ms += 79_999
    assert not link.has_lapsed
    clock.now_ms += 1
    assert link.has_lapsed  # ten seconds early: a heartbeat needs to get there
    assert link.heartbeat() is not None
    assert link.has_lapsed
    clock.now_ms += 30_000
    assert link.heartbeat() is not None
    assert link.has_lapsed
    link.connect()
    assert not link.has_lapsed
    link.closed(1006)
    clock.now_ms += 10 * MINUTE
    assert not link.has_lapsed  # nothing is connected
    assert link.heartbeat() is None


def test_polling_hides_no_gap() -> None:
    link, clock = linked()
    link.connect()
    clock.now_ms += 95_000
    assert link.heartbeat() is not None
    assert link.has_lapsed


@pytest.mark.parametrize("jump_ms", [-10 * MINUTE, -(10**9), 0])
def test_a_clock_that_is_set_back_stops_no_heartbeat(jump_ms: int) -> None:
    link, clock = linked()
    link.connect()
    clock.now_ms += 10_000
    assert link.heartbeat() is None
    clock.now_ms += jump_ms
    assert link.next_heartbeat_ms == clock.now_ms + 20_000
    clock.now_ms += 20_000
    frame = link.heartbeat()
    assert frame is not None
    assert frame.envelope == heartbeat_frame(ALICE.did, clock.now_ms)


def test_a_clock_that_is_set_forward_brings_one_heartbeat() -> None:
    link, clock = linked()
    link.connect()
    clock.now_ms += 10**10
    assert link.next_heartbeat_ms == clock.now_ms
    assert link.heartbeat() is not None
    assert link.heartbeat() is None
    assert link.next_heartbeat_ms == clock.now_ms + 30_000


@given(st.lists(st.integers(0, 40_000), max_size=60))
def test_whenever_a_driver_asks_no_heartbeat_comes_early_or_is_missed(steps: list[int]) -> None:
    link, clock = linked()
    link.connect()
    beaten_ms = clock.now_ms
    for step in steps:
        clock.now_ms += step
        due = clock.now_ms - beaten_ms >= 30_000
        assert (link.next_heartbeat_ms == clock.now_ms) is due
        assert (link.heartbeat() is not None) is due
        if due:
            beaten_ms = clock.now_ms
        assert not link.has_lapsed


# --- what is acknowledged ---------------------------------------------------------------------------------------------


def test_a_frame_is_acknowledged_by_its_id() -> None:
    link, _ = linked()
    frame = message_frame(BOB.did, ALICE.did, "an-id", 0, bytes(68))
    for form in (frame, frame.decode(), bytearray(frame)):
        ack = link.ack(form)  # type: ignore[arg-type]
        assert ack is not None
        assert ack.envelope == b'{"v":1,"type":"ack","id":"an-id"}'


@pytest.mark.parametrize("frame_id", ["x", "x" * 5000, "\u00e9", 5, 1.5, True])
def test_a_broken_frame_is_acknowledged_too(frame_id: Any) -> None:
    # Else each connection brings it again, for three days.
    link, _ = linked()
    for fields in ({"type": "message"}, {"type": "other"}, {}):
        ack = link.ack(write_object({**fields, "id": frame_id}))
        assert ack is not None
        assert json.loads(ack.envelope) == {"v": 1, "type": "ack", "id": frame_id}


def test_a_frame_that_is_too_large_for_an_agent_is_acknowledged_too() -> None:
    link, _ = linked()
    assert link.ack(write_object({"id": "x", "type": "message", "ciphertext": "A" * (3 << 20)})) is not None
    assert link.ack(write_object({"id": "x", "type": "message", "ciphertext": "A" * (16 << 20)})) is None


@pytest.mark.parametrize(
    "frame",
    [b"", b"x", b"[]", b"{}", b'{"id":""}', b'{"id":null}', b'{"id":0}', b'{"id":["x"]}', b'{"id":{}}', "\ud800",
     b'{"type":"error","detail":"x"}', b'{"type":"error","detail":"x","id":"y"}', rb'{"id":"\ud800"}', b'{"id":NaN}'],
)  # fmt: skip
def test_where_there_is_no_id_nothing_is_acknowledged(frame: bytes | str) -> None:
    assert linked()[0].ack(frame) is None


@given(st.binary(max_size=60) | st.text('{}[]":,id0\\', max_size=20))
def test_anything_is_acknowledged_or_not(frame: bytes | str) -> None:
    linked()[0].ack(frame)


def test_what_is_no_frame_is_the_callers_error() -> None:
    with pytest.raises(ArgumentInvalid):
        linked()[0].ack(None)  # type: ignore[arg-type]


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "word"), [(4001, "first"), (4002, "DID"), (4003, "token"), (4005, "clock"), (4006, "place")]
)
def test_after_some_ends_a_person_has_something_to_mend(code: int, word: str) -> None:
    link, _ = linked()
    link.connect()
    advice = link.closed(code)
    assert (advice.reconnect, advice.after_ms) == (False, 0)
    assert word in advice.why


def test_whose_place_was_taken_does_not_take_it_back() -> None:
    # An older relay says so with the code of an ordinary end.
    advice = linked()[0].closed(1000, "session_replaced")
    assert advice == linked()[0].closed(4006)
    assert not advice.reconnect


@pytest.mark.parametrize("code", [1001, 1006, 1009, 1011, 1012, 3000, 4000, 4004, 4999])
def test_after_other_ends_pauses_double_up_to_a_minute(code: int) -> None:
    for byte, share in ((0, 0.5), (0xFF, None)):
        link, clock = linked(byte=byte)
        for pause_ms in (1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000):
            link.connect()
            clock.now_ms += 29_999  # a relay that takes a connection says nothing: only time tells
            advice = link.closed(code)
            assert advice.reconnect
            assert pause_ms // 2 <= advice.after_ms <= pause_ms
            if share is not None:
                assert advice.after_ms == pause_ms * share
            assert advice.why


def test_a_connection_that_held_begins_the_pauses_anew() -> None:
    link, clock = linked()
    for _ in range(5):
        link.closed(1006)
    link.connect()
    clock.now_ms += 30_000
    assert link.closed(1006).after_ms == 500
    clock.now_ms += 30_000  # passed without one
    assert link.closed(1006).after_ms == 1000


def test_an_end_that_may_be_another_connections_waits_longest() -> None:
    link, _ = linked()
    advice = link.closed(1000)
    assert (advice.reconnect, advice.after_ms) == (True, 30_000)
    assert link.closed(1006).after_ms == 1000


@given(st.integers(1000, 4999), st.integers(0, 2**32 - 1))
def test_every_code_has_advice_within_a_minute(code: int, seed: int) -> None:
    advice = RelayLink(ALICE, Clock(), entropy=SeededEntropy(seed)).closed(code)
    assert isinstance(advice, Advice)
    assert 0 <= advice.after_ms <= MINUTE
    assert (advice.after_ms > 0) is advice.reconnect


def test_pauses_are_left_to_chance() -> None:
    pauses = {RelayLink(ALICE, Clock(), entropy=SeededEntropy(seed)).closed(1006).after_ms for seed in range(50)}
    assert len(pauses) > 25


@pytest.mark.parametrize("code", [None, 999, 5000, -1, True, "1006", 1006.0])
def test_what_is_no_close_code_is_refused(code: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        linked()[0].closed(code)


# --- what it is given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: RelayLink(None, Clock()),  # type: ignore[arg-type]
        lambda: RelayLink(ALICE.key, Clock()),  # type: ignore[arg-type]
        lambda: RelayLink(ALICE, None),  # type: ignore[arg-type]
        lambda: RelayLink(ALICE, lambda: 1.5),  # type: ignore[arg-type,return-value]
        lambda: RelayLink(ALICE, Clock(), ""),
        lambda: RelayLink(ALICE, Clock(), "x" * 16_385),
        lambda: RelayLink(ALICE, Clock(), b"token"),  # type: ignore[arg-type]
        lambda: RelayLink(ALICE, Clock(), entropy=5),  # type: ignore[arg-type]
    ],
)
def test_what_a_link_cannot_use_is_refused(make: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        make()


def test_a_link_shows_no_token() -> None:
    link, _ = linked("a-token-that-is-secret")
    link.connect()
    assert repr(link) == "RelayLink(<redacted>)"
    assert "a-token-that-is-secret" not in repr(link.connect())


@pytest.mark.parametrize("token", [b"a-token-that-is-secret", "a-token-that-is-secret\ud800"])
def test_a_token_that_is_refused_stays_in_no_frame_of_ours(token: Any) -> None:
    agent = AgtAgent.create("mesh")
    for make in (lambda held: RelayLink(ALICE, Clock(), held.pop()), lambda held: agent.link(held.pop())):
        with pytest.raises(ArgumentInvalid) as refused:
            make([token])
        trace = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        ours = [frame for frame in trace.stack if "/agentmesh/" in frame.filename]
        assert ours
        assert "a-token" not in "".join(str(frame.locals) for frame in ours)


def test_a_source_that_breaks_its_contract_is_refused() -> None:
    class Broken(Chance):
        def token(self, size: int, /) -> bytes:
            return bytes(size + 1)

    with pytest.raises(RandomnessFailed):
        RelayLink(ALICE, Clock(), entropy=Broken()).closed(1006)
