from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from litgpt import GPT, Config
from litgpt.utils import save_config
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from objectives import FineTuneConfig, SearchSpace
from objectives.data import DataError, Example, prompt_style, tokenize
from objectives.models.architectures import litgpt_config
from objectives.models.base import BaseModel, load_base_model
from objectives.models.errors import ModelFormatError, ModelNotFoundError
from objectives.resources import load_resources

TEXT = "the place where people vote, having or covered with hair"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def litgpt_logits(base: BaseModel, ids: torch.Tensor) -> torch.Tensor:
    model = GPT(base.config)
    model.load_state_dict(base.state_dict)
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(ids)
    return logits


def transformers_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=ids).logits
    return logits


def token_ids(base: BaseModel) -> torch.Tensor:
    return torch.tensor([base.tokenizer(TEXT)["input_ids"]])


@pytest.fixture
def tiny_folder(assets: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed by a test."""
    return Path(shutil.copytree(assets / "tiny_llama", tmp_path / "tiny"))


MakeVariant = Callable[..., Path]


@pytest.fixture
def make_variant(assets: Path, tmp_path: Path) -> MakeVariant:
    """The folder of a random model with the tiny tokenizer; arguments change the architecture."""

    def make(*, shard: str = "1GB", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        torch.manual_seed(5)
        config: Any = LlamaConfig.from_pretrained(assets / "tiny_llama")
        for key, value in changes.items():
            setattr(config, key, value)
        model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        folder = tmp_path / "variant"
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        for name in TOKENIZER_FILES:
            shutil.copy(assets / "tiny_llama" / name, folder)
        return folder

    return make


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_litgpt_logits_equal_those_of_transformers(assets: Path, tiny_base: BaseModel) -> None:
    ids = token_ids(tiny_base)
    expected = transformers_logits(assets / "tiny_llama", ids)
    assert expected.std() > 1  # a trained model, not noise around zero
    torch.testing.assert_close(litgpt_logits(tiny_base, ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tie_word_embeddings": False}, id="untied"),
        pytest.param({"head_dim": 24}, id="head wider than its share"),
        pytest.param({"num_key_value_heads": 4}, id="no grouped queries"),
        pytest.param({"num_key_value_heads": 1}, id="one group"),
        pytest.param(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}, id="rope base"
        ),
        pytest.param(
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
            id="linear rope",
        ),
        pytest.param(
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
            id="llama3 rope",
        ),
    ],
)
def test_variants_of_the_architecture(make_variant: MakeVariant, changes: dict[str, Any]) -> None:
    folder = make_variant(initializer_range=0.3, **changes)
    base = load_base_model(folder)
    ids = token_ids(base)
    expected = transformers_logits(folder, ids)
    # Relative to the logits' size, which the large random weights make about 50.
    torch.testing.assert_close(litgpt_logits(base, ids), expected, atol=2e-4, rtol=1e-5)


def test_sharded_weights_are_put_together(make_variant: MakeVariant) -> None:
    folder = make_variant(shard="200KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    base = load_base_model(folder)
    ids = token_ids(base)
    expected = transformers_logits(folder, ids)
    torch.testing.assert_close(litgpt_logits(base, ids), expected, atol=1e-5, rtol=0)


def test_tied_embeddings_are_one_tensor(tiny_base: BaseModel) -> None:
    assert tiny_base.hf_config.tie_word_embeddings
    head = tiny_base.state_dict["lm_head.weight"]
    assert head.data_ptr() == tiny_base.state_dict["transformer.wte.weight"].data_ptr()


def test_tied_model_ignores_a_stored_output_layer(tiny_folder: Path) -> None:
    path = tiny_folder / "model.safetensors"
    weights = load_file(path)
    extra = torch.zeros_like(weights["model.embed_tokens.weight"])
    save_file(weights | {"lm_head.weight": extra}, path, metadata={"format": "pt"})
    base = load_base_model(tiny_folder)
    assert base.state_dict["lm_head.weight"] is base.state_dict["transformer.wte.weight"]


def test_untied_embeddings_are_two(make_variant: MakeVariant) -> None:
    base = load_base_model(make_variant(tie_word_embeddings=False))
    assert not base.hf_config.tie_word_embeddings
    head, embedding = base.state_dict["lm_head.weight"], base.state_dict["transformer.wte.weight"]
    assert not torch.equal(head, embedding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_get_the_type_asked_for(assets: Path, dtype: torch.dtype) -> None:
    base = load_base_model(assets / "tiny_llama", dtype=dtype)  # stored in half precision
    assert {tensor.dtype for tensor in base.state_dict.values()} == {dtype}
    assert base.hf_config.dtype == dtype
    assert base.state_dict["lm_head.weight"] is base.state_dict["transformer.wte.weight"]


def test_name_is_what_was_asked_for(assets: Path) -> None:
    path = assets / "tiny_llama"
    base = load_base_model(str(path))
    assert base.name == str(path)
    assert base.config.name == "tiny_llama"
    assert base.config.padded_vocab_size == base.hf_config.vocab_size == len(base.tokenizer)


def test_names_that_change_litgpts_norms_are_not_kept() -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    assert litgpt_config(config, name="my-Gemma-like").name == "Llama"
    assert litgpt_config(config, name="Mine").name == "Mine"


@pytest.fixture
def litgpt_folder(tiny_base: BaseModel, assets: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    torch.save(tiny_base.state_dict, folder / "lit_model.pth")
    save_config(tiny_base.config, folder)
    for name in ("config.json", *TOKENIZER_FILES):
        shutil.copy(assets / "tiny_llama" / name, folder)
    return folder


def test_litgpt_folder_round_trip(litgpt_folder: Path, tiny_base: BaseModel) -> None:
    base = load_base_model(litgpt_folder)
    assert base.config == tiny_base.config
    assert base.state_dict.keys() == tiny_base.state_dict.keys()
    for key, tensor in tiny_base.state_dict.items():
        assert torch.equal(base.state_dict[key], tensor), key
    assert base.hf_config.tie_word_embeddings
    assert base.state_dict["lm_head.weight"] is base.state_dict["transformer.wte.weight"]
    assert base.tokenizer(TEXT)["input_ids"] == tiny_base.tokenizer(TEXT)["input_ids"]


def test_names_of_litgpts_downloads_are_found(
    litgpt_folder: Path, tmp_path: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("checkpoints") / "me" / "model"  # as `litgpt download me/model` makes it
    place.parent.mkdir(parents=True)
    litgpt_folder.rename(place)
    base = load_base_model("me/model")
    assert base.name == str(place)
    assert base.config == tiny_base.config


def test_litgpt_trainers_wrapped_checkpoint(litgpt_folder: Path, tiny_base: BaseModel) -> None:
    torch.save({"model": tiny_base.state_dict}, litgpt_folder / "lit_model.pth")
    base = load_base_model(litgpt_folder)
    assert torch.equal(base.state_dict["lm_head.weight"], tiny_base.state_dict["lm_head.weight"])


def test_tuned_output_layer_unties_a_litgpt_folder(
    litgpt_folder: Path, tiny_base: BaseModel
) -> None:
    head = tiny_base.state_dict["lm_head.weight"] * 1.01
    torch.save(tiny_base.state_dict | {"lm_head.weight": head}, litgpt_folder / "lit_model.pth")
    base = load_base_model(litgpt_folder)
    assert not base.hf_config.tie_word_embeddings
    assert torch.equal(base.state_dict["lm_head.weight"], head)


def test_tokenizer_has_end_and_padding_and_adds_no_beginning(tiny_base: BaseModel) -> None:
    tokenizer = tiny_base.tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert not {0, 1} & set(ids)


def test_missing_special_tokens_are_filled_in(tiny_folder: Path) -> None:
    edit_json(tiny_folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    tokenizer = load_base_model(tiny_folder).tokenizer
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"  # config.json's id 0


def test_no_end_token_anywhere_is_an_error(tiny_folder: Path) -> None:
    edit_json(tiny_folder / "tokenizer_config.json", eos_token=None)
    edit_json(tiny_folder / "config.json", eos_token_id=None)
    with pytest.raises(ModelFormatError, match="names an end-of-sequence token; set `eos_token`"):
        load_base_model(tiny_folder)


@pytest.mark.parametrize("model", ["smollm3", Path("no/such/folder")])
def test_unknown_model_names_what_is_accepted(model: str | Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_base_model(model)
    message = str(caught.value)
    for part in (str(model), "'smollm2-135m'", "lit_model.pth", "*.safetensors", "hf download"):
        assert part in message
    assert isinstance(caught.value, ValueError)


def test_folder_without_a_model_is_named_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFoundError, match=r"holds no model \(notes\.txt\)"):
        load_base_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=f"has no {name}"):
        load_base_model(tiny_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2', expected one of"),
        ({"attention_bias": True}, "attention_bias=True, expected False"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu', expected 'silu'"),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type='proportional'",
        ),
        ({"num_hidden_layers": 3}, "don't fit their configuration"),
        ({"vocab_size": 700}, "don't fit their configuration"),
    ],
)
def test_other_architectures_are_refused(
    tiny_folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_json(tiny_folder / "config.json", **changes)
    with pytest.raises(ModelFormatError, match=message):
        load_base_model(tiny_folder)


def test_broken_config_is_refused_with_its_line(tiny_folder: Path) -> None:
    (tiny_folder / "config.json").write_text('{\n"model_type" "llama"}', encoding="utf-8")
    with pytest.raises(ModelFormatError, match="line 2"):
        load_base_model(tiny_folder)


def add_token(folder: Path, **settings: Any) -> None:
    """A token more than the model embeds."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 768} | settings)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_foreign_tokenizer_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["extra"] = 768
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFormatError, match="has 769 tokens, but the model embeds only 768"):
        load_base_model(tiny_folder)


def test_an_ending_token_that_is_not_embedded_is_refused(tiny_folder: Path) -> None:
    add_token(tiny_folder, content="<extra>")
    edit_json(tiny_folder / "tokenizer_config.json", eos_token="<extra>")
    with pytest.raises(ModelFormatError, match="has 769 tokens, but the model embeds only 768"):
        load_base_model(tiny_folder)


def test_a_special_token_that_is_not_embedded_is_refused_in_texts_only(tiny_folder: Path) -> None:
    """Such as the token for images of Gemma 3 1B, which sees none."""
    add_token(tiny_folder, content="<image>")
    base = load_base_model(tiny_folder)
    assert len(base.tokenizer) == 769

    def tokens(text: str) -> Any:
        return tokenize(
            [Example("Say", text)],
            base.tokenizer,
            style=prompt_style("alpaca"),
            max_length=256,
            mask_prompt=True,
            vocabulary=768,
        )

    assert len(tokens("a picture")) == 1
    with pytest.raises(DataError, match=r"'Say': it has the token '<image>'.*does not embed"):
        tokens("a picture <image>")


@pytest.mark.parametrize("backend", ["litgpt", "peft"])
def test_such_a_token_in_the_training_data_is_refused(
    tiny_folder: Path, tmp_path: Path, backend: Any
) -> None:
    add_token(tiny_folder, content="<image>")
    records = [{"instruction": f"Say {k}", "output": "a picture <image>"} for k in range(4)]
    (tmp_path / "train.json").write_text(json.dumps(records), encoding="utf-8")
    records = [{"instruction": "Name it", "output": "a picture"}]
    (tmp_path / "validation.json").write_text(json.dumps(records), encoding="utf-8")
    config = FineTuneConfig(
        model=str(tiny_folder),
        backend=backend,
        train_data=str(tmp_path / "train.json"),
        validation_data=str(tmp_path / "validation.json"),
        cache_dir=str(tmp_path / "cache"),
        search_space=SearchSpace.preset("demo").override(rank=(2, 4)),
    )
    with pytest.raises(DataError, match=r"'Say 0': it has the token '<image>'"):
        load_resources(config)


def test_lora_keys_in_litgpts_configuration_are_refused(litgpt_folder: Path) -> None:
    with (litgpt_folder / "model_config.yaml").open("a", encoding="utf-8") as file:
        file.write("lora_r: 8\n")
    with pytest.raises(ModelFormatError, match="'lora_'"):
        load_base_model(litgpt_folder)


def test_unmerged_adapter_is_refused(litgpt_folder: Path, tiny_base: BaseModel) -> None:
    extra = {"transformer.h.0.attn.qkv.lora_A": torch.zeros(8, 64)}
    torch.save(tiny_base.state_dict | extra, litgpt_folder / "lit_model.pth")
    with pytest.raises(ModelFormatError, match="adapters must be merged first"):
        load_base_model(litgpt_folder)


def test_configurations_that_disagree_are_refused(litgpt_folder: Path) -> None:
    edit_json(litgpt_folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelFormatError, match=r"n_layer=2, but config\.json beside it means 3"):
        load_base_model(litgpt_folder)


def test_configuration_equals_litgpts_own_for_a_known_model() -> None:
    # The published architecture of TinyLlama-1.1B.
    hf_config: Any = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,  # type: ignore[arg-type]  # annotated as int by mistake
    )
    ours = litgpt_config(hf_config)
    theirs = Config.from_name("tiny-llama-1.1b")
    assert theirs is not None
    same = set(vars(ours)) - {"name", "hf_config", "padding_multiple"}
    assert {key: getattr(ours, key) for key in same} == {key: getattr(theirs, key) for key in same}
