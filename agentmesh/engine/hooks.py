"""What an agent of either protocol is given: clock, randomness, policy, limits, and the questions that it asks of them.

A policy may answer wrongly, late or not at all, and may raise: whatever goes wrong denies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from agentmesh.assurance import Guarantees
from agentmesh.audit.counts import Counts
from agentmesh.engine.budgets import Budgets
from agentmesh.errors import ArgumentInvalid, PeerNotAllowed
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.limits import UINT_MAX, Limits
from agentmesh.policy import Policy
from agentmesh.primitives.entropy import CheckedEntropy, Entropy
from agentmesh.primitives.keys import Redacted

Clock = Callable[[], int]


def system_clock_ms() -> int:
    """Return the system's clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def read_clock(clock: Clock) -> int:
    """Return what a clock shows.

    Raises:
        ArgumentInvalid: it does not return milliseconds since the epoch as an int.
    """
    try:
        now_ms: object = clock()
    except Exception:
        now_ms = None
    if type(now_ms) is not int or not 0 <= now_ms <= UINT_MAX:
        raise ArgumentInvalid("clock")
    return now_ms


class Hooks(Redacted):
    """What one agent was given, beside its state.

    Attributes:
        state: What must not be lost.
        now_ms: Returns what the clock shows; see `read_clock`.
        entropy: Where randomness comes from.
        policy: Who decides.
        limits: What the agent allows.
        budgets: Token buckets.
        recording: Records are wanted.
        counted: What is counted for the audit trail; in memory only.
        reliable: What is handed up is kept until it is done; a native agent keeps what leaves, too.
    """

    __slots__ = ("budgets", "counted", "entropy", "limits", "now_ms", "policy", "recording", "reliable")

    state: Any

    def __init__(
        self,
        mesh: str,
        did: str,
        *,
        clock: Clock,
        entropy: Entropy,
        policy: Policy,
        limits: Limits,
        recording: bool,
        reliable: bool,
    ) -> None:
        self.now_ms: Clock = partial(read_clock, clock)
        self.entropy: CheckedEntropy = CheckedEntropy(entropy)
        self.policy: Policy = policy
        self.limits: Limits = limits
        self.budgets: Budgets = Budgets(limits)
        self.recording: bool = recording
        self.reliable: bool = reliable
        self.counted: Counts = Counts(mesh, did, max_peers=limits.refusal_records_per_minute)

    def check_allowed(self, peer: IdentityKey) -> None:
        """Ask the policy whether this peer may be sent to and heard now; whatever goes wrong denies.

        Raises:
            PeerNotAllowed: it may not.
        """
        try:
            if self.policy.still_allowed(peer) is True:
                return
        except Exception:  # noqa: S110 - a policy that fails, however, denies
            pass
        raise PeerNotAllowed(peer.did)

    # --- strangers and the known -------------------------------------------------------------------------------------

    def is_known(self, key: bytes) -> bool:
        """Ask the policy whether it knows this identity; whatever goes wrong makes a stranger."""
        try:
            is_known = _optional(self.policy, "is_known")
            return is_known is not None and is_known(key) is True
        except Exception:
            return False

    def must_leave(self, limit: int, *, known: bool) -> int:
        """Return how much of a limit a sender must leave for others: nothing where nobody is told apart."""
        if known:
            return 0
        try:
            apart = _optional(self.policy, "is_known") is not None
        except Exception:
            apart = True
        return limit // self.limits.reserved_one_in if apart else 0

    def take_check(self, key: bytes, now_ms: int, *, known: bool) -> bool:
        """Take a signature check for a KNOCK that claims this key.

        A known key has a share that strangers must leave, and has it at its own rate only: whoever forges KNOCKs in
        its name, or replays them, is a stranger from there on, and uses up nothing of the others.
        """
        checks, most = self.budgets.signature_checks, self.limits.signature_checks_per_second
        if known and checks.has(None, now_ms) and self.budgets.known_checks.take(key, now_ms):
            return checks.take(None, now_ms)
        return checks.take(None, now_ms, leave=self.must_leave(most, known=False))

    def may_use(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int) -> bool:
        """Ask the policy, if it has an opinion, whether such a bundle may serve; whatever goes wrong denies."""
        try:
            may_use = _optional(self.policy, "may_use")
            return may_use is None or may_use(peer, bundle_class, now_ms) is True
        except Exception:
            return False

    def may_converse(self, peer: IdentityKey, guarantees: Guarantees) -> bool:
        """Ask the policy, if it has an opinion, whether a session may give this; whatever goes wrong denies."""
        try:
            may_converse = _optional(self.policy, "may_converse")
            return may_converse is None or may_converse(peer, guarantees) is True
        except Exception:
            return False

    def bundle_used(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int) -> None:
        """Tell the policy, if it counts, that a KNOCK opened on such a bundle."""
        try:
            used = _optional(self.policy, "used")
            if used is not None:
                used(peer, bundle_class, now_ms)
        except Exception:  # noqa: S110 - it has happened; a policy that cannot count is asked again before the next
            pass


def _optional(policy: Policy, name: str) -> Callable[..., object] | None:
    """Return a method that a policy may have besides, or `None`: `BundlePolicy`, `BundleCounter`, `KnownSenders`.

    By name, because `isinstance` with such a protocol costs as much as a signature check.
    """
    method: Callable[..., object] | None = getattr(policy, name, None)
    return method
