"""Speak with agents of Microsoft's Agent Governance Toolkit, over its relay and registry (docs/agt.md)."""
