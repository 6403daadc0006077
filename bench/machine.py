"""What the measurements need of the machine: a compiler, nginx with nchan, enough descriptors. And what it is."""

import os
import platform
import resource
import shutil
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
SPARE_FILES = 500
"Descriptors a server needs beyond one for each client."


class Missing(Exception):
    """One line: what is not here, and how to get it."""


@cache
def compiled(name: str) -> str:
    """`bench/<name>.c` as a program."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler is missing: apt-get install gcc libc6-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / name
    subprocess.run([compiler, "-O2", "-o", program, HERE / f"{name}.c"], check=True)
    return str(program)


def nginx() -> str:
    found = shutil.which("nginx", path=SEARCH_PATH)
    if found is None:
        raise Missing("nginx is missing: apt-get install nginx-core libnginx-mod-nchan")
    return found


def nchan() -> Path:
    """nginx's module."""
    for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"):
        module = Path(folder) / "ngx_nchan_module.so"
        if module.exists():
            return module
    raise Missing("nginx's module nchan is missing: apt-get install nginx-core libnginx-mod-nchan")


def allow_files(clients: int) -> int:
    """Raise the limit on open files, which every process started from here inherits; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = clients + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Missing(f"{needed} open files are needed and {hard} allowed: raise the hard limit (ulimit -Hn)")
    limit = max(needed, min(hard, 20_000)) if hard != resource.RLIM_INFINITY else max(needed, 20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def described() -> str:
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{os.cpu_count()} × {cpu}, {memory / 2**20:.0f} GiB, Linux {platform.release()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
