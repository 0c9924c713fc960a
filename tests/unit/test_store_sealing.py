"""Between rows and sealed rows: what was written last opens, and nothing else does."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import (
    ArgumentInvalid,
    RandomnessFailed,
    StateVersionUnknown,
    StoreBroken,
    StoreError,
    StoreFailed,
    StoreKeyWrong,
)
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.store import data_key
from agentmesh.store.data_key import ARGON2_MEMORY_MAX_KIB, ARGON2_PASSES_MAX, StoreKey, unwrap, wrap_new
from agentmesh.store.rows import Name
from agentmesh.store.sealing import HIDDEN_BYTES, KINDS, Sealer
from agentmesh.testing import SeededEntropy
from agentmesh.trust import StateKey

RAW = bytes(range(32))
ENTROPY = SeededEntropy(b"sealing")
Stored = dict[Name, bytes]
Rows = dict[Name, bytes]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Argon2id with as little as there may be: what it costs is not what is tested.
    monkeypatch.setitem(wrap_new.__wrapped__.__kwdefaults__, "passes", 1)  # type: ignore[attr-defined]
    monkeypatch.setitem(wrap_new.__wrapped__.__kwdefaults__, "memory_kib", 8)  # type: ignore[attr-defined]


class Kept:
    """An agent's rows as a store has them, without a store."""

    def __init__(self, key: StoreKey = RAW, name: str = "agent") -> None:
        self.key, self.name = key, name
        self.sealer = Sealer.new(name, key, entropy=ENTROPY)
        self.stored: Stored = {}
        self.number = 0

    def write(self, rows: dict[Name, bytes | None], generation: int = 7) -> None:
        put, removed = self.sealer.seal_rows(rows, self.number + 1, generation)
        self.apply(put, removed)
        self.sealer.written()

    def apply(self, put: Stored, removed: list[Name]) -> None:
        for name in removed:
            self.stored.pop(name, None)
        self.stored |= put
        self.number += 1

    def open(self, key: StoreKey | None = None) -> tuple[Sealer, Rows, int]:
        key = self.key if key is None else key
        return Sealer.open(self.name, key, _triples(self.stored, False), self.number, entropy=ENTROPY)

    def open_all(self) -> None:
        self.open()
        self.log()

    def log(self) -> dict[int, bytes]:
        return dict(self.open()[0].open_log(_triples(self.stored, True)))


def _triples(stored: Stored, log: bool) -> list[tuple[str, bytes, bytes]]:
    return sorted((kind, key, data) for (kind, key), data in stored.items() if (kind == "log") == log)


def log_name(number: int) -> Name:
    return "log", number.to_bytes(8, "big")


def sample(key: StoreKey = RAW, name: str = "agent") -> Kept:
    kept = Kept(key, name)
    kept.write({("session", bytes([n]) * 16): b"session %d" % n for n in range(3)})
    kept.write({("agent", b""): b"seed", ("peer", b"p" * 32): b"peer", log_name(0): b"e0", log_name(1): b"e1"}, 8)
    kept.write({("session", bytes(16)): b"session 0 again", ("session", b"\x01" * 16): None, log_name(2): b"e2"}, 9)
    return kept


SAMPLE = {
    ("session", bytes(16)): b"session 0 again",
    ("session", b"\x02" * 16): b"session 2",
    ("agent", b""): b"seed",
    ("peer", b"p" * 32): b"peer",
}


def refused(kept: Kept, what: str) -> None:
    with pytest.raises(StoreBroken) as caught:
        kept.open()
    assert caught.value.what == what


# --- what was written opens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [RAW, bytearray(RAW), StateKey(RAW), "a passphrase", lambda: RAW, lambda: StateKey(RAW)]
)
def test_rows_open_under_the_key_that_they_were_sealed_under(key: Any) -> None:
    kept = sample(key)
    _, rows, generation = kept.open()
    assert (rows, generation) == (SAMPLE, 9)
    assert kept.log() == {0: b"e0", 1: b"e1", 2: b"e2"}


kinds = st.sampled_from(sorted(KINDS - {"log"}))
writes = st.dictionaries(
    st.tuples(kinds, st.sampled_from([b"", b"a", b"b" * 32])), st.none() | st.binary(max_size=80), max_size=5
)


@given(st.lists(st.tuples(writes, st.integers(0, 2), st.sampled_from(["written", "failed", "reopened"])), max_size=8))
def test_whatever_was_written_opens_and_what_failed_is_not_there(
    steps: list[tuple[dict[Name, bytes | None], int, str]],
) -> None:
    kept = Kept()
    model: Rows = {}
    log: dict[int, bytes] = {}
    kept.write({})
    for rows, entries, end in steps:
        added = {len(log) + n: b"entry %d" % n for n in range(entries)}
        changes = {**rows, **{log_name(number): data for number, data in added.items()}}
        if end == "failed":
            kept.sealer.seal_rows(changes, kept.number + 1, 1)
            continue
        if end == "reopened":
            kept.sealer = kept.open()[0]
        kept.write(changes, kept.number)
        log |= added
        model = {name: data for name, data in {**model, **rows}.items() if data is not None}
    _, found, _ = kept.open()
    assert found == model
    assert kept.log() == log


def test_a_write_counts_once_it_is_said_to_be_durable_and_however_often_that_is_said() -> None:
    kept = sample()
    put, removed = kept.sealer.seal_rows({("peer", b"p" * 32): None, ("kept", b"k"): b"k"}, 4, 10)
    kept.apply(put, removed)
    kept.sealer.written()
    kept.sealer.written()
    kept.write({("kept", b"k"): b"l"}, 11)
    assert kept.open()[1] == {name: data for name, data in SAMPLE.items() if name[0] != "peer"} | {("kept", b"k"): b"l"}


def test_an_adoption_that_is_broken_off_anywhere_is_finished_by_the_next_write(interrupts: Any) -> None:
    def made() -> Kept:
        kept = sample()
        changes = {("peer", b"p" * 32): None, ("kept", b"k"): b"k", log_name(3): b"e3"}
        kept.apply(*kept.sealer.seal_rows(changes, 4, 10))
        return kept

    for said_again in (True, False):
        for kept in interrupts.each(made, lambda kept: kept.sealer.written(), rooms=("store",)):
            if said_again:  # as who finds out that the write is durable does
                kept.sealer.written()
            elif kept.sealer._durable is None and kept.sealer._pending is not None:
                continue  # it was broken off before it began
            kept.write({("kept", b"l"): b"l", log_name(4): b"e4"}, 11)
            rows = kept.open()[1]
            assert ("peer", b"p" * 32) not in rows
            assert rows.keys() >= {("kept", b"k"), ("kept", b"l")}
            assert list(kept.log()) == [0, 1, 2, 3, 4]


# --- what was not written last does not ------------------------------------------------------------------------------


def test_every_row_altered_anywhere_is_found() -> None:
    whole = sample()
    for name, data in list(whole.stored.items()):
        for at in range(len(data)):
            kept = sample()
            kept.stored = {**whole.stored, name: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]}
            kept.number = whole.number
            with pytest.raises(StoreError):
                kept.open_all()


def test_every_row_cut_anywhere_is_found() -> None:
    kept = sample()
    for name, data in list(kept.stored.items()):
        for size in range(len(data)):
            kept.stored[name] = data[:size]
            with pytest.raises(StoreError):
                kept.open_all()
        kept.stored[name] = data


def test_every_row_taken_out_is_found() -> None:
    kept = sample()
    for name in list(kept.stored):
        data = kept.stored.pop(name)
        with pytest.raises(StoreBroken):
            kept.open_all()
        kept.stored[name] = data


def test_an_older_copy_of_any_row_is_found_and_so_is_one_that_was_removed() -> None:
    kept = sample()
    older = dict(kept.stored)
    kept.write({("session", bytes(16)): b"3", ("peer", b"p" * 32): None, ("agent", b""): b"seed"}, 10)
    newer = dict(kept.stored)
    for name in older:
        if older[name] != newer.get(name):
            kept.stored = {**newer, name: older[name]}
            with pytest.raises(StoreBroken):
                kept.open()
    kept.stored = newer
    assert kept.open()[2] == 10


def test_an_older_copy_of_all_rows_opens_only_as_what_it_is() -> None:
    kept = sample()
    older, number = dict(kept.stored), kept.number
    kept.write({("session", bytes(16)): b"3"}, 10)
    kept.stored = older
    refused(kept, "head")
    kept.number = number
    assert kept.open()[1] == SAMPLE  # which a counter that is kept elsewhere knows to be old


def test_no_row_passes_for_another() -> None:
    kept = sample()
    whole = dict(kept.stored)
    for one in whole:
        for other in whole:
            if one != other:
                kept.stored = {**whole, one: whole[other], other: whole[one]}
                with pytest.raises(StoreError):
                    kept.open_all()


def test_no_row_passes_for_one_of_another_agent_or_kind_or_place() -> None:
    kept, other = sample(), sample(name="other")
    kept.name = "other"
    with pytest.raises(StoreKeyWrong):
        kept.open()
    kept.name = "agent"
    name = next(name for name in kept.stored if name[0] == "session")
    for moved in [("peer", name[1]), ("session", bytes(HIDDEN_BYTES))]:
        kept.stored[moved] = kept.stored.pop(name)
        refused(kept, moved[0])
        kept.stored[name] = kept.stored.pop(moved)
    foreign = {key: other.stored[key] for key in other.stored if key[0] == "session"}
    kept.stored |= foreign
    refused(kept, "session")


def test_one_row_twice_or_thrice_is_found() -> None:
    kept = sample()
    triples = _triples(kept.stored, False)
    for row in triples:
        for rows in ([*triples, row], [row, *triples], [*triples, row, row], [row, *triples, row]):
            with pytest.raises(StoreBroken):
                Sealer.open("agent", RAW, rows, kept.number, entropy=ENTROPY)


@pytest.mark.parametrize(
    "row",
    [("x" * 99, b"", b""), ("session", "text", b""), ("session", b"", None), ("log", b"", b""), ("\ud800", b"", b"")],
)
def test_what_is_no_row_is_found(row: Any) -> None:
    kept = sample()
    with pytest.raises(StoreBroken):
        Sealer.open("agent", RAW, [*_triples(kept.stored, False), row], kept.number, entropy=ENTROPY)


def test_the_log_is_whole_or_broken() -> None:
    kept = sample()
    whole = dict(kept.stored)
    sealer = kept.open()[0]
    for missing in range(3):
        rows = [row for row in _triples(whole, True) if row[1][-1] != missing]
        with pytest.raises(StoreBroken):
            list(sealer.open_log(rows))
    for rows in ([], _triples(whole, True)[::-1], _triples(whole, True) * 2, _triples(whole, False)):
        with pytest.raises(StoreBroken):
            list(sealer.open_log(rows))
    foreign = sample()
    with pytest.raises(StoreBroken):
        list(sealer.open_log(_triples(foreign.stored, True)))


def test_the_log_grows_at_its_end_and_is_cut_at_its_beginning() -> None:
    kept = sample()
    for wrong in (
        {log_name(2): b"x"},
        {log_name(4): b"x"},
        {log_name(1): None},
        {log_name(0): None, log_name(2): None},
    ):
        with pytest.raises(ArgumentInvalid):
            kept.sealer.seal_rows(wrong, kept.number + 1, 9)
    kept.write({log_name(0): None, log_name(1): None, log_name(3): b"e3"})
    assert kept.log() == {2: b"e2", 3: b"e3"}
    kept.write({log_name(2): None, log_name(3): None})
    assert kept.log() == {}
    with pytest.raises(ArgumentInvalid):
        kept.sealer.seal_rows({log_name(3): b"x"}, kept.number + 1, 9)
    kept.write({log_name(4): b"e4"})
    assert kept.log() == {4: b"e4"}
    late = Kept()
    late.write({log_name(900): b"after a handover"})
    assert late.log() == {900: b"after a handover"}


@pytest.mark.parametrize(
    "rows",
    [
        {("key", b""): b""}, {("head", b""): b""}, {("", b""): b""}, {("session", "k"): b""},
        {("session", b"k"): "text"}, {("log", b"1"): b""}, {("log", b"\xff" * 8): b""}, {("generation", b""): b"1"},
    ],
)  # fmt: skip
def test_what_is_no_row_of_an_agent_is_not_sealed(rows: Any) -> None:
    kept = sample()
    with pytest.raises(ArgumentInvalid):
        kept.sealer.seal_rows(rows, kept.number + 1, 9)
    kept.write({})
    assert kept.open()[1] == SAMPLE


# --- what a thief of the file sees -----------------------------------------------------------------------------------


def test_stored_rows_show_neither_keys_nor_names_nor_sizes_of_keys() -> None:
    kept = Kept()
    secret, peer = b"THE SECRET OF THIS ROW", b"THE NAME OF THE PEER"
    kept.write({("session", peer): secret, ("peer", peer): secret})
    names = [key for kind, key in kept.stored if kind in ("session", "peer")]
    assert {len(key) for key in names} == {HIDDEN_BYTES}
    assert len(set(names)) == 2, "one key under two kinds is known again"
    everything = b"".join(part for (_, key), data in kept.stored.items() for part in (key, data))
    for text in (secret, peer, RAW):
        assert text not in everything
    again = Kept()
    again.write({("session", peer): secret})
    assert not {key for _, key in again.stored if key} & set(names), "two agents show that they know one peer"


def test_no_nonce_is_used_twice() -> None:
    kept = sample()
    kept.write({("peer", b"p" * 32): b"peer"})
    nonces = [data[8:32] for (kind, _), data in kept.stored.items() if kind != "key"]
    assert len(set(nonces)) == len(nonces)


def test_a_source_of_randomness_that_fails_seals_nothing() -> None:
    class Stuck:
        def token(self, size: int) -> bytes:
            return b""

    with pytest.raises(RandomnessFailed):
        Sealer.new("agent", RAW, entropy=Stuck())  # type: ignore[arg-type]


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [bytes(32), "a passphrase", "A passphrase", lambda: bytes(32), StateKey(bytes(32))])
@pytest.mark.parametrize("key", [RAW, "the passphrase"])
def test_another_key_is_told_apart_from_damage(key: StoreKey, wrong: Any) -> None:
    kept = sample(key)
    with pytest.raises(StoreKeyWrong):
        kept.open(wrong)


@pytest.mark.parametrize(
    "key", [b"", bytes(31), bytes(33), "", "x" * 1025, "\ud800", 7, 1.5, [RAW], lambda: bytes(31), lambda: "text"]
)
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        Sealer.new("agent", key, entropy=ENTROPY)
    with pytest.raises((ArgumentInvalid, StoreKeyWrong)):
        sample().open(key)


def test_a_callable_that_fails_is_a_store_that_does_not_answer() -> None:
    def down() -> bytes:
        raise ConnectionError("no KMS")

    with pytest.raises(StoreFailed) as caught:
        Sealer.new("agent", down, entropy=ENTROPY)
    assert isinstance(caught.value.__cause__, ConnectionError)


def _row(*fields: Any) -> bytes:
    return _wire.encode(fields)


_WRAPPED = bytes(104)


@pytest.mark.parametrize(
    "row",
    [
        b"", b"\x96", bytes(300), _row(1), _row(1, 2, b"", 0, 0, _WRAPPED), _row(1, 0, b"s" * 16, 0, 0, _WRAPPED),
        _row(1, 0, b"", 1, 0, _WRAPPED), _row(1, 0, b"", 0, 0, b""), _row(1, 1, b"s" * 15, 1, 8, _WRAPPED),
        _row(1, 1, b"", 1, 8, _WRAPPED), _row(1, 1, b"s" * 16, 0, 8, _WRAPPED), _row(1, 1, b"s" * 16, 1, 7, _WRAPPED),
        _row(1, 1, b"s" * 16, ARGON2_PASSES_MAX + 1, 8, _WRAPPED),
        _row(1, 1, b"s" * 16, 1, ARGON2_MEMORY_MAX_KIB + 1, _WRAPPED),
        _row(1, 1, b"s" * 16, 2**30, 2**30, _WRAPPED), _row(1, 1, b"s" * 16, 2**53 - 1, 2**53 - 1, _WRAPPED),
    ],
)  # fmt: skip
def test_what_a_file_asks_of_argon2id_is_bounded_before_anything_is_computed(
    row: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object) -> bytes:
        raise AssertionError("it was computed")

    monkeypatch.setattr(_crypto, "argon2id", computed)
    with pytest.raises(StoreBroken) as caught:
        unwrap("agent", "passphrase", row)
    assert caught.value.what == "key"


def test_a_key_row_of_a_later_version_is_not_read() -> None:
    with pytest.raises(StateVersionUnknown):
        unwrap("agent", RAW, _row(2, "what", "ever"))


def test_too_little_memory_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> bytes:
        raise MemoryError

    kept = sample("passphrase")
    monkeypatch.setattr(_crypto, "argon2id", no_memory)
    with pytest.raises(StoreFailed):
        kept.open()


def test_by_default_a_passphrase_costs_what_the_documents_say() -> None:
    _, row = wrap_new("agent", "x", entropy=CheckedEntropy(ENTROPY), passes=data_key._PASSES, memory_kib=8)
    assert _wire.decode(row, data_key._LAYOUT, 256)[3:5] == [3, 8]
    assert (data_key._PASSES, data_key._MEMORY_KIB) == (3, 64 << 10)


def test_argon2id_is_argon2id() -> None:
    # As another implementation has it: that of OpenSSL.
    answer = "ac09230651f4855141b3cdfca3e77a7ab1a70d300bbd4a78cf9bb658333e4abe"
    assert _crypto.argon2id(b"password", b"somesalt16bytes!", 2, 64).hex() == answer


# --- a new key -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [bytes(32), "another passphrase"])
def test_a_new_key_opens_all_rows_and_the_old_one_none(key: StoreKey) -> None:
    kept = sample("the old passphrase")
    before = dict(kept.stored)
    rows = {**kept.open()[1], **{log_name(number): data for number, data in kept.log().items()}}
    sealer, put, removed = kept.sealer.rekey(key, rows, kept.number + 1, 9)
    kept.apply(put, removed)
    sealer.written()
    with pytest.raises(StoreKeyWrong):
        kept.open()
    kept.key, kept.sealer = key, sealer
    assert kept.open()[1:] == (SAMPLE, 9)
    assert kept.log() == {0: b"e0", 1: b"e1", 2: b"e2"}
    assert not set(before.values()) & set(kept.stored.values())
    assert {name for name in before if name[1] and name[0] != "log"}.isdisjoint(kept.stored), "names are known again"
    kept.write({("session", bytes(16)): None, log_name(3): b"e3"}, 10)
    assert kept.open()[2] == 10


def test_a_rekeying_that_failed_leaves_the_old_key() -> None:
    kept = sample()
    rows = {**kept.open()[1], **{log_name(number): data for number, data in kept.log().items()}}
    kept.sealer.rekey(bytes(32), rows, kept.number + 1, 9)
    kept.write({("kept", b"k"): b"k"}, 10)
    assert kept.open()[1] == SAMPLE | {("kept", b"k"): b"k"}


def test_a_rekeying_wants_all_rows() -> None:
    kept = sample()
    rows = {**kept.open()[1], **{log_name(number): data for number, data in kept.log().items()}}
    for name in rows:
        with pytest.raises(ArgumentInvalid):
            kept.sealer.rekey(bytes(32), {one: data for one, data in rows.items() if one != name}, kept.number + 1, 9)


# --- secrets ---------------------------------------------------------------------------------------------------------


def _failing() -> list[Callable[[], object]]:
    kept, wrong = sample("the passphrase"), sample()
    wrong.stored.pop(("head", b""))
    return [
        lambda: kept.open("the WRONG passphrase"),
        lambda: kept.open(b"w" * 32),
        lambda: wrong.open(),
        lambda: Sealer.new("agent", b"w" * 31, entropy=ENTROPY),
        lambda: wrong.sealer.seal_rows({("session", b"k"): "a plaintext"}, 4, 9),  # type: ignore[dict-item]
        lambda: wrong.sealer.rekey(b"w" * 32, {("session", b"k"): b"a plaintext"}, 4, 9),
    ]


@pytest.mark.parametrize("which", range(6))
def test_no_error_and_no_traceback_holds_a_key(which: int) -> None:
    call = _failing()[which]
    with pytest.raises(Exception) as caught:
        call()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    library = [frame for frame in shown.stack if "/agentmesh/" in frame.filename]
    text = str([frame.locals for frame in library]) + repr(caught.value) + str(caught.value)
    for secret in ("passphrase'", "wwww", "a plaintext", repr(RAW)[2:20]):
        assert secret not in text
    assert caught.value.__context__ is None


def test_a_sealer_is_redacted() -> None:
    sealer = sample().sealer
    assert repr(sealer) == str(sealer) == "Sealer(<redacted>)"
    assert not hasattr(sealer, "__dict__")
    for leak in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            leak(sealer)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_opening_a_row_costs_two_hashes_and_one_box(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    kept.write({("session", n.to_bytes(16, "big")): bytes(600) for n in range(100)})
    counts = {"kdf": 0, "secretbox_try_open": 0}

    def counted(name: str) -> Callable[..., Any]:
        call = getattr(_crypto, name)

        def counting(*args: Any) -> Any:
            counts[name] += 1
            return call(*args)

        return counting

    for name in counts:
        monkeypatch.setattr(_crypto, name, counted(name))
    kept.open()
    assert counts["kdf"] <= 2 * 100 + 5  # the data key, three keys from it, the head
    assert counts["secretbox_try_open"] <= 100 + 2
