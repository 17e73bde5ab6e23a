"""Ways to damage a file: bytes, lines, the nodes of a tree, the head of an array."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import yaml

# What has no business in a file, or none at the place where it lands.
WEIRD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**63,
        10**400,
        1.5,
        -0.0,
        math.nan,
        math.inf,
        "",
        " ",
        "0",
        "a\nb",
        "a\u2028b",
        "\ud800",
        "\0",
    ),
    *("..", "../../etc/passwd", "/etc/passwd", "a/../../b", "C:\\x", "x" * 3000, "é" * 200, "train", "test", "id"),
    *([], {}, [[]], [None], {"a": None}, {"": []}, ["train"], [1e400], [[1], [2, 3]]),
]
BYTES = [
    *(b"", b"\0", b"\xff\xfe", b"\n", b"\r", b",", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"-", b"9", b"e", b"../"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1f\x8b", b"PK\x03\x04", b"&a *a"),
    b"!!python/object/apply:os.system [x]",
]


def bytewise(content: bytes, rng: random.Random) -> bytes:
    """Cut, repeat, exchange, flip and insert bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        to = min(len(changed), at + rng.choice((1, 1, 4, 30, len(changed))))
        match rng.randrange(7):
            case 0:
                del changed[at:to]
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.choice(BYTES)
            case 3:
                changed[at:to] = rng.choice(BYTES)
            case 4:
                changed[at:at] = changed[at:to]
            case 5 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case _:
                other = rng.randrange(len(changed) + 1)
                changed[at:to] = changed[other : other + to - at]
    return bytes(changed)


def structural(tree: Any, rng: random.Random) -> Any:
    """Exchange, remove, double and rename the nodes of what a JSON or YAML file holds."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        _places(tree, places)
        if not places:
            return rng.choice(WEIRD)
        inside, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del inside[key]
            case 1 if isinstance(inside, list):
                inside.insert(key, copy.deepcopy(inside[key]))
            case 2:
                source, at = rng.choice(places)
                if (isinstance(source, list) and at >= len(source)) or (isinstance(source, dict) and at not in source):
                    continue
                inside[key] = copy.deepcopy(source[at])
            case 3 if isinstance(inside, dict):
                inside[rng.choice(["", "x", "schema", "images", "method", "a\nb", "../x"])] = inside.pop(key)
            case 4 if isinstance(inside[key], int | float | str):
                inside[key] = str(inside[key]) if not isinstance(inside[key], str) else [inside[key]]
            case _:
                inside[key] = copy.deepcopy(rng.choice(WEIRD))
    return tree


def _places(tree: Any, found: list[tuple[Any, Any]]) -> None:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        found.append((tree, key))
        _places(tree[key], found)


def linewise(content: bytes, rng: random.Random) -> bytes:
    """Exchange, remove and double the lines and fields of a table or list."""
    lines = content.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        between = next((sign for sign in ("\t", ",", "/") if sign in lines[at]), " ")
        fields = lines[at].split(between)
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                fields.pop(rng.randrange(len(fields)))
                lines[at] = between.join(fields)
            case 3:
                fields.insert(rng.randrange(len(fields) + 1), str(rng.choice(WEIRD)))
                lines[at] = between.join(fields)
            case _:
                fields[rng.randrange(len(fields))] = str(rng.choice(WEIRD))
                lines[at] = between.join(fields)
        if not lines:
            break
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def header(content: bytes, rng: random.Random) -> bytes:
    """Change the dictionary at the head of an .npy file, its length kept true or not."""
    size = int.from_bytes(content[8:10], "little")
    text = content[10 : 10 + size]
    for old, new in rng.sample(
        [
            (b"<f4", rng.choice([b"|O", b"<f2", b"<i8", b"|S4", b"<c8", b"<M8[s]", b"|V4", b"", b"<f9", b"|b1"])),
            (b"False", rng.choice([b"True", b"3", b"None", b"__import__('os')"])),
            (
                b"(",
                rng.choice([b"(-1, ", b"(0, ", b"(10**9, ", b"(99999999999999, ", b"[", b"((", b"(1.5, ", b"('a', "]),
            ),
            (b"'shape'", b"'shap'"),
        ],
        rng.choice((1, 2)),
    ):
        text = text.replace(old, new, 1)
    size = len(text) if rng.random() < 0.8 else rng.randrange(65536)
    return content[:8] + size.to_bytes(2, "little") + text + content[10 + int.from_bytes(content[8:10], "little") :]


def as_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(structural(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def as_json_lines(content: bytes, rng: random.Random) -> bytes:
    changed = structural([json.loads(line) for line in content.splitlines()], rng)
    rows = changed if isinstance(changed, list) else [changed]
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_yaml(content: bytes, rng: random.Random) -> bytes:
    return yaml.safe_dump(structural(yaml.safe_load(content), rng)).encode("utf-8", "surrogatepass")


Change = Callable[[bytes, random.Random], bytes]
