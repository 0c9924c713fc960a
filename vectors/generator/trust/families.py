"""The families of section 9: statements of four kinds, and what is made of them."""

from __future__ import annotations

from generator.trust.graphs import graph
from generator.trust.ledgers import ledger
from generator.trust.lists import revocation_runs
from generator.trust.statement_orders import statement_orders
from generator.trust.statements import CONTINUITY, EDGE, KINDS, REVOCATION, TRUST, statements
from generator.trust.successions import continuity_runs
from generator.world import Files


def families() -> list[Files]:
    """Return the families trust, edge, ledger, graph, revocation and continuity."""
    made = {kind.name: statement_orders(statements(kind), kind) for kind in KINDS}
    revocation_runs(made[REVOCATION.name])
    continuity_runs(made[CONTINUITY.name])
    return [made[TRUST.name], ledger(), made[EDGE.name], graph(), made[REVOCATION.name], made[CONTINUITY.name]]
