"""Seeded schedules of a hostile mesh: what was sent arrives once, or is accounted for.

A thousand schedules in plain pytest; AGENTMESH_DEPTH multiplies them. In each, agents knock, send and close at random
while the network drops, delays, reorders, duplicates, tampers and replays, and either side crashes. The simulator holds
every step to its own rules (a refusal changes nothing, nothing arrives twice); here stands what must have arrived when
the network has become honest again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from random import Random
from typing import NamedTuple

import pytest

from agentmesh import Conditions, Limits, Phase, SessionStatus
from agentmesh.errors import ClosedSession, DecryptionFailed, DuplicateMessage, GapTooLarge, UnknownSession
from agentmesh.testing import Faults, MeshSimulator

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
SCHEDULES_AT_LEAST = 1000 * DEPTH
SCHEDULES_A_CHUNK = 64
CHUNKS = 16 * DEPTH
ACTIONS = 20
EARLY = b"early "

Pairs = list[tuple[str, str]]


def pairs(mesh: MeshSimulator) -> Pairs:
    return list(permutations(mesh.names, 2))


def sent(mesh: MeshSimulator, pair: tuple[str, str]) -> Counter[bytes]:
    """Return what was sealed; an early payload is owed to nobody, since its KNOCK may be rejected."""
    return Counter(data for data in mesh.sent(*pair) if not data.startswith(EARLY))


def delivered(mesh: MeshSimulator, pair: tuple[str, str]) -> Counter[bytes]:
    return Counter(data for data in mesh.delivered(*pair) if not data.startswith(EARLY))


def refused(mesh: MeshSimulator, pair: tuple[str, str]) -> Counter[bytes]:
    return Counter(data for data, _ in mesh.refused(*pair))


# --- what must have arrived, by flavour ------------------------------------------------------------------------------


def everything_arrived(mesh: MeshSimulator) -> None:
    for pair in pairs(mesh):
        assert delivered(mesh, pair) + Counter(mesh.dropped(*pair)) == sent(mesh, pair)
        # A key is evicted only for a message that the network dropped.
        assert mesh.lost(*pair) <= len(mesh.dropped(*pair))
        assert mesh.agent(pair[0]).pending_envelopes(mesh.did(pair[1])) == ()  # every KNOCK has its verdict
    assert set(mesh.endings) <= {Phase.CLOSED}


def only_lost_sessions_lost(mesh: MeshSimulator) -> None:
    for pair in pairs(mesh):
        assert delivered(mesh, pair) + refused(mesh, pair) == sent(mesh, pair)
        assert {error for _, error in mesh.refused(*pair)} <= {UnknownSession, ClosedSession}
        assert mesh.lost(*pair) == 0


def losses_are_told(mesh: MeshSimulator) -> None:
    for pair in pairs(mesh):
        waiting = Counter(mesh.undelivered(*pair))
        assert delivered(mesh, pair) + refused(mesh, pair) + waiting == sent(mesh, pair)
        assert {error for _, error in mesh.refused(*pair)} <= {DuplicateMessage, DecryptionFailed}
        assert len(mesh.refused(*pair)) == mesh.lost(*pair)
        # What still waits is behind a gap that the limits do not bridge: the direction is lost, and says so.
        assert not waiting or mesh.errors[GapTooLarge]


def everything_is_acknowledged(mesh: MeshSimulator) -> None:
    everything_arrived(mesh)
    for sender, recipient in pairs(mesh):
        open_at = [
            {view.session_id for view in agent.sessions(mesh.did(peer)) if is_open(view.status)}
            for agent, peer in ((mesh.agent(sender), recipient), (mesh.agent(recipient), sender))
        ]
        for session_id in set.intersection(*open_at):
            assert mesh.unacknowledged(sender, recipient, session_id) == ()


def is_open(status: SessionStatus) -> bool:
    return status.phase is Phase.ESTABLISHED and not status.closing


class Flavour(NamedTuple):
    make: Callable[[int], MeshSimulator]
    check: Callable[[MeshSimulator], None]
    fault: str  # one that must have happened in every chunk


FLAVOURS = {
    "hostile": Flavour(
        lambda seed: MeshSimulator(seed, one_time=2, faults=Faults(drop_percent=8)), everything_arrived, "drop"
    ),
    "lossless": Flavour(
        lambda seed: MeshSimulator(seed, faults=Faults(drop_percent=0, delay_percent=20, crash_percent=15)),
        everything_arrived,
        "crash",
    ),
    "acknowledging, an epoch a turn": Flavour(
        lambda seed: MeshSimulator(
            seed, one_time=2, acknowledge=True, limits=Limits(epoch_turns=1), faults=Faults(drop_percent=8)
        ),
        everything_arrived,
        "drop",
    ),
    "acknowledging, lossless": Flavour(
        lambda seed: MeshSimulator(
            seed,
            acknowledge=True,
            limits=Limits(epoch_turns=2, ack_after_messages=3),
            faults=Faults(drop_percent=0, delay_percent=20, crash_percent=15),
        ),
        everything_is_acknowledged,
        "crash",
    ),
    "last resort, conditions": Flavour(
        lambda seed: MeshSimulator(
            seed, one_time=0, conditions=Conditions(max_messages=6, ttl_seconds=86_400, allowed_actions=("test",))
        ),
        everything_arrived,
        "replay",
    ),
    "three agents, skewed, hesitant": Flavour(
        lambda seed: MeshSimulator(
            seed,
            ("alice", "bob", "carol"),
            one_time=1,
            skew_max_ms=100_000,
            defer_percent=50,
            reject_percent=15,
        ),
        everything_arrived,
        "tamper",
    ),
    "lost state": Flavour(
        lambda seed: MeshSimulator(seed, one_time=1, faults=Faults(drop_percent=0, lost_state_percent=7)),
        only_lost_sessions_lost,
        "lost_state",
    ),
    "beyond the limits": Flavour(
        lambda seed: MeshSimulator(
            seed,
            one_time=1,
            limits=Limits(skipped_keys_per_step=3, skipped_keys_per_session=4),
            late_answers_max=None,
            faults=Faults(drop_percent=0, delay_percent=35, reorder_percent=60),
        ),
        losses_are_told,
        "delay",
    ),
}


def drive(mesh: MeshSimulator, seed: int) -> None:
    random = Random(f"{seed}/traffic")
    mesh.knock(*random.choice(pairs(mesh)))
    for number in range(ACTIONS):
        sender, recipient = random.choice(pairs(mesh))
        choice = random.randrange(100)
        if choice < 45:
            mesh.send(sender, recipient, b"%d" % number)
        elif choice < 53:
            mesh.knock(sender, recipient, early_payload=EARLY + b"%d" % number if choice % 2 else None)
        elif choice < 56:
            mesh.close(sender, recipient)
        elif choice < 62:
            for turn in range(8):
                mesh.send(sender, recipient, b"%d.%d" % (number, turn))
                mesh.run(1)
                sender, recipient = recipient, sender
        mesh.run(random.randrange(3))
    mesh.settle()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_schedules(chunk: int) -> None:
    faults: Counter[tuple[str, str]] = Counter()
    schedules = 0
    for seed in range(chunk * SCHEDULES_A_CHUNK, (chunk + 1) * SCHEDULES_A_CHUNK):
        name = list(FLAVOURS)[seed % len(FLAVOURS)]
        mesh = FLAVOURS[name].make(seed)
        drive(mesh, seed)
        FLAVOURS[name].check(mesh)
        for fault, count in mesh.faults.items():
            faults[name, fault] += count
        schedules += 1
    assert schedules == SCHEDULES_A_CHUNK
    assert all(faults[name, flavour.fault] for name, flavour in FLAVOURS.items())


def test_there_are_enough_schedules() -> None:
    assert CHUNKS * SCHEDULES_A_CHUNK >= SCHEDULES_AT_LEAST
