"""The console script: the commands put together, global options, and errors turned into one line and an exit code.

Nothing heavy is imported here or by the modules of commands: each command imports what it needs when it runs, so that
help and completion answer at once and commands that only read never load Prefect.
"""

from __future__ import annotations

import atexit
import io
import itertools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

import backupiq
from backupiq.cli import (
    backup,
    catalog,
    doctor,
    explain,
    find,
    heal,
    health,
    history,
    initialize,
    inspect,
    keys,
    maintenance,
    metrics,
    profile,
    providers,
    report,
    restore,
    setup,
    up,
)
from backupiq.cli.output import clean_line, silence_closed_stdout
from backupiq.errors import BackupIQError, CancelledRunError, ResourceError, ValidationError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended

app = typer.Typer(
    name="backupiq",
    help="Backups that know what they hold: encrypted, deduplicated, in restic's open format.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help would take twice as long to appear
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LogLevel(StrEnum):
    """How much of the log to show."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_GLOBAL_FLAGS = frozenset({"--debug", "--log-json"})
_GLOBAL_VALUES = frozenset({"--log-level"})


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"backupiq {backupiq.__version__}\n")
        raise typer.Exit


@app.callback()
def settings(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="BACKUPIQ_DEBUG", help="Show tracebacks and the whole log.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option("--log-level", help="How much of the log to show.")] = LogLevel.WARNING,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as JSON, one object a line.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options for all commands; they may also stand behind the command's name."""
    from backupiq.telemetry import configure_logging

    configure_logging(level="debug" if debug else log_level.value, json=log_json)


app.command()(initialize.init)
app.command()(backup.backup)
app.command()(restore.restore)
app.command()(inspect.snapshots)
app.command()(inspect.ls)
app.command()(inspect.diff)
app.command()(inspect.stats)
app.command(context_settings=find.CONTEXT_SETTINGS)(find.find)
app.command()(history.history)
app.command()(report.report)
app.command()(explain.explain)
app.add_typer(catalog.app, name="catalog")
app.add_typer(keys.app, name="key")
app.command()(heal.heal)
app.command()(maintenance.unlock)
app.command()(doctor.doctor)
app.command()(health.health)
app.add_typer(metrics.app, name="metrics")
app.add_typer(providers.app, name="providers")
app.command()(setup.setup)
app.command()(up.up)
app.command()(up.down)
app.command()(up.status)
app.add_typer(profile.app, name="profile")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code. Errors become one line on stderr, with --json one JSON object.

    As a process of its own (no ``arguments``) a run that was interrupted leaves at once: everything is given back by
    then, and threads that still talk to Prefect's API would only keep the terminal. One that has come to its end leaves
    when all exit handlers have run: to take Prefect's modules apart would keep the terminal for half a second more, and
    threads of the clouds' libraries that come back to an interpreter in pieces would abort the process.
    """
    if arguments is not None:
        return _run(arguments)
    endings: list[int] = []
    atexit.register(_skip_teardown, endings)  # the first to be registered runs last
    code = _run(None)
    launch = sys.modules.get("flows.launch")
    if code == EXIT_INTERRUPTED and launch is not None:
        launch.leave(code)
    endings.append(code)
    return code


def _skip_teardown(endings: list[int]) -> None:
    """End the process with the code that the command came to; without one, let the interpreter end it."""
    if endings:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(endings[0])


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name must never end a listing
    try:
        code = _invoke(hoist_global_options(given))
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its text is the whole help
            sys.stderr.write(f"{error.format_message()}\n")
        else:
            report_error(as_backupiq_error(error), EXIT_USAGE, json_wanted="--json" in options)
        return EXIT_USAGE
    except Exception as error:  # noqa: BLE001 - the outermost place: every error becomes a line and an exit code
        known = as_backupiq_error(error)
        report_error(known, known.exit_code, json_wanted="--json" in options)
        if "--debug" in options or os.environ.get("BACKUPIQ_DEBUG"):
            traceback.print_exception(error)
        return known.exit_code
    if code == EXIT_INTERRUPTED:
        report_error(CancelledRunError("Interrupted."), code, json_wanted="--json" in options)
    return code


def _invoke(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="backupiq", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_closed_stdout()
        return EXIT_PIPE_CLOSED
    except SystemExit as ended:
        # Typer turns a closed pipe into sys.exit(1) itself.
        if isinstance(ended.__context__, BrokenPipeError):
            silence_closed_stdout()
            return EXIT_PIPE_CLOSED
        raise
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def hoist_global_options(arguments: Sequence[str]) -> list[str]:
    """The arguments with the global options moved before the command's name, where Typer expects them."""
    hoisted: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest.extend([argument, *remaining])
        elif argument in _GLOBAL_FLAGS or argument.partition("=")[0] in _GLOBAL_VALUES:
            hoisted.append(argument)
            if argument in _GLOBAL_VALUES:
                hoisted.extend(itertools.islice(remaining, 1))
        else:
            rest.append(argument)
    return hoisted + rest


def as_backupiq_error(error: Exception) -> BackupIQError:
    """The error itself when it is one of ours, else one of ours that says the same as far as that is safe."""
    if isinstance(error, BackupIQError):
        return error
    if isinstance(error, typer.TyperException):
        return ValidationError(f"{error.format_message()} See `backupiq --help` or `backupiq COMMAND --help`.")
    pydantic_core = sys.modules.get("pydantic_core")
    if pydantic_core is not None and isinstance(error, pydantic_core.ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = " ".join(map(str, first["loc"])) or "a value"
        return ValidationError(f"{place} is not valid: {first['msg']}. Correct it and run the command again.")
    if isinstance(error, OSError) and error.strerror:
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
        return ResourceError(f"The system refused: {error.strerror}{where}. Correct that and run the command again.")
    text = f"Something unexpected happened inside BackupIQ ({type(error).__name__}). {BackupIQError.hint}"
    return BackupIQError(text, kind=type(error).__name__)


def report_error(error: BackupIQError, exit_code: int, *, json_wanted: bool) -> None:
    """One line on stderr."""
    if json_wanted:
        document: dict[str, Any] = {"message_type": "error", **error.to_dict(), "exit_code": exit_code}
        sys.stderr.write(json.dumps(document, default=str) + "\n")
    else:
        sys.stderr.write(f"backupiq: {clean_line(error.message)}\n")
    sys.stderr.flush()
