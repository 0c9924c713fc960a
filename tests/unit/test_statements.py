"""Signed statements: what is signed, what is refused, and in which order (section 9)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadIdentityKey,
    BadSignature,
    Malformed,
    StatementUnfit,
    TooLarge,
    UnknownVersion,
)
from agentmesh.identity import Identity
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _labels
from agentmesh.testing import SeededEntropy
from agentmesh.testing import strategies as am
from agentmesh.trust import statements
from agentmesh.trust.statements import (
    STATEMENT_MAX_BYTES,
    Continuity,
    Revocation,
    Statement,
    TrustEdge,
    TrustUpdate,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    verify_continuity,
    verify_edge,
    verify_revocation,
    verify_trust,
)

MESH = "example/test"
NOW = 1_767_225_600_000
ALICE, BOB, CAROL = (Identity.generate(SeededEntropy(name)) for name in ("alice", "bob", "carol"))

Verify = Callable[..., Statement]
KINDS: dict[str, tuple[bytes, Verify, type[Statement], Callable[..., bytes]]] = {
    "trust": (
        _labels.SIGN_TRUST,
        verify_trust,
        TrustUpdate,
        lambda mesh=MESH, sequence=7, time_ms=NOW: issue_trust(
            ALICE, BOB.key, 120, mesh=mesh, sequence=sequence, time_ms=time_ms
        ),
    ),
    "edge": (
        _labels.SIGN_EDGE,
        verify_edge,
        TrustEdge,
        lambda mesh=MESH, sequence=7, time_ms=NOW: issue_edge(
            ALICE, BOB.key, 900, mesh=mesh, sequence=sequence, time_ms=time_ms
        ),
    ),
    "continuity": (
        _labels.SIGN_CONTINUITY,
        verify_continuity,
        Continuity,
        lambda mesh=MESH, sequence=7, time_ms=NOW: issue_continuity(
            ALICE, BOB, mesh=mesh, sequence=sequence, time_ms=time_ms
        ),
    ),
    "revocation": (
        _labels.SIGN_REVOCATION,
        verify_revocation,
        Revocation,
        lambda mesh=MESH, sequence=7, time_ms=NOW: issue_revocation(
            ALICE, BOB.key, mesh=mesh, sequence=sequence, time_ms=time_ms
        ),
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def fields_of(statement: bytes) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(msgpack.unpackb(statement)[0])
    return fields


def signed(kind: str, fields: list[Any], signer: Identity = ALICE) -> bytes:
    """A body with any fields, genuinely signed. A continuity's consent is made anew, by Bob."""
    if kind == "continuity" and len(fields) == 7 and isinstance(fields[6], bytes):
        fields = [*fields[:6], BOB.sign(_labels.SIGN_CONTINUITY, msgpack.packb(fields[:6]))]
    body = msgpack.packb(fields)
    packed: bytes = msgpack.packb([body, signer.sign(KINDS[kind][0], body)])
    return packed


def refuse(kind: str, statement: Any, error: type[AgentMeshError], mesh: str = MESH) -> None:
    with pytest.raises(AgentMeshError) as caught:
        KINDS[kind][1](statement, mesh=mesh)
    assert type(caught.value) is error


# --- what they say ----------------------------------------------------------------------------------------------------


@example(signal=1, sequence=0, time_ms=0, mesh="m")
@example(signal=-1, sequence=0, time_ms=0, mesh="m")
@example(signal=1000, sequence=0, time_ms=0, mesh="m")
@example(signal=-1000, sequence=0, time_ms=0, mesh="m")
@given(signal=st.integers(-1000, 1000), sequence=am.times_ms(), time_ms=am.times_ms(), mesh=am.mesh_names())
def test_a_trust_update_says_what_was_issued(signal: int, sequence: int, time_ms: int, mesh: str) -> None:
    statement = issue_trust(ALICE, BOB.key, signal, mesh=mesh, sequence=sequence, time_ms=time_ms)
    body = msgpack.unpackb(statement)[0]
    assert fields_of(statement) == [
        1, mesh, ALICE.key.raw, BOB.key.raw, sequence, time_ms, int(signal > 0), abs(signal),
    ]  # fmt: skip
    assert verify_trust(statement, mesh=mesh) == TrustUpdate(
        mesh=mesh,
        issuer=ALICE.key,
        subject=BOB.key,
        sequence=sequence,
        time_ms=time_ms,
        digest=hashlib.sha256(body).digest(),
        signal=signal,
    )


@example(weight=0, sequence=0, time_ms=0, mesh="m")
@example(weight=1000, sequence=0, time_ms=0, mesh="m")
@given(weight=st.integers(0, 1000), sequence=am.times_ms(), time_ms=am.times_ms(), mesh=am.mesh_names())
def test_an_edge_says_what_was_issued(weight: int, sequence: int, time_ms: int, mesh: str) -> None:
    statement = issue_edge(ALICE, BOB.key, weight, mesh=mesh, sequence=sequence, time_ms=time_ms)
    assert fields_of(statement) == [1, mesh, ALICE.key.raw, BOB.key.raw, sequence, time_ms, weight]
    edge = verify_edge(statement, mesh=mesh)
    assert (edge.issuer, edge.subject, edge.weight, edge.sequence) == (ALICE.key, BOB.key, weight, sequence)


def test_a_continuity_is_signed_by_both() -> None:
    statement = KINDS["continuity"][3]()
    *head, consent = fields_of(statement)
    assert head == [1, MESH, ALICE.key.raw, BOB.key.raw, 7, NOW]
    assert consent == BOB.sign(_labels.SIGN_CONTINUITY, msgpack.packb(head))
    continuity = verify_continuity(statement, mesh=MESH)
    assert (continuity.issuer, continuity.subject) == (ALICE.key, BOB.key)


def test_a_revocation_may_be_of_oneself_and_the_others_may_not() -> None:
    own = issue_revocation(ALICE, ALICE.key, mesh=MESH, sequence=0, time_ms=NOW)
    assert fields_of(own) == [1, MESH, ALICE.key.raw, ALICE.key.raw, 0, NOW]
    assert verify_revocation(own, mesh=MESH).subject == ALICE.key
    for kind in ("trust", "edge", "continuity"):
        fields = fields_of(KINDS[kind][3]())
        fields[3] = fields[2]
        refuse(kind, signed(kind, fields), StatementUnfit)


@every_kind
def test_the_digest_tells_statements_apart_and_values_print_no_bytes(kind: str) -> None:
    _, verify, kind_of, issue = KINDS[kind]
    one, other = verify(issue(), mesh=MESH), verify(issue(sequence=8), mesh=MESH)
    assert type(one) is kind_of
    assert one.digest != other.digest
    assert one.digest.hex() not in repr(one)
    assert repr(one.digest) not in repr(one)


@every_kind
def test_the_largest_statement_is_within_the_size_limit(kind: str) -> None:
    mesh = "m" * 64
    statement = KINDS[kind][3](mesh=mesh, sequence=UINT_MAX, time_ms=UINT_MAX)
    assert len(statement) <= 289 <= STATEMENT_MAX_BYTES
    KINDS[kind][1](statement, mesh=mesh)


# --- what is refused --------------------------------------------------------------------------------------------------


@every_kind
def test_every_flipped_bit_is_refused(kind: str) -> None:
    statement = KINDS[kind][3]()
    for bit in range(8 * len(statement)):
        altered = bytearray(statement)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AgentMeshError):
            KINDS[kind][1](bytes(altered), mesh=MESH)


@every_kind
def test_every_cut_and_every_tail_is_refused(kind: str) -> None:
    statement = KINDS[kind][3]()
    for end in range(len(statement)):
        refuse(kind, statement[:end], Malformed)
    refuse(kind, statement + b"\x00", Malformed)
    refuse(kind, statement + bytes(STATEMENT_MAX_BYTES), TooLarge)


@every_kind
@pytest.mark.parametrize("statement", [bytearray(b"\x92"), b"", b"\x92\xc4\x00\xc4\x00"])
def test_what_is_no_statement_is_refused(kind: str, statement: Any) -> None:
    refuse(kind, statement, Malformed)


@every_kind
@pytest.mark.parametrize("statement", [None, 5, "text", [b"", b""]])
def test_what_is_not_even_bytes_is_a_mistaken_call(kind: str, statement: Any) -> None:
    refuse(kind, statement, ArgumentInvalid)


@every_kind
@pytest.mark.parametrize("other", KINDS)
def test_no_statement_passes_for_another(kind: str, other: str) -> None:
    # The body of one kind under the signature of its issuer for that kind, offered as every other kind.
    if kind != other:
        with pytest.raises((Malformed, BadSignature)):
            KINDS[other][1](KINDS[kind][3](), mesh=MESH)
        # And the very body that the other kind would take, signed for this one.
        body = msgpack.unpackb(KINDS[other][3]())[0]
        crossed = msgpack.packb([body, ALICE.sign(KINDS[kind][0], body)])
        refuse(other, crossed, BadSignature)


@every_kind
@pytest.mark.parametrize("label", list(_labels.SIGNATURE_LABELS))
def test_a_signature_for_any_other_purpose_is_refused(kind: str, label: bytes) -> None:
    own, verify, _, issue = KINDS[kind]
    body = msgpack.unpackb(issue())[0]
    crossed = msgpack.packb([body, ALICE.sign(_labels.SignatureLabel(label), body)])
    if label == own:
        verify(crossed, mesh=MESH)
    else:
        refuse(kind, crossed, BadSignature)


@every_kind
def test_another_mesh_version_or_signer_is_refused(kind: str) -> None:
    fields = fields_of(KINDS[kind][3]())
    refuse(kind, KINDS[kind][3](mesh="example/other"), StatementUnfit)
    refuse(kind, signed(kind, [2, *fields[1:]]), UnknownVersion)
    refuse(kind, signed(kind, [0, *fields[1:]]), UnknownVersion)
    refuse(kind, signed(kind, fields, signer=CAROL), BadSignature)
    refuse(kind, signed(kind, [1, "Example/Test", *fields[2:]]), Malformed, mesh="Example/Test")


NOT_NUMBERS = [True, False, -1, 2**53, 2**64 - 1, 1.0, 0.9, math.nan, math.inf, None, "900", b"\x01", [1], {}]


@every_kind
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: repr(value).split(" at 0x")[0])
def test_every_number_is_an_unsigned_integer(kind: str, value: Any) -> None:
    fields = fields_of(KINDS[kind][3]())
    for at, field in enumerate(fields):
        if type(field) is int:
            refuse(kind, signed(kind, [*fields[:at], value, *fields[at + 1 :]]), Malformed)


@pytest.mark.parametrize(
    ("kind", "tail"),
    [("trust", [2, 1]), ("trust", [0, 1001]), ("trust", [1, 0]), ("edge", [1001])],
)
def test_numbers_out_of_range_and_a_second_zero_are_refused(kind: str, tail: list[int]) -> None:
    fields = fields_of(KINDS[kind][3]())
    refuse(kind, signed(kind, [*fields[: -len(tail)], *tail]), Malformed)


@every_kind
def test_keys_of_another_type_length_or_order_are_refused(kind: str) -> None:
    fields = fields_of(KINDS[kind][3]())
    for at in (2, 3):
        for value in (None, "a" * 32, fields[at][:31], fields[at] + b"\x00", 5):
            refuse(kind, signed(kind, [*fields[:at], value, *fields[at + 1 :]]), Malformed)
        for low in (bytes(32), b"\x01" + bytes(31), bytes(31) + b"\x80"):  # of small order, or not canonical
            refuse(kind, signed(kind, [*fields[:at], low, *fields[at + 1 :]]), BadIdentityKey)


@every_kind
def test_more_and_fewer_fields_and_longer_forms_are_refused(kind: str) -> None:
    fields = fields_of(KINDS[kind][3]())
    refuse(kind, signed(kind, fields[:-1]), Malformed)
    refuse(kind, signed(kind, [*fields, 0]), Malformed)
    body, signature = msgpack.unpackb(KINDS[kind][3]())
    longer = b"\xdc\x00" + bytes([body[0] & 15]) + body[1:]  # array16 for a short array
    refuse(kind, msgpack.packb([longer, ALICE.sign(KINDS[kind][0], longer)]), Malformed)
    refuse(kind, b"\xdc\x00\x02" + msgpack.packb([body, signature])[1:], Malformed)


def test_nobody_is_made_a_successor_without_consent() -> None:
    head = fields_of(KINDS["continuity"][3]())[:6]
    own = ALICE.sign(_labels.SIGN_CONTINUITY, msgpack.packb(head))
    other = BOB.sign(_labels.SIGN_REVOCATION, msgpack.packb(head))
    earlier = fields_of(KINDS["continuity"][3](sequence=6))[6]
    for consent in (own, other, earlier, bytes(64)):
        body = msgpack.packb([*head, consent])
        refuse("continuity", msgpack.packb([body, ALICE.sign(_labels.SIGN_CONTINUITY, body)]), BadSignature)


def test_nobody_takes_a_succession_without_the_old_identity() -> None:
    # Bob, who may be anybody, signs both halves.
    head = fields_of(KINDS["continuity"][3]())[:6]
    body = msgpack.packb([*head, BOB.sign(_labels.SIGN_CONTINUITY, msgpack.packb(head))])
    refuse("continuity", msgpack.packb([body, BOB.sign(_labels.SIGN_CONTINUITY, body)]), BadSignature)


@every_kind
def test_who_may_count_is_asked_before_the_signature(kind: str) -> None:
    asked: list[tuple[bytes, bytes]] = []

    def may_count(issuer: bytes, subject: bytes) -> bool:
        asked.append((issuer, subject))
        return len(asked) > 1

    forged = signed(kind, fields_of(KINDS[kind][3]()), signer=CAROL)
    for error in (StatementUnfit, BadSignature):
        with pytest.raises(AgentMeshError) as caught:
            KINDS[kind][1](forged, mesh=MESH, may_count=may_count)
        assert type(caught.value) is error
    assert asked == [(ALICE.key.raw, BOB.key.raw)] * 2


# --- what is not issued -----------------------------------------------------------------------------------------------

GOOD = {"mesh": MESH, "sequence": 1, "time_ms": NOW}
ISSUE: dict[str, Callable[..., bytes]] = {
    "trust": lambda issuer=ALICE, subject=BOB.key, signal=5, **rest: issue_trust(issuer, subject, signal, **rest),
    "edge": lambda issuer=ALICE, subject=BOB.key, weight=5, **rest: issue_edge(issuer, subject, weight, **rest),
    "revocation": lambda issuer=ALICE, subject=BOB.key, **rest: issue_revocation(issuer, subject, **rest),
    "continuity": lambda issuer=ALICE, new=BOB, **rest: issue_continuity(issuer, new, **rest),
}


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        *((kind, name, value) for kind in ISSUE for name in ("sequence", "time_ms") for value in NOT_NUMBERS),
        *((kind, "mesh", value) for kind in ISSUE for value in ("", "Upper", "m" * 65, b"m", None)),
        *((kind, "issuer", value) for kind in ISSUE for value in (None, ALICE.key, "did", b"\x01" * 32)),
        *((kind, "subject", value) for kind in ("trust", "edge", "revocation") for value in (None, BOB, BOB.key.raw)),
        *((kind, "subject", ALICE.key) for kind in ("trust", "edge")),
        *(("continuity", "new", value) for value in (None, BOB.key, b"")),
        *(("trust", "signal", value) for value in (*NOT_NUMBERS, 1001, -1001) if value != -1),
        *(("edge", "weight", value) for value in (*NOT_NUMBERS, 1001)),
    ],
    ids=lambda value: (
        value
        if isinstance(value, str)
        else repr(value)
        if type(value) in (int, bool, float, bytes)
        else type(value).__name__
    ),
)
def test_a_bad_argument_issues_nothing(kind: str, argument: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        ISSUE[kind](**{**GOOD, argument: value})
    assert caught.value.argument == argument


def test_nobody_goes_on_as_itself() -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        issue_continuity(ALICE, ALICE, mesh=MESH, sequence=0, time_ms=NOW)
    assert caught.value.argument == "subject"


def test_every_statement_has_its_own_label() -> None:
    labels = [entry[0] for entry in KINDS.values()]
    assert len(set(labels)) == 4
    assert set(KINDS) <= {name.removeprefix("verify_") for name in vars(statements) if name.startswith("verify_")}
