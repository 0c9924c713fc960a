"""A schedule as data: what happens in a simulated mesh, one action at a time, so that a failing one can be shrunk."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from attrs import frozen

from agentmesh.testing.simulator import MeshSimulator


class Move(StrEnum):
    """What can happen."""

    KNOCK = "knock"
    DECIDE = "decide"
    SEND = "send"
    CLOSE = "close"
    DELIVER = "deliver"
    DROP = "drop"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    TAMPER = "tamper"
    REPLAY = "replay"
    CRASH = "crash"
    LOSE_STATE = "lose_state"
    SETTLE = "settle"


@frozen(kw_only=True)
class Action:
    """One thing that happens, in any mesh: what there is not is counted modulo what there is.

    Attributes:
        move: What happens.
        who: Which agent acts.
        whom: Which of the other agents it acts towards.
        at: Which envelope is meant. A decision rejects where this is odd.
    """

    move: Move
    who: int = 0
    whom: int = 0
    at: int = 0


def perform(mesh: MeshSimulator, actions: Iterable[Action]) -> None:
    """Let the actions happen one after another. Each sent message is another one: `alice>bob#0`, `alice>bob#1`, ..."""
    for action in actions:
        _perform(mesh, action)


def _perform(mesh: MeshSimulator, action: Action) -> None:
    who = mesh.names[action.who % len(mesh.names)]
    others = [name for name in mesh.names if name != who]
    whom = others[action.whom % len(others)]
    match action.move:
        case Move.KNOCK:
            mesh.knock(who, whom)
        case Move.DECIDE:
            mesh.decide(who, accept=action.at % 2 == 0)
        case Move.SEND:
            mesh.send(who, whom, f"{who}>{whom}#{len(mesh.sent(who, whom))}".encode())
        case Move.CLOSE:
            mesh.close(who, whom)
        case Move.REPLAY:
            if mesh.replayable:
                mesh.replay(action.at % mesh.replayable)
        case Move.CRASH:
            mesh.crash(who)
        case Move.LOSE_STATE:
            mesh.lose_state(who)
        case Move.SETTLE:
            mesh.settle()
        case Move.DELIVER | Move.DROP | Move.DELAY | Move.DUPLICATE | Move.TAMPER:
            if mesh.in_flight:
                getattr(mesh, action.move)(action.at % mesh.in_flight)
