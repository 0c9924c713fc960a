"""What every store must pass (docs/protocol.md, section 7.2). Needs the extra `testing`, and is imported by its name.

A store of your own is tested so, each check over a place of its own:

    @pytest.mark.parametrize("check", BACKEND_CHECKS, ids=lambda check: check.__name__)
    def test_my_store(check, tmp_path):
        check(lambda: MyBackend(tmp_path))

What only its author can do is not among them: cut it off in the midst of a commit, fill its disk, take its lock away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.errors import AgentMeshError, ArgumentInvalid, StoreClosed, StoreFenced, StoreLocked
from agentmesh.store.rows import HEAD_NAME, LOG, NUMBER_BYTES, Backend, Name, Rows

Open = Callable[[], Backend]
Check = Callable[[Open], None]
_AGENT: Final = "agent"
_BIG_BYTES: Final = 1 << 20
_MANY: Final = 3000


def log_name(number: int) -> Name:
    """Return what a row of the log is found by."""
    return LOG, number.to_bytes(NUMBER_BYTES, "big")


def contents(rows: Rows) -> tuple[dict[Name, bytes], list[tuple[Name, bytes]]]:
    """Return (all rows but those of the log, by name; those of the log, in the order that they came in).

    Raises:
        AssertionError: a row came twice, or in the wrong of the two readings.
    """
    state = list(rows.read())
    log = [((kind, key), sealed) for kind, key, sealed in rows.read(log=True)]
    found = {(kind, key): sealed for kind, key, sealed in state}
    assert len(found) == len(state), "a row came twice"
    assert not any(kind == LOG for kind, _ in found), "a row of the log came among the others"
    assert all(kind == LOG for (kind, _), _ in log), "another row came among those of the log"
    return found, log


@contextmanager
def _opened(open_store: Open, name: str = _AGENT) -> Iterator[Rows]:
    """Open a store and in it an agent, made if it is new; close both."""
    with closing(open_store()) as backend:
        rows = backend.open_rows(name, create=True)
        assert rows is not None, "rows were to be made and are not there"
        with closing(rows):
            yield rows


def _refuses(error: type[AgentMeshError], call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")


# --- the checks ------------------------------------------------------------------------------------------------------


def check_names(open_store: Open) -> None:
    """Agents are there once they were made, in the order of their names; and are there again."""
    with closing(open_store()) as backend:
        assert backend.names() == ()
        assert backend.open_rows("zoë", create=False) is None
        assert backend.names() == (), "an agent was made that was not to be made"
        for name in ("zoë", _AGENT, "Agent", "a b'\"; --", "n" * 128):
            rows = backend.open_rows(name, create=True)
            assert rows is not None
            assert rows.commit_number == 0
            assert contents(rows) == ({}, [])
        names = backend.names()
        assert names == tuple(sorted(("zoë", _AGENT, "Agent", "a b'\"; --", "n" * 128)))
        for wrong in ("", "n" * 129, 7):
            _refuses(ArgumentInvalid, _open_named, backend, wrong)
    with closing(open_store()) as backend:
        assert backend.names() == names


def _open_named(backend: Backend, name: Any) -> None:
    backend.open_rows(name, create=True)


def check_one_writer(open_store: Open) -> None:
    """Rows are open once, whoever asks; once closed, another opens them. Closing twice is no error."""
    with closing(open_store()) as backend:
        rows = backend.open_rows(_AGENT, create=True)
        assert rows is not None
        _refuses(StoreLocked, lambda: backend.open_rows(_AGENT, create=True))
        _refuses(StoreLocked, lambda: backend.open_rows(_AGENT, create=False))
        _refuses(StoreLocked, _open_elsewhere, open_store)
        rows.write(1, {("peer", b"a"): b"1"}, ())
        rows.close()
        rows.close()
        again = backend.open_rows(_AGENT, create=False)
        assert again is not None
        assert again.commit_number == 1
        rows.close()
        _refuses(StoreLocked, lambda: backend.open_rows(_AGENT, create=False))
    backend.close()
    with _opened(open_store) as rows:
        assert rows.commit_number == 1


def _open_elsewhere(open_store: Open) -> None:
    with closing(open_store()) as backend:
        backend.open_rows(_AGENT, create=True)


def check_closed(open_store: Open) -> None:
    """What is closed takes no calls, and neither does what was opened in it."""
    with closing(open_store()) as backend:
        first, second = backend.open_rows("one", create=True), backend.open_rows("two", create=True)
        assert first is not None
        assert second is not None
        first.close()
        _use_closed(first)
        second.write(1, {}, ())
    _use_closed(second)
    _refuses(StoreClosed, backend.names)
    _refuses(StoreClosed, lambda: backend.open_rows("one", create=True))


def _use_closed(rows: Rows) -> None:
    _refuses(StoreClosed, lambda: rows.commit_number)
    _refuses(StoreClosed, rows.write, 1, {}, ())
    _refuses(StoreClosed, lambda: list(rows.read()))
    _refuses(StoreClosed, lambda: list(rows.read(log=True)))


def check_numbers(open_store: Open) -> None:
    """Writes are numbered from 1, without a gap; one that is out of turn writes nothing."""
    with _opened(open_store) as rows:
        rows.write(1, {("peer", b"a"): b"1"}, ())
        rows.write(2, {}, ())
        before = contents(rows)
        for wrong in (1, 2, 4, 2**53 - 1):
            put = {("peer", b"a"): b"2", ("peer", b"b"): b"2", HEAD_NAME: b"2", log_name(0): b"2"}
            _refuses(StoreFenced, rows.write, wrong, put, [("peer", b"a")])
            assert rows.commit_number == 2
            assert contents(rows) == before
        rows.write(3, {("peer", b"a"): b"3"}, ())
        assert contents(rows) == ({("peer", b"a"): b"3"}, [])


def check_rows(open_store: Open) -> None:
    """A row is what was put last. Removed rows are gone, and one that is not there is no error."""
    one, two, empty = ("peer", b"\x00\xff'"), ("session", b"\x00\xff'"), ("agent", b"")
    with _opened(open_store) as rows:
        rows.write(1, {one: b"1", two: b"", empty: b"\x00", HEAD_NAME: b"h"}, [one])
        assert contents(rows)[0] == {one: b"1", two: b"", empty: b"\x00", HEAD_NAME: b"h"}
        rows.write(2, {two: b"2"}, [one, ("peer", b"nobody"), log_name(3), one])
        assert contents(rows)[0] == {two: b"2", empty: b"\x00", HEAD_NAME: b"h"}
        rows.write(3, {one: b"3", two: b"3"}, [two])
        rows.write(4, {}, [HEAD_NAME])
        assert contents(rows)[0] == {one: b"3", two: b"3", empty: b"\x00"}
    with _opened(open_store) as rows:
        assert rows.commit_number == 4
        assert contents(rows)[0] == {one: b"3", two: b"3", empty: b"\x00"}
        rows.write(5, {one: b"5"}, [two])  # without having read them
    with _opened(open_store) as rows:
        rows.write(6, {two: b"6"}, [empty])
        assert contents(rows)[0] == {one: b"5", two: b"6"}


def check_log(open_store: Open) -> None:
    """Rows of the log come by number, however they were put, and apart from the others."""
    numbers = (5, 0, 256, 1, 255, 2**32, 3)
    with _opened(open_store) as rows:
        rows.write(1, {log_name(number): str(number).encode() for number in numbers}, ())
        rows.write(2, {("peer", b"a"): b"1", log_name(4): b"4"}, [log_name(5), log_name(255)])
    expected = [(log_name(number), str(number).encode()) for number in (0, 1, 3, 4, 256, 2**32)]
    with _opened(open_store) as rows:
        assert contents(rows) == ({("peer", b"a"): b"1"}, expected)


def check_agents_apart(open_store: Open) -> None:
    """What one agent writes, no other sees, though kinds and keys are the same; each has numbers of its own."""
    name = "session", b"same"
    with closing(open_store()) as backend:
        first, second = backend.open_rows("one", create=True), backend.open_rows("two", create=True)
        assert first is not None
        assert second is not None
        first.write(1, {name: b"of one", log_name(0): b"log of one"}, ())
        second.write(1, {name: b"of two"}, ())
        second.write(2, {}, [name, log_name(0)])
        assert contents(first) == ({name: b"of one"}, [(log_name(0), b"log of one")])
        assert contents(second) == ({}, [])
        assert (first.commit_number, second.commit_number) == (1, 2)
        first.close()
        second.write(3, {name: b"again"}, ())
    with _opened(open_store, "one") as rows:
        assert contents(rows) == ({name: b"of one"}, [(log_name(0), b"log of one")])


def check_big_and_many(open_store: Open) -> None:
    """A row of a megabyte, and some thousand of them, are rows like others."""
    big = bytes(range(256)) * (_BIG_BYTES // 256)
    many = {("session", number.to_bytes(16, "big")): b"%d" % number * 50 for number in range(_MANY)}
    with _opened(open_store) as rows:
        rows.write(1, {("bundle", b"big"): big, log_name(0): big}, ())
        rows.write(2, many, ())
        rows.write(3, {("bundle", b"big"): big[1:]}, list(many)[::2])
    with _opened(open_store) as rows:
        state, log = contents(rows)
        assert log == [(log_name(0), big)]
        assert state == {("bundle", b"big"): big[1:], **dict(list(many.items())[1::2])}


def check_refused_writes(open_store: Open) -> None:
    """A write that cannot be leaves everything as it was, and the next one is taken."""
    good = ("peer", b"a")
    with _opened(open_store) as rows:
        rows.write(1, {good: b"1"}, ())
        for number in (b"", b"1", bytes(9), b"\xff" * 8):
            put = {good: b"2", (LOG, number): b"x"}
            _refuses(ArgumentInvalid, rows.write, 2, put, ())
            assert rows.commit_number == 1
            assert contents(rows) == ({good: b"1"}, [])
        rows.write(2, {good: b"2"}, ())
    with _opened(open_store) as rows:
        assert contents(rows) == ({good: b"2"}, [])


_names: Final = st.one_of(
    st.tuples(st.sampled_from(("peer", "session", "kept", "outbox")), st.sampled_from((b"", b"a", b"b", b"\x00" * 16))),
    st.builds(log_name, st.integers(0, 4)),
    st.just(HEAD_NAME),
)
_writes: Final = st.dictionaries(_names, st.none() | st.binary(max_size=40) | st.just(bytes(1500)), max_size=6)
_scripts: Final = st.lists(_writes | st.sampled_from(("reopen", "out of turn")), max_size=12)


def check_any_writes(open_store: Open) -> None:
    """Whatever is written, in any order, with the store closed and opened between: it is what a dict would hold."""
    made = iter(range(10**6))

    @settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
    @given(_scripts)
    def play(script: list[dict[Name, bytes | None] | str]) -> None:
        name = f"agent {next(made)}"
        model: dict[Name, bytes] = {}
        number = 0
        left = list(script)
        while True:
            with _opened(open_store, name) as rows:
                assert rows.commit_number == number
                assert _sorted(contents(rows)) == model
                while left and (step := left.pop(0)) != "reopen":
                    if isinstance(step, str):
                        _refuses(StoreFenced, rows.write, number, {("peer", b"x"): b"x"}, ())
                        continue
                    number += 1
                    put = {name: data for name, data in step.items() if data is not None}
                    rows.write(number, put, [name for name, data in step.items() if data is None])
                    model = {name: data for name, data in {**model, **step}.items() if data is not None}
                assert _sorted(contents(rows)) == model
            if not left:
                return

    play()


def _sorted(found: tuple[dict[Name, bytes], list[tuple[Name, bytes]]]) -> dict[Name, bytes]:
    state, log = found
    assert log == sorted(log), "the log is not in order"
    return {**state, **dict(log)}


BACKEND_CHECKS: Final[tuple[Check, ...]] = (
    check_names,
    check_one_writer,
    check_closed,
    check_numbers,
    check_rows,
    check_log,
    check_agents_apart,
    check_big_and_many,
    check_refused_writes,
    check_any_writes,
)


def check_backend(new_place: Callable[[], Open]) -> None:
    """Run every check of the kit.

    Args:
        new_place: Returns, for a place that is new and empty, what opens the store there, as often as it is called.

    Raises:
        AssertionError: the store does not do what it must; the traceback says which check found it.
    """
    for check in BACKEND_CHECKS:
        check(new_place())
