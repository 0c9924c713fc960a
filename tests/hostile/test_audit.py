"""The audit trail never tells: whatever happens, nothing that was said and no key is in it, in any form.

Canaries stand where secrets stand: plaintext, action, every part of the intent, early payload, the reason of a close.
Every private key is a canary by itself. One scenario goes through success and through each way to be refused; then all
that the trail consists of is searched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agentmesh import (
    Agent,
    AnswerRepeated,
    Attachment,
    Conditions,
    Deny,
    Identity,
    Intent,
    KnockReceived,
    Limits,
    MessageReceived,
    PeerClosed,
    Reason,
)
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    Record,
    to_agt_entries,
    to_cloud_events,
    to_json_lines,
    to_kars_events,
    verified_records,
)
from agentmesh.cli.main import main
from agentmesh.cli.text import Exit
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AgentMeshError, StoreFailed
from agentmesh.handshake.verdict import UNLIMITED
from agentmesh.identity import IdentityKey
from agentmesh.policy import ASK, AskApplication, ClaimedSender, Decision, KnockRequest
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import SESSION_ID, TRANSCRIPT
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.relay import relay_record
from agentmesh.session.established import Session
from agentmesh.store import LogFile
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.testing.mutation import with_body, with_header

MESH = "example/test"
MINUTE_MS = 60_000


# --- canaries and the forms that they could be in ---------------------------------------------------------------------


def canary(name: str) -> bytes:
    """64 bytes of text with all that has to be escaped somewhere, and much that has not."""
    text = f'{name} "<\\\n\t\x1b\u00e9\u202e> ' + hashlib.sha256(name.encode()).hexdigest()
    return text.encode()[:64].ljust(64, b"~")


def forms_of(secret: bytes) -> Iterator[bytes]:
    """Yield the forms of a secret that a search can meet."""
    digest = hashlib.sha256(secret).digest()
    for value in (secret, digest):
        yield value
        yield value.hex().encode()
        yield value.hex().upper().encode()
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            for offset in range(3):  # wherever it begins in what was encoded
                yield encode(bytes(offset) + value)[4 if offset else 0 : -4]
        yield repr(value)[2:-1].encode()
        yield json.dumps(value.decode("latin-1"))[1:-1].encode()
        yield json.dumps(list(value))[1:-1].encode()
    for encoding in ("utf-8", "latin-1"):
        try:
            text = secret.decode(encoding)
        except UnicodeDecodeError:
            continue
        yield json.dumps(text)[1:-1].encode()
        yield json.dumps(text, ensure_ascii=False)[1:-1].encode()
        yield text.encode("utf-16-le")
    yield secret[:16]
    yield secret[-16:]
    yield secret[:16].hex().encode()


class Search:
    """What must not be found, and the searching for it."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, str] = {}

    def add(self, name: str, secret: bytes) -> None:
        self.secrets.setdefault(bytes(secret), name)

    def found_in(self, haystack: bytes) -> set[str]:
        return {
            name for secret, name in self.secrets.items() if any(form in haystack for form in set(forms_of(secret)))
        }


# --- the scenario -----------------------------------------------------------------------------------------------------


class Rules(AskApplication):
    """Lets everybody in, until it is told otherwise."""

    def __init__(self) -> None:
        self.admits = True
        self.allows = True
        self.decision: Decision = ASK

    def may_knock(self, _sender: ClaimedSender, /) -> bool:
        return self.admits

    def still_allowed(self, _peer: IdentityKey, /) -> bool:
        return self.allows

    def decide(self, _knock: KnockRequest, /) -> Decision:
        return self.decision


class Party:
    def __init__(self, name: str, folder: Path, clock: ManualClock, limits: Limits, mesh: str = MESH) -> None:
        self.path = folder / f"{name}.log"
        self.sink = LogFile(self.path, fsync_every=None)
        self.log = AuditLog(self.sink)
        self.rules = Rules()
        self.agent = Agent.create(
            mesh,
            identity=Identity.generate(SeededEntropy(name)),
            clock=clock,
            entropy=SeededEntropy(f"{name}/session"),
            policy=self.rules,
            limits=limits,
            journal=AuditJournal(self.log),
        )

    @property
    def did(self) -> str:
        return self.agent.did


class Scenario:
    """Success, and every failure that a caller, a peer or a stranger can bring about."""

    def __init__(self, folder: Path, search: Search) -> None:
        limits = evolve(
            Limits(),
            skipped_keys_per_step=5,
            skipped_keys_per_session=5,
            plaintext_max_bytes=4_096,
            envelope_max_bytes=2 << 20,
            knocks_per_identity=20,
            answers_per_knock=2,
        )
        self.clock = ManualClock()
        self.clock.now_ms = self.clock.now_ms // MINUTE_MS * MINUTE_MS
        self.alice, self.bob, self.carol = (
            Party(name, folder, self.clock, limits) for name in ("alice", "bob", "carol")
        )
        self.elsewhere = Party("elsewhere", folder, self.clock, limits, mesh="example/elsewhere")
        self.relay_sink = LogFile(folder / "relay.log", fsync_every=None)
        self.relay = AuditLog(self.relay_sink)
        self.latest = b""  # the KNOCK of the session that converses
        self.codes: set[str] = set()
        self.said: list[str] = []  # what errors and values print
        self.search = search
        self.canaries = {
            name: canary(name) for name in ("plain", "action", "cap", "detail", "early", "reason", "file", "place")
        }
        for name, value in self.canaries.items():
            search.add(name, value)

    def attachment(self) -> Attachment:
        """Return what names a file: its name, its place and its key are nobody's business."""
        key = os.urandom(32)
        self.search.add("attachment key", key)
        return Attachment(
            key=AttachmentKey(key),
            size=1000,
            chunk_exponent=18,
            receipt=Receipt(os.urandom(32)),
            name=self.text("file"),
            where=self.text("place"),
        )

    def text(self, name: str) -> str:
        return self.canaries[name].decode()

    def intent(self) -> Intent:
        return Intent(self.text("action"), capabilities=(self.text("cap"),), detail=self.canaries["detail"])

    def see(self, envelope: bytes) -> bytes:
        self.relay.append([relay_record(OuterEnvelope.parse(envelope), at_ms=self.clock())])
        return envelope

    def refuse(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except AgentMeshError as error:
            self.codes.add(error.code)
            self.said += [str(error), repr(error), "".join(traceback.format_exception(error, chain=False)[-1:])]
            return
        raise AssertionError("not refused")

    def refuse_all(self, agent: Agent, envelopes: Sequence[bytes]) -> None:
        for envelope in envelopes:
            self.refuse(lambda envelope=envelope: agent.receive(envelope, disclosable=True))

    def heard(self, *events: Any) -> None:
        self.said += [repr(event) for event in events]

    def tampered(self, envelope: bytes) -> list[bytes]:
        """Return the envelope with a bit flipped in each of its parts, cut, and grown."""
        places = {*range(0, len(envelope), max(1, len(envelope) // 40)), len(envelope) - 1}
        flipped = [envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :] for place in sorted(places)]
        newer = envelope[:4] + b"\x02" + envelope[5:]  # the header's version
        return [*flipped, newer, envelope[:-1], envelope[: len(envelope) // 2], envelope + b"\x00", b""]

    def knock(self, bundle: bytes, **fields: Any) -> Any:
        self.clock.advance(ms=1)
        knock = self.alice.agent.knock(
            self.bob.did, bundle, self.intent(), early_payload=self.canaries["early"], **fields
        )
        self.see(knock.envelope)
        return knock

    def accept(self, conditions: Conditions = UNLIMITED, **fields: Any) -> bytes:
        """Let Bob accept a new session of Alice's; return its id."""
        bundle = self.bob.agent.publish_bundles(1, last_resort=False).one_time[0]
        knock = self.knock(bundle, **fields)
        [event] = self.bob.agent.receive(knock)
        assert isinstance(event, KnockReceived)
        self.heard(event)
        accepted = self.bob.agent.accept(event, conditions)
        assert accepted.early_payload == self.canaries["early"]
        self.heard(accepted, *self.alice.agent.receive(self.see(accepted.envelope)))
        return knock.session_id

    def run(self) -> None:
        self.knocks()
        self.verdicts()
        self.messages()
        self.signals()
        self.cheats()
        self.closes()
        self.sinks()
        for party in (self.alice, self.bob, self.carol, self.elsewhere):
            self.clock.advance(ms=MINUTE_MS)
            self.heard(*party.agent.poll())

    def knocks(self) -> None:
        bob, rules = self.bob.agent, self.bob.rules
        shelf = bob.publish_bundles(8)
        self.heard(shelf)
        knock = self.knock(shelf.one_time[0]).envelope
        self.refuse_all(bob, self.tampered(knock))
        self.refuse_all(self.alice.agent, [knock])
        self.heard(self.elsewhere.agent.publish_bundles(1))
        self.refuse_all(self.elsewhere.agent, [knock, with_header(knock, recipient=self.elsewhere.did)])
        self.refuse_all(self.carol.agent, [knock, with_header(knock, recipient=self.carol.did)])
        self.refuse_all(
            bob,
            [with_header(knock, sender=self.carol.did), with_header(knock, mesh="example/elsewhere")],
        )
        self.refuse_all(bob, [with_header(knock, sender=bob.did)])
        rules.admits = False
        self.refuse_all(bob, [knock])
        rules.admits = True
        self.clock.advance(seconds=-3_600)
        self.refuse_all(bob, [knock])
        self.clock.advance(seconds=3_600 + 40 * 86_400)
        self.refuse_all(bob, [knock])
        self.clock.advance(seconds=-40 * 86_400)
        self.refuse(lambda: self.knock(shelf.one_time[1][:-1]))
        self.refuse(lambda: self.alice.agent.knock(self.carol.did, shelf.one_time[1], self.intent()))
        self.refuse(lambda: self.knock(shelf.last_resort or b"", require_one_time=True))
        self.refuse(lambda: self.elsewhere.agent.knock(self.bob.did, shelf.one_time[1], self.intent()))
        self.refuse(lambda: self.alice.agent.knock(self.alice.did, shelf.one_time[1], self.intent()))
        self.refuse(lambda: self.knock(shelf.one_time[1], expires_in_seconds=-1))
        [event] = bob.receive(knock)
        assert isinstance(event, KnockReceived)
        accepted = bob.accept(event)
        for _ in range(2):
            [again] = bob.receive(knock)
            assert isinstance(again, AnswerRepeated)
        self.refuse_all(bob, [knock])
        self.refuse(lambda: bob.accept(event))
        self.refuse(lambda: bob.reject(event).envelope)
        # On a used bundle, then by the policy, then by the application.
        other = self.knock(shelf.last_resort)
        [event] = bob.receive(other)
        assert isinstance(event, KnockReceived)
        for reply in (bob.reject(event, Reason.BUSY).envelope, accepted.envelope):
            self.refuse_all(self.alice.agent, self.tampered(reply))
            self.see(reply)
            self.heard(*self.alice.agent.receive(reply))
            self.refuse_all(self.alice.agent, [reply])
        for _ in range(2):
            self.heard(*bob.receive(other))
        self.refuse_all(bob, [other])
        rules.decision = Deny(Reason.POLICY, 30)
        [event] = bob.receive(self.knock(shelf.one_time[2]))
        self.heard(event, *self.alice.agent.receive(self.see(event.reply.envelope or b"")))
        rules.decision = ASK
        for _ in range(6):
            self.knock_and_drop(shelf.one_time[3])

    def knock_and_drop(self, bundle: bytes) -> None:
        knock = self.knock(bundle)
        [event] = self.bob.agent.receive(knock)
        if event.reply is not None:
            self.heard(*self.alice.agent.receive(event.reply))
        else:
            self.alice.agent.drop(self.bob.did, knock.session_id)

    def verdicts(self) -> None:
        bundle = self.bob.agent.publish_bundles(1, last_resort=False).one_time[0]
        knock = self.latest = self.knock(bundle)
        [event] = self.bob.agent.receive(knock)
        assert isinstance(event, KnockReceived)
        accepted = self.bob.agent.accept(event)
        # Bob speaks before Alice has his ACCEPT.
        early = self.bob.agent.send(self.alice.did, self.canaries["plain"], session_id=event.session_id).envelope
        self.refuse_all(self.alice.agent, [early])
        self.refuse(lambda: self.alice.agent.send(self.bob.did, b"x", session_id=knock.session_id).envelope)
        self.refuse_all(self.carol.agent, [with_header(accepted.envelope, recipient=self.carol.did)])
        self.heard(*self.alice.agent.receive(accepted.envelope), *self.alice.agent.receive(early))

    def messages(self) -> None:
        alice, bob = self.alice.agent, self.bob.agent
        for sender, receiver in ((alice, bob), (bob, alice)) * 2:
            sealed = sender.send(
                receiver.did, self.canaries["plain"], action=self.text("action"), attachments=[self.attachment()]
            )
            envelope = self.see(sealed.envelope)
            self.refuse_all(receiver, self.tampered(envelope))
            [event] = receiver.receive(envelope)
            assert isinstance(event, MessageReceived)
            assert event.plaintext == self.canaries["plain"]
            self.heard(event)
            self.refuse_all(receiver, [envelope, envelope])
            self.refuse_all(sender, [envelope])
            self.refuse_all(self.carol.agent, [envelope, with_header(envelope, recipient=self.carol.did)])
            self.refuse_all(receiver, [with_header(envelope, sender=self.carol.did), with_body(envelope, b"short")])
        sealed = alice.send(self.bob.did, self.canaries["plain"], disclosable=True)
        assert sealed.disclosure is not None
        self.search.add("disclosed message key", sealed.disclosure.key.reveal())
        [event] = bob.receive(sealed.envelope, disclosable=True)
        assert isinstance(event, MessageReceived)
        self.heard(sealed, event, event.disclosure)
        self.bob.rules.allows = False
        self.refuse_all(bob, [alice.send(self.bob.did, self.canaries["plain"]).envelope])
        self.refuse(lambda: bob.send(self.alice.did, self.canaries["plain"]).envelope)
        self.bob.rules.allows = True
        self.refuse(lambda: alice.send(self.bob.did, self.canaries["plain"] * 100).envelope)
        self.refuse(lambda: alice.send(self.carol.did, self.canaries["plain"]).envelope)
        self.refuse(lambda: alice.send(self.text("plain"), b"").envelope)
        self.refuse(lambda: alice.send(self.bob.did, self.canaries["plain"], action=self.text("action") * 3).envelope)
        self.refuse_all(bob, [bytes((2 << 20) + 1), self.canaries["plain"]])
        self.refuse_all(bob, [self.latest])
        # Late ones: 6 are skipped where 5 may be.
        late = [alice.send(self.bob.did, self.canaries["plain"]).envelope for _ in range(8)]
        self.refuse_all(bob, late[-1:])
        for envelope in late:
            bob.receive(envelope)

    def signals(self) -> None:
        alice, bob = self.alice.agent, self.bob.agent
        bob._core.acknowledge = True
        self.heard(*bob.receive(alice.send(bob.did, self.canaries["plain"])))
        self.clock.advance(ms=1000)
        for event in bob.poll():
            if event.reply is not None:
                self.heard(event, *alice.receive(event.reply))
        bob._core.acknowledge = False

    def cheats(self) -> None:
        """A peer that does not keep to the conditions that were agreed."""
        conditions = Conditions(max_messages=3, ttl_seconds=60, allowed_actions=(self.text("action"),))
        session_id = self.accept(conditions)
        session = self.alice.agent._core.state.sessions[session_id]
        assert isinstance(session, Session)

        def send(**fields: Any) -> bytes:
            return self.alice.agent.send(self.bob.did, self.canaries["plain"], session_id=session_id, **fields).envelope

        self.refuse(lambda: send(action="something else"))
        session.conditions = UNLIMITED
        wrong = [send(action="something else"), send(), send(), send()]
        self.bob.agent.receive(wrong[1])
        self.refuse_all(self.bob.agent, [wrong[0], wrong[2], wrong[3]])
        self.clock.advance(seconds=61)
        self.refuse_all(self.bob.agent, [send()])
        self.refuse(lambda: self.bob.agent.send(self.alice.did, self.canaries["plain"], session_id=session_id).envelope)
        self.clock.advance(seconds=600)
        self.heard(*self.bob.agent.poll())
        self.refuse_all(self.bob.agent, [send()])

    def closes(self) -> None:
        session_id = self.accept()
        alice, bob = self.alice.agent, self.bob.agent
        late = alice.send(self.bob.did, self.canaries["plain"], session_id=session_id).envelope
        close = self.see(alice.close(self.bob.did, self.text("reason"), session_id=session_id).envelope)
        self.refuse_all(bob, self.tampered(close))
        [event] = bob.receive(close)
        assert isinstance(event, PeerClosed)
        assert event.reason == self.text("reason")
        self.heard(event)
        self.refuse(lambda: alice.send(self.bob.did, self.canaries["plain"], session_id=session_id).envelope)
        self.refuse_all(alice, self.tampered(event.reply.envelope or b""))
        self.heard(*alice.receive(self.see(event.reply.envelope or b"")), *bob.receive(late))
        self.refuse_all(bob, [late, close])
        self.refuse(lambda: alice.close(self.bob.did, self.text("reason") * 3).envelope)
        self.heard(*(view for agent in (alice, bob) for view in agent.sessions(self.bob.did)))

    def sinks(self) -> None:
        """The log refuses, and so does the agent."""
        session_id = self.accept()
        envelope = self.alice.agent.send(self.bob.did, self.canaries["plain"], session_id=session_id).envelope
        broken = _Broken(self.bob.sink)
        self.bob.log._sink = broken
        for call in (
            lambda: self.bob.agent.receive(envelope),
            lambda: self.bob.agent.send(self.alice.did, self.canaries["plain"], session_id=session_id).envelope,
            lambda: self.bob.agent.close(self.alice.did, self.text("reason"), session_id=session_id).envelope,
            lambda: self.bob.agent.knock(
                self.carol.did, self.carol.agent.publish_bundles(1).one_time[0], self.intent()
            ),
        ):
            self.refuse(call)
        assert broken.offered
        self.bob.log._sink = self.bob.sink
        self.said += [entry.hex() for entries in broken.offered for entry in entries]
        [event] = self.bob.agent.receive(envelope)
        self.heard(event)
        # Alice's only bundle.
        bundle = self.alice.agent.publish_bundles(1, last_resort=False).one_time[0]
        self.heard(*self.alice.agent.receive(self.bob.agent.knock(self.alice.did, bundle, self.intent())))


class _Broken:
    def __init__(self, sink: LogFile) -> None:
        self._sink = sink
        self.offered: list[Sequence[bytes]] = []

    def append(self, entries: Sequence[bytes], /) -> None:
        self.offered.append(entries)
        raise StoreFailed

    def entries(self) -> Iterator[bytes]:
        return self._sink.entries()


EXPECTED_CODES = {
    "wire.malformed", "wire.too_large", "wire.version", "signature.invalid", "call.argument",
    "bundle.identity", "bundle.mesh", "bundle.one_time_required", "envelope.recipient", "envelope.reflected",
    "envelope.mesh", "envelope.sender", "knock.future", "knock.expired", "knock.not_admitted", "knock.unknown_bundle",
    "knock.answer_overdue", "knock.not_pending", "knock.replayed", "verdict.unmatched", "message.not_yet",
    "message.unknown_session", "message.closed_session", "message.unopened", "message.duplicate", "message.gap",
    "message.condition", "session.none", "session.not_open", "session.condition", "policy.denied", "store.failed",
}  # fmt: skip


def spied(patch: pytest.MonkeyPatch, search: Search) -> None:
    """Make every private key a canary: what randomness gives, what is agreed, what is derived."""
    kdf, dh, decapsulate = _crypto.kdf, _crypto.x25519, _crypto.kem_decapsulate
    token, encapsulate = SeededEntropy.token, SeededEntropy.encapsulate

    def spy_kdf(key: bytes | None, label: Any, data: bytes, size: int) -> bytes:
        derived = kdf(key, label, data, size)  # type: ignore[arg-type]
        if label not in (TRANSCRIPT, SESSION_ID):  # both are on the wire or in the clear
            for at in range(0, size, 32):
                search.add(f"{bytes(label).decode()} key", derived[at : at + 32])
        return derived

    def spy_dh(*arguments: Any) -> bytes:
        shared = dh(*arguments)
        search.add("shared secret", shared)
        return shared

    def spy_decapsulate(*arguments: Any) -> bytes:
        shared = decapsulate(*arguments)
        search.add("KEM secret", shared)
        return shared

    def spy_token(self: SeededEntropy, size: int, /) -> bytes:
        drawn = token(self, size)
        if size >= 32:
            search.add("randomness", drawn)
        return drawn

    def spy_encapsulate(self: SeededEntropy, public_key: bytes, /) -> tuple[bytes, bytes]:
        ciphertext, shared = encapsulate(self, public_key)
        search.add("KEM secret", shared)
        return ciphertext, shared

    patch.setattr(_crypto, "kdf", spy_kdf)
    patch.setattr(_crypto, "x25519", spy_dh)
    patch.setattr(_crypto, "kem_decapsulate", spy_decapsulate)
    patch.setattr(SeededEntropy, "token", spy_token)
    patch.setattr(SeededEntropy, "encapsulate", spy_encapsulate)


def exports_of(entries: Sequence[bytes], owner: str) -> Iterator[str]:
    yield from to_json_lines(entries)
    for form in (to_cloud_events, to_agt_entries, to_kars_events):
        for value in form(entries, owner=owner):
            yield json.dumps(value)
            yield json.dumps(value, ensure_ascii=False)
            yield repr(value)


def shown(*arguments: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["audit", *arguments]) in (Exit.OK, Exit.FOUND)
    assert out.getvalue()
    return out.getvalue() + err.getvalue()


def test_nothing_that_was_said_and_no_key_is_in_the_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    search = Search()
    out, err = io.StringIO(), io.StringIO()
    with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        spied(patch, search)
        scenario = Scenario(tmp_path, search)
        scenario.run()
    assert scenario.codes >= EXPECTED_CODES, EXPECTED_CODES - scenario.codes
    assert len(search.secrets) > 400
    assert (out.getvalue(), err.getvalue(), caplog.text) == ("", "", "")

    places: dict[str, bytes] = {"errors and values": "\n".join(scenario.said).encode()}
    events: set[AuditEvent] = set()
    for party in (scenario.alice, scenario.bob, scenario.carol, scenario.elsewhere):
        entries = list(party.log.entries())
        records = list(verified_records(entries))
        events |= {record.event for record in records}
        places[f"{party.path.name} entries"] = b"\n".join(entries)
        places[f"{party.path.name} records"] = "\n".join(map(repr, records)).encode()
        places[f"{party.path.name} exports"] = "\n".join(exports_of(entries, party.did)).encode()
        party.sink.close()
    scenario.relay_sink.close()
    for path in sorted(tmp_path.iterdir()):
        places[path.name] = path.read_bytes()
        places[f"{path.name} shown"] = shown("show", str(path)).encode()
        places[f"{path.name} verified"] = shown("verify", str(path)).encode()
    places["compared"] = shown("compare", *(str(tmp_path / name) for name in ("alice.log", "bob.log"))).encode()
    # A relay's record is in the relay's log; a statement's has nothing to do with an agent's conversations.
    assert events == set(AuditEvent) - {AuditEvent.ENVELOPE_SEEN, AuditEvent.TRUST_UPDATED}
    for name, haystack in places.items():
        assert len(haystack) > 100, name
        assert search.found_in(haystack) == set(), name


@pytest.mark.parametrize("secret", [canary("plain"), bytes(range(32))], ids=["text", "key"])
def test_the_search_finds_each_form(secret: bytes) -> None:
    search = Search()
    search.add("planted", secret)
    search.add("another", canary("another"))
    for form in forms_of(secret):
        assert search.found_in(b"x" * 50 + form + b"y" * 50) == {"planted"}
    for offset in range(6):
        whole = base64.b64encode(bytes(range(offset)) + secret + b"tail")
        assert search.found_in(whole) == {"planted"}
    assert search.found_in(b"x" * 1_000) == set()


def test_a_trail_that_tells_is_found() -> None:
    """A record whose receipt is a hash of the plaintext, as a careless implementation would have it."""
    search = Search()
    search.add("plaintext", canary("plain"))
    careless = Record(
        AuditEvent.MESSAGE_SEALED,
        at_ms=1,
        mesh=MESH,
        sender="did:x:y",
        receipt=Receipt(hashlib.sha256(canary("plain")).digest()),
    )
    entry = careless.encode(0, bytes(32))
    assert search.found_in(entry) == {"plaintext"}
    for line in exports_of([entry], "did:x:y"):
        assert search.found_in(line.encode()) == {"plaintext"} or '"receipt"' not in line
