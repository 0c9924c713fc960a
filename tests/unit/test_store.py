"""Agents in a store: opened again as they were, each step one write, nothing altered by a refusal; and older copies."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from agentmesh import (
    Agent,
    AskApplication,
    Identity,
    IdentityKey,
    Intent,
    MessageReceived,
    RolledBack,
    SessionOver,
)
from agentmesh.audit.journal import AuditJournal
from agentmesh.audit.log import AuditLog
from agentmesh.audit.sink import MemorySink
from agentmesh.engine.rows import rows_of
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    CommitFailed,
    DecryptionFailed,
    StateMalformed,
    StoreBroken,
    StoreClosed,
    StoreFailed,
    StoreKeyWrong,
    StoreLocked,
)
from agentmesh.store import log_rows
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.rows import Name, Rows
from agentmesh.store.sqlite import SQLiteBackend
from agentmesh.store.store import Store
from agentmesh.testing import ManualClock
from agentmesh.trust import TrustLedger

MESH = "example/store"
KEY = bytes(range(32))


class Moody:
    """Rows that fail as they are told to, before the write or behind it; then `commit_number` may fail too."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.before: BaseException | None = None
        self.behind: BaseException | None = None
        self.silent = False
        self.writes = 0

    @property
    def commit_number(self) -> int:
        if self.silent:
            raise StoreFailed from OSError(errno.EIO, "gone")
        return self.rows.commit_number

    def read(self, *, log: bool = False, first: int = 0) -> Iterator[tuple[str, bytes, bytes]]:
        return self.rows.read(log=log, first=first)

    def write(self, commit_number: int, put: Mapping[Name, bytes], removed: Collection[Name]) -> None:
        before, self.before = self.before, None
        behind, self.behind = self.behind, None
        if before is not None:
            raise before
        self.rows.write(commit_number, put, removed)
        self.writes += 1
        if behind is not None:
            raise behind

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
    """What the store holds, byte for byte."""
    return {name: (agent.commit_number, dict(agent.rows)) for name, agent in backend._agents.items()}


class Scene:
    """Alice in a store, Bob in memory, a session between them."""

    def __init__(self, **arguments: Any) -> None:
        self.clock = ManualClock()
        self.backend = MoodyBackend()
        self.arguments = {"clock": self.clock, **arguments}
        self.store = Store(self.backend, KEY)
        self.alice = self.store.open_agent(MESH, **self.arguments)
        self.bob = Agent.create(MESH, clock=self.clock)
        self.bundles = list(self.bob.publish_bundles(one_time=10).one_time)
        self.meet()

    @property
    def rows(self) -> Moody:
        return self.backend.opened["agent"]

    def meet(self) -> None:
        knock = self.alice.knock(self.bob.did, self.bundles.pop(), Intent("work"))
        [asked] = self.bob.receive(knock.envelope)
        self.alice.receive(self.bob.accept(asked).envelope)  # type: ignore[arg-type]

    def reopen(self, **arguments: Any) -> Agent:
        self.store.close()
        self.backend = MoodyBackend(self.backend.below)
        self.store = Store(self.backend, arguments.pop("key", KEY))
        self.alice = self.store.open_agent(arguments.pop("mesh", MESH), **{**self.arguments, **arguments})
        return self.alice

    def converse(self) -> None:
        assert self.bob.receive(self.alice.send(self.bob.did, b"out").envelope)
        assert self.alice.receive(self.bob.send(self.alice.did, b"back").envelope)


def test_an_agent_is_opened_again_as_it_was() -> None:
    scene = Scene()
    scene.alice.publish_bundles(one_time=3)
    late = [scene.bob.send(scene.alice.did, b"%d" % at).envelope for at in range(4)]
    scene.alice.receive(late[3])
    before, generation, did = rows_of(scene.alice._core.state), scene.alice.generation, scene.alice.did
    alice = scene.reopen()
    assert (rows_of(alice._core.state), alice.generation, alice.did) == (before, generation, did)
    [message, *_] = alice.receive(late[1])
    assert isinstance(message, MessageReceived)
    assert message.plaintext == b"1"
    scene.converse()


def test_each_call_that_changes_something_is_one_write_and_a_refused_one_none() -> None:
    scene = Scene()
    writes = scene.rows.writes
    sealed = scene.alice.send(scene.bob.did, b"one")
    assert scene.rows.writes == writes + 1
    held = content(scene.backend.below)
    spoiled = bytearray(scene.bob.send(scene.alice.did, b"x").envelope)
    spoiled[-1] ^= 1
    with pytest.raises(DecryptionFailed):
        scene.alice.receive(bytes(spoiled))
    assert content(scene.backend.below) == held
    with scene.alice.batch():
        for _ in range(10):
            scene.alice.send(scene.bob.did, b"many")
    assert scene.rows.writes == writes + 2
    assert scene.bob.receive(sealed.envelope)


def test_what_contradicts_the_agent_that_is_there_is_refused_and_alters_nothing() -> None:
    scene = Scene()
    exported, other = scene.bob.export_state(), Identity.generate()
    held = content(scene.backend.below)
    for error, arguments in (
        (ArgumentInvalid, {"mesh": "example/other"}),
        (ArgumentInvalid, {"identity": other}),
        (ArgumentInvalid, {"exported": exported}),
        (ArgumentInvalid, {"keep_log": True, "journal": AuditJournal(AuditLog(MemorySink()))}),
        (StoreKeyWrong, {"key": bytes(32)}),
        (StoreKeyWrong, {"key": "a passphrase"}),
        (ArgumentInvalid, {"name": ""}),
        (ArgumentInvalid, {"counter": object()}),
        (StateMalformed, {"name": "new", "exported": b"rubbish"}),
    ):
        with pytest.raises(error):
            scene.reopen(**arguments)
        assert content(scene.backend.below)["agent"] == held["agent"], arguments
    scene.reopen()
    scene.converse()


def test_an_agent_begins_with_what_was_exported() -> None:
    clock = ManualClock()
    bob, was = Agent.create(MESH, clock=clock), Agent.create(MESH, clock=clock)
    bundle = bob.publish_bundles(one_time=1).one_time[0]
    [asked] = bob.receive(was.knock(bob.did, bundle, Intent("work")).envelope)
    was.receive(bob.accept(asked).envelope)  # type: ignore[arg-type]
    with Store(MemoryBackend(), KEY) as store:
        alice = store.open_agent(MESH, clock=clock, exported=was.export_state())
        assert alice.did == was.did
        assert alice.generation == was.generation
        assert bob.receive(alice.send(bob.did, b"in a store now").envelope)


def test_a_second_opening_is_refused_until_the_first_is_closed() -> None:
    scene = Scene()
    other = Store(MemoryBackend(scene.backend.below), KEY)
    for store in (scene.store, other):
        with pytest.raises(StoreLocked):
            store.open_agent(MESH, clock=scene.clock)
    scene.converse()
    scene.store.close()
    assert other.open_agent(MESH, clock=scene.clock).did == scene.alice.did
    with pytest.raises(StoreClosed):
        scene.alice.send(scene.bob.did, b"too late")


def test_an_opening_that_fails_lets_go_of_the_agent() -> None:
    scene = Scene()
    for _ in range(2):
        with pytest.raises(StoreKeyWrong):
            scene.reopen(key=bytes(32))
    assert scene.reopen()


class Nobody(AskApplication):
    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return True


def test_an_agent_that_had_a_policy_is_not_opened_without_one() -> None:
    scene = Scene(policy=Nobody())
    with pytest.raises(ArgumentInvalid):
        scene.reopen(policy=None)
    scene.reopen(policy=AskApplication())
    scene.reopen(policy=None)  # it was given up, durably
    scene.reopen(policy=Nobody())
    with pytest.raises(ArgumentInvalid):
        scene.reopen(policy=None)


# --- writes that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [StoreFailed(), KeyboardInterrupt(), MemoryError()], ids=["failed", "break", "full"]
)
@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("in_batch", [False, True])
def test_a_step_is_written_once_or_not_at_all(failure: BaseException, where: str, in_batch: bool) -> None:
    scene = Scene()
    alice, rows = scene.alice, scene.rows
    before, writes = rows_of(alice._core.state), rows.writes
    made: list[Any] = []

    def act() -> None:
        if in_batch:
            with alice.batch():
                made.append(alice.send(scene.bob.did, b"numbers"))
        else:
            made.append(alice.send(scene.bob.did, b"numbers"))

    setattr(rows, where, failure)
    took_effect = where == "behind"
    if isinstance(failure, StoreFailed) and took_effect:
        act()  # the store was asked, and has it
    else:
        with pytest.raises(CommitFailed if isinstance(failure, MemoryError) else type(failure)):
            act()
    assert alice.generation  # whoever looks has it settled first
    if not in_batch:
        assert (rows_of(alice._core.state) != before) is took_effect
        act()  # the same call again
    else:
        assert rows_of(alice._core.state) != before
    assert rows.writes == writes + 1 + (took_effect and isinstance(failure, StoreFailed) and not in_batch)
    assert scene.bob.receive(made[-1].envelope)
    assert rows_of(scene.reopen()._core.state) == rows_of(alice._core.state)


def test_where_nobody_knows_nothing_is_done_before_somebody_does() -> None:
    scene = Scene()
    alice, rows = scene.alice, scene.rows
    rows.behind, rows.silent = StoreFailed(), True
    with pytest.raises(CommitFailed):
        alice.send(scene.bob.did, b"numbers")
    for call in (lambda: alice.generation, alice.export_state, lambda: alice.send(scene.bob.did, b"numbers")):
        with pytest.raises(StoreFailed):
            cast("Callable[[], object]", call)()
    rows.silent = False
    sealed = alice.send(scene.bob.did, b"numbers")  # what the first call was to return
    assert [event.plaintext for event in scene.bob.receive(sealed.envelope) if isinstance(event, MessageReceived)]
    assert scene.bob.session(alice.did).status.data_opened == 1
    scene.converse()


# --- the audit log ---------------------------------------------------------------------------------------------------


def test_the_log_is_in_the_store() -> None:
    scene = Scene(keep_log=True)
    scene.converse()
    size, root = len(scene.store.log()), scene.store.log().root()
    scene.rows.before = StoreFailed()
    with pytest.raises(StoreFailed):
        scene.alice.send(scene.bob.did, b"not written")
    assert len(scene.store.log()) == size
    scene.reopen()
    assert (len(scene.store.log()), scene.store.log().root()) == (size, root)
    scene.converse()
    assert scene.store.log().verify().size == size + 2
    with pytest.raises(ArgumentInvalid):
        scene.store.log("another")


# --- older copies ----------------------------------------------------------------------------------------------------


class MemoryCounter:
    def __init__(self) -> None:
        self.number = 0
        self.failure: AgentMeshError | None = None

    def read(self) -> int:
        return self.number

    def advance(self, to: int, /) -> None:
        if self.failure is not None:
            raise self.failure
        self.number = max(self.number, to)


def put_back(scene: Scene, copied: dict[str, Any]) -> None:
    scene.store.close()
    scene.backend.below._agents.clear()
    scene.backend.below._agents.update(copied)


def taken(scene: Scene) -> dict[str, Any]:
    scene.store.close()
    made: dict[str, Any] = {}
    for name, agent in scene.backend.below._agents.items():
        made[name] = copied = type(agent)()
        copied.commit_number, copied.rows = agent.commit_number, dict(agent.rows)
    return made


def test_an_older_copy_is_known_and_begins_anew() -> None:
    counter = MemoryCounter()
    scene = Scene(counter=counter)
    scene.alice.publish_bundles(one_time=3)
    copied = taken(scene)
    scene.reopen()
    scene.converse()
    lost = scene.bob.send(scene.alice.did, b"opened by the later one").envelope
    scene.alice.receive(lost)
    put_back(scene, copied)
    scene.clock.now_ms += 60_000
    alice = scene.reopen()
    told = [event for event in alice.inbox() if isinstance(event, RolledBack)]
    assert [(event.peers, event.bundles) for event in told] == [((scene.bob.key,), 4)]
    assert any(isinstance(event, SessionOver) for event in alice.inbox())
    assert all(bundle.secrets is None for bundle in alice._core.state.bundles.values())
    assert alice.generation > 0
    assert counter.number == alice.generation
    with pytest.raises(AgentMeshError):
        alice.receive(lost)
    scene.meet()
    assert scene.bob.sessions(alice.did)[0].status.closing
    scene.converse()
    scene.reopen()
    assert len([event for event in scene.alice.inbox() if isinstance(event, RolledBack)]) == 1


def test_a_crash_before_the_counter_is_none() -> None:
    counter = MemoryCounter()
    scene = Scene(counter=counter)
    counter.failure = StoreFailed()
    with pytest.raises(CommitFailed):
        scene.alice.send(scene.bob.did, b"numbers")
    with pytest.raises(StoreFailed):
        scene.alice.generation  # noqa: B018 - looking is the point
    counter.failure = None
    alice = scene.reopen()
    assert not [event for event in alice.inbox() if isinstance(event, RolledBack)]
    assert counter.number == alice.generation
    scene.converse()


def test_an_agent_is_not_made_where_its_counter_does_not_answer() -> None:
    class Silent(MemoryCounter):
        def read(self) -> int:
            raise StoreFailed

    deaf = MemoryCounter()
    deaf.failure = StoreFailed()
    backend, exported = MemoryBackend(), Agent.create(MESH, clock=ManualClock()).export_state()
    for counter in (Silent(), deaf, MemoryCounter()):  # the same call again, once it does
        with Store(MemoryBackend(backend), KEY) as store:
            try:
                made = store.open_agent(MESH, clock=ManualClock(), exported=exported, counter=counter)
            except StoreFailed:
                assert counter is deaf or isinstance(counter, Silent)
            else:
                assert made.export_state() != exported  # it keeps an outbox and an inbox now
                assert made.did == Agent.restore(exported, clock=ManualClock()).did


def test_the_name_of_states_is_not_an_agent_s() -> None:
    backend = MemoryBackend()
    with Store(MemoryBackend(backend), KEY) as store:
        store.open_states("trust").keep("ledger", TrustLedger(MESH)).believe(Identity.generate().key)
    held = content(backend)
    with Store(MemoryBackend(backend), KEY) as store, pytest.raises(ArgumentInvalid) as caught:
        store.open_agent(MESH, name="trust", clock=ManualClock())
    assert caught.value.argument == "name"
    assert content(backend) == held


def test_without_a_counter_an_older_copy_is_not_known_but_one_row_is() -> None:
    scene = Scene()
    copied = taken(scene)
    scene.reopen()
    scene.converse()
    scene.store.close()
    agent = scene.backend.below._agents["agent"]
    changed = [name for name, sealed in agent.rows.items() if copied["agent"].rows.get(name) != sealed]
    for name in changed:
        kept = dict(agent.rows)
        if name in copied["agent"].rows:
            agent.rows[name] = copied["agent"].rows[name]
        else:
            del agent.rows[name]
        with pytest.raises(StoreBroken):
            scene.reopen()
        agent.rows = kept
    assert changed
    put_back(scene, copied)
    scene.reopen()  # an older copy of everything: see docs/security.md


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_log_of_several_pages_is_opened_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_rows, "_PAGE", 4)
    memory = MemoryBackend()

    def opened() -> Store:
        return Store(MemoryBackend(memory) if kind == "memory" else SQLiteBackend(tmp_path / "store"), KEY)

    for lives in range(1, 4):
        with opened() as store:
            agent = store.open_agent(MESH, keep_log=True)
            for _ in range(5):
                agent.publish_bundles(one_time=1, last_resort=False)
            store.log().verify()
            entries = list(store.log().entries())
            assert len(entries) == lives * 5
            for first in range(len(entries) + 1):
                assert list(store.log().sink.entries_from(first)) == entries[first:]  # type: ignore[attr-defined]
    with opened() as store:
        store.check()


# --- care ------------------------------------------------------------------------------------------------------------


def test_what_is_there_is_told_without_a_key_and_checked_with_it() -> None:
    scene = Scene(keep_log=True)
    scene.converse()
    scene.store.close()
    info = Store(MemoryBackend(scene.backend.below), bytes(32)).info()
    assert info.rows["session"] == 1
    assert info.rows["log"] == 4
    assert info.did is None
    # With the key its DID is known besides.
    assert Store(MemoryBackend(scene.backend.below), KEY).check() == attrs.evolve(info, did=scene.alice.did)
    with pytest.raises(StoreKeyWrong):
        Store(MemoryBackend(scene.backend.below), bytes(32)).check()
    with pytest.raises(ArgumentInvalid):
        Store(MemoryBackend(scene.backend.below), KEY).check("nobody")
    agent = scene.backend.below._agents["agent"]
    del agent.rows["log", (2).to_bytes(8, "big")]
    with pytest.raises(StoreBroken):
        Store(MemoryBackend(scene.backend.below), KEY).check()


@pytest.mark.parametrize("crash_at", range(4))
def test_a_rekeying_that_breaks_off_goes_on(crash_at: int) -> None:
    scene = Scene(keep_log=True)
    names = ["agent", "b", "c"]
    for name in names[1:]:
        scene.store.open_agent(MESH, name=name, clock=scene.clock)
    scene.store.close()
    new = bytes(31) + b"\x01"
    written = 0

    class Crashing(Moody):
        def write(self, *arguments: Any) -> None:
            nonlocal written
            if written == crash_at:
                raise StoreFailed
            written += 1
            super().write(*arguments)

    class CrashingBackend(MoodyBackend):
        def open_rows(self, name: str, *, create: bool) -> Moody | None:
            rows = self.below.open_rows(name, create=create)
            return None if rows is None else Crashing(cast(Rows, rows))

    broken = Store(CrashingBackend(scene.backend.below), KEY)
    if crash_at < len(names):
        with pytest.raises(StoreFailed):
            broken.rekey(new)
    else:
        assert broken.rekey(new) == tuple(names)
    old, again = Store(MemoryBackend(scene.backend.below), KEY), Store(MemoryBackend(scene.backend.below), KEY)
    assert again.rekey(new) == tuple(names[crash_at:])
    for name in names:
        assert again.check(name)
        with pytest.raises(StoreKeyWrong):
            old.check(name)
    scene.reopen(key=new)
    scene.converse()


def test_an_agent_that_is_open_is_not_rekeyed() -> None:
    scene = Scene()
    with pytest.raises(StoreLocked):
        scene.store.rekey(bytes(32))
    scene.converse()
    scene.reopen()
