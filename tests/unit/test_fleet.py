"""The fleet: nothing is lost in a small one, and whatever goes wrong once is found."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # behind the installed library, for `benchmarks`

import agentmesh.agent  # noqa: E402
from agentmesh import Agent, AgentMeshError, Event  # noqa: E402
from agentmesh.engine.replay import KnockMemory  # noqa: E402
from agentmesh.engine.state import AgentState  # noqa: E402
from agentmesh.primitives.keys import Receipt  # noqa: E402
from benchmarks.fleet import __main__ as fleet  # noqa: E402
from benchmarks.fleet import world as fleet_world  # noqa: E402
from benchmarks.fleet.deliveries import Ledger  # noqa: E402
from benchmarks.fleet.run import Fleet  # noqa: E402
from benchmarks.fleet.script import Conversation, Frame  # noqa: E402
from benchmarks.fleet.settings import PLANTS, Settings  # noqa: E402
from benchmarks.fleet.world import World  # noqa: E402

PAGE = ROOT / "docs" / "how-to" / "fleet.md"
COMMANDS = re.findall(r"^python -m benchmarks\.fleet (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def small(**more: Any) -> Settings:
    settings: dict[str, Any] = {"agents": 12, "conversations": 2, "seed": 3, "seeded_secrets": True, "compared": 10}
    return Settings(**settings | more)


def faults_of(settings: Settings) -> dict[str, int]:
    made = Fleet(settings)
    try:
        made.run()
    finally:
        made.close()
    return dict(made.world.ledger.faults)


# --- a small fleet ---------------------------------------------------------------------------------------------------


def test_a_fleet_of_forty_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "fleet.json"
    words = ["--agents", "40", "--conversations", "3", "--restarts", "3", "--seed", "1", "--json", str(written)]
    assert fleet.main(words) == 0
    report = json.loads(written.read_text(encoding="utf-8"))
    check, traffic, audit = report["check"], report["traffic"], report["audit"]
    assert check["ok"]
    assert check["faults"] == {}
    assert check["payloads handed over"] == check["payloads delivered exactly once"] > 500
    assert audit["logs verified"] == audit["held against a checkpoint"] == 40
    assert audit["envelopes recorded alike"] > 500
    assert audit["broken"] == []
    for happened in (
        "copies lost by the relay",
        "copies doubled by the relay",
        "copies altered",
        "copies replayed",
        "messages sent again",
        "KNOCKs with an early payload",
        "KNOCKs rejected",
        "KNOCKs at a peer that was known",
        "last-resort bundles rotated",
        "times a stock was low",
        "sessions ended as closed",
        "restarts between two calls",
        "restarts after a call, before its state was written",
        "restarts after the state was written, before anything was handed on",
        "restarts from sealed state",
    ):
        assert traffic[happened] > 0, happened
    assert {one["code"] for one in report["refusals"]} > {"message.duplicate", "knock.replayed", "wire.malformed"}
    printed = capsys.readouterr()
    assert "| faults | none |" in printed.out
    assert "Every payload arrived once" in printed.out
    assert "nothing in this run is secret" in printed.err
    assert "conversing" in printed.err


def test_a_seed_repeats_the_course_of_a_run() -> None:
    runs = []
    for seed in (5, 5, 6):
        made = Fleet(small(seed=seed, audit="memory"))
        made.run()
        runs.append((made.world.counts, [len(agent.journal.log) for agent in made.agents if agent.journal]))
    assert runs[0] == runs[1] != runs[2]


def test_without_a_seed_secrets_are_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    dids = []
    for words in ([], [], ["--seed", "3"], ["--seed", "3"]):
        settings = fleet.arguments_of(["--agents", "2", *words]).settings
        assert settings.seeded_secrets == bool(words)
        made = Fleet(settings)
        made._make()
        made.close()
        dids.append(made.world.dids)
    assert dids[0] != dids[1]
    assert dids[2] == dids[3]


# --- what goes wrong is found ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        ("loss", {"lost": 1}),
        ("duplicate", {"twice": 1}),
        ("alteration", {"altered": 1, "lost": 1}),
        ("order", {"order": 1, "lost": 1}),
        ("audit", {"audit": 1}),
    ],
)
def test_what_is_planted_is_found(plant: str, found: dict[str, int]) -> None:
    assert faults_of(small(plant=plant)) == found


def test_every_plant_is_tested() -> None:
    assert set(PLANTS) == {"loss", "duplicate", "alteration", "order", "audit"}


def test_a_failed_check_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--agents", "12", "--conversations", "2", "--seed", "3", "--quiet", "--plant", "duplicate"]
    assert fleet.main(words) == 1
    assert "THE CHECK FAILED" in capsys.readouterr().out


def test_what_the_relay_never_delivers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = World.hand_over

    def stops(self: World, to: int, envelope: bytes, what: str) -> None:
        if what != "message" or self.ledger.delivered < 20:
            hand_over(self, to, envelope, what)

    monkeypatch.setattr(World, "hand_over", stops)
    faults = faults_of(small(days=1))
    assert faults.keys() == {"lost", "unfinished"}


def test_a_forgery_that_is_taken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_world, "forge", lambda _random, envelope, _others: envelope)
    assert faults_of(small(alteration=0.1))["forgery"] > 0


def test_a_restart_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = agentmesh.agent.restore_agent

    def restore_less(exported: bytes, now_ms: int, *, at_least_generation: int) -> AgentState:
        state = restore(exported, now_ms, at_least_generation=at_least_generation)
        state.knocks = KnockMemory()
        return state

    monkeypatch.setattr(agentmesh.agent, "restore_agent", restore_less)
    assert faults_of(small(restarts=3))["state"] > 0


def test_a_refusal_that_changes_the_state_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Agent.receive

    def publishes(self: Agent, envelope: bytes) -> tuple[Event, ...]:
        try:
            return receive(self, envelope)
        except AgentMeshError:
            self.publish_bundles(1, last_resort=False)
            raise

    monkeypatch.setattr(Agent, "receive", publishes)
    assert faults_of(small(alteration=0.1))["state"] > 0


def test_a_payload_that_is_sealed_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # An application that seals again where it should send the same bytes: the peer gets both.
    said = Conversation.said
    forgotten: list[int] = []

    def forgets(self: Conversation, side: int, step: int) -> None:
        if forgotten or step != 0:
            said(self, side, step)
        else:
            forgotten.append(step)

    monkeypatch.setattr(Conversation, "said", forgets)
    assert faults_of(small())["twice"] == 1


# --- its parts -------------------------------------------------------------------------------------------------------

Sent = tuple[int, int, int, bytes, int, bytes]


def sent_of(count: int) -> list[Sent]:
    return [(payload, payload % 3, 3, b"s" * 16, payload + 1, bytes([payload])) for payload in range(count)]


def ledger_of(sent: list[Sent]) -> Ledger:
    ledger = Ledger()
    for payload, sender, recipient, session_id, number, data in sent:
        ledger.hand(payload, data)
        ledger.send(payload, sender, recipient, session_id, number)
    return ledger


@given(st.permutations(sent_of(6)))
def test_any_order_of_arrival_is_good(arrivals: list[Sent]) -> None:
    ledger = ledger_of(sent_of(6))
    assert all(ledger.deliver(*arrival) for arrival in arrivals)
    ledger.finish()
    assert ledger.delivered == ledger.handed == 6
    assert not ledger.faults


@given(st.permutations(sent_of(6)), st.integers(0, 5), st.integers(1, 5))
def test_whatever_differs_is_a_fault(arrivals: list[Sent], at: int, field: int) -> None:
    ledger = ledger_of(sent_of(6))
    wrong: list[Any] = list(arrivals[at])
    wrong[field] = b"other" if isinstance(wrong[field], bytes) else wrong[field] + 1
    arrivals[at] = tuple(wrong)  # type: ignore[call-overload]
    assert sum(ledger.deliver(*arrival) for arrival in arrivals) == 5
    ledger.finish()
    kind = {4: "order", 5: "altered"}.get(field, "misplaced")
    assert dict(ledger.faults) == {kind: 1, "lost": 1}


@given(st.permutations(sent_of(6)), st.integers(0, 5))
def test_what_is_missing_or_comes_twice_is_a_fault(arrivals: list[Sent], at: int) -> None:
    ledger = ledger_of(sent_of(6))
    for arrival in (*arrivals[:at], *arrivals[at + 1 :], arrivals[at - 1]):
        ledger.deliver(*arrival)
    ledger.deliver(99, 0, 3, b"s" * 16, 1, b"never sent")
    ledger.finish()
    assert dict(ledger.faults) == {"lost": 1, "twice": 1, "unknown": 1}


@given(
    st.lists(st.binary(min_size=32, max_size=32).map(Receipt), max_size=200),
    st.integers(-1, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=100),
)
def test_frames_are_read_as_they_were_written(acks: list[Receipt], conversation: int, step: int, body: bytes) -> None:
    frame = Frame(acks, -1, 0, b"") if conversation < 0 else Frame(acks, conversation, step, body)
    assert Frame.decode(frame.encode()) == frame


@given(st.integers(0, 2**32), st.data())
def test_a_conversation_ends_in_whatever_order_its_payloads_arrive(seed: int, data: st.DataObject) -> None:
    conversation = Conversation(Random(seed), 0, 0, (0, 1), 8, 0.5)
    under_way: list[tuple[int, int]] = []
    while not conversation.is_over:
        for side in (0, 1):
            while (step := conversation.due(side)) is not None:
                under_way.append((1 - side, step))
                conversation.said(side, step)
        conversation.receive(*under_way.pop(data.draw(st.integers(0, len(under_way) - 1))))
    assert not under_way


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--agents", "1"],
        ["--conversations", "0"],
        ["--days", "21"],
        ["--loss", "0.5"],
        ["--restarts", "-1"],
        ["--plant", "audit", "--audit", "none"],
        ["--json", "no-such-folder/fleet.json"],
    ],
)
def test_arguments_that_make_no_fleet_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        fleet.main(words)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as stopped:
        fleet.main(["--plot", "fleet.svg"])
    assert stopped.value.code == 2
    assert "--plot needs matplotlib: pip install 'agentmesh-e2ee[bench]'" in capsys.readouterr().err


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `bench`, is not installed")
    drawn = tmp_path / "fleet.svg"
    words = ["--agents", "4", "--conversations", "1", "--days", "1", "--seed", "1", "--audit", "none", "--quiet"]
    assert fleet.main([*words, "--plot", str(drawn)]) == 0
    assert "<svg" in drawn.read_text(encoding="utf-8")


def test_the_pages_commands_do_what_the_page_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fleet, "find_spec", lambda name: name)  # the page says what `--plot` needs
    assert len(COMMANDS) == 4
    runs = [words for words in map(shlex.split, COMMANDS) if fleet.arguments_of(words).settings.agents <= 40]
    assert [fleet.main([*words, "--quiet"]) for words in runs] == [0, 1]
