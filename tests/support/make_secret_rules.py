"""Makes the data of the secret rules and their page, by hand, when gitleaks has new rules.

1. Get ``config/gitleaks.toml`` of github.com/gitleaks/gitleaks (MIT) at a commit.
2. ``python -m tests.support.make_secret_rules data gitleaks.toml VERSION COMMIT DATE`` writes
   ``backupiq/semantics/data/secrets.json``: gitleaks' patterns with our own titles, severities and gates.
3. ``python -m tests.support.make_secret_rules page`` writes the table into ``docs/secrets.md``; a test compares them.

Rules of our own stand in ``backupiq/semantics/data/secrets-own.toml`` and are edited there.

What is changed: most rules of gitleaks say "the name of a service, an assignment, a value"; they become ``names`` and
``value``, and `backupiq.semantics.secret_rules` puts the common part around them. The optional run of word characters
in front of the name is left out: it can be empty, so the same secrets are found, and the search is twice as fast. Path
conditions become endings. Sample keys that gitleaks allows by their text are left out, as they are secrets in form.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from backupiq.semantics.secret_rules import ASSIGNMENT, VALUE_END, SecretRule, load_rules, parse_rules
from tests.support.programs import ROOT

DATA = ROOT / "backupiq/semantics/data/secrets.json"
PAGE = ROOT / "docs/secrets.md"
BEGIN, END = "<!-- rules: begin -->\n", "<!-- rules: end -->\n"

PREFIX = r"[\w.-]{0,50}?"
ALL_FOLDED = rf"(?i){PREFIX}(?:"
NAMES_FOLDED = rf"{PREFIX}(?i:{PREFIX}(?:"

WORDS = {
    "1password": "1Password", "ad": "AD", "age": "age", "api": "API", "aws": "AWS", "base64": "in base64", "ca": "CA",
    "cicd": "CI/CD", "circleci": "CircleCI", "clickhouse": "ClickHouse", "curl": "curl",
    "digitalocean": "DigitalOcean", "droneci": "Drone CI", "easypost": "EasyPost", "facebook": "Facebook",
    "flyio": "Fly.io", "frameio": "Frame.io", "freshbooks": "FreshBooks", "gcp": "Google Cloud", "github": "GitHub",
    "gitlab": "GitLab", "gocardless": "GoCardless", "hashicorp": "HashiCorp", "hubspot": "HubSpot",
    "huggingface": "Hugging Face", "id": "id", "intra42": "42 Intra", "jfrog": "JFrog", "jwt": "JSON Web Token",
    "kubernetes": "Kubernetes", "kucoin": "KuCoin", "launchdarkly": "LaunchDarkly", "linkedin": "LinkedIn",
    "mailchimp": "Mailchimp", "maxmind": "MaxMind", "messagebird": "MessageBird", "microsoft": "Microsoft",
    "npm": "npm", "nuget": "NuGet", "nytimes": "New York Times", "oauth": "OAuth", "octopus": "Octopus",
    "openai": "OpenAI", "openshift": "OpenShift", "pat": "personal access token", "personnal": "personal",
    "pkcs12": "PKCS #12", "planetscale": "PlanetScale", "privateai": "Private AI", "ptt": "pipeline trigger token",
    "pub": "public", "pypi": "PyPI", "rapidapi": "RapidAPI", "readme": "ReadMe", "relic": "Relic",
    "rrt": "runner registration token", "rubygems": "RubyGems", "scim": "SCIM", "sendbird": "Sendbird",
    "sendgrid": "SendGrid", "sendinblue": "Sendinblue", "settlemint": "SettleMint", "sonar": "Sonar",
    "sumologic": "Sumo Logic", "tf": "Terraform", "travisci": "Travis CI", "url": "URL", "v2": "(version 2)",
    "yaml": "manifest",
}  # fmt: skip
SMALL = {
    "application", "batch", "personal", "test",
    "access", "account", "admin", "agent", "app", "auth", "authentication", "bot", "browser", "client", "config",
    "cookie", "custom", "delivery", "deploy", "encryption", "feature", "feed", "fine", "flag", "global", "grained",
    "header", "incoming", "insert", "job", "key", "legacy", "license", "lived", "long", "mail", "oauth", "org",
    "organization", "origin", "page", "password", "private", "public", "reference", "refresh", "routable", "runner",
    "secret", "sensitive", "service", "session", "shared", "short", "signing", "token", "upload", "user", "webhook",
    "workspace", "identity", "bearer",
}  # fmt: skip
TITLES = {
    "github-oauth": "GitHub OAuth token",
    "octopus-deploy-api-key": "Octopus Deploy API key",
    "generic-api-key": "something that looks like a key, token or password",
    "private-key": "private key (PEM, OpenSSH or PGP)",
    "curl-auth-header": "credentials in a header of a curl command",
    "curl-auth-user": "user and password of a curl command",
    "kubernetes-secret-yaml": "Kubernetes Secret",
    "nuget-config-password": "password of a NuGet source",
    "hashicorp-tf-password": "password in a Terraform file",
    "sidekiq-sensitive-url": "Sidekiq URL with credentials",
}
LOW = {"generic-api-key", "flutterwave-public-key", "mapbox-api-token", "new-relic-browser-api-token"}
MEDIUM = {
    "curl-auth-header", "curl-auth-user", "facebook-access-token", "jwt", "jwt-base64", "kubernetes-secret-yaml",
    "sourcegraph-access-token", "square-access-token", "twilio-api-key", "vault-service-token",
    "alibaba-access-key-id", "flutterwave-encryption-key",
}  # fmt: skip
# What has to be in a file for the rule to be tried, where that is cheaper to look for than the rule itself.
GATES = {
    "private-key": r"(?i)-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY",
    "curl-auth-header": r"[ \t\n\r](?:-H|--header)(?:=|[ \t]{0,5})[\"'](?i:authorization|x-|api|key|token)",
    "curl-auth-user": r"[ \t\n\r](?:-u|--user)(?:=|[ \t]{0,5})[\"'\w$@.-]",
    "jwt-base64": r"\bZXlK",
    "sourcegraph-access-token": r"(?i)sgp_|sourcegraph",
    "hashicorp-tf-api-token": r"(?i)\.atlasv1\.",
    "maxmind-license-key": r"_mmk",
    "microsoft-teams-webhook": r"webhook\.office\.com/webhookb2/",
    "atlassian-api-token": r"ATATT3|(?i:atlassian|confluence|jira)",
    "azure-ad-client-secret": r"\dQ~",
    "authress-service-client-access-key": r"\.acc[_-]",
}
LONGER = {"aws-amazon-bedrock-api-key-short-lived": r"[\w+/=%.-]*"}  # gitleaks takes what all have in common
# Keywords of rules with a name and a value are looked for around the name only.
KEYWORDS = {
    "gocardless-api-token": ["gocardless"],
    "lob-api-key": ["lob"],
    "lob-pub-api-key": ["lob"],
    "new-relic-browser-api-token": ["new-relic", "new_relic", "newrelic"],
    "new-relic-insert-key": ["new-relic", "new_relic", "newrelic"],
    "new-relic-user-api-key": ["new-relic", "new_relic", "newrelic"],
}
ALWAYS = {"generic-api-key"}
ENDINGS = {
    "freemius-secret-key": [".php"],
    "hashicorp-tf-password": [".tf", ".hcl"],
    "kubernetes-secret-yaml": [".yaml", ".yml"],
    "nuget-config-password": ["nuget.config"],
}
DROPPED = {"pkcs12-file"}  # told by its content: see secrets-own.toml


def make_data(config: dict[str, Any], version: str, commit: str, date: str) -> dict[str, Any]:
    """The content of ``secrets.json`` from gitleaks' configuration."""
    stopwords: set[str] = set()
    rules = []
    for rule in config["rules"]:
        if rule["id"] in DROPPED:
            continue
        rules.append(_rule(rule, stopwords))
    header = {
        "source": "gitleaks, config/gitleaks.toml, https://github.com/gitleaks/gitleaks",
        "version": version,
        "commit": commit,
        "date": date,
        "license": "MIT, Copyright (c) 2019 Zachary Rice",
        "made_by": "tests/support/make_secret_rules.py; titles, severities and gates are our own",
    }
    common = config["allowlist"]
    allow = "|".join(f"(?:{pattern})" for pattern in common["regexes"])
    return {
        "header": header,
        "allow": f"{allow}|(?i:{'|'.join(map(re.escape, common['stopwords']))})",
        "stopwords": sorted(stopwords),
        "rules": rules,
    }


def _rule(rule: dict[str, Any], stopwords: set[str]) -> dict[str, Any]:
    name, regex = rule["id"], rule["regex"]
    made: dict[str, Any] = {"id": name, "title": _title(name)}
    assigned = _assigned(regex)
    if assigned is not None:
        made |= assigned
    else:
        made["regex"] = re.sub(r"\(\?P<\w+>", "(?:", regex.replace(PREFIX, "")) + LONGER.get(name, "")
    made["severity"] = _severity(name, assigned is not None)
    made["keywords"] = sorted(KEYWORDS.get(name, rule["keywords"]))
    if rule.get("entropy"):
        made["entropy"] = rule["entropy"]
    if name in ALWAYS:
        made["always"] = True
    if name in ENDINGS:
        made["endings"] = ENDINGS[name]
    elif assigned is None:
        made |= {"gate": GATES[name]} if name in GATES else {}
    if rule.get("secretGroup", 1) != 1:
        made["group"] = rule["secretGroup"]
    for allowlist in rule.get("allowlists", []):
        _allow(made, name, allowlist, stopwords)
    return made


def _assigned(regex: str) -> dict[str, Any] | None:
    """A rule of the common shape as its names and its value; None for others."""
    for prefix, middle in ((ALL_FOLDED, ASSIGNMENT), (NAMES_FOLDED, ASSIGNMENT.replace("{0,3}(?:=", "{0,3})(?:=", 1))):
        names, found, rest = regex.removeprefix(prefix).partition(f"){middle}(")
        if regex.startswith(prefix) and found and rest.endswith(f"){VALUE_END}"):
            value = rest.removesuffix(f"){VALUE_END}")
            if VALUE_END not in value:
                return {"names": names, "value": value, **({"exact": True} if prefix == NAMES_FOLDED else {})}
    return None


def _allow(made: dict[str, Any], name: str, allowlist: dict[str, Any], stopwords: set[str]) -> None:
    if name in ("gcp-api-key", "nuget-config-password"):
        kept = [pattern for pattern in allowlist["regexes"] if pattern.startswith("^")]
    elif allowlist.get("condition") == "AND" or "regexes" not in allowlist:
        return  # those of single files of other projects
    else:
        kept = allowlist["regexes"]
    if kept:
        target = {"match": "allow_match", "line": "allow_line"}.get(allowlist.get("regexTarget", ""), "allow")
        made[target] = "|".join(f"(?:{pattern})" for pattern in kept)
    if "stopwords" in allowlist:
        made["stopwords"] = True
        stopwords.update(allowlist["stopwords"])


def _severity(name: str, assigned: bool) -> str:
    if name in LOW or re.search(r"-(?:client|access|api)-id$|-pub-", name):
        return "low"
    return "medium" if assigned or name in MEDIUM else "high"


def _title(name: str) -> str:
    if name in TITLES:
        return TITLES[name]
    words = [WORDS.get(word, word if word in SMALL else word.capitalize()) for word in name.split("-")]
    return " ".join(words)


def _lines(made: dict[str, Any]) -> str:
    """JSON with one rule on each line."""
    rules = ",\n".join(json.dumps(rule) for rule in made.pop("rules"))
    head = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    return f'{{\n{head},\n"rules": [\n{rules}\n]\n}}\n'


# --- the page ------------------------------------------------------------------------------------------------------


def render() -> str:
    """The table of all rules, as Markdown."""
    rows = ["| rule | what it finds | severity | looked for | from |\n|---|---|---|---|---|\n"]
    for rule in sorted(load_rules().rules, key=lambda rule: rule.id):
        cells = (f"`{rule.id}`", rule.title, str(rule.severity), _where(rule), rule.source)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(rows)


def _where(rule: SecretRule) -> str:
    if rule.endings:
        return ", ".join(f"`{ending}`" for ending in rule.endings)
    return "signature of the file" if rule.container else "text"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["data"]:
        config, version, commit, date = arguments[1:]
        made = make_data(tomllib.loads(Path(config).read_text()), version, commit, date)
        text = _lines(made)
        parse_rules(text.encode(), b"")
        DATA.write_text(text)
    elif arguments == ["page"]:
        page = PAGE.read_text()
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{render()}\n{END}{after}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
