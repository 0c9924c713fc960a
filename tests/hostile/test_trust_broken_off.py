"""A call on ledger, graph, revocations or successions that is broken off, by a signal or by a fork (section 9).

Whatever is raised between two byte codes: the state is that from before the call or that from after it, it can be
exported and restored, every call works, and the same call can be made again with the effect of one.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from agentmesh.agt.encoding import url64
from agentmesh.agt.projection import TrustProjection
from agentmesh.assurance import NATIVE
from agentmesh.errors import AgentMeshError, ForkedChild
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.policy import ClaimedSender
from agentmesh.primitives._labels import KARS_EDGE
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    AdmissionLists,
    AdmissionPolicy,
    RevocationList,
    Successions,
    Tier,
    TrustGraph,
    TrustLedger,
    TrustPaths,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
)
from agentmesh.trust.steps import Stepwise

MESH = "example/test"
NOW = 1_767_225_600_000
HOUR = 3_600_000
DAY = 24 * HOUR
ME, AUDITOR, OTHER, ANN, BEN, CAL = (Identity.generate(SeededEntropy(f"broken off {number}")) for number in range(6))


class Case(NamedTuple):
    """How to make a state, what is called on it, and what else tells states apart."""

    make: Callable[[], Any]
    call: Callable[[Any], Any]
    look: Callable[[Any], Any]


# --- the cases --------------------------------------------------------------------------------------------------------


def trust(signal: int, sequence: int, time_ms: int = NOW, issuer: Identity = AUDITOR) -> bytes:
    return issue_trust(issuer, ANN.key, signal, mesh=MESH, sequence=sequence, time_ms=time_ms)


FIRST, HIGHER = trust(-150, 3), trust(90, 9, NOW - 5 * HOUR)  # the second beats the first
MUCH_LATER = trust(50, 12, NOW + 9 * DAY, OTHER)  # settles all that was before


def a_ledger(*statements: bytes) -> Callable[[], TrustLedger]:
    def make() -> TrustLedger:
        ledger = TrustLedger(MESH, default_score=400)
        for issuer in (AUDITOR, OTHER):
            ledger.believe(issuer.key)
        for statement in statements:
            ledger.apply(statement, now_ms=NOW)
        return ledger

    return make


def applied(statement: bytes, now_ms: int = NOW) -> Callable[[Any], Any]:
    return lambda state: state.apply(statement, now_ms=now_ms)


def scores(ledger: TrustLedger) -> Any:
    return ledger.score(ANN.key), ledger.score(BEN.key), len(ledger), ledger.believes(CAL.key), ledger.knows(BEN.key)


LEDGERS = {
    "first": Case(a_ledger(), applied(FIRST), scores),
    "more": Case(a_ledger(FIRST), applied(trust(200, 4, NOW - HOUR, OTHER)), scores),
    "beats": Case(a_ledger(FIRST), applied(HIGHER), scores),
    "settles": Case(a_ledger(FIRST, trust(30, 4, NOW - HOUR)), applied(MUCH_LATER, NOW + 9 * DAY), scores),
    "believe": Case(a_ledger(), lambda ledger: ledger.believe(CAL.key), scores),
    "taken back": Case(a_ledger(FIRST), lambda ledger: ledger.disbelieve(AUDITOR.key, take_back=True), scores),
    "inherit": Case(a_ledger(FIRST), lambda ledger: ledger.inherit(ANN.key, BEN.key), scores),
}


def edge(issuer: Identity, subject: Identity, weight: int, sequence: int = 1) -> bytes:
    return issue_edge(issuer, subject.key, weight, mesh=MESH, sequence=sequence, time_ms=NOW)


def a_graph(*statements: bytes) -> Callable[[], TrustGraph]:
    def make() -> TrustGraph:
        graph = TrustGraph(MESH, ME.key, limits=Limits(trust_edges=12))
        for statement in statements:
            graph.apply(statement, now_ms=NOW)
        return graph

    return make


def weights(graph: TrustGraph) -> Any:
    # The counts are not exported, and decide who finds room.
    return graph.direct(ANN.key), graph.derived(BEN.key), graph.score(BEN.key), len(graph), graph._strangers


GRAPHS = {
    "own": Case(a_graph(edge(ANN, BEN, 700)), applied(edge(ME, ANN, 900)), weights),
    "stranger": Case(a_graph(), applied(edge(ANN, BEN, 700)), weights),
    "replaced": Case(a_graph(edge(ME, ANN, 900), edge(ANN, BEN, 700)), applied(edge(ANN, BEN, 300, 2)), weights),
    "withdrawn": Case(a_graph(edge(ME, ANN, 900), edge(ANN, BEN, 700)), applied(edge(ANN, BEN, 0, 2)), weights),
}


def projected(*edges: tuple[Identity, Identity, int], not_after: int = NOW // 1000) -> bytes:
    listed = []
    for issuer, subject, score in edges:
        text = f"{issuer.did}\n{subject.did}\n{score}\n0\n{not_after}\n".encode()
        signature = url64(issuer.sign(KARS_EDGE, text))
        signed = {"from": issuer.did, "to": subject.did, "score": score, "issuedAt": 0, "notAfter": not_after}
        listed.append({**signed, "signature": signature})
    vertices = [{"id": who.did, "alg": "EdDSA", "publicKeyB64u": url64(who.key.raw)} for who in (ME, ANN, BEN, CAL)]
    return json.dumps({"vertices": vertices, "edges": listed}).encode()


BEFORE = projected((ME, ANN, 900), (ANN, BEN, 700))
AFTER = projected((ME, CAL, 800), (CAL, BEN, 300), (BEN, ANN, 10), not_after=NOW)


def a_projection() -> TrustProjection:
    projection = TrustProjection(MESH, ME.key)
    projection.load(BEFORE, now_ms=NOW)
    return projection


def paths(projection: TrustProjection) -> Any:
    scores = [projection.score(who.key) for who in (ANN, BEN, CAL)]
    return scores, len(projection), projection.next_end_ms


PROJECTIONS = {
    "loaded": Case(a_projection, lambda projection: projection.load(AFTER, now_ms=NOW), paths),
    "refreshed": Case(a_projection, lambda projection: projection.refresh(NOW + 1), paths),
    "cleared": Case(a_projection, lambda projection: projection.clear(), paths),
}


def revocation(issuer: Identity, subject: Identity) -> bytes:
    return issue_revocation(issuer, subject.key, mesh=MESH, sequence=1, time_ms=NOW)


def a_list() -> RevocationList:
    revocations = RevocationList(MESH)
    revocations.believe(AUDITOR.key)
    return revocations


def revoked(revocations: RevocationList) -> Any:
    return revocations.is_revoked(ANN.key), len(revocations), revocations.statements(), len(revocations._strangers)


LISTS = {
    "of itself": Case(a_list, lambda revocations: revocations.apply(revocation(ANN, ANN)), revoked),
    "of another": Case(a_list, lambda revocations: revocations.apply(revocation(AUDITOR, ANN)), revoked),
    "believe": Case(a_list, lambda revocations: revocations.believe(CAL.key), revoked),
    "disbelieve": Case(a_list, lambda revocations: revocations.disbelieve(AUDITOR.key), revoked),
}

OFFER = issue_continuity(ANN, BEN, mesh=MESH, sequence=1, time_ms=NOW)


def known() -> Successions:
    successions = Successions(MESH)
    successions.know(ANN.key, "ann")
    return successions


def offered() -> Successions:
    successions = known()
    successions.offer(OFFER, now_ms=NOW)
    return successions


def followed(successions: Successions) -> Any:
    who = successions.current(ANN.key)
    return who, successions.check("ann", who), successions.is_retired(ANN.key), successions.offers(ANN.key)


SUCCESSIONS = {
    "know": Case(known, lambda successions: successions.know(CAL.key, "cal"), followed),
    "offer": Case(known, lambda successions: successions.offer(OFFER, now_ms=NOW), followed),
    "follow": Case(offered, lambda successions: successions.follow(ANN.key, BEN.key), followed),
}


def listed() -> AdmissionLists:
    lists = AdmissionLists(MESH)
    for name in (ANN.key, ANN.did):
        lists.allow(name)
    return lists


def who(lists: AdmissionLists) -> Any:
    return [(lists.is_allowed(one.key), lists.is_blocked(one.key)) for one in (ANN, BEN)]


ROSTERS = {
    "allow": Case(listed, lambda lists: lists.allow(BEN.key), who),
    "block": Case(listed, lambda lists: lists.block(ANN.did), who),
    "disallow": Case(listed, lambda lists: lists.disallow(ANN.did), who),
}

CASES = {
    f"{kind} {name}": case
    for kind, cases in (
        ("ledger", LEDGERS),
        ("graph", GRAPHS),
        ("projection", PROJECTIONS),
        ("list", LISTS),
        ("successions", SUCCESSIONS),
        ("roster", ROSTERS),
    )
    for name, case in cases.items()
}
MODULES = (
    "agt/projection.py",
    *(
        f"trust/{name}.py"
        for name in ("graph", "ledger", "lists", "paths", "revocation", "roster", "steps", "subject", "succession")
    ),
)


def restored(state: Any, exported: bytes) -> Any:
    return type(state).restore(exported, *((ME.key,) if isinstance(state, TrustPaths) else ()))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_call_that_is_broken_off_did_nothing_or_all(case: Case, interrupts: ModuleType) -> None:
    before, after = case.make(), case.make()
    case.call(after)
    ends = [(state.export_state(), case.look(state)) for state in (before, after)]
    assert ends[0] != ends[1]
    seen = set()
    for state in interrupts.each(case.make, case.call, rooms=MODULES):
        looked = case.look(state)  # first, because an export may mend
        end = (state.export_state(), looked)
        assert end in ends
        seen.add(ends.index(end))
        assert restored(state, end[0]).export_state() == end[0]
        assert interrupts.is_free(state._lock)
        with suppress(AgentMeshError):
            case.call(state)
        assert (state.export_state(), case.look(state)) == ends[1]
    assert seen == {0, 1}


def offering(new: Identity) -> Callable[[Successions], object]:
    statement = issue_continuity(ANN, new, mesh=MESH, sequence=1, time_ms=NOW)
    return lambda successions: successions.offer(statement, now_ms=NOW)


# Calls that make sense after any of a kind's cases, whether it happened or not.
NEXT: dict[str, tuple[Callable[[Any], object], ...]] = {
    "ledger": (
        applied(issue_trust(OTHER, BEN.key, 7, mesh=MESH, sequence=1, time_ms=NOW)),
        lambda ledger: ledger.believe(ME.key),
        lambda ledger: ledger.disbelieve(OTHER.key, take_back=True),
        lambda ledger: ledger.inherit(ANN.key, CAL.key),
    ),
    "graph": (applied(edge(ME, CAL, 5)), lambda graph: graph.derived(BEN.key)),
    "projection": (
        lambda projection: projection.load(AFTER, now_ms=NOW).changed,
        lambda projection: projection.refresh(NOW + 1),
        lambda projection: projection.clear(),
        lambda projection: projection.derived(BEN.key),
    ),
    "list": (
        lambda revocations: revocations.apply(revocation(CAL, CAL)),
        lambda revocations: revocations.believe(ME.key),
        lambda revocations: revocations.disbelieve(OTHER.key),
        lambda revocations: revocations.statements(),
    ),
    "successions": (
        lambda successions: successions.know(ME.key, "me"),
        offering(CAL),
        lambda successions: successions.follow(ANN.key, BEN.key),
        lambda successions: successions.offers(ANN.key),
        lambda successions: successions.current(ANN.key),
        lambda successions: successions.check_follow(ANN.key, BEN.key),
    ),
    "roster": (
        lambda lists: lists.allow(CAL.did),
        lambda lists: lists.disallow(ANN.key),
        lambda lists: lists.unblock(ANN.key),
    ),
}


def outcome(state: Any, call: Callable[[Any], object]) -> tuple[Any, bytes]:
    try:
        answer = call(state)
    except AgentMeshError as error:
        answer = error.code
    return answer, state.export_state()


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES.keys())
def test_whoever_waited_for_the_lock_finds_no_half_of_a_call(
    name: str, case: Case, interrupts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It looked before the call began that was broken off (`_ready`), and gets the lock after it.
    for following in (case.call, *NEXT[name.partition(" ")[0]], lambda state: state.export_state()):
        before, after = case.make(), case.make()
        case.call(after)
        outcomes = [outcome(state, following) for state in (before, after)]
        for state in interrupts.each(case.make, case.call, rooms=("trust/steps.py",)):
            with monkeypatch.context() as patch:
                patch.setattr(Stepwise, "_ready", lambda _: None)
                assert outcome(state, following) in outcomes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_call_makes_one_change_and_holds_the_lock(
    case: Case, interrupts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, changed, make_change = case.make(), [], Stepwise._change

    def change(self: Stepwise, write: Callable[[], None]) -> None:
        changed.append(interrupts.is_free(self._lock))
        make_change(self, write)

    monkeypatch.setattr(Stepwise, "_change", change)
    generation = state.generation
    case.call(state)
    assert changed == [False]
    assert state.generation == generation + 1


# --- following, over a ledger, successions and lists ------------------------------------------------------------------


class Scene:
    """A policy with all that `follow` changes."""

    def __init__(self, *, blocked: bool) -> None:
        self.ledger, self.successions = a_ledger(FIRST)(), offered()
        lists = {"block": [ANN.key]} if blocked else {"allow": [ANN.key]}
        self.policy = AdmissionPolicy(
            ledger=self.ledger, successions=self.successions, tiers=[Tier(min_score=500)], **lists
        )

    def follow(self) -> None:
        self.policy.follow(ANN.key, BEN.key)

    def allows(self, who: Identity) -> bool:
        return self.policy.still_allowed(who.key)

    @property
    def exports(self) -> tuple[bytes, bytes]:
        return self.ledger.export_state(), self.successions.export_state()


@pytest.mark.parametrize("blocked", [False, True], ids=["allowed", "blocked"])
def test_following_that_is_broken_off_lets_nobody_in_and_can_be_done_again(
    blocked: bool, interrupts: ModuleType
) -> None:
    whole = Scene(blocked=blocked)
    whole.follow()
    assert (whole.allows(ANN), whole.allows(BEN)) == (False, not blocked)
    for scene in interrupts.each(lambda: Scene(blocked=blocked), Scene.follow, rooms=(*MODULES, "trust/admission.py")):
        assert not (scene.allows(ANN) and scene.allows(BEN))
        assert not (blocked and scene.allows(BEN))
        assert scene.ledger.score(BEN.key) in (400, 250)
        with suppress(AgentMeshError):  # it was whole already
            scene.follow()
        assert (scene.allows(ANN), scene.allows(BEN)) == (False, not blocked)
        assert scene.exports == whole.exports


# --- a child of a fork ------------------------------------------------------------------------------------------------


def in_a_child(call: Callable[[], object]) -> str:
    """Make a call in a child of a fork, and return the name of the class that it raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is what is tried
        child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends one that waits for a lock
        try:
            call()
            name = "nothing"
        except BaseException as error:
            name = type(error).__name__
        os.write(writing, name.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        name = answer.read().decode()
    os.waitpid(child, 0)
    return name


LEDGER_CALLS: dict[str, Callable[[TrustLedger], object]] = {
    "len": len,
    "generation": lambda ledger: ledger.generation,
    "believe": lambda ledger: ledger.believe(CAL.key),
    "disbelieve": lambda ledger: ledger.disbelieve(AUDITOR.key),
    "believes": lambda ledger: ledger.believes(AUDITOR.key),
    "score": lambda ledger: ledger.score(ANN.key),
    "knows": lambda ledger: ledger.knows(ANN.key),
    "apply": applied(HIGHER),
    "inherit": lambda ledger: ledger.inherit(ANN.key, BEN.key),
    "has_inherited": lambda ledger: ledger.has_inherited(ANN.key, BEN.key),
    "export_state": lambda ledger: ledger.export_state(),
}
GRAPH_CALLS: dict[str, Callable[[TrustGraph], object]] = {
    "len": len,
    "generation": lambda graph: graph.generation,
    "apply": applied(edge(ME, BEN, 5)),
    "direct": lambda graph: graph.direct(ANN.key),
    "derived": lambda graph: graph.derived(ANN.key),
    "score": lambda graph: graph.score(ANN.key),
    "export_state": lambda graph: graph.export_state(),
}
PROJECTION_CALLS: dict[str, Callable[[TrustProjection], object]] = {
    "len": len,
    "generation": lambda projection: projection.generation,
    "load": lambda projection: projection.load(AFTER, now_ms=NOW),
    "refresh": lambda projection: projection.refresh(NOW + 1),
    "clear": lambda projection: projection.clear(),
    "next_end_ms": lambda projection: projection.next_end_ms,
    "direct": lambda projection: projection.direct(ANN.key),
    "derived": lambda projection: projection.derived(ANN.key),
    "score": lambda projection: projection.score(ANN.key),
    "export_state": lambda projection: projection.export_state(),
}
LIST_CALLS: dict[str, Callable[[RevocationList], object]] = {
    "len": len,
    "generation": lambda revocations: revocations.generation,
    "believe": lambda revocations: revocations.believe(CAL.key),
    "disbelieve": lambda revocations: revocations.disbelieve(CAL.key),
    "apply": lambda revocations: revocations.apply(revocation(ANN, ANN)),
    "is_revoked": lambda revocations: revocations.is_revoked(ANN.key),
    "statements": lambda revocations: revocations.statements(),
    "export_state": lambda revocations: revocations.export_state(),
}
SUCCESSION_CALLS: dict[str, Callable[[Successions], object]] = {
    "generation": lambda successions: successions.generation,
    "know": lambda successions: successions.know(CAL.key),
    "check": lambda successions: successions.check("ann", ANN.key),
    "offer": lambda successions: successions.offer(OFFER, now_ms=NOW),
    "offers": lambda successions: successions.offers(ANN.key),
    "check_follow": lambda successions: successions.check_follow(ANN.key, BEN.key),
    "follow": lambda successions: successions.follow(ANN.key, BEN.key),
    "is_followed": lambda successions: successions.is_followed(ANN.key, BEN.key),
    "is_retired": lambda successions: successions.is_retired(ANN.key),
    "current": lambda successions: successions.current(ANN.key),
    "export_state": lambda successions: successions.export_state(),
}
ROSTER_CALLS: dict[str, Callable[[AdmissionLists], object]] = {
    "generation": lambda lists: lists.generation,
    "allow": lambda lists: lists.allow(BEN.key),
    "disallow": lambda lists: lists.disallow(BEN.key),
    "block": lambda lists: lists.block(BEN.key),
    "unblock": lambda lists: lists.unblock(BEN.key),
    "is_allowed": lambda lists: lists.is_allowed(ANN.key),
    "is_blocked": lambda lists: lists.is_blocked(ANN.key),
    "export_state": lambda lists: lists.export_state(),
}
POLICY_CALLS: dict[str, Callable[[AdmissionPolicy], object]] = {
    "allow": lambda policy: policy.allow(ANN.key),
    "disallow": lambda policy: policy.disallow(ANN.key),
    "block": lambda policy: policy.block(ANN.key),
    "unblock": lambda policy: policy.unblock(ANN.key),
    "follow": lambda policy: policy.follow(ANN.key, BEN.key),
    "may_knock": lambda policy: policy.may_knock(ClaimedSender(ANN.did, ANN.key.raw)),
    "is_known": lambda policy: policy.is_known(ANN.key.raw),
    "used": lambda policy: policy.used(ANN.key, BundleClass.ONE_TIME, 0),
    "may_use": lambda policy: policy.may_use(ANN.key, BundleClass.ONE_TIME, NOW),
    "may_converse": lambda policy: policy.may_converse(ANN.key, NATIVE),
    "decide": lambda policy: policy.decide(None),  # type: ignore[arg-type]
    "still_allowed": lambda policy: policy.still_allowed(ANN.key),
}
FORKED: tuple[tuple[Callable[[], Any], dict[str, Any]], ...] = (
    (a_ledger(FIRST), LEDGER_CALLS),
    (a_graph(), GRAPH_CALLS),
    (a_list, LIST_CALLS),
    (a_projection, PROJECTION_CALLS),
    (offered, SUCCESSION_CALLS),
    (listed, ROSTER_CALLS),
    (lambda: AdmissionPolicy(allow=[ANN.key]), POLICY_CALLS),
)


@pytest.mark.parametrize(
    ("make", "calls"), FORKED, ids=["ledger", "graph", "list", "projection", "successions", "roster", "policy"]
)
def test_a_child_of_a_fork_is_refused_by_every_call_before_any_lock(
    make: Callable[[], Any], calls: dict[str, Callable[[Any], object]]
) -> None:
    state = make()
    given = {"mesh", "root", "default_score", "restore"}  # set once, and never changed; and what makes another
    public = {name for name in dir(type(state)) if not name.startswith("_")} - given
    assert public - {"generation"} == calls.keys() - {"len", "generation"}
    lock = getattr(state, "_lock", threading.RLock())
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait()

    # As a thread of the parent may, at the moment of the fork: in the child nobody would ever let it go.
    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        for call in calls.values():
            assert in_a_child(lambda call=call: call(state)) == ForkedChild.__name__  # type: ignore[misc]
    finally:
        done.set()
        thread.join()


def test_a_fork_changes_nothing_for_the_parent_and_the_child_makes_its_own() -> None:
    ledger = a_ledger(FIRST)()
    exported = ledger.export_state()
    assert in_a_child(lambda: TrustLedger.restore(exported).score(ANN.key)) == "nothing"
    assert ledger.export_state() == exported
