"""Loading is quicker, and what is loaded is the same."""

import copy
import gc
import subprocess
import weakref

import pytest

from asrbatch.engine.vllm import loading

NUM = 2 * loading._LARGE


@pytest.mark.parametrize(
    "value",
    [
        {f"word {i}": i for i in range(NUM)},
        [f"word {i}" for i in range(NUM)],
        [(f"a{i}", f"b{i}") for i in range(NUM)],
    ],
    ids=["vocabulary", "words", "merges"],
)
def test_a_vocabulary_is_copied_and_its_words_are_not(value):
    with loading.quick_loading():
        first, second = copy.deepcopy([value, value])
    assert first == value and first is not value
    assert second is first  # one copy of one object, as ever
    sizes = len(first), len(value)
    first.clear()
    assert (len(first), len(value)) == (0, sizes[1])


@pytest.mark.parametrize(
    "value",
    [
        {f"word {i}": [i] for i in range(NUM)},
        [[i] for i in range(NUM)],
        [(i, [i]) for i in range(NUM)],
        [(i, (i, [i])) for i in range(NUM)],
    ],
    ids=["lists in a dict", "lists", "lists in tuples", "lists in tuples in tuples"],
)
def test_what_may_change_is_copied_whatever_it_is_in(value):
    with loading.quick_loading():
        copied = copy.deepcopy(value)
    assert copied == value
    entry, before = (list(c.values())[7] if isinstance(c, dict) else c[7] for c in (copied, value))
    while isinstance(entry, tuple):
        entry, before = entry[-1], before[-1]
    assert entry is not before


def test_copies_are_pythons_own_again_afterwards():
    before = dict(copy._deepcopy_dispatch)
    with pytest.raises(KeyError), loading.quick_loading():
        assert copy._deepcopy_dispatch != before  # else the tests above show nothing
        raise KeyError
    assert copy._deepcopy_dispatch == before


def test_what_an_earlier_engine_left_is_not_kept_for_ever():
    class Leftover:
        pass

    gc.disable()  # else it might be gone by chance
    try:
        left = Leftover()
        left.itself, seen = left, weakref.ref(left)
        del left
        with loading.quick_loading():
            loading.after_imports()
        assert seen() is None
    finally:
        gc.enable()


def test_a_processor_takes_the_tokenizer_that_it_is_given(tiny_en, monkeypatch):
    """And loads its own where it is given none. vLLM relies on the first, three times at each start."""
    from transformers import AutoTokenizer, WhisperProcessor

    loading._load_no_tokenizer_twice()
    loading._load_no_tokenizer_twice()  # wraps once
    loads = []
    real = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kw: loads.append(args) or real(*args, **kw))
    own = WhisperProcessor.from_pretrained(tiny_en)
    assert len(loads) == 1
    given = WhisperProcessor.from_pretrained(tiny_en, tokenizer=own.tokenizer)
    assert len(loads) == 1
    assert given.tokenizer is own.tokenizer
    assert given.feature_extractor.to_dict() == own.feature_extractor.to_dict()


def test_a_model_is_looked_at_without_another_process(tmp_path, monkeypatch):
    from vllm.model_executor.models import registry

    loading._look_at_models_here()
    model = registry.ModelRegistry.models["WhisperForConditionalGeneration"]
    monkeypatch.setattr(type(model), "_get_cache_dir", lambda *_: tmp_path)  # where vLLM keeps what it has found before
    run, started = subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda what, *args, **how: started.append(what) or run(what, *args, **how))
    found = model.inspect_model_cls()
    assert registry._SUBPROCESS_COMMAND not in started
    assert found.supports_transcription and found.supports_multimodal
    assert list(tmp_path.glob("*Whisper*.json")), "it was not known before"
