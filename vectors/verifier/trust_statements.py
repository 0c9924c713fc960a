"""Signed statements: section 9.1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verifier.common import Json, Trace, refuse, unhex
from verifier.encoding import Form, encode, exactly, is_bin, is_mesh, is_uint, text_of, unpack
from verifier.primitives import identity_point, label_of, verify
from verifier.structures import Identity

STATEMENT_MAX_BYTES = 320
HEAD_FORMS: tuple[Form, ...] = (is_uint, text_of(1, 64), exactly(32), exactly(32), is_uint, is_uint)


def up_to(most: int) -> Form:
    """An unsigned integer that is not larger."""
    return lambda value: is_uint(value) and 0 <= value <= most


# The fields of each kind behind the six of the head.
MORE: dict[str, dict[str, Form]] = {
    "trust": {"direction": up_to(1), "amount": up_to(1000)},
    "edge": {"weight": up_to(1000)},
    "revocation": {},
    "continuity": {"consent": exactly(64)},
}
Fit = Callable[["Statement"], bool]


@dataclass(frozen=True)
class Statement:
    """A statement that was verified."""

    issuer: bytes
    subject: bytes
    sequence: int
    time: int
    digest: bytes
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def signal(self) -> int:
        """What a trust update says, with its sign."""
        amount: int = self.more["amount"]
        return amount if self.more["direction"] else -amount

    def replaces(self, other: Statement) -> bool:
        """Of edges and continuities: a higher sequence, or an equal one and a smaller digest."""
        return self.sequence > other.sequence or (self.sequence == other.sequence and self.digest < other.digest)

    def out(self) -> Json:
        """What `verify` gives; a consent is not told."""
        head = {"issuer": self.issuer, "subject": self.subject, "sequence": self.sequence, "time_ms": self.time}
        return head | {name: v for name, v in self.more.items() if name != "consent"} | {"digest": self.digest}


def take_statement(kind: str, data: bytes, mesh: str, fits: Fit, trace: Trace) -> Statement:
    """Steps 1 to 7 of the table, in their order; `fits` is step 5."""
    if len(data) > STATEMENT_MAX_BYTES:
        refuse("wire.too_large")
    body, signature = unpack(data, is_bin, is_bin)
    version, its_mesh, issuer, subject, sequence, time, *rest = unpack(body, *HEAD_FORMS, *MORE[kind].values())
    more = dict(zip(MORE[kind], rest, strict=True))
    statement = Statement(issuer, subject, sequence, time, hashlib.sha256(body).digest(), more)
    trace |= {"body": body, "digest": statement.digest}
    if version != 1:
        refuse("wire.version")
    if not is_mesh(its_mesh):
        refuse("wire.malformed")
    if kind == "trust" and more["amount"] == 0 and more["direction"] != 0:
        refuse("wire.malformed")
    if its_mesh != mesh:
        refuse("trust.unfit")
    if issuer == subject and kind != "revocation":
        refuse("trust.unfit")
    if not fits(statement):
        refuse("trust.unfit")
    identity_point(issuer)
    identity_point(subject)
    verify(issuer, kind, body, signature)
    if kind == "continuity":
        verify(subject, kind, encode([version, its_mesh, issuer, subject, sequence, time]), more["consent"])
    return statement


def issue(kind: str, given: Json, trace: Trace) -> Json:
    """`issue` of a kind: make a body, and sign it."""
    own = Identity(unhex(given["issuer_seed"]))
    if kind == "continuity":
        successor = Identity(unhex(given["subject_seed"]))
        subject = successor.key
    else:
        subject = unhex(given["subject"])
    fields = [1, given["mesh"], own.key, subject, given["sequence"], given["time_ms"]]
    if kind == "continuity":
        trace["head"] = encode(fields)
        trace["consent"] = successor.sign(kind, trace["head"])
        fields.append(trace["consent"])
    else:
        fields += [given[name] for name in MORE[kind]]
    body = encode(fields)
    signature = own.sign(kind, body)
    trace |= {"body": body, "signed": label_of(kind) + body, "signature": signature}
    return {"statement": encode([body, signature]), "digest": hashlib.sha256(body).digest()}


def verify_alone(kind: str, given: Json, trace: Trace) -> Json:
    """`verify` of a kind: without step 5."""
    return take_statement(kind, unhex(given["statement"]), given["mesh"], lambda _: True, trace).out()


def _operations(kind: str) -> dict[str, Callable[[Json, Trace], Json]]:
    return {
        f"{kind}.issue": lambda given, trace: issue(kind, given, trace),
        f"{kind}.verify": lambda given, trace: verify_alone(kind, given, trace),
    }


OPERATIONS = {name: call for kind in MORE for name, call in _operations(kind).items()}
