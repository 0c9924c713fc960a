"""The Merkle tree of RFC 9162, section 2.1: roots and proofs over entries that are only ever appended.

Leaves and nodes are hashed under different first bytes, so that no node passes for an entry. `MerkleTree` keeps the
hash of every complete subtree (64 bytes an entry in all): an append adds one leaf and, amortised, one node; a root or a
proof touches a logarithmic number of them. One that can read its leaves again keeps of each complete chunk of 4,096
entries the top alone, and reads a chunk when a proof goes through it. `RunningRoot` keeps a logarithmic number of
hashes, and gives roots alone.

The two `verify_` functions are pure: they look at their arguments and at nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NewType, TypeGuard, cast, final

from agentmesh.errors import ArgumentInvalid, LogBroken, ProofInvalid
from agentmesh.primitives import _crypto

EntryHash = NewType("EntryHash", bytes)  # 32: the leaf hash of an entry
RootHash = NewType("RootHash", bytes)  # 32

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"
_SIZE: Final = 32
_CHUNK_LEVEL: Final = 12
CHUNK: Final = 1 << _CHUNK_LEVEL  # reading one takes some 20 ms; the tops of a million entries are 8 KB
_PROOF_MAX_STEPS: Final = 64  # a consistency proof of a log of 2^53 entries has 54

EMPTY_ROOT: Final = RootHash(_crypto.sha256(b""))


def leaf_hash(entry: bytes) -> EntryHash:
    """Return SHA-256(0x00 || entry). RFC 9162, section 2.1.1.

    Raises:
        ArgumentInvalid: not bytes.
    """
    if type(entry) is not bytes:
        raise ArgumentInvalid("entry")
    return EntryHash(_crypto.sha256(_LEAF + entry))


def leaf_hashes(entries: Iterable[bytes]) -> list[EntryHash]:
    """Return the leaf hash of each of these, which are bytes."""
    return cast(list[EntryHash], _crypto.sha256_each(_LEAF, entries))


def _node_hash(left: bytes, right: bytes) -> bytes:
    return _crypto.sha256(_NODE + left + right)


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size` > 1."""
    return 1 << (size - 1).bit_length() - 1


# --- growing ---------------------------------------------------------------------------------------------------------


@final
class RunningRoot:
    """The root over entries that go by, in memory that does not grow with them."""

    __slots__ = ("_nodes", "_size")

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        self._nodes = list(nodes)  # the complete subtrees, the largest first: one for each bit of the size
        self._size = size

    def __len__(self) -> int:
        return self._size

    def append(self, entry_hash: EntryHash) -> None:
        """Add the leaf of the next entry."""
        self._push(0, entry_hash)

    def extend(self, hashes: Sequence[EntryHash]) -> None:
        """Add the leaves of the next entries: what completes a subtree together, level by level."""
        at = 0
        while at < len(hashes):
            # The largest subtree that begins here, and is among them.
            level = (len(hashes) - at).bit_length() - 1
            if self._size:
                level = min(level, (self._size & -self._size).bit_length() - 1)
            row: Sequence[bytes] = hashes[at : at + (1 << level)]
            while len(row) > 1:
                row = _crypto.sha256_each(_NODE, map(bytes.__add__, row[::2], row[1::2]))
            self._push(level, row[0])
            at += 1 << level

    def _push(self, level: int, node: bytes) -> None:
        size = self._size >> level
        while size & 1:
            node = _node_hash(self._nodes.pop(), node)
            size >>= 1
        self._nodes.append(node)
        self._size += 1 << level

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The hashes of the complete subtrees, the largest first."""
        return tuple(self._nodes)

    def root(self) -> RootHash:
        """Return the root over what was added."""
        if not self._nodes:
            return EMPTY_ROOT
        node = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            node = _node_hash(left, node)
        return RootHash(node)


Leaves = Callable[[int, int], Iterable[EntryHash]]


@final
class MerkleTree:
    """A tree over the entries appended so far.

    A size or an index outside it raises `ArgumentInvalid`.
    """

    __slots__ = ("_base", "_chunk", "_first", "_leaves", "_levels", "_nodes")

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = (), *, leaves: Leaves | None = None) -> None:
        """Begin a tree.

        Args:
            size: How many entries stand before those that will be appended. Nothing is proved of an earlier size.
            nodes: The hashes of the complete subtrees over these, the largest first.
            leaves: Returns the entry hashes from one place to another, read again from where the entries are. With it
                complete chunks are not kept.
        """
        self._base = size
        self._leaves = leaves
        levels = (level for level in reversed(range(size.bit_length())) if size >> level & 1)
        self._nodes = dict(zip(levels, nodes, strict=True))
        # _levels[k] holds, one behind the other, the hashes of complete subtrees of 2^k entries, from number _first[k]
        # on, which is even: so the parity of what is held is that of the number.
        self._levels: list[bytearray] = []
        self._first: list[int] = []
        for level in range(max(1, size.bit_length())):
            self._levels.append(bytearray(self._nodes.get(level, b"")))
            self._first.append(size >> level & ~1)
        self._chunk: tuple[int, list[int], list[bytearray]] | None = None  # the one that was read last

    def __len__(self) -> int:
        return self._first[0] + len(self._levels[0]) // _SIZE

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The hashes of the complete subtrees over all entries, the largest first."""
        size = len(self)
        levels = (level for level in reversed(range(size.bit_length())) if size >> level & 1)
        return tuple(self._complete(level, (size >> level) - 1) for level in levels)

    def append(self, entry_hash: EntryHash) -> bytes | None:
        """Add the leaf of the next entry: at most log2(size) + 1 hashes, one on average.

        Returns the hash of the chunk that it completes, if it does.
        """
        leaves = self._levels[0]
        leaves += entry_hash
        if len(leaves) % (2 * _SIZE):
            return None
        if self._push(1, _crypto.sha256(_NODE + leaves[-2 * _SIZE :])) < _CHUNK_LEVEL:
            return None
        node = self._complete(_CHUNK_LEVEL, len(self) // CHUNK - 1)
        if self._leaves is not None:
            self._drop_chunk(len(self))
        return node

    def append_chunk(self, node: bytes) -> None:
        """Add the hash of the chunk that the last entries are in, or of the next, instead of its entries."""
        chunk = len(self) // CHUNK
        while len(self._levels) < _CHUNK_LEVEL:
            self._levels.append(bytearray())
            self._first.append(0)
        self._drop_chunk((chunk + 1) * CHUNK)
        self._push(_CHUNK_LEVEL, node)

    def _push(self, start: int, node: bytes) -> int:
        """Add a complete subtree, and those that it completes; return the level of the largest."""
        for number in range(start, len(self._levels)):
            level = self._levels[number]
            level += node
            if len(level) % (2 * _SIZE):
                return number
            node = _crypto.sha256(_NODE + level[-2 * _SIZE : -_SIZE] + node)
        self._levels.append(bytearray(node))
        self._first.append(0)
        return len(self._levels) - 1

    def _drop_chunk(self, end: int) -> None:
        """Forget what is within chunks; the last of them ends at `end`."""
        for level in range(_CHUNK_LEVEL):
            self._levels[level].clear()
            self._first[level] = end >> level

    def leaf(self, index: int) -> EntryHash:
        """Return the leaf hash of an entry."""
        if type(index) is not int or not 0 <= index < len(self):
            raise ArgumentInvalid("index")
        return EntryHash(self._complete(0, index))

    def root(self, size: int | None = None) -> RootHash:
        """Return the root over the first `size` entries, all of them if `None`. RFC 9162, section 2.1.1."""
        size = self._checked(size)
        return RootHash(self._subtree(0, size)) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of an entry in the tree over the first `size` entries. RFC 9162, section 2.1.3.1."""
        size = self._checked(size)
        if type(index) is not int or not self._base <= index < size:
            raise ArgumentInvalid("index")
        path: list[bytes] = []
        start = 0
        while size - start > 1:
            middle = start + _split(size - start)
            if index < middle:
                path.append(self._subtree(middle, size))
                size = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the tree of `old_size` is a prefix of that of `size`. RFC 9162, section 2.1.4.1.

        It is empty where there is nothing to prove: for an `old_size` of 0, and for equal sizes.
        """
        size = self._checked(size)
        if type(old_size) is not int or not 0 <= old_size <= size:
            raise ArgumentInvalid("old_size")
        if old_size in (0, size):
            return ()
        if old_size < self._base:
            raise ArgumentInvalid("old_size")
        path: list[bytes] = []
        start, known = 0, True
        while old_size != size:
            middle = start + _split(size - start)
            if old_size <= middle:
                path.append(self._subtree(middle, size))
                size = middle
            else:
                path.append(self._subtree(start, middle))
                start, known = middle, False
        if not known:
            path.append(self._subtree(start, size))
        return tuple(reversed(path))

    def _checked(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if type(size) is not int or not (size == 0 or self._base <= size <= len(self)):
            raise ArgumentInvalid("size")
        return size

    def _complete(self, level: int, index: int) -> bytes:
        first, nodes = self._first, self._levels
        if index < first[level]:
            if self._leaves is None or level >= _CHUNK_LEVEL:
                raise ArgumentInvalid("index")
            first, nodes = self._read_chunk(index >> _CHUNK_LEVEL - level)
        at = (index - first[level]) * _SIZE
        return bytes(nodes[level][at : at + _SIZE])

    def check_chunk(self, chunk: int) -> None:
        """Read a complete chunk again, and hold it against its hash.

        Raises:
            LogBroken: it is another.
        """
        self._read_chunk(chunk)

    def _read_chunk(self, chunk: int) -> tuple[list[int], list[bytearray]]:
        """Return the levels within a complete chunk, read again and found to be those that its hash was taken of.

        Raises:
            LogBroken: they are not.
        """
        if self._leaves is None:
            raise ArgumentInvalid("index")
        if self._chunk is None or self._chunk[0] != chunk:
            end = (chunk + 1) * CHUNK
            start = max(chunk * CHUNK, self._base)
            # Of a chunk that began in an earlier file, the rest comes on top of what was handed over. What stands
            # before a whole chunk has no part in its levels, whatever it is.
            before = tuple(self._nodes.values()) if start == self._base else (bytes(_SIZE),) * start.bit_count()
            within = MerkleTree(start, before)
            for entry_hash in self._leaves(start, end):
                within._push(0, entry_hash)
            if not _crypto.constant_time_equal(
                within._complete(_CHUNK_LEVEL, chunk), self._complete(_CHUNK_LEVEL, chunk)
            ):
                raise LogBroken(start, "index")
            self._chunk = chunk, within._first, within._levels
        return self._chunk[1], self._chunk[2]

    def _subtree(self, start: int, end: int) -> bytes:
        """Return the hash over the entries start .. end - 1; `start` is a multiple of the enclosing power of two."""
        size = end - start
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self._complete(level, start >> level)
        middle = start + _split(size)
        return _node_hash(self._subtree(start, middle), self._subtree(middle, end))


# --- verifying -------------------------------------------------------------------------------------------------------


def _is_hash(value: object) -> TypeGuard[bytes]:
    return type(value) is bytes and len(value) == _SIZE


def _are_places(*numbers: object) -> bool:
    """Say whether these can be sizes and indexes; types too, because proofs are read from files."""
    return all(type(number) is int and number >= 0 for number in numbers)


def _is_proof(proof: object) -> bool:
    return isinstance(proof, list | tuple) and len(proof) <= _PROOF_MAX_STEPS and all(map(_is_hash, proof))


def verify_inclusion(entry_hash: EntryHash, index: int, size: int, proof: Sequence[bytes], root: RootHash) -> EntryHash:
    """Return `entry_hash` once it is proved to be entry `index` of the `size` under `root`. RFC 9162, 2.1.3.2.

    Args:
        entry_hash: `leaf_hash` of the entry's bytes, computed by whoever verifies. A hash that somebody else hands over
            proves nothing about an entry: `agentmesh.audit.verify_entry` takes the entry itself.
        index: The entry's place, from 0.
        size: The size of the log, from the checkpoint that has `root`.
        proof: A list or tuple of 32-byte hashes.
        root: From a checkpoint that was verified.

    Raises:
        ProofInvalid: it is not.
    """
    if not (_is_hash(entry_hash) and _is_hash(root) and _are_places(index, size) and _is_proof(proof)):
        raise ProofInvalid
    if index >= size:
        raise ProofInvalid
    node: bytes = entry_hash
    position, last = index, size - 1
    for step in proof:
        if last == 0:
            raise ProofInvalid
        if position & 1 or position == last:
            node = _node_hash(step, node)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            node = _node_hash(node, step)
        position >>= 1
        last >>= 1
    if last != 0 or not _crypto.constant_time_equal(node, root):
        raise ProofInvalid
    return entry_hash


def verify_consistency(
    old_size: int, old_root: RootHash, size: int, root: RootHash, proof: Sequence[bytes]
) -> RootHash:
    """Return `root` once the tree of `old_size` under `old_root` is proved a prefix of it. RFC 9162, 2.1.4.2.

    Raises:
        ProofInvalid: it is not: entries were altered, removed or inserted.
    """
    if not (_is_hash(old_root) and _is_hash(root) and _are_places(old_size, size) and _is_proof(proof)):
        raise ProofInvalid
    if old_size > size:
        raise ProofInvalid
    if old_size in (0, size):
        # Nothing to prove: a tree is a prefix of itself, and the empty tree is one of all.
        same = old_size < size or _crypto.constant_time_equal(old_root, root)
        empty = old_size > 0 or _crypto.constant_time_equal(old_root, EMPTY_ROOT)
        if proof or not same or not empty:
            raise ProofInvalid
        return root
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        raise ProofInvalid
    position, last = old_size - 1, size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_node = node = path[0]
    for step in path[1:]:
        if last == 0:
            raise ProofInvalid
        if position & 1 or position == last:
            old_node, node = _node_hash(step, old_node), _node_hash(step, node)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            node = _node_hash(node, step)
        position >>= 1
        last >>= 1
    matches = _crypto.constant_time_equal(old_node, old_root) & _crypto.constant_time_equal(node, root)
    if last != 0 or not matches:
        raise ProofInvalid
    return root
