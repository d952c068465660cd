"""Inputs: documents that are right but for a few places, values of every kind, bytes that are none."""

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.proof import Proof

WORDS = (
    *(
        "",
        " ",
        "\x00",
        "\n",
        "a\nb",
        "\r",
        "\x1b[31m",
        "\ud800",
        "\u2028",
        "é",
        "γ",
        "名",
        "\U0001f600",
        "'",
        '"',
        "\\",
    ),
    *(
        "..",
        "../../x",
        "/",
        "//",
        "~",
        "-",
        "--",
        "=",
        "a=b",
        ".",
        "a..b",
        ",",
        "{",
        "}",
        "{0}",
        "{x}",
        "%s",
        "${a}",
        "$",
    ),
    *(
        "[/red]",
        "[bold]",
        "<script>",
        "__class__",
        "{0.__class__}",
        "{view.config}",
        "null",
        "true",
        "NaN",
        "1e999",
        "0x10",
    ),
    *("-1", "1_0", "１", "9" * 5000, "x" * 10_000, "[" * 3000, "os.system", "posix.system", "!!python/name:os.system"),
)
NUMBERS = (
    *(0, -0.0, 1, -1, 2, 3, 5, 7, 31, 32, 33, 64, 127, 128, 1000, 4096, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**308),
    *(0.5, 1.0, 1.5, 1e-9, 1e-300, 5e-324, 1e15, 1e300, 1.7e308, float("inf"), float("-inf"), float("nan")),
)
HUGE = 10**5000
"""Python refuses to print it."""


def choice(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the values, which hypothesis does not print: some cannot be."""
    return st.integers(0, len(values) - 1).map(lambda place: values[place])


words = st.one_of(choice(WORDS), st.text(max_size=12))
numbers = st.one_of(choice(NUMBERS), st.integers(-10, 70), st.floats(), st.integers())
scalars = st.one_of(st.none(), st.booleans(), words, numbers)


def deep(depth: int, inside: Any = 1, key: str | None = None) -> Any:
    """`inside` in so many lists, or mappings with one key."""
    for _ in range(depth):
        inside = [inside] if key is None else {key: inside}
    return inside


shapes = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(words, scalars, max_size=3),
    st.dictionaries(words, st.lists(scalars, max_size=2), max_size=2),
    st.builds(deep, st.sampled_from((2, 60, 400)), scalars, st.sampled_from((None, "a"))),
    st.sampled_from(("[]", "{}", "[[]]", "[{}]", '{"": {}}')).map(json.loads),
)
"""JSON values."""
objects = st.one_of(
    shapes,
    choice([HUGE, -HUGE]),
    st.binary(max_size=4),
    st.dictionaries(st.one_of(st.integers(), st.none(), st.booleans()), scalars, max_size=2),
    st.builds(deep, st.just(5000), scalars, st.sampled_from((None, "a"))),
    choice([frozenset(), (1,), object, print, 1j]),
)
"""Python values, as a mapping in memory may hold."""


@st.composite
def spoiled(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = shapes, most: int = 3) -> Any:
    """The document with up to `most` changes: a value replaced, a key left out, renamed or added, an entry doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, most))):
        node = document
        for _ in range(draw(st.integers(0, 4))):
            children = [child for child in _values(node) if isinstance(child, dict | list) and child]
            if not children:
                break
            node = draw(st.sampled_from(children)) if len(children) < 20 else children[draw(st.integers(0, 19))]
        _change(draw, node, values)
    return document


def _values(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else list(node) if isinstance(node, list) else []


def _change(draw: st.DrawFn, node: Any, values: st.SearchStrategy[Any]) -> None:
    places = list(node) if isinstance(node, dict) else list(range(min(len(node), 30))) if isinstance(node, list) else []
    what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "double", "rename")))
    if what == "add" and isinstance(node, dict):
        node[draw(words)] = draw(values)
    elif not places:
        return
    else:
        place = draw(st.sampled_from(places))
        if what == "replace":
            node[place] = draw(values)
        elif what == "remove":
            del node[place]
        elif isinstance(node, list):
            node.append(node[place])
        elif what == "rename":
            node[draw(words)] = node.pop(place)


def damaged(data: bytes, seed: int, copies: int = 7) -> Iterator[bytes]:
    """The file itself, then copies damaged as disks, editors and shells do it; the seed says how."""
    yield data
    chance = random.Random(seed)
    for _ in range(copies):
        copy = data
        for _ in range(chance.randint(1, 2)):
            copy = _damage(copy, chance)
        yield copy


def _damage(data: bytes, chance: random.Random) -> bytes:
    at, to = sorted(chance.randint(0, len(data)) for _ in range(2))
    match chance.randrange(9):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[to:]
        case 2:
            return data[:at] + _encoded(chance.choice(WORDS)) + data[at:]
        case 3:
            return data[:at] + chance.randbytes(chance.randint(1, 6)) + data[at:]
        case 4:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 5:
            return data[:to] + data[at:]
        case 6:
            return data.decode(errors="replace").encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")))
        case 7:
            return chance.randbytes(chance.randint(0, 200))
        case _:
            return data[:at] + _encoded(str(chance.choice(NUMBERS))) + data[at:]


def _encoded(word: str) -> bytes:
    return word.encode("utf-8", errors="surrogatepass")


def file_of(document: Any, write: Callable[[Any], str] = json.dumps) -> st.SearchStrategy[bytes]:
    """Bytes of a file with a spoiled document."""
    return spoiled(document).map(lambda value: _encoded(write(value)))


seeds = st.integers(0, 2**32)


def profile(proof: Proof, full: int, quick: int) -> settings:
    """How many inputs: of the full tier, or of every run, which are the same each time."""
    count = full if proof.full else quick
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not proof.full,
        suppress_health_check=list(HealthCheck),  # pyright: ignore
    )
