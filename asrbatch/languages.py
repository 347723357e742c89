"""What must be known of a language to join and to count its words. One list each, for transcripts and for scores alike.

Knows nothing of models and of normalisers.
"""

from collections.abc import Collection

# Written without spaces between words: those of openai-whisper's word splitter, and Khmer, which is written in the same way.
# Windows of these are joined without a space, and characters are counted instead of words.
NO_SPACES = frozenset(("ja", "zh", "yue", "th", "lo", "my", "km"))
# Other ways to write languages: ISO 639-2 and 639-3, and names in English.
_WRITTEN = {
    "en": "eng english", "zh": "cmn zho chi chinese mandarin", "yue": "cantonese", "ja": "jpn japanese", "th": "tha thai",
    "lo": "lao", "my": "mya bur burmese myanmar", "km": "khm khmer", "de": "deu ger german", "es": "spa spanish castilian",
    "fr": "fra fre french", "it": "ita italian", "pt": "por portuguese", "nl": "nld dut dutch", "ru": "rus russian",
    "ko": "kor korean", "ar": "ara arabic", "hi": "hin hindi", "tr": "tur turkish", "pl": "pol polish", "uk": "ukr ukrainian",
    "vi": "vie vietnamese", "id": "ind indonesian", "ms": "msa may malay", "sv": "swe swedish", "da": "dan danish",
    "no": "nor norwegian", "fi": "fin finnish", "cs": "ces cze czech", "sk": "slk slo slovak", "sl": "slv slovenian",
    "hr": "hrv croatian", "sr": "srp serbian", "bs": "bos bosnian", "bg": "bul bulgarian", "ro": "ron rum romanian",
    "hu": "hun hungarian", "el": "ell gre greek", "he": "heb hebrew", "fa": "fas per pes persian farsi", "ur": "urd urdu",
    "bn": "ben bengali", "ta": "tam tamil", "te": "tel telugu", "ml": "mal malayalam", "kn": "kan kannada", "mr": "mar marathi",
    "gu": "guj gujarati", "pa": "pan punjabi", "ne": "nep nepali", "si": "sin sinhala", "ca": "cat catalan",
    "eu": "eus baq basque", "gl": "glg galician", "cy": "cym wel welsh", "is": "isl ice icelandic", "et": "est estonian",
    "lv": "lav latvian",
    "lt": "lit lithuanian", "mt": "mlt maltese", "sq": "sqi alb albanian", "mk": "mkd mac macedonian", "hy": "hye arm armenian",
    "ka": "kat geo georgian", "az": "aze azerbaijani", "kk": "kaz kazakh", "uz": "uzb uzbek", "mn": "mon mongolian",
    "be": "bel belarusian", "af": "afr afrikaans", "sw": "swa swahili", "yo": "yor yoruba", "so": "som somali", "la": "lat latin",
    "tl": "tgl tagalog", "ps": "pus pashto", "am": "amh amharic",
}  # fmt: skip
_CODES = {written: code for code, others in _WRITTEN.items() for written in others.split()}


def primary(lang: str) -> str:
    """`zh` for `zh-Hant`, `ZH_tw` and `Chinese`: the first part of a language tag (BCP 47), in small letters, names as codes."""
    first = lang.replace("_", "-").partition("-")[0].strip().lower()
    return _CODES.get(first, first)


def find(lang: str, known: Collection[str]) -> str | None:
    """Which of a model's codes a language is that someone wrote as `EN`, `en-US`, `en_us`, `eng` or `English`; None for none."""
    written = lang.replace("_", "-").partition("-")[0].strip().lower()
    return next((code for code in (written, primary(lang)) if code in known), None)
