"""`agentmesh keygen` and `agentmesh did`: a new secret in a file, and the name of a key."""

from __future__ import annotations

import argparse
from typing import Final

from agentmesh.cli.command import Commands, add_command, answer
from agentmesh.cli.keys import key_in
from agentmesh.cli.text import Exit, escaped, fail, reason
from agentmesh.cli.whole_files import shown, write_new
from agentmesh.errors import AgentMeshError
from agentmesh.identity import Identity, IdentityKey, parse_did
from agentmesh.primitives.entropy import SystemEntropy

_SEED_BYTES: Final = 32


def add(commands: Commands) -> None:
    """Add `keygen` and `did` to the command line."""
    keygen = add_command(
        commands, "keygen", _keygen,
        what="make a new identity, or a store's key, in a file",
        description="Draw 32 bytes from the operating system and write them to a new file of mode 0600, as 64 "
        "hexadecimal digits. Nothing is replaced. The secret is shown nowhere else.",
        example="alice.key",
    )  # fmt: skip
    keygen.add_argument("file", metavar="FILE", help="where it is to stand; nothing may be there")
    keygen.add_argument(
        "--for", dest="purpose", choices=("identity", "store"), default="identity",
        help="what it is: the seed of an identity, or the key that a store is sealed under; never one for both",
    )  # fmt: skip
    did = add_command(
        commands, "did", _did,
        what="show the DID of a key, or check one",
        description="Show the DID of an identity, and its public key: from its secret in a file, or from the public "
        "key itself. A DID is checked for its one canonical form.",
        example="--key-file alice.key",
    )  # fmt: skip
    given = did.add_mutually_exclusive_group(required=True)
    given.add_argument("name", nargs="?", metavar="KEY-OR-DID", help="a public key of 64 hexadecimal digits, or a DID")
    given.add_argument("--key-file", metavar="FILE", help="the secret of an identity, as `keygen` wrote it; `-` for "
                       "standard input, /dev/fd/3 for a descriptor")  # fmt: skip


def _keygen(arguments: argparse.Namespace) -> int:
    secret = SystemEntropy().token(_SEED_BYTES)
    write_new(arguments.file, [secret.hex().encode(), b"\n"])
    is_identity = arguments.purpose == "identity"
    key = Identity.from_seed(secret).key if is_identity else None
    value = {
        "path": arguments.file,
        "for": arguments.purpose,
        "did": None if key is None else key.did,
        "public_key": None if key is None else key.raw.hex(),
    }
    lines = [f"secret    {shown(arguments.file)}, mode 0600: whoever has it is this agent" if key is not None else
             f"secret    {shown(arguments.file)}, mode 0600: whoever has it opens the store"]  # fmt: skip
    if key is not None:
        lines += [f"did       {key.did}", f"key       {key.raw.hex()}"]
    answer(arguments, value, lines)
    return Exit.OK


def _did(arguments: argparse.Namespace) -> int:
    name, key = arguments.name, None
    try:
        if arguments.key_file is not None:
            key = Identity.from_seed(key_in(arguments.key_file)).key
        elif not name.startswith("did:"):
            key = IdentityKey(bytes.fromhex(name))
        did = parse_did(name) if key is None else key.did
    except (AgentMeshError, ValueError) as error:
        said = reason(error) if isinstance(error, AgentMeshError) else "neither a DID nor 64 hexadecimal digits"
        # A DID is shown; what is no DID may be a secret that was given in the place of a public key.
        given = escaped(name) if name is not None and name.startswith("did:") else "what was given"
        fail(f"{given}: {said}", Exit.MALFORMED)
    raw = None if key is None else key.raw.hex()
    answer(arguments, {"did": did, "public_key": raw}, [f"did       {did}", *([f"key       {raw}"] if raw else ())])
    return Exit.OK
