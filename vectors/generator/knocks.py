"""The family knock: made, taken through the gate in its order of checks, REPLAYED, and refused at every check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentmesh.identity import Identity
from agentmesh.primitives._labels import INTENT
from agentmesh.primitives.aead import seal
from generator import knock_budgets, wire
from generator.codes import TOO_LARGE
from generator.forge import ACTION, CAPABILITIES, DETAIL, ForgedKnock, content, knock
from generator.knock_forgeries import bad_forms, bad_headers, bad_inner, bad_signatures, unopened
from generator.scenario import Scenario
from generator.tables import Row, play, row, step
from generator.world import (
    ALICE,
    BOB,
    DAY_MS,
    EXPIRES_MS,
    LAST_RESORT,
    LIMITED,
    MALLORY,
    MESH,
    NOW_MS,
    ONE_TIME,
    OTHER_ONE_TIME,
    SHORT,
    SMALL,
    TOLERANCE_MS,
    UNLIMITED,
    Files,
    Stock,
    encapsulation,
    token,
)

Json = dict[str, Any]

ACCEPTING: Final = {"decision": "accept", "conditions": UNLIMITED}
SPEC: Final = "5.1"


class _Gate:
    """A scenario of `knock.run`: Bob, or whom a row names, with the secrets of these bundles."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        stocks: Sequence[Stock] = (ONE_TIME,),
        who: Identity = BOB,
        **more: Any,
    ) -> None:
        bundles = [stock.secrets() for stock in stocks]
        given = {"identity_seed": who.seed.reveal().hex(), "mesh": MESH, "bundles": bundles, **more}
        self._scenario = Scenario(files, name, "knock.run", comment, spec=SPEC, given=given)
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

    def drop(self, *, now_ms: int = NOW_MS) -> Json:
        """End the session that was accepted, without a word."""
        return self._scenario.step("drop", now_ms=now_ms)

    def finish(self) -> None:
        """Write the file."""
        self._scenario.finish()


receive, decide, drop = step(_Gate.receive), step(_Gate.decide), step(_Gate.drop)


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


TAKEN: Final = (
    *(row(f"receive-{name}", comment, [receive(made)], stocks=[stock])
      for name, comment, stock, made in (
          ("one-time", "opened: the one-time bundle's secrets are gone", ONE_TIME, knock()),
          ("last-resort", "opened: a last-resort bundle goes on serving", LAST_RESORT, knock(LAST_RESORT)),
          ("early-payload", "with an early payload, held back until it is accepted", ONE_TIME,
           knock(inside=content(early_payload=b"the first words"))),
          ("not-fresh", "fresh = 0", ONE_TIME, knock(inside=content(fresh=0))),
          ("no-capabilities", "no capabilities and no detail", ONE_TIME, knock(inside=content("x", (), b""))),
          ("longest-lifetime", "expires exactly 14 days after its time", ONE_TIME,
           knock(expires_ms=NOW_MS + 14 * DAY_MS)),
          ("shortest-lifetime", "expires a millisecond after its time", ONE_TIME, knock(expires_ms=NOW_MS + 1)),
      )),
    row("receive-from-ahead", "its time is 300 s ahead of the receiver's clock",
        [receive(knock(), now_ms=NOW_MS - TOLERANCE_MS)]),
    row("receive-at-the-end", "300 s past expires: the last moment; the policy accepts",
        [receive(knock(), now_ms=EXPIRES_MS + TOLERANCE_MS)], policy=ACCEPTING),
    row("receive-two-on-last-resort", "two KNOCKs on one last-resort bundle, the second later",
        [receive(knock(LAST_RESORT)), receive(knock(LAST_RESORT, index=1, time_ms=NOW_MS + 1))], stocks=[LAST_RESORT]),
)  # fmt: skip


ANSWERED: Final = (
    *(each
      for name, policy in (
          ("accept", {"decision": "accept", "conditions": LIMITED}),
          ("reject", {"decision": "reject", "reason": "policy", "retry_after_seconds": 0}),
      )
      for each in (
          row(f"{name}-by-policy", f"the policy decides to {name}",
              [receive(knock(inside=content(early_payload=b"the first words")))], policy=policy),
          row(f"{name}-repeated", f"the equal KNOCK again gets the bytes of the {name} again",
              [receive(knock()), receive(knock(), now_ms=NOW_MS + 1000)], policy=policy),
      )),
    row("ask-then-accept", "the application accepts: the early payload is released",
        [receive(knock(inside=content(early_payload=b"the first words"))),
         decide("accept", conditions=LIMITED, now_ms=NOW_MS + 1000)]),
    row("ask-then-reject", "the application rejects, with advice when to try again",
        [receive(knock()), decide("reject", reason="busy", retry_after_seconds=60, now_ms=NOW_MS + 1000),
         receive(knock(), now_ms=NOW_MS + 2000)]),
    row("ask-then-accept-at-the-end", "at expires: the last moment to decide",
        [receive(knock()), decide("accept", conditions=LIMITED, now_ms=EXPIRES_MS)]),
    row("refuse-accept-twice", "a KNOCK is decided once",
        [receive(knock()), decide("accept", conditions=UNLIMITED),
         decide("accept", "knock.not_pending", conditions=UNLIMITED)]),
    row("refuse-accept-too-late", "a KNOCK that waits ends at expires",
        [receive(knock()), decide("accept", "knock.not_pending", conditions=UNLIMITED, now_ms=EXPIRES_MS + 1)]),
)  # fmt: skip


# --- rejected: answered, and no error --------------------------------------------------------------------------------


REJECTED: Final = (
    row("rejected-used-bundle", "another KNOCK on a used one-time bundle gets REJECT bundle",
        [receive(knock()), receive(knock(index=1, time_ms=NOW_MS + 1))]),
    row("rejected-expires-after-bundle", "it expires later than its bundle: REJECT bundle",
        [receive(knock(SHORT))], stocks=[SHORT]),
    row("rejected-bundle-over", "at the last moment, when nobody can be asked any more: REJECT stale",
        [receive(knock(SHORT, expires_ms=SHORT.not_after_ms), now_ms=SHORT.not_after_ms + TOLERANCE_MS)],
        stocks=[SHORT]),
    row("rejected-stale", "a KNOCK not later than the latest of the same initiator: REJECT stale",
        [receive(knock(LAST_RESORT, time_ms=NOW_MS + 1)), receive(knock(LAST_RESORT, index=1, time_ms=NOW_MS + 1))],
        stocks=[LAST_RESORT]),
    row("rejected-sixth", "five sessions of one peer are open, those that wait included: REJECT busy",
        [receive(knock(LAST_RESORT, number=number, time_ms=NOW_MS + number)) for number in range(6)],
        stocks=[LAST_RESORT]),
)  # fmt: skip


# --- refused ---------------------------------------------------------------------------------------------------------


# These are followed by a genuine KNOCK, which no forgery before it may keep out.
_FOLLOWED: Final = {
    "header-time", "signature-zero", "signature-other-signer", "inner-sealed", "identity-mixed-order",
    "ephemeral-small-order-0", "ciphertext-flipped", "sealed-box", "sealed-under-other-header",
}  # fmt: skip


def _refused() -> Iterator[Row]:
    genuine = knock()
    for name, comment, data, expect in (
        *bad_headers(genuine), *bad_signatures(genuine), *bad_inner(genuine), *bad_forms(genuine),
    ):  # fmt: skip
        stocks = [ONE_TIME, OTHER_ONE_TIME] if name == "inner-bundle-ref" else [ONE_TIME]
        behind = "; the genuine KNOCK after it is taken" if name in _FOLLOWED else ""
        taken = [receive(genuine)] if name in _FOLLOWED else []
        yield row(f"refuse-{name}", comment + behind, [receive(data, expect), *taken], stocks=stocks)
    for name, comment, data in unopened():
        behind = "; the bundle is not used up, and serves the KNOCK after it" if name in _FOLLOWED else ""
        # What A itself signed is remembered by its th, so this one has another EK.
        taken = [receive(knock(index=1))] if name in _FOLLOWED else []
        comment = f"{comment}, under the sender's good signature{behind}"
        yield row(f"refuse-{name}", comment, [receive(data, "knock.unopened"), *taken])


# --- refused for what came before ------------------------------------------------------------------------------------


REPLAYED: Final = "knock.replayed"
_UNOPENED: Final = knock().with_inner(5, wire.binary(wire.flipped(knock().sealed, -1)))
_BIG: Final = seal(
    bytes.fromhex(knock().values["intent_key"]), INTENT, knock().header, bytes(4000), token("alice/knock/nonce", 24)
)
_TWO_BYTES: Final = knock(inside=content(early_payload=b"two", detail=b"", capabilities=()))
REFUSED_AGAIN: Final = (
    row("refuse-replay", "the same bytes again, undecided yet: no second session",
        [receive(knock()), receive(knock().envelope, REPLAYED)]),
    row("refuse-replay-last-resort", "the same on a last-resort bundle, much later",
        [receive(knock(LAST_RESORT)), receive(knock(LAST_RESORT).envelope, REPLAYED, now_ms=EXPIRES_MS)],
        stocks=[LAST_RESORT]),
    row("refuse-replay-resealed", "the same handshake sealed and signed anew by its sender: th is the same",
        [receive(knock(LAST_RESORT)),
         receive(knock(LAST_RESORT, time_ms=NOW_MS + 5, inside=content("another action")).envelope, REPLAYED)],
        stocks=[LAST_RESORT]),
    row("refuse-replay-of-unopened", "a KNOCK that did not open is remembered too",
        [receive(_UNOPENED.envelope, "knock.unopened"), receive(knock().envelope, REPLAYED)]),
    row("refuse-replay-other-receipt", "the answer is repeated to equal bytes alone",
        [receive(knock()), receive(knock(time_ms=NOW_MS + 5).envelope, REPLAYED), receive(knock())], policy=ACCEPTING),
    row("refuse-answer-overdue", "the answer was repeated as often as the limit allows",
        [receive(knock()), receive(knock()), receive(knock().envelope, "knock.answer_overdue")], policy=ACCEPTING,
        limits={"answers_per_knock": 1}),
    *(row(f"refuse-busy-{name}", f"{comment}: nothing is stored, it may come again",
          [receive(knock(LAST_RESORT)),
           receive(knock(LAST_RESORT, index=1, who=who, time_ms=NOW_MS + 1).envelope, "knock.busy")], limits={limit: 1},
          stocks=[LAST_RESORT])
      for name, comment, limit, who in (
          ("sender", "the memory of this sender's KNOCKs is full", "remembered_knocks_per_identity", ALICE),
          ("memory", "the memory of all KNOCKs is full", "remembered_knocks", MALLORY),
      )),
    row("refuse-blocked", "local admission refuses the sender, before any cryptography",
        [receive(knock(who=MALLORY).envelope, "knock.not_admitted"), receive(knock(index=1))], blocked=[MALLORY.did],
        stocks=[ONE_TIME, OTHER_ONE_TIME]),
    row("refuse-other-agent", "at an agent that it is not for",
        [receive(knock().envelope, "envelope.recipient")], who=MALLORY),
    row("refuse-too-large", "over the receiver's limit: refused by length alone",
        [receive(knock().with_inner(5, wire.binary(_BIG)).envelope, TOO_LARGE),
         receive(knock(inside=content("x", (), b"")))], limits=SMALL),
    row("refuse-early-payload-too-large", "an early payload over the receiver's limit",
        [receive(_TWO_BYTES.envelope, "knock.unopened"), receive(knock(index=1))], limits={"plaintext_max_bytes": 2}),
)  # fmt: skip


def knock_family() -> Files:
    """Return the family knock."""
    files = Files("knock")
    _build(files)
    budgets = (
        knock_budgets.limited(receive),
        knock_budgets.strangers(receive),
        knock_budgets.timed(receive),
        knock_budgets.answers(receive, decide, drop),
    )
    for rows in (TAKEN, ANSWERED, REJECTED, _refused(), REFUSED_AGAIN, *budgets):
        play(_Gate, files, rows)
    return files
