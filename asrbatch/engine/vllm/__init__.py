"""All that touches vLLM: starting it, rendering prompts, asking its model classes, the token rules that run inside it.

Begin with `api.py`. Nothing outside this folder imports vllm or torch, so another vLLM version is a matter of this
folder. May import `engine`, `models` and the root modules."""
