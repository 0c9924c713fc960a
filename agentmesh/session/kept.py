"""What is kept for late messages: skipped keys and past chains, both bounded (docs/protocol.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from agentmesh.limits import KEPT_CHAINS, LATE_CHAINS, Limits
from agentmesh.primitives.keys import ChainKey, MessageKey
from agentmesh.session.chains import OpenDelta, PastChain, SkippedAt

Skipped = Mapping[SkippedAt, tuple[MessageKey, int]]
NOTHING: Final[tuple[Any, ...]] = ()
NO_KEYS: Final[Skipped] = MappingProxyType({})  # one for all sessions that miss nothing


def kept_after(skipped: Skipped, delta: OpenDelta) -> Skipped:
    """Return what is kept once a message was opened: the same, changed, or `NO_KEYS`. Once more changes nothing."""
    after = skipped if isinstance(skipped, dict) else {}
    if delta.taken is not None:
        after.pop(delta.taken, None)
    for at in delta.evicted:
        after.pop(at, None)
    for at, message_key in delta.added:
        after[at] = (message_key, delta.at_ms)
    return after or NO_KEYS


def skip(
    kdf_chain: Callable[[ChainKey], tuple[ChainKey, MessageKey]], chain_key: ChainKey, serial: int, n: int, until: int
) -> tuple[ChainKey, list[tuple[SkippedAt, MessageKey]]]:
    """Return the chain key at number `until`, and the message keys of n .. until - 1."""
    skipped: list[tuple[SkippedAt, MessageKey]] = []
    for number in range(n, until):
        chain_key, message_key = kdf_chain(chain_key)
        skipped.append(((serial, number), message_key))
    return chain_key, skipped


def evictions(skipped: Skipped, adding: int, now_ms: int, limits: Limits) -> Sequence[SkippedAt]:
    """Return which kept keys go: too old, or over the number where so many are added; oldest first."""
    if not skipped:
        return NOTHING
    horizon = now_ms - limits.skipped_key_lifetime_seconds * 1000
    evicted: list[SkippedAt] = []
    for at, (_, kept_at_ms) in skipped.items():
        # Oldest first, and chains in their order: behind the first that stays, all stay.
        if kept_at_ms >= horizon and len(skipped) - len(evicted) + adding <= limits.skipped_keys_per_session:
            break
        evicted.append(at)
    return evicted


def staying(
    past: tuple[PastChain, ...], skipped: Skipped, evicted: Sequence[SkippedAt]
) -> tuple[tuple[PastChain, ...], Sequence[SkippedAt]]:
    """Return (the past chains that stay at a turn, all keys that go).

    The last ones stay in any case, so that duplicates are known. Of those before them stay the newest that have keys.
    """
    if not skipped or len(past) <= KEPT_CHAINS:
        return past[-KEPT_CHAINS:], evicted
    gone = set(evicted)
    waited_for = {at[0] for at in skipped if at not in gone}
    late = [chain for chain in past[:-KEPT_CHAINS] if chain.serial in waited_for]
    over = {chain.serial for chain in late[:-LATE_CHAINS]}
    if over:
        evicted = [at for at in skipped if at[0] in over or at in gone]
    return (*late[-LATE_CHAINS:], *past[-KEPT_CHAINS:]), evicted
