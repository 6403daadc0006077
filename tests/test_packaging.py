"""What is published: a source distribution and a wheel, built here, and installed into an empty environment."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scoreboardd import __version__

ROOT = Path(__file__).parents[1]
SHIPPED = {
    "config.example.toml",
    "CHANGELOG.md",
    "LICENSE",
    *(f"systemd/{p.name}" for p in (ROOT / "systemd").iterdir()),
}


def run(*command: object, timeout: float = 60, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in files:
        if name.split("/")[0] not in ("tests", "bench", "docs") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r}); b.build_wheel({str(folder)!r})"
    made = run(sys.executable, "-c", build, cwd=source)
    assert made.returncode == 0, made.stderr
    return folder


def test_the_source_distribution_is_complete(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    package = {str(file.relative_to(ROOT)) for file in (ROOT / "scoreboardd").rglob("*") if file.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert names >= SHIPPED | package | {"README.md", "pyproject.toml"}


def test_the_wheel_is_complete(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    shared = f"scoreboardd-{__version__}.data/data/share/scoreboardd"
    assert names >= {f"{shared}/{name}" for name in SHIPPED}
    package = {str(file.relative_to(ROOT)) for file in (ROOT / "scoreboardd").rglob("*") if file.is_file()}
    assert names >= {name for name in package if "__pycache__" not in name}


def test_a_bot_installs_little(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        metadata = Parser().parsestr(archive.read(f"scoreboardd-{__version__}.dist-info/METADATA").decode())
    needed = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert sorted(line.split(">")[0].split("<")[0] for line in needed) == ["aiohttp", "orjson", "zstandard"]


def test_without_the_daemon_s_dependencies_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from scoreboardd.__main__ import main; main()"
    said = run(sys.executable, "-c", code)
    assert said.returncode == 1
    assert said.stderr == "the daemon needs click, which is not installed: pip install 'scoreboardd[server]'\n"


def test_installed_into_an_empty_environment_it_runs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    binaries = tmp_path / "venv/bin"
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    link_dependencies(wheel, packages)
    # Without an index pip installs nothing else, and fails if a dependency is missing or has another version.
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python", "--quiet"]
    installed = run(*pip, "install", "--no-index", f"{wheel}[server]")
    assert installed.returncode == 0, installed.stderr
    assert run(binaries / "scoreboardd", "--version", cwd=tmp_path).stdout.split()[-1] == __version__
    config = tmp_path / "venv/share/scoreboardd/config.example.toml"
    nowhere = {
        "SCOREBOARDD_POSTGRES__DSN": "postgresql://127.0.0.1:1/x",
        "SCOREBOARDD_REDIS__URL": "redis://127.0.0.1:1",
    }
    said = run(binaries / "scoreboardd", "check", "--config", config, cwd=tmp_path, env=nowhere)
    assert said.returncode == 1
    assert "postgres: " in said.stderr and "redis: " in said.stderr and "Traceback" not in said.stderr


def link_dependencies(wheel: Path, packages: Path) -> None:
    """Make what `wheel[server]` requires, and what that requires, importable from the folder `packages`: links to what
    is installed here."""
    (metadata,) = distributions(path=[str(wheel)])
    waiting: list[tuple[Distribution, set[str]]] = [(metadata, {"server"})]
    linked: set[str] = set()
    visited: set[tuple[str, ...]] = set()
    while waiting:
        distribution, extras = waiting.pop()
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            found = Distribution.from_name(requirement.name)
            if (found.name, *requirement.extras) not in visited:
                visited.add((found.name, *requirement.extras))
                waiting.append((found, requirement.extras))
            for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"} - linked:
                (packages / name).symlink_to(Path(str(found.locate_file(name))))
                linked.add(name)
