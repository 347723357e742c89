"""What a speech model is and how its answer is read and judged; no vLLM here.

Begin with `capabilities.py` (what can be asked of a model) and `whisper.py` (prompts as token ids); `quality.py` judges
a text, `fallback.py` asks again at higher temperatures. May import the root modules only.
"""
