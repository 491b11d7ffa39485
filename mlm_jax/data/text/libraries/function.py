"""``"module:function"``: a user's function that yields texts, pairs or labelled texts."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.text.libraries.code import code_digest
from mlm_jax.data.text.reading import Wanted, brief, checked_text


def read(source: str, wanted: Wanted) -> Iterator[Any]:
    """Yield the texts or pairs that ``function(language or pair, split)`` yields.

    Raises:
      UserError: there is no such function, its result cannot be iterated over, or an example is not a text or pair.
    """
    for number, example in called(source, wanted.name, wanted.split):
        where = f"example {number}"
        if not wanted.sides:
            yield checked_text(example, wanted.most_bytes, source, where=where)
            continue
        if not isinstance(example, (tuple, list)) or len(example) != 2:
            raise UserError(f"{where} is {brief(example)}", file=source, remedy="yield pairs (text, text)")
        first, second = (checked_text(side, wanted.most_bytes, source, where=where) for side in example)
        yield first, second


def called(source: str, name: str, split: str) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, example) of each example that a function yields.

    Raises:
      UserError: there is no such function, it does not take two arguments, or its result cannot be iterated over.
    """
    function = corpus_function(source)
    try:
        inspect.signature(function).bind(name, split)
    except TypeError as error:
        raise UserError(
            f"the function cannot be called with {name!r} and {split!r}: {error}",
            file=source,
            remedy="define function(language, split)",
        ) from error
    except ValueError:  # a function in C may have no signature
        pass
    found = function(name, split)
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes, dict)):
        raise UserError(f"the function returns {brief(found)}", file=source, remedy="yield one example at a time")
    yield from enumerate(found, 1)


def corpus_function(source: str) -> Callable[[str, str], Any]:
    """Return the function that ``"module:function"`` names.

    Raises:
      UserError: there is no such module or function.
    """
    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import {module_name!r} of {source!r}: {error}", remedy="check config.data") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(
            f"module {module_name!r} has no function {function_name!r}{nearest(function_name, known)}",
            remedy="name a function in a file that Python can import, such as my_text.py for 'my_text:function'",
        )
    return function


def fingerprint(rest: str, source: str) -> list[str]:
    """Return the name of the function and the digests of its module's code."""
    return [source, *code_digest(rest.partition(":")[0])]
