"""The demo: two agents and a blind relay, as three processes."""
