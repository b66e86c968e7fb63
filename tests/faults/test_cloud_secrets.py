"""The clouds' credentials appear nowhere but where they belong: with who was given them, and encrypted in blocks.

Runs to five destinations and runs that are refused are watched while they go on: their processes, and every file
below their home and their temporary folder. What they printed and what Prefect's servers kept is searched afterwards.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest

from tests.faults.driver import Commands
from tests.faults.support import PATIENCE_SECONDS
from tests.faults.test_secrets import Watcher, everything, spellings
from tests.interop.cloud_support import CLOUDS, Clouds, Replica, running_clouds, save_blocks
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, backupiq_program
from tests.support.servers.base import HOST, free_ports
from tests.support.servers.gcs import new_key_pair, service_account

PASSWORD = "Kw7pTz4vRepositoryPasswordThatStandsNowhereElse1"
WRONG = "Jq5sXc8nWrongSecretThatStandsNowhereElse9"
PROBE_AT_ONCE = {"BACKUPIQ_BREAKER_COOLDOWN": "0.001"}
"""The breaker that a refused run opened lets the next one try at once."""
WRONG_KEY = base64.b64encode(WRONG.encode()).decode()
SIGNED_TOKEN = re.compile(rb"eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}")
"""What google-auth makes of a service account's key: as good as the key for an hour."""


# --- the search ----------------------------------------------------------------------------------------------------


class Secrets:
    """What must not be found, by a name that may be shown."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.names: set[str] = set()
        self._written: dict[bytes, str] = {}
        self.learn(secrets)

    def learn(self, secrets: Mapping[str, str]) -> None:
        """More of them."""
        self.names |= set(secrets)
        for name, secret in secrets.items():
            in_urls = (quote(secret, safe=""), quote(secret))  # programs differ about slashes
            written = (*in_urls, json.dumps(secret)[1:-1])
            for spelling in {*spellings(secret.encode()), *(text.encode() for text in written)}:
                self._written[spelling] = name

    def found_in(self, data: bytes) -> set[str]:
        """Names of the secrets that stand there, however written."""
        found = {name for spelling, name in self._written.items() if spelling in data}
        return found | ({"a signed token"} if SIGNED_TOKEN.search(data) else set())

    def found_in_each(self, places: Iterable[tuple[str, bytes]]) -> set[str]:
        """The same for many places, each with where it stands."""
        return {f"{name} in {where}" for where, data in places for name in self.found_in(data)}


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink():
                    yield str(path), path.read_bytes()
            except OSError:  # gone since
                continue


class FileWatcher:
    """Searches every file below some folders, again and again while a program runs; temporary files come and go."""

    def __init__(self, secrets: Secrets, folders: Iterable[Path]) -> None:
        self.found: set[str] = set()
        self.seen: set[str] = set()
        self._secrets, self._folders = secrets, [*folders]
        self._known: dict[Path, tuple[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        last, took = False, 0.0
        while not last:
            last = self._ended.wait(0.05 + took)  # the run that is watched needs the processor too
            began = time.monotonic()
            for folder in self._folders:
                for path in folder.rglob("*"):
                    self._look(path)
            took = time.monotonic() - began

    def _look(self, path: Path) -> None:
        try:
            status = path.stat()
            if path.is_file() and self._known.get(path) != (status.st_mtime_ns, status.st_size):
                self._known[path] = (status.st_mtime_ns, status.st_size)
                self.seen.add(str(path))
                self.found |= self._secrets.found_in_each([(str(path), path.read_bytes())])
        except OSError:  # gone since
            return

    def finish(self) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_SECONDS)


# --- the runs ------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What runs showed and left: a name and bytes for each place."""

    secrets: Secrets
    output: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    processes: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    files: set[str] = field(default_factory=set, repr=False)
    found_in_files: set[str] = field(default_factory=set)

    def watch(self, program: BackupIQ, arguments: list[str], env: Mapping[str, str], **options: str | None) -> str:
        """Run a command to its good end and look on; what it printed."""
        temporary = Path(env["TMPDIR"])
        temporary.mkdir(exist_ok=True)
        process = program.start(*arguments, env=env, **options)  # type: ignore[arg-type]
        files, processes = FileWatcher(self.secrets, [program.home, temporary]), Watcher(process)
        output = "".join(processes.finish())
        files.finish()
        self.output.append((" ".join(arguments[:1]), output.encode(errors="surrogateescape")))
        self.processes += processes.seen.items()
        self.files |= files.seen
        self.found_in_files |= files.found
        assert process.returncode == 0, "the run failed; what it said is not shown, since it may hold secrets"
        return output


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with running_clouds(tmp_path_factory.mktemp("clouds")) as running:
        yield running


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for number in range(40):
        (folder / f"file-{number}").write_bytes(b"content %d\n" % number * 4000)
    return folder


@pytest.fixture(scope="module")
def replicas(clouds: Clouds, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replica]:
    return clouds.replicas(tmp_path_factory.mktemp("local") / "repo")


@dataclass(frozen=True)
class Given:
    """Credentials of other kinds than the servers' own environment has: files of service accounts, SAS tokens."""

    account_file: Path
    sas: str
    wrong_account_file: Path
    wrong_private_key: str

    @property
    def wrong_sas(self) -> str:
        return re.sub(r"sig=[^&]*", f"sig={quote(WRONG_KEY, safe='')}", self.sas)


@pytest.fixture(scope="module")
def given(clouds: Clouds, replicas: dict[str, Replica], tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("google")
    wrong = new_key_pair()[0]
    (folder / "account.json").write_text(clouds.gcs.service_account)
    (folder / "wrong.json").write_text(service_account(wrong, f"{clouds.gcs.url}/token"))
    container = replicas["azure"].url.removeprefix("az://").partition("/")[0]
    return Given(folder / "account.json", clouds.azure.sas(container), folder / "wrong.json", wrong)


@pytest.fixture(scope="module")
def secrets(clouds: Clouds, given: Given) -> Secrets:
    """Every secret that any of the runs is given; what iCloud's server hands out is added when they have ended."""
    account = json.loads(clouds.gcs.service_account)
    return Secrets(
        {
            "the repository's password": PASSWORD,
            "S3's secret key": clouds.s3.secret_key,
            "Google's token": clouds.gcs.token,
            "the service account's key": account["private_key"].splitlines()[5],
            "Azure's key": clouds.azure.key,
            "Azure's SAS signature": parse_qs(given.sas)["sig"][0],
            "Apple's password": clouds.icloud.password,
            "a wrong secret": WRONG,
            "a wrong secret in base64": WRONG_KEY,
            "a wrong private key": given.wrong_private_key.splitlines()[5],
        }
        | session_tokens(clouds)
    )


def session_tokens(clouds: Clouds) -> dict[str, str]:
    """What is kept of the sign-in at iCloud: tokens of the session, of trust and of the web."""
    kept = b"".join(data for _, data in files_below(clouds.sessions)).decode()
    found = sorted(set(re.findall(r"\b[0-9a-f]{48}\b", kept)))
    return {f"token {number} of iCloud's session": token for number, token in enumerate(found)}


@pytest.fixture(scope="module")
def with_server(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackupIQ]:
    """The program with a server of Prefect that runs already."""
    home = tmp_path_factory.mktemp("home")
    yield from _stopped(BackupIQ(backupiq_program(), home, PASSWORD, prefect_server.settings(home)))


@pytest.fixture(scope="module")
def without_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackupIQ]:
    """The program with none: Prefect's embedded server is a process of its own."""
    home = tmp_path_factory.mktemp("home")
    settings = {"PREFECT_HOME": str(home / ".prefect"), "DO_NOT_TRACK": "1"}
    yield from _stopped(BackupIQ(backupiq_program(), home, PASSWORD, settings))


def _stopped(program: BackupIQ) -> Iterator[BackupIQ]:
    try:
        yield program
    finally:
        program.stop_all()


def backup(source: Path, *destinations: str) -> list[str]:
    to = [word for each in destinations for word in ("--to", each)]
    return ["backup", str(source), *to, "--debug", "--log-level", "debug"]


@pytest.fixture(scope="module")
def seen(
    clouds: Clouds,
    replicas: dict[str, Replica],
    source: Path,
    secrets: Secrets,
    given: Given,
    with_server: BackupIQ,
    without_server: BackupIQ,
) -> Seen:
    """Two watched runs to all destinations, of variables and of blocks, and one run for each way to be refused."""
    seen = Seen(secrets)
    everywhere = backup(source, *(replica.url for replica in replicas.values()))
    env = clouds.environment | {"TMPDIR": str(without_server.home.with_name("temporary-1"))}
    env |= {"GOOGLE_APPLICATION_CREDENTIALS": str(given.account_file)}
    seen.watch(without_server, everywhere, env)

    apple = clouds.icloud.environment(clouds.sessions)
    env = {name: value for name, value in apple.items() if not name.endswith(("PASSWORD", "APPLE_ID"))}
    blocks = save_blocks(clouds, replicas, PASSWORD, with_server.environment(env=env))
    env |= {"TMPDIR": str(with_server.home.with_name("temporary-2"))}
    seen.watch(with_server, [*backup(source, *blocks), "--key-block", "five"], env, password=None)

    commands = Commands(with_server.environment(env=clouds.environment | PROBE_AT_ONCE), with_server.home)
    try:
        for name, (url, more, code) in single_runs(clouds, replicas, given, with_server.home).items():
            for arguments in (backup(source, url), ["snapshots", "--repo", url, "--debug"]):
                done = commands.run(*arguments, **({"password": PASSWORD} | more))
                seen.output.append((f"{arguments[0]}: {name}", f"{done.stdout}{done.stderr}".encode()))
                assert done.returncode == code, f"{arguments[0]} with {name} ended with {done.returncode}"
    finally:
        commands.close()
    secrets.learn(session_tokens(clouds))
    return seen


def single_runs(clouds: Clouds, replicas: Mapping[str, Replica], given: Given, home: Path) -> dict[str, Any]:
    """Destination, what is given for it and the exit code, of runs with other credentials and with wrong ones."""
    s3, gcs, azure, icloud = (replicas[kind].url for kind in CLOUDS)
    no_string = {"AZURE_STORAGE_CONNECTION_STRING": ""}
    nobody = f"az://container/place?endpoint=http://{HOST}:{free_ports(1)[0]}/{clouds.azure.account}"
    wrong_string = clouds.azure.connection_string.replace(clouds.azure.key, WRONG_KEY)

    def env(**variables: str) -> dict[str, Any]:
        return {"env": variables}

    return {
        "a token for Google": (gcs, {}, 0),
        "a SAS token": (azure, env(**no_string, AZURE_STORAGE_SAS_TOKEN=given.sas), 0),
        "a wrong password": (s3, {"password": WRONG}, 12),
        "a wrong secret key": (s3, env(AWS_SECRET_ACCESS_KEY=WRONG), 1),
        "a wrong token": (gcs, env(CLOUDSDK_AUTH_ACCESS_TOKEN=WRONG), 1),
        "a wrong private key": (gcs, env(GOOGLE_APPLICATION_CREDENTIALS=str(given.wrong_account_file)), 1),
        "a wrong key": (azure, env(AZURE_STORAGE_CONNECTION_STRING=wrong_string), 1),
        "a wrong SAS token": (azure, env(**no_string, AZURE_STORAGE_SAS_TOKEN=given.wrong_sas), 1),
        "a SAS token and nobody there": (nobody, env(**no_string, AZURE_STORAGE_SAS_TOKEN=given.sas), 1),
        "a wrong password of Apple's": (
            icloud,
            env(BACKUPIQ_ICLOUD_PASSWORD=WRONG, BACKUPIQ_ICLOUD_SESSION_DIR=str(home / "new session")),
            1,
        ),
    }


# --- what must not be there ----------------------------------------------------------------------------------------


def test_nothing_printed_holds_a_credential(seen: Seen, secrets: Secrets) -> None:
    assert secrets.found_in_each(seen.output) == set()
    printed = b"".join(data for _, data in seen.output)
    assert b"Traceback" in printed, "--debug showed nothing that could hold a secret"
    assert b"destination=" in printed or b'"destination"' in printed


def test_the_database_and_the_log_of_prefects_server_hold_no_credential(
    seen: Seen, secrets: Secrets, replicas: dict[str, Replica], prefect_server: PrefectServer, with_server: BackupIQ
) -> None:
    """The blocks with all of them are in it, encrypted."""
    database = everything(Path(prefect_server.home) / "prefect.db")
    places = [("Prefect's database", database), ("its log", Path(prefect_server.log).read_bytes())]
    assert secrets.found_in_each(places) == set()
    for word in (b"backupiq-icloud-destination", b"aws_secret_access_key", b"five"):
        assert word in database, "the blocks are not in the database that was searched"
    for kind in CLOUDS:
        place = replicas[kind].url.partition("?")[0].encode()
        assert place in database, f"no run to {kind} is in the database that was searched"


def test_no_file_below_the_home_or_the_temporary_folder_ever_held_a_credential(
    seen: Seen, secrets: Secrets, with_server: BackupIQ, without_server: BackupIQ
) -> None:
    """Spool, state, Prefect's own folder with the embedded server's database, and whatever came and went."""
    assert seen.found_in_files == set()
    for name in ("prefect.db", "/spool/"):
        assert any(name in path for path in seen.files), f"no {name} was looked into"
    assert secrets.found_in_each(files_below(with_server.home, without_server.home)) == set()
    assert secrets.found_in(everything(without_server.home / ".prefect" / "prefect.db")) == set()


def test_no_process_that_a_run_starts_is_given_a_credential(seen: Seen, secrets: Secrets) -> None:
    """By its arguments or its environment: not the embedded server, its guard, or the helpers that pack."""
    assert any("uvicorn" in name for name, _ in seen.processes), "the embedded server was not seen"
    assert any(name.startswith("the environment") and data for name, data in seen.processes)
    assert secrets.found_in_each(seen.processes) == set()


def test_the_search_finds_every_credential_where_it_belongs(
    seen: Seen, secrets: Secrets, clouds: Clouds, given: Given
) -> None:
    """A search that finds nothing anywhere would prove nothing."""
    env = json.dumps(clouds.environment).encode()
    belongs = [env, PASSWORD.encode(), WRONG.encode(), WRONG_KEY.encode(), given.sas.encode()]
    belongs += [given.account_file.read_bytes(), given.wrong_account_file.read_bytes()]
    belongs += [data for _, data in files_below(clouds.sessions)]
    assert set().union(*map(secrets.found_in, belongs)) >= secrets.names
    assert sum("iCloud's session" in name for name in secrets.names) >= 3
    assert secrets.found_in(base64.b64encode(b"x" + WRONG.encode())) == {"a wrong secret"}
