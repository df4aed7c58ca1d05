from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from objectives.data import (
    IGNORE,
    Batch,
    ChatTemplate,
    Conversation,
    DataError,
    Example,
    Message,
    TokenCache,
    Tokens,
    attention_mask,
    bucket,
    fingerprint,
    load_records,
    pack,
    prompt_style,
    question,
    read_records,
    render,
    segments,
    split,
    take_share,
    tokenize,
)
from objectives.data import tokens as tokens_module
from objectives.models.base import BaseModel

OVEN = {"instruction": "Define oven.", "input": "", "output": "a hot box"}
OX = {"instruction": "Define", "input": "ox", "output": ""}
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "So long."},
    ]
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, text: str, name: str = "data.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def as_parquet(folder: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), folder / "data.parquet")
    return folder / "data.parquet"


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "json": lambda folder, records: write(folder, json.dumps(records)),
    "jsonl": lambda folder, records: write(
        folder, "\n\n".join(json.dumps(record) for record in records) + "\n", "data.jsonl"
    ),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("form", WRITERS)
def test_records_are_read_in_order(tmp_path: Path, form: str) -> None:
    path = WRITERS[form](tmp_path, [OVEN, OX, {"instruction": "Say no.", "output": "no"}])
    assert read_records(path) == (
        Example("Define oven.", "a hot box"),
        Example("Define", "", "ox"),
        Example("Say no.", "no"),
    )
    assert len(read_records(path, limit=2)) == 2


@pytest.mark.parametrize("form", WRITERS)
def test_conversations_are_read(tmp_path: Path, form: str) -> None:
    (record,) = read_records(WRITERS[form](tmp_path, [TALK]))
    assert isinstance(record, Conversation)
    assert record.messages == tuple(Message(**turn) for turn in TALK["messages"])


def test_csv_has_a_header_and_quoted_texts(tmp_path: Path) -> None:
    text = 'instruction,input,output\n"Say ""a, b"".",,"two\nlines"\nDefine,ox,\n'
    assert read_records(write(tmp_path, text, "data.csv")) == (
        Example('Say "a, b".', "two\nlines"),
        Example("Define", "", "ox"),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data.csv", "instruction,output\nSay no.,no\n"),
        ("data.json", '[{"instruction": "Say no.", "output": "no"}]'),
        ("data.jsonl", '{"instruction": "Say no.", "output": "no"}\n'),
    ],
)
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, text: str) -> None:
    assert read_records(write(tmp_path, f"\ufeff{text}", name)) == (Example("Say no.", "no"),)


def test_the_columns_of_dolly_are_known(tmp_path: Path) -> None:
    record = {"instruction": "Who?", "context": "It was I.", "response": "I.", "category": "qa"}
    assert read_records(write(tmp_path, json.dumps([record]))) == (
        Example("Who?", "I.", "It was I."),
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json' can't be read.*No such file"):
        read_records(tmp_path / "absent.json")


def test_an_unknown_kind_of_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in '\.txt', expected one of \('\.json', "):
        read_records(write(tmp_path, "a", "data.txt"))


def test_a_file_in_another_encoding_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes('[{"instruction": "é"}]'.encode("latin-1"))
    with pytest.raises(DataError, match="give a file in UTF-8"):
        read_records(path)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("data.json", '[\n{"instruction": "a", "output": "b"},\n{"instruction": }\n]', "json:3"),
        ("data.jsonl", '{"instruction": "a", "output": "b"}\n\n{"instruction": }', "jsonl:3"),
        ("data.csv", 'instruction,output\na,b\n"a"x,b', "csv:3"),
        ("data.csv", "instruction,output\na,b\na", "csv:3"),
        ("data.csv", "instruction,output\na,b\na,b,c", "csv:3"),
    ],
)
def test_a_malformed_file_is_located(tmp_path: Path, name: str, text: str, place: str) -> None:
    with pytest.raises(DataError, match=rf"data\.{place}: "):
        read_records(write(tmp_path, text, name))


def test_what_is_no_parquet_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.parquet' is no Parquet"):
        read_records(write(tmp_path, "PAR2", "data.parquet"))


@pytest.mark.parametrize(
    ("text", "what"),
    [("[]", "an empty list"), ("{}", "a dict"), ('"a"', "a str"), ("", "is empty")],
)
def test_a_file_without_records_is_an_error(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_records(write(tmp_path, text))
    with pytest.raises(DataError, match="holds no record"):
        read_records(write(tmp_path, "\n", "data.jsonl"))


BAD = [
    ('{"output": "b"}', "it has no 'instruction'"),
    ('{"instruction": "a"}', "it has no 'output'"),
    ('{"instruction": "a", "output": 3}', "'output' is a int, expected text"),
    ('{"instruction": "a", "input": null, "output": "b"}', "'input' is a NoneType"),
    ('{"instruction": "  ", "output": "b"}', "'instruction' is empty"),
    ("17", "it is a int, expected an object"),
    ('{"messages": "hello"}', "'messages' is 'hello', expected a list"),
    ('{"messages": []}', r"'messages' is \[\], expected a list"),
    ('{"messages": [{"role": "user", "content": "a"}]}', r"\['user'\], expected an 'assistant'"),
    ('{"messages": [{"role": "assistant", "content": "a"}]}', "expected an 'assistant' after"),
    ('{"messages": ["a", {"role": "assistant", "content": "a"}]}', "message 1 is 'a', expected"),
    (
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": ""}]}',
        "message 1 is .* a text as 'content'",
    ),
    (
        '{"messages": [{"role": "tool", "content": ""}, {"role": "assistant", "content": ""}]}',
        "message 1 is .*a 'role' of",
    ),
]


@pytest.mark.parametrize(("record", "problem"), BAD)
def test_a_bad_record_is_located(tmp_path: Path, record: str, problem: str) -> None:
    good = '{"instruction": "with, comma ] and [",\n "output": "two\\nlines"}'
    path = write(tmp_path, f"\n[{good},\n\n{good},\n{record}]")
    with pytest.raises(DataError, match=rf"data\.json:7: .*{problem}"):
        read_records(path)
    lines = write(tmp_path, f"{json.dumps(OVEN)}\n\n{record}\n", "data.jsonl")
    with pytest.raises(DataError, match=rf"data\.jsonl:3: .*{problem}"):
        read_records(lines)


def test_a_bad_row_of_parquet_is_numbered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.parquet:row 2: 'instruction' is empty"):
        read_records(as_parquet(tmp_path, [OVEN, OVEN | {"instruction": " "}]))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that `datasets` takes for the hub's repositories, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    yield tmp_path
    datasets.enable_progress_bars()


@pytest.mark.parametrize(
    ("name", "repository", "row", "expected"),
    [
        (
            "alpaca",
            "tatsu-lab/alpaca",
            OVEN | {"text": "whole"},
            Example("Define oven.", "a hot box"),
        ),
        ("alpaca-cleaned", "yahma/alpaca-cleaned", OX, Example("Define", "", "ox")),
        (
            "dolly",
            "databricks/databricks-dolly-15k",
            {"instruction": "Who?", "context": "It was I.", "response": "I.", "category": "qa"},
            Example("Who?", "I.", "It was I."),
        ),
        ("me/chats", "me/chats", TALK, None),
    ],
)
def test_data_sets_are_found_by_name(
    hub: Path, name: str, repository: str, row: dict[str, Any], expected: Example | None
) -> None:
    folder = hub / repository
    folder.mkdir(parents=True)
    as_parquet(folder, [row, row])
    first, second = load_records(name)
    assert first == second == (expected or first)
    assert isinstance(first, Example if expected else Conversation)
    assert len(load_records(name, limit=1)) == 1


def test_a_bad_row_of_a_data_set_is_numbered(hub: Path) -> None:
    folder = hub / "tatsu-lab" / "alpaca"
    folder.mkdir(parents=True)
    as_parquet(folder, [OVEN, {"instruction": "", "input": "", "output": ""}])
    with pytest.raises(DataError, match="tatsu-lab/alpaca: row 2: 'instruction' is empty"):
        load_records("alpaca")


@pytest.mark.usefixtures("hub")
def test_a_data_set_out_of_reach_is_explained() -> None:
    with pytest.raises(DataError, match=r"'yahma/alpaca-cleaned' can't be loaded.*HF_HUB_OFFLINE"):
        load_records("alpaca-cleaned")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(DataError, match=r"is 'alpacca', expected one of \['alpaca', "):
        load_records("alpacca")


RECORDS = tuple(Example(f"question {k % 30}", f"answer {k}") for k in range(40))


def test_a_split_parts_questions_by_its_seed() -> None:
    train, validation = split(RECORDS, validation=0.2, seed=3)
    assert sorted((*train, *validation), key=RECORDS.index) == list(RECORDS)
    assert not {question(r) for r in train} & {question(r) for r in validation}
    assert len({question(r) for r in validation}) == 6
    assert list(train) == sorted(train, key=RECORDS.index)
    assert split(RECORDS, validation=0.2, seed=3) == (train, validation)
    assert split(RECORDS, validation=0.2, seed=4) != (train, validation)


def test_a_split_leaves_no_part_empty() -> None:
    two = (Example("a", "b"), Example("c", "d"))
    for share in (0.01, 0.99):
        train, validation = split(two, validation=share, seed=0)
        assert len(train) == len(validation) == 1
    with pytest.raises(DataError, match="one question only"):
        split((Example("a", "b"), Example("a", "c")), validation=0.5, seed=0)


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    shares = [set(take_share(RECORDS, share, seed=5)) for share in (0.001, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [1, 10, 20, 40]
    assert all(small < large for small, large in itertools.pairwise(shares))
    assert take_share(RECORDS, 0.5, seed=6) != take_share(RECORDS, 0.5, seed=5)


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


def as_record(raw: dict[str, Any], tmp_path: Path) -> Any:
    (record,) = read_records(write(tmp_path, json.dumps([raw])))
    return record


def test_a_chat_template_parts_what_is_read_from_what_is_written(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parts = segments(ChatTemplate(CHATML), as_record(TALK, tmp_path), tokenizer)
    assert [(part.text, part.response) for part in parts] == [
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
         "<|im_start|>assistant\n", False),
        ("Yes?<|im_end|>\n", True),
        ("<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n", False),
        ("So long.<|im_end|>\n", True),
    ]  # fmt: skip


def test_an_example_becomes_a_conversation_and_back(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prompt, answer = segments(ChatTemplate(CHATML), Example("Define", "x", "ox"), tokenizer)
    assert prompt.text == "<|im_start|>user\nDefine\nox<|im_end|>\n<|im_start|>assistant\n"
    assert answer.text == "x<|im_end|>\n"
    short = as_record({"messages": TALK["messages"][1:3]}, tmp_path)
    plain = prompt_style("plain")
    assert segments(plain, short, tokenizer) == segments(plain, Example("Hi", "Yes?"), tokenizer)


def test_a_style_without_turns_names_the_record(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"data\.json:1: the roles are \['system', .*to 'chat'"):
        segments(prompt_style("alpaca"), as_record(TALK, tmp_path), tokenizer)


def test_a_template_that_rewrites_turns_is_an_error(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    counting = ChatTemplate("{{ messages | length }}{{ messages[-1].content }}")
    with pytest.raises(DataError, match=r"data\.json:1: the chat template writes a turn diff"):
        segments(counting, as_record(TALK, tmp_path), tokenizer)


def test_a_tokenizer_without_a_chat_template_is_explained(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer has no chat template; give a \.jinja"):
        segments(prompt_style("chat"), Example("a", "b"), tokenizer)


def test_a_chat_template_can_be_a_file(tmp_path: Path) -> None:
    assert prompt_style(str(write(tmp_path, CHATML, "c.jinja"))) == ChatTemplate(CHATML)
    with pytest.raises(ValueError, match=r"absent\.jinja', a chat template that can't be read"):
        prompt_style(str(tmp_path / "absent.jinja"))


def test_the_loss_counts_all_answers_and_no_question(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (found,) = tokenize(
        [as_record(TALK, tmp_path)],
        tokenizer,
        style=ChatTemplate(CHATML),
        max_length=200,
        mask_prompt=True,
    )
    assert tokenizer.decode(found.ids[found.counted]) == "Yes?<|im_end|>\nSo long.<|im_end|>\n"


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
    assert tokenizer.decode(tokens.ids[~tokens.counted]) == "Define oven.\n"
    assert tokenizer.decode(tokens.ids[tokens.counted][:-1]) == "a hot box"
    assert tokens.ids[-1] == tokenizer.eos_token_id
    (unmasked,) = tokens_of(tokenizer, Example("Define oven.", "a hot box"), mask_prompt=False)
    assert np.array_equal(unmasked.ids, tokens.ids)
    assert unmasked.counted.tolist() == [False] + [True] * (len(tokens) - 1)


def test_long_examples_are_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example("Define oven.", "a hot box " * 30)
    (whole,) = tokens_of(tokenizer, example, max_length=200)
    (cut,) = tokens_of(tokenizer, example, max_length=20)
    assert np.array_equal(cut.ids, whole.ids[:20])
    assert np.array_equal(cut.counted, whole.counted[:20])


def test_examples_without_any_response_left_are_left_out(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    long, short = Example("Define oven. " * 30, "a box"), Example("No.", "no")
    with pytest.warns(UserWarning, match="1 of 2 records lose their whole response at max_len"):
        assert len(tokens_of(tokenizer, long, short, max_length=16)) == 1
    with pytest.raises(DataError, match="raise max_length"):
        tokens_of(tokenizer, long, max_length=16)


def tokens(*ids: int, uncounted: int = 1) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= uncounted)


def examples_of_lengths(*lengths: int) -> list[Tokens]:
    return [tokens(*range(100 * n, 100 * n + n), uncounted=2) for n in lengths]


def test_a_batch_is_shifted_and_padded() -> None:
    (batch,) = bucket([tokens(5, 6, 7, 8, uncounted=2), tokens(1, 2, 3)], batch_size=4, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 0], [5, 6, 7]]
    assert batch.targets.tolist() == [[2, 3, IGNORE], [IGNORE, 7, 8]]
    assert (batch.samples, batch.tokens, batch.target_tokens) == (2, 5, 4)
    assert batch.documents is None


def test_packed_rows_hold_every_record_once_and_little_padding() -> None:
    lengths = [3, 40, 5, 38, 4, 39, 6, 41, 7, 20, 21, 12]
    batches = pack(examples_of_lengths(*lengths), batch_size=2, max_length=48, pad_id=0, seed=0)
    found = []
    for batch in batches:
        assert batch.documents is not None
        assert batch.input_ids.shape == batch.targets.shape == batch.documents.shape
        assert batch.input_ids.shape[1] <= 48
        for ids, documents in zip(batch.input_ids, batch.documents, strict=True):
            found += [ids[documents == k].tolist() for k in range(1, int(documents.max()) + 1)]
            assert not ids[documents == 0].any()
    assert sorted(found) == sorted(t.ids[:-1].tolist() for t in examples_of_lengths(*lengths))
    assert sum(batch.samples for batch in batches) == 12
    assert sum(batch.input_ids.numel() for batch in batches) <= 1.15 * sum(lengths)


def test_the_order_of_packed_rows_depends_on_the_seed() -> None:
    def order(seed: int) -> list[Any]:
        records = examples_of_lengths(*range(3, 43))
        batches = pack(records, batch_size=1, max_length=48, pad_id=0, seed=seed)
        return [batch.input_ids.tolist() for batch in batches]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_attention_stays_in_a_record_and_looks_back() -> None:
    (mask,) = attention_mask(torch.tensor([[1, 1, 2, 2, 0]]))[0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_batches_hold_every_example_once_with_little_padding() -> None:
    lengths = [3, 40, 5, 38, 4, 39, 6, 41, 7]
    batches = bucket(examples_of_lengths(*lengths), batch_size=4, pad_id=0, seed=0)
    rows = [row[row != 0].tolist() for batch in batches for row in batch.input_ids]
    expected = [tokens.ids[:-1].tolist() for tokens in examples_of_lengths(*lengths)]
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


def cached(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *records: Example, **changes: Any
) -> tuple[Tokens, ...]:
    settings: dict[str, Any] = {"style": prompt_style("plain"), "max_length": 200}
    settings |= {"mask_prompt": True} | changes
    return TokenCache(folder).tokenize(records, tokenizer, **settings)


@pytest.fixture
def counted_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def count(records: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(len(records))
        return tokenize(records, *arguments, **named)

    monkeypatch.setattr(tokens_module, "tokenize", count)
    return calls


def test_tokens_come_out_of_the_cache_as_they_were(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, counted_calls: list[int]
) -> None:
    records = (Example("Define oven.", "a hot box"), Example("Say no.", "no"))
    made = cached(tmp_path, tokenizer, *records)
    found = cached(tmp_path, tokenizer, *records)
    assert counted_calls == [2]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    for before, after in zip(made, found, strict=True):
        assert np.array_equal(before.ids, after.ids)
        assert np.array_equal(before.counted, after.counted)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 199},
        {"mask_prompt": False},
        {"style": prompt_style("alpaca")},
        {"style": ChatTemplate(CHATML)},
    ],
)
def test_another_setting_is_another_entry(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    counted_calls: list[int],
    changes: dict[str, Any],
) -> None:
    cached(tmp_path, tokenizer, Example("Say no.", "no"))
    cached(tmp_path, tokenizer, Example("Say no.", "no"), **changes)
    cached(tmp_path, tokenizer, Example("Say no.", "no."))
    assert counted_calls == [1, 1, 1]


def test_another_tokenizer_is_another_entry(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, counted_calls: list[int]
) -> None:
    other: Any = PreTrainedTokenizerFast.from_pretrained(
        Path(__file__).resolve().parents[1] / "assets" / "tiny_llama"
    )
    other.add_tokens(["oven"])
    other.eos_token = tokenizer.eos_token
    cached(tmp_path, tokenizer, Example("Define oven.", "no"))
    cached(tmp_path, other, Example("Define oven.", "no"))
    assert counted_calls == [1, 1]


def test_a_cache_that_can_not_be_written_is_reported(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "not a folder")
    with caplog.at_level(logging.WARNING):
        (found,) = cached(file, tokenizer, Example("Say no.", "no"))
    assert len(found) > 3
    assert "can't be kept in" in caplog.text


def test_a_damaged_entry_is_made_again(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, counted_calls: list[int]
) -> None:
    record = Example("Say no.", "no")
    (made,) = cached(tmp_path, tokenizer, record)
    [file] = tmp_path.iterdir()
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        file.write_bytes(damaged)
        (found,) = cached(tmp_path, tokenizer, record)
        assert np.array_equal(found.ids, made.ids)
    assert counted_calls == [1, 1, 1]
    assert file.read_bytes() == content


def test_a_fingerprint_knows_ids_counts_and_lengths() -> None:
    def made(ids: list[int], counted: list[bool]) -> Tokens:
        return Tokens(np.array(ids, dtype=np.int32), np.array(counted))

    one = made([1, 2], [False, True])
    others = [
        (made([1, 3], [False, True]),),
        (made([1, 2], [False, False]),),
        (one, one),
        (made([1], [False]), made([2], [True])),
        (),
    ]
    assert fingerprint([one]) == fingerprint((made([1, 2], [False, True]),))
    assert len({fingerprint([one]), *(fingerprint(other) for other in others)}) == 6
