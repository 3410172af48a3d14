"""JSON texts by what must become of them: what every parser must take, what every parser must refuse, and what RFC 8259
leaves to the implementation, with our ruling. Small pieces times the places they may stand in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Text(NamedTuple):
    """reason: of the dead letter; None if it is taken."""

    name: str
    data: bytes
    reason: str | None = None


# Where a value may stand. Raw bytes, because some of what stands there is no text at all.
_PLACES: dict[str, bytes] = {
    "alone": b"@",
    "in an array": b"[@]",
    "after another": b"[0,@]",
    "before another": b"[@,0]",
    "under a key": b'{"k":@}',
    "under the second key": b'{"j":0,"k":@}',
    "deep inside": b'[{"k":[{"k":@}]}]',
    "with space around": b" \t\r\n@ \t\r\n",
}

_VALUES: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "false": b"false",
    "zero": b"0",
    "minus zero": b"-0",
    "one digit": b"7",
    "a negative integer": b"-123",
    "a fraction": b"0.5",
    "a negative fraction": b"-0.001",
    "zeros after the point": b"1.000",
    "an exponent": b"1e2",
    "a capital exponent": b"1E2",
    "a signed exponent": b"1e+02",
    "a negative exponent": b"1E-2",
    "a fraction with an exponent": b"12.75e-3",
    "zero with an exponent": b"0e0",
    "minus zero as a float": b"-0.0e-0",
    "an empty string": b'""',
    "a space": b'" "',
    "every short escape": rb'"\"\\\/\b\f\n\r\t"',
    "an escaped letter": rb'"\u0061"',
    "hex digits of both cases": rb'"\uAbCd"',
    "an escaped pair": rb'"\uD834\udd1e"',
    "an escaped line separator": rb'"\u2028"',
    "a raw line separator": '"\u2028"'.encode(),
    "DEL": b'"\x7f"',
    "two bytes": '"é"'.encode(),
    "three bytes": '"€"'.encode(),
    "four bytes": '"𝄞"'.encode(),
    "the last character": '"\U0010ffff"'.encode(),
    "a byte order mark inside": '"\ufeff"'.encode(),
    "a noncharacter": '"\uffff"'.encode(),
    "a combining mark": '"e\u0301"'.encode(),
    "brackets in a string": b'"[{]}"',
    "a comment in a string": b'"/* no */ // no"',
    "an empty array": b"[]",
    "an empty object": b"{}",
    "a spaced array": b"[ 1 , 2 ]",
    "a spaced object": b'{ "a" : 1 , "b" : 2 }',
    "an empty key": b'{"":0}',
    "keys of different case": b'{"a":0,"A":0}',
    "an escaped key": rb'{"\u0062":0,"b2":1}',
    "arrays in an array": b"[[[]],[]]",
    "the same key in two objects": b'[{"a":0},{"a":0}]',
}

_NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"nul",
    "a capital word": b"True",
    "a longer word": b"nullx",
    "a word without quotes": b"abc",
    "undefined": b"undefined",
    "single quotes": b"'a'",
    "back quotes": b"`a`",
    "curly quotes": "“a”".encode(),
    "half a string": b'"a',
    "a lone quote": b'"',
    "a string that ends in a backslash": b'"\\"',
    "an unknown escape": rb'"\a"',
    "an escaped quote of the other kind": rb'"\'"',
    "a hexadecimal escape": rb'"\x41"',
    "an octal escape": rb'"\101"',
    "a long escape": rb'"\U00000041"',
    "an escape in braces": rb'"\u{41}"',
    "an escape cut short": rb'"\u12"',
    "an escape of other letters": rb'"\uzzzz"',
    "an escape with a sign": rb'"\u+123"',
    "an escape with underscores": rb'"\u1_23"',
    "a raw tab": b'"\t"',
    "a raw line break": b'"\n"',
    "a raw carriage return": b'"\r"',
    "a raw NUL": b'"\x00"',
    "a raw unit separator": b'"\x1f"',
    "an escaped line break": b'"\\\n"',
    "a plus": b"+1",
    "a lone minus": b"-",
    "a minus and a space": b"- 1",
    "two minuses": b"--1",
    "a leading zero": b"012",
    "a negative leading zero": b"-01",
    "two zeros": b"00",
    "no digit before the point": b".5",
    "no digit behind the point": b"1.",
    "no digit on either side": b".",
    "a point before the exponent": b"1.e1",
    "an exponent without digits": b"1e",
    "a signed exponent without digits": b"1e+",
    "a fractional exponent": b"1e1.5",
    "two exponents": b"1e1e1",
    "two points": b"1.2.3",
    "hexadecimal": b"0x1F",
    "octal": b"0o17",
    "binary": b"0b1",
    "an underscore": b"1_000",
    "a thousands separator": b"1'000",
    "a suffix": b"1L",
    "full-width digits": "１".encode(),
    "Arabic digits": "٣".encode(),
    "NaN": b"NaN",
    "minus NaN": b"-NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "a short infinity": b"inf",
    "a comment": b"/* */",
    "a comment before": b"/* */ 1",
    "a line comment": b"1 // one",
    "a hash comment": b"1 # one",
    "a lone comma": b",",
    "a lone colon": b":",
    "an open bracket": b"[",
    "an open brace": b"{",
    "a closing bracket": b"]",
    "a closing brace": b"}",
    "crossed brackets": b"[}",
    "crossed braces": b"{]",
    "a trailing comma in an array": b"[1,]",
    "a leading comma": b"[,1]",
    "two commas": b"[1,,2]",
    "no comma": b"[1 2]",
    "a colon in an array": b"[1:2]",
    "an array that does not end": b"[1",
    "an array that ends twice": b"[1]]",
    "a key without a value": b'{"a"}',
    "a key without a value but with its colon": b'{"a":}',
    "a value without a key": b"{:1}",
    "a number as a key": b"{1:1}",
    "a word as a key": b"{null:1}",
    "a key without quotes": b"{a:1}",
    "an array as a key": b"{[]:1}",
    "two colons": b'{"a"::1}',
    "a comma for a colon": b'{"a",1}',
    "an equals sign": b'{"a"=1}',
    "a trailing comma in an object": b'{"a":1,}',
    "a leading comma in an object": b'{,"a":1}',
    "two commas in an object": b'{"a":1,,"b":2}',
    "no comma in an object": b'{"a":1 "b":2}',
    "an object that does not end": b'{"a":1',
    "an object that ends twice": b'{"a":1}}',
    "two values": b"1 2",
    "two objects": b"{}{}",
    "a value on the next line": b"{}\n{}",
    "a vertical tab": b"\x0b1",
    "a form feed": b"\x0c1",
    "a no-break space": "\u00a01".encode(),
    "a zero-width space": "\u200b1".encode(),
    "a line separator between": "\u20281".encode(),
    "a NUL before": b"\x001",
    "a NUL behind": b"1\x00",
    "an overlong slash": b'"\xc0\xaf"',
    "an overlong NUL": b'"\xc0\x80"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond the last character": b'"\xf4\x90\x80\x80"',
    "five bytes": b'"\xf8\x88\x80\x80\x80"',
    "a continuation byte alone": b'"\x80"',
    "a character cut short": b'"\xe2\x82"',
    "Latin-1": b'"\xe9"',
    "the byte FF": b"\xff",
    "XML": b"<a/>",
    "YAML": b"a: 1",
    "a pickle": b"\x80\x04N.",
    "gzip": b"\x1f\x8b\x08\x00",
}

_OUR_RULING: dict[str, tuple[bytes, str | None]] = {
    "the largest integer": (b"18446744073709551615", None),
    "one more than the largest": (b"18446744073709551616", "undecodable"),
    "the smallest integer": (b"-9223372036854775808", None),
    "one less than the smallest": (b"-9223372036854775809", "undecodable"),
    "an integer of a hundred digits": (b"1" * 100, "undecodable"),
    "an integer of ten thousand digits": (b"1" * 10_000, "undecodable"),
    "the largest float": (b"1.7976931348623157e308", None),
    "a float beyond the largest": (b"1.8e308", "undecodable"),
    "an exponent of many digits": (b"1e" + b"9" * 500, "undecodable"),
    "a float too small to tell from zero": (b"1e-400", None),
    "a negative exponent of many digits": (b"1e-" + b"9" * 500, None),
    "a fraction of many digits": (b"0." + b"1" * 2_000, None),
    "half a pair": (rb'"\ud834"', "undecodable"),
    "the other half": (rb'"\udd1e"', "undecodable"),
    "a pair the wrong way round": (rb'"\udd1e\ud834"', "undecodable"),
    "half a pair before another": (rb'"\ud834\ud834\udd1e"', "undecodable"),
    "half a pair before an escape": (rb'"\ud834\n"', "undecodable"),
    "half a pair in a key": (rb'{"\ud834":0}', "undecodable"),
    "an escaped NUL": (rb'"\u0000"', None),
    "an escaped noncharacter": (rb'"\uffff"', None),
    "a key twice": (b'{"a":0,"a":0}', "undecodable"),
    "a key twice, once escaped": (rb'{"a":0,"\u0061":1}', "undecodable"),
    "the empty key twice": (b'{"":0,"":1}', "undecodable"),
    "a key twice far apart": (b'{"a":0,' + b",".join(b'"k%d":0' % n for n in range(200)) + b',"a":1}', "undecodable"),
    "a key in two normal forms": ('{"é":0,"e\u0301":1}'.encode(), None),
    "many keys": (b"{" + b",".join(b'"k%d":0' % n for n in range(2_000)) + b"}", None),
    "a long string": (b'"' + b"a" * 100_000 + b'"', None),
    "many values": (b"[" + b"0," * 20_000 + b"0]", None),
    "a class to be made": (b'{"__class__":"os.system","args":["true"]}', None),
    "a prototype": (b'{"__proto__":{"a":1},"constructor":{"prototype":{}}}', None),
}
"""Anywhere in a value."""

_WHOLE: dict[str, tuple[bytes, str | None]] = {
    "a byte order mark": (b"\xef\xbb\xbf{}", "undecodable"),
    "UTF-16, little end first": ("[1]".encode("utf-16"), "undecodable"),
    "UTF-16, big end first": ("[1]".encode("utf-16-be"), "undecodable"),
    "UTF-32": ("[1]".encode("utf-32"), "undecodable"),
    "UTF-7": (b"+AHsAfQ-", "undecodable"),
    "nothing but space": (b" \r\n\t", "undecodable"),
    "64 arrays": (b"[" * 64 + b"]" * 64, None),
    "65 arrays": (b"[" * 65 + b"]" * 65, "too_deep"),
    "64 objects": (b'{"a":' * 63 + b"{}" + b"}" * 63, None),
    "65 objects": (b'{"a":' * 65 + b"0" + b"}" * 65, "too_deep"),
    "65 of both": (b'[{"a":' * 33 + b"0" + b"}]" * 33, "too_deep"),
    "a hundred thousand arrays that do not end": (b"[" * 100_000, "too_deep"),
    "a hundred thousand objects that do not end": (b'{"a":' * 60_000, "too_deep"),
    "a hundred thousand ends": (b"]" * 100_000, "undecodable"),
    "many arrays side by side": (b"[" + b"[]," * 5_000 + b"[]]", None),
    "a string full of brackets": (b'"' + b"[" * 50_000 + b'"', None),
    "a string of backslashes that does not end": (b'"' + b"\\" * 100_001, "undecodable"),
    "quotes without end": (b'"' * 99_999, "undecodable"),
    "the largest text": (b'"' + b"a" * (512 * 1024 - 2) + b'"', None),
    "a byte more": (b'"' + b"a" * (512 * 1024 - 1) + b'"', "too_large"),
    "much space": (b" " * (512 * 1024), "undecodable"),
    "too much space": (b" " * (512 * 1024 + 1), "too_large"),
}


def must_accept() -> Iterator[Text]:
    for place, around in _PLACES.items():
        for name, value in _VALUES.items():
            yield Text(f"{name}, {place}", around.replace(b"@", value))


def must_refuse() -> Iterator[Text]:
    """Some of it is fine in some places (`1 # one` never is; nothing in an empty array is): those are left out."""
    for place, around in _PLACES.items():
        for name, nonsense in _NONSENSE.items():
            if name == "nothing" and place == "in an array":
                continue
            yield Text(f"{name}, {place}", around.replace(b"@", nonsense), "undecodable")


def ours() -> Iterator[Text]:
    """What the RFC leaves open."""
    for place, around in _PLACES.items():
        for name, (value, reason) in _OUR_RULING.items():
            yield Text(f"{name}, {place}", around.replace(b"@", value), reason)
    for name, (data, reason) in _WHOLE.items():
        yield Text(name, data, reason)


def every_text() -> list[Text]:
    return [*must_accept(), *must_refuse(), *ours()]


def values() -> list[Text]:
    """The pieces alone: to be put under a key of a message."""
    pieces = [Text(name, value) for name, value in _VALUES.items()]
    pieces += [Text(name, nonsense, "undecodable") for name, nonsense in _NONSENSE.items()]
    return pieces + [Text(name, value, reason) for name, (value, reason) in _OUR_RULING.items()]
