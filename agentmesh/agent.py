"""The façade: one agent, bytes in, events and bytes out (docs/protocol.md, whole).

Theory of operation. Each call takes the agent's lock, computes a `Step` from the state without touching it, commits the
step (journal first, then memory), and returns its output. So whatever a call refuses, the state is as it was; whatever
a call returns, the state already accounts for. An agent opens no socket, starts no thread and reads no file: time and
randomness are arguments, envelopes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from agentmesh.agent_boxes import AgentBoxes
from agentmesh.attachments.reference import Attachment
from agentmesh.engine import conversing, knocking, many, receiving, upkeep, verdicts
from agentmesh.engine.core import Core
from agentmesh.engine.export import restore_agent
from agentmesh.engine.guard import (
    attachments_argument,
    changing,
    check_boxes_kept,
    check_flags,
    check_given,
    check_policy_kept,
    core_of,
    dids_argument,
    label_argument,
    make_call,
    refs_argument,
    session_id_argument,
    session_of_knock,
    working_entropy,
)
from agentmesh.engine.hooks import Clock, read_clock, system_clock_ms
from agentmesh.engine.seam import Seam
from agentmesh.engine.state import AgentState, Journal
from agentmesh.engine.upkeep import Shelf
from agentmesh.envelope import mesh_argument
from agentmesh.errors import AgentMeshError, ArgumentInvalid
from agentmesh.events import Events
from agentmesh.handshake.knock import Intent
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.identity import Identity, did_argument
from agentmesh.limits import Limits
from agentmesh.outgoing import Accepted, Knock, Outgoing, Sealed, SentMany
from agentmesh.policy import Deny, KnockRequest, Policy, check_policy_mesh
from agentmesh.primitives.arguments import BytesLike, bare, bytes_argument, frameless
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import SessionId


@final
class Agent(AgentBoxes):
    """An agent in one mesh: its identity, its bundles, its sessions. Safe to use from several threads.

    Make one with `create`, or with `restore` from exported state.

        >>> alice, bob = Agent.create("example/prod"), Agent.create("example/prod")
        >>> bundle = bob.publish_bundles(one_time=1).one_time[0]
        >>> [asked] = bob.receive(alice.knock(bob.did, bundle, Intent("summarise")).envelope)
        >>> [established] = alice.receive(bob.accept(asked).envelope)
        >>> [message] = bob.receive(alice.send(bob.did, b"the numbers").envelope)
        >>> message.plaintext, message.action, message.number
        (b'the numbers', 'summarise', 1)
    """

    __slots__ = ()

    def __init__(self, core: Core, journal: Journal | None) -> None:
        self._core = core
        self._seam = Seam(core, journal)
        self._stock_told = not core.state.bundles  # an agent that never published awaits no KNOCKs
        self._rotation_told = False

    # --- making one ------------------------------------------------------------------------------------------------

    @classmethod
    @frameless
    def create(
        cls,
        mesh: str,
        *,
        identity: Identity | None = None,
        clock: Clock = system_clock_ms,
        entropy: Entropy | None = None,
        policy: Policy | None = None,
        limits: Limits | None = None,
        journal: Journal | None = None,
        acknowledge: bool = False,
        reliable: bool = False,
        in_order: bool = False,
    ) -> Agent:
        """Return a new agent.

        Args:
            mesh: The mesh's name, 1 to 64 of `a-z 0-9 . _ / -`.
            identity: Who it is; a fresh identity if `None`.
            clock: Returns milliseconds since the epoch.
            entropy: Where randomness comes from; the operating system if `None`.
            policy: Who decides on KNOCKs; the application is asked if `None`.
            limits: What it allows.
            journal: Is told of each step before it takes effect.
            acknowledge: Tell peers which of their messages were opened: section 6.4. `poll` may then make signals.
            reliable: Keep what leaves in the `outbox`, and what is handed up in the `inbox`: section 7.3.
            in_order: Hand up the messages of a session by their numbers; what came early waits. For reliable agents.

        Raises:
            ArgumentInvalid: not a mesh name, not an identity, a clock that counts seconds, or a hook that is none.
            BackendUnfit: this machine's cryptography lacks what the protocol needs.
            RandomnessFailed: the source of randomness is visibly stuck.
        """
        mesh = mesh_argument("mesh", mesh)
        if identity is not None and not isinstance(identity, Identity):
            raise ArgumentInvalid("identity", "not an Identity")
        check_flags(acknowledge=acknowledge, reliable=reliable, in_order=in_order)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal)
        check_policy_mesh(policy, mesh)
        source = working_entropy(entropy)
        state = AgentState(Identity.generate(source) if identity is None else identity, mesh)
        core = core_of(
            state,
            clock,
            source,
            policy,
            limits,
            recording=journal is not None,
            acknowledge=acknowledge,
            reliable=reliable,
            in_order=in_order,
        )
        return cls(core, journal)

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
        acknowledge: bool = False,
        reliable: bool | None = None,
        in_order: bool = False,
    ) -> Agent:
        """Return the agent that `export_state` wrote. Section 7.1.

        Restoring an older export than the last lets messages be replayed to this agent: see docs/security.md. Bundles
        that are past their time are left out, with their secrets.

        Args:
            exported: The bytes.
            at_least_generation: The `generation` that is known from elsewhere: an older export is refused.
            clock: As for `create`.
            entropy: As for `create`.
            policy: Must be given where the agent had one of its own; `AskApplication()` gives that up.
            limits: As for `create`.
            journal: As for `create`.
            acknowledge: As for `create`.
            reliable: As for `create`; as the agent was if `None`. Not to be given up while something is kept.
            in_order: As for `create`.

        Raises:
            ArgumentInvalid: not bytes, no policy where there was one, or an argument that `create` refuses.
            StateMalformed: damaged, or fields that contradict one another; nothing was loaded.
            StateStale: older than `at_least_generation`.
            StateVersionUnknown: written by a newer release.
            BackendUnfit, RandomnessFailed: as for `create`.
        """
        check_flags(acknowledge=acknowledge, reliable=False if reliable is None else reliable, in_order=in_order)
        check_given(clock=clock, limits=limits, entropy=entropy, policy=policy, journal=journal)
        source = working_entropy(entropy)
        exported = bytes_argument("exported", exported)
        state = restore_agent(exported, read_clock(clock), at_least_generation=at_least_generation)
        keeps = state.reliable if reliable is None else reliable
        check_boxes_kept(keeps, state)
        check_policy_kept(policy, state)
        check_policy_mesh(policy, state.mesh)
        core = core_of(
            state,
            clock,
            source,
            policy,
            limits,
            recording=journal is not None,
            acknowledge=acknowledge,
            reliable=keeps,
            in_order=in_order,
        )
        return cls(core, journal)

    # --- bundles ---------------------------------------------------------------------------------------------------

    @changing
    def publish_bundles(self, one_time: int | None = None, *, last_resort: bool = True) -> Shelf:
        """Make prekey bundles and keep their secrets. Hand the bytes to any registry. Section 3.

        Args:
            one_time: How many one-time bundles; so many that `limits.one_time_bundles` (100) are unused if `None`.
            last_resort: Make a last-resort bundle too. Older ones serve on until they expire.

        Raises:
            ArgumentInvalid: not a number of bundles.
            StockFull: more than `limits.bundles_max` in all, or ten times as many with the used ones.
        """
        check_flags(last_resort=last_resort)

        shelf = self._seam.run(lambda now_ms: upkeep.publish(self._core, one_time, last_resort, now_ms))
        self._stock_told = False
        self._rotation_told = self._rotation_told and not last_resort
        return shelf

    @changing
    def withdraw_bundles(self, refs: tuple[bytes, ...] | list[bytes] | None = None) -> tuple[bytes, ...]:
        """Delete the secrets of bundles that are not to serve any more; returns which had any. Section 3.

        A KNOCK on one of them is rejected (`bundle`) from now on. Take them from the registries too.

        Args:
            refs: The `ref` of each, 32 bytes; all bundles of this agent if `None`. What has no secrets is left out.

        Raises:
            ArgumentInvalid: not refs.
        """
        named = None if refs is None else refs_argument(refs)
        return self._seam.run(lambda _: upkeep.withdraw(self._core, named))

    # --- sessions --------------------------------------------------------------------------------------------------

    @changing
    def knock(
        self,
        did: str,
        bundle: BytesLike,
        intent: Intent,
        *,
        early_payload: BytesLike | None = None,
        early_with_last_resort: bool = False,
        require_one_time: bool = False,
        expires_in_seconds: int | None = None,
    ) -> Knock:
        """Ask a peer for a session; the result is the KNOCK, to hand to a relay. Section 5.

        Args:
            did: Whom to reach.
            bundle: One of its bundles, from any registry.
            intent: What for; only the peer reads it.
            early_payload: Data that the peer releases when it accepts. It has less forward secrecy than a message.
            early_with_last_resort: Send the early payload even on a last-resort bundle; otherwise it is withheld, and
                the result says so.
            require_one_time: Refuse a last-resort bundle.
            expires_in_seconds: When the KNOCK expires, at most 14 days; a day if `None`. Never later than the bundle.

        Raises:
            ArgumentInvalid: not a DID, this agent's own, or another bad argument.
            RemoteError: the bundle is not acceptable; see `verify_bundle`. BundleExpired, BundleIdentityMismatch, ...
            IdentityConflict: the DID is known with another key.
            OneTimeRequired: the bundle is a last-resort one.
            OutboxFull: as for `send`.
            PeerNotAllowed: the policy does not allow the peer.
            TooManySessions: five open sessions with the peer, or too many in all; its `sessions` could be ended.
        """
        did = did_argument("did", did, own=self.did)
        check_flags(early_with_last_resort=early_with_last_resort, require_one_time=require_one_time)
        if not isinstance(intent, Intent):
            raise ArgumentInvalid("intent", "not an Intent")
        bundle = bytes_argument("bundle", bundle)
        early = None if early_payload is None else bytes_argument("early_payload", early_payload)

        return self._seam.run(
            lambda now_ms: knocking.knock(
                self._core,
                did,
                bundle,
                intent,
                early_payload=early,
                early_with_last_resort=early_with_last_resort,
                require_one_time=require_one_time,
                expires_in_seconds=expires_in_seconds,
                now_ms=now_ms,
            )
        )

    @changing
    def accept(self, knock: KnockRequest, conditions: Conditions = UNLIMITED) -> Accepted:
        """Accept a KNOCK that waits for the application. Section 5.2.

        Raises:
            ArgumentInvalid: not an event of a KNOCK, or not conditions.
            KnockNotPending: it was decided, or has expired.
            PeerNotAllowed: the policy does not allow the peer any more.
        """
        if not isinstance(conditions, Conditions):
            raise ArgumentInvalid("conditions", "not Conditions")
        session_id = session_of_knock(knock)
        return self._seam.run(lambda now_ms: verdicts.accept_knock(self._core, session_id, conditions, now_ms))

    @changing
    def reject(self, knock: KnockRequest, reason: Reason = Reason.POLICY, *, retry_after_seconds: int = 0) -> Outgoing:
        """Reject a KNOCK that waits for the application; the result is the REJECT, to hand to a relay. Section 5.2.

        Raises:
            ArgumentInvalid: not an event of a KNOCK, not a reason, or not seconds.
            KnockNotPending: it was decided, or has expired.
        """
        if not isinstance(reason, Reason):
            raise ArgumentInvalid("reason", "not a Reason")
        denial = Deny(reason, retry_after_seconds)
        session_id = session_of_knock(knock)
        return self._seam.run(lambda now_ms: verdicts.reject_knock(self._core, session_id, denial, now_ms))

    def send(
        self,
        did: str,
        data: BytesLike,
        *,
        action: str | None = None,
        session_id: SessionId | None = None,
        disclosable: bool = False,
        label: bytes = b"",
        attachments: Iterable[Attachment] = (),
    ) -> Sealed:
        """Seal a message to a peer; the result is the message, to hand to a relay. Section 6.

        Args:
            did: The peer.
            data: 0 to `limits.plaintext_max_bytes` bytes.
            action: What it is for; the KNOCK's action if `None`.
            session_id: Which session; of those that the peer is known to hold the one with the latest KNOCK if `None`.
            disclosable: Keep the key that discloses this one message (section 8.1). That undoes the message's forward
                secrecy; give the key out only after the peer has opened the message.
            label: What the events of a reliable agent name the message by, 0 to 64 bytes. It never leaves this side.
            attachments: What it refers to, at most 16. Their blobs are to be had before it leaves.

        Raises:
            ArgumentInvalid: a bad argument, data over the limit, or a label where nothing keeps it.
            NoSession: there is no session that sends, or none that is named so (any more).
            SessionNotOpen: the named session is closed, superseded, over, or was never answered.
            ConditionNotMet: a condition of the session forbids it.
            OutboxFull: too much waits to be acknowledged. Only where the agent is reliable.
            PeerNotAllowed: the policy does not allow the peer (any more).
        """
        try:
            if session_id is not None:
                session_id = session_id_argument(session_id)
            if disclosable is not False:
                check_flags(disclosable=disclosable)
            if type(data) is not bytes:  # a copy, because its owner may write into it before the call is made again
                data = bytes_argument("data", data, 0, self._core.limits.plaintext_max_bytes)
            if type(label) is not bytes or label:
                label = label_argument(label, self._core)
            if type(attachments) is not tuple or attachments:
                attachments = attachments_argument(attachments)
            return make_call(
                self._seam, conversing.send, (did, data, action, session_id, disclosable, label, attachments)
            )
        except AgentMeshError as error:
            left = error
        del self, did, data, action, session_id, disclosable, label, attachments  # this frame stays in the traceback
        raise bare(left)

    @changing
    def send_many(
        self,
        dids: Iterable[str],
        data: BytesLike,
        *,
        action: str | None = None,
        disclosable: bool = False,
        label: bytes = b"",
        attachments: Iterable[Attachment] = (),
    ) -> SentMany:
        """Seal a message to each of these peers, over its own session, in one step and one commit. Section 6.

        Whoever cannot be sent to does not stop the others: the result has a message or an error for each. It is no
        group: nobody learns who else was sent to, and nothing keeps the peers' views the same.

        Args:
            dids: The peers, each once; no more than `limits.sessions_max`.
            data: As for `send`, and so are the others.
            action: See there.
            disclosable: See there.
            label: See there.
            attachments: See there.

        Raises:
            ArgumentInvalid: a bad argument, a DID that is none, or one that stands twice.
        """
        check_flags(disclosable=disclosable)
        to = dids_argument(dids, self._core.limits.sessions_max)
        taken = bytes_argument("data", data, 0, self._core.limits.plaintext_max_bytes)
        kept = label_argument(label, self._core)
        files = attachments_argument(attachments)
        return self._seam.run(
            lambda now_ms: many.send_many(
                self._core,
                to,
                taken,
                action=action,
                attachments=files,
                disclosable=disclosable,
                label=kept,
                now_ms=now_ms,
            )
        )

    @changing
    def close(self, did: str, reason: str = "", *, session_id: SessionId | None = None) -> Sealed:
        """Close a session; the result is to be handed to a relay. Nothing can be sent on it afterwards. Section 7.

        Raises:
            ArgumentInvalid: a bad argument; the reason is at most 128 bytes of UTF-8.
            NoSession: there is no session that sends, or none that is named so (any more).
            SessionNotOpen: the named session is closed or over.
            PeerNotAllowed: the policy does not allow the peer (any more); `drop` ends the session without a word.
        """
        named = session_id_argument(session_id)
        return self._seam.run(lambda now_ms: conversing.close(self._core, did, reason, named, now_ms))

    @changing
    def drop(self, did: str, session_id: SessionId) -> None:
        """End a session here and now, without a word to the peer: its keys go. For a KNOCK that nobody answers.

        An ACCEPT that comes for it later is refused. Sessions that converse are better ended with `close`.

        Raises:
            ArgumentInvalid: not a DID.
            NoSession: no such session, or it is over, or it waits for this application's own decision.
        """
        named = SessionId(bytes_argument("session_id", session_id, 16, 16))
        self._seam.run(lambda now_ms: conversing.drop(self._core, did, named, now_ms))

    # --- receiving -------------------------------------------------------------------------------------------------

    def receive(self, envelope: BytesLike | Outgoing, *, disclosable: bool = False) -> Events:
        """Take an envelope from a relay; the result is what it means. An event's `reply`, if any, is for the relay.

        Args:
            envelope: The bytes as they came; where both agents are in one process, what the other's call returned.
            disclosable: Keep the key that discloses this one message or close (section 8.1).

        Raises:
            ArgumentInvalid: not bytes.
            TryAgain: `NotYet`, `Busy` or `InboxFull`: the bytes may be good; offer them again later.
            RemoteError: the bytes are bad; drop them. Nothing has changed.
            PeerNotAllowed: the policy does not allow the peer (any more). Nothing has changed.
        """
        try:
            if type(envelope) is not bytes:
                envelope = envelope.envelope if isinstance(envelope, Outgoing) else bytes_argument("envelope", envelope)
            if disclosable is not False:
                check_flags(disclosable=disclosable)
            return make_call(self._seam, receiving.receive, (envelope, disclosable), envelope)
        except AgentMeshError as error:
            left = error
        del self, envelope, disclosable  # this frame stays in the traceback
        raise bare(left)
