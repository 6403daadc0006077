"""The settings of a contest that its platform stores: who takes part, when it runs, and who may see the board."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scoreboardd.board.document_names import ParticipantKind
from scoreboardd.platforms.findings import Findings
from scoreboardd.system.clock import END_OF_TIME

VISIBILITIES = ("public", "private", "hidden", "admins")
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class ContestSettings:
    """Times are Unix times in seconds; None stands for never, or not known."""

    mode: ParticipantKind | None = None
    "Whose board counts. None on a platform that has both always."
    name: str = ""
    starts_at: float | None = None
    ends_at: float | None = None
    freezes_at: float | None = None
    "Only what happened before this moment counts."
    visibility: str = "public"
    "Who may see the board: one of `VISIBILITIES`."
    challenges: str = "public"
    "Who may see the challenges: one of `VISIBILITIES`."
    now: float = 0.0
    "The time of the read, by the database's clock. Everything that depends on the time of day uses this one."
    changes_in: float | None = None
    "Seconds until the next moment at which the board changes by itself."

    @property
    def is_frozen(self) -> bool:
        return self.freezes_at is not None and self.now >= self.freezes_at

    @property
    def has_started(self) -> bool:
        return self.starts_at is None or self.now >= self.starts_at


def parse_settings(rows: Iterable[tuple[Any, Any]], findings: Findings) -> dict[str, Any]:
    """Return the arguments of `ContestSettings` for (name, value) rows of a platform's `settings.sql`.

    An invalid value counts as absent, and is a finding.
    """
    given = [(str(name), _text(value)) for name, value in rows if value is not None]
    values = dict(given)
    parsed: dict[str, Any] = {"name": values.get("name", "")[:MAX_NAME_CHARACTERS]}
    for name in ("starts_at", "ends_at", "freezes_at", "now"):
        if text := values.get(name, "").strip():
            parsed[name] = _time(name, text, findings)
    parsed["now"] = parsed.get("now") or 0.0
    if mode := values.get("mode", "").strip():
        if mode in list(ParticipantKind):
            parsed["mode"] = ParticipantKind(mode)
        else:
            findings.add("settings", "mode is neither teams nor users, and teams is used; correct it", "mode")
            parsed["mode"] = ParticipantKind.TEAMS
    for name in ("visibility", "challenges"):
        settings = [value.strip() for given_name, value in given if given_name == name and value.strip()]
        if set(settings) <= set(VISIBILITIES):
            # A platform may have several settings for one board. The one that shows it to fewer people counts.
            parsed[name] = max(settings, key=VISIBILITIES.index, default="public")
        else:
            # What cannot be understood must not show a board that may be secret.
            findings.add("settings", f"{name} is not one of {', '.join(VISIBILITIES)}, and hidden is used", name)
            parsed[name] = "hidden"
    return parsed


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _time(name: str, text: str, findings: Findings) -> float | None:
    try:
        time = float(text)
        if 0 <= time <= END_OF_TIME:
            return time
    except ValueError:
        pass
    findings.add("settings", f"{name} is not a Unix time in seconds, and counts as not set; correct it", name)
    return None
