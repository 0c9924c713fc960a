"""Signed statements about identities: trust updates, edges, continuity, revocation (docs/protocol.md, section 9).

    statement  = msgpack [body, Ed25519(issuer, [label] || body)]
    body       = msgpack [1, mesh, issuer (32), subject (32), sequence, time (ms), ...]
    trust      ... = direction (0 lowers, 1 raises), amount
    edge       ... = weight (0 withdraws it, to 1000)
    continuity ... = Ed25519(subject, [continuity] || the body before it)
    revocation ... = nothing more

Sequences of trust updates and edges are strictly increasing for one issuer and subject. The issuer of a continuity is
the old identity, the subject the new one; the new one signs too, so that nobody can hand its standing to, or put its
past on, a stranger. No number on the wire is negative, so a signal is a direction and an amount, and nothing at all has
one encoding: direction 0, amount 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import field, frozen

from agentmesh.envelope import is_mesh_name, mesh_argument
from agentmesh.errors import ArgumentInvalid, Malformed, StatementUnfit, UnknownVersion
from agentmesh.identity import Identity, IdentityKey, sign_statement, split_statement, verify_statement
from agentmesh.limits import MESH_MAX_BYTES, SCORE_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SIGN_CONTINUITY, SIGN_EDGE, SIGN_REVOCATION, SIGN_TRUST, SignatureLabel
from agentmesh.primitives.arguments import bytes_argument, uint_argument
from agentmesh.primitives.keys import Signature
from agentmesh.trust.arguments import key_argument

_VERSION: Final = 1
STATEMENT_MAX_BYTES: Final = 320  # a genuine one has at most 289

# Asked about (issuer, subject), 32 bytes each, once a statement is parsed and before its signature costs anything.
MayCount = Callable[[bytes, bytes], bool]

_HEAD: Final = (
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Bin(32),
    _wire.Bin(32),
    _wire.Uint(),
    _wire.Uint(),
)
_TRUST: Final = _wire.array(*_HEAD, _wire.Uint(1), _wire.Uint(SCORE_MAX))
_EDGE: Final = _wire.array(*_HEAD, _wire.Uint(SCORE_MAX))
_CONTINUITY: Final = _wire.array(*_HEAD, _wire.Bin(_crypto.SIGNATURE_BYTES))
_REVOCATION: Final = _wire.array(*_HEAD)


@frozen(kw_only=True)
class Statement:
    """What every statement says. Its signature has been verified.

    Attributes:
        mesh: The mesh it holds in.
        issuer: Who signed it.
        subject: Whom it is about.
        sequence: Strictly increasing for one issuer and subject.
        time_ms: The issuer's clock.
        digest: SHA-256 of the signed body: tells two statements with one sequence apart.
    """

    mesh: str
    issuer: IdentityKey
    subject: IdentityKey
    sequence: int
    time_ms: int
    digest: bytes = field(repr=False)


@frozen(kw_only=True)
class TrustUpdate(Statement):
    """A signal that raises or lowers a subject's score.

    Attributes:
        signal: Between -1000 and 1000, as signed; a ledger clamps it to +-200.
    """

    signal: int


@frozen(kw_only=True)
class TrustEdge(Statement):
    """How far the issuer trusts the subject, live until a later edge of the same two replaces it.

    Attributes:
        weight: 0 to 1000; 0 withdraws it.
    """

    weight: int


@frozen(kw_only=True)
class Continuity(Statement):
    """The issuer goes on as the subject, and the subject agrees."""


@frozen(kw_only=True)
class Revocation(Statement):
    """The subject's identity is not to be trusted any more."""


# --- issuing ---------------------------------------------------------------------------------------------------------


def _head(issuer: Identity, subject: IdentityKey, mesh: str, sequence: int, time_ms: int) -> list[Any]:
    if not isinstance(issuer, Identity):
        raise ArgumentInvalid("issuer", "not an Identity")
    key_argument("subject", subject)
    mesh = mesh_argument("mesh", mesh)
    uint_argument("sequence", sequence)
    uint_argument("time_ms", time_ms)
    return [_VERSION, mesh, issuer.key.raw, subject.raw, sequence, time_ms]


def _head_about_another(issuer: Identity, subject: IdentityKey, mesh: str, sequence: int, time_ms: int) -> list[Any]:
    head = _head(issuer, subject, mesh, sequence, time_ms)
    if issuer.key == subject:
        raise ArgumentInvalid("subject", "the issuer itself")
    return head


def issue_trust(
    issuer: Identity, subject: IdentityKey, signal: int, *, mesh: str, sequence: int, time_ms: int
) -> bytes:
    """Return a signed trust update. Section 9.

    Raises:
        ArgumentInvalid: a signal outside -1000 to 1000 or not an int, the issuer itself, or another bad argument.
    """
    uint_argument("signal", signal, SCORE_MAX, -SCORE_MAX)
    body = _wire.encode([*_head_about_another(issuer, subject, mesh, sequence, time_ms), int(signal > 0), abs(signal)])
    return sign_statement(issuer, SIGN_TRUST, body)


def issue_edge(issuer: Identity, subject: IdentityKey, weight: int, *, mesh: str, sequence: int, time_ms: int) -> bytes:
    """Return a signed edge of the trust graph; a weight of 0 withdraws it. Section 9.

    Raises:
        ArgumentInvalid: a weight outside 0 to 1000 or not an int, the issuer itself, or another bad argument.
    """
    uint_argument("weight", weight, SCORE_MAX)
    body = _wire.encode([*_head_about_another(issuer, subject, mesh, sequence, time_ms), weight])
    return sign_statement(issuer, SIGN_EDGE, body)


def issue_continuity(old: Identity, new: Identity, *, mesh: str, sequence: int, time_ms: int) -> bytes:
    """Return a continuity statement, signed by both identities. Section 9.

    Raises:
        ArgumentInvalid: a bad argument, or one identity twice.
    """
    if not isinstance(new, Identity):
        raise ArgumentInvalid("new", "not an Identity")
    head = _head_about_another(old, new.key, mesh, sequence, time_ms)
    consent = new.sign(SIGN_CONTINUITY, _wire.encode(head))
    return sign_statement(old, SIGN_CONTINUITY, _wire.encode([*head, consent]))


def issue_revocation(issuer: Identity, subject: IdentityKey, *, mesh: str, sequence: int, time_ms: int) -> bytes:
    """Return a signed revocation: of oneself, or by an authority of a subject. Section 9.

    Raises:
        ArgumentInvalid: a bad argument.
    """
    return sign_statement(issuer, SIGN_REVOCATION, _wire.encode(_head(issuer, subject, mesh, sequence, time_ms)))


# --- verifying -------------------------------------------------------------------------------------------------------


def _verify(
    data: bytes,
    label: SignatureLabel,
    layout: _wire.Array,
    *,
    mesh: str,
    may_count: MayCount | None,
    about_itself: bool = False,
) -> tuple[dict[str, Any], list[Any]]:
    """Return (the common fields, the fields behind them) of a verified statement. What is cheap is checked first."""
    data = bytes_argument("statement", data)
    body, signature = split_statement(data, STATEMENT_MAX_BYTES)
    fields = _wire.decode(body, layout, STATEMENT_MAX_BYTES)
    version, body_mesh, issuer_raw, subject_raw, sequence, time_ms, *rest = fields
    if version != _VERSION:
        raise UnknownVersion
    if not is_mesh_name(body_mesh) or (label == SIGN_TRUST and rest == [1, 0]):
        raise Malformed
    if body_mesh != mesh or (issuer_raw == subject_raw and not about_itself):
        raise StatementUnfit
    if may_count is not None and not may_count(issuer_raw, subject_raw):
        raise StatementUnfit
    issuer, subject = IdentityKey(issuer_raw), IdentityKey(subject_raw)
    verify_statement(issuer, label, body, signature)
    if label == SIGN_CONTINUITY:
        # The new identity signed what stands before its own signature, which the one encoding makes certain.
        verify_statement(subject, SIGN_CONTINUITY, _wire.encode(fields[: len(_HEAD)]), Signature(rest[0]))
    common = {
        "mesh": body_mesh,
        "issuer": issuer,
        "subject": subject,
        "sequence": sequence,
        "time_ms": time_ms,
        "digest": _crypto.sha256(body),
    }
    return common, rest


def verify_trust(data: bytes, *, mesh: str, may_count: MayCount | None = None) -> TrustUpdate:
    """Return a trust update once it has been verified for this mesh. Section 9.

    Args:
        data: The statement, as it came.
        mesh: The mesh that it must be for.
        may_count: Says of (issuer, subject), 32 bytes each, whether the statement can count here; asked before the
            signature is checked, so that strangers cost little.

    Raises:
        ArgumentInvalid: not bytes.
        TooLarge, Malformed, UnknownVersion: not one.
        StatementUnfit: for another mesh, about its own issuer, or one that may not count.
        BadIdentityKey, BadSignature: a key or the signature is not acceptable.
    """
    common, (direction, amount) = _verify(data, SIGN_TRUST, _TRUST, mesh=mesh, may_count=may_count)
    return TrustUpdate(**common, signal=amount if direction else -amount)


def verify_edge(data: bytes, *, mesh: str, may_count: MayCount | None = None) -> TrustEdge:
    """Return an edge once it has been verified for this mesh. Arguments and errors as `verify_trust`."""
    common, (weight,) = _verify(data, SIGN_EDGE, _EDGE, mesh=mesh, may_count=may_count)
    return TrustEdge(**common, weight=weight)


def verify_continuity(data: bytes, *, mesh: str, may_count: MayCount | None = None) -> Continuity:
    """Return a continuity once both signatures have been verified for this mesh. As `verify_trust`."""
    common, _ = _verify(data, SIGN_CONTINUITY, _CONTINUITY, mesh=mesh, may_count=may_count)
    return Continuity(**common)


def verify_revocation(data: bytes, *, mesh: str, may_count: MayCount | None = None) -> Revocation:
    """Return a revocation once it has been verified for this mesh; whether its issuer may revoke is the list's.

    Arguments and errors as `verify_trust`, but an identity may revoke itself.
    """
    common, _ = _verify(data, SIGN_REVOCATION, _REVOCATION, mesh=mesh, may_count=may_count, about_itself=True)
    return Revocation(**common)


def verify_as_claimed(data: bytes) -> Statement:
    """Return the statement that these bytes are, of whichever kind, verified for the mesh that it names: to show it.

    Whether it counts anywhere is not asked.

    Raises:
        ArgumentInvalid: not bytes.
        TooLarge, Malformed, UnknownVersion, StatementUnfit: no statement.
        BadIdentityKey, BadSignature: a key or the signature is not acceptable.
    """
    data = bytes_argument("statement", data)
    body, _ = split_statement(data, STATEMENT_MAX_BYTES)
    kinds = (
        (_TRUST, verify_trust), (_EDGE, verify_edge), (_CONTINUITY, verify_continuity),
        (_REVOCATION, verify_revocation),
    )  # fmt: skip
    for layout, verify in kinds:
        try:
            fields = _wire.decode(body, layout, STATEMENT_MAX_BYTES)
        except Malformed:
            continue  # the layouts exclude one another
        return verify(data, mesh=fields[1])
    raise Malformed
