"""What a run tells Prometheus: runs by outcome, files, bytes, times, ratios, and how each destination did.

A run is a short process that nobody can scrape, so its figures go to a file (`metrics_path`), which
`backupiq metrics serve` and node_exporter's textfile collector expose, and, where BACKUPIQ_PUSHGATEWAY names one, to a
Pushgateway. Labels are names of profiles and destinations, operations and codes: never a path that is backed up.
Nothing here ever ends a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backupiq import __version__
from backupiq.errors import BackupIQError, CancelledRunError, StorageConflictError, StorageNotFoundError
from backupiq.reports import BackupReport
from backupiq.state import state_dir
from backupiq.telemetry.figures import Family, Figures, bucketed, changing, load
from backupiq.telemetry.logs import get_logger
from backupiq.telemetry.pushing import push

T = TypeVar("T")

TEXTFILE_VARIABLE = "BACKUPIQ_METRICS_TEXTFILE"
NO_PROFILE = "(none)"
"""The profile of runs that were started without one; no profile can be called so."""
OUTCOMES = {0: "completed", 3: "incomplete", 4: "degraded"}
"""By exit code; a run without a report is ``failed`` or ``cancelled``."""
ALL_OUTCOMES = (*OUTCOMES.values(), "failed", "cancelled")
BREAKER_VALUES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
OPERATIONS = ("authenticate", "check_space", "delete_file", "download_file", "get_file_info", "read", "upload_file")
"""The calls to a destination whose time is taken."""
_ANSWERS = (StorageNotFoundError, StorageConflictError)
"""Errors that tell what was asked, as other calls do by their result."""

_RUN_SECONDS = (10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
CALL_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def _table(*families: Family) -> dict[str, Family]:
    return {family.name: family for family in families}


_P, _D, _PD = ("profile",), ("destination",), ("profile", "destination")
FAMILIES = _table(
    Family("backupiq_build_info", "gauge", "The version of BackupIQ that wrote these figures last.", ("version",)),
    Family("backupiq_runs_total", "counter", "Backup runs that have ended.", ("profile", "outcome")),
    Family("backupiq_run_duration_seconds", "histogram", "How long runs took.", _P, _RUN_SECONDS),
    Family("backupiq_files_total", "counter", "Files that runs found, by what became of them.", ("profile", "change")),
    Family("backupiq_read_bytes_total", "counter", "Bytes read from files.", _P),
    Family("backupiq_added_bytes_total", "counter", "Bytes that the repository did not hold before.", _P),
    Family("backupiq_stored_bytes_total", "counter", "The same as stored: compressed and encrypted.", _P),
    Family("backupiq_last_run_outcome", "gauge", "1 for how the last run ended, else 0.", ("profile", "outcome")),
    Family("backupiq_last_run_timestamp_seconds", "gauge", "When the last run ended.", _P),
    Family("backupiq_last_run_duration_seconds", "gauge", "How long the last run took.", _P),
    Family("backupiq_last_run_files", "gauge", "Files in the last snapshot.", _P),
    Family("backupiq_last_run_source_bytes", "gauge", "Bytes of the files in the last snapshot.", _P),
    Family("backupiq_last_run_unreadable_files", "gauge", "What the last run could not read.", _P),
    Family("backupiq_last_run_deduplicated_ratio", "gauge", "Part of the last snapshot that was there already.", _P),
    Family("backupiq_last_run_compressed_ratio", "gauge", "Stored bytes for each byte that the last run added.", _P),
    Family("backupiq_last_success_timestamp_seconds", "gauge", "When a run last published a snapshot.", _P),
    Family("backupiq_last_checkpoint_timestamp_seconds", "gauge", "When files last became restorable.", _P),
    Family("backupiq_errors_total", "counter", "Errors that ended runs.", ("code",)),
    Family("backupiq_replica_complete", "gauge", "1 when the destination has the last snapshot.", _PD),
    Family("backupiq_replica_lag_runs", "gauge", "Runs in a row that did not get to the destination.", _PD),
    Family("backupiq_replica_last_complete_timestamp_seconds", "gauge", "When the destination last had all.", _PD),
    Family("backupiq_destination_sent_bytes_total", "counter", "Bytes sent to the destination by runs.", _D),
    Family("backupiq_destination_caught_up_objects_total", "counter", "Objects copied from another replica.", _D),
    Family(
        "backupiq_destination_request_seconds", "histogram", "Calls to the destination.",
        ("destination", "operation"), CALL_SECONDS,
    ),
    Family("backupiq_destination_errors_total", "counter", "Calls that failed.", ("destination", "code")),
    Family("backupiq_destination_up", "gauge", "1 when `backupiq health` last reached the destination.", _D),
    Family("backupiq_destination_free_bytes", "gauge", "Free space that the destination told.", _D),
    Family("backupiq_breaker_state", "gauge", "The breaker when last looked at: 0 closed, 1 half-open, 2 open.", _D),
)  # fmt: skip
"""Every metric there is. Bytes, seconds, and seconds since 1970."""

log = get_logger("backupiq.telemetry.metrics")


def metrics_path(env: Mapping[str, str] = os.environ) -> Path:
    """The file with the figures of this user's runs. ConfigurationError without a home folder."""
    return state_dir(env) / "metrics.prom"


def read_figures(env: Mapping[str, str] = os.environ) -> Figures:
    """The figures as they stand; none before the first run. ConfigurationError when the file is unusable."""
    return load(metrics_path(env), FAMILIES)


# --- while a run goes on -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Calls:
    """Calls of one kind to one destination, counted by how long they took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(CALL_SECONDS) + 1))
    seconds: float = 0.0
    number: int = 0

    def add(self, seconds: float) -> None:
        self.counts = [a + b for a, b in zip(self.counts, bucketed(seconds, CALL_SECONDS), strict=True)]
        self.seconds += seconds
        self.number += 1


class Recorder:
    """What a run measures on its way, until it goes to the file. Belongs to one event loop.

    Its size is bounded by the number of destinations, `OPERATIONS` and codes of errors, whatever the number of calls.
    """

    def __init__(self, profile: str = "", *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.profile = profile or NO_PROFILE
        self.calls: dict[tuple[str, str], _Calls] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self._clock = clock
        self.began = clock()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return self._clock() - self.began

    def meter(self, provider: T, destination: str) -> T:
        """The same provider, whose `OPERATIONS` from now on are timed under that name."""
        for operation in OPERATIONS:
            call = getattr(provider, operation)
            object.__setattr__(provider, operation, self._timed(call, destination, operation))
        return provider

    def _timed(
        self, call: Callable[..., Awaitable[Any]], destination: str, operation: str
    ) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            began = self._clock()
            try:
                result = await call(*args, **kwargs)
            except _ANSWERS:
                self._record(destination, operation, began)
                raise
            except BackupIQError as error:
                self._record(destination, operation, began)
                key = (destination, error.code)
                self.errors[key] = self.errors.get(key, 0) + 1
                raise
            self._record(destination, operation, began)
            return result

        return timed

    def _record(self, destination: str, operation: str, began: float) -> None:
        self.calls.setdefault((destination, operation), _Calls()).add(self._clock() - began)

    def add_to(self, figures: Figures) -> None:
        """Add what was measured, and begin anew."""
        for (destination, operation), calls in self.calls.items():
            figures.merge(
                "backupiq_destination_request_seconds",
                calls.counts, calls.seconds, calls.number,
                destination=destination, operation=operation,
            )  # fmt: skip
        for (destination, code), count in self.errors.items():
            figures.add("backupiq_destination_errors_total", count, destination=destination, code=code)
        self.calls, self.errors = {}, {}


_current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("backupiq_recorder", default=None)


def metered(provider: T, destination: str) -> T:
    """The same provider, timed for the run this code belongs to; as it is outside of one."""
    recorder = _current.get()
    return provider if recorder is None else recorder.meter(provider, destination)


def observe_checkpoint(env: Mapping[str, str] = os.environ, *, now: Callable[[], float] = time.time) -> None:
    """A checkpoint was published: what it holds can be restored from now on. Outside of a run nothing is noted."""
    recorder = _current.get()
    if recorder is not None:
        profile = recorder.profile
        _write(env, lambda f: f.set("backupiq_last_checkpoint_timestamp_seconds", now(), profile=profile))


@contextlib.asynccontextmanager
async def observing(
    report: Callable[[], BackupReport | None],
    *,
    profile: str = "",
    counted: bool = True,
    env: Mapping[str, str] = os.environ,
) -> AsyncIterator[Recorder]:
    """Around a run: measure it, and write its figures at its end, however it ends.

    ``report`` is asked then; a run that has none, and raised nothing, was cancelled. ``counted``: False for a dry run.
    """
    recorder = Recorder(profile)
    token = _current.set(recorder)
    error: BaseException | None = None
    try:
        yield recorder
    except BaseException as raised:
        error = raised
        raise
    finally:
        _current.reset(token)
        found = report()
        if not counted:
            pass
        elif error is None and found is not None:
            await asyncio.to_thread(observe_run, found, recorder=recorder, env=env)
        elif error is None or _is_cancel(error):
            # Whoever ended it waits for the terminal: nothing is sent, the next run tells it.
            observe_failure(CancelledRunError(), recorder=recorder, env=env, pushing=False)
        else:
            await asyncio.to_thread(observe_failure, error, recorder=recorder, env=env)


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, CancelledRunError | asyncio.CancelledError | KeyboardInterrupt | SystemExit)


# --- at its end ----------------------------------------------------------------------------------------------------


def observe_run(
    report: BackupReport,
    *,
    profile: str = "",
    recorder: Recorder | None = None,
    env: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
) -> None:
    """Add a run that came to its end to the figures, and push them where a gateway is named. Never raises; blocks for
    at most some seconds. Dry runs are not counted."""
    if report.snapshot_id is None:
        return
    name = recorder.profile if recorder is not None else profile or NO_PROFILE

    def add(figures: Figures) -> None:
        outcome = OUTCOMES.get(report.exit_code, "failed")
        _add_end(figures, name, outcome, report.seconds, now())
        _add_amounts(figures, name, report)
        figures.set("backupiq_last_success_timestamp_seconds", now(), profile=name)
        figures.set("backupiq_last_checkpoint_timestamp_seconds", now(), profile=name)
        for destination in report.destinations:
            _add_destination(figures, name, destination, now())
        if recorder is not None:
            recorder.add_to(figures)

    _write(env, add, pushing=True)


def observe_failure(
    error: BaseException,
    *,
    profile: str = "",
    seconds: float | None = None,
    recorder: Recorder | None = None,
    env: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
    pushing: bool = True,
) -> None:
    """The same for a run that failed or was cancelled; ``seconds`` is how long it took, where no recorder knows."""
    name = recorder.profile if recorder is not None else profile or NO_PROFILE
    taken = seconds if seconds is not None else recorder.seconds if recorder is not None else 0.0

    def add(figures: Figures) -> None:
        cancelled = _is_cancel(error)
        _add_end(figures, name, "cancelled" if cancelled else "failed", taken, now())
        if not cancelled:
            code = error.code if isinstance(error, BackupIQError) else BackupIQError.code
            figures.add("backupiq_errors_total", code=code)
        if recorder is not None:
            recorder.add_to(figures)

    _write(env, add, pushing=pushing)


def _add_end(figures: Figures, profile: str, outcome: str, seconds: float, now: float) -> None:
    for each in ALL_OUTCOMES:
        figures.add("backupiq_runs_total", float(each == outcome), profile=profile, outcome=each)
        figures.set("backupiq_last_run_outcome", float(each == outcome), profile=profile, outcome=each)
    figures.observe("backupiq_run_duration_seconds", seconds, profile=profile)
    figures.set("backupiq_last_run_duration_seconds", seconds, profile=profile)
    figures.set("backupiq_last_run_timestamp_seconds", now, profile=profile)


def _add_amounts(figures: Figures, profile: str, report: BackupReport) -> None:
    changes = {"new": report.files_new, "changed": report.files_changed, "unmodified": report.files_unmodified}
    for change, count in changes.items():
        figures.add("backupiq_files_total", count, profile=profile, change=change)
    figures.add("backupiq_read_bytes_total", report.bytes_read, profile=profile)
    figures.add("backupiq_added_bytes_total", report.data_added, profile=profile)
    figures.add("backupiq_stored_bytes_total", report.data_added_packed, profile=profile)
    figures.set("backupiq_last_run_files", report.total_files, profile=profile)
    figures.set("backupiq_last_run_source_bytes", report.total_bytes, profile=profile)
    figures.set("backupiq_last_run_unreadable_files", len(report.unreadable), profile=profile)
    known, compressed = ratios(report)
    figures.set("backupiq_last_run_deduplicated_ratio", known, profile=profile)
    figures.set("backupiq_last_run_compressed_ratio", compressed, profile=profile)


def ratios(report: BackupReport) -> tuple[float, float]:
    """Which part of the snapshot was there already (0 to 1), and the stored bytes for each byte that was added.

    Folder listings are added as well, so that small files may add more than they hold: that counts as 0. An empty
    snapshot was there already; where nothing was added, the second is 1.
    """
    known = 1.0 - report.data_added / report.total_bytes if report.total_bytes else 1.0
    return max(0.0, known), report.data_added_packed / report.data_added if report.data_added else 1.0


def _add_destination(figures: Figures, profile: str, told: Mapping[str, Any], now: float) -> None:
    name, complete = str(told["name"]), bool(told["complete"])
    of = {"profile": profile, "destination": name}
    lag = 0.0 if complete else (figures.get("backupiq_replica_lag_runs", **of) or 0.0) + 1
    figures.set("backupiq_replica_complete", float(complete), **of)
    figures.set("backupiq_replica_lag_runs", lag, **of)
    if complete:
        figures.set("backupiq_replica_last_complete_timestamp_seconds", now, **of)
    figures.add("backupiq_destination_sent_bytes_total", told["bytes"], destination=name)
    figures.add("backupiq_destination_caught_up_objects_total", told["objects_caught_up"], destination=name)
    _set_breaker(figures, name, told.get("breaker"))


@dataclass(frozen=True, slots=True)
class DestinationFigures:
    """How a destination was found: reached or not, free bytes and the breaker's phase where they are known."""

    name: str
    up: bool
    free_bytes: int | None = None
    breaker: str | None = None


def observe_destinations(found: list[DestinationFigures], env: Mapping[str, str] = os.environ) -> None:
    """Keep how destinations were found, outside of a run. Never raises."""

    def add(figures: Figures) -> None:
        for each in found:
            figures.set("backupiq_destination_up", float(each.up), destination=each.name)
            if each.free_bytes is not None:
                figures.set("backupiq_destination_free_bytes", each.free_bytes, destination=each.name)
            _set_breaker(figures, each.name, each.breaker)

    _write(env, add)


def _set_breaker(figures: Figures, destination: str, phase: object) -> None:
    value = BREAKER_VALUES.get(str(phase))
    if value is not None:
        figures.set("backupiq_breaker_state", value, destination=destination)


def forget(labels: Mapping[str, str], env: Mapping[str, str] = os.environ) -> int:
    """Forget all figures with these labels, of a profile or destination that is no more; how many lines went.

    OSError, ResourceError.
    """
    with changing(metrics_path(env), FAMILIES, public=_public(env)) as figures:
        return figures.remove(**labels)


def _write(env: Mapping[str, str], add: Callable[[Figures], None], *, pushing: bool = False) -> None:
    """Change the figures and, when wanted, push them. What goes wrong is told in the log and nowhere else."""
    try:
        with changing(metrics_path(env), FAMILIES, public=_public(env)) as figures:
            figures.values.pop("backupiq_build_info", None)
            figures.set("backupiq_build_info", 1.0, version=__version__)
            add(figures)
    except Exception as error:  # noqa: BLE001 - figures must not end the run that they tell of
        log.warning("metrics.not_written", path=str(metrics_path(env)), error=str(error) or type(error).__name__)
        return
    if pushing:
        push(figures, env)


def _public(env: Mapping[str, str]) -> Path | None:
    named = env.get(TEXTFILE_VARIABLE, "")
    return Path(named) if named else None
