"""The trust graph: live signed edges, paths of two hops, and what strangers cannot do (section 9)."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadSignature,
    Malformed,
    StateMalformed,
    StatementStale,
    StatementUnfit,
    StateStale,
    TrustFull,
)
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    DIRECT_THRESHOLD,
    RevocationList,
    TrustGraph,
    TrustLedger,
    issue_edge,
    issue_revocation,
    issue_trust,
)

MESH = "example/test"
NOW = 1_767_225_600_000
TOLERANCE = 300_000
ME, ANN, BEN, CAL, DAN, EVE = (Identity.generate(SeededEntropy(f"node {number}")) for number in range(6))
NODES = (ME, ANN, BEN, CAL, DAN)
SEQUENCES = itertools.count(1)


def edge(
    issuer: Identity,
    subject: Identity,
    weight: int,
    *,
    sequence: int | None = None,
    time_ms: int = NOW,
    mesh: str = MESH,
) -> bytes:
    number = next(SEQUENCES) if sequence is None else sequence
    return issue_edge(issuer, subject.key, weight, mesh=mesh, sequence=number, time_ms=time_ms)


def graph_of(*edges: tuple[Identity, Identity, int], **options: Any) -> TrustGraph:
    graph = TrustGraph(MESH, ME.key, **options)
    for issuer, subject, weight in edges:
        graph.apply(edge(issuer, subject, weight), now_ms=NOW)
    return graph


@contextmanager
def refused(graph: TrustGraph, error: type[AgentMeshError]) -> Iterator[None]:
    before = graph.export_state()
    with pytest.raises(AgentMeshError) as caught:
        yield
    assert type(caught.value) is error
    assert graph.export_state() == before


# --- paths ------------------------------------------------------------------------------------------------------------


def test_nobody_is_trusted_without_a_path() -> None:
    graph = graph_of((BEN, CAL, 1000), (ANN, ME, 1000))
    assert [graph.score(node.key) for node in NODES] == [0] * 5
    assert graph.direct(CAL.key.raw) == graph.derived(CAL.key.raw) == 0


def test_the_roots_own_edges_are_taken_as_they_are() -> None:
    graph = graph_of((ME, ANN, 1000), (ME, BEN, 1))
    assert (graph.direct(ANN.key), graph.score(ANN.key), graph.score(BEN.key)) == (1000, 1000, 1)
    assert graph.derived(ANN.key) == 0


@pytest.mark.parametrize(
    ("first", "second", "worth"),
    [
        (800, 600, 300),
        (600, 800, 300),
        (1000, 1000, 499),
        (999, 999, 499),
        (998, 998, 499),
        (997, 997, 498),
        (1, 1000, 0),
    ],
)
def test_a_path_is_worth_half_of_its_weaker_edge_and_stays_below_the_threshold(
    first: int, second: int, worth: int
) -> None:
    graph = graph_of((ME, ANN, first), (ANN, BEN, second))
    assert graph.derived(BEN.key) == graph.score(BEN.key) == worth < DIRECT_THRESHOLD


def test_attenuation_and_cap_are_the_operators() -> None:
    edges = ((ME, ANN, 900), (ANN, BEN, 1000))
    assert graph_of(*edges, attenuation_percent=100, cap=1000).derived(BEN.key) == 900
    assert graph_of(*edges, attenuation_percent=33, cap=1000).derived(BEN.key) == 297
    assert graph_of(*edges, attenuation_percent=0).derived(BEN.key) == 0
    assert graph_of(*edges, cap=0).derived(BEN.key) == 0
    whole = graph_of((ME, ANN, 1), (ANN, BEN, 2), (ANN, CAL, 0), attenuation_percent=100)
    assert [whole.derived(node.key) for node in (BEN, CAL, DAN)] == [1, 0, 0]


def test_of_several_paths_the_best_counts_and_no_sum() -> None:
    graph = graph_of((ME, ANN, 500), (ANN, DAN, 500), (ME, BEN, 700), (BEN, DAN, 600), (ME, CAL, 100), (CAL, DAN, 1000))
    assert graph.derived(DAN.key) == 300
    graph.apply(edge(ME, DAN, 200), now_ms=NOW)
    assert (graph.direct(DAN.key), graph.score(DAN.key)) == (200, 300)


def test_three_hops_are_one_too_many() -> None:
    graph = graph_of((ME, ANN, 1000), (ANN, BEN, 1000), (BEN, CAL, 1000))
    assert (graph.score(BEN.key), graph.score(CAL.key)) == (499, 0)


def test_circles_and_ways_back_to_the_root_add_nothing() -> None:
    graph = graph_of((ME, ANN, 400), (ANN, ME, 1000), (ANN, BEN, 400), (BEN, ANN, 1000), (BEN, ME, 1000))
    assert (graph.score(ANN.key), graph.score(BEN.key), graph.score(ME.key)) == (400, 200, 0)
    # A self loop is no edge at all.
    with pytest.raises(ArgumentInvalid):
        edge(ANN, ANN, 1000)


def test_a_change_counts_at_once() -> None:
    graph = graph_of((ME, ANN, 800), (ANN, BEN, 800))
    assert graph.score(BEN.key) == 400
    for issuer, subject, weight, worth in (
        (ANN, BEN, 200, 100),
        (ANN, BEN, 0, 0),
        (ANN, BEN, 600, 300),
        (ME, ANN, 0, 0),
    ):
        graph.apply(edge(issuer, subject, weight), now_ms=NOW)
        assert graph.score(BEN.key) == worth
    assert graph.score(ANN.key) == 0
    graph.apply(edge(ME, ANN, 100), now_ms=NOW)
    assert (graph.score(ANN.key), graph.score(BEN.key)) == (100, 50)


def test_whoever_is_revoked_vouches_for_nobody() -> None:
    revocations = RevocationList(MESH)
    graph = graph_of((ME, ANN, 800), (ANN, BEN, 800), (ME, CAL, 300), (CAL, BEN, 300), revocations=revocations)
    revocations.apply(issue_revocation(ANN, ANN.key, mesh=MESH, sequence=0, time_ms=NOW))
    assert graph.derived(BEN.key) == 150
    with refused(graph, StatementUnfit):
        graph.apply(edge(ANN, DAN, 800), now_ms=NOW)


WEIGHTS = st.dictionaries(
    st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda pair: pair[0] is not pair[1]),
    st.integers(0, 1000),
    max_size=20,
)


@given(weights=WEIGHTS)
def test_every_score_is_that_of_the_definition(weights: dict[tuple[Identity, Identity], int]) -> None:
    graph = graph_of(*((issuer, subject, weight) for (issuer, subject), weight in weights.items()))

    def weight(issuer: Identity, subject: Identity) -> int:
        return weights.get((issuer, subject), 0)

    for target in NODES[1:]:
        paths = [min(weight(ME, voucher), weight(voucher, target)) for voucher in NODES[1:] if voucher is not target]
        assert graph.direct(target.key) == weight(ME, target)
        assert graph.derived(target.key) == min(max(paths) // 2, 499)


# --- which edge stands ------------------------------------------------------------------------------------------------


def test_the_highest_sequence_stands_whichever_came_first() -> None:
    old, new = edge(ME, ANN, 900), edge(ME, ANN, 100)
    one, other = graph_of(), graph_of()
    one.apply(old, now_ms=NOW)
    one.apply(new, now_ms=NOW)
    other.apply(new, now_ms=NOW)
    with refused(other, StatementStale):
        other.apply(old, now_ms=NOW)
    assert one.score(ANN.key) == other.score(ANN.key) == 100
    with refused(one, StatementStale):
        one.apply(new, now_ms=NOW)


def test_a_withdrawn_edge_does_not_come_back() -> None:
    old, none = edge(ME, ANN, 900), edge(ME, ANN, 0)
    for order in ((old, none), (none,)):
        graph = graph_of()
        for statement in order:
            graph.apply(statement, now_ms=NOW)
        restored = TrustGraph.restore(graph.export_state(), ME.key)
        for held in (graph, restored):
            with refused(held, StatementStale):
                held.apply(old, now_ms=NOW)
            assert held.score(ANN.key) == 0


def test_of_one_sequence_the_smaller_digest_stands_whichever_came_first() -> None:
    pair = [edge(ME, ANN, 900, sequence=1), edge(ME, ANN, 100, sequence=1)]
    smaller = min(pair, key=lambda statement: hashlib.sha256(msgpack.unpackb(statement)[0]).digest())
    for order in (pair, pair[::-1]):
        graph = graph_of()
        for statement in order:
            try:
                graph.apply(statement, now_ms=NOW)
            except StatementStale:
                assert statement is not smaller
        assert graph.score(ANN.key) == (900 if smaller is pair[0] else 100)


@given(st.data())
def test_any_order_of_edges_gives_one_graph(data: st.DataObject) -> None:
    edges = data.draw(
        st.lists(
            st.tuples(st.sampled_from([(ME, ANN), (ANN, BEN), (ME, BEN)]), st.integers(0, 3), st.integers(0, 5)),
            max_size=8,
        )
    )
    statements = [edge(*pair, 200 * weight, sequence=sequence) for pair, sequence, weight in edges]
    scores = set()
    for order in (statements, data.draw(st.permutations(statements))):
        graph = graph_of()
        for statement in order:
            try:
                graph.apply(statement, now_ms=NOW)
            except StatementStale:
                continue
        scores.add((graph.score(ANN.key), graph.score(BEN.key)))
    assert len(scores) == 1


def test_forged_foreign_and_other_statements_are_refused() -> None:
    graph = graph_of((ME, ANN, 500))
    genuine = edge(ANN, BEN, 900)
    with refused(graph, BadSignature):
        graph.apply(genuine[:-1] + bytes([genuine[-1] ^ 1]), now_ms=NOW)
    with refused(graph, StatementUnfit):
        graph.apply(edge(ANN, BEN, 900, mesh="example/other"), now_ms=NOW)
    with refused(graph, Malformed):
        graph.apply(issue_trust(ANN, BEN.key, 900, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    with refused(graph, StatementStale):
        graph.apply(edge(ANN, BEN, 900, time_ms=NOW + TOLERANCE + 1), now_ms=NOW)
    for now_ms in (-1, True, 1.0, None):
        with refused(graph, ArgumentInvalid):
            graph.apply(genuine, now_ms=now_ms)  # type: ignore[arg-type]
    graph.apply(edge(ANN, BEN, 900, time_ms=NOW + TOLERANCE), now_ms=NOW)
    graph.apply(edge(ME, CAL, 900, time_ms=0), now_ms=NOW)  # an edge does not grow old


# --- memory -----------------------------------------------------------------------------------------------------------


def test_strangers_fill_a_quarter_and_crowd_out_nobody() -> None:
    graph = graph_of((ME, ANN, 800), limits=Limits(trust_edges=40, trust_edges_per_issuer=12))
    strangers = [Identity.generate(SeededEntropy(f"stranger {number}")) for number in range(12)]
    for stranger in strangers[:10]:
        graph.apply(edge(stranger, EVE, 1000), now_ms=NOW)
    for stranger in strangers[10:]:
        with refused(graph, TrustFull):
            graph.apply(edge(stranger, EVE, 1000), now_ms=NOW)
    # Whoever the root reaches, and the root itself, speak on.
    graph.apply(edge(ANN, BEN, 700), now_ms=NOW)
    graph.apply(edge(ME, CAL, 600), now_ms=NOW)
    assert (graph.score(BEN.key), graph.score(CAL.key), graph.score(EVE.key)) == (350, 600, 0)
    # A stranger's edge that is held is still live.
    graph.apply(edge(strangers[0], EVE, 1), now_ms=NOW)


def test_a_stranger_that_the_root_reaches_makes_room_for_others() -> None:
    graph = graph_of((ANN, EVE, 700), (ANN, DAN, 600), limits=Limits(trust_edges=8))
    with refused(graph, TrustFull):
        graph.apply(edge(BEN, EVE, 1), now_ms=NOW)
    assert graph.score(EVE.key) == 0
    graph.apply(edge(ME, ANN, 1000), now_ms=NOW)
    assert graph.score(EVE.key) == 350  # what it said as a stranger counts now
    graph.apply(edge(BEN, EVE, 1), now_ms=NOW)
    # Having been reached once is enough: its withdrawals are still remembered.
    graph.apply(edge(ME, ANN, 0), now_ms=NOW)
    graph.apply(edge(ANN, CAL, 5), now_ms=NOW)
    restored = TrustGraph.restore(graph.export_state(), ME.key, limits=Limits(trust_edges=8))
    for held in (graph, restored):
        held.apply(edge(CAL, EVE, 1), now_ms=NOW)
        with refused(held, TrustFull):
            held.apply(edge(DAN, EVE, 1), now_ms=NOW)


def test_one_issuer_and_all_of_them_are_bounded_but_never_the_roots_first() -> None:
    graph = graph_of((ME, ANN, 800), limits=Limits(trust_edges=4, trust_edges_per_issuer=2))
    graph.apply(edge(ANN, BEN, 1), now_ms=NOW)
    graph.apply(edge(ANN, CAL, 1), now_ms=NOW)
    with refused(graph, TrustFull):
        graph.apply(edge(ANN, DAN, 1), now_ms=NOW)
    graph.apply(edge(ANN, CAL, 0), now_ms=NOW)  # withdrawing never needs room
    graph.apply(edge(ME, BEN, 1), now_ms=NOW)
    with refused(graph, TrustFull):
        graph.apply(edge(BEN, CAL, 1), now_ms=NOW)  # four in all
    for subject in (CAL, DAN):
        graph.apply(edge(ME, subject, 1), now_ms=NOW)
    with refused(graph, TrustFull):
        graph.apply(edge(ME, EVE, 1), now_ms=NOW)
    assert len(graph) == 6


def test_the_cost_of_a_decision_is_that_of_the_fewer_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []
    graph = graph_of((ME, ANN, 900), (ANN, BEN, 900))
    for number in range(200):
        stranger = Identity.generate(SeededEntropy(f"vouching {number}"))
        graph._put(stranger.key.raw, BEN.key.raw, (1000, 1, bytes(32)))

    class Counting(dict[bytes, Any]):
        def get(self, key: bytes, default: Any = None) -> Any:
            looked.append(key)
            return super().get(key, default)

    graph._edges[ME.key.raw] = Counting(graph._edges[ME.key.raw])
    assert graph.derived(BEN.key) == 450
    assert looked == [ANN.key.raw]


# --- arguments and rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [-1, 101, True, 0.5, math.nan, None, "50"])
def test_attenuation_is_a_percentage(percent: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        TrustGraph(MESH, ME.key, attenuation_percent=percent)
    assert caught.value.argument == "attenuation_percent"
    with pytest.raises(ArgumentInvalid):
        TrustGraph.restore(graph_of().export_state(), ME.key, attenuation_percent=percent)


@pytest.mark.parametrize("cap", [-1, 1001, True, 0.5, None])
def test_the_cap_is_a_score(cap: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        TrustGraph(MESH, ME.key, cap=cap)


def test_other_arguments_are_checked() -> None:
    for mesh, root in (("Upper", ME.key), (MESH, ME), (MESH, ME.key.raw), (MESH, None)):
        with pytest.raises(ArgumentInvalid):
            TrustGraph(mesh, root)  # type: ignore[arg-type]
    for target in (None, "did", bytes(31), ME):
        for call in (graph_of().score, graph_of().direct, graph_of().derived):
            with pytest.raises(ArgumentInvalid):
                call(target)  # type: ignore[arg-type]
    exported = graph_of().export_state()
    for name, wrongs in (("limits", (5, "x", {})), ("revocations", (5, set(), RevocationList("example/other")))):
        for wrong in wrongs:
            for call in (TrustGraph, lambda _, root, **options: TrustGraph.restore(exported, root, **options)):
                with pytest.raises(ArgumentInvalid) as caught:
                    call(MESH, ME.key, **{name: wrong})
                assert caught.value.argument == name


def test_what_comes_back_is_what_was_there() -> None:
    graph = graph_of((ME, ANN, 800), (ANN, BEN, 700), (CAL, BEN, 600), (CAL, ANN, 5), (CAL, ANN, 0), (ME, DAN, 0))
    exported = graph.export_state()
    restored = TrustGraph.restore(exported, ME.key, at_least_generation=graph.generation)
    assert restored.export_state() == exported
    assert (len(restored), restored.generation) == (5, 6)
    assert [restored.score(node.key) for node in NODES] == [graph.score(node.key) for node in NODES]
    assert restored._strangers == graph._strangers == 2
    # Withdrawn edges are remembered, and looked at by nobody.
    assert (
        restored._by_subject
        == graph._by_subject
        == {ANN.key.raw: {ME.key.raw}, BEN.key.raw: {ANN.key.raw, CAL.key.raw}}
    )


def test_an_empty_graph_and_the_default_cap_come_back() -> None:
    assert TrustGraph.restore(graph_of().export_state(), ME.key).generation == 0
    exported = graph_of((ME, ANN, 1000), (ANN, BEN, 1000)).export_state()
    assert TrustGraph.restore(exported, ME.key).derived(BEN.key) == 499
    assert TrustGraph.restore(exported, ME.key, cap=500, attenuation_percent=50).derived(BEN.key) == 500


def test_damage_an_older_graph_and_another_root_are_errors() -> None:
    graph = graph_of((ME, ANN, 800), (ANN, BEN, 700))
    exported = graph.export_state()
    for bit in range(0, 8 * len(exported), 5):
        damaged = bytearray(exported)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateMalformed):
            TrustGraph.restore(bytes(damaged), ME.key)
    with pytest.raises(StateMalformed):
        TrustGraph.restore(exported, ANN.key)
    with pytest.raises(StateMalformed):
        TrustGraph.restore(TrustLedger(MESH).export_state(), ME.key)
    with pytest.raises(StateStale):
        TrustGraph.restore(exported, ME.key, at_least_generation=3)


def test_edges_that_contradict_one_another_are_refused() -> None:
    exported = graph_of((ME, ANN, 800), (ANN, BEN, 700)).export_state()
    kind, version, mesh, generation, packed = msgpack.unpackb(msgpack.unpackb(exported)[0])
    root, issuers = msgpack.unpackb(packed)

    def state(issuers: list[Any]) -> bytes:
        body = msgpack.packb([kind, version, mesh, generation, msgpack.packb([root, issuers])])
        whole: bytes = msgpack.packb([body, hashlib.sha256(body).digest()])
        return whole

    assert state(issuers) == exported
    first, second = issuers
    loop = [first[0], [[first[0], *first[1][0][1:]]]]
    for wrong in (
        issuers[::-1],
        [first, first, second],
        [first, [second[0], []]],
        [loop, second],
        [[first[0], first[1] * 2], second],
    ):
        with pytest.raises(StateMalformed):
            TrustGraph.restore(state(wrong), ME.key)
