"""Logs: one JSON object a line on standard error, or colours for a person. No secret is ever given to a logger."""

import logging
import sys
import threading
from collections import OrderedDict
from time import monotonic
from types import TracebackType

import structlog


def configure(level: str, format: str) -> None:
    """`level` is a name of `logging`; `format` is `json` or `console`."""
    renderer: structlog.typing.Processor
    if format == "json":
        # Exceptions as text in a field: still one line an event.
        processors: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
        renderer = structlog.processors.JSONRenderer()
    else:
        processors, renderer = (
            [],
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors, renderer],
        )
    )
    # aiohttp logs a traceback for every request that it cannot parse, and strangers send those as they please.
    seldom = LogThrottle()
    # By what it says, and not of whom: they may have many addresses.
    logging.getLogger("aiohttp.server").addFilter(lambda record: seldom(str(record.msg)[:40]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("scoreboardd").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    _log_what_nobody_caught()


def _log_what_nobody_caught() -> None:
    """What Python itself would print as it likes, over many lines."""
    log = structlog.stdlib.get_logger("scoreboardd")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            log.critical("the process failed, please report", exc_info=(kind, error, trace))

    sys.excepthook = uncaught
    threading.excepthook = lambda failed: log.error(
        "a thread failed, please report", exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback)
    )
    sys.unraisablehook = lambda failed: log.error(
        "an error could not be raised, please report",
        where=str(failed.err_msg or failed.object)[:200],
        exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback),
    )


class LogThrottle:
    """Says yes once a `period` (seconds) for each key: for what may go wrong a thousand times a second."""

    def __init__(self, period: float = 60.0, keys: int = 64) -> None:
        self._period = period
        self._keys = keys
        self._said: OrderedDict[str, float] = OrderedDict()

    def __call__(self, key: str) -> bool:
        now = monotonic()
        if now - self._said.get(key, -self._period) < self._period:
            return False
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > self._keys:
            self._said.popitem(last=False)
        return True
