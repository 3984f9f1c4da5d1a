"""Logs of Inspect: `.eval` files, which are zip files of JSON, and `.json` files.

Members of an `.eval` file are compressed by Zstandard, or by deflate before version 0.3.190; pyarrow reads the former.
Sizes are bounded before anything is unpacked. A sample that cannot be read is left out and counted. The format is that
of `inspect_ai.log.EvalLog`, https://inspect.aisi.org.uk/eval-logs.html.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from probe.errors import DataError
from probe.logs.log import TEXT, Log, LogItem, dialogue_text, flat_scores, make_log, question_hash
from probe.model.messages import Message
from probe.untrusted import DOCUMENT, MB, RECORD, open_file, parse_json, read_json, readable, short

LARGEST = 2**30
"""Largest size in bytes of an `.eval` file, and of all its samples when unpacked."""
SAMPLE = 64 * MB
"""Largest size in bytes of an unpacked sample."""
DIRECTORY = 32 * MB
"""Largest size in bytes of the directory of a zip file: some 400,000 members."""
ZSTANDARD = 93
"""Number of the compression method in a zip file."""
END, END_64, LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
"""Signatures of the records at the end of a zip file."""
ATTACHMENT = "attachment://"
"""Beginning of a text that stands in the sample's attachments."""
SAMPLES, HEADER, START = "samples/", "header.json", "_journal/start.json"
"""Names of members: samples, the header of a finished log, and the header of an unfinished one."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, BadZipFile, zlib.error, struct.error)
"""Exceptions that reading can raise if a file is not as Inspect writes it."""
MULTIPLE_CHOICE = re.compile(r"[A-Z]")


def read_inspect(path: Path) -> Log:
    """Read a log of Inspect, `.eval` or `.json`.

    Raises:
        DataError: the file cannot be read, is no log of Inspect, or no sample has a score.
    """
    try:
        head, samples, left_out = _read_eval(path) if path.suffix == ".eval" else _read_json(path)
        if not isinstance(head.get("eval"), dict):
            raise ValueError("it has no `eval`")
    except DAMAGE as error:
        raise DataError(
            f"`{path}` cannot be read as a log of Inspect ({short(error)}): give an .eval or .json file that Inspect"
            " wrote."
        ) from None
    about, items, damaged = head["eval"], [], left_out
    for sample in samples:
        try:
            items.append(_item(readable(sample)))
        except DAMAGE:
            damaged += 1
    notes = [f"{damaged:,} samples of `{path}` cannot be read and are left out."] if damaged else []
    if head.get("status") != "success":
        notes.append(f"The evaluation in `{path}` did not finish (status {head.get('status', 'started')}).")
    return make_log(path, items, str(about.get("model") or ""), str(about.get("task") or ""), notes)


def _read_json(path: Path) -> tuple[Mapping[str, Any], list[Any], int]:
    content = read_json(path, DOCUMENT)
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    samples = content.get("samples")
    return content, samples if isinstance(samples, list) else [], 0


def _read_eval(path: Path) -> tuple[Mapping[str, Any], list[Any], int]:
    """Return the header of an `.eval` file, its readable samples, and the number of others."""
    with open_file(path, most=LARGEST) as file:
        _check_directory(file)
        with ZipFile(file) as archive:
            members = {each.filename: each for each in archive.infolist()}  # the last of equal names counts
        samples = [each for name, each in members.items() if name.startswith(SAMPLES) and name.endswith(".json")]
        total = sum(each.file_size for each in samples)
        if total > LARGEST:
            raise ValueError(f"its samples have {total / MB:,.0f} MB unpacked, and at most {LARGEST // MB} are read")
        head = parse_json(_unpack(file, members[HEADER if HEADER in members else START], RECORD))
        found = list(_parsed(file, samples))
    return head, found, len(samples) - len(found)


def _parsed(file: BufferedReader, samples: list[ZipInfo]) -> Iterator[Any]:
    for each in samples:
        try:
            yield _without_events(parse_json(_unpack(file, each, SAMPLE)))
        except DAMAGE:
            continue


def _without_events(sample: Any) -> Any:
    """Return what is read of a sample; the events are most of it."""
    kept = ("id", "epoch", "input", "choices", "target", "messages", "output", "scores", "metadata", "attachments")
    return {name: sample.get(name) for name in kept}


def _check_directory(file: BufferedReader) -> None:
    """Refuse a zip file with a directory too large to be listed.

    Raises:
        ValueError: it has no directory, or a larger one.
    """
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - 2**16 - 22)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < 22:
        raise ValueError("it is no zip file, or it is cut short")
    length = struct.unpack_from("<I", tail, at + 12)[0]
    if tail[at - 20 : at - 16] == LOCATOR_64:
        file.seek(min(struct.unpack_from("<Q", tail, at - 12)[0], size))
        record = file.read(56)
        if record.startswith(END_64) and len(record) == 56:
            length = struct.unpack_from("<Q", record, 40)[0]
    if length > DIRECTORY:
        raise ValueError(f"its directory has {length / MB:,.0f} MB, and at most {DIRECTORY // MB} are read")
    file.seek(0)


def _unpack(file: BufferedReader, member: ZipInfo, most: int) -> bytes:
    """Return the content of a member of a zip file.

    Raises:
        ValueError: it is encrypted, compressed by an unknown method, or larger than `most` or than it says.
    """
    limit = min(most, member.file_size)
    if member.flag_bits & 1 or member.file_size > most or member.compress_size > LARGEST:
        raise ValueError(f"`{member.filename}` is encrypted, or too large")
    file.seek(member.header_offset)
    head = file.read(30)
    file.seek(sum(struct.unpack_from("<HH", head, 26)), io.SEEK_CUR)
    packed = file.read(member.compress_size)
    if member.compress_type == ZIP_STORED:
        content = packed
    elif member.compress_type == ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit + 1)
    elif member.compress_type == ZSTANDARD:
        content = _unpack_zstandard(packed, limit + 1)
    else:
        raise ValueError(f"`{member.filename}` is compressed by an unknown method")
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise ValueError(f"`{member.filename}` is damaged")
    return content


def _unpack_zstandard(packed: bytes, most: int) -> bytes:
    """Return at most `most` bytes of frames of Zstandard."""
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        parts, left = [], most
        while left and (part := stream.read(min(left, MB))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _item(sample: Mapping[str, Any]) -> LogItem:
    """Convert a sample of Inspect (`inspect_ai.log.EvalSample`).

    Raises:
        DAMAGE: it is not as Inspect writes it.
    """
    attachments = sample.get("attachments") or {}
    said = [_message(each, attachments) for each in sample.get("messages") or ()]
    choices = (sample.get("output") or {}).get("choices") or []
    answer = _message(choices[0]["message"], attachments).text if choices else None
    last = max((index for index, each in enumerate(said) if each.role == "assistant"), default=len(said))
    asked = sample.get("input")
    heard = said[:last] or _input(asked, attachments)
    targets = sample.get("target")
    options = sample.get("choices")
    metadata = sample.get("metadata")
    scores = {name: (score or {}).get("value") for name, score in (sample.get("scores") or {}).items()}
    return LogItem(
        id=_identifier(sample["id"]),
        epoch=int(sample.get("epoch") or 1),
        scores=flat_scores(scores.items()),
        question=question_hash([(each.role, each.text) for each in _input(asked, attachments)], options, targets),
        prompt=dialogue_text(heard) or None,
        answer=None if answer is None else answer[:TEXT],
        expected=_expected(targets, options),
        fields=metadata if isinstance(metadata, dict) else {},
    )


def _identifier(value: Any) -> str:
    if not isinstance(value, str | int):
        raise ValueError("a sample has no identifier")
    return str(value)


def _input(asked: Any, attachments: Mapping[str, str]) -> list[Message]:
    if isinstance(asked, list):
        return [_message(each, attachments) for each in asked]
    return [Message("user", _resolve(asked, attachments))] if isinstance(asked, str) else []


def _expected(targets: Any, options: Any) -> str | None:
    """Return the right answers as a text; a letter of multiple choice with its option."""
    texts = [str(each) for each in (targets if isinstance(targets, list) else [targets]) if each not in (None, "")]
    if isinstance(options, list):
        places = {text: ord(text) - ord("A") for text in texts if len(text) == 1 and MULTIPLE_CHOICE.match(text)}
        texts = [
            f"{text}) {options[places[text]]}" if places.get(text, len(options)) < len(options) else text
            for text in texts
        ]
    return " or ".join(texts)[:TEXT] or None


def _message(message: Mapping[str, Any], attachments: Mapping[str, str]) -> Message:
    """Return a message with the texts of its content, its reasoning and its calls of tools."""
    content, parts = message.get("content"), []
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        text = part.get("text") or part.get("reasoning")
        parts.append(_resolve(text, attachments) if isinstance(text, str) else f"[{part.get('type')}]" * bool(text))
    for call in message.get("tool_calls") or ():
        parts.append(f"{call.get('function')}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})")
    return Message(str(message.get("role") or ""), "\n".join(filter(None, parts)))


def _resolve(text: str, attachments: Mapping[str, str]) -> str:
    """Return a text, or the attachment that it stands for."""
    return str(attachments.get(text.removeprefix(ATTACHMENT), text)) if text.startswith(ATTACHMENT) else text
