"""The command line without processes: how it writes, what it finds, what it checks, and that each check can fail."""

from __future__ import annotations

import argparse
import ast
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentmesh
from agentmesh import Agent, Intent
from agentmesh.cli import demo, inspection, ledger, leaks, main, peers, relay, report, text
from agentmesh.cli.frames import HEAD_BYTES, PAYLOAD_MAX_BYTES, Channel, FrameType, frame
from agentmesh.errors import AgentMeshError, BadSignature, DecryptionFailed, Malformed, RemoteError, TooLarge
from agentmesh.testing import Pair, agent_pair, established_pair

CANARY = b"the canary sings sixteen notes and more"

# --- text ------------------------------------------------------------------------------------------------------------


def is_printable_ascii(line: str) -> bool:
    return all(" " <= character <= "~" for character in line)


@given(st.text(), st.integers(4, 200))
def test_escaped_text_is_printable_ascii_of_that_width(value: str, width: int) -> None:
    shown = text.escaped(value, width)
    assert is_printable_ascii(shown)
    assert len(shown) <= width


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=20))
def test_escaping_loses_nothing_and_lets_nothing_pass_for_another(value: str) -> None:
    assert text.escaped(value, 1000).encode("ascii").decode("unicode_escape") == value


@pytest.mark.parametrize("value", ["\x1b[2J", "a\nb", "\r", "\x7f", "\x9b", "caf\xe9", "‮", "\udcff", "\U0001f600", "\\"])
def test_what_could_move_a_cursor_is_escaped(value: str) -> None:
    assert text.escaped(value).startswith("\\" if len(value) == 1 or value[0] == "\x1b" else value[0])
    assert is_printable_ascii(text.escaped(value))


def test_what_is_cut_says_so() -> None:
    assert text.escaped("a" * 11, 10) == "a" * 8 + ".."
    assert text.escaped("a" * 10, 10) == "a" * 10


@given(st.lists(st.lists(st.text("abc ", max_size=30), min_size=3, max_size=3)), st.lists(st.integers(2, 20), min_size=3, max_size=3))
def test_columns_are_aligned_and_never_wider_than_they_may_be(rows: list[list[str]], widths: list[int]) -> None:
    lines = text.columns([*rows, ["x" * width for width in widths]], widths, frozenset({1}))
    assert len(lines) == len(rows) + 1
    assert all(len(line) <= sum(widths) + 4 and line == line.rstrip() for line in lines)
    assert lines[-1] == "  ".join("x" * width for width in widths)


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (1, "1 byte"), (2, "2 bytes"), (1234567, "1,234,567 bytes")]
)
def test_an_amount_has_its_unit(count: int, shown: str) -> None:
    assert text.amount(count, "bytes") == shown


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
    "sent",
    [
        frame(FrameType.ENVELOPE, b"abc")[:-1],
        frame(FrameType.ENVELOPE, b"abc")[: HEAD_BYTES - 1],
        frame(FrameType.ENVELOPE, b"abc")[:HEAD_BYTES],
        b"\x00" + frame(FrameType.ENVELOPE, b"abc")[1:],
        b"\x07" + frame(FrameType.ENVELOPE, b"abc")[1:],
        bytes((FrameType.ENVELOPE,)) + (PAYLOAD_MAX_BYTES + 1).to_bytes(4, "big"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_frame_is_refused(ends: tuple[Channel, socket.socket], sent: bytes) -> None:
    channel, other = ends
    other.sendall(sent)
    other.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        channel.receive()


# --- ledger ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers()), st.integers(1, 5))
def test_a_ledger_keeps_the_first_and_the_last(entries: list[int], kept: int) -> None:
    noted = ledger.Ledger(kept)
    for entry in entries:
        noted.note(entry)
    reported = noted.report()
    middle = entries[kept : max(kept, len(entries) - kept)]
    assert reported["first"] == entries[:kept]
    assert reported["last"] == entries[kept:][-kept:]
    assert reported["left_out"] == len(middle)


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
def test_a_ledgers_hash_tells_which_receipts_came_in_which_order(receipts: list[bytes]) -> None:
    def envelopes(order: list[bytes]) -> Any:
        noted = ledger.Ledger()
        for receipt in order:
            noted.count("a", receipt.ljust(32), 7)
        return noted.report()["envelopes"]

    assert envelopes(receipts)["a"][:2] == [len(receipts), 7 * len(receipts)]
    assert (envelopes(receipts) == envelopes(receipts[::-1])) is (len(receipts) == 1)
    assert envelopes(receipts) != envelopes(receipts[1:])


# --- the search for plaintext ----------------------------------------------------------------------------------------


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[begin:end] for begin, end in zip(places, places[1:], strict=False)]


def windows(data: bytes) -> set[bytes]:
    return {data[place : place + 16] for place in range(len(data) - 15)}


# Few letters, so that texts share windows by chance, and nearly share them.
FEW_LETTERS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"aaaa", b"abababab"]), max_size=40).map(b"".join)


@given(FEW_LETTERS, st.lists(FEW_LETTERS, max_size=3), FEW_LETTERS, st.lists(st.integers(0, 500), max_size=5), st.booleans())
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
        self.copy = io.BytesIO()
        self.errors: dict[str, BaseException] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self._relay = relay.Relay(self.copy)
        self.file = demo._measure(path)
        self._shelf_is_full = threading.Event()
        channels, threads = [], []
        for _ in range(2):
            own, far = map(Channel, socket.socketpair())
            channels.append(own)
            threads.append(threading.Thread(target=self._relay.serve, args=(far,)))
        self.alice, self.bob = (peers.Station(channel) for channel in channels)
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
        return peers.Receiver(self.bob).run()

    def _send(self) -> dict[str, Any]:
        self._shelf_is_full.wait()
        file = self.file
        return peers.Sender(self.alice, self.bob.agent.did).run(str(file.path), file.name, file.size_bytes)

    def _leak(self, leak: bytes) -> None:
        post = self.alice.post

        def leaky(envelope: bytes, what: str) -> None:
            if what == "end of file":
                self.alice.publish(leak)
            post(envelope, what)

        self.alice.post = leaky  # type: ignore[method-assign]

    def _tamper(self) -> None:
        send = self.alice.agent.send

        def altered(did: str, data: bytes, *, action: str | None = None) -> bytes:
            envelope = bytearray(send(did, data, action=action))
            envelope[-1] ^= 1
            return bytes(envelope)

        self.alice.agent = Altered(self.alice.agent, altered)  # type: ignore[assignment]

    def seen(self) -> report.Reports:
        assert self.errors == {}
        carried = leaks.Counted([self.copy.getvalue()])
        names = [station.agent.did.encode() for station in (self.alice, self.bob)]
        leak = leaks.find_leak(carried, demo._secrets(self.file), names)
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
        )


class Altered:
    """An agent whose `send` is another."""

    def __init__(self, agent: Agent, send: Callable[..., bytes]) -> None:
        self._agent = agent
        self.send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)


@pytest.fixture(scope="module")
def letter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eleven chunks and a bit, of recognisable text."""
    path = tmp_path_factory.mktemp("files") / "letter.txt"
    lines = b"".join(b"%08d: %b\n" % (number, CANARY) for number in range(60_000))
    path.write_bytes(lines[: 11 * peers.CHUNK_BYTES // 2 * 2 - 2_800_000 + peers.CHUNK_BYTES])
    return path


@pytest.fixture(scope="module")
def conversation(letter: Path) -> Conversation:
    return Conversation(letter)


@pytest.fixture
def seen(conversation: Conversation) -> report.Reports:
    return conversation.seen()
