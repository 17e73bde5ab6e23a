"""Classes of methods and data sets without their libraries: constructors and docstrings, read from the source.

Importing a method imports torch, which takes seconds. Its options are known from its source alone, so that help, a
wrong option or a wrong value need not wait. jsonargparse reads these classes as it would the real ones.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args, get_origin

from cmr_bench.support.errors import UsageError

_PACKAGE = "cmr_bench"
_TYPES = {int: "INT", float: "FLOAT", str: "STR"}


def signature_class(target: str) -> type:
    """Return a class with the bases, docstrings and constructors of ``module:Class``, none of which does anything.

    Bases from other libraries become ``object``; nothing is imported but the standard library.

    Raises:
        UsageError: If there is no such class.
    """
    module, _, name = target.rpartition(":")
    found = _value(module, name) if name in _statements(module)[1] else None
    if not isinstance(found, type):
        raise UsageError(f"{module} has no class '{name}'")
    return found


@functools.cache
def _statements(module: str) -> tuple[str, dict[str, ast.stmt]]:
    """Return the file of a module and, by the name it binds, each statement at its top level."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    bound: dict[str, ast.stmt] = {}
    waiting = list(ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body)
    for statement in waiting:
        if isinstance(statement, ast.If):
            waiting += statement.body
        elif isinstance(statement, ast.ClassDef):
            bound[statement.name] = statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name: statement for alias in statement.names}
        elif isinstance(statement, ast.Assign):
            bound |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            bound[statement.target.id] = statement
    return spec.origin, bound


@functools.cache
def _value(module: str, name: str) -> Any:
    """Return what a name means at the top level of a module; classes of other libraries are ``object``."""
    file, bound = _statements(module)
    statement = bound.get(name)
    if isinstance(statement, ast.ClassDef):
        return _class(module, file, statement)
    if isinstance(statement, ast.ImportFrom):
        assert statement.module is not None
        own = next(alias.name for alias in statement.names if name in (alias.asname, alias.name))
        if statement.module.partition(".")[0] == _PACKAGE:
            return _value(statement.module, own)
        if statement.module.partition(".")[0] in sys.stdlib_module_names:
            return getattr(importlib.import_module(statement.module), own)
        return object
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        return _evaluate(module, statement.value)
    return getattr(builtins, name) if statement is None else object


def _evaluate(module: str, node: ast.expr) -> Any:
    """Return the value of a type or a default, without executing anything.

    Raises:
        ValueError: For what is neither a name, a literal, a union nor a parametrised type.
    """
    match node:
        case ast.Name(id=name):
            return _value(module, name)
        case ast.Subscript(value=kind, slice=arguments):
            return _evaluate(module, kind)[_evaluate(module, arguments)]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _evaluate(module, left) | _evaluate(module, right)
        case ast.Tuple(elts=members):
            return tuple(_evaluate(module, member) for member in members)
    return ast.literal_eval(node)


def _class(module: str, file: str, node: ast.ClassDef) -> type:
    bases = [_value(module, base.id) if isinstance(base, ast.Name) else object for base in node.bases]
    inside: dict[str, Any] = {"__doc__": ast.get_docstring(node), "__module__": __name__}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            inside["__init__"] = _constructor(module, file, part)
    return type(node.name, tuple(base for base in bases if base is not object), inside)


def _constructor(module: str, file: str, node: ast.FunctionDef) -> FunctionType:
    """Return a constructor that does nothing and has the signature and the place of the one in the source."""
    given = node.args
    kinds = [
        *((argument, inspect.Parameter.POSITIONAL_OR_KEYWORD) for argument in given.args),
        *((argument, inspect.Parameter.KEYWORD_ONLY) for argument in given.kwonlyargs),
        *([(given.kwarg, inspect.Parameter.VAR_KEYWORD)] if given.kwarg else []),
    ]
    defaults = dict(zip([argument.arg for argument in given.args][::-1], given.defaults[::-1], strict=False))
    defaults |= {
        argument.arg: default for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default
    }
    parameters = [
        inspect.Parameter(
            argument.arg,
            kind,
            default=_evaluate(module, defaults[argument.arg]) if argument.arg in defaults else inspect.Parameter.empty,
            annotation=_evaluate(module, argument.annotation) if argument.annotation else inspect.Parameter.empty,
        )
        for argument, kind in kinds
    ]

    def nothing() -> None:
        pass

    # jsonargparse follows **kwargs in the source of a constructor, which it finds by file and line.
    code = nothing.__code__.replace(co_filename=file, co_firstlineno=node.lineno, co_name=node.name)
    made = FunctionType(code, {"__name__": __name__}, node.name)
    made.__dict__["__signature__"] = inspect.Signature(parameters)
    return made


def choices(kind: Any) -> list[str]:
    """Return the values of an option that takes one of a few, or None; an empty list for other types."""
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not Literal and len(members) == 1:
        return choices(members[0])
    if kind is bool:
        return ["true", "false"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def metavar(kind: Any) -> str:
    """Return the type of an option as help shows it: ``INT``, ``{true,false}``, ``{val,test}`` or ``INT|{auto}``.

    None, which is written null, is not shown: it is the default of the options that take it.
    """
    if get_origin(kind) in (Sequence, list, tuple):
        return f"[{metavar(get_args(kind)[0])},...]"
    if values := choices(kind):
        return "{" + ",".join(values) + "}"
    kinds = get_args(kind)
    # A path is typed as the text that it is.
    members = [metavar(one) for one in kinds if one is not type(None) and not (one is Path and str in kinds)]
    return "|".join(members) if members else _TYPES.get(kind, "VALUE")
