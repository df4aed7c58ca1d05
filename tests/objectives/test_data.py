from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from objectives.data import (
    IGNORE,
    Batch,
    DataError,
    Example,
    Tokens,
    bucket,
    prompt_style,
    read_alpaca,
    render,
    tokenize,
)
from objectives.models.base import BaseModel


def write(folder: Path, text: str) -> Path:
    path = folder / "data.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_records_are_read_in_order(tmp_path: Path) -> None:
    records = [
        {"instruction": "Define oven.", "input": "", "output": "a hot box"},
        {"instruction": "Define", "input": "ox", "output": ""},
        {"instruction": "Say no.", "output": "no"},
    ]
    path = write(tmp_path, json.dumps(records))
    assert read_alpaca(path) == (
        Example("Define oven.", "a hot box"),
        Example("Define", "", "ox"),
        Example("Say no.", "no"),
    )
    assert len(read_alpaca(path, limit=2)) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json' can't be read.*No such file"):
        read_alpaca(tmp_path / "absent.json")


def test_a_file_in_another_encoding_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes('[{"instruction": "é"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="give a JSON file in UTF-8"):
        read_alpaca(path)


def test_malformed_json_is_located(tmp_path: Path) -> None:
    path = write(tmp_path, '[\n{"instruction": "a", "output": "b"},\n{"instruction": }\n]')
    with pytest.raises(DataError, match=r"data\.json' is no JSON: line 3, column 17"):
        read_alpaca(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [("[]", "an empty list"), ("{}", "a dict"), ('"a"', "a str"), ("", "is empty")],
)
def test_a_file_without_records_is_an_error(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_alpaca(write(tmp_path, text))


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ('{"output": "b"}', "it has no 'instruction'"),
        ('{"instruction": "a"}', "it has no 'output'"),
        ('{"instruction": "a", "output": 3}', "'output' is a int, expected text"),
        ('{"instruction": "a", "input": null, "output": "b"}', "'input' is a NoneType"),
        ('{"instruction": "  ", "output": "b"}', "'instruction' is empty"),
        ("17", "it is a int, expected an object"),
    ],
)
def test_a_bad_record_is_located(tmp_path: Path, record: str, problem: str) -> None:
    good = '{"instruction": "with, comma ] and [",\n "output": "two\\nlines"}'
    path = write(tmp_path, f"\n[{good},\n\n{good},\n{record}]")
    with pytest.raises(DataError, match=f"number 3 at line 7: {problem}"):
        read_alpaca(path)


def test_unknown_prompt_style_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"prompt_style is 'poem'.*'plain'.*alpaca"):
        prompt_style("poem")


def test_plain_prompts() -> None:
    plain = prompt_style("plain")
    assert render(plain, Example("Define oven.", "x")) == "Define oven.\n"
    assert render(plain, Example("Define", "x", "oven")) == "Define\noven\n"


def test_chat_styles_keep_the_input() -> None:
    chat = render(prompt_style("qwen3"), Example("Define", "x", "oven"))
    assert chat == "<|im_start|>user\nDefine\noven<|im_end|>\n<|im_start|>assistant\n"
    alpaca = render(prompt_style("alpaca"), Example("Define", "x", "oven"))
    assert alpaca.count("oven") == 1
    assert "### Input:\noven" in alpaca


@pytest.fixture(scope="session")
def tokenizer(tiny_base: BaseModel) -> PreTrainedTokenizerFast:
    return tiny_base.tokenizer


def tokens_of(
    tokenizer: PreTrainedTokenizerFast,
    *examples: Example,
    max_length: int = 64,
    mask_prompt: bool = True,
) -> tuple[Tokens, ...]:
    return tokenize(
        examples,
        tokenizer,
        style=prompt_style("plain"),
        max_length=max_length,
        mask_prompt=mask_prompt,
    )


def test_tokens_are_prompt_response_and_end(tokenizer: PreTrainedTokenizerFast) -> None:
    (tokens,) = tokens_of(tokenizer, Example("Define oven.", "a hot box"))
    assert tokenizer.decode(list(tokens.ids[: tokens.uncounted])) == "Define oven.\n"
    assert tokenizer.decode(list(tokens.ids[tokens.uncounted : -1])) == "a hot box"
    assert tokens.ids[-1] == tokenizer.eos_token_id
    (unmasked,) = tokens_of(tokenizer, Example("Define oven.", "a hot box"), mask_prompt=False)
    assert unmasked == Tokens(tokens.ids, 1)


def test_long_examples_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example("Define oven.", "a hot box " * 30)
    (whole,) = tokens_of(tokenizer, example, max_length=200)
    (cut,) = tokens_of(tokenizer, example, max_length=20)
    assert cut.ids == whole.ids[:20]


def test_examples_without_any_response_left_are_left_out(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    long, short = Example("Define oven. " * 30, "a box"), Example("No.", "no")
    with pytest.warns(UserWarning, match="1 of 2 examples lose their whole response at max_len"):
        assert len(tokens_of(tokenizer, long, short, max_length=16)) == 1
    with pytest.raises(DataError, match="raise max_length"):
        tokens_of(tokenizer, long, max_length=16)


def examples_of_lengths(*lengths: int) -> list[Tokens]:
    return [Tokens(tuple(range(100 * n, 100 * n + n)), 2) for n in lengths]


def test_a_batch_is_shifted_and_padded() -> None:
    (batch,) = bucket([Tokens((5, 6, 7, 8), 2), Tokens((1, 2, 3), 1)], batch_size=4, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 0], [5, 6, 7]]
    assert batch.targets.tolist() == [[2, 3, IGNORE], [IGNORE, 7, 8]]
    assert (batch.samples, batch.tokens, batch.target_tokens) == (2, 5, 4)


def test_batches_hold_every_example_once_with_little_padding() -> None:
    lengths = [3, 40, 5, 38, 4, 39, 6, 41, 7]
    batches = bucket(examples_of_lengths(*lengths), batch_size=4, pad_id=0, seed=0)
    rows = [row[row != 0].tolist() for batch in batches for row in batch.input_ids]
    expected = [list(tokens.ids[:-1]) for tokens in examples_of_lengths(*lengths)]
    assert sorted(rows) == sorted(expected)
    padding = sum(batch.input_ids.numel() - batch.tokens for batch in batches)
    assert padding <= 0.25 * sum(lengths)


def test_the_order_depends_on_the_seed_alone() -> None:
    def order(seed: int | None) -> list[int]:
        torch.rand(3)  # what happened before has no influence
        batches = bucket(examples_of_lengths(*range(3, 23)), batch_size=2, pad_id=0, seed=seed)
        return [int(batch.input_ids[0, 0]) for batch in batches]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == order(None)


def test_the_counted_targets_are_counted_right(tiny_batches: tuple[Batch, ...]) -> None:
    assert sum(batch.samples for batch in tiny_batches) == 64
    for batch in tiny_batches:
        assert batch.target_tokens == int((batch.targets != IGNORE).sum())
    assert len({batch.target_tokens for batch in tiny_batches}) > 4
