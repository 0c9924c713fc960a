"""The families trust, edge, continuity and revocation: statements that are issued, verified, and refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from agentmesh.identity import Identity
from agentmesh.primitives._labels import (
    SIGN_BUNDLE,
    SIGN_CHECKPOINT,
    SIGN_CONTINUITY,
    SIGN_EDGE,
    SIGN_REVOCATION,
    SIGN_TRUST,
    SignatureLabel,
)
from generator import curve, wire
from generator.codes import BAD_KEY, BAD_SIGNATURE, MALFORMED, TOO_LARGE, UNFIT, VERSION
from generator.world import MALLORY, MESH, NOW_MS, ONE_TIME, Files, identity

Json = dict[str, Any]

SPEC: Final = "9.1"

ISSUER: Final = identity("issuer")
SUBJECT: Final = identity("subject")
SEQUENCE: Final = 7
OTHER_MESH: Final = "example/other"
LONGEST_MESH: Final = "a/" * 32
UINT_MAX: Final = 2**53 - 1
NEUTRAL: Final = curve.TORSION[0][1]
MIXED_TORSION: Final = next(point for order, point in curve.TORSION if order == 8)
VERSION_AT, MESH_AT, ISSUER_AT, SUBJECT_AT, SEQUENCE_AT, TIME_AT, REST_AT = range(7)

Items = Mapping[int, bytes]
Case = tuple[str, str, bytes, str]


@frozen(kw_only=True)
class Kind:
    """One kind of statement: the fields behind the common ones, as in the protocol's table."""

    name: str
    label: SignatureLabel
    fields: tuple[tuple[str, int], ...]

    @property
    def has_consent(self) -> bool:
        """Whether the subject signs too."""
        return self.label == SIGN_CONTINUITY


TRUST: Final = Kind(name="trust", label=SIGN_TRUST, fields=(("direction", 1), ("amount", 150)))
EDGE: Final = Kind(name="edge", label=SIGN_EDGE, fields=(("weight", 700),))
CONTINUITY: Final = Kind(name="continuity", label=SIGN_CONTINUITY, fields=())
REVOCATION: Final = Kind(name="revocation", label=SIGN_REVOCATION, fields=())
KINDS: Final = (TRUST, EDGE, CONTINUITY, REVOCATION)


# --- statements from their parts -------------------------------------------------------------------------------------


def head_items(
    *,
    mesh: str = MESH,
    issuer: bytes = ISSUER.key.raw,
    subject: bytes = SUBJECT.key.raw,
    sequence: int = SEQUENCE,
    time_ms: int = NOW_MS,
) -> list[bytes]:
    """Return the encoded fields that every statement begins with."""
    return [
        wire.uint(1),
        wire.text(mesh.encode()),
        wire.binary(issuer),
        wire.binary(subject),
        wire.uint(sequence),
        wire.uint(time_ms),
    ]


def items_of(
    kind: Kind,
    changes: Items | None = None,
    *,
    head: list[bytes] | None = None,
    subject: Identity = SUBJECT,
    consent: bytes | None = None,
) -> list[bytes]:
    """Return the encoded fields of a body. A changed head is consented to as it is, where a consent is due."""
    changes = changes or {}
    items = [changes.get(index, item) for index, item in enumerate(head_items() if head is None else head)]
    if kind.has_consent:
        good = subject.sign(SIGN_CONTINUITY, wire.array(*items))
        items.append(wire.binary(good if consent is None else consent))
    items += [wire.uint(value) for _, value in kind.fields]
    return [changes.get(index, item) for index, item in enumerate(items)]


def signed(kind: Kind, body: bytes, signer: Identity = ISSUER, label: SignatureLabel | None = None) -> bytes:
    """Return a body with a good signature over it, whatever it is."""
    signature = signer.sign(kind.label if label is None else label, body)
    return wire.pair(body, signature)


def statement(
    kind: Kind,
    issuer: Identity = ISSUER,
    subject: Identity = SUBJECT,
    *rest: int,
    mesh: str = MESH,
    sequence: int = SEQUENCE,
    time_ms: int = NOW_MS,
) -> bytes:
    """Return a genuine statement, whatever its issuer says of whom; `rest` are the fields behind the common ones."""
    head = head_items(mesh=mesh, issuer=issuer.key.raw, subject=subject.key.raw, sequence=sequence, time_ms=time_ms)
    changes = {REST_AT + index: wire.uint(value) for index, value in enumerate(rest)}
    return signed(kind, wire.array(*items_of(kind, changes, head=head, subject=subject)), issuer)


def body_of(data: bytes) -> bytes:
    """Return the body of a statement, which is shorter than 256 bytes."""
    return data[3 : 3 + data[2]]


# --- the files -------------------------------------------------------------------------------------------------------


def verification(data: bytes, mesh: str = MESH) -> Json:
    """Return the input of an operation that verifies."""
    return {"statement": data.hex(), "mesh": mesh}


def statements(kind: Kind) -> Files:
    """Return the family of this kind, without what has steps."""
    files = Files(kind.name)
    for name, comment, issued in _issued(kind):
        _issue(files, kind, name, comment, issued)
    cases = [
        *_unfit(kind),
        *_altered(kind),
        *_signatures(kind),
        *_other_kinds(kind),
        *_keys(kind),
        *_head_faults(kind),
        *_rest_faults(kind),
        *_forms(kind),
    ]
    for name, comment, data, expect in cases:
        given = verification(data, OTHER_MESH if name == "altered-mesh" else MESH)
        files.add(f"refuse-{name}", f"{kind.name}.verify", comment, spec=SPEC, given=given, expect=expect)
    return files


def _issued(kind: Kind) -> Iterator[tuple[str, str, Json]]:
    least = {"sequence": 0, "time_ms": 0}
    yield from (
        ("plain", "a statement", {}),
        ("least", "the smallest numbers", least),
        ("largest", "the largest numbers", {"sequence": UINT_MAX, "time_ms": UINT_MAX}),
        ("longest-mesh", "a mesh name of 64 bytes", {"mesh": LONGEST_MESH}),
        ("shortest-mesh", "a mesh name of one byte", {"mesh": "m"}),
    )
    if kind is TRUST:
        yield from (
            ("lower", "a signal that lowers", {"direction": 0, "amount": 200}),
            ("nothing", "no movement has one encoding: direction 0, amount 0", {"direction": 0, "amount": 0}),
            ("raise-1000", "1000 may be signed; a ledger counts 200 of it", {"amount": 1000}),
            ("lower-1000", "1000 downwards", {"direction": 0, "amount": 1000}),
        )
    if kind is EDGE:
        yield "withdrawn", "a weight of 0 withdraws an edge", {"weight": 0}
        yield "weight-1000", "the largest weight", {"weight": 1000}
    if kind is REVOCATION:
        yield "of-itself", "an identity revokes itself", {"subject": ISSUER}


def _issue(files: Files, kind: Kind, name: str, comment: str, changes: Json) -> None:
    fields = {"mesh": MESH, "sequence": SEQUENCE, "time_ms": NOW_MS, **dict(kind.fields), **changes}
    subject = fields.pop("subject", SUBJECT)
    named = {"subject_seed": subject.seed.reveal()} if kind.has_consent else {"subject": subject.key.raw}
    given = {
        "issuer_seed": ISSUER.seed.reveal().hex(),
        **{field: value.hex() for field, value in named.items()},
        **fields,
    }
    rest = [fields[field] for field, _ in kind.fields]
    about = {field: fields[field] for field in ("mesh", "sequence", "time_ms")}
    data = statement(kind, ISSUER, subject, *rest, **about)
    body = body_of(data)
    values = {"body": body, "signed": kind.label + body, "signature": ISSUER.sign(kind.label, body)}
    if kind.has_consent:
        head = wire.array(*head_items(subject=subject.key.raw, **about))
        values = {"head": head, "consent": subject.sign(kind.label, head), **values}
    files.add(
        f"issue-{name}",
        f"{kind.name}.issue",
        f"{comment}, from its fields" if name == "plain" else comment,
        spec=SPEC,
        given=given,
        intermediate={field: value.hex() for field, value in values.items()},
        output={"statement": data.hex(), "digest": hashlib.sha256(body).hexdigest()},
    )
    files.add(
        f"verify-{name}",
        f"{kind.name}.verify",
        f"{comment}, verified",
        spec=SPEC,
        given=verification(data, fields["mesh"]),
        intermediate={"body": body.hex()},
        output={field: fields[field] for field, _ in kind.fields},
    )


def _unfit(kind: Kind) -> Iterator[Case]:
    yield "other-mesh", "of another mesh than the verifier's", statement(kind, mesh=OTHER_MESH), UNFIT
    comment = "a mesh whose name the verifier's begins with"
    yield "mesh-is-a-prefix", comment, statement(kind, mesh=MESH[:-1]), UNFIT
    forged = wire.flipped(statement(kind, mesh=OTHER_MESH), -1)
    yield "order-mesh-before-signature", "of another mesh, and forged: the mesh is looked at first", forged, UNFIT
    if kind is REVOCATION:
        return
    yield "about-itself", "issuer and subject are one identity", statement(kind, ISSUER, ISSUER), UNFIT
    body = wire.array(*items_of(kind, head=head_items(issuer=NEUTRAL, subject=NEUTRAL)))
    data = wire.pair(body, NEUTRAL + bytes(32))
    comment = "about its own issuer, whose key is of small order: no key is looked at"
    yield "order-about-itself-before-key", comment, data, UNFIT


def _altered(kind: Kind) -> Iterator[Case]:
    good = items_of(kind)
    signature = ISSUER.sign(kind.label, wire.array(*good))
    altered = {
        "mesh": (MESH_AT, wire.text(OTHER_MESH.encode())),
        "issuer": (ISSUER_AT, wire.binary(MALLORY.key.raw)),
        "subject": (SUBJECT_AT, wire.binary(MALLORY.key.raw)),
        "sequence": (SEQUENCE_AT, wire.uint(SEQUENCE + 1)),
        "time": (TIME_AT, wire.uint(NOW_MS + 1)),
    }
    if kind is TRUST:
        altered |= {"direction": (REST_AT, wire.uint(0)), "amount": (REST_AT + 1, wire.uint(200))}
    if kind is EDGE:
        altered |= {"weight": (REST_AT, wire.uint(1000))}
    for name, (index, item) in altered.items():
        # Where a consent is due it is given to what was altered: the issuer's signature alone is at fault.
        subject = MALLORY if name == "subject" else SUBJECT
        body = wire.array(*items_of(kind, {index: item}, subject=subject))
        data = wire.pair(body, signature)
        yield f"altered-{name}", "one field from elsewhere under the old signature", data, BAD_SIGNATURE


def _signatures(kind: Kind) -> Iterator[Case]:
    body = wire.array(*items_of(kind))
    signature = ISSUER.sign(kind.label, body)
    other = wire.array(*items_of(kind, head=head_items(sequence=SEQUENCE + 1)))
    for name, comment, bad in (
        ("empty", "the signature stripped to no bytes", b""),
        ("zero", "64 zero bytes", bytes(64)),
        ("short", "63 bytes", signature[:-1]),
        ("long", "65 bytes", signature + b"\x00"),
        ("flipped-r", "a bit of R flipped", wire.flipped(signature, 5)),
        ("flipped-s", "a bit of S flipped", wire.flipped(signature, 40)),
        ("s-plus-l", "S + L in the place of S", curve.s_plus_l(signature)),
        ("small-order-r", "R of small order with the S that satisfies the equation",
         curve.signature_with_small_r(ISSUER.seed.reveal(), kind.label + body)),
        ("other-signer", "signed by somebody else", MALLORY.sign(kind.label, body)),
        ("subject", "signed by its subject", SUBJECT.sign(kind.label, body)),
        ("no-label", "signed without a label", ISSUER.sign(SignatureLabel(b""), body)),
        ("no-nul", "signed under the label without its zero byte", _sign_raw(kind.label[:-1] + body)),
        ("other-statement", "the signature of the issuer's next statement", ISSUER.sign(kind.label, other)),
    ):  # fmt: skip
        yield f"signature-{name}", comment, wire.pair(body, bad), BAD_SIGNATURE


def _sign_raw(message: bytes) -> bytes:
    return ISSUER.sign(SignatureLabel(b""), message)


def _other_kinds(kind: Kind) -> Iterator[Case]:
    body = wire.array(*items_of(kind))
    labels = {other.name: other.label for other in KINDS if other is not kind}
    for name, label in {**labels, "bundle": SIGN_BUNDLE, "checkpoint": SIGN_CHECKPOINT}.items():
        comment = f"this body, signed by its issuer under the label {name}"
        yield f"label-{name}", comment, signed(kind, body, label=label), BAD_SIGNATURE
    for other in KINDS:
        if other is not kind:
            data = statement(other)
            yield f"replayed-{other.name}", f"a genuine {other.name} of the same issuer", data, MALFORMED
            relabelled = signed(kind, wire.array(*items_of(other)))
            comment = f"the body of a {other.name}, signed under the label {kind.name}"
            yield f"shape-of-{other.name}", comment, relabelled, MALFORMED
    checkpoint = wire.array(*head_items(subject=ISSUER.key.raw), wire.binary(bytes(32)))
    data = signed(kind, checkpoint, label=SIGN_CHECKPOINT)
    yield "replayed-checkpoint", "a genuine checkpoint of the issuer's audit log", data, MALFORMED
    yield "replayed-bundle", "a prekey bundle: longer than any statement", ONE_TIME.data, TOO_LARGE


def _keys(kind: Kind) -> Iterator[Case]:
    seed = ISSUER.seed.reveal()
    for name, comment, key in (
        ("small-order", "the neutral element", NEUTRAL),
        ("non-canonical", "y = p + 3, written longer", curve.NON_CANONICAL[5][1]),
        ("not-on-curve", "y = 2, to which no x belongs", (2).to_bytes(32, "little")),
    ):
        body = wire.array(*items_of(kind, {ISSUER_AT: wire.binary(key)}))
        signature = NEUTRAL + bytes(32)
        data = wire.pair(body, signature)
        yield f"issuer-{name}", f"{comment} as the issuer, with the signature R = neutral, S = 0", data, BAD_KEY
        body = wire.array(*items_of(kind, {SUBJECT_AT: wire.binary(key)}))
        yield f"subject-{name}", f"{comment} as the subject, under a good signature", signed(kind, body), BAD_KEY
    mixed = curve.add(ISSUER.key.raw, MIXED_TORSION)
    body = wire.array(*items_of(kind, {ISSUER_AT: wire.binary(mixed)}))
    key, signature = curve.mixed_order_signature(seed, kind.label + body)
    if key != mixed:
        raise ValueError("another point was added")
    data = wire.pair(body, signature)
    comment = "an issuer's key of mixed order, with a signature that satisfies the equation"
    yield "issuer-mixed-order", comment, data, BAD_KEY
    mixed = curve.add(SUBJECT.key.raw, MIXED_TORSION)
    head = head_items(subject=mixed)
    _, consent = curve.mixed_order_signature(SUBJECT.seed.reveal(), SIGN_CONTINUITY + wire.array(*head))
    body = wire.array(*items_of(kind, head=head, consent=consent))
    comment = "a subject's key of mixed order"
    yield "subject-mixed-order", comment, signed(kind, body), BAD_KEY


def _head_faults(kind: Kind) -> Iterator[Case]:
    for name, comment, index, item, expect in (
        ("version-0", "version 0", VERSION_AT, wire.uint(0), VERSION),
        ("version-2", "version 2", VERSION_AT, wire.uint(2), VERSION),
        ("version-true", "true in the version's place", VERSION_AT, wire.TRUE, MALFORMED),
        ("version-uint8", "the version in a longer form", VERSION_AT, wire.uint8(1), MALFORMED),
        ("mesh-empty", "a mesh of no bytes", MESH_AT, wire.text(b""), MALFORMED),
        ("mesh-long", "a mesh of 65 bytes", MESH_AT, wire.text(b"m" * 65), MALFORMED),
        ("mesh-capital", "a capital in the mesh", MESH_AT, wire.text(b"Example/vectors"), MALFORMED),
        ("mesh-newline", "a line feed behind the mesh", MESH_AT, wire.text(MESH.encode() + b"\n"), MALFORMED),
        ("mesh-not-utf8", "a mesh that is not UTF-8", MESH_AT, wire.text(b"example/\xff"), MALFORMED),
        ("mesh-bin", "the mesh as a byte string", MESH_AT, wire.binary(MESH.encode()), MALFORMED),
        ("mesh-str8", "the mesh in a longer form", MESH_AT, wire.text8(MESH.encode()), MALFORMED),
        ("issuer-short", "an issuer of 31 bytes", ISSUER_AT, wire.binary(ISSUER.key.raw[:-1]), MALFORMED),
        ("issuer-str", "the issuer as a text", ISSUER_AT, wire.text8(b"k" * 32), MALFORMED),
        ("subject-long", "a subject of 33 bytes", SUBJECT_AT, wire.binary(SUBJECT.key.raw + b"\x00"), MALFORMED),
        ("subject-did", "the subject by its DID", SUBJECT_AT, wire.text(SUBJECT.did.encode()), MALFORMED),
        ("subject-bin16", "the subject in a longer form", SUBJECT_AT, wire.binary16(SUBJECT.key.raw), MALFORMED),
        ("subject-nil", "nil in the subject's place", SUBJECT_AT, wire.NIL, MALFORMED),
        ("sequence-over-2-53", "a sequence of 2^53", SEQUENCE_AT, wire.uint(2**53), MALFORMED),
        ("sequence-negative", "a negative sequence", SEQUENCE_AT, b"\xff", MALFORMED),
        ("sequence-uint64", "the sequence in a longer form", SEQUENCE_AT, wire.uint64(SEQUENCE), MALFORMED),
        ("time-over-2-53", "a time of 2^53", TIME_AT, wire.uint(2**53), MALFORMED),
        ("time-float", "a time as a float", TIME_AT, b"\xcb" + bytes(8), MALFORMED),
        ("time-text", "a time as a text", TIME_AT, wire.text(b"7"), MALFORMED),
    ):
        data = signed(kind, wire.array(*items_of(kind, {index: item})))
        yield f"signed-{name}", f"{comment}, under a good signature", data, expect


def _rest_faults(kind: Kind) -> Iterator[Case]:
    if kind.has_consent:
        yield from _consents()
    faults: list[tuple[str, str, int, bytes]] = []
    if kind is TRUST:
        faults = [
            ("direction-2", "direction 2", 0, wire.uint(2)),
            ("direction-true", "true in the direction's place", 0, wire.TRUE),
            ("direction-uint8", "the direction in a longer form", 0, wire.uint8(1)),
            ("nothing-upwards", "amount 0 with direction 1: nothing has another encoding", 1, wire.uint(0)),
        ]
    if kind in {TRUST, EDGE}:
        (name, good), at = kind.fields[-1], len(kind.fields) - 1
        faults += [
            (f"{name}-1001", f"{name} 1001", at, wire.uint(1001)),
            (f"{name}-negative", f"{name} -50", at, b"\xd0\xce"),
            (f"{name}-float", f"{name} 0.9 as a float", at, b"\xcb" + bytes.fromhex("3feccccccccccccd")),
            (f"{name}-nan", f"{name} as the float NaN", at, b"\xcb" + bytes.fromhex("7ff8000000000000")),
            (f"{name}-true", f"true in the place of {name}", at, wire.TRUE),
            (f"{name}-text", f"{name} as a text", at, wire.text(b"900")),
            (f"{name}-nil", f"nil in the place of {name}", at, wire.NIL),
            (f"{name}-2-64", f"{name} 2^64 - 1", at, wire.uint(2**64 - 1)),
            (f"{name}-uint64", f"{name} in a longer form", at, wire.uint64(good)),
        ]
    for name, comment, at, item in faults:
        data = signed(kind, wire.array(*items_of(kind, {REST_AT + at: item})))
        yield f"signed-{name}", f"{comment}, under a good signature", data, MALFORMED


def _consents() -> Iterator[Case]:
    head = wire.array(*head_items())
    good = SUBJECT.sign(SIGN_CONTINUITY, head)
    other_head = wire.array(*head_items(sequence=SEQUENCE + 1))
    turned = wire.array(*head_items(issuer=SUBJECT.key.raw, subject=ISSUER.key.raw))
    for name, comment, consent, expect in (
        ("missing-bytes", "no bytes", b"", MALFORMED),
        ("short", "63 bytes: the body has another form", good[:-1], MALFORMED),
        ("long", "65 bytes", good + b"\x00", MALFORMED),
        ("zero", "64 zero bytes", bytes(64), BAD_SIGNATURE),
        ("flipped-r", "a bit of R flipped", wire.flipped(good, 5), BAD_SIGNATURE),
        ("flipped-s", "a bit of S flipped", wire.flipped(good, 40), BAD_SIGNATURE),
        ("by-issuer", "signed by the old identity itself", ISSUER.sign(SIGN_CONTINUITY, head), BAD_SIGNATURE),
        ("by-stranger", "signed by somebody else", MALLORY.sign(SIGN_CONTINUITY, head), BAD_SIGNATURE),
        ("other-sequence", "to another sequence", SUBJECT.sign(SIGN_CONTINUITY, other_head), BAD_SIGNATURE),
        ("turned", "to the opposite: the old follows the new", SUBJECT.sign(SIGN_CONTINUITY, turned), BAD_SIGNATURE),
        ("label-edge", "under the label edge", SUBJECT.sign(SIGN_EDGE, head), BAD_SIGNATURE),
        ("label-revocation", "under the label revocation", SUBJECT.sign(SIGN_REVOCATION, head), BAD_SIGNATURE),
        ("no-label", "without a label", SUBJECT.sign(SignatureLabel(b""), head), BAD_SIGNATURE),
        ("fields-without-array", "over the six fields without the array's first byte",
         SUBJECT.sign(SIGN_CONTINUITY, head[1:]), BAD_SIGNATURE),
        ("array-of-seven", "over the fields behind the first byte of the whole body",
         SUBJECT.sign(SIGN_CONTINUITY, b"\x97" + head[1:]), BAD_SIGNATURE),
    ):  # fmt: skip
        body = wire.array(*items_of(CONTINUITY, consent=consent))
        yield f"consent-{name}", f"the new identity's consent: {comment}", signed(CONTINUITY, body), expect
    for name, comment, item in (
        ("nil", "nil in its place", wire.NIL),
        ("bin16", "in a longer form", wire.binary16(good)),
    ):
        body = wire.array(*items_of(CONTINUITY, {REST_AT: item}))
        yield f"consent-{name}", f"the new identity's consent: {comment}", signed(CONTINUITY, body), MALFORMED
    body = wire.array(*items_of(CONTINUITY))
    yield ("taken-over",
           "the new identity signed it whole, the old one nothing: nobody takes a standing over by itself",
           signed(CONTINUITY, body, SUBJECT), BAD_SIGNATURE)  # fmt: skip
    yield ("consent-alone", "what the new identity signed, offered as a statement of its own",
           wire.pair(head, good), MALFORMED)  # fmt: skip


def _forms(kind: Kind) -> Iterator[Case]:
    items = items_of(kind)
    body = wire.array(*items)
    signature = ISSUER.sign(kind.label, body)
    pair = [wire.binary(body), wire.binary(signature)]
    for name, comment, data in wire.foreign_arrays(items, shortly=True):
        yield f"body-{name}", f"the body: {comment}; the signature over it is good", signed(kind, data), MALFORMED
    for name, comment, data in wire.foreign_arrays(pair):
        yield f"form-{name}", f"the statement: {comment}", data, MALFORMED
    for name, comment, data in (
        ("form-body-bin16", "the body in a longer form", wire.array(wire.binary16(body), pair[1])),
        ("form-signature-bin32", "the signature in a longer form", wire.array(pair[0], wire.binary32(signature))),
        ("form-body-empty", "a body of no bytes, signed", signed(kind, b"")),
        ("form-body-bare", "the body alone", body),
        ("form-body-inline", "the body as an array, not as a byte string", wire.array(body, pair[1])),
    ):
        yield name, comment, data, MALFORMED
    spare = 320 - len(wire.array(*pair))
    longest = wire.array(pair[0], wire.binary(signature + bytes(spare)))
    if len(longest) != 320:
        raise ValueError("320 bytes are wanted")
    yield "size-320", "320 bytes, with a signature that is too long: not too large", longest, BAD_SIGNATURE
    yield "size-321", "321 bytes: refused by length alone", b"\x92" + bytes(320), TOO_LARGE
