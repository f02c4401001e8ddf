# Sparse U-Net for 3D Slicer. `make` lists what there is.

PYTHON ?= $(shell for python in python3.11 python3 python; do \
  $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && command -v $$python && break; done)
PORT ?= 8000
STUDIES ?=
CONF ?=
PARTS ?=
WHAT ?= all

APP := apps/sparse_unet3d
ADDRESS := http://127.0.0.1:$(PORT)
BIN := .venv/bin

.PHONY: help serve samples demo test format benchmark reproduce
.DEFAULT_GOAL := help

help:
	@echo "make serve                 start the server, on the sample volumes, at $(ADDRESS)"
	@echo "make serve STUDIES=FOLDER  the same on your own volumes (NIfTI or NRRD); PORT=8001 for another port"
	@echo "                           CONF=\"--conf labels nucleus --conf background outside\" for your own classes"
	@echo "make demo                  annotate, train, segment and measure without a person; see demo/report.html"
	@echo "make demo STUDIES=FOLDER   the same on a folder with images/ and dense labels/"
	@echo "make samples               make the sample volumes in datastore/"
	@echo "make test                  lint, types and tests"
	@echo "make benchmark             time it against the alternatives (hours); PARTS=\"tiles inference\" for some of it"
	@echo "make reproduce             the paper's tables and figure 3 at small size (over an hour); WHAT=table1 for one of them"
	@echo "make format                bring the code into its standard format"

# The environment is made once, and brought up to date when the requirements change.
.venv/installed: requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 not found. Install it, or name it: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing what the software needs; the first time this takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
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

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(APP)
	$(BIN)/python -m pytest

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/installed-benchmarks
	@$(BIN)/python -m benchmarks $(PARTS)

reproduce: .venv/installed
	@$(BIN)/python $(APP) reproduce $(WHAT)
