"""Logging to standard error: one JSON object per line, or coloured text. No code passes a secret to a logger."""

import logging
import sys
import threading
from collections import OrderedDict
from time import monotonic
from types import TracebackType

import structlog


def configure(level: str, format: str) -> None:
    """Set up logging for the process.

    `level` names a level of `logging`, such as "info", for the daemon's own loggers; all others log from "warning" up.
    `format` is "json" or "console". Uncaught exceptions are logged, too.
    """
    renderer: structlog.typing.Processor
    if format == "json":
        # An exception becomes a text field, so that an event stays on one line.
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
    # aiohttp logs a traceback for every request that it cannot parse, and anybody can send such requests. The key is
    # the message without the client's address, because one client may use many addresses.
    throttle = LogThrottle()
    logging.getLogger("aiohttp.server").addFilter(lambda record: throttle(str(record.msg)[:40]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("scoreboardd").setLevel(level.upper())
    logging.captureWarnings(capture=True)
    _log_uncaught_exceptions()


def _log_uncaught_exceptions() -> None:
    """Log uncaught exceptions, which Python would otherwise print over many lines."""
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
    """Allows one log line per period for each key. For failures that may occur thousands of times a second."""

    def __init__(self, period: float = 60.0, keys: int = 64) -> None:
        """`period` is in seconds. `keys` bounds how many keys are remembered."""
        self._period = period
        self._keys = keys
        self._allowed_at: OrderedDict[str, float] = OrderedDict()

    def __call__(self, key: str) -> bool:
        """Return whether a line with this key may be logged now. If so, the key's next period begins."""
        now = monotonic()
        if now - self._allowed_at.get(key, -self._period) < self._period:
            return False
        self._allowed_at[key] = now
        self._allowed_at.move_to_end(key)
        if len(self._allowed_at) > self._keys:
            self._allowed_at.popitem(last=False)
        return True
