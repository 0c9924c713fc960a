"""A PostgreSQL server of the tests' own, in a temporary folder, and a proxy in front of it that cuts connections.

Tests reach this module through the fixtures `postgres` (the module), `cluster` (a server, one for each process of
pytest) and `conninfo` (that server's database, empty).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PASSWORD = "correct-horse-hunter2"
HOW = "apt-get install postgresql, or put the folder of initdb into PATH"


def missing() -> str:
    """Say what is missing to run these tests, and how to get it; nothing, where nothing is."""
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install '.[postgres]'"
    if _folder() is None:
        return f"there is no PostgreSQL server here: {HOW}"
    if not hasattr(socket, "AF_UNIX"):
        return "this system has no Unix sockets"
    return ""


def _folder() -> Path | None:
    """Find where initdb and pg_ctl are."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


class Cluster:
    """A server that listens on a socket in its folder alone."""

    def __init__(self) -> None:
        folder = _folder()
        assert folder is not None
        self._programs = folder
        self._user: str | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="agentmesh-pg-"))  # short: a socket's path has 107 bytes at most
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            import pwd

            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self._user)
        try:
            self._run("initdb", "-U", "mesh", "-A", "scram-sha-256", "--pwfile", str(self.folder / "password"),
                      "-E", "UTF8", "--locale=C", "--no-sync")  # fmt: skip
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _run(self, program: str, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [self._programs / program, "-D", self.folder / "data", *arguments],
            env=environment | {"LC_ALL": "C"}, cwd="/", user=self._user, timeout=60, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        # Without fsync, because it is the process that these tests kill, and not the machine.
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def crash(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "stop")

    def stop(self) -> None:
        with contextlib.suppress(AssertionError):  # a test left it crashed
            self.crash()
        shutil.rmtree(self.folder)

    def conninfo(self, **more: object) -> str:
        parts = {"host": self.folder, "user": "mesh", "password": PASSWORD, "dbname": "postgres"} | more
        return " ".join(f"{name}={value}" for name, value in parts.items())

    def empty(self) -> str:
        """End all sessions, drop what they made, and return how to connect: a database of its own has 300 files."""
        self.ask("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'mesh' "
                 "AND backend_type = 'client backend' AND pid <> pg_backend_pid()")  # fmt: skip
        for (schema,) in self.ask("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'"):
            self.ask(f'DROP SCHEMA "{schema}" CASCADE')
        return self.conninfo()

    def ask(self, statement: str, *values: object, conninfo: str | None = None) -> list[Any]:
        """Run a statement as the operator of the database."""
        import psycopg

        with psycopg.connect(conninfo or self.conninfo(), autocommit=True, application_name="operator") as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


Hook = Callable[["Pipe", bytes], None]


class Pipe:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server

    def cut(self, *ends: socket.socket) -> None:
        for end in ends or (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Passes bytes between clients on loopback and the server, but for what it is told to do with some.

    Attributes:
        asked: What to do with the next bytes from a client that contain `word`, once: in place of passing them on.
        answered: What to do with what the server says next, once, in place of passing it on.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._path = str(cluster.folder / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: Hook | None = None
        self.answered: Hook | None = None
        self.word = b"UPDATE agents SET commit_number"
        self._pipes: list[Pipe] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def conninfo(self, conninfo: str) -> str:
        _, port = self._listener.getsockname()
        return f"{conninfo} host=127.0.0.1 port={port} sslmode=disable gssencmode=disable"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._path)
                except OSError:
                    client.close()
                    server.close()
                    continue
                pipe = Pipe(client, server)
                self._pipes.append(pipe)
                for run in (self._upwards, self._downwards):
                    thread = threading.Thread(target=run, args=(pipe,), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _upwards(self, pipe: Pipe) -> None:
        with contextlib.suppress(OSError):
            while data := pipe.client.recv(1 << 16):
                if self.asked is not None and self.word in data:
                    hook, self.asked = self.asked, None
                    hook(pipe, data)
                else:
                    pipe.server.sendall(data)
        pipe.cut(pipe.server)

    def _downwards(self, pipe: Pipe) -> None:
        with contextlib.suppress(OSError):
            while data := pipe.server.recv(1 << 16):
                if self.answered is not None:
                    hook, self.answered = self.answered, None
                    hook(pipe, data)
                else:
                    pipe.client.sendall(data)
        pipe.cut(pipe.client)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for pipe in self._pipes:
            pipe.cut()
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *(end for pipe in self._pipes for end in (pipe.client, pipe.server))):
            end.close()
