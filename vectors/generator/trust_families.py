"""The families of section 9: statements of four kinds, and what is made of them."""

from __future__ import annotations

from generator.trust_graphs import graph
from generator.trust_ledgers import ledger
from generator.trust_lists import continuity_runs, revocation_runs
from generator.trust_statements import CONTINUITY, EDGE, REVOCATION, TRUST, statements
from generator.world import Files


def families() -> list[Files]:
    """Return the families trust, edge, ledger, graph, revocation and continuity."""
    revocation, continuity = statements(REVOCATION), statements(CONTINUITY)
    revocation_runs(revocation)
    continuity_runs(continuity)
    return [statements(TRUST), ledger(), statements(EDGE), graph(), revocation, continuity]
