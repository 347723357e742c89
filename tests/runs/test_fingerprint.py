"""The fingerprint: each choice that decides the rows is in it and is named when it differs; choices
of speed are not.
"""

import json

import pytest

from asrbatch.runs.fingerprint import SPEED_ONLY_ENGINE_ARGS, differences, digest, fingerprint

CHOICES = {
    "manifest": "a" * 64,
    "num_rows": 100,
    "model": "b" * 64,
    "revision": None,
    "dtype": "bfloat16",
    "quantization": None,
    "sampling": {"temperature": 0.0, "max_tokens": 444, "seed": 0},
    "task": "transcribe",
    "language": "en",
    "prompt": None,
    "windows": "none",
    "engine_args": {"max_model_len": 448, "hf_overrides": {"a": {"b": 1}}},
    "audio_folder": None,
}

# What is changed, and the name and values under which the difference is told.
CHANGES = {
    "manifest": ("c" * 64, f'manifest: was "{"a" * 59}…, now "{"c" * 59}…'),
    "num_rows": (101, "num_rows: was 100, now 101"),
    "model": ("d" * 64, f'model: was "{"b" * 59}…, now "{"d" * 59}…'),
    "revision": ("main", 'revision: was null, now "main"'),
    "dtype": ("float32", 'dtype: was "bfloat16", now "float32"'),
    "quantization": ("fp8", 'quantization: was null, now "fp8"'),
    "sampling": ({"temperature": 0.0, "max_tokens": 200, "seed": 0}, "sampling.max_tokens: was 444, now 200"),
    "task": ("translate", 'task: was "transcribe", now "translate"'),
    "language": (None, 'language: was "en", now null'),
    "prompt": ("", 'prompt: was null, now ""'),
    "windows": ("fixed", 'windows: was "none", now "fixed"'),
    "engine_args": (
        {"max_model_len": 448, "hf_overrides": {"a": {"b": 2}}},
        "engine_args.hf_overrides.a.b: was 1, now 2",
    ),
    "audio_folder": ("/speech", 'audio_folder: was null, now "/speech"'),
}


def test_the_same_choices_make_the_same_fingerprint():
    before, now = fingerprint(**CHOICES), fingerprint(**json.loads(json.dumps(CHOICES)))
    assert digest(before) == digest(now)
    assert differences(before, now) == []
    assert differences(json.loads(json.dumps(before)), now) == []  # as the run record gives it back
    assert len(digest(before)) == 64
    assert list(CHANGES) == list(CHOICES)


@pytest.mark.parametrize("choice", CHANGES)
def test_each_choice_counts_and_is_named(choice):
    value, told = CHANGES[choice]
    before, now = fingerprint(**CHOICES), fingerprint(**{**CHOICES, choice: value})
    assert digest(before) != digest(now)
    assert differences(json.loads(json.dumps(before)), now) == [told]


def test_every_difference_is_named():
    before = fingerprint(**CHOICES)
    now = fingerprint(**{choice: value for choice, (value, _) in CHANGES.items()})
    assert differences(before, now) == [told for _, told in CHANGES.values()]


@pytest.mark.parametrize("name", sorted(SPEED_ONLY_ENGINE_ARGS))
def test_arguments_of_speed_do_not_count(name):
    now = fingerprint(**{**CHOICES, "engine_args": {**CHOICES["engine_args"], name: 1}})
    assert digest(now) == digest(fingerprint(**CHOICES))


@pytest.mark.parametrize(
    "name", ["load_format", "kv_cache_dtype", "hf_overrides", "tokenizer", "enable_lora", "seed", "new_in_vllm"]
)
def test_other_arguments_count(name):
    before = fingerprint(**{**CHOICES, "engine_args": {}})
    now = fingerprint(**{**CHOICES, "engine_args": {name: "x"}})
    assert digest(now) != digest(before)
    assert differences(before, now) == [f'engine_args.{name}: was null, now "x"']


def test_quantization_is_named_once():
    engine_args = {**CHOICES["engine_args"], "quantization": "fp8"}
    now = fingerprint(**{**CHOICES, "engine_args": engine_args, "quantization": "fp8"})
    assert differences(fingerprint(**CHOICES), now) == ['quantization: was null, now "fp8"']


def test_order_of_arguments_does_not_count():
    now = fingerprint(**{**CHOICES, "engine_args": dict(reversed(CHOICES["engine_args"].items()))})
    assert digest(now) == digest(fingerprint(**CHOICES))


def test_differences_see_what_the_digest_sees():
    for old, new in [(1, True), (0, False), (1, 1.0), ("1", 1), ({}, None), ([], {})]:
        before, now = {"x": {"y": old}}, {"x": {"y": new}}
        assert digest(before) != digest(now)
        assert len(differences(before, now)) == 1
    assert differences({"x": (1, 2)}, {"x": [1, 2]}) == []
    assert differences({"x": float("nan")}, {"x": float("nan")}) == []


def test_a_field_that_came_or_went():
    assert differences({"a": 1, "b": {"c": 2}}, {"d": [3]}) == [
        "a: was 1, now null",
        'b: was {"c": 2}, now null',
        "d: was null, now [3]",
    ]


def test_long_values_are_shown_where_they_differ():
    glossary = "Glossary: " + ", ".join(f"term{i}" for i in range(50))
    (told,) = differences({"prompt": glossary + ", last"}, {"prompt": glossary + ", other"})
    shared = "term44, term45, term46, term47, term48, term49"
    assert told == f'prompt: was …erm43, {shared}, last", now …rm43, {shared}, other"'
    (told,) = differences({"prompt": "x" + glossary}, {"prompt": "y" + glossary})
    assert len(told) < 160
    assert told.startswith('prompt: was "xGlossary') and 'now "yGlossary' in told


def test_half_a_surrogate_pair_has_a_digest():
    assert digest(fingerprint(**{**CHOICES, "prompt": "\udce9"})) != digest(fingerprint(**CHOICES))
