"""What time brings: publishing, rotation, expiry, forgetting (docs/protocol.md, sections 3, 5 and 7)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Final, final

from attrs import frozen

from agentmesh.audit.record import Record
from agentmesh.engine import delivery, order, records
from agentmesh.engine.changes import (
    BundlesForgotten,
    BundlesPublished,
    BundleUsed,
    KeptKeysExpired,
    KnocksForgotten,
    PeersForgotten,
    SessionEnded,
    SessionsForgotten,
)
from agentmesh.engine.conversing import session_over, signal, signal_due_ms
from agentmesh.engine.core import Core
from agentmesh.engine.state import Change, Peer, Step
from agentmesh.errors import StockFull
from agentmesh.events import Event, Events, RotationDue, SignalDue, SkippedKeysExpired, StockLow
from agentmesh.handshake.prekeys import BundleClass, PublishedBundle, issue_bundle
from agentmesh.outgoing import Withholding
from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.keys import BundleRef
from agentmesh.session.established import Session
from agentmesh.session.facts import Ended
from agentmesh.session.held import ended, session_id_of

_REMEMBERED: Final = 10  # used bundles are remembered, without secrets, up to so many times `bundles_max`
_LOW_ONE_IN: Final = 5  # a stock of which less than one part in so many is left is low


@final
@frozen(kw_only=True, repr=False)
class Shelf(Withholding):
    """What `publish_bundles` made: bytes for any registry, which need not be trusted.

    Attributes:
        one_time: Bundles to hand out once each.
        last_resort: The bundle to serve when they have run out, or `None` where none was asked for.
    """

    withheld: ClassVar[tuple[str, ...]] = ("one_time", "last_resort")
    one_time: tuple[bytes, ...]
    last_resort: bytes | None

    def __repr__(self) -> str:
        if not self.can_read("one_time"):
            return "Shelf(<withheld>)"
        return f"Shelf(one_time=<{len(self.one_time)}>, last_resort={'yes' if self.last_resort else 'no'})"


def publish(core: Core, one_time: int | None, last_resort: bool, now_ms: int) -> Step[Shelf]:
    """Make bundles. The secrets are in the step."""
    state, limits = core.state, core.limits
    room = _room(core, last_resort)
    if one_time is None:
        count = max(0, min(limits.one_time_bundles - state.unused_one_time(now_ms), room))
    else:
        count = uint_argument("one_time", one_time)
    if count > max(0, room) or (last_resort and _with_secrets(core) >= limits.bundles_max):
        raise StockFull(count + last_resort, limits.bundles_max)
    shelf: list[bytes] = []
    published: list[PublishedBundle] = []
    classes = [BundleClass.ONE_TIME] * count + [BundleClass.LAST_RESORT] * last_resort
    for bundle_class in classes:
        is_one_time = bundle_class is BundleClass.ONE_TIME
        lifetime = limits.one_time_lifetime_seconds if is_one_time else limits.last_resort_lifetime_seconds
        data, kept = issue_bundle(
            state.identity,
            bundle_class=bundle_class,
            mesh=state.mesh,
            not_before_ms=now_ms,
            not_after_ms=now_ms + lifetime * 1000,
            entropy=core.entropy,
        )
        shelf.append(data)
        published.append(kept)
    trail: tuple[Record, ...] = ()
    for data, kept in zip(shelf, published, strict=True):
        trail += records.bundle_published(core, data, kept.bundle_class, now_ms)
    output = Shelf(one_time=tuple(shelf[:count]), last_resort=shelf[-1] if last_resort else None)
    return Step((BundlesPublished(tuple(published)),) if published else (), trail, output)


def withdraw(core: Core, refs: Iterable[BundleRef] | None) -> Step[tuple[BundleRef, ...]]:
    """Delete the secrets of bundles that hold some; a KNOCK on one of them is rejected from now on."""
    bundles = core.state.bundles
    named = bundles if refs is None else dict.fromkeys(refs)
    gone = tuple(ref for ref in named if ref in bundles and bundles[ref].secrets is not None)
    return Step(tuple(BundleUsed(ref) for ref in gone), (), gone)


def _is_low(core: Core, unused: int) -> bool:
    # Relative to what the shelf held: the last publication, and what was left before it.
    one_time = [one for one in core.state.bundles.values() if one.bundle_class is BundleClass.ONE_TIME]
    last_ms = max((one.not_before_ms for one in one_time), default=0)
    stock = unused + sum(one.not_before_ms == last_ms and one.secrets is None for one in one_time)
    return unused < max(1, min(core.limits.one_time_bundles_low, stock // _LOW_ONE_IN))


def _room(core: Core, last_resort: bool) -> int:
    """Return how many one-time bundles can be published beside a last-resort one."""
    most = core.limits.bundles_max
    # What strangers used up is remembered, and must not keep the last-resort bundle from being rotated.
    return min(most - _with_secrets(core) - last_resort, _REMEMBERED * most - len(core.state.bundles))


def _with_secrets(core: Core) -> int:
    return sum(bundle.secrets is not None for bundle in core.state.bundles.values())


def last_resort_published_ms(core: Core) -> int | None:
    """Return when the newest last-resort bundle was published, or `None`."""
    times = [
        bundle.not_before_ms
        for bundle in core.state.bundles.values()
        if bundle.bundle_class is BundleClass.LAST_RESORT and bundle.secrets is not None
    ]
    return max(times, default=None)


def poll(core: Core, now_ms: int, *, tell_stock: bool, tell_rotation: bool) -> Step[Events]:
    """End what is over, forget what may go, and tell what is due."""
    changes: list[Change] = []
    events: list[Event] = []
    trail: tuple[Record, ...] = ()
    forgotten: list[Ended] = []
    for held in core.state.sessions.values():
        if isinstance(held, Ended):
            if now_ms > held.at_ms + core.limits.ended_session_seconds * 1000:
                forgotten.append(held)
            continue
        happening = held.ending(now_ms)
        if happening is not None:
            over = ended(held, happening, at_ms=now_ms)
            changes.append(SessionEnded(over))
            events.append(session_over(over, held.missing if isinstance(held, Session) else ()))
            trail += records.session_ended(core, over, now_ms)
        elif isinstance(held, Session):
            _poll_session(core, held, now_ms, changes, events)
    if forgotten:
        changes.append(SessionsForgotten(tuple(forgotten)))
    if core.reliable:
        changes += delivery.outdated(core, now_ms)
        events = [*order.waited(core, now_ms), *events]
    changes += _forget(core, {over.session_id for over in forgotten}, now_ms)
    unused = core.state.unused_one_time(now_ms)
    if tell_stock and _is_low(core, unused):
        events.append(StockLow(unused=unused))
    published_at_ms = last_resort_published_ms(core)
    if tell_rotation and published_at_ms is not None and now_ms >= _rotation_due_ms(core, published_at_ms):
        events.append(RotationDue(published_at_ms=published_at_ms))
    return Step(tuple(changes), trail, tuple(events), afterwards=partial(_signalled, core, events, now_ms))


def _poll_session(core: Core, session: Session, now_ms: int, changes: list[Change], events: list[Event]) -> None:
    facts = session.facts
    due_ms = signal_due_ms(core, session, now_ms)
    if due_ms is not None and now_ms >= due_ms:
        change, due = signal(core, session, now_ms)
        changes.append(change)
        events += [] if due is None else [due]
    expired = session.ratchet.expired_keys(now_ms, core.limits)
    if expired is not None:
        changes.append(KeptKeysExpired(session, expired))
        lost_at = facts.positions_in(expired.lost)
        events.append(SkippedKeysExpired(peer=facts.peer, session_id=facts.session_id, lost_at=lost_at))


def _signalled(core: Core, events: list[Event], now_ms: int) -> None:
    """Note what left, where a poll has made signals: in memory alone."""
    core.unheard.clear()
    if core.recording:
        peers = tuple(event.peer.did for event in events if isinstance(event, SignalDue))
        core.counted.count_signals_out(peers, now_ms)


def next_deadline_ms(core: Core, now_ms: int, *, tell_stock: bool, tell_rotation: bool) -> int | None:
    """Return the earliest time at which `poll` has something to do, or `None`; it may have come already."""
    times: list[int] = []
    if tell_stock and _is_low(core, core.state.unused_one_time(now_ms)):
        times.append(now_ms)
    for held in core.state.sessions.values():
        if isinstance(held, Ended):
            times.append(held.at_ms + core.limits.ended_session_seconds * 1000 + 1)
            continue
        if held.deadline_ms is not None:
            times.append(held.deadline_ms + 1)
        if not isinstance(held, Session):
            continue
        due_ms = signal_due_ms(core, held, now_ms)
        if due_ms is not None:
            times.append(due_ms)
        if held.ratchet.skipped:
            _, kept_at_ms = next(iter(held.ratchet.skipped.values()))
            times.append(kept_at_ms + core.limits.skipped_key_lifetime_seconds * 1000 + 1)
    if core.reliable:
        times += delivery.next_deadline_ms(core, now_ms)
    times += [_forget_peer_ms(core, peer) for peer in core.state.peers.values() if _is_over(peer)]
    times += [bundle.forget_at_ms + 1 for bundle in core.state.bundles.values()]
    published_at_ms = last_resort_published_ms(core)
    if tell_rotation and published_at_ms is not None:
        times.append(_rotation_due_ms(core, published_at_ms))
    return min(times, default=None)


def _is_over(peer: Peer) -> bool:
    return all(isinstance(held, Ended) for held in peer.sessions)


def _forget_peer_ms(core: Core, peer: Peer) -> int:
    kept_ms = core.limits.ended_session_seconds * 1000
    return max([peer.forget_at_ms, *(held.at_ms + kept_ms for held in peer.sessions if isinstance(held, Ended))]) + 1


def _rotation_due_ms(core: Core, published_at_ms: int) -> int:
    return published_at_ms + core.limits.last_resort_rotation_seconds * 1000


def _forget(core: Core, gone: set[bytes], now_ms: int) -> list[Change]:
    state = core.state
    changes: list[Change] = []
    refs = tuple(bundle.ref for bundle in state.bundles.values() if now_ms > bundle.forget_at_ms)
    if refs:
        changes.append(BundlesForgotten(refs))
    ths = state.knocks.due(now_ms)
    if ths:
        changes.append(KnocksForgotten(ths))
    keys = tuple(
        peer.key
        for peer in state.peers.values()
        if now_ms > peer.forget_at_ms and all(session_id_of(held) in gone for held in peer.sessions)
    )
    if keys:
        changes.append(PeersForgotten(keys))
    return changes
