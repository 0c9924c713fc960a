"""What a policy decides by, in a store: a restart at any point finds what every call that returned has said."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from types import ModuleType
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Intent, KnockRefused, SessionEstablished
from agentmesh.at_rest import StateKind, export_fields
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    PeerNotAllowed,
    StateMalformed,
    StateStale,
    StoreBroken,
    StoreClosed,
    StoreError,
    StoreFailed,
    StoreFenced,
    StoreKeyWrong,
    StoreLocked,
    TryAgain,
)
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.rows import Name, Rows
from agentmesh.store.states import States
from agentmesh.store.store import Store
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.trust import (
    AdmissionLists,
    AdmissionPolicy,
    RevocationList,
    Successions,
    Tier,
    TrustGraph,
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
)
from agentmesh.trust.steps import Stepwise

MESH = "example/states"
KEY = bytes(range(32))
NOW = 1_767_225_600_000
ME, AUDITOR, ANN, BEN, CAL, DAN = WHO = [Identity.generate(SeededEntropy(f"states {number}")) for number in range(6)]


# --- a store that fails as it is told to ------------------------------------------------------------------------------


class Moody:
    """Rows that fail before a write, behind it, or behind it and then do not say how far they came."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.mood = ""
        self.error: BaseException = StoreFailed()
        self.writes = 0

    @property
    def commit_number(self) -> int:
        if self.mood == "silent":
            raise StoreFailed from OSError(errno.EIO, "gone")
        return self.rows.commit_number

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        return self.rows.read(log=log, first=first)

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        if self.mood == "before":
            raise self.error
        if self.mood == "silent":
            if self.rows.commit_number < commit_number:
                self.rows.write(commit_number, put, removed)
            raise self.error
        self.rows.write(commit_number, put, removed)
        self.writes += 1
        if self.mood == "behind":
            raise self.error

    def close(self) -> None:
        self.rows.close()


class MoodyBackend:
    """A backend in memory that gives out `Moody` rows."""

    def __init__(self, below: MemoryBackend | None = None) -> None:
        self.below = MemoryBackend(below)
        self.opened: dict[str, Moody] = {}

    def names(self) -> tuple[str, ...]:
        return self.below.names()

    def open_rows(self, name: str, *, create: bool) -> Moody | None:
        rows = self.below.open_rows(name, create=create)
        if rows is None:
            return None
        self.opened[name] = moody = Moody(cast(Rows, rows))
        return moody

    def close(self) -> None:
        self.below.close()


def content(backend: MemoryBackend) -> dict[str, tuple[int, dict[Name, bytes]]]:
    return {name: (agent.commit_number, dict(agent.rows)) for name, agent in backend._agents.items()}


class Number:
    """A counter outside the store."""

    def __init__(self) -> None:
        self.number = 0
        self.fails = False

    def read(self) -> int:
        return self.number

    def advance(self, to: int, /) -> None:
        if self.fails:
            raise StoreFailed
        self.number = max(self.number, to)


class Scene:
    """All five states, kept, and a policy that decides by them."""

    def __init__(self, below: MemoryBackend | None = None, **opening: Any) -> None:
        self.opening = opening
        self.backend = MoodyBackend(below)
        self.store = Store(self.backend, KEY)
        self.states = self.store.open_states(**opening)
        self.revocations = self.states.keep("revocations", RevocationList(MESH))
        self.ledger = self.states.keep("ledger", TrustLedger(MESH, revocations=self.revocations))
        self.graph = self.states.keep("graph", TrustGraph(MESH, ME.key, revocations=self.revocations))
        self.successions = self.states.keep("successions", Successions(MESH))
        self.lists = self.states.keep("lists", AdmissionLists(MESH))
        self.policy = AdmissionPolicy(
            ledger=self.ledger,
            graph=self.graph,
            revocations=self.revocations,
            successions=self.successions,
            lists=self.lists,
            one_time_per_hour=3,
            tiers=[Tier(min_score=500)],
        )

    @property
    def rows(self) -> Moody:
        return self.backend.opened["trust"]

    @property
    def live(self) -> dict[str, bytes]:
        """What the states say, whether it is durable or not; nothing is written for it."""
        return {key.decode(): state._whole() for state, key in self.states._kept.items()}

    @property
    def stored(self) -> dict[str, bytes]:
        """What somebody who opens a copy of the store now would find."""
        copied = MemoryBackend()
        for name, (number, rows) in content(self.backend.below).items():
            copied.open_rows(name, create=True).close()  # type: ignore[union-attr]
            copied._agents[name].rows, copied._agents[name].commit_number = rows, number
        found = Store(copied, KEY).open_states()._found
        return {key.decode(): exported for (_, key), exported in found.items()}

    @property
    def standing(self) -> list[Any]:
        return [
            (
                self.ledger.score(who.key),
                self.graph.score(who.key),
                self.revocations.is_revoked(who.key),
                self.successions.is_retired(who.key),
                self.lists.is_allowed(who.key),
                self.lists.is_blocked(who.key),
                self.policy.still_allowed(who.key),
                self.policy.may_use(who.key, BundleClass.ONE_TIME, NOW),
            )
            for who in WHO
        ]

    def restart(self) -> Scene:
        self.store.close()
        return Scene(self.backend.below, **self.opening)


# --- every kind of change ---------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """What is called, and which state it changes."""

    name: str
    call: Callable[[Scene], object]


OFFER = issue_continuity(ANN, BEN, mesh=MESH, sequence=1, time_ms=NOW)
CALLS = {
    "believe": Call("ledger", lambda scene: scene.ledger.believe(AUDITOR.key)),
    "update": Call("ledger", lambda scene: scene.ledger.apply(update(ANN, 150), now_ms=NOW)),
    "another": Call("ledger", lambda scene: scene.ledger.apply(update(BEN, -90), now_ms=NOW)),
    "taken back": Call("ledger", lambda scene: scene.ledger.disbelieve(AUDITOR.key, take_back=True)),
    "inherit": Call("ledger", lambda scene: scene.ledger.inherit(ANN.key, CAL.key)),
    "own edge": Call("graph", lambda scene: scene.graph.apply(edge(ME, DAN, 900), now_ms=NOW)),
    "edge": Call("graph", lambda scene: scene.graph.apply(edge(DAN, CAL, 700), now_ms=NOW)),
    "authority": Call("revocations", lambda scene: scene.revocations.believe(AUDITOR.key)),
    "revocation": Call("revocations", lambda scene: scene.revocations.apply(revocation(AUDITOR, DAN))),
    "know": Call("successions", lambda scene: scene.successions.know(ANN.key, "ann")),
    "offer": Call("successions", lambda scene: scene.successions.offer(OFFER, now_ms=NOW)),
    "allow": Call("lists", lambda scene: scene.policy.allow(ANN.key)),
    "allow by name": Call("lists", lambda scene: scene.policy.allow(BEN.did)),
    "disallow": Call("lists", lambda scene: scene.policy.disallow(ANN.did)),
    "block": Call("lists", lambda scene: scene.policy.block(CAL.did)),
    "unblock": Call("lists", lambda scene: scene.policy.unblock(CAL.key)),
    "used": Call("lists", lambda scene: scene.policy.used(DAN.key, BundleClass.ONE_TIME, NOW)),
}


def update(subject: Identity, signal: int, sequence: int = 1) -> bytes:
    return issue_trust(AUDITOR, subject.key, signal, mesh=MESH, sequence=sequence, time_ms=NOW)


def edge(issuer: Identity, subject: Identity, weight: int) -> bytes:
    return issue_edge(issuer, subject.key, weight, mesh=MESH, sequence=1, time_ms=NOW)


def revocation(issuer: Identity, subject: Identity) -> bytes:
    return issue_revocation(issuer, subject.key, mesh=MESH, sequence=1, time_ms=NOW)


MOODS = ("", "", "", "before", "behind", "silent")
NAMES = st.sampled_from(sorted(CALLS))


@given(st.lists(st.tuples(NAMES, st.sampled_from(MOODS), st.booleans()), max_size=14))
def test_a_restart_at_any_point_finds_what_every_call_that_returned_has_said(
    calls: list[tuple[str, str, bool]],
) -> None:
    scene = Scene()
    for name, mood, restarts in calls:
        before, written = scene.stored, scene.rows.writes
        scene.rows.mood = mood
        try:
            CALLS[name].call(scene)
        except StoreError:
            assert mood
            changed = {key for key, exported in scene.stored.items() if exported != before[key]}
            assert changed <= {CALLS[name].name}  # and where it is changed, wholly:
            assert scene.stored in (before, scene.live)
            if mood in ("before", "silent"):
                with pytest.raises(StoreError):
                    _ = getattr(scene, CALLS[name].name).generation
            if restarts:
                scene = scene.restart()
                assert scene.stored in (before, scene.live)
                continue
            scene.rows.mood = ""
            assert getattr(scene, CALLS[name].name).generation  # whoever comes next writes it
        except AgentMeshError:
            assert scene.rows.writes == written  # refused: nothing to write
        scene.rows.mood = ""
        assert scene.stored == scene.live
        if restarts:
            standing = scene.standing
            scene = scene.restart()
            assert scene.standing == standing
            assert scene.rows.writes == 0  # nothing is written for having been opened
            assert scene.stored == scene.live


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=14), st.sampled_from(MOODS))
def test_a_batch_is_one_write_at_its_end_and_made_again_where_that_fails(
    calls: list[tuple[str, bool]], mood: str
) -> None:
    scene, alone = Scene(), Scene()
    before, written = scene.stored, scene.rows.writes
    try:
        with scene.states.batch():
            for name, nested in calls:
                with scene.states.batch() if nested else nullcontext():
                    for one in (scene, alone):
                        with suppress(AgentMeshError):
                            CALLS[name].call(one)
                assert scene.standing == alone.standing  # its own thread sees what it did
            assert (scene.stored, scene.rows.writes) == (before, written)
            scene.rows.mood = mood
    except StoreError:
        assert mood
        assert scene.stored in (before, alone.stored)
    scene.rows.mood = ""
    assert scene.standing == alone.standing
    assert scene.stored == alone.stored
    assert scene.rows.writes <= written + 2


# --- what is broken off -----------------------------------------------------------------------------------------------

ROOMS = ("trust/", "store/states.py", "store/keeping.py")
SETUPS = {
    "update": ("believe",),
    "revocation": ("authority",),
    "offer": ("know",),
    "own edge": ("edge",),
    "disallow": ("allow",),
    "used": (),
}


def prepared(name: str) -> Scene:
    scene = Scene()
    for earlier in SETUPS[name]:
        CALLS[earlier].call(scene)
    return scene


@pytest.mark.parametrize("name", SETUPS)
def test_a_call_that_is_broken_off_is_durable_before_anything_is_read(name: str, interrupts: ModuleType) -> None:
    after = prepared(name)
    before = after.stored
    CALLS[name].call(after)
    seen = set()
    for scene in interrupts.each(lambda: prepared(name), CALLS[name].call, rooms=ROOMS):
        assert scene.stored in (before, after.stored)
        assert interrupts.is_free(scene.states._lock)
        said = getattr(scene, CALLS[name].name).export_state()
        assert scene.stored == {**before, CALLS[name].name: said}
        seen.add(said)
        if name != "used":  # charged twice, where it was charged and then broken off: on the safe side
            with suppress(AgentMeshError):
                CALLS[name].call(scene)
            assert scene.stored == after.stored
    assert len(seen) == 2


def several(scene: Scene) -> None:
    with scene.states.batch():
        for name in ("believe", "update", "allow"):
            CALLS[name].call(scene)


def test_a_batch_that_is_broken_off_leaves_no_batch_behind(interrupts: ModuleType) -> None:
    whole = Scene()
    ledgers = {whole.stored["ledger"]}
    for name in ("believe", "update"):
        CALLS[name].call(whole)
        ledgers.add(whole.stored["ledger"])
    for scene in interrupts.each(Scene, several, rooms=("trust/", "store/states.py", "store/keeping.py")):
        assert not scene.states._in_batch()
        with scene.states.batch():
            pass
        assert scene.states._batches == {}  # whatever number a thread has that comes and goes
        assert scene.stored["ledger"] in ledgers  # and no half of an update that was broken off in between
        assert scene.standing
        assert {name: scene.stored[name] for name in ("ledger", "lists")} == {
            "ledger": scene.ledger.export_state(),
            "lists": scene.lists.export_state(),
        }
        CALLS["block"].call(scene)
        assert scene.stored == scene.live


def keeping(scene: tuple[States, TrustLedger]) -> None:
    scene[0].keep("ledger", scene[1])


@pytest.mark.parametrize("is_there", [False, True])
def test_keeping_that_is_broken_off_can_be_done_again(is_there: bool, interrupts: ModuleType) -> None:
    def make() -> tuple[States, TrustLedger]:
        backend = MemoryBackend()
        if is_there:
            before = Store(backend, KEY)
            before.open_states().keep("ledger", TrustLedger(MESH)).believe(AUDITOR.key)
            before.close()
        return Store(MemoryBackend(backend), KEY).open_states(), TrustLedger(MESH)

    for states, ledger in interrupts.each(make, keeping, rooms=ROOMS):
        states.keep("ledger", ledger)
        assert ledger.believes(AUDITOR.key) is is_there
        assert states.keep("ledger", ledger)._keeper is states


# --- threads ----------------------------------------------------------------------------------------------------------


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_another_thread_waits_for_no_batch_and_sees_nothing_that_is_not_durable() -> None:
    scene = Scene()
    scene.ledger.believe(AUDITOR.key)
    seen: list[Any] = []
    with scene.states.batch():
        CALLS["update"].call(scene)
        in_a_thread(lambda: seen.append((scene.ledger.score(ANN.key), scene.stored == scene.live)))
        assert seen == [(150, True)]
        CALLS["another"].call(scene)
        in_a_thread(lambda: CALLS["allow"].call(scene))
        assert scene.stored == scene.live  # what another thread changes is durable when its call returns
        with scene.states.batch():
            CALLS["block"].call(scene)
        assert scene.stored != scene.live
    assert scene.stored == scene.live


def test_threads_lose_nothing() -> None:
    scene = Scene()
    people = [Identity.generate(SeededEntropy(f"person {number}")) for number in range(24)]

    def work(part: list[Identity]) -> None:
        for who in part:
            scene.policy.allow(who.did)
            with scene.states.batch():
                scene.graph.apply(edge(who, DAN, 10), now_ms=NOW)
                scene.revocations.apply(revocation(who, who))

    threads = [threading.Thread(target=work, args=(people[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.stored == scene.live
    again = scene.restart()
    assert (len(again.revocations), len(again.graph)) == (24, 24)
    assert all(again.lists.is_allowed(who.key) for who in people)


# --- following --------------------------------------------------------------------------------------------------------


def offered(**lists: Any) -> Scene:
    scene = Scene()
    for name in ("believe", "update", "know", "offer"):
        CALLS[name].call(scene)
    getattr(scene.policy, "block" if lists else "allow")(ANN.key)
    return scene


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("mood", MOODS[2:])
def test_a_restart_finds_a_succession_that_was_followed_wholly_or_not_at_all(blocked: bool, mood: str) -> None:
    scene = offered(**{"block": True} if blocked else {})
    before, written = scene.stored, scene.rows.writes
    scene.rows.mood = mood
    with suppress(StoreError):
        scene.policy.follow(ANN.key, BEN.key)
        assert not mood or scene.rows.writes == written + 1
    wholly = scene.live
    assert scene.stored in (before, wholly)
    assert {name for name in wholly if wholly[name] != before[name]} == {"ledger", "successions", "lists"}
    again = scene.restart()
    if again.stored == before:
        again.policy.follow(ANN.key, BEN.key)
    assert again.stored == wholly
    assert (again.lists.is_allowed(BEN.key), again.lists.is_blocked(BEN.key)) == (not blocked, blocked)
    assert again.successions.is_retired(ANN.key)
    assert again.ledger.score(BEN.key) == 150


def test_nobody_else_gets_in_between_while_a_succession_is_followed(
    interrupts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, follow = offered(), Successions.follow
    free: list[bool] = []

    def watched(self: Successions, old: Any, new: Any) -> None:
        free.append(interrupts.is_free(scene.states._lock))
        follow(self, old, new)

    monkeypatch.setattr(Successions, "follow", watched)
    scene.policy.follow(ANN.key, BEN.key)
    assert free == [False]


# --- a policy whose states cannot be written --------------------------------------------------------------------------


def test_a_policy_denies_until_what_it_decides_by_is_durable() -> None:
    scene = Scene()
    scene.policy.allow(ANN.key)
    assert scene.policy.still_allowed(ANN.key)
    scene.rows.mood = "before"
    with pytest.raises(StoreFailed):
        scene.policy.block(BEN.key)
    assert not scene.policy.still_allowed(ANN.key)
    assert not scene.policy.is_known(ANN.key.raw)
    assert not scene.policy.may_use(ANN.key, BundleClass.ONE_TIME, NOW)
    scene.rows.mood = ""
    assert scene.policy.still_allowed(ANN.key)
    assert scene.stored == scene.live


def test_what_a_backend_of_the_callers_raises_is_a_store_that_failed() -> None:
    scene = Scene()
    scene.rows.mood, scene.rows.error = "behind", OSError(errno.EIO, "broken")
    with pytest.raises(StoreFailed) as caught:
        scene.policy.allow(ANN.key)
    assert caught.value.__cause__ is scene.rows.error
    scene.rows.mood = ""
    assert scene.lists.is_allowed(ANN.key)
    assert scene.stored == scene.live


def test_whoever_lost_the_rows_can_say_nothing_any_more() -> None:
    scene = Scene()
    scene.backend.below._agents["trust"].holder = None
    other = Scene(scene.backend.below)
    other.policy.allow(BEN.key)
    for _ in range(2):
        with pytest.raises(StoreFenced):
            scene.policy.allow(ANN.key)
    assert not scene.policy.still_allowed(BEN.key)
    assert other.stored == other.live


def test_after_the_store_is_closed_nothing_changes() -> None:
    scene = Scene()
    scene.store.close()
    for _ in range(2):
        with pytest.raises(StoreClosed):
            scene.policy.allow(ANN.key)
    again = Scene(scene.backend.below)
    assert not again.lists.is_allowed(ANN.key)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_one_at_a_time_has_them_open() -> None:
    scene = Scene()
    with pytest.raises(StoreLocked):
        scene.store.open_states()
    other = scene.store.open_states("other")
    assert other.keep("lists", AdmissionLists(MESH)).generation == 0


def test_another_key_and_damage_are_refused_and_alter_nothing() -> None:
    scene = Scene()
    scene.store.close()
    below = scene.backend.below
    before = content(below)
    with pytest.raises(StoreKeyWrong):
        Store(MemoryBackend(below), b"k" * 32).open_states()
    rows = below._agents["trust"].rows
    for name, sealed in list(rows.items()):
        altered = {**rows, name: sealed[:-1] + bytes([sealed[-1] ^ 1])}
        without = {other: kept for other, kept in rows.items() if other != name}
        for broken in (altered, without):
            below._agents["trust"].rows = broken
            with pytest.raises((StoreBroken, StoreKeyWrong)):
                Store(MemoryBackend(below), KEY).open_states()
        below._agents["trust"].rows = rows
    number, below._agents["trust"].commit_number = below._agents["trust"].commit_number, 0
    with pytest.raises(StoreBroken):  # and no new, empty lists
        Store(MemoryBackend(below), KEY).open_states()
    below._agents["trust"].commit_number = number
    assert content(below) == before
    assert Scene(below).stored == scene.stored


def test_an_agent_and_states_do_not_pass_for_each_other() -> None:
    store = Store(MemoryBackend(), KEY)
    store.open_agent(MESH)
    store.open_states().keep("lists", AdmissionLists(MESH))
    store.close()
    below = cast(MemoryBackend, store.backend)
    before = content(below)
    with pytest.raises(ArgumentInvalid) as caught:
        Store(MemoryBackend(below), KEY).open_states("agent")
    assert caught.value.argument == "name"
    with pytest.raises((ArgumentInvalid, StoreBroken, StateMalformed)):
        Store(MemoryBackend(below), KEY).open_agent(MESH, name="trust")
    assert content(below) == before
    store = Store(MemoryBackend(below), KEY)
    store.open_agent(MESH)
    store.open_states()


def test_an_older_copy_is_refused_by_a_counter_and_only_by_one() -> None:
    counter = Number()
    scene = Scene(counter=counter)
    older = content(scene.backend.below)
    scene.policy.block(ANN.key)
    assert counter.number == scene.rows.commit_number
    scene = scene.restart()
    scene.store.close()
    below = scene.backend.below
    for number, rows in ((older["trust"][0], older["trust"][1]), (0, {})):
        below._agents["trust"].rows, below._agents["trust"].commit_number = dict(rows), number
        with pytest.raises(StateStale):
            Store(MemoryBackend(below), KEY).open_states(counter=counter)
        assert content(below) == {"trust": (number, rows)}
    below._agents["trust"].rows, below._agents["trust"].commit_number = dict(older["trust"][1]), older["trust"][0]
    assert not Scene(below).lists.is_blocked(ANN.key)


def test_a_counter_that_fails_keeps_the_call_from_returning() -> None:
    counter = Number()
    scene = Scene(counter=counter)
    counter.fails = True
    with pytest.raises(StoreFailed):
        scene.policy.block(ANN.key)
    assert scene.stored == scene.live  # it is there, and not yet known outside
    assert counter.number < scene.rows.commit_number
    with pytest.raises(StoreFailed):
        scene.lists.is_blocked(ANN.key)
    counter.fails = False
    assert scene.lists.is_blocked(ANN.key)
    assert counter.number == scene.rows.commit_number
    assert scene.restart().lists.is_blocked(ANN.key)


def test_what_is_kept_is_what_it_was_made_as() -> None:
    scene = Scene()
    for name in ("believe", "authority", "know", "own edge", "allow"):
        CALLS[name].call(scene)
    scene.store.close()
    before = content(scene.backend.below)
    states = Store(MemoryBackend(scene.backend.below), KEY).open_states()
    changed = AdmissionLists(MESH)
    changed.block(DAN.did)
    wrong: tuple[tuple[str, Any, type[AgentMeshError]], ...] = (
        ("ledger", TrustGraph(MESH, ME.key), StateMalformed),
        ("ledger", TrustLedger("example/other"), ArgumentInvalid),
        ("ledger", TrustLedger(MESH, default_score=1), ArgumentInvalid),
        ("ledger", TrustLedger(MESH, limits=Limits(trust_window_seconds=3600)), ArgumentInvalid),
        ("graph", TrustGraph(MESH, ANN.key), StateMalformed),
        ("lists", changed, ArgumentInvalid),
        ("lists", AdmissionPolicy(), ArgumentInvalid),
        ("", AdmissionLists(MESH), ArgumentInvalid),
        ("n" * 129, AdmissionLists(MESH), ArgumentInvalid),
    )
    for name, state, error in wrong:
        with pytest.raises(error):
            states.keep(name, state)
        if isinstance(state, Stepwise):
            assert state._keeper is None
    assert content(scene.backend.below) == before
    kept = states.keep("ledger", TrustLedger(MESH))
    assert states.keep("ledger", kept) is kept
    for name, state in (("ledger", TrustLedger(MESH)), ("other", kept)):
        with pytest.raises(ArgumentInvalid):
            states.keep(name, state)
    with pytest.raises(ArgumentInvalid):
        Store(MemoryBackend(), KEY).open_states().keep("ledger", kept)
    assert repr(states) == "<redacted>" or KEY.hex() not in repr(states)


def test_a_state_from_elsewhere_is_kept_from_then_on() -> None:
    ledger = TrustLedger(MESH)
    ledger.believe(AUDITOR.key)
    ledger.apply(update(ANN, 150), now_ms=NOW)
    store = Store(MemoryBackend(), KEY)
    store.open_states().keep("ledger", TrustLedger.restore(ledger.export_state()))
    store.close()
    again = Store(MemoryBackend(cast(MemoryBackend, store.backend)), KEY)
    assert again.open_states().keep("ledger", TrustLedger(MESH)).export_state() == ledger.export_state()


def test_lists_that_are_kept_are_not_given_twice() -> None:
    lists = AdmissionLists(MESH)
    for given_beside in ({"allow": [ANN.key]}, {"block": iter([ANN.did])}):
        with pytest.raises(ArgumentInvalid):
            AdmissionPolicy(lists=lists, **given_beside)  # type: ignore[arg-type]
    with pytest.raises(ArgumentInvalid):
        AdmissionPolicy(lists=lists, ledger=TrustLedger("example/other"))
    assert lists.generation == 0
    policy = AdmissionPolicy(lists=lists)
    assert policy.mesh == MESH
    for _ in range(2):  # as at each start
        policy.allow(ANN.key)
    policy.disallow(BEN.key)
    assert lists.generation == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3_600_000)), max_size=12))
def test_a_ration_is_the_same_with_restarts_and_without(steps: list[tuple[bool, int]]) -> None:
    lasting, lists, now_ms = AdmissionPolicy(one_time_per_hour=3), AdmissionLists(MESH), NOW
    for uses, passed_ms in steps:
        now_ms += passed_ms
        lists = AdmissionLists.restore(lists.export_state())
        restarted = AdmissionPolicy(lists=lists, one_time_per_hour=3)
        asked = [policy.may_use(DAN.key, BundleClass.ONE_TIME, now_ms) for policy in (lasting, restarted)]
        assert asked[0] is asked[1]
        if uses:
            for policy in (lasting, restarted):
                policy.used(DAN.key, BundleClass.ONE_TIME, now_ms)


def test_a_ration_that_was_larger_is_owed_no_longer_than_an_hour() -> None:
    lists = AdmissionLists(MESH)
    policy = AdmissionPolicy(lists=lists, one_time_per_hour=50)
    for _ in range(50):
        policy.used(DAN.key, BundleClass.ONE_TIME, NOW)
    smaller = AdmissionPolicy(lists=lists, one_time_per_hour=2)
    assert not smaller.may_use(DAN.key, BundleClass.ONE_TIME, NOW)
    assert smaller.may_use(DAN.key, BundleClass.ONE_TIME, NOW + 3_600_000)


def test_lists_are_restored_as_they_were_and_damage_is_refused() -> None:
    lists = AdmissionLists(MESH)
    lists.allow(ANN.did)
    lists.block(BEN.key)
    exported = lists.export_state()
    assert AdmissionLists.restore(exported, at_least_generation=2).export_state() == exported
    with pytest.raises(StateStale):
        AdmissionLists.restore(exported, at_least_generation=3)
    for at in range(len(exported)):
        with pytest.raises(StateMalformed):
            AdmissionLists.restore(exported[:at] + bytes([exported[at] ^ 1]) + exported[at + 1 :])
    nobody = [[[], ["did:agentmesh:nobody"]], [[], []], 0, 0]
    twice = [[[ANN.key.raw] * 2, []], [[], []], 0, 0]
    for fields in (nobody, twice):
        with pytest.raises(StateMalformed):
            AdmissionLists.restore(export_fields(StateKind.LISTS, MESH, 1, fields))


# --- with agents ------------------------------------------------------------------------------------------------------


def test_whom_an_agent_refuses_and_what_strangers_used_up_stays_so_over_restarts() -> None:
    clock = ManualClock()
    scene = Scene()
    scene.policy.allow(ANN.did)
    ann, dan = (Agent.create(MESH, identity=who, clock=clock) for who in (ANN, DAN))
    bob = scene.store.open_agent(MESH, clock=clock, policy=scene.policy)
    shelf = list(bob.publish_bundles(one_time=6).one_time)

    def knock(who: Agent) -> object:
        return bob.receive(who.knock(bob.did, shelf.pop(), Intent("work")).envelope)[0]

    assert isinstance(knock(ann), SessionEstablished)
    for _ in range(3):
        assert isinstance(knock(dan), KnockRefused)
        scene = scene.restart()
        bob = scene.store.open_agent(MESH, clock=clock, policy=scene.policy)
    with pytest.raises(TryAgain):
        knock(dan)  # the hour's three are used up
    clock.advance(ms=3_600_000)
    assert isinstance(knock(dan), KnockRefused)
    assert scene.policy.still_allowed(ann.key)
    scene.policy.block(ANN.key)
    scene = scene.restart()
    bob = scene.store.open_agent(MESH, clock=clock, policy=scene.policy)
    with pytest.raises(PeerNotAllowed):
        bob.send(ann.did, b"no")


def test_an_older_copy_under_another_key_is_refused_by_the_counter() -> None:
    counter = Number()
    older = MemoryBackend()
    scene = Store(older, KEY)
    scene.open_states(counter=counter).keep("lists", AdmissionLists(MESH))
    scene.close()
    counter.number += 1  # as by a write that this copy does not have
    copied = Store(MemoryBackend(older), KEY)
    copied.rekey(bytes(32))
    with pytest.raises(StateStale):
        copied.open_states(counter=counter)
