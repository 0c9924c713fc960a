"""What a fleet is to be: sizes, faults, and what is planted."""

from __future__ import annotations

from typing import Final

from attrs import Attribute, field, frozen

MESH: Final = "example/fleet"
SECOND_MS: Final = 1000
DAY_MS: Final = 86_400_000
PLANTS: Final = ("loss", "duplicate", "alteration", "order", "audit")
SINKS: Final = ("file", "memory", "none")


def _share(_instance: object, attribute: Attribute[float], value: float) -> None:
    if not 0 <= value < 0.5:
        raise ValueError(f"{attribute.name} must be at least 0 and below 0.5")


def _rate(default: float) -> float:
    made: float = field(default=default, validator=_share)
    return made


@frozen(kw_only=True)
class Settings:
    """One run.

    Attributes:
        agents: How many.
        conversations: How many conversations there are for each agent, on average.
        days: How long they go on, in days of the manual clock.
        seed: What the course of the run depends on.
        seeded_secrets: Draw keys and nonces from the seed too; else from the operating system.
        steps: How many payloads a conversation has, on average.
        loss: Of the envelopes handed to the relay, the share that it drops; each copy counts.
        duplication: The share that it delivers twice.
        slow: The share that it keeps for up to two minutes; all others take up to 400 ms, so that they overtake.
        alteration: The share of which a forgery arrives as well.
        misrouting: The share of which a copy goes to another agent.
        replay: The share upon which an older envelope arrives again.
        restarts: How often each agent restarts, on average.
        rejection: The share of KNOCKs that are rejected as busy, to be made again.
        ignored: The share of KNOCKs that nobody answers, to be dropped and made again.
        again: The share of conversations with the peer of the agent's last one.
        closing: The share of conversations behind which the session is closed.
        audit: Where the audit logs are: `file`, `memory` or `none`.
        compared: How many pairs of audit logs are held against one another.
        plant: What is done wrong once between the library and the check, so that the check is seen to fail.
    """

    agents: int = 10_000
    conversations: float = 3.0
    days: float = 10.0
    seed: int = 0
    seeded_secrets: bool = False
    steps: float = 8.0
    loss: float = _rate(0.05)
    duplication: float = _rate(0.03)
    slow: float = _rate(0.03)
    alteration: float = _rate(0.01)
    misrouting: float = _rate(0.002)
    replay: float = _rate(0.01)
    restarts: float = 1.0
    rejection: float = _rate(0.05)
    ignored: float = _rate(0.02)
    again: float = _rate(0.4)
    closing: float = _rate(0.4)
    audit: str = "file"
    compared: int = 200
    plant: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.agents < 2 or self.conversations <= 0 or not 0 < self.days <= 20 or self.steps < 2:
            raise ValueError("at least 2 agents, some conversations, 2 steps, and at most 20 days")
        if self.audit not in SINKS or self.plant not in (None, *PLANTS) or self.restarts < 0 or self.compared < 0:
            raise ValueError("no such kind of audit log or plant, or a negative number")
        if self.plant == "audit" and self.audit == "none":
            raise ValueError("there is no audit log to plant damage in")
