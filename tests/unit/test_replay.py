"""The memory of KNOCKs by transcript hash, against a plain model (section 5.1, step 4)."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentmesh.engine.replay import KnockMemo, KnockMemory, UnopenedKnocks
from agentmesh.limits import Limits
from agentmesh.primitives.keys import Ed25519PublicKey, Receipt, TranscriptHash

LIMITS = Limits(remembered_knocks=6, remembered_knocks_per_identity=3)


def th_of(number: int) -> TranscriptHash:
    return TranscriptHash(number.to_bytes(64, "big"))


def key_of(number: int) -> Ed25519PublicKey:
    return Ed25519PublicKey(number.to_bytes(32, "big"))


def memo(number: int, *, initiator: int = 0, forget_at_ms: int = 1000) -> KnockMemo:
    return KnockMemo(
        th=th_of(number),
        initiator=key_of(initiator),
        receipt=Receipt(number.to_bytes(32, "big")),
        expires_ms=forget_at_ms,
        forget_at_ms=forget_at_ms,
    )


numbers = st.integers(0, 9)
times = st.integers(0, 20)


class Remembering(RuleBasedStateMachine):
    """Every operation against a dict, and every question after each."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = KnockMemory()
        self.model: dict[TranscriptHash, KnockMemo] = {}

    @rule(number=numbers, forget_at_ms=times)
    def remember(self, number: int, forget_at_ms: int) -> None:
        new = memo(number, initiator=number % 3, forget_at_ms=forget_at_ms)  # who signed is part of th
        self.memory.remember(new)
        self.model[new.th] = new

    @rule(number=numbers, answer=st.none() | st.binary(min_size=1, max_size=4))
    def answer(self, number: int, answer: bytes | None) -> None:
        held = self.memory.get(th_of(number))
        if held is not None:
            self.memory.remember(held.answered(answer))
            self.model[held.th] = evolve(held, answer=answer)

    @rule(now_ms=times)
    def forget(self, now_ms: int) -> None:
        due = self.memory.due(now_ms)
        assert set(due) == {th for th, held in self.model.items() if held.forget_at_ms < now_ms}
        for th in due:
            self.memory.drop(th)
            self.memory.drop(th)  # as a step does that is applied again
            del self.model[th]

    @invariant()
    def agrees(self) -> None:
        assert len(self.memory) == len(self.model)
        assert {held.th: held for held in self.memory} == self.model
        for number in range(10):
            assert self.memory.get(th_of(number)) == self.model.get(th_of(number))
        for initiator in range(3):
            own = sum(held.initiator == key_of(initiator) for held in self.model.values())
            full = len(self.model) >= 6 or own >= 3
            assert self.memory.is_full(key_of(initiator), LIMITS) is full
            assert self.memory.is_full(key_of(initiator), LIMITS, leave=2) is (len(self.model) >= 4 or own >= 3)
        assert self.memory.is_full(key_of(77), LIMITS) is (len(self.model) >= 6)


TestRemembering = Remembering.TestCase
TestRemembering.settings = settings(max_examples=max(1, settings().max_examples // 2), stateful_step_count=30)


class RememberingUnopened(RuleBasedStateMachine):
    """The memory that lets its oldest go, against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = UnopenedKnocks(4)
        self.model: list[KnockMemo] = []

    @rule(number=numbers, answer=st.none() | st.binary(min_size=1, max_size=4))
    def remember(self, number: int, answer: bytes | None) -> None:
        new = memo(number).answered(answer)
        self.memory.remember(new)
        places = [place for place, held in enumerate(self.model) if held.th == new.th]
        if places:
            self.model[places[0]] = new
        else:
            self.model = [*self.model, new][-4:]

    @invariant()
    def agrees(self) -> None:
        assert len(self.memory) == len(self.model) <= 4
        held = {memo.th: memo for memo in self.model}
        for number in range(10):
            assert self.memory.get(th_of(number)) == held.get(th_of(number))


TestRememberingUnopened = RememberingUnopened.TestCase
TestRememberingUnopened.settings = TestRemembering.settings


def test_a_memory_goes_past_its_time_and_not_at_it() -> None:
    memory = KnockMemory()
    memory.remember(memo(1, forget_at_ms=1000))
    assert memory.due(1000) == ()
    assert memory.due(1001) == (th_of(1),)
    memory.drop(th_of(1))
    assert len(memory) == 0
    assert memory.due(2000) == ()


@pytest.mark.parametrize("dropped", [False, True])
def test_what_is_replaced_or_dropped_leaves_nothing_behind(dropped: bool) -> None:
    memory = KnockMemory()
    for number in range(5000):
        memory.remember(memo(1, forget_at_ms=10_000 - number))
        if dropped:
            memory.drop(th_of(1))
    assert len(memory) == len(memory._of) == (not dropped)
    assert len(memory._order) < 200
    assert memory.due(20_000) == (() if dropped else (th_of(1),))


def test_the_limits_at_their_edges() -> None:
    memory = KnockMemory()
    for number in range(3):
        assert not memory.is_full(key_of(0), LIMITS)
        memory.remember(memo(number, initiator=0))
    assert memory.is_full(key_of(0), LIMITS)
    for number in range(3, 6):
        assert not memory.is_full(key_of(number), LIMITS)
        memory.remember(memo(number, initiator=number))
    assert all(memory.is_full(key_of(number), LIMITS) for number in range(9))
    # What is known can still be answered, and counts once.
    memory.remember(memo(5, initiator=5).answered(b"answer"))
    assert len(memory) == 6
    memory.drop(th_of(5))
    assert not memory.is_full(key_of(5), LIMITS)
    assert memory.is_full(key_of(0), LIMITS)


def test_a_memory_prints_neither_th_nor_answer() -> None:
    shown = repr(memo(7).answered(b"the answer"))
    assert "the answer" not in shown
    assert th_of(7).hex() not in shown
    assert repr(KnockMemory()).count("Knock") == 1
