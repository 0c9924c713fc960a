"""Pictures of audit logs: what is in them, what can never be, and that the same log gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh import Agent, Intent
from agentmesh.audit import AuditEvent, AuditJournal, AuditLog, Outcome, Record, owner_of
from agentmesh.cli import audit_pictures
from agentmesh.cli.main import main
from agentmesh.cli.pictures import graph as graphs
from agentmesh.cli.pictures import report as reports
from agentmesh.cli.pictures.graph import graph
from agentmesh.cli.pictures.listed import Listed
from agentmesh.cli.pictures.traffic import TEXT_MAX, Traffic, safe
from agentmesh.cli.text import Exit
from agentmesh.errors import ArgumentInvalid
from agentmesh.primitives.keys import Receipt
from agentmesh.store import LogFile
from agentmesh.testing import ManualClock, SeededEntropy

PAGE_TAGS = {
    "html", "head", "meta", "title", "style", "body", "script", "a", "header", "h1", "h2", "p", "dl", "div", "dt", "dd",
    "br", "main", "section", "svg", "desc", "rect", "text", "g", "circle", "path", "polygon", "line", "table", "thead",
    "tbody", "tr", "th", "td", "noscript", "form", "label", "select", "option", "input", "button", "output", "nav",
    "span",
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"
CANARIES = (b"the canary sings sixteen notes", b"an intent nobody else may read", b"a reason for the end of it")
ANY_TEXT = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=40),
    st.sampled_from(
        (
            "</script><script>",
            "<img src=x>",
            "<b>",
            "]]>",
            "<!--",
            "\u202e",
            "'\"&<>",
            "\x00\x1b[2J",
            "x" * 10_000,
            "\ud800",
        )
    ),
)


def traffic_of(records: list[Record]) -> Traffic:
    traffic = Traffic(Listed(reports.ROWS_MAX))
    for record in records:
        traffic.add(record)
    return traffic


def report(traffic: Traffic) -> str:
    return "".join(reports.report(traffic))


def sent(number: int, sender: str = "did:a:alice", recipient: str = "did:a:bob", **fields: Any) -> Record:
    return Record(
        AuditEvent.MESSAGE_SEALED, at_ms=1000 * number, mesh="m", sender=sender, recipient=recipient, **fields
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an agent that knocked, sent, was answered and refused a copy; what was said holds the canaries."""
    path = tmp_path_factory.mktemp("log") / "alice.log"
    clock = ManualClock()
    with LogFile(path) as file:
        alice = Agent.create(
            "example/test", clock=clock, entropy=SeededEntropy(1), journal=AuditJournal(AuditLog(file))
        )
        bob = Agent.create("example/test", clock=clock, entropy=SeededEntropy(2))
        bundle = bob.publish_bundles(1).one_time[0]
        intent = Intent("summarise", description=CANARIES[1].decode())
        [asked] = bob.receive(alice.knock(bob.did, bundle, intent, early_payload=CANARIES[0]).envelope)
        alice.receive(bob.accept(asked).envelope)  # type: ignore[arg-type]
        for number in range(6):
            clock.advance(seconds=1)
            bob.receive(alice.send(bob.did, CANARIES[0] + b"%d" % number).envelope)
            answer = bob.send(alice.did, CANARIES[0]).envelope
            alice.receive(answer)
        with pytest.raises(Exception, match="duplicate"):
            alice.receive(answer)
        bob.receive(alice.close(bob.did, CANARIES[2].decode()).envelope)
        clock.advance(seconds=120)
        alice.record_refusals()
    return path


def drawn(log: Path, command: str, to: Path) -> str:
    assert main(["audit", command, str(log), "-o", str(to)]) == Exit.OK
    return to.read_text("utf-8")


@pytest.mark.parametrize("command", ["graph", "report"])
def test_no_content_is_in_a_picture_in_any_form(command: str, log: Path, tmp_path: Path) -> None:
    picture = drawn(log, command, tmp_path / "picture").encode()
    for canary in (*CANARIES, b"summarise"):
        for form in (canary, canary.hex().encode(), base64.b64encode(canary)[:-4], canary[:16], canary[-16:]):
            assert form not in picture
    assert b"example/test" not in picture  # not even the mesh: nobody asked for it


@pytest.mark.parametrize("command", ["graph", "report"])
def test_the_same_log_gives_the_same_bytes(command: str, log: Path, tmp_path: Path) -> None:
    first = drawn(log, command, tmp_path / "first")
    again = tmp_path / "elsewhere" / "under another name.log"
    again.parent.mkdir()
    again.write_bytes(log.read_bytes())
    assert drawn(again, command, tmp_path / "second") == first
    assert (tmp_path / "first").stat().st_mode & 0o777 == 0o600


def test_a_graph_says_who_how_many_and_what_was_refused(log: Path, tmp_path: Path) -> None:
    root = ElementTree.fromstring(drawn(log, "graph", tmp_path / "picture"))
    titles = [found.text for found in root.iter(f"{SVG}title")]
    desc = root.find(f"{SVG}desc")
    assert desc is not None
    assert "2 agents, 1 refused" in (desc.text or "")
    assert len([title for title in titles if title and title.startswith("did:") and " to " in title]) == 2
    assert len([one for one in root.iter() if one.get("class") == "r"]) == 1  # one dashed way, in the other colour
    assert len([one for one in root.iter() if one.get("class") == "rb"]) == 2  # its bar, and the legend's
    assert root.get("role") == "img"
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {
        "svg", "style", "title", "desc", "rect", "text", "g", "circle", "path", "polygon", "line",
    }  # fmt: skip


def test_a_report_has_what_the_log_has(log: Path, tmp_path: Path) -> None:
    data = data_of(drawn(log, "report", tmp_path / "picture"))
    shown = len(data["columns"]["at"])
    assert {len(column) for column in data["columns"].values()} == {shown}
    assert sum(data["columns"]["refused"]) == 1
    events = [data["words"][word] for word in data["columns"]["event"]]
    assert (events.count("message.sealed"), events.count("message.opened")) == (7, 6)  # the closing is one
    assert main(["audit", "verify", str(log), "--json"]) == 0


def data_of(page: str) -> dict[str, Any]:
    [block] = re.findall(r'<script type="application/json" id="data">([^<]*)</script>', page)
    data: dict[str, Any] = json.loads(block)
    return data


# --- hostile text ----------------------------------------------------------------------------------------------------
#
# A log that passes has no such text: a record's fields are DIDs and fixed words. A picture does not rely on it.


class Seen(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes


@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=6), at_ms=st.sampled_from((0, 1_767_225_600_000, 2**64 - 1)))
def test_whatever_a_log_says_is_text_and_stays_text(texts: list[str], at_ms: int) -> None:
    records = [
        Record(AuditEvent.MESSAGE_REFUSED, at_ms=at_ms, mesh=text, sender=text, recipient=texts[0], reason=text)
        for text in texts
    ]
    traffic = traffic_of(records)
    svg, page = graph(traffic), report(traffic)
    for picture in (svg, page):
        assert re.fullmatch(r"[\n -~]*", picture)
    assert len(svg) < 40_000 + 2_000 * len(texts)
    tags = {one.tag for one in ElementTree.fromstring(svg).iter()}
    assert f"{SVG}script" not in tags
    seen = Seen(page)
    assert seen.tags.count("script") == 2
    assert set(seen.tags) <= PAGE_TAGS
    assert not {"img", "iframe", "object", "embed", "link", "base"} & set(seen.tags)
    assert {value for name, value in seen.attributes if name in {"href", "src", "action"}} == {"#records"}
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "style"]
    assert all(len(name) <= TEXT_MAX for name in data_of(page)["agents"])


def test_the_policy_names_the_script_and_the_style_and_nothing_else() -> None:
    page = report(traffic_of([sent(1)]))
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (script, style)
    ]
    assert policy == (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none'; form-action 'none'"
    )
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "fetch(",
                      "XMLHttp", "import(", "localStorage", "cookie"):  # fmt: skip
        assert forbidden not in script
    assert "url(" not in style
    assert "@import" not in style


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_an_empty_log_has_a_picture_too() -> None:
    traffic = traffic_of([])
    assert "No envelope is recorded" in graph(traffic)
    assert data_of(report(traffic))["columns"]["at"] == []


def test_of_many_agents_the_busiest_are_drawn_and_the_rest_is_counted() -> None:
    records = [sent(number, f"did:a:{number % 50:03}", "did:a:hub") for number in range(200)]
    svg = graph(traffic_of(records))
    assert len(re.findall('class="n"', svg)) == graphs.AGENTS_MAX
    assert f"and {51 - graphs.AGENTS_MAX} agents that sent less" in svg
    assert f"and {50 - graphs.LANES_MAX} more ways, with less" in svg
    assert "200 envelopes between 51 agents" in svg


def test_parties_without_number_fill_nothing() -> None:
    """Who writes to a relay under a new name each time must not make a picture of its log cost kilobytes a name."""
    traffic = traffic_of([sent(number, f"did:a:{number}") for number in range(20_000)])
    tracemalloc.start()
    graph(traffic)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000 * 1000


def many(count: int) -> Iterator[Record]:
    """Records of twenty agents, made as they are asked for."""
    for number in range(count):
        receipt = Receipt(hashlib.sha256(b"%d" % number).digest())
        yield sent(number, "did:a:hub", f"did:a:{number % 20}", receipt=receipt, size_bytes=256)


def bytes_held(listed: int, count: int) -> tuple[int, int]:
    """Return what is held of so many records, and what drawing them takes at once besides."""
    tracemalloc.start()
    traffic = Traffic(Listed(listed))
    for record in many(count):
        traffic.add(record)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for piece in [graph(traffic)] if not listed else reports.report(traffic):
        del piece
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, most - held


@pytest.mark.parametrize(("listed", "a_record"), [(0, 32), (1000, 32), (10**6, 150)])
def test_of_a_record_no_more_is_held_than_a_picture_needs(listed: int, a_record: int) -> None:
    """Its time, and of those that a page lists what the page says: not the record, and not the page."""
    bytes_held(listed, 10)  # what is loaded once is
    (few, drawing_few), (more, drawing_more) = (bytes_held(listed, count) for count in (5_000, 20_000))
    assert more - few < 15_000 * a_record
    assert drawing_more - drawing_few < 15_000 * 10  # it goes by pieces, and so takes the same


@pytest.mark.parametrize(("command", "listed"), [("graph", 0), ("report", 1000)])
def test_a_picture_takes_little_more_memory_than_verifying_the_log(
    command: str, listed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_pictures, "ROWS_MAX", listed)
    with LogFile(tmp_path / "log", fsync_every=100) as file:
        log, records = AuditLog(file), many(20_000)
        while some := list(islice(records, 1000)):
            log.append(some)

    def most_bytes(*words: str) -> int:
        tracemalloc.start()
        assert main(["audit", *words]) == Exit.OK
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    path = str(tmp_path / "log")
    assert most_bytes(command, path, "-o", str(tmp_path / "to")) < most_bytes("verify", path) + 20_000 * 100


def test_who_is_in_no_listed_record_is_not_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ROWS_MAX", 5)
    data = data_of(report(traffic_of([sent(number, f"did:a:{number}") for number in range(300)])))
    assert sorted(data["agents"]) == ["did:a:295", "did:a:296", "did:a:297", "did:a:298", "did:a:299", "did:a:bob"]
    assert [data["agents"][who] for who in data["columns"]["from"]] == [f"did:a:{number}" for number in range(295, 300)]


def test_of_too_many_records_the_last_are_listed_and_all_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ROWS_MAX", 5)
    page = report(traffic_of([sent(number) for number in range(12)]))
    data = data_of(page)
    assert (data["first"], len(data["columns"]["at"])) == (7, 5)
    assert "The last 5 are listed; 7 records before them are in the sums." in page
    assert '<dd class="">12</dd>' in page


NAMES = st.sampled_from(("", "did:a:alice", "did:a:bob", "<b>", "x" * (TEXT_MAX + 1), "x" * (TEXT_MAX + 2), "\ud800"))
NUMBERS = st.sampled_from((0, 1, 7, 2**64 - 1))
RECORDS = st.builds(
    Record,
    st.sampled_from(AuditEvent),
    at_ms=NUMBERS,
    mesh=st.just("m"),
    sender=NAMES,
    recipient=NAMES,
    receipt=st.sampled_from((b"", bytes(32), bytes(range(32)))),
    number=NUMBERS,
    size_bytes=NUMBERS,
    outcome=st.sampled_from((None, *Outcome)),
    reason=NAMES,
    count=st.sampled_from((1, 2, 2**64 - 1)),
)


@given(records=st.lists(RECORDS, max_size=30), most=st.integers(1, 20))
def test_the_list_is_of_the_last_records_as_they_are(records: list[Record], most: int) -> None:
    traffic = Traffic(Listed(most))
    for record in records:
        traffic.add(record)
    data = data_of(report(traffic))
    listed = records[-most:]
    words: dict[str, int] = {"": 0}
    agents: dict[str, int] = {}
    # In this order: a word has its number from where it first stands in the data.
    columns: dict[str, list[Any]] = {
        "at": [row.at_ms for row in listed],
        "event": [words.setdefault(safe(str(row.event)), len(words)) for row in listed],
        "from": [agents.setdefault(row.sender, len(agents)) for row in listed],
        "to": [agents.setdefault(row.recipient, len(agents)) for row in listed],
        "size": [row.size_bytes for row in listed],
        "count": [row.count for row in listed],
        "number": [row.number for row in listed],
        "refused": [int(row.outcome is Outcome.DENY) for row in listed],
        "reason": [words.setdefault(safe(row.reason), len(words)) for row in listed],
        "receipt": [row.receipt.hex()[:16] for row in listed],
    }
    assert data == {
        "first": len(records) - len(listed), "agents": [safe(did) for did in agents], "words": list(words),
        "columns": columns,
    }  # fmt: skip
    assert list(data) == ["first", "agents", "words", "columns"]
    assert list(data["columns"]) == list(columns)


@given(records=st.lists(RECORDS, max_size=30), others=st.integers(0, 9))
def test_the_owner_is_whom_alone_the_records_name(records: list[Record], others: int) -> None:
    try:
        expected = owner_of(records)
    except ArgumentInvalid:
        expected = ""
    assert traffic_of(records).owner == expected
    more = [sent(number, f"did:b:{number}") for number in range(others)]
    assert len(traffic_of([*records, *more])._owners) <= 2


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 10**6), st.booleans(), st.integers(1, 9)))
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_is_drawn_adds_up(rows: list[tuple[int, int, int, bool, int]]) -> None:
    records = [
        Record(
            AuditEvent.MESSAGE_REFUSED if refused else AuditEvent.ENVELOPE_SEEN,
            at_ms=at_ms, mesh="m", sender=f"did:a:{sender}", recipient=f"did:a:{recipient}", count=count,
        )
        for sender, recipient, at_ms, refused, count in rows
    ]  # fmt: skip
    traffic = traffic_of(records)
    assert traffic.envelopes == sum(count for *_, count in rows)
    assert traffic.refused == sum(count for *_, refused, count in rows if refused)
    times = [at_ms for _, _, at_ms, *_ in rows]
    assert traffic.span_ms == ((min(times), max(times)) if rows else (0, 0))
    binned = traffic.binned(7, traffic.pairs)
    for sender, recipient, at_ms, refused, count in rows:  # taken out again, each from its own seventh
        ends = (traffic.agents[f"did:a:{sender}"], traffic.agents[f"did:a:{recipient}"])
        binned[ends][refused][(at_ms - min(times)) * 7 // (max(times) - min(times) + 1)] -= count
    assert not any(any(bins) for both in binned.values() for bins in both)
    binned = traffic.binned(7, traffic.pairs)
    assert binned.keys() == traffic.pairs.keys()
    for ends, (taken, refused) in binned.items():
        assert sum(taken) + sum(refused) == traffic.pairs[ends].envelopes
        assert sum(refused) == traffic.pairs[ends].refused
    ElementTree.fromstring(graph(traffic))


# --- how they end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["graph", "report"])
def test_nothing_is_replaced_and_nothing_is_written_of_a_log_that_is_broken(
    command: str, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(path: Path, to: object) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(["audit", command, str(path), "-o", str(to)])
        assert capsys.readouterr().err.count("\n") == 1
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    before = log.read_bytes()
    assert ends(log, log) == Exit.USAGE  # the log itself, by mistake
    assert log.read_bytes() == before
    broken = tmp_path / "broken.log"
    broken.write_bytes(before[:60] + bytes([before[60] ^ 1]) + before[61:])
    assert ends(broken, tmp_path / "picture") == Exit.TAMPERED
    broken.write_bytes(before[:-3])
    assert ends(broken, tmp_path / "picture") == Exit.TORN
    assert not (tmp_path / "picture").exists()
    assert ends(log, tmp_path / "no folder" / "picture") == Exit.UNREADABLE
    assert ends(log, "a\0b") == Exit.UNREADABLE


def test_a_picture_goes_to_standard_output_where_asked(log: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["audit", "graph", str(log), "-o", "-"]) == Exit.OK
    assert capsys.readouterr().out == drawn(log, "graph", tmp_path / "picture")
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "graph", str(log), "-o", "-", "--json"])
    assert stopped.value.code == Exit.USAGE


def test_a_log_that_was_rotated_is_drawn_whole_or_from_where_it_goes_on(tmp_path: Path, capsys: Any) -> None:
    with LogFile(tmp_path / "new") as file:
        journal = AuditLog(file)
        journal.append([sent(1), sent(2)])
        journal.rotate(str(tmp_path / "old"))
        journal.append([sent(3)])
        root = journal.root().hex()
    for files, first in ((("old", "new"), 0), (("new",), 2)):
        capsys.readouterr()
        to = tmp_path / f"from {first}"
        assert main(["audit", "report", *(str(tmp_path / name) for name in files), "-o", str(to), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["root"] == root
        assert data_of(to.read_text())["first"] == first
