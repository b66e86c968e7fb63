"""Azure Blob Storage with a service principal: a sign-in of our own, and Azurite over TLS, which takes its tokens."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from backupiq.errors import StorageAuthenticationError, StorageConnectionError
from backupiq.storage import azure_control
from backupiq.storage.azure import AzureProvider
from backupiq.storage.azure_config import AzureConfig
from tests.support.servers.azurite import Azurite
from tests.support.servers.base import HOST, free_ports

TENANT = "11111111-2222-3333-4444-555555555555"
PRINCIPAL_SECRET = "the secret of the principal"


@dataclasses.dataclass(frozen=True)
class Certificates:
    """PEM files: an authority to trust, and a certificate of 127.0.0.1 with its key."""

    authority: Path
    server: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    made = Certificates(folder / "authority.pem", folder / "server.pem")
    key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certify("authority", key.public_key(), "authority", key, x509.BasicConstraints(True, None))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))])
    server = certify("server", server_key.public_key(), "authority", key, names)
    private = server_key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    made.authority.write_bytes(authority.public_bytes(form.Encoding.PEM))
    made.server.write_bytes(private + server.public_bytes(form.Encoding.PEM))
    return made


def certify(
    name: str, key: ec.EllipticCurvePublicKey, by: str, signer: ec.EllipticCurvePrivateKey, is_for: x509.ExtensionType
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, by)]
    builder = x509.CertificateBuilder(names[1], names[0], key, x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    return builder.add_extension(is_for, critical=False).sign(signer, hashes.SHA256())


class SignIn:
    """Microsoft's sign-in as far as a service principal meets it: one secret, tokens that Azurite takes."""

    def __init__(self, certificates: Certificates) -> None:
        self.asked: list[str] = []
        sign_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                sign_in.asked.append(self.path)
                status, said = sign_in.say(self.path, body)
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        for method in ("GET", "POST"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://{HOST}:{self.server.server_port}"

    def say(self, path: str, body: str) -> tuple[int, dict[str, object]]:
        if "openid-configuration" in path:
            base = f"{self.url}/{TENANT}"
            return 200, {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
            }
        if PRINCIPAL_SECRET.replace(" ", "+") not in body:
            return 401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)] + [b"signature"]
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        return 200, {"token_type": "Bearer", "expires_in": 3600, "access_token": token}


@pytest.fixture(scope="module")
def sign_in(certificates: Certificates) -> Iterator[SignIn]:
    served = SignIn(certificates)
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def azurite_tls(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Azurite]:
    pem = {"certificate": certificates.server, "authority": certificates.authority}
    with Azurite(tmp_path_factory.mktemp("azurite-tls"), **pem) as server:
        yield server


@pytest.fixture
def principal(azurite_tls: Azurite, sign_in: SignIn, certificates: Certificates) -> Callable[..., AzureConfig]:
    def make(container: str, secret: str = PRINCIPAL_SECRET, authority: str = sign_in.url) -> AzureConfig:
        env = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "the-client", "AZURE_CLIENT_SECRET": secret}
        env |= {"AZURE_AUTHORITY_HOST": authority, "REQUESTS_CA_BUNDLE": str(certificates.authority)}
        return AzureConfig.from_url(azurite_tls.destination(container), env)

    return make


async def test_a_service_principal_stores_reads_and_creates(
    azurite_tls: Azurite, principal: Callable[..., AzureConfig], sign_in: SignIn
) -> None:
    async with AzureProvider(principal(azurite_tls.new_name())) as provider:
        await provider.create()
        await provider.upload_file(b"{}", "config", create_only=True)
        assert await provider.read("config") == b"{}"
        assert azurite_tls.keys(provider.config.container) == ["config"]
    assert any(path.endswith("/token") for path in sign_in.asked)


async def test_a_principal_whose_secret_is_wrong_is_an_authentication_error(
    azurite_tls: Azurite, principal: Callable[..., AzureConfig]
) -> None:
    config = principal(azurite_tls.new_container(), "a wrong secret")
    async with AzureProvider(config) as provider:
        with pytest.raises(StorageAuthenticationError, match="client secret") as caught:
            await provider.authenticate()
    assert "a wrong secret" not in f"{caught.value.to_dict()}{caught.value!r}"
    with pytest.raises(StorageAuthenticationError, match="client secret"):
        azure_control.create_container(config)


async def test_a_sign_in_out_of_reach_is_worth_another_try(
    azurite_tls: Azurite, principal: Callable[..., AzureConfig]
) -> None:
    config = principal(azurite_tls.new_container(), authority=f"https://127.0.0.1:{free_ports(1)[0]}")
    async with AzureProvider(config) as provider:
        with pytest.raises(StorageConnectionError) as caught:
            await provider.authenticate()
    assert caught.value.retryable
