"""Events as JSON, as lines for people and as records that any handler can take, none of them with a secret."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backupiq.errors import ConfigurationError, StorageQuotaError
from backupiq.telemetry import (
    attach_handler,
    configure_logging,
    correlation,
    detach_handler,
    get_logger,
    register_secret,
    run_in_context,
)
from backupiq.telemetry import redaction as redaction_module

log = get_logger("backupiq.tests.logs")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's logger as it was, and no registered secrets."""
    monkeypatch.setattr(redaction_module, "_registry", redaction_module._Registry())
    logger = logging.getLogger("backupiq")
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers = []
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Keeper(logging.Handler):
    """A handler of somebody else: keeps what it would send, formatted as the standard library does by default."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.sent: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.sent.append(self.format(record))


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_an_event_is_one_json_line_with_its_ids(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    with correlation(run_id="r1", batch=2, destination="disk"):
        log.info("pack stored", pack="ab12", size=5, path=b"/caf\xc3\xa9/\xff", ok=True)
    (event,) = lines(stream)
    assert str(event.pop("timestamp")).endswith("+00:00")
    assert event == {
        "level": "info",
        "logger": "backupiq.tests.logs",
        "event": "pack stored",
        "pack": "ab12",
        "size": 5,
        "path": "/café/\\xff",
        "ok": True,
        "run_id": "r1",
        "batch": 2,
        "destination": "disk",
    }


def test_a_value_given_with_the_event_wins_over_the_id_bound(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    with correlation(destination="disk"):
        log.info("skipped", destination="cloud")
    assert lines(stream)[0]["destination"] == "cloud"


def test_an_event_from_a_pool_knows_its_run(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    with ThreadPoolExecutor(1) as pool, correlation(run_id="r1"):
        run_in_context(pool, log.info, "from a thread").result()
    assert lines(stream)[0]["run_id"] == "r1"


def test_an_event_with_anything_in_it_stays_one_line_of_json(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    log.info("two\nlines \udc80 100% %s {x}", value={1: object(), "n": float("inf")}, weird="\x1b[31m\u2028")
    log.info("positional %s and %d", "text", 3)
    first, second = lines(stream)
    assert first["event"] == "two\nlines \udc80 100% %s {x}"
    assert second["event"] == "positional text and 3"


def test_events_bound_to_a_logger_are_told(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    log.bind(pack="ab").info("stored")
    assert lines(stream)[0]["pack"] == "ab"


def test_an_exception_is_told_with_its_traceback_and_code(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    try:
        raise StorageQuotaError("The destination is full.")
    except StorageQuotaError:
        log.exception("upload failed", pack="ab")
    (event,) = lines(stream)
    assert event["code"] == "storage.quota"
    assert event["level"] == "error"
    assert "Traceback" in str(event["exception"])
    assert "StorageQuotaError: The destination is full." in str(event["exception"])


# --- lines for people ----------------------------------------------------------------------------------------------


def test_console_lines_are_readable_and_carry_nothing_a_terminal_acts_on(stream: io.StringIO) -> None:
    configure_logging(json=False, level="info", stream=stream)
    log.info("stored", path="evil\x1b[2Jname\r\n", size=5)
    try:
        raise ValueError("evil\x1b[2J")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert "stored" in text
    assert "size=5" in text
    assert "ValueError: evil\\x1b[2J" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[0].count("evil") == 1


def test_standard_error_is_found_at_the_time_of_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=True, level="info")
    log.info("to standard error")
    captured = capsys.readouterr()
    assert "to standard error" in captured.err
    assert captured.out == ""


# --- other handlers ------------------------------------------------------------------------------------------------


def test_a_record_is_readable_safe_text_for_any_handler() -> None:
    keeper = Keeper()
    attach_handler(keeper)
    with correlation(run_id="r1"):
        log.info("pack stored 100%", name="with space", size=5, empty="", odd="a=b", path="\x1b[31mred\n")
    assert keeper.sent == [
        "pack stored 100% name='with space' size=5 empty='' odd='a=b' path='\\x1b[31mred\\n' run_id=r1"
    ]
    (record,) = keeper.records
    assert record.getMessage() == keeper.sent[0]
    assert (record.name, record.levelno) == ("backupiq.tests.logs", logging.INFO)


def test_no_record_carries_an_exception_past_the_redaction() -> None:
    keeper = Keeper()
    attach_handler(keeper)
    register_secret("xyzzy plugh")
    try:
        raise ValueError("the password is xyzzy plugh")
    except ValueError:
        log.exception("failed")
        log.error("failed", exc_info=True, stack_info=True)
    for sent, record in zip(keeper.sent, keeper.records, strict=True):
        assert "Traceback" in sent
        assert "ValueError" in sent
        assert "xyzzy" not in sent
        assert not record.exc_info
        assert not record.stack_info
    assert "Stack (most recent call last)" in keeper.sent[1]


def test_a_record_of_the_standard_library_is_redacted_at_attached_handlers(stream: io.StringIO) -> None:
    configure_logging(json=True, level="info", stream=stream)
    keeper = Keeper()
    attach_handler(keeper)
    register_secret("xyzzy plugh")
    try:
        raise ValueError("xyzzy plugh")
    except ValueError:
        logging.getLogger("backupiq.plain").exception("it was %s with password=%s", "xyzzy plugh", "hunter2")
    assert "xyzzy" not in keeper.sent[0] + stream.getvalue()
    assert "hunter2" not in keeper.sent[0] + stream.getvalue()
    assert "it was *** with password=***" in keeper.sent[0]
    assert "ValueError: ***" in keeper.sent[0]
    assert str(lines(stream)[0]["event"]).startswith("it was ***")


def test_attached_handlers_get_their_own_level_whatever_the_terminal_shows(stream: io.StringIO) -> None:
    configure_logging(json=True, level="error", stream=stream)
    keeper = Keeper()
    attach_handler(keeper, level=logging.INFO)
    log.info("for the handler")
    log.debug("for nobody")
    assert [record.levelname for record in keeper.records] == ["INFO"]
    assert stream.getvalue() == ""
    detach_handler(keeper)
    log.info("for nobody now")
    assert len(keeper.records) == 1


def test_configuring_again_replaces_the_handler_and_leaves_others(stream: io.StringIO) -> None:
    keeper = Keeper()
    attach_handler(keeper)
    configure_logging(json=False, level="debug", stream=io.StringIO())
    configure_logging(json=True, level="info", stream=stream)
    log.info("once")
    assert len(lines(stream)) == 1
    assert len(keeper.records) == 1


@pytest.mark.parametrize("level", ["loud", "", "notset"])
def test_an_unknown_level_is_refused(level: str) -> None:
    with pytest.raises(ConfigurationError, match="level"):
        configure_logging(json=True, level=level)


# --- redaction of whole events -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_reaches_the_output_by_any_way(stream: io.StringIO, as_json: bool) -> None:
    from pydantic import SecretStr

    configure_logging(json=as_json, level="debug", stream=stream)
    keeper = Keeper()
    attach_handler(keeper, level=logging.DEBUG)
    register_secret("xyzzy plugh")
    bound = log.bind(note="xyzzy plugh")
    bound.info("the event xyzzy plugh", password="hunter2", nested=[{"token": "hunter2"}], secret=SecretStr("hunter2"))
    bound.info("free %s", "http://me:hunter2@host")
    with correlation(destination="s3://key:hunter2@host/xyzzy plugh"):
        log.warning("skipped", options={"AccountKey": "hunter2"}, url="AccountKey=hunter2;x=1")
    try:
        try:
            raise ValueError("inner xyzzy plugh")
        except ValueError as error:
            raise RuntimeError("Authorization: Bearer hunter2hunter2") from error
    except RuntimeError as error:
        log.error("failed", exc_info=error, error=error)
    for text in (stream.getvalue(), "\n".join(keeper.sent), str([vars(record) for record in keeper.records])):
        assert "hunter2" not in text
        assert "xyzzy" not in text
        assert "***" in text


# --- cost and quiet ------------------------------------------------------------------------------------------------


def test_an_event_below_the_level_touches_nothing(stream: io.StringIO) -> None:
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("rendered although nobody wants it")

    configure_logging(json=True, level="info", stream=stream)
    log.debug("costly", value=Costly())
    assert stream.getvalue() == ""


def test_names_outside_the_package_stand_below_it() -> None:
    keeper = Keeper()
    attach_handler(keeper)
    get_logger("flows.backup").info("a")
    get_logger("backupiqx").info("b")
    get_logger("backupiq").info("c")
    assert [record.name for record in keeper.records] == ["backupiq.flows.backup", "backupiq.backupiqx", "backupiq"]


def test_importing_and_getting_a_logger_configures_nothing() -> None:
    script = """
import logging, structlog
import backupiq.telemetry
log = backupiq.telemetry.get_logger("backupiq.x")
log.info("quiet")
assert not logging.getLogger("backupiq").handlers
assert not logging.getLogger().handlers
assert not structlog.is_configured()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
