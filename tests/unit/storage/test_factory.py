"""From what people write to providers: folders and URLs; nothing is contacted, and no secret is repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupiq.errors import BackupIQError, UnknownDestinationError
from backupiq.storage.factory import CLOUDS, open_destination
from backupiq.storage.local import LocalProvider
from backupiq.storage.throttle import Limits, Throttle

ENV = {
    "AWS_ACCESS_KEY_ID": "AKTEST",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key",
    "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
    "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
    "BACKUPIQ_ICLOUD_APPLE_ID": "anna@example.com",
    "BACKUPIQ_ICLOUD_PASSWORD": "an-apple-password",
}
SECRETS = ("a-secret-key", "a2V5", "anna@example.com", "an-apple-password")
LIBRARIES = ("boto3", "google", "azure", "pyicloud", "requests", "prefect", "prefect_aws", "obstore")


@pytest.mark.parametrize(
    "dest", ["/backup/here", "file:///backup/here", "file://localhost/backup/here", "FILE:/backup/here"]
)
def test_a_path_and_its_url_open_the_folder(dest: str) -> None:
    provider = open_destination(dest)
    assert isinstance(provider, LocalProvider)
    assert provider.root == Path("/backup/here")


def test_a_relative_path_a_home_and_an_encoded_url_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    assert open_destination("some/folder").location == os.path.abspath("some/folder")
    assert open_destination("~/backup").location == os.path.abspath("/home/somebody/backup")
    assert open_destination("file:///with%20space").location == os.path.abspath("/with space")
    assert open_destination("./odd:name").location == os.path.abspath("odd:name")


def test_opening_a_destination_makes_nothing(tmp_path: Path) -> None:
    open_destination(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dest", "kind", "location"),
    [
        ("s3://photos/a/b", "s3", "s3://photos/a/b"),
        ("S3://photos", "s3", "s3://photos"),
        ("gs://photos/a?endpoint=http://127.0.0.1:1", "gcs", "gs://photos/a"),
        ("az://photos/a", "azure", "az://photos/a"),
        ("icloud:/Backups/Laptop", "icloud", "icloud:/Backups/Laptop"),
    ],
)
def test_a_url_opens_the_provider_of_its_scheme(dest: str, kind: str, location: str) -> None:
    provider = open_destination(dest, env=ENV)
    assert provider.kind == kind
    assert provider.location == location
    assert not any(secret in repr(provider) for secret in SECRETS)


def test_each_destination_has_an_identity_of_its_own() -> None:
    written = [
        "s3://photos/a",
        "s3://photos/b",
        "s3://photos/a?endpoint=http://127.0.0.1:1",
        "gs://photos/a?endpoint=http://127.0.0.1:1",
        "az://photos/a",
        "icloud:/a",
        "/a",
    ]
    identities = [open_destination(dest, env=ENV).identity for dest in written]
    assert len(set(identities)) == len(written)
    assert not any(secret in identity for identity in identities for secret in SECRETS)


@pytest.mark.parametrize("scheme", ["file:///x", *(f"{scheme}:" for scheme in CLOUDS)])
def test_limits_reach_every_provider(scheme: str) -> None:
    limits = Limits(upload=Throttle(1000), download=Throttle(1000))
    urls = {"file:///x": "file:///x", "icloud:": "icloud:/x", "gs:": "gs://photos?endpoint=http://127.0.0.1:1"}
    provider = open_destination(urls.get(scheme, f"{scheme}//photos"), limits=limits, env=ENV)
    assert limits in vars(provider).values()


@pytest.mark.parametrize(
    "dest", ["", " ", "ftp://host", "sftp:user@host:/x", "block:nightly", "file://otherhost/x", "file:relative", "a\0b"]
)
def test_what_is_no_destination_is_refused(dest: str) -> None:
    with pytest.raises(UnknownDestinationError):
        open_destination(dest)


@pytest.mark.parametrize(
    "dest",
    [
        "rest:https://user:hunter2@host/",
        "s3://user:hunter2@host/bucket",
        "s3://photos/a?secret_access_key=hunter2",
        "s3://photos/a?endpoint=http://user:hunter2@host",
        "gs://photos/a?token=hunter2",
        "az://photos/a?account_key=hunter2",
        "az://user:hunter2@photos/a",
        "icloud://anna:hunter2@folder",
        "icloud:/Folder?password=hunter2",
    ],
)
def test_a_url_with_credentials_is_refused_and_they_are_not_repeated(dest: str) -> None:
    with pytest.raises(BackupIQError) as caught:
        open_destination(dest, env=ENV)
    assert "hunter2" not in str(caught.value.to_dict())


def test_folders_load_no_library_of_a_cloud() -> None:
    script = (
        "import sys; from backupiq.storage.factory import open_destination; open_destination('/backup'); "
        "import backupiq.cli.main; "
        f"print([name for name in {LIBRARIES!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
