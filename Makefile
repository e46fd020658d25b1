# Every target but help makes its own .venv first. PYTHON must be 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SITE_READY := .venv/ready-site

.PHONY: help demo test test-long mutants bench studies results gpu kernels notebooks lab slides student mark site test-site lint
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ' *##  *' '/^[a-z-]+:.*##/ { split($$1, name, ":"); printf "make %-10s %s\n", name[1], $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## check, compare, draw and train, in about three minutes
	$(BIN)/python -m experiments demo

test: $(READY) ## all tests
	$(BIN)/pytest -n auto

test-long: $(READY) ## the laws on 10,000 examples each
	HYPOTHESIS_PROFILE=long $(BIN)/pytest -n auto tests/fast/test_laws.py

mutants: $(READY) ## planted faults, each of which the tests must catch
	$(BIN)/python -m tests.mutants

bench: $(READY) ## the speed of the dense and the sparse form on this machine, and the cost of all mixers
	$(BIN)/python -m experiments speed_dense
	$(BIN)/python -m experiments speed_sparse
	$(BIN)/python -m experiments cost

studies: $(READY) ## recall, length on text, short runs, MQAR, loss against compute: hours of two cores, resumable
	$(BIN)/python -m experiments recall
	$(BIN)/python -m experiments length
	$(BIN)/python -m experiments compute
	$(BIN)/python -m experiments recall_in_text
	$(BIN)/python -m experiments mqar
	$(BIN)/python -m experiments short_runs

results: $(READY) ## the tables and figures of all that is stored
	$(BIN)/python -m experiments --draw

gpu: $(READY) ## the kernels on a GPU, if there is one
	$(BIN)/python -m experiments speed_gpu

kernels: $(READY) ## the kernels compiled for GPUs that are not here
	$(BIN)/python -m experiments kernel_builds

notebooks: $(READY) ## run all notebooks and store what they show
	$(BIN)/python -m notebooks.run

lab: $(READY) ## the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

slides: $(READY) ## two lectures of 90 minutes, as HTML files that need no network
	$(BIN)/python -m notebooks.slides

student: $(READY) ## a folder to hand out, without solutions: SEED=2027 draws other numbers
	$(BIN)/python -m notebooks.student --seed $(or $(SEED),0)

mark: $(READY) ## marks what students handed in: SUBMISSIONS=folder, and the SEED of what they got
	$(BIN)/python -m notebooks.mark "$(SUBMISSIONS)" --seed $(or $(SEED),0)

site: $(SITE_READY) ## the pages and the notebooks as a folder for a browser, out/site
	rm -rf out/site out/.site
	$(BIN)/sphinx-build -q -E -W --keep-going -c docs/site -d out/.site/doctrees . out/.site/html
	mv out/.site/html out/site
	rm -rf out/.site
	@echo "written: out/site/index.html"

test-site: site ## the site in a browser: links, formulas, pictures
	$(BIN)/pytest -rs tests/site

lint: $(READY) ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); this project needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(SITE_READY): $(READY) docs/site/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	@touch $@
