"""What clients have to know of a contest's settings, as a document beside the boards."""

from typing import Any

import orjson

from scoreboardd.board.order import Order
from scoreboardd.board.rules import Rules
from scoreboardd.board.times import rfc3339
from scoreboardd.platforms.settings import ContestSettings


def settings_text(settings: ContestSettings, rules: Rules, *, sealed: bool) -> bytes:
    """Return the document's text: a JSON object with only what differs from smctf.

    `sealed`: the boards stay as they were at the moment of the freeze.
    """
    fields: dict[str, Any] = {}
    if rules.order is not Order.STATIC:
        fields["order"] = rules.order
    if settings.mode is not None:
        fields["mode"] = settings.mode
    if settings.name:
        fields["platform_name"] = settings.name
    times = {"starts_at": settings.starts_at, "ends_at": settings.ends_at}
    if settings.is_frozen:
        times["frozen_at"] = settings.freezes_at
    fields |= {name: rfc3339(round(time * 1_000_000)) for name, time in times.items() if time is not None}
    if settings.visibility != "public":
        fields["visibility"] = settings.visibility
    if sealed:
        fields["sealed"] = True
    return orjson.dumps(fields)
