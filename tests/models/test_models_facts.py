"""How models are told apart and what is refused, without an engine: thoughts, languages, options, plugins, the list of
models.
"""

import json
import re
from importlib.util import find_spec

import pytest
from conftest import REPO, write_jsonl
from typer.testing import CliRunner
from vllm_plugins import install_plugin, seen

from asrbatch.cli.app import app
from asrbatch.config import EngineConfig, RunConfig
from asrbatch.engine import inspector, plugins
from asrbatch.engine.packages import install_packages_line
from asrbatch.engine.vllm import frontends, inspector_process
from asrbatch.engine.vllm.option_support import default_target, detect_supported_options, supported_options_in_source
from asrbatch.errors import EXIT_USAGE, UsageError
from asrbatch.models import postprocess
from asrbatch.models.capabilities import CHAT_STYLE, MODELS_SUPPORTING, ModelCapabilities
from asrbatch.runs.model_selection import resolve_model
from asrbatch.runs.row_check import check_row
from asrbatch.types import AudioRef, Utterance

pytest_plugins = "command_line"


@pytest.mark.parametrize(
    ("answer", "is_opened", "text", "thought", "is_unclosed"),
    [
        ("He said so.", False, "He said so.", None, False),
        ("<think>Who?</think>He said so.", False, "He said so.", "Who?", False),
        (" \n<think>\nWho?\n</think>\n\nHe said so.", False, "\n\nHe said so.", "Who?", False),
        ("<think></think>He.", False, "He.", "", False),
        ("<think>Who? Wh", False, "", "Who? Wh", True),
        ("Who?</think>He said so.", True, "He said so.", "Who?", False),
        ("<think>Who?</think>He.", True, "He.", "Who?", False),
        ("Who? Wh", True, "", "Who? Wh", True),
        ("He said <think>so</think>.", False, "He said <think>so</think>.", None, False),
        ("<think>a</think>b <think>c</think>", False, "b <think>c</think>", "a", False),
        ("so</think> he said", False, "so</think> he said", None, False),
        ('"He said so."', False, '"He said so."', None, False),
        ("", False, "", None, False),
    ],
)
def test_a_thought_is_parted_from_an_answer(answer, is_opened, text, thought, is_unclosed):
    assert postprocess.split_reasoning(answer, is_opened=is_opened) == (text, thought, is_unclosed)


@pytest.mark.parametrize(
    ("prompt", "ends_open"),
    [("assistant\n<think>\n", True), ("<think>", True), ("<think>\n\n</think>\n\n", False), ("assistant\n", False)],
)
def test_a_prompt_may_open_the_thought(prompt, ends_open):
    assert postprocess.ends_in_reasoning(prompt) is ends_open


@pytest.mark.parametrize(
    ("answer", "text", "language"),
    [
        ("language English<asr_text>He said so.", "He said so.", "en"),
        ("language Cantonese<asr_text>", "", "yue"),
        ("language None<asr_text>", "", None),
        ("language English,Chinese<asr_text>He.", "He.", None),
        ("language English<asr_text>He.", "language English<asr_text>He.", None),
        ("language English<asr_text>He<asr_text>so.", "so.", None),
        ("He said <asr_text>so.", "so.", None),
        ("", "", None),
    ],
)
def test_a_language_stated_before_an_answer_counts_where_the_class_takes_it_off(answer, text, language):
    assert postprocess.stated_language(answer, text) == language


def test_the_variables_of_a_template_are_those_it_looks_up():
    template = (
        "{% set n = namespace(x=1) %}{% for m in messages %}{% if loop.first and mode %}{{ m.a }}{% endif %}{% "
        "endfor %}"
    )
    names = frontends.template_variables(template + "{% generation %}{{ bos_token }}{% endgeneration %}")
    assert names == {"messages", "mode", "bos_token"}
    assert frontends.template_variables("{% if %}") is None


def test_what_a_model_would_ignore_is_refused_with_those_that_would_not():
    speech = ModelCapabilities("Qwen2Audio", CHAT_STYLE, 16000, 30.0, "", 1600, supports=("prompt",))
    speech.require("prompt", "--prompt x")
    with pytest.raises(UsageError, match=r"--hotwords x: Qwen2Audio, asked by its chat template, .*: Whisper, FunASR"):
        speech.require("hotwords", "--hotwords x")
    told = ModelCapabilities("Voxtral", "transcription", 16000, 30.0, "", 1600, {"en": "English"}, ("language",))
    assert told.check_language("en-US", "--language") == "en"
    with pytest.raises(UsageError, match='--language "xx": Voxtral has no such language; it has en'):
        told.check_language("xx", "--language")


def test_words_that_are_shown_are_those_a_run_would_say():
    given = {"language": "English", "to_language": "fra", "request_prompt": None, "hotwords": "Norland"}
    can = ["language", "target_language"]
    assert inspector_process._words(given, can, ["en", "fr"]) == {"language": "en", "to_language": "fr"}
    assert inspector_process._words(given, can, ["de"]) == {}, "what the model lacks is refused elsewhere"


@pytest.mark.parametrize("written", ["en", "EN-us", "English", "eng"])
def test_the_language_whisper_translates_into_may_be_said_in_any_way(written, base):
    plan = resolve_model(RunConfig("-", EngineConfig(base), task="translate", target_language=written))
    assert plan.target_language == "en"


def test_a_row_may_name_its_own_language_as_that_of_its_text(base):
    rules = resolve_model(RunConfig("-", EngineConfig(base), language="fr"))
    for lang, target, is_right in (
        (None, "French", True),
        ("en-GB", "en", True),
        ("en", "fr", False),
        (None, "en", False),
    ):
        said = check_row(rules, Utterance(0, "a", AudioRef("a"), lang=lang, fields={"target_lang": target}))
        assert (said is None) is is_right, said


def test_fields_that_are_only_demanded_are_not_used():
    source = """
    def get_generation_prompt(cls, stt_params):
        language = stt_params.language
        words = stt_params.hotwords
        if language is None:
            raise ValueError("language!")
        if words is not None:
            return f"expect {words}"
        return stt_params.request_prompt
    """
    assert supported_options_in_source(source) == ["prompt", "hotwords"]


NAMES = {"fr": "French", "en": "English"}


def qwen3_omni(task: str):
    """What Qwen3OmniMoe's class says in vLLM 0.32: a language of its own to translate into, and words behind the
    instruction.
    """

    def say(task_type=task, to_language=None, language=None, request_prompt="", hotwords=None) -> str:
        if task_type == "transcribe":
            return f"Transcribe this audio{f' into {NAMES[language]}' if language else ''}. {request_prompt}"
        spoken = f" from {NAMES[language]}" if language else ""
        return f"Translate this audio{spoken} into {NAMES[to_language or 'en']}. {request_prompt}"

    return say


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_an_option_counts_when_the_prompt_changes_with_it(task):
    assert detect_supported_options(qwen3_omni(task), list(NAMES)) == [
        "language",
        "prompt",
        "translation",
        "target_language",
    ]
    assert default_target(qwen3_omni(task), list(NAMES)) == "en"


def test_a_model_that_must_be_told_a_language_has_none_of_its_own():
    def say(task_type="transcribe", to_language=None, **_):
        return f"translate to {NAMES.get(to_language, '')}" if task_type == "translate" else "transcribe"

    assert (
        detect_supported_options(say, list(NAMES)) == ["translation", "target_language"]
        and default_target(say, list(NAMES)) is None
    )
    assert (
        detect_supported_options(lambda **_: None, list(NAMES)) == []
        and default_target(lambda **_: None, list(NAMES)) is None
    )


@pytest.fixture(scope="module")
def installed_models() -> dict:
    return inspector.Inspector(None, "cpu").list_models()


def test_the_messages_name_the_models_of_the_installed_vllm(installed_models):
    """`MODELS_SUPPORTING` is written for people; here it is held against the classes themselves, where their packages
    are installed.
    """
    can = {what: [] for what in MODELS_SUPPORTING}
    for model in installed_models["models"]:
        if model["asked"] == "transcription":
            for what in model["can"]:
                can[what].append(model["architecture"])
    unknown = {family(model["architecture"]) for model in installed_models["models"] if model["asked"] is None}
    for what, architectures in can.items():
        named = MODELS_SUPPORTING[what].replace("multilingual ", "").replace(" (into English)", "").split(", ")
        families = set(map(family, architectures))
        extra = {"Whisper", "and models asked by their chat template", "models asked by their chat template"}
        assert families == set(named) - extra - unknown, what


def family(architecture: str) -> str:
    return architecture.partition("ForConditional")[0].partition("ForCausal")[0].partition("Generation")[0]


def test_the_documented_options_are_honoured_by_the_models_that_messages_name():
    said = (REPO / "docs/models.md").read_text().split("| can be asked of |")[1].split("\n\n")[0]
    rows = dict(line.strip("| ").split(" | ") for line in said.splitlines()[2:])
    documented = {
        "language": "`--language`, `lang`",
        "prompt": "`--prompt`, `prompt`",
        "hotwords": "`--hotwords`",
        "translation": "`--task translate`",
        "target_language": "`--target-language`",
    }
    for what, row in documented.items():
        in_docs = re.sub(r"\([^)]*\)", "", rows[row]).partition(";")[0].split(",")
        in_messages = re.sub(r"\([^)]*\)", "", MODELS_SUPPORTING[what]).split(",")
        assert [name.strip() for name in in_docs] == [name.strip() for name in in_messages], what


def test_the_documented_models_are_those_of_the_installed_vllm(installed_models):
    if not installed_models["vllm"].startswith("0.32"):
        pytest.skip("docs/models.md lists those of vLLM 0.32")
    said = (REPO / "docs/models.md").read_text().split("## What was run")[1].split("## NeMo")[0]
    named = set(re.findall(r"`([A-Z]\w+)`", said))
    there = {model["architecture"] for model in installed_models["models"]}
    assert named - {"NeMoSpeechLMForConditionalGeneration"} == there


def test_the_list_of_models_says_how_each_is_asked_and_what_it_lacks(installed_models):
    by_name = {model["architecture"]: model for model in installed_models["models"]}
    assert by_name["WhisperForConditionalGeneration"]["asked"] == "whisper"
    assert (
        by_name["Qwen2AudioForConditionalGeneration"]["placeholder"] == "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>"
    )
    granite = by_name["GraniteSpeechForConditionalGeneration"]
    assert (granite["asked"], granite["sample_rate"], granite["window_s"]) == ("transcription", 16000, 30)
    flamingo = by_name["AudioFlamingo3ForConditionalGeneration"]
    assert (flamingo["asked"], flamingo["can"], flamingo["lacks"]) == (None, [], "a placeholder for audio in its class")
    assert "EmbeddingGemma2Model" not in by_name, "it hears, and writes nothing"
    assert "LlamaForCausalLM" not in by_name and "Qwen2VLForConditionalGeneration" not in by_name
    heir = by_name["GraniteSpeechPlusForConditionalGeneration"]
    assert heir["asked"] == "transcription", "as the class it is made from"
    assert by_name["InklingForConditionalGeneration"]["asked"] == "chat", "its class is handed on by a package"
    red = by_name["FireRedASR2ForConditionalGeneration"]
    assert red["lacks"] == ("kaldi_native_fbank" if find_spec("kaldi_native_fbank") is None else None)
    if find_spec("torchvision") is None:
        # transformers hides the cause; and some vLLM load these without it.
        for name in ("Gemma4ForConditionalGeneration", "Qwen3ASRRealtimeGeneration"):
            without = by_name[name]
            assert without["asked"] or (without["can"], without["lacks"]) == ([], "torchvision")
    assert granite["lacks"] == ("torchaudio" if find_spec("torchaudio") is None else None)
    for model in installed_models["models"]:
        packages = (model["lacks"] or "").split(", ") if model["install"] else []
        assert (model["install"] or None) == (install_packages_line(packages) if packages else None)
    assert {flamingo["install"], by_name["WhisperForConditionalGeneration"]["install"]} == {None}


@pytest.mark.parametrize(
    ("architecture", "model_type", "package"),
    [
        ("Qwen3ASRForConditionalGeneration", "qwen3_asr", "torchvision"),  # its class cannot be imported
        ("GraniteSpeechForConditionalGeneration", "granite_speech", "torchaudio"),  # only its processor asks for it
    ],
)
def test_a_model_whose_package_is_missing_is_refused_with_the_line_that_installs_it(
    architecture, model_type, package, cli_here, tmp_path
):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": model_type}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = cli_here("models", tmp_path)
    assert done.returncode == EXIT_USAGE and not done.stdout
    is_missing = find_spec(package) is None  # vLLM for GPUs brings it
    assert (f"{architecture} needs {package}, which is not installed" in done.stderr) is is_missing
    assert done.stderr.strip().endswith(install_packages_line([package])) is is_missing


def test_options_of_one_checkpoint_are_not_ignored_by_the_list():
    for option, value in (("--prompt", "x"), ("--lora", "/nowhere"), ("--language", "en")):
        done = CliRunner().invoke(app, ["models", option, value])
        assert isinstance(done.exception, UsageError | SystemExit) and done.exit_code, option
        assert f"{option}: needs one checkpoint" in f"{done.output}{done.exception}"


@pytest.fixture
def no_model(tmp_path):
    """A checkpoint of an architecture that nobody has; its weights are not looked at."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["NobodyForConditionalGeneration"], "model_type": "nobody"})
    )
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_plugins_that_do_not_work_are_named_with_their_cause(cli, tmp_path, no_model):
    site = tmp_path / "site"
    install_plugin(site, "lost", "lost_plugin", "import a_package_nobody_has\ndef register(): pass\n")
    install_plugin(site, "angry", "angry_plugin", "def register():\n    raise RuntimeError('wrong vLLM')\n")
    env = seen(site)
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])

    def said(*arguments):
        done = cli("transcribe", manifest, "-m", no_model, *arguments, env=env)
        assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "m.model.run.json").exists()
        return done.stderr

    absent = said("--plugin", "nemo_speechlm")
    assert (
        "--plugin nemo_speechlm: no such vLLM plugin in this environment" in absent
        and "installed are angry, lost" in absent
    )
    assert (
        "--plugin lost: lost_plugin:register (from lost 1.5) cannot be imported: ModuleNotFoundError: No module named "
        "'a_pack" in said("--plugin", "lost")
    )
    assert (
        "--plugin angry: angry_plugin:register (from angry 1.5) failed while it registered its models: RuntimeError: "
        "wrong v" in said("--plugin", "angry")
    )


def test_a_plugin_that_raises_is_named_before_any_engine_starts(cli, tmp_path, tiny_en):
    """vLLM would load it unasked, for Whisper too, and die of it without its name."""
    site = tmp_path / "site"
    install_plugin(site, "angry", "angry_plugin", "def register():\n    raise RuntimeError('wrong vLLM')\n")
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": "a.wav"}])
    done = cli("transcribe", manifest, "-m", tiny_en, "-o", "o.jsonl", env=seen(site))
    said = (
        "plugin angry: angry_plugin:register (from angry 1.5) failed while it registered its models: RuntimeError: "
        "wrong vLLM"
    )
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "o.run.json").exists(), done.stderr


def test_only_a_plugin_that_vllm_goes_on_without_is_a_note(tmp_path, monkeypatch):
    install_plugin(tmp_path, "lost", "lost_plugin", "import a_package_nobody_has\ndef register(): pass\n")
    install_plugin(tmp_path, "angry", "angry_plugin", "def register():\n    raise RuntimeError('wrong vLLM')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("VLLM_PLUGINS", "lost")
    assert "cannot be imported" in plugins.load(None)["lost"]
    with pytest.raises(UsageError, match="--plugin lost: "):
        plugins.load(["lost"])
    monkeypatch.setenv("VLLM_PLUGINS", "lost,angry")
    with pytest.raises(UsageError, match="plugin angry: .* failed .*; vLLM does not start with it"):
        plugins.load(None)
    monkeypatch.setenv("VLLM_PLUGINS", "")
    assert plugins.load(None) == {}
    monkeypatch.setenv("VLLM_PLUGINS", "lost,nobodys")
    with pytest.raises(UsageError, match="VLLM_PLUGINS=nobodys: no such vLLM plugin .*; installed are angry, lost"):
        plugins.check_names(None)


def test_an_architecture_that_nobody_has_is_named_with_broken_plugins(cli, tmp_path, no_model):
    site = tmp_path / "site"
    install_plugin(site, "lost", "lost_plugin", "import a_package_nobody_has\ndef register(): pass\n")
    done = cli("models", no_model, env=seen(site))
    assert done.returncode == 2, done.stderr
    for piece in (
        "no architecture NobodyForConditionalGeneration",
        "plugins installed: lost",
        "plugin lost: lost_plugin:register",
    ):
        assert piece in done.stderr


def test_code_of_a_checkpoint_runs_only_when_it_is_trusted(no_model):
    """What it brings here is its configuration's class."""
    auto = {
        "architectures": ["NobodyForConditionalGeneration"],
        "model_type": "nobody",
        "auto_map": {"AutoConfig": "ours.Ours"},
    }
    (no_model / "config.json").write_text(json.dumps(auto))
    source = "import pathlib\nfrom transformers import PretrainedConfig\npathlib.Path({!r}).touch()\n"
    source += "class Ours(PretrainedConfig):\n    model_type = 'nobody'\n"
    ran = no_model / "ran"
    (no_model / "ours.py").write_text(source.format(str(ran)))
    with pytest.raises(UsageError, match="no architecture Nobody.*: --trust-remote-code runs it"):
        resolve_model(RunConfig("-", EngineConfig(str(no_model))))
    assert not ran.exists()
    with pytest.raises(UsageError, match="no architecture Nobody"):
        resolve_model(RunConfig("-", EngineConfig(str(no_model), trust_remote_code=True)))
    assert ran.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-style", "chat"], "--prompt-style chat: Whisper has one style"),
        (["--chat-template-kwargs", "{}x"], "--chat-template-kwargs {}x: must be a JSON object"),
        (["--chat-template-kwargs", "[1]"], "--chat-template-kwargs [1]: must be a JSON object"),
        (["--chat-template-kwargs", '{"a": 1}'], "Whisper has no chat template"),
        (["--tokenizer", ""], "--tokenizer is empty; leave it out"),
        (["--prompt", "a <|en|> b"], '--prompt "a <|en|> b": holds the control token <|en|>; remove it'),
        (["--hotwords", "<|en|> x"], '--hotwords "<|en|> x": holds the control token <|en|>; remove it'),
        (["--hotwords", "Norland, " * 200], "and the model's prompt has room for 223; give fewer"),
        (["--tokenizer", __file__], "is a file; give the folder it is in"),
        (["--tokenizer", "./nowhere"], "--tokenizer ./nowhere: no such folder"),
        (
            ["--target-language", "fr"],
            "--target-language fr: is for --task translate; give that as well, or leave it out",
        ),
        (["--window-seconds", "31"], "takes at most 30 s"),
        (["--window-seconds", "1"], "--window-seconds 1.0: must be at least 2"),
        (["--hotwords", " "], "--hotwords is empty"),
        (["--prompt", ""], "--prompt is empty; leave it out, or give '{audio}'"),
        (["--engine-arg", 'hf_overrides={"architectures": "A"}'], 'hf_overrides={"architectures": "A"}: must be'),
        (["--lora", "./nowhere"], "--lora ./nowhere: is not a folder of a PEFT adapter"),
        (["--plugin", "nobodys"], "--plugin nobodys: no such vLLM plugin"),
        (["--engine-arg", "trust_remote_code=true"], "use --trust-remote-code"),
        (["--engine-arg", "hf_overrides=3"], "hf_overrides=3: must be a JSON object"),
    ],
)
def test_options_that_cannot_be_honoured_are_one_line(arguments, message, tiny_en):
    from asrbatch.cli.options import FIELDS, PARAMETERS, RunOptions, flag_of

    values = {name: parameter.default for name, parameter in PARAMETERS.items()}
    option, value = arguments
    name = next(name for name in FIELDS if flag_of(name) == option)
    given = (value,) if name in ("plugins", "args") else float(value) if name == "window_s" else value
    values |= {"plugins": (), "args": (), "manifest": "m", "model": tiny_en, name: given}
    with pytest.raises(UsageError) as refused:
        resolve_model(RunOptions(values, [name]).config(environment={}))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_hotwords_outlast_a_long_prompt(tiny_en):
    from tokenizers import Tokenizer

    plan = resolve_model(RunConfig("-", EngineConfig(tiny_en), hotwords="Norland", prompt="context of the call " * 80))
    tokenizer = Tokenizer.from_file(f"{plan.checkpoint.folder}/tokenizer.json")
    words = plan.prompt_of(Utterance(0, "a", AudioRef("a")))
    ids = plan.prompts.prompt_ids(words, lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    assert len(ids) == 223 and tokenizer.decode(list(ids)).endswith("call Norland")
