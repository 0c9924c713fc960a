"""vectors/verify.py: passes every vector without the library, and fails where a vector is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
FILES = sorted((VECTORS / "v1").rglob("*.json"))

# Runs verify.py isolated, so that only the folder vectors/ and installed packages can be imported, and of those none
# that would let the library check itself.
RUN = """
import runpy, sys

FORBIDDEN = {"agentmesh", "msgpack", "generator", "runner", "tests"}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise RuntimeError(f"{name} is imported")

folder, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Finder())
sys.path.insert(0, folder)
try:
    runpy.run_path(f"{folder}/verify.py", run_name="__main__")
finally:
    present = FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
    if present:
        raise RuntimeError(f"{present} are imported")
"""


def verify(*arguments: str | Path) -> tuple[int, list[str]]:
    """Exit status and lines of a run."""
    command = [sys.executable, "-I", "-c", RUN, str(VECTORS), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_hook_sees_an_import() -> None:
    command = [sys.executable, "-I", "-c", RUN.replace("runpy.run_path", "import agentmesh #"), str(VECTORS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "RuntimeError: agentmesh is imported" in done.stderr


def test_every_vector_passes() -> None:
    status, lines = verify()
    assert lines[-1] == f"{len(FILES)} passed, 0 failed", "\n".join(lines)
    assert status == 0
    counted = [re.fullmatch(r"([a-z]+): (\d+) files, (\d+) valid, (\d+) invalid, (\d+) passed", x) for x in lines[:-1]]
    families = {match[1]: tuple(map(int, match.groups()[1:])) for match in counted if match}
    assert set(families) == {path.parent.name for path in FILES}
    for family, (files, valid, invalid, passed) in families.items():
        names = [path.name for path in FILES if path.parent.name == family]
        assert files == passed == len(names)
        assert invalid == sum(name.startswith("refuse-") for name in names)
        assert valid == files - invalid


def flipped(text: str) -> str:
    """A byte string with a bit of its first byte changed, or another text."""
    if re.fullmatch("([0-9a-f]{2})+", text):
        return f"{int(text[:2], 16) ^ 1:02x}{text[2:]}"
    return text + "x"


def change(value: Any, where: list[str | int]) -> None:
    """Change the member that a path leads to."""
    *way, last = where
    for key in way:
        value = value[key]
    value[last] = flipped(value[last]) if isinstance(value[last], str) else value[last] + 1


def leaves(value: Any) -> list[list[str | int]]:
    """Paths to all texts and numbers of a value."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        return [[key, *rest] for key, member in members for rest in leaves(member)]
    return [] if value is None or isinstance(value, bool) else [[]]


def copied(path: Path, to: Path, *where: str | int) -> Path:
    """A copy of a vector with one value changed."""
    vector = json.loads(path.read_text(encoding="utf-8"))
    change(vector, list(where))
    copy = to / path.parent.name / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(vector), encoding="utf-8")
    return copy


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("part", ["output", "intermediate"])
def test_a_flipped_byte_in_what_must_come_out(tmp_path: Path, part: str, which: int) -> None:
    """One value of each file that has any: every such file fails."""
    count = 0
    for path in FILES:
        if paths := leaves(json.loads(path.read_text(encoding="utf-8"))[part]):
            copied(path, tmp_path, part, *paths[which])
            count += 1
    status, lines = verify(tmp_path)
    assert count > 200
    assert lines[-1] == f"0 passed, {count} failed"
    assert status == 1


INPUTS: list[tuple[str, list[str | int]]] = [
    ("did/derive-alice", ["public_key"]),
    ("did/parse", ["did"]),
    ("keys/identity-alice", ["seed"]),
    ("keys/verify-knock", ["signature"]),
    ("keys/kem-decapsulate", ["kem_ciphertext"]),
    ("kdf/hash-message", ["data"]),
    ("aead/seal-plain", ["plaintext"]),
    ("aead/open-plain", ["sealed"]),
    ("padding/unpad-128", ["padded"]),
    ("bundle/verify-one-time", ["bundle"]),
    ("bundle/issue-one-time", ["not_after_ms"]),
    ("handshake/respond-one-time", ["kem_ciphertext"]),
    ("handshake/initiate-one-time", ["expires_ms"]),
    ("envelope/build-message", ["body"]),
    ("receipt/knock", ["envelope"]),
    ("knock/build-one-time", ["nonce"]),
    ("knock/receive-one-time", ["bundles", 0, "kem_seed"]),
    ("knock/refuse-unknown-bundle", ["steps", 0, "envelope"]),
    ("accept/make-limited", ["steps", 0, "ratchet_secret"]),
    ("accept/take-limited", ["session", "th"]),
    ("reject/take-busy", ["peer"]),
    ("ratchet/ping-pong-initiator", ["context"]),
    ("message/conversation-responder", ["session", "root"]),
    ("pair/send-latest", ["steps", 0, "envelope"]),
    ("pair/knock-fresh", ["peer"]),
    ("pair/send-initiator", ["steps", 0, "kem_shared_secret"]),
    ("attachment/parse", ["reference"]),
    ("attachment/seal-65", ["key"]),
    ("attachment/open-behind-the-blob", ["blob", "nonces", 1]),
    ("attachment/disclose-small", ["blob_bytes"]),
]


def test_a_flipped_byte_in_the_input(tmp_path: Path) -> None:
    """Every one of these inputs decides what comes out."""
    paths = [copied(VECTORS / "v1" / f"{name}.json", tmp_path, "input", *where) for name, where in INPUTS]
    status, lines = verify(tmp_path)
    assert status == 1
    assert lines[-1] == f"0 passed, {len(paths)} failed"
    assert all(any(line.startswith(f"{path}: ") for line in lines) for path in paths)


def test_another_frame(tmp_path: Path) -> None:
    fields = ["version", "family", "operation", "expect", "name"]
    paths = [copied(VECTORS / "v1" / "aead" / "refuse-other-key.json", tmp_path / name, name) for name in fields]
    status, lines = verify(*paths)
    assert status == 1
    assert lines[-1] == f"0 passed, {len(paths)} failed"
    assert all(any(line.startswith(f"{path}: ") for line in lines) for path in paths)


def test_an_output_that_is_missing_or_not_wanted(tmp_path: Path) -> None:
    vector = json.loads((VECTORS / "v1" / "kdf" / "chain.json").read_text(encoding="utf-8"))
    path = tmp_path / "chain.json"
    for output, line in (
        ({"mk": vector["output"]["mk"]}, "output.ck_next: wanted nothing"),
        ({**vector["output"], "rk": "00"}, "output.rk: wanted"),
    ):
        path.write_text(json.dumps({**vector, "output": output}), encoding="utf-8")
        status, lines = verify(path)
        assert status == 1
        assert lines[0].startswith(f"{path}: {line}")


def test_no_file_and_mistaken_calls(tmp_path: Path) -> None:
    assert verify(tmp_path) == (1, ["0 passed, 0 failed"])
    assert verify(tmp_path / "nothing")[0] == 2
    assert verify("--no-such-option")[0] == 2
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert verify(tmp_path)[0] == 1
