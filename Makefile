# Two commands on a fresh machine with Python and git: `make run` and `make test`. Both set themselves up.
PYTHON ?= python3
UV ?= $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := $(UV) run --locked

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all images test-docker check lint format types layers schemas pages clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# uv in a folder of its own, where the system has none. Debian without python3-venv still has pip, and the reverse.
.uv/bin/uv:
	@echo "uv is not on PATH: installing it into .uv/"
	@rm -rf .uv
	@{ $(PYTHON) -m venv .uv 2>/dev/null && .uv/bin/pip install --quiet uv; } \
		|| { rm -rf .uv && $(PYTHON) -m pip install --quiet --target .uv uv; } \
		|| { rm -rf .uv; echo "could not install uv: install python3-venv, or uv itself (https://docs.astral.sh/uv)" >&2; exit 1; }

setup: $(filter .uv/bin/uv,$(UV)) ## Install the locked dependencies into .venv
	@$(UV) sync --locked --compile-bytecode
	@case "$(UV)" in .uv/*) echo 'uv is in .uv/bin: export PATH="$$PWD/.uv/bin:$$PATH"' ;; esac

run: setup ## The whole pipeline on the embedded teacher
	$(RUN) zsq run

test: setup ## The quick tests
	$(RUN) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: setup ## All tests, slow ones included
	$(RUN) pytest -m "not docker" --timeout 3600

images: ## Build the container images
	@ZSQ_VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		ZSQ_REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) docker buildx bake --file docker-bake.hcl

test-docker: setup images ## The tests on a real Docker engine
	$(RUN) pytest -m docker

check: lint types layers test ## What CI runs, less the containers

lint: setup ## Lint and check the format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: setup ## Mend what lint and format can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: setup ## Check types
	$(RUN) mypy

layers: setup ## Check which package imports which
	$(RUN) lint-imports

schemas: setup ## Write the JSON Schema files of the contracts
	$(RUN) python -m stages.json_schemas docs/schemas

pages: setup ## Write the pages of commands and settings
	$(RUN) python -m stages.settings_page docs/settings.md
	$(RUN) python -m typer pipeline.cli utils docs --name zsq --title "Command line" --output docs/cli.md

clean: ## Remove caches and build outputs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
