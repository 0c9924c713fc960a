"""Token buckets, and the values of the policy seam (section 5.1)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import ArgumentInvalid
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.identity import Identity
from agentmesh.policy import ASK, Ask, AskApplication, ClaimedSender, Deny, Grant
from agentmesh.primitives.buckets import Buckets, Elapsed, Rate
from agentmesh.testing import SeededEntropy

START_MS = 1_767_225_600_000

rates = st.builds(Rate, burst=st.integers(1, 20), tokens=st.integers(1, 2000), period_ms=st.integers(1, 5000))
forward = st.lists(st.sampled_from([0, 0, 0, 1, 7]) | st.integers(0, 20_000), max_size=60)
any_way = st.lists(st.sampled_from([0, 0, 1, -1]) | st.integers(-20_000, 20_000), max_size=60)


def granted(buckets: Buckets, steps: list[int], key: object = None) -> list[tuple[int, bool]]:
    """(time, whether a token was there) for one `take` after each step of the clock."""
    now_ms, answers = START_MS, []
    for step in steps:
        now_ms += step
        answers.append((now_ms, buckets.take(key, now_ms)))
    return answers


# --- one bucket -------------------------------------------------------------------------------------------------------


@given(rate=rates, steps=forward)
def test_a_bucket_grants_exactly_what_the_arithmetic_says(rate: Rate, steps: list[int]) -> None:
    tokens, then_ms = Fraction(rate.burst), START_MS
    for now_ms, taken in granted(Buckets(rate, max_keys=1), steps):
        tokens = min(Fraction(rate.burst), tokens + Fraction((now_ms - then_ms) * rate.tokens, rate.period_ms))
        then_ms = now_ms
        assert taken is (tokens >= 1)
        tokens -= taken


@given(rate=rates, steps=forward)
def test_no_window_holds_more_than_the_burst_and_the_refill(rate: Rate, steps: list[int]) -> None:
    times = [now_ms for now_ms, taken in granted(Buckets(rate, max_keys=1), steps) if taken]
    for first in range(len(times)):
        for last in range(first, len(times)):
            window_ms = times[last] - times[first]
            assert last - first + 1 <= rate.burst + Fraction(window_ms * rate.tokens, rate.period_ms)


@given(rate=rates, steps=any_way, asked=st.lists(st.booleans(), min_size=60, max_size=60))
def test_a_clock_set_back_gives_nothing(rate: Rate, steps: list[int], asked: list[bool]) -> None:
    # Whatever order the times come in, and whoever else asks in between: only the time that they cover counts.
    buckets, now_ms, times, taken = Buckets(rate, max_keys=2), START_MS, [START_MS], 0
    for step, ask in zip(steps, asked, strict=False):
        now_ms += step
        times.append(now_ms)
        if ask:
            buckets.take("another", now_ms)
        else:
            taken += buckets.take("key", now_ms)
    assert taken <= rate.burst + Fraction((max(times) - min(times)) * rate.tokens, rate.period_ms)


@given(rate=rates, steps=any_way)
def test_time_that_only_returns_adds_nothing(rate: Rate, steps: list[int]) -> None:
    elapsed, now_ms, times = Elapsed(10**12), START_MS, []
    before = 0
    for step in steps:
        now_ms += step
        times.append(now_ms)
        after = elapsed.at(now_ms)
        assert before <= after <= max(times) - min(times)
        before = after
    if steps == [abs(step) for step in steps] and steps:
        assert before == times[-1] - times[0]


@given(leap_ms=st.integers(10**6, 10**12), most_ms=st.integers(1, 10**5))
def test_a_clock_that_was_ahead_for_a_while_does_not_stand_still(leap_ms: int, most_ms: int) -> None:
    elapsed = Elapsed(most_ms)
    assert [elapsed.at(START_MS + at) for at in (0, leap_ms, 0, 1, 2)] == [
        0,
        most_ms,
        most_ms,
        most_ms + 1,
        most_ms + 2,
    ]
    # And one that was too late and is set right counts as a leap, whichever way it was wrong.
    elapsed = Elapsed(most_ms)
    assert [elapsed.at(START_MS - at) for at in (0, leap_ms, leap_ms - 1)] == [0, 0, 1]


@given(rate=rates, back_ms=st.integers(1, 10**9))
def test_a_clock_set_back_gives_nothing_at_once(rate: Rate, back_ms: int) -> None:
    buckets = Buckets(rate, max_keys=1)
    while buckets.take(None, START_MS):
        pass
    for _ in range(3):
        assert not buckets.has(None, START_MS - back_ms)
        assert not buckets.take(None, START_MS - back_ms)


@given(rate=rates, back_ms=st.integers(1, 10**9))
def test_a_clock_set_back_takes_nothing(rate: Rate, back_ms: int) -> None:
    # A drained bucket refills by the clock as it is now; it does not wait until the old time comes again.
    buckets = Buckets(rate, max_keys=1)
    while buckets.take(None, START_MS):
        pass
    now_ms = START_MS - back_ms
    buckets.has(None, now_ms)
    assert buckets.take(None, now_ms + -(-rate.period_ms // rate.tokens))


@given(rate=rates, steps=forward, asked=st.lists(st.booleans(), min_size=60, max_size=60))
def test_asking_takes_nothing(rate: Rate, steps: list[int], asked: list[bool]) -> None:
    plain, questioned = Buckets(rate, max_keys=1), Buckets(rate, max_keys=1)
    now_ms = START_MS
    for step, ask in zip(steps, asked, strict=False):
        now_ms += step
        answer = questioned.has("key", now_ms) if ask else None
        taken = plain.take("key", now_ms)
        assert questioned.take("key", now_ms) is taken
        assert answer in (None, taken)


@given(rate=rates)
def test_a_full_refill_gives_the_whole_burst_again_and_no_more(rate: Rate) -> None:
    buckets = Buckets(rate, max_keys=1)
    full_ms = -(-rate.burst * rate.period_ms // rate.tokens)
    for now_ms in (START_MS, START_MS + full_ms, START_MS + 10 * full_ms):
        assert [buckets.take(None, now_ms) for _ in range(rate.burst + 1)] == [True] * rate.burst + [False]


def test_a_bucket_at_the_edge_of_its_refill() -> None:
    buckets = Buckets(Rate(8, 1, 1000), max_keys=1)
    assert all(buckets.take(b"ref", 0) for _ in range(8))
    assert not buckets.take(b"ref", 999)
    assert buckets.take(b"ref", 1000)
    assert not buckets.take(b"ref", 1999)
    assert [buckets.take(b"ref", 4000) for _ in range(4)] == [True, True, True, False]


# --- many keys --------------------------------------------------------------------------------------------------------


@given(
    rate=rates,
    max_keys=st.integers(1, 6),
    takes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500)), max_size=80),
)
def test_keys_are_bounded_and_each_has_no_more_than_its_own(
    rate: Rate, max_keys: int, takes: list[tuple[int, int]]
) -> None:
    buckets, now_ms = Buckets(rate, max_keys=max_keys), START_MS
    times: dict[int, list[int]] = {}
    for key, step in takes:
        now_ms += step
        if buckets.take(key, now_ms):
            times.setdefault(key, []).append(now_ms)
        assert len(buckets) <= max_keys
    # Whatever was forgotten in between, no key ever had more in a window than one bucket grants.
    for taken in times.values():
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                window_ms = taken[last] - taken[first]
                assert last - first + 1 <= rate.burst + Fraction(window_ms * rate.tokens, rate.period_ms)


@given(rate=rates, max_keys=st.integers(1, 40), crowd=st.integers(1, 200))
def test_throwaway_keys_do_not_reset_a_throttled_one(rate: Rate, max_keys: int, crowd: int) -> None:
    buckets = Buckets(rate, max_keys=max_keys)
    while buckets.take("throttled", START_MS):
        pass
    answers = [buckets.take(f"throwaway {number}", START_MS) for number in range(crowd)]
    assert sum(answers) == min(crowd, max_keys - 1)
    assert not buckets.take("throttled", START_MS)
    assert len(buckets) == min(crowd + 1, max_keys)


@given(rate=rates, max_keys=st.integers(1, 40))
def test_no_room_refuses_the_unknown_and_serves_the_known(rate: Rate, max_keys: int) -> None:
    buckets = Buckets(rate, max_keys=max_keys)
    for key in range(max_keys):
        assert buckets.take(key, START_MS)
    assert not buckets.has("unknown", START_MS)
    assert not buckets.take("unknown", START_MS)
    assert all(buckets.take(key, START_MS) is (rate.burst > 1) for key in range(max_keys))
    # A bucket that is full again says nothing, and makes room.
    later_ms = START_MS + -(-rate.burst * rate.period_ms // rate.tokens)
    assert buckets.take("unknown", later_ms)
    assert len(buckets) <= max_keys


@given(rate=rates, taken=st.integers(1, 20), returned=st.integers(1, 25))
def test_what_is_given_back_can_be_taken_again_and_never_more(rate: Rate, taken: int, returned: int) -> None:
    buckets = Buckets(rate, max_keys=1)
    buckets.give_back("unknown")
    assert len(buckets) == 0
    had = sum(buckets.take("key", START_MS) for _ in range(taken))
    for _ in range(returned):
        buckets.give_back("key")
    left = sum(buckets.take("key", START_MS) for _ in range(2 * rate.burst))
    assert left == min(rate.burst, rate.burst - had + returned)


# --- the policy's values ----------------------------------------------------------------------------------------------


def test_the_default_policy_lets_knock_asks_and_stays_with_what_was_accepted() -> None:
    policy, key = AskApplication(), Identity.generate(SeededEntropy(0)).key
    assert policy.may_knock(ClaimedSender(key.did, key.raw)) is True
    assert policy.still_allowed(key) is True
    request: Any = None
    assert policy.decide(request) == ASK == Ask()


def test_decisions_hold_only_what_can_be_carried_out() -> None:
    assert Grant().conditions is UNLIMITED
    assert Grant(Conditions(max_messages=1)).conditions.max_messages == 1
    assert (Deny().reason, Deny().retry_after_seconds) == (Reason.POLICY, 0)
    for reason in Reason:
        assert Deny(reason, 2**53 - 1).retry_after_seconds == 2**53 - 1


@pytest.mark.parametrize("conditions", [None, 1, "unlimited", (None, None, None), Conditions])
def test_a_grant_takes_conditions_only(conditions: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Grant(conditions)
    assert caught.value.argument == "conditions"


@pytest.mark.parametrize("reason", [None, "policy", 1, b"busy", Reason])
def test_a_denial_takes_one_of_the_four_reasons(reason: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Deny(reason)
    assert caught.value.argument == "reason"


@pytest.mark.parametrize("seconds", [-1, 2**53, True, 0.0, math.nan, math.inf, None, "1"])
def test_a_denials_advice_travels(seconds: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Deny(Reason.BUSY, seconds)
    assert caught.value.argument == "retry_after_seconds"


def test_decisions_and_claims_are_frozen() -> None:
    key = Identity.generate(SeededEntropy(0)).key
    for value, name in (
        (Grant(), "conditions"),
        (Deny(), "reason"),
        (ClaimedSender(key.did, key.raw), "did"),
        (Rate(1, 1, 1), "burst"),
    ):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, name, None)
    assert key.raw.hex() not in repr(ClaimedSender(key.did, key.raw))
