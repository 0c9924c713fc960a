"""The command line without processes: how it writes, what it finds, what it checks, and that each check can fail."""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import socket
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import agentmesh
from agentmesh import Agent, Header, Identity, Intent, Kind, OuterEnvelope
from agentmesh.audit import Checkpoint, sign_checkpoint
from agentmesh.audit.merkle import RootHash
from agentmesh.cli import inspection, main, streams, text
from agentmesh.cli.demo import leaks, parent, peers, relay, report, station, tally
from agentmesh.cli.demo.frames import HEAD_BYTES, PAYLOAD_MAX_BYTES, Channel, FrameType, frame
from agentmesh.cli.text import EXITS, Exit
from agentmesh.envelope import build
from agentmesh.errors import (
    AgentMeshError,
    BadSignature,
    ChunkBroken,
    DecryptionFailed,
    Malformed,
    RemoteError,
    TooLarge,
)
from agentmesh.outgoing import Outgoing
from agentmesh.primitives import build as running
from agentmesh.testing import Pair, agent_pair, established_pair

CANARY = b"the canary sings sixteen notes and more"


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8", *, isatty: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self._isatty = isatty

    def isatty(self) -> bool:
        return self._isatty

    def getvalue(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined, no-any-return]


# --- text ------------------------------------------------------------------------------------------------------------


def is_printable_ascii(line: str) -> bool:
    return all(" " <= character <= "~" for character in line)


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
# Letters, marks, what is invisible and what turns the direction, so that they stand side by side more often.
MIXED_TEXT = st.text(
    st.sampled_from(
        "ae\\ .\xe9\u0301\u0308\u0323\u20dd\u0488\u6587\uff21\U0001f600\u0928\u093f\u094d\u200b\u200d\ufe0f\u202e\u2066"
        "\u05d0\u0627\u0661\x1b\n\x9b\xa0\u3000\u3164\udcff\u2028\ue000\U000e0041"
    )
)


@pytest.fixture(params=[False, True], ids=["ascii", "letters"])
def beyond_ascii(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether text is written to a terminal that shows more than ASCII."""
    monkeypatch.setattr(text, "shows_all_letters", lambda: request.param)
    return bool(request.param)


def columns_of(shown: str) -> int:
    wide = sum(unicodedata.east_asian_width(character) in {"W", "F"} for character in shown)
    return len(shown) + wide - sum(unicodedata.category(character) == "Mn" for character in shown)


@given(value=st.one_of(st.text(), MIXED_TEXT), width=st.integers(4, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_escaped_text_is_harmless_and_of_that_width(beyond_ascii: bool, value: str, width: int) -> None:
    shown = text.escaped(value, width)
    assert columns_of(shown) <= width
    assert beyond_ascii or is_printable_ascii(shown)
    assert is_printable_ascii(text.escaped(value, width, plain=True))
    beyond = [character for character in shown if character > "~"]
    assert not {unicodedata.category(character) for character in beyond} & NEVER_SHOWN
    assert not {unicodedata.bidirectional(character) for character in beyond} & RIGHT_TO_LEFT
    assert not {"\u3164", "\ufe0f"} & set(beyond)  # drawn by no font
    assert not re.search(r"(^|[^\w\u0300-\u0323\u093f\u094d])[\u0300-\u0323]|[\u0300-\u0323]{3}", shown)


NEVER_SHOWN = {"Cc", "Cf", "Cs", "Co", "Cn", "Me", "Zs", "Zl", "Zp"}
RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "LRE", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI", "BN", "B", "S", "WS"}
ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


@given(value=st.one_of(ANY_TEXT, MIXED_TEXT))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_escaping_loses_nothing_and_lets_nothing_pass_for_another(beyond_ascii: bool, value: str) -> None:
    shown = text.escaped(value, 1000)
    assert ESCAPE.sub(lambda one: "\\" if one[1] == "\\" else chr(int(one[1][1:], 16)), shown) == value


@pytest.mark.parametrize(
    "name",
    [
        "caf\xe9", "cafe\u0301", "Gr\xfc\xdfe.txt", "\u6587\u4ef6", "\u0444\u0430\u0439\u043b",
        "\u0928\u093f\u092f\u092e", "\U0001f600 100 \u20ac", "Vie\u0302\u0323t",
    ],
)  # fmt: skip
def test_a_name_shows_as_it_is_on_a_terminal_that_knows_utf8(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for stdout, stderr, shows in (
        (Terminal("utf-8"), Terminal("UTF-8"), True),
        (Terminal("utf-8"), Terminal("ascii"), False),
        (Terminal("iso8859-1"), Terminal("iso8859-1"), False),
        (Terminal("utf-8", isatty=False), Terminal("utf-8"), False),
        (Terminal("utf-8"), Terminal("utf-8", isatty=False), False),
    ):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        assert (text.escaped(name) == name) is shows
        assert shows or is_printable_ascii(text.escaped(name))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\u0301\u0301\u0301", "a\u0301\u0301\\u0301"),  # piled up
        ("\u0301a", "\\u0301a"),
        ("1\u0338", "1\\u0338"),  # crosses a digit out
        ("a\u20dd", "a\\u20dd"),
        ("a\ufe0f", "a\\ufe0f"),
        ("a\u200bb", "a\\u200bb"),
        ("\u3164", "\\u3164"),
        ("\u05d0", "\\u05d0"),
        ("\u202e", "\\u202e"),
        ("\xa0", "\\xa0"),
        ("\x9b31m", "\\x9b31m"),
        ("\u05d0\u0301", "\\u05d0\\u0301"),  # it would stand on the escape's last digit
        ("\u6587" * 7, "\u6587" * 5 + ".."),  # two columns each, cut to twelve
    ],
)
def test_what_could_harm_is_escaped_there_too(value: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "shows_all_letters", lambda: True)
    assert text.escaped(value, 12) == shown


def test_the_name_in_the_knock_does_not_depend_on_the_terminal(tmp_path: Path, beyond_ascii: bool) -> None:
    path = tmp_path / "caf\xe9"
    path.write_bytes(b"")
    assert parent._measure(path).name == "caf\\xe9"
    assert (text.escaped(path.name) == path.name) is beyond_ascii


@pytest.mark.parametrize(
    "value", ["\x1b[2J", "a\nb", "\r", "\x7f", "\x9b", "caf\xe9", "‮", "\udcff", "\U0001f600", "\\"]
)
def test_what_could_move_a_cursor_is_escaped(value: str) -> None:
    assert text.escaped(value).startswith("\\" if len(value) == 1 or value[0] == "\x1b" else value[0])
    assert is_printable_ascii(text.escaped(value))


def test_what_is_cut_says_so() -> None:
    assert text.escaped("a" * 11, 10) == "a" * 8 + ".."
    assert text.escaped("a" * 10, 10) == "a" * 10


@given(
    st.lists(st.lists(st.text("abc ", max_size=30), min_size=3, max_size=3)),
    st.lists(st.integers(2, 20), min_size=3, max_size=3),
)
def test_columns_are_aligned_and_never_wider_than_they_may_be(rows: list[list[str]], widths: list[int]) -> None:
    lines = text.columns([*rows, ["x" * width for width in widths]], widths, frozenset({1}))
    assert len(lines) == len(rows) + 1
    assert all(len(line) <= sum(widths) + 4 and line == line.rstrip() for line in lines)
    assert lines[-1] == "  ".join("x" * width for width in widths)


@pytest.mark.parametrize(
    ("count", "units", "shown"),
    [
        (0, "bytes", "0 bytes"),
        (1, "bytes", "1 byte"),
        (2, "bytes", "2 bytes"),
        (1234567, "bytes", "1,234,567 bytes"),
        (0, "entries", "0 entries"),
        (1, "entries", "1 entry"),
        (2, "entries", "2 entries"),
        (1, "more envelopes", "1 more envelope"),
    ],
)
def test_an_amount_has_its_unit(count: int, units: str, shown: str) -> None:
    assert text.amount(count, units) == shown


def test_short_forms_tell_two_apart() -> None:
    did = "did:agentmesh:39Z426Ra7bpG6gg51KWSv4n3XLsy"
    assert text.short_did(did) == "did:..n3XLsy"
    assert text.short_hex("0123456789abcdef") == "01234567.."[:8]
    assert is_printable_ascii(text.short_did("did:agentmesh:\x1b\x1b\x1b\x1b"))


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """One end as a channel, the other bare."""
    one, other = socket.socketpair()
    channel = Channel(one)
    yield channel, other
    channel.close()
    other.close()


@given(st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=300))))
def test_frames_arrive_as_they_were_sent(sent: list[tuple[FrameType, bytes]]) -> None:
    left, right = socket.socketpair()
    one, other = Channel(left), Channel(right)
    for frame_type, payload in sent:
        one.send(frame(frame_type, payload))
    one.finish()
    received = list(iter(other.receive, None))
    one.close()
    other.close()
    assert received == sent


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (frame(FrameType.ENVELOPE, b"abc")[:-1], "a frame was cut off"),
        (frame(FrameType.ENVELOPE, b"abc")[:HEAD_BYTES], "a frame was cut off"),
        (frame(FrameType.ENVELOPE, b"abc")[: HEAD_BYTES - 1], "not a frame"),
        (b"\x00" + frame(FrameType.ENVELOPE, b"abc")[1:], "not a frame"),
        (b"\x07" + frame(FrameType.ENVELOPE, b"abc")[1:], "not a frame"),
        (bytes((FrameType.ENVELOPE,)) + PAYLOAD_MAX_BYTES.to_bytes(4, "big"), "a frame was cut off"),
        (bytes((FrameType.ENVELOPE,)) + (PAYLOAD_MAX_BYTES + 1).to_bytes(4, "big"), "not a frame"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a frame"),
    ],
)
def test_what_is_no_frame_is_refused(ends: tuple[Channel, socket.socket], sent: bytes, text: str) -> None:
    channel, other = ends
    other.sendall(sent)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match=text):
        channel.receive()


# --- tally -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers()))
def test_a_tally_keeps_what_it_is_told(entries: list[int]) -> None:
    noted = tally.Tally()
    for entry in entries:
        noted.note(entry)
    assert noted.report()["noted"] == entries


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
def test_a_tallys_hash_tells_which_receipts_came_in_which_order(receipts: list[bytes]) -> None:
    def envelopes(order: list[bytes]) -> Any:
        noted = tally.Tally()
        for receipt in order:
            noted.count("a", receipt.ljust(32), 7)
        return noted.report()["envelopes"]

    assert envelopes(receipts)["a"][:2] == [len(receipts), 7 * len(receipts)]
    assert (envelopes(receipts) == envelopes(receipts[::-1])) is (len(receipts) == 1)
    assert envelopes(receipts) != envelopes(receipts[1:])


# --- the search for plaintext ----------------------------------------------------------------------------------------


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[begin:end] for begin, end in pairwise(places)]


def windows(data: bytes) -> set[bytes]:
    return {data[place : place + 16] for place in range(len(data) - 15)}


# Few letters, so that texts share windows by chance, and nearly share them.
FEW_LETTERS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"aaaa", b"abababab"]), max_size=40).map(b"".join)


@given(
    FEW_LETTERS,
    st.lists(FEW_LETTERS, max_size=3),
    FEW_LETTERS,
    st.lists(st.integers(0, 500), max_size=5),
    st.booleans(),
)
def test_the_search_finds_what_a_plain_search_finds(
    carried: bytes, stretches: list[bytes], public: bytes, cuts: list[int], is_sample: bool
) -> None:
    plaintext = leaks.Plaintext(tuple(stretches), is_sample)
    secret = {window for stretch in stretches for window in windows(stretch) if len(set(window)) > 1}
    expected = (secret & windows(carried)) - windows(public)
    found = leaks.find_leak(pieces_of(carried, cuts), plaintext, [public])
    if found is None:
        assert expected == set()
    else:
        assert carried[found : found + 16] in expected


@given(
    st.binary(min_size=16, max_size=100),
    st.data(),
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.lists(st.integers(0, 300), max_size=5),
    st.booleans(),
)
def test_any_sixteen_bytes_that_leaked_are_found(
    plaintext: bytes, data: st.DataObject, before: bytes, after: bytes, cuts: list[int], is_sample: bool
) -> None:
    place = data.draw(st.integers(0, len(plaintext) - 16))
    leaked = plaintext[place : place + 16]
    carried = before + leaked + after
    found = leaks.find_leak(pieces_of(carried, cuts), leaks.Plaintext((plaintext,), is_sample))
    assert (found is not None) is bool({w for w in windows(carried) & windows(plaintext) if len(set(w)) > 1})


@given(st.integers(0, 255), st.integers(0, 100), st.booleans())
def test_a_run_of_one_byte_proves_nothing(value: int, count: int, is_sample: bool) -> None:
    run = bytes([value]) * count
    assert leaks.find_leak([run], leaks.Plaintext((run,), is_sample)) is None


def test_a_short_plaintext_is_searched_for_whole_and_a_long_one_by_a_sample_of_each_chunk() -> None:
    chunk = 256 << 10
    whole = os.urandom(leaks.WHOLE_MAX_BYTES)
    cut = leaks.plaintext_of((whole[at : at + chunk] for at in range(0, len(whole), chunk)), len(whole), chunk)
    assert cut == leaks.Plaintext((whole,), is_sample=False)

    chunks = [os.urandom(chunk) for _ in range(12)] + [b"x"]
    sample = leaks.plaintext_of(iter(chunks), 12 * chunk + 1, chunk)
    assert sample.is_sample
    assert len(sample.stretches) == 13
    assert all(stretch in part for stretch, part in zip(sample.stretches, chunks, strict=True))
    assert 120 << 10 <= sum(map(len, sample.stretches)) <= leaks.SAMPLE_BYTES
    # Whichever chunk leaks whole is found.
    assert all(leaks.find_leak([part], sample) is not None for part in chunks[:-1])
    # Nothing is found in other bytes, so that the finds above mean something.
    assert leaks.find_leak([os.urandom(chunk)], sample) is None


def test_a_sample_stays_small_however_long_the_plaintext_is() -> None:
    chunk = bytes(range(256)) * 4
    sample = leaks.plaintext_of((chunk for _ in range(30_000)), 30_000 * 1024, 1024)
    assert sum(map(len, sample.stretches)) <= 2 * leaks.SAMPLE_BYTES
    assert len(sample.stretches) >= 1000


def test_what_was_searched_for_is_said() -> None:
    assert leaks.Plaintext((b"x" * 20, b"y"), is_sample=False).describe() == "5 windows of 16 bytes"
    assert leaks.Plaintext((b"x" * 17,), is_sample=True).describe() == "a sample of 2 windows of 16 bytes"
    assert leaks.Plaintext((), is_sample=False).describe() == "0 windows of 16 bytes"


# --- a conversation in this process ----------------------------------------------------------------------------------


class Conversation:
    """Sender, receiver and relay in threads, over socket pairs: all of the demo but its processes."""

    def __init__(self, path: Path, *, leak: bytes = b"", tamper: bool = False) -> None:
        self.store = path.with_name(f"{path.name}.store")
        self.store.mkdir()
        self.copy = io.BytesIO()
        self.errors: dict[str, BaseException] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self._relay = relay.Relay(self.copy)
        self.file = parent._measure(path)
        self._shelf_is_full = threading.Event()
        channels, threads = [], []
        for _ in range(2):
            own, far = map(Channel, socket.socketpair())
            channels.append(own)
            threads.append(threading.Thread(target=self._relay.serve, args=(far,)))
        self.alice, self.bob = (station.Station(channel) for channel in channels)
        if leak:
            self._leak(leak)
        if tamper:
            self._tamper()
        threads.append(threading.Thread(target=self._run, args=("bob", self._receive, channels[1])))
        threads.append(threading.Thread(target=self._run, args=("alice", self._send, channels[0])))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            self.reports["relay"] = self._relay.wait()
        except (OSError, AgentMeshError) as error:
            self.errors["relay"] = error

    def _run(self, name: str, role: Callable[[], dict[str, Any]], channel: Channel) -> None:
        try:
            self.reports[name] = role()
        except (OSError, AgentMeshError) as error:
            self.errors[name] = error
            channel.close()
            self._shelf_is_full.set()

    def _receive(self) -> dict[str, Any]:
        self.bob.publish(self.bob.agent.publish_bundles(1, last_resort=False).one_time[0])
        self._shelf_is_full.set()
        return peers.Receiver(self.bob, str(self.store)).run()

    def _send(self) -> dict[str, Any]:
        self._shelf_is_full.wait()
        file = self.file
        sender = peers.Sender(self.alice, self.bob.agent.did, str(self.store))
        return sender.run(str(file.path), file.name, file.size_bytes)

    def _leak(self, leak: bytes) -> None:
        post = self.alice.post

        def leaky(outgoing: Outgoing, what: str) -> None:
            if what.startswith(("file", "names")):
                self.alice.publish(leak)
            post(outgoing, what)

        self.alice.post = leaky  # type: ignore[method-assign]

    def _tamper(self) -> None:
        send = self.alice.agent.send

        def altered(did: str, data: bytes, **more: Any) -> Outgoing:
            envelope = bytearray(send(did, data, **more).envelope)
            envelope[-1] ^= 1
            return Outgoing(bytes(envelope))

        self.alice.agent = Altered(self.alice.agent, altered)  # type: ignore[assignment]

    def seen(self) -> report.Reports:
        assert self.errors == {}
        carried = leaks.Counted([self.copy.getvalue()])
        names = [station.agent.did.encode() for station in (self.alice, self.bob)]
        leak = leaks.find_leak(carried, parent._secrets(self.file), names)
        return report.Reports(
            name=self.file.name,
            size_bytes=self.file.size_bytes,
            sha256=self.file.sha256.hex(),
            alice=self.alice.agent.did,
            bob=self.bob.agent.did,
            sender=self.reports["alice"],
            receiver=self.reports["bob"],
            relay=self.reports["relay"],
            leak=leak,
            searched_bytes=carried.total_bytes,
            searched_for="everything",
            store=parent._stored(str(self.store), self.file) if any(self.store.iterdir()) else None,
        )


class Altered:
    """An agent whose `send` is another."""

    def __init__(self, agent: Agent, send: Callable[..., bytes]) -> None:
        self._agent = agent
        self.send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever seals tells its parent how far it is: here there is none."""
    monkeypatch.setattr(peers, "say", lambda **_values: None)


def text_of(size: int) -> bytes:
    """Recognisable text."""
    return b"".join(b"%08d: %b\n" % (number, CANARY) for number in range(size // 50 + 1))[:size]


@pytest.fixture(scope="module")
def letter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that fits into a message, just."""
    path = tmp_path_factory.mktemp("files") / "letter.txt"
    path.write_bytes(text_of(peers.MESSAGE_MAX_BYTES))
    return path


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eleven chunks and a bit."""
    path = tmp_path_factory.mktemp("files") / "book.txt"
    path.write_bytes(text_of(11 * (256 << 10) + 1000))
    return path


@pytest.fixture(scope="module", params=["letter", "book"])
def conversation(request: pytest.FixtureRequest) -> Conversation:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(peers, "say", lambda **_values: None)
        return Conversation(request.getfixturevalue(request.param))


@pytest.fixture
def seen(conversation: Conversation) -> report.Reports:
    return conversation.seen()


def failed(seen: report.Reports) -> list[str]:
    return [check.name for check in report.checks(seen) if not check.passed]


def test_an_honest_conversation_passes_every_check(seen: report.Reports) -> None:
    checks = report.checks(seen)
    names = ["bytes", "blind", "receipts", "peers", "session"]
    assert [check.name for check in checks] == (names if seen.store is None else [*names, "store"])
    assert failed(seen) == []
    assert seen.sender["data_sent"] == 1
    assert seen.receiver["data_sent"] == 1


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, peers.MESSAGE_MAX_BYTES, peers.MESSAGE_MAX_BYTES + 1, 4 * peers.MESSAGE_MAX_BYTES]
)
def test_a_file_of_any_size_arrives(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    conversation = Conversation(path)
    seen = conversation.seen()
    assert failed(seen) == []
    assert seen.receiver["bytes"] == size
    # What is larger than a message, and nothing else, lies on the store.
    assert (seen.store is None) is (size <= peers.MESSAGE_MAX_BYTES)
    assert len(list(conversation.store.iterdir())) == (seen.store is not None)
    assert seen.relay["bytes"] < 10_000 + 2 * min(size, peers.MESSAGE_MAX_BYTES) * (seen.store is None)


@pytest.mark.parametrize("size", [16, 100, 5000])
def test_a_relay_that_carried_plaintext_fails_the_check(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    leak = path.read_bytes()[1234 : 1234 + size]
    conversation = Conversation(path, leak=leak)
    seen = conversation.seen()
    assert failed(seen) == ["blind"]
    assert seen.leak is not None
    assert conversation.copy.getvalue()[seen.leak : seen.leak + 16] in leak


@pytest.mark.parametrize("what", ["intent", "digest", "hexadecimal"])
def test_what_the_agents_say_about_the_file_is_plaintext_too(tmp_path: Path, what: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    file = parent._measure(path)
    leak = {
        "intent": peers.intent_of(file.name, file.size_bytes).detail,
        "digest": file.sha256,
        "hexadecimal": file.sha256.hex().encode(),
    }[what]
    assert failed(Conversation(path, leak=leak[4:20]).seen()) == ["blind"]


def test_names_that_the_relay_must_know_are_no_leak(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"did:agentmesh:" + CANARY)
    conversation = Conversation(path)
    path.write_bytes(conversation.alice.agent.did.encode() + CANARY)
    conversation.file = parent._measure(path)
    assert conversation.seen().leak is None


def test_a_store_that_has_plaintext_fails_the_check(book: Path, tmp_path: Path) -> None:
    conversation = Conversation(copy_of(book, tmp_path))
    (conversation.store / "more").write_bytes(b"x" * 1000 + book.read_bytes())
    seen = conversation.seen()
    assert failed(seen) == ["store"]
    assert seen.store is not None
    assert seen.store.leak is not None


def copy_of(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def test_a_blob_altered_on_the_store_is_refused_and_nothing_passes(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = peers.Sender._named

    def altered(sender: peers.Sender, path: str) -> Outgoing:
        message = named(sender, path)
        [blob] = Path(sender._store).iterdir()
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
        return message

    monkeypatch.setattr(peers.Sender, "_named", altered)
    errors = Conversation(copy_of(book, tmp_path)).errors
    assert isinstance(errors["bob"], ChunkBroken)
    assert isinstance(errors["alice"], ConnectionError)


def test_a_message_altered_under_way_is_refused_and_nothing_passes(letter: Path, tmp_path: Path) -> None:
    conversation = Conversation(copy_of(letter, tmp_path), tamper=True)
    assert isinstance(conversation.errors["bob"], DecryptionFailed)
    assert isinstance(conversation.errors["alice"], ConnectionError)
    assert conversation.reports.keys() <= {"relay"}


def test_an_answer_about_other_bytes_is_found_out(
    letter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = peers.Receiver._taken

    def forgetful(receiver: peers.Receiver, event: Any, receipt: str) -> bytes:
        return b"\1" + taken(receiver, event, receipt)[1:]

    monkeypatch.setattr(peers.Receiver, "_taken", forgetful)
    errors = Conversation(copy_of(letter, tmp_path)).errors
    assert type(errors["alice"]) is OSError
    assert str(errors["alice"]) == "other bytes arrived than were sent"


def test_a_file_that_changes_under_way_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"twelve bytes")
    measure = parent._measure

    def slow(measured: Path) -> Any:
        file = measure(measured)
        path.write_bytes(b"twelve bytes and more")
        return file

    monkeypatch.setattr(parent, "_measure", slow)
    assert str(Conversation(path).errors["alice"]) == "the file changed while it was sent"


def test_the_relay_refuses_an_envelope_under_another_name(
    letter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = established_pair(1)
    foreign = pair.alice.send(pair.bob.did, b"")
    monkeypatch.setattr(Agent, "knock", lambda *_arguments, **_named: foreign)
    assert str(Conversation(copy_of(letter, tmp_path)).errors["relay"]) == "an envelope names another sender"


# --- the report ------------------------------------------------------------------------------------------------------


def with_value(side: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**side, **changed}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bytes", lambda seen: {"receiver": with_value(seen.receiver, sha256="00" * 32)}),
        ("bytes", lambda seen: {"receiver": with_value(seen.receiver, bytes=seen.size_bytes - 1)}),
        ("bytes", lambda seen: {"sender": with_value(seen.sender, sha256="00" * 32)}),
        ("bytes", lambda seen: {"sha256": "00" * 32}),
        ("bytes", lambda seen: {"size_bytes": seen.size_bytes + 1}),
        ("blind", lambda _seen: {"leak": 0}),
        ("blind", lambda seen: {"searched_bytes": seen.searched_bytes - 1}),
        ("receipts", lambda seen: {"sender": with_value(seen.sender, envelopes={})}),
        ("receipts", lambda seen: {"receiver": with_value(seen.receiver, envelopes={})}),
        ("receipts", lambda seen: {"relay": with_value(seen.relay, envelopes={})}),
        (
            "receipts",
            lambda seen: {
                "relay": with_value(
                    seen.relay, envelopes={**seen.relay["envelopes"], seen.bob: seen.relay["envelopes"][seen.alice]}
                )
            },
        ),
        ("peers", lambda seen: {"sender": with_value(seen.sender, peer=seen.alice)}),
        ("peers", lambda seen: {"receiver": with_value(seen.receiver, peer=seen.bob)}),
        ("session", lambda seen: {"sender": with_value(seen.sender, phase="established")}),
        ("session", lambda seen: {"receiver": with_value(seen.receiver, phase="truncated")}),
        ("session", lambda seen: {"receiver": with_value(seen.receiver, data_opened=0)}),
        ("session", lambda seen: {"sender": with_value(seen.sender, data_opened=0)}),
    ],
)
def test_each_check_can_fail_and_alone(
    seen: report.Reports,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[report.Reports], dict[str, Any]],
) -> None:
    changed = attrs.evolve(seen, **change(seen))
    assert failed(changed) == [name]
    assert parent._show(SPOKEN, changed, PIDS) == Exit.FOUND
    shown = capsys.readouterr()
    assert shown.err == f"agentmesh: 1 check failed: {name}\n"
    assert f"\nFAIL  {name}" in shown.out
    assert shown.out.count("\nok  ") == len(report.checks(seen)) - 1


@pytest.mark.parametrize(
    "change",
    [
        lambda seen: {"store": attrs.evolve(seen.store, leak=7)},
        lambda seen: {"store": attrs.evolve(seen.store, size_bytes=seen.store.size_bytes - 1)},
        lambda seen: {"sender": with_value(seen.sender, blob=[])},
        lambda seen: {"receiver": with_value(seen.receiver, blob=["00" * 32, seen.store.size_bytes])},
    ],
)
def test_the_check_of_the_store_can_fail_and_alone(
    on_a_store: report.Reports, change: Callable[[report.Reports], dict[str, Any]]
) -> None:
    assert failed(on_a_store) == []
    assert failed(attrs.evolve(on_a_store, **change(on_a_store))) == ["store"]


@pytest.fixture(scope="module")
def on_a_store(book: Path, tmp_path_factory: pytest.TempPathFactory) -> report.Reports:
    """What is seen of a file that is larger than a message."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(peers, "say", lambda **_values: None)
        return Conversation(copy_of(book, tmp_path_factory.mktemp("store"))).seen()


SPOKEN = argparse.Namespace(json=False)
PIDS = {"Alice": 1, "relay": 2, "Bob": 3}


def test_what_is_shown_is_short_and_says_who_saw_what(
    seen: report.Reports, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert parent._show(SPOKEN, seen, PIDS) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert len(lines) < 50
    assert all(len(line) <= text.WIDTH and is_printable_ascii(line) for line in lines)
    assert "FAIL" not in shown.out
    assert CANARY.decode() not in shown.out
    rows = ("file: 1,048,576 B",) if seen.store is None else ("names a blob", "opens 12 chunks", "\nstore  a folder")
    for row in (*rows, "SHA-256 ", "closes: 1 sent"):
        assert row in shown.out
    assert sum(line.startswith("session closed") and line.endswith("session closed") for line in lines) == 1
    # Every side knew every envelope that it is shown with.
    assert "?" not in shown.out


def words(lines: list[str]) -> Counter[str]:
    return Counter(re.findall(r"[^\s,-]+", " ".join(lines)))


@pytest.mark.parametrize("width", [60, 61, 72, 80, 99])
def test_a_narrow_page_says_all_that_a_wide_one_does(seen: report.Reports, width: int) -> None:
    wide = [*report.page(seen, PIDS, 100), *report.next_steps(100)]
    narrow = [*report.page(seen, PIDS, width), *report.next_steps(width)]
    assert all(len(line) <= width for line in narrow)
    missing = words(wide) - words(narrow)
    if missing.pop(seen.sha256, 0):
        assert seen.sha256 in "".join(narrow).replace(" ", "")  # it has 64 characters, and is broken
    assert missing == Counter()
    assert all(line == line.rstrip() for line in narrow)


@pytest.mark.parametrize(
    ("columns", "width"), [("140", 100), ("100", 100), ("80", 80), ("20", 60), ("0", 100), ("", 100)]
)
def test_a_page_is_as_wide_as_the_terminal_within_reason(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    assert streams.page_width() == width


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_progress_stays_on_its_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _number: os.terminal_size((columns, 24)))
    stderr = Terminal()
    monkeypatch.setattr(stderr, "fileno", lambda: 2)
    monkeypatch.setattr(sys, "stderr", stderr)
    streams.overwrite("x" * 200)
    streams.overwrite("")
    assert all(len(line) < columns for line in stderr.getvalue().split("\r"))
    streams.overwrite("short")
    assert stderr.getvalue().endswith("\rshort".ljust(min(columns, 100)))


def test_who_has_seen_the_demo_is_told_what_to_do_next(
    seen: report.Reports, capsys: pytest.CaptureFixture[str]
) -> None:
    parent._show(SPOKEN, seen, PIDS)
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next  ")]
    assert len(steps) == 3
    root = Path(agentmesh.__file__).parents[1]
    assert (root / steps[0].split()[1]).is_file() or not (root / "docs").exists()
    parent._show(SPOKEN, attrs.evolve(seen, leak=0), PIDS)
    assert "next  " not in capsys.readouterr().out


def test_the_relays_columns_hold_nothing_but_what_a_relay_knows(conversation: Conversation) -> None:
    rows = conversation.reports["relay"]
    for entry in rows["noted"]:
        assert entry.keys() == {"kind", "size", "from", "to", "receipt"}
        assert entry["kind"] in {"bundle", "knock", "accept", "message"}
        assert {entry["from"], entry["to"]} <= {"", conversation.alice.agent.did, conversation.bob.agent.did}


def test_the_relay_knows_of_the_library_only_the_outer_envelope() -> None:
    tree = ast.parse(Path(relay.__file__).read_text(encoding="utf-8"))
    imported = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("agentmesh")
        for alias in node.names
        if not str(node.module).startswith("agentmesh.cli.")
    }
    assert imported == {("agentmesh.envelope", "OuterEnvelope"), ("agentmesh.errors", "AgentMeshError")}


# --- the demo's parent -----------------------------------------------------------------------------------------------


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], tuple[int, str]]:
    """What runs a command that says nothing but one line on stderr, and returns its status and that line."""

    def call(argv: list[str]) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main.main(argv)
        status = stopped.value.code
        assert isinstance(status, Exit)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("agentmesh: ")
        assert err.endswith("\n")
        line = err.removeprefix("agentmesh: ").removesuffix("\n")
        assert is_printable_ascii(line)
        return status, line

    return call


Complaint = Callable[[list[str]], tuple[int, str]]


def test_a_file_that_cannot_be_sent_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: Complaint
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parent, "Child", None)
    for name, said in (
        ("no\x1b[1mfile", "cannot read no\\x1b[1mfile: No such file or directory"),
        (".", "cannot send .: a directory"),
        (os.devnull, f"cannot send {os.devnull}: not a regular file"),
        ("a\0b", "cannot read a\\x00b: not a file name"),
    ):
        assert complaint(["demo", name]) == (Exit.UNREADABLE, said)
    status, line = complaint(["demo", "x" * 5000])
    assert status == Exit.UNREADABLE
    assert line.startswith("cannot read xxx")


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path, complaint: Complaint) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    status, line = complaint(["demo", str(tmp_path / "pipe")])
    assert status == Exit.UNREADABLE
    assert line.endswith("pipe: not a regular file")


def test_the_sample_is_shipped_and_is_plain_text() -> None:
    sample = (files("agentmesh.cli.demo") / "sample.txt").read_bytes()
    assert 2_000 < len(sample) < 10_000
    assert all(is_printable_ascii(line) and len(line) < 80 for line in sample.decode("ascii").split("\n"))


@pytest.mark.parametrize(
    ("stderr", "size_bytes", "shows"),
    [(Terminal(), 20 << 20, True), (Terminal(), 1 << 20, False), (Terminal(isatty=False), 20 << 20, False)],
)
def test_progress_is_shown_only_to_who_watches_a_long_run(
    monkeypatch: pytest.MonkeyPatch, stderr: Terminal, size_bytes: int, shows: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with parent._progress(size_bytes) as show:
        show(size_bytes // 2)
        assert ("50 %" in stderr.getvalue()) is shows
    # The line is wiped, and no new one is begun.
    assert stderr.getvalue().endswith(" \r") is shows
    assert "\n" not in stderr.getvalue()


# --- inspect ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> Pair:
    return agent_pair(7)


@pytest.fixture(scope="module")
def specimens(pair: Pair) -> dict[str, bytes]:
    alice, bob = pair.alice, pair.bob
    shelf = bob.publish_bundles(2)
    knock = alice.knock(
        bob.did, shelf.one_time[0], Intent("sing", description=CANARY.decode()), early_payload=CANARY
    ).envelope
    [event] = bob.receive(knock)
    accepted = bob.accept(event)  # type: ignore[arg-type]
    alice.receive(accepted.envelope)
    other = alice.knock(bob.did, shelf.one_time[1], Intent("sing")).envelope
    [event] = bob.receive(other)
    assert shelf.last_resort is not None
    return {
        "knock": bytes(knock),
        "accept": accepted.envelope,
        "reject": bob.reject(event).envelope,  # type: ignore[arg-type]
        "message": alice.send(bob.did, CANARY).envelope,
        "one-time": shelf.one_time[0],
        "last-resort": shelf.last_resort,
    }


@pytest.mark.parametrize("kind", ["knock", "accept", "reject", "message"])
def test_an_envelope_shows_its_header_receipt_and_size(pair: Pair, specimens: dict[str, bytes], kind: str) -> None:
    envelope = specimens[kind]
    fields = dict(inspection.describe(envelope).fields)
    outer = OuterEnvelope.parse(envelope)
    ends = (pair.alice.did, pair.bob.did)
    assert fields["envelope"] == kind
    assert fields["mesh"] == "example/test"
    assert (fields["from"], fields["to"]) == (ends if kind in {"knock", "message"} else ends[::-1])
    assert fields["time"] == "2026-01-01T00:00:00.000Z"
    assert fields["receipt"] == outer.receipt.hex()
    assert fields["size"].startswith(f"{len(envelope):,} bytes: ")
    assert ("session" in fields) is (kind in {"accept", "message"})
    assert not any(CANARY.decode() in value for value in fields.values())


@pytest.mark.parametrize("kind", ["one-time", "last-resort"])
def test_a_bundle_shows_what_its_owner_signed(pair: Pair, specimens: dict[str, bytes], kind: str) -> None:
    fields = dict(inspection.describe(specimens[kind]).fields)
    assert fields["bundle"] == kind
    assert fields["owner"] == pair.bob.did
    assert fields["valid"] == "2026-01-01T00:00:00.000Z to"
    assert fields["size"] == f"{len(specimens[kind]):,} bytes"


@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_bundle_with_any_bit_changed_is_refused(specimens: dict[str, bytes], place: int, bits: int) -> None:
    data = bytearray(specimens["one-time"])
    data[place % len(data)] ^= bits
    with pytest.raises(RemoteError):
        inspection.describe(bytes(data))


def test_a_bundle_with_a_forged_signature_says_so(specimens: dict[str, bytes]) -> None:
    data = bytearray(specimens["one-time"])
    data[-64] ^= 1
    with pytest.raises(BadSignature):
        inspection.describe(bytes(data))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    owner = Identity.from_seed(bytes(32))
    return sign_checkpoint(owner, mesh="example/test", size=1234, root=RootHash(bytes(range(32))), time_ms=1)


def test_a_checkpoint_shows_what_its_issuer_signed(checkpoint: Checkpoint) -> None:
    fields = dict(inspection.describe(checkpoint.statement).fields)
    assert fields["audit"] == "checkpoint"
    assert fields["mesh"] == "example/test"
    assert fields["issuer"] == checkpoint.issuer.did
    assert fields["covers"] == "the first 1,234 entries of the log"
    assert fields["root"] == checkpoint.root.hex()
    assert fields["time"] == "1970-01-01T00:00:00.001Z"
    assert all(is_printable_ascii(value) and len(value) <= text.WIDTH - 11 for value in fields.values())


@given(place=st.integers(0, 10**9), bits=st.integers(1, 255))
def test_a_checkpoint_with_any_bit_changed_is_refused(checkpoint: Checkpoint, place: int, bits: int) -> None:
    data = bytearray(checkpoint.statement)
    data[place % len(data)] ^= bits
    with pytest.raises(RemoteError):
        inspection.describe(bytes(data))


def test_a_forged_checkpoint_says_so(checkpoint: Checkpoint, tmp_path: Path, complaint: Complaint) -> None:
    data = bytearray(checkpoint.statement)
    data[-1] ^= 1
    (tmp_path / "forged").write_bytes(data)
    status, line = complaint(["inspect", str(tmp_path / "forged")])
    assert status == Exit.TAMPERED
    assert line.endswith(str(BadSignature()))


@given(st.binary(max_size=2000))
def test_other_bytes_are_refused_by_an_error_of_ours(data: bytes) -> None:
    assume(not data.startswith(b"agentmesh-log-1"))  # a log is known by its first bytes
    with pytest.raises(RemoteError):
        inspection.describe(data)


def test_too_many_bytes_are_refused_by_their_length() -> None:
    with pytest.raises(TooLarge):
        inspection.describe(bytes(PAYLOAD_MAX_BYTES + 1))


def test_what_a_stranger_wrote_into_a_header_is_cut_to_the_width() -> None:
    name = "did:agentmesh:".ljust(128, "z")
    header = Header(kind=Kind.MESSAGE, mesh="m" * 64, sender=name, recipient=name, time_ms=2**53 - 1)
    fields = dict(inspection.describe(build(header.encode(), b"")).fields)
    assert all(is_printable_ascii(value) and len(value) <= text.WIDTH - 11 for value in fields.values())
    assert fields["from"] == fields["to"] == name[:86] + ".."
    assert fields["time"] == f"{2**53 - 1} ms since the epoch"


def test_inspect_reads_a_file_or_standard_input(
    tmp_path: Path, specimens: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "envelope"
    path.write_bytes(specimens["message"])
    assert main.main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("envelope   message\n")
    assert all(len(line) <= text.WIDTH for line in shown.splitlines())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(specimens["message"])))
    assert main.main(["inspect", "-"]) == 0
    assert capsys.readouterr().out == shown


def test_what_cannot_be_inspected_is_named_in_one_line(
    tmp_path: Path, specimens: dict[str, bytes], complaint: Complaint
) -> None:
    (tmp_path / "bad").write_bytes(b"x")
    forged = bytearray(specimens["one-time"])
    forged[-64] ^= 1
    (tmp_path / "forged").write_bytes(forged)
    for name, status, said in (
        ("bad", Exit.MALFORMED, f"bad: {Malformed()}"),
        ("forged", Exit.TAMPERED, f"forged: {BadSignature()}"),
        (".", Exit.UNREADABLE, "Is a directory"),
        ("none", Exit.UNREADABLE, "none: No such file or directory"),
        ("\0", Exit.UNREADABLE, "\\x00: not a file name"),
    ):
        ended, line = complaint(["inspect", str(tmp_path / name)])
        assert ended == status
        assert line.endswith(said)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"agentmesh {agentmesh.__version__} ({running.BUILD})\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "\n    demo " in shown
    assert "\n    inspect " in shown


def test_every_exit_status_has_a_number_of_its_own_and_a_meaning() -> None:
    assert [status.name for status in Exit] == list(Exit.__members__)  # an equal number would make a second name of it
    assert EXITS.keys() == set(Exit)
    assert all(0 <= status <= 255 for status in Exit)


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["inspect"], ["attach", "seal"], ["audit"], ["audit", "compare"], ["store", "check"]]
)
def test_the_help_of_every_command_lists_the_exit_status(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main.main([*command, "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {status:<3d} " in shown and meaning in shown for status, meaning in EXITS.items())


@pytest.mark.parametrize("argv", [[], ["nothing"], ["inspect"], ["demo", "a", "b"], ["--nothing"]])
def test_wrong_usage_has_an_exit_status_of_its_own(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m agentmesh")


@pytest.mark.parametrize("argv", [["inspect", "a", "\x1b[2J"], ["\x1b[2J"], ["inspect", "--\x9b31m", "\u202e"]])
def test_what_a_shell_put_in_for_a_star_cannot_act_in_an_error(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(argv)
    assert stopped.value.code == Exit.USAGE
    assert re.fullmatch(r"[ -~\n]*", capsys.readouterr().err)


def test_an_interrupted_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_data: bytes) -> inspection.Described:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "describe", interrupted)
    assert main.main(["inspect", os.devnull]) == 130
    assert capsys.readouterr() == ("", "agentmesh: interrupted\n")


def test_a_command_is_added_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        commands.add_parser("other").set_defaults(run=lambda _arguments: 7)

    monkeypatch.setattr(main, "_COMMANDS", (*main._COMMANDS, add_command))
    assert main.main(["other"]) == 7
