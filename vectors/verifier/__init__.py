"""A second implementation of the protocol, written from docs/protocol.md and vectors/README.md alone.

It serves vectors/verify.py. Nothing of the library is imported: only Python's standard library, PyNaCl (X25519,
secretbox, signing) and cryptography (ML-KEM-768). Signatures are verified, and keys checked and converted, by the
arithmetic of `primitives`. Sections in docstrings are those of docs/protocol.md.
"""
