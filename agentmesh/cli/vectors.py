"""`agentmesh vectors`: whether this installation computes what the protocol's test vectors say.

A few of the vectors are shipped, from `vectors/v1` as they stand there; all of them, and an implementation that shares
nothing with this one, are in the source.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from agentmesh.audit.merkle import RunningRoot, leaf_hash
from agentmesh.cli.command import Commands, add_command, answer
from agentmesh.cli.text import Exit, amount, complain
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AgentMeshError
from agentmesh.identity import DID_PREFIX, Identity, did_of, parse_did
from agentmesh.primitives._labels import KDF_LABELS
from agentmesh.primitives.aead import open_sealed
from agentmesh.primitives.backend import check_backend
from agentmesh.primitives.base58 import base58_decode
from agentmesh.primitives.padding import padded_length

Json = dict[str, Any]
_LABELS: Final = {label.decode(): label for label in KDF_LABELS}


def add(commands: Commands) -> None:
    """Add `vectors` to the command line."""
    add_command(
        commands, "vectors", _vectors,
        what="hold this installation to test vectors of the protocol",
        description="Ask every primitive for known answers, and compute what some of the protocol's test vectors say: "
        "names, keys, receipts, sealing, padding, the tree of the audit log, and what must be refused. All vectors "
        "are in the source, under vectors/v1.",
        example="--json",
    )  # fmt: skip


def shipped() -> list[Json]:
    """Return the vectors that are part of the package."""
    found: list[Json] = json.loads((files("agentmesh.cli") / "vectors.json").read_text("utf-8"))
    return found


def _vectors(arguments: argparse.Namespace) -> int:
    results = [("primitives", _fits())]
    results += [(f"{vector['family']}/{vector['name']}", passes(vector)) for vector in shipped()]
    failed = [name for name, passed in results if not passed]
    value = {"passed": not failed, "vectors": [{"name": name, "passed": passed} for name, passed in results]}
    answer(arguments, value, (f"{'ok' if passed else 'FAILED':<8}{name}" for name, passed in results))
    if failed:
        complain(f"{amount(len(failed), 'vectors')} failed")
    return Exit.FOUND if failed else Exit.OK


def _fits() -> bool:
    try:
        check_backend()
    except AgentMeshError:
        return False
    return True


def passes(vector: Json) -> bool:
    """Say whether this installation makes of a vector's input what the vector says."""
    try:
        output = _OPERATIONS[vector["operation"]](vector["input"])
    except AgentMeshError as error:
        return bool(vector["expect"] == error.code)
    return bool(vector["expect"] == "ok" and output == vector["output"])


def _identity(given: Json) -> Json:
    identity = Identity.from_seed(bytes.fromhex(given["seed"]))
    return {
        "public_key": identity.key.raw.hex(),
        "did": identity.did,
        "x25519_secret": identity.dh_secret.hex(),
        "x25519_public": identity.key.dh.hex(),
    }


def _opened(given: Json) -> Json:
    key, context, sealed = (bytes.fromhex(given[name]) for name in ("key", "context", "sealed"))
    return {"plaintext": open_sealed(key, _LABELS[given["label"]], context, sealed).hex()}


def _root(given: Json) -> Json:
    tree = RunningRoot()
    for entry in given["entries"]:
        tree.append(leaf_hash(bytes.fromhex(entry)))
    return {"root": tree.root().hex()}


_OPERATIONS: Final[dict[str, Callable[[Json], Json]]] = {
    "did.derive": lambda given: {"did": did_of(bytes.fromhex(given["public_key"]))},
    "did.parse": lambda given: {"hash": base58_decode(parse_did(given["did"])[len(DID_PREFIX) :], 20).hex()},
    "keys.identity": _identity,
    "padding.length": lambda given: {"padded_lengths": [padded_length(length) for length in given["lengths"]]},
    "receipt.compute": lambda given: {"receipt": OuterEnvelope.parse(bytes.fromhex(given["envelope"])).receipt.hex()},
    "aead.open": _opened,
    "merkle.root": _root,
}
