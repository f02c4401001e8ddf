# Sparse U-Net for 3D Slicer. `make` lists the targets.

# The first of these versions that is found. Others don't work: numpymaxflow and numpy 1 have no packages for them.
PYTHON ?= $(shell .ci/find-python 3.11 3.12 3.10)
PORT ?= 8000
STUDIES ?=
CONF ?=
PARTS ?=
WHAT ?= all
COVERAGE ?=

APP := apps/sparse_unet3d
ADDRESS := http://127.0.0.1:$(PORT)
BIN := .venv/bin
# Parallel test processes, one for each logical core, at most four. Tests of one file share a server, and build on each other.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The packages that `make test COVERAGE=yes` reports on.
COVERED := $(addprefix --cov=,apps/sparse_unet3d experiments benchmarks) --cov-report=term:skip-covered

.PHONY: help serve samples demo test test-quick audit docs format benchmark torture reproduce
.DEFAULT_GOAL := help

help:
	@echo "make serve                 start the server, on the sample volumes, at $(ADDRESS)"
	@echo "make serve STUDIES=FOLDER  the same on your own volumes (docs/formats.md); PORT=8001 for another port"
	@echo "                           CONF=\"--conf labels nucleus --conf background outside\" for your own classes"
	@echo "make demo                  annotate, train, segment and measure without a person; see demo/report.html"
	@echo "make demo STUDIES=FOLDER   the same on a folder with images/ and dense labels/"
	@echo "make samples               make the sample volumes in datastore/"
	@echo "make test                  lint, types and tests (20 to 40 minutes on two cores)"
	@echo "make test-quick            the same without the slow tests (10 minutes)"
	@echo "make audit                 look for vulnerabilities in the code and its packages, and for faults in the Dockerfile"
	@echo "make docs                  build the pages in docs/ as a site, in site/"
	@echo "make benchmark             time this software against others (hours); PARTS=\"tiles inference\" for some parts"
	@echo "make torture               kill, fill, flood and starve the server, and check that nothing is lost (hours)"
	@echo "make reproduce             the paper's tables and figure 3 at small size (over an hour); WHAT=table1 for one of them"
	@echo "make format                format the code"

# The environment is made once, and brought up to date when the requirements change.
.venv/installed: requirements.txt
	@if test -x $(BIN)/python; then :; \
	elif test -n "$(PYTHON)"; then "$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 2; }; \
	elif command -v uv >/dev/null; then uv venv --python 3.12 .venv; \
	else \
	  echo "This software needs Python 3.10, 3.11 or 3.12, and none of them was found. With any newer Python,"; \
	  echo "these two commands install 3.12 for this folder only. Then type make again."; \
	  echo "  python3 -m venv .uv && .uv/bin/python -m pip install uv"; \
	  echo "  .uv/bin/uv venv --python 3.12 .venv"; \
	  echo "Or install Python 3.12 from https://www.python.org/downloads/."; \
	  echo "If it is on this computer already, name it: make PYTHON=/path/to/python3.12"; \
	  exit 2; \
	fi
	@$(BIN)/python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "The environment in .venv is made with $$($(BIN)/python --version); this software needs 3.10, 3.11 or 3.12."; \
	  echo "Remove it (rm -r .venv) and type make again."; \
	  exit 2; \
	}
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "Installing what the software needs; the first time this takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-formats.txt requirements-dask.txt requirements-export.txt \
  requirements-bioimageio.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bioimageio.txt
	@touch $@

.venv/installed-benchmarks: benchmarks/requirements.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r benchmarks/requirements.txt
	@touch $@

samples: .venv/installed
	@$(BIN)/python $(APP) samples

serve: .venv/installed
	@$(if $(STUDIES),,$(BIN)/python $(APP) samples)
	@echo
	@echo "Starting the server. When it says 'Uvicorn running', open 3D Slicer and there:"
	@echo "  1. Once: View > Extensions Manager, install MONAILabel, restart. Then open the module Active Learning > MONAILabel."
	@echo "  2. Type into 'MONAI Label server':   $(ADDRESS)   and click the refresh button beside it."
	@echo "  3. Click 'Next Sample', paint some slices, 'Submit Label', 'Train', and 'Run' when it is trained."
	@echo "Stop the server with Ctrl-C."
	@echo
	@$(BIN)/python -m monailabel.main start_server --app $(APP) --studies "$(or $(STUDIES),datastore)" \
	  --host 127.0.0.1 --port $(PORT) $(CONF)

demo: .venv/installed
	@$(BIN)/python $(APP) demo $(if $(STUDIES),--studies "$(STUDIES)")

test test-quick: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(APP) experiments benchmarks torture $(filter-out tests/test_%,$(wildcard tests/*.py))
	$(BIN)/mypy --config-file tests/mypy.ini tests
	PYTHONPATH=$(APP):. $(BIN)/lint-imports --no-cache >/dev/null || PYTHONPATH=$(APP):. $(BIN)/lint-imports --no-cache
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) $(if $(filter test-quick,$@),-m "not slow") \
	  $(if $(COVERAGE),$(COVERED))

audit: .venv/installed-dev
	$(BIN)/hadolint Dockerfile
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml $(APP) experiments benchmarks docker
	$(BIN)/python .ci/audit.py

# The variable silences an advertisement by the theme. --quiet would also hide warnings from --strict.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html."

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/installed-benchmarks
	@$(BIN)/python -m benchmarks $(PARTS)

torture: .venv/installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m torture all

reproduce: .venv/installed
	@$(BIN)/python -m experiments reproduce $(WHAT)
