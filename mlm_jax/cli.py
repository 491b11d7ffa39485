"""The command line: a verb is one file of ``mlm_jax/commands``, and one row of ``VERBS``.

Those files import nothing heavy before their verb is run.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType, ModuleType

from mlm_jax import __version__
from mlm_jax.commands.options import check_input, check_output, check_workdir_path
from mlm_jax.common.arguments import unrecognized
from mlm_jax.common.errors import UNFINISHED, UserError, nearest, one_line
from mlm_jax.common.files import check_folder_place
from mlm_jax.common.log_lines import plain_warnings
from mlm_jax.common.signals import Interruptions

VERBS = {  # in the order in which --help lists them
    "train": "train",
    "prepare": "prepare",
    "inspect": "inspect",
    "eval": "eval",
    "fill-mask": "fill_mask",
    "embed": "embed",
    "classify": "classify",
    "translate": "translate",
    "align": "align",
    "grow": "grow",
    "trim": "trim",
    "adapters": "adapters",
    "mine": "mine",
    "import-hf": "import_hf",
    "export-hf": "export_hf",
    "sweep": "sweep",
    "compare": "compare",
    "plan": "plan",
    "report": "report",
    "config": "config",
}

ORBAX_COROUTINES = r"cancellable|_async_serialize_\w+|_serialize_\w+|\w+Handler\.\w+"  # those that save arrays
ELSEWHERE = {  # {name in other frameworks: the verb here}
    "evaluate": "eval",
    "test": "eval",
    "validate": "eval",
    "finetune": "train",
    "fine-tune": "train",
    "pretrain": "train",
    "fit": "train",
    "resume": "train",
    "continue": "train",
    "run": "train",
    "preprocess": "prepare",
    "tokenize": "prepare",
    "encode": "embed",
    "predict": "classify",
    "tag": "classify",
    "generate": "translate",
    "import": "import-hf",
    "export": "export-hf",
    "upload": "export-hf",
    "download": "import-hf",
    "infer": "classify",
    "inference": "classify",
    "convert": "import-hf",
    "tune": "sweep",
    "diff": "compare",
    "estimate": "plan",
    "keys": "config",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 if the user can fix what is wrong, or 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        arrange = getattr(verb_module(given[0]), "arrange", None)
        given[1:] = arrange(given[1:]) if arrange else given[1:]
    parser = build_parser()
    if given and given[0] not in VERBS and not given[0].startswith("-"):
        meant = ELSEWHERE.get(given[0].lower())
        near = f"; did you mean {meant!r}?" if meant else nearest(given[0], VERBS)
        parser.error(f"there is no verb {given[0]!r}{near or '.'} The verbs are {', '.join(VERBS)}")
    options, rest = parser.parse_known_args(given)
    verb = verb_module(options.verb)
    if rest and not (hasattr(verb, "take_rest") and verb.take_rest(options, rest)):
        of_verb = argparse.ArgumentParser()
        verb.add_arguments(of_verb)
        parser.error(unrecognized(rest, of_verb) + getattr(verb, "HINT", ""))
    if arguments is None:  # a process of its own, not a test or a notebook
        _write_utf8()
        plain_warnings()
        # Of a save that failed, Orbax drops the coroutines that its threads would have run. The error of the save is shown.
        warnings.filterwarnings("ignore", f"coroutine '({ORBAX_COROUTINES})' was never awaited", RuntimeWarning)
        _end_when_asked_to(resumes=getattr(verb, "RESUMES", False))
        if getattr(verb, "HUGE_PAGES", False):
            from mlm_jax.parallel.huge_pages import restart_with_huge_pages

            restart_with_huge_pages()
    try:
        _check_paths(given)
        if workdir := getattr(options, "workdir", None):
            check_workdir_path(workdir)
        if out := getattr(options, "out", None):
            check_folder_place(out)
        check_output(getattr(options, "output", None) or "")
        for name in ("input", "source", "target", "gold"):
            check_input(getattr(options, name, None) or "")
        code = verb.run(options) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        if config := getattr(options, "config", None):
            from mlm_jax.config import located

            error = located(error, config, options.set)
        print(f"mlm-jax: error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):  # JAX's, on any device
            raise
        from mlm_jax.parallel.memory import REMEDY

        print(f"mlm-jax: error: {one_line(f'memory is full: {error}')}. Remedy: {REMEDY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlm-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        _drop_output()
        return 0
    except OSError as error:
        from mlm_jax.common.disk import REMEDIES, disk_problem

        problem = disk_problem(error)
        if not problem:
            raise
        _drop_output()
        print(f"mlm-jax: error: {problem}. Remedy: {REMEDIES[problem]}", file=sys.stderr)
        return 2


def _check_paths(given: Sequence[str]) -> None:
    """Check that the arguments and the current folder are UTF-8: paths become part of files in UTF-8, such as config.json.

    Raises:
      UserError: one of them is not, or the current folder is gone.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder is gone", remedy="change to another folder") from error
    for text in (here, *given):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what = "the path of the current folder" if text is here else "an argument"
            raise UserError(
                f"{what} is not UTF-8: {text}", remedy="write text in UTF-8; rename files and folders"
            ) from error


def _end_when_asked_to(*, resumes: bool) -> None:
    """End on SIGTERM, SIGHUP and SIGINT (Ctrl-C) as on an error, so that half-written files are removed.

    Args:
      resumes: whether the same command continues what the verb has begun. Such a verb handles signals itself, but only after it
        has imported its libraries; before that, it also ends with the exit code by which launchers know that it is unfinished.
    """
    interruptions = Interruptions(KeyboardInterrupt, SystemExit)
    interruptions.begin()

    def end(number: int, frame: FrameType | None) -> None:
        if interruptions.may_raise(number, frame, end):
            if number == signal.SIGINT and not resumes:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            if resumes:
                print("mlm-jax: stopped by a signal; the same command continues", file=sys.stderr)
            sys.exit(UNFINISHED if resumes else 128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a command in the background of a script
            signal.signal(number, end)


def verb_module(verb: str) -> ModuleType:
    """Return the module of a verb: ``ABOUT``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options)``.

    It may also have ``arrange(arguments)``, which rewrites arguments that argparse would misread, ``take_rest(options, rest)``,
    which accepts arguments that argparse left over, and ``HINT``, which is added to the error about those. ``RESUMES`` says that
    the same command continues after a signal.
    """
    return importlib.import_module(f"mlm_jax.commands.{VERBS[verb]}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mlm-jax",
        description="Train, measure and adapt multilingual Transformers, from one CPU to TPU and GPU meshes.",
        epilog="mlm-jax VERB --help describes a verb. Begin with: mlm-jax train --config configs/demo.py --workdir runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"mlm_jax {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", dest="verb")
    for name in VERBS:
        module = verb_module(name)
        added = verbs.add_parser(
            name,
            help=module.ABOUT,
            description=f"{module.ABOUT[0].upper()}{module.ABOUT[1:]}.",
            epilog=f"example:\n  mlm-jax {name} {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(added)
    return parser


def _write_utf8() -> None:
    """Write UTF-8 in every locale, as in all files; stray bytes, such as those of a file name, are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _drop_output() -> None:
    """Redirect standard output to /dev/null, so that Python does not try to write buffered output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
