"""The text form of passes: `word{option=value,list=[a,"b c"]}`, typed by the passes' own fields.

    pipeline := [item ("," item)*]          value  := scalar | "[" [scalar ("," scalar)*] "]"
    item     := word ["{" [option ("," option)*] "}"]
    option   := word "=" value              scalar := bare word | JSON string

A bare word has no blanks and none of `,={}[]"`. Bare `none` is None; a string "none" is quoted.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union

from optkit.errors import UsageError, nearest
from optkit.transform import Pass

_TOKEN = re.compile(r"""\s*(?:(?P<mark>[,={}\[\]])|(?P<bare>[^\s,={}\[\]"]+)|(?P<quoted>"(?:[^"\\]|\\.)*"))""")


@dataclass(frozen=True)
class Scalar:
    """A value as written: its text, and whether it stood in quotes."""

    text: str
    quoted: bool = False


@dataclass(frozen=True)
class Item:
    """A pass as written: its word, and its options, whose values have no type yet."""

    word: str
    options: dict[str, Scalar | tuple[Scalar, ...]]

    def build(self, cls: type[Pass]) -> Pass:
        """The pass of class `cls` with these options; UsageError for an unknown option or a bad value."""
        kinds = option_types(cls)
        values = {}
        for key, written in self.options.items():
            if key not in kinds:
                raise UsageError(f"pass {self.word!r} has no option {key!r}; {nearest(key, kinds)}")
            try:
                values[key] = convert(written, kinds[key])
            except ValueError as error:
                raise UsageError(f"pass {self.word!r}, option {key}: {error}") from None
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UsageError(f"pass {self.word!r}: {error}") from error


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    def fail(self, expected: str) -> UsageError:
        rest = self.text[self.position :].strip()
        found = repr(rest[:12]) if rest else "the end"
        return UsageError(
            f"pipeline {self.text!r}, column {self.position + 1}: expected {expected}, found {found}; "
            "write pass,pass{option=value}"
        )

    def peek(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.position)

    def take(self, mark: str) -> bool:
        token = self.peek()
        if token is None or token["mark"] != mark:
            return False
        self.position = token.end()
        return True

    def word(self, what: str) -> str:
        token = self.peek()
        if token is None or token["bare"] is None:
            raise self.fail(what)
        self.position = token.end()
        return token["bare"]

    def scalar(self) -> Scalar:
        token = self.peek()
        if token is None or token["mark"] is not None:
            raise self.fail("a value")
        if token["quoted"] is None:
            self.position = token.end()
            return Scalar(token["bare"])
        try:
            text = json.loads(token["quoted"])
        except json.JSONDecodeError:
            raise self.fail("a JSON string") from None
        self.position = token.end()
        return Scalar(text, quoted=True)

    def value(self) -> Scalar | tuple[Scalar, ...]:
        if not self.take("["):
            return self.scalar()
        return self.many("]", self.scalar)

    def many(self, end: str, read: Callable[[], Any]) -> tuple[Any, ...]:
        found: list[Any] = []
        if self.take(end):
            return ()
        while True:
            found.append(read())
            if self.take(end):
                return tuple(found)
            if not self.take(","):
                raise self.fail(f"',' or {end!r}")

    def option(self) -> tuple[str, Scalar | tuple[Scalar, ...]]:
        key = self.word("an option")
        if not self.take("="):
            raise self.fail("'='")
        return key, self.value()

    def item(self) -> Item:
        word = self.word("a pass")
        options: dict[str, Scalar | tuple[Scalar, ...]] = {}
        if self.take("{"):
            for key, value in self.many("}", self.option):
                if key in options:
                    raise UsageError(f"pass {word!r}: option {key!r} is given twice")
                options[key] = value
        return Item(word, options)


def parse_items(text: str) -> list[Item]:
    """The passes of a pipeline's text; UsageError with the column of what cannot be read."""
    reader = _Reader(text)
    if not text.strip():
        return []
    items = [reader.item()]
    while reader.take(","):
        items.append(reader.item())
    if text[reader.position :].strip():
        raise reader.fail("','")
    return items


def option_types(cls: type[Pass]) -> dict[str, Any]:
    """Option names to their annotations, resolved, in definition order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def convert(written: Scalar | tuple[Scalar, ...], kind: Any) -> object:
    """The value of type `kind` that is `written`; ValueError says what was expected instead."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if written == Scalar("none") and type(None) in arguments:
            return None
        return _convert_union(written, kind, [a for a in arguments if a is not type(None)])
    if origin is tuple:
        if len(arguments) != 2 or arguments[1] is not Ellipsis:
            raise TypeError(f"options may be tuples of one type, tuple[{type_text(arguments[0])}, ...]")
        if isinstance(written, Scalar):
            raise ValueError(f"expected {type_text(kind)}, got {written.text!r}; write [a,b]")
        return tuple(convert(part, arguments[0]) for part in written)
    if isinstance(written, tuple):
        raise ValueError(f"expected {type_text(kind)}, got a list")
    return _convert_scalar(written, kind, arguments if origin is Literal else None)


def _convert_union(written: Scalar | tuple[Scalar, ...], kind: Any, arguments: list[Any]) -> object:
    for argument in arguments:
        try:
            return convert(written, argument)
        except ValueError:
            continue
    text = written.text if isinstance(written, Scalar) else "a list"
    raise ValueError(f"expected {type_text(kind)}, got {text!r}")


def _convert_scalar(written: Scalar, kind: Any, choices: tuple[object, ...] | None) -> object:
    text = written.text
    if choices is not None:
        for choice in choices:
            if str(choice) == text and (isinstance(choice, str) or not written.quoted):
                return choice
        known = [str(choice) for choice in choices]
        raise ValueError(f"{text!r} is not one of {', '.join(known)}; {nearest(text, known)}")
    if kind is str:
        return text
    if kind not in (bool, int, float):
        raise TypeError(f"options cannot be of type {kind!r}")
    try:
        if written.quoted:
            raise ValueError
        return {"true": True, "false": False}[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"expected {type_text(kind)}, got {text!r}") from None


def format_pass(p: Pass) -> str:
    """The pass as text, with the options that differ from their defaults."""
    options = ",".join(f"{key}={format_value(value)}" for key, value in p.options().items())
    return f"{p.name}{{{options}}}" if options else p.name


def format_value(value: object) -> str:
    """An option's value as text; the inverse of reading and converting it.

    >>> format_value(("Conv_0", "a b"))
    '[Conv_0,"a b"]'
    """
    if isinstance(value, tuple):
        return f"[{','.join(map(format_value, value))}]"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        token = _TOKEN.fullmatch(value)
        plain = token is not None and token["bare"] == value and value != "none"
        return value if plain else json.dumps(value, ensure_ascii=False)
    return repr(value)


def type_text(kind: Any) -> str:
    """A type as users read it: "int", "list of str", "minmax | entropy", "float | none"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(a) for a in arguments)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    return "none" if kind is type(None) else str(getattr(kind, "__name__", kind))


@dataclass(frozen=True)
class OptionInfo:
    """One option of a pass as `optkit passes` shows it; `default` is in text form."""

    name: str
    type: str
    default: str
    help: str


def describe_options(cls: type[Pass]) -> tuple[OptionInfo, ...]:
    """The options of a pass, read from its definition."""
    described = []
    kinds = option_types(cls)
    for f in dataclasses.fields(cls):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        help_text = f.metadata.get("help", "")
        described.append(OptionInfo(f.name, type_text(kinds[f.name]), format_value(default), help_text))
    return tuple(described)
