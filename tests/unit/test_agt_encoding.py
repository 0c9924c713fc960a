"""How AGT writes bytes, values, times and payloads: every flavour taken, one written, and nothing taken unbounded."""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt.encoding import read_object, read_timestamp, std64, timestamp, unbase64, url64, write_object
from agentmesh.agt.payload import unwrap, wrap
from agentmesh.errors import ArgumentInvalid, Malformed, TooLarge

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "agt"
ANY_SIZE = 1 << 24
LAST_MS = 253_402_300_799_999


# --- base64 -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_bytes_come_back_from_every_flavour(data: bytes) -> None:
    assert url64(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert std64(data) == base64.b64encode(data).decode()
    padded = base64.urlsafe_b64encode(data).decode()
    for text in (url64(data), std64(data), std64(data).rstrip("="), padded):
        assert unbase64(text) == unbase64(text, len(data)) == data
        for size in {len(data) - 1, len(data) + 1} - {-1}:
            with pytest.raises(Malformed):
                unbase64(text, size)


@given(st.text("AQgw+/-_=\n \u00e9", max_size=12))
def test_bytes_have_one_text_in_each_flavour(text: str) -> None:
    try:
        data = unbase64(text)
    except Malformed:
        return
    padded = base64.urlsafe_b64encode(data).decode()
    assert text in {url64(data), padded, std64(data), std64(data).rstrip("=")}


@pytest.mark.parametrize(
    "text",
    ["A", "AB", "AAB", "AA=", "AA===", "AAA==", "=", "====", "AAAA=", "AAAA====", "A A=", "AA==\n", "+_8A", "AA==AAAA",
     "A\u00e9==", "\ud800AAA", "\uff21AAA", None, 5, b"AAAA", ["AAAA"]],
)  # fmt: skip
def test_other_texts_are_refused(text: Any) -> None:
    with pytest.raises(Malformed):
        unbase64(text)


# --- JSON -------------------------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    plain | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=10
)
objects = st.dictionaries(texts, values, max_size=4)


@given(objects)
def test_objects_round_trip_in_any_writing(value: dict[str, Any]) -> None:
    assert write_object(value).isascii()
    for data in (write_object(value), json.dumps(value, indent=1, ensure_ascii=False).encode()):
        assert read_object(data, len(data)) == value
        with pytest.raises(TooLarge):
            read_object(data, len(data) - 1)


@given(st.binary(max_size=60) | st.text('{}[]":,\\ud8efalsn01e-.N', max_size=30).map(str.encode))
def test_bytes_are_an_object_or_refused_typed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert type(read_object(data, ANY_SIZE)) is dict


@given(objects, st.integers(0, 5), st.binary(min_size=1, max_size=3), st.randoms())
def test_a_mutation_is_an_object_or_refused_typed(value: dict[str, Any], cut: int, put: bytes, chance: Any) -> None:
    data = write_object(value)
    at = chance.randrange(len(data))
    with contextlib.suppress(Malformed):
        read_object(data[:at] + put + data[at + cut :], ANY_SIZE)


LONE = [r'{"a":"\ud800"}', r'{"\udfff":1}', r'{"a":[["\uDC00x"]]}', r'{"a":"\ud800A"}']


@pytest.mark.parametrize(
    "text",
    ["", "1", "null", "[]", '"a"', "{", '{"a":1}x', '{"a":1} {}', '{"a":1,"a":1}', '{"a":{"b":1,"b":2}}', '{"a":NaN}',
     '{"a":Infinity}', '{"a":[-Infinity]}', '{"a":1e400}', '{"a":' + "1" * 33 + "}", '{"a":0.' + "1" * 40 + "}",
     '{"a":' + "9" * 10_000 + "}", "{'a':1}", '{a:1}', '{"a":1,}', '{"a":01}', '{"a":"\n"}', "\ufeff{}", *LONE],
)  # fmt: skip
def test_what_is_no_strict_object_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        read_object(text.encode(), ANY_SIZE)


def test_other_encodings_than_utf8_are_refused() -> None:
    for data in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16"), b'{"a":"\xc0\x80"}'):
        with pytest.raises(Malformed):
            read_object(data, ANY_SIZE)


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert read_object(rb'{"a":"\ud83d\ude00 \u00e9"}', ANY_SIZE) == {"a": "\U0001f600 \u00e9"}


FLOODS = {
    "lists": b"[" * 2_000_000,
    "lists within": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "empty lists": b'{"a":[' + b"[]," * 600_000 + b"1]}",
    "empty objects": b'{"a":[' + b"{}," * 600_000 + b"1]}",
    "numbers": b'{"a":[' + b"999," * 500_000 + b"1]}",
    "texts": b'{"a":[' + b'"ab",' * 400_000 + b"1]}",
    "keys": b"{" + b",".join(b'"%d":1' % key for key in range(150_000)) + b"}",
    "a number": b'{"a":' + b"9" * 2_000_000 + b"}",
    "a float": b'{"a":0.' + b"9" * 2_000_000 + b"}",
    "quotes": b'{"' + b'\\"' * 1_000_000,
    "blanks": b" " * 2_000_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_refused_in_bounded_memory(flood: str) -> None:
    data = FLOODS[flood]
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            read_object(data, ANY_SIZE)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("one", [b"[]", b"{}", b'"["'])
def test_brackets_are_counted_before_anything_is_parsed(one: bytes) -> None:
    # However deep the parser's stack may be here, and whoever calls.
    def some(count: int) -> bytes:
        return b'{"a":[' + b",".join([one] * count) + b"]}"

    assert len(read_object(some(998), ANY_SIZE)["a"]) == 998
    with pytest.raises(Malformed):
        read_object(some(999), ANY_SIZE)


def test_a_full_page_of_the_registry_is_no_flood() -> None:
    names = [f"capability-{number}" for number in range(64)]
    page = {"results": [{"did": "d", "capabilities": names, "last_seen": "x"}] * 200, "total": 200}
    assert read_object(write_object(page), ANY_SIZE) == page


# --- time -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, LAST_MS))
def test_times_round_trip(now_ms: int) -> None:
    text = timestamp(now_ms)
    assert len(text) == 24
    assert read_timestamp(text) == now_ms
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 30)),
    st.integers(-1439, 1439),
    st.sampled_from(["auto", "seconds"]),
)
def test_times_with_any_offset_are_read(moment: datetime, offset: int, timespec: str) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    text = aware.isoformat(timespec=timespec)
    read = datetime.fromisoformat(text)
    assert read_timestamp(text) == (read - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def test_a_time_is_written_as_the_clients_do() -> None:
    assert timestamp(1_787_552_282_472) == "2026-08-24T06:18:02.472Z"
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert read_timestamp("2026-08-24T06:18:02.472999+00:00") == 1_787_552_282_472


@pytest.mark.parametrize(
    "text",
    ["", "2026-08-24T06:18:02.472", "2026-08-24T06:18:02", "2026-08-24", "2026-08-24 06:18:02Z", "2026-02-30T06:18:02Z",
     "2026-08-24T06:18:60Z", "2026-08-24T25:18:00Z", "20260824T061802Z", "2026-W34-1T06:18:02Z", "1969-12-31T23:59:59Z",
     "2026-08-24T06:18:02.472z",
     "2026-08-24T06:18:02.4720000Z", "2026-08-24T06:18:02+24:00", "0001-01-01T00:00:00+23:59",
     "2026-08-24T06:18:02.Z", "2026-08-24T06:18:02Z\n", "\u0662026-08-24T06:18:02Z", 5, None, True],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(Malformed):
        read_timestamp(text)


@pytest.mark.parametrize("now_ms", [-1, LAST_MS + 1, 1.5, True, None])
def test_what_is_no_time_of_ours_is_refused(now_ms: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        timestamp(now_ms)


# --- payloads ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=60) | texts.map(str.encode))
def test_a_payload_comes_back(data: bytes) -> None:
    plaintext = wrap(data)
    assert plaintext.isascii()
    assert unwrap(plaintext) == data
    value = json.loads(plaintext)
    assert value == (data.decode() if type(value) is str else {"raw_b64": std64(data)})


@given(values)
def test_json_goes_and_comes_as_it_is(value: Any) -> None:
    data = json.dumps(value).encode()
    assert wrap(data, json=True) == data
    assert unwrap(data) == (value.encode() if type(value) is str else data)


def test_what_captured_clients_sent_is_unwrapped() -> None:
    for path in VECTORS.glob("kat-*.json"):
        for message in json.loads(path.read_text(encoding="utf-8"))["derived"]["messages"]:
            plaintext = message["plaintext_utf8"].encode()
            data = unwrap(plaintext)
            assert data.decode() == json.loads(plaintext)
            if "\\u" in message["plaintext_utf8"]:  # the client of kars
                assert wrap(data) == plaintext


@pytest.mark.parametrize(
    ("plaintext", "data"),
    [
        (b'{"raw_b64":"/w=="}', b"\xff"),
        (b' {"raw_b64" : "_w"}\n', b"\xff"),
        (b'{"raw_b64":""}', b""),
        (b'{"raw_b64":"/w==","a":1}', b'{"raw_b64":"/w==","a":1}'),
        (b'{"raw_b64":5}', b'{"raw_b64":5}'),
        (b'{"raw_b64":"/w=="}{}', b'{"raw_b64":"/w=="}{}'),
        (b' "a\\u00e9" ', "a\u00e9".encode()),
        (b"[" * 3000, b"[" * 3000),
        (b"null", b"null"),
        (b"", b""),
    ],
)
def test_payloads_are_unwrapped_by_their_shape(plaintext: bytes, data: bytes) -> None:
    assert unwrap(plaintext) == data


@pytest.mark.parametrize(
    "plaintext", [b'"', b'"a" 1', b'"\\ud800"', b'"\\x"', b"\xff", b'"\xff"', b'{"raw_b64":"/x=="}', b'{"raw_b64":"A"}']
)
def test_what_is_no_payload_is_refused(plaintext: bytes) -> None:
    with pytest.raises(Malformed):
        unwrap(plaintext)


@given(st.binary(max_size=40))
def test_any_plaintext_is_unwrapped_or_refused_typed(plaintext: bytes) -> None:
    with contextlib.suppress(Malformed):
        unwrap(plaintext)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"[1e5,Infinity]", b"\xff", b"{} {}", b"[" * 100_000])
def test_what_is_no_json_is_not_sent_as_json(data: bytes) -> None:
    with pytest.raises(ArgumentInvalid):
        wrap(data, json=True)


def test_a_payload_of_another_type_is_refused() -> None:
    for data in ("text", None, 5):
        with pytest.raises(ArgumentInvalid):
            wrap(data)  # type: ignore[arg-type]
