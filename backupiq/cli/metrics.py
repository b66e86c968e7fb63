"""The commands about figures for Prometheus: show them, serve them, forget what is no more."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json
from backupiq.cli.output import note, print_json, print_line
from backupiq.errors import ConfigurationError, ValidationError

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import Metric

PORT = 9842
REQUEST_SECONDS = 10.0
"""How long one request may take to come; requests are answered one after another."""

app = typer.Typer(
    name="metrics",
    help="Figures for Prometheus: show, serve or forget them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show() -> None:
    """Print the figures of this user's runs in Prometheus' text format."""
    from backupiq.telemetry.metrics import read_figures

    typer.echo(read_figures().render().decode(), nl=False)


@app.command()
def serve(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes one that is free.")] = PORT,
    address: Annotated[
        str, typer.Option("--address", metavar="IP", help="The address to listen at; only this machine by default.")
    ] = "127.0.0.1",
) -> None:
    """Answer Prometheus at /metrics until Ctrl-C. The figures are read anew for each request."""
    if not is_loopback(address):
        note("warning: whoever reaches this address can read the names of your profiles and destinations")
    with make_server(address, port) as server:
        shown = f"[{address}]" if ":" in address else address
        note(f"serving http://{shown}:{server.server_port}/metrics")
        server.serve_forever()


@app.command()
def forget(
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="A profile that is no more.")] = None,
    destination: Annotated[
        str | None, typer.Option("--destination", metavar="DEST", help="A destination as `metrics show` names it.")
    ] = None,
    json: Json = False,
) -> None:
    """Forget the figures of a profile or destination, so that nobody is warned about it any more."""
    from backupiq.telemetry.metrics import forget as forget_figures

    labels = {name: value for name, value in (("profile", profile), ("destination", destination)) if value}
    if not labels:
        raise ValidationError("Say what to forget: --profile NAME or --destination DEST.")
    gone = forget_figures(labels)
    if json:
        print_json({"forgotten": gone})
    else:
        print_line(f"{gone} figures were forgotten.")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it. ValidationError when it is no IP address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise ValidationError(f"{address!r} is no IP address; give one such as 127.0.0.1 or 0.0.0.0.") from None


class _Figures:
    """What the file holds at the moment of each request; nothing while it cannot be read."""

    def collect(self) -> Iterable[Metric]:
        from backupiq.telemetry.metrics import read_figures

        try:
            return read_figures().collect()
        except ConfigurationError as error:
            note(error.message)
            return ()


def make_server(address: str, port: int) -> WSGIServer:
    """A server of the figures, listening; the caller serves and closes it. ConfigurationError when it cannot listen.

    It answers one request at a time, and gives up those that do not come within `REQUEST_SECONDS`.
    """
    import socket
    import socketserver
    from wsgiref import simple_server

    from prometheus_client import CollectorRegistry, make_wsgi_app

    class Server(simple_server.WSGIServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def server_bind(self) -> None:
            # Not its parent's, which asks the name service for this machine's name.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = address, self.server_address[1]
            self.setup_environ()

    class Handler(simple_server.WSGIRequestHandler):
        timeout = REQUEST_SECONDS

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
            """Requests come every few seconds and are no news."""

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures())
    try:
        return simple_server.make_server(
            address, port, make_wsgi_app(registry), server_class=Server, handler_class=Handler
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"{address} port {port} cannot be used ({reason}); take another --port.") from error
