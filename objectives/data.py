"""Instruction data: read once, tokenized once, in batches that are the same for every trial."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from litgpt.prompts import Default, PromptStyle, prompt_styles
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast

IGNORE: Final = -100
"""Target of a position that does not count; the default of `torch.nn.functional.cross_entropy`."""

PLAIN: Final = "plain"
"""Prompt style without any frame: the instruction, the input if any, and a line break."""


class DataError(ValueError):
    """A data file is missing, malformed or leaves nothing to train on."""


@dataclass(frozen=True, slots=True)
class Example:
    """One record in Alpaca format."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized example.

    Attributes:
        ids: Prompt, response and end-of-sequence token, cut to the longest length allowed.
        uncounted: How many of the first ids are no target: the prompt if it is masked, else 1,
            because nothing precedes the first token.
    """

    ids: tuple[int, ...]
    uncounted: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of similar length, padded on the right.

    Attributes:
        input_ids: (samples, length) int64 token ids.
        targets: (samples, length) int64; the id that should follow each position, or `IGNORE`.
        target_tokens: How many targets count.
        tokens: How many input ids are no padding.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    target_tokens: int
    tokens: int

    @property
    def samples(self) -> int:
        """How many examples the batch holds."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; on the same device without a copy."""
        return Batch(
            self.input_ids.to(device), self.targets.to(device), self.target_tokens, self.tokens
        )


def read_alpaca(path: str | Path, *, limit: int | None = None) -> tuple[Example, ...]:
    """Read a JSON list of `{"instruction": str, "input": str, "output": str}` records.

    Args:
        path: The file, UTF-8.
        limit: Keep only the first so many records; all are checked.

    Raises:
        DataError: If the file is missing, is no such list or is empty; names the file, the line
            and what is wrong there.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The data file {str(path)!r} can't be read ({error}); give a JSON file in UTF-8."
        ) from error
    examples = []
    for index, record in enumerate(_parse(text, path)):
        if problem := _problem(record):
            raise DataError(
                f"The data file {str(path)!r} has a bad record, number {index + 1} at line "
                f"{_line_of(text, index)}: {problem}."
            )
        examples.append(Example(record["instruction"], record["output"], record.get("input", "")))
    return tuple(examples[:limit])


def _parse(text: str, path: str | Path) -> list[Any]:
    if not text.strip():
        raise DataError(
            f"The data file {str(path)!r} is empty, expected a JSON list of records with "
            "'instruction' and 'output'."
        )
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"The data file {str(path)!r} is no JSON: line {error.lineno}, column {error.colno}: "
            f"{error.msg}. Expected a list of records with 'instruction' and 'output'."
        ) from error
    if not isinstance(records, list) or not records:
        what = "an empty list" if isinstance(records, list) else f"a {type(records).__name__}"
        raise DataError(
            f"The data file {str(path)!r} holds {what}, expected a list of records with "
            "'instruction' and 'output'."
        )
    return records


def _problem(record: object) -> str | None:
    if not isinstance(record, dict):
        return f"it is a {type(record).__name__}, expected an object"
    for key in ("instruction", "output"):
        if key not in record:
            return f"it has no {key!r}"
    for key in ("instruction", "output", "input"):
        if not isinstance(record.get(key, ""), str):
            return f"{key!r} is a {type(record[key]).__name__}, expected text"
    # An empty output is kept: it teaches the model to stop, and real data sets have some.
    return None if record["instruction"].strip() else "'instruction' is empty"


def _line_of(text: str, index: int) -> int:
    """Line, from 1, where element `index` of the JSON list in `text` starts."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    for _ in range(index):
        start = _skip(text, position)
        position = text.index(",", decoder.raw_decode(text, start)[1]) + 1
    return text.count("\n", 0, _skip(text, position)) + 1


def _skip(text: str, position: int) -> int:
    while text[position].isspace():
        position += 1
    return position


def prompt_style(name: str) -> PromptStyle:
    """A prompt style of litgpt by name, or `"plain"`.

    Raises:
        ValueError: If there is no such style.
    """
    if name == PLAIN:
        return _Plain()
    if name not in prompt_styles:
        raise ValueError(
            f"prompt_style is {name!r}, expected {PLAIN!r} or one of {sorted(prompt_styles)}."
        )
    return PromptStyle.from_name(name)


class _Plain(Default):  # type: ignore[misc]  # litgpt carries no types
    """The instruction and a line break, so that the response starts on a line of its own."""

    def apply(self, prompt: str, *, sys_prompt: str | None = None, **kwargs: str) -> str:
        del sys_prompt, kwargs
        return f"{prompt}\n"


def render(style: PromptStyle, example: Example) -> str:
    """The prompt for an example, with its input even where the style knows none."""
    framed: str = style.apply(prompt=example.instruction, input=example.input)
    if example.input and framed == style.apply(prompt=example.instruction):
        # Chat styles drop the input without a word; it belongs to the question.
        framed = style.apply(prompt=f"{example.instruction}\n{example.input}")
    return framed


def tokenize(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerFast,
    *,
    style: PromptStyle,
    max_length: int,
    mask_prompt: bool,
) -> tuple[Tokens, ...]:
    """Token ids of every example that has something to predict.

    An example whose response lies wholly beyond `max_length` teaches nothing; such ones are left
    out with a warning that says how many.

    Raises:
        DataError: If no example is left.
    """
    prompts = _encode(tokenizer, [render(style, example) for example in examples], special=True)
    responses = _encode(tokenizer, [example.output for example in examples], special=False)
    kept, cut = [], 0
    for prompt, response in zip(prompts, responses, strict=True):
        whole = (*prompt, *response, tokenizer.eos_token_id)
        cut += len(whole) > max_length
        if len(prompt) < max_length:
            uncounted = max(len(prompt), 1) if mask_prompt else 1
            kept.append(Tokens(whole[:max_length], uncounted))
    if lost := len(examples) - len(kept):
        message = (
            f"{lost} of {len(examples)} examples lose their whole response at max_length="
            f"{max_length} tokens ({cut} are cut); raise max_length or shorten the prompts."
        )
        if not kept:
            raise DataError(message)
        warnings.warn(message, stacklevel=2)
    return tuple(kept)


def _encode(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], *, special: bool
) -> list[list[int]]:
    # verbose: the tokenizer's remark on long sequences is no news, we cut them ourselves.
    encoded = tokenizer(texts, add_special_tokens=special, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def bucket(
    examples: Sequence[Tokens], *, batch_size: int, pad_id: int, seed: int | None = None
) -> tuple[Batch, ...]:
    """Batches of examples of similar length, so that little is spent on padding.

    Args:
        examples: Tokenized examples.
        batch_size: Examples in a batch; the last batch may hold fewer.
        pad_id: Token id that fills up short examples.
        seed: Shuffles the order of the batches; without it they go from short to long.
    """
    by_length = sorted(examples, key=lambda example: len(example.ids))
    starts = range(0, len(by_length), batch_size)
    batches = [_collate(by_length[start : start + batch_size], pad_id) for start in starts]
    if seed is None:
        return tuple(batches)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batches), generator=generator).tolist()
    return tuple(batches[index] for index in order)


def _collate(examples: Sequence[Tokens], pad_id: int) -> Batch:
    # The last token of an example has no successor, so it is a target but no input.
    inputs = [torch.tensor(example.ids[:-1]) for example in examples]
    targets = [
        torch.tensor((IGNORE,) * (example.uncounted - 1) + example.ids[example.uncounted :])
        for example in examples
    ]
    return Batch(
        pad_sequence(inputs, batch_first=True, padding_value=pad_id),
        pad_sequence(targets, batch_first=True, padding_value=IGNORE),
        target_tokens=sum(len(example.ids) - example.uncounted for example in examples),
        tokens=sum(len(row) for row in inputs),
    )
