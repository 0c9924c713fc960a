"""`python -m agentmesh store`: what it prints and refuses, its exit status; no store in use is harmed."""

from __future__ import annotations

import base64
import getpass
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agentmesh
from agentmesh import Identity
from agentmesh.agt_identity import AgtIdentity
from agentmesh.cli import store as store_commands
from agentmesh.cli.main import main
from agentmesh.cli.text import Exit
from agentmesh.store import SQLiteBackend, SQLiteStore, care
from agentmesh.testing import SeededEntropy
from agentmesh.trust import RevocationList

MESH = "example/test"
KEY = bytes(range(32))
NEW_KEY = bytes(range(32, 64))
PACKAGE = Path(agentmesh.__file__).resolve().parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(["store", *map(str, arguments)])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        out, err = capsys.readouterr()
        for text in (out, err):
            assert re.fullmatch(r"[ -~\n]*", text), "something that is not printable ASCII"
        return status, out, err

    return call


def private(path: Path, content: bytes) -> None:
    """Write a secret as its owner alone may read it."""
    path.touch(0o600)
    path.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two agents, of which one keeps its log there, with the files of two keys beside it."""
    path = tmp_path / "store"
    with SQLiteStore(path, key=KEY) as opened:
        opened.open_agent(MESH, keep_log=True, entropy=SeededEntropy(1)).publish_bundles(3)
        opened.open_agent(MESH, name="b\x1b[31m\u202e", entropy=SeededEntropy(2))
    private(tmp_path / "key", KEY)
    private(tmp_path / "new", NEW_KEY.hex().encode() + b"\n")
    return path


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, without those that SQLite needs to read in: the index of a log, and the log, if empty."""
    found = {one.name: one.read_bytes() for one in path.parent.iterdir() if one.is_file()}
    return {name: data for name, data in found.items() if not name.endswith("-shm") and (data or "-wal" not in name)}


def alter(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


def test_what_a_policy_decides_by_is_looked_after_too(store: Path, run: Run) -> None:
    keys = ("--key-file", store.with_name("key"), "--new-key-file", store.with_name("new"))
    with SQLiteStore(store, key=KEY) as opened:
        opened.open_states().keep("revoked", RevocationList(MESH))
    assert "name      trust\n" in run("info", store)[1]
    assert re.search(r"^trust: \d+ rows open and agree$", run("check", store, *keys[:2])[1], re.MULTILINE)
    assert run("rekey", store, *keys)[1].startswith("3 sealed anew")
    with SQLiteStore(store, key=NEW_KEY) as opened:
        opened.open_states().keep("revoked", RevocationList(MESH))


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_shows_whose_rows_there_are_and_asks_for_no_key(store: Path, run: Run) -> None:
    before = contents(store)
    status, out, err = run("info", store)
    assert (status, err) == (0, "")
    assert "format    1\n" in out
    assert f"size      {store.stat().st_size:,} bytes, 0 of them free\n" in out
    first, second = re.split("^name      ", out, flags=re.MULTILINE)[1:]
    assert first.startswith("agent\n  commits 2\n  sealed  under a key\n")
    assert re.search(r"bundle +4\n", first)
    assert re.search(r"log +4\n", first)
    assert second.startswith("b\\x1b[31m\\u202e\n  commits 1\n")
    assert contents(store) == before


def test_info_tells_a_passphrase_by_what_it_costs(tmp_path: Path, run: Run) -> None:
    with SQLiteStore(tmp_path / "store", key="a passphrase") as opened:
        opened.open_agent(MESH)
    assert "sealed  under a passphrase: Argon2id, 3 passes, 65,536 KiB\n" in run("info", tmp_path / "store")[1]


def test_info_advises_a_vacuum_when_more_than_a_quarter_is_free_and_vacuum_gives_it_back(store: Path, run: Run) -> None:
    with SQLiteStore(store, key=KEY) as opened:
        agent = opened.open_agent(MESH, keep_log=True)
        agent.publish_bundles(200)
    assert "`store vacuum`" not in run("info", store)[1]
    with SQLiteStore(store, key=KEY) as opened:
        exported = opened.open_agent(MESH, keep_log=True).export_state()
    alter(store, "CREATE TABLE filler AS SELECT zeroblob(100000)")
    alter(store, "DROP TABLE filler")
    assert "more than a quarter is free: `store vacuum` gives it back" in run("info", store)[1]
    size = store.stat().st_size
    status, out, err = run("vacuum", store)
    assert (status, err) == (0, "")
    assert store.stat().st_size < size
    assert out == f"{store}: {store.stat().st_size:,} bytes, {size - store.stat().st_size:,} less\n"
    assert ", 0 of them free" in run("info", store)[1]
    with SQLiteStore(store, key=KEY) as opened:
        assert opened.open_agent(MESH).export_state() == exported


def test_a_store_that_was_vacuumed_takes_writes(store: Path) -> None:
    """Its file and the log ahead of it are shorter then, which is otherwise a sign that somebody cut them."""
    with SQLiteStore(store, key=KEY) as opened:
        agent = opened.open_agent(MESH, keep_log=True)
        agent.publish_bundles(200)
        agent.withdraw_bundles()
        opened.vacuum()
        agent.publish_bundles(2)
        opened.vacuum()
        exported = agent.export_state()
    with SQLiteStore(store, key=KEY) as opened:
        assert opened.open_agent(MESH, keep_log=True).export_state() == exported


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_opens_every_row(store: Path, run: Run) -> None:
    before = contents(store)
    status, out, err = run("check", store, "--key-file", store.with_name("key"))
    assert (status, err) == (0, "")
    first, of_first, second, of_second = out.splitlines()
    assert re.fullmatch(r"agent: \d+ rows open and agree, 4 entries of its log verified", first)
    assert re.fullmatch(r"b\\x1b\[31m\\u202e: \d+ rows open and agree", second)
    assert re.fullmatch(r"  did     did:agentmesh:\S+", of_first)
    assert of_first != of_second
    assert contents(store) == before


@given(
    kinds=st.lists(st.sampled_from(("agent", "agt", "states")), min_size=1, max_size=4),
    seed=st.binary(min_size=32, max_size=32),
)
@settings(
    max_examples=max(1, settings().max_examples // 5), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_check_says_each_agents_did_and_nothing_secret(
    kinds: list[str], seed: bytes, tmp_path_factory: pytest.TempPathFactory, run: Run
) -> None:
    """And `info`, which has no key, says none: it cannot know it."""
    path = tmp_path_factory.mktemp("dids") / "store"
    secrets, expected = [KEY, seed], {}
    with SQLiteStore(path, key=KEY) as opened:
        for number, kind in enumerate(kinds):
            own = (int.from_bytes(seed, "big") + 1 + number) % 2**256
            secrets.append(own.to_bytes(32, "big"))
            name = f"{kind} {number}"
            if kind == "states":
                opened.open_states(name=name).keep("revoked", RevocationList(MESH))
                expected[name] = None
            elif kind == "agt":
                agt = opened.open_agt_agent(MESH, name=name, identity=AgtIdentity.from_seed(secrets[-1]))
                expected[name] = agt.did
            else:
                agent = opened.open_agent(MESH, name=name, identity=Identity.from_seed(secrets[-1]))
                agent.publish_bundles(1)
                expected[name] = agent.did
    private(path.with_name("key"), KEY)
    before = contents(path)
    status, text, err = run("check", path, "--key-file", path.with_name("key"))
    assert (status, err) == (0, "")
    lines = re.findall(r"^(?:(.+): \d+ rows open and agree|  did     (.+))$", text, re.MULTILINE)
    found: dict[str, str | None] = {}
    for name, did in lines:
        if name:
            found[last := name] = None
        else:
            found[last] = did
    assert found == expected
    answer = run("check", path, "--key-file", path.with_name("key"), "--json")[1]
    assert {one["name"]: one["did"] for one in json.loads(answer)["agents"]} == expected
    info = run("info", path)[1] + run("info", path, "--json")[1]
    assert "did:" not in info.replace(str(path), "")
    assert contents(path) == before
    for secret in secrets:
        for form in (secret.hex(), base64.b64encode(secret).decode().rstrip("="), str(list(secret))):
            assert form not in text + answer + info


@pytest.mark.parametrize(
    ("sql", "status", "said"),
    [
        ("UPDATE agent_1 SET sealed = substr(sealed, 1, 60) WHERE kind = 'bundle'", 5, "a row of the kind `bundle`"),
        ("DELETE FROM agent_1 WHERE id = (SELECT max(id) FROM agent_1 WHERE kind = 'bundle')", 5, "the rows are not"),
        ("DELETE FROM agent_1 WHERE kind = 'key'", 5, "the row that holds the data key"),
        ("DELETE FROM log_1 WHERE id = 2", 5, "store.broken: log"),
        ("DELETE FROM log_1 WHERE id = (SELECT max(id) FROM log_1)", 5, "store.broken: log"),
        ("UPDATE agents SET head = NULL WHERE id = 1", 5, "the head is not"),
        ("UPDATE agents SET commit_number = 0 WHERE id = 1", 5, "the head is not"),
        ("UPDATE agents SET name = 'other' WHERE id = 1", 4, "the file is damaged"),
        ("UPDATE agents SET fence = -1", 4, "the file is damaged"),
        ("DROP TABLE log_1", 4, "the file is damaged"),
        ("PRAGMA user_version = 2", 4, "state.version"),
        ("PRAGMA application_id = 0", 4, "the file is damaged, or no store"),
    ],
)
def test_check_names_what_is_wrong_and_alters_nothing(sql: str, status: int, said: str, store: Path, run: Run) -> None:
    alter(store, sql)
    before = contents(store)
    found, out, err = run("check", store, "--key-file", store.with_name("key"))
    assert (found, out) == (status, "")
    assert said in err
    assert err.count("\n") == 1
    assert contents(store) == before


def test_a_commit_number_that_was_set_to_0_makes_no_new_agent(store: Path) -> None:
    alter(store, "UPDATE agents SET commit_number = 0 WHERE id = 1")
    before = contents(store)
    with SQLiteStore(store, key=KEY) as opened:
        for call in (lambda: opened.open_agent(MESH), opened.check, lambda: opened.rekey(NEW_KEY)):
            with pytest.raises(agentmesh.StoreError) as refused:
                call()
            assert refused.value.code == "store.broken"
    assert contents(store) == before


def test_an_agent_of_which_nothing_was_written_yet_is_no_damage(store: Path, run: Run) -> None:
    """Whoever made it was killed before its first write."""
    with SQLiteBackend(store) as backend:
        assert backend.open_rows("a", create=True) is not None
    assert run("info", store)[1].count("commits 0") == 1
    out = run("check", store, "--key-file", store.with_name("key"))[1]
    assert out.startswith("a: 0 rows open and agree\nagent: ")  # and no DID, because it has none yet
    assert run("rekey", store, "--key-file", store.with_name("key"), "--new-key-file", store.with_name("new"))[0] == 0
    with SQLiteStore(store, key=NEW_KEY) as opened:
        opened.open_agent(MESH, name="a")


def test_another_key_has_a_status_of_its_own(store: Path, run: Run) -> None:
    status, out, err = run("check", store, "--key-file", store.with_name("new"))
    assert (status, out) == (Exit.KEY, "")
    assert "store.key" in err
    private(store.with_name("phrase"), b"a passphrase\n")
    assert run("check", store, "--passphrase-file", store.with_name("phrase"))[0] == Exit.KEY


@pytest.mark.parametrize("command", ["info", "check", "vacuum", "rekey", "backup"])
def test_what_is_no_store(command: str, tmp_path: Path, run: Run) -> None:
    private(tmp_path / "key", KEY)
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "text").write_text("x" * 5000)
    (tmp_path / "text").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "text")
    os.mkfifo(tmp_path / "fifo")
    more: list[object] = [] if command in {"info", "vacuum", "backup"} else ["--key-file", tmp_path / "key"]
    more += ["--new-key-file", tmp_path / "key"] if command == "rekey" else []
    more += [tmp_path / "copy"] if command == "backup" else []
    for name, wanted in (
        ("missing", 3), ("empty", 4), ("text", 4), ("link", 3), ("fifo", 3), (".", 3), ("missing/store", 3),
    ):  # fmt: skip
        status, out, err = run(command, tmp_path / name, *more)
        assert (status, out, err.count("\n")) == (wanted, "", 1), (name, err)
    assert not (tmp_path / "missing").exists()
    assert not (tmp_path / "copy").exists()
    assert (tmp_path / "text").read_text() == "x" * 5000


def test_a_store_that_others_may_read_is_remarked_on(store: Path, run: Run) -> None:
    store.chmod(0o644)
    status, _, err = run("info", store)
    assert status == 0
    assert err.startswith("agentmesh: ")
    assert "others may read or write it" in err


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", KEY[1:], KEY + b"\n", KEY.hex().encode()[1:], b"z" * 64, bytes(5000)])
def test_what_is_no_key(content: bytes, store: Path, run: Run) -> None:
    store.with_name("bad").write_bytes(content)
    status, out, err = run("check", store, "--key-file", store.with_name("bad"))
    assert (status, out) == (4, "")
    assert "no key: neither 32 bytes nor 64 hexadecimal digits" in err


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\nx", b"\xff\n", b"x" * 1025])
def test_what_is_no_passphrase(content: bytes, store: Path, run: Run) -> None:
    store.with_name("bad").write_bytes(content)
    status, out, err = run("check", store, "--passphrase-file", store.with_name("bad"))
    assert (status, out) == (4, "")
    assert "no passphrase: a line of 1 to 1,024 bytes" in err


def test_the_first_line_of_a_file_is_the_passphrase(tmp_path: Path, run: Run) -> None:
    with SQLiteStore(tmp_path / "store", key="zwölf Boxkämpfer") as opened:
        opened.open_agent(MESH)
    for ending in ("", "\n", "\r\n", "\nand a second line\n"):
        (tmp_path / "phrase").write_bytes(f"zwölf Boxkämpfer{ending}".encode())
        assert run("check", tmp_path / "store", "--passphrase-file", tmp_path / "phrase")[0] == 0


def test_a_key_is_no_argument(store: Path, run: Run) -> None:
    status, _, err = run("check", store, "--key", KEY.hex())
    assert status == 2
    assert "usage:" in err
    assert "unrecognized arguments" in err
    assert run("check", store, "--key-file", store.with_name("key"), "--passphrase-file", store)[0] == 2


def test_a_passphrase_is_asked_for_at_the_terminal(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[str] = []
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return typed.pop(0)

    monkeypatch.setattr(getpass, "getpass", answer)
    typed[:] = ["new", "knew"]
    status, out, err = run("rekey", store, "--key-file", store.with_name("key"))
    assert (status, out) == (2, "")
    assert "the two are not the same" in err
    typed[:] = ["new", "new"]
    assert run("rekey", store, "--key-file", store.with_name("key"))[0] == 0
    typed[:] = ["new"]
    assert run("check", store)[0] == 0
    typed[:] = [""]
    assert run("check", store)[0] == 2
    assert asked == ["new passphrase: ", "the same again: "] * 2 + ["passphrase: "] * 2


def test_a_passphrase_is_not_asked_for_where_it_would_be_shown(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(prompt: str) -> NoReturn:
        import warnings

        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        raise AssertionError

    monkeypatch.setattr(getpass, "getpass", shown)
    status, out, err = run("check", store)
    assert (status, out) == (2, "")
    assert "give a file" in err


# --- backup ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_a_store(store: Path, run: Run) -> None:
    before = contents(store)
    copy = store.with_name("copy")
    status, out, err = run("backup", store, copy)
    assert (status, err) == (0, "")
    assert f"{copy}: {copy.stat().st_size:,} bytes\n" in out
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert contents(store).keys() - before.keys() == {"copy"}
    with SQLiteStore(store, key=KEY) as one, SQLiteStore(copy, key=KEY) as other:
        exported = [opened.open_agent(MESH, keep_log=True).export_state() for opened in (one, other)]
    assert exported[0] == exported[1]


def test_a_backup_replaces_nothing(store: Path, run: Run) -> None:
    there = store.with_name("there")
    there.write_text("mine")
    store.with_name("dangling").symlink_to(store.with_name("nowhere"))
    before = contents(store)
    for name in ("there", "dangling", "store"):
        assert run("backup", store, store.with_name(name))[0] == 2
    assert run("backup", store, store.with_name("none") / "copy")[0] == 3
    assert contents(store) == before
    assert not store.with_name("nowhere").exists()


# --- rekey -----------------------------------------------------------------------------------------------------------


def test_rekey_seals_every_row_under_another_key(store: Path, run: Run) -> None:
    keys = ("--key-file", store.with_name("key"), "--new-key-file", store.with_name("new"))
    with SQLiteBackend(store, read_only=True) as backend:
        rows = backend.open_rows("agent", create=False)
        assert rows is not None
        old = [sealed for log in (False, True) for _, _, sealed in rows.read(log=log)]
    status, out, err = run("rekey", store, *keys)
    assert (status, err) == (0, "")
    assert out.startswith("2 sealed anew, under new keys; to be done no more: 0\n")
    assert "delete the old ones" in out
    assert run("check", store, "--key-file", store.with_name("key"))[0] == Exit.KEY
    assert run("check", store, "--key-file", store.with_name("new"))[0] == 0
    left = b"".join(contents(store).values())
    assert not any(sealed in left or sealed[-64:] in left for sealed in old)
    assert run("rekey", store, *keys)[1].startswith("0 sealed anew, under new keys; to be done no more: 2\n")


def test_rekey_that_was_broken_off_goes_on(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("--key-file", store.with_name("key"), "--new-key-file", store.with_name("new"))
    rekeyed: list[str] = []
    real = care.rekey

    def broken_off(*arguments: object) -> bool:
        if rekeyed:
            raise KeyboardInterrupt
        rekeyed.append(str(arguments[1]))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(care, "rekey", broken_off)
    assert run("rekey", store, *keys)[0] == Exit.INTERRUPTED
    monkeypatch.setattr(care, "rekey", real)
    assert run("check", store, "--key-file", store.with_name("new"))[0] == Exit.KEY  # the other is under the old one
    assert run("rekey", store, *keys)[1].startswith("1 sealed anew, under new keys; to be done no more: 1\n")
    assert run("check", store, "--key-file", store.with_name("new"))[0] == 0


# --- while another process has the store open ------------------------------------------------------------------------

WRITER = """
import sys
from agentmesh.store import SQLiteStore
with SQLiteStore(sys.argv[1], key=bytes(range(32))) as store:
    agent = store.open_agent("example/test", keep_log=True)
    print("open", flush=True)
    for line in sys.stdin:
        agent.publish_bundles(int(line))
        print(agent.generation, flush=True)
"""


@contextmanager
def writer(path: Path) -> Iterator[Callable[[int], int]]:
    """A process that has the store open; what is given makes it write so many bundles."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, said = process.stdin, process.stdout

        def write(bundles: int) -> int:
            print(bundles, file=to, flush=True)
            return int(said.readline())

        try:
            assert said.readline() == "open\n"
            yield write
        finally:
            to.close()
            process.wait(60)


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentmesh", "store", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


def test_what_looks_at_a_store_looks_while_another_process_writes_it(store: Path) -> None:
    with writer(store) as write:
        for round_ in range(2):
            generation = write(20)
            copy = store.with_name(f"copy-{round_}")
            assert process("backup", store, copy).returncode == 0
            write(20)
            done = process("check", store, "--key-file", "-", input=KEY.hex())
            assert (done.returncode, done.stderr) == (0, "")
            assert process("info", store).returncode == 0
            with SQLiteStore(copy, key=KEY) as opened:
                assert opened.open_agent(MESH, keep_log=True).generation == generation
                opened.check("b\x1b[31m\u202e")
        assert write(1)


@pytest.mark.parametrize("command", ["rekey", "vacuum"])
def test_what_writes_is_refused_while_another_process_has_it_open(command: str, store: Path) -> None:
    keys = ("--key-file", store.with_name("key"), "--new-key-file", store.with_name("new"))
    with writer(store) as write:
        done = process(command, store, *(keys if command == "rekey" else ()))
        assert (done.returncode, done.stdout) == (Exit.LOCKED, "")
        assert re.search(r"store\.locked.*|process \d+ on ", done.stderr)
        assert write(1)
    assert process("check", store, *keys[:2]).returncode == 0


def test_a_key_comes_by_a_descriptor(store: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, KEY)
    os.close(writing)
    try:
        done = process("check", store, "--key-file", f"/dev/fd/{reading}", pass_fds=(reading,))
    finally:
        os.close(reading)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_terminal_no_passphrase_is_asked_for(store: Path) -> None:
    done = process("check", store, stdin=subprocess.DEVNULL, start_new_session=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agentmesh: no terminal to ask for a passphrase: give a file\n"


def test_the_words_for_what_is_broken_are_the_librarys_own() -> None:
    assert store_commands._BROKEN.keys() == {"file", "key", "head", "rows"}
