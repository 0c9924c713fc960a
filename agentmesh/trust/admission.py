"""AdmissionPolicy: a policy made of lists, scores and tiers, for `Agent.create(policy=...)` (section 5.1).

It answers the agent's questions from what holds at the moment of asking: block and allow lists, revocations,
successions, and scores from a ledger, a graph or a function of the caller's. All are keyed by the 32-byte identity; the
lists take DIDs as well. It has no clock and opens nothing. Whatever goes wrong denies: a hook that raises, answers
late, or answers anything but an int from 0 to 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Final, TypeVar, final

from attrs import Attribute, evolve, field, frozen

from agentmesh.assurance import Guarantee, Guarantees
from agentmesh.errors import ArgumentInvalid
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import UNLIMITED, Conditions, Reason
from agentmesh.identity import IdentityKey
from agentmesh.limits import ACTION_MAX_BYTES, CAPABILITY_MAX_BYTES, OPEN_SESSIONS_PER_PEER, SCORE_MAX
from agentmesh.policy import ASK, ClaimedSender, Decision, Deny, Grant, KnockRequest
from agentmesh.primitives.arguments import text_argument, uint_argument
from agentmesh.primitives.buckets import Buckets, Rate
from agentmesh.primitives.forked import Birthplace
from agentmesh.trust.arguments import key_argument, raw_key
from agentmesh.trust.ledger import TrustLedger
from agentmesh.trust.lists import AdmissionLists
from agentmesh.trust.paths import DIRECT_THRESHOLD, TrustPaths
from agentmesh.trust.revocation import RevocationList
from agentmesh.trust.roster import Listed
from agentmesh.trust.succession import Successions

_Item = TypeVar("_Item")
_HOUR_MS: Final = 3_600_000
_ANY_MESH: Final = "-"  # of lists that are the policy's own, and are never exported
_KEPT_ONE_IN: Final = 4  # of the hourly one-time bundles, for the known among those below the threshold


class Why(StrEnum):
    """What decided, in a word: for the audit record, never for the peer."""

    REVOKED = "revoked"
    RETIRED = "retired"
    BLOCKED = "blocked"
    BELOW_THRESHOLD = "below-threshold"
    GUARANTEE = "guarantee"
    LAST_RESORT = "last-resort"
    ACTION = "action"
    SESSIONS = "open-sessions"
    FAILED = "policy-failed"
    ALLOWED = "allow-list"
    TRUSTED = "trusted"


def _score(_instance: object, attribute: Attribute[int], value: int) -> None:
    uint_argument(attribute.name, value, SCORE_MAX)


def _sessions(_instance: object, attribute: Attribute[int], value: int) -> None:
    uint_argument(attribute.name, value, OPEN_SESSIONS_PER_PEER)


def _conditions(_instance: object, attribute: Attribute[Conditions], value: Conditions) -> None:
    if not isinstance(value, Conditions):
        raise ArgumentInvalid(attribute.name)


def _words(name: str, value: Iterable[str] | None, minimum: int, maximum: int) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentInvalid(name, "not a list of words")
    return tuple(text_argument(name, word, minimum, maximum) for word in value)


def _actions(value: Iterable[str] | None) -> tuple[str, ...] | None:
    return _words("actions", value, 1, ACTION_MAX_BYTES)


def _capabilities(value: Iterable[str] | None) -> tuple[str, ...] | None:
    return _words("capabilities", value, 0, CAPABILITY_MAX_BYTES)


@final
@frozen(kw_only=True)
class Tier:
    """What a score gives access to.

    Attributes:
        min_score: From which score on; never below the policy's threshold.
        actions: Which actions a KNOCK may ask for; `None` for any.
        capabilities: Which capabilities it may name; `None` for any.
        conditions: What is granted. Where they allow any action, and `actions` does not, the session is held to
            `actions` too.
        ask: Leave the decision to the application.
        max_open_sessions: How many sessions the peer may have, this one included; at most 5.
    """

    min_score: int = field(validator=_score)
    actions: tuple[str, ...] | None = field(default=None, converter=_actions)
    capabilities: tuple[str, ...] | None = field(default=None, converter=_capabilities)
    conditions: Conditions = field(default=UNLIMITED, validator=_conditions)
    ask: bool = False
    max_open_sessions: int = field(default=OPEN_SESSIONS_PER_PEER, validator=_sessions)

    def __attrs_post_init__(self) -> None:
        if type(self.ask) is not bool:
            raise ArgumentInvalid("ask")
        if self.actions is not None and self.conditions.allowed_actions is None:
            object.__setattr__(self, "conditions", evolve(self.conditions, allowed_actions=self.actions))

    def fits(self, score: int, action: str, capabilities: tuple[str, ...]) -> bool:
        """Say whether a KNOCK of this score, action and these capabilities falls under the tier."""
        return (
            score >= self.min_score
            and (self.actions is None or action in self.actions)
            and (self.capabilities is None or set(capabilities) <= set(self.capabilities))
        )


@final
class AdmissionPolicy:
    """Who gets in. Decides by lists, revocations, scores and tiers; see docs/how-to/admission.md.

    Without tiers nothing is accepted by itself: who passes the threshold is left to the application.

    Args:
        scores: The score of an identity, 32 bytes, instead of ledger and graph. It is called under the agent's
            lock, for whoever knocks; it answers an int from 0 to 1000, or the identity is denied.
        ledger: Scores by signed updates.
        graph: Scores by signed edges: a `TrustGraph`, or a `TrustProjection` of a kars cluster. The larger of ledger
            and graph counts.
        revocations: Whoever is revoked is denied everything, at once.
        successions: Whoever was retired is denied everything, at once.
        lists: The allow and block list, in the place of its own: those that a store keeps.
        allow: Identities that pass the threshold whatever their score: keys, 32 raw bytes, or DIDs. Not with `lists`.
        block: Identities that are denied everything, whatever else is said of them. As `allow`.
        knock_floor: Below this score a KNOCK is dropped before its signature is checked. 0 lets newcomers knock.
        threshold: Below this score a KNOCK is rejected, and a session goes no further.
        ask_from: From this score on, below the threshold, the application is asked instead.
        transitive_cap: The most that paths of two hops count for; one below the threshold if `None`.
        known_from: From this score on, and on the allow list, an identity may use what is kept from strangers; from
            the knock floor or one above the ledger's default, whichever is more, if `None`.
        tiers: What which score gives access to. Of several that fit a KNOCK the one with the highest score counts.
        require: What each session must give, whoever begins it. Asked when one begins; of sessions over AGT's protocol
            with every message too.
        require_one_time: Reject KNOCKs on last-resort bundles.
        one_time_per_hour: How many one-time bundles all senders below the threshold together may use, a quarter of
            them only the known among these; `None` for any number.
        retry_after_seconds: Advice that goes with a rejection, 0 for none.
        timer: Returns milliseconds of any clock; with `timeout_ms`.
        timeout_ms: An answer of `scores` that took longer denies.
    """

    def __init__(
        self,
        *,
        scores: Callable[[bytes], int] | None = None,
        ledger: TrustLedger | None = None,
        graph: TrustPaths[Any] | None = None,
        revocations: RevocationList | None = None,
        successions: Successions | None = None,
        lists: AdmissionLists | None = None,
        allow: Iterable[Listed] = (),
        block: Iterable[Listed] = (),
        knock_floor: int = 0,
        threshold: int = DIRECT_THRESHOLD,
        ask_from: int | None = None,
        transitive_cap: int | None = None,
        known_from: int | None = None,
        tiers: Iterable[Tier] = (),
        require: Iterable[Guarantee] = (),
        require_one_time: bool = False,
        one_time_per_hour: int | None = 20,
        retry_after_seconds: int = 0,
        timer: Callable[[], int] | None = None,
        timeout_ms: int | None = None,
    ) -> None:
        """Make a policy of the arguments that stand above.

        Raises:
            ArgumentInvalid: an argument of another type or range, two sources of scores, sources of two meshes, or
                lists beside `allow` or `block`.
        """
        if scores is not None and (ledger is not None or graph is not None or not callable(scores)):
            raise ArgumentInvalid("scores")
        self._mesh = _mesh_of(
            ("ledger", ledger, TrustLedger),
            ("graph", graph, TrustPaths),
            ("revocations", revocations, RevocationList),
            ("successions", successions, Successions),
            ("lists", lists, AdmissionLists),
        )
        self._scores, self._ledger, self._graph = scores, ledger, graph
        self._revocations, self._successions = revocations, successions
        self._birthplace = Birthplace()
        self._lists = AdmissionLists(_ANY_MESH if self._mesh is None else self._mesh) if lists is None else lists
        self._list(allow, block, is_new=lists is None)
        self._following: tuple[bytes, bytes] | None = None  # a succession that is being followed
        self._knock_floor = uint_argument("knock_floor", knock_floor, SCORE_MAX)
        self._threshold = uint_argument("threshold", threshold, SCORE_MAX)
        self._ask_from = None if ask_from is None else uint_argument("ask_from", ask_from, threshold)
        cap = max(0, threshold - 1) if transitive_cap is None else transitive_cap
        self._transitive_cap = uint_argument("transitive_cap", cap, SCORE_MAX)
        default = 0 if ledger is None else ledger.default_score
        known = max(knock_floor, default + 1) if known_from is None else known_from
        self._known_from = uint_argument("known_from", known, SCORE_MAX + 1)
        self._tiers = _sorted(tiers, threshold)
        self._demand(require, require_one_time)
        self._limit_one_time(one_time_per_hour)
        self._retry_after_seconds = uint_argument("retry_after_seconds", retry_after_seconds)
        self._time_scores(timer, timeout_ms)

    def _list(self, allow: Iterable[Listed], block: Iterable[Listed], *, is_new: bool) -> None:
        for add, name, listed in ((self._lists.allow, "allow", allow), (self._lists.block, "block", block)):
            for identity in _iterable(name, listed):
                if not is_new:  # at each start it would undo what was taken off them since
                    raise ArgumentInvalid(name, "given beside `lists`: call it instead")
                add(identity)

    def _demand(self, require: Iterable[Guarantee], require_one_time: bool) -> None:
        found = tuple(_iterable("require", require))
        if not all(isinstance(guarantee, Guarantee) for guarantee in found):
            raise ArgumentInvalid("require", "not a Guarantee; Guarantee takes its word")
        if type(require_one_time) is not bool:
            raise ArgumentInvalid("require_one_time")
        self._require: Guarantees = frozenset(found)
        self._require_one_time = require_one_time or Guarantee.ONE_TIME_PREKEY in self._require

    def _limit_one_time(self, per_hour: int | None) -> None:
        self._one_time_per_hour = per_hour
        self._one_time, self._one_time_kept = None, 0
        if per_hour is not None and uint_argument("one_time_per_hour", per_hour):
            self._one_time = Buckets(Rate(per_hour, per_hour, _HOUR_MS), max_keys=1)
            self._one_time_kept = per_hour // _KEPT_ONE_IN
            self._lists._owe(self._one_time)

    def _time_scores(self, timer: Callable[[], int] | None, timeout_ms: int | None) -> None:
        if (timer is None) is not (timeout_ms is None):
            raise ArgumentInvalid("timer" if timer is None else "timeout_ms")
        if timer is not None and not callable(timer):
            raise ArgumentInvalid("timer")
        self._timer = timer
        self._timeout_ms = 0 if timeout_ms is None else uint_argument("timeout_ms", timeout_ms)

    @property
    def mesh(self) -> str | None:
        """The mesh of what it decides by, `None` where that is of no mesh; an agent of another one refuses it."""
        return self._mesh

    # --- the lists ---------------------------------------------------------------------------------------------------

    def allow(self, identity: Listed) -> None:
        """Let an identity, by its key or its DID, pass the threshold from now on. Blocking still outweighs it.

        Raises:
            ArgumentInvalid: neither a key, nor 32 bytes, nor a DID. As in the three calls below.
        """
        self._lists.allow(identity)

    def disallow(self, identity: Listed) -> None:
        """Take an identity off the allow list: its sessions go on only as its score carries.

        Its key takes off whatever it was listed by. A DID does too, but for the key's other DID alone.
        """
        self._lists.disallow(identity)

    def block(self, identity: Listed) -> None:
        """Deny an identity everything from now on, in the middle of a session too."""
        self._lists.block(identity)

    def unblock(self, identity: Listed) -> None:
        """Take an identity off the block list, as `disallow` does off the other."""
        self._lists.unblock(identity)

    def follow(self, old: IdentityKey, new: IdentityKey) -> None:
        """Follow an identity to its successor, which was offered to `successions`.

        The new identity takes over the old one's place on the lists and begins with its score in the ledger; the old
        one is retired. Edges of the graph are their issuers' to sign anew.

        Raises:
            ArgumentInvalid: no `successions`, no such offer, one of the two is revoked, or the new identity has a
                record of its own in the ledger.
            TrustFull: the ledger has no room.
        """
        self._birthplace.check()
        if self._successions is None:
            raise ArgumentInvalid("successions", "the policy has none")
        pair = (key_argument("old", old).raw, key_argument("new", new).raw)
        with self._successions._together():  # what one store keeps of it, a restart finds whole or not begun
            # Made again because it was broken off, it goes on where it was: what it did already is not done twice.
            if pair != self._following or not self._successions.is_followed(old, new):
                self._begin_following(old, new)
                self._following = pair
                self._successions.follow(old, new)
            if self._lists.is_allowed(old):
                self._lists.allow(new)
                self._lists.disallow(old)
        self._following = None

    def _begin_following(self, old: IdentityKey, new: IdentityKey) -> None:
        """Do what must be done before the old identity is retired: from then on nobody may be better off than it."""
        assert self._successions is not None
        self._successions.check_follow(old, new)
        for name, key in (("old", old), ("new", new)):
            # Whoever took a key from its owner can offer a successor; the owner's revocation ends that too.
            if self._revocations is not None and self._revocations.is_revoked(key):
                raise ArgumentInvalid(name, "was revoked")
        if self._ledger is not None and not self._ledger.has_inherited(old, new):
            self._ledger.inherit(old, new)
        if self._lists.is_blocked(old):
            self._lists.block(new)

    # --- what an agent asks ------------------------------------------------------------------------------------------

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        """Say whether a KNOCK that claims this sender is worth a signature check. Read only."""
        self._birthplace.check()
        try:
            raw = raw_key(sender.key)
            if self._refusal(raw) is not None:
                return False
            return self._knock_floor == 0 or self._lists.is_allowed(raw) or self._score(raw) >= self._knock_floor
        except Exception:
            return False

    def is_known(self, key: bytes, /) -> bool:
        """Say whether an identity may use what is kept from strangers: it is allow-listed, or has a score."""
        self._birthplace.check()
        try:
            raw = raw_key(key)
            return self._refusal(raw) is None and (self._lists.is_allowed(raw) or self._score(raw) >= self._known_from)
        except Exception:
            return False

    def may_use(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> bool:
        """Say whether this peer's KNOCK may be made on a bundle of this class. Only looks: see `used`."""
        self._birthplace.check()
        try:
            if bundle_class is not BundleClass.ONE_TIME:
                return not self._require_one_time
            if not self._is_rationed(peer):
                return True
            leave = 0 if self.is_known(peer.raw) else self._one_time_kept
            return self._one_time is not None and self._one_time.has(None, now_ms, leave=leave)
        except Exception:
            return False

    def used(self, peer: IdentityKey, bundle_class: BundleClass, now_ms: int, /) -> None:
        """Charge strangers' one-time budget: a KNOCK of this peer opened on such a bundle, and used it up."""
        self._birthplace.check()
        if bundle_class is BundleClass.ONE_TIME and self._is_rationed(peer) and self._one_time is not None:
            self._lists._charge(self._one_time, now_ms)

    def _is_rationed(self, peer: IdentityKey) -> bool:
        return self._one_time_per_hour is not None and self._standing(peer.raw) < self._threshold

    def decide(self, knock: KnockRequest, /) -> Decision:
        """Decide on a KNOCK that was verified and opened."""
        self._birthplace.check()
        try:
            return self._decide(knock)
        except Exception:
            return self._deny(Why.FAILED)

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        """Say whether this peer may be sent to and heard now, by what holds now."""
        self._birthplace.check()
        try:
            keep = self._threshold if self._ask_from is None else self._ask_from
            return self._refusal(peer.raw) is None and self._standing(peer.raw) >= keep
        except Exception:
            return False

    def may_converse(self, _peer: IdentityKey, guarantees: Guarantees, /) -> bool:
        """Say whether a session that gives this may be begun, and over AGT's protocol go on: it gives enough."""
        self._birthplace.check()
        try:
            return self._require <= guarantees
        except Exception:
            return False

    # --- how it decides ----------------------------------------------------------------------------------------------

    def _decide(self, knock: KnockRequest) -> Decision:
        raw = knock.peer.raw
        refusal = self._refusal(raw)
        if refusal is not None:
            return self._deny(refusal)
        standing = self._standing(raw)
        if self._require - {Guarantee.ONE_TIME_PREKEY} - knock.guarantees:
            return self._deny(Why.GUARANTEE)
        if self._require_one_time and knock.bundle_class is not BundleClass.ONE_TIME:
            return self._deny(Why.LAST_RESORT, Reason.BUNDLE)
        if standing < self._threshold:
            asks = self._ask_from is not None and standing >= self._ask_from
            return ASK if asks else self._deny(Why.BELOW_THRESHOLD)
        if not self._tiers:
            return ASK
        intent = knock.intent
        for tier in self._tiers:
            if tier.fits(standing, intent.action, intent.capabilities):
                if knock.open_sessions >= tier.max_open_sessions:
                    return self._deny(Why.SESSIONS, Reason.BUSY)
                return ASK if tier.ask else Grant(tier.conditions, self._granted(raw))
        return self._deny(Why.ACTION)

    def _granted(self, raw: bytes) -> Why:
        return Why.ALLOWED if self._lists.is_allowed(raw) else Why.TRUSTED

    def _deny(self, why: Why, reason: Reason = Reason.POLICY) -> Deny:
        return Deny(reason, self._retry_after_seconds, why)

    def _refusal(self, raw: bytes) -> Why | None:
        if self._revocations is not None and self._revocations.is_revoked(raw):
            return Why.REVOKED
        if self._successions is not None and self._successions.is_retired(raw):
            return Why.RETIRED
        return Why.BLOCKED if self._lists.is_blocked(raw) else None

    def _standing(self, raw: bytes) -> int:
        score = self._score(raw)
        return max(score, self._threshold) if self._lists.is_allowed(raw) else score

    def _score(self, raw: bytes) -> int:
        if self._scores is not None:
            return self._asked(self._scores, raw)
        score = 0 if self._ledger is None else self._ledger.score(raw)
        if self._graph is not None:
            derived = min(self._graph.derived(raw), self._transitive_cap)
            score = max(score, self._graph.direct(raw), derived)
        return score

    def _asked(self, scores: Callable[[bytes], int], raw: bytes) -> int:
        began_ms = 0 if self._timer is None else self._timer()
        score = scores(raw)
        if self._timer is not None and not 0 <= self._timer() - began_ms <= self._timeout_ms:
            raise ArgumentInvalid("timeout_ms")
        return uint_argument("scores", score, SCORE_MAX)


def _mesh_of(*sources: tuple[str, Any, type[Any]]) -> str | None:
    meshes: set[str] = set()
    for name, value, kind in sources:
        if value is None:
            continue
        if not isinstance(value, kind):
            raise ArgumentInvalid(name, "of another type")
        meshes.add(value.mesh)
        if len(meshes) > 1:  # a list of another mesh would revoke nobody in this one
            raise ArgumentInvalid(name, "of another mesh")
    return meshes.pop() if meshes else None


def _iterable(name: str, value: Iterable[_Item]) -> Iterable[_Item]:
    if isinstance(value, str | bytes | bytearray | memoryview) or not isinstance(value, Iterable):
        raise ArgumentInvalid(name, "not several: put one in a list")
    return value


def _sorted(tiers: Iterable[Tier], threshold: int) -> tuple[Tier, ...]:
    found = tuple(_iterable("tiers", tiers))
    if not all(isinstance(tier, Tier) and tier.min_score >= threshold for tier in found):
        raise ArgumentInvalid("tiers")
    return tuple(sorted(found, key=lambda tier: -tier.min_score))
