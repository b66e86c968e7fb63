"""The commands about profiles: making, checking, showing and listing them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json, KeyBlock, PasswordCommand, PasswordFile, absolute_destination
from backupiq.cli.output import clean_line, escape_name, note, print_json, print_line, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from backupiq.cli.checks import Finding
    from backupiq.profile import Hooks, Profile

app = typer.Typer(
    name="profile",
    help="Make, check and show profiles: what is backed up, where to, how, when, and what runs around it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MARKS = {"ok": "ok       ", "warning": "warning  ", "problem": "PROBLEM  "}

Name = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A profile's name, a file, or block:NAME.", show_default=False)
]


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and '-'.", show_default=False)
    ],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files and folders to back up.", show_default=False)
    ],
    to: Annotated[
        list[str], typer.Option("--to", metavar="DEST", help="A folder, a URL or block:NAME; again for each replica.")
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-e", metavar="PATTERN", help="Leave out what matches, in gitignore syntax."),
    ] = None,
    exclude_caches: Annotated[
        bool, typer.Option("--exclude-caches", help="Leave out what folders marked by CACHEDIR.TAG hold.")
    ] = False,
    exclude_regenerable: Annotated[
        bool,
        typer.Option("--exclude-regenerable", help="Leave out folders that can be made again, such as node_modules."),
    ] = False,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", "-x", help="Stay on the file systems of the PATHs.")
    ] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag for the snapshots.")] = None,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="CRON", help='When it runs by itself, such as "30 2 * * *".')
    ] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="Of that hour; else this machine's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a profile of that name.")] = False,
    json: Json = False,
) -> None:
    """Write a profile as a file with a comment for every setting. It replaces none unless told to."""
    from backupiq.errors import ValidationError
    from backupiq.profiles import make_profile, profile_path, write_profile

    if cron is None and timezone is not None:
        raise ValidationError("--timezone is the zone of --cron; give both or neither.")
    schedule = {"cron": cron, "timezone": timezone or local_timezone()} if cron is not None else None
    profile = make_profile(
        name=name,
        backup={
            "paths": [os.path.abspath(os.path.expanduser(path)) for path in paths],
            "to": list(dict.fromkeys(absolute_destination(each) for each in to)),
            "exclude": exclude or [],
            "exclude_caches": exclude_caches,
            "exclude_regenerable": exclude_regenerable,
            "one_file_system": one_file_system,
            "tags": tag or [],
        },
        key={
            "key_block": key_block,
            "password_file": os.path.abspath(os.path.expanduser(password_file)) if password_file else None,
            "password_command": password_command,
        },
        schedule=schedule,
    )
    path = profile_path(profile.name)
    write_profile(profile, path, force=force)
    if json:
        print_json({"name": profile.name, "file": str(path)})
        return
    print_line(f"written:  {escape_name(str(path))}")
    note(f"look it through, then: backupiq profile check {name}, and: backupiq backup --profile {name}")


@app.command()
def check(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FILE]", help="One profile; else all of them.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Check profiles: their settings, files, destinations, password and hooks. Exit code 1 when there is a problem."""
    from backupiq.profiles import list_profiles, profiles_dir

    names = [name] if name is not None else [path.stem for path in list_profiles()]
    if not names:
        note(f"there are no profiles in {profiles_dir()}; make one with `backupiq profile new NAME PATH --to DEST`")
    problems = 0
    checked: list[dict[str, Any]] = []
    for each in names:
        findings = list(_examine(each))
        problems += sum(finding.level.value == "problem" for finding in findings)
        checked.append({"profile": each, "findings": [finding.to_dict() for finding in findings]})
        if not json:
            _print_findings(each, findings)
    if json:
        print_json({"profiles": checked, "problems": problems}, indent=True)
    if problems:
        raise typer.Exit(1)


def _print_findings(name: str, findings: list[Finding]) -> None:
    print_line(f"{clean_line(name)}:")
    for finding in findings:
        print_line(f"  {_MARKS[finding.level.value]}{finding.check}: {clean_line(finding.text)}")
        if finding.advice:
            print_line(f"           -> {clean_line(finding.advice)}")


def _examine(name: str) -> Iterator[Finding]:
    from backupiq.cli.checks import Finding, Level
    from backupiq.errors import BackupIQError
    from backupiq.profiles import load_profile

    try:
        profile = load_profile(name)
    except BackupIQError as error:
        lines = error.details.get("problems") or [error.message]
        for line in lines:
            yield Finding("settings", Level.PROBLEM, line, "")
        return
    yield Finding("settings", Level.OK, "every key is known and has a value that it takes")
    yield from _check_file(name, profile)
    yield from _check_sources(profile)
    locations: list[str] = []
    for destination in profile.backup.to:
        yield from _check_destination(destination, locations)
    yield from _check_key(profile, locations)
    yield from _check_hooks(profile)


def _check_file(name: str, profile: Profile) -> Iterator[Finding]:
    from backupiq.cli.checks import Finding, Level
    from backupiq.profiles import BLOCK_PREFIX, profile_path

    if os.name != "posix" or name.startswith(BLOCK_PREFIX):
        return
    path = profile_path(name)
    webhooks = profile.hooks.webhooks
    if (webhooks.ping or webhooks.before or webhooks.after or webhooks.on_failure) and path.stat().st_mode & 0o077:
        yield Finding("file", Level.WARNING, "other users may read the webhooks' URLs in it", f"run: chmod 600 {path}")


def _check_sources(profile: Profile) -> Iterator[Finding]:
    from backupiq.cli.checks import Finding, Level, from_error
    from backupiq.discovery.gitignore import PatternError, parse_pattern
    from backupiq.discovery.rules import read_pattern_file
    from backupiq.errors import BackupIQError
    from backupiq.semantics.pins import parse_pin

    for path in map(os.path.expanduser, profile.backup.paths):
        if not os.path.lexists(path):
            yield Finding("sources", Level.PROBLEM, f"{path} is not there", "correct the path, or connect its disk")
        elif not os.access(path, os.R_OK):
            yield Finding("sources", Level.WARNING, f"{path} may not be read by this user", "run as one who may")
        else:
            yield Finding("sources", Level.OK, path)
    for pattern in (*profile.backup.exclude, *profile.backup.iexclude):
        try:
            parse_pattern(pattern, "the profile")
        except PatternError as error:
            yield Finding("patterns", Level.PROBLEM, f"{pattern!r} is not a pattern: {error}", "correct it")
    for read, items in ((read_pattern_file, profile.backup.exclude_file), (parse_pin, profile.backup.pin)):
        for item in items:
            try:
                read(os.path.expanduser(item))
            except BackupIQError as error:
                yield from_error("patterns", error)


def _check_destination(destination: str, locations: list[str]) -> Iterator[Finding]:
    """Whether it is one that can be used, without calling it; its location for people is added to the list."""
    from backupiq.cli.checks import Finding, Level, from_error
    from backupiq.cli.session import open_provider
    from backupiq.errors import BackupIQError

    try:
        location = open_provider(destination).location
    except BackupIQError as error:
        yield from_error("destination", error)
    else:
        locations.append(location)
        yield Finding("destination", Level.OK, location)


def _check_key(profile: Profile, locations: list[str]) -> Iterator[Finding]:
    from backupiq.cli.checks import Finding, Level, from_error
    from backupiq.cli.session import interruptible
    from backupiq.errors import BackupIQError
    from backupiq.passwords import find_password
    from backupiq.profiles import apply_profile

    try:
        with interruptible():
            found = find_password(apply_profile(profile).key, locations, note=note)
    except BackupIQError as error:
        yield from_error("key", error)
        return
    if found is not None:
        yield Finding("key", Level.OK, f"the password comes from {found.origin}")
        return
    advice = "name a source under [key]; or make the repository with `backupiq init`, which keeps a new password"
    yield Finding("key", Level.PROBLEM, "the repository's password cannot be found", advice)


def _check_hooks(profile: Profile) -> Iterator[Finding]:
    import shutil

    from backupiq.cli.checks import Finding, Level

    for moment in ("before", "after", "on_failure"):
        for hook in getattr(profile.hooks, moment):
            program = hook.command[0]
            if shutil.which(program) is None:
                advice = "install it, or write its absolute path"
                yield Finding("hooks", Level.PROBLEM, f"{moment}: there is no program {program}", advice)
            else:
                yield Finding("hooks", Level.OK, f"{moment}: {program}")


@app.command()
def show(name: Name, json: Json = False) -> None:
    """Show a profile as it is understood. URLs of webhooks and arguments of commands are not shown."""
    from backupiq.profiles import load_profile

    profile = load_profile(name)
    if json:
        print_json(as_shown(profile), indent=True)
        return
    print_line(f"name:      {profile.name}")
    for label, value in _lines(as_shown(profile)):
        print_line(f"{label + ':':<10} {clean_line(value)}")


@app.command(name="list")
def list_(json: Json = False) -> None:
    """List the profiles of this user."""
    from backupiq.errors import ConfigurationError
    from backupiq.profiles import list_profiles, load_profile, profiles_dir

    found = []
    for path in list_profiles():
        row: dict[str, Any] = {"name": path.stem, "file": str(path), "problem": ""}
        try:
            shown = as_shown(load_profile(str(path)))
        except ConfigurationError as error:
            row["problem"] = error.message
        else:
            row |= {"paths": shown["backup"]["paths"], "to": shown["backup"]["to"], "schedule": shown["schedule"]}
        found.append(row)
    if json:
        print_json({"profiles": found}, indent=True)
        return
    if not found:
        note(f"there are no profiles in {profiles_dir()}; make one with `backupiq profile new NAME PATH --to DEST`")
        return
    print_table(("Profile", "Paths", "To", "Schedule"), map(_row, found))
    for row in found:
        if row["problem"]:
            note(row["problem"])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    if row["problem"]:
        return escape_name(row["name"]), "PROBLEM", "", ""
    schedule = f"{row['schedule']['cron']} {row['schedule']['timezone']}" if row["schedule"] else "-"
    return escape_name(row["name"]), *("\n".join(map(escape_name, row[name])) for name in ("paths", "to")), schedule


def _lines(shown: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from backupiq.profile import ProfileBackup

    for name, value in shown["backup"].items():
        if value != ProfileBackup.model_fields[name].default:
            for item in value if isinstance(value, list) else [value]:
                yield name, "yes" if item is True else str(item)
    for name, value in shown["key"].items():
        if value:
            yield name, value
    if shown["schedule"]:
        yield "schedule", f"{shown['schedule']['cron']} ({shown['schedule']['timezone']})"
    for moment, commands in shown["hooks"].items():
        for command in commands:
            yield moment, command


def as_shown(profile: Profile) -> dict[str, Any]:
    """The profile as plain JSON values without anything that may be secret."""
    from backupiq.telemetry import redact_text

    document = profile.model_dump(mode="json", exclude={"hooks"})
    document["backup"]["to"] = [redact_text(each) for each in profile.backup.to]
    if profile.key.password_command is not None:
        document["key"]["password_command"] = _program(profile.key.password_command.split(maxsplit=1))
    document["hooks"] = _hooks(profile.hooks)
    return document


def _hooks(hooks: Hooks) -> dict[str, list[str]]:
    found = {
        moment: [_program(each.command) for each in getattr(hooks, moment)]
        for moment in ("before", "after", "on_failure")
    }
    for moment in ("before", "after", "on_failure"):
        if getattr(hooks.webhooks, moment) is not None:
            found[moment].append("webhook (URL not shown)")
    found["ping"] = ["URL not shown"] if hooks.webhooks.ping is not None else []
    return found


def _program(command: list[str]) -> str:
    return f"{command[0]} ..." if len(command) > 1 else command[0]


def local_timezone(localtime: Path | None = None) -> str:
    """This machine's time zone by its name: TZ, or where /etc/localtime leads; UTC where neither tells."""
    import zoneinfo
    from pathlib import Path

    link = localtime or Path("/etc/localtime")
    candidates = [os.environ.get("TZ", "").lstrip(":"), os.path.realpath(link).partition("/zoneinfo/")[2]]
    known = zoneinfo.available_timezones()
    return next((each for each in candidates if each in known), "UTC")
