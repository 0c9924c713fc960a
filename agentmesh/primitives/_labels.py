"""The one label table: every domain-separation string of the protocol (docs/protocol.md, section 1.1).

A KDF label is a BLAKE2b personalisation of at most 16 bytes. A signature label is a prefix of what is signed. No label
is a prefix of another, so that nothing made for one purpose passes for another; a test holds the table to that.
What AGT's protocol and kars call their labels stands apart: those are no strings of ours, and used for theirs alone.
"""

from __future__ import annotations

from typing import Final, NewType

KdfLabel = NewType("KdfLabel", bytes)
SignatureLabel = NewType("SignatureLabel", bytes)
HkdfInfo = NewType("HkdfInfo", bytes)

TRANSCRIPT: Final = KdfLabel(b"am1-transcript")
EXTRACT: Final = KdfLabel(b"am1-extract")
FIRST_ROOT: Final = KdfLabel(b"am1-first-root")
KNOCK_KEY: Final = KdfLabel(b"am1-knock-key")
SESSION_ID: Final = KdfLabel(b"am1-session-id")
HEADER_BA: Final = KdfLabel(b"am1-header-ba")
HEADER_AB: Final = KdfLabel(b"am1-header-ab")
INTENT: Final = KdfLabel(b"am1-intent")
RATCHET_ROOT: Final = KdfLabel(b"am1-ratchet-root")
RATCHET_CHAIN: Final = KdfLabel(b"am1-ratchet-ck")
RATCHET_HEADER: Final = KdfLabel(b"am1-ratchet-hk")
EPOCH: Final = KdfLabel(b"am1-epoch")
CHAIN: Final = KdfLabel(b"am1-chain")
MESSAGE: Final = KdfLabel(b"am1-message")
STATE: Final = KdfLabel(b"am1-state")
STORE_WRAP: Final = KdfLabel(b"am1-store-wrap")
STORE_KEY: Final = KdfLabel(b"am1-store-key")
STORE_NAME: Final = KdfLabel(b"am1-store-name")
STORE_SET: Final = KdfLabel(b"am1-store-set")

KDF_LABELS: Final = (
    TRANSCRIPT, EXTRACT, FIRST_ROOT, KNOCK_KEY, SESSION_ID, HEADER_BA, HEADER_AB, INTENT,
    RATCHET_ROOT, RATCHET_CHAIN, RATCHET_HEADER, EPOCH, CHAIN, MESSAGE, STATE,
    STORE_WRAP, STORE_KEY, STORE_NAME, STORE_SET,
)  # fmt: skip


def _signature_label(name: str) -> SignatureLabel:
    return SignatureLabel(b"agentmesh/v1/" + name.encode("ascii") + b"\x00")


SIGN_BUNDLE: Final = _signature_label("bundle")
SIGN_KNOCK: Final = _signature_label("knock")
SIGN_ACCEPT: Final = _signature_label("accept")
SIGN_REJECT: Final = _signature_label("reject")
SIGN_TRUST: Final = _signature_label("trust")
SIGN_EDGE: Final = _signature_label("edge")
SIGN_CHECKPOINT: Final = _signature_label("checkpoint")
SIGN_CONTINUITY: Final = _signature_label("continuity")
SIGN_REVOCATION: Final = _signature_label("revocation")
# The receipt is a hash, not a signature; it stands here because its label has the same shape and must not collide.
RECEIPT: Final = _signature_label("receipt")

SIGNATURE_LABELS: Final = (
    SIGN_BUNDLE, SIGN_KNOCK, SIGN_ACCEPT, SIGN_REJECT, SIGN_TRUST, SIGN_EDGE, SIGN_CHECKPOINT, SIGN_CONTINUITY,
    SIGN_REVOCATION, RECEIPT,
)  # fmt: skip

# AGT's (agentmesh/agt): HKDF takes them as its info.
AGT_X3DH: Final = HkdfInfo(b"AgentMesh_X3DH_v1")
AGT_RATCHET: Final = HkdfInfo(b"AgentMesh_Ratchet_v1")

AGT_INFOS: Final = (AGT_X3DH, AGT_RATCHET)

# kars' (agentmesh/agt/projection.py): what the text of an edge begins with, which an identity signs as it is.
KARS_EDGE: Final = SignatureLabel(b"trustgraph.v1\n")

KARS_LABELS: Final = (KARS_EDGE,)
