"""The family graph: edges in, scores out, as one root sees them."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from agentmesh.limits import Limits
from generator.trust.model import FULL, STALE, UNFIT, Edge, Graph
from generator.trust.scene import Scene, digest_of, foreign_statements
from generator.trust.statements import EDGE, ISSUER, REVOCATION, SUBJECT, statement
from generator.world import DAY_MS, MALLORY, NOW_MS, TOLERANCE_MS, Files, identity

Json = dict[str, Any]

SPEC: Final = "9.3"
ROOT: Final = identity("root")
VOUCHER: Final = ISSUER
OTHER_VOUCHER: Final = identity("other-voucher")
TARGET: Final = SUBJECT
FARTHER: Final = identity("farther")


class _Graph:
    """A scenario of `graph.run`, beside the model of section 9.3, which says what must come of each step."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        *,
        percent: int = 50,
        cap: int = 499,
        subjects: tuple[Identity, ...] = (TARGET,),
        **limits: int,
    ) -> None:
        allowed = Limits(**limits)
        self._subjects = subjects
        self._model = Graph(ROOT.key.raw, percent, cap, allowed.trust_edges, allowed.trust_edges_per_issuer)
        given: Json = {
            "root": ROOT.key.raw.hex(),
            "attenuation_percent": percent,
            "cap": cap,
            "subjects": [subject.key.raw.hex() for subject in subjects],
        }
        if limits:
            given["limits"] = limits
        self._scene = Scene(files, name, "graph.run", comment, spec=SPEC, given=given)
        self._sequence = 0

    def _scores(self) -> Json:
        scores = [self._model.scores(subject.key.raw) for subject in self._subjects]
        return {"scores": [{"direct": direct, "derived": derived, "score": score} for direct, derived, score in scores]}

    def edge(
        self,
        issuer: Identity,
        subject: Identity,
        weight: int,
        expect: str = "ok",
        *,
        sequence: int | None = None,
        at_ms: int = NOW_MS,
    ) -> None:
        """Offer an edge."""
        self._sequence += 1
        number = self._sequence if sequence is None else sequence
        data = statement(EDGE, issuer, subject, weight, sequence=number, time_ms=at_ms)
        edge = Edge(issuer.key.raw, subject.key.raw, number, at_ms, weight, digest_of(data))
        found = self._model.take(edge, NOW_MS) or "ok"
        if found != expect:
            raise ValueError(f"{self._scene.name}: the model says {found} and not {expect}")
        noted = {"digest": edge.digest.hex()}
        self._scene.step("apply", expect, self._scores(), noted, now_ms=NOW_MS, statement=data)

    def offer_foreign(self, data: bytes, expect: str) -> None:
        """Offer what is refused before the graph's own rules are asked."""
        self._scene.step("apply", expect, {}, now_ms=NOW_MS, statement=data)

    def revoke(self, who: Identity) -> None:
        """Have the list of revocations take a revocation."""
        self._model.revoked.add(who.key.raw)
        self._scene.step("revoke", "ok", self._scores(), statement=statement(REVOCATION, who, who))

    def finish(self, *scores: tuple[int, int]) -> None:
        """Write the file; (direct, derived) of its subjects are said again, so that they can be seen here."""
        found = [(score["direct"], score["derived"]) for score in self._scores()["scores"]]
        if found != list(scores):
            raise ValueError(f"{self._scene.name}: {found} and not {list(scores)}")
        self._scene.finish()


def graph() -> Files:
    """Return the family graph."""
    files = Files("graph")
    _paths(files)
    _no_paths(files)
    _live(files)
    _revoked(files)
    _refused(files)
    _full(files)
    _room(files)
    return files


def _paths(files: Files) -> None:
    scene = _Graph(files, "direct", "the root's own edge counts as it is")
    scene.edge(ROOT, TARGET, 900)
    scene.finish((900, 0))
    for name, comment, first, second, derived in (
        ("two-hops", "half of the weaker edge, the second", 900, 700, 350),
        ("weaker-first", "half of the weaker edge, the first", 300, 1000, 150),
        ("odd-weight", "fractions are cut off", 701, 800, 350),
        ("weight-1", "half of 1 is 0", 1000, 1, 0),
        ("capped", "half of 1000 is 500: the cap of 499 holds it below direct trust", 1000, 1000, 499),
        ("below-the-cap", "half of 999 is 499", 999, 1000, 499),
    ):
        scene = _Graph(files, name, comment)
        scene.edge(ROOT, VOUCHER, first)
        scene.edge(VOUCHER, TARGET, second)
        scene.finish((0, derived))
    for name, comment, percent, cap, derived in (
        ("never-above-the-weakest", "attenuation and cap as lax as they can be: still the weaker edge", 100, 1000, 700),
        ("percent-33", "700 * 33 / 100 = 231", 33, 499, 231),
        ("percent-0", "nothing is left of a path", 0, 499, 0),
        ("cap-100", "a lower cap", 50, 100, 100),
        ("cap-0", "a cap of 0: paths do not count", 50, 0, 0),
    ):
        scene = _Graph(files, name, comment, percent=percent, cap=cap)
        scene.edge(ROOT, VOUCHER, 900)
        scene.edge(VOUCHER, TARGET, 700)
        scene.finish((0, derived))
    scene = _Graph(files, "best-path", "of several paths the best counts, and not their sum")
    for voucher, first, second in ((VOUCHER, 900, 300), (OTHER_VOUCHER, 400, 1000), (FARTHER, 1000, 200)):
        scene.edge(ROOT, voucher, first)
        scene.edge(voucher, TARGET, second)
    scene.finish((0, 200))
    for name, comment, direct in (
        ("direct-is-larger", "a direct edge beside a path: the larger counts", 600),
        ("derived-is-larger", "the same, and the path is worth more", 100),
    ):
        scene = _Graph(files, name, comment)
        scene.edge(ROOT, TARGET, direct)
        scene.edge(ROOT, VOUCHER, 900)
        scene.edge(VOUCHER, TARGET, 800)
        scene.finish((direct, 400))
    scene = _Graph(files, "edges-in-any-order", "the second hop was there before the first", subjects=(VOUCHER, TARGET))
    scene.edge(VOUCHER, TARGET, 700)
    scene.edge(ROOT, VOUCHER, 900)
    scene.finish((900, 0), (0, 350))


def _no_paths(files: Files) -> None:
    scene = _Graph(
        files, "nobody", "whom no edge reaches has 0, and so has the root itself", subjects=(TARGET, ROOT, MALLORY)
    )
    scene.edge(TARGET, ROOT, 1000)
    scene.finish((0, 0), (0, 0), (0, 0))
    scene = _Graph(files, "three-hops", "no path has three hops", subjects=(TARGET, FARTHER))
    scene.edge(ROOT, VOUCHER, 1000)
    scene.edge(VOUCHER, TARGET, 1000)
    scene.edge(TARGET, FARTHER, 1000)
    scene.finish((0, 499), (0, 0))
    scene = _Graph(files, "against-the-direction", "an edge to a voucher is none from it")
    scene.edge(ROOT, VOUCHER, 1000)
    scene.edge(TARGET, VOUCHER, 1000)
    scene.finish((0, 0))
    scene = _Graph(files, "cycle", "edges back and around raise nobody", subjects=(ROOT, VOUCHER, TARGET))
    scene.edge(ROOT, VOUCHER, 600)
    scene.edge(VOUCHER, TARGET, 500)
    scene.edge(TARGET, VOUCHER, 1000)
    scene.edge(VOUCHER, ROOT, 1000)
    scene.edge(TARGET, ROOT, 1000)
    scene.finish((0, 0), (600, 0), (0, 250))
    scene = _Graph(
        files,
        "cycle-of-direct",
        "the root trusts both, and both trust one another: each has what the other's word is worth",
        subjects=(VOUCHER, TARGET),
    )
    scene.edge(ROOT, VOUCHER, 200)
    scene.edge(ROOT, TARGET, 900)
    scene.edge(VOUCHER, TARGET, 1000)
    scene.edge(TARGET, VOUCHER, 1000)
    scene.finish((200, 450), (900, 100))
    scene = _Graph(files, "strangers", "edges of identities that the root does not reach", subjects=(TARGET, MALLORY))
    for number in range(6):
        stranger = identity(f"stranger-{number}")
        scene.edge(stranger, TARGET, 1000)
        scene.edge(stranger, MALLORY, 1000)
    scene.edge(MALLORY, TARGET, 1000)
    scene.finish((0, 0), (0, 0))


def _live(files: Files) -> None:
    scene = _Graph(files, "withdrawn-second-hop", "a weight of 0 withdraws an edge at once")
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 700)
    scene.edge(VOUCHER, TARGET, 0)
    scene.finish((0, 0))
    scene = _Graph(files, "withdrawn-first-hop", "the root withdraws its own edge", subjects=(VOUCHER, TARGET))
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 700)
    scene.edge(ROOT, VOUCHER, 0)
    scene.finish((0, 0), (0, 0))
    scene = _Graph(files, "changed", "a later edge replaces an earlier one, up and down")
    scene.edge(ROOT, VOUCHER, 900)
    for weight in (700, 100, 800):
        scene.edge(VOUCHER, TARGET, weight)
    scene.finish((0, 400))
    scene = _Graph(files, "given-again", "withdrawn, and given again with a higher sequence")
    for weight in (900, 0, 500):
        scene.edge(ROOT, TARGET, weight)
    scene.finish((500, 0))
    scene = _Graph(files, "refuse-older-after-withdrawal", "a withdrawn edge leaves its sequence behind")
    scene.edge(ROOT, TARGET, 900, sequence=1)
    scene.edge(ROOT, TARGET, 0, sequence=2)
    scene.edge(ROOT, TARGET, 900, STALE, sequence=1)
    scene.finish((0, 0))
    scene = _Graph(files, "refuse-older", "the higher sequence stands, though the other has the later time")
    scene.edge(ROOT, TARGET, 300, sequence=5, at_ms=NOW_MS - DAY_MS)
    scene.edge(ROOT, TARGET, 900, STALE, sequence=4)
    scene.finish((300, 0))
    scene = _Graph(files, "refuse-replayed", "the same edge again")
    scene.edge(ROOT, TARGET, 300, sequence=5)
    scene.edge(ROOT, TARGET, 300, STALE, sequence=5)
    scene.finish((300, 0))
    small, large = sorted((300, 900), key=lambda weight: digest_of(statement(EDGE, ROOT, TARGET, weight, sequence=5)))
    scene = _Graph(files, "same-sequence", "of two with one sequence the one with the smaller digest stands")
    scene.edge(ROOT, TARGET, large, sequence=5)
    scene.edge(ROOT, TARGET, small, sequence=5)
    scene.finish((small, 0))
    scene = _Graph(files, "refuse-same-sequence", "the one with the larger digest is refused, whatever its time")
    scene.edge(ROOT, TARGET, small, sequence=5)
    scene.edge(ROOT, TARGET, large, STALE, sequence=5)
    scene.finish((small, 0))
    scene = _Graph(
        files,
        "sequence-is-of-one-pair",
        "one sequence for two subjects, and of two issuers",
        subjects=(VOUCHER, TARGET),
    )
    scene.edge(ROOT, VOUCHER, 800, sequence=5)
    scene.edge(ROOT, TARGET, 300, sequence=5)
    scene.edge(VOUCHER, TARGET, 1000, sequence=5)
    scene.finish((800, 0), (300, 400))
    scene = _Graph(files, "old-and-early", "an edge has no age; 300 s ahead of the clock is still in time")
    scene.edge(ROOT, VOUCHER, 900, at_ms=0)
    scene.edge(VOUCHER, TARGET, 700, at_ms=NOW_MS + TOLERANCE_MS)
    scene.finish((0, 350))
    scene = _Graph(files, "refuse-from-the-future", "a millisecond over 300 s ahead of the clock")
    scene.edge(ROOT, TARGET, 700, STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)
    scene.finish((0, 0))


def _revoked(files: Files) -> None:
    scene = _Graph(files, "revoked-voucher", "who is revoked vouches for nobody; the next best path counts")
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(ROOT, OTHER_VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 900)
    scene.edge(OTHER_VOUCHER, TARGET, 300)
    scene.revoke(VOUCHER)
    scene.finish((0, 150))
    scene = _Graph(files, "refuse-revoked-issuer", "an edge of an identity that is revoked")
    scene.edge(ROOT, VOUCHER, 900)
    scene.revoke(VOUCHER)
    scene.edge(VOUCHER, TARGET, 900, UNFIT)
    scene.finish((0, 0))
    scene = _Graph(files, "revoked-target", "a revoked target has a score all the same: admission refuses it first")
    scene.edge(ROOT, TARGET, 900)
    scene.revoke(TARGET)
    scene.finish((900, 0))

    scene = _Graph(files, "about-revoked-subject", "an edge about an identity that is revoked is taken")
    scene.revoke(TARGET)
    scene.edge(ROOT, TARGET, 900)
    scene.edge(VOUCHER, TARGET, 300)
    scene.finish((900, 0))


def _refused(files: Files) -> None:
    for name, comment, data, expect in foreign_statements("edge", NOW_MS):
        scene = _Graph(files, f"refuse-{name}", f"an edge {comment}; a genuine one is taken after it")
        scene.edge(ROOT, ISSUER, 900)
        scene.offer_foreign(data, expect)
        scene.edge(ISSUER, SUBJECT, 600)
        scene.finish((0, 300))
    scene = _Graph(files, "refuse-self-loop", "an edge from the root to itself", subjects=(ROOT,))
    scene.offer_foreign(statement(EDGE, ROOT, ROOT, 1000), UNFIT)
    scene.finish((0, 0))


def _full(files: Files) -> None:
    scene = _Graph(
        files,
        "refuse-strangers-full",
        "room for eleven edges: strangers fill two; a third is refused, the root and whom it knows still speak",
        trust_edges=11,
    )
    for number in range(2):
        scene.edge(identity(f"stranger-{number}"), TARGET, 1000)
    scene.edge(identity("stranger-2"), TARGET, 1000, FULL)
    scene.edge(identity("stranger-0"), MALLORY, 1000, FULL)
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 600)
    scene.edge(identity("stranger-1"), TARGET, 500)
    scene.finish((0, 300))
    scene = _Graph(
        files,
        "stranger-no-more",
        "whom the root has an edge to is no stranger: its edges free the strangers' room, and count",
        trust_edges=8,
    )
    for number in range(2):
        scene.edge(identity(f"stranger-{number}"), TARGET, 1000)
    scene.edge(ROOT, identity("stranger-0"), 600)
    scene.edge(identity("stranger-2"), TARGET, 1000)
    scene.finish((0, 300))
    scene = _Graph(
        files,
        "refuse-withdrawn-is-known",
        "whom the root has withdrawn its edge from is known all the same; the withdrawn edge keeps its room",
        trust_edges=4,
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(ROOT, VOUCHER, 0)
    scene.edge(VOUCHER, TARGET, 800)
    scene.edge(VOUCHER, FARTHER, 800)
    scene.edge(identity("stranger-0"), TARGET, 800)
    scene.edge(VOUCHER, MALLORY, 800, FULL)
    scene.finish((0, 0))
    scene = _Graph(
        files,
        "refuse-issuer-full",
        "two edges of each issuer: a third is refused, a change of one of the two is taken",
        trust_edges_per_issuer=2,
        subjects=(TARGET, FARTHER, MALLORY),
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 600)
    scene.edge(VOUCHER, FARTHER, 600)
    scene.edge(VOUCHER, MALLORY, 600, FULL)
    scene.edge(VOUCHER, FARTHER, 0)
    scene.edge(VOUCHER, MALLORY, 600, FULL)
    scene.finish((0, 300), (0, 0), (0, 0))
    scene = _Graph(
        files,
        "root-is-not-kept-out",
        "a graph that others have filled: the root's own edges count only against one another",
        trust_edges=4,
        trust_edges_per_issuer=2,
        subjects=(TARGET, FARTHER),
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 600)
    scene.edge(VOUCHER, FARTHER, 600)
    scene.edge(identity("stranger-0"), TARGET, 600)
    for number in range(3):
        scene.edge(ROOT, (FARTHER, TARGET, OTHER_VOUCHER)[number], 700)
    scene.finish((700, 300), (700, 300))
    scene = _Graph(files, "refuse-root-full", "the root's own edges are bounded too", trust_edges=2)
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(ROOT, TARGET, 900)
    scene.edge(ROOT, FARTHER, 900, FULL)
    scene.edge(ROOT, TARGET, 400)
    scene.finish((400, 0))


def _room(files: Files) -> None:
    strangers = [identity(f"stranger-{number}") for number in range(3)]
    scene = _Graph(
        files,
        "withdrawal-makes-known",
        "the first that the root says of a stranger is a withdrawal: it is a stranger no more, and its edges free the "
        "strangers' room",
        trust_edges=8,
        subjects=(TARGET, strangers[0]),
    )
    for stranger in strangers[:2]:
        scene.edge(stranger, TARGET, 1000)
    scene.edge(ROOT, strangers[0], 0)
    scene.edge(strangers[0], FARTHER, 1000)
    scene.edge(strangers[2], TARGET, 1000)
    scene.finish((0, 0), (0, 0))
    scene = _Graph(files, "refuse-withdrawal-first", "a withdrawal of what was never there keeps an older edge out")
    scene.edge(ROOT, TARGET, 0, sequence=2)
    scene.edge(ROOT, TARGET, 900, STALE, sequence=1)
    scene.finish((0, 0))
    scene = _Graph(
        files,
        "refuse-withdrawal-needs-room",
        "a withdrawal of what was never there is held, and fills the room of its issuer",
        trust_edges_per_issuer=1,
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, FARTHER, 0)
    scene.edge(VOUCHER, TARGET, 600, FULL)
    scene.finish((0, 0))
    scene = _Graph(
        files,
        "refuse-withdrawal-has-no-room",
        "a withdrawal of what was never there, where there is no room",
        trust_edges_per_issuer=1,
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 600)
    scene.edge(VOUCHER, FARTHER, 0, FULL)
    scene.finish((0, 300))
    scene = _Graph(
        files,
        "refuse-order-time-before-room",
        "an edge from the future where there is no room: its time is looked at first",
        trust_edges_per_issuer=1,
    )
    scene.edge(ROOT, VOUCHER, 900)
    scene.edge(VOUCHER, TARGET, 600)
    scene.edge(VOUCHER, FARTHER, 600, STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)
    scene.finish((0, 300))
    scene = _Graph(
        files,
        "refuse-room-of-the-revoked",
        "a stranger with two edges is revoked: they keep their room, a fourth of eight",
        trust_edges=8,
    )
    scene.edge(strangers[0], TARGET, 1000)
    scene.edge(strangers[0], FARTHER, 1000)
    scene.revoke(strangers[0])
    scene.edge(strangers[1], TARGET, 1000, FULL)
    scene.finish((0, 0))
    scene = _Graph(
        files,
        "refuse-strangers-fourth-is-fixed",
        "strangers fill a fourth, whatever part of other memories is kept from them",
        trust_edges=8,
        reserved_one_in=2,
    )
    for stranger in strangers[:2]:
        scene.edge(stranger, TARGET, 1000)
    scene.edge(strangers[2], TARGET, 1000, FULL)
    scene.finish((0, 0))
