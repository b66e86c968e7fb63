"""What a backup leaves out, as plain values: the rules as a person sets them, and the rule that left an entry out."""

from __future__ import annotations

import os
from dataclasses import dataclass

from backupiq.errors import ConfigurationError

IGNORE_FILE = ".backupignore"


@dataclass(frozen=True, slots=True)
class PatternLine:
    """A pattern with the place it was written at, for messages: ``/etc/backup.excludes:12``."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Why an entry was left out: the pattern (or the kind of rule) and where it was written."""

    pattern: str
    origin: str

    def __str__(self) -> str:
        return f"{self.pattern} ({self.origin})"


@dataclass(frozen=True, slots=True)
class ExcludeRules:
    """What to leave out. The default leaves out only what ``.backupignore`` files ask for.

    ``patterns`` and ``iexclude`` (the same without regard to case) are in gitignore syntax, anchored at each source;
    of all that match, the last decides, ``iexclude`` counting as written after ``patterns`` and both as written after
    every ``.backupignore`` (as git ranks its command line above its files). ``ignore_file`` is the name of the pattern
    files looked for in each folder, None for none. ``exclude_caches`` keeps of a folder with a valid CACHEDIR.TAG
    only the tag (https://bford.info/cachedir/). ``max_file_size`` is in bytes; larger regular files are left out.
    ``one_file_system`` keeps mount points as empty folders. ``exclude_special`` leaves out FIFOs and devices.
    ``folders`` names folders by device and inode, so that they are known by whatever path they are met.
    """

    patterns: tuple[str | PatternLine, ...] = ()
    iexclude: tuple[str | PatternLine, ...] = ()
    ignore_file: str | None = IGNORE_FILE
    exclude_caches: bool = False
    max_file_size: int | None = None
    one_file_system: bool = False
    exclude_special: bool = False
    folders: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        if self.max_file_size is not None and self.max_file_size < 0:
            raise ConfigurationError(
                f"The largest file size is {self.max_file_size}, which is below zero; give a number of bytes.",
                max_file_size=self.max_file_size,
            )
        if self.ignore_file is not None and (not self.ignore_file or "/" in self.ignore_file):
            raise ConfigurationError(
                f"The name of pattern files {self.ignore_file!r} must be a plain file name.", name=self.ignore_file
            )


def read_pattern_file(path: str | os.PathLike[str]) -> tuple[PatternLine, ...]:
    """The patterns of a file such as ``--exclude-file`` names, one a line, each with its place.

    Raises ConfigurationError when the file cannot be read. The patterns themselves are checked by ``walk``.
    """
    from backupiq.discovery.gitignore import MAX_FILE_BYTES, split_lines

    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"The file of exclude patterns {name} cannot be read: {error.strerror}. Check the path.", path=name
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(
            f"The file of exclude patterns {name} is larger than {MAX_FILE_BYTES} bytes; make it shorter.", path=name
        )
    return tuple(PatternLine(text, f"{name}:{number}") for number, text in split_lines(data))
