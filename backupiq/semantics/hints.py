"""What a text says about its own language: a shebang in its first line, a modeline for Emacs or Vim."""

from __future__ import annotations

import re

from backupiq.semantics.tables import tables

FIRST_LINE = 512
"""Bytes of a first line that are looked at."""
MODELINES_AT = 5
"""Lines at the beginning and at the end of a text in which editors look for a modeline."""
LINE = 400
"""Bytes of each such line that are looked at."""
EXEC_LINES = 5
"""Lines of a shell script in which `exec other-program "$0"` makes it a script of that program."""
ENV_ARGUMENTS = 8
"""Words after `env` that are looked at for the program."""

_VERSION = re.compile(r"[-.]?\d[\d.]*$")
_EXEC = re.compile(rb"^\s*exec\s+['\"]?(?:[\w./-]*/)?([\w.-]{1,40})['\"]?\s.{0,80}?\$(?:\{?0|@|\*)")
_EMACS = re.compile(rb"-\*-(.{1,200}?)-\*-")
_EMACS_MODE = re.compile(rb"(?:^|;)\s*mode\s*:\s*([^;\s]{1,40})", re.IGNORECASE)
_VIM = re.compile(rb"(?:^|\s)(?:vi|vim|ex)(?:[<=>]?\d{1,4})?:(.{1,300})", re.IGNORECASE)
_VIM_TYPE = re.compile(rb"(?:^|[\s:])(?:filetype|ft|syntax|syn)\s{0,4}=\s{0,4}([\w.+#-]{1,40})", re.IGNORECASE)
# What editors call a language and linguist does not.
_EDITOR_NAMES = {
    "c++": "C++", "cpp": "C++", "sh": "Shell", "shell-script": "Shell", "makefile-gmake": "Makefile",
    "make": "Makefile", "conf": "", "text": "", "cfg": "INI",
    "dosini": "INI", "help": "Vim Help File", "ps1": "PowerShell", "tex": "TeX",
    "lisp": "Common Lisp", "el": "Emacs Lisp", "nroff": "Roff", "prolog": "Prolog",
}  # fmt: skip


def by_shebang(text: bytes) -> tuple[str, ...]:
    """Languages that the program in the first line runs, likeliest first; empty without a shebang or when unknown."""
    if not text.startswith(b"#!"):
        return ()
    program = interpreter(text)
    known = tables().interpreters
    found = known.get(program) or known.get(_VERSION.sub("", program), ())
    if found and found[0] == "Shell":
        other = _executed(text)
        if other:
            return known.get(other) or known.get(_VERSION.sub("", other), ()) or found
    return found


def interpreter(text: bytes) -> str:
    """The program that the first line names, without its folder, in lower case; empty when it names none."""
    line = text[2:FIRST_LINE].splitlines()[:1]
    words = line[0].decode("latin-1").split() if line else []
    if not words:
        return ""
    program = _base(words[0])
    if program == "env":
        rest = [one for one in words[1 : 1 + ENV_ARGUMENTS] if not one.startswith("-") and "=" not in one]
        program = _base(rest[0]) if rest else ""
    return program


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")


def _executed(text: bytes) -> str:
    for line in text[: EXEC_LINES * LINE].splitlines()[1 : 1 + EXEC_LINES]:
        found = _EXEC.match(line[:LINE])
        if found:
            return _base(found.group(1).decode("latin-1"))
    return ""


def by_modeline(text: bytes, whole: bool) -> str:
    """The language that an editor's modeline names, or ""; ``whole``: the text ends with the file."""
    lines = text[: MODELINES_AT * LINE].splitlines()[:MODELINES_AT]
    if whole and len(text) > MODELINES_AT * LINE:
        lines += text[-MODELINES_AT * LINE :].splitlines()[-MODELINES_AT:]
    elif whole:
        lines += text.splitlines()[-MODELINES_AT:]
    for line in lines:
        if b"-*-" in line or b":" in line:
            name = _of_line(line[:LINE])
            if name:
                return name
    return ""


def _of_line(line: bytes) -> str:
    emacs = _EMACS.search(line)
    if emacs:
        inside = emacs.group(1)
        mode = _EMACS_MODE.search(inside)
        if mode or b":" not in inside:
            return _language(mode.group(1) if mode else inside)
    vim = _VIM.search(line)
    if vim:
        kind = _VIM_TYPE.search(vim.group(1))
        if kind:
            return _language(kind.group(1))
    return ""


def _language(name: bytes) -> str:
    key = name.strip().decode("latin-1").lower()
    if key in _EDITOR_NAMES:
        return _EDITOR_NAMES[key]
    known = tables().aliases
    return known.get(key) or known.get(key.replace(" ", "-")) or known.get(key.removesuffix("-mode"), "")
