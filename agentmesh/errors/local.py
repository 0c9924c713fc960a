"""The caller's mistakes: this call was wrong or cannot be served now, and nothing changed."""

from __future__ import annotations

from agentmesh.errors.base import LocalError, numbers


class ArgumentInvalid(LocalError):
    """An argument has the wrong type, length or range.

    Attributes:
        argument: The argument's name.
        why: What is wrong with it, one of the library's own fixed phrases; empty where the name says enough.
        got: The number, length or count that was given, where that is what is wrong.
        allowed: The number that it was held against.
    """

    code = "call.argument"
    text = "an argument is not what this call takes"
    hint = "see .argument, .why and the docstring of the call"

    def __init__(self, argument: str, why: str = "", got: int | None = None, allowed: int | None = None) -> None:
        super().__init__()
        self.argument: str = argument
        self.why: str = why
        self.got: int | None = got
        self.allowed: int | None = allowed

    def _detail(self) -> str:
        return ": ".join(part for part in (self.argument, self.why, numbers(self.got, self.allowed)) if part)


class BackendUnfit(LocalError):
    """The cryptographic libraries of this machine lack a primitive, or answer wrongly; `missing` names them all."""

    code = "backend.unfit"
    text = "the cryptographic libraries here cannot serve this protocol"
    hint = "install the versions of cryptography, PyNaCl and OpenSSL that the package asks for; no peer is at fault"

    def __init__(self, missing: str) -> None:
        super().__init__()
        self.missing: str = missing

    def _detail(self) -> str:
        return self.missing


class ExtraMissing(LocalError):
    """A package that this needs is not installed; `extra` names the extra of this library that installs it."""

    code = "extra.missing"
    text = "a package that this needs is not installed"
    hint = "install the library with that extra"

    def __init__(self, extra: str) -> None:
        super().__init__()
        self.extra: str = extra

    def _detail(self) -> str:
        return f"pip install 'agentmesh-e2ee[{self.extra}]'"


class ReentrantCall(LocalError):
    """A policy or journal hook called back into the agent that was calling it."""

    code = "call.reentrant"
    text = "the agent was called from inside one of its own hooks"
    hint = "let the hook return first, then make the call"


class ForkedChild(LocalError):
    """The value was made in the parent of this process: its lock, file and keys are the parent's."""

    code = "process.forked"
    text = "this process is a fork of the one that made this value"
    hint = "make it after the fork, in the process that uses it"


class RandomnessFailed(LocalError):
    """The source of randomness repeated itself or returned the wrong length."""

    code = "entropy.failed"
    text = "the source of randomness is stuck or broken"
    hint = "use the operating system's source; never send with this one"


class BatchOpen(LocalError):
    """What a batch made is asked for before it is durable, or a batch is begun within one."""

    code = "batch.open"
    text = "the batch is open: what it makes is given out at its end"
    hint = "read it behind the with statement"


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
    """This agent holds as many open sessions, pending ones included, as its limits allow.

    Attributes:
        sessions: The ids of those with this peer, oldest first: what could be closed or dropped.
    """

    code = "session.too_many"
    text = "too many open sessions"
    hint = "close or drop one of .sessions, or wait until a pending one ends"

    def __init__(self, sessions: tuple[bytes, ...] = ()) -> None:
        super().__init__()
        self.sessions: tuple[bytes, ...] = sessions


class ConditionNotMet(LocalError):
    """Sending this would break a condition of the session; `condition` names it."""

    code = "session.condition"
    text = "a condition of the session forbids this message"
    hint = "knock again to ask for other conditions"

    def __init__(self, condition: str) -> None:
        super().__init__()
        self.condition: str = condition

    def _detail(self) -> str:
        return self.condition


class PeerNotAllowed(LocalError):
    """The policy does not allow this peer (any more), or the policy failed.

    Attributes:
        did: The peer.
    """

    code = "policy.denied"
    text = "the policy does not allow this peer"
    hint = "ask the policy's owner; nothing was sent and nothing was opened"

    def __init__(self, did: str = "") -> None:
        super().__init__()
        self.did: str = did


class KnockNotPending(LocalError):
    """The KNOCK to decide on has been decided, has expired or was never received."""

    code = "knock.not_pending"
    text = "this KNOCK does not wait for a decision"
    hint = "pending_knocks() lists those that do"


class StockFull(LocalError):
    """No more bundles can be kept: as many as `limits.bundles_max` are, or ten times as many are remembered.

    Attributes:
        got: How many bundles would be kept.
        allowed: How many may be.
    """

    code = "bundle.stock_full"
    text = "no more bundles can be kept"
    hint = "publish fewer, withdraw_bundles() those that nobody can fetch any more, or wait until old ones expire"

    def __init__(self, got: int | None = None, allowed: int | None = None) -> None:
        super().__init__()
        self.got: int | None = got
        self.allowed: int | None = allowed

    def _detail(self) -> str:
        return numbers(self.got, self.allowed)


class OutboxFull(LocalError):
    """More waits to be acknowledged than `limits.outbox_max_envelopes` or `limits.outbox_max_bytes` allow.

    Attributes:
        got: How many envelopes, or bytes of them, would wait.
        allowed: How many may.
    """

    code = "outbox.full"
    text = "too much waits in the outbox"
    hint = "hand outbox() to the relay and wait until peers acknowledge, or say sent(receipt, final=True)"

    def __init__(self, got: int | None = None, allowed: int | None = None) -> None:
        super().__init__()
        self.got: int | None = got
        self.allowed: int | None = allowed

    def _detail(self) -> str:
        return numbers(self.got, self.allowed)


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


class OwnerMismatch(LocalError):
    """A record of another identity was to go into this log: a log is one identity's."""

    code = "audit.owner"
    text = "the audit log is another identity's"
    hint = "give each identity a log of its own"


class RegistryRefused(LocalError):
    """A registry of AGT's mesh answered a request with a status that is none of success.

    Attributes:
        status: The HTTP status.
        why: What that says, one of the library's own fixed phrases; empty where nothing is known.
    """

    code = "registry.refused"
    text = "the registry refused the request"
    hint = "see .status; make the request anew, with a new time, once its cause is mended"

    def __init__(self, status: int, why: str = "") -> None:
        super().__init__()
        self.status: int = status
        self.why: str = why

    def _detail(self) -> str:
        return f"status {self.status}" + (f": {self.why}" if self.why else "")


class AttachmentOutOfTurn(LocalError):
    """A call of a sealer or an opener that another one has to precede."""

    code = "attachment.out_of_turn"
    text = "another call has to come before this one"
    hint = "take the tail before a chunk is opened; take all of finish() before the attachment is asked for"


class TransportFailed(LocalError):
    """A broker was not reached, or did not answer in time; `__cause__` is what its transport raised.

    What was to leave waits in the outbox, and leaves later.
    """

    code = "transport.failed"
    text = "the broker was not reached"
    hint = "see __cause__; what waits in the outbox leaves once the broker is back"


class NoBundle(LocalError):
    """The shelf has no bundle of the peer that could serve."""

    code = "bundle.none"
    text = "the shelf has no bundle of this peer"
    hint = "wait until the peer has published some, then knock again"


class CourierStopped(LocalError):
    """The courier was left: it takes no calls any more."""

    code = "courier.stopped"
    text = "the courier has stopped"
    hint = "make the call inside of the with statement, or of a new courier"
