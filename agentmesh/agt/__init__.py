"""An agent that speaks the mesh protocol of Microsoft's Agent Governance Toolkit (AGT), as its implementations do."""
