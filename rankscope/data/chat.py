"""Conversations: the layouts in which people keep chats, brought to turns, and turns to the parts of an example.

``messages`` holds objects with ``role`` and ``content``, ``conversations`` (LLaVA, ShareGPT) with ``from`` and ``value``; a ``prompt`` and a
``completion`` may be lists of messages too. What the assistant said last is the target; its earlier turns stay in the text, and
:attr:`~rankscope.data.probes.Example.turns` says which they are, so that all of them are read as ``answer``.
"""

from __future__ import annotations

from collections.abc import Mapping

from rankscope.data.files import Json
from rankscope.data.intake import Intake
from rankscope.data.probes import ASSISTANT, Turn

CHATS = ("messages", "conversations", "conversation")
"""The columns that hold a whole conversation."""
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_ROLES = {"gpt": ASSISTANT, "model": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT, "human": "user"}
"""What other files call the roles."""
_PLACEHOLDER = "<image>"
"""Where LLaVA's files put the image into the text; a model's own placeholder is put in when it reads."""


def unfolded(item: Mapping[str, Json], place: str, intake: Intake) -> tuple[dict[str, Json], tuple[Turn, ...]]:
    """A record whose conversation is divided into ``text`` and ``target``, and its turns; any other record as it is."""
    name = next((c for c in CHATS if isinstance(item.get(c), list)), None)
    prompt, completion = (item.get(c) for c in ("prompt", "completion"))
    if name is None and not isinstance(prompt, list):
        return dict(item), ()
    said = item[name] if name else [*_messages(prompt, "user"), *_messages(completion, ASSISTANT)]
    taken = (name,) if name else ("prompt", "completion")
    rest = {k: v for k, v in item.items() if k not in taken}
    turns, pictures = [], list[str]()
    for message in said if isinstance(said, list) else ():
        turn = _turn(message, pictures)
        if turn is None:
            intake.fault("message has no role or no text", place)
        else:
            turns.append(turn)
    if len(pictures) > 1:
        intake.fault("conversation shows several images", place)
    if pictures:
        rest.setdefault("image", pictures[0])
    if not turns:
        intake.fault("conversation is empty", place)
        return {**rest, "text": ""}, ()
    answered = turns[-1].role == ASSISTANT
    before = turns[:-1] if answered else turns
    rest["text"] = joined(before)
    return rest | ({"target": turns[-1].text} if answered else {}), tuple(before)


def joined(turns: list[Turn]) -> str:
    """Turns as one text, a line break between them."""
    return "\n".join(turn.text for turn in turns)


def _messages(value: Json, role: str) -> list[Json]:
    """Messages as they are; a text as the one message of a role."""
    if isinstance(value, list):
        return value
    return [] if value is None else [{"role": role, "content": value}]


def _turn(message: Json, pictures: list[str]) -> Turn | None:
    """A message as a turn, the files of its images added to ``pictures``; None if it has no role or no text."""
    if not isinstance(message, dict):
        return None
    role, content = (next((message[k] for k in keys if k in message), None) for keys in (_ROLE, _CONTENT))
    parts, texts = content if isinstance(content, list) else [content], []
    for part in parts:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, dict):
            return None
        shown = next((part[k] for k in ("image", "path", "url") if isinstance(part.get(k), str)), None)
        if isinstance(part.get("text"), str):
            texts.append(str(part["text"]))
        elif isinstance(shown, str):
            pictures.append(shown)
        elif part.get("type") != "image":  # an image without a name is the record's own
            return None
    if not isinstance(role, str) or not role:
        return None
    text = "\n".join(texts)
    return Turn(
        _ROLES.get(role.lower(), role.lower()), text.replace(_PLACEHOLDER, "").strip() if "value" in message else text
    )
