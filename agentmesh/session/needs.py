"""What a ratchet needs: its primitives, as an argument, and the header that they seal (docs/protocol.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, RootKey, X25519PublicKey, X25519Secret

# What a message says about itself, sealed: the sender's ratchet key, the epoch of its chain, the length of the chain
# before it, and its number. Not a class, because one is made and one read for every message.
RatchetHeader = tuple[X25519PublicKey, int, int, int]


@frozen(kw_only=True)
class Suite:
    """The primitives that a ratchet runs on, and how its headers name their chain.

    Attributes:
        key_pair: Return a fresh (secret, public).
        dh: Return the shared secret of (secret, public); raises `BadPoint`.
        kdf_root: From (root key, shared secret, and behind it the secret that is mixed, if one is) to (root key, chain
            key, next header key).
        kdf_chain: From a chain key to (chain key, message key).
        seal: From (header key, message key, header, context, plaintext, nonce) to the message, in parts to be joined.
        parse: From bytes and where in them the message begins to the frame that the two `open` calls take; raises
            `Malformed`.
        open_header: From (header key, frame) to the header, or `None` if it is not of that chain. A suite that has no
            epochs gives 0 for the epoch, and its owner asks for no items.
        open_body: From (message key, frame, context) to the plaintext; raises `DecryptionFailed`.
        chain_name: From (header key of the new chain, the peer's ratchet key) to what names the chain from then on.
        past_first: Try past chains before the next one: for a suite whose headers are in clear, where the next chain
            is whatever is not known yet.
    """

    key_pair: Callable[[Entropy], tuple[X25519Secret, X25519PublicKey]]
    dh: Callable[[X25519Secret, X25519PublicKey], bytes]
    kdf_root: Callable[[RootKey, bytes], tuple[RootKey, ChainKey, HeaderKey]]
    kdf_chain: Callable[[ChainKey], tuple[ChainKey, MessageKey]]
    seal: Callable[[HeaderKey, MessageKey, RatchetHeader, bytes, bytes, bytes], tuple[bytes, ...]]
    parse: Callable[[bytes, int], Any]
    open_header: Callable[[HeaderKey, Any], RatchetHeader | None]
    open_body: Callable[[MessageKey, Any, bytes], bytes]
    chain_name: Callable[[HeaderKey, X25519PublicKey], HeaderKey]
    past_first: bool = False
