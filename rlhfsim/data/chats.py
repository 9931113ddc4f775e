"""Cells of preference tables: text, or a chat, which is a list of messages with role and content.

A chat has one name, the JSON text of its messages, so that equal chats are equal strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Message = dict[str, Any]
Chat = list[Message]

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_MESSAGE_RULE = "every message of a chat must have a role and a content, both text"
_BLANK_RULE = "it must not be blank"


class CellError(ValueError):
    """A cell that is neither text nor a chat; the message is the rule that it breaks."""


def read_cell(cell: object) -> str | Chat:
    """Return the text or the chat that `cell` holds.

    Raises
    ------
    CellError
        For a cell that is missing, blank, or neither text nor a chat.
    """
    if isinstance(cell, str):
        return _text(cell)
    if isinstance(cell, np.ndarray) and cell.ndim == 1:
        return _chat(cell.tolist())
    if isinstance(cell, (list, tuple)):
        return _chat(list(cell))
    if isinstance(cell, bytes):
        raise CellError("it must be UTF-8 text")
    if _is_missing(cell):
        raise CellError("it must not be missing")
    raise CellError("it must be text or a chat")


def chat_name(chat: Chat) -> str:
    """Return the JSON text of a chat."""
    return _JSON.encode(chat)


def parse_chat(name: str) -> Chat:
    """Return the chat that `chat_name` wrote.

    Raises
    ------
    CellError
        If `name` does not write one.
    """
    try:
        chat = json.loads(name)
    except ValueError:
        chat = None
    if not isinstance(chat, list):
        raise CellError("it must be the JSON text of a chat")
    return _chat(chat)


def split_prompt(chosen: Chat, rejected: Chat) -> tuple[Chat, Chat, Chat]:
    """Return the messages that both chats begin with, and what each goes on with.

    Each goes on with at least one message.

    Raises
    ------
    CellError
        If they do not begin with the same message, or one goes on with blank messages only.
    """
    longest = min(len(chosen), len(rejected)) - 1
    common = 0
    while common < longest and chosen[common] == rejected[common]:
        common += 1
    if common == 0:
        raise CellError(
            "without a column of prompts, chosen and rejected must begin with the same message "
            "and go on after it"
        )
    prompt, *answers = chosen[:common], chosen[common:], rejected[common:]
    if _is_blank(prompt) or any(_is_blank(answer) for answer in answers):
        raise CellError("neither the prompt that both chats begin with nor the rest may be blank")
    return prompt, answers[0], answers[1]


def _text(text: str) -> str:
    if not text.strip():
        raise CellError(_BLANK_RULE)
    _refuse_surrogates(text)
    return str(text)


def _chat(messages: list[object]) -> Chat:
    chat = [_message(message) for message in messages]
    if not chat:
        raise CellError("a chat must have at least one message")
    if _is_blank(chat):
        raise CellError(_BLANK_RULE)
    return chat


def _message(message: object) -> Message:
    """Return the message with `role` and `content` first, without keys that hold None.

    A Parquet file gives every message all the keys that any message has.
    """
    if not isinstance(message, Mapping):
        raise CellError(_MESSAGE_RULE)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str) or not role.strip():
        raise CellError(_MESSAGE_RULE)
    _refuse_surrogates(role)
    _refuse_surrogates(content)
    plain = {"role": str(role), "content": str(content)}
    others = {k: v for k, v in message.items() if v is not None and k not in plain}
    return plain | _as_json(others) if others else plain


def _as_json(others: dict[Any, Any]) -> Message:
    """Return what JSON makes of the further keys of a message, in alphabetical order."""
    try:
        text = json.dumps(
            others, ensure_ascii=False, allow_nan=False, sort_keys=True, default=_plain
        )
    except (TypeError, ValueError, RecursionError):
        raise CellError("every message of a chat must be JSON") from None
    _refuse_surrogates(text)
    value: Message = json.loads(text)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError


def _is_blank(chat: Chat) -> bool:
    return not any(message["content"].strip() for message in chat)


def _refuse_surrogates(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CellError("it must be valid Unicode, without lone surrogates") from None


def _is_missing(cell: object) -> bool:
    import pandas as pd

    return cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))
