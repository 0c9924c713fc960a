"""docs/agt.md says what the code does: receipts, session ids, rows, close codes, limits; and has the cited sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Grant, Limits, agt
from agentmesh.agt import AgtAgent, RelayLink, conversing, early, encoding, frames, knocking, link, upkeep
from agentmesh.agt.frames import parse_frame
from agentmesh.agt.rows import AgtRowKind
from agentmesh.agt.suite import HEADER_BYTES
from agentmesh.agt_identity import AgtIdentity
from agentmesh.envelope import receipt_of
from agentmesh.primitives import _crypto, _wire

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "agt.md"
SECURITY = ROOT / "docs" / "security.md"
TEXT = PAGE.read_text("utf-8")
SENTENCES = " ".join(TEXT.split())
DEFAULTS = Limits()
FRAME_MAX = 1 << 20


def rows(header: str) -> Iterator[list[str]]:
    lines = TEXT.splitlines()
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


class Welcome:
    def may_knock(self, _sender: Any) -> bool:
        return True

    def decide(self, _knock: Any) -> Grant:
        return Grant()

    def still_allowed(self, _peer: Any) -> bool:
        return True


@pytest.fixture
def conversation() -> tuple[AgtAgent, AgtAgent, list[frames.AgtFrame]]:
    """Give two agents, and all four frames of a KNOCK, a message, and both verdicts on it."""
    alice, bob = AgtAgent.create("agt"), AgtAgent.create("agt", policy=Welcome())
    upload = encoding.read_object(bob.publish_prekeys(1).body, FRAME_MAX)
    upload["one_time_pre_key"] = upload.pop("one_time_pre_keys")[0]
    knock = alice.knock(bob.did, encoding.write_object(upload))
    message = alice.send(bob.did, b"hello")
    bob.receive(knock)
    established, _ = bob.receive(message)
    rejected = frames.AgtFrame(frames.reject_frame(bob.did, alice.did, "an id", 0, knock.frame_id))
    return alice, bob, [knock, message, established.reply, rejected]


def test_receipts_are_those_of_the_table(conversation: Any) -> None:
    table = {kind.strip("`"): array for kind, array in rows("| frame | array |")}
    for frame in conversation[2]:
        fields = encoding.read_object(frame.envelope, FRAME_MAX)
        parsed: Any = parse_frame(frame.envelope, FRAME_MAX)
        values = {
            f'"{fields["type"]}"': fields["type"],
            '""': "",
            "sender": fields["from"],
            "recipient": fields["to"],
            "frame id": fields["id"],
            "`knock_id`": fields.get("knock_id"),
            "reason": fields.get("reason"),
        }
        if fields["type"] == "knock":
            values |= {"action": parsed.action, "`ik` (32)": parsed.dh, "`ek` (32)": parsed.ephemeral}
            values["`otk` or nil"] = parsed.one_time_id
        if fields["type"] == "message":
            values[r"`dh` (32) \|\| `pn` (u32) \|\| `n` (u32) \|\| what is sealed"] = parsed.message
        array = [values[name] for name in table.pop(fields["type"]).split(", ")]
        assert frame.receipt == receipt_of(_wire.encode(array))
    assert not table


def test_a_session_is_named_as_the_page_says(conversation: Any) -> None:
    alice, bob, (knock, *_) = conversation
    context = f"{alice.did}|{bob.did}".encode() + alice.key.dh + bob.key.dh
    ephemeral = parse_frame(knock.envelope, FRAME_MAX).ephemeral  # type: ignore[union-attr]
    assert "SHA-256(context || `ek`)" in SENTENCES
    for agent, peer in ((alice, bob), (bob, alice)):
        [view] = agent.sessions(peer.did)
        assert view.session_id == _crypto.sha256(context + ephemeral)[:16]


def test_the_table_of_rows_has_every_kind() -> None:
    stated = [
        kind for first, *_ in rows("| kind | key | fields, in canonical MessagePack |") for kind in first.split(", ")
    ]
    assert stated == [f"`{kind}`" for kind in (*AgtRowKind, "inbox", "generation")]


def test_the_table_of_close_codes_is_the_links_advice() -> None:
    stated = {}
    for codes, _, advice in rows("| code | means | `RelayLink.closed` advises |"):
        stated |= {int(code): not advice.startswith("not") for code in re.findall(r"\d{4}", codes)}
    relay = RelayLink(AgtIdentity.generate(), lambda: 1_800_000_000_000)
    assert set(stated) == {*link._FINAL, *link._PASSING}
    assert {code: relay.closed(code).reconnect for code in stated} == stated
    assert relay.closed(4999).reconnect
    assert not relay.closed(1000, "session_replaced").reconnect


@pytest.mark.parametrize(
    "sentence",
    [
        f"uploads one signed prekey and {upkeep.ONE_TIME_DEFAULT} one-time prekeys",
        f"`one_time_lifetime_seconds` ({DEFAULTS.one_time_lifetime_seconds // 86_400} days)",
        f"`last_resort_rotation_seconds` ({DEFAULTS.last_resort_rotation_seconds // 86_400} days)",
        f"is {DEFAULTS.last_resort_lifetime_seconds // 86_400} days old (`last_resort_lifetime_seconds`)",
        f"`skipped_keys_per_step` ({DEFAULTS.skipped_keys_per_step})",
        f"up to {conversing._HELD_MAX} messages of {conversing._HELD_MAX_BYTES >> 20} MiB together",
        f"A frame of at most {frames.FRAME_MAX_BYTES >> 20} MiB leaves",
        f"`envelope_max_bytes`, {DEFAULTS.envelope_max_bytes >> 20} MiB",
        f"JSON by {encoding._BRACKETS_MAX:,} brackets and {encoding._COMMAS_MAX:,} commas",
        f"a number by {encoding._NUMBER_MAX_CHARS} digits, an id by {frames.FRAME_ID_MAX_BYTES} bytes",
        f"is due every {link.HEARTBEAT_MS // 1000} s. Without one for {link.MAIL_STOPS_MS // 1000} s",
        f"doubles from {link._PAUSE_FIRST_MS // 1000} s to {link._PAUSE_LONGEST_MS // 1000} s",
        "is held in memory for ten minutes",
    ],
)
def test_a_number_of_the_page_is_that_of_the_code(sentence: str) -> None:
    assert sentence in SENTENCES
    assert early.LATE_WINDOW_MS == 600_000
    assert HEADER_BYTES == 40


@pytest.mark.parametrize(
    "sentence",
    [
        f"KNOCKs that nothing has proved: {knocking._CANDIDATES_PER_PEER} of one sender",
        f"in all: `undecided_knocks`, {DEFAULTS.undecided_knocks:,}",
        f"waits for the application: {conversing._HELD_MAX}, and {conversing._HELD_MAX_BYTES >> 20} MiB",
        f"before their KNOCK, of one sender: {early.PER_PEER}, and {early.BYTES_PER_PEER >> 20} MiB",
        f"before their KNOCK, in all: {early.IN_ALL}, and {early.BYTES_IN_ALL >> 20} MiB",
        f"were proved: `remembered_knocks`, {DEFAULTS.remembered_knocks:,}",
        f"frames over {frames.RELAY_MAX_BYTES >> 20} MiB",
    ],
)
def test_what_strangers_can_fill_has_the_numbers_of_the_code(sentence: str) -> None:
    text = SECURITY.read_text("utf-8")
    assert sentence in text[text.index("#### Floods in AGT's mesh") :]


def test_the_overview_has_every_public_call_and_name() -> None:
    index = (ROOT / "docs" / "reference" / "overview.md").read_text("utf-8")
    part = index[index.index("| `AgtAgent`, of `agentmesh.agt` | gives |") : index.index("What leaves for a relay")]
    cells = [line.split("|")[1] for line in part.splitlines()[2:] if line.startswith("|")]
    stated = {name for cell in cells for name in re.findall(r"(?:^|, |\s)`(\w+)", cell)}
    assert stated == {name for name in dir(AgtAgent) if not name.startswith("_")}
    missing = [name for name in agt.__all__ if f"`{name}" not in part]
    assert not missing


def test_every_section_that_the_code_cites_is_there() -> None:
    headings = set(re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE))
    cited = set()
    for path in sorted((ROOT / "agentmesh").rglob("*.py")):
        joined = re.sub(r"\s+", " ", path.read_text("utf-8"))
        cited |= set(re.findall(r"docs/agt\.md, section (\d+)", joined))
    assert cited >= {"4", "5", "7"}
    assert cited <= headings
