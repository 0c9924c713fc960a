"""Signed statements about identities: trust updates, edges, continuity, revocation (docs/protocol.md, section 9).

    statement  = msgpack [body, Ed25519(issuer, [label] || body)]
    body       = msgpack [1, mesh, issuer (32), subject (32), sequence, time (ms), ...]
    trust      ... = direction (0 lowers, 1 raises), amount
    edge       ... = weight (0 withdraws it, to 1000)
    continuity ... = Ed25519(subject, [continuity] || the body before it)
    revocation ... = nothing more

The issuer of a continuity is the old identity, the subject the new one; the new one signs too, so that nobody can hand
its standing to, or put its past on, a stranger.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import field, frozen

from agentmesh import _crypto, _wire
from agentmesh._labels import SIGN_CONTINUITY, SIGN_EDGE, SIGN_REVOCATION, SIGN_TRUST, SignatureLabel
from agentmesh.envelope import is_mesh_name
from agentmesh.errors import ArgumentInvalid, Malformed, StatementUnfit, UnknownVersion
from agentmesh.identity import Identity, IdentityKey
from agentmesh.keys import Signature
from agentmesh.limits import MESH_MAX_BYTES, SCORE_MAX, UINT_MAX
from agentmesh.signing import sign_statement, split_statement, verify_statement

_VERSION: Final = 1
STATEMENT_MAX_BYTES: Final = 400

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


def _head(identity: Identity, subject: IdentityKey, mesh: str, sequence: int, time_ms: int) -> list[Any]:
    if not isinstance(subject, IdentityKey):
        raise ArgumentInvalid("subject")
    if not is_mesh_name(mesh):
        raise ArgumentInvalid("mesh")
    for name, number in (("sequence", sequence), ("time_ms", time_ms)):
        if type(number) is not int or not 0 <= number <= UINT_MAX:
            raise ArgumentInvalid(name)
    return [_VERSION, mesh, identity.key.raw, subject.raw, sequence, time_ms]


def issue_trust(
    issuer: Identity, subject: IdentityKey, signal: int, *, mesh: str, sequence: int, time_ms: int
) -> bytes:
    """Return a signed trust update. Section 9.

    Raises:
        ArgumentInvalid: a signal outside -1000 to 1000 or not an int, or another bad argument.
    """
    if type(signal) is not int or not -SCORE_MAX <= signal <= SCORE_MAX:
        raise ArgumentInvalid("signal")
    body = _wire.encode([*_head(issuer, subject, mesh, sequence, time_ms), int(signal > 0), abs(signal)])
    return sign_statement(issuer, SIGN_TRUST, body)


def issue_edge(issuer: Identity, subject: IdentityKey, weight: int, *, mesh: str, sequence: int, time_ms: int) -> bytes:
    """Return a signed edge of the trust graph; a weight of 0 withdraws it. Section 9.

    Raises:
        ArgumentInvalid: a weight outside 0 to 1000 or not an int, or another bad argument.
    """
    if type(weight) is not int or not 0 <= weight <= SCORE_MAX:
        raise ArgumentInvalid("weight")
    body = _wire.encode([*_head(issuer, subject, mesh, sequence, time_ms), weight])
    return sign_statement(issuer, SIGN_EDGE, body)


def issue_continuity(old: Identity, new: Identity, *, mesh: str, sequence: int, time_ms: int) -> bytes:
    """Return a continuity statement, signed by both identities. Section 9.

    Raises:
        ArgumentInvalid: a bad argument.
    """
    head = _head(old, new.key, mesh, sequence, time_ms)
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
    data: bytes, label: SignatureLabel, layout: _wire.Array, mesh: str
) -> tuple[dict[str, Any], list[Any], bytes]:
    """Return (the common fields, the fields behind them, the signed body) of a verified statement."""
    body, signature = split_statement(data, STATEMENT_MAX_BYTES)
    fields = _wire.decode(body, layout, STATEMENT_MAX_BYTES)
    version, body_mesh, issuer_raw, subject_raw, sequence, time_ms, *rest = fields
    if version != _VERSION:
        raise UnknownVersion
    if body_mesh != mesh:
        raise StatementUnfit
    issuer = IdentityKey(issuer_raw)
    verify_statement(issuer, label, body, signature)
    common = {
        "mesh": body_mesh,
        "issuer": issuer,
        "subject": IdentityKey(subject_raw),
        "sequence": sequence,
        "time_ms": time_ms,
        "digest": _crypto.sha256(body),
    }
    return common, rest, body


def verify_trust(data: bytes, *, mesh: str) -> TrustUpdate:
    """Return a trust update once it has been verified for this mesh.

    Raises:
        TooLarge, Malformed, UnknownVersion: not one.
        StatementUnfit: for another mesh, or about its own issuer.
        BadIdentityKey, BadSignature: a key or the signature is not acceptable.
    """
    common, (direction, amount), _ = _verify(data, SIGN_TRUST, _TRUST, mesh)
    if common["issuer"] == common["subject"]:
        raise StatementUnfit
    if direction and not amount:
        raise Malformed  # nothing is neither raised nor lowered, and has one encoding
    return TrustUpdate(**common, signal=amount if direction else -amount)


def verify_edge(data: bytes, *, mesh: str) -> TrustEdge:
    """Return an edge once it has been verified for this mesh. Raises as `verify_trust`."""
    common, (weight,), _ = _verify(data, SIGN_EDGE, _EDGE, mesh)
    if common["issuer"] == common["subject"]:
        raise StatementUnfit
    return TrustEdge(**common, weight=weight)


def verify_continuity(data: bytes, *, mesh: str) -> Continuity:
    """Return a continuity once both signatures have been verified for this mesh. Raises as `verify_trust`."""
    common, (consent,), body = _verify(data, SIGN_CONTINUITY, _CONTINUITY, mesh)
    if common["issuer"] == common["subject"]:
        raise StatementUnfit
    head = _wire.decode(body, _CONTINUITY, STATEMENT_MAX_BYTES)[: len(_HEAD)]
    verify_statement(common["subject"], SIGN_CONTINUITY, _wire.encode(head), Signature(consent))
    return Continuity(**common)


def verify_revocation(data: bytes, *, mesh: str) -> Revocation:
    """Return a revocation once it has been verified for this mesh; whether its issuer may revoke is the list's.

    Raises as `verify_trust`, but an identity may revoke itself.
    """
    common, _, _ = _verify(data, SIGN_REVOCATION, _REVOCATION, mesh)
    return Revocation(**common)
