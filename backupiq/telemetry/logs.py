"""Structured log events through the standard library's logging.

An event goes: `get_logger` -> ids, exception and redaction -> a ``logging.LogRecord`` of the logger ``backupiq...``.
The record's message is the event as readable, safe text, so any handler may be attached (Prefect's, pytest's);
`EventHandler` finds the structured event on the record and writes JSON or console lines from it. Invariant: no record
carries ``exc_info``, arguments or anything else that a handler could render past the redaction.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter

from backupiq.errors import BackupIQError, ConfigurationError
from backupiq.telemetry.context import current_correlation
from backupiq.telemetry.redaction import redact_mapping, redact_text
from backupiq.telemetry.text import printable, printable_lines

ROOT = "backupiq"
_ATTRIBUTE = "backupiq_event"
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}

Event = MutableMapping[str, Any]


class EventLogger(BoundLogger):
    """structlog's logger, which looks at the level before it does anything."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any) -> Any:
        if method_name == "exception":
            # The standard library's `exception` would put the raw exception on the record.
            method_name = "error"
            event_kw.setdefault("exc_info", True)
        if self._logger.isEnabledFor(_LEVELS.get(method_name, logging.CRITICAL)):
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        return None


def get_logger(name: str) -> EventLogger:
    """The logger of a module (``__name__``); names outside the package are put below ``backupiq``.

    Events are a short sentence and values: ``log.info("pack stored", pack=name, size=size)``.
    """
    full = name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}"
    wrapped = structlog.wrap_logger(
        logging.getLogger(full),
        processors=[
            structlog.stdlib.PositionalArgumentsFormatter(),
            _add_correlation,
            structlog.processors.StackInfoRenderer(),
            _add_error,
            _redact,
            _to_record,
        ],
        wrapper_class=EventLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(EventLogger, wrapped)


# --- the processors, in their order --------------------------------------------------------------------------------


def _add_correlation(logger: Any, method: str, event: Event) -> Event:
    for name, value in current_correlation().items():
        event.setdefault(name, value)
    return event


def _add_error(logger: Any, method: str, event: Event) -> Event:
    """An exception becomes its traceback as text; one of ours is told by its code too."""
    given = event.get("exc_info")
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if isinstance(error, BackupIQError):
        event.setdefault("code", error.code)
    return structlog.processors.format_exc_info(logger, method, event)


def _redact(logger: Any, method: str, event: Event) -> Event:
    return redact_mapping(event)


def _to_record(logger: Any, method: str, event: Event) -> tuple[tuple[str], dict[str, Any]]:
    return (as_text(event),), {"extra": {_ATTRIBUTE: dict(event)}}


def as_text(event: Mapping[str, Any]) -> str:
    """An event as ``message key=value ...``, with a traceback on the lines below."""
    rest = dict(event)
    message = printable(str(rest.pop("event", "")))
    below = [printable_lines(str(rest.pop(name))) for name in ("stack", "exception") if name in rest]
    pairs = [f"{printable(name)}={_shown(value)}" for name, value in rest.items()]
    return "\n".join([" ".join([message, *pairs]), *below])


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if not text or not text.isprintable() or " " in text or "=" in text:
        return repr(text) if isinstance(value, str) else printable(text)
    return text


# --- handlers ------------------------------------------------------------------------------------------------------


class RedactingFilter(logging.Filter):
    """For handlers that others attach: redacts records that did not come through `get_logger`; lets all pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, _ATTRIBUTE):
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            if record.stack_info:
                text += "\n" + record.stack_info
            record.msg, record.args = printable_lines(redact_text(text)), None
            record.exc_info = record.exc_text = record.stack_info = None
        return True


class EventHandler(logging.StreamHandler[TextIO]):
    """The handler that `configure_logging` installs; without a stream it writes to what is standard error then."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._follows = stream is None
        self.addFilter(RedactingFilter())

    def emit(self, record: logging.LogRecord) -> None:
        if self._follows:
            self.stream = sys.stderr
        super().emit(record)


def configure_logging(*, json: bool, level: str, stream: TextIO | None = None) -> None:
    """Write the package's events to a stream (standard error by default), as JSON lines or for people.

    ``level`` is a name such as "info" (``ConfigurationError`` otherwise). May be called again; it replaces what it
    installed before and touches no other logger or handler.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None or number == logging.NOTSET:
        raise ConfigurationError("The log level must be debug, info, warning, error or critical.", level=level[:40])
    logger = logging.getLogger(ROOT)
    for handler in list(logger.handlers):
        if isinstance(handler, EventHandler):
            logger.removeHandler(handler)
    handler = EventHandler(stream)
    handler.setFormatter(_formatter(json=json, colors=_wants_colors(stream or sys.stderr)))
    logger.propagate = False  # the root's handlers would show each event a second time
    attach_handler(handler, level=number)


def attach_handler(handler: logging.Handler, *, level: int = logging.INFO) -> None:
    """Send the package's events of this level and above to one more handler, such as Prefect's ``APILogHandler``."""
    handler.setLevel(level)
    if not any(isinstance(existing, RedactingFilter) for existing in handler.filters):
        handler.addFilter(RedactingFilter())
    logger = logging.getLogger(ROOT)
    logger.addHandler(handler)
    _let_through(logger)


def detach_handler(handler: logging.Handler) -> None:
    """Undo `attach_handler`."""
    logger = logging.getLogger(ROOT)
    logger.removeHandler(handler)
    _let_through(logger)


def _let_through(logger: logging.Logger) -> None:
    # The logger lets through what any handler wants, so that quiet lines on the terminal leave the others their events.
    logger.setLevel(min((handler.level for handler in logger.handlers), default=logging.NOTSET))


def _wants_colors(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and bool(getattr(stream, "isatty", lambda: False)())


def _formatter(*, json: bool, colors: bool) -> ProcessorFormatter:
    last: list[Any] = (
        [structlog.processors.JSONRenderer(default=str)]
        if json
        else [
            _printable_values,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    return ProcessorFormatter(
        foreign_pre_chain=[_recover],
        processors=[ProcessorFormatter.remove_processors_meta, *last],
    )


def _recover(logger: Any, method: str, event: Event) -> Event:
    """The structured event that a record carries; for a record of another origin, its (redacted) text."""
    record: logging.LogRecord = event["_record"]
    carried: dict[str, Any] | None = getattr(record, _ATTRIBUTE, None)
    body = carried if carried is not None else {"event": event["event"], **current_correlation()}
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        **body,
        "_record": record,
        "_from_structlog": False,
    }


def _printable_values(logger: Any, method: str, event: Event) -> Event:
    lines: tuple[Literal["exception"], Literal["stack"]] = ("exception", "stack")
    return {
        name: (printable_lines if name in lines else printable)(value) if isinstance(value, str) else value
        for name, value in event.items()
    }
