#!/usr/bin/env python3
"""Does asrbatch fit a vLLM that cannot run here? Its CUDA wheel, unpacked beside a CPU build of torch, is asked.

    python scripts/conformance.py [VERSION]

VERSION: of the package `vllm`; its wheel (300 MB) is downloaded, and unpacked in build/ without its kernels. Without it
the installed vLLM is asked. The wheel's metadata are given `+cpu`, by which vLLM knows a CPU build; what it needs
beside itself is what is installed here, which may be older than it wants. What is checked:

names     every name of vLLM's that asrbatch/engine uses is there, and the arguments of every call bind; both are read
          from our source (conformance_names.py)
settings  vLLM makes a configuration of the arguments that a run gives it
runner    VLLM_USE_V2_MODEL_RUNNER=0 is honoured with our logits processor, which vLLM then builds, and which works;
          and what it says without that variable, and to 1
features  one second of silence is rendered to features and a prompt, by the model's configuration alone
words     Whisper, built without its weights, is aligned with an answer
models    every model class is asked what it can, and one model by its transcription interface, one by its template

Nothing is decoded, so nothing is said about texts. Exit code 1 when something does not fit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
WHISPER = "tiny.en"
V2 = "VLLM_USE_V2_MODEL_RUNNER"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", help="such as 0.33.0")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return check()
    paths = [str(REPO), str(REPO / "scripts"), str(REPO / "tests")]
    if arguments.version:
        paths.insert(0, str(unpacked(arguments.version)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, __file__, "--inside"], env=environment).returncode


def unpacked(version: str) -> Path:
    """The folder with that vLLM, to be put in front of what is installed."""
    folder = REPO / "build" / f"vllm-{version}"
    if (folder / "vllm").exists():
        return folder
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", wheels, f"vllm=={version}"], check=True)
        (wheel,) = Path(wheels).iterdir()
        parts = folder.with_name(f"{folder.name}.part")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(parts, [name for name in archive.namelist() if not name.endswith(".so")])
    (metadata,) = parts.glob("*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1), encoding="utf-8")
    parts.rename(folder)
    return folder


def check() -> int:
    """All checks, in a process that imports the vLLM in question."""
    from asrbatch.engine import environment

    environment.configure(mode="thread", device_kind="cpu", plugins=())
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    import vllm

    print(f"vLLM {vllm.__version__} in {Path(vllm.__file__).parents[1].name}")
    failed = 0
    for name, ask in CHECKS.items():
        try:
            answer = ask()
        except Exception as e:
            failed += 1
            answer = f"FAILED: {type(e).__name__}: {e}"
        print(f"{name:<9} {answer}", flush=True)
    return int(failed > 0)


def check_names() -> str:
    from conformance_names import check_folder

    found = check_folder(REPO / "asrbatch/engine", "vllm", "asrbatch.engine")
    if found.problems:
        raise AssertionError("\n" + "\n".join(found.problems))
    calls = sum(name.endswith("()") for name in found.used)
    return f"{len(found.used) - calls} names are there, the arguments of {calls} calls bind"


@cache
def whisper_spec(**options: Any) -> Any:
    """What a run would start."""
    from get_model import model_folder

    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.runs.model_selection import resolve_model

    engine = EngineConfig(str(model_folder(WHISPER)), dtype="float32", mode="thread", args=("max_num_seqs=4",))
    return resolve_model(RunConfig("-", engine, **options))


@cache
def configuration() -> Any:
    from asrbatch.engine.settings import engine_settings
    from asrbatch.engine.vllm import api

    return api._ThreadArgs(**engine_settings(whisper_spec(word_timestamps=True))).create_engine_config()


def check_settings() -> str:
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs

    from asrbatch.engine.vllm.engine_args import engine_arg_names

    if set(engine_arg_names()) != {field.name for field in dataclasses.fields(EngineArgs)}:
        raise AssertionError("engine_args.py reads other names from the source than EngineArgs has")
    model = configuration().model_config
    return f"{model.architecture}, {model.dtype}, max_model_len {model.max_model_len}"


def check_runner() -> str:
    import torch
    from vllm.v1.sample.logits_processor import build_logitsprocs
    from vllm.v1.sample.logits_processor.interface import BatchUpdate

    from asrbatch.engine.vllm import api
    from asrbatch.models.whisper import CONTROLS_KEY

    config = configuration()
    if config.use_v2_model_runner:
        raise AssertionError(f"{V2}=0 is not honoured")
    built = build_logitsprocs(config, torch.device("cpu"), False, False, config.model_config.logits_processors)
    (ours,) = (each for each in built.all if type(each).__module__.startswith("asrbatch."))
    controls = whisper_spec(word_timestamps=True).prompts.controls("en", timestamps=True)
    params = api.sampling_params(8, 0, 0.0, {CONTROLS_KEY: controls.as_dict()})
    ours.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params, [], [])], moved=[]))
    vocabulary = config.model_config.get_vocab_size()
    allowed = ours.apply(torch.zeros(1, vocabulary)).isfinite().sum().item()
    if not 0 < allowed < vocabulary:
        raise AssertionError(f"our logits processor allows {allowed} of {vocabulary} tokens to begin with")
    return (
        f"{V2}=0 is honoured, our logits processor works ({allowed} of {vocabulary} tokens may begin); "
        f"without the variable: {_runner(config, None)}; with 1: {_runner(config, '1')}"
    )


def _runner(config: Any, value: str | None) -> str:
    """Which runner vLLM would take, or why it refuses it."""
    import vllm.config.vllm as module
    from vllm.v1.engine import input_processor

    before = os.environ.pop(V2)
    # It asks for Triton first, which no CPU has; what is asked here is what it says on a GPU.
    has_triton, module.HAS_TRITON = module.HAS_TRITON, True
    try:
        if value is not None:
            os.environ[V2] = value
        if not config.use_v2_model_runner:
            return "V1"
        config._validate_v2_model_runner()
        processor = input_processor.InputProcessor.__new__(input_processor.InputProcessor)
        processor.vllm_config, processor.model_config = config, config.model_config
        processor._build_logits_processors_params_validator()
        return "V2"
    except ValueError as e:
        return f"V2, refused: {e}"
    finally:
        os.environ[V2], module.HAS_TRITON = before, has_triton


def check_features() -> str:
    import numpy as np

    from asrbatch.engine.settings import engine_settings
    from asrbatch.engine.vllm import api, registry
    from asrbatch.engine.vllm.frontends import make_frontend

    spec = whisper_spec()
    model_config, renderer, _ = registry.without_engine(engine_settings(spec))
    frontend = make_frontend(model_config, renderer, "whisper", task="transcribe", template_kwargs={})
    rendered = frontend.render(np.zeros(16000, np.float32), language="en")
    ids = api.prompt_ids(api.with_decoder_ids(rendered, spec.prompts.decoder_ids((), ())))
    features, key = api.features(rendered), api.encoding_key(rendered)
    if len(api.feature_bytes(rendered)) != features.nbytes or not key:
        raise AssertionError("features are not where they were")
    return f"features {tuple(features.shape)}, prompt {frontend.decode(ids)}, {frontend.sample_rate} Hz"


def check_words() -> str:
    import numpy as np
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
    from vllm.utils.network_utils import get_open_port

    from asrbatch.engine.vllm.cross_attention import Aligner, KeptEncodings

    config, spec = configuration(), whisper_spec(word_timestamps=True)
    with set_current_vllm_config(config), torch.inference_mode():
        init_distributed_environment(1, 0, f"tcp://127.0.0.1:{get_open_port()}", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        model = initialize_model(vllm_config=config).eval()
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.02)
        process_weights_after_loading(model, config.model_config, torch.device("cpu"))
        features = np.zeros((spec.checkpoint.config["num_mel_bins"], 3000), np.float32).tobytes()
        aligner = Aligner(model, torch.device("cpu"), spec.prompts.alignment_heads, KeptEncodings(0), features)
        ids, first = spec.prompts.alignment_ids("en", [314, 257, 1332])
        ((looks, *likelihoods),) = aligner.align_given([["key", ids, first, 4, 50, features]])
    if len(looks) != 4 * 50 * 4 or [len(each) for each in likelihoods] != [3 * 4, 3 * 4]:
        raise AssertionError("other rows than were asked for")
    return f"{type(model).__name__} without weights: 4 tokens by 50 places, 3 probabilities"


def check_models() -> str:
    import tiny_models

    from asrbatch.config import EngineConfig, RunConfig
    from asrbatch.engine.inspector import Inspector, close
    from asrbatch.runs.model_selection import resolve_model

    rows = Inspector((), "cpu").list_models()["models"]
    ready = sum(row["lacks"] is None for row in rows)
    said = [f"{len(rows)} classes hear, {ready} of them could be asked"]
    makers: tuple[Callable[[Path], Path], ...] = (tiny_models.qwen2_audio, tiny_models.glm_asr)
    with tempfile.TemporaryDirectory() as folder:
        for make in makers:
            model = make(Path(folder) / make.__name__)
            spec = resolve_model(RunConfig("-", EngineConfig(str(model), dtype="float32", mode="thread")))
            capabilities = spec.capabilities
            said.append(f"{capabilities.architecture} by {capabilities.prompt_style}: {capabilities.window_s:g} s")
    close()
    return "; ".join(said)


CHECKS: dict[str, Callable[[], str]] = {
    "names": check_names,
    "settings": check_settings,
    "runner": check_runner,
    "features": check_features,
    "words": check_words,
    "models": check_models,
}

if __name__ == "__main__":
    sys.exit(main())
