"""What every released version exported and sent: this one restores it, and opens it."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import pytest

import agentmesh
from agentmesh import Agent
from agentmesh.errors import StateMalformed
from agentmesh.testing import ManualClock

ROOT = Path(__file__).resolve().parents[2]
HISTORY = ROOT / "vectors" / "history"
FILES = sorted(HISTORY.glob("v*/*.json"))

sys.path.append(str(ROOT / "vectors"))

import history  # noqa: E402 - it stands beside the vectors, in no package


@cache
def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("ascii"))
    return content


def file_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def restored(content: dict[str, Any]) -> tuple[Agent, ManualClock]:
    clock = ManualClock(content["now_ms"])
    return Agent.restore(bytes.fromhex(content["state"]), clock=clock), clock


def test_there_is_a_history_of_every_phase() -> None:
    names = {path.parent.name for path in FILES}
    assert "v0.1.0" in names
    for version in names:
        phases = {phase for path in FILES if path.parent.name == version for phase in load(path)["phases"].values()}
        assert phases >= {"pending", "undecided", "established", "closed"}
        assert any(not load(path)["phases"] for path in FILES if path.parent.name == version)


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_a_state_is_restored_as_it_was(path: Path) -> None:
    content = load(path)
    assert (f"v{content['version']}", content["name"]) == (path.parent.name, path.stem)
    agent, _ = restored(content)
    assert history.phases_of(agent, content["peers"]) == content["phases"]
    exported = agent.export_state()
    if content["version"] == agentmesh.__version__:
        assert exported.hex() == content["state"]
    again = Agent.restore(exported, clock=ManualClock(content["now_ms"]))
    assert again.export_state() == exported


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_a_restored_agent_goes_on_where_it_was(path: Path) -> None:
    content = load(path)
    agent, clock = restored(content)
    assert content["steps"]
    for step in content["steps"]:
        before = agent.export_state()
        result = history.take_step(agent, clock, step)
        assert result == {
            name: step[name] for name in ("events", "plaintext", "error", "early_payload") if name in step
        }
        if "error" in result:
            assert agent.export_state() == before


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_a_state_is_as_section_7_1_says(path: Path) -> None:
    """Read without the library, from the text alone."""
    content = load(path)
    body, checksum = msgpack.unpackb(bytes.fromhex(content["state"]))
    assert checksum == hashlib.sha256(body).digest()
    kind, version, mesh, generation, packed = msgpack.unpackb(body)
    seed, has_policy, bundles, knocks, peers, *boxes = msgpack.unpackb(packed)
    assert (kind, version, mesh, has_policy) == ("agent", 1 + bool(boxes), "example/test", 0)
    assert len(boxes) == (2 if path.stem == "reliable" else 0)
    for box, size in zip(boxes, (7, 4), strict=False):
        assert {len(fields) for fields in box} == {size}
        sequences = [fields[0] for fields in box]
        assert sequences == sorted(sequences)
    assert generation > 0
    assert len(seed) == 32
    assert {len(fields) for fields in bundles} <= {5}
    assert {len(fields) for fields in knocks} <= {6}
    ids = {session_id.hex() for *_, sessions in peers for session_id in map(session_id_of, sessions)}
    assert ids >= content["phases"].keys()


def session_id_of(session: bytes) -> bytes:
    fields = msgpack.unpackb(session)
    session_id: bytes = fields[1] if fields[0] == 4 else fields[1][0]
    return session_id


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_a_damaged_state_is_refused_whole(path: Path) -> None:
    state = bytes.fromhex(load(path)["state"])
    for damaged in (state[:-1], state + b"\x00", state[: len(state) // 2], b""):
        with pytest.raises(StateMalformed):
            Agent.restore(damaged)


def test_what_was_written_is_never_written_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(history, "HISTORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["history.py"])
    assert history.main() == 0
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*/*.json")}
    assert {name.removesuffix(".json") for name in written} == {
        path.stem for path in FILES if path.parent.name == f"v{agentmesh.__version__}"
    }
    assert history.main() == 1
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*/*.json")} == written
