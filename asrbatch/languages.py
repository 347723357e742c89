"""What must be known of a language to join and to count its words. One list each, for transcripts and for scores alike.

Knows nothing of models and of normalisers.
"""

# Written without spaces between words: those of openai-whisper's word splitter, and Khmer, which is written in the same way.
# Windows of these are joined without a space, and characters are counted instead of words.
NO_SPACES = frozenset(("ja", "zh", "yue", "th", "lo", "my", "km"))
# Other ways to write the languages that are treated in a way of their own. Of all others only equality matters.
_CODES = {
    "eng": "en", "english": "en", "jpn": "ja", "japanese": "ja", "cmn": "zh", "zho": "zh", "chi": "zh", "chinese": "zh",
    "mandarin": "zh", "cantonese": "yue", "tha": "th", "thai": "th", "lao": "lo", "mya": "my", "bur": "my", "burmese": "my",
    "myanmar": "my", "khm": "km", "khmer": "km",
}  # fmt: skip


def subtag(lang: str) -> str:
    """The first part of a language tag, as models name languages (`EN`, `en-US`, `en_us` → `en`); names stay names."""
    return lang.strip().lower().replace("_", "-").split("-")[0]


def primary(lang: str) -> str:
    """`zh` for `zh-Hant`, `ZH_tw` and `Chinese`: the first part of a language tag (BCP 47), in small letters, names as codes."""
    first = lang.replace("_", "-").partition("-")[0].strip().lower()
    return _CODES.get(first, first)
