"""What is told by a warning, because the call goes on."""

from __future__ import annotations


class NameShared(UserWarning):
    """Another distribution's files stand under the name `agentmesh` in this environment."""
