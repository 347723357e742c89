"""How a data set of the Hugging Face hub is written in place of a manifest."""

import re

PREFIX = "hf://"
_DATA_SET = re.compile(r"hf://(?:datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@(refs/\w+/[\w.-]+|[^/@]+))?")


def is_data_set(given: str) -> bool:
    """Whether it names a data set, `hf://NAME` or `hf://NAME@REVISION`, and not a file in one."""
    return _DATA_SET.fullmatch(given) is not None


def parse_name(given: str) -> tuple[str, str | None]:
    """(name, revision) of what `is_data_set`."""
    match = _DATA_SET.fullmatch(given)
    return match[1], match[2]
