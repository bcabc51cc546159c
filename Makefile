# The first call of each makes its own virtual environment; later ones find it again.
PYTHON ?= python3
VENV ?= .venv
INSTALLED = $(VENV)/.installed

.PHONY: venv test lint demo faults compat gpu clean

venv: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is too old, 3.10 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "python cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	@date '+installation begins at %T'
	$(VENV)/bin/pip install --disable-pip-version-check -q -e '.[test,lint]'
	@touch $@

test: lint
	@date '+tests begin at %T'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

faults: venv
	$(VENV)/bin/python -m tests.faults.campaign --kills 48 -o docs/results/faults.json
	$(VENV)/bin/python -m tests.faults.mutations --mutations 300 -o docs/results/mutations.json
	$(VENV)/bin/python -m tests.faults.sweep --datasets 200 --train 10 -o docs/results/sweep.json

compat: venv
	$(VENV)/bin/python -m tests.installation.compat --result docs/results/compat.json --lock docs/container/lock

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

gpu: venv
	$(VENV)/bin/python -m benchmarks.gpu

demo: venv
	$(VENV)/bin/difflung_demo

clean:
	rm -rf $(VENV) .compat .mypy_cache .ruff_cache .import_linter_cache build dist *.egg-info
