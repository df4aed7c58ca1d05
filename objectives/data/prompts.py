"""From records to texts: prompt styles and chat templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from litgpt.prompts import Default, PromptStyle, prompt_styles

from objectives.data.errors import DataError
from objectives.data.records import Conversation, Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from objectives.data.records import Record

PLAIN: Final = "plain"
"""Prompt style without any frame: the instruction, the input if any, and a line break."""

CHAT: Final = "chat"
"""The chat template that the model's tokenizer carries."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text of a rendered record.

    Attributes:
        text: What the model reads.
        response: Whether the model is to learn to write it.
        special: Whether the tokenizer puts its own marks, such as a beginning-of-sequence token,
            around it.
        end: Whether the end-of-sequence token follows.
    """

    text: str
    response: bool
    special: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja template of chat messages as transformers has them.

    Attributes:
        source: The template; None is the tokenizer's own.
    """

    source: str | None = None


Style: TypeAlias = PromptStyle | ChatTemplate


def prompt_style(name: str) -> Style:
    """How records become texts.

    Args:
        name: `"plain"`; `"chat"`, the tokenizer's chat template; a `.jinja` file with a chat
            template; or a prompt style of litgpt's, such as `"alpaca"`.

    Raises:
        ValueError: If there is no such style or file.
    """
    if name == PLAIN:
        return _Plain()
    if name == CHAT:
        return ChatTemplate()
    if name.endswith(".jinja"):
        try:
            return ChatTemplate(Path(name).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"prompt_style is {name!r}, a chat template that can't be read ({error})."
            ) from error
    if name not in prompt_styles:
        raise ValueError(
            f"prompt_style is {name!r}, expected {PLAIN!r}, {CHAT!r}, a .jinja file or one of "
            f"{sorted(prompt_styles)}."
        )
    found: Style = PromptStyle.from_name(name)
    return found


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


def segments(
    style: Style, record: Record, tokenizer: PreTrainedTokenizerFast
) -> tuple[Segment, ...]:
    """The texts of a record, one after another; the last one is a response.

    A prompt style takes examples, and conversations of one question and one answer. A chat
    template takes both.

    Raises:
        DataError: If the style can't render the record.
        ValueError: If the tokenizer has no chat template and none is given.
    """
    if isinstance(style, ChatTemplate):
        return _chat(style, _as_messages(record), tokenizer, place_of(record))
    example = _as_example(record)
    return (
        Segment(render(style, example), response=False, special=True),
        Segment(example.output, response=True, end=True),
    )


def _chat(
    style: ChatTemplate,
    messages: tuple[Message, ...],
    tokenizer: PreTrainedTokenizerFast,
    place: str,
) -> tuple[Segment, ...]:
    """Cut the rendered conversation into what the assistant says and what it reads.

    The text up to an answer is what the model is given when it is asked for that answer.
    """
    if style.source is None and tokenizer.chat_template is None:
        raise ValueError(
            f"prompt_style is {CHAT!r}, but the model's tokenizer has no chat template; give a "
            ".jinja file with one, or a prompt style such as 'alpaca'."
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]

    def text(count: int, *, answering: bool) -> str:
        rendered = tokenizer.apply_chat_template(
            turns[:count],
            chat_template=style.source,
            tokenize=False,
            add_generation_prompt=answering,
        )
        assert isinstance(rendered, str)
        return rendered

    found, written = [], ""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before, after = text(index, answering=True), text(index + 1, answering=False)
        if not (before.startswith(written) and after.startswith(before)):
            raise DataError(
                f"{place}: the chat template writes a turn differently when others follow, so the "
                "responses can't be told from the prompts; give a .jinja file with a template "
                "that only appends."
            )
        found.append(Segment(before[len(written) :], response=False))
        found.append(Segment(after[len(before) :], response=True))
        written = after
    return tuple(found)


def _as_messages(record: Record) -> tuple[Message, ...]:
    if isinstance(record, Conversation):
        return record.messages
    asked = f"{record.instruction}\n{record.input}" if record.input else record.instruction
    return (Message("user", asked), Message("assistant", record.output))


def _as_example(record: Record) -> Example:
    if isinstance(record, Example):
        return record
    roles = [message.role for message in record.messages]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{record.place}: the roles are {roles}, which a prompt style can't render; set "
            f"prompt_style to {CHAT!r} or to a .jinja file."
        )
    asked, answered = record.messages
    return Example(asked.content, answered.content)


def place_of(record: Record) -> str:
    """What errors call a record."""
    return record.place if isinstance(record, Conversation) else f"{record.instruction[:40]!r}"
