"""Make the small model and data files of this folder from the WordNet extract of the examples.

    python make_tiny_llama.py

Writes `tiny_llama/` (a Hugging Face folder: Llama architecture with grouped queries and tied
embeddings, a byte-level BPE tokenizer, half-precision weights), `alpaca_train.json`,
`alpaca_validation.json` and `questions.jsonl`. The model is trained for a minute on definitions,
enough for its loss to be well below that of a uniform guess and to fall further when it is tuned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ASSETS = Path(__file__).resolve().parent
WORDNET = ASSETS.parents[1] / "examples" / "data" / "wordnet"
VOCABULARY = 768
END, PAD = "<|endoftext|>", "<|pad|>"
LENGTH, BATCH, LEARNING_RATE = 64, 16, 3e-3
TRAIN, VALIDATION, QUESTIONS = 64, 24, 24


def main() -> None:
    """Read the command line and write the model and the data files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=WORDNET, help="folder of the extract")
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder to fill")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    args = parser.parse_args()

    records = read_records(args.source / "train.json")
    write_records(args.output / "alpaca_train.json", records[:TRAIN])
    validation = read_records(args.source / "validation.json")
    write_records(args.output / "alpaca_validation.json", validation[:VALIDATION])
    questions = (args.source / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    (args.output / "questions.jsonl").write_text(
        "\n".join(questions[:QUESTIONS]) + "\n", encoding="utf-8"
    )

    torch.set_num_threads(1)  # the order of summation, hence the weights, depends on it
    torch.manual_seed(args.seed)
    texts = [f"{record['instruction']} {record['input']} {record['output']}" for record in records]
    tokenizer = train_tokenizer(texts)
    model: Any = LlamaForCausalLM(tiny_config(tokenizer))  # type: ignore[no-untyped-call]
    # Without the records of alpaca_train.json, so that tuning on these finds something new.
    rows = token_rows(tokenizer, [record["output"] for record in records[TRAIN:]])
    train(model, rows, args.steps)
    with torch.inference_mode():
        held_out = token_rows(tokenizer, [record["output"] for record in validation])
        loss = model(input_ids=held_out, labels=held_out).loss
    print(f"{model.num_parameters():,} parameters, validation loss {loss:.3f}")
    folder = args.output / "tiny_llama"
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def read_records(path: Path) -> list[dict[str, str]]:
    """The records of an Alpaca file."""
    records: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def write_records(path: Path, records: Sequence[dict[str, str]]) -> None:
    """Write an Alpaca file, one record a line."""
    lines = ",\n".join(json.dumps(record) for record in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as the Llama 3 and SmolLM families have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=256
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers, 64 wide, four heads that share two groups of keys and values."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,  # type: ignore[arg-type]  # annotated as int by mistake
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def token_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """The texts, joined and cut: `(rows, LENGTH)` token ids, the incomplete last row left out."""
    tokens = torch.tensor([i for text in texts for i in tokenizer(text + END)["input_ids"]])
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


def train(model: LlamaForCausalLM, rows: torch.Tensor, steps: int) -> None:
    """Train in place on batches of rows drawn at random."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    main()
