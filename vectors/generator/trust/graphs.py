"""The family graph: edges in, scores out, as one root sees them."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.identity import Identity
from agentmesh.limits import Limits
from generator.codes import FULL, STALE, UNFIT
from generator.tables import play, row, step
from generator.trust.model import Edge, Graph
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
STRANGERS: Final = [identity(f"stranger-{number}") for number in range(6)]


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


edge, offer_foreign, revoke = step(_Graph.edge), step(_Graph.offer_foreign), step(_Graph.revoke)


# --- the tables -------------------------------------------------------------------------------------------------------

PATHS: Final = (
    row("direct", "the root's own edge counts as it is", [edge(ROOT, TARGET, 900)], (900, 0)),
    *(row(name, comment, [edge(ROOT, VOUCHER, first), edge(VOUCHER, TARGET, second)], (0, derived))
      for name, comment, first, second, derived in (
          ("two-hops", "half of the weaker edge, the second", 900, 700, 350),
          ("weaker-first", "half of the weaker edge, the first", 300, 1000, 150),
          ("odd-weight", "fractions are cut off", 701, 800, 350),
          ("weight-1", "half of 1 is 0", 1000, 1, 0),
          ("capped", "half of 1000 is 500: the cap of 499 holds it below direct trust", 1000, 1000, 499),
          ("below-the-cap", "half of 999 is 499", 999, 1000, 499),
      )),
    *(row(name, comment, [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 700)], (0, derived), percent=percent, cap=cap)
      for name, comment, percent, cap, derived in (
          ("never-above-the-weakest", "attenuation and cap as lax as they can be: still the weaker edge", 100, 1000,
           700),
          ("percent-33", "700 * 33 / 100 = 231", 33, 499, 231),
          ("percent-0", "nothing is left of a path", 0, 499, 0),
          ("cap-100", "a lower cap", 50, 100, 100),
          ("cap-0", "a cap of 0: paths do not count", 50, 0, 0),
      )),
    row("best-path", "of several paths the best counts, and not their sum",
        [[edge(ROOT, voucher, first), edge(voucher, TARGET, second)]
         for voucher, first, second in ((VOUCHER, 900, 300), (OTHER_VOUCHER, 400, 1000), (FARTHER, 1000, 200))],
        (0, 200)),
    *(row(name, comment,
          [edge(ROOT, TARGET, direct), edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 800)], (direct, 400))
      for name, comment, direct in (
          ("direct-is-larger", "a direct edge beside a path: the larger counts", 600),
          ("derived-is-larger", "the same, and the path is worth more", 100),
      )),
    row("edges-in-any-order", "the second hop was there before the first",
        [edge(VOUCHER, TARGET, 700), edge(ROOT, VOUCHER, 900)], (900, 0), (0, 350), subjects=(VOUCHER, TARGET)),
)  # fmt: skip


NO_PATHS: Final = (
    row("nobody", "whom no edge reaches has 0, and so has the root itself",
        [edge(TARGET, ROOT, 1000)], (0, 0), (0, 0), (0, 0), subjects=(TARGET, ROOT, MALLORY)),
    row("three-hops", "no path has three hops",
        [edge(ROOT, VOUCHER, 1000), edge(VOUCHER, TARGET, 1000), edge(TARGET, FARTHER, 1000)], (0, 499), (0, 0),
        subjects=(TARGET, FARTHER)),
    row("against-the-direction", "an edge to a voucher is none from it",
        [edge(ROOT, VOUCHER, 1000), edge(TARGET, VOUCHER, 1000)], (0, 0)),
    row("cycle", "edges back and around raise nobody",
        [edge(ROOT, VOUCHER, 600), edge(VOUCHER, TARGET, 500), edge(TARGET, VOUCHER, 1000), edge(VOUCHER, ROOT, 1000),
         edge(TARGET, ROOT, 1000)], (0, 0), (600, 0), (0, 250), subjects=(ROOT, VOUCHER, TARGET)),
    row("cycle-of-direct", "the root trusts both, and both trust one another: each has what the other's word is worth",
        [edge(ROOT, VOUCHER, 200), edge(ROOT, TARGET, 900), edge(VOUCHER, TARGET, 1000), edge(TARGET, VOUCHER, 1000)],
        (200, 450), (900, 100), subjects=(VOUCHER, TARGET)),
    row("strangers", "edges of identities that the root does not reach",
        [[[edge(stranger, TARGET, 1000), edge(stranger, MALLORY, 1000)] for stranger in STRANGERS],
         edge(MALLORY, TARGET, 1000)], (0, 0), (0, 0), subjects=(TARGET, MALLORY)),
)  # fmt: skip


_SMALL, _LARGE = sorted((300, 900), key=lambda weight: digest_of(statement(EDGE, ROOT, TARGET, weight, sequence=5)))
LIVE: Final = (
    row("withdrawn-second-hop", "a weight of 0 withdraws an edge at once",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 700), edge(VOUCHER, TARGET, 0)], (0, 0)),
    row("withdrawn-first-hop", "the root withdraws its own edge",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 700), edge(ROOT, VOUCHER, 0)], (0, 0), (0, 0),
        subjects=(VOUCHER, TARGET)),
    row("changed", "a later edge replaces an earlier one, up and down",
        [edge(ROOT, VOUCHER, 900), [edge(VOUCHER, TARGET, weight) for weight in (700, 100, 800)]], (0, 400)),
    row("given-again", "withdrawn, and given again with a higher sequence",
        [edge(ROOT, TARGET, weight) for weight in (900, 0, 500)], (500, 0)),
    row("refuse-older-after-withdrawal", "a withdrawn edge leaves its sequence behind",
        [edge(ROOT, TARGET, 900, sequence=1), edge(ROOT, TARGET, 0, sequence=2),
         edge(ROOT, TARGET, 900, STALE, sequence=1)], (0, 0)),
    row("refuse-older", "the higher sequence stands, though the other has the later time",
        [edge(ROOT, TARGET, 300, sequence=5, at_ms=NOW_MS - DAY_MS), edge(ROOT, TARGET, 900, STALE, sequence=4)],
        (300, 0)),
    row("refuse-replayed", "the same edge again",
        [edge(ROOT, TARGET, 300, sequence=5), edge(ROOT, TARGET, 300, STALE, sequence=5)], (300, 0)),
    row("same-sequence", "of two with one sequence the one with the smaller digest stands",
        [edge(ROOT, TARGET, _LARGE, sequence=5), edge(ROOT, TARGET, _SMALL, sequence=5)], (_SMALL, 0)),
    row("refuse-same-sequence", "the one with the larger digest is refused, whatever its time",
        [edge(ROOT, TARGET, _SMALL, sequence=5), edge(ROOT, TARGET, _LARGE, STALE, sequence=5)], (_SMALL, 0)),
    row("sequence-is-of-one-pair", "one sequence for two subjects, and of two issuers",
        [edge(ROOT, VOUCHER, 800, sequence=5), edge(ROOT, TARGET, 300, sequence=5),
         edge(VOUCHER, TARGET, 1000, sequence=5)], (800, 0), (300, 400), subjects=(VOUCHER, TARGET)),
    row("old-and-early", "an edge has no age; 300 s ahead of the clock is still in time",
        [edge(ROOT, VOUCHER, 900, at_ms=0), edge(VOUCHER, TARGET, 700, at_ms=NOW_MS + TOLERANCE_MS)], (0, 350)),
    row("refuse-from-the-future", "a millisecond over 300 s ahead of the clock",
        [edge(ROOT, TARGET, 700, STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)], (0, 0)),
)  # fmt: skip


REVOKED: Final = (
    row("revoked-voucher", "who is revoked vouches for nobody; the next best path counts",
        [edge(ROOT, VOUCHER, 900), edge(ROOT, OTHER_VOUCHER, 900), edge(VOUCHER, TARGET, 900),
         edge(OTHER_VOUCHER, TARGET, 300), revoke(VOUCHER)], (0, 150)),
    row("refuse-revoked-issuer", "an edge of an identity that is revoked",
        [edge(ROOT, VOUCHER, 900), revoke(VOUCHER), edge(VOUCHER, TARGET, 900, UNFIT)], (0, 0)),
    row("revoked-target", "a revoked target has a score all the same: admission refuses it first",
        [edge(ROOT, TARGET, 900), revoke(TARGET)], (900, 0)),
    row("about-revoked-subject", "an edge about an identity that is revoked is taken",
        [revoke(TARGET), edge(ROOT, TARGET, 900), edge(VOUCHER, TARGET, 300)], (900, 0)),
)  # fmt: skip


REFUSED: Final = (
    *(row(f"refuse-{name}", f"an edge {comment}; a genuine one is taken after it",
          [edge(ROOT, ISSUER, 900), offer_foreign(data, expect), edge(ISSUER, SUBJECT, 600)], (0, 300))
      for name, comment, data, expect in foreign_statements("edge", NOW_MS)),
    row("refuse-self-loop", "an edge from the root to itself",
        [offer_foreign(statement(EDGE, ROOT, ROOT, 1000), UNFIT)], (0, 0), subjects=(ROOT,)),
)  # fmt: skip


WITHOUT_ROOM: Final = (
    row("refuse-strangers-full",
        "room for eleven edges: strangers fill two; a third is refused, the root and whom it knows still speak",
        [[edge(stranger, TARGET, 1000) for stranger in STRANGERS[:2]], edge(STRANGERS[2], TARGET, 1000, FULL),
         edge(STRANGERS[0], MALLORY, 1000, FULL), edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 600),
         edge(STRANGERS[1], TARGET, 500)], (0, 300), trust_edges=11),
    row("stranger-no-more",
        "whom the root has an edge to is no stranger: its edges free the strangers' room, and count",
        [[edge(stranger, TARGET, 1000) for stranger in STRANGERS[:2]], edge(ROOT, STRANGERS[0], 600),
         edge(STRANGERS[2], TARGET, 1000)], (0, 300), trust_edges=8),
    row("refuse-withdrawn-is-known",
        "whom the root has withdrawn its edge from is known all the same; the withdrawn edge keeps its room",
        [edge(ROOT, VOUCHER, 900), edge(ROOT, VOUCHER, 0), edge(VOUCHER, TARGET, 800), edge(VOUCHER, FARTHER, 800),
         edge(STRANGERS[0], TARGET, 800), edge(VOUCHER, MALLORY, 800, FULL)], (0, 0), trust_edges=4),
    row("refuse-issuer-full", "two edges of each issuer: a third is refused, a change of one of the two is taken",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 600), edge(VOUCHER, FARTHER, 600),
         edge(VOUCHER, MALLORY, 600, FULL), edge(VOUCHER, FARTHER, 0), edge(VOUCHER, MALLORY, 600, FULL)],
        (0, 300), (0, 0), (0, 0), trust_edges_per_issuer=2, subjects=(TARGET, FARTHER, MALLORY)),
    row("root-is-not-kept-out", "a graph that others have filled: the root's own edges count only against one another",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 600), edge(VOUCHER, FARTHER, 600),
         edge(STRANGERS[0], TARGET, 600), [edge(ROOT, subject, 700) for subject in (FARTHER, TARGET, OTHER_VOUCHER)]],
        (700, 300), (700, 300), trust_edges=4, trust_edges_per_issuer=2, subjects=(TARGET, FARTHER)),
    row("refuse-root-full", "the root's own edges are bounded too",
        [edge(ROOT, VOUCHER, 900), edge(ROOT, TARGET, 900), edge(ROOT, FARTHER, 900, FULL), edge(ROOT, TARGET, 400)],
        (400, 0), trust_edges=2),
)  # fmt: skip


ROOM: Final = (
    row("withdrawal-makes-known",
        "the first that the root says of a stranger is a withdrawal: it is a stranger no more, and its edges free the "
        "strangers' room",
        [[edge(stranger, TARGET, 1000) for stranger in STRANGERS[:2]], edge(ROOT, STRANGERS[0], 0),
         edge(STRANGERS[0], FARTHER, 1000), edge(STRANGERS[2], TARGET, 1000)], (0, 0), (0, 0), trust_edges=8,
        subjects=(TARGET, STRANGERS[0])),
    row("refuse-withdrawal-first", "a withdrawal of what was never there keeps an older edge out",
        [edge(ROOT, TARGET, 0, sequence=2), edge(ROOT, TARGET, 900, STALE, sequence=1)], (0, 0)),
    row("refuse-withdrawal-needs-room",
        "a withdrawal of what was never there is held, and fills the room of its issuer",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, FARTHER, 0), edge(VOUCHER, TARGET, 600, FULL)], (0, 0),
        trust_edges_per_issuer=1),
    row("refuse-withdrawal-has-no-room", "a withdrawal of what was never there, where there is no room",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 600), edge(VOUCHER, FARTHER, 0, FULL)], (0, 300),
        trust_edges_per_issuer=1),
    row("refuse-order-time-before-room", "an edge from the future where there is no room: its time is looked at first",
        [edge(ROOT, VOUCHER, 900), edge(VOUCHER, TARGET, 600),
         edge(VOUCHER, FARTHER, 600, STALE, at_ms=NOW_MS + TOLERANCE_MS + 1)], (0, 300), trust_edges_per_issuer=1),
    row("refuse-room-of-the-revoked", "a stranger with two edges is revoked: they keep their room, a fourth of eight",
        [edge(STRANGERS[0], TARGET, 1000), edge(STRANGERS[0], FARTHER, 1000), revoke(STRANGERS[0]),
         edge(STRANGERS[1], TARGET, 1000, FULL)], (0, 0), trust_edges=8),
    row("refuse-strangers-fourth-is-fixed",
        "strangers fill a fourth, whatever part of other memories is kept from them",
        [[edge(stranger, TARGET, 1000) for stranger in STRANGERS[:2]], edge(STRANGERS[2], TARGET, 1000, FULL)], (0, 0),
        trust_edges=8, reserved_one_in=2),
)  # fmt: skip


def graph() -> Files:
    """Return the family graph."""
    files = Files("graph")
    for rows in (PATHS, NO_PATHS, LIVE, REVOKED, REFUSED, WITHOUT_ROOM, ROOM):
        play(_Graph, files, rows)
    return files
