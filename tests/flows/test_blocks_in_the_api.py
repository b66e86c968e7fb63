"""Blocks as the API keeps them: found by name from anywhere, their secrets encrypted, what is wrong said plainly."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import (
    BackupIQError,
    ConfigurationError,
    MissingConfigurationError,
    OrchestrationError,
    ValidationError,
)
from backupiq.storage.local import LocalProvider
from backupiq.storage.throttle import Limits, Throttle
from backupiq.telemetry import redact_text
from tests.flows.conftest import Api
from tests.support.programs import BackupIQ
from tests.support.servers.icloud import ICloudServer
from tests.support.servers.moto import Moto

SECRET = "hunter2-kept-in-the-api"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


def save(block: Any, name: str) -> Any:
    block.save(name, overwrite=True, _sync=True)
    return block


def local(path: Path) -> Any:
    from blocks.local_destination import LocalDestination

    return LocalDestination(path=path)


def s3(name: str, **fields: Any) -> Any:
    from prefect_aws import AwsCredentials

    from blocks.s3_destination import S3Destination

    keys = save(AwsCredentials(aws_access_key_id="AKTEST", aws_secret_access_key=SECRET), f"{name}-keys")
    return S3Destination(credentials=keys, **fields)


async def test_a_destination_is_found_by_the_name_of_its_block_inside_a_running_loop(api: Api, tmp_path: Path) -> None:
    from blocks.destinations import provider_for

    await local(tmp_path / "vault").save("found-by-name", overwrite=True)
    limits = Limits(upload=Throttle(1000))
    provider = provider_for("block:found-by-name", limits=limits)
    assert isinstance(provider, LocalProvider)
    assert provider.root == tmp_path / "vault"
    assert limits in vars(provider).values()


def test_a_block_that_is_not_there_is_named(api: Api) -> None:
    from blocks.destinations import load_destination
    from blocks.repository_key import load_password

    for name in ("no-such-vault", "s3/no-such-vault", "backupiq-local-destination/no-such-vault"):
        with pytest.raises(MissingConfigurationError, match="'no-such-vault'"):
            load_destination(name)
    with pytest.raises(MissingConfigurationError, match="'no-such-key'"):
        load_password("no-such-key")


def test_a_password_comes_back_from_its_block_and_is_known_to_the_logs_redaction(api: Api) -> None:
    from blocks.repository_key import RepositoryKey, load_password

    RepositoryKey(password="kept-in-a-block-é😀").save("kept", overwrite=True, _sync=True)  # type: ignore[call-arg]
    assert load_password("kept").get_secret_value() == "kept-in-a-block-é😀"
    assert "kept-in-a-block" not in redact_text("the password is kept-in-a-block-é😀")


def test_a_cloud_block_comes_back_with_its_credentials_and_can_be_used(api: Api, moto: Moto) -> None:
    from blocks.destinations import load_block

    bucket = moto.new_bucket()
    save(s3("cloudy", bucket=bucket, prefix="a", endpoint=moto.url, storage_class="STANDARD_IA"), "cloudy")
    block = load_block("cloudy")
    config = block.config()  # type: ignore[attr-defined]
    assert (config.access_key_id, config.secret_access_key) == ("AKTEST", SECRET)
    assert config.storage_class == {"data": "STANDARD_IA"}
    trial = block.test_sync()
    assert trial.ok, trial.message
    assert SECRET not in redact_text(f"it is {SECRET}")
    save(s3("cloudy", bucket="absent", endpoint=moto.url), "cloudy")
    trial = load_block("cloudy").test_sync()
    assert trial.message == (
        "The bucket of s3://absent does not exist. Create it, or run `backupiq init --to block:cloudy`."
    )


def test_both_kinds_of_s3_credentials_come_back_as_what_they_are(api: Api) -> None:
    from prefect_aws import MinIOCredentials

    from blocks.destinations import load_block
    from blocks.s3_destination import S3Destination

    keys = MinIOCredentials(minio_root_user="root", minio_root_password=SECRET)
    save(S3Destination(credentials=keys, bucket="photos"), "minio")
    assert load_block("s3/minio").config().access_key_id == "root"  # type: ignore[attr-defined]


def test_two_blocks_of_one_name_are_told_apart_by_their_types(api: Api, tmp_path: Path) -> None:
    from blocks.destinations import load_destination

    save(local(tmp_path), "twice")
    save(s3("twice", bucket="photos"), "twice")
    with pytest.raises(ConfigurationError, match="block:local/twice or block:s3/twice"):
        load_destination("twice")
    assert load_destination("local/twice").kind == "local"
    assert load_destination("s3/twice").kind == "s3"
    assert load_destination("backupiq-s3-destination/twice").location == "s3://photos"


def test_a_block_of_other_values_than_the_type_takes_is_named_without_its_values(api: Api, tmp_path: Path) -> None:
    from blocks.destinations import load_destination

    save(s3("spoilt", bucket="photos"), "spoilt")
    _spoil(api, "spoilt", {"bucket": {"secret": SECRET}, "object_lock_days": SECRET})
    with pytest.raises(ConfigurationError, match=r"block s3/spoilt .* look at bucket, .*object_lock_days") as caught:
        load_destination("spoilt")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def _spoil(api: Api, name: str, data: dict[str, Any]) -> None:
    (found,) = api.ask("/block_documents/filter", block_documents={"name": {"any_": [name]}})
    body = {"data": data, "merge_existing_data": True}
    api.server.call(f"/block_documents/{found['id']}", body, "PATCH")


def test_secrets_are_not_told_by_the_api_unless_it_is_asked_for_them(api: Api) -> None:
    save(s3("told", bucket="photos"), "told")
    documents = api.ask("/block_documents/filter", block_documents={"name": {"any_": ["told", "told-keys"]}})
    assert len(documents) == 2
    assert SECRET not in str(documents)


def test_an_api_that_does_not_answer_is_told_in_one_line(api: Api) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from blocks.destinations import load_destination

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        for name in ("any", "local/any"):
            with pytest.raises(OrchestrationError, match="does not answer") as caught:
                load_destination(name)
            assert isinstance(caught.value, BackupIQError)


@pytest.fixture
def icloud(tmp_path: Path) -> Iterator[ICloudServer]:
    with ICloudServer(tmp_path / "icloud") as server:
        yield server


async def test_an_icloud_block_is_signed_in_by_its_name(
    api: Api, backupiq: BackupIQ, icloud: ICloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks.destinations import load_block
    from blocks.icloud_destination import ICloudDestination

    block = ICloudDestination(apple_id=icloud.apple_id, password=icloud.password, folder="Backups/Laptop")
    await block.save("in-the-cloud", overwrite=True)
    env = {name: value for name, value in icloud.environment(tmp_path / "session").items() if "BUNDLE" in name}
    env |= {"BACKUPIQ_ICLOUD_ENDPOINT": icloud.url, "BACKUPIQ_ICLOUD_SESSION_DIR": str(tmp_path / "session")}
    login = ["providers", "login", "in-the-cloud", "--code-stdin"]
    done = await asyncio.to_thread(backupiq.run, *login, env=env, stdin=f"{icloud.code}\n")
    assert done.stdout.startswith("icloud:/Backups/Laptop: signed in.")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    trial = await load_block("in-the-cloud").test()
    assert "Create it, or run `backupiq init --to block:in-the-cloud`." in trial.message
    icloud.accounts.end_trust()
    trial = await load_block("in-the-cloud").test()
    assert "backupiq providers login block:in-the-cloud" in trial.message


def test_only_destinations_of_icloud_are_signed_in(api: Api, tmp_path: Path) -> None:
    from backupiq.cli.icloud_sign_in import icloud_config

    save(local(tmp_path), "on-a-disk")
    with pytest.raises(ValidationError, match="block:on-a-disk is no iCloud destination"):
        icloud_config("block:on-a-disk")
