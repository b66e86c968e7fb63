"""Profiles as files: what is refused and how that is said, what a run makes of one, and that writing loses nothing."""

from __future__ import annotations

import dataclasses
import itertools
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ConfigurationError, MissingConfigurationError, ValidationError
from backupiq.hooks import Moment, RunFacts
from backupiq.passwords import PasswordSources
from backupiq.profile import BackupOptions, Profile, check_cron
from backupiq.profiles import (
    apply_profile,
    examine,
    list_profiles,
    load_profile,
    make_profile,
    profile_label,
    profile_path,
    profiles_dir,
    render_profile,
    resolve_profile,
    resolve_run,
    write_profile,
)
from backupiq.reports import BackupReport
from backupiq.telemetry import redact_text
from tests.docs.pages import blocks
from tests.support.programs import ROOT

TOKEN = "https://hc-ping.example/5a1c0de5-token"
MINIMAL = {"paths": ["/data"], "to": ["/vault"]}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def written(env: dict[str, str], text: str, name: str = "home") -> Path:
    path = profile_path(name, env)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "any.toml"
    path.write_text(text)
    profile, found = examine(path)
    assert (profile is None) == bool(found)
    return [str(each) for each in found]


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_profile_is_found_by_its_name_and_by_its_file(env: dict[str, str]) -> None:
    path = written(env, '[backup]\npaths = ["/data"]\nto = ["s3://bucket/here"]\n')
    assert load_profile("home", env) == load_profile(str(path), env)
    assert load_profile("home", env).name == "home"
    assert list_profiles(env) == [path]


def test_a_profile_that_is_not_there_names_the_one_that_is_meant(env: dict[str, str]) -> None:
    assert list_profiles(env) == []
    with pytest.raises(MissingConfigurationError, match="backupiq profile new home"):
        load_profile("home", env)
    written(env, "")
    with pytest.raises(MissingConfigurationError, match="Did you mean home"):
        load_profile("hoem", env)


@pytest.mark.parametrize("name", ["", "Home", "a--b", "-a", "a b", "..", "a_b", "ä"])
def test_what_is_no_name_is_refused(name: str, env: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="lower-case"):
        profile_path(name, env)
    with pytest.raises(ValidationError, match="name: "):
        make_profile(name=name, backup=MINIMAL)


def test_a_name_inside_that_differs_from_the_files_is_a_problem_only_where_it_is_found_by_name(
    env: dict[str, str],
) -> None:
    path = written(env, 'name = "other"\n[backup]\npaths = ["/data"]\nto = ["/vault"]\n')
    with pytest.raises(ConfigurationError, match=r"this has to be home; or leave it out"):
        load_profile("home", env)
    assert load_profile(str(path), env).name == "other"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["backup: it is needed and not there: What to back up, where to and how"]),
        ("backup = 3", ["backup: this is a table of keys; write [backup] and its keys below"]),
        (
            '[backup]\npaths = ["/a"]\nto = ["/b"]\nexlude = ["x"]',
            ["backup.exlude: there is no such key; did you mean exclude?"],
        ),
        ('[backup]\npaths = ["/a"]\nto = ["/b"]\n[zzz]', ["zzz: there is no such key; there are backup, key, "]),
        (
            '[backup]\npaths = "/a"\nto = []\nthreads = 100\nexclude_caches = "perhaps"',
            [
                'backup.paths: this is a list; write ["...", "..."]',
                "backup.to: list should have at least 1 item",
                "backup.exclude_caches: write true or false",
                "backup.threads: input should be less than or equal to 64",
            ],
        ),
        (
            '[backup]\npaths = ["/a", "b"]\nto = ["c"]',
            ["backup.paths: number 2 is no abs", "backup.to: number 1 is no"],
        ),
        (
            '[backup]\npaths = ["/a"]\nto = ["/b"]\nanalysis = "all"',
            ["backup.analysis: input should be 'auto', 'full' or 'names'"],
        ),
        (
            '[backup]\npaths = ["/a"]\nto = ["/b"]\n[key]\nkey_block = "a"\npassword_file = "/x"',
            ["key: give one of key_block, password_file and password_command, not several"],
        ),
        ('[backup]\npaths = ["/a"]\nto = ["/b"]\n[[hooks.before]]\ncomand = ["x"]', ["hooks.before[0].command: it is"]),
        (
            '[backup]\npaths = ["/a"]\nto = ["/b"]\n[schedule]\ncron = "0 25 * * *"\ntimezone = "Europe/Berln"',
            ["schedule.cron: the hour takes 0 to 23", "schedule.timezone: there is no such time zone; did you mean Eu"],
        ),
        ("[backup\n", ["this is no TOML: "]),
    ],
)
def test_every_wrong_key_is_one_line_that_says_what_it_takes(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) >= len(expected)
    for line, beginning in zip(found, expected, strict=False):
        assert line.startswith(beginning)
        assert line.isprintable()


def test_the_error_of_a_run_tells_the_first_problem_and_how_many_more_there_are(env: dict[str, str]) -> None:
    path = written(env, "[backup]\npath = []\n")
    with pytest.raises(ConfigurationError) as caught:
        load_profile("home", env)
    assert caught.value.message.startswith(f"{path}: backup.paths: it is needed and not there")
    assert "(2 more: `backupiq profile check home`)" in caught.value.message
    assert len(caught.value.details["problems"]) == 3


SECRETS = ["ftp://host/hunter2-token", "hunter2 token", "https:///hunter2"]


@pytest.mark.parametrize("url", SECRETS)
def test_no_message_repeats_a_value(tmp_path: Path, url: str) -> None:
    text = f'[backup]\npaths = ["/a"]\nto = ["hunter2"]\nhost = {{ a = "hunter2" }}\n[hooks.webhooks]\nping = "{url}"\n'
    text += '[key]\npassword_file = "hunter2"\n[schedule]\ncron = "hunter2"\ntimezone = "hunter2"\n'
    found = problems(tmp_path, text)
    assert len(found) >= 5
    assert "hunter2" not in "\n".join(found)
    assert any(line.startswith("hooks.webhooks.ping: this is no URL that can be called") for line in found)


def test_a_webhook_is_a_secret_from_the_moment_the_profile_is_read(env: dict[str, str]) -> None:
    written(env, f'[backup]\npaths = ["/a"]\nto = ["/b"]\n[hooks.webhooks]\nping = "{TOKEN}"\n')
    profile = load_profile("home", env)
    assert "5a1c0de5" not in f"{profile} {profile!r} {profile.model_dump()} {profile.model_dump_json()}"
    assert "5a1c0de5" not in redact_text(f"GET {TOKEN}/start and POST /5a1c0de5-token/fail")


def test_files_that_are_no_profiles_are_told_apart(tmp_path: Path) -> None:
    for data, message in ((b"\xff\xfe", "not UTF-8"), (b"# " + b"x" * (1 << 20), "longer than 1 MiB")):
        path = tmp_path / "x.toml"
        path.write_bytes(data)
        with pytest.raises(ConfigurationError, match=message):
            load_profile(str(path))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_profile(f"{tmp_path}/")


# --- what a run makes of it ----------------------------------------------------------------------------------------


def test_options_win_over_the_profile_and_patterns_are_added(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", env["HOME"])
    written(
        env,
        '[backup]\npaths = ["~/docs"]\nto = ["~/vault", "s3://b/p"]\nexclude = ["*.iso"]\ntags = ["nightly"]\n'
        'threads = 2\none_file_system = true\n[[hooks.before]]\ncommand = ["true"]\n',
    )
    plain = resolve_profile("home", env=env)
    home = env["HOME"]
    assert plain.options == BackupOptions(
        paths=[f"{home}/docs"],
        to=[f"{home}/vault", "s3://b/p"],
        exclude=["*.iso"],
        tags=["nightly"],
        threads=2,
        one_file_system=True,
    )
    assert (plain.name, len(plain.hooks.before)) == ("home", 1)

    given: dict[str, Any] = {
        "paths": ["/other"],
        "to": [],
        "exclude": ["!a.iso"],
        "tags": None,
        "threads": 3,
        "exclude_larger_than": 0,
        "one_file_system": False,
        "dry_run": True,
        "retry_lock": 0.0,
    }
    options = resolve_profile("home", given, env=env).options
    assert options == plain.options.model_copy(
        update={
            "paths": ["/other"],
            "exclude": ["*.iso", "!a.iso"],
            "threads": 3,
            "exclude_larger_than": 0,
            "dry_run": True,
        }
    )


def test_the_password_comes_from_the_option_then_the_profile_then_the_environment(env: dict[str, str]) -> None:
    env |= {"BACKUPIQ_PASSWORD_FILE": "/from/variable"}
    profile = make_profile(name="home", backup=MINIMAL, key={"password_command": "pass show backup"})
    own = apply_profile(profile, env=env).key
    assert (own.file, own.command, own.block) == (None, "pass show backup", None)
    assert "BACKUPIQ_PASSWORD_FILE" not in own.env  # it would come before the command
    asked = PasswordSources(file=Path("/asked"), env=env)
    assert apply_profile(profile, key=asked).key is asked
    none = make_profile(name="home", backup=MINIMAL)
    assert apply_profile(none, key=PasswordSources(env=env)).key.env == env


def test_a_field_that_a_form_left_empty_is_not_there() -> None:
    profile = make_profile(name="a", backup=MINIMAL, key={"key_block": "k", "password_file": ""})
    assert profile.key.password_file is None
    assert make_profile(name="a", backup=MINIMAL, hooks={"webhooks": {"ping": ""}}).hooks.webhooks.ping is None


# --- writing -------------------------------------------------------------------------------------------------------

ABSOLUTE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map("/".__add__)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
COMMANDS = st.lists(
    st.builds(
        lambda program, rest, limit: {"command": [f"/{program}", *rest], "time_limit": limit},
        TEXT.map(lambda text: text.replace("\0", "")),
        st.lists(TEXT.map(lambda text: text.replace("\0", "")), max_size=3),
        st.floats(0.5, 86_400),
    ),
    max_size=2,
)
PROFILES = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9]{1,10}(-[a-z0-9]{1,10})?", fullmatch=True),
        "backup": st.fixed_dictionaries(
            {"paths": st.lists(ABSOLUTE, min_size=1, max_size=3), "to": st.lists(ABSOLUTE, min_size=1, max_size=3)},
            optional={
                "exclude": st.lists(TEXT, max_size=3),
                "host": TEXT,
                "threads": st.integers(1, 64),
                "retry_lock": st.floats(0, 1e9),
                "exclude_caches": st.booleans(),
                "limit_upload": st.integers(1024, 1 << 62),
            },
        ),
    },
    optional={
        "key": st.one_of(
            TEXT.map(lambda text: {"key_block": text}), ABSOLUTE.map(lambda text: {"password_file": text})
        ),
        "schedule": st.just({"cron": "*/5 1-3 1,15 jan-mar mon", "timezone": "America/New_York"}),
        "hooks": st.fixed_dictionaries(
            {},
            optional={
                "before": COMMANDS,
                "on_failure": COMMANDS,
                "webhooks": st.just({"ping": TOKEN, "method": "GET"}),
            },
        ),
    },
)


@given(PROFILES)
def test_what_is_written_is_read_as_the_same_profile(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    profile = Profile.model_validate(values)
    path = tmp_path_factory.mktemp("written") / f"{profile.name}.toml"
    write_profile(profile, path)
    assert examine(path, named=True) == (profile, [])


def test_every_setting_stands_in_a_written_profile_and_uncommenting_an_example_is_valid(tmp_path: Path) -> None:
    text = render_profile(make_profile(name="home", backup=MINIMAL))
    for model in (Profile.model_fields["backup"].annotation, Profile.model_fields["key"].annotation):
        for name in getattr(model, "model_fields"):  # noqa: B009 - a class in all but its annotation
            assert f"\n{name} = " in text or f"\n# {name} = " in text
    commented = [line[2:] for line in text.splitlines() if line.startswith(("# [[", "# command", "# time_limit = 60"))]
    assert len(commented) == 9
    schedule = ["[schedule]", *(line[2:] for line in text.splitlines() if line.startswith(("# cron", "# timezone")))]
    assert not problems(tmp_path, "\n".join([text.replace("[hooks.webhooks]", ""), *schedule, *commented]))


def test_a_written_profile_is_private_and_replaces_none(env: dict[str, str]) -> None:
    path = profiles_dir(env) / "home.toml"
    first, second = (make_profile(name="home", backup={**MINIMAL, "to": [to]}) for to in ("/a", "/b"))
    write_profile(first, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="--force"):
        write_profile(second, path)
    assert load_profile("home", env) == first
    write_profile(second, path, force=True)
    assert load_profile("home", env) == second


def test_a_name_that_is_not_utf8_is_refused_in_a_profile(tmp_path: Path) -> None:
    profile = make_profile(name="home", backup={**MINIMAL, "paths": ["/caf\udce9"]})
    with pytest.raises(ValidationError, match="not UTF-8"):
        write_profile(profile, tmp_path / "home.toml")


# --- schedules -----------------------------------------------------------------------------------------------------

NUMBERS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]


def cron_field(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, most).map(str)
    stepped = st.tuples(st.one_of(st.just("*"), span), step).map("/".join)
    return st.lists(st.one_of(st.just("*"), number.map(str), span, stepped), min_size=1, max_size=3).map(",".join)


@given(st.tuples(*itertools.starmap(cron_field, NUMBERS)).map(" ".join))
def test_what_the_profile_takes_as_a_schedule_prefects_scheduler_takes_too(cron: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    check_cron(cron)
    CronSchedule(cron=cron, timezone="Europe/Berlin")


@given(st.text(st.sampled_from("0123456789*/-, abcdefgjmnorstuw@#lwh?"), max_size=25))
def test_no_text_that_passes_is_refused_by_prefect(cron: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        check_cron(cron)
    except ValueError:
        return
    CronSchedule(cron=cron, timezone="UTC")


@pytest.mark.parametrize("cron", ["0 2 * * mon-fri", "*/15 * * JAN,dec *", "0 0 1 1 7", "59 23 31 12 0-7/2"])
def test_schedules_that_people_write_are_taken(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "60 * * * *", "* * 0 * *", "* * * 13 *", "5-1 * * * *", "*/0 * * * *", "@daily", "1//2 * * * *"],
)
def test_schedules_that_make_no_sense_are_refused(cron: str) -> None:
    with pytest.raises(ValueError, match=r"five fields|takes"):
        check_cron(cron)


def test_the_page_shows_a_profile_that_is_valid_and_names_what_hooks_are_told(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "profiles.md").read_text()
    (shown,) = (block.body for block in blocks("docs/profiles.md") if block.language == "toml")
    assert problems(tmp_path, shown) == []
    told = set(re.findall(r"^\| (`BACKUPIQ_.+?) \|", text, re.MULTILINE))
    report = BackupReport(**{field.name: 0 for field in dataclasses.fields(BackupReport)})
    facts = RunFacts("run").with_report(dataclasses.replace(report, unreadable=[], warnings=[]))
    named = {name.strip("`") for row in told for name in row.split(", ")}
    assert named == set(facts.environment(Moment.AFTER))


def test_a_run_needs_options_or_a_profile_and_options_are_done_where_both_are(env: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="the name of a profile"):
        resolve_run(None, None, None)
    path = written(env, '[backup]\npaths = ["/data"]\nto = ["/vault"]\n[[hooks.after]]\ncommand = ["true"]\n')
    own = BackupOptions(paths=["/own"], to=["/elsewhere"])
    assert resolve_run(own, "family", None).key.block == "family"
    assert resolve_run(None, None, str(path)).options.paths == ["/data"]
    both = resolve_run(own, None, str(path))
    assert (both.options, both.name, len(both.hooks.after)) == (own, "home", 1)


@pytest.mark.parametrize(
    ("text", "label"), [("home", "home"), ("block:family", "family"), ("/x/y/home.toml", "home"), ("./a\x1b", "a\\x1b")]
)
def test_a_profile_is_named_for_people_by_what_they_wrote(text: str, label: str) -> None:
    assert profile_label(text) == label


def test_profiles_and_hooks_import_neither_prefect_nor_an_http_client() -> None:
    modules = "backupiq.profiles, backupiq.hooks, backupiq.cli.profile"
    code = f"import sys, {modules}; print({{'prefect', 'httpx'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
