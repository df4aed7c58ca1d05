"""What a trial of the LoRA objective costs beside its arithmetic: processor time and memory.

All rows do the same work in one run on one CPU thread: a Llama of 3.1 million parameters (random
weights; only the work counts) is trained with LoRA on records of WordNet in Alpaca form for an
epoch, validated once, and asked multiple-choice questions of four answers.

objective   `FineTuneObjective.run`, weights, tokens and questions kept from one trial to the next.
bare        the same model, batches, validation and questions in plain loops: no Lightning, no
            lm-eval, no reports. Both must find the same loss and the same accuracy.
subprocess  `litgpt finetune_lora`, then `litgpt evaluate`: what a trial costs that calls commands.

Memory counts the bytes of all tensors that are alive, as multiples of the base weights: after
loading, while the questions are asked, and after the trial.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from litgpt.utils import save_config
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import _common
from objectives import FineTuneConfig, FineTuneObjective, HyperParameters
from objectives.models.base import load_base_model
from objectives.optimization import learning_rate_factor, make_optimizer
from objectives.resources import Resources, adapter_spec, load_resources
from objectives.scoring import Score
from objectives.training import mean_loss, summed_loss

ROOT: Final = Path(__file__).parents[1]
TOKENIZER: Final = ROOT / "tests" / "assets" / "tiny_llama"
WORDNET: Final = ROOT / "examples" / "data" / "wordnet"
VALIDATION: Final = 64
BATCH: Final = 8
QUESTION_BATCH: Final = 16
LENGTH: Final = 256
PARAMETERS: Final = HyperParameters(learning_rate=1e-3, rank=8, alpha=16, dropout=0.05)


def main() -> None:
    """Print the tables."""
    parser = _common.parser(__doc__)
    parser.add_argument("--samples", type=_common.positive, default=512)
    parser.add_argument("--questions", type=_common.positive, default=48)
    parser.add_argument("--repeats", type=_common.positive, default=3, help="of the first two rows")
    parser.add_argument("--skip_subprocesses", action="store_true")
    arguments = parser.parse_args()
    started = time.process_time()  # until here there were imports only
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Work(Path(name), arguments.samples, arguments.questions)
        work.write()
        elsewhere, before = alive(), time.process_time()
        loaded = load_resources(work.config())
        loading = time.process_time() - before
        objective = FineTuneObjective(work.config(), resources=loaded)
        questions = Questions.read(work.questions_file, loaded.backend.tokenizer)
        ours, bare = in_turn(objective, loaded, questions, repeats=arguments.repeats)
        rows = [
            ("objective", f"{ours:.2f}", "1.00"),
            ("bare loops", f"{bare:.2f}", f"{ours / bare:.3f}"),
        ]
        if not arguments.skip_subprocesses:
            for what, seconds in (
                ("litgpt finetune_lora", work.finetune()),
                ("litgpt evaluate", work.evaluate()),
            ):
                rows.append((what, f"{seconds:.2f}", ""))
            both = sum(float(seconds) for _, seconds, _ in rows[2:])
            rows.append(("both", f"{both:.2f}", f"{ours / both:.3f}"))
        header = ("a trial", "CPU s", "objective / this")
        _common.report(
            f"{arguments.samples} samples, {arguments.questions} questions; once per process: "
            f"imports {started:.1f} s, loading {loading:.1f} s",
            _common.markdown(header, rows),
        )
        _common.report("Tensors alive, in base weights", memory(work, loaded, elsewhere))


@dataclass(frozen=True)
class Work:
    """The files of the work that all rows do.

    Args:
        folder: Where they are.
        samples: Training records.
        questions: Multiple-choice questions.
    """

    folder: Path
    samples: int
    questions: int

    @property
    def questions_file(self) -> Path:
        """The questions, one a line."""
        return self.folder / "questions.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The model, as both litgpt and transformers read it."""
        return self.folder / "checkpoint"

    def write(self) -> None:
        """Make model, records and questions."""
        data = self.folder / "data"
        data.mkdir()
        for name, source, count in (
            ("train", "train", self.samples),
            ("val", "validation", VALIDATION),
        ):
            records = json.loads((WORDNET / f"{source}.json").read_text())[:count]
            (data / f"{name}.json").write_text(json.dumps(records))
        lines = (WORDNET / "questions.jsonl").read_text().splitlines()[: self.questions]
        self.questions_file.write_text("\n".join(lines) + "\n")
        write_model(self.checkpoint)
        task = {
            "task": "words",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(self.questions_file)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "question",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc_norm"}],
        }
        (self.folder / "words.yaml").write_text(json.dumps(task))  # JSON is YAML

    def config(self) -> FineTuneConfig:
        """The same work for the objective."""
        return FineTuneConfig(
            model=self.checkpoint,
            train_data=self.folder / "data" / "train.json",
            validation_data=self.folder / "data" / "val.json",
            output_dir=self.folder / "results",
            cache_dir=self.folder / "cache",
            tasks=(str(self.questions_file),),
            prompt_style="alpaca",
            max_length=LENGTH,
            micro_batch_size=BATCH,
            validation_batch_size=BATCH,
            scoring_batch_size=QUESTION_BATCH,
            reports_per_epoch=1,
            device="cpu",
        )

    def finetune(self) -> float:
        """Processor seconds of `litgpt finetune_lora`."""
        return spent(
            "finetune_lora", self.checkpoint, "--out_dir", self.folder / "tuned",
            "--data", "JSON", "--data.json_path", self.folder / "data",
            "--data.mask_prompt", "true", "--data.num_workers", "0",
            "--precision", "32-true", "--devices", "1", "--logger_name", "csv",
            "--lora_r", PARAMETERS.rank, "--lora_alpha", int(PARAMETERS.alpha),
            "--lora_dropout", PARAMETERS.dropout,
            "--train.epochs", "1", "--train.global_batch_size", BATCH,
            "--train.micro_batch_size", BATCH, "--train.max_seq_length", LENGTH,
            "--train.lr_warmup_steps", "6", "--train.save_interval", "100000",
            "--eval.interval", "100000", "--eval.initial_validation", "false",
            "--eval.final_validation", "true", "--eval.max_iters", VALIDATION // BATCH,
            "--eval.evaluate_example", "first", "--eval.max_new_tokens", "1",
        )  # fmt: skip

    def evaluate(self) -> float:
        """Processor seconds of `litgpt evaluate`."""
        return spent(
            "evaluate", self.folder / "tuned" / "final", "--tasks", self.folder / "words.yaml",
            "--batch_size", QUESTION_BATCH, "--device", "cpu", "--dtype", "float32",
        )  # fmt: skip


def write_model(folder: Path) -> None:
    """Four layers of 192 with random weights, in both layouts, and a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    base = load_base_model(folder)
    torch.save(base.state_dict, folder / "lit_model.pth")
    save_config(base.config, folder)


def spent(command: str, *arguments: object) -> float:
    """Processor seconds of a litgpt command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "litgpt", command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"litgpt {command} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass(frozen=True)
class Questions:
    """Questions as token rows, made once.

    Args:
        contexts: Tokens of each question.
        choices: Tokens of each of its answers.
        lengths: Characters of each answer.
        answers: Positions of the right ones.
    """

    contexts: list[list[int]]
    choices: list[list[list[int]]]
    lengths: list[list[int]]
    answers: list[int]

    @classmethod
    def read(cls, path: Path, tokenizer: PreTrainedTokenizerFast) -> Questions:
        """Tokenize a file of questions."""
        read = [json.loads(line) for line in path.read_text().splitlines()]
        contexts = [tokenizer.encode(item["question"]) for item in read]
        choices = [
            [
                tokenizer.encode(f"{item['question']} {choice}")[len(context) :]
                for choice in item["choices"]
            ]
            for item, context in zip(read, contexts, strict=True)
        ]
        lengths = [[len(choice) for choice in item["choices"]] for item in read]
        return cls(contexts, choices, lengths, [item["answer"] for item in read])

    @torch.inference_mode()
    def accuracy(self, model: Any) -> float:
        """Share of questions whose right answer has the largest likelihood per character."""
        rows = [
            (number, place, self.contexts[number], choice)
            for number, choices in enumerate(self.choices)
            for place, choice in enumerate(choices)
        ]
        rows.sort(key=lambda row: -len(row[2]) - len(row[3]))
        likelihoods = [[0.0] * len(choices) for choices in self.choices]
        for start in range(0, len(rows), QUESTION_BATCH):
            batch = rows[start : start + QUESTION_BATCH]
            for (number, place, *_), value in zip(batch, _likelihoods(model, batch), strict=True):
                likelihoods[number][place] = value / self.lengths[number][place]
        right = [
            max(range(len(values)), key=values.__getitem__) == answer
            for values, answer in zip(likelihoods, self.answers, strict=True)
        ]
        return sum(right) / len(right)


def _likelihoods(model: Any, batch: Sequence[tuple[int, int, list[int], list[int]]]) -> list[float]:
    """Summed log-likelihood of each answer behind its question."""
    width = max(len(context) + len(choice) for *_, context, choice in batch) - 1
    first = min(len(context) for *_, context, _ in batch) - 1
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    for row, (*_, context, choice) in enumerate(batch):
        tokens = (context + choice)[:-1]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    # As the objective does: no logits before the first answer begins.
    logits = model(ids, use_cache=False, logits_to_keep=width - first).logits.log_softmax(-1)
    found = []
    for row, (*_, context, choice) in enumerate(batch):
        begin = len(context) - 1 - first
        places = torch.arange(begin, begin + len(choice))
        found.append(logits[row, places, torch.tensor(choice)].sum().item())
    return found


def bare_trial(
    loaded: Resources, questions: Questions, config: FineTuneConfig
) -> tuple[float, float]:
    """Validation loss and accuracy of a run in plain loops."""
    torch.manual_seed(config.seed)
    values = PARAMETERS
    spec = adapter_spec(config, rank=values.rank, alpha=values.alpha, dropout=values.dropout)
    network = loaded.backend.adapt(spec)
    network.train(True)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(
        trained,
        name=config.optimizer,
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
    )
    for step, batch in enumerate(loaded.train):
        factor = learning_rate_factor(step, steps=len(loaded.train), recipe=loaded.recipe)
        optimizer.param_groups[0]["lr"] = values.learning_rate * factor
        (summed_loss(network, batch) / batch.target_tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    network.train(False)
    return mean_loss(network, loaded.validation), questions.accuracy(network.scoring_model())


def in_turn(
    objective: FineTuneObjective, loaded: Resources, questions: Questions, *, repeats: int
) -> tuple[float, float]:
    """Median processor seconds of a trial of the objective and of plain loops."""
    objective.base_result()  # once per process, like loading
    seconds: tuple[list[float], list[float]] = ([], [])
    results: list[tuple[float, float]] = []

    def ours() -> tuple[float, float]:
        result = objective.run(PARAMETERS.as_dict())
        return result.val_loss, result.scores[0].value

    for _ in range(repeats):
        bare = timed(lambda: bare_trial(loaded, questions, objective.config))
        for kind, (spent_now, found) in enumerate((timed(ours), bare)):
            seconds[kind].append(spent_now)
            results.append(found)
    if len({(round(loss, 4), accuracy) for loss, accuracy in results}) > 1:
        raise RuntimeError(f"the objective and the plain loops did different work: {results}")
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def timed(work: Callable[[], tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    """Processor seconds of this process, and what was found."""
    gc.collect()
    before = time.process_time()
    found = work()
    return time.process_time() - before, found


def memory(work: Work, loaded: Resources, elsewhere: int) -> str:
    """A table of the tensors alive at three moments, without those that were there before."""
    moments: dict[str, int] = {}

    @dataclass
    class Probe:
        """A scorer that looks at the memory first."""

        scorer: Any

        def __call__(self, model: Any, tokenizer: Any, **options: Any) -> tuple[Score, ...]:
            moments["while questions are asked"] = alive()
            found: tuple[Score, ...] = self.scorer(model, tokenizer, **options)
            return found

    probed: Any = dataclasses.replace(loaded, scorer=Probe(loaded.scorer))  # type: ignore[arg-type]
    objective = FineTuneObjective(work.config(), resources=probed)
    objective.base_result()
    gc.collect()
    moments = {"after loading": alive(), "while questions are asked": 0}
    objective.run(PARAMETERS.as_dict())
    gc.collect()
    moments["after a trial"] = alive()
    weights = sum(
        {id(t): t.nbytes for t in load_base_model(work.checkpoint).state_dict.values()}.values()
    )
    rows = [(moment, f"{(size - elsewhere) / weights:.2f}") for moment, size in moments.items()]
    return _common.markdown(("moment", "alive / base weights"), rows)


def alive() -> int:
    """Bytes of all tensors that are alive, each piece of memory once."""
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in gc.get_objects()
        # isinstance would ask lazy modules for their class, which some answer with a warning.
        if issubclass(type(item), torch.Tensor) and item.device.type != "meta"
    }
    return sum(storages.values())


if __name__ == "__main__":
    main()
