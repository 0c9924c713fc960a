"""Seeded schedules of agents that live in stores: writes fail or are broken off, agents crash, and nothing is lost.

The simulator holds every refusal and every write that failed to rows that are byte for byte what they were, and every
agent that is opened to what was written. The schedules here are to break that where a fault is put in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from agentmesh.engine.seam import Seam
from agentmesh.errors import AgentMeshError, StoreFailed
from agentmesh.store.keeping import Keeping
from agentmesh.testing import Faults, MeshSimulator

SCHEDULES = 48 * int(os.environ.get("AGENTMESH_DEPTH") or "1")
CHUNKS = 4


def converse(seed: int, *, write_fault_percent: int = 50) -> MeshSimulator:
    """Converse for a while, and return when nothing is under way any more."""
    random = Random(seed)
    mesh = MeshSimulator(
        seed,
        faults=Faults(crash_percent=15),
        write_fault_percent=write_fault_percent,
        acknowledge=seed % 2 == 0,
        defer_percent=20,
    )
    mesh.knock("alice", "bob")
    mesh.settle()
    for number in range(15):
        sender, recipient = random.sample(mesh.names, 2)
        mesh.send(sender, recipient, b"%d" % number)
        mesh.run(steps=3)
        if number in (6, 12):
            mesh.knock(recipient, sender) if random.random() < 0.5 else mesh.close(sender, recipient)
    mesh.settle()
    return mesh


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_where_writes_fail(chunk: int) -> None:
    for seed in range(chunk, SCHEDULES, CHUNKS):
        mesh = converse(seed)
        for sender, recipient in (mesh.names, mesh.names[::-1]):
            refused = [data for data, _ in mesh.refused(sender, recipient)]
            arrived = [*mesh.delivered(sender, recipient), *mesh.dropped(sender, recipient), *refused]
            assert sorted(arrived) == sorted(mesh.sent(sender, recipient)), seed


# --- faults that they are to show ------------------------------------------------------------------------------------


def _ignores_failures(patch: pytest.MonkeyPatch) -> None:
    commit = Keeping.commit

    def committed(self: Any, *args: Any) -> None:
        try:
            commit(self, *args)
        except StoreFailed:
            self._outcome = True

    patch.setattr(Keeping, "commit", committed)


def _applies_before_telling(patch: pytest.MonkeyPatch) -> None:
    tell = Seam._tell

    def told(self: Any, journal: Any, step: Any) -> None:
        try:
            tell(self, journal, step)
        except AgentMeshError:
            for change in step.changes:
                change.apply(self._core.state)
            raise

    patch.setattr(Seam, "_tell", told)


def _never_settles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keeping, "settled", lambda self: self._trail.dropped() or False)


@pytest.mark.parametrize("fault", [_ignores_failures, _applies_before_telling, _never_settles])
def test_a_fault_is_seen(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, AgentMeshError)):  # noqa: PT012 - in any of them
        for seed in range(SCHEDULES):
            converse(seed)
