"""What runs around a backup: commands and webhooks before it, after it, and when it fails.

Commands are argument lists, run without a shell in a process group of their own that is killed at its time limit; what
they print goes to the log, bounded and redacted. Webhooks are http(s) URLs that hold tokens: nothing here ever shows
one, and nothing of the answer but its status is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import logging
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from backupiq import __version__
from backupiq.errors import BackupIQError, CancelledRunError, HookError
from backupiq.profile import CommandHook, Hooks, Webhooks
from backupiq.resilience.retry import RetryPolicy, Sleep, call_with_retry
from backupiq.telemetry import get_logger, redact_text, register_secret
from backupiq.telemetry.redaction import names_a_secret
from backupiq.telemetry.text import printable

if TYPE_CHECKING:
    from httpx import AsyncClient

    from backupiq.reports import BackupReport

MAX_OUTPUT_BYTES = 64 * 1024
MAX_OUTPUT_LINES = 500
MOST_REDIRECTS = 3
LAST_WORDS_SECONDS = 1.0
"""How long output is waited for once a command has ended: what it left running may hold on to it for ever."""
KILL_SECONDS = 5.0
"""How long a killed command is waited for; one of another user, or stuck in the system, may stay."""
TRIES = RetryPolicy("webhook", tries=3, first_delay=1, factor=2, longest_delay=4, jitter=0.5)
_OURS = ("BACKUPIQ_", "PREFECT_", "RESTIC_", "AWS_", "AZURE_", "GOOGLE_", "GCP_", "GCS_")
_COUNTS = (
    "files_new",
    "files_changed",
    "files_unmodified",
    "total_files",
    "total_bytes",
    "data_added",
    "data_added_packed",
    "bytes_sent",
)

_CLIENT_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
_calling: contextvars.ContextVar[bool] = contextvars.ContextVar("backupiq_webhook", default=False)

Note = Callable[[str], None]
log = get_logger("backupiq.hooks")


class Moment(StrEnum):
    """When hooks run."""

    BEFORE = "before"
    AFTER = "after"
    ON_FAILURE = "on_failure"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What hooks are told of a run. ``exit_code`` is None until it has ended; destinations are named without options.

    ``counts`` are files and bytes, ``error`` is the code of what ended the run. No secrets.
    """

    run_id: str
    run_name: str = ""
    profile: str = ""
    paths: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    exit_code: int | None = None
    snapshot: str | None = None
    seconds: float | None = None
    error: str = ""
    message: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def with_report(self, report: BackupReport) -> RunFacts:
        """The facts of a run that came to its end."""
        counts = {name: int(getattr(report, name)) for name in _COUNTS}
        counts |= {"unreadable": len(report.unreadable), "warnings": len(report.warnings)}
        return dataclasses.replace(
            self, exit_code=report.exit_code, snapshot=report.snapshot_id, seconds=report.seconds, counts=counts
        )

    def with_error(self, error: BaseException) -> RunFacts:
        """The facts of a run that an error ended; of one that is not ours only the type is told."""
        if isinstance(error, asyncio.CancelledError):
            error = CancelledRunError()
        if not isinstance(error, BackupIQError):
            error = BackupIQError(f"Something unexpected happened ({type(error).__name__}). {BackupIQError.hint}")
        return dataclasses.replace(self, exit_code=error.exit_code, error=error.code, message=error.message)

    def to_dict(self, moment: Moment) -> dict[str, Any]:
        """As plain JSON values, redacted."""
        found: dict[str, Any] = {"event": str(moment), **dataclasses.asdict(self)}
        return {name: _without_secrets(value) for name, value in found.items()}

    def environment(self, moment: Moment) -> dict[str, str]:
        """As variables: BACKUPIQ_HOOK, BACKUPIQ_RUN_ID and so on; lists have one item a line, the unknown is empty."""
        found = {**self.to_dict(moment), **self.counts}
        found["hook"] = found.pop("event")
        del found["counts"]
        return {f"BACKUPIQ_{name.upper()}": _as_variable(value) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class HookResult:
    """What became of one hook; ``what`` names it without arguments or URL, ``problem`` is empty when all went well."""

    moment: Moment
    what: str
    problem: str = ""


# --- running them --------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def around(
    hooks: Hooks,
    facts: RunFacts,
    *,
    report: Callable[[], BackupReport | None],
    note: Note,
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[None]:
    """Run the hooks around the body, which is the backup; ``report`` gives its report once it has one.

    HookError, and the body does not begin, when one before it fails. ``after`` runs whatever becomes of the body, also
    when it is cancelled; ``on_failure`` when it raises anything else, or when a hook before it failed. What goes wrong
    with those, and with pings, is only said (``note``).
    """
    try:
        await _ping(hooks.webhooks, "/start", Moment.BEFORE, facts, note, sleep)
        await run_hooks(Moment.BEFORE, hooks, facts, note=note, sleep=sleep)
    except HookError as error:
        await _failed(hooks, facts.with_error(error), note, sleep)
        raise
    try:
        yield
    except asyncio.CancelledError as error:
        await run_hooks(Moment.AFTER, hooks, facts.with_error(error), note=note, sleep=sleep)
        raise
    except Exception as error:
        ended = facts.with_error(error)
        await run_hooks(Moment.AFTER, hooks, ended, note=note, sleep=sleep)
        await _failed(hooks, ended, note, sleep)
        raise
    found = report()
    ended = facts.with_report(found) if found is not None else dataclasses.replace(facts, exit_code=0)
    await run_hooks(Moment.AFTER, hooks, ended, note=note, sleep=sleep)
    await _ping(hooks.webhooks, "/fail" if ended.exit_code else "", Moment.AFTER, ended, note, sleep)


async def _failed(hooks: Hooks, facts: RunFacts, note: Note, sleep: Sleep) -> None:
    await run_hooks(Moment.ON_FAILURE, hooks, facts, note=note, sleep=sleep)
    await _ping(hooks.webhooks, "/fail", Moment.ON_FAILURE, facts, note, sleep)


async def run_hooks(
    moment: Moment, hooks: Hooks, facts: RunFacts, *, note: Note, sleep: Sleep = asyncio.sleep
) -> list[HookResult]:
    """Run the hooks of that moment, commands in their order and then the webhook; what became of each.

    Before the run the first that fails raises HookError and the others are left out; after it all run, and each that
    fails is said with ``note``.
    """
    found: list[HookResult] = []
    for command in getattr(hooks, moment):
        what = f"command {printable(os.path.basename(command.command[0]))}"
        await _run_one(found, moment, what, _command(command, what, moment, facts), note)
    url: SecretStr | None = getattr(hooks.webhooks, moment)
    if url is not None:
        await _run_one(found, moment, "webhook", _call(hooks.webhooks, url, "", moment, facts, sleep), note)
    return found


async def _run_one(found: list[HookResult], moment: Moment, what: str, work: Awaitable[None], note: Note) -> None:
    try:
        await work
    except HookError as error:
        log.info("hook.failed", moment=str(moment), hook=what, problem=error.message)
        found.append(HookResult(moment, what, error.message))
        if moment is Moment.BEFORE:
            raise HookError(
                f"Nothing was backed up, because a hook before the run failed: {error.message} {HookError.hint}",
                hook=what,
            ) from None
        note(f"warning: a hook ({_WORDS[moment]}) failed: {error.message}")
    else:
        log.info("hook.done", moment=str(moment), hook=what)
        found.append(HookResult(moment, what))


_WORDS = {Moment.BEFORE: "before the run", Moment.AFTER: "after the run", Moment.ON_FAILURE: "after a failure"}


async def _ping(webhooks: Webhooks, ending: str, moment: Moment, facts: RunFacts, note: Note, sleep: Sleep) -> None:
    """Tell the watching service; a service that is away is no reason to make no backup."""
    if webhooks.ping is None:
        return
    try:
        await _call(webhooks, webhooks.ping, ending, moment, facts, sleep)
    except HookError as error:
        log.info("hook.failed", moment=str(moment), hook="ping", problem=error.message)
        note(f"warning: the ping was not taken: {error.message}")


# --- commands ------------------------------------------------------------------------------------------------------


async def _command(hook: CommandHook, what: str, moment: Moment, facts: RunFacts) -> None:
    """Run it to its end; HookError when it cannot be started, fails or takes too long."""
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time; it is waited for in a thread
            hook.command,
            env={**clean_environment(os.environ), **facts.environment(moment)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise HookError(f"the {what} cannot be started ({reason}).") from None
    output = _Output(process.stdout)
    try:
        code = await asyncio.to_thread(process.wait, hook.time_limit)
    except subprocess.TimeoutExpired:
        raise HookError(f"the {what} took longer than {hook.time_limit:g} s and was ended.") from None
    finally:
        if process.poll() is None:
            await asyncio.to_thread(_kill, process)
        lines = await asyncio.to_thread(output.lines)
        for line in lines:
            log.info("hook.output", hook=what, line=line)
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise HookError(f"the {what} {how}.")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started and that stayed in its group, as far as we may."""
    kill_group = getattr(os, "killpg", None)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if kill_group is not None:
            kill_group(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


class _Output:
    """The end of what a command prints.

    A thread reads all of it, so that no command ever waits for us, and keeps the last `MAX_OUTPUT_BYTES`. What the
    command left running may hold the pipe open for longer: the thread goes on reading, and nobody waits for it.
    """

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._cut = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="hook-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            while data := os.read(stream.fileno(), 8192):
                with self._lock:
                    self._kept += data
                    if len(self._kept) > MAX_OUTPUT_BYTES:
                        self._cut = True
                        del self._kept[:-MAX_OUTPUT_BYTES]

    def lines(self) -> list[str]:
        """The last lines, redacted. Waits a moment for those that are under way."""
        self._thread.join(LAST_WORDS_SECONDS)
        with self._lock:
            kept, cut = bytes(self._kept), self._cut
        if cut:  # half a line may hold half a secret, which nothing would recognise
            kept = kept.partition(b"\n")[2]
        found = redact_text(kept.decode("utf-8", "backslashreplace")).splitlines()
        if cut or len(found) > MAX_OUTPUT_LINES:
            found = ["(what came before is left out)", *found[-MAX_OUTPUT_LINES:]]
        return [line for line in found if line.strip()]


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for commands: without passwords and keys of BackupIQ, Prefect and the clouds.

    Variables of other programs stay as they are: a command may need its own password (``PGPASSWORD``).
    """
    return {name: value for name, value in env.items() if not (name.startswith(_OURS) and _is_secret(name, value))}


def _is_secret(name: str, value: str) -> bool:
    return names_a_secret(name) or redact_text(value) != value


# --- webhooks ------------------------------------------------------------------------------------------------------


async def _call(
    webhooks: Webhooks, secret: SecretStr, ending: str, moment: Moment, facts: RunFacts, sleep: Sleep
) -> None:
    """Call the URL until it is taken, at most `TRIES` times; HookError, which never names the URL, when it is not."""
    from httpx import AsyncClient

    url = with_ending(secret.get_secret_value(), ending)
    register_secret(secret.get_secret_value())
    register_secret(url)
    body = facts.to_dict(moment) if webhooks.method == "POST" else None
    headers = {"user-agent": f"backupiq/{__version__}"}
    with _client_silent():
        async with AsyncClient(follow_redirects=False, headers=headers) as client:
            await call_with_retry(
                lambda: _try(client, webhooks, url, body),
                TRIES,
                retryable=lambda error: bool(error.details.get("again")),
                sleep=sleep,
            )


async def _try(client: AsyncClient, webhooks: Webhooks, url: str, body: dict[str, Any] | None) -> None:
    from httpx import HTTPError, InvalidURL

    try:
        async with asyncio.timeout(webhooks.time_limit):
            status = await _send(client, webhooks, url, body)
    except TimeoutError:
        raise HookError(f"the webhook did not answer within {webhooks.time_limit:g} s.", again=True) from None
    except (HTTPError, InvalidURL, OSError) as error:
        # Not chained: the client's errors hold the URL.
        raise HookError(f"the webhook cannot be reached ({type(error).__name__}).", again=True) from None
    if status >= 300:
        raise HookError(f"the webhook answered with HTTP {status}.", again=status == 429 or status >= 500)


async def _send(client: AsyncClient, webhooks: Webhooks, url: str, body: dict[str, Any] | None) -> int:
    """The status at the end of a few redirects, which may not change the scheme."""
    request = client.build_request(webhooks.method, url, json=body, timeout=webhooks.time_limit)
    for _ in range(MOST_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        await response.aclose()  # its body is of no interest
        if response.next_request is None:
            return response.status_code
        if response.next_request.url.scheme != request.url.scheme:
            raise HookError("the webhook redirects to another scheme; write the URL that it leads to.")
        request = response.next_request
    raise HookError(f"the webhook redirects more than {MOST_REDIRECTS} times; write the URL that it leads to.")


def with_ending(url: str, ending: str) -> str:
    """The URL with ``/start`` or ``/fail`` behind its path."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + ending)) if ending else url


class _Silence(logging.Filter):
    """Lets the HTTP client say nothing of our calls: its lines hold URLs, also those that we are redirected to."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _calling.get()


@contextlib.contextmanager
def _client_silent() -> Iterator[None]:
    for name in _CLIENT_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Silence) for each in logger.filters):
            logger.addFilter(_Silence())
    token = _calling.set(True)
    try:
        yield
    finally:
        _calling.reset(token)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(printable(value.encode("utf-8", "backslashreplace").decode()))
    return [_without_secrets(item) for item in value] if isinstance(value, tuple) else value


def _as_variable(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
