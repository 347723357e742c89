"""In which dtypes a model with quantised weights can run; vLLM would say so only while it loads, or at its first step.

Pure functions of what `config.json` says and what the machine has, so that both kinds of CPU can be tested on either.
"""

from typing import Any

ALL = ("bfloat16", "float16", "float32")
HALVES = ("bfloat16", "float16")

# What vLLM's `get_supported_act_dtypes` lets through. Methods that are not listed take all: compressed-tensors,
# torchao, and those that vLLM learns from plugins.
METHODS = {
    **dict.fromkeys(
        (
            "auto_awq", "auto_gptq", "awq", "awq_marlin", "experts_int8", "fbgemm_fp8", "fp8", "fp8_per_block",
            "fp8_per_channel", "fp8_per_tensor", "gptq", "gptq_marlin", "humming", "inc",
            "int8_per_channel_weight_only",
            "modelopt", "modelopt_fp4", "modelopt_mixed", "moe_wna16", "nvfp4_per_token", "online", "quark",
        ),
        HALVES,
    ),
    **dict.fromkeys(("fp_quant", "gpt_oss_mxfp4", "modelopt_mxfp8", "mxfp4", "mxfp8"), ("bfloat16",)),
}  # fmt: skip


def stated_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """`quantization_config` of a `config.json`, from the places where vLLM looks for it; empty where nothing is
    quantised.
    """
    inner = config.get("text_config")
    places = (config, "quantization_config"), (inner, "quantization_config"), (config, "compression_config")
    for holder, name in places:
        if isinstance(holder, dict) and isinstance(found := holder.get(name), dict):
            return found
    return {}


def dtypes_taken(quantization: dict[str, Any], forced: str | None, *, has_amx: bool) -> tuple[tuple[str, ...], str]:
    """The dtypes such weights can be run in, best first, and what it is that takes no other; an empty text where all
    go.

    Args:
        quantization: as `stated_quantization` finds it.
        forced: vLLM's argument `quantization`, which wins.
        has_amx: the engine runs on a CPU with AMX: vLLM then multiplies 8-bit integers with a kernel that quantises the
            activations itself, out of 16 bits; on other CPUs oneDNN does, out of any.
    """
    method = forced or quantization.get("quant_method")
    if method in METHODS:
        return METHODS[method], f"weights quantised as {method}"
    if has_amx and method == "compressed-tensors" and _has_int8_layers(quantization):
        return HALVES, "vLLM's kernel for 8-bit integers on a CPU with AMX"
    return ALL, ""


def _has_int8_layers(quantization: dict[str, Any]) -> bool:
    groups = quantization.get("config_groups")
    values = groups.values() if isinstance(groups, dict) else ()
    return any(_is_int8(group, quantization.get("format")) for group in values if isinstance(group, dict))


def _is_int8(group: dict[str, Any], form: object) -> bool:
    """Weights and activations of 8-bit integers, the latter around 0: vLLM's `CompressedTensorsW8A8Int8`, symmetric.

    Shapes are not asked: a layer whose sizes are no multiples of 16 and 32 goes to oneDNN, but no model has only such.
    """
    if (group.get("format") or form) not in ("int-quantized", "naive-quantized"):  # packed: vLLM multiplies otherwise
        return False
    if group.get("output_activations"):  # rounded in floating point around a product of another kind
        return False
    # What a file leaves out means 8 bits, integer, symmetric to compressed-tensors.
    return all(
        isinstance(part, dict)
        and part.get("num_bits", 8) == 8
        and part.get("type", "int") == "int"
        and part.get("symmetric", True)
        for part in (group.get("weights"), group.get("input_activations"))
    )
