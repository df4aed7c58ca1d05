"""Make the example data of this folder from the dictionary files of WordNet 3.0.

    python make_wordnet.py --source /usr/share/wordnet

`--source` is the folder with WordNet's `data.noun`, `index.noun`, ... files; Debian's package
`wordnet-base` installs it as `/usr/share/wordnet`. The same source, sizes and seed give the same
files, byte for byte. Written are:

- `train.json`, `validation.json`: lists of instruction records in Alpaca format, in which a word
  is asked for and its definition is the answer.
- `questions.jsonl`: multiple-choice questions, one JSON object a line: the beginning of a sentence
  and four ways to end it. The wrong choices are the definitions of other asked words of the same
  subject and of about the same length. Every definition is the answer once and a wrong choice
  three times, so a model can't score by preferring some definitions over others.
- `LICENSE`: WordNet's licence, as it stands at the head of its files.

No asked word, no synonym of it and no regular inflection of either occurs anywhere in the tuning
texts, and no choice is a definition that the tuning data holds.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHOICES = 4
BLOCK = 8
MOST_BLOCKS = 20  # of one subject, lest the adjectives, which have only one, outnumber the rest
LONGEST_CHOICE = 54  # characters: scoring is paid by the token, four times a question
SUFFIXES = ("", "s", "es", "d", "ed", "ing", "er", "ers", "ly", "'s")
PARTS = {"noun": "noun", "verb": "verb", "adj": "adjective"}
PHRASINGS = (
    ('Define the word "{word}".', ""),
    ('What does the {part} "{word}" mean?', ""),
    ("Give a short definition of the following {part}.", "{word}"),
    ("Write the dictionary entry of this word.", "{word}"),
)
QUESTION = 'The {part} "{word}" means'

# Left out: insults and what does not belong into an example, glosses that only point to another
# word, and adverbs and relational adjectives, whose definitions all read alike.
UNWANTED = re.compile(
    r"offensive|slur|obscen|vulgar|derogat|disparag|taboo|insult|ethnic|racis|sexual|genital|"
    r"prostitut|excre|feces|urin|murder|suicid|rape|slave|negro|nazi|"
    r"\b(?:relating to|pertaining to|related to|characterized by|variant of|see|trade name)\b",
    re.IGNORECASE,
)
RELATIONAL_ADJECTIVES = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One definition: the asked word, all words of its synset, and the subject it belongs to."""

    word: str
    part: str
    synonyms: tuple[str, ...]
    subject: int
    gloss: str
    known: bool
    """Whether the word occurs in WordNet's sense-tagged texts, a sign of a common word."""


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of WordNet's files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to fill")
    parser.add_argument("--train", type=int, default=2000, help="training records")
    parser.add_argument("--validation", type=int, default=400, help="validation records")
    parser.add_argument("--questions", type=int, default=424, help="multiple-choice questions")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    args = parser.parse_args()

    rng = random.Random(args.seed)
    entries = read_wordnet(args.source)
    asked = choose_asked(entries, args.questions, rng)
    questions = make_questions(asked, rng)
    tuning = choose_tuning(entries, asked, args.train + args.validation, rng)
    args.output.mkdir(parents=True, exist_ok=True)
    write_records(args.output / "train.json", tuning[: args.train], rng)
    write_records(args.output / "validation.json", tuning[args.train :], rng)
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (args.output / "questions.jsonl").write_text(lines, encoding="utf-8")
    (args.output / "LICENSE").write_text(read_license(args.source), encoding="utf-8")


def read_wordnet(source: Path) -> list[Entry]:
    """All usable entries, sorted by word; a word has one entry, since it has one meaning.

    Raises:
        SystemExit: If the folder lacks one of WordNet's files.
    """
    missing = [
        f"{kind}.{part}"
        for part in (*PARTS, "adv")
        for kind in ("data", "index")
        if not (source / f"{kind}.{part}").is_file()
    ]
    if missing:
        raise SystemExit(
            f"{source} has no {', '.join(missing)}; give the folder of WordNet 3.0's dictionary "
            "files (Debian: apt-get install wordnet-base, then --source /usr/share/wordnet)."
        )
    senses: dict[str, int] = defaultdict(int)
    tagged: set[str] = set()
    for part in (*PARTS, "adv"):
        for line in dictionary_lines(source / f"index.{part}"):
            # lemma pos synset_cnt p_cnt symbol*p_cnt sense_cnt tagsense_cnt ... (wndb manual page)
            lemma, _, synset_count, pointers, *rest = line.split()
            senses[lemma] += int(synset_count)
            if int(rest[int(pointers) + 1]) > 0:
                tagged.add(lemma)
    entries = [
        entry
        for part in PARTS
        for line in dictionary_lines(source / f"data.{part}")
        if (entry := parse_synset(line, part, senses, tagged)) is not None
    ]
    return unique_by_gloss(sorted(entries, key=lambda entry: (entry.word, entry.gloss)))


def dictionary_lines(path: Path) -> list[str]:
    """The lines of a dictionary file without the licence at its head, which is indented."""
    lines = path.read_text(encoding="ascii").splitlines()
    return [line for line in lines if not line.startswith("  ")]


def read_license(source: Path) -> str:
    """The text at the head of a dictionary file, without the indented line numbers."""
    lines = (source / "data.noun").read_text(encoding="ascii").splitlines()
    head = [re.sub(r"^ *\d+ ?", "", line).rstrip() for line in lines if line.startswith("  ")]
    return "\n".join(head) + "\n"


def parse_synset(line: str, part: str, senses: dict[str, int], tagged: set[str]) -> Entry | None:
    """The entry of one line of a data file, or None if it has no word worth asking for."""
    fields, _, text = line.partition("|")
    _, subject, _, count, *rest = fields.split()
    if part == "adj" and int(subject) == RELATIONAL_ADJECTIVES:
        return None
    names = [re.sub(r"\(\w+\)$", "", name) for name in rest[0 : 2 * int(count, 16) : 2]]
    gloss = re.sub(r"^\([^)]*\) *", "", text.strip()).split(";")[0].strip()
    synonyms = tuple(name.replace("_", " ").lower() for name in names)
    if not usable_gloss(gloss, synonyms):
        return None
    # A word with several meanings, in any part of speech, has no single right definition.
    words = [
        name
        for name in names
        if re.fullmatch(r"[a-z]{4,12}", name) and senses[name] == 1 and not UNWANTED.search(name)
    ]
    if not words:
        return None
    word = max(words, key=lambda name: (name in tagged, -len(name), name))
    return Entry(word, PARTS[part], synonyms, int(subject), gloss, word in tagged)


def usable_gloss(gloss: str, synonyms: Sequence[str]) -> bool:
    """Whether a gloss is short, clean text that doesn't give away a word of its synset."""
    if not re.fullmatch(r"[a-z][A-Za-z ,'-]+", gloss) or UNWANTED.search(gloss):
        return False
    words = re.findall(r"[a-z]+", gloss.lower())
    stems = {word[:5] for name in synonyms for word in name.split() if len(word) > 3}
    roots = {word[:5] for word in words if len(word) > 4}
    return (
        3 <= len(words) <= 12
        and 20 <= len(gloss) <= 70
        and not any(word[:5] in stems for word in words)
        and not any(root in name for root in roots for name in synonyms)
        and not any(UNWANTED.search(name) for name in synonyms)
    )


def unique_by_gloss(entries: Iterable[Entry]) -> list[Entry]:
    """The first entry of each definition and of each word."""
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.gloss not in seen and entry.word not in seen:
            kept.append(entry)
            seen.update((entry.gloss, entry.word))
    return kept


def choose_asked(entries: Sequence[Entry], count: int, rng: random.Random) -> list[list[Entry]]:
    """Blocks of `BLOCK` common words of one subject whose definitions are about equally long."""
    reserved = set(re.findall(r"\w+", " ".join(a + " " + b for a, b in PHRASINGS) + QUESTION))
    subjects: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        plain = not reserved & set(" ".join(entry.synonyms).split())
        if entry.known and plain and len(entry.gloss) <= LONGEST_CHOICE:
            subjects[entry.part, entry.subject].append(entry)
    blocks = []
    for _, group in sorted(subjects.items()):
        rng.shuffle(group)
        # At most half: the subject must be left for the tuning data too.
        size = min(len(group) // 2 // BLOCK, MOST_BLOCKS) * BLOCK
        share = sorted(group[:size], key=lambda entry: len(entry.gloss))
        blocks += [share[start : start + BLOCK] for start in range(0, len(share), BLOCK)]
    rng.shuffle(blocks)
    if len(blocks) * BLOCK < count:
        raise SystemExit(f"--questions is {count}, but only {len(blocks) * BLOCK} can be made.")
    return blocks[: -(-count // BLOCK)]


def make_questions(
    blocks: Sequence[Sequence[Entry]], rng: random.Random
) -> list[dict[str, object]]:
    """One question a word; the wrong choices are the definitions of others of its block."""
    questions: list[dict[str, object]] = []
    for block in blocks:
        steps = rng.sample(range(1, len(block)), CHOICES - 1)
        for position, entry in enumerate(block):
            others = [block[(position + step) % len(block)].gloss for step in steps]
            choices = rng.sample([entry.gloss, *others], CHOICES)
            questions.append(
                {
                    "question": QUESTION.format(part=entry.part, word=entry.word),
                    "choices": choices,
                    "answer": choices.index(entry.gloss),
                }
            )
    rng.shuffle(questions)
    return questions


def choose_tuning(
    entries: Sequence[Entry], blocks: Sequence[Sequence[Entry]], count: int, rng: random.Random
) -> list[Entry]:
    """Entries whose texts hold no asked word, synonym or inflection, common words first."""
    asked = [entry for block in blocks for entry in block]
    names = {name for entry in asked for name in entry.synonyms}
    forbidden = {name + suffix for name in names for suffix in SUFFIXES}
    forbidden |= {name[:-1] + suffix for name in names for suffix in ("ies", "ied", "ing", "ed")}
    glosses = {entry.gloss for entry in asked}
    pool = [
        entry
        for entry in entries
        if entry.gloss not in glosses and not phrases(f"{entry.word} . {entry.gloss}") & forbidden
    ]
    rng.shuffle(pool)
    pool.sort(key=lambda entry: not entry.known)  # stable: random within common and rare words
    if len(pool) < count:
        raise SystemExit(f"--train and --validation need {count} words, only {len(pool)} are left.")
    chosen = pool[:count]
    rng.shuffle(chosen)
    return chosen


def phrases(text: str) -> set[str]:
    """All runs of one to four neighboring words of a text, in lower case."""
    words = re.findall(r"[a-z'-]+|\.", text.lower())
    words += [piece for word in words for piece in word.split("-") if "-" in word]
    return {
        " ".join(words[start : start + size])
        for size in range(1, 5)
        for start in range(len(words) - size + 1)
    }


def write_records(path: Path, entries: Sequence[Entry], rng: random.Random) -> None:
    """Write a list of Alpaca records, one a line."""
    lines = []
    for entry in entries:
        instruction, given = rng.choice(PHRASINGS)
        record = {
            "instruction": instruction.format(word=entry.word, part=entry.part),
            "input": given.format(word=entry.word),
            "output": entry.gloss,
        }
        lines.append(json.dumps(record))
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
