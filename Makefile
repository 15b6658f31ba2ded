# Two commands: `make demo` runs the main job, `make test` passes the tests; each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Any folder of audio or prepared corpus; empty: a corpus that examples/synthesise.py renders.
CORPUS ?=
MINUTES ?= 3
DEMO := demo
READY := $(VENV)/.ready

# Bytecode of the package and its tests is kept: without it each process of a test compiles them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-slow check docs clean

setup: $(READY)

$(READY): pyproject.toml .ci/setup
	.ci/setup $(PYTHON) $(VENV)
	touch $@

demo: $(READY)
	examples/demo.sh $(BIN) $(DEMO) $(MINUTES) "$(CORPUS)"

test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

# What kills processes and nodes, and what needs root for network namespaces: some 10 minutes, one after another.
test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/zensical build --strict

# The site, in site/: commands.md and the other generated pages are written anew first.
docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict

# Of folders that the command line may name, only those that `make setup` and `make demo` have made.
clean:
	if [ -f "$(VENV)/.ready" ]; then rm -rf "$(VENV)"; fi
	if [ -f "$(DEMO)/.distill-ray-demo" ]; then rm -rf "$(DEMO)"; fi
	rm -rf build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
