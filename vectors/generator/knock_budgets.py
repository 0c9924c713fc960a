"""What the gate's budgets, memories, limits and times decide: the rest of the family knock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from generator import wire
from generator.codes import BAD_SIGNATURE
from generator.forge import ForgedKnock, content, knock
from generator.tables import Row, Step, row
from generator.world import (
    ALICE,
    CAROL,
    EXPIRES_MS,
    LAST_RESORT,
    MALLORY,
    NOW_MS,
    SHORT,
    TOLERANCE_MS,
    UNLIMITED,
)

Calls = Callable[..., Step]

BUSY: Final = "knock.busy"
REPLAYED: Final = "knock.replayed"
UNOPENED: Final = "knock.unopened"
UNKNOWN_BUNDLE: Final = "knock.unknown_bundle"
ACCEPTING: Final = {"decision": "accept", "conditions": UNLIMITED}
NOT_YET_MS: Final = NOW_MS - TOLERANCE_MS - 1  # no bundle is valid yet; a KNOCK made a second before NOW_MS is taken
ENDED_MS: Final = 600_000  # a superseded session


def made(number: int, **fields: Any) -> ForgedKnock:
    """Return a KNOCK of its own on the last-resort bundle, each later than the one before."""
    return knock(LAST_RESORT, number=number, **{"time_ms": NOW_MS + number, **fields})


def broken(number: int, **fields: Any) -> bytes:
    """Return one that its sender signed, and that does not open."""
    whole = made(number, **fields)
    return whole.with_inner(5, wire.binary(wire.flipped(whole.sealed, -1))).envelope


def limited(receive: Calls) -> tuple[Row, ...]:
    """Return the rows of budgets and memories, by the limit that each is about."""
    early = {"stocks": [LAST_RESORT]}
    return (
        row("refuse-busy-rate", "the sender's rate is used up: nothing is stored or signed, and the same bytes are "
            "taken when one has come back",
            [receive(made(0)), receive(made(1).envelope, BUSY), receive(made(1).envelope, BUSY, now_ms=NOW_MS + 999),
             receive(made(1), now_ms=NOW_MS + 1000)], limits={"knocks_per_identity": 1}, **early),
        row("refuse-busy-rate-before-bundle", "over the rate, on a used bundle: busy, since the rate comes first",
            [receive(knock()), receive(knock(index=1, time_ms=NOW_MS + 1).envelope, BUSY)],
            limits={"knocks_per_identity": 1}),
        row("refuse-replayed-before-rate", "a KNOCK that is known is not charged: it is replayed also over the rate",
            [receive(made(0)), receive(made(0).envelope, REPLAYED)], limits={"knocks_per_identity": 1}, **early),
        row("refuse-busy-checks", "a forgery uses up the budget of checks; the genuine KNOCK is taken a second later",
            [receive(made(0).signed_with(bytes(64)), BAD_SIGNATURE), receive(made(0).envelope, BUSY),
             receive(made(0), now_ms=NOW_MS + 1000)], limits={"signature_checks_per_second": 1}, **early),
        row("refuse-busy-checks-evenly", "two checks in a second: one is back after half of it",
            [*(receive(made(0).signed_with(bytes(64)), BAD_SIGNATURE) for _ in range(2)),
             receive(made(0).envelope, BUSY, now_ms=NOW_MS + 499), receive(made(0), now_ms=NOW_MS + 500)],
            limits={"signature_checks_per_second": 2}, **early),
        row("refuse-forgeries-on-last-resort", "forgeries on a last-resort bundle hold up no genuine KNOCK on it",
            [*(receive(made(0).signed_with(bytes(64)), BAD_SIGNATURE) for _ in range(20)), receive(made(0))], **early),
        row("refuse-forgeries-before-genuine", "forgeries on one bundle hold up no genuine KNOCK on it",
            [*(receive(knock().signed_with(bytes(64)), BAD_SIGNATURE) for _ in range(20)), receive(knock())]),
        row("refuse-busy-peer", "no room for one more peer; who is known already passes",
            [receive(made(0)), receive(made(1, who=MALLORY).envelope, BUSY), receive(made(2))],
            limits={"tracked_identities": 1}, **early),
        row("refuse-unopened-fills-nothing", "what does not open takes no room of what opens",
            [receive(broken(0), UNOPENED), receive(broken(1), UNOPENED), receive(made(2, who=MALLORY))],
            limits={"remembered_knocks": 1, "remembered_knocks_per_identity": 1}, **early),
        row("refuse-unopened-oldest-makes-room", "of what did not open the oldest is let go: its replay does not open "
            "again, and pushes out the next",
            [receive(broken(0), UNOPENED), receive(broken(0), REPLAYED), receive(broken(1), UNOPENED),
             receive(broken(0), UNOPENED), receive(broken(1), UNOPENED), receive(broken(1), REPLAYED)],
            limits={"unopened_knocks": 1}, **early),
        row("rejected-no-room", "no room for one more session in all: REJECT busy, and the policy is not asked",
            [receive(made(0)), receive(made(1, who=MALLORY))], limits={"sessions_max": 1}, policy=ACCEPTING, **early),
        row("rejected-nobody-may-wait", "as many KNOCKs wait as may: REJECT busy",
            [receive(made(0)), receive(made(1, who=MALLORY))], limits={"undecided_knocks": 1}, **early),
        row("rejected-until-one-ran-out", "a KNOCK that waits counts until its expires, and not behind it",
            [receive(made(0, expires_ms=NOW_MS + 1000)), receive(made(1, who=MALLORY), now_ms=NOW_MS + 1000),
             receive(made(2, who=MALLORY), now_ms=NOW_MS + 1001)], limits={"undecided_knocks": 1}, **early),
        row("rejected-stale-before-room", "stale, and nobody may wait: stale",
            [receive(made(1)), receive(made(2, time_ms=NOW_MS + 1))], limits={"undecided_knocks": 1}, **early),
        row("rejected-past-expires-before-room", "past its expires, and nobody may wait: stale",
            [receive(made(0)), receive(made(1, who=MALLORY, expires_ms=NOW_MS + 1000), now_ms=NOW_MS + 1001)],
            limits={"undecided_knocks": 1}, **early),
        row("accept-needs-no-room-to-wait", "a policy that decides is not bounded by how many may wait",
            [receive(made(0)), receive(made(1, who=MALLORY))], limits={"undecided_knocks": 1}, policy=ACCEPTING,
            **early),
        row("refuse-capabilities-over-limit", "more capabilities than the receiver takes",
            [receive(made(0).envelope, UNOPENED), receive(made(1, inside=content("x", ("one",), b"")))],
            limits={"capabilities_max": 1}, **early),
        row("receive-capabilities-to-limit", "65 capabilities, where the receiver takes as many; one is empty",
            [receive(made(0, inside=content("x", ("", *map(str, range(64))), b"")))], limits={"capabilities_max": 65},
            **early),
        row("accept-early-payload-of-no-messages", "conditions without any message or action: the early payload is "
            "released all the same",
            [receive(made(0, inside=content(early_payload=b"the first words")))],
            policy={"decision": "accept",
                    "conditions": {"max_messages": 0, "ttl_seconds": None, "allowed_actions": []}}, **early),
    )  # fmt: skip


def strangers(receive: Calls) -> tuple[Row, ...]:
    """Return the rows of what is kept from strangers: the policy knows Mallory, and every second part is kept."""
    half = {"reserved_one_in": 2}
    common: dict[str, Any] = {"known": [MALLORY.key.raw.hex()], "stocks": [LAST_RESORT]}
    one_each = [receive(made(0)), receive(made(1, who=CAROL)), receive(made(2, who=MALLORY))]
    return (
        row("refuse-stranger-checks", "the checks of strangers are used up: the known has its part, at its own rate",
            [receive(made(0).signed_with(bytes(64)), BAD_SIGNATURE), receive(made(0).envelope, BUSY),
             receive(made(1, who=MALLORY).signed_with(bytes(64)), BAD_SIGNATURE),
             receive(made(1, who=MALLORY).envelope, BUSY), receive(made(1, who=MALLORY), now_ms=NOW_MS + 1000)],
            limits={"signature_checks_per_second": 2, "knocks_per_identity": 1, **half}, **common),
        row("refuse-stranger-checks-own-rate", "whoever forges in a known name has its part once, and is a stranger "
            "from there on: another known one is taken",
            [*(receive(made(0, who=MALLORY).signed_with(bytes(64)), BAD_SIGNATURE) for _ in range(2)),
             receive(made(0, who=MALLORY).envelope, BUSY), receive(made(1).envelope, BUSY),
             receive(made(2, who=CAROL))],
            limits={"signature_checks_per_second": 4, "knocks_per_identity": 1, **half},
            **{**common, "known": [MALLORY.key.raw.hex(), CAROL.key.raw.hex()]}),
        row("refuse-stranger-peer", "room for one more peer is kept for the known",
            [receive(made(0)), receive(made(1, who=CAROL).envelope, BUSY), receive(made(2, who=MALLORY))],
            limits={"tracked_identities": 2, **half}, **common),
        row("refuse-stranger-memory", "room in the memory is kept for the known",
            [receive(made(0)), receive(made(1).envelope, BUSY), receive(made(2, who=MALLORY))],
            limits={"remembered_knocks": 2, **half}, **common),
        row("rejected-stranger-no-room", "room for a session is kept for the known: REJECT busy to the stranger",
            one_each, limits={"sessions_max": 2, **half}, policy=ACCEPTING, **common),
        row("rejected-stranger-may-not-wait", "room to wait is kept for the known: REJECT busy to the stranger",
            one_each, limits={"undecided_knocks": 2, **half}, **common),
        row("rejected-everybody-a-stranger", "a policy that tells senders apart and knows none: the part is kept",
            one_each, limits={"undecided_knocks": 2, **half}, **{**common, "known": []}),
        row("rejected-of-three-parts", "one part in four of seven is one, rounded down: six may wait",
            [receive(made(number, who=MALLORY if number > 4 else ALICE)) for number in range(7)],
            limits={"undecided_knocks": 7}, **{**common, "known": [CAROL.key.raw.hex()]}),
    )  # fmt: skip


def timed(receive: Calls) -> tuple[Row, ...]:
    """Return the rows of bundles outside their time, and of what can be signed for good."""
    before = {"time_ms": NOW_MS - 1000}
    return (
        row("refuse-bundle-past", "a bundle is unknown once it is 300 s past its validity; until then the KNOCK that "
            "outlives it gets REJECT bundle",
            [receive(knock(SHORT), now_ms=SHORT.not_after_ms + TOLERANCE_MS),
             receive(knock(SHORT, index=1).envelope, UNKNOWN_BUNDLE, now_ms=SHORT.not_after_ms + TOLERANCE_MS + 1)],
            stocks=[SHORT]),
        row("refuse-busy-not-valid-yet", "the bundle's time has not come: nothing is stored, signed or charged, and "
            "the same bytes are taken when it has",
            [receive(knock(**before).envelope, BUSY, now_ms=NOT_YET_MS),
             receive(knock(**before).envelope, BUSY, now_ms=NOT_YET_MS),
             receive(knock(**before), now_ms=NOT_YET_MS + 1)], limits={"knocks_per_identity": 1}),
        row("rejected-used-before-not-yet", "used, and not valid yet: REJECT bundle, since it stays so",
            [receive(knock(**before), now_ms=NOT_YET_MS + 1),
             receive(knock(index=1, time_ms=NOW_MS - 999), now_ms=NOT_YET_MS)]),
        row("rejected-outlives-before-not-yet", "it outlives its bundle, which is not valid yet: REJECT bundle",
            [receive(knock(SHORT, **before), now_ms=NOT_YET_MS)], stocks=[SHORT]),
        row("reject-bundle-repeated", "REJECT bundle again, the same bytes; in another envelope the KNOCK is replayed",
            [receive(knock()), receive(knock(index=1, time_ms=NOW_MS + 1)),
             receive(knock(index=1, time_ms=NOW_MS + 1), now_ms=NOW_MS + 5)]),
        row("refuse-reject-bundle-overdue", "REJECT bundle is repeated as often as the limit allows",
            [receive(knock()), receive(knock(index=1, time_ms=NOW_MS + 1)), receive(knock(index=1, time_ms=NOW_MS + 1)),
             receive(knock(index=1, time_ms=NOW_MS + 1).envelope, "knock.answer_overdue")],
            limits={"answers_per_knock": 1}),
        row("reject-bundle-anew", "a REJECT bundle that was let go is made anew: another header time, the same word",
            [receive(knock()), receive(knock(index=1, time_ms=NOW_MS + 1)),
             receive(knock(index=1, number=2, time_ms=NOW_MS + 2)),
             receive(knock(index=1, time_ms=NOW_MS + 1), now_ms=NOW_MS + 5)], limits={"unopened_knocks": 1}),
    )  # fmt: skip


def answers(receive: Calls, decide: Calls, drop: Calls) -> tuple[Row, ...]:
    """Return the rows of answers that are repeated, and until when."""
    brief = {"decision": "accept", "conditions": {**UNLIMITED, "ttl_seconds": 60}}
    over_ms = NOW_MS + 60_000 + TOLERANCE_MS
    return (
        row("refuse-answer-past-expires", "an answer is repeated until the KNOCK expires",
            [receive(knock()), receive(knock(), now_ms=EXPIRES_MS),
             receive(knock().envelope, REPLAYED, now_ms=EXPIRES_MS + 1)], policy=ACCEPTING),
        row("refuse-answer-of-expired", "an ACCEPT is repeated until its session's time to live is 300 s over",
            [receive(knock()), receive(knock(), now_ms=over_ms),
             receive(knock().envelope, REPLAYED, now_ms=over_ms + 1)], policy=brief),
        row("refuse-answer-of-dropped", "an ACCEPT is not repeated once its session was dropped",
            [receive(knock()), decide("accept", conditions=UNLIMITED), receive(knock()), drop(),
             receive(knock().envelope, REPLAYED)]),
        row("refuse-answer-of-superseded", "an ACCEPT of a superseded session is repeated until that has ended",
            [receive(made(0)), receive(made(1), now_ms=NOW_MS + 1000),
             receive(made(0), now_ms=NOW_MS + 1000 + ENDED_MS),
             receive(made(0).envelope, REPLAYED, now_ms=NOW_MS + 1001 + ENDED_MS)], policy=ACCEPTING,
            stocks=[LAST_RESORT]),
        row("answer-back-after-a-minute", "one repeat comes back each minute",
            [receive(knock()), receive(knock()), receive(knock(), now_ms=NOW_MS + 60_000)], policy=ACCEPTING,
            limits={"answers_per_knock": 1}),
        row("accept-fresh-has-the-room", "a sixth session, fresh: it is to take the place of the five",
            [*(receive(made(number, inside=content(fresh=0))) for number in range(5)), receive(made(5))],
            policy=ACCEPTING, stocks=[LAST_RESORT]),
        row("rejected-not-fresh-sixth", "a sixth session, not fresh: REJECT busy",
            [*(receive(made(number, inside=content(fresh=0))) for number in range(5)),
             receive(made(5, inside=content(fresh=0)))], stocks=[LAST_RESORT]),
        row("refuse-answer-gave-way", "a sixth session, not fresh, supersedes the oldest that A was not heard in",
            [*(receive(made(number, inside=content(fresh=0))) for number in range(6)),
             receive(made(0, inside=content(fresh=0)).envelope, REPLAYED, now_ms=NOW_MS + 1 + ENDED_MS),
             receive(made(1, inside=content(fresh=0)), now_ms=NOW_MS + 1 + ENDED_MS)],
            policy=ACCEPTING, stocks=[LAST_RESORT]),
        row("accept-sixth-of-another", "five sessions of one peer leave room for another's",
            [*(receive(made(number, inside=content(fresh=0))) for number in range(5)), receive(made(5, who=MALLORY))],
            policy=ACCEPTING, stocks=[LAST_RESORT]),
    )  # fmt: skip
