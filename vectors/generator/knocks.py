"""The family knock: made, taken through the gate in its order of checks, replayed, and refused at every check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentmesh.primitives._labels import INTENT
from agentmesh.primitives.aead import seal
from generator import wire
from generator.forge import ACTION, CAPABILITIES, DETAIL, ForgedKnock, content, knock
from generator.knock_forgeries import bad_forms, bad_headers, bad_inner, bad_signatures, unopened
from generator.scenario import Scenario
from generator.world import (
    ALICE,
    BOB,
    DAY_MS,
    EXPIRES_MS,
    LAST_RESORT,
    MALLORY,
    MESH,
    NOW_MS,
    ONE_TIME,
    OTHER_ONE_TIME,
    SHORT,
    TOLERANCE_MS,
    Files,
    Stock,
    encapsulation,
    token,
)

Json = dict[str, Any]

UNLIMITED: Final = {"max_messages": None, "ttl_seconds": None, "allowed_actions": None}
SPEC: Final = "5.1"


def gate(stocks: Sequence[Stock] = (ONE_TIME,), **more: Any) -> Json:
    """Return the input of `knock.run` for Bob with these bundles."""
    return {
        "identity_seed": BOB.seed.reveal().hex(),
        "mesh": MESH,
        "bundles": [stock.secrets() for stock in stocks],
        **more,
    }


class _Gate:
    """A scenario of `knock.run`."""

    def __init__(
        self, files: Files, name: str, comment: str, stocks: Sequence[Stock] = (ONE_TIME,), **more: Any
    ) -> None:
        self._scenario = Scenario(files, name, "knock.run", comment, spec=SPEC, given=gate(stocks, **more))
        self._shown = False

    def receive(self, made: ForgedKnock | bytes, expect: str = "ok", *, now_ms: int = NOW_MS) -> Json:
        """Offer a KNOCK."""
        forged = isinstance(made, ForgedKnock)
        data = made.envelope if forged else made
        # The first shows the keys on the way; those of the next differ only in their numbers.
        shown = made.keys() if forged and not self._shown else None
        self._shown = True
        return self._scenario.step("receive", expect, now_ms=now_ms, envelope=data, intermediate=shown)

    def decide(self, do: str, expect: str = "ok", *, now_ms: int = NOW_MS, **fields: Any) -> Json:
        """Accept or reject the KNOCK that waits."""
        return self._scenario.step(do, expect, now_ms=now_ms, **fields)

    def finish(self, expect: str = "ok") -> None:
        """Write the file."""
        self._scenario.finish(expect)


def knock_family() -> Files:
    """Return the family knock."""
    files = Files("knock")
    _build(files)
    _taken(files)
    _answered(files)
    _rejected(files)
    _refused(files)
    _refused_again(files)
    return files


# --- made ------------------------------------------------------------------------------------------------------------


def _build(files: Files) -> None:
    for name, comment, stock, fields in (
        ("one-time", "a KNOCK on a one-time bundle", ONE_TIME, {}),
        ("last-resort", "a KNOCK on a last-resort bundle", LAST_RESORT, {}),
        ("early-payload", "with an early payload", ONE_TIME, {"early_payload": b"the first words"}),
        ("early-payload-empty", "an empty early payload is one", ONE_TIME, {"early_payload": b""}),
        ("not-fresh", "fresh = 0: the initiator holds an older session that it began", ONE_TIME, {"fresh": 0}),
        ("smallest", "the shortest intent", ONE_TIME, {"action": "x", "capabilities": (), "detail": b""}),
        ("text-beyond-ascii", "names in UTF-8", ONE_TIME, {"action": "übersetzen", "capabilities": ("日本語",)}),
    ):
        fields = {
            "action": ACTION,
            "capabilities": CAPABILITIES,
            "detail": DETAIL,
            "early_payload": None,
            "fresh": 1,
            **fields,
        }
        made = knock(stock, inside=content(**fields))
        early_payload = fields["early_payload"]
        ciphertext, shared = encapsulation(stock)
        files.add(
            f"build-{name}",
            "knock.build",
            comment,
            spec="5",
            given={
                "identity_seed": ALICE.seed.reveal().hex(),
                "bundle": stock.data.hex(),
                "did": BOB.did,
                "mesh": MESH,
                "time_ms": NOW_MS,
                "expires_ms": EXPIRES_MS,
                **fields,
                "capabilities": list(fields["capabilities"]),
                "detail": fields["detail"].hex(),
                "early_payload": None if early_payload is None else early_payload.hex(),
                "ephemeral_secret": token("alice/ephemeral/0").hex(),
                "kem_ciphertext": ciphertext.hex(),
                "kem_shared_secret": shared.hex(),
                "nonce": token("alice/knock/nonce", 24).hex(),
            },
            intermediate=made.intermediate(),
            output={"envelope": made.envelope.hex(), "receipt": made.receipt.hex(), "root": made.values["root"]},
        )


# --- taken -----------------------------------------------------------------------------------------------------------


def _taken(files: Files) -> None:
    for name, comment, stock, made in (
        ("one-time", "opened: the one-time bundle's secrets are gone", ONE_TIME, knock()),
        ("last-resort", "opened: a last-resort bundle goes on serving", LAST_RESORT, knock(LAST_RESORT)),
        (
            "early-payload",
            "with an early payload, held back until it is accepted",
            ONE_TIME,
            knock(inside=content(early_payload=b"the first words")),
        ),
        ("not-fresh", "fresh = 0", ONE_TIME, knock(inside=content(fresh=0))),
        ("no-capabilities", "no capabilities and no detail", ONE_TIME, knock(inside=content("x", (), b""))),
        (
            "longest-lifetime",
            "expires exactly 14 days after its time",
            ONE_TIME,
            knock(expires_ms=NOW_MS + 14 * DAY_MS),
        ),
        ("shortest-lifetime", "expires a millisecond after its time", ONE_TIME, knock(expires_ms=NOW_MS + 1)),
    ):
        run = _Gate(files, f"receive-{name}", comment, [stock])
        run.receive(made)
        run.finish()
    run = _Gate(files, "receive-from-ahead", "its time is 300 s ahead of the receiver's clock")
    run.receive(knock(), now_ms=NOW_MS - TOLERANCE_MS)
    run.finish()
    accepting = {"decision": "accept", "conditions": UNLIMITED}
    run = _Gate(
        files, "receive-at-the-end", "300 s past expires: the last moment; the policy accepts", policy=accepting
    )
    run.receive(knock(), now_ms=EXPIRES_MS + TOLERANCE_MS)
    run.finish()
    run = _Gate(
        files, "receive-two-on-last-resort", "two KNOCKs on one last-resort bundle, the second later", [LAST_RESORT]
    )
    run.receive(knock(LAST_RESORT))
    run.receive(knock(LAST_RESORT, index=1, time_ms=NOW_MS + 1))
    run.finish()


def _answered(files: Files) -> None:
    limited = {"max_messages": 3, "ttl_seconds": 3600, "allowed_actions": ["summarise", "translate"]}
    for name, policy in (
        ("accept", {"decision": "accept", "conditions": limited}),
        ("reject", {"decision": "reject", "reason": "policy", "retry_after_seconds": 0}),
    ):
        run = _Gate(files, f"{name}-by-policy", f"the policy decides to {name}", policy=policy)
        run.receive(knock(inside=content(early_payload=b"the first words")))
        run.finish()
        run = _Gate(
            files, f"{name}-repeated", f"the equal KNOCK again gets the bytes of the {name} again", policy=policy
        )
        run.receive(knock())
        run.receive(knock(), now_ms=NOW_MS + 1000)
        run.finish()
    run = _Gate(files, "ask-then-accept", "the application accepts: the early payload is released")
    run.receive(knock(inside=content(early_payload=b"the first words")))
    run.decide("accept", conditions=limited, now_ms=NOW_MS + 1000)
    run.finish()
    run = _Gate(files, "ask-then-reject", "the application rejects, with advice when to try again")
    run.receive(knock())
    run.decide("reject", reason="busy", retry_after_seconds=60, now_ms=NOW_MS + 1000)
    run.receive(knock(), now_ms=NOW_MS + 2000)
    run.finish()
    run = _Gate(files, "ask-then-accept-at-the-end", "at expires: the last moment to decide")
    run.receive(knock())
    run.decide("accept", conditions=limited, now_ms=EXPIRES_MS)
    run.finish()
    for name, comment, later_ms in (
        ("twice", "a KNOCK is decided once", NOW_MS),
        ("too-late", "a KNOCK that waits ends at expires", EXPIRES_MS + 1),
    ):
        run = _Gate(files, f"refuse-accept-{name}", comment)
        run.receive(knock())
        if name == "twice":
            run.decide("accept", conditions=UNLIMITED)
        run.decide("accept", "knock.not_pending", conditions=UNLIMITED, now_ms=later_ms)
        run.finish("knock.not_pending")


# --- rejected: answered, and no error --------------------------------------------------------------------------------


def _rejected(files: Files) -> None:
    run = _Gate(files, "rejected-used-bundle", "another KNOCK on a used one-time bundle gets REJECT bundle")
    run.receive(knock())
    run.receive(knock(index=1, time_ms=NOW_MS + 1))
    run.finish()
    run = _Gate(files, "rejected-expires-after-bundle", "it expires later than its bundle: REJECT bundle", [SHORT])
    run.receive(knock(SHORT))
    run.finish()
    run = _Gate(
        files,
        "rejected-bundle-over",
        "at the last moment, when nobody can be asked any more: REJECT stale",
        [SHORT],
    )
    made = knock(SHORT, expires_ms=SHORT.not_after_ms)
    run.receive(made, now_ms=SHORT.not_after_ms + TOLERANCE_MS)
    run.finish()
    run = _Gate(
        files, "rejected-stale", "a KNOCK not later than the latest of the same initiator: REJECT stale", [LAST_RESORT]
    )
    run.receive(knock(LAST_RESORT, time_ms=NOW_MS + 1))
    run.receive(knock(LAST_RESORT, index=1, time_ms=NOW_MS + 1))
    run.finish()
    run = _Gate(
        files,
        "rejected-sixth",
        "five sessions of one peer are open, those that wait included: REJECT busy",
        [LAST_RESORT],
    )
    for number in range(6):
        run.receive(knock(LAST_RESORT, number=number, time_ms=NOW_MS + number))
    run.finish()
    run = _Gate(
        files,
        "rejected-over-the-rate",
        "the sender's own rate limit is used up: REJECT busy",
        [LAST_RESORT],
        limits={"knocks_per_identity": 1},
    )
    run.receive(knock(LAST_RESORT))
    run.receive(knock(LAST_RESORT, index=1, time_ms=NOW_MS + 1))
    run.finish()


# --- refused ---------------------------------------------------------------------------------------------------------


def _refused(files: Files) -> None:
    genuine = knock()
    cases = [*bad_headers(genuine), *bad_signatures(genuine), *bad_inner(genuine), *bad_forms(genuine)]
    for name, comment, data, expect in cases:
        # Some are followed by the genuine KNOCK, which no forgery before it may keep out.
        followed = name in {
            "header-time",
            "signature-zero",
            "signature-other-signer",
            "inner-sealed",
            "identity-mixed-order",
        }
        stocks = [ONE_TIME, OTHER_ONE_TIME] if name == "inner-bundle-ref" else [ONE_TIME]
        run = _Gate(
            files, f"refuse-{name}", comment + ("; the genuine KNOCK after it is taken" if followed else ""), stocks
        )
        run.receive(data, expect)
        if followed:
            run.receive(genuine)
        run.finish(expect)
    for name, comment, data in unopened():
        followed = name in {"ephemeral-small-order-0", "ciphertext-flipped", "sealed-box", "sealed-under-other-header"}
        tail = "; the bundle is not used up, and serves the KNOCK after it" if followed else ""
        run = _Gate(files, f"refuse-{name}", f"{comment}, under the sender's good signature{tail}")
        run.receive(data, "knock.unopened")
        if followed:
            # What A itself signed is remembered by its th, so this one has another EK.
            run.receive(knock(index=1))
        run.finish("knock.unopened")


# --- refused for what came before ------------------------------------------------------------------------------------


def _refused_again(files: Files) -> None:
    replayed = "knock.replayed"
    run = _Gate(files, "refuse-replay", "the same bytes again, undecided yet: no second session")
    run.receive(knock())
    run.receive(knock().envelope, replayed)
    run.finish(replayed)
    run = _Gate(files, "refuse-replay-last-resort", "the same on a last-resort bundle, much later", [LAST_RESORT])
    run.receive(knock(LAST_RESORT))
    run.receive(knock(LAST_RESORT).envelope, replayed, now_ms=EXPIRES_MS)
    run.finish(replayed)
    run = _Gate(
        files,
        "refuse-replay-resealed",
        "the same handshake sealed and signed anew by its sender: th is the same",
        [LAST_RESORT],
    )
    run.receive(knock(LAST_RESORT))
    run.receive(knock(LAST_RESORT, time_ms=NOW_MS + 5, inside=content("another action")).envelope, replayed)
    run.finish(replayed)
    run = _Gate(files, "refuse-replay-of-unopened", "a KNOCK that did not open is remembered too")
    bad = knock().with_inner(5, wire.binary(wire.flipped(knock().sealed, -1)))
    run.receive(bad.envelope, "knock.unopened")
    run.receive(knock().envelope, replayed)
    run.finish(replayed)
    accepting = {"decision": "accept", "conditions": UNLIMITED}
    run = _Gate(files, "refuse-replay-other-receipt", "the answer is repeated to equal bytes alone", policy=accepting)
    run.receive(knock())
    run.receive(knock(time_ms=NOW_MS + 5).envelope, replayed)
    run.receive(knock())
    run.finish(replayed)
    run = _Gate(
        files,
        "refuse-answer-overdue",
        "the answer was repeated as often as the limit allows",
        policy=accepting,
        limits={"answers_per_knock": 1},
    )
    run.receive(knock())
    run.receive(knock())
    run.receive(knock().envelope, "knock.answer_overdue")
    run.finish("knock.answer_overdue")
    for name, comment, limit, who in (
        ("sender", "the memory of this sender's KNOCKs is full", "remembered_knocks_per_identity", ALICE),
        ("memory", "the memory of all KNOCKs is full", "remembered_knocks", MALLORY),
    ):
        run = _Gate(
            files,
            f"refuse-busy-{name}",
            f"{comment}: nothing is stored, it may come again",
            [LAST_RESORT],
            limits={limit: 1},
        )
        run.receive(knock(LAST_RESORT))
        run.receive(knock(LAST_RESORT, index=1, who=who, time_ms=NOW_MS + 1).envelope, "knock.busy")
        run.finish("knock.busy")
    run = _Gate(
        files,
        "refuse-busy-failed-checks",
        "two failed checks on one bundle are its budget; another bundle serves on",
        [ONE_TIME, OTHER_ONE_TIME],
        limits={"failed_checks_per_bundle": 2},
    )
    forged = knock().signed_with(bytes(64))
    run.receive(forged, "signature.invalid")
    run.receive(forged, "signature.invalid")
    run.receive(knock().envelope, "knock.busy")
    run.receive(knock(OTHER_ONE_TIME))
    run.finish("knock.busy")
    run = _Gate(
        files,
        "refuse-blocked",
        "local admission refuses the sender, before any cryptography",
        [ONE_TIME, OTHER_ONE_TIME],
        blocked=[MALLORY.did],
    )
    run.receive(knock(who=MALLORY).envelope, "knock.not_admitted")
    run.receive(knock(index=1))
    run.finish("knock.not_admitted")
    given = {**gate(), "identity_seed": MALLORY.seed.reveal().hex()}
    scenario = Scenario(
        files, "refuse-other-agent", "knock.run", "at an agent that it is not for", spec=SPEC, given=given
    )
    scenario.step("receive", "envelope.recipient", now_ms=NOW_MS, envelope=knock().envelope)
    scenario.finish("envelope.recipient")
    limits = {"plaintext_max_bytes": 1, "intent_detail_max_bytes": 1, "capabilities_max": 1, "envelope_max_bytes": 4300}
    big = seal(
        bytes.fromhex(knock().values["intent_key"]), INTENT, knock().header, bytes(4000), token("alice/knock/nonce", 24)
    )
    run = _Gate(files, "refuse-too-large", "over the receiver's limit: refused by length alone", limits=limits)
    run.receive(knock().with_inner(5, wire.binary(big)).envelope, "wire.too_large")
    run.receive(knock(inside=content("x", (), b"")))
    run.finish("wire.too_large")
    early = knock(inside=content(early_payload=b"two", detail=b"", capabilities=()))
    limits = {"plaintext_max_bytes": 2}
    run = _Gate(files, "refuse-early-payload-too-large", "an early payload over the receiver's limit", limits=limits)
    run.receive(early.envelope, "knock.unopened")
    run.receive(knock(index=1))
    run.finish("knock.unopened")
