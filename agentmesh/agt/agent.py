"""AgtAgent: an agent of ours that converses with those of AGT's mesh. Frames in, events and frames out (docs/agt.md).

Theory of operation. As `agentmesh.Agent`: each call computes a step from the state without touching it, tells the
journal, applies it and returns its output. It opens no socket: the requests to the registry and the frames for the
relay are values for the caller to send, each exactly once, because a peer's receiver loses a session over a frame that
comes twice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, final

from agentmesh.agt import conversing, knocking, registry, upkeep
from agentmesh.agt.agent_views import AgtAgentViews
from agentmesh.agt.core import AgtCore, AgtSeam
from agentmesh.agt.frames import AgtFrame, AgtKnock, AgtSealed, KnockFrame, MessageFrame, VerdictFrame
from agentmesh.agt.registry import HttpRequest
from agentmesh.agt.rows import restore_agent
from agentmesh.agt.state import AgtState
from agentmesh.agt_identity import AgtIdentity, mesh_did_argument
from agentmesh.engine.batch import Batch
from agentmesh.engine.changes import InboxRemoved
from agentmesh.engine.guard import (
    changing,
    check_flags,
    check_given,
    check_milliseconds,
    check_policy_kept,
    session_id_argument,
    session_of_knock,
    working_entropy,
)
from agentmesh.engine.hooks import Clock, system_clock_ms
from agentmesh.engine.state import Journal, Step
from agentmesh.envelope import mesh_argument
from agentmesh.errors import ArgumentInvalid
from agentmesh.events import Event, Events
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.limits import Limits
from agentmesh.outgoing import Outgoing
from agentmesh.policy import AskApplication, KnockRequest, Policy, check_policy_mesh
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import SessionId

_ANSWER_MAX_BYTES: Final = 64 << 10  # a bundle has some 600 bytes


def core_of(
    state: AgtState,
    clock: Clock,
    entropy: Entropy,
    policy: Policy | None,
    limits: Limits | None,
    *,
    recording: bool,
    reliable: bool,
) -> AgtCore:
    """Return the core of an agent: this state, and what was given or stands for what was not.

    Raises:
        ArgumentInvalid: the clock counts seconds, or shows no time.
    """
    policy = AskApplication() if policy is None else policy
    core = AgtCore(
        state,
        clock=clock,
        entropy=entropy,
        policy=policy,
        limits=Limits() if limits is None else limits,
        recording=recording,
        reliable=reliable,
    )
    check_milliseconds(core.now_ms())
    state.has_policy = type(policy) is not AskApplication
    return core


@final
class AgtAgent(AgtAgentViews):
    """An agent in AGT's mesh: its identity, its prekeys, its conversations. Safe to use from several threads.

    What such a conversation gives, and what not, is told by `agentmesh.assurance`, and in docs/security.md.
    """

    __slots__ = ()

    def __init__(self, core: AgtCore, journal: Journal | None, clock: Clock) -> None:
        self._core = core
        self._seam = AgtSeam(core, journal)
        self._clock = clock

    # --- making one ------------------------------------------------------------------------------------------------

    @classmethod
    @frameless
    def create(
        cls,
        mesh: str,
        *,
        identity: AgtIdentity | None = None,
        clock: Clock = system_clock_ms,
        entropy: Entropy | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | None = None,
        reliable: bool = False,
    ) -> AgtAgent:
        """Return a new agent.

        Args:
            mesh: What policy and audit records call the mesh, 1 to 64 of `a-z 0-9 . _ / -`; AGT has no name for it.
            identity: Who it is in AGT's mesh; a fresh identity if `None`. Not that of a native agent: it signs bare
                times and keys.
            clock: Returns milliseconds since the epoch.
            entropy: Where randomness comes from; the operating system if `None`.
            policy: Who decides on KNOCKs; the application is asked if `None`.
            limits: What it allows.
            journal: Is told of each step before it takes effect.
            reliable: Keep what is handed up in the `inbox` until it is `done`.

        Raises:
            ArgumentInvalid: not a mesh name, not an `AgtIdentity`, a clock that counts seconds, or a hook that is none.
            BackendUnfit: this machine's cryptography lacks what is needed.
            RandomnessFailed: the source of randomness is visibly stuck.
        """
        mesh = mesh_argument("mesh", mesh)
        if identity is not None and not isinstance(identity, AgtIdentity):
            raise ArgumentInvalid("identity", "not an AgtIdentity")
        check_flags(reliable=reliable)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal)
        check_policy_mesh(policy, mesh)
        source = working_entropy(entropy)
        state = AgtState(AgtIdentity.generate(source) if identity is None else identity, mesh)
        core = core_of(state, clock, source, policy, limits, recording=journal is not None, reliable=reliable)
        return cls(core, journal, clock)

    @classmethod
    @frameless
    def restore(
        cls,
        exported: BytesLike,
        *,
        at_least_generation: int = 0,
        clock: Clock = system_clock_ms,
        entropy: Entropy | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | None = None,
        reliable: bool = False,
    ) -> AgtAgent:
        """Return the agent that `export_state` wrote, with its prekeys and conversations.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: an older export is refused.
            clock: As for `create`.
            entropy: As for `create`.
            policy: Must be given where the agent had one of its own; `AskApplication()` gives that up.
            limits: As for `create`.
            journal: As for `create`.
            reliable: As for `create`; not to be given up while something is kept.

        Raises:
            ArgumentInvalid: not bytes, no policy where there was one, or an argument that `create` refuses.
            StateMalformed: damaged, or fields that contradict one another; nothing was loaded.
            StateStale: older than `at_least_generation`.
            StateVersionUnknown: written by a newer release.
            BackendUnfit, RandomnessFailed: as for `create`.
        """
        check_flags(reliable=reliable)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal)
        source = working_entropy(entropy)
        state = restore_agent(bytes_argument("exported", exported), at_least_generation)
        if state.inbox and not reliable:
            raise ArgumentInvalid("reliable", "no, and there is something in the inbox of the agent")
        check_policy_kept(policy, state)
        check_policy_mesh(policy, state.mesh)
        core = core_of(state, clock, source, policy, limits, recording=journal is not None, reliable=reliable)
        return cls(core, journal, clock)

    # --- the registry and the relay ----------------------------------------------------------------------------------

    @changing
    def publish_prekeys(self, one_time: int = upkeep.ONE_TIME_DEFAULT, *, rotate: bool = False) -> HttpRequest:
        """Make prekeys and keep their secrets; the result is the request that uploads them.

        It takes the place of all that lay at the registry. The signed prekey stays until it is a week old.

        Args:
            one_time: How many one-time prekeys.
            rotate: Make a new signed prekey now. The one before serves on; those before that do not.

        Raises:
            ArgumentInvalid: not a number, or not a bool.
            StockFull: more than `limits.bundles_max` in all.
        """
        check_flags(rotate=rotate)
        return self._seam.run(lambda now_ms: upkeep.publish(self._core, one_time, now_ms, rotate=rotate))

    # --- conversations -----------------------------------------------------------------------------------------------

    @changing
    def knock(self, did: str, prekeys: BytesLike, *, require_one_time: bool = False) -> AgtKnock:
        """Begin a conversation; the result is the KNOCK, for the relay. Messages may follow at once.

        Args:
            did: Whom to reach, `did:mesh:...`.
            prekeys: The body of the registry's answer to `agentmesh.agt.fetch(did)`, of at most 64 KiB.
            require_one_time: Refuse where the registry had no one-time prekey left.

        Raises:
            ArgumentInvalid: not a DID of AGT's mesh, this agent's own, or not bytes.
            RemoteError: what the registry gave is not acceptable: BundleIdentityMismatch, BadSignature, BadPoint, ...
            OneTimeRequired: there was no one-time prekey.
            PeerNotAllowed: the policy does not allow the peer, or not over what AGT's protocol gives.
        """
        did = mesh_did_argument("did", did, own=self.did)
        check_flags(require_one_time=require_one_time)
        body = bytes_argument("prekeys", prekeys)
        bundle = registry.read_bundle(did, body, _ANSWER_MAX_BYTES)
        return self._seam.run(
            lambda now_ms: knocking.knock(self._core, bundle, require_one_time=require_one_time, now_ms=now_ms)
        )

    @changing
    def accept(self, knock: KnockRequest, conditions: Conditions = UNLIMITED) -> Events:
        """Accept a KNOCK that waits for the application; the result tells the session, and what was sent with it.

        Args:
            knock: The event that asked.
            conditions: What this side keeps to; AGT has no way to tell the peer. Of what was held, messages beyond
                `max_messages` are let go.

        Raises:
            ArgumentInvalid: not an event of a KNOCK, or not conditions; or `allowed_actions` without the KNOCK's own,
                which is that of every message here.
            KnockNotPending: it was decided, or has expired.
            PeerNotAllowed: the policy does not allow the peer any more.
            InboxFull: what was held has no room in the inbox. Nothing has changed.
        """
        if not isinstance(conditions, Conditions):
            raise ArgumentInvalid("conditions", "not Conditions")
        session_id = session_of_knock(knock)
        return self._seam.run(lambda now_ms: knocking.accept(self._core, session_id, conditions, now_ms))

    @changing
    def reject(self, knock: KnockRequest, reason: Reason = Reason.POLICY) -> Outgoing:
        """Refuse a KNOCK that waits for the application; the result is the frame that says so, for the relay.

        Args:
            knock: The event that asked.
            reason: For this side's log; the peer is told "policy_denied", as AGT's clients say it.

        Raises:
            ArgumentInvalid: not an event of a KNOCK, or not a reason.
            KnockNotPending: it was decided, or has expired.
        """
        if not isinstance(reason, Reason):
            raise ArgumentInvalid("reason", "not a Reason")
        session_id = session_of_knock(knock)
        return self._seam.run(lambda now_ms: knocking.reject(self._core, session_id, reason, now_ms))

    @changing
    def send(self, did: str, data: BytesLike, *, json: bool = False, session_id: SessionId | None = None) -> AgtSealed:
        """Seal a message; the result is the frame, for the relay: send it once, and what is sent again seal again.

        Args:
            did: The peer.
            data: What to send. UTF-8 goes as a JSON string, other bytes as AGT's clients wrap them.
            json: `data` is JSON text, and goes as it is.
            session_id: Which session; that which was made, or heard on for the first time, last if `None`.

        Raises:
            ArgumentInvalid: a bad argument, or data whose frame is over 1 MiB: it would reach some peers only.
            NoSession: there is none, or none that is named so.
            SessionNotOpen: its time to live is over.
            ConditionNotMet: what was granted is used up.
            PeerNotAllowed: the policy does not allow the peer (any more).
        """
        named = session_id_argument(session_id)
        check_flags(json=json)
        taken = bytes_argument("data", data, 0, self._core.limits.plaintext_max_bytes)
        return self._seam.run(
            lambda now_ms: conversing.send(self._core, did, taken, json=json, session_id=named, now_ms=now_ms)
        )

    @changing
    def receive(self, frame: BytesLike | str | AgtFrame) -> Events:
        """Take a frame from the relay; the result is what it means. An event's `reply`, if any, is for the relay.

        Acknowledge the frame to the relay (`RelayLink.ack`) when this has returned, or has raised a `RemoteError` that
        is no `TryAgain`: what is not acknowledged comes again with the next connection, where the relay has stored it.

        Args:
            frame: The text of the WebSocket, or its UTF-8.

        Raises:
            ArgumentInvalid: neither text nor bytes.
            TryAgain: do not acknowledge it. `MessageEarly`: it is held. `Busy`, `InboxFull`: offer it again later,
                as the relay has stored only what came while nobody was connected.
            RelayComplaint: the relay has something against what this side sent.
            RemoteError: the frame is bad; acknowledge it, and go on. Nothing has changed.
            PeerNotAllowed: the policy does not allow the peer (any more). Nothing has changed.
        """
        if isinstance(frame, AgtFrame):
            frame = frame.envelope
        if isinstance(frame, str):
            frame = str.encode(frame, "utf-8", "surrogatepass")
        taken = bytes_argument("frame", frame)
        return self._seam.run(lambda now_ms: _receive(self._core, taken, now_ms), envelope=taken)

    @changing
    def drop(self, did: str, session_id: SessionId) -> None:
        """End a session here and now: its keys go. The peer is not told, because AGT has no word for it.

        Raises:
            ArgumentInvalid: not a DID.
            NoSession: no such session.
        """
        named = SessionId(bytes_argument("session_id", session_id, 16, 16))
        self._seam.run(lambda now_ms: upkeep.drop(self._core, did, named, now_ms))

    def batch(self) -> AbstractContextManager[Batch]:
        """Commit the calls of a with statement together: see `Agent.batch`.

        Raises:
            BatchOpen: in the with statement, of one that is begun within another.
            StoreError, CommitFailed: at its end; whatever is called next makes that again first.
        """
        return self._seam.together()

    # --- what waits --------------------------------------------------------------------------------------------------

    @changing
    def done(self, event: Event) -> None:
        """Say that the application has done with an event: it leaves the `inbox`. See `Agent.done`.

        Raises:
            ArgumentInvalid: not an event.
        """
        if not isinstance(event, Event):
            raise ArgumentInvalid("event", "not an event")
        self._seam.run(lambda _: _done(self._core, event))

    # --- time ------------------------------------------------------------------------------------------------------

    @changing
    def poll(self) -> Events:
        """Return what time brought: sessions that ended, kept keys that expired, prekeys low or due for rotation."""
        return self._seam.run(lambda now_ms: upkeep.poll(self._core, now_ms))

    # --- the audit trail -------------------------------------------------------------------------------------------

    @changing
    def record_refusals(self) -> None:
        """Tell the journal of the refusals counted so far, without waiting for their minute to end.

        Raises:
            StoreError, CommitFailed: the journal did not take them; they are still counted.
        """
        self._seam.record_refusals()


def _receive(core: AgtCore, data: bytes, now_ms: int) -> Step[Events]:
    frame = conversing.routed(core, data)
    if isinstance(frame, MessageFrame):
        return conversing.receive_message(core, frame, now_ms)
    if isinstance(frame, KnockFrame):
        return knocking.receive_knock(core, frame, now_ms)
    assert isinstance(frame, VerdictFrame)
    return knocking.receive_verdict(core, frame, now_ms, len(data))


def _done(core: AgtCore, event: Event) -> Step[None]:
    handed = core.state.inbox.find(event)
    return Step(() if handed is None else (InboxRemoved((handed.sequence,)),), (), None)
