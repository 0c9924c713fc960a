"""What Hypothesis loads, in every process that imports it where AgentMesh is installed (its entry point `hypothesis`).

So that `st.from_type(agentmesh.Intent)` draws what `agentmesh.testing.strategies.intents()` draws, and nobody has to
import it. Hypothesis asks in programs that know nothing of AgentMesh too, so AgentMesh is not imported here: a finder
waits until somebody else imports it, and steps aside then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = "agentmesh"
# The names that applications import from `agentmesh`, each with its function in `agentmesh.testing.strategies`.
_STRATEGIES = {
    "Conditions": "conditions",
    "Deny": "denials",
    "Grant": "grants",
    "Header": "headers",
    "Identity": "identities",
    "IdentityKey": "identity_keys",
    "Intent": "intents",
    "Kind": "kinds",
    "KnockReceived": "knocks_received",
    "Limits": "limits",
    "OuterEnvelope": "outer_envelopes",
    "Reason": "reasons",
}


def register() -> None:
    """Register the strategies, at once where the package is there, or as soon as it is imported."""
    if _PACKAGE in sys.modules:
        _register_types(sys.modules[_PACKAGE])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds nothing itself; what the other finders find for the package gets `_Loader` in front of its loader."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _PACKAGE:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Loads as `inner` does, and registers what was loaded."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Before anything of the module runs, because it may look for its own files by its loader.
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        _register_types(module)


def _register_types(package: ModuleType) -> None:
    """Register a strategy for each type that an application meets.

    What is under that name may be another package, with a type of a name of ours: then not all of them are there, and
    what Hypothesis draws for it is left alone.
    """
    from hypothesis import strategies as st

    kinds: dict[str, Any] = {name: getattr(package, name, None) for name in _STRATEGIES}
    if all(isinstance(kind, type) for kind in kinds.values()):
        for name, kind in kinds.items():
            st.register_type_strategy(kind, _drawing(_STRATEGIES[name]))


def _drawing(strategy: str) -> Callable[[type], Any]:
    def of_type(_kind: type) -> Any:
        # Not before something is drawn, because it imports all of `agentmesh.testing`.
        from agentmesh.testing import strategies

        return getattr(strategies, strategy)()

    return of_type
