"""Prefect's UI as a person uses it: a real Chromium, a server and a worker of `backupiq up`, everything by clicks.

What is seen is kept as pictures in the test's folder, and in the folder that BACKUPIQ_SCREENSHOTS names: those of the
pages in docs/ are made that way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import make_documents
from tests.faults.support import locks_of, wait_for
from tests.faults.worker_support import PASSWORD, Machine, machine_that_is_up
from tests.support.programs import Restic, is_root, require

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SCREENSHOTS = "BACKUPIQ_SCREENSHOTS"
PATIENCE_MS = 60_000
"""How long the UI may take to show something: it asks the server every few seconds, and the machine may be busy."""
RUN_MS = 180_000

Keep = Callable[[str], None]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for the tests of this file, with a profile named home."""
    with machine_that_is_up(tmp_path_factory.mktemp("machine")) as found:
        make_documents(found.folder / "documents")
        found.make_profile("home", source=found.folder / "documents")
        yield found


@pytest.fixture(scope="module")
def page(machine: Machine) -> Iterator[Page]:
    """A window of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = require("chromium")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if is_root() else []
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        opened = browser.new_page(viewport={"width": 1280, "height": 800}, timezone_id="UTC", locale="en-GB")
        opened.set_default_timeout(PATIENCE_MS)
        yield opened
        browser.close()


@pytest.fixture
def keep(page: Page, tmp_path: Path) -> Keep:
    """Keeps what the window shows now as a picture of that name."""
    folders = [Path(each) for each in (tmp_path, os.environ.get(SCREENSHOTS)) if each]

    def picture(name: str) -> None:
        page.wait_for_load_state("networkidle")
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
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("link", name="View run").first.click()
    page.wait_for_url("**/runs/flow-run/**")
    return page.url.partition("/flow-run/")[2].partition("?")[0]


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
    page.get_by_text("1 schedules").first.wait_for()
    keep("deployments")


def test_the_form_asks_for_everything_with_an_explanation(page: Page, machine: Machine) -> None:
    open_page(page, machine, f"deployments/deployment/{machine.nightly()['id']}/run")
    page.get_by_text("Name of a profile on the machine that runs this").wait_for()
    options = field_of(page, "options")
    options.get_by_role("tab", name="BackupOptions").click()
    page.get_by_text("paths", exact=False).first.wait_for()
    page.get_by_text("Files and folders to back up", exact=False).first.wait_for()


def test_a_backup_is_started_by_the_form_and_its_graph_log_and_summary_show(
    page: Page, machine: Machine, keep: Keep, restic_old: Restic
) -> None:
    run = start_by_form(page, machine, "home", keep)
    page.get_by_text("backup home -> vault-home").first.wait_for()
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=RUN_MS)
    assert machine.state_of(run)[0] == "Completed"

    page.reload()  # the graph as it ended
    page.get_by_text("backup home -> vault-home").first.wait_for()
    page.locator("canvas").first.wait_for()
    tab(page, "Task Runs")
    page.get_by_text("discover", exact=False).first.wait_for()
    keep("run-graph")
    tab(page, "Logs")
    page.get_by_text("snapshot.published", exact=False).first.wait_for()
    keep("run-logs")
    tab(page, "Artifacts")
    page.get_by_text("backup-summary", exact=False).first.wait_for()
    keep("run-artifacts")

    vault = machine.folder / "vault-home"
    (snapshot,) = machine.program.json("snapshots", "--repo", vault, "--password-file", machine.home / "password")
    page.get_by_text(f"snapshot:{snapshot['short_id']}").first.wait_for()
    (summary,) = machine.call("/artifacts/filter", {"artifacts": {"key": {"any_": ["backup-summary"]}}})
    open_page(page, machine, f"artifacts/artifact/{summary['id']}")
    page.get_by_role("heading", name=f"Snapshot {snapshot['short_id']}").wait_for()
    page.get_by_text("Nothing: the backup is complete everywhere.").first.wait_for()
    keep("run-summary")
    page.get_by_role("link", name=run).click()
    page.get_by_text("backup home -> vault-home").first.wait_for()
    restic_old.run("check", "--read-data", repo=vault, password=PASSWORD)


def test_a_run_that_is_cancelled_by_clicks_ends_cleanly(page: Page, machine: Machine, keep: Keep) -> None:
    gate = machine.folder / "gate"
    vault = machine.make_profile("films", source=machine.folder / "documents", gate=gate)
    try:
        run = start_by_form(page, machine, "films")
        page.get_by_text("Running", exact=True).first.wait_for(timeout=RUN_MS)
        page.get_by_role("button", name="Open menu").click()
        page.get_by_role("menuitem", name="Cancel").click()
        page.get_by_role("alertdialog").get_by_role("button", name="Cancel").last.click()
        page.get_by_text("Cancelled", exact=True).first.wait_for(timeout=RUN_MS)
        keep("run-cancelled")
        assert machine.state_of(run)[0] == "Cancelled"
        wait_for(lambda: not locks_of(vault), "the lock to be given back")
    finally:
        gate.touch()
