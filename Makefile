# The two commands of the README are `make demo` and `make test`; before a commit, `make check`. All set up what is
# missing first.
.PHONY: demo check test lint setup bench parity test-vllm028 test-nemo

PYTHON := .venv/bin/python

demo: setup
	$(PYTHON) scripts/demo.py

# Two processes share the tests, file by file; they would wait for disks, clocks and imports one after the other.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Under 90 seconds: no engine, no cluster (tests/conftest.py says which tests are quick).
check: lint
	$(PYTHON) $(PYTEST) --quick

test: lint
	$(PYTHON) $(PYTEST)

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

setup:
	@scripts/setup.sh

parity: setup
	$(PYTHON) scripts/parity.py

bench: setup
	$(PYTHON) scripts/bench.py

# The same tests on the older vLLM, in an environment of its own.
test-vllm028:
	@scripts/setup_vllm028.sh
	.venv-vllm028/bin/python $(PYTEST)

# NeMo's own plugin for vLLM, in an environment of its own.
test-nemo:
	@scripts/setup_nemo.sh
	.venv-nemo/bin/python -m pytest tests/engine/test_models_nemo.py
