"""`python -m agentmesh audit`: what it prints, what it refuses, its exit status; and no text of a file acts on it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agentmesh import Agent, Identity, Intent, KnockReceived
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    MemorySink,
    Outcome,
    Record,
    leaf_hash,
    sign_checkpoint,
    verified_records,
)
from agentmesh.audit.merkle import EMPTY_ROOT, RootHash
from agentmesh.cli import audit_log
from agentmesh.cli.main import main
from agentmesh.cli.text import exit_table
from agentmesh.envelope import OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.outgoing import Outgoing
from agentmesh.primitives.keys import Receipt
from agentmesh.relay import relay_record
from agentmesh.store import LogFile, read_log_file
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/test"
OWNER = Identity.from_seed(bytes(31) + b"\x01")
OTHER = Identity.from_seed(bytes(31) + b"\x02")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        said = ""
        try:
            status = main(["audit", *map(str, arguments)])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
            said = "" if isinstance(error.code, int) else f"{error.code}\n"
        out, err = capsys.readouterr()
        for text in (out, err, said):
            assert re.fullmatch(r"[ -~\n]*", text), "something that is not printable ASCII"
        return status, out, err + said

    return call


def record(number: int, **fields: Any) -> Record:
    values: dict[str, Any] = {
        "at_ms": 1_767_225_600_000 + number, "mesh": MESH, "sender": OWNER.did, "recipient": OTHER.did,
        "envelope_time_ms": 5, "receipt": Receipt(number.to_bytes(32, "big")), "session_id": bytes(16),
        "number": number, "size_bytes": 326, "bundle_class": BundleClass.ONE_TIME,
    }  # fmt: skip
    return Record(AuditEvent.MESSAGE_SEALED, **values | fields)


def write_log(path: Path, records: list[Record]) -> AuditLog:
    log = AuditLog(sink := LogFile(path, fsync_every=None))
    log.append(records)
    sink.close()
    return log


def write_frames(path: Path, entries: list[bytes]) -> None:
    path.write_bytes(b"agentmesh-log-1\n" + b"".join(len(entry).to_bytes(4, "big") + entry for entry in entries))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of five entries, and its checkpoint beside it."""
    path = tmp_path / "log"
    written = write_log(path, [record(number) for number in range(5)])
    checkpoint = written.checkpoint(OWNER, mesh=MESH, time_ms=1_767_225_600_123)
    (tmp_path / "checkpoint").write_bytes(checkpoint.statement)
    return path


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_a_whole_log(log: Path, run: Run) -> None:
    status, out, err = run("verify", log)
    assert (status, err) == (0, "")
    assert "5, whole and in order" in out
    assert "would go unnoticed" in out


@pytest.mark.parametrize("issuer", [OWNER.did, OWNER.key.raw.hex(), OWNER.key.raw.hex().upper()])
@pytest.mark.parametrize("mesh", [[], ["--mesh", MESH]])
def test_verify_against_a_checkpoint(issuer: str, mesh: list[str], log: Path, run: Run) -> None:
    arguments = ["--checkpoint", log.with_name("checkpoint"), "--issuer", issuer, *mesh]
    status, out, err = run("verify", log, *arguments)
    assert (status, err) == (0, "")
    assert "covers 5 entries; 0 came after it" in out
    assert OWNER.did in out
    assert f"in {MESH}, at 2026-01-01 00:00:00.123" in out
    with LogFile(log) as sink:
        AuditLog(sink).append([record(5), record(6)])
    assert "covers 5 entries; 2 came after it" in run("verify", log, *arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "wanted", "said"),
    [
        (["--issuer", OTHER.did], 5, f"the checkpoint is not of {OTHER.did}"),
        (["--issuer", OTHER.key.raw.hex()], 5, "signature.invalid"),
        (["--issuer", "did:agentmesh:\x1b[31m"], 5, "the checkpoint is not of did:agentmesh:\\x1b[31m"),
        (["--issuer", OWNER.key.raw.hex()[1:]], 2, "neither a DID nor a key"),
        (["--issuer", "zz"], 2, "neither a DID nor a key"),
        (["--issuer", "01" + "00" * 31], 2, "identity.key"),
        (["--issuer", OWNER.did, "--mesh", "another"], 5, "audit.proof"),
        (["--issuer", OWNER.did, "--mesh", ""], 5, "audit.proof"),  # a variable of a script that was not set
    ],
)
def test_verify_against_somebody_elses_checkpoint(
    arguments: list[str], wanted: int, said: str, log: Path, run: Run
) -> None:
    status, out, err = run("verify", log, "--checkpoint", log.with_name("checkpoint"), *arguments)
    assert (status, out) == (wanted, "")
    assert said in err


@pytest.mark.parametrize("content", [b"", b"rubbish", bytes(400)])
def test_verify_against_rubbish(content: bytes, log: Path, run: Run) -> None:
    checkpoint = log.with_name("checkpoint")
    checkpoint.write_bytes(content)
    status, out, err = run("verify", log, "--checkpoint", checkpoint, "--issuer", OWNER.did)
    assert (status, out) == (4, "")
    assert "wire." in err
    checkpoint.unlink()
    status, out, err = run("verify", log, "--checkpoint", checkpoint, "--issuer", OWNER.did)
    assert (status, out) == (3, "")
    assert "cannot read" in err
    status, out, err = run("verify", log, "--checkpoint", "nul\x00", "--issuer", OWNER.did)
    assert (status, out) == (3, "")
    assert "not a file name" in err


@pytest.mark.parametrize("arguments", [["--checkpoint", "x"], ["--issuer", OWNER.did], ["--mesh", MESH]])
def test_verify_wants_checkpoint_and_issuer_together(arguments: list[str], log: Path, run: Run) -> None:
    status, out, err = run("verify", log, *arguments)
    assert (status, out) == (2, "")
    assert "usage:" in err


def test_verify_names_what_is_wrong(log: Path, run: Run) -> None:
    entries = list(read_log_file(log))
    other = record(9).encode(2, leaf_hash(entries[1]))
    path = log.with_name("other")
    for wrong, said in (
        ([*entries[:3], b"rubbish", *entries[3:]], "entry 3 is not an entry of a log"),
        ([*entries[:2], *entries[3:]], "entry 2 has another number"),
        ([*entries[:2], other, *entries[3:]], "entry 3 does not follow the one before it"),
        ([entries[1], entries[0]], "entry 0 has another number"),
    ):
        write_frames(path, wrong)
        status, out, err = run("verify", path)
        assert (status, out) == (5, "")
        assert said in err
    write_frames(path, entries)
    path.write_bytes(path.read_bytes()[:-1])
    status, out, err = run("verify", path)
    assert (status, out) == (7, "")
    assert "behind 4 whole entries is torn" in err
    arguments = ["--checkpoint", log.with_name("checkpoint"), "--issuer", OWNER.did]
    for cut in range(5):
        write_frames(path, entries[:cut])
        status, out, err = run("verify", path, *arguments)
        assert (status, out) == (5, "")
        assert f"it ends after {cut} entries, before the checkpoint does" in err
    write_log(path.with_name("again"), [record(number, count=2) for number in range(6)])
    status, out, err = run("verify", path.with_name("again"), *arguments)
    assert (status, out) == (5, "")
    assert "the first 5 entries are not those" in err


@pytest.mark.parametrize("command", ["verify", "show"])
def test_what_cannot_be_read(command: str, tmp_path: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for path, wanted, said in (
        (tmp_path / "missing", 3, "cannot read"),
        (tmp_path, 3, "cannot read"),
        (tmp_path / "fifo", 3, "cannot read"),
        ("nul\x00name", 3, "nul\\x00name"),
        (tmp_path / "empty", 4, "not an audit log: entry 0 is not an entry of a log"),
        (__file__, 4, "not an audit log: entry 0 is not an entry of a log"),
    ):
        status, out, err = run(command, path)
        assert status == wanted
        assert out == "" or command == "show"
        assert said in err


def test_verify_a_log_that_is_long_with_progress(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "log"
    written = write_log(path, [record(number) for number in range(100_000)])
    checkpoint = sign_checkpoint(OWNER, mesh=MESH, size=99_999, root=written.root(99_999), time_ms=1)
    (tmp_path / "checkpoint").write_bytes(checkpoint.statement)
    status, out, err = run("verify", path, "--progress", "--checkpoint", tmp_path / "checkpoint", "--issuer", OWNER.did)
    assert status == 0
    assert "100,000, whole and in order" in out
    assert "covers 99,999 entries; 1 came after it" in out
    lines = err.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"verifying  +\d+ %  10,000 entries", lines[0])
    assert lines[-1] == "verifying  99 %  100,000 entries"
    false = sign_checkpoint(OWNER, mesh=MESH, size=50_000, root=RootHash(bytes(32)), time_ms=1)
    (tmp_path / "checkpoint").write_bytes(false.statement)
    status, out, err = run("verify", path, "--checkpoint", tmp_path / "checkpoint", "--issuer", OWNER.did)
    assert (status, out) == (5, "")
    assert "the first 50,000 entries" in err


def test_a_terminal_is_told_of_a_long_log_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    write_log(path, [record(number) for number in range(10_000)])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["audit", "verify", str(path)]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(audit_log, "_WATCHED_FROM_BYTES", 1)
    assert main(["audit", "verify", str(path)]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("\rverifying")
    assert shown.endswith("\r" + " " * 99 + "\r")


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_a_table(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "log"
    write_log(
        path,
        [
            record(7),
            record(0, sender="", recipient="", receipt=Receipt(b""), size_bytes=0),
            Record(
                AuditEvent.MESSAGE_REFUSED, at_ms=2**53 - 1, mesh=MESH, sender=OTHER.did, recipient=OWNER.did,
                receipt=Receipt(bytes(range(32))), size_bytes=2 << 20, reason="message.unknown_session", count=12_345,
                outcome=Outcome.DENY,
            ),
        ],
    )  # fmt: skip
    status, out, err = run("show", path)
    assert (status, err) == (0, "")
    head, first, second, third, count = out.splitlines()
    assert head.split() == ["time", "(UTC)", "event", "from", "to", "bytes", "receipt", "more"]
    own, other = OWNER.did[-6:], OTHER.did[-6:]
    assert first.split() == [
        "0", "2026-01-01", "00:00:00.007", "message.sealed", f"did:..{own}", f"did:..{other}", "326", "00000000", "no.",
        "7",
    ]  # fmt: skip
    assert second.split() == ["1", "2026-01-01", "00:00:00.000", "message.sealed", "-", "-"]
    assert third.split()[1:3] == ["9007199254740991", "ms"]
    assert third.endswith("2097152  00010203  message.unknown_session, 12,345 times")
    assert count == "3 entries"
    assert run("show", path, "--progress")[2] == ""  # too short to be told of


def test_show_shows_every_entry_of_a_log_of_many_pages_up_to_what_is_wrong(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "log"
    write_log(path, [record(number) for number in range(1, 2_501)])
    status, out, err = run("show", path)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert [(row[0], row[-2], row[-1]) for row in rows] == [
        (str(number), "no.", str(number + 1)) for number in range(2_500)
    ]
    entries = list(read_log_file(path))
    for wrong in (1_023, 1_024, 2_000):
        write_frames(path, [*entries[:wrong], *entries[wrong + 1 :]])
        status, out, err = run("show", path)
        assert (status, len(out.splitlines())) == (5, 1 + wrong)
        assert f"entry {wrong:,} has another number" in err


def test_show_stops_at_what_is_wrong(log: Path, run: Run) -> None:
    entries = list(read_log_file(log))
    path = log.with_name("other")
    write_frames(path, [*entries[:3], *entries[4:]])
    status, out, err = run("show", path)
    assert status == 5
    assert len(out.splitlines()) == 4
    assert "entry 3 has another number" in err
    assert "entries" not in out


# --- compare ----------------------------------------------------------------------------------------------------------


class Sides:
    """Two agents and a relay, each with a log file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.sinks = {name: LogFile(folder / name, fsync_every=None) for name in ("alice", "bob", "relay")}
        self.logs = {name: AuditLog(sink) for name, sink in self.sinks.items()}
        self.relay = self.logs["relay"]
        self.alice, self.bob = (
            Agent.create(
                MESH,
                identity=Identity.generate(SeededEntropy(name)),
                clock=self.clock,
                entropy=SeededEntropy(f"{name}/session"),
                journal=AuditJournal(self.logs[name]),
            )
            for name in ("alice", "bob")
        )
        bundle = self.bob.publish_bundles(1).one_time[0]
        [event] = self.bob.receive(self.see(self.alice.knock(self.bob.did, bundle, Intent("test")).envelope))
        assert isinstance(event, KnockReceived)
        self.alice.receive(self.see(self.bob.accept(event).envelope))

    def see(self, outgoing: bytes | Outgoing) -> bytes:
        envelope = bytes(outgoing)
        self.relay.append([relay_record(OuterEnvelope.parse(envelope), at_ms=self.clock())])
        return envelope

    def paths(self) -> list[Path]:
        self.clock.advance(seconds=60)
        self.bob.poll()
        for sink in self.sinks.values():
            sink.close()
        return [self.folder / "alice", self.folder / "bob"]


def test_compare_two_honest_logs(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    for number in range(3):
        sides.bob.receive(sides.see(sides.alice.send(sides.bob.did, b"%d" % number).envelope))
    first, second = sides.paths()
    for arguments in ([first, second], [second, first], [first, second, "--relay", tmp_path / "relay"]):
        status, out, err = run("compare", *arguments)
        assert (status, err) == (0, "")
        assert "4 envelopes sent, opened and recorded alike" in out
        assert "1 envelope sent, opened and recorded alike" in out
        assert sides.alice.did in out
        assert sides.bob.did in out


def test_compare_tells_what_was_lost_replayed_and_reordered(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    sent = [sides.alice.send(sides.bob.did, b"%d" % number).envelope for number in range(4)]
    for envelope in (sent[1], sent[0], sent[2]):
        sides.see(envelope)
    for envelope in (sent[1], sent[0]):
        sides.bob.receive(envelope)
    with pytest.raises(AgentMeshError):
        sides.bob.receive(sent[0])
    first, second = sides.paths()
    status, out, err = run("compare", first, second)
    assert (status, err) == (6, "agentmesh: 2 findings\n")
    assert out.count("    - sent, not opened ") == 2
    assert "1 copy seen again by the relay or refused" in out
    copy = f"{receipt_of(sent[0]).hex()[:8]}  message.duplicate"
    assert copy not in out
    assert copy in run("compare", first, second, "--all")[1]
    assert "not opened in the order of sending: 1 place" in out
    status, out, err = run("compare", first, second, "--relay", tmp_path / "relay")
    assert (status, err) == (6, "agentmesh: 4 findings\n")
    assert "    - sent, not seen by the relay" in out
    assert "    - seen by the relay, not opened" in out


def test_compare_lists_the_first_findings_or_all(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    for number in range(130):
        sides.alice.send(sides.bob.did, b"%d" % number)
    first, second = sides.paths()
    status, out, err = run("compare", first, second)
    assert (status, err) == (6, "agentmesh: 130 findings\n")
    assert out.count("sent, not opened") == 100
    assert "and 30 more: --all lists them" in out
    assert run("compare", first, second, "--all")[1].count("sent, not opened") == 130


def test_compare_names_fields_that_differ(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    sides.bob.receive(sides.alice.send(sides.bob.did, b"x"))
    first, second = sides.paths()
    records = list(verified_records(read_log_file(second)))
    records[-1].size_bytes += 1
    records[-1].envelope_time_ms += 1
    write_log(tmp_path / "false", records)
    status, out, _ = run("compare", first, tmp_path / "false")
    assert status == 6
    assert re.search(r"- recorded differently .*  envelope_time_ms, size_bytes\n", out)


def test_compare_wants_two_agents_logs(tmp_path: Path, run: Run) -> None:
    first, second = Sides(tmp_path).paths()
    relay = tmp_path / "relay"
    for arguments, wanted, said in (
        ((first, first), 4, "both logs are of did:agentmesh:"),
        ((first, relay), 4, "relay: not the log of one agent"),
        ((relay, second), 4, "relay: not the log of one agent"),
        ((first, tmp_path / "missing"), 3, "cannot read"),
        ((first, second, "--relay", tmp_path / "missing"), 3, "cannot read"),
    ):
        status, out, err = run("compare", *arguments)
        assert (status, out) == (wanted, "")
        assert said in err
    entries = list(read_log_file(second))
    write_frames(second, [*entries[:-2], entries[-1]])
    status, out, err = run("compare", first, second)
    assert (status, out) == (5, "")
    assert "has another number" in err


def test_compare_is_green_for_what_a_transport_and_a_crash_make(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    before = sides.bob.export_state()
    envelope = sides.see(sides.alice.send(sides.bob.did, b"x"))
    sides.bob.receive(envelope)
    log = AuditLog(MemorySink(sides.sinks["bob"].entries()))
    assert len(log)
    sides.bob = Agent.restore(before, clock=sides.clock, journal=AuditJournal(AuditLog(sides.sinks["bob"])))
    sides.bob.receive(sides.see(envelope))
    with pytest.raises(AgentMeshError):
        sides.bob.receive(sides.see(envelope))
    first, second = sides.paths()
    status, out, err = run("compare", first, second, "--relay", tmp_path / "relay")
    assert (status, err) == (0, "")
    assert "3 copies seen again by the relay or refused" in out
    assert "1 envelope as a crash between log and state leaves them:\n    - opened twice" in out


# --- many files, standard input, whose it is --------------------------------------------------------------------------


class Piped:
    """Standard input that holds a file's bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def rotated(folder: Path) -> tuple[Path, Path]:
    with LogFile(folder / "log", fsync_every=None) as sink:
        log = AuditLog(sink)
        log.append([record(number) for number in range(5)])
        log.rotate(folder / "log.1", identity=OWNER, mesh=MESH, time_ms=1_767_225_600_123)
        log.append([record(5), record(6)])
        (folder / "checkpoint").write_bytes(log.checkpoint(OWNER, mesh=MESH, time_ms=1).statement)
    return folder / "log.1", folder / "log"


def test_verify_says_whose_log_it_is(log: Path, run: Run) -> None:
    assert f"owner       {OWNER.did}" in run("verify", log)[1]
    seen = Record(AuditEvent.ENVELOPE_SEEN, at_ms=1, mesh=MESH, sender=OWNER.did, recipient=OTHER.did)
    write_log(log.with_name("relay"), [seen])
    assert "owner       none named" in run("verify", log.with_name("relay"))[1]
    entries = list(read_log_file(log))
    mixed = record(9, sender=OTHER.did).encode(5, leaf_hash(entries[4]))
    write_frames(log.with_name("mixed"), [*entries, mixed])
    status, out, err = run("verify", log.with_name("mixed"))
    assert (status, out) == (5, "")
    assert "more than one owner" in err
    checkpoint = sign_checkpoint(OTHER, mesh=MESH, size=0, root=EMPTY_ROOT, time_ms=1)
    log.with_name("checkpoint").write_bytes(checkpoint.statement)
    status, out, err = run("verify", log, "--checkpoint", log.with_name("checkpoint"), "--issuer", OTHER.did)
    assert (status, out) == (5, "")
    assert "another's log" in err


def test_a_log_of_many_files_is_one_to_each_command(tmp_path: Path, run: Run) -> None:
    one, two = rotated(tmp_path)
    signed = ["--checkpoint", tmp_path / "checkpoint", "--issuer", OWNER.did]
    status, out, err = run("verify", one, two, *signed)
    assert (status, err) == (0, "")
    assert "7, whole and in order" in out
    assert "earlier files" not in out
    status, out, err = run("verify", two, *signed)
    assert (status, err) == (0, "")
    assert "the first 5 in earlier files" in out
    assert f"handed over signed by {OWNER.did}, at 2026-01-01 00:00:00.123" in out
    assert [line.split()[0] for line in run("show", one, two)[1].splitlines()[1:-1]] == list("0123456")
    assert [line.split()[0] for line in run("show", two)[1].splitlines()[1:-1]] == list("56")
    status, out, err = run("verify", two, one)
    assert (status, out) == (5, "")
    assert "does not go on behind 7 entries" in err
    early = AuditLog(MemorySink(read_log_file(one))).checkpoint(OWNER, mesh=MESH, time_ms=1)
    (tmp_path / "checkpoint").write_bytes(early.statement)
    assert run("verify", one, two, *signed)[0] == 0
    write_log(tmp_path / "early", [record(0)])
    with LogFile(tmp_path / "early") as sink:
        less = AuditLog(sink).checkpoint(OWNER, mesh=MESH, time_ms=1)
    (tmp_path / "checkpoint").write_bytes(less.statement)
    status, out, err = run("verify", two, *signed)
    assert (status, out) == (2, "")
    assert "give the earlier files too" in err


def test_compare_takes_the_earlier_files_too(tmp_path: Path, run: Run) -> None:
    sides = Sides(tmp_path)
    sides.bob.receive(sides.see(sides.alice.send(sides.bob.did, b"x")))
    for name in sides.sinks:
        sides.logs[name].rotate(tmp_path / f"{name}.1")
    sides.bob.receive(sides.see(sides.alice.send(sides.bob.did, b"y")))
    first, second = sides.paths()
    earlier = [f"--earlier-{letter}={tmp_path / name}.1" for letter, name in (("a", "alice"), ("b", "bob"))]
    relay = ["--relay", tmp_path / "relay", f"--earlier-r={tmp_path / 'relay.1'}"]
    status, out, err = run("compare", first, second, *earlier, *relay)
    assert (status, err) == (0, "")
    assert "3 envelopes sent, opened and recorded alike" in out


def test_a_log_is_read_from_standard_input(log: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = log.read_bytes()
    for command, wanted in (("verify", "5, whole and in order"), ("show", "5 entries")):
        monkeypatch.setattr(sys, "stdin", Piped(data))
        status, out, err = run(command, "-")
        assert (status, err) == (0, "")
        assert wanted in out
    for content, wanted, said in (
        (b"", 4, "standard input: not an audit log"),
        (b"rubbish", 4, "standard input: not an audit log"),
        (data[:16] + b"\xff" * 9, 5, "entry 0 is not an entry of a log"),
        (data[:-1], 7, "behind 4 whole entries is torn"),
    ):
        monkeypatch.setattr(sys, "stdin", Piped(content))
        status, out, err = run("verify", "-")
        assert (status, out) == (wanted, "")
        assert said in err
    monkeypatch.setattr(sys, "stdin", None)
    assert run("verify", "-")[0] == 4  # a missing stream is the null device: nothing, and so no log
    monkeypatch.setattr(sys, "stdin", Piped(log.with_name("checkpoint").read_bytes()))
    assert run("verify", log, "--checkpoint", "-", "--issuer", OWNER.did)[0] == 0


def test_every_status_is_listed_in_the_help(run: Run) -> None:
    for command in ((), ("verify",), ("show",), ("compare",)):
        status, out, _ = run(*command, "--help")
        assert status == 0
        assert exit_table().strip() in out


# --- hostile text -----------------------------------------------------------------------------------------------------

HOSTILE = [
    "\x1b[2J\x1b[31m",
    "a\nb",
    "a\rb",
    "\u202ereversed",
    "\x07",
    "\x00",
    "\u00e9",
    "\x9b31m",
    "\U000e0041",
    "\x7f",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_text_in_a_log_cannot_act(text: str, tmp_path: Path, run: Run) -> None:
    """Written by somebody who does not go through this library; `run` refuses what is not printable ASCII."""
    fields: list[Any] = msgpack.unpackb(record(0).encode(0, bytes(32)))
    path = tmp_path / "log"
    for place in (4, 5, 6, 7, 14, 15):
        for value in (text, f"did:agentmesh:{text}"):
            altered = list(fields)
            altered[place] = value
            write_frames(path, [msgpack.packb(altered)])
            for arguments in (("verify", path), ("show", path), ("compare", path, path)):
                status, _, err = run(*arguments)
                assert status == 5
                assert "entry 0 is not an entry of a log" in err


@pytest.mark.parametrize("name", [text for text in HOSTILE if "\x00" not in text], ids=ascii)
def test_a_file_name_cannot_act(name: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / name
    write_log(path, [record(0)])
    assert run("verify", path)[0] == 0
    assert run("show", path)[0] == 0
    assert run("compare", path, path)[0] == 4
    path.unlink()
    for command in ("verify", "show"):
        assert run(command, path)[0] == 3
    assert run("verify", path, "--checkpoint", path, "--issuer", name)[0] == 3


def test_a_name_of_a_megabyte_is_cut(run: Run) -> None:
    status, out, err = run("verify", "x" * (1 << 20))
    assert (status, out) == (3, "")
    assert len(err) < 400


# --- as a process -----------------------------------------------------------------------------------------------------


def test_as_a_process(log: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agentmesh", "audit", *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = call("verify", log)
    assert (done.returncode, done.stderr) == (0, "")
    log.write_bytes(log.read_bytes()[:-1])
    done = call("verify", log)
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("agentmesh: ")
    assert len(done.stderr.splitlines()) == 1
