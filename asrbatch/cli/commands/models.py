"""`asrbatch models`: what the installed vLLM can transcribe with, and what will happen with a checkpoint."""

from typing import Annotated, Any

import typer

from asrbatch.cli.common import AsJson, is_read, print_json, print_line
from asrbatch.cli.options import MODEL_OPTIONS, RunOptions, flag_of, run_options, takes
from asrbatch.errors import UsageError
from asrbatch.formatting import printable
from asrbatch.models.capabilities import WHISPER_STYLE


@takes(options=run_options(only=MODEL_OPTIONS))
def models(
    options: RunOptions,
    checkpoint: Annotated[
        str | None,
        typer.Argument(help="A checkpoint folder, or a name on the Hugging Face hub; without, all models are listed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that the installed vLLM can transcribe with, or say how a checkpoint will be prompted, without
    its weights.

    \b
    Example:
      asrbatch models openai/whisper-large-v3-turbo
    """
    if checkpoint is None:
        facts = _all(options)
        lines = _table(facts)
    else:
        facts = _one(options, checkpoint)
        lines = [f"{name}: {_shown(value)}" for name, value in facts.items()]
    if as_json:
        print_json(facts)
    else:
        for line in lines:
            print_line(printable(line))
    is_read()


def _all(options: RunOptions) -> dict[str, Any]:
    from asrbatch.engine import inspector
    from asrbatch.engine.devices import detect_device

    for name in options.given:
        if name != "plugins":
            raise UsageError(f"{flag_of(name)}: needs one checkpoint; name it, or leave the option out")
    names = options.values["plugins"] or None
    return inspector.Inspector(names and tuple(names), detect_device().kind).list_models()


def _one(options: RunOptions, checkpoint: str) -> dict[str, Any]:
    """As a run would settle it, without a manifest."""
    from asrbatch.models.quantization import stated_quantization
    from asrbatch.runs.model_selection import resolve_model

    # A `RunConfig` has a manifest; this one is never read.
    config = options.config(environment={}, manifest="-", model=checkpoint)
    plan = resolve_model(config, weights=False)
    capabilities = plan.capabilities
    stated = stated_quantization(plan.checkpoint.config)
    return {
        "architecture": capabilities.architecture,
        "asked by": capabilities.prompt_style,
        "sample rate": f"{capabilities.sample_rate} Hz",
        "window": f"{capabilities.window_s:g} s ({capabilities.window_source}); "
        f"longer audio: --windows {config.windows}",
        "shortest audio": f"{capabilities.min_samples} samples",
        "languages": sorted(capabilities.languages),
        "honours": list(capabilities.supports),
        "timestamps": plan.timestamps,
        "task": config.task,
        "prompt": plan.prompt or plan.model_options.default_prompt,
        "one second of audio is asked about as": capabilities.example_prompt,
        "most tokens of an answer": plan.max_tokens,
        "dtype": plan.dtype,
        "engine mode": plan.mode,
        "device": plan.device.name,
        "quantization": plan.engine_args.get("quantization") or stated.get("quant_method"),
        "language": plan.language,
        "target language": plan.target_language,
        "hotwords": plan.model_options.hotwords,
        "commit": plan.checkpoint.commit,
        "tokenizer": plan.model_options.tokenizer,
        "adapter": plan.model_options.lora,
        "plugins": plan.model_options.plugin_versions,
    }


def _table(found: dict[str, Any]) -> list[str]:
    lines = [f"vLLM {found['vllm']}"]
    for name, problem in found["plugins"].items():
        lines.append(f"plugin {name}: {problem or 'works'}")
    rows = [("architecture", "asked by", "rate", "window", "languages", "honours", "lacks here")]
    for m in found["models"]:
        of = "of the checkpoint" if m["asked"] else "-"
        rows.append(
            (
                m["architecture"],
                m["asked"] or "-",
                f"{m['sample_rate']} Hz" if m["sample_rate"] else of,
                f"{m['window_s']} s" if m["window_s"] else of,
                of if m["asked"] == WHISPER_STYLE else _languages(m["languages"]),
                ", ".join(m["can"]) or "-",
                m["lacks"] or "-",
            )
        )
    # All but the last column, which has nothing behind it to be lined up.
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines += ("  ".join(c.ljust(w) for c, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)
    installs = {m["lacks"]: m["install"] for m in found["models"] if m["install"]}
    return lines + [f"for those that lack {lacks}: {install}" for lacks, install in sorted(installs.items())]


def _languages(codes: list[str]) -> str:
    return "-" if not codes else " ".join(codes) if len(codes) <= 6 else f"{len(codes)}: {' '.join(codes[:3])} …"


def _shown(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k} ({v})" for k, v in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)
