"""The project's own vectors: each file through the library; their shape and counts, and that they can be made again."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import agentmesh
from agentmesh import errors
from agentmesh.primitives import _crypto, _labels
from agentmesh.session.suite import SUITE

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "vectors"
FILES = sorted((VECTORS / "v1").glob("*/*.json"))

sys.path.append(str(VECTORS))

import runner  # noqa: E402 - it stands beside the vectors, in no package

# Codes of bytes from elsewhere that no vector has, each with its reason.
WITHOUT_A_VECTOR = {
    "envelope.replayed": "a relay's limiter says it, by a memory of its own",
    "inbox.full": "an agent says it that keeps an inbox, by a limit of its own",
}
# These neither make something under a name of making, nor take anything that could be refused.
ALWAYS_VALID = {
    "keys.identity",
    "keys.kem_key",
    "record.count",
    "merkle.root",
    "merkle.inclusion_proofs",
    "merkle.consistency_proofs",
}


@cache
def load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    return vector


def file_id(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def leaves(error: type[errors.AgentMeshError]) -> list[type[errors.AgentMeshError]]:
    return [leaf for child in error.__subclasses__() for leaf in leaves(child)] or [error]


def codes(vector: dict[str, Any]) -> set[str]:
    """Return every code that the file or one of its steps has."""
    return {vector["expect"], *(step["expect"] for step in vector["output"].get("steps", ()))} - {"ok"}


# --- each file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_a_vector_gives_its_result(path: Path) -> None:
    vector = load(path)
    assert (vector["family"], vector["name"]) == (path.parent.name, path.stem)
    # The runner also asserts that a refused step left the exported state as it was, byte for byte.
    assert runner.run(vector["operation"], vector["input"]) == (vector["expect"], vector["output"])


@pytest.mark.parametrize("path", [path for path in FILES if load(path)["expect"] == "ok"][::7], ids=file_id)
def test_another_result_is_noticed(path: Path) -> None:
    vector = copy.deepcopy(load(path))
    assert runner.run(vector["operation"], vector["input"]) != ("wire.malformed", vector["output"])
    if vector["output"]:
        vector["output"][next(iter(vector["output"]))] = "00"
        assert runner.run(vector["operation"], vector["input"]) != ("ok", vector["output"])


def test_a_refusal_that_changes_the_state_is_noticed() -> None:
    class Careless:
        def __init__(self) -> None:
            self.count = 0

        def step(self, _step: dict[str, Any]) -> dict[str, Any]:
            self.count += 1
            raise errors.DecryptionFailed

        def state(self) -> dict[str, Any]:
            return {}

        def export(self) -> int:
            return self.count

    with pytest.raises(AssertionError, match=r"message\.unopened"):
        runner.take(Careless(), {})


def test_steps_are_as_many_as_their_results() -> None:
    for path in FILES:
        vector = load(path)
        steps = vector["input"].get("steps")
        if steps is not None:
            assert len(steps) == len(vector["output"]["steps"]) == len(vector["intermediate"]["steps"]), file_id(path)


def test_values_on_the_way_follow_from_one_another() -> None:
    seen = 0
    for path in FILES:
        values = load(path)["intermediate"]
        for step in (values, *values.get("steps", ()), *(step.get("answer", {}) for step in values.get("steps", ()))):
            key = {name: bytes.fromhex(value) for name, value in step.items() if isinstance(value, str)}
            if {"ck", "ck_next", "mk"} <= key.keys():
                assert SUITE.kdf_chain(key["ck"]) == (key["ck_next"], key["mk"]), file_id(path)
                seen += 1
            if {"rk", "rk_between", "dh_sending"} <= key.keys():
                shared = key["dh_sending"] + key.get("mixed_sending", b"")
                assert SUITE.kdf_root(key["rk_between"], shared) == (key["rk"], key["cks"], key["nhks"])
                seen += 1
            if "prk" in key:
                shared = key["dh1"] + key["dh2"] + key["dh3"] + key["ss"]
                assert _crypto.kdf(key["th"], _labels.EXTRACT, shared, 64) == key["prk"], file_id(path)
                assert _crypto.kdf(key["prk"], _labels.FIRST_ROOT, b"", 32) == key["root"], file_id(path)
                seen += 1
    assert seen > 200


# --- what they cover -------------------------------------------------------------------------------------------------


def test_refusals_are_at_least_as_many_as_successes() -> None:
    counts = Counter(load(path)["expect"] == "ok" for path in FILES)
    assert counts[False] >= counts[True] > 200


def test_every_code_that_bytes_can_cause_has_a_vector() -> None:
    seen = set().union(*(codes(load(path)) for path in FILES))
    # Of AGT's protocol there are the captured answers of vectors/agt.
    wanted = {leaf.code for leaf in leaves(errors.RemoteError) if not leaf.code.startswith("agt.")}
    assert wanted - seen <= set(WITHOUT_A_VECTOR)
    assert not seen & set(WITHOUT_A_VECTOR), "these have a vector now, and no reason is needed"


def test_every_code_is_one_of_the_library() -> None:
    known = {leaf.code for leaf in leaves(errors.AgentMeshError)}
    assert set().union(*(codes(load(path)) for path in FILES)) <= known


def test_every_operation_has_a_valid_and_where_it_can_refuse_an_invalid_vector() -> None:
    results: dict[str, set[bool]] = {}
    for path in FILES:
        vector = load(path)
        results.setdefault(vector["operation"], set()).add(vector["expect"] == "ok")
    assert set(results) == set(runner.OPERATIONS)
    for operation, outcomes in results.items():
        makes = operation.rpartition(".")[2] in {"build", "issue", "seal", "sign", "pad", "length", "derive"}
        cannot_refuse = makes or operation.startswith("kdf.") or operation in ALWAYS_VALID
        assert outcomes == ({True} if cannot_refuse else {True, False}), operation


def test_every_section_that_is_named_is_there() -> None:
    headings = re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs" / "protocol.md").read_text("utf-8"), re.MULTILINE)
    assert {load(path)["spec"] for path in FILES} <= set(headings)


# --- the README ------------------------------------------------------------------------------------------------------


def test_the_readme_counts_the_files() -> None:
    readme = (VECTORS / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (?:\[(\w+)\]\(v1/\1\)|all) \| (\d+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    assert rows
    counted = {family or "all": (int(valid), int(invalid), int(files)) for family, valid, invalid, files in rows}
    found: dict[str, tuple[int, int, int]] = {}
    for family in (*{path.parent.name for path in FILES}, "all"):
        expects = [load(path)["expect"] for path in FILES if family in {path.parent.name, "all"}]
        valid = expects.count("ok")
        found[family] = (valid, len(expects) - valid, len(expects))
    assert counted == found


def test_the_readme_names_every_operation_and_every_field() -> None:
    readme = (VECTORS / "README.md").read_text("utf-8")
    for operation in runner.OPERATIONS:
        assert re.search(rf"^\| `{re.escape(operation)}` \||^#### {re.escape(operation)}$", readme, re.MULTILINE), (
            operation
        )
    names = set().union(*(_names(load(path)) for path in FILES))
    missing = {name for name in names if not re.search(rf'[`."]{name}[`"]', readme)}
    # What only debugging needs is named after the text it comes from.
    assert missing <= set().union(*(_names(load(path)["intermediate"]) for path in FILES))


def _names(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {name for name in value if name not in {"limits"}}
        return own.union(*(_names(item) for name, item in value.items() if name != "limits"))
    if isinstance(value, list):
        return set().union(*(_names(item) for item in value))
    return set()


# --- the schema ------------------------------------------------------------------------------------------------------


@cache
def validators() -> dict[str, Any]:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="the shape of the files is checked with: pip install jsonschema"
    )
    from referencing import Registry, Resource

    schemas = {path.stem: json.loads(path.read_text("utf-8")) for path in (VECTORS / "schema").glob("*.json")}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    registry = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()]
    )
    return {
        name: jsonschema.Draft202012Validator(schema, registry=registry)
        for name, schema in schemas.items()
        if name != "common"
    }


@pytest.mark.parametrize("family", sorted({path.parent.name for path in FILES}))
def test_every_file_has_the_shape_of_its_family(family: str) -> None:
    validator = validators()[family]
    for path in FILES:
        if path.parent.name == family:
            problems = [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(load(path))]
            assert not problems, (file_id(path), problems[:3])


def test_there_is_a_schema_for_each_family_and_no_other() -> None:
    assert set(validators()) == {path.parent.name for path in FILES}


@pytest.mark.parametrize("path", FILES[::61], ids=file_id)
def test_another_shape_is_refused(path: Path) -> None:
    validator = validators()[path.parent.name]
    for where in ([], ["input"]):
        for change in ("add", "remove", "number"):
            vector = copy.deepcopy(load(path))
            target = vector
            for name in where:
                target = target[name]
            first = next(iter(target))
            if change == "add":
                target["misspelt"] = "00"
            elif change == "remove":
                del target[first]
            else:
                target[first] = -1
            assert not validator.is_valid(vector), (where, change)
    vector = copy.deepcopy(load(path))
    vector["expect"] = "ok" if vector["expect"] != "ok" else "wire.malformed"
    assert not validator.is_valid(vector)


# --- made again ------------------------------------------------------------------------------------------------------


def generate_check(folder: Path) -> subprocess.CompletedProcess[str]:
    # The library under test, wherever the tests run from.
    environment = {**os.environ, "PYTHONPATH": str(Path(agentmesh.__file__).parents[1])}
    command = [sys.executable, str(folder / "generate.py"), "--check"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_vectors_are_those_that_the_generator_writes() -> None:
    done = generate_check(VECTORS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generator_notices_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    shutil.copytree(VECTORS, folder, ignore=shutil.ignore_patterns("__pycache__", "history"))
    altered, missing, surplus = (folder / "v1" / "did" / f"{name}.json" for name in ("parse", "refuse-empty", "more"))
    altered.write_text(altered.read_text("ascii").replace("did:agentmesh", "did:agentmash"), encoding="ascii")
    missing.unlink()
    surplus.write_text("{}\n", encoding="ascii")
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    done = generate_check(folder)
    assert done.returncode == 1
    assert set(done.stdout.splitlines()[:-1]) == {f"other {altered}", f"missing {missing}", f"surplus {surplus}"}
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before
