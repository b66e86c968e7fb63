"""Prefect's UI as a person uses it: a real Chromium, a server and a worker of `backupiq up`, everything by clicks.

What is seen is kept as pictures in the test's folder, and in the folder that BACKUPIQ_SCREENSHOTS names: those of the
pages in docs/ are made that way.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from backupiq.profile import Profile
from backupiq.profiles import profiles_dir, write_profile
from tests.docs.documents import make_documents
from tests.faults.support import wait_for
from tests.faults.worker_support import PASSWORD, Machine, films, machine_that_is_up
from tests.support.programs import Restic, is_root, isolated_home, require
from tests.support.servers.azurite import Azurite
from tests.support.servers.moto import Moto

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

SCREENSHOTS = "BACKUPIQ_SCREENSHOTS"
PATIENCE_MS = 60_000
"""How long the UI may take to show something: it asks the server every few seconds, and the machine may be busy."""
RUN_MS = 180_000
TRIES = 5
S3, AZURE = "s3://anna-backup/laptop", "az://anna-backup/laptop"
NAME = "backup home -> s3, azure"

# A picture says /home/anna and laptop, as the pages do, wherever the test ran.
REPLACE = """(pairs) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        for (const [here, there] of pairs) {
            const text = node.nodeValue.replaceAll(new RegExp(here, "g"), there);
            if (text !== node.nodeValue) node.nodeValue = text;
        }
}"""

Keep = Callable[[str], None]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """S3 and Azure, whose keys stand in the environment, as on the machine of a person; gives the first."""
    folder = tmp_path_factory.mktemp("clouds")
    with (
        Moto(folder / "s3") as s3,
        Azurite(folder / "azure") as azure,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**s3.environment, **azure.environment, "AWS_ENDPOINT_URL_S3": s3.url}.items():
            patch.setenv(name, value)
        yield s3


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, clouds: Moto) -> Iterator[Machine]:
    """One machine for the tests of this file, with a profile named home that is stored in two clouds."""
    with machine_that_is_up(tmp_path_factory.mktemp("machine")) as found:
        make_documents(found.home / "Documents")
        make_profile(found, "home", found.home / "Documents", S3, AZURE, cron="30 2 1 1 *")
        found.program("init", "--to", S3, "--to", AZURE, "--password-file", found.home / "password")
        found.up()  # takes the schedule of the profile over
        yield found


def make_profile(
    machine: Machine, name: str, source: Path, *to: str, cron: str | None = None, limit: int | None = None
) -> None:
    """A profile of that name; ``limit`` is how many bytes it sends in a second."""
    password = machine.home / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    profile = Profile(
        name=name,
        backup={"paths": [str(source)], "to": list(to), "limit_upload": limit, "threads": 1},
        key={"password_file": str(password)},
        schedule={"cron": cron, "timezone": "UTC"} if cron else None,
    )
    write_profile(profile, profiles_dir(isolated_home(machine.home)) / f"{name}.toml")


@pytest.fixture(scope="module")
def page(machine: Machine) -> Iterator[Page]:
    """A window of Debian's Chromium, which reaches this machine alone."""
    from playwright.sync_api import sync_playwright

    def go(route: Route) -> None:
        route.continue_() if urlsplit(route.request.url).hostname == "127.0.0.1" else route.abort()

    chromium = require("chromium")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if is_root() else []
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        opened = browser.new_page(viewport={"width": 1280, "height": 800}, timezone_id="UTC", locale="en-GB")
        opened.set_default_timeout(PATIENCE_MS)
        opened.route("**/*", go)
        yield opened
        browser.close()


@pytest.fixture
def keep(page: Page, machine: Machine, tmp_path: Path) -> Keep:
    """Keeps what the window shows now as a picture of that name."""
    folders = [Path(each) for each in (tmp_path, os.environ.get(SCREENSHOTS)) if each]
    host = socket.gethostname().split(".")[0].lower()
    neutral = [
        [re.escape(str(machine.home)), "/home/anna"],
        [rf"127\.0\.0\.1:{machine.port}\b", "127.0.0.1:4200"],
        [rf"(?<![\w.]){re.escape(host)}(?![\w.])", "laptop"],
    ]

    def picture(name: str) -> None:
        page.wait_for_load_state("networkidle")
        page.evaluate(REPLACE, neutral)
        for folder in folders:
            page.screenshot(path=folder / f"{name}.png", animations="disabled")
            assert (folder / f"{name}.png").stat().st_size > 10_000, "an empty window"

    return picture


def open_page(page: Page, machine: Machine, path: str) -> None:
    page.goto(f"http://127.0.0.1:{machine.port}/v2/{path}")


def start_by_form(page: Page, machine: Machine, profile: str, keep: Keep | None = None) -> str:
    """Fill the form of the backup in and start it; the id of the run, whose page is open then."""
    open_page(page, machine, "deployments")
    page.get_by_role("link", name="backup-nightly").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    page.get_by_role("textbox", name="profile (Optional)").fill(profile)
    if keep is not None:
        keep("form")
    submit(page)
    page.wait_for_url("**/runs/flow-run/**")
    return page.url.partition("/flow-run/")[2].partition("?")[0]


def submit(page: Page) -> None:
    """Send the form and open the run's page; a server whose database is busy is asked again, as a person does."""
    started = page.get_by_role("link", name="View run").first
    refused = page.get_by_text("Unknown error while creating flow run.").first
    for _ in range(TRIES):
        page.get_by_role("button", name="Submit").click()
        started.or_(refused).first.wait_for()
        if started.is_visible():
            break
        refused.wait_for(state="detached")
    started.click()


def field_of(page: Page, parameter: str) -> Locator:
    """The part of the form that asks for a parameter: the smallest with its label and its choice of types."""
    labelled = page.locator("div", has=page.get_by_text(f"{parameter} (Optional)", exact=True))
    return labelled.filter(has=page.get_by_role("tablist")).last


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_the_deployments_are_listed_with_their_schedules(page: Page, machine: Machine, keep: Keep) -> None:
    open_page(page, machine, "deployments")
    for name in ("backup-nightly", "heal-hourly", "catalog-maintenance"):
        page.get_by_role("link", name=name).first.wait_for()
    page.get_by_text("2 schedules").first.wait_for()  # that of the profile, and the one for people without
    keep("deployments")


def test_the_form_asks_for_everything_with_an_explanation(page: Page, machine: Machine, keep: Keep) -> None:
    open_page(page, machine, f"deployments/deployment/{machine.nightly()['id']}/run")
    page.get_by_text("Name of a profile on the machine that runs this").wait_for()
    page.get_by_role("textbox", name="profile (Optional)").wait_for()
    field_of(page, "options").get_by_role("tab", name="BackupOptions").click()
    page.get_by_text("Files and folders to back up.").wait_for()
    asked = page.locator("label", has_text=re.compile(r"^(Paths|To|Exclude|Limit Upload)\b"))
    assert [label.split()[0] for label in asked.all_inner_texts()[:3]] == ["Paths", "To", "Exclude"]
    page.get_by_text("full: by contents, before anything is stored").wait_for()
    field_of(page, "key_block").get_by_role("tab", name="RepositoryKey").click()
    page.get_by_role("button", name="Add", exact=True).wait_for()
    keep("form-options")


def test_a_backup_is_started_by_the_form_and_its_graph_log_and_summary_show(
    page: Page, machine: Machine, keep: Keep, clouds: Moto, restic_old: Restic
) -> None:
    run = start_by_form(page, machine, "home", keep)
    page.get_by_text(NAME).first.wait_for()
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=RUN_MS)
    assert machine.state_of(run)[0] == "Completed"

    page.reload()  # the graph as it ended
    page.get_by_text(NAME).first.wait_for()
    page.locator("canvas").first.wait_for()
    tab(page, "Task Runs")
    page.get_by_text("upload batch 1 to").first.wait_for()
    keep("run-graph")
    tab(page, "Logs")
    page.get_by_text("snapshot.published", exact=False).first.wait_for()
    keep("run-logs")
    tab(page, "Artifacts")
    for name in ("backup-progress", "backup-summary", "backup-destinations"):
        page.get_by_role("heading", name=name).wait_for()
    keep("run-artifacts")

    (snapshot,) = machine.program.json("snapshots", "--repo", S3, "--password-file", machine.home / "password")
    (summary,) = machine.call("/artifacts/filter", {"artifacts": {"key": {"any_": ["backup-summary"]}}})
    open_page(page, machine, f"artifacts/artifact/{summary['id']}")
    page.get_by_role("heading", name=f"Snapshot {snapshot['short_id']}").wait_for()
    page.get_by_text("Nothing: the backup is complete everywhere.").first.wait_for()
    for place in (S3, AZURE):
        page.get_by_role("row", name=f"{place} complete").wait_for()
    keep("run-summary")
    page.get_by_role("link", name=run).click()
    page.get_by_text(NAME).first.wait_for()

    open_page(page, machine, f"runs?tags=snapshot:{snapshot['short_id']}")
    page.get_by_role("link", name=NAME).first.click()
    page.wait_for_url(f"**/{run}*")
    restic_old.run("check", "--read-data", repo=f"s3:{clouds.url}/anna-backup/laptop", password=PASSWORD)


def test_a_run_that_is_cancelled_by_clicks_in_the_midst_of_sending_ends_cleanly(
    page: Page, machine: Machine, keep: Keep, clouds: Moto, restic_old: Restic
) -> None:
    place = "s3://anna-films/laptop"
    machine.program("init", "--to", place, "--password-file", machine.home / "password")
    make_profile(machine, "films", films(machine.home / "Films", 10), place, limit=100_000)  # five minutes of sending
    run = start_by_form(page, machine, "films")
    page.get_by_text("Running", exact=True).first.wait_for(timeout=RUN_MS)
    tab(page, "Task Runs")
    page.get_by_text("upload batch 1 to").first.wait_for(timeout=RUN_MS)
    wait_for(lambda: below(clouds, "locks"), "the lock of the run")
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel").last.click()
    page.get_by_text("Cancelled", exact=True).first.wait_for(timeout=RUN_MS)
    keep("run-cancelled")
    machine.wait_for_state(run, "Cancelled")
    wait_for(lambda: not below(clouds, "locks"), "the lock to be given back")
    assert below(clouds, "snapshots") == []
    assert clouds.unfinished("anna-films") == []
    checked = restic_old.run("check", repo=f"s3:{clouds.url}/anna-films/laptop", password=PASSWORD)
    assert "no errors were found" in checked.stdout


def below(cloud: Moto, folder: str) -> list[str]:
    return [key for key in cloud.keys("anna-films") if key.startswith(f"laptop/{folder}/")]
