"""Reports invalid rows of the platform's database in the log and as a metric."""

from collections.abc import Iterable

import structlog

from scoreboardd.platforms.findings import Finding
from scoreboardd.telemetry.logs import LogThrottle
from scoreboardd.telemetry.metrics import Metrics

REPEAT_SECONDS = 60.0
"The shortest time between two log lines about the same rows."
MAX_REMEMBERED = 256
"How many findings the log throttle remembers."

log = structlog.stdlib.get_logger("scoreboardd.platforms")


class FindingsReporter:
    """Logs each finding at most once per `REPEAT_SECONDS`, and counts the rows that are left out or shown with other
    values."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._throttle = LogThrottle(REPEAT_SECONDS, MAX_REMEMBERED)
        self._tables_with_rows: set[str] = set()

    def report(self, findings: Iterable[Finding], *, full: bool) -> None:
        """Log `findings` and update the metric.

        `full`: the findings are of a whole read, and not only of the newest rows. Only a whole read updates the metric.
        """
        rows: dict[str, int] = {}
        for finding in findings:
            if finding.is_altered:
                rows[finding.table] = rows.get(finding.table, 0) + finding.rows
            if self._throttle(f"{finding.table} {finding.ids} {finding.problem}"):
                log.warning(
                    "invalid data in the platform's database",
                    table=finding.table,
                    problem=finding.problem,
                    rows=finding.rows,
                    ids=finding.ids,
                )
        if full:
            for table in self._tables_with_rows - rows.keys():
                self._metrics.bad_rows.labels(table).set(0)
            for table, count in rows.items():
                self._metrics.bad_rows.labels(table).set(count)
            self._tables_with_rows |= rows.keys()
