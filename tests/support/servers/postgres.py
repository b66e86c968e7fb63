"""PostgreSQL as Debian packages it: a cluster of its own in a folder, for one session of tests."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from tests.support.programs import is_root, plain_environment, unavailable
from tests.support.servers.base import HOST, Server

PASSWORD = "pg/secret:of@backupiq#1"
USER = "catalog"
INSTALLED = Path("/usr/lib/postgresql")


def postgres_programs() -> Path:
    """The folder with the programs of the newest PostgreSQL; ends the test when there is none."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not versions:
        unavailable("PostgreSQL is not on this machine; install the package postgresql, or run `make test` as root")
    return versions[-1].parent


class PostgreSQL(Server):
    """One cluster on a free port. It refuses to run as root, so root lets another user run it, in a folder of that
    user's below the system's temporary folder: pytest's own folders are closed to others. `remove` takes it away."""

    def __init__(self) -> None:
        self._programs = postgres_programs()
        self._user = _other_user() if is_root() else None
        super().__init__(Path(tempfile.mkdtemp(prefix="backupiq-postgres-")))
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        self._numbers = itertools.count(1)
        self._make_cluster()

    def _make_cluster(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)  # read by another user, in a folder that only that user may enter
        command = [self._programs / "initdb", "--pgdata", self.folder / "data", "--username", USER, "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = subprocess.run(
            command, user=self._user, env=plain_environment(), cwd="/", capture_output=True, text=True, check=False
        )
        secret.unlink()
        assert done.returncode == 0, done.stderr

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": self.ports[0],
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "max_connections": 30,
            "shared_buffers": "64MB",
            "log_min_messages": "warning",
        }
        pairs = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        return [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *pairs]

    def _launch(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                env=plain_environment(),
                cwd="/",
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it at once, for its clients too: SIGTERM would wait for them, and nothing it stores is needed again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
        super().stop()

    def remove(self) -> None:
        """Stop it and delete all it stored."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.address("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def address(self, database: str) -> str:
        """The URL of a database, with user and password."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{HOST}:{self.ports[0]}/{database}"

    def new_database(self) -> str:
        """The URL of an empty catalog: a schema of its own, which costs a hundredth of what a database does."""
        import psycopg

        name = f"catalog_{next(self._numbers)}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return self.address("postgres") + "?options=" + quote(f"-csearch_path={name}")


def _other_user() -> int:
    """Whom root lets run it: the user of Debian's package, else nobody."""
    users = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
    found = users.get("postgres", users.get("nobody"))
    if found is None:
        unavailable("there is no user postgres or nobody for PostgreSQL, which refuses to run as root")
    return found
