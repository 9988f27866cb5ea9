# make          says what there is to do
# make lab      sets up .venv on a fresh machine and opens JupyterLab on the first chapter
# make test     sets up the same and runs every test
#
# Variables, on the command line:
#   PYTHON=python3.13     which Python .venv is made from (3.11 or newer)
#   TORCH_INDEX=URL       where else to look for PyTorch. On Linux the default build is for NVIDIA GPUs: .venv is then
#                         about 6 GB, against 2.4 GB with the build for the CPU:
#                             make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                         These two count when .venv is made; to choose again: make clean, then make setup.
#   ARGS=...              more for the command, as in: make lab ARGS="--port 9000"  or: make notebooks ARGS=notebooks/05*.ipynb

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
PIP_OPTIONS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help setup lab test lint notebooks clean

help:
	@echo 'make lab        open JupyterLab on the first chapter, in my/, where your work is never overwritten'
	@echo 'make test       run every test: style, units, notebooks, browser'
	@echo 'make setup      only make .venv (the others do it when it is needed)'
	@echo 'make lint       only check the style and the types'
	@echo 'make notebooks  execute the notebooks again and write their outputs (for contributors)'
	@echo 'make clean      remove .venv and caches; my/ stays'

setup: $(VENV)/.ready

# .unfinished stands while an installation runs and becomes .ready at its end; after an interrupted one the next starts from nothing.
$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) was not found: install Python 3.11 or newer.' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: minimistral needs Python 3.11 or newer; name one with make setup PYTHON=python3.13." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot make an environment: install python3-venv (Debian, Ubuntu: sudo apt install python3-venv).' >&2; exit 1; }
	@echo 'Setting up $(VENV): some minutes and 2.4 GB, or about 6 GB with PyTorch for NVIDIA GPUs (the Makefile says how to choose).'
	@$(PYTHON) -m venv $(if $(wildcard $(VENV)/.unfinished),--clear) $(VENV)
	@touch $(VENV)/.unfinished
	@$(RUN) -m pip install --disable-pip-version-check $(PIP_OPTIONS) -e '.[test]' -c constraints.txt
	@mv $(VENV)/.unfinished $@

lab: setup
	@$(RUN) -m minimistral lab $(ARGS)

test: setup
	@$(RUN) tests/run.py $(ARGS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

notebooks: setup
	@$(RUN) tests/execute.py $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info build dist
	find . -name my -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
