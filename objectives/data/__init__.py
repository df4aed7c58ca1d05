"""Instruction data: read once, tokenized once, in batches that are the same for every trial."""

from __future__ import annotations

from objectives.data.batches import IGNORE, Batch, attention_mask, bucket, pack
from objectives.data.errors import DataError
from objectives.data.prompts import ChatTemplate, prompt_style, render, segments
from objectives.data.records import Conversation, Example, Message, question, read_records
from objectives.data.sources import DATASETS, load_records, split, take_share
from objectives.data.tokens import TokenCache, Tokens, fingerprint, tokenize

__all__ = [
    "DATASETS",
    "IGNORE",
    "Batch",
    "ChatTemplate",
    "Conversation",
    "DataError",
    "Example",
    "Message",
    "TokenCache",
    "Tokens",
    "attention_mask",
    "bucket",
    "fingerprint",
    "load_records",
    "pack",
    "prompt_style",
    "question",
    "read_records",
    "render",
    "segments",
    "split",
    "take_share",
    "tokenize",
]
