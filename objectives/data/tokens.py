"""From texts to token ids: once, then out of a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from objectives.data.errors import DataError
from objectives.data.prompts import ChatTemplate, place_of, segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from transformers import PreTrainedTokenizerFast

    from objectives.data.prompts import Segment, Style
    from objectives.data.records import Record

_LAYOUT: Final = "1"
"""Part of the cache key: raise it when the same records would become other tokens."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One tokenized record.

    Attributes:
        ids: (length,) int32 token ids, cut to the longest length allowed.
        counted: (length,) bool; whether the loss counts the prediction of this token. Never the
            first one, because nothing precedes it.
    """

    ids: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerFast,
    *,
    style: Style,
    max_length: int,
    mask_prompt: bool,
    vocabulary: int | None = None,
) -> tuple[Tokens, ...]:
    """Token ids of every record that has something to predict.

    A record whose response lies wholly beyond `max_length` teaches nothing; such ones are left
    out with a warning that says how many.

    Args:
        records: What is tokenized.
        tokenizer: The model's.
        style: Makes texts of records.
        max_length: Longest row of tokens.
        mask_prompt: Whether the loss leaves prompts out.
        vocabulary: How many tokens the model embeds, if the tokenizer may know more.

    Raises:
        DataError: If no record is left, the style can't render one, or one has a token that the
            model does not embed.
    """
    rendered = [segments(style, record, tokenizer) for record in records]
    encoded = iter(_encode(tokenizer, [segment for parts in rendered for segment in parts]))
    kept, cut = [], 0
    for record, parts in zip(records, rendered, strict=True):
        pieces = [next(encoded) for _ in parts]
        ids = np.concatenate(pieces)
        if vocabulary is not None and ids.max(initial=0) >= vocabulary:
            token = tokenizer.convert_ids_to_tokens(int(ids.max()))
            raise DataError(
                f"{place_of(record)}: it has the token {token!r}, which the tokenizer knows but "
                "the model does not embed; take it out of the text."
            )
        counted = np.concatenate(
            [
                np.full(len(piece), part.response or not mask_prompt)
                for piece, part in zip(pieces, parts, strict=True)
            ]
        )
        counted[0] = False
        cut += len(ids) > max_length
        if len(pieces[0]) < max_length:  # pieces[0] is the first prompt
            kept.append(Tokens(ids[:max_length], counted[:max_length]))
    if lost := len(records) - len(kept):
        message = (
            f"{lost} of {len(records)} records lose their whole response at max_length="
            f"{max_length} tokens ({cut} are cut); raise max_length or shorten the prompts."
        )
        if not kept:
            raise DataError(message)
        warnings.warn(message, stacklevel=2)
    return tuple(kept)


def _encode(
    tokenizer: PreTrainedTokenizerFast, parts: Sequence[Segment]
) -> list[npt.NDArray[np.int32]]:
    ids: dict[int, npt.NDArray[np.int32]] = {}
    for special in (True, False):
        places = [place for place, part in enumerate(parts) if part.special == special]
        if not places:
            continue
        # verbose: the tokenizer's remark on long sequences is no news, we cut them ourselves.
        encoded = tokenizer(
            [parts[place].text for place in places], add_special_tokens=special, verbose=False
        )
        for place, row in zip(places, encoded["input_ids"], strict=True):
            ending = [tokenizer.eos_token_id] if parts[place].end else []
            ids[place] = np.array([*row, *ending], dtype=np.int32)
    return [ids[place] for place in range(len(parts))]


def fingerprint(tokens: Sequence[Tokens]) -> str:
    """A short name for tokenized records, their order and what of them counts: 16 hex digits."""
    digest = hashlib.sha256()
    for item in tokens:
        digest.update(len(item).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(item.ids).tobytes())
        digest.update(np.ascontiguousarray(item.counted).tobytes())
    return digest.hexdigest()[:16]


class TokenCache:
    """Tokens on disk, under a key of everything that they depend on.

    Files appear whole or not at all and are mapped, not read, so that processes share them.
    A folder that can't be written is reported, and the tokens are made without it.

    Args:
        folder: Where the files are; made when the first one is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tokenize(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerFast,
        *,
        style: Style,
        max_length: int,
        mask_prompt: bool,
        vocabulary: int | None = None,
    ) -> tuple[Tokens, ...]:
        """As the function `tokenize`, out of the cache if the same was asked before."""
        key = _key(records, tokenizer, style, max_length, mask_prompt, vocabulary)
        path = self._folder / f"tokens-{key}.safetensors"
        if (found := _load(path)) is not None:
            return found
        made = tokenize(
            records,
            tokenizer,
            style=style,
            max_length=max_length,
            mask_prompt=mask_prompt,
            vocabulary=vocabulary,
        )
        if len(made) == len(records):  # else the warning is worth hearing again
            try:
                _save(path, made)
            except (OSError, SafetensorError) as error:
                _logger.warning("Tokens can't be kept in %s (%s); going on.", self._folder, error)
        return made


def _key(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerFast,
    style: Style,
    max_length: int,
    mask_prompt: bool,
    vocabulary: int | None,
) -> str:
    chat = style.source or tokenizer.chat_template if isinstance(style, ChatTemplate) else None
    digest = hashlib.sha256()
    for part in (
        _LAYOUT,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.eos_token,
        f"{type(style).__qualname__} of litgpt {version('litgpt')}",
        chat,
        max_length,
        mask_prompt,
        vocabulary,
        *(asdict(record) | {"place": None} for record in records),
    ):
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:32]


def _load(path: Path) -> tuple[Tokens, ...] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            ids, counted, ends = (file.get_tensor(name) for name in ("ids", "counted", "ends"))
    except (OSError, SafetensorError) as error:
        # Renamed into place, but a machine that went down may not have written all of it.
        _logger.warning("The tokens in %s can't be read (%s); making them again.", path, error)
        return None
    starts = [0, *ends[:-1].tolist()]
    return tuple(
        Tokens(ids[start:end], counted[start:end])
        for start, end in zip(starts, ends.tolist(), strict=True)
    )


def _save(path: Path, tokens: Sequence[Tokens]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tokens-") as work:
        made = Path(work) / path.name
        save_file(
            {
                "ids": np.concatenate([item.ids for item in tokens]),
                "counted": np.concatenate([item.counted for item in tokens]),
                "ends": np.cumsum([len(item) for item in tokens]),
            },
            made,
        )
        made.chmod(0o644)  # safetensors makes it private; a cache may be shared
        made.rename(path)
