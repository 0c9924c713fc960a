"""A kars TrustGraph projection: what of a file counts, what it changes at once, and what a hostile one can cost."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentmesh import Agent, Identity, IdentityKey, Intent, KnockRefused, SessionEstablished, SystemEntropy
from agentmesh.agt.graph_file import EDGES_MAX, GRAPH_FILE_MAX_BYTES, VERTICES_MAX, Dropped
from agentmesh.agt.projection import TrustProjection
from agentmesh.agt_identity import AgtIdentityKey
from agentmesh.errors import ArgumentInvalid, BadSignature, Malformed, PeerNotAllowed, StateMalformed, TooLarge
from agentmesh.policy import ClaimedSender
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KARS_EDGE
from agentmesh.store import MemoryBackend, Store
from agentmesh.trust import AdmissionPolicy, RevocationList, Tier, TrustGraph, issue_revocation

EXAMPLE = (Path(__file__).resolve().parents[2] / "vectors" / "agt" / "kars-trustgraph-example.json").read_bytes()
MESH = "example/cluster"
ALICE, BOB, CAROL, DAVE = WHO = tuple(Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3, 4))
NOW_S = 1_785_000_000
NOW = NOW_S * 1000
BOBS_END_MS = 1_790_000_000_000  # in the example


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def vertex(name: str, who: Identity, **other: Any) -> dict[str, Any]:
    return {"id": name, "alg": "EdDSA", "publicKeyB64u": b64(who.key.raw), **other}


def edge(
    signer: Identity,
    source: str,
    target: str,
    score: int = 800,
    issued: int = NOW_S - 100,
    not_after: int | None = None,
    **other: Any,
) -> dict[str, Any]:
    until = "" if not_after is None else not_after
    text = f"{source}\n{target}\n{score}\n{issued}\n{until}\n".encode("utf-8", "surrogatepass")
    signed = {"from": source, "to": target, "score": score, "issuedAt": issued}
    signed |= {} if not_after is None else {"notAfter": not_after}
    return {**signed, "signature": b64(signer.sign(KARS_EDGE, text)), **other}


NAMES = dict(zip(("alice", "bob", "carol", "dave"), WHO, strict=True))
VERTICES = [vertex(name, who) for name, who in NAMES.items()]


def file(edges: Sequence[Any], vertices: Sequence[Any] = VERTICES, **other: Any) -> bytes:
    whole = {"vertices": list(vertices), "edges": list(edges), "versionHash": "00", "inputEdgeCount": len(edges)}
    return json.dumps({**whole, **other}).encode()


def loaded(*edges: Any, vertices: Sequence[Any] = VERTICES, now_ms: int = NOW) -> TrustProjection:
    projection = TrustProjection(MESH, ALICE.key)
    projection.load(file(edges, vertices), now_ms=now_ms)
    return projection


def scores(projection: TrustProjection) -> list[tuple[int, int]]:
    return [(projection.direct(who.key), projection.derived(who.key)) for who in WHO]


# --- the example ------------------------------------------------------------------------------------------------------


def test_of_the_example_two_edges_stand_and_one_is_dropped() -> None:
    projection = TrustProjection(MESH, ALICE.key)
    report = projection.load(EXAMPLE, now_ms=NOW)
    assert (report.vertices, report.edges, report.dropped_before) == (3, 2, 1)
    assert report.dropped == {Dropped.EDGE_SIGNATURE: 1}
    assert report.has_root
    assert report.changed
    assert (projection.direct(BOB.key), projection.derived(CAROL.key), projection.score(DAVE.key)) == (800, 325, 0)
    assert len(projection) == 2


def test_the_same_file_again_changes_nothing() -> None:
    projection = TrustProjection(MESH, ALICE.key)
    projection.load(EXAMPLE, now_ms=NOW)
    before = projection.export_state()
    assert not projection.load(bytearray(EXAMPLE), now_ms=NOW).changed
    assert projection.export_state() == before


def test_the_root_is_the_callers_word() -> None:
    projection = TrustProjection(MESH, BOB.key)
    projection.load(EXAMPLE, now_ms=NOW)
    assert scores(projection) == [(0, 0), (0, 0), (650, 0), (0, 0)]
    stranger = TrustProjection(MESH, DAVE.key)
    assert not stranger.load(EXAMPLE, now_ms=NOW).has_root
    assert scores(stranger) == [(0, 0)] * 4


def test_an_agent_of_agts_mesh_is_the_same_vertex() -> None:
    assert loaded(edge(ALICE, "alice", "bob")).direct(AgtIdentityKey(BOB.key.raw)) == 800


# --- what is dropped --------------------------------------------------------------------------------------------------

GOOD = edge(ALICE, "alice", "bob")
SMALL_ORDER = b64(b"\x01" + bytes(31))
WRONG_EDGES: list[tuple[str, Any]] = [
    (Dropped.EDGE_FORM, 5),
    (Dropped.EDGE_FORM, None),
    (Dropped.EDGE_FORM, []),
    (Dropped.EDGE_FORM, {}),
    (Dropped.EDGE_FORM, {**GOOD, "from": ["alice"]}),
    (Dropped.EDGE_FORM, {**GOOD, "to": None}),
    (Dropped.EDGE_FORM, {**GOOD, "score": 800.0}),
    (Dropped.EDGE_FORM, {**GOOD, "score": "800"}),
    (Dropped.EDGE_FORM, edge(ALICE, "alice", "bob", True)),
    (Dropped.EDGE_FORM, {**GOOD, "issuedAt": None}),
    (Dropped.EDGE_FORM, edge(ALICE, "alice", "bob", issued=-1)),
    (Dropped.EDGE_FORM, edge(ALICE, "alice", "bob", not_after=10**16)),
    (Dropped.EDGE_FORM, {**GOOD, "notAfter": "never"}),
    (Dropped.EDGE_ENDS, edge(DAVE, "nobody", "bob")),
    (Dropped.EDGE_ENDS, edge(ALICE, "alice", "nobody")),
    (Dropped.EDGE_SELF, edge(ALICE, "alice", "alice")),
    (Dropped.EDGE_SCORE, edge(ALICE, "alice", "bob", 1001)),
    (Dropped.EDGE_SCORE, edge(ALICE, "alice", "bob", -1)),
    (Dropped.EDGE_TIMES, edge(ALICE, "alice", "bob", not_after=NOW_S - 101)),
    (Dropped.EDGE_EARLY, edge(ALICE, "alice", "bob", issued=NOW_S + 301)),
    (Dropped.EDGE_SIGNATURE, edge(BOB, "alice", "bob")),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "score": 801}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "issuedAt": NOW_S - 101}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "notAfter": NOW_S + 1}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "to": "carol"}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "signature": None}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "signature": GOOD["signature"] + "=="}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "signature": GOOD["signature"][:-2]}),
    (Dropped.EDGE_SIGNATURE, {**GOOD, "signature": b64(bytes(64))}),
    (Dropped.EDGE_ENDED, edge(ALICE, "alice", "bob", not_after=NOW_S - 1)),
]


@pytest.mark.parametrize(("why", "wrong"), WRONG_EDGES, ids=[f"{n}-{why}" for n, (why, _) in enumerate(WRONG_EDGES)])
def test_an_edge_that_is_wrong_is_dropped_alone(why: str, wrong: Any) -> None:
    projection = TrustProjection(MESH, ALICE.key)
    report = projection.load(file([wrong, edge(ALICE, "alice", "dave")]), now_ms=NOW)
    assert report.dropped == {why: 1}
    assert report.edges == 1
    assert [direct for direct, _ in scores(projection)] == [0, 0, 0, 800]


WRONG_VERTICES: list[tuple[str, Any]] = [
    (Dropped.VERTEX_FORM, 5),
    (Dropped.VERTEX_FORM, vertex("", BOB)),
    (Dropped.VERTEX_FORM, vertex("b" * 257, BOB)),
    (Dropped.VERTEX_FORM, {**vertex("bob", BOB), "id": 7}),
    (Dropped.VERTEX_ALGORITHM, vertex("bob", BOB, alg="eddsa")),
    (Dropped.VERTEX_ALGORITHM, vertex("bob", BOB, alg=None)),
    (Dropped.VERTEX_KEY, vertex("bob", BOB, publicKeyB64u=b64(BOB.key.raw) + "=")),
    (Dropped.VERTEX_KEY, vertex("bob", BOB, publicKeyB64u=b64(BOB.key.raw[:31]))),
    (Dropped.VERTEX_KEY, vertex("bob", BOB, publicKeyB64u=SMALL_ORDER)),
    (Dropped.VERTEX_KEY, vertex("bob", BOB, publicKeyB64u=None)),
    (Dropped.VERTEX_TWICE, vertex("alice", BOB)),
]


@pytest.mark.parametrize(
    ("why", "wrong"), WRONG_VERTICES, ids=[f"{n}-{why}" for n, (why, _) in enumerate(WRONG_VERTICES)]
)
def test_a_vertex_that_is_wrong_is_dropped_with_its_edges(why: str, wrong: Any) -> None:
    name = wrong["id"] if type(wrong) is dict and type(wrong["id"]) is str else "bob"
    others = [vertex("alice", ALICE), vertex("carol", CAROL)]
    edges = [edge(ALICE, "alice", "carol")]
    if why != Dropped.VERTEX_TWICE:
        edges += [edge(ALICE, "alice", name), edge(BOB, name, "carol")]
    projection = TrustProjection(MESH, ALICE.key)
    report = projection.load(file(edges, [*others, wrong]), now_ms=NOW)
    assert report.dropped == {why: 1} | ({} if why == Dropped.VERTEX_TWICE else {Dropped.EDGE_ENDS: 2})
    assert (report.vertices, report.edges) == (2, 1)
    assert scores(projection) == [(0, 0), (0, 0), (800, 0), (0, 0)]


def test_an_id_whose_first_vertex_fell_is_nobodys() -> None:
    projection = loaded(GOOD, vertices=[vertex("alice", ALICE), vertex("bob", BOB, alg="RSA"), vertex("bob", BOB)])
    assert scores(projection) == [(0, 0)] * 4


def test_an_id_with_a_line_feed_makes_no_signature_mean_something_else() -> None:
    # Alice signed that she trusts "bob\n900..."; read otherwise, it is an edge of "alice" to "bob".
    text = edge(ALICE, "alice", "x\nbob")
    swapped = {**text, "from": "alice\nx", "to": "bob"}
    vertices = [vertex("alice\nx", ALICE), vertex("x\nbob", BOB), *VERTICES]
    projection = TrustProjection(MESH, ALICE.key)
    report = projection.load(file([text, swapped], vertices), now_ms=NOW)
    assert report.dropped == {Dropped.VERTEX_FORM: 2, Dropped.EDGE_ENDS: 2}
    assert scores(projection) == [(0, 0)] * 4


@pytest.mark.parametrize("reverse", [False, True])
def test_the_newest_of_several_edges_stands_in_any_order(reverse: bool) -> None:
    edges = [edge(ALICE, "alice", "bob", 900, NOW_S - 50), edge(ALICE, "alice", "bob", 100, NOW_S - 40)]
    edges = edges[::-1] if reverse else edges
    assert loaded(*edges).direct(BOB.key) == 100
    same = [edge(ALICE, "alice", "bob", score, NOW_S - 40) for score in (100, 200)]
    assert loaded(*(same[::-1] if reverse else same)).direct(BOB.key) == 100


def test_an_older_edge_does_not_come_back_when_the_newest_has_ended() -> None:
    older = edge(ALICE, "alice", "bob", 900, NOW_S - 50)
    newer = edge(ALICE, "alice", "bob", 100, NOW_S - 40, NOW_S + 10)
    projection = loaded(older, newer)
    assert projection.next_end_ms == NOW + 10_000
    assert projection.refresh(NOW + 10_000) == 0
    assert projection.direct(BOB.key) == 100
    assert projection.refresh(NOW + 10_001) == 1
    assert projection.next_end_ms is None
    assert scores(projection) == scores(loaded(older, newer, now_ms=NOW + 10_001)) == [(0, 0)] * 4


def test_a_second_id_of_one_key_is_one_identity() -> None:
    vertices = [*VERTICES, vertex("also-bob", BOB)]
    projection = loaded(edge(ALICE, "alice", "also-bob", 700), edge(BOB, "bob", "carol", 600), vertices=vertices)
    assert (projection.direct(BOB.key), projection.derived(CAROL.key)) == (700, 300)
    assert scores(loaded(edge(BOB, "bob", "also-bob"), vertices=vertices)) == [(0, 0)] * 4


def test_a_revoked_voucher_vouches_for_nobody() -> None:
    revocations = RevocationList(MESH)
    projection = TrustProjection(MESH, ALICE.key, revocations=revocations)
    projection.load(EXAMPLE, now_ms=NOW)
    revocations.apply(issue_revocation(BOB, BOB.key, mesh=MESH, sequence=0, time_ms=NOW))
    assert projection.derived(CAROL.key) == 0


# --- any files, against a model ---------------------------------------------------------------------------------------


class V(NamedTuple):
    name: str
    who: int
    alg: str


class E(NamedTuple):
    source: str
    target: str
    score: int
    issued: int
    not_after: int | None
    signer: int


names = st.sampled_from("abcd")
seconds = st.integers(NOW_S - 3, NOW_S + 3) | st.just(NOW_S + 301)
vertices_ = st.lists(st.builds(V, names, st.integers(0, 3), st.sampled_from(["EdDSA"] * 5 + ["RSA"])), max_size=5)
edges_ = st.lists(
    st.builds(E, names, names, st.integers(-1, 1001), seconds, st.none() | seconds, st.integers(0, 3)), max_size=8
)
# Whoever signs is who it should be more often than not.
tables = st.tuples(vertices_, edges_, st.integers(0, 3)).map(
    lambda drawn: (drawn[0], [*drawn[1], *(e._replace(signer=_owner(drawn[0], e.source)) for e in drawn[1])], drawn[2])
)


def _owner(vertices: list[V], name: str) -> int:
    return next((v.who for v in vertices if v.name == name), 0)


def model(vertices: list[V], edges: list[E], root: int, now_ms: int) -> list[tuple[int, int]]:
    keys: dict[str, int | None] = {}
    for v in vertices:
        keys.setdefault(v.name, v.who if v.alg == "EdDSA" else None)
    genuine: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for e in edges:
        a, b = keys.get(e.source), keys.get(e.target)
        end = float("inf") if e.not_after is None else e.not_after * 1000
        in_time = e.issued * 1000 <= min(end, now_ms + 300_000)
        if a is not None and b is not None and a != b == b and e.signer == a and 0 <= e.score <= 1000 and in_time:
            genuine.setdefault((a, b), []).append((e.issued, -e.score, -end))
    newest = {pair: max(found) for pair, found in genuine.items()}
    weights = {pair: -score for pair, (_, score, end) in newest.items() if now_ms <= -end}
    answers = []
    for target in range(4):
        paths = [min(weights.get((root, via), 0), weights.get((via, target), 0)) for via in range(4)]
        derived = 0 if target == root else min(max(paths) // 2, 499)
        answers.append((weights.get((root, target), 0), derived))
    return answers


def written(vertices: list[V], edges: list[E]) -> bytes:
    return file(
        [edge(WHO[e.signer], e.source, e.target, e.score, e.issued, e.not_after) for e in edges],
        [vertex(v.name, WHO[v.who], alg=v.alg) for v in vertices],
    )


@given(st.lists(tables, min_size=1, max_size=3), st.integers(NOW - 3000, NOW + 3000), st.integers(0, 8000))
def test_any_file_counts_as_the_model_says_and_the_newest_stands_whole(
    files: list[tuple[list[V], list[E], int]], now_ms: int, later_ms: int
) -> None:
    root = files[0][2]
    projection = TrustProjection(MESH, WHO[root].key)
    for vertices, edges, _ in files:
        report = projection.load(written(vertices, edges), now_ms=now_ms)
        assert scores(projection) == model(vertices, edges, root, now_ms)
        for kind, taken, listed in (("vertex", report.vertices, vertices), ("edge", report.edges, edges)):
            assert taken + sum(n for why, n in report.dropped.items() if why.startswith(kind)) == len(listed)
        assert len(projection) == report.edges
        restored = TrustProjection.restore(projection.export_state(), WHO[root].key)
        assert (scores(restored), restored.next_end_ms) == (scores(projection), projection.next_end_ms)
    projection.refresh(now_ms + later_ms)
    early = [e for e in edges if e.issued * 1000 > now_ms + 300_000]  # they come with the next file
    assert scores(projection) == model(vertices, [e for e in edges if e not in early], root, now_ms + later_ms)


# --- damaged and hostile files ----------------------------------------------------------------------------------------


@settings(max_examples=4 * settings().max_examples)
@given(
    st.integers(0, len(EXAMPLE)),
    st.integers(0, 40),
    st.binary(max_size=6) | st.sampled_from(list(WHO)).map(lambda who: b64(who.key.raw).encode()),
)
@example(0, len(EXAMPLE), b"")
def test_damage_is_refused_whole_or_gives_less(at: int, size: int, other: bytes) -> None:
    projection = TrustProjection(MESH, ALICE.key)
    projection.load(EXAMPLE, now_ms=NOW)
    whole = scores(projection)
    before = projection.export_state()
    try:
        projection.load(EXAMPLE[:at] + other + EXAMPLE[at + size :], now_ms=NOW)
    except (Malformed, TooLarge):
        assert projection.export_state() == before
    assert all(
        now <= then
        for left, right in zip(scores(projection), whole, strict=True)
        for now, then in zip(left, right, strict=True)
    )


HOSTILE = {
    "empty": b"",
    "no object": b"[]",
    "no lists": b"{}",
    "lists that are none": b'{"vertices": {}, "edges": []}',
    "no edges": b'{"vertices": []}',
    "deep": b'{"vertices": ' + b"[" * 20_000 + b"]" * 20_000 + b', "edges": []}',
    "deeper": b"[" * 4_000_000,
    "deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "a huge number": b'{"vertices": [], "edges": [], "inputEdgeCount": 1' + b"0" * 100_000 + b"}",
    "an exponent": b'{"vertices": [], "edges": [], "inputEdgeCount": 1e999}',
    "no number": b'{"vertices": [], "edges": [], "inputEdgeCount": NaN}',
    "infinity": b'{"vertices": [], "edges": [], "x": -Infinity}',
    "a key twice": b'{"vertices": [], "edges": [], "edges": []}',
    "a key twice within": b'{"vertices": [], "edges": [{"from": "a", "from": "b"}]}',
    "half a surrogate": b'{"vertices": [], "edges": [], "x": "\\ud800"}',
    "no UTF-8": b'{"vertices": [], "edges": [], "x": "\xff"}',
    "fewer than there are": b'{"vertices": [], "edges": [{}], "inputEdgeCount": 0}',
    "a count that is none": b'{"vertices": [], "edges": [], "inputEdgeCount": "4"}',
    "a hundred thousand edges": b'{"vertices": [], "edges": [' + b"{}," * 99_999 + b"{}]}",
    "a hundred thousand numbers": b'{"vertices": [], "edges": [' + b"1," * 99_999 + b"1]}",
    "many vertices": b'{"vertices": [' + b"1," * VERTICES_MAX + b'1], "edges": []}',
    "commas": b'{"vertices": [], "edges": [], "x": [' + b"0," * 300_000 + b"0]}",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_none_is_refused_whole_and_costs_no_signature_check(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    projection = loaded(GOOD)
    before = projection.export_state()
    monkeypatch.setattr(_crypto, "ed25519_verify", lambda *_: pytest.fail("a signature was checked"))
    with pytest.raises(Malformed):
        projection.load(data, now_ms=NOW)
    assert projection.export_state() == before


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(TooLarge):
        TrustProjection(MESH, ALICE.key).load(b" " * (GRAPH_FILE_MAX_BYTES + 1), now_ms=NOW)


def test_a_full_file_costs_a_check_an_edge_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0

    def verify(*_: object) -> None:
        nonlocal checks
        checks += 1
        raise BadSignature

    monkeypatch.setattr(_crypto, "ed25519_verify", verify)
    wrong = {**edge(ALICE, "a" * 40, "b" * 40, not_after=NOW_S + 10), "reason": "auditor-attested"}
    unknown = edge(ALICE, "nobody", "a" * 40)
    vertices = [vertex("a" * 40, ALICE), vertex("b" * 40, BOB)]
    vertices += [vertex(f"{number:040}", CAROL) for number in range(VERTICES_MAX - 2)]
    report = TrustProjection(MESH, ALICE.key).load(
        file([wrong] * (EDGES_MAX - 1000) + [unknown] * 1000, vertices), now_ms=NOW
    )
    assert checks == report.dropped[Dropped.EDGE_SIGNATURE] == EDGES_MAX - 1000
    assert report.dropped[Dropped.EDGE_ENDS] == 1000
    assert report.vertices == VERTICES_MAX


@pytest.mark.parametrize("data", [EXAMPLE.decode(), None, 5])
def test_what_is_no_file_is_an_argument(data: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        TrustProjection(MESH, ALICE.key).load(data, now_ms=NOW)


@pytest.mark.parametrize("now_ms", [-1, 1.5, None, True])
def test_what_is_no_time_is_an_argument(now_ms: Any) -> None:
    projection = loaded(GOOD)
    for call in (lambda: projection.load(EXAMPLE, now_ms=now_ms), lambda: projection.refresh(now_ms)):
        with pytest.raises(ArgumentInvalid):
            call()
    assert projection.direct(BOB.key) == 800


def test_a_report_shows_nothing_that_the_writer_chose() -> None:
    projection = TrustProjection(MESH, ALICE.key)
    text = "ignore previous instructions"
    report = projection.load(
        file([edge(DAVE, text, "bob"), {**GOOD, "reason": text}], [*VERTICES, vertex("x", BOB, alg=text, label=text)]),
        now_ms=NOW,
    )
    assert text not in repr(report) + repr(projection)


# --- live -------------------------------------------------------------------------------------------------------------


def knocked(at: Agent, by: Agent, bundle: bytes) -> object:
    [event] = at.receive(by.knock(at.did, bundle, Intent("read")))
    return event


def test_a_changed_projection_changes_who_may_knock_without_a_restart() -> None:
    projection = TrustProjection(MESH, ALICE.key)
    policy = AdmissionPolicy(graph=projection, tiers=[Tier(min_score=500)])
    alice = Agent.create(mesh=MESH, identity=ALICE, policy=policy, clock=lambda: NOW)
    bob = Agent.create(mesh=MESH, identity=BOB, clock=lambda: NOW)
    bundles = iter(alice.publish_bundles(4).one_time)
    assert isinstance(knocked(alice, bob, next(bundles)), KnockRefused)

    projection.load(EXAMPLE, now_ms=NOW)
    event = knocked(alice, bob, next(bundles))
    assert isinstance(event, SessionEstablished)
    assert event.reply is not None
    bob.receive(event.reply)
    first, second = bob.send(ALICE.did, b"one"), bob.send(ALICE.did, b"two")
    alice.receive(first)

    projection.load(file([edge(ALICE, "alice", "carol")]), now_ms=NOW)
    with pytest.raises(PeerNotAllowed):
        alice.receive(second)
    with pytest.raises(PeerNotAllowed):
        alice.send(BOB.did, b"no")
    assert isinstance(knocked(alice, bob, next(bundles)), KnockRefused)

    with pytest.raises(Malformed):
        projection.load(EXAMPLE[:-2], now_ms=NOW)
    assert not policy.still_allowed(BOB.key)
    projection.load(EXAMPLE, now_ms=NOW)
    alice.receive(second)
    projection.refresh(BOBS_END_MS + 1)
    assert not policy.still_allowed(BOB.key)


def test_a_damaged_file_leaves_the_last_one_until_its_edges_end_or_it_is_cleared() -> None:
    projection = TrustProjection(MESH, ALICE.key)
    policy = AdmissionPolicy(graph=projection, knock_floor=300, tiers=[Tier(min_score=500)])
    projection.load(EXAMPLE, now_ms=NOW)
    with pytest.raises(Malformed):
        projection.load(b"", now_ms=NOW)
    assert policy.still_allowed(BOB.key)
    assert policy.may_knock(ClaimedSender(CAROL.did, CAROL.key.raw))
    assert projection.refresh(BOBS_END_MS) == 0
    assert projection.refresh(BOBS_END_MS + 1) == 1
    assert not policy.still_allowed(BOB.key)
    assert not policy.may_knock(ClaimedSender(CAROL.did, CAROL.key.raw))
    projection.load(EXAMPLE, now_ms=NOW)
    projection.clear()
    assert (len(projection), projection.next_end_ms, policy.still_allowed(BOB.key)) == (0, None, False)


def test_a_policy_of_another_mesh_takes_no_projection() -> None:
    with pytest.raises(ArgumentInvalid):
        AdmissionPolicy(graph=TrustProjection(MESH, ALICE.key), revocations=RevocationList("another"))


# --- at rest ----------------------------------------------------------------------------------------------------------


def test_a_store_keeps_it_over_a_restart() -> None:
    key, backend = SystemEntropy().token(32), MemoryBackend()
    store = Store(MemoryBackend(backend), key)
    projection = store.open_states().keep("projection", TrustProjection(MESH, ALICE.key))
    projection.load(EXAMPLE, now_ms=NOW)
    store.close()

    store = Store(MemoryBackend(backend), key)
    states = store.open_states()
    with pytest.raises(StateMalformed):
        states.keep("projection", TrustGraph(MESH, ALICE.key))
    again = states.keep("projection", TrustProjection(MESH, ALICE.key))
    assert (again.direct(BOB.key), again.next_end_ms) == (800, BOBS_END_MS)
    assert not again.load(EXAMPLE, now_ms=NOW).changed
    again.clear()
    store.close()

    store = Store(MemoryBackend(backend), key)
    assert len(store.open_states().keep("projection", TrustProjection(MESH, ALICE.key))) == 0
    store.close()


def other_root(key: IdentityKey) -> Any:
    return lambda exported: TrustProjection.restore(exported, key)


@pytest.mark.parametrize(
    "restore", [other_root(BOB.key), lambda exported: TrustGraph.restore(exported, ALICE.key)], ids=["root", "kind"]
)
def test_what_was_kept_is_of_one_root_and_no_graph(restore: Any) -> None:
    with pytest.raises(StateMalformed):
        restore(loaded(GOOD).export_state())


def test_no_graph_is_a_projection() -> None:
    with pytest.raises(StateMalformed):
        TrustProjection.restore(TrustGraph(MESH, ALICE.key).export_state(), ALICE.key)


def test_every_flipped_bit_of_an_export_is_refused() -> None:
    exported = loaded(GOOD).export_state()
    for bit in range(0, 8 * len(exported), 7):
        damaged = bytearray(exported)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateMalformed):
            TrustProjection.restore(bytes(damaged), ALICE.key)


def test_these_identities_are_those_of_the_example() -> None:
    listed = [b64(who.key.raw) for who in WHO[:3]]
    assert [one["publicKeyB64u"] for one in json.loads(EXAMPLE)["vertices"]] == listed
