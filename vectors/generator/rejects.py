"""The family reject: a signed answer in clear, and everything that must not pass for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agentmesh.identity import Identity, signed_part
from agentmesh.primitives._labels import SIGN_ACCEPT, SIGN_KNOCK, SIGN_REJECT, SignatureLabel
from generator import wire
from generator.codes import BAD_SIGNATURE, MALFORMED, TOO_LARGE, UNMATCHED, VERSION
from generator.forge import knock
from generator.tables import play, row
from generator.talk import (
    ACCEPTED_MS,
    LATER_MS,
    Talk,
    accept,
    enveloped,
    establish,
    header_items,
    hear,
    knocked,
    receive,
    reject,
    split,
)
from generator.world import ALICE, BOB, MALLORY, MESH, Files

Json = dict[str, Any]
Case = tuple[str, str, bytes, str]

SPEC: Final = "5.2"


def rejection(
    reason: bytes = b"policy",
    *,
    header: bytes | None = None,
    signed_header: bytes | None = None,
    receipt: bytes | None = None,
    retry_after: bytes | None = None,
    signer: Identity = BOB,
    label: SignatureLabel = SIGN_REJECT,
    signature: bytes | None = None,
    inside: bytes | None = None,
    time_ms: int = ACCEPTED_MS,
) -> bytes:
    """Return a REJECT of Bob's with any part another one."""
    header = wire.array(*header_items(3, time_ms)) if header is None else header
    if inside is None:
        receipt = knocked().receipt if receipt is None else receipt
        inside = wire.array(wire.binary(receipt), wire.text(reason), retry_after or wire.uint(0))
    signed = signed_part(header if signed_header is None else signed_header, inside)
    signature = signer.sign(label, signed) if signature is None else signature
    return enveloped(header, wire.pair(inside, signature))


def _reject_header() -> Iterator[Case]:
    _, body = split(rejection())
    items = header_items(3, ACCEPTED_MS)
    mallory = wire.text(MALLORY.did.encode())
    for name, comment, index, item, expect in (
        ("header-version", "version 2 in the header", 0, wire.uint(2), VERSION),
        ("header-kind-knock", "kind 1", 1, wire.uint(1), MALFORMED),
        ("header-kind-accept", "kind 2: its body begins with no known session id", 1, wire.uint(2),
         "message.unknown_session"),
        ("header-kind-message", "kind 4", 1, wire.uint(4), "message.unknown_session"),
        ("header-mesh", "another mesh", 2, wire.text(b"example/other"), "envelope.mesh"),
        ("header-sender", "another sender, who was not knocked at", 3, mallory, UNMATCHED),
        ("header-recipient", "another recipient", 4, mallory, "envelope.recipient"),
        ("header-time", "a time a millisecond later", 5, wire.uint(ACCEPTED_MS + 1), BAD_SIGNATURE),
    ):  # fmt: skip
        yield name, f"{comment}, around the old body", enveloped(wire.with_item(items, index, item), body), expect
    named = wire.array(*header_items(3, ACCEPTED_MS, MALLORY, ALICE))
    other = knock(index=1).receipt
    signed = wire.array(*header_items(3, ACCEPTED_MS + 1))
    yield from (
        ("other-agent", "another agent rejects what it was not asked", rejection(header=named, signer=MALLORY),
         UNMATCHED),
        ("other-agent-named-bob", "another agent signs in Bob's name", rejection(signer=MALLORY), BAD_SIGNATURE),
        ("self-signed", "signed by the initiator itself", rejection(signer=ALICE), BAD_SIGNATURE),
        ("other-knock", "the receipt of another KNOCK, under Bob's good signature", rejection(receipt=other),
         UNMATCHED),
        ("signed-other-header", "a signature over another header", rejection(signed_header=signed), BAD_SIGNATURE),
    )  # fmt: skip
    for label, name in ((SIGN_ACCEPT, "accept"), (SIGN_KNOCK, "knock")):
        yield f"label-{name}", "signed under another label", rejection(label=label), BAD_SIGNATURE


def _reject_content() -> Iterator[Case]:
    good = rejection()
    header, body = split(good)
    for name, comment, at in (
        ("receipt", "a bit of the receipt flipped", 6),
        ("signature-r", "a bit of R flipped", -60),
        ("signature-s", "a bit of S flipped", -5),
    ):
        expect = UNMATCHED if name == "receipt" else BAD_SIGNATURE
        yield f"flipped-{name}", comment, enveloped(header, wire.flipped(body, at)), expect
    yield "signature-zero", "64 zero bytes", rejection(signature=bytes(64)), BAD_SIGNATURE
    receipt = wire.binary(knocked().receipt)
    for name, comment, data in (
        ("signature-empty", "the signature stripped", rejection(signature=b"")),
        ("signature-short", "63 bytes", rejection(signature=bytes(63))),
        ("signature-long", "65 bytes", rejection(signature=bytes(65))),
        ("reason-unknown", "a reason that is none of the four", rejection(b"because")),
        ("reason-upper-case", "a reason in capitals", rejection(b"Policy")),
        ("reason-empty", "no reason", rejection(b"")),
        ("reason-bin", "the reason as a byte string",
         rejection(inside=wire.array(receipt, wire.binary(b"policy"), wire.uint(0)))),
        ("reason-str8", "the reason in a longer form",
         rejection(inside=wire.array(receipt, wire.text8(b"policy"), wire.uint(0)))),
        ("retry-after-negative", "a negative retry_after", rejection(retry_after=b"\xff")),
        ("retry-after-2-53", "a retry_after of 2^53", rejection(retry_after=wire.uint(2**53))),
        ("retry-after-uint8", "retry_after in a longer form", rejection(retry_after=wire.uint8(0))),
        ("receipt-short", "a receipt of 31 bytes", rejection(receipt=bytes(31))),
    ):  # fmt: skip
        if "signature" in name:
            yield name, comment, data, BAD_SIGNATURE
        else:
            yield name, f"{comment}, all of it signed", data, MALFORMED
    items = [receipt, wire.text(b"policy"), wire.uint(0)]
    for name, comment, inside in wire.foreign_arrays(items, shortly=True):
        yield f"content-{name}", f"the content: {comment}; the signature is good", rejection(inside=inside), MALFORMED
    signature = BOB.sign(SIGN_REJECT, signed_part(header, wire.array(*items)))
    for name, comment, bad in wire.foreign_arrays(
        [wire.binary(wire.array(*items)), wire.binary(signature)], shortly=True
    ):
        yield f"body-{name}", f"the body: {comment}", enveloped(header, bad), MALFORMED
    large = wire.pair(wire.array(*items), bytes(220))
    yield from (
        ("trailing-byte", "a byte behind the envelope", good + b"\x00", MALFORMED),
        ("truncated", "the last byte missing", good[:-1], MALFORMED),
        ("too-large", "a body of more than 256 bytes", enveloped(header, large), TOO_LARGE),
    )


OTHERWISE: Final = (
    row("make", "Bob rejects the KNOCK that waits", [reject()], role="responder"),
    row("refuse-after-accept", "a genuine REJECT after the ACCEPT is ignored",
        [establish(), receive(rejection(), UNMATCHED), receive(hear())]),
    *(row(f"take-header-time-{name}", "no header time but a KNOCK's is held against a clock",
          [receive(rejection(time_ms=time_ms))])
      for name, time_ms in (("0", 0), ("2-53-1", 2**53 - 1))),
    row("refuse-twice", "the second REJECT has nothing to reject",
        [receive(rejection()), receive(rejection(), UNMATCHED)]),
    row("refuse-accept-after-reject", "Bob decides once",
        [reject(), accept("knock.not_pending", now_ms=LATER_MS)], role="responder"),
)  # fmt: skip


def _build(files: Files, reason: str, seconds: int) -> bytes:
    """Add a REJECT that Bob makes, and return it."""
    data = rejection(reason.encode(), retry_after=wire.uint(seconds))
    header, _ = split(data)
    inside = wire.array(wire.binary(knocked().receipt), wire.text(reason.encode()), wire.uint(seconds))
    files.add(
        f"build-{reason}",
        "reject.build",
        f"reason {reason}, retry_after {seconds}",
        spec=SPEC,
        given={
            "identity_seed": BOB.seed.reveal().hex(),
            "mesh": MESH,
            "recipient": ALICE.did,
            "time_ms": ACCEPTED_MS,
            "knock_receipt": knocked().receipt.hex(),
            "reason": reason,
            "retry_after_seconds": seconds,
        },
        intermediate={
            "header": header.hex(),
            "content": inside.hex(),
            "signed": (SIGN_REJECT + signed_part(header, inside)).hex(),
        },
        output={"envelope": data.hex()},
    )
    return data


def reject_family() -> Files:
    """Return the family reject."""
    files = Files("reject")
    taken = [
        row(f"take-{reason}", f"reason {reason}: the pending session is rejected",
            [receive(_build(files, reason, seconds))])
        for reason, seconds in (("busy", 60), ("bundle", 0), ("policy", 0), ("stale", 2**53 - 1))
    ]  # fmt: skip
    refused = [
        row(f"refuse-{name}", f"{comment}; the session goes on waiting, and is established",
            [receive(data, expect, now_ms=ACCEPTED_MS), establish()])
        for name, comment, data, expect in (*_reject_header(), *_reject_content())
    ]  # fmt: skip
    for rows in (taken, refused, OTHERWISE):
        play(Talk, files, rows, spec=SPEC, established=False)
    return files
