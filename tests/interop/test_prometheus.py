"""The real Prometheus: its tools accept the figures, the rules and the dashboard, and it scrapes what is served."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import StorageTimeoutError
from backupiq.telemetry.metrics import (
    FAMILIES,
    DestinationFigures,
    Recorder,
    metrics_path,
    observe_destinations,
    observe_failure,
    observe_run,
    read_figures,
)
from tests.support.programs import ROOT, BackupIQ, isolated_home, plain_environment, require, run_program
from tests.support.servers.base import HOST, Server
from tests.unit.telemetry.reports import make_report
from tests.unit.telemetry.test_metrics import queries

ALERTS = ROOT / "deployments/prometheus/alerts.yml"
SCRAPE_SECONDS = 60.0
"""How long the first scrape may take; it takes about a second, a busy machine may need many times that."""
DAY = 86400


def promtool(*arguments: str | Path, stdin: str = "") -> str:
    env = plain_environment()
    return run_program([require("promtool"), *arguments], env=env, stdin=stdin).stdout


def fill(env: dict[str, str]) -> None:
    """Figures with a value of every metric, of names with everything that could trip a parser over."""
    recorder = Recorder('ho"me\\')
    recorder.errors["s3://b", "storage.timeout"] = 2
    recorder.calls.clear()
    recorder._record("s3://b", "read", recorder.began)
    destinations = [
        {"name": "/vau\nlt", "complete": True, "bytes": 10, "objects_caught_up": 1, "error": "", "breaker": "closed"},
        {"name": "s3://b", "complete": False, "bytes": 0, "objects_caught_up": 0, "error": "x", "breaker": "open"},
    ]
    observe_run(make_report(destinations=destinations, total_bytes=5, exit_code=4), recorder=recorder, env=env)
    observe_failure(StorageTimeoutError(), profile="work", seconds=3.0, env=env)
    observe_destinations([DestinationFigures("s3://b", up=False, free_bytes=7)], env)


def test_promtool_accepts_figures_with_every_metric(tmp_path: Path) -> None:
    env = isolated_home(tmp_path)
    fill(env)
    text = metrics_path(env).read_text()
    assert promtool("check", "metrics", stdin=text) == ""
    figures = read_figures(env)
    without = [name for name, family in FAMILIES.items() if not any(figures.values.get(s) for s in family.samples)]
    assert without == []


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", ALERTS)
    assert "SUCCESS" in promtool("check", "config", "--lint-fatal", ALERTS.with_name("prometheus.yml"))


def alert_tests() -> dict[str, Any]:
    """A profile that has not been backed up for two days, whose last run failed, with a replica and a breaker."""
    home, vault = '{profile="home"}', '{profile="home",destination="s3://b"}'
    series = {
        f"backupiq_last_success_timestamp_seconds{home}": "0x3000",
        f"backupiq_last_run_timestamp_seconds{home}": "60+60x3000",
        'backupiq_last_run_timestamp_seconds{profile="new"}': "60+60x3000",
        'backupiq_last_run_outcome{profile="home",outcome="failed"}': "1x3000",
        f"backupiq_replica_lag_runs{vault}": "2x3000",
        'backupiq_breaker_state{destination="s3://b"}': "0x1000 2x2000",
        "backupiq_build_info": "1x3000",
    }
    expected = {
        "BackupIQNoRecentBackup": [{"severity": "critical", "profile": "home"}],
        "BackupIQNeverSucceeded": [{"severity": "critical", "profile": "new"}],
        "BackupIQRunFailed": [{"severity": "warning", "profile": "home", "outcome": "failed"}],
        "BackupIQReplicaLags": [{"severity": "warning", "profile": "home", "destination": "s3://b"}],
        "BackupIQBreakerOpen": [{"severity": "warning", "destination": "s3://b"}],
        "BackupIQNoFigures": [],
        "BackupIQDestinationAway": [],
        "BackupIQUnreadableFiles": [],
    }
    at_first = {"BackupIQNoRecentBackup": [], "BackupIQBreakerOpen": []}

    def cases(at: str, wanted: dict[str, list[dict[str, str]]]) -> list[dict[str, Any]]:
        return [
            {"eval_time": at, "alertname": name, "exp_alerts": [{"exp_labels": labels} for labels in found]}
            for name, found in wanted.items()
        ]

    return {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": cases("10h", at_first) + cases("40h", expected),
            }
        ],
    }


def test_alerts_fire_for_what_they_are_about_and_for_nothing_else(tmp_path: Path) -> None:
    tests = alert_tests()
    for case in tests["tests"][0]["alert_rule_test"]:
        for alert in case["exp_alerts"]:
            alert["exp_annotations"] = annotations(case["alertname"], alert["exp_labels"])
    (tmp_path / "tests.yml").write_text(json.dumps(tests))  # JSON is YAML
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "tests.yml")


def annotations(alert: str, labels: dict[str, str]) -> dict[str, str]:
    """What the rule says, with the labels filled in; the value at the 40th hour is the age of the last success."""
    text = ALERTS.read_text().partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]
    said = {}
    for name in ("summary", "description"):
        found = re.search(rf'^ +{name}: "?(.+?)"?$', text, re.MULTILINE)
        assert found is not None, alert
        filled = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: labels[label[1]], found[1])
        said[name] = filled.replace("{{ $value | humanizeDuration }}", "1d 16h 0m 0s")
    return said


# --- a real one scrapes --------------------------------------------------------------------------------------------


class Prometheus(Server):
    """The real server with its data in ``folder``, scraping one target each second, with the shipped alerts."""

    target = ""

    def command(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{json.dumps(str(ALERTS))}]\n"
            f"scrape_configs: [{{job_name: backupiq, static_configs: [{{targets: [{json.dumps(self.target)}]}}]}}]\n"
        )
        return [
            str(require("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.ports[0]}",
        ]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:  # noqa: S310 - own loopback URL
            return bool(answer.status == 200)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What a query answers now; AssertionError when it is refused."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - own loopback URL
            document = json.load(answer)
        assert document["status"] == "success", document
        return list(document["data"]["result"])


def served(backupiq: BackupIQ) -> str:
    """Starts `metrics serve` on a free port; where it listens, as host and port."""
    process = backupiq.start("metrics", "serve", "--port", "0")
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", line)
    assert found is not None, line
    return found[1]


def test_a_real_prometheus_scrapes_the_figures_and_answers_the_dashboard(
    backupiq_alone: BackupIQ, tmp_path: Path
) -> None:
    require("prometheus")
    env = isolated_home(backupiq_alone.home)
    fill(env)
    server = Prometheus(tmp_path / "prometheus")
    server.target = served(backupiq_alone)
    with server:
        deadline = time.monotonic() + SCRAPE_SECONDS
        while not server.ask("backupiq_build_info") and time.monotonic() < deadline:
            time.sleep(0.1)
        (run,) = server.ask('backupiq_runs_total{profile="work",outcome="failed"}')
        assert run["value"][1] == "1"
        (lag,) = server.ask('backupiq_replica_lag_runs{destination="s3://b"}')
        assert (lag["metric"]["profile"], lag["value"][1]) == ('ho"me\\', "1")
        for query in queries()["dashboard"]:
            if not query.startswith("label_values"):
                server.ask(re.sub(r"\$\w+", ".*", query))
        (up,) = server.ask("up")
        assert up["value"][1] == "1"

        # A run that ends meanwhile is in the next scrape.
        observe_failure(StorageTimeoutError(), profile="work", seconds=3.0, env=env)
        again = 'backupiq_runs_total{profile="work",outcome="failed"} == 2'
        while not server.ask(again) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.ask(again)


@pytest.mark.parametrize("arguments", [["--address", "nowhere"], ["--port", "70000"]])
def test_an_address_that_cannot_be_served_is_refused(backupiq_alone: BackupIQ, arguments: list[str]) -> None:
    done = backupiq_alone.run("metrics", "serve", *arguments, check=False)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
