"""The error tree: everything that this library raises on purpose.

Two kinds matter to a caller. A `LocalError` says that *this call* was wrong: nothing changed, mend the call. A
`RemoteError` says that *these bytes* are bad: nothing changed, drop them, the session lives on. Its branch `TryAgain`
is the exception to the dropping: the bytes may be good, keep them and offer them again. `StoreError` is about state at
rest.

Every leaf has a stable `code` (what an audit record or a metric carries), a one-line text and a `hint` what to do. The
text is fixed: no key, plaintext, intent or other text that a peer controls is ever part of a message.
"""

from __future__ import annotations

from typing import ClassVar


class AgentMeshError(Exception):
    """The root of every error of this library.

    Attributes:
        code: A stable, dotted name, safe to log, count and compare.
        text: One fixed sentence. It never carries a secret or text that a peer chose.
        hint: What to do next.
    """

    code: ClassVar[str] = "agentmesh"
    text: ClassVar[str] = "AgentMesh failed"
    hint: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return f"{self.text} [{self.code}]" + (f"; {self.hint}" if self.hint else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r})"


# --- the caller's mistakes -------------------------------------------------------------------------------------------


class LocalError(AgentMeshError):
    """This call was wrong or cannot be served now. Nothing changed."""

    code = "local"


class ArgumentInvalid(LocalError):
    """An argument has the wrong type, length or range; `argument` names it."""

    code = "call.argument"
    text = "an argument is not what this call takes"
    hint = "see .argument and the docstring of the call"

    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument

    def __str__(self) -> str:
        return f"{self.text}: {self.argument} [{self.code}]; {self.hint}"


class ReentrantCall(LocalError):
    """A policy or journal hook called back into the agent that was calling it."""

    code = "call.reentrant"
    text = "the agent was called from inside one of its own hooks"
    hint = "let the hook return first, then make the call"


class RandomnessFailed(LocalError):
    """The source of randomness repeated itself or returned the wrong length."""

    code = "entropy.failed"
    text = "the source of randomness is stuck or broken"
    hint = "use the operating system's source; never send with this one"


class NoSession(LocalError):
    """There is no session with this peer that this call could use."""

    code = "session.none"
    text = "there is no usable session with this peer"
    hint = "knock first, or wait for the acceptance of a KNOCK that is under way"


class SessionNotOpen(LocalError):
    """The session is over, or this side has closed it."""

    code = "session.not_open"
    text = "the session is not open for sending"
    hint = "knock again for a new session"


class TooManySessions(LocalError):
    """This agent holds as many open sessions, pending ones included, as its limits allow."""

    code = "session.too_many"
    text = "too many open sessions"
    hint = "close one, or wait until a pending one ends"


class ConditionNotMet(LocalError):
    """Sending this would break a condition of the session; `condition` names it."""

    code = "session.condition"
    text = "a condition of the session forbids this message"
    hint = "knock again to ask for other conditions"

    def __init__(self, condition: str) -> None:
        super().__init__()
        self.condition = condition


class PeerNotAllowed(LocalError):
    """The policy does not allow this peer (any more), or the policy failed."""

    code = "policy.denied"
    text = "the policy does not allow this peer"
    hint = "ask the policy's owner; nothing was sent and nothing was opened"


class KnockNotPending(LocalError):
    """The KNOCK to decide on has been decided, has expired or was never received."""

    code = "knock.not_pending"
    text = "this KNOCK does not wait for a decision"
    hint = "pending_knocks() lists those that do"


class OneTimeRequired(LocalError):
    """The caller asked for a one-time bundle and was given a last-resort one."""

    code = "bundle.one_time_required"
    text = "the bundle is of the last-resort class and the caller requires a one-time one"
    hint = "fetch another bundle, or knock without require_one_time"


class ChainExhausted(LocalError):
    """The sending chain has reached its last number; only a turn of the peer begins a new one."""

    code = "ratchet.exhausted"
    text = "the sending chain is exhausted"
    hint = "wait for a message of the peer, or knock again"


# --- bytes from elsewhere --------------------------------------------------------------------------------------------


class RemoteError(AgentMeshError):
    """These bytes are bad. Nothing changed; drop them; sessions live on."""

    code = "remote"


class TryAgain(RemoteError):
    """These bytes may be good, but not now. Nothing was stored; keep them and offer them again."""

    code = "remote.try_again"


class Busy(TryAgain):
    """A budget for checking, or a bounded memory, is used up."""

    code = "knock.busy"
    text = "a budget is used up for the moment"
    hint = "keep the envelope and offer it again later"


class NotYet(TryAgain):
    """A message of a session whose ACCEPT has not arrived yet."""

    code = "message.not_yet"
    text = "this message precedes the ACCEPT of its session"
    hint = "keep the envelope and offer it again after the ACCEPT"


class Malformed(RemoteError):
    """Not the canonical encoding of any structure that may stand here."""

    code = "wire.malformed"
    text = "the bytes are not a canonical encoding"
    hint = "drop them"


class TooLarge(RemoteError):
    """More bytes than the limit for this structure."""

    code = "wire.too_large"
    text = "the bytes are over the size limit"
    hint = "drop them; both sides' limits must allow what is sent"


class UnknownVersion(RemoteError):
    """A version, kind or class that this release does not know."""

    code = "wire.version"
    text = "unknown version, kind or class"
    hint = "drop them; the peer may run a newer release"


class BadDid(RemoteError):
    """Not a DID of this method in its one canonical form."""

    code = "identity.did"
    text = "not a canonical did:agentmesh DID"
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
    """Another key under a DID that is known with one key: evidence of fraud."""

    code = "identity.conflict"
    text = "the DID is known with another key"
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


class BundleUnfit(RemoteError):
    """The bundle's class is not one that may serve here."""

    code = "bundle.unfit"
    text = "the bundle cannot serve this KNOCK"
    hint = "fetch another bundle"


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
    """An ACCEPT or REJECT that answers no pending KNOCK of this agent."""

    code = "verdict.unmatched"
    text = "the verdict answers no pending KNOCK"
    hint = "drop it"


class UnknownSession(RemoteError):
    """The message belongs to no session of this agent."""

    code = "message.unknown_session"
    text = "the message belongs to no known session"
    hint = "drop it; if the peer keeps sending, knock with a new session"


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
    """

    code = "message.gap"
    text = "too many messages are missing before this one"
    hint = "close the session and knock again"

    def __init__(self, session_id: bytes | None = None) -> None:
        super().__init__()
        self.session_id = session_id


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
        self.condition = condition


class MessageAfterClose(RemoteError):
    """A message numbered behind the peer's own close."""

    code = "message.after_close"
    text = "the message was sent after its sender's close"
    hint = "drop it"


class AnswerOverdue(RemoteError):
    """An equal KNOCK came again, but its answer was repeated often enough for now."""

    code = "knock.answer_overdue"
    text = "the answer to this KNOCK was repeated too often"
    hint = "drop it; the answer is repeated again after a while"


# --- state at rest ---------------------------------------------------------------------------------------------------


class StoreError(AgentMeshError):
    """State at rest cannot be read or written."""

    code = "store"


class CommitFailed(StoreError):
    """The journal did not take a step. Nothing changed and nothing leaves; `__cause__` is the journal's own error."""

    code = "store.commit"
    text = "the journal did not take the step"
    hint = "see __cause__, mend the journal, and make the call again"


class StateMalformed(StoreError):
    """Exported state that is damaged, or whose fields contradict one another."""

    code = "state.malformed"
    text = "the exported state is not well formed"
    hint = "restore from another copy; nothing was loaded"


class StateVersionUnknown(StoreError):
    """Exported state of a version that this release does not read."""

    code = "state.version"
    text = "the exported state has a version that this release does not read"
    hint = "use the release that wrote it, or a newer one"
