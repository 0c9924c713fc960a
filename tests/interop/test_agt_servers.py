"""AGT's servers and AGT's cryptography among themselves: what the other tests of this folder stand on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]


@pytest.fixture
def peer(mesh: Any, started: Any, agt_environment: Any) -> Start:
    """Return what starts an agent of theirs: the process, and its DID."""

    def start(**options: Any) -> tuple[Any, str]:
        worker = started.worker(agt_environment, "agt_peer.py")
        options = {"registry": mesh.registry.url, "relay": mesh.relay.url, **options}
        return worker, worker.ask("start", **options)["did"]

    return start


def texts(worker: Any, count: int) -> list[str]:
    return [event["text"] for event in worker.ask("take", count=count, only="message")["events"] if "text" in event]


@pytest.mark.parametrize(("ones", "others"), [("kars", "kars"), ("kars", "ts"), ("ts", "kars")])
def test_two_agents_of_theirs_converse(peer: Start, ones: str, others: str) -> None:
    one, one_did = peer(manners=ones)
    other, other_did = peer(manners=others, echo=True)
    sent: list[str] = []
    for turn in range(60):
        said = [f"{turn} {number}" for number in range(turn % 10)]
        one.ask("send", to=other_did, payloads=said)
        assert texts(one, len(said)) == said
        sent += said
    assert len(sent) == 270
    assert texts(other, 270) == sent
    assert one_did != other_did
