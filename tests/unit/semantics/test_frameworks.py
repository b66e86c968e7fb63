"""Manifests and the frameworks they name: every kind of manifest right and near, and hostile ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.semantics import manifest_parsing as parsing
from backupiq.semantics.frameworks import framework_table, frameworks_of
from backupiq.semantics.manifests import kind_of, names_that_tell, read_manifest

# By name: the folder and file, its content, the project's name ("" for none) and the frameworks with their versions.
Case = tuple[str, str, str, dict[str, str]]
CASES: dict[str, Case] = {
    "npm": (
        "/p/package.json",
        json.dumps(
            {
                "name": "@shop/web",
                "engines": {"node": ">=20"},
                "dependencies": {"react": "^18.2.0", "next": "14.1.0", "left-pad": "1"},
                "devDependencies": {"typescript": "~5.4", "vite": "workspace:*", "react": "17.0.0"},
                "peerDependencies": {"vue": "^3 || ^2"},
            }
        ),
        "@shop/web",
        {"React": "18.2.0", "Next": "14.1.0", "TypeScript": "5.4", "Vite": "", "Vue": "3", "Node.js": "20"},
    ),
    "npm, the others": (
        "/p/package.json",
        json.dumps(
            {
                "dependencies": {
                    "@angular/core": "17.0.0",
                    "svelte": "4",
                    "nuxt": "3.9.0",
                    "@remix-run/react": "2.5",
                    "astro": "4.2",
                    "gatsby": "5.13",
                    "express": "4.18.2",
                    "@nestjs/core": "10",
                    "electron": "28",
                    "react-native": "0.73.2",
                    "reactive": "1.0",
                    "@types/react": "18",
                }
            }
        ),
        "",
        {
            "Angular": "17.0.0",
            "Svelte": "4",
            "Nuxt": "3.9.0",
            "Remix": "2.5",
            "Astro": "4.2",
            "Gatsby": "5.13",
            "Express": "4.18.2",
            "Nest": "10",
            "Electron": "28",
            "React Native": "0.73.2",
            "Node.js": "",
        },
    ),
    "Deno": ("/p/deno.json", '{"imports": {"hono": "npm:hono@^4.1", "x": "./x"}}', "", {"Deno": "", "Hono": "4.1"}),
    "pyproject": (
        "/p/pyproject.toml",
        """
        [project]
        name = "shop"
        requires-python = ">=3.11"
        dependencies = ["Django>=4.2,<5", "celery[redis]~=5.3 ; python_version > '3.8'", "scikit_learn", "flaskish"]
        [project.optional-dependencies]
        ml = ["torch==2.1.0", "tensorflow (>=2.15)"]
        [dependency-groups]
        dev = ["pytest", {include-group = "x"}]
        """,
        "shop",
        {
            "Django": "4.2",
            "Celery": "5.3",
            "scikit-learn": "",
            "PyTorch": "2.1.0",
            "TensorFlow": "2.15",
            "pytest": "",
            "Python": "3.11",
        },
    ),
    "Poetry": (
        "/p/pyproject.toml",
        """
        [tool.poetry]
        name = "api"
        [tool.poetry.dependencies]
        python = "^3.12"
        fastapi = {version = "^0.110", extras = ["all"]}
        starlette = "*"
        [tool.poetry.group.jobs.dependencies]
        prefect = "^3.0"
        apache-airflow = "2.8.1"
        """,
        "api",
        {"FastAPI": "0.110", "Starlette": "", "Prefect": "3.0", "Airflow": "2.8.1", "Python": "3.12"},
    ),
    "requirements": (
        "/p/requirements-dev.txt",
        "# flask==1\n-r base.txt\n--hash=x\nFlask==3.0.1  # web\npyramid\nTornado>=6 ; x\nstreamlit@ https://a/b\n",
        "",
        {"Flask": "3.0.1", "Pyramid": "", "Tornado": "6", "Streamlit": "", "Python": ""},
    ),
    "requirements in a folder": ("/p/requirements/base.txt", "django==5.0\n", "", {"Django": "5.0", "Python": ""}),
    "setup.cfg": (
        "/p/setup.cfg",
        "[metadata]\nname = shop\n[options]\npython_requires = >=3.9\ninstall_requires =\n    flask>=2\n    numpy\n",
        "shop",
        {"Flask": "2", "NumPy": "", "Python": "3.9"},
    ),
    "setup.py": (
        "/p/setup.py",
        'import setuptools as s\ns.setup(name="shop",\n  install_requires=["flask>=2",\n   "pandas[x]==2.1"],\n'
        '  tests=["django"])\n',
        "shop",
        {"Flask": "2", "pandas": "2.1", "Python": ""},
    ),
    "Pipfile": (
        "/p/Pipfile",
        '[packages]\ndjango = "==4.2"\n[requires]\npython_version = "3.11"',
        "",
        {"Django": "4.2", "Python": "3.11"},
    ),
    "conda": (
        "/p/environment.yml",
        "name: x\ndependencies:\n  - python=3.11\n  - numpy=1.26.0=py311h\n  - pytorch>=2.0\n"
        "  - pip:\n    - flask==3.0\n",
        "",
        {"Python": "3.11", "NumPy": "1.26.0", "PyTorch": "2.0", "Flask": "3.0"},
    ),
    "Django's manage.py": ("/p/manage.py", 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "x")', "", {"Django": ""}),
    "Maven": (
        "/p/pom.xml",
        """<?xml version="1.0"?><project xmlns="http://maven.apache.org/POM/4.0.0">
        <parent><groupId>org.springframework.boot</groupId><artifactId>spring-boot-starter-parent</artifactId>
        <version>3.2.1</version></parent><groupId>x</groupId><artifactId>shop</artifactId>
        <properties><java.version>21</java.version><q>3.6.4</q></properties>
        <dependencies><dependency><groupId>org.springframework.boot</groupId><artifactId>a</artifactId></dependency>
        <dependency><groupId>io.quarkus</groupId><artifactId>b</artifactId><version>${q}</version></dependency>
        <dependency><groupId>io.micronaut</groupId><artifactId>c</artifactId><version>${gone}</version></dependency>
        </dependencies></project>""",
        "shop",
        {"Spring Boot": "3.2.1", "Quarkus": "3.6.4", "Micronaut": "", "Java": "21", "Maven": ""},
    ),
    "Gradle, Groovy": (
        "/p/build.gradle",
        "plugins { id 'org.springframework.boot' version '3.2.0' }\napply plugin: 'com.android.application'\n"
        "dependencies { implementation 'io.quarkus:quarkus-core:3.6.0' }\n",
        "",
        {"Spring Boot": "3.2.0", "Android": "", "Quarkus": "3.6.0", "Gradle": ""},
    ),
    "Gradle, Kotlin": (
        "/p/build.gradle.kts",
        'plugins {\n  id("io.micronaut.application") version "4.2.1"\n}\n'
        'dependencies {\n  implementation("io.ktor:ktor-server:2.3.7")\n  implementation(project(":lib"))\n}\n',
        "",
        {"Micronaut": "4.2.1", "Ktor": "2.3.7", "Gradle": ""},
    ),
    "Gradle's settings": ("/p/settings.gradle.kts", 'rootProject.name = "shop"\n', "shop", {"Gradle": ""}),
    "Gradle's catalog": (
        "/p/gradle/libs.versions.toml",
        '[versions]\nboot = "3.2.2"\n[libraries]\na = { module = "org.springframework.boot:x", version.ref = "boot" }\n'
        '[plugins]\nb = { id = "com.android.application", version = "8.2.0" }',
        "",
        {"Spring Boot": "3.2.2", "Android": "8.2.0"},
    ),
    "Android": ("/p/AndroidManifest.xml", '<manifest xmlns:android="urn:x" package="a"/>', "", {"Android": ""}),
    "sbt": (
        "/p/build.sbt",
        'name := "shop"\nscalaVersion := "3.3.1"\n'
        'libraryDependencies += "com.typesafe.akka" %% "akka-actor" % "2.8.5"\n',
        "shop",
        {"Scala": "3.3.1", "Akka": "2.8.5"},
    ),
    "Go": (
        "/p/go.mod",
        "module github.com/me/shop/v2\n\ngo 1.22\n\nrequire github.com/gin-gonic/gin v1.9.1\nrequire (\n"
        "\tgithub.com/labstack/echo/v4 v4.11.4 // indirect\n\tgithub.com/gofiber/fiber/v2 v2.52.0\n)\n"
        "exclude github.com/go-chi/chi/v5 v5.0.1\n",
        "shop",
        {"Go": "1.22", "Gin": "1.9.1", "Echo": "4.11.4", "Fiber": "2.52.0"},
    ),
    "Gemfile": (
        "/p/Gemfile",
        'ruby "3.2.2"\ngem "rails", "~> 7.1.2"\n# gem "hanami"\n  gem(\'sinatra\', require: false)\n',
        "",
        {"Ruby": "3.2.2", "Rails": "7.1.2", "Sinatra": ""},
    ),
    "Gemfile.lock": (
        "/p/Gemfile.lock",
        "GEM\n  specs:\n    rails (7.1.3)\n      sinatra (= 1)\n    sinatra (4.0.0)\n"
        "\nDEPENDENCIES\n  rails (~> 7.1)\n",
        "",
        {"Ruby": "", "Rails": "7.1.3"},
    ),
    "gemspec": ("/p/shop.gemspec", 'spec.add_dependency "sinatra", "~> 4.0"\n', "shop", {"Ruby": "", "Sinatra": "4.0"}),
    "Composer": (
        "/p/composer.json",
        '{"name": "me/shop", "require": {"php": "^8.2", "laravel/framework": "^10.10", '
        '"symfony/framework-bundle": "7.0.*"}}',
        "me/shop",
        {"PHP": "8.2", "Laravel": "10.10", "Symfony": "7.0"},
    ),
    "Laravel's artisan": ("/p/artisan", "<?php use Illuminate\\Console;", "", {"Laravel": ""}),
    "WordPress": ("/p/wp-includes/version.php", "<?php\n$wp_version = '6.4.2';\n", "", {"WordPress": "6.4.2"}),
    "WordPress by name": ("/p/wp-config.php", "<?php", "", {"WordPress": ""}),
    "Cargo": (
        "/p/Cargo.toml",
        '[package]\nname = "shop"\nrust-version = "1.75"\n[dependencies]\naxum = "0.7"\n'
        'tokio = { version = "1.35", features = ["full"] }\nweb = { package = "actix-web", version = "4" }\n'
        '[target.\'cfg(unix)\'.dependencies]\nrocket = "0.5"\n[workspace.dependencies]\ntauri = "1.5"\n',
        "shop",
        {"Rust": "1.75", "Axum": "0.7", "Tokio": "1.35", "Actix": "4", "Rocket": "0.5", "Tauri": "1.5"},
    ),
    ".NET": (
        "/p/Shop.Web.csproj",
        '<Project Sdk="Microsoft.NET.Sdk.Web"><PropertyGroup><TargetFramework>net8.0</TargetFramework></PropertyGroup>'
        '<ItemGroup><PackageReference Include="Microsoft.EntityFrameworkCore" Version="8.0.1"/></ItemGroup></Project>',
        "Shop.Web",
        {".NET": "net8.0", "ASP.NET": "", "Entity Framework": "8.0.1"},
    ),
    ".NET, several": (
        "/p/App.fsproj",
        "<Project><PropertyGroup><AssemblyName>Lib</AssemblyName><TargetFrameworks>net48;net8.0</TargetFrameworks>"
        "<UseWPF>true</UseWPF><UseMaui>false</UseMaui></PropertyGroup></Project>",
        "Lib",
        {".NET": "net48", "WPF": ""},
    ),
    "Blazor": (
        "/p/A.csproj",
        '\ufeff<Project Sdk="Microsoft.NET.Sdk.BlazorWebAssembly"/>',
        "A",
        {".NET": "", "Blazor": ""},
    ),
    "Flutter": (
        "/p/pubspec.yaml",
        'name: shop\nenvironment:\n  sdk: ">=3.2.0 <4.0.0"\n  flutter: ^3.16.0\n'
        "dependencies:\n  flutter:\n    sdk: flutter\n",
        "shop",
        {"Dart": "3.2.0", "Flutter": "3.16.0"},
    ),
    "Mix": (
        "/p/mix.exs",
        'app: :shop,\n elixir: "~> 1.15",\n [{:phoenix, "~> 1.7.10"},\n {:ecto, git: "x"}]\n',
        "shop",
        {"Elixir": "1.15", "Phoenix": "1.7.10", "Ecto": ""},
    ),
    "Swift": (
        "/p/Package.swift",
        '// swift-tools-version:5.9\nlet package = Package(\n  name: "shop",\n  dependencies: [\n'
        '    .package(url: "https://github.com/vapor/vapor.git", from: "4.89.0"),\n  ])\n',
        "shop",
        {"Swift": "5.9", "Vapor": "4.89.0"},
    ),
    "CocoaPods": (
        "/p/Podfile",
        "platform :ios, '14.0'\npod 'Alamofire', '~> 5.8'\n",
        "",
        {"CocoaPods": "", "iOS": "14.0", "Alamofire": "5.8"},
    ),
    "CMake": (
        "/p/CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.16)\nproject(shop VERSION 1.2)\n"
        "find_package(Qt6 6.5 REQUIRED)\nfind_package(Boost)\n",
        "shop",
        {"CMake": "3.16", "Qt": "6.5", "Boost": ""},
    ),
    "Julia": ("/p/Project.toml", 'name = "Shop"\nuuid = "x"\n[compat]\njulia = "1.9"', "Shop", {"Julia": "1.9"}),
    "Godot": (
        "/p/project.godot",
        '[application]\nconfig/name="Shop"\nconfig/features=PackedStringArray("4.2", "Mobile")\n',
        "Shop",
        {"Godot": "4.2"},
    ),
    "Unreal": ("/p/Shop.uproject", '{"EngineAssociation": "5.3"}', "Shop", {"Unreal Engine": "5.3"}),
    "Crystal": ("/p/shard.yml", "name: shop\n", "shop", {"Crystal": ""}),
    "Docker": ("/p/Dockerfile", "FROM scratch", "", {"Docker": ""}),
    "Docker, one of several": ("/p/Dockerfile.dev", "FROM scratch", "", {"Docker": ""}),
    "Compose": ("/p/docker-compose.yml", "name: shop\nservices:\n", "shop", {"Docker Compose": ""}),
    "Compose, one of several": ("/p/docker-compose.prod.yml", "services:\n", "", {"Docker Compose": ""}),
    "Kubernetes": ("/p/k8s/app.yaml", "# x\napiVersion: apps/v1\nkind: Deployment\n", "", {"Kubernetes": ""}),
    "Kubernetes, overlays": ("/p/overlays/prod/app.yml", "---\nkind: Pod\napiVersion: v1\n", "", {"Kubernetes": ""}),
    "Kustomize": ("/p/kustomization.yaml", "resources: []", "", {"Kubernetes": ""}),
    "Helm": ("/p/Chart.yaml", "apiVersion: v2\nname: shop # x\nversion: 1.0.0\n", "shop", {"Helm": ""}),
    "Terraform": (
        "/p/main.tf",
        'terraform {\n  required_version = ">= 1.5"\n}\nresource "a" "b" {\n}\n',
        "",
        {"Terraform": "1.5"},
    ),
    "Ansible's settings": ("/p/ansible.cfg", "[defaults]", "", {"Ansible": ""}),
    "a playbook": ("/p/playbooks/web.yml", "---\n- name: x\n  hosts: web\n  roles: []\n", "", {"Ansible": ""}),
    "the playbook of a site": ("/p/site.yml", "- hosts: all\n", "", {"Ansible": ""}),
    "a role": ("/p/roles/web/tasks/main.yml", "- debug:\n", "", {"Ansible": ""}),
    "GitHub Actions": ("/p/.github/workflows/ci.yml", "on: push", "", {"GitHub Actions": ""}),
    "a settings file": ("/p/angular.json", "{}", "", {"Angular": ""}),
}

# Files that look alike and prove nothing.
NOTHING: dict[str, tuple[str, str]] = {
    "package.json in another case": ("/p/Package.json", "{}"),
    "a backup of it": ("/p/package.json.bak", "{}"),
    "a text that is no requirements": ("/p/notes.txt", "django==5.0"),
    "requirements that are prose": ("/p/requirements.md", "django"),
    "settings of tools": ("/p/setup.cfg", "[flake8]\nmax-line-length = 100\n"),
    "another manage.py": ("/p/manage.py", "print('flask')"),
    "a module that sets something up": ("/p/setup.py", "def setup(app):\n    ...\n"),
    "another artisan": ("/p/artisan", "a person who makes things"),
    "version.php of others": ("/p/src/version.php", "$wp_version = '6.4.2';"),
    "version.php that says nothing": ("/p/wp-includes/version.php", "<?php"),
    "Project.toml of others": ("/p/Project.toml", "[project]\nname = 'x'"),
    "an ending alone": ("/p/.csproj", "<Project/>"),
    "YAML of Kubernetes anywhere": ("/p/docs/app.yaml", "apiVersion: v1\nkind: Pod\n"),
    "YAML in its folder that is none": ("/p/k8s/values.yaml", "kind: Pod\nreplicas: 1\n"),
    "YAML with the keys deeper": ("/p/k8s/list.yaml", "items:\n  apiVersion: v1\n  kind: Pod\n"),
    "Chart.yaml of music": ("/p/Chart.yaml", "title: Top 40\n"),
    "a text file of tf": ("/p/notes.tf", "tensorflow notes\n"),
    "site.yml of a generator": ("/p/site.yml", "title: My site\n"),
    "tasks that are no role's": ("/p/tasks/main.yml", "- debug:\n"),
    "a manifest of browsers": ("/p/AndroidManifest.xml", "<other/>"),
    "a Dockerfile's notes": ("/p/Dockerfiles", "x"),
    "a workflow elsewhere": ("/p/workflows/ci.yml", "on: push"),
}

MALFORMED = [
    b"",
    b"\x00" * 100,
    b"\xff\xfe\x00",
    b"{",
    b"[]",
    b'"x"',
    b"null",
    b'{"name": 5, "dependencies": [1], "require": "x", "imports": {"a": 3}}',
    b'{"dependencies": {"react": {"version": ["1"]}, "": "1"}, "engines": []}',
    b"[project]\nname = 1\ndependencies = {a = 1}\n[tool]\npoetry = 5",
    b"[package]\nname = []\n[dependencies]\ntokio = [1]\n[target]\nx = 1",
    b"<project><properties/><dependency/></project>",
]


def hostile() -> dict[str, bytes]:
    """Contents that make careless readers slow, large or deep; each as large as what is read of a file."""
    size = parsing.LIMIT
    return {
        "deep JSON": b"[" * size,
        "deep objects of JSON": b'{"a":' * (size // 5),
        "deep TOML": b"x=" + b"[" * (parsing.TOML_LIMIT - 2),
        "a long dotted key": b"a." * (parsing.TOML_LIMIT // 2 - 2) + b"a=1",
        "many dotted keys": b"".join(b"k%d.%s=1\n" % (n, b".".join([b'"a"'] * 90)) for n in range(700)),
        "deep XML": b"<a>" * (size // 3),
        "an entity bomb": b'<!DOCTYPE a [<!ENTITY b "'
        + b"c" * 99
        + b'">]><project><a>'
        + b"&b;" * 999
        + b"</a></project>",
        "one line": b"a" * size,
        "one line of spaces": b"a" + b" " * (size - 2) + b"b",
        "lines of spaces": (b"id" + b" " * 990 + b"x\n") * (size // 993),
        "quotes": b"\"'" * (size // 2),
        "colons": b'"a:' * (size // 3),
        "brackets": b"a[" * (size // 2),
        "empty lines": b"\n" * size,
        "deep YAML": b"".join(b" " * n + b"a:\n" for n in range(1400)),
        "many dependencies": b'{"dependencies": {' + b",".join(b'"a%d": "1"' % n for n in range(60_000)) + b"}}",
        "commented JSON of UTF-16": "{}".encode("utf-16") * 1000,
    }


def split(path: str) -> tuple[bytes, bytes]:
    folder, _, name = path.rpartition("/")
    return folder.encode(), name.encode()


@pytest.mark.parametrize("case", CASES)
def test_a_manifest_names_the_project_and_its_frameworks(case: str) -> None:
    path, content, name, frameworks = CASES[case]
    manifest = read_manifest(*split(path), content.encode())
    assert manifest is not None
    assert manifest.name == name
    assert frameworks_of(manifest.uses) == frameworks


@pytest.mark.parametrize("case", CASES)
def test_the_walk_meets_every_name_that_a_manifest_may_have(case: str) -> None:
    _, name = split(CASES[case][0])
    names, endings, beginnings = names_that_tell()
    assert name in names or name[name.rfind(b".") :] in endings or name.startswith(beginnings)


@pytest.mark.parametrize("case", NOTHING)
def test_what_only_looks_like_a_manifest_proves_nothing(case: str) -> None:
    path, content = NOTHING[case]
    assert read_manifest(*split(path), content.encode()) is None


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_manifest_never_fails_and_keeps_what_its_name_says(content: bytes) -> None:
    for path, _, _, _ in CASES.values():
        manifest = read_manifest(*split(path), content)
        kind = kind_of(*split(path))
        assert kind is not None
        assert manifest is not None or not kind.root


@pytest.mark.parametrize("content", hostile().values(), ids=hostile().keys())
def test_hostile_content_costs_little_and_gives_at_most_a_few_frameworks(content: bytes) -> None:
    for path in {path for path, _, _, _ in CASES.values()}:
        manifest = read_manifest(*split(path), content)
        assert manifest is None or len(manifest.uses) <= parsing.MOST_USES + 1
        assert manifest is None or len(manifest.name) <= parsing.LONGEST_NAME


def test_entities_are_refused_in_every_encoding() -> None:
    bomb = (
        '<?xml version="1.0" encoding="%s"?><!DOCTYPE project [<!ENTITY a "shop">]>'
        "<project><artifactId>&a;</artifactId></project>"
    )
    for encoding in ("utf-8", "utf-16", "utf-16-le", "latin-1"):
        manifest = read_manifest(b"/p", b"pom.xml", (bomb % encoding).encode(encoding))
        assert manifest is not None
        assert (manifest.name, frameworks_of(manifest.uses)) == ("", {"Maven": ""})


def test_xml_in_utf_16_is_understood() -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><project><artifactId>shop</artifactId></project>'
    manifest = read_manifest(b"/p", b"pom.xml", text.encode("utf-16"))
    assert manifest is not None
    assert manifest.name == "shop"


def test_a_manifest_that_cannot_be_read_says_what_its_name_says() -> None:
    root = read_manifest(b"/p", b"pom.xml", None)
    assert root is not None
    assert frameworks_of(root.uses) == {"Maven": ""}
    assert read_manifest(b"/p", b"manage.py", None) is None


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("^18.2.0", "18.2.0"),
        (">=4.2,<5", "4.2"),
        ("!=4.0, >= 3.1", "3.1"),
        ("~> 7.1.2", "7.1.2"),
        ("[1.0,2.0)", "1.0"),
        ("==2.1.*", "2.1"),
        ("5.x", "5"),
        ("3.2.+", "3.2"),
        ("v1.2.3", "1.2.3"),
        ("1.0.0-beta.1", "1.0.0-beta.1"),
        ("*", ""),
        ("<5", ""),
        ("latest", ""),
        ("workspace:*", ""),
        ("file:../lib2", ""),
        ("https://example.org/a-1.2.tgz", ""),
        ("git+ssh://token@example.org/x#v1.2", ""),
        ("${version}", ""),
        ("1" * 50, ""),
        ("\u0663.1", ""),
        (5, ""),
        (None, ""),
    ],
)
def test_a_version_is_the_first_that_is_accepted_and_never_an_address(wanted: object, version: str) -> None:
    assert parsing.plain_version(wanted) == version


def test_no_dependency_shows_two_frameworks() -> None:
    keys = [key for entry in framework_table().entries for key in entry.keys()]  # noqa: SIM118
    assert len(keys) == len(set(keys))
    names = [entry.name for entry in framework_table().entries]
    assert len(names) == len(set(names)) >= 150


def test_the_frameworks_that_were_promised_are_in_the_table() -> None:
    promised = (
        "React Vue Angular Svelte Next Nuxt Remix Astro Gatsby Express Nest Electron Django Flask FastAPI Starlette "
        "Pyramid Tornado Streamlit Celery Prefect Airflow PyTorch TensorFlow scikit-learn Quarkus Micronaut Android "
        "Rails Sinatra Laravel Symfony WordPress ASP.NET .NET Blazor Actix Axum Rocket Tokio Tauri Gin Echo Fiber "
        "Flutter Phoenix Docker Kubernetes Helm Terraform Ansible Rust Go"
    )
    names = {entry.name for entry in framework_table().entries}
    assert {*promised.split(), "React Native", "Spring Boot", "Docker Compose"} <= names


def test_a_name_of_a_manifest_is_one_printable_line() -> None:
    manifest = read_manifest(b"/p", b"package.json", json.dumps({"name": "a\x1b[31m\nb" + "c" * 999}).encode())
    assert manifest is not None
    assert manifest.name.isprintable()
    assert manifest.name.startswith("a\\x1b[31m\\nb")


MANIFEST_NAMES = st.sampled_from(sorted({split(path) for path, _, _, _ in CASES.values()}))
WORDS = st.sampled_from(
    b'{ } [ ] " : , = . < > / \n name version dependencies react project ${a} gem require '
    b'( ) | ~ ^ # 1 ; - \xff \x00'.split(b" ")
)  # fmt: skip


@given(MANIFEST_NAMES, st.binary(max_size=200) | st.lists(WORDS, max_size=40).map(b"".join))
def test_any_bytes_are_read_without_an_error(where: tuple[bytes, bytes], content: bytes) -> None:
    manifest = read_manifest(*where, content)
    assert manifest is None or manifest.name.isprintable()
    for framework, version in frameworks_of(manifest.uses if manifest else {}).items():
        assert framework
        assert version.isprintable()
        assert len(version) <= parsing.LONGEST_VERSION


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=20))
def test_any_name_has_a_kind_or_none(folder: bytes, name: bytes) -> None:
    kind = kind_of(folder, name)
    assert kind is None or read_manifest(folder, name, b"") is not None or not kind.root
