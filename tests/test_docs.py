"""References in code and docs lead somewhere: to sections, invariants, files, tests and headings. And the tables of the
protocol name what the daemon has."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoreboardd.config import Settings
from scoreboardd.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[1]
PROTOCOL = "docs/protocol.md"
GUARANTEES = "docs/guarantees.md"
SUFFIXES = {".py", ".md", ".toml", ".lua", ".sql", ".js", ".ts", ".html", ".service", ".timer", ".conf", ".c", ""}
OTHERS = {"LICENSE", "requirements.txt"}
FOLDERS = "docs|tests|bench|systemd|scoreboardd"

# A section is one of the document that was named last on its line, and else of the protocol.
_SECTION = re.compile(r"(?P<document>RFC \d+|[Cc]ontract|[Pp]rotocol)|§ ?(?P<number>\d+(?:\.\d+)*)")
_INVARIANT = re.compile(r"(?<![\w-])I(\d)(?![\w-])")
# Not behind a slash or a dot, as in /etc/scoreboardd/config.toml or a web address; not what a pattern stands for.
_FILE = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)(?:::(\w+))?(?![\w*{{])")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _texts() -> Iterator[tuple[str, str]]:
    """Every text file of the repository but this one, by its path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in SUFFIXES and path.name not in OTHERS and path != Path(__file__) and path.is_file():
            yield name, path.read_text("utf-8")


TEXTS = dict(_texts())


def _headings(text: str) -> list[str]:
    return _HEADING.findall(_FENCE.sub("", text))


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _lines(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, re.Match[str]]]:
    for match in pattern.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match


def _unresolved_sections(texts: dict[str, str]) -> list[str]:
    known = {match[1] for heading in _headings(texts[PROTOCOL]) if (match := re.match(r"([\d.]*\d)\.? ", heading))}
    wrong = []
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            document = ""
            for match in _SECTION.finditer(line):
                document = match["document"] or document
                if match["number"] and not document.startswith("RFC") and match["number"] not in known:
                    wrong.append(f"{name}:{number}: §{match['number']} is no section of {PROTOCOL}")
    return wrong


def _unresolved_invariants(texts: dict[str, str]) -> list[str]:
    known = {match[1] for heading in _headings(texts[GUARANTEES]) if (match := re.match(r"I(\d): ", heading))}
    return [
        f"{name}:{line}: {match[0]} is no heading of {GUARANTEES}"
        for name, text in texts.items()
        for line, match in _lines(_INVARIANT, text)
        if match[1] not in known
    ]


def _unresolved_files(texts: dict[str, str]) -> list[str]:
    wrong = []
    for name, text in texts.items():
        for line, match in _lines(_FILE, text):
            path, test = match.groups()
            if not (ROOT / path).exists():
                wrong.append(f"{name}:{line}: there is no {path}")
            elif test and not re.search(rf"^ *(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE):
                wrong.append(f"{name}:{line}: there is no {test} in {path}")
    return wrong


def _unresolved_links(texts: dict[str, str]) -> list[str]:
    wrong = []
    for name, text in texts.items():
        if not name.endswith(".md"):
            continue
        for line, match in _lines(_LINK, text):
            target, _, anchor = match[1].partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            path = (ROOT / name).parent / target if target else ROOT / name
            if not path.exists():
                wrong.append(f"{name}:{line}: there is no {match[1]}")
            elif anchor and anchor not in map(_anchor, _headings(path.read_text("utf-8"))):
                wrong.append(f"{name}:{line}: {match[1]} leads to no heading")
    return wrong


def test_sections_resolve():
    assert not _unresolved_sections(TEXTS)


def test_invariants_resolve():
    assert not _unresolved_invariants(TEXTS)


def test_files_and_tests_resolve():
    assert not _unresolved_files(TEXTS)


def test_links_resolve():
    assert not _unresolved_links(TEXTS)


def test_the_decisions_are_listed():
    listed = set(_LINK.findall(TEXTS["docs/decisions/README.md"]))
    assert listed == {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"}


def _rows(section: str) -> Iterator[list[list[str]]]:
    """The rows of the table in a section of the protocol; of each cell what stands in backticks."""
    _, _, text = TEXTS[PROTOCOL].partition(f" {section}\n")
    for line in re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines():
        if line.startswith("| `"):
            yield [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")]


def test_the_protocol_has_every_key_with_its_default():
    documented: dict[str, dict[str, object]] = {}
    for keys, defaults, *_ in _rows("2. Configuration"):
        # A key that ends in _file stands beside its secret, and is empty by default.
        for place, default in zip(keys, [*defaults, '""'], strict=False):
            section, _, key = place.partition(".")
            documented.setdefault(section, {})[key] = tomllib.loads(f"value = {default}")["value"]
    defaults = Settings()
    assert {section: set(keys) for section, keys in documented.items()} == {
        section: set(type(getattr(defaults, section)).model_fields) for section in Settings.model_fields
    }
    assert Settings.model_validate(documented) == defaults


def test_the_protocol_has_every_metric():
    exposed = set(re.findall(rb"^# TYPE (scoreboardd_\w+)", Metrics().exposition(), re.MULTILINE))
    assert {name for (name, *_), *_ in _rows("7.3 Metrics")} == {name.decode() for name in exposed}


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (_unresolved_sections, "as protocol §9.9 says"),
        (_unresolved_sections, "as it says (§77)"),
        (_unresolved_invariants, "so that it holds (I7)"),
        (_unresolved_files, "see `docs/nothing.md`"),
        (_unresolved_files, "see tests/test_docs.py::test_nothing"),
        (_unresolved_files, "# Argued in scoreboardd/nowhere/THEORY.md."),
        (_unresolved_links, "see [the protocol](docs/protokoll.md)"),
        (_unresolved_links, "see [the protocol](docs/protocol.md#9-nothing)"),
        (_unresolved_links, "see [above](#nothing)"),
    ],
)
def test_a_reference_to_nothing_is_found(find, text: str):
    assert len(find({PROTOCOL: TEXTS[PROTOCOL], GUARANTEES: TEXTS[GUARANTEES], "CHANGES.md": text})) == 1


@pytest.mark.parametrize(
    "text",
    [
        "as protocol §5 and §6.4 say, and RFC 9110 §15.4 or its §13.1.2",
        "see https://example.org/docs/nothing.md or /etc/scoreboardd/config.toml",
        "I1 and I6 hold",
        "`tests/recorded/record.py`, [the protocol](docs/protocol.md#6-the-stream)",
    ],
)
def test_a_reference_to_something_is_not(text: str):
    texts = {PROTOCOL: TEXTS[PROTOCOL], GUARANTEES: TEXTS[GUARANTEES], "CHANGES.md": text}
    for find in (_unresolved_sections, _unresolved_invariants, _unresolved_files, _unresolved_links):
        assert not find(texts)
