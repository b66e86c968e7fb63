"""The command health: whether backups will go on to be made, for a monitor or a timer."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from backupiq.cli.options import (
    Json,
    KeyBlock,
    PasswordCommand,
    PasswordFile,
    Repo,
    absolute_destination,
    named_destinations,
    parse_duration,
)
from backupiq.cli.output import clean_line, note, print_json, print_line
from backupiq.cli.session import Access, run_async
from backupiq.errors import BackupIQError, OrchestrationError
from backupiq.health import Check, DestinationFacts, Status, from_error, judge_age, overall, to_document

if TYPE_CHECKING:
    from backupiq.passwords import PasswordSources
    from flows.providers import DestinationStatus, Survey

MAX_AGE_SECONDS = 26 * 3600.0
"""A nightly backup that took two hours longer than the one before is no alarm."""
CLOCK_SECONDS = 5.0
"""How long one server may take to tell the time."""
MOST_CLOCKS = 4
_MARKS = {Status.OK: "ok    ", Status.WARN: "warn  ", Status.FAIL: "FAIL  "}
_CLOUD_CLOCKS = {"s3": "https://s3.amazonaws.com", "gs": "https://storage.googleapis.com"}
_ENDPOINT_VARIABLES = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("STORAGE_EMULATOR_HOST",)}


def health(
    repo: Repo = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Look at this profile's destinations, key and last backup."),
    ] = None,
    max_age: Annotated[
        float,
        typer.Option(
            "--max-age",
            metavar="DURATION",
            parser=parse_duration,
            show_default=False,
            help="How old the last backup may be, for example 2d; 26h without it.",
        ),
    ] = MAX_AGE_SECONDS,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
) -> None:
    """Check disks, clock, Prefect, destinations, key and last backup. Exit code 1 when something fails."""
    now = time.time()
    access = Access(repo, password_file, password_command, key_block)
    checks = list(_examine(access, profile, max_age, now))
    if json:
        checked_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        print_json(to_document(checks, checked_at), indent=True)
    else:
        for check in checks:
            print_line(f"{_MARKS[check.status]}{check.name}: {clean_line(check.text)}")
            if check.advice and check.status is not Status.OK:
                print_line(f"      -> {clean_line(check.advice)}")
    if overall(checks) is Status.FAIL:
        raise typer.Exit(1)


def _examine(access: Access, profile: str | None, max_age: float, now: float) -> Iterator[Check]:
    from backupiq.archive.spool import default_parent
    from backupiq.health import check_folder, from_error, judge_clock, judge_destinations
    from backupiq.state import state_dir
    from flows.environment import prepare_environment

    yield check_folder("spool folder", default_parent(), "free space there, or set BACKUPIQ_SPOOL to another disk")
    yield check_folder("state folder", state_dir(), "free space there, and give yourself the right to write")
    prepare_environment()
    api = yield from _prefect()
    try:
        destinations, sources = _what_is_meant(access, profile)
    except BackupIQError as error:
        yield from_error("profile", error)
        destinations, sources = [], access.sources()
    yield judge_clock(_skews(destinations, api))
    if not destinations:
        yield Check("destination", Status.WARN, "none is named, and none was used here yet", "give --repo DEST")
        yield from _ages(profile, None, now, max_age)
        return
    unknown = None if api else OrchestrationError("Prefect's API is not asked.")
    found = _survey(destinations, unknown)
    yield from judge_destinations([_facts(each) for each in found.destinations])
    yield _key(sources, [each.location for each in found.destinations])
    newest = [each.newest_snapshot_ns for each in found.destinations if each.newest_snapshot_ns is not None]
    yield from _ages(profile, max(newest) / 1e9 if newest else None, now, max_age)


def _what_is_meant(access: Access, profile: str | None) -> tuple[list[str], PasswordSources]:
    """The destinations to look at, and where the password comes from."""
    from backupiq.state import last_repository

    if profile is None:
        return named_destinations(access.repo) or last_repository(), access.sources()
    from backupiq.profiles import resolve_profile

    resolved = resolve_profile(profile, key=access.sources(), env=access.env)
    return [absolute_destination(each) for each in access.repo or resolved.options.to], resolved.key


def _prefect() -> Generator[Check, None, str]:
    """Prefect's checks; returns the address of its API when that answers, else nothing."""
    from backupiq.cli.checks import Level, check_prefect

    status = {Level.OK: Status.OK, Level.WARNING: Status.WARN, Level.PROBLEM: Status.FAIL}
    answers = True
    for finding in check_prefect():
        if finding.check == "prefect":  # the clock is looked at by itself
            answers = answers and finding.level is not Level.PROBLEM
            yield Check(finding.check, status[finding.level], finding.text, finding.advice)
    from prefect.settings import PREFECT_API_URL

    return (PREFECT_API_URL.value() or "") if answers else ""


def _survey(destinations: Sequence[str], unknown: BackupIQError | None) -> Survey:
    """How the destinations are, kept in the figures too."""
    from backupiq.telemetry.metrics import DestinationFigures, observe_destinations
    from flows.providers import survey

    found = run_async(survey(destinations, unreachable=unknown))
    observe_destinations(
        [
            DestinationFigures(
                each.location,
                each.problem is None,
                each.space.free_bytes if each.space else None,
                each.breaker.phase if each.breaker else None,
            )
            for each in found.destinations
            if each.key  # one that cannot even be opened has no name of its own
        ]
    )
    return found


def _facts(each: DestinationStatus) -> DestinationFacts:
    return DestinationFacts(
        each.location,
        each.problem,
        each.repository,
        each.space.free_bytes if each.space else None,
        each.breaker.phase if each.breaker else None,
        each.breaker.reason if each.breaker else "",
    )


def _key(sources: PasswordSources, locations: Sequence[str]) -> Check:
    from backupiq.passwords import find_password

    try:
        found = find_password(sources, locations, note=note)
    except BackupIQError as error:
        return from_error("key", error)
    if found is None:
        advice = "runs that start by themselves need --password-file, --key-block or a profile that names one"
        return Check("key", Status.WARN, "the password is not kept; a person would have to type it", advice)
    return Check("key", Status.OK, f"the password is found: {found.origin}")


def _ages(profile: str | None, newest: float | None, now: float, max_age: float) -> Iterator[Check]:
    from backupiq.telemetry.metrics import NO_PROFILE, read_figures

    try:
        figures = read_figures()
    except BackupIQError as error:
        yield from_error("figures", error, Status.WARN)
        yield from judge_age({}, newest, now, max_age)
        return
    known = {
        labels["profile"]: then
        for labels, then in figures.all("backupiq_last_success_timestamp_seconds")
        if profile in (None, labels["profile"])
    }
    named = {name: then for name, then in known.items() if name != NO_PROFILE}
    by_hand = {"": known[NO_PROFILE]} if NO_PROFILE in known else {}
    yield from judge_age(named or by_hand, newest, now, max_age)


# --- the time elsewhere --------------------------------------------------------------------------------------------


def _skews(destinations: Sequence[str], api_url: str) -> dict[str, float]:
    """By how many seconds the clocks of Prefect's server and of the destinations are ahead; those that answer."""
    urls = [f"{api_url.rstrip('/')}/health"] if api_url else []
    urls += [url for each in destinations if (url := clock_url(each, os.environ)) is not None]
    found: dict[str, float] = {}
    for url in list(dict.fromkeys(urls))[:MOST_CLOCKS]:
        skew = _skew(url)
        if skew is not None:
            found[urlsplit(url).hostname or "a server"] = skew
    return found


def clock_url(destination: str, env: Mapping[str, str]) -> str | None:
    """Where a destination's server can be asked for the time without credentials; None where it cannot."""
    parts = urlsplit(destination)
    given = parse_qs(parts.query).get("endpoint", [])
    from_env = [env[name] for name in _ENDPOINT_VARIABLES.get(parts.scheme, ()) if env.get(name)]
    url = next(iter([*given, *from_env]), _CLOUD_CLOCKS.get(parts.scheme))
    if url is None or urlsplit(url).scheme not in ("http", "https"):
        return None
    bare = urlsplit(url)
    return f"{bare.scheme}://{bare.netloc.rpartition('@')[2]}/"


def _skew(url: str) -> float | None:
    import httpx

    began = time.time()
    try:
        answer = httpx.head(url, timeout=CLOCK_SECONDS, follow_redirects=False)
        theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError):
        return None
    return theirs + 0.5 - (began + time.time()) / 2  # a Date is cut to whole seconds
