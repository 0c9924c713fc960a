"""What trust's calls take: falsy values, text and bytes of other classes; and what a refused call leaves in frames."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest

from agentmesh import AskApplication, Deny, Grant
from agentmesh.errors import AgentMeshError, ArgumentInvalid, RandomnessFailed, StateMalformed
from agentmesh.identity import Identity
from agentmesh.policy import OfOneMesh, Policy, check_policy_mesh
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    AdmissionPolicy,
    RevocationList,
    StateKey,
    Successions,
    Tier,
    TrustGraph,
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    open_state,
    seal_state,
    verify_trust,
)

MESH, ELSEWHERE = "example/test", "example/other"
NOW = 1_767_225_600_000
ME, AUDITOR, ANN, BEN = (Identity.generate(SeededEntropy(f"argument {number}")) for number in range(4))


class Words(StrEnum):
    """Texts as an application may keep them."""

    MESH = MESH
    ANN = "ann"
    READ = "read"
    WHY = "house-rule"


# --- the mesh of a policy ---------------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[[str], Any]] = {
    "ledger": TrustLedger,
    "graph": lambda mesh: TrustGraph(mesh, ME.key),
    "revocations": RevocationList,
    "successions": Successions,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_policy_by_what_is_said_in_another_mesh_is_refused(name: str) -> None:
    policy = AdmissionPolicy(**{name: SOURCES[name](ELSEWHERE)})
    assert isinstance(policy, OfOneMesh)
    assert policy.mesh == ELSEWHERE
    check_policy_mesh(policy, ELSEWHERE)
    with pytest.raises(ArgumentInvalid) as caught:
        check_policy_mesh(policy, MESH)
    assert caught.value.argument == "policy"


def test_a_policy_of_no_mesh_serves_in_any() -> None:
    class Own(AskApplication):
        pass

    own: Policy = Own()
    policies: tuple[Any, ...] = (AdmissionPolicy(), AdmissionPolicy(scores=lambda _: 0, allow=[ANN.did]), own, None)
    for policy in policies:
        check_policy_mesh(policy, MESH)
    assert AdmissionPolicy().mesh is None


@pytest.mark.parametrize("mesh", [ELSEWHERE, "", 0, False, b"example/test", lambda: MESH])
def test_a_policy_of_ones_own_says_its_mesh_or_nothing(mesh: Any) -> None:
    class Own(AskApplication):
        def __init__(self, mesh: Any) -> None:
            self.mesh = mesh

    for agreeing in (MESH, Words.MESH, None):
        check_policy_mesh(Own(agreeing), MESH)
    with pytest.raises(ArgumentInvalid):
        check_policy_mesh(Own(mesh), MESH)


def test_a_mesh_that_cannot_be_asked_for_is_refused() -> None:
    class Failing(AskApplication):
        @property
        def mesh(self) -> str:
            raise RuntimeError("no mesh")

    with pytest.raises(ArgumentInvalid):
        check_policy_mesh(Failing(), MESH)


# --- falsy values -----------------------------------------------------------------------------------------------------


class Falsy:
    """Something of the caller's that is empty at the moment."""

    def __init__(self, answer: Any) -> None:
        self.asked = 0
        self._answer = answer

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __call__(self, *_: object) -> Any:
        self.asked += 1
        return self._answer


def test_what_is_empty_at_the_moment_is_asked_all_the_same() -> None:
    scores, timer = Falsy(700), Falsy(0)
    policy = AdmissionPolicy(scores=scores, timer=timer, timeout_ms=0, tiers=[Tier(min_score=500)])
    assert policy.still_allowed(ANN.key)
    assert (scores.asked, timer.asked) == (1, 2)
    is_known, may_count = Falsy(True), Falsy(True)
    revocations = RevocationList(MESH, is_known=is_known)  # type: ignore[arg-type]
    revocations.apply(issue_revocation(ANN, ANN.key, mesh=MESH, sequence=0, time_ms=NOW))
    assert is_known.asked == 1
    statement = issue_trust(AUDITOR, ANN.key, 1, mesh=MESH, sequence=0, time_ms=NOW)
    verify_trust(statement, mesh=MESH, may_count=may_count)  # type: ignore[arg-type]
    assert may_count.asked == 1


def test_an_empty_ledger_graph_or_list_is_one() -> None:
    revocations, ledger, graph = RevocationList(MESH), TrustLedger(MESH), TrustGraph(MESH, ME.key)
    assert [len(held) for held in (revocations, ledger, graph)] == [0, 0, 0]
    for held in (TrustLedger(MESH, revocations=revocations), TrustGraph(MESH, ME.key, revocations=revocations)):
        assert held._revocations is revocations
    policy = AdmissionPolicy(ledger=ledger, graph=graph, revocations=revocations, tiers=[Tier(min_score=500)])
    graph.apply(issue_edge(ME, ANN.key, 900, mesh=MESH, sequence=0, time_ms=NOW), now_ms=NOW)
    assert policy.still_allowed(ANN.key)
    revocations.apply(issue_revocation(ANN, ANN.key, mesh=MESH, sequence=0, time_ms=NOW))
    assert not policy.still_allowed(ANN.key)
    with pytest.raises(ArgumentInvalid):
        AdmissionPolicy(scores=Falsy(1000), ledger=TrustLedger(MESH))


def test_zero_is_a_number_and_no_default() -> None:
    policy = AdmissionPolicy(
        threshold=0, ask_from=0, transitive_cap=0, known_from=0, one_time_per_hour=0, timer=lambda: 0, timeout_ms=0
    )
    assert policy.still_allowed(ANN.key)
    assert policy.is_known(ANN.key.raw)
    assert [AdmissionPolicy(threshold=threshold)._transitive_cap for threshold in (0, 1, 500)] == [0, 0, 499]
    assert TrustGraph(MESH, ME.key, attenuation_percent=0, cap=0).score(ANN.key) == 0
    graph = TrustGraph(MESH, ME.key, cap=0)
    for issuer, subject in ((ME, ANN), (ANN, BEN)):
        graph.apply(issue_edge(issuer, subject.key, 900, mesh=MESH, sequence=0, time_ms=NOW), now_ms=NOW)
    assert graph.derived(BEN.key) == 0


# --- text and bytes of other classes ----------------------------------------------------------------------------------


def test_text_of_another_class_is_taken_and_kept_as_plain_text() -> None:
    for make in SOURCES.values():
        assert type(make(Words.MESH).mesh) is str
    statement = issue_trust(AUDITOR, ANN.key, 5, mesh=Words.MESH, sequence=0, time_ms=NOW)
    assert verify_trust(statement, mesh=Words.MESH).mesh == MESH
    successions = Successions(MESH)
    successions.know(ANN.key, Words.ANN)
    assert successions.check(Words.ANN, ANN.key) == successions.check("ann", ANN.key) == ANN.key
    assert {type(name) for name in (*successions._known.values(), *successions._by_name)} == {str}
    tier = Tier(min_score=0, actions=[Words.READ], capabilities=[Words.READ])
    assert {type(word) for word in (*tier.actions, *tier.capabilities)} == {str}  # type: ignore[misc]
    assert {type(decision.why) for decision in (Grant(why=Words.WHY), Deny(why=Words.WHY))} == {str}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_another_class_are_taken_and_copied(kind: Callable[[bytes], Any]) -> None:
    def given(data: bytes) -> Any:
        return kind(bytearray(data)) if kind is memoryview else kind(data)

    ledger = TrustLedger(MESH)
    ledger.believe(AUDITOR.key)
    ledger.apply(given(issue_trust(AUDITOR, ANN.key, 5, mesh=MESH, sequence=0, time_ms=NOW)), now_ms=NOW)
    assert ledger.score(given(ANN.key.raw)) == 5
    graph = TrustGraph(MESH, ME.key)
    graph.apply(given(issue_edge(ME, ANN.key, 9, mesh=MESH, sequence=0, time_ms=NOW)), now_ms=NOW)
    revocations, successions = RevocationList(MESH), Successions(MESH)
    successions.know(ANN.key)
    taken = [
        given(issue_revocation(BEN, BEN.key, mesh=MESH, sequence=0, time_ms=NOW)),
        given(issue_continuity(ANN, BEN, mesh=MESH, sequence=0, time_ms=NOW)),
    ]
    revocations.apply(taken[0])
    successions.offer(taken[1], now_ms=NOW)
    held = [(state, state.export_state()) for state in (ledger, graph, revocations, successions)]
    if kind is not bytes:
        for data in taken:
            data[:] = bytes(len(data))  # its owner writes into it again
    assert [state.export_state() for state, _ in held] == [exported for _, exported in held]
    for state, exported in held:
        extra = (ME.key,) if state is graph else ()
        assert type(state).restore(given(exported), *extra).export_state() == exported  # type: ignore[attr-defined]
    key = StateKey(given(bytes(range(32))))
    assert open_state(given(seal_state(given(b"state"), key, entropy=SeededEntropy("s"))), key) == b"state"


# --- what a refusal leaves in frames ----------------------------------------------------------------------------------

SECRET = b"\x5a\xa5" * 16
EXPORTED = b"scores that are nobody's business"


class Short:
    """A source of randomness that breaks its contract."""

    def token(self, _size: int, /) -> bytes:
        return b""


REFUSED: dict[str, tuple[type[AgentMeshError], Callable[[], object]]] = {
    "a key too long": (ArgumentInvalid, lambda: StateKey(SECRET + b"!")),
    "a key as text": (ArgumentInvalid, lambda: StateKey(SECRET.hex())),  # type: ignore[arg-type]
    "seal under no StateKey": (ArgumentInvalid, lambda: seal_state(EXPORTED, SECRET, entropy=Short())),  # type: ignore[arg-type]
    "seal what is text": (
        ArgumentInvalid,
        lambda: seal_state(EXPORTED.decode(), StateKey(SECRET), entropy=Short()),  # type: ignore[arg-type]
    ),
    "seal without randomness": (
        RandomnessFailed,
        lambda: seal_state(EXPORTED, StateKey(SECRET), entropy=Short()),  # type: ignore[arg-type]
    ),
    "open under no StateKey": (ArgumentInvalid, lambda: open_state(EXPORTED, SECRET)),  # type: ignore[arg-type]
    "open what is text": (ArgumentInvalid, lambda: open_state(EXPORTED.decode(), StateKey(SECRET))),  # type: ignore[arg-type]
    "open what is damaged": (StateMalformed, lambda: open_state(bytes(200), StateKey(SECRET))),
}


@pytest.mark.parametrize(("error", "call"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_call_leaves_no_key_and_no_state_in_its_frames(
    error: type[AgentMeshError], call: Callable[[], object]
) -> None:
    with pytest.raises(error) as caught:
        call()
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(frames.format())
    for part in (SECRET, EXPORTED):
        assert repr(part)[2:-1] not in shown
    assert SECRET.hex() not in shown
    assert caught.value.__context__ is None
    # What a debugger sees, and not only what is printed.
    frame = caught.value.__traceback__
    while frame is not None:
        if "/agentmesh/" in frame.tb_frame.f_code.co_filename:
            for value in frame.tb_frame.f_locals.values():
                assert not (isinstance(value, bytes) and (SECRET in value or EXPORTED in value))
                assert not isinstance(value, StateKey)
        frame = frame.tb_next
