"""The clouds' blocks: what they make of their fields and of the makers' credential blocks, and what they refuse."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, ValidationError
from backupiq.telemetry import redact_text
from blocks import destinations
from blocks.destination import Destination
from blocks.destinations import TYPES, DestinationType, type_named
from blocks.repository_key import RepositoryKey
from tests.support.servers.moto import Moto

SECRET = "hunter2-that-nobody-may-see"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


def aws(**fields: Any) -> Any:
    from prefect_aws import AwsCredentials

    return AwsCredentials(**fields)


def s3(credentials: Any = None, **fields: Any) -> Any:
    from blocks.s3_destination import S3Destination

    keys = aws(aws_access_key_id="AKTEST", aws_secret_access_key=SECRET)
    return S3Destination(credentials=credentials or keys, **({"bucket": "photos"} | fields))


# --- every type ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.kind)
def test_a_type_is_described_for_people_and_programs(kind: DestinationType) -> None:
    cls = kind.load_class()
    assert issubclass(cls, Destination)
    assert cls.get_block_type_slug() == kind.slug
    assert cls.get_block_type_name().startswith("BackupIQ ")
    assert cls.get_description()
    assert cls._logo_url is not None
    assert cls._logo_url.scheme == "https"
    assert all(field.description for name, field in cls.model_fields.items()), kind
    assert type_named(kind.kind) is type_named(kind.slug) is kind


def test_the_password_has_a_logo_too() -> None:
    assert RepositoryKey._logo_url is not None


def test_a_type_whose_libraries_are_missing_says_how_to_get_them() -> None:
    kind = DestinationType("x", "Somewhere", "blocks.nowhere", "Nowhere", "clouds", ("prefect", "no_such.library"))
    assert kind.missing_libraries() == ("no_such.library",)
    with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[clouds\]"'):
        kind.load_class()


def test_finding_blocks_loads_no_library_of_a_cloud() -> None:
    libraries = ("prefect_aws", "prefect_gcp", "prefect_azure", "boto3", "pyicloud", "azure", "google.cloud")
    script = (
        "import sys, blocks.destinations, blocks.local_destination, flows.setup; "
        "[kind.missing_libraries() for kind in blocks.destinations.TYPES]; "
        f"print([name for name in {libraries!r} if name in sys.modules and getattr(sys.modules[name], '__file__', 0)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_with_an_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="local, s3, gcs, azure, icloud"):
        destinations.load_block("dropbox/photos")


# --- S3 ------------------------------------------------------------------------------------------------------------


def test_fields_and_credentials_of_s3_arrive_at_the_provider() -> None:
    credentials = aws(
        aws_access_key_id="AKTEST",
        aws_secret_access_key=SECRET,
        aws_session_token="a-token",
        region_name="eu-west-1",
        aws_client_parameters={"endpoint_url": "https://s3.example:9000", "verify_cert_path": __file__},
    )
    customer_key = base64.b64encode(bytes(32)).decode()
    block = s3(
        credentials,
        prefix="/a/b/",
        storage_class="data:GLACIER_IR,snapshots:STANDARD_IA",
        sse="sse-c",
        sse_customer_key=customer_key,
        checksum="SHA256",
        object_lock="GOVERNANCE",
        object_lock_days=30,
        virtual_hosted=False,
    )
    config = block.config()
    assert (config.access_key_id, config.secret_access_key, config.session_token) == ("AKTEST", SECRET, "a-token")
    assert (config.endpoint, config.region, config.ca_bundle) == ("https://s3.example:9000", "eu-west-1", __file__)
    assert (config.bucket, config.prefix, config.virtual_hosted) == ("photos", "a/b", False)
    assert config.storage_class == {"data": "GLACIER_IR", "snapshots": "STANDARD_IA"}
    assert (config.sse, config.sse_customer_key) == ("sse-c", customer_key)
    assert (config.object_lock_mode, config.object_lock_days) == ("GOVERNANCE", 30)
    assert block.provider().location == "s3://photos/a/b"
    shown = f"{block!r} {block} {config!r} {block.provider()!r} {block.model_dump_json()}"
    assert SECRET not in shown
    assert customer_key not in shown


def test_the_blocks_own_endpoint_and_region_come_before_those_of_the_credentials() -> None:
    from prefect_aws import MinIOCredentials

    credentials = MinIOCredentials(
        minio_root_user="root",
        minio_root_password=SECRET,
        region_name="one",
        aws_client_parameters={"endpoint_url": "http://one"},
    )
    assert s3(credentials).config().endpoint == "http://one"
    config = s3(credentials, endpoint="http://two:9000", region="two").config()
    assert (config.endpoint, config.region) == ("http://two:9000", "two")
    assert (config.access_key_id, config.secret_access_key) == ("root", SECRET)


def test_an_empty_aws_block_leaves_the_search_to_the_makers_library() -> None:
    config = s3(aws()).config()
    assert (config.access_key_id, config.session, config.profile) == (None, None, None)
    assert s3(aws(profile_name="nightly")).config().profile == "nightly"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"storage_class": "locks:GLACIER"}, "storage_class"),
        ({"endpoint": f"http://user:{SECRET}@host"}, "endpoint"),
        ({"sse_kms_key_id": "a-key"}, "sse_kms_key_id"),
        ({"object_lock": "GOVERNANCE"}, "object_lock_days"),
        ({"bucket": "no/bucket"}, "bucket"),
    ],
)
def test_s3_fields_that_do_not_fit_are_named_and_not_repeated(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named) as caught:
        s3(**fields).provider()
    assert SECRET not in caught.value.message


async def test_a_block_whose_fields_do_not_fit_says_so_when_it_tests_itself() -> None:
    trial = await s3(object_lock="GOVERNANCE").test()
    assert (trial.ok, trial.failed, trial.location) == (False, "connect", "BackupIQ S3 Destination")
    assert "object_lock_days" in trial.message


def test_credentials_that_switch_certificates_off_are_refused() -> None:
    credentials = aws(aws_client_parameters={"verify": False})
    with pytest.raises(ConfigurationError, match="verify_cert_path"):
        s3(credentials).provider()


def test_a_role_is_taken_on_when_it_is_needed_and_again_before_it_ends(
    moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.url)
    role = {"assume_role_arn": "arn:aws:iam::123456789012:role/backup", "region_name": "us-east-1"}
    keys = {"aws_access_key_id": moto.access_key, "aws_secret_access_key": SECRET}
    long, short = (
        s3(aws(**role, **keys, assume_role_kwargs={"DurationSeconds": seconds})).config().session.get_credentials()
        for seconds in (3600, 900)
    )
    first = long.get_frozen_credentials()
    assert first.token
    assert first.access_key != moto.access_key
    assert long.get_frozen_credentials() == first
    # Those that end within a quarter of an hour are renewed whenever they are asked for.
    assert short.get_frozen_credentials().token != short.get_frozen_credentials().token


def test_a_role_that_nobody_may_take_on_or_that_needs_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    role = {"assume_role_arn": "arn:aws:iam::123456789012:role/backup", "region_name": "us-east-1"}
    with pytest.raises(ConfigurationError, match="may take it on"):
        s3(aws(**role)).config()
    with pytest.raises(ConfigurationError, match="code from a device"):
        s3(aws(**role, assume_role_kwargs={"SerialNumber": "arn:aws:iam::1:mfa/anna"})).config()


async def test_an_s3_block_tests_itself_and_says_that_the_bucket_is_missing(moto: Moto) -> None:
    block = s3(endpoint=moto.url, bucket=moto.new_name(), prefix="a")
    trial = await block.test()
    assert trial.failed == "connect"
    assert trial.message.startswith(f"The bucket of s3://{block.bucket}/a does not exist. Create it, or run ")
    bucket = moto.new_bucket()
    trial = await s3(endpoint=moto.url, bucket=bucket, prefix="a").test()
    assert trial.ok, trial.message
    assert moto.keys(bucket) == []


def test_a_block_tests_itself_in_code_that_is_not_async(moto: Moto) -> None:
    assert s3(endpoint=moto.url, bucket=moto.new_bucket()).test_sync().ok


# --- Google --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def account() -> dict[str, str]:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "type": "service_account",
        "project_id": "a-project",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "backup@a-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }


def gcs(credentials: Any, **fields: Any) -> Any:
    from blocks.gcs_destination import GcsDestination

    return GcsDestination(credentials=credentials, **({"bucket": "photos"} | fields))


def test_a_service_account_arrives_at_the_provider_and_is_shown_nowhere(account: dict[str, str]) -> None:
    from prefect_gcp import GcpCredentials

    block = gcs(GcpCredentials(service_account_info=account), prefix="/a/", storage_class="COLDLINE", endpoint="")
    config = block.config()
    assert config.service_account is not None
    assert json.loads(config.service_account.get_secret_value()) == account
    assert (config.prefix, config.project, config.endpoint) == ("a", "a-project", None)
    assert config.storage_class == {"data": "COLDLINE"}
    assert block.provider().location == "gs://photos/a"
    line = account["private_key"].splitlines()[3]
    assert line not in f"{block!r} {config!r} {block.provider()!r} {block.model_dump_json()}"
    assert line not in redact_text(f"some text with {line}")


def test_the_file_of_a_service_account_is_read_where_the_backup_runs(account: dict[str, str], tmp_path: Path) -> None:
    from prefect_gcp import GcpCredentials

    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    config = gcs(GcpCredentials(service_account_file=file)).config()
    assert config.credentials_file == str(file)
    assert config.service_account is None


def test_a_google_block_without_an_account_takes_what_googles_tools_find(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect_gcp import GcpCredentials

    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    config = gcs(GcpCredentials(project="another")).config()
    assert config.credentials.service_account_email == account["client_email"]
    assert config.project == "another"


@pytest.mark.parametrize("fields", [{"bucket": "goog-photos"}, {"storage_class": "GLACIER"}, {"endpoint": "ftp://x"}])
def test_google_fields_that_do_not_fit_are_refused(fields: dict[str, Any], account: dict[str, str]) -> None:
    from prefect_gcp import GcpCredentials

    with pytest.raises(BackupIQError):
        gcs(GcpCredentials(service_account_info=account), **fields).provider()


# --- Azure ---------------------------------------------------------------------------------------------------------

ACCOUNT_KEY = base64.b64encode(SECRET.encode()).decode()


def azure(fields: dict[str, Any] | None = None, **credentials: Any) -> Any:
    from prefect_azure import AzureBlobStorageCredentials

    from blocks.azure_destination import AzureDestination

    return AzureDestination(
        credentials=AzureBlobStorageCredentials(**credentials), **({"container": "photos"} | (fields or {}))
    )


def test_a_connection_string_arrives_at_the_provider_and_is_shown_nowhere() -> None:
    text = f"DefaultEndpointsProtocol=https;AccountName=anna;AccountKey={ACCOUNT_KEY};EndpointSuffix=core.windows.net"
    block = azure(
        {"prefix": "/a/", "storage_class": "data:cold", "metadata": {"owner": "anna"}}, connection_string=text
    )
    config = block.config()
    assert config.account_key.get_secret_value() == ACCOUNT_KEY
    assert (config.account, config.endpoint, config.prefix) == ("anna", "https://anna.blob.core.windows.net", "a")
    assert config.storage_class == {"data": "Cold"}
    assert config.metadata == {"owner": "anna"}
    assert block.provider().location == "az://photos/a"
    assert ACCOUNT_KEY not in f"{block!r} {config!r} {block.provider()!r} {block.model_dump_json()}"


def test_a_service_principal_and_the_machines_own_identity_arrive_at_the_provider() -> None:
    url = "https://anna.blob.core.windows.net/"
    principal = azure(account_url=url, tenant_id="t", client_id="c", client_secret=SECRET).config()
    assert (principal.tenant_id, principal.client_id, principal.default_credential) == ("t", "c", False)
    assert principal.client_secret.get_secret_value() == SECRET
    assert principal.endpoint == "https://anna.blob.core.windows.net"
    assert azure(account_url=url).config().default_credential


@pytest.mark.parametrize(
    ("fields", "credentials"),
    [
        ({}, {"connection_string": f"AccountName=anna;AccountKey={SECRET}!"}),
        ({}, {"connection_string": SECRET}),
        ({"container": "Not_A_Container"}, {"account_url": "https://anna.blob.core.windows.net"}),
        ({"storage_class": "Glacier"}, {"account_url": "https://anna.blob.core.windows.net"}),
        ({}, {"account_url": "ftp://anna"}),
    ],
)
def test_azure_fields_that_do_not_fit_are_refused_and_not_repeated(
    fields: dict[str, Any], credentials: dict[str, Any]
) -> None:
    with pytest.raises(BackupIQError) as caught:
        azure(fields, **credentials).provider()
    assert SECRET not in caught.value.message


# --- iCloud --------------------------------------------------------------------------------------------------------


def test_an_apple_id_arrives_at_the_provider_and_its_password_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from blocks.icloud_destination import ICloudDestination

    monkeypatch.setenv("BACKUPIQ_ICLOUD_SESSION_DIR", str(tmp_path))
    monkeypatch.setenv("BACKUPIQ_ICLOUD_ENDPOINT", "https://127.0.0.1:1")
    block = ICloudDestination(
        apple_id="anna@example.com", password=SECRET, folder="Backups/Laptop", china_mainland=True
    )
    config = block.config()
    assert (config.apple_id, config.password, config.folder) == ("anna@example.com", SECRET, "Backups/Laptop")
    assert (config.session_folder, config.endpoint) == (tmp_path, "https://127.0.0.1:1")
    assert config.china_mainland
    assert config.login == block.provider().location == "icloud:/Backups/Laptop"
    assert SECRET not in f"{block!r} {config!r} {block.provider()!r} {block.model_dump_json()}"
    assert list(tmp_path.iterdir()) == []


def test_an_icloud_folder_that_cannot_be_is_refused() -> None:
    from blocks.icloud_destination import ICloudDestination

    with pytest.raises(ValidationError, match="folder"):
        ICloudDestination(apple_id="anna@example.com", password=SECRET, folder="../up").provider()
