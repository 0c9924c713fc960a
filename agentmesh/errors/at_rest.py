"""State and logs at rest that cannot be read or written."""

from __future__ import annotations

from agentmesh.errors.base import StoreError


class StoreFailed(StoreError):
    """The operating system did not read or write; `__cause__` is its error. Nothing changed."""

    code = "store.failed"
    text = "reading or writing the store failed"
    hint = "see __cause__; free space, or mend the disk or the path, then make the call again"


class StoreLocked(StoreError):
    """The store is open for writing already.

    Attributes:
        by_this_process: Whether it is this process that has it open, or another.
        holder: Who, as far as it is known: `process 4711 on host-7`.
    """

    code = "store.locked"
    text = "the store is open for writing already"
    hint = "close the one that is open; one at a time writes it"

    def __init__(self, by_this_process: bool = False, holder: str = "") -> None:
        super().__init__()
        self.by_this_process: bool = by_this_process
        self.holder: str = holder

    def __str__(self) -> str:
        who = "in this process" if self.by_this_process else f"by {self.holder or 'another process'}"
        return f"{self.text}, {who} [{self.code}]; {self.hint}"


class StoreMoved(StoreError):
    """The file was deleted, renamed or cut under its writer. What was to be written is not acknowledged."""

    code = "store.moved"
    text = "the store's file was deleted, renamed or cut under its writer"
    hint = "find out who did; open it again, and let `rotate` begin new files"


class StoreFenced(StoreError):
    """Another writer has opened what this one had open. Nothing was written, and nothing can be any more."""

    code = "store.fenced"
    text = "another writer has opened the agent since"
    hint = "let go of this agent; open it again where it is to run, once the other is gone"


class StoreBroken(StoreError):
    """What stands in the store is not what was written to it. Nothing was opened and nothing was altered.

    Attributes:
        what: What is broken, in words of the library's own: `file`, `head`, `rows`, or the kind of a row.
    """

    code = "store.broken"
    text = "the store is damaged, or was altered"
    hint = "keep it as evidence; restore the last backup"

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what: str = what

    def _detail(self) -> str:
        return self.what


class StoreKeyWrong(StoreError):
    """The key or the passphrase is not the one that the agent was sealed under; or what tells so is damaged."""

    code = "store.key"
    text = "the key does not open the agent"
    hint = "pass the key or the passphrase that it was sealed under last"


class StoreClosed(StoreError):
    """The store was closed, and what was opened in it is closed with it."""

    code = "store.closed"
    text = "the store is closed"
    hint = "open it again"


class LogBroken(StoreError):
    """An audit log that is not what its owner wrote.

    Attributes:
        sequence: The first entry that is wrong; for a log that is too short or of another root, the size in question.
        fault: `entry`, `sequence`, `previous`, `torn`, `cut` or `root`; `handover`, where a file does not go on where
            the one before it ends; `index`, where the index beside the file says otherwise than the file.
    """

    code = "audit.broken"
    text = "the audit log is not intact"
    hint = "keep it as evidence; compare it with the other side's log and with a checkpoint from elsewhere"

    def __init__(self, sequence: int, fault: str) -> None:
        super().__init__()
        self.sequence: int = sequence
        self.fault: str = fault

    def _detail(self) -> str:
        return f"{self.fault} at {self.sequence}"


class CommitFailed(StoreError):
    """The journal did not take a step. Nothing changed and nothing leaves; `__cause__` is the journal's own error."""

    code = "store.commit"
    text = "the journal did not take the step"
    hint = "see __cause__, mend the journal, and make the call again"


class StateMalformed(StoreError):
    """Exported state that is damaged, or whose fields contradict one another."""

    code = "state.malformed"
    text = "the exported state is not well formed"
    hint = "restore from another copy; nothing was loaded"


class StateStale(StoreError):
    """Exported state that is older than the caller knows it must be."""

    code = "state.stale"
    text = "the exported state is older than the last one"
    hint = "find the newest copy, and out who put the old one back; nothing was loaded"


class StateVersionUnknown(StoreError):
    """Exported state of a version that this release does not read."""

    code = "state.version"
    text = "the exported state has a version that this release does not read"
    hint = "use the release that wrote it, or a newer one"


class FetchFailed(StoreError):
    """What was given to fetch bytes of an attachment raised; `__cause__` is what it raised. Nothing is lost by it.

    Attributes:
        number: The chunk that was asked for, from 0; the last one where it was the end of the blob.
    """

    code = "attachment.fetch"
    text = "bytes of an attachment could not be fetched"
    hint = "see __cause__; make the call again, and it goes on"

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number: int = number

    def _detail(self) -> str:
        return f"chunk {self.number}"


class FileChanged(StoreError):
    """A file was written to while it was sealed, so what was sealed may be of two versions. No reference was made."""

    code = "attachment.changed"
    text = "the file changed while it was sealed"
    hint = "seal it again when nobody writes to it, or seal a copy"
