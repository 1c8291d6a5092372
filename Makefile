# Two commands on a fresh clone: `make demo` and `make test`. Both do all set-up; a second call is fast.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test lint bench clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing ffbench and its packages into $(VENV): some minutes the first time"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/dev: $(VENV)/installed
	@echo "adding what the tests need"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/ffbench run --method faithfulfaces --method vace --method oracle --method still --method impostor --limit 12 --out $(DEMO)

test: $(VENV)/dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev
	$(BIN)/python tests/benchmarks/score.py

clean:
	rm -rf $(VENV) $(DEMO)
