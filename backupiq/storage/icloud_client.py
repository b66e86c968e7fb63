"""iCloud Drive as a few blocking calls: folders, items and contents by their ids, through pyicloud's session.

What pyicloud's drive does as it is needed here is called there; sending and fetching contents is done on its session,
because its own ways hold files in memory and take some contents for error messages.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests
from pyicloud.services.account import AccountService  # type: ignore[import-untyped]
from pyicloud.services.drive import DriveService  # type: ignore[import-untyped]

from backupiq.errors import (
    StorageAuthenticationError,
    StorageNotFoundError,
)
from backupiq.storage.disk import Transfer
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_errors import RELOGIN_STATUSES, icloud_errors, status_error
from backupiq.storage.icloud_items import Children, Item, Sent, StaleItemError, Usage
from backupiq.storage.icloud_sending import FormBody, Source
from backupiq.storage.icloud_session import Service, kept_tokens, sign_in, tokens

T = TypeVar("T")

MAX_REDIRECTS = 3


class ICloudClient:
    """One account's session. Used by one thread, which holds the account's lock at every call.

    A session that ended is renewed once per call with the kept trust; only when that needs a person,
    ``StorageAuthenticationError`` is raised. ``destination`` is the one a call is made for; errors name it.
    """

    def __init__(self, config: ICloudConfig) -> None:
        self.destination = config
        self._service: Service | None = None
        self._drive: DriveService | None = None

    def adopt_newer_session(self) -> None:
        """Let go of a session that another process has replaced (a new sign-in), so that the next call uses that."""
        if self._service is not None:
            kept = kept_tokens(self._service)
            if kept is not None and kept != tokens(self._service):
                self.close()

    def close(self) -> None:
        """Let go of connections; the next call signs in anew."""
        service, self._service, self._drive = self._service, None, None
        if service is not None:
            service.session.close()

    # --- folders and items ---------------------------------------------------------------------------------------

    def children(self, folder_id: str) -> Children:
        """A folder by its drive id, and everything in it; ``StorageNotFoundError`` when it is no longer there."""
        data = self._ask("list a folder", lambda: self._drive_service().get_node_data(folder_id))
        with self._errors("list a folder"):
            if "items" not in data:
                raise StorageNotFoundError("The folder is no longer in iCloud Drive.", status=str(data.get("status")))
            items = [_item(entry) for entry in data["items"]]
            count = data.get("numberOfItems")
            folder = _item({"type": "FOLDER", "drivewsid": folder_id, "name": "", **data})
        return Children(folder, items, not (isinstance(count, int) and count > len(items)))

    def make_folder(self, parent: Item, name: str) -> Item:
        """Make a folder; ``StaleItemError`` when iCloud does not say that it did (it may be there already)."""
        answer = self._ask("make a folder", lambda: self._drive_service().create_folders(parent.drivewsid, name))
        with self._errors("make a folder"):
            made = answer["folders"][0]
            if made.get("status", "OK") != "OK":
                raise StaleItemError
            item = _item({"type": "FOLDER", **made})
        if item.name != name:  # made beside another of that name
            self.delete(item)
            raise StaleItemError
        return item

    def rename(self, item: Item, name: str) -> Item:
        """Rename an item in its folder; ``StaleItemError`` when it has changed or the name is taken."""
        answer = self._ask(
            "rename an item", lambda: self._drive_service().rename_items(item.drivewsid, item.etag, name)
        )
        with self._errors("rename an item"):
            entry = answer["items"][0]
            if entry.get("status", "OK") != "OK":
                raise StaleItemError
            got = _full_name(entry) if entry.get("name") else name
            renamed = replace(item, name=got, etag=str(entry.get("etag", item.etag)))
        if got != name:
            self.rename(renamed, item.name)
            raise StaleItemError
        return renamed

    def delete(self, item: Item) -> None:
        """Delete an item at once, not into the trash, which would count as used for 30 days.

        ``StaleItemError`` when it has changed; ``StorageNotFoundError`` when it is gone.
        """
        answer = self._ask("delete an item", lambda: self._drive_service().delete_items(item.drivewsid, item.etag))
        with self._errors("delete an item"):
            if answer["items"][0].get("status", "OK") != "OK":
                raise StaleItemError

    # --- contents ------------------------------------------------------------------------------------------------

    def send(self, folder: Item, name: str, source: Source, transfer: Transfer) -> Sent:
        """Send content, which is in no folder yet; `place` puts it there. ``StorageQuotaError`` when iCloud is full."""
        measured = _Measured(name, source.size)
        document_id, url = self._ask(
            "begin an upload",
            lambda: self._drive_service()._get_upload_contentws_url(measured, folder.zone),
        )
        transfer.check()
        body = FormBody(name, source, transfer)
        headers = {"Content-Type": body.content_type}
        # What reading the source or telling the progress raises is not iCloud's.
        with self._errors("send a file", parsing=False):
            response = self._signed_in().session.post(url, data=body, headers=headers)
        with self._errors("send a file"):
            receipt = dict(response.json()["singleFile"])
        return Sent(document_id, receipt, name, source.size)

    def place(self, folder: Item, sent: Sent, name: str) -> Item:
        """Give sent content its name in a folder, all of it in one step; the item under the name that iCloud gave it.

        ``StaleItemError`` when iCloud did not: the folder may be gone.
        """
        measured = _Measured(name, sent.size)
        answer = self._ask(
            "store a file",
            lambda: self._drive_service()._update_contentws(
                folder.docwsid, sent.receipt, sent.document_id, measured, folder.zone
            ),
        )
        with self._errors("store a file"):
            result = answer["results"][0]
            status = result.get("status", {}).get("status_code", 0)
            if status == 507:
                raise status_error(507, f"store a file at {self.destination.location}", self.destination.login)
            if status != 0:
                raise StaleItemError
            document = result.get("document") or {}
            return Item(
                drivewsid=f"FILE::{folder.zone}::{sent.document_id}",
                docwsid=sent.document_id,
                zone=folder.zone,
                name=_full_name(document) if document.get("name") else name,
                folder=False,
                size=sent.size,
                etag=str(document.get("etag", "")),
                modified_ns=None,
            )

    @contextlib.contextmanager
    def opened(self, item: Item, offset: int, length: int | None, piece: int) -> Iterator[Iterator[bytes]]:
        """The content of a file from ``offset`` on, in pieces; ``StorageNotFoundError`` when it is gone.

        The content is taken as it comes: pyicloud would read a JSON object named ``error`` as Apple's.
        """
        if item.size == 0:  # iCloud answers 400 for an empty file
            yield iter(())
            return
        answer = self._ask("find a file's content", lambda: self._content_location(item))
        with self._errors("fetch a file"):
            token = answer.get("data_token") or answer["package_token"]
            response = self._fetch(token["url"], offset, length)
        try:
            yield self._pieces(response, offset, piece)
        finally:
            response.close()

    def _content_location(self, item: Item) -> Any:
        service = self._signed_in()
        docs = service.get_webservice_url("docws")
        parameters = {**service.params, "document_id": item.docwsid}
        return service.session.get(f"{docs}/ws/{item.zone}/download/by_id", params=parameters).json()

    def _fetch(self, url: str, offset: int, length: int | None) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        service = self._signed_in()
        for _ in range(MAX_REDIRECTS):
            response: requests.Response = service.session.request_raw(
                "GET", url, params=service.params, headers=headers, stream=True
            )
            if response.status_code != 330 or "Location" not in response.headers:  # Apple's own kind of redirect
                break
            url = response.headers["Location"]
            response.close()
        if response.status_code not in (200, 206):
            response.close()
            doing = f"fetch a file at {self.destination.location}"
            raise status_error(response.status_code, doing, self.destination.login, response)
        return response

    def _pieces(self, response: requests.Response, offset: int, piece: int) -> Iterator[bytes]:
        skip = offset if response.status_code == 200 else 0  # a server that does not know ranges sends all
        with self._errors("fetch a file"):
            for data in response.iter_content(piece):
                if skip >= len(data):
                    skip -= len(data)
                else:
                    yield data[skip:] if skip else data
                    skip = 0

    # --- the account ---------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """The account's space, asked for anew each time."""

        def ask() -> Usage:
            service = self._signed_in()
            account = AccountService(
                service.get_webservice_url("account"), service.session, service.is_china_mainland, service.params
            )
            usage = account.storage.usage
            return Usage(int(usage.total_storage_in_bytes), int(usage.used_storage_in_bytes))

        return self._ask("ask for the space in iCloud", ask)

    # --- the session ---------------------------------------------------------------------------------------------

    def _signed_in(self) -> Service:
        if self._service is None:
            self._service = sign_in(self.destination)
        return self._service

    def _drive_service(self) -> DriveService:
        if self._drive is None:
            self._drive = self._signed_in().drive
        return self._drive

    def _ask(self, doing: str, work: Callable[[], T]) -> T:
        """One request that may be repeated when the session turns out to have ended."""
        renewed = self._service is None
        while True:
            try:
                with self._errors(doing):
                    return work()
            except StorageAuthenticationError as error:
                if renewed or error.details.get("status") not in RELOGIN_STATUSES:
                    self.close()
                    raise
                self.close()
                self._service = sign_in(self.destination, renew=True)
                renewed = True

    def _errors(self, doing: str, *, parsing: bool = True) -> contextlib.AbstractContextManager[None]:
        return icloud_errors(f"{doing} at {self.destination.location}", self.destination.login, parsing=parsing)


class _Measured(io.BytesIO):
    """A name and a size in the place of a file, for those calls of pyicloud that look at nothing else."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name = name
        self._size = size
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (self._size if whence == io.SEEK_END else 0) + offset
        return self._position

    def tell(self) -> int:
        return self._position


def _item(entry: dict[str, Any]) -> Item:
    drivewsid = str(entry["drivewsid"])
    changed = entry.get("dateModified")
    return Item(
        drivewsid=drivewsid,
        docwsid=str(entry.get("docwsid") or drivewsid.rpartition("::")[2]),
        zone=str(entry.get("zone") or drivewsid.split("::")[1]),
        name=_full_name(entry),
        folder=str(entry.get("type", "")).upper() != "FILE",
        size=int(entry.get("size") or 0),
        etag=str(entry.get("etag", "")),
        modified_ns=_nanoseconds(changed) if isinstance(changed, str) else None,
    )


def _full_name(entry: dict[str, Any]) -> str:
    extension = entry.get("extension")
    return f"{entry.get('name', '')}.{extension}" if extension else str(entry.get("name", ""))


def _nanoseconds(date: str) -> int | None:
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9
