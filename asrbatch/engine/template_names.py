"""The variables of a chat template, read from its source. Knows nothing of vLLM."""

import re

import jinja2
import jinja2.meta

# What a template is given whatever anybody asks for, and Jinja's and transformers' own functions.
_GIVEN = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now")
)
# A tag of transformers' that marks what the assistant says; Jinja itself does not know it.
_MARK = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


def variables(template: str) -> frozenset[str] | None:
    """The names that a template looks up; None where it cannot be read as Jinja."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        found = jinja2.meta.find_undeclared_variables(environment.parse(_MARK.sub("", template)))
    except jinja2.TemplateError:
        return None
    return frozenset(found - environment.globals.keys())


def to_choose(names: frozenset[str]) -> list[str]:
    """Those of a template's variables that somebody may want to set."""
    return sorted(name for name in names - _GIVEN if not name.endswith("_token"))
