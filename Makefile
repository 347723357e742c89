# The two commands of the README are `make demo` and `make test`; before a commit, `make check`. All set up what is
# missing first.
.PHONY: demo check test run-tests lint docs setup bench parity test-vllm test-conformance test-nemo

PYTHON := .venv/bin/python

demo: setup
	$(PYTHON) scripts/demo.py

# Three processes share the tests (tests/conftest.py says how); fewer would wait for disks, clocks and imports.
PYTEST := -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Under 90 seconds: no engine, no cluster (tests/conftest.py says which tests are quick).
check: lint
	$(PYTHON) $(PYTEST) --quick

# Types are looked at beside the tests, which leave a part of a core free.
test: setup
	@$(MAKE) --no-print-directory -j2 lint run-tests

run-tests:
	$(PYTHON) $(PYTEST)

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# The documents as a site, in build/site.
docs: setup
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

setup:
	@scripts/setup.sh

parity: setup
	$(PYTHON) scripts/parity.py

bench: setup
	$(PYTHON) scripts/bench.py

# What needs an engine, on the CPU build of another vLLM, in an environment of its own: make test-vllm VERSION=0.26.0
test-vllm:
	@scripts/setup.sh --vllm "$(VERSION)"
	.venv-vllm-$(VERSION)/bin/python $(PYTEST) tests/engine tests/models tests/runs/test_transcribe.py tests/cli/test_process.py

# A vLLM that cannot run here: its CUDA wheel (300 MB) beside CPU torch. Without VERSION: the installed one.
test-conformance: setup
	$(PYTHON) scripts/conformance.py $(VERSION)

# NeMo's own plugin for vLLM, in an environment of its own.
test-nemo:
	@scripts/setup_nemo.sh
	.venv-nemo/bin/python -m pytest tests/engine/test_models_nemo.py
