"""An agent of AGT's mesh in a store: there after a restart, durable before it speaks, begun anew where it is older."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Grant, Identity, KnockReceived, MessageReceived, RolledBack, SessionEstablished
from agentmesh.agt import AgtAgent, AgtIdentity, HttpRequest
from agentmesh.agt.agent import AgtAgent as Agt
from agentmesh.agt.rows import rows_of
from agentmesh.audit.record import decode_entry
from agentmesh.errors import (
    ArgumentInvalid,
    BatchOpen,
    DecryptionFailed,
    DuplicateMessage,
    KnockReplayed,
    StoreBroken,
    StoreFailed,
)
from agentmesh.store import FileCounter, MemoryStore, SQLiteStore
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.store import Store
from agentmesh.testing import FaultyBackend, Moment

MESH = "example/agt"
KEY = bytes(range(32))


class Registry:
    """Prekeys by DID, as AGT's registry gives them out: one-time prekeys once each, in their order."""

    def __init__(self) -> None:
        self.shelves: dict[str, dict[str, Any]] = {}

    def take(self, request: HttpRequest) -> None:
        assert request.method == "PUT"
        self.shelves[request.path.split("/")[3]] = json.loads(request.body)

    def give(self, did: str) -> bytes:
        shelf = dict(self.shelves[did])
        one_time = shelf.pop("one_time_pre_keys")
        return json.dumps({**shelf, "one_time_pre_key": one_time.pop(0) if one_time else None}).encode()


class Granting:
    """Lets everybody in."""

    def may_knock(self, _sender: object, /) -> bool:
        return True

    def decide(self, _knock: object, /) -> Grant:
        return Grant()

    def still_allowed(self, _peer: object, /) -> bool:
        return True


def conversation(alice: Agt, bob: Agt, registry: Registry) -> list[str]:
    """Let Alice knock and say one thing; return the frames."""
    registry.take(bob.publish_prekeys(3))
    return [alice.knock(bob.did, registry.give(bob.did)).text, alice.send(bob.did, b"hello").text]


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Callable[..., AgtAgent]]:
    """Return what opens one agent again and again, in one file."""
    stores: list[SQLiteStore] = []

    def reopen(**given: Any) -> AgtAgent:
        while stores:
            stores.pop().close()
        stores.append(SQLiteStore(tmp_path / "agt.mesh", key=KEY))
        return stores[0].open_agt_agent(MESH, **given)

    yield reopen
    for store in stores:
        store.close()


def test_a_conversation_goes_on_over_restarts(reopened: Callable[..., AgtAgent]) -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    bob = reopened(policy=Granting())
    frames = conversation(alice, bob, registry)
    bob = reopened(policy=Granting())
    assert bob.receive(frames[0]) == ()
    bob = reopened(policy=Granting())
    established, message = bob.receive(frames[1])
    assert isinstance(established, SessionEstablished)
    assert isinstance(message, MessageReceived)
    bob = reopened(policy=Granting())
    established, message = bob.inbox()
    assert isinstance(message, MessageReceived)
    assert (message.plaintext, message.peer.did) == (b"hello", alice.did)
    for event in (established, message):
        bob.done(event)
    for number in range(6):
        bob = reopened(policy=Granting())
        [answer] = alice.receive(bob.send(alice.did, b"%d" % number).text)
        assert isinstance(answer, MessageReceived)
        assert answer.plaintext == b"%d" % number
        late, soon = alice.send(bob.did, b"late").text, alice.send(bob.did, b"soon").text
        bob.receive(soon)
        bob = reopened(policy=Granting())
        bob.receive(late)
        bob = reopened(policy=Granting())
        for frame in (late, soon, frames[1]):
            with pytest.raises(DuplicateMessage):
                bob.receive(frame)
    with pytest.raises(KnockReplayed):
        bob.receive(frames[0])
    assert len(bob.inbox()) == 12


def test_a_knock_that_waits_is_there_again(reopened: Callable[..., AgtAgent]) -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    bob = reopened()
    frames = conversation(alice, bob, registry)
    bob.receive(frames[0])
    [asked] = bob.receive(frames[1])
    assert bob.receive(alice.send(bob.did, b"more").text) == ()
    bob = reopened()
    assert bob.inbox() == bob.pending_knocks()
    [again] = bob.pending_knocks()
    assert isinstance(again, KnockReceived)
    assert again == asked
    accepted = bob.accept(again)
    assert [event.plaintext for event in accepted if isinstance(event, MessageReceived)] == [b"hello", b"more"]
    bob = reopened()
    assert bob.pending_knocks() == ()
    assert [type(event) for event in bob.inbox()] == [SessionEstablished, MessageReceived, MessageReceived]


def test_the_rows_of_all_steps_are_the_rows_of_the_state(reopened: Callable[..., AgtAgent]) -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    bob = reopened()
    frames = conversation(alice, bob, registry)
    for frame in frames:
        bob.receive(frame)
        before = rows_of(bob._core.state)
        bob = reopened()
        assert rows_of(bob._core.state) == before
    [asked] = bob.pending_knocks()
    with bob.batch() as batch:
        assert bob.accept(asked) == ()
        request = bob.publish_prekeys(2)
        sealed = bob.send(alice.did, b"in a batch")
        for read in (lambda: registry.take(request), lambda: sealed.text):
            with pytest.raises(BatchOpen):
                read()
    registry.take(request)
    assert [type(event) for event in batch.events] == [SessionEstablished, MessageReceived]
    alice.receive(sealed.text)
    before = rows_of(bob._core.state)
    assert rows_of(reopened()._core.state) == before


def test_an_older_copy_begins_anew(tmp_path: Path) -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    counter = FileCounter(tmp_path / "counter")
    with SQLiteStore(tmp_path / "bob.mesh", key=KEY) as store:
        bob = store.open_agt_agent(MESH, policy=Granting(), counter=counter)
        frames = conversation(alice, bob, registry)
        for frame in frames:
            bob.receive(frame)
        store.backup(tmp_path / "older.mesh")
        answer = bob.send(alice.did, b"said once").text
        alice.receive(answer)
    with SQLiteStore(tmp_path / "older.mesh", key=KEY) as store:
        bob = store.open_agt_agent(MESH, policy=Granting(), counter=counter)
        told = bob.inbox()[-1]
        assert isinstance(told, RolledBack)
        assert [peer.did for peer in told.peers] == [alice.did]
        assert bob.sessions(alice.did) == ()
        assert bob._core.state.prekeys == {}
        with pytest.raises(DecryptionFailed):
            bob.receive(alice.send(bob.did, b"to nobody").text)
        again = conversation(alice, bob, registry)
        assert "key_id" not in again[0]
        assert json.loads(again[0])["establishment"]["otk"] == 3  # no number is given twice
        bob.receive(again[0])
        assert [type(event) for event in bob.receive(again[1])][-1] is MessageReceived


def test_a_write_that_fails_changes_nothing_and_loses_nothing() -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    backend = FaultyBackend(MemoryBackend())
    with Store(backend, KEY) as store:
        bob = store.open_agt_agent(MESH, policy=Granting())
        frames = conversation(alice, bob, registry)
        for frame in [*frames, alice.send(bob.did, b"next").text]:
            before = rows_of(bob._core.state)
            backend.fail(Moment.WRITE, StoreFailed())
            with pytest.raises(StoreFailed):
                bob.receive(frame)
            assert rows_of(bob._core.state) == before
            bob.receive(frame)
        backend.fail(Moment.WRITE, StoreFailed())
        with pytest.raises(StoreFailed):
            bob.send(alice.did, b"not this")
        [answer] = alice.receive(bob.send(alice.did, b"but this").text)
        assert isinstance(answer, MessageReceived)
        assert (answer.plaintext, answer.number) == (b"but this", 1)


def test_the_log_of_such_an_agent_names_the_protocol() -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    with MemoryStore(key=KEY) as store:
        bob = store.open_agt_agent(MESH, policy=Granting(), keep_log=True)
        for frame in conversation(alice, bob, registry):
            bob.receive(frame)
        alice.receive(bob.send(alice.did, b"back").text)
        forged = json.loads(alice.send(bob.did, b"forged").text)
        forged["ciphertext"] = forged["ciphertext"][:-4] + "AAA="
        with pytest.raises(DecryptionFailed):
            bob.receive(json.dumps(forged))
        bob.record_refusals()
        log = store.log("agt")
        records = [decode_entry(entry)[2] for entry in log.entries()]
        told = {(str(record.event), record.reason) for record in records}
        assert {
            ("bundle.published", "agt"),
            ("knock.received", "agt"),
            ("knock.accepted", "agt"),
            ("message.opened", "agt"),
            ("message.sealed", "agt"),
            ("message.refused", DecryptionFailed.code),
        } == told
        assert {record.sender for record in records} == {alice.did, bob.did}
        log.verify()


def test_names_and_protocols_are_not_taken_for_one_another(tmp_path: Path) -> None:
    path = tmp_path / "both.mesh"
    with SQLiteStore(path, key=KEY) as store:
        store.open_agt_agent(MESH).publish_prekeys(1)
        store.open_agent(MESH)
    for name, opened in (("agt", Store.open_agent), ("agent", Store.open_agt_agent)):
        with SQLiteStore(path, key=KEY) as store, pytest.raises(ArgumentInvalid, match="another protocol"):
            opened(store, MESH, name=name)
    with SQLiteStore(path, key=KEY) as store:
        with pytest.raises(ArgumentInvalid, match="that of an agent"):
            store.open_states("agt")
        with pytest.raises(ArgumentInvalid, match="mesh"):
            store.open_agt_agent("example/other")
        with pytest.raises(ArgumentInvalid, match="identity"):
            store.open_agt_agent(MESH, identity=AgtIdentity.generate())
        with pytest.raises(ArgumentInvalid, match="identities"):
            store.open_agt_agent(MESH, identity=Identity.generate())  # type: ignore[arg-type]
        store.open_agt_agent(MESH)


def test_care_is_taken_of_such_an_agent(tmp_path: Path) -> None:
    registry, alice = Registry(), AgtAgent.create(MESH)
    other = bytes(reversed(KEY))
    with SQLiteStore(tmp_path / "bob.mesh", key=KEY) as store:
        bob = store.open_agt_agent(MESH, policy=Granting(), keep_log=True)
        for frame in conversation(alice, bob, registry):
            bob.receive(frame)
        expected = rows_of(bob._core.state)
    with SQLiteStore(tmp_path / "bob.mesh", key=KEY) as store:
        assert store.check("agt").rows["agt-prekey"] == 3
        assert store.info("agt").rows["agt-session"] == 1
        assert store.rekey(other) == ("agt",)
    with SQLiteStore(tmp_path / "bob.mesh", key=other) as store:
        assert rows_of(store.open_agt_agent(MESH, policy=Granting())._core.state) == expected


def test_a_row_that_is_gone_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "bob.mesh"
    with SQLiteStore(path, key=KEY) as store:
        store.open_agt_agent(MESH).publish_prekeys(2)
    with SQLiteStore(path, key=KEY) as store:
        rows = store.backend.open_rows("agt", create=False)
        assert rows is not None
        gone = next((kind, key) for kind, key, _ in rows.read() if kind == "agt-prekey")
        rows.write(rows.commit_number + 1, {}, [gone])
        rows.close()
        with pytest.raises(StoreBroken):
            store.open_agt_agent(MESH)


def test_an_exported_agent_moves_into_a_store() -> None:
    registry, alice, bob = Registry(), AgtAgent.create(MESH), AgtAgent.create(MESH, policy=Granting())
    for frame in conversation(alice, bob, registry):
        bob.receive(frame)
    with MemoryStore(key=KEY) as store:
        moved = store.open_agt_agent(MESH, exported=bob.export_state(), policy=Granting())
        assert moved.did == bob.did
        [answer] = alice.receive(moved.send(alice.did, b"from the store").text)
        assert isinstance(answer, MessageReceived)
