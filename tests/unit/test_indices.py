"""Ranges of indices (section 6.2) against the plainest model: a set of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentmesh.session.indices import NONE, Indices

MOST = 40
ranges = st.tuples(st.integers(1, MOST), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def known(indices: Indices) -> set[int]:
    return {index for first, last in indices.ranges for index in range(first, last + 1)}


def well_formed(indices: Indices) -> bool:
    least = indices.floor + 1
    for first, last in indices.ranges:
        if not least <= first <= last:
            return False
        least = last + 2
    return True


@given(st.lists(ranges, max_size=30))
def test_it_is_a_set_of_numbers(added: list[tuple[int, int]]) -> None:
    indices, model = NONE, set[int]()
    for first, last in added:
        before = indices
        indices = indices.with_range(first, last, 100)
        fresh = set(range(first, last + 1)) - model
        assert {index for gap in before.gaps(last, first) for index in gap} == fresh
        model |= fresh
        assert known(indices) == model
        assert well_formed(indices)
        assert (indices.count, indices.last, indices.floor) == (len(model), max(model), 0)
    for index in range(MOST + 10):
        assert indices.is_new(index) is (index > 0 and index not in model)
        assert indices.has_all(index) is (set(range(1, index + 1)) <= model)
        assert {one for gap in indices.gaps(index) for one in gap} == set(range(1, index + 1)) - model
    assert NONE.with_ranges(added, 100) == indices


@given(st.permutations(range(1, 13)))
def test_one_after_the_other_in_any_order(order: list[int]) -> None:
    indices = NONE
    for count, index in enumerate(order):
        assert indices.is_new(index)
        indices = indices.with_index(index, 100)
        assert not indices.is_new(index)
        assert indices == NONE.with_ranges([(one, one) for one in order[: count + 1]], 100)
    assert indices == Indices(((1, 12),), 12)


@given(st.lists(ranges, max_size=30), st.integers(1, 4))
def test_of_too_many_ranges_the_lowest_are_forgotten_and_stay_so(added: list[tuple[int, int]], most: int) -> None:
    indices, all_known = NONE, NONE
    for first, last in added:
        before = indices
        indices, all_known = indices.with_range(first, last, most), all_known.with_range(first, last, 100)
        assert well_formed(indices)
        assert len(indices.ranges) <= most
        assert indices.floor >= before.floor
        # What is forgotten is counted and never claimed; above it nothing differs from what came.
        assert known(indices) <= known(all_known)
        assert indices.count >= before.count
        assert not any(indices.is_new(index) for index in range(indices.floor + 1))
        assert not any(gap.start <= indices.floor for gap in indices.gaps(MOST))
        assert indices.last == all_known.last


def test_the_number_of_ranges_is_bounded_however_indices_are_skipped() -> None:
    indices = NONE
    for index in range(1, 4000, 2):
        indices = indices.with_index(index, 50)
    assert (len(indices.ranges), indices.count, indices.floor) == (50, 2000, 3899)
    assert indices.with_index(3900, 50).ranges[0] == (3900, 3901)  # a range may begin right above what is forgotten
    assert indices.with_range(1, 3899, 50) is indices


def test_gaps_of_a_claim_are_ranges_and_not_numbers() -> None:
    assert NONE.with_range(2, 3, 9).gaps(2**53) == (range(1, 2), range(4, 2**53 + 1))
