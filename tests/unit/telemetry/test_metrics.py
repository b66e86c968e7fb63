"""Figures of runs: what a run adds, what the file holds, what happens when something is in the way."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import (
    CancelledRunError,
    ConfigurationError,
    ResourceError,
    StorageNotFoundError,
    StorageTimeoutError,
)
from backupiq.storage.local import LocalProvider
from backupiq.telemetry import figures as figures_module
from backupiq.telemetry.figures import MOST_LABELS, OTHER, Family, Figures, changing, load
from backupiq.telemetry.metrics import (
    ALL_OUTCOMES,
    FAMILIES,
    NO_PROFILE,
    DestinationFigures,
    Recorder,
    forget,
    metered,
    metrics_path,
    observe_checkpoint,
    observe_destinations,
    observe_failure,
    observe_run,
    observing,
    ratios,
    read_figures,
)
from backupiq.telemetry.pushing import push, split_credentials
from backupiq.telemetry.redaction import redact_text
from tests.support.programs import ROOT
from tests.unit.telemetry.reports import make_report

NOON = 1_790_000_000.25


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}


def destination(name: str, *, complete: bool = True, **more: Any) -> dict[str, Any]:
    return {"name": name, "complete": complete, "bytes": 1000, "objects_caught_up": 0, "error": ""} | more


# --- what a run adds -----------------------------------------------------------------------------------------------


def test_counters_go_on_from_run_to_run_and_gauges_tell_of_the_last(env: dict[str, str]) -> None:
    first = make_report(files_new=10, total_files=10, bytes_read=4000, data_added=4000, data_added_packed=1000)
    second = make_report(files_new=1, files_unmodified=10, total_files=11, bytes_read=500, seconds=30.0, exit_code=3)
    observe_run(first, profile="home", env=env)
    observe_run(second, profile="home", env=env, now=lambda: NOON)
    found = read_figures(env)
    assert found.get("backupiq_files_total", profile="home", change="new") == 11
    assert found.get("backupiq_read_bytes_total", profile="home") == 4500
    assert found.get("backupiq_last_run_files", profile="home") == 11
    assert found.get("backupiq_last_success_timestamp_seconds", profile="home") == NOON
    assert found.get("backupiq_run_duration_seconds_count", profile="home") == 2
    assert found.get("backupiq_run_duration_seconds_bucket", profile="home", le="10.0") == 1
    outcomes = {each: found.get("backupiq_runs_total", profile="home", outcome=each) for each in ALL_OUTCOMES}
    assert outcomes == dict.fromkeys(ALL_OUTCOMES, 0.0) | {"completed": 1.0, "incomplete": 1.0}
    assert found.get("backupiq_last_run_outcome", profile="home", outcome="incomplete") == 1
    assert found.get("backupiq_last_run_outcome", profile="home", outcome="completed") == 0


def test_a_destination_that_misses_runs_lags_by_as_many_until_it_is_complete_again(env: dict[str, str]) -> None:
    lag = {"profile": "home", "destination": "s3://b"}
    for number in (1.0, 2.0):
        away = destination("s3://b", complete=False, bytes=0, breaker="open")
        observe_run(make_report(exit_code=4, destinations=[destination("/vault"), away]), profile="home", env=env)
        assert read_figures(env).get("backupiq_replica_lag_runs", **lag) == number
    found = read_figures(env)
    assert found.get("backupiq_replica_complete", **lag) == 0
    assert found.get("backupiq_replica_last_complete_timestamp_seconds", **lag) is None
    assert found.get("backupiq_breaker_state", destination="s3://b") == 2
    assert found.get("backupiq_destination_sent_bytes_total", destination="/vault") == 2000
    back = destination("s3://b", objects_caught_up=7, breaker="closed")
    observe_run(make_report(destinations=[back]), profile="home", env=env, now=lambda: NOON)
    found = read_figures(env)
    assert found.get("backupiq_replica_lag_runs", **lag) == 0
    assert found.get("backupiq_replica_last_complete_timestamp_seconds", **lag) == NOON
    assert found.get("backupiq_breaker_state", destination="s3://b") == 0
    assert found.get("backupiq_destination_caught_up_objects_total", destination="s3://b") == 7


def test_a_run_that_fails_counts_its_code_and_leaves_the_last_success_alone(env: dict[str, str]) -> None:
    observe_run(make_report(), env=env, now=lambda: NOON)
    observe_failure(StorageTimeoutError(), seconds=5.0, env=env, now=lambda: NOON + 60)
    observe_failure(RuntimeError("a path: /home/anna"), seconds=5.0, env=env)
    observe_failure(CancelledRunError(), seconds=5.0, env=env)
    found = read_figures(env)
    assert found.get("backupiq_last_success_timestamp_seconds", profile=NO_PROFILE) == NOON
    codes = {labels["code"]: count for labels, count in found.all("backupiq_errors_total")}
    assert codes == {"storage.timeout": 1, "internal": 1}
    assert found.get("backupiq_runs_total", profile=NO_PROFILE, outcome="failed") == 2
    assert found.get("backupiq_runs_total", profile=NO_PROFILE, outcome="cancelled") == 1
    assert b"anna" not in metrics_path(env).read_bytes()


def test_a_dry_run_is_no_run(env: dict[str, str]) -> None:
    observe_run(make_report(snapshot_id=None), env=env)
    assert not metrics_path(env).exists()


@pytest.mark.parametrize(
    ("total", "added", "stored", "expected"),
    [
        (1000, 1000, 400, (0.0, 0.4)),
        (1000, 0, 0, (1.0, 1.0)),
        (1000, 250, 250, (0.75, 1.0)),
        (10, 3000, 900, (0.0, 0.3)),
        (0, 0, 0, (1.0, 1.0)),
    ],
)
def test_ratios_are_parts_also_of_runs_that_add_nothing(
    total: int, added: int, stored: int, expected: tuple[float, float]
) -> None:
    assert ratios(make_report(total_bytes=total, data_added=added, data_added_packed=stored)) == expected


# --- while a run goes on -------------------------------------------------------------------------------------------


async def test_calls_to_destinations_are_timed_and_their_errors_counted(env: dict[str, str], tmp_path: Path) -> None:
    report = make_report(destinations=[destination("disk")])
    folder = tmp_path / "vault"
    folder.mkdir()
    async with observing(lambda: report, profile="home", env=env):
        provider = metered(LocalProvider(folder), "disk")
        await provider.upload_file(b"x" * 100, "data/one")
        with pytest.raises(StorageNotFoundError):
            await provider.read("data/two")
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(StorageNotFoundError):
            await provider.authenticate()
    found = read_figures(env)
    calls = {labels["operation"]: count for labels, count in found.all("backupiq_destination_request_seconds_count")}
    assert calls == {"upload_file": 1, "read": 1, "authenticate": 1}
    assert found.all("backupiq_destination_errors_total") == [], "that something is not there is an answer"
    assert found.get("backupiq_runs_total", profile="home", outcome="completed") == 1


async def test_an_error_of_a_call_is_counted_by_its_code_and_passes_through() -> None:
    class Slow:
        async def nothing(self) -> None: ...

        authenticate = check_space = delete_file = download_file = get_file_info = upload_file = nothing

        async def read(self) -> None:
            raise StorageTimeoutError

    clock = iter([0.0, 1.0, 1.3])
    recorder = Recorder(clock=lambda: next(clock))
    with pytest.raises(StorageTimeoutError):
        await recorder.meter(Slow(), "s3://b").read()
    found = Figures(FAMILIES)
    recorder.add_to(found)
    recorder.add_to(found)  # what was told is not told again
    assert found.get("backupiq_destination_errors_total", destination="s3://b", code="storage.timeout") == 1
    name, labels = "backupiq_destination_request_seconds", {"destination": "s3://b", "operation": "read"}
    assert found.get(f"{name}_sum", **labels) == pytest.approx(0.3)
    assert [found.get(f"{name}_bucket", le=le, **labels) for le in ("0.1", "0.5", "+Inf")] == [0, 1, 1]


async def test_outside_of_a_run_a_provider_stays_as_it_is(env: dict[str, str], tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path)
    assert metered(provider, "disk") is provider
    assert "read" not in vars(provider)
    observe_checkpoint(env)
    assert not metrics_path(env).exists()


async def test_a_checkpoint_is_told_while_the_run_goes_on(env: dict[str, str]) -> None:
    async with observing(make_report, profile="home", env=env):
        observe_checkpoint(env, now=lambda: NOON)
        told = read_figures(env)
    assert told.get("backupiq_last_checkpoint_timestamp_seconds", profile="home") == NOON
    assert told.get("backupiq_last_success_timestamp_seconds", profile="home") is None


async def test_a_run_that_raises_has_failed_and_one_without_report_was_cancelled(env: dict[str, str]) -> None:
    with pytest.raises(StorageTimeoutError):
        async with observing(lambda: None, env=env):
            raise StorageTimeoutError
    async with observing(lambda: None, env=env):
        pass

    async def endless() -> None:
        async with observing(lambda: None, env=env):
            await asyncio.Event().wait()

    task = asyncio.create_task(endless())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with observing(make_report, counted=False, env=env):
        pass
    found = read_figures(env)
    counted = {labels["outcome"]: count for labels, count in found.all("backupiq_runs_total") if count}
    assert counted == {"failed": 1, "cancelled": 2}


# --- the file ------------------------------------------------------------------------------------------------------

GAUGE = Family("g", "gauge", "A gauge.", ("a", "b"))
COUNTER = Family("c_total", "counter", "A counter.", ("a",))
HISTOGRAM = Family("h_seconds", "histogram", "A histogram.", ("a",), (0.1, 1.0, 100.0))
SMALL = {family.name: family for family in (GAUGE, COUNTER, HISTOGRAM)}
TEXT = st.text(max_size=20)
NUMBER = st.floats(0, 1e15)


@given(
    gauges=st.dictionaries(st.tuples(TEXT, TEXT), st.floats(allow_nan=False), max_size=5),
    counters=st.dictionaries(TEXT, NUMBER, max_size=5),
    observed=st.lists(st.tuples(TEXT, NUMBER), max_size=10),
)
def test_what_is_written_is_read_again_whatever_names_and_values(
    gauges: dict[tuple[str, str], float], counters: dict[str, float], observed: list[tuple[str, float]]
) -> None:
    figures = Figures(SMALL)
    for (a, b), value in gauges.items():
        figures.set("g", value, a=a, b=b)
    for a, value in counters.items():
        figures.add("c_total", value, a=a)
    for a, value in observed:
        figures.observe("h_seconds", value, a=a)
    again = Figures.parse(figures.render(), SMALL)
    assert {name: lines for name, lines in again.values.items() if lines} == figures.values
    assert again.render() == figures.render()


def test_buckets_of_a_histogram_hold_all_that_is_not_above_them() -> None:
    figures = Figures(SMALL)
    for value in (0.1, 0.5, 1.0, 50.0, 1000.0):
        figures.observe("h_seconds", value, a="x")
    buckets = [figures.get("h_seconds_bucket", a="x", le=le) for le in ("0.1", "1.0", "100.0", "+Inf")]
    assert buckets == [1, 3, 4, 5]
    assert figures.get("h_seconds_sum", a="x") == pytest.approx(1051.6)
    assert math.isinf(float("+Inf"))


def test_the_labels_of_a_metric_are_bounded_and_the_rest_counted_together() -> None:
    figures = Figures(SMALL)
    for number in range(MOST_LABELS + 50):
        figures.add("c_total", a=str(number))
        figures.observe("h_seconds", 0.5, a=str(number))
    assert len(figures.all("c_total")) == MOST_LABELS + 1
    assert figures.get("c_total", a=OTHER) == 50
    assert figures.get("h_seconds_count", a=OTHER) == 50
    assert figures.get("h_seconds_bucket", a=OTHER, le="1.0") == 50
    assert len(figures.all("h_seconds_bucket")) == (MOST_LABELS + 1) * 4
    figures.set("g", 1.0, a="x" * 1000, b="line\nbreak")
    ((labels, _),) = figures.all("g")
    assert len(labels["a"]) == 200
    assert labels["b"] == "line\\nbreak"


def test_labels_that_a_metric_does_not_have_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Figures(SMALL).set("g", 1.0, a="x")


def test_the_file_is_private_and_a_public_one_is_written_when_it_is_named(env: dict[str, str], tmp_path: Path) -> None:
    public = tmp_path / "collector" / "backupiq.prom"
    public.parent.mkdir()
    observe_run(make_report(), env=env | {"BACKUPIQ_METRICS_TEXTFILE": str(public)})
    private = metrics_path(env)
    assert public.read_bytes() == private.read_bytes()
    assert sorted(path.name for path in public.parent.iterdir()) == ["backupiq.prom"]
    if os.name == "posix":
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert stat.S_IMODE(public.stat().st_mode) == 0o644


def test_a_damaged_file_is_told_and_the_next_run_begins_anew(env: dict[str, str]) -> None:
    observe_run(make_report(), profile="home", env=env)
    metrics_path(env).write_bytes(b'backupiq_runs_total{profile="ho\xff\x00')
    with pytest.raises(ConfigurationError, match="damaged"):
        read_figures(env)
    observe_run(make_report(), profile="home", env=env)
    assert read_figures(env).get("backupiq_runs_total", profile="home", outcome="completed") == 1


def test_metrics_of_another_version_are_passed_over(env: dict[str, str]) -> None:
    path = metrics_path(env)
    path.parent.mkdir(parents=True)
    path.write_text('backupiq_gone{a="b"} 1\nbackupiq_errors_total{host="x"} 1\nbackupiq_errors_total{code="x"} 2\n')
    assert load(path, FAMILIES).values == {"backupiq_errors_total": {(("code", "x"),): 2.0}}


def test_a_state_folder_that_cannot_be_written_never_ends_a_run(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"a file is in the way")
    observe_run(make_report(), env=env)
    observe_failure(StorageTimeoutError(), env=env)


def test_runs_that_end_at_the_same_time_lose_nothing(env: dict[str, str]) -> None:
    threads = [
        threading.Thread(target=observe_run, args=(make_report(files_new=1),), kwargs={"profile": "home", "env": env})
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_figures(env).get("backupiq_files_total", profile="home", change="new") == 12


def test_a_lock_that_is_never_let_go_of_is_waited_for_within_bounds(env: dict[str, str]) -> None:
    waits: list[float] = []
    path = metrics_path(env)
    with changing(path, FAMILIES), pytest.raises(ResourceError), changing(path, FAMILIES, sleep=waits.append):
        pass
    assert sum(waits) <= figures_module.LOCK_SECONDS


def test_a_profile_or_destination_that_is_no_more_can_be_forgotten(env: dict[str, str]) -> None:
    for profile in ("home", "work"):
        observe_run(make_report(destinations=[destination("/vault")]), profile=profile, env=env)
    assert forget({"profile": "work"}, env) > 10
    assert b"work" not in metrics_path(env).read_bytes()
    assert read_figures(env).get("backupiq_runs_total", profile="home", outcome="completed") == 1
    forget({"destination": "/vault"}, env)
    assert b"/vault" not in metrics_path(env).read_bytes()
    assert forget({"profile": "work"}, env) == 0


def test_how_destinations_are_found_is_kept(env: dict[str, str]) -> None:
    found = [
        DestinationFigures("/vault", up=True, free_bytes=5, breaker="half-open"),
        DestinationFigures("s3://b", False),
    ]
    observe_destinations(found, env)
    figures = read_figures(env)
    assert figures.all("backupiq_destination_up") == [({"destination": "/vault"}, 1), ({"destination": "s3://b"}, 0)]
    assert figures.all("backupiq_destination_free_bytes") == [({"destination": "/vault"}, 5)]
    assert figures.all("backupiq_breaker_state") == [({"destination": "/vault"}, 1)]


# --- the Pushgateway -----------------------------------------------------------------------------------------------


@contextmanager
def gateway(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps what it is sent."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append({"path": self.path, "body": body, "authorization": self.headers["authorization"]})
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_run_pushes_all_figures_to_the_gateway_that_is_named(env: dict[str, str]) -> None:
    with gateway() as (place, taken):
        env["BACKUPIQ_PUSHGATEWAY"] = f"http://anna:s3cret%40word@{place}"
        observe_run(make_report(), profile="home", env=env)
        observe_destinations([], env)  # no run, nothing to push
    (request,) = taken
    assert re.fullmatch(r"/metrics/job/backupiq/instance/[^/]+", request["path"])
    assert request["body"] == metrics_path(env).read_bytes()
    assert base64.b64decode(request["authorization"].removeprefix("Basic ")) == b"anna:s3cret@word"
    assert "s3cret@word" not in redact_text("it was s3cret@word")


async def test_a_run_that_is_cancelled_pushes_nothing(env: dict[str, str]) -> None:
    with gateway() as (place, taken):
        env["BACKUPIQ_PUSHGATEWAY"] = place
        async with observing(lambda: None, env=env):
            pass
    assert taken == []


def test_a_gateway_that_refuses_or_is_away_is_only_told_in_the_log(
    env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with gateway(500) as (place, _):
        assert push(Figures(FAMILIES), {"BACKUPIQ_PUSHGATEWAY": place}) is False
    assert push(Figures(FAMILIES), {"BACKUPIQ_PUSHGATEWAY": "http://user:hidden-word@127.0.0.1:9/"}) is False
    assert push(Figures(FAMILIES), {"BACKUPIQ_PUSHGATEWAY": "http://[broken"}) is False
    assert push(Figures(FAMILIES), {}) is False
    said = capsys.readouterr()
    assert "hidden-word" not in said.out + said.err


def test_a_gateway_that_never_answers_holds_nobody_up() -> None:
    release = threading.Event()
    with gateway() as (place, _):
        blocked = f"http://{place}/"

        class Stuck(Figures):
            def registry(self) -> Any:
                release.wait(30)
                return super().registry()

        assert push(Stuck(FAMILIES), {"BACKUPIQ_PUSHGATEWAY": blocked}, longest=0.05) is False
        release.set()


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("gateway:9091", "http://gateway:9091"),
        ("https://gateway/push", "https://gateway/push"),
        ("http://u:long-password@gateway:1", "http://gateway:1"),
    ],
)
def test_addresses_of_gateways_are_understood_as_people_write_them(written: str, url: str) -> None:
    assert split_credentials(written)[0] == url


# --- what is shipped -----------------------------------------------------------------------------------------------

SAMPLES = {sample for family in FAMILIES.values() for sample in family.samples}


def queries() -> dict[str, list[str]]:
    """Every query that is shipped, by file."""
    dashboard = json.loads((ROOT / "deployments/grafana/backupiq.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked += [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    alerts = (ROOT / "deployments/prometheus/alerts.yml").read_text()
    return {"dashboard": asked, "alerts": re.findall(r"^ +expr: (.+)$", alerts, re.MULTILINE)}


@pytest.mark.parametrize("where", ["dashboard", "alerts"])
def test_queries_name_only_metrics_that_there_are(where: str) -> None:
    named = [name for query in queries()[where] for name in re.findall(r"\bbackupiq_\w+", query)]
    assert len(named) > 8
    assert set(named) <= SAMPLES


def test_the_dashboard_shows_every_metric() -> None:
    named = {name for query in queries()["dashboard"] for name in re.findall(r"\bbackupiq_\w+", query)}
    shown = {family.name for family in FAMILIES.values() if set(family.samples) & named}
    assert set(FAMILIES) - shown <= {"backupiq_build_info", "backupiq_last_run_timestamp_seconds"}


def test_the_page_lists_every_metric_with_its_labels() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| `(backupiq_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", page, re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}
    assert told == {family.name: (family.kind, family.labels, family.help) for family in FAMILIES.values()}
