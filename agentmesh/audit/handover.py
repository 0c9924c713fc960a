"""What a file hands over to the next one of the same log (docs/protocol.md, section 8.2).

    handover = msgpack [1, owner, size, head (32), nodes, checkpoint (0..320)]

A log goes on over many files: its numbers, its chain and its tree. So whoever opens the newest file alone needs of the
earlier ones how many entries they have, the hash of the last, and the hashes of the complete subtrees over them, the
largest first, one for each bit of the size: the root over them follows, and so does every later one.
"""

from __future__ import annotations

from typing import Final, Self, final

from attrs import field, frozen

from agentmesh.audit.checkpoint import CHECKPOINT_MAX_BYTES, Checkpoint, claimed_by, verify_checkpoint
from agentmesh.audit.merkle import EntryHash, RootHash, RunningRoot
from agentmesh.audit.record import is_name
from agentmesh.errors import Malformed, UnknownVersion
from agentmesh.limits import DID_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _crypto, _wire

FIRST_PREVIOUS: Final = EntryHash(bytes(32))
_VERSION: Final = 1
_HASH_BYTES: Final = 32
_NODES_MAX_BYTES: Final = _HASH_BYTES * UINT_MAX.bit_length()
_LAYOUT: Final = _wire.array(
    _wire.Uint(),
    _wire.Text(0, DID_MAX_BYTES),
    _wire.Uint(),
    _wire.Bin(_HASH_BYTES),
    _wire.Bin(0, _NODES_MAX_BYTES),
    _wire.Bin(0, CHECKPOINT_MAX_BYTES),
)
HANDOVER_MAX_BYTES: Final = 2_304  # a genuine one has at most 2,203


@final
@frozen(kw_only=True)
class Handover:
    """What stands before a file's first entry.

    Attributes:
        owner: The DID of the log's owner, or empty text where no record of the earlier files names one.
        size: How many entries the earlier files have.
        head: The entry hash of the last of them.
        nodes: The hashes of the complete subtrees over them, the largest first.
        checkpoint: The owner's signature under size and root, or `None`. That its issuer is who you think is for you
            to see to.
    """

    owner: str = ""
    size: int = 0
    head: EntryHash = field(default=FIRST_PREVIOUS, repr=lambda head: head.hex())
    nodes: tuple[bytes, ...] = field(default=(), repr=False)
    checkpoint: Checkpoint | None = None

    @property
    def root(self) -> RootHash:
        """The Merkle root over the earlier files."""
        return RunningRoot(self.size, self.nodes).root()

    def encode(self) -> bytes:
        """Return its bytes."""
        statement = b"" if self.checkpoint is None else self.checkpoint.statement
        return _wire.encode([_VERSION, self.owner, self.size, self.head, b"".join(self.nodes), statement])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the handover that `data` holds; a checkpoint in it is its issuer's, over this size and this root.

        Raises:
            TooLarge, Malformed, UnknownVersion: not a handover.
            BadSignature, BadIdentityKey: its checkpoint is none.
        """
        version, owner, size, head, joined, statement = _wire.decode(data, _LAYOUT, HANDOVER_MAX_BYTES)
        if version != _VERSION:
            raise UnknownVersion
        nodes = tuple(joined[at : at + _HASH_BYTES] for at in range(0, len(joined), _HASH_BYTES))
        if len(joined) != _HASH_BYTES * size.bit_count() or not is_name(owner) or (not size and head != FIRST_PREVIOUS):
            raise Malformed
        checkpoint = None
        if statement:
            issuer, mesh = claimed_by(statement)
            checkpoint = verify_checkpoint(statement, issuer, mesh=mesh)
            same = _crypto.constant_time_equal(checkpoint.root, RunningRoot(size, nodes).root())
            if checkpoint.size != size or not same or owner not in ("", issuer.did):
                raise Malformed
        return cls(owner=owner, size=size, head=EntryHash(head), nodes=nodes, checkpoint=checkpoint)
