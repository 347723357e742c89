#!/usr/bin/env bash
# Makes .venv-vllm028: the oldest vLLM that pyproject.toml promises for CPUs (0.28), to run the tests against as well.
exec "$(dirname "${BASH_SOURCE[0]}")/setup.sh" --profile cpu-vllm028 "$@"
