"""The example data of examples/data/wordnet, and the script that makes it."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from objectives._tasks import Question, read_questions

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "data" / "wordnet"


def records(name: str) -> list[dict[str, str]]:
    content: list[dict[str, str]] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def headword(text: str) -> str:
    found = re.search(r'"(\w+)"', text)
    assert found is not None, text
    return found[1]


def asked_word(record: dict[str, str]) -> str:
    return record["input"] or headword(record["instruction"])


@pytest.fixture(scope="module")
def train() -> list[dict[str, str]]:
    return records("train.json")


@pytest.fixture(scope="module")
def validation() -> list[dict[str, str]]:
    return records("validation.json")


@pytest.fixture(scope="module")
def questions() -> tuple[Question, ...]:
    return read_questions(FOLDER / "questions.jsonl")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_wordnet", FOLDER / "make_wordnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_sizes(
    train: list[dict[str, str]],
    validation: list[dict[str, str]],
    questions: tuple[Question, ...],
) -> None:
    assert (len(train), len(validation), len(questions)) == (2000, 400, 424)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 600_000


def test_records_are_alpaca_and_not_empty(
    train: list[dict[str, str]], validation: list[dict[str, str]]
) -> None:
    for record in train + validation:
        assert list(record) == ["instruction", "input", "output"]
        assert record["instruction"].strip()
        assert len(record["output"]) >= 20
        assert asked_word(record).isalpha()


def test_no_asked_word_occurs_in_the_tuning_texts(
    train: list[dict[str, str]],
    validation: list[dict[str, str]],
    questions: tuple[Question, ...],
) -> None:
    text = " ".join(" ".join(record.values()) for record in train + validation)
    words = set(re.findall(r"\w+", text.lower()))
    assert len(words) > 5000
    asked = {headword(item.question) for item in questions}
    assert len(asked) == len(questions)
    assert not asked & words
    # Nor an inflection.
    endings = ("s", "es", "d", "ed", "ing")
    assert not {word + ending for word in asked for ending in endings} & words


def test_no_choice_is_a_definition_of_the_tuning_data(
    train: list[dict[str, str]],
    validation: list[dict[str, str]],
    questions: tuple[Question, ...],
) -> None:
    definitions = {record["output"] for record in train + validation}
    assert not definitions & {choice for item in questions for choice in item.choices}


def test_tuning_files_share_no_word_and_no_definition(
    train: list[dict[str, str]], validation: list[dict[str, str]]
) -> None:
    assert len({asked_word(record) for record in train + validation}) == 2400
    assert len({record["output"] for record in train + validation}) == 2400


def test_definitions_do_not_name_their_word(
    train: list[dict[str, str]], questions: tuple[Question, ...]
) -> None:
    pairs = [(asked_word(record), record["output"]) for record in train]
    pairs += [(headword(item.question), item.choices[item.answer]) for item in questions]
    assert not [pair for pair in pairs if pair[0] in pair[1].split()]


def test_preferring_some_definitions_scores_a_quarter(questions: tuple[Question, ...]) -> None:
    assert all(len(item.choices) == 4 for item in questions)
    offered = Counter(choice for item in questions for choice in item.choices)
    right = Counter(item.choices[item.answer] for item in questions)
    assert set(offered.values()) == {4}
    assert set(right.values()) == {1}
    assert offered.keys() == right.keys()
    positions = Counter(item.answer for item in questions)
    assert all(count > 0.8 * len(questions) / 4 for count in positions.values())


def test_right_choice_is_not_given_away_by_its_length(questions: tuple[Question, ...]) -> None:
    def share(pick: Any) -> float:
        hits = [pick(item.choices, key=len) == item.choices[item.answer] for item in questions]
        return hits.count(True) / len(hits)

    assert share(max) == pytest.approx(0.25, abs=0.09)  # four standard errors
    assert share(min) == pytest.approx(0.25, abs=0.09)


def test_licence_is_wordnets() -> None:
    text = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in text
    assert "Title to copyright in this software, database and" in text
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "`LICENSE`" in readme
    for file_name in ("train.json", "validation.json", "questions.jsonl", "make_wordnet.py"):
        assert f"`{file_name}`" in readme


# The script, on a dictionary made here.

PLACES = ("lake", "hill", "road", "wall", "door", "lamp", "coat", "ship")
COLORS = ("red", "blue", "green", "brown", "white", "black", "grey", "pink")


def invented_word(number: int) -> str:
    letters = "bdfgklmnprst"
    first, second = divmod(number, len(letters))
    third, fourth = divmod(first, len(letters))
    return f"{letters[third]}o{letters[fourth]}a{letters[second]}iz"


def write_dictionary(folder: Path, count: int) -> Path:
    """A dictionary in WordNet's format with `count` nouns, and no other words."""
    folder.mkdir()
    licence = "".join(f"  {number} Line {number} of a licence.  \n" for number in range(1, 4))
    data, index = [], []
    for number in range(count):
        word, offset = invented_word(number), f"{number:08d}"
        place, color = PLACES[number % 8], COLORS[number // 8 % 8]
        gloss = f"the thing at the {place} that is {color} and counts {invented_word(number)[:3]}q"
        data.append(f'{offset} 0{4 + number % 2} n 01 {word} 0 000 | (a note) {gloss}; "never"  ')
        index.append(f"{word} n 1 1 @ 1 1 {offset}  ")
    for part, lines in (("data", data), ("index", index)):
        (folder / f"{part}.noun").write_text(licence + "\n".join(lines) + "\n", encoding="ascii")
        for other in ("verb", "adj", "adv"):
            (folder / f"{part}.{other}").write_text(licence, encoding="ascii")
    return folder


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["make_wordnet.py", *arguments])
    script.main()


def test_script_gives_the_same_files_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_dictionary(tmp_path / "dict", 120)
    sizes = ("--train", "40", "--validation", "10", "--questions", "16")
    for name, seed in (("one", "3"), ("two", "3"), ("other", "4")):
        folder = str(tmp_path / name)
        run(
            script, monkeypatch, "--source", str(source), "--output", folder, "--seed", seed, *sizes
        )
    files = ("train.json", "validation.json", "questions.jsonl", "LICENSE")
    for file_name in files:
        one, two = (tmp_path / name / file_name for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "other" / files[0]).read_bytes() != (
        tmp_path / "one" / files[0]
    ).read_bytes()
    assert len(json.loads((tmp_path / "one" / "train.json").read_text(encoding="utf-8"))) == 40
    made = read_questions(tmp_path / "one" / "questions.jsonl")
    assert len(made) == 16
    assert not any("note" in choice or ";" in choice for item in made for choice in item.choices)
    licence = (tmp_path / "one" / "LICENSE").read_text(encoding="utf-8")
    assert licence == "".join(f"Line {number} of a licence.\n" for number in range(1, 4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("--questions", "999"), "--questions is 999, but only"),
        (("--questions", "8", "--train", "999"), "need 1399 words, only"),
    ],
)
def test_script_refuses_sizes_it_cannot_reach(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[str, ...],
    message: str,
) -> None:
    source = write_dictionary(tmp_path / "dict", 120)
    with pytest.raises(SystemExit, match=message):
        run(script, monkeypatch, "--source", str(source), "--output", str(tmp_path), *sizes)


def test_script_names_missing_dictionary_files(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"has no data\.noun, .*wordnet-base"):
        run(script, monkeypatch, "--source", str(tmp_path))


def test_tuning_words_avoid_asked_words_synonyms_and_inflections(script: ModuleType) -> None:
    def entry(word: str, gloss: str, *synonyms: str) -> Any:
        return script.Entry(word, "noun", (word, *synonyms), 6, gloss, True)

    asked = entry("auto", "a machine with four wheels", "motor car", "carry")
    clean = entry("lamp", "a light that stands on a table")
    entries = [
        clean,
        asked,
        entry("garage", "a house for an auto"),  # the word
        entry("rally", "a race of many Autos"),  # its plural
        entry("fuel", "what a motor car burns"),  # a synonym of two words
        entry("fair", "a place with motor-car stands"),  # the same with a hyphen
        entry("porter", "someone who carried bags"),  # an inflection of a synonym
        entry("coach", "a machine with four wheels"),  # the same definition
    ]
    assert script.choose_tuning(entries, [[asked]], 1, random.Random(0)) == [clean]
    with pytest.raises(SystemExit, match="only 1 are left"):
        script.choose_tuning(entries, [[asked]], 2, random.Random(0))
