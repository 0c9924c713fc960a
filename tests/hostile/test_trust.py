"""Who tries to move a score, an edge, a revocation or a name that is not theirs to move (section 9)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
import pytest

from agentmesh import Agent, Intent, KnockRefused, Reason, SessionEstablished
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadIdentityKey,
    BadSignature,
    Malformed,
    PeerNotAllowed,
    StateMalformed,
    StatementStale,
    StatementUnfit,
    StateStale,
    TooLarge,
    UnknownVersion,
)
from agentmesh.identity import Identity
from agentmesh.primitives._labels import SIGN_CONTINUITY, SIGN_EDGE, SIGN_REVOCATION, SIGN_TRUST
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.testing.pair import MESH
from agentmesh.trust import (
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
    statements,
)

NOW = 1_767_225_600_000
DAY = 86_400_000
ME, AUDITOR, ANN, BEN, MALLORY = (Identity.generate(SeededEntropy(f"in trust {number}")) for number in range(5))


class Held(NamedTuple):
    """What takes one kind of statement, and a genuine one that it would take."""

    state: Any
    apply: Callable[[bytes], Any]
    genuine: bytes
    label: bytes


def ledger() -> Held:
    held = TrustLedger(MESH)
    held.believe(AUDITOR.key)
    genuine = issue_trust(AUDITOR, ANN.key, 150, mesh=MESH, sequence=1, time_ms=NOW)
    return Held(held, lambda statement: held.apply(statement, now_ms=NOW), genuine, SIGN_TRUST)


def graph() -> Held:
    held = TrustGraph(MESH, ME.key)
    genuine = issue_edge(ME, ANN.key, 900, mesh=MESH, sequence=1, time_ms=NOW)
    return Held(held, lambda statement: held.apply(statement, now_ms=NOW), genuine, SIGN_EDGE)


def revocations() -> Held:
    held = RevocationList(MESH)
    held.believe(AUDITOR.key)
    genuine = issue_revocation(AUDITOR, ANN.key, mesh=MESH, sequence=1, time_ms=NOW)
    return Held(held, held.apply, genuine, SIGN_REVOCATION)


def successions() -> Held:
    held = Successions(MESH)
    held.know(ANN.key, "ann")
    genuine = issue_continuity(ANN, BEN, mesh=MESH, sequence=1, time_ms=NOW)
    return Held(held, lambda statement: held.offer(statement, now_ms=NOW), genuine, SIGN_CONTINUITY)


KINDS = (ledger, graph, revocations, successions)
every_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)


def refuse(held: Held, statement: Any, *errors: type[AgentMeshError]) -> None:
    before = held.state.export_state()
    with pytest.raises(AgentMeshError) as caught:
        held.apply(statement)
    assert type(caught.value) in errors
    assert held.state.export_state() == before


# --- threads ----------------------------------------------------------------------------------------------------------


class Watched:
    """A lock that says whether it is held. Races are too rare to be waited for."""

    def __init__(self) -> None:
        self.held = 0

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1


@every_kind
def test_whatever_changes_does_so_under_the_lock(make: Callable[[], Held]) -> None:
    held, lock, changes = make(), Watched(), []
    name = {ledger: "_subjects", graph: "_edges", revocations: "_revoked", successions: "_offers"}[make]

    class Guarded(dict[bytes, Any]):
        def __setitem__(self, key: bytes, value: Any) -> None:
            assert lock.held
            changes.append(key)
            super().__setitem__(key, value)

        def setdefault(self, key: bytes, default: Any = None) -> Any:
            assert lock.held
            changes.append(key)
            return super().setdefault(key, default)

    setattr(held.state, name, Guarded(getattr(held.state, name)))
    held.state._lock = lock
    held.apply(held.genuine)
    assert changes
    if make is ledger:
        held.state.inherit(ANN.key, BEN.key)
    assert not lock.held


@every_kind
def test_whoever_is_revoked_or_forgotten_while_the_signature_is_checked_counts_no_more(
    make: Callable[[], Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Checking takes no lock, so that another thread may come in between.
    held = make()
    revoked = RevocationList(MESH)
    if make in (ledger, graph):
        held.state._revocations = revoked
    issuer = {ledger: AUDITOR, graph: ME, revocations: AUDITOR, successions: ANN}[make]
    meanwhile = {
        ledger: lambda: revoked.apply(issue_revocation(issuer, issuer.key, mesh=MESH, sequence=0, time_ms=NOW)),
        graph: lambda: revoked.apply(issue_revocation(issuer, issuer.key, mesh=MESH, sequence=0, time_ms=NOW)),
        revocations: lambda: held.state.disbelieve(AUDITOR.key),
        successions: lambda: held.state.know(BEN.key, "ben"),  # who has a name of its own succeeds nobody
    }[make]
    checked, verify = [], statements.verify_statement

    def verify_slowly(*arguments: Any) -> bytes:
        if not checked:
            checked.append(arguments)
            meanwhile()
        return verify(*arguments)

    monkeypatch.setattr(statements, "verify_statement", verify_slowly)
    with pytest.raises(StatementUnfit):
        held.apply(held.genuine)
    assert len(checked) == 1
    refuse(held, held.genuine, StatementUnfit)


# --- bytes ------------------------------------------------------------------------------------------------------------


# What altered bytes can be; never a mistaken call, and nothing about time, sequence or memory.
OF_ALTERED_BYTES = (BadIdentityKey, BadSignature, Malformed, StatementUnfit, TooLarge, UnknownVersion)


@every_kind
def test_a_thousand_mutations_are_refused_and_the_genuine_one_is_taken(make: Callable[[], Held]) -> None:
    chance, held = random.Random(9), make()
    for _ in range(1000):
        altered = bytearray(held.genuine)
        for _ in range(chance.randint(1, 3)):
            at, kind = chance.randrange(len(altered)), chance.randrange(4)
            if kind == 0:
                altered[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del altered[at]
            elif kind == 2:
                altered.insert(at, chance.randrange(256))
            else:
                altered[at : at + 8] = chance.randbytes(chance.randrange(12))
        if bytes(altered) != held.genuine:
            refuse(held, bytes(altered), *OF_ALTERED_BYTES)
    held.apply(held.genuine)


@every_kind
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        *[(rubbish, Malformed) for rubbish in (
            b"", b"\xc1", b"\x92", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x92\xc4\x00\xc4\x00",
        )],
        (b"\x91" * 600, TooLarge), (bytes(10_000), TooLarge), (bytearray(10_000), TooLarge),
        *[(no_bytes, ArgumentInvalid) for no_bytes in (None, 5, "text", [])],
    ],
    ids=lambda value: repr(value).split(" at 0x")[0][:40],
)  # fmt: skip
def test_rubbish_is_refused(make: Callable[[], Held], statement: Any, error: type[AgentMeshError]) -> None:
    refuse(make(), statement, error)


@every_kind
@pytest.mark.parametrize("other", KINDS, ids=lambda make: make.__name__)
def test_no_statement_does_what_another_is_for(make: Callable[[], Held], other: Callable[[], Held]) -> None:
    held, source = make(), other()
    if make is not other:
        refuse(held, source.genuine, Malformed)
        # The body that this one would take, signed by its genuine issuer for the other purpose.
        body, _ = msgpack.unpackb(held.genuine)
        signer = next(one for one in (ME, AUDITOR, ANN) if one.key.raw == msgpack.unpackb(body)[2])
        refuse(held, msgpack.packb([body, signer.sign(source.label, body)]), BadSignature)  # type: ignore[arg-type]


@every_kind
def test_another_signer_mesh_or_owner_is_refused(make: Callable[[], Held]) -> None:
    held = make()
    body, _ = msgpack.unpackb(held.genuine)
    fields = msgpack.unpackb(body)
    refuse(held, msgpack.packb([body, MALLORY.sign(held.label, body)]), BadSignature)  # type: ignore[arg-type]

    def signed(changed: list[Any], signer: Identity) -> bytes:
        if held.label == SIGN_CONTINUITY:
            changed = [*changed[:6], BEN.sign(SIGN_CONTINUITY, msgpack.packb(changed[:6]))]
        whole = msgpack.packb(changed)
        packed: bytes = msgpack.packb([whole, signer.sign(held.label, whole)])  # type: ignore[arg-type]
        return packed

    signer = next(one for one in (ME, AUDITOR, ANN) if one.key.raw == fields[2])
    refuse(held, signed([1, "example/other", *fields[2:]], signer), StatementUnfit)
    for low in (bytes(32), b"\x01" + bytes(31)):  # of small order: one signature would do for every statement
        refuse(held, signed([*fields[:3], low, *fields[4:]], signer), BadIdentityKey)
    if make is not graph:  # anybody may have an edge; elsewhere a stranger counts for nothing
        refuse(held, signed([*fields[:2], MALLORY.key.raw, *fields[3:]], MALLORY), StatementUnfit)
    held.apply(signed(fields, signer))


@every_kind
def test_a_replay_changes_nothing_before_or_after_a_restart(make: Callable[[], Held]) -> None:
    held = make()
    held.apply(held.genuine)
    refuse(held, held.genuine, StatementStale)
    exported = held.state.export_state()
    restored = TrustGraph.restore(exported, ME.key) if make is graph else type(held.state).restore(exported)
    again = {
        ledger: lambda: restored.apply(held.genuine, now_ms=NOW),
        graph: lambda: restored.apply(held.genuine, now_ms=NOW),
        revocations: lambda: restored.apply(held.genuine),
        successions: lambda: restored.offer(held.genuine, now_ms=NOW),
    }
    with pytest.raises(StatementStale):
        again[make]()
    assert restored.export_state() == exported


# --- files ------------------------------------------------------------------------------------------------------------


@every_kind
def test_a_file_that_is_damaged_old_or_of_another_kind_is_an_error(make: Callable[[], Held]) -> None:
    held = make()
    old = held.state.export_state()
    held.apply(held.genuine)
    exported, generation = held.state.export_state(), held.state.generation

    def restore(data: bytes, **options: int) -> Any:
        extra = (ME.key,) if make is graph else ()
        return type(held.state).restore(data, *extra, **options)

    assert restore(exported, at_least_generation=generation).export_state() == exported
    with pytest.raises(StateStale):
        restore(old, at_least_generation=generation)
    chance = random.Random(3)
    for _ in range(300):
        altered = bytearray(exported)
        altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
        with pytest.raises(StateMalformed):
            restore(bytes(altered))
    for nothing in (b"", exported[:-1], exported + b"\x00", chance.randbytes(200)):
        with pytest.raises(StateMalformed):
            restore(nothing)
    for other in KINDS:
        if other is not make:
            with pytest.raises(StateMalformed):
                restore(other().state.export_state())


@every_kind
def test_whoever_forges_fields_behind_a_good_checksum_meets_our_errors_alone(make: Callable[[], Held]) -> None:
    held, chance = make(), random.Random(4)
    held.apply(held.genuine)
    outcomes = {"restored": 0, "refused": 0}
    kind, version, mesh, generation, payload = msgpack.unpackb(msgpack.unpackb(held.state.export_state())[0])
    for _ in range(500):
        altered = bytearray(payload)
        for _ in range(chance.randint(1, 4)):
            altered[chance.randrange(len(altered))] = chance.randrange(256)
        body = msgpack.packb([kind, version, mesh, generation, bytes(altered)])
        data = msgpack.packb([body, hashlib.sha256(body).digest()])
        extra = (ME.key,) if make is graph else ()
        try:
            restored = type(held.state).restore(data, *extra)
        except (StateMalformed, ArgumentInvalid):  # the second where it says to be of another window
            outcomes["refused"] += 1
            continue
        assert restored.export_state() == data  # other numbers, and nothing that contradicts itself
        outcomes["restored"] += 1
    assert min(outcomes.values()) > 0


# --- whitewashing, and a graph of ten thousand ------------------------------------------------------------------------


def test_starting_anew_gains_nothing() -> None:
    held = TrustLedger(MESH)
    held.believe(AUDITOR.key)
    for day in range(3):
        statement = issue_trust(AUDITOR, ANN.key, -200, mesh=MESH, sequence=day, time_ms=NOW + day * DAY)
        held.apply(statement, now_ms=NOW + day * DAY)
    policy = AdmissionPolicy(ledger=held, tiers=[Tier(min_score=500)])
    assert held.score(ANN.key) == held.score(MALLORY.key) == 0
    assert not policy.still_allowed(MALLORY.key)
    assert not policy.is_known(MALLORY.key.raw)


def test_a_decision_in_a_dense_graph_looks_at_the_fewer_edges() -> None:
    held = TrustGraph(MESH, ME.key)
    nodes = [hashlib.sha256(b"node %d" % number).digest() for number in range(10_000)]
    target = nodes[0]
    for number, node in enumerate(nodes[1:], start=1):
        held._put(node, target, (1000, 1, bytes(32)))
        held._put(node, nodes[number - 1], (1000, 1, bytes(32)))
        if number <= 20:
            held._put(ME.key.raw, node, (40 * number, 1, bytes(32)))
    asked: list[bytes] = []

    class Counting(dict[bytes, Any]):
        def get(self, key: bytes, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    held._edges[ME.key.raw] = Counting(held._edges[ME.key.raw])
    assert held.derived(target) == 400
    assert len(asked) == 20


# --- at the door ------------------------------------------------------------------------------------------------------


def test_a_fallen_score_or_a_revocation_ends_what_it_had_opened() -> None:
    clock, held, revoked = ManualClock(), TrustGraph(MESH, ME.key), RevocationList(MESH)
    policy = AdmissionPolicy(graph=held, revocations=revoked, tiers=[Tier(min_score=500)])
    bob = Agent.create(MESH, identity=ME, clock=clock, entropy=SeededEntropy("bob"), policy=policy)
    ann = Agent.create(MESH, identity=ANN, clock=clock, entropy=SeededEntropy("ann"))

    def knock() -> Any:
        clock.advance(ms=1)
        [event] = bob.receive(ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")))
        return event

    def set_edge(weight: int, sequence: int) -> None:
        held.apply(issue_edge(ME, ANN.key, weight, mesh=MESH, sequence=sequence, time_ms=NOW), now_ms=clock.now_ms)

    refused = knock()
    assert isinstance(refused, KnockRefused)
    assert refused.reason is Reason.POLICY
    set_edge(600, 1)
    established = knock()
    assert isinstance(established, SessionEstablished)
    ann.receive(established.reply)  # type: ignore[arg-type]

    def is_refused() -> None:
        message = ann.send(bob.did, b"still there?").envelope
        before = bob.export_state()
        for call in (lambda: bob.receive(message), lambda: bob.send(ann.did, b"no").envelope):
            with pytest.raises(PeerNotAllowed):
                call()
        assert bob.export_state() == before

    bob.send(ann.did, b"yes")
    set_edge(499, 2)
    is_refused()
    set_edge(600, 3)
    bob.send(ann.did, b"yes")
    revoked.apply(issue_revocation(ANN, ANN.key, mesh=MESH, sequence=0, time_ms=NOW))
    is_refused()
