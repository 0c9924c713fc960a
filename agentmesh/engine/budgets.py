"""What strangers can make an agent do: token buckets, kept in memory only (docs/protocol.md, section 5.1)."""

from __future__ import annotations

from typing import final

from agentmesh.limits import Limits
from agentmesh.primitives.buckets import Buckets, Rate


@final
class Budgets:
    """What strangers can make this agent do: token buckets, kept in memory only (section 5.1).

    Attributes:
        signature_checks: Conversions and signature checks of KNOCKs, all senders together.
        known_checks: Those that may use what is kept from strangers, for each known identity that a KNOCK claims.
        knocks: KNOCKs, for each identity; charged once its signature has been verified.
        answers: Repeated answers, for each th that opened.
        rejections: Repeated REJECTs, for each th that did not: apart, so that filling one holds up none of the other.
    """

    __slots__ = ("answers", "knocks", "known_checks", "rejections", "signature_checks")

    def __init__(self, limits: Limits) -> None:
        checks = limits.signature_checks_per_second
        self.signature_checks: Buckets = Buckets(Rate(checks, checks, 1000), max_keys=1)
        knocks = Rate(limits.knocks_per_identity, 1, limits.knock_refill_seconds * 1000)
        self.knocks: Buckets = Buckets(knocks, max_keys=limits.tracked_identities)
        self.known_checks: Buckets = Buckets(knocks, max_keys=limits.tracked_identities)
        answers = Rate(limits.answers_per_knock, 1, limits.answer_refill_seconds * 1000)
        self.answers: Buckets = Buckets(answers, max_keys=limits.remembered_knocks)
        self.rejections: Buckets = Buckets(answers, max_keys=limits.unopened_knocks)
