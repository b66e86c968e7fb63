"""A small catalog of two machines over three months, for what finds things in catalogs."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine

from backupiq.catalog.adding import Added, SnapshotRows, add_snapshot
from backupiq.catalog.health import Destination, record_places
from backupiq.catalog.rows import FileFacts, FileRow, SnapshotInfo, content_digest
from backupiq.discovery.entry import EntryKind
from backupiq.semantics.model import Category, FileType, Finding, Framework, GitState, Project, Severity

REPOSITORY = "1f" * 32
LOCAL = "/srv/backup"
BUCKET = "s3://bucket/prefix"
FIRST, SECOND, THIRD, DESK, CHECKPOINT = "a1" * 32, "a2" * 32, "a3" * 32, "d1" * 32, "c1" * 32
WEIRD = b"/home/ada/notes/caf\xe9 \x1b[31m.txt"

SHOP = Project(b"/home/ada/projects/shop", "shop", ("manage.py",), (Framework("Django", "5.1"), Framework("React")))
SITE = Project(b"/srv/www/site", "site", ("composer.json",), (Framework("Laravel"),))


def at(text: str) -> int:
    """The nanoseconds of a date or a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


NOW = at("2026-03-05")

PYTHON = FileType("Python", Category.CODE, "text/x-python", "extension", 95)
PDF = FileType("PDF", Category.DOCUMENT, "application/pdf", "signature", 100)
ODT = FileType("OpenDocument Text", Category.DOCUMENT, "application/vnd.oasis.opendocument.text", "signature", 99)
KEY = FileType("OpenSSH Private Key", Category.SECRET, "text/plain", "signature", 100)
MP4 = FileType("MP4", Category.VIDEO, "video/mp4", "extension", 90)
JAVASCRIPT = FileType("JavaScript", Category.CODE, "text/javascript", "extension", 95)
DISGUISED = FileType("ZIP", Category.ARCHIVE, "application/zip", "signature", 80, True)
PHP = FileType("PHP", Category.WEB, "text/x-php", "extension", 95)
TEXT = FileType("Plain Text", Category.DOCUMENT, "text/plain", "extension", 60)
FOLDER_TYPE = FileType("", Category.OTHER, "", "none", 0)

PRIVATE_KEY = Finding(1, "private-key", Severity.HIGH, "77" * 16)
TOKEN = Finding(12, "github-pat", Severity.MEDIUM, "88" * 16)


def file(path: str | bytes, size: int, changed: str, facts: FileFacts, content: int = 0) -> FileRow:
    """A file's row; ``content`` tells versions of the same size and time apart."""
    raw = path.encode() if isinstance(path, str) else path
    digest = content_digest([f"{size:032x}{content:032x}"])
    return FileRow(raw, EntryKind.FILE, size, at(changed), digest, facts)


def folder(path: str) -> FileRow:
    return FileRow(path.encode(), EntryKind.DIR, 0, 0, None, FileFacts(FOLDER_TYPE))


_VIEWS = FileFacts(PYTHON, importance=84, git=GitState.MODIFIED, project=SHOP.root)
_SHOP = FileFacts(PYTHON, importance=60, git=GitState.PUSHED, project=SHOP.root)
_SETTINGS = FileFacts(PYTHON, "config", 90, GitState.UNTRACKED, project=SHOP.root, findings=(TOKEN,))
_PAD = FileFacts(JAVASCRIPT, importance=3, git=GitState.UNTRACKED, regenerable=True, project=SHOP.root)

_ALWAYS = [
    folder("/home/ada"),
    folder("/home/ada/Documents"),
    folder("/home/ada/projects/shop"),
    file("/home/ada/.ssh/id_ed25519", 411, "2024-05-05", FileFacts(KEY, importance=100, findings=(PRIVATE_KEY,))),
    file("/home/ada/Documents/Report Überblick.pdf", 12 << 20, "2025-12-24", FileFacts(PDF, importance=70)),
    file("/home/ada/Downloads/photo.jpg", 5_000, "2025-11-11", FileFacts(DISGUISED, importance=30)),
    file("/home/ada/Videos/film.mp4", 2 << 30, "2023-07-01", FileFacts(MP4, importance=10)),
    file("/home/ada/projects/shop/models.py", 4_096, "2025-10-01", _SHOP),
    file("/home/ada/projects/shop/node_modules/left-pad/index.js", 900, "2025-10-02", _PAD),
    file("/home/ada/projects/shop/settings.py", 2_222, "2025-12-01", _SETTINGS),
    file(WEIRD, 77, "2025-09-09", FileFacts(TEXT, importance=40)),
]
_DRAFT = file("/home/ada/Documents/old-draft.odt", 33_000, "2025-08-08", FileFacts(ODT, importance=55))
_PLAN = file("/home/ada/Documents/plan.odt", 8_000, "2026-03-01T08:00", FileFacts(ODT, importance=65))
_OLD_VIEWS = file("/home/ada/projects/shop/views.py", 1_000, "2025-12-30", _SHOP)
_NEW_VIEWS = file("/home/ada/projects/shop/views.py", 1_500, "2026-01-20", _VIEWS)
_DESK = [
    folder("/srv/www/site"),
    file("/srv/www/site/index.php", 3_000, "2025-06-01", FileFacts(PHP, importance=50, project=SITE.root)),
    file("/srv/www/site/views.py", 640, "2025-06-01", FileFacts(PYTHON, importance=20, project=SITE.root)),
]


def info(hex_id: str, time: str, host: str, path: str, tags: tuple[str, ...] = ()) -> SnapshotInfo:
    return SnapshotInfo(hex_id, at(time), host, "ada", (path,), tags, "00" * 32)


LAPTOP = ("laptop", "/home/ada")
SNAPSHOTS: list[tuple[SnapshotInfo, SnapshotRows]] = [
    (info(FIRST, "2026-01-01", *LAPTOP), SnapshotRows([*_ALWAYS, _DRAFT, _OLD_VIEWS], [SHOP])),
    (info(SECOND, "2026-02-01", *LAPTOP), SnapshotRows([*_ALWAYS, _DRAFT, _NEW_VIEWS], [SHOP])),
    (info(THIRD, "2026-03-01T12:00", *LAPTOP), SnapshotRows([*_ALWAYS, _PLAN, _NEW_VIEWS], [SHOP])),
    (info(DESK, "2026-02-15", "desk", "/srv"), SnapshotRows(_DESK, [SITE])),
]
PLACES = {FIRST: [LOCAL, BUCKET], SECOND: [LOCAL, BUCKET], THIRD: [LOCAL], DESK: [BUCKET]}


def fill(engine: Engine, repository: str = REPOSITORY, only: frozenset[str] | None = None) -> None:
    """Put the snapshots (or only those) into a catalog, and say where they are."""
    for snapshot, rows in SNAPSHOTS:
        if only is None or snapshot.hex_id in only:
            assert add_snapshot(engine, repository, snapshot, rows) == Added.ADDED
    place(engine, repository, PLACES)


def place(engine: Engine, repository: str, places: dict[str, list[str]]) -> None:
    """Say which destinations hold which snapshots."""
    held = [
        (
            Destination(name, name.partition(":")[0] if ":" in name else "local"),
            [snapshot for snapshot, names in places.items() if name in names],
        )
        for name in (LOCAL, BUCKET)
    ]
    record_places(engine, repository, held, NOW)


HOME = "/home/ada"
ID = f"{HOME}/.ssh/id_ed25519"
REPORT = f"{HOME}/Documents/Report Überblick.pdf"
DRAFT = f"{HOME}/Documents/old-draft.odt"
PLAN = f"{HOME}/Documents/plan.odt"
PHOTO = f"{HOME}/Downloads/photo.jpg"
FILM = f"{HOME}/Videos/film.mp4"
MODELS = f"{HOME}/projects/shop/models.py"
PAD = f"{HOME}/projects/shop/node_modules/left-pad/index.js"
SETTINGS = f"{HOME}/projects/shop/settings.py"
VIEWS = f"{HOME}/projects/shop/views.py"
SHOP_FOLDER = f"{HOME}/projects/shop"
SITE_FOLDER = "/srv/www/site"
INDEX = f"{SITE_FOLDER}/index.php"
SITE_VIEWS = f"{SITE_FOLDER}/views.py"
NOTE = WEIRD.decode("utf-8", "surrogateescape")

ANSWERS: dict[str, set[str]] = {
    "views": {VIEWS, SITE_VIEWS},
    "VIEWS": {VIEWS, SITE_VIEWS},
    "view*": {VIEWS, SITE_VIEWS},
    "view": set(),
    "uberblick": {REPORT},
    "überb*": {REPORT},
    "old-draft.odt": {DRAFT},
    '"shop views"': {VIEWS},
    '"views shop"': set(),
    '"shop vie"*': {VIEWS},
    "shop views": {VIEWS},
    "views -shop": {SITE_VIEWS},
    "views NOT site": {VIEWS},
    "-home": {SITE_FOLDER, INDEX, SITE_VIEWS},
    "views AND": set(),
    '"; DROP TABLE': set(),
    "shop ; --": {SHOP_FOLDER, MODELS, PAD, SETTINGS, VIEWS},
    "category:document": {REPORT, DRAFT, PLAN, NOTE},
    "category:document,web": {REPORT, DRAFT, PLAN, NOTE, INDEX},
    "-category:code,document,other category:secret,video,archive": {ID, FILM, PHOTO},
    "NOT category:code shop": set(),
    "language:python": {MODELS, SETTINGS, VIEWS, SITE_VIEWS},
    "language:PYTHON,php": {MODELS, SETTINGS, VIEWS, SITE_VIEWS, INDEX},
    "language:*document*": {DRAFT, PLAN},
    "-language:python,javascript project:shop,site": {INDEX},
    "framework:django": {MODELS, PAD, SETTINGS, VIEWS},
    "framework:react language:python": {MODELS, SETTINGS, VIEWS},
    "framework:laravel": {INDEX, SITE_VIEWS},
    "-framework:django language:python": {SITE_VIEWS},
    "project:shop": {MODELS, PAD, SETTINGS, VIEWS},
    "project:s*": {MODELS, PAD, SETTINGS, VIEWS, INDEX, SITE_VIEWS},
    "-project:shop ext:py,odt": {SITE_VIEWS, DRAFT, PLAN},
    "importance:>80": {ID, SETTINGS, VIEWS},
    "importance:84": {VIEWS},
    "importance:60": {MODELS, VIEWS},
    "importance:50..65": {MODELS, VIEWS, DRAFT, PLAN, INDEX},
    "importance:<=10": {FILM, PAD},
    "-importance:<=70 language:python": {SETTINGS, VIEWS},
    "changed:<7d": {PLAN},
    "changed:60d": {VIEWS, PLAN},
    "changed:>2y": {FILM},
    "before:2024": {FILM},
    "after:2026": {PLAN, VIEWS},
    "after:2025-12-24 before:2025-12-25": {REPORT},
    "size:>10M": {REPORT, FILM},
    "size:1K..5K": {PHOTO, MODELS, SETTINGS, VIEWS, INDEX},
    "size:411": {ID},
    "secret:any": {ID, SETTINGS},
    "secret:private-key": {ID},
    "secret:github*": {SETTINGS},
    "secret:none language:python": {MODELS, VIEWS, SITE_VIEWS},
    "-secret:any language:python": {MODELS, VIEWS, SITE_VIEWS},
    "secret:none,private-key ext:py": {MODELS, VIEWS, SITE_VIEWS},
    f"snapshot:{FIRST[:8]} language:python": {MODELS, SETTINGS, VIEWS},
    f"snapshot:{THIRD[:8]} ext:odt": {PLAN},
    f"snapshot:{FIRST[:8]},{THIRD[:8]} ext:odt": {PLAN, DRAFT},
    f"-snapshot:{FIRST[:8]} ext:odt": {PLAN},
    "snapshot:latest ext:odt": {PLAN},
    "snapshot:latest views": {VIEWS, SITE_VIEWS},
    "host:desk": {SITE_FOLDER, INDEX, SITE_VIEWS},
    "host:desk,laptop views": {VIEWS, SITE_VIEWS},
    "-host:laptop": {SITE_FOLDER, INDEX, SITE_VIEWS},
    "path:/home/ada/Documents": {f"{HOME}/Documents", REPORT, DRAFT, PLAN},
    "path:/home/ada/Doc": set(),
    "path:/home/*/projects/**": {SHOP_FOLDER, MODELS, PAD, SETTINGS, VIEWS},
    "path:/home/ada/projects/*/*.py": {MODELS, SETTINGS, VIEWS},
    "path:site": {SITE_FOLDER, INDEX, SITE_VIEWS},
    "path:**/left-pad/**": {PAD},
    "-path:/home language:*": {INDEX, SITE_VIEWS},
    "*.odt": {DRAFT, PLAN},
    "Report*.pdf": {REPORT},
    "report*.pdf": set(),
    "ext:odt,PDF": {REPORT, DRAFT, PLAN},
    "-ext:py project:shop": {PAD},
    "ext:id_ed25519": set(),
    "at:s3 ext:odt": {DRAFT},
    "at:local ext:odt": {DRAFT, PLAN},
    "at:s3://bucket/prefix ext:odt": {DRAFT},
    "-at:s3 category:document": {PLAN},
    "only-at:s3": {SITE_FOLDER, INDEX, SITE_VIEWS},
    "only-at:local": {PLAN},
    "-only-at:s3 views": {VIEWS},
    "regenerable:yes": {PAD},
    "regenerable:no project:shop": {MODELS, SETTINGS, VIEWS},
    "git:modified": {VIEWS},
    "git:untracked,pushed language:python": {MODELS, SETTINGS, VIEWS},
    "conflict:yes": {PHOTO},
    "-conflict:no ext:jpg": {PHOTO},
    "deleted:yes": {DRAFT},
    "deleted:no ext:odt": {PLAN},
    "deleted:yes,no ext:odt": {PLAN, DRAFT},
    "shop language:python importance:>80 -settings": {VIEWS},
}
"""Queries and the paths they find, each file once."""
