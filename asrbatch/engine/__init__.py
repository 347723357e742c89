"""The vLLM engine behind four verbs: preprocess a window, submit it, deliver its result, close.

Begin with `base.py` (the interface), then `engine.py`. Two drivers run vLLM, in a thread of this process or in a
process of its own (`drivers.py`; `settings.py` chooses). Only `vllm/` imports vllm and torch, and only when an engine
is really started. May import `audio`, `models` and the root modules."""
