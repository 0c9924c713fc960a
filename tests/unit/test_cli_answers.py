"""Every command: its example works, its answer in JSON is as documented, and shells complete it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh import Agent, Identity, Intent, OuterEnvelope
from agentmesh.agent_boxes import AgentBoxes
from agentmesh.audit import AuditJournal, AuditLog
from agentmesh.cli import inspection, vectors
from agentmesh.cli.command import SCRIPTS, Parser, program
from agentmesh.cli.main import main, parser
from agentmesh.cli.text import EXITS, Exit
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.relay import relay_record
from agentmesh.store import LogFile, SQLiteStore, seal_file
from agentmesh.store.frames import CONTINUED, MAGIC
from agentmesh.store.sqlite_file import APPLICATION_ID, PAGE_BYTES
from agentmesh.trust import (
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "command-line.md").read_text("utf-8")
KEY = bytes(range(32))
MESH = "example/test"
assert issubclass(Agent, AgentBoxes)


def leaves(above: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Parser]]:
    """Every command that does something, with its parser."""
    below = [action for action in above._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, inner in action.choices.items():
            yield from leaves(inner, (*words, name))
    if not below:
        assert isinstance(above, Parser)
        yield " ".join(words), above


COMMANDS = dict(leaves(parser()))
# What must not be there yet when an example runs, because nothing is replaced.
MADE = {
    "keygen": ["alice.key"],
    "attach seal": ["q3.blob", "q3.reference"],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples name."""
    folder = tmp_path_factory.mktemp("prepared")
    with contextlib.ExitStack() as files:
        logs = {
            name: AuditLog(files.enter_context(LogFile(folder / f"{name}.log"))) for name in ("alice", "bob", "relay")
        }
        alice, bob = (Agent.create(MESH, journal=AuditJournal(logs[name])) for name in ("alice", "bob"))

        def over(envelope: bytes) -> bytes:
            logs["relay"].append(relay_record(OuterEnvelope.parse(envelope), at_ms=1_767_225_600_000))
            return envelope

        knock = over(alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("ask")).envelope)
        [asked] = bob.receive(knock)
        alice.receive(over(bob.accept(asked).envelope))  # type: ignore[arg-type]
        bob.receive(over(alice.send(bob.did, b"x").envelope))
    (folder / "knock.bin").write_bytes(knock)
    for name in ("report.pdf", "q3.pdf"):
        (folder / name).write_bytes(b"%PDF " * 100)
    attachment = seal_file(str(folder / "q3.pdf"), str(folder / "q3.blob"))
    for name, secret in (
        ("q3.reference", attachment.encode()), ("alice.key", KEY), ("new.key", bytes(32).hex().encode()),
    ):  # fmt: skip
        (folder / name).touch(0o600)
        (folder / name).write_bytes(secret)
    with SQLiteStore(folder / "alice.mesh", key=KEY) as store:
        store.open_agent(MESH, keep_log=True).publish_bundles(1)
    statement = issue_trust(Identity.generate(), Identity.generate().key, 5, mesh=MESH, sequence=1, time_ms=1)
    (folder / "statement.bin").write_bytes(statement)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for one test, in which it runs."""
    shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(words) == Exit.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(r"[ -~\n]*", out)
    return out


# --- examples and answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_ends_with_an_example_and_the_exit_status(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert f"\nexample:\n  python -m agentmesh {command} {COMMANDS[command].example}\n" in shown
    assert all(meaning in shown for meaning in EXITS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_every_command_works(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in MADE.get(command, ()):
        (folder / name).unlink()
    example = COMMANDS[command].example
    assert example is not None
    assert run(capsys, *command.split(), *example.split())


def documented(command: str) -> list[set[str]]:
    """Return the members of a command's answer as the page has them, one set for each form."""
    rows = re.findall(r"^\| (?:`([a-z ]+)`)? ?\| (.*) \|$", PAGE, re.MULTILINE)
    forms: list[set[str]] = []
    inside = ""
    for name, text in rows:
        inside = name or inside
        if inside == command:
            forms.append(set(re.findall(r"`(\w+)`", text.partition(": ")[2] if ": " in text else text)))
    return forms


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_every_answer_in_json_is_as_documented(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in MADE.get(command, ()):
        (folder / name).unlink()
    words = [*command.split(), *(COMMANDS[command].example or "").split()]
    out = run(capsys, *words, *([] if "--json" in words else ["--json"]))
    lines = out.splitlines()
    assert len(lines) == 1 or command == "audit show"
    for line in lines:
        value = json.loads(line)
        assert isinstance(value, dict)
        assert value.keys() - {"what"} in documented(command)


def test_the_page_has_a_row_for_every_command_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \| `\w", PAGE, re.MULTILINE)
    rows = [row for row in rows if row not in {"info", "check", "backup", "rekey", "vacuum"}]  # of another table
    assert len(rows) == len(set(rows))
    assert set(rows) == COMMANDS.keys() - {"completion"}


def test_the_page_has_every_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(str(int(status)), meaning) for status, meaning in EXITS.items()]


# --- forms of inspect and trust show ---------------------------------------------------------------------------------


def test_inspect_tells_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent.create(MESH)
    log = AuditLog(LogFile("new.log"))
    log.append([])
    (folder / "bundle").write_bytes(agent.publish_bundles(1).one_time[0])
    (folder / "checkpoint").write_bytes(agent.checkpoint(log).statement)
    log._sink.close()  # type: ignore[attr-defined]
    files = {
        "envelope": "knock.bin", "bundle": "bundle", "checkpoint": "checkpoint", "reference": "q3.reference",
        "store": "alice.mesh", "log": "alice.log",
    }  # fmt: skip
    for what, name in files.items():
        value = json.loads(run(capsys, "inspect", name, "--json"))
        assert value.pop("what") == what
        assert value.keys() in documented("inspect")
        assert run(capsys, "inspect", name)
    assert json.loads(run(capsys, "inspect", "alice.mesh", "--json"))["page_bytes"] == PAGE_BYTES
    assert BundleClass.ONE_TIME.name.lower().replace("_", "-") in run(capsys, "inspect", "bundle")


def test_inspect_shows_no_secret_of_a_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = (folder / "q3.reference").read_bytes()
    shown = run(capsys, "inspect", "q3.reference") + run(capsys, "inspect", "q3.reference", "--json")
    key = reference[4:36].hex()
    assert key not in shown
    assert "q3.pdf" not in shown


def test_what_files_begin_with_is_the_stores_own() -> None:
    assert (inspection._LOG, inspection._LOG_CONTINUED) == (MAGIC, CONTINUED)
    assert int.from_bytes(inspection._STORE, "big") == APPLICATION_ID


def test_another_database_is_no_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").write_bytes(b"SQLite format 3\x00" + bytes(200))
    (folder / "cut").write_bytes(b"SQLite format 3\x00")
    for name in ("other", "cut"):
        with pytest.raises(SystemExit) as stopped:
            main(["inspect", name])
        assert stopped.value.code == Exit.MALFORMED


def test_trust_show_tells_every_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Identity.generate(), Identity.generate()
    given: dict[str, Any] = {"mesh": MESH, "sequence": 7, "time_ms": 1_767_225_600_000}
    ledger = TrustLedger(MESH)
    ledger.believe(one.key)
    kinds = {
        "update": issue_trust(one, other.key, -150, **given),
        "edge": issue_edge(one, other.key, 900, **given),
        "continuity": issue_continuity(one, other, **given),
        "revocation": issue_revocation(one, other.key, **given),
        "ledger": ledger.export_state(),
    }
    for kind, data in kinds.items():
        (folder / kind).write_bytes(data)
        value = json.loads(run(capsys, "trust", "show", kind, "--json"))
        assert value["kind"] == kind
        assert value["mesh"] == MESH
        assert value.keys() - {"what"} in documented("trust show")
        if value["what"] == "statement":
            assert (value["issuer"], value["subject"], value["sequence"]) == (one.did, other.did, 7)
            assert value["value"] == {"update": -150, "edge": 900}.get(kind)
            shown = run(capsys, "trust", "show", kind)
            assert "2026-01-01T00:00:00.000Z" in shown
            altered = bytearray(data)
            altered[-1] ^= 1
            (folder / kind).write_bytes(altered)
            with pytest.raises(SystemExit) as stopped:
                main(["trust", "show", kind])
            assert stopped.value.code == Exit.TAMPERED
    for data in (b"", b"rubbish", bytes(400), kinds["ledger"][:-1] + b"x"):
        (folder / "rubbish").write_bytes(data)
        with pytest.raises(SystemExit) as stopped:
            main(["trust", "show", "rubbish"])
        assert stopped.value.code == Exit.MALFORMED


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_new_private_and_shown_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, "keygen", "one.key") + run(capsys, "keygen", "two.key", "--json")
    secrets = [(folder / name).read_text().strip() for name in ("one.key", "two.key")]
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in secrets)
    assert secrets[0] != secrets[1]
    assert not any(secret in shown for secret in secrets)
    assert stat.S_IMODE((folder / "one.key").stat().st_mode) == 0o600
    identity = Identity.from_seed(bytes.fromhex(secrets[0]))
    assert identity.did in shown
    assert identity.key.raw.hex() in shown
    for words in (["--key-file", "one.key"], [identity.key.raw.hex()]):
        found = json.loads(run(capsys, "did", *words, "--json"))
        assert found == {"did": identity.did, "public_key": identity.key.raw.hex()}
    assert json.loads(run(capsys, "did", identity.did, "--json")) == {"did": identity.did, "public_key": None}
    before = secrets[0]
    with pytest.raises(SystemExit) as stopped:
        main(["keygen", "one.key"])
    assert stopped.value.code == Exit.USAGE
    assert (folder / "one.key").read_text().strip() == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_key_that_could_not_be_written_is_not_half_there(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{type(error).__name__}.key"

    def full(descriptor: int) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with contextlib.suppress(SystemExit):
            assert main(["keygen", name]) == Exit.INTERRUPTED
    assert not (folder / name).exists()
    run(capsys, "keygen", name)


def test_a_secret_in_the_place_of_a_public_key_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "b0a1961da471bc6fa609fd08b8f00aa80d0bf71beaf54bdd431cd9a5e83c0880"  # none that is a public key too
    with pytest.raises(SystemExit):
        main(["did", secret])
    assert secret[:8] not in "".join(capsys.readouterr())


def test_a_stores_key_has_no_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(run(capsys, "keygen", "store.key", "--for", "store", "--json"))
    assert value == {"path": "store.key", "for": "store", "did": None, "public_key": None}
    (folder / "fresh.mesh").unlink(missing_ok=True)
    with SQLiteStore("fresh.mesh", key=bytes.fromhex((folder / "store.key").read_text())) as store:
        store.open_agent(MESH)
    assert "open and agree" in run(capsys, "store", "check", "fresh.mesh", "--key-file", "store.key")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_remarked_on(mode: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "alice.key").chmod(mode)
    assert main(["store", "check", "alice.mesh", "--key-file", "alice.key"]) == Exit.OK
    assert capsys.readouterr().err == f"agentmesh: alice.key may be read by others, mode {mode:04o}: chmod 600\n"


@pytest.mark.parametrize("name", ["", "xyz", "00" * 31, "00" * 32, "did:agentmesh:", "did:web:x", "\x1b[2J"])
def test_what_is_no_key_and_no_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["did", name])
    assert stopped.value.code == Exit.MALFORMED
    assert re.fullmatch(r"[ -~]*\n", capsys.readouterr().err)


def test_no_option_takes_a_secret() -> None:
    """What stands on a command line is seen by every other user: options name files, and have no value to hide."""
    for command, one in COMMANDS.items():
        for action in one._actions:
            words = " ".join((*action.option_strings, action.dest)).lower()
            if re.search("key|pass|secret|seed|token", words):
                assert action.metavar in {"FILE", "KEY-OR-DID"}, command
    for path in (ROOT / "agentmesh" / "cli").glob("*.py"):
        assert not re.search(r"os\.(environ|getenv)", path.read_text("utf-8")), path


# --- vectors, version ------------------------------------------------------------------------------------------------


def test_the_shipped_vectors_are_the_protocols_own() -> None:
    shipped = vectors.shipped()
    assert len(shipped) == 10
    assert {vector["expect"] == "ok" for vector in shipped} == {True, False}
    for vector in shipped:
        whole = json.loads((ROOT / "vectors" / "v1" / vector["family"] / f"{vector['name']}.json").read_text("utf-8"))
        assert vector.items() <= whole.items()


@pytest.mark.parametrize("number", range(10))
def test_each_shipped_vector_can_fail(number: int, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    shipped = vectors.shipped()
    wrong = shipped[number]
    wrong["output"] = dict.fromkeys(wrong["output"], "00")
    wrong["expect"] = "ok"
    monkeypatch.setattr(vectors, "shipped", lambda: shipped)
    assert main(["vectors", "--json"]) == Exit.FOUND
    out, err = capsys.readouterr()
    failed = [one["name"] for one in json.loads(out)["vectors"] if not one["passed"]]
    assert failed == [f"{wrong['family']}/{wrong['name']}"]
    assert err == "agentmesh: 1 vector failed\n"


# --- completion ------------------------------------------------------------------------------------------------------


def expected(words: list[str]) -> set[str]:
    """What may complete a command line of these words and an empty one."""
    level: argparse.ArgumentParser = parser()
    for word in words:
        [action] = [one for one in level._actions if isinstance(one, argparse._SubParsersAction)]
        level = action.choices[word]
    below = [one for one in level._actions if one.choices is not None and not one.option_strings]
    return {str(choice) for one in below for choice in one.choices or ()}


LINES = [[], ["audit"], ["store"], ["attach"], ["trust"], ["completion"], ["audit", "verify"], ["demo"]]
ASKED_BASH = """
source ./completion
COMP_WORDS=(agentmesh "$@"); COMP_CWORD=$#
_agentmesh
printf '%s\\n' "${COMPREPLY[@]}"
"""
ASKED_ZSH = """
compdef() { }
compadd() { print -rl -- "${(@P)@[-1]}" }
_describe() { print -rl -- "${(@)${(@P)@[-1]}%%:*}" }
_files() { print -r -- FILES }
source ./completion
words=(agentmesh "$@"); CURRENT=$#words
_agentmesh
"""


def completed(shell: str, folder: Path, *words: str) -> set[str]:
    program_ = shutil.which(shell)
    if program_ is None:
        pytest.skip(f"there is no {shell} here: apt-get install {shell}")
    flags = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"]}[shell]
    script = {"bash": ASKED_BASH, "zsh": ASKED_ZSH}[shell]
    done = subprocess.run(
        [program_, *flags, "-c", script, shell, *words], cwd=folder, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return {line for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_what_the_parser_knows(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "completion").write_text(run(capsys, "completion", shell))
    files = {"FILES"} if shell == "zsh" else set()  # bash: nothing, and so names of files, by `-o default`
    for words in LINES:
        assert completed(shell, tmp_path, *words, "") == (expected(words) or files), words
    assert completed(shell, tmp_path, "keygen", "--for", "") == {"identity", "store"}
    options = completed(shell, tmp_path, "audit", "compare", "--")
    assert {"--relay", "--json", "--all", "--earlier-a"} <= options
    assert "--checkpoint" not in options
    assert completed(shell, tmp_path, "audit", "verify", "audit", "") == files  # a file that is called as a command
    if shell == "bash":
        assert completed(shell, tmp_path, "st") == {"store"}
        assert completed(shell, tmp_path, "audit", "verify", "--ch") == {"--checkpoint"}


def test_completion_is_bound_to_both_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "completion", "bash").endswith("-F _agentmesh agentmesh agentmesh-e2ee\n")
    assert run(capsys, "completion", "zsh").startswith("#compdef agentmesh agentmesh-e2ee\n")


# --- the script ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("called", [*SCRIPTS, "/usr/bin/agentmesh"])
def test_help_names_the_script_that_was_called(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == os.path.basename(called)
    monkeypatch.setattr(sys, "argv", [])
    assert program() == "python -m agentmesh"


def test_the_script_is_declared_under_both_names() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == dict.fromkeys(SCRIPTS, "agentmesh.__main__:run")
    done = subprocess.run(
        [sys.executable, "-c", "from agentmesh.__main__ import run; raise SystemExit(run())", "--version"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("agentmesh ")
