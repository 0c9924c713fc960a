"""What must never show: keys, plaintexts and intents, in any text, record or kept object, on any path.

Canaries of 64 random bytes travel through everything; every private key of both agents is a canary too.
"""

from __future__ import annotations

import base64
import copy
import gc
import hashlib
import json
import logging
import os
import pickle
import pprint
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import pytest

from agentmesh import (
    Agent,
    Conditions,
    Grant,
    Intent,
    KnockReceived,
    Limits,
    MessageReceived,
    OuterEnvelope,
    PeerClosed,
)
from agentmesh.envelope import build
from agentmesh.errors import AgentMeshError, CommitFailed, StoreError, StoreFailed
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import EXTRACT, KNOCK_KEY
from agentmesh.primitives.keys import Disclosure, DisclosureKey, IdentitySeed, KemSeed, PrekeySecret, Redacted, Secret
from agentmesh.session.established import Session
from agentmesh.session.pending import Pending, Undecided
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from agentmesh.testing import ManualClock, with_header

MESH = "example/leaks"
GUARDS = {"guarded", "send", "receive"}  # the one frame that stays: of a call that guards itself its own


# --- what is looked for ----------------------------------------------------------------------------------------------


def forms(secret: bytes) -> Iterator[str]:
    """Yield the ways in which bytes come to stand in a text. Of long ones a part is enough."""
    for part in {secret, secret[:15], secret[-16:]}:
        yield part.hex()
        yield part.hex().upper()
        yield repr(part)[2:-1]
        yield repr(bytearray(part))[12:-2]
        yield part.decode("latin-1")
        yield json.dumps(part.decode("latin-1"))[1:-1]
        yield ", ".join(map(str, part))
        yield part.decode("utf-8", "backslashreplace")
    yield base64.b64encode(secret[:15]).decode()
    yield base64.urlsafe_b64encode(secret[:15]).decode()
    yield str(int.from_bytes(secret, "big"))
    yield str(int.from_bytes(secret, "little"))


def digests(secret: bytes) -> Iterator[bytes]:
    yield hashlib.sha256(secret).digest()
    yield hashlib.blake2b(secret).digest()
    yield hashlib.sha256(secret[:32]).digest()


class Watch:
    """Every secret there has been, and every text that was seen."""

    def __init__(self) -> None:
        self.canaries = {name: os.urandom(64) for name in ("plaintext", "detail", "early", "answer")}
        self.action = "action-" + os.urandom(16).hex()
        self.keys: set[bytes] = set()
        self.texts: list[str] = []

    def learn(self, *agents: Agent) -> None:
        """Take all private keys that the agents hold now."""
        for agent in agents:
            self.keys |= set(private_keys(agent))

    def look(self, *values: Any) -> None:
        """Note every text that a value gives of itself."""
        for value in values:
            self.texts += texts_of(value)

    def check(self) -> None:
        everything = "\n".join(self.texts)
        assert len(everything) > 1000
        assert len(self.keys) > 10
        secrets = {**self.canaries}
        for name, canary in self.canaries.items():
            for number, digest in enumerate(digests(canary)):
                secrets[f"digest {number} of {name}"] = digest
        secrets |= {f"key {number}": key for number, key in enumerate(self.keys)}
        for name, secret in secrets.items():
            for form in forms(secret):
                assert form not in everything, f"{name}: {around(everything, form)}"
        assert self.action not in everything, around(everything, self.action)


def around(text: str, found: str) -> str:
    at = text.index(found)
    return text[max(0, at - 200) : at]


def private_keys(agent: Agent) -> Iterator[bytes]:
    state = agent._core.state
    identity: Identity = state.identity
    yield identity.seed.reveal()
    yield identity._signing_key[:32]
    yield identity.dh_secret
    for bundle in state.bundles.values():
        if bundle.secrets is not None:
            yield bundle.secrets.prekey_secret.reveal()
            yield bundle.secrets.kem_seed.reveal()
    for held in state.sessions.values():
        yield from session_keys(held)


def session_keys(held: Any) -> Iterator[bytes]:
    if isinstance(held, Undecided):
        yield from (held.root, held.header_key_ab, held.header_key_ba)
    elif isinstance(held, Pending | Session):
        ratchet = held.ratchet
        yield from (ratchet.root, ratchet.secret, ratchet.next_sending, ratchet.next_receiving)
        for chain in (ratchet.sending, ratchet.receiving):
            if chain is not None:
                yield from (chain.key, chain.header_key)
        yield from (past.header_key for past in ratchet.past)
        yield from (key for key, _ in ratchet.skipped.values())


def texts_of(value: Any) -> Iterator[str]:
    yield repr(value)
    yield str(value)
    yield f"{value}"
    yield f"{value!r:>10}"
    yield "%s %r" % (value, value)  # noqa: UP031 - what a logging call does
    yield ascii(value)
    yield pprint.pformat(value)
    yield json.dumps(value, default=str, skipkeys=True) if not isinstance(value, bytes) else ""
    yield repr([value])
    yield repr({"value": (value,)})


# --- walking what is reachable ---------------------------------------------------------------------------------------

ATOMS = (str, int, float, bool, type(None), type, types.ModuleType, bytearray)


def reachable(*roots: Any) -> list[Any]:
    """Return every object that can be reached: through attributes, slots, containers and closures."""
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, ATOMS):
            continue
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            waiting += value
        elif isinstance(value, types.FunctionType | types.MethodType):
            waiting += [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
            waiting.append(getattr(value, "__self__", None))
        if isinstance(value, types.FunctionType) or not type(value).__module__.startswith("agentmesh"):
            continue
        for name in {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}:
            waiting.append(getattr(value, name, None))
        waiting += list(getattr(value, "__dict__", {}).values())
        if isinstance(value, Ratchet):  # of which a part lies packed
            waiting += [value.root, value.secret, value.next_sending, value.next_receiving, value.past]
    return list(seen.values())


def ours(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if type(value).__module__.startswith("agentmesh")]


def bytes_in(*roots: Any) -> set[bytes]:
    return {bytes(value) for value in reachable(*roots) if isinstance(value, bytes)}


# --- a whole conversation --------------------------------------------------------------------------------------------


class Journal:
    """A journal that looks at all it is given, and fails when told to."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.failing = False
        self.failure: BaseException | None = None
        self.entries: list[bytes] = []

    def commit(self, changes: tuple[Any, ...], records: tuple[Any, ...], /) -> None:
        self.watch.look(changes, records, *changes, *records)
        self.entries += [record.encode(0, bytes(32)) for record in records]
        if self.failing:
            raise OSError("no space left")
        if self.failure is not None:
            raise self.failure


class Story:
    """Two agents with journals, on one clock; a canary in everything that is said."""

    def __init__(self, policy: Any = None) -> None:
        self.watch = Watch()
        self.clock = ManualClock()
        self.journals = [Journal(self.watch) for _ in range(2)]
        limits = Limits(skipped_keys_per_step=5, skipped_keys_per_session=8)
        self.alice, self.bob = (
            Agent.create(MESH, clock=self.clock, journal=journal, limits=limits, policy=policy)
            for journal in self.journals
        )
        self.events: list[Any] = []

    def note(self, value: Any) -> Any:
        self.watch.learn(self.alice, self.bob)
        for item in value if isinstance(value, tuple) else (value,):
            if not isinstance(item, bytes):
                self.watch.look(item)
            self.events.append(item)
        return value

    def intent(self) -> Intent:
        return Intent(self.watch.action, detail=self.watch.canaries["detail"], capabilities=[self.watch.action])

    def knock(self) -> Any:
        shelf = self.note(self.bob.publish_bundles(2))
        return self.note(
            self.alice.knock(
                self.bob.did, shelf.one_time[0], self.intent(), early_payload=self.watch.canaries["early"]
            ).envelope
        )

    def establish(self) -> None:
        event = self.note(self.bob.receive(self.knock()))[0]
        accepted = self.note(self.bob.accept(event))
        self.note(self.alice.receive(accepted.envelope))

    def converse(self) -> list[bytes]:
        """Return envelopes that were held back."""
        said, answer = self.watch.canaries["plaintext"], self.watch.canaries["answer"]
        held = []
        for _ in range(3):
            held.append(self.note(self.alice.send(self.bob.did, said).envelope))
            sealed = self.note(self.alice.send(self.bob.did, said, action=self.watch.action, disclosable=True))
            self.note(self.bob.receive(sealed.envelope, disclosable=True))
            self.note(self.alice.receive(self.note(self.bob.send(self.alice.did, answer).envelope)))
        return held

    def look_at_everything(self) -> None:
        for value in ours(reachable(self.alice, self.bob, *self.events)):
            if not isinstance(value, bytes | Journal):
                self.watch.look(value)
        for agent, peer in ((self.alice, self.bob), (self.bob, self.alice)):
            self.watch.look(agent, agent.sessions(peer.did), agent.pending_knocks(), agent.key)


@pytest.fixture
def story(caplog: pytest.LogCaptureFixture) -> Iterator[Story]:
    """Tell a story; in the end look at what was logged at DEBUG, warned of and noted."""
    caplog.set_level(logging.DEBUG)
    told = Story()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    # Those of the test itself: here, behind it, `caplog.records` are none.
    told.watch.texts += [record.getMessage() for record in caplog.get_records("call")]
    told.watch.texts += [str(warning.message) for warning in caught]
    told.watch.check()


def test_a_conversation_that_goes_well_shows_nothing(story: Story, capfd: pytest.CaptureFixture[str]) -> None:
    story.establish()
    story.look_at_everything()
    held = story.converse()
    story.look_at_everything()
    story.note(story.bob.receive(held[0]))
    [closed] = story.note(story.bob.receive(story.note(story.alice.close(story.bob.did, story.watch.action).envelope)))
    assert isinstance(closed, PeerClosed)
    story.note(story.alice.receive(closed.reply))
    story.look_at_everything()
    story.clock.advance(seconds=10_000_000)
    for agent in (story.alice, story.bob):
        story.note(agent.poll())
    printed = capfd.readouterr()
    story.watch.texts += [printed.out, printed.err]


def test_a_policy_that_accepts_shows_nothing() -> None:
    class Accepting:
        def may_knock(self, sender: Any, /) -> bool:
            story.watch.look(sender)
            return True

        def decide(self, knock: Any, /) -> Any:
            story.watch.look(knock)
            return Grant(Conditions(max_messages=100))

        def still_allowed(self, peer: Any, /) -> bool:
            story.watch.look(peer)
            return True

    story = Story(Accepting())
    knock = story.knock()
    [event] = story.note(story.bob.receive(knock))
    assert event.early_payload == story.watch.canaries["early"]
    story.note(story.alice.receive(event.reply))
    story.converse()
    story.look_at_everything()
    story.watch.check()


def test_journal_records_hold_no_content(story: Story) -> None:
    story.establish()
    story.converse()
    for journal in story.journals:
        entries = b"".join(journal.entries)
        assert len(journal.entries) > 5
        for secret in (*story.watch.canaries.values(), *story.watch.keys, story.watch.action.encode()):
            assert secret not in entries
        for canary in story.watch.canaries.values():
            for digest in digests(canary):
                assert digest not in entries
                assert digest[:16] not in entries


# --- failures --------------------------------------------------------------------------------------------------------


def frames_of_ours(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the library in an error's traceback, with their locals."""
    summary = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [frame for frame in summary.stack if os.sep + "agentmesh" + os.sep in frame.filename]


def fails(story: Story, call: Callable[[], object], error: type[AgentMeshError] = AgentMeshError) -> AgentMeshError:
    """Make a call that must fail, and look at every text of the error and of the library's frames in it."""
    try:
        call()
    except AgentMeshError as raised:
        caught = raised
    else:
        raise AssertionError("nothing was raised")
    assert isinstance(caught, error)
    watch = story.watch
    watch.look(caught, caught.args, vars(caught), getattr(caught, "__notes__", None))
    watch.texts += traceback.format_exception_only(type(caught), caught)
    frames = frames_of_ours(caught)
    assert [frame.name in GUARDS for frame in frames] == [True]
    for frame in frames:
        assert set(frame.locals or ()) <= {"left", "call"}  # nothing of what it was given
        watch.texts += [f"{name} = {value}" for name, value in (frame.locals or {}).items()]
    assert caught.__context__ is None
    if not isinstance(caught, CommitFailed):
        assert caught.__cause__ is None
    return caught


def test_every_failure_of_a_caller_shows_nothing(story: Story) -> None:
    alice, bob, canaries = story.alice, story.bob, story.watch.canaries
    stranger = Identity.generate()
    too_much = canaries["plaintext"] * (1 << 15)
    fails(story, lambda: alice.send(bob.did, canaries["plaintext"]).envelope)
    fails(story, lambda: alice.send(stranger.did, canaries["plaintext"]).envelope)
    fails(story, lambda: alice.send("not a did", canaries["plaintext"]).envelope)
    fails(story, lambda: Agent.create(canaries["plaintext"]))  # type: ignore[arg-type]
    fails(story, lambda: Agent.restore(alice.export_state()[:-1]))
    shelf = story.note(bob.publish_bundles(1))
    early = canaries["early"]
    for bundle in (shelf.one_time[0][:-1], shelf.one_time[0] + b"x", b"", canaries["plaintext"]):
        fails(story, lambda bundle=bundle: alice.knock(bob.did, bundle, story.intent(), early_payload=early))
    fails(story, lambda: alice.knock(alice.did, shelf.one_time[0], story.intent(), early_payload=early))
    fails(story, lambda: alice.knock(stranger.did, shelf.one_time[0], story.intent(), early_payload=early))
    fails(story, lambda: alice.knock(bob.did, shelf.one_time[0], story.intent(), early_payload=too_much))
    fails(story, lambda: alice.knock(bob.did, shelf.one_time[0], canaries["detail"]))  # type: ignore[arg-type]
    fails(
        story,
        lambda: alice.knock(bob.did, shelf.last_resort, story.intent(), early_payload=early, require_one_time=True),
    )
    story.establish()
    story.converse()
    for action in ("", story.watch.action * 10, 5):
        fails(story, lambda action=action: alice.send(bob.did, canaries["plaintext"], action=action).envelope)
    for data in (too_much, bytearray(too_much), canaries["plaintext"].hex()):
        fails(story, lambda data=data: alice.send(bob.did, data).envelope)
    for name in ("disclosable", "label", "session_id", "attachments", "action"):
        fails(story, lambda name=name: alice.send(bob.did, b"", **{name: canaries["plaintext"] * 9}))
    fails(story, lambda: bob.receive(b"", disclosable=canaries["plaintext"]))  # type: ignore[arg-type]
    fails(story, lambda: alice.close(bob.did, story.watch.action * 10).envelope)
    fails(story, lambda: alice.accept(canaries["plaintext"]))  # type: ignore[arg-type]
    alice.close(bob.did)
    fails(story, lambda: alice.send(bob.did, canaries["plaintext"]).envelope)
    fails(story, lambda: alice.send(bob.did, canaries["plaintext"], disclosable=True))


def test_every_refusal_of_bytes_shows_nothing(story: Story) -> None:
    alice, bob = story.alice, story.bob
    knock = story.knock()

    def altered(envelope: bytes) -> list[bytes]:
        outer = OuterEnvelope.parse(envelope)
        return [
            envelope[:-1],
            envelope[:-1] + bytes([envelope[-1] ^ 1]),
            build(outer.header_bytes, outer.body[:40]),
            build(outer.header_bytes, bytes([outer.body[0] ^ 1]), outer.body[1:]),
            with_header(envelope, time_ms=1),
            with_header(envelope, sender=Identity.generate().did),
            with_header(envelope, recipient=Identity.generate().did),
            with_header(envelope, mesh="example/other"),
        ]

    for envelope in altered(knock):
        fails(story, lambda envelope=envelope: bob.receive(envelope))
    event = story.note(bob.receive(knock))[0]
    fails(story, lambda: bob.receive(knock))
    accept = story.note(bob.accept(event)).envelope
    for envelope in altered(accept):
        fails(story, lambda envelope=envelope: alice.receive(envelope))
    early = bob.send(alice.did, story.watch.canaries["answer"]).envelope
    fails(story, lambda: alice.receive(early))
    story.note(alice.receive(accept))
    for _ in range(2):
        message = story.note(alice.send(bob.did, story.watch.canaries["plaintext"]).envelope)
        for envelope in altered(message):
            fails(story, lambda envelope=envelope: bob.receive(envelope))
        story.note(bob.receive(message))
        fails(story, lambda message=message: bob.receive(message))
    for _ in range(6):
        ahead = alice.send(bob.did, story.watch.canaries["plaintext"]).envelope
    fails(story, lambda: bob.receive(alice.send(bob.did, story.watch.canaries["plaintext"])))
    story.note(bob.receive(ahead))
    session = next(held for held in alice._core.state.sessions.values() if isinstance(held, Session))
    bob_session = bob._core.state.sessions[session.facts.session_id]
    assert isinstance(bob_session, Session)
    bob_session.conditions = Conditions(allowed_actions=["other"])
    fails(story, lambda: bob.receive(alice.send(bob.did, story.watch.canaries["plaintext"])))
    story.look_at_everything()


def test_a_failing_journal_shows_nothing(story: Story) -> None:
    alice, bob = story.alice, story.bob
    story.establish()
    message = story.note(alice.send(bob.did, story.watch.canaries["plaintext"]).envelope)
    for journal in story.journals:
        journal.failing = True
    calls = (
        lambda: alice.send(bob.did, story.watch.canaries["plaintext"]).envelope,
        lambda: alice.send(bob.did, story.watch.canaries["plaintext"], disclosable=True),
        lambda: bob.receive(message),
        lambda: bob.receive(message, disclosable=True),
        lambda: alice.close(bob.did, story.watch.action).envelope,
        lambda: bob.publish_bundles(1),
    )
    for call in calls:
        error = fails(story, call, CommitFailed)
        cause = error.__cause__
        assert isinstance(cause, OSError)
        # The cause is the journal's own: no frame of ours, and what the journal was given prints nothing.
        frames = traceback.TracebackException.from_exception(cause, capture_locals=True).stack
        assert not frames_of_ours(cause)
        for frame in frames:
            if frame.name == "commit":
                story.watch.texts += [f"{name} = {value}" for name, value in (frame.locals or {}).items()]
        assert cause.__context__ is None


class Broken:
    """A hook of the caller's that raises."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.broken = False

    def __call__(self) -> int:
        if self.broken:
            raise OSError("the clock's device is gone")
        now_ms: int = self.inner()
        return now_ms

    def token(self, size: int, /) -> bytes:
        if self.broken:
            raise OSError("the device is gone")
        return os.urandom(size)

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        if self.broken:
            raise OSError("the device is gone")
        return _crypto.kem_encapsulate(public_key)


@pytest.mark.parametrize("which", ["clock", "entropy"])
def test_a_hook_that_raises_shows_nothing(which: str) -> None:
    story = Story()
    hook = Broken(story.clock)
    arguments: dict[str, Any] = {"clock": story.clock, which: hook}
    story.alice = Agent.create(MESH, **arguments)
    shelf = story.bob.publish_bundles(2)
    story.establish()
    story.converse()
    answer = story.bob.send(story.alice.did, story.watch.canaries["answer"]).envelope
    before = story.alice.export_state()
    hook.broken = True
    refused = 0
    for call in (
        lambda: story.alice.send(story.bob.did, story.watch.canaries["plaintext"]).envelope,
        lambda: story.alice.receive(answer),
        lambda: story.alice.close(story.bob.did, story.watch.action).envelope,
        lambda: story.alice.knock(story.bob.did, shelf.one_time[0], story.intent()),
    ):
        try:
            call()
        except AgentMeshError as raised:
            error: BaseException | None = raised
            refused += 1
        else:
            continue  # what needs no randomness goes through
        while error is not None:
            for frame in frames_of_ours(error):
                story.watch.texts += [f"{name} = {value}" for name, value in (frame.locals or {}).items()]
            story.watch.look(error)
            error = error.__cause__ or error.__context__
    hook.broken = False
    assert refused == {"clock": 4, "entropy": 3}[which]
    if which == "clock":
        assert story.alice.export_state() == before
    story.look_at_everything()
    story.watch.check()


def test_an_error_raised_while_the_caller_handles_another_keeps_the_callers_context() -> None:
    agent = Agent.create(MESH)
    own = ValueError("the caller's own")
    caught: AgentMeshError | None = None
    try:
        raise own
    except ValueError:
        try:
            agent.send("nobody", b"")
        except AgentMeshError as raised:
            caught = raised
    assert caught is not None
    assert caught.__context__ is own


# --- objects that hold secrets ---------------------------------------------------------------------------------------


def test_whatever_holds_secrets_is_neither_copied_nor_pickled_nor_read_by_vars(story: Story) -> None:
    story.establish()
    story.converse()
    session = next(held for held in story.alice._core.state.sessions.values() if isinstance(held, Session))
    assert isinstance(session, Session)
    found: dict[type, Any] = {type(value): value for value in ours(reachable(story.alice, story.bob, *story.events))}
    redacted = {kind: value for kind, value in found.items() if isinstance(value, Redacted)}
    assert len(redacted) >= 12
    for kind, value in redacted.items():
        for call in (
            lambda value=value: pickle.dumps(value),
            lambda value=value: copy.copy(value),
            lambda value=value: copy.deepcopy(value),
            lambda value=value: vars(value),
            lambda value=value: json.dumps(value),
            lambda value=value: attrs.asdict(value),
        ):
            with pytest.raises((TypeError, attrs.exceptions.NotAnAttrsClassError)) as caught:
                call()
            story.watch.look(caught.value)
        assert "redacted" in repr(value), kind


def test_nothing_without_that_protection_holds_a_key(story: Story) -> None:
    story.knock()
    story.establish()
    story.converse()
    values = ours(reachable(story.alice, story.bob, *story.events))
    holders = {type(value) for value in values if held_by(value) & story.watch.keys}
    assert len(holders) >= 8  # the sessions' and the bundles' parts, and an identity's
    assert all(issubclass(kind, Redacted) for kind in holders), holders


def held_by(value: Any) -> set[bytes]:
    """Return the bytes that a value holds itself: in slots, attributes, and containers of them."""
    if isinstance(value, bytes | dict | list | tuple | set | frozenset):
        return set()
    slots = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
    waiting = [*(getattr(value, name, None) for name in slots), *getattr(value, "__dict__", {}).values()]
    found: set[bytes] = set()
    while waiting:
        held = waiting.pop()
        if isinstance(held, bytes):
            found.add(bytes(held))
        elif isinstance(held, dict):
            waiting += [*held.keys(), *held.values()]
        elif isinstance(held, list | tuple | set | frozenset | deque):
            waiting += held
    return found


def test_values_as_dictionaries_show_no_key(story: Story) -> None:
    story.establish()
    story.converse()
    for value in ours(reachable(story.alice, story.bob, *story.events)):
        if attrs.has(type(value)) and not isinstance(value, type):
            text = repr(attrs.asdict(value, recurse=True, filter=lambda attribute, _: attribute.name != "session"))
            for key in story.watch.keys:
                assert repr(key)[2:-1] not in text
                assert key.hex() not in text
    story.look_at_everything()


@pytest.mark.parametrize("kind", [IdentitySeed, PrekeySecret, KemSeed, DisclosureKey, Disclosure])
def test_secrets_are_compared_in_constant_time(kind: type[Secret], monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = _crypto.constant_time_equal

    def counting(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return compare(first, second)

    monkeypatch.setattr(_crypto, "constant_time_equal", counting)
    one, other = kind(b"1" * kind.size), kind(b"1" * (kind.size - 1) + b"2")
    assert one == kind(b"1" * kind.size)
    assert one != other
    assert not one == other  # noqa: SIM201
    assert len(compared) == 3
    assert one != b"1" * kind.size
    assert one != "1" * kind.size
    assert one != next(k for k in (IdentitySeed, PrekeySecret) if k is not kind)(b"1" * 32)
    assert len(compared) == 3
    with pytest.raises(TypeError):
        hash(one)
    with pytest.raises(TypeError):
        len(one)  # type: ignore[arg-type]


def test_bundle_secrets_are_compared_whole_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    compare = _crypto.constant_time_equal

    def counting(first: bytes, second: bytes) -> bool:
        nonlocal compared
        compared += 1
        return compare(first, second)

    agent = Agent.create(MESH)
    agent.publish_bundles(2, last_resort=False)
    first, second = agent._core.state.bundles.values()
    monkeypatch.setattr(_crypto, "constant_time_equal", counting)
    assert first.secrets != second.secrets
    assert compared == 2  # the second part is compared though the first differs
    assert first == attrs.evolve(first)


# --- what is kept, and what is gone ----------------------------------------------------------------------------------


def test_what_an_application_keeps_opens_nothing_else(story: Story) -> None:
    story.establish()
    story.converse()
    kept = [event for event in story.events if not isinstance(event, bytes)]
    assert {type(event).__name__ for event in kept} >= {"Sealed", "MessageReceived", "Accepted", "KnockReceived"}
    for event in kept:
        found = bytes_in(event) & story.watch.keys
        assert not found, type(event).__name__


def test_the_keys_of_a_session_that_is_over_are_gone(story: Story) -> None:
    story.establish()
    held = story.converse()
    keys = {
        key
        for agent in (story.alice, story.bob)
        for one in agent._core.state.sessions.values()
        for key in session_keys(one)
    }
    for envelope in held:
        story.note(story.bob.receive(envelope))
    [closed, _] = story.bob.receive(story.alice.close(story.bob.did))
    story.alice.receive(closed.reply)
    gc.collect()
    for agent in (story.alice, story.bob):
        assert not keys & bytes_in(agent)
        exported = agent.export_state()
        assert not [key for key in keys if key in exported]


def test_what_the_handshake_derived_is_gone_once_it_has_served(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    passing: set[bytes] = set()
    derive, agree, decapsulate = _crypto.kdf, _crypto.x25519, _crypto.kem_decapsulate

    def kdf(key: bytes, label: Any, data: bytes, size: int) -> bytes:
        derived = derive(key, label, data, size)
        if label in (EXTRACT, KNOCK_KEY):
            passing.add(derived)
        return derived

    def x25519(secret: bytes, public: bytes) -> bytes:
        shared = agree(secret, public)
        passing.add(shared)
        return shared

    def kem(key: Any, ciphertext: bytes) -> bytes:
        shared: bytes = decapsulate(key, ciphertext)
        passing.add(shared)
        return shared

    monkeypatch.setattr(_crypto, "kdf", kdf)
    monkeypatch.setattr(_crypto, "x25519", x25519)
    monkeypatch.setattr(_crypto, "kem_decapsulate", kem)
    knock = story.knock()
    assert len(passing) == 3 + 2
    assert not passing & bytes_in(story.alice)
    ephemeral_secret = next(
        held.ratchet.secret for held in story.alice._core.state.sessions.values() if isinstance(held, Pending)
    )
    one_time = {bundle.ref: bundle.secrets for bundle in story.bob._core.state.bundles.values()}
    event = story.note(story.bob.receive(knock))[0]
    assert len(passing) == 3 + 2 + 1  # both sides derived the same, and the KEM's secret showed at Bob's
    assert not passing & bytes_in(story.bob)
    used = [ref for ref, bundle in story.bob._core.state.bundles.items() if bundle.secrets is None]
    assert len(used) == 1
    gone = one_time[used[0]]
    assert gone is not None
    assert not {gone.prekey_secret.reveal(), gone.kem_seed.reveal()} & bytes_in(story.bob)
    roots = {held.root for held in story.bob._core.state.sessions.values() if isinstance(held, Undecided)}
    story.note(story.alice.receive(story.note(story.bob.accept(event)).envelope))
    for agent in (story.alice, story.bob):
        assert not (passing | roots | {ephemeral_secret}) & bytes_in(agent)


def test_a_message_key_is_gone_once_its_message_was_opened(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story.establish()
    used: list[bytes] = []
    for agent in (story.alice, story.bob):
        for held in agent._core.state.sessions.values():
            if isinstance(held, Session):

                def opening(key: Any, frame: Any, context: bytes) -> bytes:
                    used.append(key)
                    return SUITE.open_body(key, frame, context)

                held.ratchet.suite = attrs.evolve(SUITE, open_body=opening)
    for envelope in story.converse():
        story.note(story.bob.receive(envelope))
    assert len(used) >= 9
    disclosed = {
        event.disclosure.key.reveal()
        for event in story.events
        if isinstance(event, MessageReceived) and event.disclosure is not None
    }
    spent = set(used)
    used.clear()
    assert disclosed <= spent
    for agent in (story.alice, story.bob):
        assert not spent & bytes_in(agent)


def test_a_call_that_failed_or_was_broken_off_keeps_no_key_of_its_own(story: Story) -> None:
    story.establish()
    message = story.alice.send(story.bob.did, story.watch.canaries["plaintext"])
    before = bytes_in(story.bob)
    journal = story.journals[1]
    for failure in (StoreFailed(), OSError("no space left"), KeyboardInterrupt()):
        journal.failure = failure
        with pytest.raises((StoreError, KeyboardInterrupt)):
            story.bob.receive(message)
        journal.failure = None
        story.bob.export_state()  # whatever was begun is finished, or let go
        assert bytes_in(story.bob) <= before, failure


def test_an_event_of_a_knock_prints_neither_intent_nor_payload(story: Story) -> None:
    event = story.note(story.bob.receive(story.knock()))[0]
    assert isinstance(event, KnockReceived)
    assert event.intent.detail == story.watch.canaries["detail"]
    assert story.watch.action not in repr(event)
    story.look_at_everything()
