"""Run a program as ``python`` does: the same ``__main__``, ``sys.argv``, ``sys.path``, messages and exit status.

The program gets a fresh ``__main__`` module, which stays in ``sys.modules`` when it is over: what it pickles, its
child processes and its handlers at exit find there what they would find under ``python``.
"""

from __future__ import annotations

import builtins
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, SourceFileLoader, SourcelessFileLoader
from typing import Any, NoReturn

type _Source = tuple[types.CodeType, dict[str, Any]]  # the code, and what its module says of itself


def run(target: str, arguments: tuple[str, ...] = (), *, module: bool = False) -> None:
    """Run a program in this process.  For the main thread, once.

    Args:
        target: a script, a directory or zip file with a ``__main__.py``, "-" for standard input, or the name of a
            module.
        arguments: the program's arguments.
        module: whether ``target`` is the name of a module.

    Raises:
        SystemExit: the program's own; or there is no such program: 2 for a script, 1 for a module.
        BaseException: what the program raises; its traceback will be shown without the frames of this package.
    """
    find: Callable[[str], _Source]
    if module:
        sys.argv = ["-m", *arguments]
        find = _module
    else:
        sys.argv = [target, *arguments]
        find = _script
    try:
        _execute(find, target)
    except SystemExit:
        raise
    except BaseException:
        _hide_launcher()
        raise


def _execute(find: Callable[[str], _Source], target: str) -> None:
    code, about = find(target)
    main = types.ModuleType("__main__")
    vars(main).update(about, __builtins__=builtins)
    # Python's version decides whether a program has these too: it has them if we, who are a program, have them.
    ours = vars(sys.modules["__main__"])
    if "__annotations__" in ours:
        vars(main)["__annotations__"] = {}
    if "__cached__" in ours:
        vars(main)["__cached__"] = about["__spec__"] and about["__spec__"].cached
    sys.modules["__main__"] = main
    exec(code, vars(main))


def _script(target: str) -> _Source:
    if target == "-":
        return _standard_input()
    path = target if os.path.isabs(target) else os.path.join(os.getcwd(), target)
    if pkgutil.get_importer(path) is not None:  # a directory, or a zip file
        _set_path(path, always=True)
        return _from_spec("__main__", runpy._get_main_module_details)  # type: ignore[attr-defined]
    compiled = path.endswith(".pyc")
    loader: Any = (SourcelessFileLoader if compiled else SourceFileLoader)("__main__", path)
    try:
        # Not get_code() for a script: that would leave a compiled file behind.
        code = loader.get_code("__main__") if compiled else _compile(loader.get_data(path), path)
    except OSError as exc:
        print(f"hybridexec: can't open file {path!r}: [Errno {exc.errno}] {exc.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    _set_path(os.path.dirname(os.path.realpath(path)))
    return code, {"__file__": path, "__loader__": loader, "__package__": None, "__spec__": None}


def _standard_input() -> _Source:
    code = _compile(sys.stdin.buffer.read(), "<stdin>")
    _set_path("")
    return code, {"__file__": "<stdin>", "__loader__": BuiltinImporter, "__package__": None, "__spec__": None}


def _compile(source: bytes, name: str) -> types.CodeType:
    return compile(source, name, "exec", dont_inherit=True)


def _module(target: str) -> _Source:
    _set_path(os.getcwd())
    code, about = _from_spec(target, lambda error: runpy._get_module_details(target, error))  # type: ignore[attr-defined]
    sys.argv[0] = about["__file__"]
    return code, about


def _from_spec(name: str, details: Callable[[type[Exception]], tuple[str, Any, types.CodeType]]) -> _Source:
    """What runpy finds; its functions are private, but they are what ``python -m`` itself calls."""
    try:
        _, spec, code = details(_NotFoundError)
    except _NotFoundError as exc:
        _give_up(exc)
    return code, {
        "__file__": spec.origin,
        "__loader__": spec.loader,
        "__package__": spec.parent,
        "__spec__": spec,
    }


class _NotFoundError(Exception):
    """There is no such module, or it cannot be run."""


def _give_up(exc: Exception) -> NoReturn:
    raise SystemExit(f"hybridexec: {exc}") from None


def _set_path(first: str, *, always: bool = False) -> None:
    """Put the program's directory where ours is, if ``python`` has put it there."""
    if not sys.flags.safe_path:
        sys.path[0:1] = [first]
    elif always:
        sys.path.insert(0, first)


def _hide_launcher() -> None:
    """Have an uncaught exception shown from the program's first frame on, by whatever hook the program has set."""
    hook = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        ours, shown = False, traceback
        while shown is not None and (not ours or shown.tb_frame.f_code.co_filename == __file__):
            ours = ours or shown.tb_frame.f_code is _execute.__code__
            shown = shown.tb_next
        if ours:
            traceback = shown
        hook(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = excepthook
