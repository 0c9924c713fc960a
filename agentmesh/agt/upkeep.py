"""What time brings to an agent that speaks AGT's protocol: prekeys, expiry, forgetting (docs/agt.md, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from agentmesh.agt import records
from agentmesh.agt.conversation import AgtSession, Candidate, advanced
from agentmesh.agt.conversing import session_with
from agentmesh.agt.core import AgtCore
from agentmesh.agt.prekeys import NUMBER_MAX, SIGNED_KEPT, Prekey, new_prekey
from agentmesh.agt.registry import HttpRequest, OneTimePublic, sign_prekey, upload
from agentmesh.agt.stage import Stage, numbers_of
from agentmesh.agt.state import KnocksForgotten, PrekeysDropped, PrekeysPut, Stock, Stocked
from agentmesh.engine.changes import InboxRemoved
from agentmesh.engine.state import Change, Step
from agentmesh.errors import StockFull
from agentmesh.events import Event, Events, RolledBack, RotationDue, SessionOver, SkippedKeysExpired, StockLow
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.limits import CLOCK_TOLERANCE_MS
from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.keys import SessionId
from agentmesh.session.phases import Phase

ONE_TIME_DEFAULT: Final = 20  # as AGT's own client; a stranger can empty any shelf
_LOW_ONE_IN: Final = 4


def publish(core: AgtCore, one_time: int, now_ms: int, *, rotate: bool) -> Step[HttpRequest]:
    """Make prekeys, and the request that uploads them.

    The signed prekey stays the same until it is due. One-time prekeys are always new: of the earlier ones nobody knows
    which the registry has given out.
    """
    state, limits = core.state, core.limits
    count = uint_argument("one_time", one_time)
    stock = state.stock
    kept = sum(not prekey.is_signed for prekey in state.prekeys.values())
    if kept + count > limits.bundles_max or stock.next_one_time + count > NUMBER_MAX:
        raise StockFull(kept + count, limits.bundles_max)
    made = [new_prekey(core.entropy, stock.next_one_time + number, now_ms, is_signed=False) for number in range(count)]
    signed = state.signed_prekeys()
    next_signed = stock.next_signed
    gone: list[Prekey] = []
    if rotate or not signed or rotation_due_ms(core) <= now_ms:
        signed.insert(0, new_prekey(core.entropy, next_signed, now_ms, is_signed=True))
        made.append(signed[0])
        next_signed += 1
        gone = signed[SIGNED_KEPT:]
    changes: list[Change] = [PrekeysPut(tuple(made)), *_dropped(core, gone)]
    changes.append(Stocked(Stock(next_signed, stock.next_one_time + count, stock.next_one_time)))
    request = upload(
        state.identity,
        now_ms,
        sign_prekey(state.identity, signed[0].number, signed[0].public),
        [OneTimePublic(prekey.number, prekey.public) for prekey in made if not prekey.is_signed],
    )
    trail: records.Records = ()
    for prekey in made:
        bundle_class = BundleClass.LAST_RESORT if prekey.is_signed else BundleClass.ONE_TIME
        trail += records.prekey_made(core, len(prekey.public), bundle_class, now_ms)
    return Step(tuple(changes), trail, request, afterwards=core.told.clear)


def _dropped(core: AgtCore, gone: list[Prekey]) -> Iterator[Change]:
    """Yield the changes that let prekeys go, and the memory of KNOCKs which no copy can repeat any more."""
    if not gone:
        return
    yield PrekeysDropped(tuple(prekey.name for prekey in gone))
    staying = {prekey.number for prekey in core.state.signed_prekeys()} - {one.number for one in gone if one.is_signed}
    forgotten = tuple(name for name, signed in core.state.known.items() if signed not in staying)
    if forgotten:
        yield KnocksForgotten(forgotten)


def rotation_due_ms(core: AgtCore) -> int:
    """Return when the signed prekey is to be replaced; 0 where there is none."""
    signed = core.state.signed_prekeys()
    return signed[0].made_ms + core.limits.last_resort_rotation_seconds * 1000 if signed else 0


def is_low(core: AgtCore, unused: int) -> bool:
    """Say whether most of the last upload is used, where so many of it are not."""
    listed = core.state.stock.next_one_time - core.state.stock.first_listed
    return listed > 0 and unused < max(1, listed // _LOW_ONE_IN)


# --- poll ------------------------------------------------------------------------------------------------------------


def poll(core: AgtCore, now_ms: int) -> Step[Events]:
    """Do what time has brought, and tell it."""
    stage = Stage(core, now_ms)
    for held in tuple(core.state.held.values()):
        if isinstance(held, Candidate):
            _expire_candidate(stage, held)
        else:
            _expire_session(stage, held)
    outdated = _outdated(core, now_ms)
    stage.changes += _dropped(core, outdated)
    stage.events += _due(core, outdated, now_ms)
    # Once it has happened, because a poll that was broken off is made again, and is to tell the same.
    stage.afterwards.append(partial(core.told.update, [type(event) for event in stage.events]))
    core.early.expire(now_ms)
    for session_id in [name for name in core.tried if name not in core.state.held]:
        del core.tried[session_id]
    return stage.told()


def _due(core: AgtCore, outdated: list[Prekey], now_ms: int) -> Iterator[Event]:
    """Yield what is to be done about prekeys, once each."""
    first = core.state.stock.first_listed
    unused = core.state.unused - sum(not one.is_signed and one.number >= first for one in outdated)
    if StockLow not in core.told and is_low(core, unused):
        yield StockLow(unused=unused)
    signed = core.state.signed_prekeys()
    if RotationDue not in core.told and signed and rotation_due_ms(core) <= now_ms:
        yield RotationDue(published_at_ms=signed[0].made_ms)


def _expire_candidate(stage: Stage, candidate: Candidate) -> None:
    if stage.now_ms <= candidate.expires_ms:
        return
    facts = candidate.facts
    stage.drop(facts)
    if candidate.is_proved:  # the application was told of it
        stage.records += records.session_ended(stage.core, facts, str(Phase.EXPIRED), stage.now_ms)
        stage.events.append(SessionOver(peer=facts.peer, session_id=facts.session_id, phase=Phase.EXPIRED))
    sequence = stage.core.state.inbox.knocks.get(candidate.facts.session_id)
    if sequence is not None:
        stage.changes.append(InboxRemoved((sequence,)))


def _expire_session(stage: Stage, session: AgtSession) -> None:
    facts, core = session.facts, stage.core
    ends_at_ms = session.ends_at_ms
    if ends_at_ms is not None and stage.now_ms > ends_at_ms + CLOCK_TOLERANCE_MS:
        stage.drop(facts)
        stage.records += records.session_ended(core, facts, str(Phase.EXPIRED), stage.now_ms)
        stage.events.append(SessionOver(peer=facts.peer, session_id=facts.session_id, phase=Phase.EXPIRED))
        return
    expired = session.ratchet.expired_keys(stage.now_ms, core.limits)
    if expired is None:
        return
    ratchet = session.ratchet.copy()
    ratchet.apply(expired)
    stage.put(advanced(session, ratchet=ratchet))
    stage.events.append(
        SkippedKeysExpired(peer=facts.peer, session_id=facts.session_id, lost_at=numbers_of(expired.lost))
    )


def _outdated(core: AgtCore, now_ms: int) -> list[Prekey]:
    """Return the prekeys past their time: one-time ones by age, signed ones once another has served so long."""
    limits = core.limits
    one_time_ms, signed_ms = limits.one_time_lifetime_seconds * 1000, limits.last_resort_lifetime_seconds * 1000
    gone = [one for one in core.state.prekeys.values() if not one.is_signed and one.made_ms + one_time_ms < now_ms]
    signed = core.state.signed_prekeys()
    return gone + (signed[1:] if signed and signed[0].made_ms + signed_ms < now_ms else [])


def deadlines_ms(core: AgtCore) -> Iterator[int]:
    """Yield the times at which `poll` has something to do."""
    for held in core.state.held.values():
        if isinstance(held, Candidate):
            yield held.expires_ms + 1
            continue
        if held.ends_at_ms is not None:
            yield held.ends_at_ms + CLOCK_TOLERANCE_MS + 1
        oldest = next(iter(held.ratchet.skipped.values()), None)
        if oldest is not None:
            yield oldest[1] + core.limits.skipped_key_lifetime_seconds * 1000 + 1
    one_time = [prekey.made_ms for prekey in core.state.prekeys.values() if not prekey.is_signed]
    if one_time:
        yield min(one_time) + core.limits.one_time_lifetime_seconds * 1000 + 1
    signed = core.state.signed_prekeys()
    if len(signed) > 1:
        yield signed[0].made_ms + core.limits.last_resort_lifetime_seconds * 1000 + 1


# --- endings ---------------------------------------------------------------------------------------------------------


def drop(core: AgtCore, did: str, session_id: SessionId, now_ms: int) -> Step[None]:
    """End a session here and now; AGT has no word for it that the peer could be told."""
    session = session_with(core, did, session_id, 0)
    stage = Stage(core, now_ms)
    stage.drop(session.facts)
    stage.records += records.session_ended(core, session.facts, "dropped", now_ms)
    return stage.step(None)


def roll_back(core: AgtCore, now_ms: int) -> Step[Events]:
    """Begin anew, where this state is known to be older than one that has acted.

    Its prekeys may have served, its sessions' keys may have sealed other messages: all of them go.
    """
    state = core.state
    stage = Stage(core, now_ms)
    peers = []
    for held in tuple(state.held.values()):
        stage.drop(held.facts)
        if isinstance(held, AgtSession):
            stage.records += records.session_ended(core, held.facts, "rolled-back", now_ms)
        peers.append(held.facts.peer)
    told = tuple(state.inbox.knocks.values())
    if told:
        stage.changes.append(InboxRemoved(told))
    bundles = len(state.prekeys)
    stage.changes += _dropped(core, list(state.prekeys.values()))
    stage.events.append(RolledBack(peers=tuple(dict.fromkeys(peers)), bundles=bundles))
    return stage.told()
