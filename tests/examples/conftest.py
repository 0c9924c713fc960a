"""A registry and a relay for examples/agt_agent.py, and what starts it with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest

Start = Callable[..., Any]


class Servers(NamedTuple):
    registry: Any
    relay: Any


@pytest.fixture
def servers(agt_servers: ModuleType) -> Iterator[Servers]:
    made = Servers(agt_servers.Registry(), agt_servers.Relay())
    yield made
    for server in made:
        server.stop()


@pytest.fixture
def start(servers: Servers, agt_example: ModuleType) -> Iterator[Start]:
    """Return what starts the example."""
    examples = agt_example.Examples(servers.registry.url, servers.relay.url)
    yield examples.start
    examples.stop()
