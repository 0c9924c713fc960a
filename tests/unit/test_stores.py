"""The stores by their names: which keys they take, and that a bad one leaves no file behind."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Agent, Intent, MessageReceived
from agentmesh.errors import ArgumentInvalid, ExtraMissing, StoreFailed, StoreKeyWrong
from agentmesh.store import MemoryStore, PostgresStore, SQLiteStore
from agentmesh.trust.sealing import StateKey

MESH = "example/test"
KEY = bytes(range(32))
BAD_KEYS = [b"", KEY[1:], KEY + b"x", "", "x" * 1025, "\ud800", None, 7, [KEY]]


@pytest.mark.parametrize("bad", BAD_KEYS, ids=lambda bad: repr(bad)[:12])
def test_a_bad_key_is_refused_before_there_is_a_file(bad: Any, tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "other", key=KEY) as store:
        before = {one.name for one in tmp_path.iterdir()}
        for call in (
            lambda: SQLiteStore(tmp_path / "store", key=bad),
            lambda: PostgresStore("host=nowhere.invalid", key=bad),
            lambda: store.rekey(bad),
        ):
            with pytest.raises(ArgumentInvalid) as refused:
                call()
            assert refused.value.argument == "key"
            shown = "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())
            assert (
                not isinstance(bad, bytes | str) or len(bad) < 2 or repr(bad) not in shown.replace(f"bad = {bad!r}", "")
            )
        store.open_agent(MESH)
        assert {one.name for one in tmp_path.iterdir()} - {"other-wal", "other-shm"} == before
    if bad is not None:
        with pytest.raises(ArgumentInvalid):
            MemoryStore(key=bad)


def test_each_kind_of_key_opens_what_it_sealed_and_no_other_does(tmp_path: Path) -> None:
    keys: list[Any] = [KEY, StateKey(KEY[::-1]), "a passphrase", lambda: bytes(32)]
    for number, key in enumerate(keys):
        with SQLiteStore(tmp_path / str(number), key=key) as store:
            did = store.open_agent(MESH).did
        for other in keys:
            with SQLiteStore(tmp_path / str(number), key=other) as store:
                if other is key:
                    assert store.open_agent(MESH).did == did
                else:
                    with pytest.raises(StoreKeyWrong):
                        store.open_agent(MESH)


def test_what_a_key_service_does_wrong_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    def down() -> bytes:
        raise TimeoutError

    with SQLiteStore(tmp_path / "store", key=down) as store, pytest.raises(StoreFailed) as refused:
        store.open_agent(MESH)
    assert isinstance(refused.value.__cause__, TimeoutError)
    wrong: Any = lambda: b"short"  # noqa: E731
    with SQLiteStore(tmp_path / "store", key=wrong) as store, pytest.raises(ArgumentInvalid):
        store.open_agent(MESH)


def test_a_store_in_memory_has_a_key_of_its_own() -> None:
    with MemoryStore() as one, MemoryStore() as other:
        assert one._key != other._key
        assert one.open_agent(MESH).did != other.open_agent(MESH).did
        assert "key" not in repr(one).lower()


def test_without_psycopg_a_database_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ExtraMissing) as refused:
        PostgresStore("dbname=none", key=KEY)
    assert "postgres" in str(refused.value)


def test_a_conversation_over_a_store_is_there_after_each_restart(tmp_path: Path) -> None:
    """The first example of the pages, with a restart between any two of its lines."""
    bob = Agent.create(MESH, acknowledge=True)
    bundle = bob.publish_bundles(1).one_time[0]

    def alice() -> SQLiteStore:
        return SQLiteStore(tmp_path / "alice", key=KEY)

    with alice() as store:
        knock = store.open_agent(MESH).knock(bob.did, bundle, Intent("report"))
    [event] = bob.receive(knock)
    accepted = bob.accept(event)
    with alice() as store:
        store.open_agent(MESH).receive(accepted)
    with alice() as store:
        agent = store.open_agent(MESH)
        agent.done(agent.inbox()[0])
    with alice() as store:
        sealed = store.open_agent(MESH).send(bob.did, b"the numbers")
    with alice() as store:
        [waiting] = store.open_agent(MESH).outbox()
        assert (waiting.envelope, waiting.receipt) == (sealed.envelope, sealed.receipt)
    bob.receive(waiting.envelope)
    with alice() as store:
        agent = store.open_agent(MESH)
        agent.receive(bob.send(agent.did, b"thank you"))
    with alice() as store:
        agent = store.open_agent(MESH)
        assert agent.outbox() == ()
        message, _delivered = agent.inbox()
        assert isinstance(message, MessageReceived)
        assert message.plaintext == b"thank you"
        handed_up = agent.inbox()
        with agent.batch():
            for told in handed_up:
                agent.done(told)
    with alice() as store:
        assert store.open_agent(MESH).inbox() == ()
