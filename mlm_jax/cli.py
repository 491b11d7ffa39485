"""The verbs of the command line. Nothing heavy is imported before a verb is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlm_jax import __version__
from mlm_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 for what the user can mend."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"mlm-jax: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mlm-jax", description="Train, measure and adapt multilingual Transformers on TPU and GPU meshes."
    )
    parser.add_argument("--version", action="version", version=f"mlm_jax {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(name: str, run, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        return added

    def takes_config(added: argparse.ArgumentParser) -> None:
        added.add_argument("--config", required=True, metavar="FILE.py", help="config file; FILE.py:ARGUMENT passes an argument")
        added.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable")

    train = verb("train", _train, "train a model: prepare the data if needed, resume if there is something to resume")
    takes_config(train)
    train.add_argument("--workdir", required=True, help="folder of checkpoints, metrics and the report")
    for flag, about in (
        ("--coordinator", "HOST:PORT of process 0, where no cluster environment tells it"),
        ("--process-count", "processes of the job"),
        ("--process-index", "index of this process"),
    ):
        train.add_argument(flag, type=str if flag == "--coordinator" else int, help=about)

    prepare = verb("prepare", _prepare, "turn text into a token store")
    takes_config(prepare)
    prepare.add_argument("--workdir", help="folder whose store/ is written, unless config.data.store names one")

    inspect = verb("inspect", _inspect, "show what the data holds: counts, fertility, samples, the mix alpha would give")
    takes_config(inspect)
    inspect.add_argument("--workdir", help="folder of the token store")

    evaluate = verb("eval", _evaluate, "measure a checkpoint on held-out data, per language")
    evaluate.add_argument("checkpoint", nargs="+", help="workdirs or checkpoints; several make a transfer matrix")
    evaluate.add_argument("--task", help="only this task of the config")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    fill = verb("fill-mask", _fill_mask, "fill in the <mask> of each line of text")
    fill.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    fill.add_argument("text", nargs="*", help="text with <mask>; standard input if none")
    fill.add_argument("--top", type=int, default=5, help="candidates a mask")
    fill.add_argument("--language", help="language of the text")

    embed = verb("embed", _embed, "turn each line of text into a sentence embedding")
    embed.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    embed.add_argument("--input", default="-", help="text file, a sentence a line; - is standard input")
    embed.add_argument("--output", default="-", help="FILE.npy, or JSON lines to FILE.jsonl or standard output")
    embed.add_argument("--language", help="language of the text")

    mine = verb("mine", _mine, "find the sentences of two texts that translate each other")
    mine.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    mine.add_argument("source", help="text file, a sentence a line, or IDENTIFIER<tab>SENTENCE as in BUCC")
    mine.add_argument("target", help="text file in the other language")
    mine.add_argument("--languages", metavar="SOURCE-TARGET", help="such as de-en, if the model is to be told")
    mine.add_argument("--gold", default="", help="file of ID<tab>ID lines to print precision, recall and F1 by")
    mine.add_argument("--threshold", type=float, help="least ratio margin of a pair; the best for --gold, or 1")
    mine.add_argument("--output", default="-", help="FILE.tsv; standard output if not given")

    take = verb("import-hf", _import_hf, "turn a model of Hugging Face transformers into a checkpoint to go on with")
    take.add_argument("source", help="folder with config.json, safetensors and a tokenizer, or a name on the Hub")
    take.add_argument("--out", required=True, help="workdir to make")
    take.add_argument("--languages", default="", metavar="de,en,…", help="codes of the languages that its rows may be of")

    give = verb("export-hf", _export_hf, "write a checkpoint as a folder that transformers and sentence-transformers load")
    give.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    give.add_argument("--out", required=True, help="folder to make")
    give.add_argument("--family", default="", metavar="MODEL_TYPE", help="such as modernbert; by default the first that fits")
    give.add_argument("--dtype", default="float32", help="of the weights: float32 (default), bfloat16 or float16")
    give.add_argument("--language", default="", help="whose token the tokenizer puts before each text")

    report = verb("report", _report, "write report.html again from a workdir's metrics")
    report.add_argument("workdir")
    return parser


def _config(options):
    from mlm_jax.config import load_config

    return load_config(options.config, tuple(options.set))


def _train(options) -> None:
    from mlm_jax.parallel import multihost

    config = _config(options)
    multihost.initialise(options.coordinator, options.process_count, options.process_index)
    from mlm_jax.training.loop import train

    train(config, options.workdir)


def _prepare(options) -> None:
    from mlm_jax.data.prepare import prepare

    config = _config(options)
    prepare(config, _store_folder(config, options.workdir))


def _inspect(options) -> None:
    from mlm_jax.data.inspect import inspect

    config = _config(options)
    inspect(config, _store_folder(config, options.workdir))


def _store_folder(config, workdir: str | None) -> str:
    if config.data.store:
        return config.data.store
    if workdir is None:
        raise UserError("where is the token store to be?", remedy="give --workdir, or set config.data.store")
    return f"{workdir}/store"


def _evaluate(options) -> None:
    from mlm_jax.measure import evaluate_command

    evaluate_command(options.checkpoint, task=options.task, as_json=options.json)


def _fill_mask(options) -> None:
    from mlm_jax.use import fill_mask_command

    fill_mask_command(options.checkpoint, options.text, top_k=options.top, language=options.language)


def _embed(options) -> None:
    from mlm_jax.use import embed_command

    embed_command(options.checkpoint, options.input, options.output, language=options.language)


def _mine(options) -> None:
    from mlm_jax.mine import mine_command

    mine_command(options.checkpoint, options.source, options.target, languages=options.languages, gold=options.gold,
                 threshold=options.threshold, output=options.output)  # fmt: skip


def _import_hf(options) -> None:
    from mlm_jax.interop.importing import RECIPE, import_hf

    languages = tuple(code.strip() for code in options.languages.split(",") if code.strip())
    out = import_hf(options.source, options.out, languages=languages)
    print(f"wrote {out}; {out / RECIPE} goes on with its training")


def _export_hf(options) -> None:
    from mlm_jax.interop.exporting import export_hf

    out = export_hf(options.checkpoint, options.out, family=options.family, dtype=options.dtype, language=options.language)
    print(f"wrote {out}")


def _report(options) -> None:
    from mlm_jax.report import write_report

    print(write_report(options.workdir))


if __name__ == "__main__":
    sys.exit(main())
