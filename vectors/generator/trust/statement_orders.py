"""The families trust, edge, continuity and revocation, continued: statements with two faults."""

from __future__ import annotations

from collections.abc import Iterator

from generator import wire
from generator.codes import BAD_KEY, MALFORMED, VERSION
from generator.trust.statements import (
    MESH_AT,
    NEUTRAL,
    OTHER_MESH,
    REST_AT,
    SPEC,
    SUBJECT_AT,
    TRUST,
    VERSION_AT,
    Case,
    Kind,
    head_items,
    items_of,
    signed,
    verification,
)
from generator.world import Files


def statement_orders(files: Files, kind: Kind) -> Files:
    """Add what shows which check comes before which, and return the family."""
    for name, comment, data, expect in _orders(kind):
        given = verification(data)
        files.add(f"refuse-order-{name}", f"{kind.name}.verify", comment, spec=SPEC, given=given, expect=expect)
    return files


def _orders(kind: Kind) -> Iterator[Case]:
    two = {VERSION_AT: wire.uint(2)}
    for name, length, mesh in (("empty", "no bytes", b""), ("long", "65 bytes", b"m" * 65)):
        body = wire.array(*items_of(kind, {**two, MESH_AT: wire.text(mesh)}))
        comment = f"version 2 and a mesh of {length}: the mesh has no form of any version"
        yield f"mesh-{name}-before-version", comment, signed(kind, body), MALFORMED
    for name, comment, mesh in (
        ("mesh-form", "a capital in the mesh", b"Example/vectors"),
        ("mesh", "another mesh", OTHER_MESH.encode()),
    ):
        body = wire.array(*items_of(kind, {**two, MESH_AT: wire.text(mesh)}))
        yield (f"version-before-{name}", f"version 2 and {comment}: the version is looked at first", signed(kind, body),
               VERSION)  # fmt: skip
    data = wire.flipped(signed(kind, wire.array(*items_of(kind, two))), -1)
    yield "version-before-signature", "version 2, and forged: the version is looked at first", data, VERSION
    body = wire.array(*items_of(kind, {SUBJECT_AT: wire.binary(NEUTRAL)}))
    comment = "a subject of small order, and forged: the key is looked at first"
    yield "subject-key-before-signature", comment, wire.flipped(signed(kind, body), -1), BAD_KEY
    if kind is not TRUST:
        return
    nothing_upwards = {REST_AT + 1: wire.uint(0)}
    body = wire.array(*items_of(kind, {**two, **nothing_upwards}))
    comment = "version 2 and amount 0 with direction 1: the version is looked at first"
    yield "version-before-nothing-upwards", comment, signed(kind, body), VERSION
    comment = "amount 0 with direction 1, and another mesh: the form is looked at first"
    body = wire.array(*items_of(kind, nothing_upwards, head=head_items(mesh=OTHER_MESH)))
    yield "nothing-upwards-before-mesh", comment, signed(kind, body), MALFORMED
    comment = "amount 0 with direction 1, and forged: the form is looked at first"
    data = wire.flipped(signed(kind, wire.array(*items_of(kind, nothing_upwards))), -1)
    yield "nothing-upwards-before-signature", comment, data, MALFORMED
