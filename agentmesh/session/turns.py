"""What a turn of the peer derives once it is accepted: this side's next chain (docs/protocol.md, section 6)."""

from __future__ import annotations

from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import HeaderKey, RootKey, X25519PublicKey
from agentmesh.session.chains import PastChain, SendingChain, Turn
from agentmesh.session.epochs import Half
from agentmesh.session.needs import Suite


def turn_of(
    suite: Suite,
    entropy: Entropy,
    now_ms: int,
    *,
    root: RootKey,
    peer_key: X25519PublicKey,
    half: Half,
    sent: SendingChain | None,
    header_key: HeaderKey,
    next_receiving: HeaderKey,
    past: tuple[PastChain, ...],
) -> Turn:
    """Return what the turn replaces beside the receiving chain. Section 6, steps 3 and 4 of a turn.

    Args:
        suite: The primitives.
        entropy: For the fresh ratchet key.
        now_ms: This side's clock.
        root: The root key behind the peer's chain.
        peer_key: The ratchet key of that chain.
        half: The half once the turn's message is taken, its item included: what that made ready is mixed here at once.
        sent: The sending chain that this ends, or `None` where there was none.
        header_key: Of the chain that begins.
        next_receiving: The header key of the peer's chain after its present one.
        past: The past chains that stay.
    """
    half, mixed = half.begun(now_ms, sent is None)
    secret, public = suite.key_pair(entropy)
    root, chain_key, next_sending = suite.kdf_root(root, suite.dh(secret, peer_key) + mixed)
    length, before = (0, 0) if sent is None else (sent.n, sent.start + sent.n)
    sending = SendingChain(chain_key, header_key, 0, length, before)
    return Turn(root, secret, public, sending, next_sending, next_receiving, past, half)
