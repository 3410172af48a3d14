"""YAML 1.2, the plain part of it: a mapping without anchors, tags and directives, each key once, with its line.

What a list of settings does not need, and what can make a small file huge, is reported instead of read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cascadenced.setting_rules import shown

MAX_DEPTH = 8


def entries(data: bytes, report: Callable[[int, str], None]) -> Iterator[tuple[str, object, int]]:
    """(key, value, line) of the mapping that the file is; what it may not contain is reported instead."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report(data.count(b"\n", 0, error.start) + 1, "is not UTF-8")
        return
    if not text.strip():
        return
    # Imported only when there is a file: it takes as long as everything else here together.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode

    yaml = YAML(typ="safe", pure=True)
    try:
        if not _is_plain(YAML(typ="safe", pure=True).parse(text), report):
            return
        root = yaml.compose(text)
    except YAMLError as error:
        report(_line_of(error, text), f"is not YAML: {_reason(error)}")
        return
    if isinstance(root, MappingNode):
        yield from _pairs(root, yaml, report)
    elif root is not None and root.tag != "tag:yaml.org,2002:null":
        report(root.start_mark.line + 1, "the file must be a list of `key: value` lines")


def _pairs(root: Any, yaml: Any, report: Callable[[int, str], None]) -> Iterator[tuple[str, object, int]]:
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import ScalarNode

    line_of: dict[str, int] = {}
    for key_node, value_node in root.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key_node, ScalarNode):
            report(line, "a key must be a plain word")
            continue
        if key in line_of:
            report(line, f"{shown(key)}: is already set in line {line_of[key]}")
            continue
        line_of[key] = line
        try:
            value = yaml.constructor.construct_object(value_node, deep=True)
        except (YAMLError, ValueError, OverflowError):
            report(line, f"{shown(key)}: has a value that cannot be read")
        else:
            yield key, value, line


def _is_plain(events: Any, report: Callable[[int, str], None]) -> bool:
    """Whether the file does without what a list of settings does not need, and what can make a small file huge.

    Works on parser events, which need no recursion, so that a thousand brackets hurt nobody.
    """
    from ruamel.yaml import events as kinds

    depth, plain = 0, True
    for event in events:
        line = event.start_mark.line + 1
        complaint = None
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
            complaint = "anchors and aliases (& and *) are not supported (write the value out)"
        elif getattr(event, "tag", None):
            complaint = "tags (!) are not supported (write the plain value)"
        elif isinstance(event, kinds.DocumentStartEvent) and (event.version or event.tags):
            complaint = "directives (%) are not supported (remove the line)"
        if complaint:
            report(line, complaint)
            plain = False
        if isinstance(event, kinds.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                report(line, f"is nested deeper than {MAX_DEPTH} levels")
                return False
        elif isinstance(event, kinds.CollectionEndEvent):
            depth -= 1
    return plain


def _line_of(error: Any, text: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def _reason(error: Any) -> str:
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    return f"{reason} (indent with spaces)" if "\\t" in reason else str(reason)
