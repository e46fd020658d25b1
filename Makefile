# Every target makes its own .venv first. PYTHON must be 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test test-long mutants bench search slots gpu kernels notebooks lab lint
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/python -m experiments.demo

test: $(READY)
	$(BIN)/pytest -n auto

test-long: $(READY)
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -n auto tests/fast/test_laws.py

mutants: $(READY)
	$(BIN)/python -m tests.mutants

bench: $(READY)
	$(BIN)/python -m experiments.speed_dense
	$(BIN)/python -m experiments.speed_sparse

search: $(READY)
	$(BIN)/python -m experiments.settings

slots: $(READY)
	$(BIN)/python -m experiments.slots

gpu: $(READY)
	$(BIN)/python -m experiments.speed_gpu

kernels: $(READY)
	$(BIN)/python -m experiments.kernel_builds

notebooks: $(READY)
	$(BIN)/python -m notebooks.run

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); this project needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
