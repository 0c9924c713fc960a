"""What the public names are to a type checker: read by mypy and pyright, and never run.

`assert_type` fails where an inferred type changes; a line that is to be an error carries the ignore comments of both,
and each checker fails where such a comment is not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import assert_never, assert_type

import agentmesh
from agentmesh import (
    Accepted,
    Agent,
    Ask,
    Attachment,
    Batch,
    ClaimedSender,
    Conditions,
    Deny,
    Event,
    Grant,
    Header,
    Identity,
    IdentityKey,
    Intent,
    Knock,
    KnockReceived,
    KnockRequest,
    Limits,
    MessageReceived,
    OuterEnvelope,
    Outgoing,
    Policy,
    Reason,
    Sealed,
    SentMany,
    SessionId,
    SessionView,
    Shelf,
    SystemEntropy,
    Waiting,
)
from agentmesh.audit import AuditJournal, AuditLog
from agentmesh.primitives.keys import Receipt
from agentmesh.store import SQLiteStore


class OnlySummaries:
    """A policy by its shape alone: it inherits from nothing of ours."""

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        assert_type(sender.did, str)
        return True

    def decide(self, knock: KnockRequest, /) -> Grant | Deny | Ask:
        return Grant() if knock.intent.action == "summarise" else Deny(Reason.POLICY)

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return peer.did != ""


def fixed_clock() -> int:
    return 1_700_000_000_000


def agents() -> None:
    policy: Policy = OnlySummaries()
    agent = Agent.create(mesh="example/prod", identity=Identity.generate(), policy=policy, clock=fixed_clock)
    assert_type(agent, Agent)
    assert_type(agent.did, str)
    assert_type(agent.key, IdentityKey)
    assert_type(agent.next_deadline_ms, int | None)
    assert_type(agent.export_state(), bytes)
    assert_type(Agent.restore(b"", entropy=SystemEntropy(), limits=Limits()), Agent)
    Agent.create("example/prod", Limits())  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    Agent.create(mesh=b"example/prod")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def conversing(agent: Agent, session_id: SessionId, attachment: Attachment) -> None:
    shelf = agent.publish_bundles(one_time=3)
    assert_type(shelf, Shelf)
    assert_type(shelf.one_time, tuple[bytes, ...])
    assert_type(agent.knock("did:...", shelf.one_time[0], Intent(action="summarise")), Knock)
    sealed = agent.send("did:...", b"data", action="summarise", session_id=session_id, attachments=[attachment])
    assert_type(sealed, Sealed)
    assert_type(sealed.envelope, bytes)
    assert_type(sealed.receipt, Receipt)
    assert_type(agent.send_many(["did:..."], b"data"), SentMany)
    assert_type(agent.close("did:..."), Sealed)
    assert_type(agent.outbox(), tuple[Waiting, ...])
    assert_type(agent.session("did:..."), SessionView)
    assert_type(agent.batch(), AbstractContextManager[Batch])
    with agent.batch() as batch:
        assert_type(batch, Batch)
    agent.send("did:...", bytearray(b"data"))
    agent.send("did:...", memoryview(b"data"))
    agent.send("did:...", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    agent.send("did:...", b"data", session_id=bytes(32))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def receiving(agent: Agent, envelope: bytes) -> Outgoing | None:
    assert_type(agent.receive(envelope), tuple[Event, ...])
    for event in agent.receive(envelope):
        agent.done(event)
        match event:
            case KnockReceived():
                assert_type(event.intent, Intent)
                return decided(agent, event)
            case MessageReceived(plaintext=data, action=action):
                assert_type(data, bytes)
                assert_type(action, str)
                assert_type(event.session_id, SessionId)
            case _:
                pass
    return None


def decided(agent: Agent, knock: KnockReceived) -> Outgoing:
    verdict = OnlySummaries().decide(knock)
    match verdict:
        case Grant():
            accepted = agent.accept(knock, Conditions(max_messages=10))
            assert_type(accepted, Accepted)
            return accepted
        case Deny():
            return agent.reject(knock, verdict.reason)
        case Ask():
            return agent.reject(knock)
        case _:
            assert_never(verdict)


def around(envelopes: Iterable[bytes], log: AuditLog) -> Agent:
    for envelope in envelopes:
        outer = OuterEnvelope(envelope, Limits())
        assert_type(outer.header, Header)
        assert_type(outer.receipt, Receipt)
    with SQLiteStore("agent.mesh", key=bytes(32)) as store:
        assert_type(store, SQLiteStore)
        stored = store.open_agent(mesh="example/prod")
        assert_type(stored, Agent)
    assert_type(agentmesh.__version__, str)
    return Agent.create(mesh="example/prod", journal=AuditJournal(log))
