"""The command line, `python -m agentmesh`: the one room that prints and that starts processes."""
