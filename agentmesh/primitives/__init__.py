"""Cryptography, encodings and the small values under the protocol: no room below this one knows an agent."""
