"""From a request to typed values, and from what is wrong with it to a sentence that names it."""

from __future__ import annotations

import re
from typing import TypeVar, get_args

import msgspec
from msgspec import Struct
from starlette.requests import Request

from engine.web.answers import JSON, Denied
from engine.web.shapes import EXPECTED

S = TypeVar("S", bound=Struct)

_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?", re.DOTALL)
_LENGTH = re.compile(r"Expected `str` of length (?P<sign><=|>=) (?P<count>\d+)")
_RANGE = re.compile(r"Expected `int` (?P<sign><=|>=) (?P<count>-?\d+)")
_KIND = re.compile(r"Expected `(?P<wanted>[a-z |]+)`, got `(?P<got>[a-z]+)`")
_PATTERN = re.compile(r"Expected `str` matching regex '(?P<pattern>.*)'", re.DOTALL)
_CHOICE = re.compile(r"Invalid enum value .*", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_OURS = re.compile(r"(?P<name>[A-Za-z_-]+): (?P<expected>expected .*)", re.DOTALL)
_NAME_CHARS = 60


def read_path(request: Request, kind: type[S]) -> S:
    """Raises Denied."""
    return _convert(dict(request.path_params), kind)


def read_query(request: Request, kind: type[S]) -> S:
    """Raises Denied; also for a parameter that is not known, or given twice."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise _at_fault(name, "expected once, it is given twice")
        values[name] = value
    return _convert(values, kind)


def read_headers(request: Request, kind: type[S]) -> S:
    """Those headers that it knows. Raises Denied; also for one that is given twice."""
    values: dict[str, str] = {}
    for name in (field.encode_name for field in msgspec.structs.fields(kind)):
        given = request.headers.getlist(name)
        if len(given) > 1:
            raise _at_fault(name, "expected once, it is given twice")
        if given:
            values[name] = given[0]
    return _convert(values, kind)


async def read_body(request: Request, kind: type[S], *, is_required: bool = True) -> S:
    """JSON. Raises Denied. Where nothing is required, an empty body is an empty object."""
    body = await request.body()
    if not body and not is_required:
        return _convert({}, kind)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise Denied(415, f"Content-Type: expected {JSON}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Denied(400, "The body is not valid JSON in UTF-8.", "bad_json") from None


def _convert(values: dict[str, str], kind: type[S]) -> S:
    try:
        return msgspec.convert(values, type=kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc), kind) from None


def _at_fault(name: str, expected: str) -> Denied:
    shown = "".join(character if character.isprintable() else "?" for character in name[:_NAME_CHARS])
    return Denied(400, f"{shown}: {expected}", field=shown)


def _explained(text: str, kind: type[Struct]) -> Denied:
    """msgspec's message in our words; nothing of a value is in either."""
    match = _AT.fullmatch(text)
    what, where = (match["what"], match["where"] or "") if match else (text, "")
    if ours := _OURS.fullmatch(what):
        return _at_fault(ours["name"], ours["expected"])
    if missing := _MISSING.fullmatch(what):
        return _at_fault(missing["name"], "expected, it is missing")
    if unknown := _UNKNOWN.fullmatch(what):
        return _at_fault(unknown["name"], "there is no such field")
    expected = _one_of(kind, where) if _CHOICE.fullmatch(what) else _expected(what)
    return _at_fault(where, expected) if where else Denied(400, f"The body: {expected}")


def _one_of(kind: type[Struct], name: str) -> str:
    """What a field takes that takes only some words."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    words = [str(word) for word in get_args(fields.get(name))]
    return f"expected {' or '.join(words)}" if words else "expected another value"


def _expected(what: str) -> str:
    if length := _LENGTH.fullmatch(what):
        return f"expected at {_bound(length['sign'])} {_counted(int(length['count']))}"
    if bounds := _RANGE.fullmatch(what):
        return f"expected at {_bound(bounds['sign'])} {bounds['count']}"
    if pattern := _PATTERN.fullmatch(what):
        return EXPECTED.get(pattern["pattern"].replace("\\\\", "\\"), "expected another spelling")
    if kind := _KIND.fullmatch(what):
        wanted = " or ".join(_KINDS.get(word.strip(), word.strip()) for word in kind["wanted"].split("|"))
        return f"expected {wanted}, got {_KINDS.get(kind['got'], 'something else')}"
    return "expected another value"


def _bound(sign: str) -> str:
    return "most" if sign == "<=" else "least"


def _counted(count: int) -> str:
    return "1 character" if count == 1 else f"{count} characters"
