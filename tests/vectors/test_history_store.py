"""What every released version has written as a store: this one opens it, as it was, and goes on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from agentmesh import MessageReceived
from agentmesh.errors import StoreKeyWrong
from agentmesh.store import SQLiteStore
from agentmesh.testing import ManualClock

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted((ROOT / "vectors" / "history").glob("v*/store"))

sys.path.append(str(ROOT / "vectors"))

import history_store  # noqa: E402 - it stands beside the vectors, in no package


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.parent.name)
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    for path in request.param.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).chmod(0o600)
    return tmp_path, json.loads((tmp_path / "agents.expected").read_text("ascii"))


def test_there_is_a_store_of_each_version() -> None:
    assert [folder.parent.name for folder in FOLDERS] == ["v0.1.0"]


def test_a_store_opens_as_it_was_and_goes_on(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = copied
    clock = ManualClock(expected["now_ms"])
    for _ in range(2):
        with SQLiteStore(folder / "agents.mesh", key=bytes.fromhex(expected["key"])) as store:
            agent = store.open_agent(expected["mesh"], clock=clock, keep_log=True)
            assert history_store.told(store, agent) == expected["agent"]
            assert store.log().verify().size == expected["agent"]["log"][0]
    with SQLiteStore(folder / "agents.mesh", key=bytes.fromhex(expected["key"])) as store:
        assert store.check().rows["kept"] == 1
        agent = store.open_agent(expected["mesh"], clock=clock, keep_log=True)
        [message] = agent.receive(bytes.fromhex(expected["late"]["envelope"]))
        assert isinstance(message, MessageReceived)
        assert message.plaintext.hex() == expected["late"]["plaintext"]
        assert agent.send(expected["peer"], b"goes on").number == 3


def test_a_passphrase_opens_what_it_sealed(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = copied
    with SQLiteStore(folder / "passphrase.mesh", key="another") as store, pytest.raises(StoreKeyWrong):
        store.open_agent(expected["mesh"])
    with SQLiteStore(folder / "passphrase.mesh", key=expected["passphrase"]) as store:
        assert store.open_agent(expected["mesh"], clock=ManualClock(expected["now_ms"])).did
    shutil.rmtree(folder)
