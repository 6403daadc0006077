"""What is odd about the platform's rows, in the log and as a metric."""

from collections.abc import Iterable

import structlog

from scoreboardd.platforms.findings import Finding
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

REPEAT_SECONDS = 60.0
"Between two lines about the same rows."
MAX_REMEMBERED = 256

log = structlog.stdlib.get_logger("scoreboardd.platforms")


class FindingsReporter:
    """Logs each finding once a minute at most, and counts the rows that are not shown as they are."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seldom = LogThrottle(REPEAT_SECONDS, MAX_REMEMBERED)
        self._counted: set[str] = set()

    def report(self, findings: Iterable[Finding], *, full: bool) -> None:
        """`full`: they are all there are, and not only those of the newest rows."""
        rows: dict[str, int] = {}
        for finding in findings:
            if finding.is_altered:
                rows[finding.table] = rows.get(finding.table, 0) + finding.rows
            if self._seldom(f"{finding.table} {finding.ids} {finding.problem}"):
                log.warning(
                    "odd rows in the platform's database",
                    table=finding.table,
                    problem=finding.problem,
                    rows=finding.rows,
                    ids=finding.ids,
                )
        if full:
            for table in self._counted - rows.keys():
                self._metrics.bad_rows.labels(table).set(0)
            for table, count in rows.items():
                self._metrics.bad_rows.labels(table).set(count)
            self._counted |= rows.keys()
