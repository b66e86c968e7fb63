# BackupIQ: every command installs what it needs by itself. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
PYTEST_ARGS ?=
BENCH_ARGS ?=

# Taken as they stand: a name may hold spaces, quotes and dollars, and no shell may see it unquoted.
backup: export BACKUP_FROM := $(value FROM)
backup: export BACKUP_TO := $(value TO)

.DEFAULT_GOAL := help
.PHONY: help venv backup backup-arguments programs test lint bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv: $(STAMP) ## the environment in .venv, with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@.ci/venv "$(VENV)"
	@touch $@

backup-arguments:
	@$(if $(and $(value FROM),$(value TO)),:,$(error say what to back up and where to: make backup FROM=/folder TO=/destination))

backup: backup-arguments $(STAMP) ## back a folder up: make backup FROM=/folder TO=/destination
	@$(BIN)/backupiq backup --to "$$BACKUP_TO" -- "$$BACKUP_FROM"

programs: $(STAMP) ## the programs that only the tests need: Debian's by apt (as root), the newest restic by Go
	@$(BIN)/python -m tests.support.programs

test: $(STAMP) programs ## all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -o faulthandler_timeout=600 $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, mypy --strict, the contracts of the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) programs ## measure against Debian's restic (docs/benchmarks.md)
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

clean: ## remove everything that was installed, built or cached here
	rm -rf $(VENV) .tools build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
