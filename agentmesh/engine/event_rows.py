from __future__ import annotations


def export_event(event):
    return b"x"


def restore_event(data, state):
    return None


def size_of(event):
    return 0
