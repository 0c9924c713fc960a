"""Bytes from elsewhere that are bad, or that cannot be taken now; nothing changed."""

from __future__ import annotations

from agentmesh.errors.base import RemoteError, TryAgain, numbers


class Busy(TryAgain):
    """A budget for checking, or a bounded memory, is used up."""

    code = "knock.busy"
    text = "a budget is used up for the moment"
    hint = "keep the envelope and offer it again later"


class InboxFull(TryAgain):
    """The application has not done with so much that no more can be kept, in all or of this peer."""

    code = "inbox.full"
    text = "there is no room in the inbox"
    hint = "say done() of what is handled; keep the envelope and offer it again then"


class NotYet(TryAgain):
    """A message of a session whose ACCEPT has not arrived yet."""

    code = "message.not_yet"
    text = "this message precedes the ACCEPT of its session"
    hint = "keep the envelope and offer it again after the ACCEPT"


class MessageEarly(TryAgain):
    """A message of an agent of AGT's mesh that no session opens: its KNOCK may still be under way."""

    code = "agt.early"
    text = "this message precedes the KNOCK of its session"
    hint = "nothing is to be done: it is held, and opened with its KNOCK; do not acknowledge it to the relay"


class LegacyPeer(RemoteError):
    """A message that opens under the key agreement of the npm package up to 4.0.0, and under no other."""

    code = "agt.legacy"
    text = "the peer agrees on keys as the npm package up to 4.0.0 does, which today's agents do not"
    hint = "the peer must be built from AGT's sources of 5.0.0 or newer; nothing on this side can be set"


class RelayComplaint(RemoteError):
    """AGT's relay has something against a frame of this side; its words are in `detail`, and are not printed.

    Attributes:
        detail: What it says, at most 200 characters; for a person to read, escaped.
    """

    code = "agt.relay"
    text = "the relay did not take a frame"
    hint = "read `detail`; if the connection closes next, its code says whether to connect again"

    def __init__(self, detail: str = "") -> None:
        super().__init__()
        self.detail: str = detail


class Malformed(RemoteError):
    """Not the canonical encoding of any structure that may stand here."""

    code = "wire.malformed"
    text = "the bytes are not a canonical encoding"
    hint = "drop them"


class TooLarge(RemoteError):
    """More bytes than the limit for this structure.

    Attributes:
        got: How many there are, if known.
        allowed: How many may be.
    """

    code = "wire.too_large"
    text = "the bytes are over the size limit"
    hint = "drop them; both sides' limits must allow what is sent"

    def __init__(self, got: int | None = None, allowed: int | None = None) -> None:
        super().__init__()
        self.got: int | None = got
        self.allowed: int | None = allowed

    def _detail(self) -> str:
        return numbers(self.got, self.allowed)


class UnknownVersion(RemoteError):
    """A version, kind or class that this release does not know."""

    code = "wire.version"
    text = "unknown version, kind or class"
    hint = "drop them; the peer may run a newer release"


class BadDid(RemoteError):
    """What came from elsewhere is not a DID of this method in its one canonical form.

    A call's own argument that is none is an `ArgumentInvalid`: the caller's typing error, not a peer's.
    """

    code = "identity.did"
    text = "not a DID of this mesh in its one canonical form"
    hint = "compare it with the did attribute of the identity"


class BadIdentityKey(RemoteError):
    """An Ed25519 public key that is not canonical, of small or mixed order, or not on the curve."""

    code = "identity.key"
    text = "not an acceptable Ed25519 public key"
    hint = "drop what carried it; an honest key is never refused"


class BadPoint(RemoteError):
    """An X25519 key that is not canonical or of small order, or an ML-KEM key or ciphertext that is not valid."""

    code = "crypto.point"
    text = "not an acceptable public key or ciphertext"
    hint = "drop what carried it; an honest key is never refused"


class BadSignature(RemoteError):
    """A signature that does not verify under strict rules."""

    code = "signature.invalid"
    text = "the signature is not valid"
    hint = "drop what carried it"


class IdentityConflict(RemoteError):
    """Another key under a DID, or under a name, that is known with one key: evidence of fraud."""

    code = "identity.conflict"
    text = "the DID or name is known with another key"
    hint = "keep the bytes as evidence; do not proceed"


class BundleIdentityMismatch(RemoteError):
    """The bundle is not one of the identity that was asked for."""

    code = "bundle.identity"
    text = "the bundle belongs to another identity"
    hint = "fetch the bundle of the DID that you want to reach"


class BundleMeshMismatch(RemoteError):
    """The bundle was published for another mesh."""

    code = "bundle.mesh"
    text = "the bundle was published for another mesh"
    hint = "fetch a bundle published for this mesh"


class BundleExpired(RemoteError):
    """The bundle's validity has not begun, or has ended."""

    code = "bundle.expired"
    text = "the bundle is outside its validity"
    hint = "fetch a fresh bundle and check this machine's clock"


class WrongRecipient(RemoteError):
    """The envelope is for somebody else."""

    code = "envelope.recipient"
    text = "the envelope is addressed to another agent"
    hint = "drop it; a relay misrouted it"


class EnvelopeReflected(RemoteError):
    """The envelope names this agent as its sender."""

    code = "envelope.reflected"
    text = "the envelope claims to come from this agent itself"
    hint = "drop it"


class WrongMesh(RemoteError):
    """The envelope belongs to another mesh."""

    code = "envelope.mesh"
    text = "the envelope belongs to another mesh"
    hint = "drop it"


class EnvelopeReplayed(RemoteError):
    """A relay's limiter has let this very envelope pass before."""

    code = "envelope.replayed"
    text = "the envelope passed before"
    hint = "drop it; nobody was charged for it"


class SenderMismatch(RemoteError):
    """The sender that the envelope names is not who its contents prove."""

    code = "envelope.sender"
    text = "the envelope's sender is not the one that its contents prove"
    hint = "drop it; somebody writes another agent's name"


class KnockFromFuture(RemoteError):
    """The KNOCK's time lies ahead of this clock by more than the tolerance."""

    code = "knock.future"
    text = "the KNOCK comes from the future"
    hint = "check this machine's clock"


class KnockExpired(RemoteError):
    """The KNOCK has expired, or asks for a lifetime that is not allowed."""

    code = "knock.expired"
    text = "the KNOCK has expired or has no acceptable lifetime"
    hint = "drop it; the peer may knock again"


class KnockNotAdmitted(RemoteError):
    """Local admission refused the sender before any cryptography."""

    code = "knock.not_admitted"
    text = "local admission refuses this sender"
    hint = "drop it; the block list or the floor decided"


class KnockUnknownBundle(RemoteError):
    """The KNOCK names a bundle that this agent never published, or has forgotten."""

    code = "knock.unknown_bundle"
    text = "the KNOCK names no bundle of this agent"
    hint = "drop it"


class KnockReplayed(RemoteError):
    """This KNOCK was seen before."""

    code = "knock.replayed"
    text = "the KNOCK was seen before"
    hint = "drop it; it was answered once"


class KnockUnopened(RemoteError):
    """The KNOCK's sealed content does not open or is not well formed."""

    code = "knock.unopened"
    text = "the KNOCK's content does not open"
    hint = "drop it"


class VerdictUnmatched(RemoteError):
    """A REJECT that answers no pending KNOCK of this agent; an ACCEPT that does is `UnknownSession`."""

    code = "verdict.unmatched"
    text = "the verdict answers no pending KNOCK"
    hint = "drop it"


class UnknownSession(RemoteError):
    """The message belongs to no session of this agent.

    Attributes:
        sender: The DID that the envelope names: a claim that nothing proves. It is no part of the text.
        session_id: The session id that the envelope names, 16 bytes, a claim too; `None` where it names none.
    """

    code = "message.unknown_session"
    text = "the message belongs to no known session"
    hint = "drop it; if the peer keeps sending, knock with a new session"

    def __init__(self, sender: str = "", session_id: bytes | None = None) -> None:
        super().__init__()
        self.sender: str = sender
        self.session_id: bytes | None = session_id


class ClosedSession(RemoteError):
    """The message belongs to a session that is over."""

    code = "message.closed_session"
    text = "the message belongs to a session that is over"
    hint = "drop it; knock again to converse"


class DecryptionFailed(RemoteError):
    """The message does not open: forged, altered, out of context or past the kept chains. One error for all of them."""

    code = "message.unopened"
    text = "the message does not open"
    hint = "drop it; the session lives on"


class DuplicateMessage(RemoteError):
    """The message's number was opened before, or its key was evicted."""

    code = "message.duplicate"
    text = "the message was opened before, or its key is gone"
    hint = "drop it"


class GapTooLarge(RemoteError):
    """The peer is further ahead than the limit on skipped messages; this direction is lost unless the missing arrive.

    Attributes:
        session_id: The session to close, 16 bytes, or `None` where a layer below sessions raised.
        got: How many messages are missing before this one, if known.
        allowed: How many may be.
    """

    code = "message.gap"
    text = "too many messages are missing before this one"
    hint = "close the session and knock again"

    def __init__(self, session_id: bytes | None = None, got: int | None = None, allowed: int | None = None) -> None:
        super().__init__()
        self.session_id: bytes | None = session_id
        self.got: int | None = got
        self.allowed: int | None = allowed

    def _detail(self) -> str:
        return numbers(self.got, self.allowed)


class ContradictoryHeader(RemoteError):
    """An authentic ratchet header that contradicts its chain: the peer's state is broken."""

    code = "message.contradiction"
    text = "the message's header contradicts its chain"
    hint = "drop it; if it recurs, knock again"


class MessageRefused(RemoteError):
    """An authentic message whose kind, type or content may not stand here."""

    code = "message.refused"
    text = "the message is authentic but not well formed"
    hint = "drop it; the peer's implementation is at fault"


class PeerConditionBroken(RemoteError):
    """The peer sent what a condition of the session forbids; `condition` names it."""

    code = "message.condition"
    text = "the message breaks a condition of the session"
    hint = "drop it; the condition was agreed in the ACCEPT"

    def __init__(self, condition: str) -> None:
        super().__init__()
        self.condition: str = condition

    def _detail(self) -> str:
        return self.condition


class MessageAfterClose(RemoteError):
    """A message numbered behind the peer's own close."""

    code = "message.after_close"
    text = "the message was sent after its sender's close"
    hint = "drop it"


class ProofInvalid(RemoteError):
    """An inclusion or consistency proof that does not prove what it is offered for."""

    code = "audit.proof"
    text = "the proof does not hold"
    hint = "keep it and the log as evidence; do not rely on the log"


class StatementUnfit(RemoteError):
    """A signed statement that may not count here: another mesh, an issuer that is not believed, or about itself."""

    code = "trust.unfit"
    text = "the statement may not count here"
    hint = "drop it; the ledger counts the issuers that it was told to believe"


class StatementStale(RemoteError):
    """A signed statement that was seen, was replaced, is too old, or comes from the future."""

    code = "trust.stale"
    text = "the statement is old, replaced or not due"
    hint = "drop it; if it is fresh, check both clocks"


class TrustFull(TryAgain):
    """The bounded memory for statements is full. Nothing was stored."""

    code = "trust.full"
    text = "the memory for statements is full"
    hint = "keep the statement and offer it again later, or raise the limit"


class DisclosureInvalid(RemoteError):
    """A disclosure whose envelope, record, session, key or content do not belong together."""

    code = "audit.disclosure"
    text = "the disclosure does not hold"
    hint = "do not rely on it"


class AnswerOverdue(RemoteError):
    """An equal KNOCK came again, but its answer was repeated often enough for now."""

    code = "knock.answer_overdue"
    text = "the answer to this KNOCK was repeated too often"
    hint = "drop it; the answer is repeated again after a while"
