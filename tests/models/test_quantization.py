"""In which dtypes quantised weights can run: the rule for CPUs with AMX and without, on whichever this is."""

import pytest

from asrbatch.engine.devices import Device
from asrbatch.engine.settings import resolve_dtype
from asrbatch.errors import UsageError
from asrbatch.models.checkpoint import Checkpoint
from asrbatch.models.quantization import ALL, HALVES, dtypes_taken, stated_quantization

OLD = Device("cpu", "a CPU with AVX2", has_bf16=False)
ZEN = Device("cpu", "a CPU with AVX512-BF16", has_bf16=True)
AMX = Device("cpu", "a CPU with AMX", has_bf16=True, has_amx=True)
TURING = Device("cuda", "an old GPU", has_bf16=False)
HOPPER = Device("cuda", "a new GPU", has_bf16=True)


def int8(**changed) -> dict:
    """As llm-compressor writes 8-bit integers."""
    of = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {"targets": ["Linear"], "weights": dict(of), "input_activations": {**of, "dynamic": True}}
    stated = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": group}}
    for name, value in changed.items():
        holder = group[name] if isinstance(value, dict) and group.get(name) else group if name in GROUP else stated
        holder.update(value if holder is group.get(name) else {name: value})
    return stated


GROUP = ("input_activations", "output_activations")


def checkpoint(quantization: dict | None, **config) -> Checkpoint:
    return Checkpoint("m", "/m", None, {**config, **({"quantization_config": quantization} if quantization else {})})


@pytest.mark.parametrize(
    ("quantization", "on_amx"),
    [
        (int8(), HALVES),
        (int8(input_activations={"dynamic": False, "strategy": "tensor"}), HALVES),
        (int8(format="naive-quantized"), HALVES),
        (int8(input_activations={"symmetric": False}), ALL),
        (int8(input_activations=None), ALL),
        (int8(weights={"num_bits": 4}), ALL),
        (int8(weights={"type": "float"}, format="float-quantized"), ALL),
        (int8(format="pack-quantized"), ALL),
        (int8(output_activations={"num_bits": 8}), ALL),
        (int8(quant_method="torchao"), ALL),
        ({"quant_method": "compressed-tensors", "config_groups": ["?"]}, ALL),
        ({"quant_method": "of a plugin"}, ALL),
        ({}, ALL),
    ],
)
def test_only_amx_and_only_symmetric_8_bit_integers_take_16_bits_alone(quantization, on_amx):
    assert dtypes_taken(quantization, None, has_amx=True)[0] == on_amx
    assert dtypes_taken(quantization, None, has_amx=False) == (ALL, "")


@pytest.mark.parametrize(
    ("quantization", "device", "automatic"),
    [
        (int8(), OLD, "float32"),
        (int8(), ZEN, "bfloat16"),
        (int8(), AMX, "bfloat16"),
        (int8(), Device("cpu", "AMX whose bfloat16 the hypervisor hides", False, has_amx=True), "bfloat16"),
        (int8(), HOPPER, "bfloat16"),
        ({"quant_method": "awq"}, OLD, "bfloat16"),
        ({"quant_method": "awq"}, TURING, "float16"),
        ({"quant_method": "mxfp4"}, TURING, "bfloat16"),
        (None, OLD, "float32"),
        (None, AMX, "bfloat16"),
        (None, TURING, "float16"),
    ],
)
def test_what_is_chosen_can_be_run(quantization, device, automatic):
    assert resolve_dtype("auto", checkpoint(quantization), device) == automatic


def test_a_16_bit_type_of_its_own_is_kept_where_it_can_be():
    own = {"dtype": "float16"}
    assert resolve_dtype("auto", checkpoint({"quant_method": "gptq"}, **own), HOPPER) == "float16"
    assert resolve_dtype("auto", checkpoint({"quant_method": "mxfp4"}, **own), HOPPER) == "bfloat16"


def test_a_dtype_that_the_kernel_refuses_is_refused_with_the_fix():
    with pytest.raises(UsageError) as caught:
        resolve_dtype("float32", checkpoint(int8()), AMX)
    assert str(caught.value) == (
        "--dtype float32: vLLM's kernel for 8-bit integers on a CPU with AMX cannot run in it, only in bfloat16 "
        "or float16; use --dtype bfloat16, or leave it out"
    )
    for device in (OLD, ZEN, HOPPER):
        assert resolve_dtype("float32", checkpoint(int8()), device) == "float32"
    for asked in HALVES:
        assert resolve_dtype(asked, checkpoint(int8()), AMX) == asked
    with pytest.raises(UsageError, match="weights quantised as fp8 cannot run in it, .*; use --dtype bfloat16"):
        resolve_dtype("float32", checkpoint(None), OLD, {"quantization": "fp8"})
    with pytest.raises(
        UsageError, match="--dtype float16: weights quantised as mxfp4 .* only in bfloat16; use --dtype bfloat16"
    ):
        resolve_dtype("float16", checkpoint({"quant_method": "mxfp4"}), HOPPER)


def test_it_is_found_where_vllm_looks():
    for config in (
        {"quantization_config": int8()},
        {"text_config": {"quantization_config": int8()}},
        {"compression_config": int8()},
    ):
        assert stated_quantization(config) == int8()
    assert stated_quantization({"text_config": None, "quantization_config": None}) == {}
