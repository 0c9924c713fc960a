"""What every released version has kept of an agent of AGT's mesh: this one opens it, as it was, and goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh import KnockReceived, MessageReceived
from agentmesh.agt import AgtAgent
from agentmesh.store import SQLiteStore
from agentmesh.testing import ManualClock

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted((ROOT / "vectors" / "history").glob("v*/agt"))

sys.path.append(str(ROOT / "vectors"))

import history_agt  # noqa: E402 - it stands beside the vectors, in no package


def expected_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "agt.expected").read_text("ascii"))
    return content


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.parent.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["export", "store"])
def kept(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[AgtAgent]:
    expected = expected_of(folder)
    clock = ManualClock(expected["now_ms"])
    if request.param == "export":
        yield AgtAgent.restore(bytes.fromhex(expected["state"]), clock=clock, reliable=True)
        return
    path = tmp_path / "agt.mesh"
    path.write_bytes((folder / "agt.mesh").read_bytes())
    path.chmod(0o600)
    with SQLiteStore(path, key=bytes.fromhex(expected["key"])) as store:
        yield store.open_agt_agent(expected["mesh"], clock=clock)


def test_there_is_an_agent_of_each_version() -> None:
    assert [folder.parent.name for folder in FOLDERS] == ["v0.1.0"]


def test_an_agent_is_as_it_was(kept: AgtAgent, folder: Path) -> None:
    expected = expected_of(folder)
    assert history_agt.told(kept, expected["peers"]) == expected["agent"]
    assert kept.export_state().hex() == expected["state"]


def test_it_goes_on(kept: AgtAgent, folder: Path) -> None:
    expected = expected_of(folder)
    alice, carol, dave = expected["peers"]
    [message] = kept.receive(expected["late"]["frame"])
    assert isinstance(message, MessageReceived)
    assert message.plaintext.hex() == expected["late"]["plaintext"]
    [asked] = kept.receive(expected["proof"])
    assert isinstance(asked, KnockReceived)
    assert asked.peer.did == dave
    assert [waiting.peer.did for waiting in kept.pending_knocks()] == [carol, dave]
    for waiting in kept.pending_knocks():
        assert [type(event).__name__ for event in kept.accept(waiting)] == ["SessionEstablished", "MessageReceived"]
    assert kept.send(alice, b"goes on").number == 2
    assert json.loads(kept.publish_prekeys(1).body)["one_time_pre_keys"][0]["key_id"] == 5
