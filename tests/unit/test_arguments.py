"""What a call takes is taken whole and plain; what it refuses it says in numbers, and lets go of."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from enum import IntEnum, StrEnum
from itertools import repeat
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentmesh
from agentmesh.envelope import Header, Kind, OuterEnvelope, mesh_argument
from agentmesh.errors import AgentMeshError, ArgumentInvalid, TooLarge
from agentmesh.handshake.agreement import initiate, respond
from agentmesh.handshake.knock import Intent, KnockContent, decode_content, encode_content
from agentmesh.handshake.prekeys import BundleClass, issue_bundle, verify_bundle
from agentmesh.handshake.verdict import Conditions
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import UINT_MAX, Limits
from agentmesh.primitives import aead
from agentmesh.primitives._labels import INTENT
from agentmesh.primitives.arguments import (
    bytes_argument,
    limits_argument,
    plain_text,
    received_argument,
    text_argument,
    texts_argument,
    uint_argument,
)
from agentmesh.primitives.entropy import SystemEntropy
from agentmesh.primitives.keys import (
    Disclosure,
    DisclosureKey,
    IdentitySeed,
    KemCiphertext,
    KemSeed,
    PrekeySecret,
    Secret,
    TranscriptHash,
    X25519PublicKey,
)
from agentmesh.testing.entropy import SeededEntropy


class Word(StrEnum):
    ACT = "act"


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another text"

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b""

    def __len__(self) -> int:
        return 1


class LyingBytes(bytes):
    def __bytes__(self) -> bytes:
        return b"other"

    def __len__(self) -> int:
        return 1


def refused(call: Callable[[], object]) -> ArgumentInvalid:
    with pytest.raises(ArgumentInvalid) as caught:
        call()
    assert caught.value.argument == "x"
    assert caught.value.__context__ is None
    return caught.value


# --- texts -----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.integers(0, 20), st.integers(0, 40))
def test_a_text_is_held_to_its_bytes(text: str, minimum: int, maximum: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if minimum <= size <= maximum:
        assert text_argument("x", text, minimum, maximum) == text
    else:
        error = refused(lambda: text_argument("x", text, minimum, maximum))
        if size >= 0:
            assert error.got in (size, len(text))
            assert error.allowed == (minimum if error.why == "under the least" else maximum)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"act", "bytes, not text: decode it"),
        (bytearray(b"act"), "bytes, not text: decode it"),
        ("\ud800", "text that UTF-8 cannot carry"),
        (5, "not text"),
        (None, "not text"),
        (["act"], "not text"),
    ],
)
def test_what_is_no_text_is_told_why(value: Any, why: str) -> None:
    assert refused(lambda: text_argument("x", value, 0, 10)).why == why


@pytest.mark.parametrize("value", [Word.ACT, Liar("act")])
def test_a_subclass_of_str_is_taken_for_the_text_that_it_holds(value: str) -> None:
    for taken in (plain_text(value), text_argument("x", value, 3, 3), *texts_argument("x", [value], 3, 3)):
        assert type(taken) is str
        assert taken == "act"
    assert refused(lambda: text_argument("x", Liar("act"), 1, 2)).got == 3


def test_texts_are_several_and_come_to_an_end() -> None:
    assert texts_argument("x", iter(["a", Word.ACT]), 1, 3) == ("a", "act")
    for wrong in ("act", b"act", bytearray(b"act"), 5, None):
        assert refused(lambda: texts_argument("x", wrong, 0, 10)).why == "not several texts"  # noqa: B023
    assert refused(lambda: texts_argument("x", repeat("a"), 0, 10)).why == "too many"
    assert refused(lambda: texts_argument("x", ["a"] * 3, 0, 10, most=2)).allowed == 2
    assert len(texts_argument("x", ["a"] * 2, 0, 10, most=2)) == 2


# --- bytes -----------------------------------------------------------------------------------------------------------

VIEWS: list[Callable[[bytes], Any]] = [
    bytes,
    bytearray,
    memoryview,
    LyingBytes,
    lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(b"".join(bytes((byte, 0)) for byte in data))[::2],
    lambda data: memoryview(data).cast("H") if len(data) % 2 == 0 and data else data,
]


@given(st.binary(max_size=20), st.sampled_from(VIEWS), st.integers(0, 20), st.integers(0, 20))
def test_whatever_is_bytes_like_is_taken_for_the_bytes_that_it_holds(
    data: bytes, view: Callable[[bytes], Any], minimum: int, maximum: int
) -> None:
    if minimum <= len(data) <= maximum:
        for taken in (bytes_argument("x", view(data), minimum, maximum), received_argument("x", view(data), maximum)):
            assert type(taken) is bytes
            assert taken == data
    else:
        assert refused(lambda: bytes_argument("x", view(data), minimum, maximum)).got == len(data)


def test_bytes_are_not_copied_and_a_buffer_is_once() -> None:
    data = bytes(1000)
    assert bytes_argument("x", data) is data
    buffer = bytearray(b"abc")
    taken = bytes_argument("x", buffer)
    buffer[:] = b"xyz"
    assert taken == b"abc"
    large = bytearray(8 << 20)
    tracemalloc.start()
    try:
        taken = received_argument("x", large, 8 << 20)
        assert tracemalloc.get_traced_memory()[1] < 9 << 20
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        with pytest.raises(TooLarge) as caught:
            received_argument("x", large, 1000)
        assert refused(lambda: bytes_argument("x", large, 0, 1000)).got == 8 << 20
        assert tracemalloc.get_traced_memory()[1] - held < 1 << 20
    finally:
        tracemalloc.stop()
    assert (caught.value.got, caught.value.allowed) == (8 << 20, 1000)


def test_what_is_no_bytes_is_told_why() -> None:
    assert refused(lambda: bytes_argument("x", "text")).why == "text, not bytes: encode it"
    assert refused(lambda: bytes_argument("x", Word.ACT)).why == "text, not bytes: encode it"
    released = memoryview(b"x")
    released.release()
    for wrong in (None, 5, [120], object(), released):
        assert refused(lambda: bytes_argument("x", wrong)).why == "not bytes"  # noqa: B023
        assert refused(lambda: received_argument("x", wrong, 5)).why == "not bytes"  # noqa: B023


# --- numbers and limits ----------------------------------------------------------------------------------------------


class Number(IntEnum):
    ONE = 1


@given(st.integers(), st.integers(0, 2**60), st.integers(0, 10))
def test_a_number_is_held_to_its_range(value: int, maximum: int, minimum: int) -> None:
    if minimum <= value <= maximum:
        assert uint_argument("x", value, maximum, minimum) == value
    else:
        error = refused(lambda: uint_argument("x", value, maximum, minimum))
        assert (error.why, error.allowed) in (("under the least", minimum), ("over the limit", maximum))
        assert error.got in (value, None)


@pytest.mark.parametrize("value", [True, 1.0, float("nan"), "1", None, Number.ONE])
def test_what_is_no_int_is_told_so(value: Any) -> None:
    assert refused(lambda: uint_argument("x", value)).why == "not an int"


def test_a_huge_number_is_refused_in_a_short_text() -> None:
    # What has thousands of digits cannot even be printed, and might be a key that somebody made a number of.
    for value in (10**10_000, -(10**10_000), int.from_bytes(bytes(range(32)), "big")):
        error = refused(lambda: uint_argument("x", value))  # noqa: B023
        assert error.got is None
        assert len(str(error)) < 200
    assert refused(lambda: uint_argument("x", UINT_MAX + 1)).got == UINT_MAX + 1


@pytest.mark.parametrize("falsy", [0, False, "", b"", [], {}])
def test_limits_that_are_false_are_not_the_defaults(falsy: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        limits_argument(falsy)
    assert limits_argument(None) == Limits()


def test_a_mesh_name_is_a_plain_text() -> None:
    assert type(mesh_argument("x", Word.ACT)) is str
    for wrong in ("", "A", "a b", b"act", None, "a" * 65):
        assert refused(lambda: mesh_argument("x", wrong)).why  # type: ignore[arg-type]  # noqa: B023


# --- what a refused call lets go of ----------------------------------------------------------------------------------

PACKAGE = Path(agentmesh.__file__).parent
CANARY = b"CANARY-0123456789-CANARY-0123456789"
KEY = CANARY[:32]
PEER = Identity.from_seed(bytes(range(32)))
BUNDLE, PUBLISHED = issue_bundle(
    PEER, bundle_class=BundleClass.ONE_TIME, mesh="m", not_before_ms=0, not_after_ms=10, entropy=SystemEntropy()
)
VERIFIED = verify_bundle(BUNDLE, did=PEER.did, mesh="m", now_ms=5)
LONG = CANARY.decode() * 5
LOW_ORDER = bytes(32)


class Stuck(SeededEntropy):
    """Hands out keys, and then no KEM ciphertext."""

    def token(self, size: int, /) -> bytes:
        return (CANARY * 2)[:size]

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise_malformed()
        return b"", b""


def raise_malformed() -> None:
    raise TooLarge(1, 0)


def low_order_responder() -> object:
    assert PUBLISHED.secrets is not None
    return respond(
        Identity.from_seed(KEY), PUBLISHED.secrets, initiator=PEER.key, ephemeral=X25519PublicKey(LOW_ORDER),
        kem_ciphertext=KemCiphertext(bytes(1088)), th=TranscriptHash(bytes(64)),
    )  # fmt: skip


SEALED = aead.seal(bytes(32), INTENT, b"", b"x", bytes(24))
CONTENT = KnockContent(intent=Intent("a", detail=CANARY), early_payload=CANARY, fresh=True)
REFUSALS: dict[str, Callable[[], object]] = {
    **{
        f"{kind.__name__} of {name}": lambda kind=kind, wrong=wrong: kind(wrong)  # type: ignore[misc]
        for kind in (Secret, IdentitySeed, PrekeySecret, KemSeed, DisclosureKey, Disclosure)
        for name, wrong in (
            ("hex", CANARY.hex()),
            ("more", CANARY * 10),
            ("less", CANARY[:31]),
            ("a buffer", bytearray(CANARY * 10)),
            ("a view", memoryview(CANARY * 10)),
            ("a list", [CANARY]),
        )
    },
    "a text that is too long": lambda: text_argument("x", LONG, 0, 5),
    "a text as bytes": lambda: text_argument("x", CANARY, 0, 99),
    "bytes that are too long": lambda: bytes_argument("x", CANARY, 0, 5),
    "bytes as text": lambda: bytes_argument("x", LONG),
    "texts of which one is too long": lambda: texts_argument("x", ["a", LONG], 0, 5),
    "texts that are one": lambda: texts_argument("x", LONG, 0, 5),
    "from_seed of hex": lambda: Identity.from_seed(CANARY.hex()),
    "from_seed of more": lambda: Identity.from_seed(CANARY),
    "Identity of bytes": lambda: Identity(KEY),
    "Intent's action": lambda: Intent(LONG),
    "Intent's action as bytes": lambda: Intent(CANARY),
    "Intent's capabilities": lambda: Intent("a", capabilities=[CANARY.decode(), LONG]),
    "Intent's capabilities as one": lambda: Intent("a", capabilities=LONG),
    "Intent's description": lambda: Intent("a", description=CANARY),
    "Intent's surrogate": lambda: Intent("a", description=LONG + "\ud800"),
    "Intent's two details": lambda: Intent("a", description=LONG, detail=CANARY),
    "Intent's detail as text": lambda: Intent("a", detail=LONG),
    "Conditions' actions": lambda: Conditions(allowed_actions=[CANARY.decode(), LONG]),
    "Conditions' actions as one": lambda: Conditions(allowed_actions=LONG),
    "Conditions' number": lambda: Conditions(max_messages=-1, allowed_actions=[CANARY.decode()]),
    "encode_content": lambda: encode_content(CONTENT, Limits(intent_detail_max_bytes=5)),
    "encode_content's payload": lambda: encode_content(CONTENT, Limits(plaintext_max_bytes=5)),
    "decode_content": lambda: decode_content(encode_content(CONTENT, Limits()) + b"x", Limits()),
    "seal with a short key": lambda: aead.seal(CANARY[:31], INTENT, b"", CANARY, bytes(24)),
    "seal with a short nonce": lambda: aead.seal(KEY, INTENT, b"", CANARY, bytes(23)),
    "open_sealed": lambda: aead.open_sealed(KEY, INTENT, b"", SEALED),
    "initiate": lambda: initiate(Identity.from_seed(KEY), VERIFIED, expires_ms=9, entropy=Stuck(0)),
    "respond": low_order_responder,
}


def library_frames(error: AgentMeshError) -> list[FrameType]:
    trace, frames = error.__traceback__, []
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
            frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames


def parts(value: object, depth: int = 4) -> list[object]:
    """The value and what it holds: items, and attributes in slots and out of them."""
    found = [value]
    if depth and isinstance(value, dict | list | tuple | set):
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        found += [part for item in items for part in parts(item, depth - 1)]
    elif depth and not isinstance(value, type) and not callable(value) and type(value).__module__ != "builtins":
        names = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())]
        held = [getattr(value, name) for name in {*names, *getattr(value, "__dict__", {})} if hasattr(value, name)]
        found += [part for item in held for part in parts(item, depth - 1)]
    return found


def holds_canary(value: object) -> bool:
    if isinstance(value, memoryview):
        value = value.tobytes()
    if isinstance(value, bytes | bytearray):
        return CANARY[:16] in value
    return isinstance(value, str) and (CANARY.decode()[:16] in value or CANARY[:16].hex() in value)


@pytest.mark.parametrize("name", REFUSALS)
def test_the_frames_of_a_refused_call_hold_no_secret(name: str) -> None:
    with pytest.raises(AgentMeshError) as caught:
        REFUSALS[name]()
    error = caught.value
    assert error.__context__ is None
    assert error.__cause__ is None
    frames = library_frames(error)
    assert frames
    for frame in frames:
        for local, value in frame.f_locals.items():
            assert not any(map(holds_canary, parts(value))), f"{local} in {frame.f_code.co_qualname}"
            repr(value)
    assert not holds_canary(str(error))
    assert not any(map(holds_canary, parts(vars(error))))


def test_the_search_finds_what_a_frame_holds() -> None:
    def refuse(value: object) -> None:
        raise ArgumentInvalid("x")

    with pytest.raises(ArgumentInvalid) as caught:
        refuse([Secret(KEY), {"k": CANARY}])
    assert caught.value.__traceback__ is not None
    assert caught.value.__traceback__.tb_next is not None
    held = caught.value.__traceback__.tb_next.tb_frame.f_locals["value"]
    assert any(map(holds_canary, parts(held)))
    assert any(map(holds_canary, parts(Secret(KEY))))


@pytest.mark.parametrize(
    "call",
    [
        lambda: IdentityKey(bytes(32)),
        lambda: IdentityKey(b"short"),
        lambda: IdentityKey("text"),
        lambda: OuterEnvelope.parse(b"rubbish"),
        lambda: OuterEnvelope.parse("text"),
        lambda: Header(kind=Kind.KNOCK, mesh="", sender="", recipient="", time_ms=0).encode(),
        lambda: Limits(plaintext_max_bytes=0),
        lambda: Conditions(ttl_seconds=-1),
    ],
)
def test_what_is_half_made_can_be_shown(call: Callable[[], object]) -> None:
    # Because a logger that shows locals would fail on it, in the midst of telling that a stranger sent rubbish.
    with pytest.raises(AgentMeshError) as caught:
        call()
    for frame in library_frames(caught.value):
        for value in frame.f_locals.values():
            assert repr(value)
