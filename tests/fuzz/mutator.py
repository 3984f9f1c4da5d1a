"""Damaged files from sound ones: a seed decides which part is changed and how.

Changes that know the format (a JSON value of another kind, a missing key, a number beyond all floats, half a surrogate
pair) reach further into a reader than bytes alone do, which mostly end in its parser; both are made.
"""

import copy
import gzip
import json
import random
import re
import struct
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

LITERALS = (
    *("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" + 400 * "0", "1" + 5000 * "0", "1e308", "5e-324"),
    *(
        opened * depth + "null" + closed * depth
        for opened, closed in ("[]", ('{"a":', "}"), ('[{"a":', "}]"))
        for depth in (3, 60, 99, 101, 150, 300, 490, 700, 900, 980, 995, 1000, 100_000)
    ),
)
"""What may stand in a JSON text and is no Python value, or one that cannot be written."""
MARK = re.compile(r'"@@literal (\d+)@@"')
SIZES = (-1, 0, 1, 1.5, 10**6, 10**9, 2**31, 2**63, -(2**63), 2**64)
WIDE = 200_000
"""Keys of an object that has more than any row should."""
TEXTS = (
    "",
    "\ud800",
    "a\udfffb",
    "x" * 200_000,
    "line\nline\r\n",
    "\x00\x1b[31m",
    "<b>&\"'`</b>",
    "../../etc",
    "{}{0}{x}",
    "many",
)
LEAVES = (None, True, False, [], {}, [None], {"a": None}, [[]], [1, "a", None], {"1": 1, "": ""}, "1", 0.5, -3)
BYTES = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"[",
    b"}",
    b"\\",
    b"\xef\xbb\xbf",
    b"1e999",
    b"null",
)

Path = tuple[Any, ...]
Mutate = Callable[[bytes, random.Random], bytes]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, put in, taken out or doubled, or the end cut off."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 1024)))
        piece = rng.choice(BYTES) * rng.choice((1, 1, 3, 1000))
        flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1])
        data = rng.choice(
            (
                data[:at] + flipped + data[at + 1 :],
                data[:at] + piece + data[at:],
                data[:at] + rng.randbytes(end - at) + data[end:],
                data[:at] + data[end:],
                data[:end] + data[at:],
                data[:at],
            )
        )
    return data


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """One to three values of a JSON text changed."""
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed(tree, rng)
    return _written(tree, 2 if data.startswith(b"{\n") else None)


def mutate_lines(data: bytes, rng: random.Random) -> bytes:
    """A line of a file of JSON lines changed, left out, doubled or moved."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    way = rng.randrange(8)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif way == 2:
        lines[at] = mutate_bytes(lines[at], rng)
    elif way == 3:
        lines[at] = _wide(lines[at]) if rng.random() < 0.05 else _written(_odd(None, rng))
    else:
        lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines) + rng.choice((b"\n", b""))


def _wide(line: bytes) -> bytes:
    """A line with `WIDE` keys more."""
    return json.dumps(json.loads(line) | {f"k{number}": number for number in range(WIDE)}).encode()


def mutate_toml(data: bytes, rng: random.Random) -> bytes:
    """One to three values of a TOML text changed, each table written on one line."""
    tree = tomllib.loads(data.decode())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed(tree, rng)
    if not isinstance(tree, dict):
        tree = {"a": tree}
    text = "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in tree.items())
    return MARK.sub(lambda found: _toml_literal(LITERALS[int(found[1])]), text).encode("utf-8", "surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "1979-05-27" if value is None else json.dumps(value)


def _toml_literal(text: str) -> str:
    return text.replace(":", "=").replace("null", "1").replace("NaN", "nan").replace("Infinity", "inf")


def mutate_csv(data: bytes, rng: random.Random) -> bytes:
    """Quotes, separators and ends of lines where they do not belong, or a cell or a line changed."""
    at = rng.randrange(len(data) + 1)
    lines = data.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    cells = lines[line].split(b",")
    cells[rng.randrange(len(cells))] = rng.choice(
        (b"", b'"', b'""', b'"a', b";", b"x" * 200_000, b"\x00", b"\xff", "\u2028".encode(), b"=1+1")
    )
    return rng.choice(
        (
            data[:at] + rng.choice((b'"', b",", b"\r", b"\n", b";", b"\x00", b'"x', b"\t")) + data[at:],
            b"".join([*lines[:line], b",".join(cells), *lines[line + 1 :]]),
            b"".join([*lines[:line], *lines[line + 1 :]]),
            b"".join([*lines[: line + 1], *lines[line:]]),
        )
    )


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header of a safetensors file changed as JSON, or its length."""
    (size,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**40, 2**63, 2**64 - 1))) + data[8:]
    header = mutate_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def packed(inner: Mutate) -> Mutate:
    """What is in a gzip file changed, and packed again."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        return gzip.compress(inner(gzip.decompress(data), rng), mtime=0)

    return mutate


def mutant(data: bytes, mutate: Mutate, seed: int) -> bytes:
    """Mutant number `seed` of a file: mostly by its format, every fourth by its bytes."""
    rng = random.Random(seed)
    return (mutate_bytes if seed % 4 == 3 else mutate)(data, rng)


def difference(before: bytes, after: bytes, context: int = 40, most: int = 300) -> str:
    """Where two files differ, for a person: the place, and what stood and stands there."""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    tail, limit = 0, min(len(before), len(after)) - at
    while tail < limit and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = (data[max(0, at - context) : len(data) - tail + context][:most] for data in (before, after))
    return f"at byte {at}: {old!r} -> {new!r}"


def _changed(tree: Any, rng: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    paths = list(_paths(tree))
    path = rng.choice(paths)
    if not path:
        return _odd(tree, rng)
    owner = tree
    for step in path[:-1]:
        owner = owner[step]
    key = path[-1]
    way = rng.randrange(10)
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    elif way == 1:
        owner[rng.choice(TEXTS[:9])] = owner.pop(key)
    elif way == 2:  # a value from elsewhere in the file
        other = tree
        for step in rng.choice(paths):
            other = other[step]
        owner[key] = copy.deepcopy(other)
    else:
        owner[key] = _odd(owner[key], rng)
    return tree


def _odd(value: Any, rng: random.Random) -> Any:
    """A value of another kind or of an odd size."""
    way = rng.randrange(7)
    if way <= 1:
        return f"@@literal {rng.randrange(len(LITERALS))}@@"
    if way == 2:
        return rng.choice(SIZES)
    if way == 3:
        return rng.choice(TEXTS)
    if way == 4:
        return [value]
    if way == 5 and isinstance(value, str | list) and len(value) > 1:
        return value[: len(value) // 2]
    return copy.deepcopy(rng.choice(LEAVES))


def _paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from _paths(tree[key], (*path, key))


def _written(tree: Any, indent: int | None = None) -> bytes:
    """A tree as JSON text, with what Python has no value for in the place of its marks."""
    return MARK.sub(lambda found: LITERALS[int(found[1])], json.dumps(tree, indent=indent)).encode()
