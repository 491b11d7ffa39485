"""The verbs of the command line. Nothing heavy is imported before a verb is known."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlm_jax import __version__
from mlm_jax.common.errors import FULL, UserError

EXAMPLES = {  # of each verb, shown by its --help
    "train": "--config my_config.py --workdir runs/mine --set optimizer.learning_rate=1e-3",
    "prepare": "--config my_config.py --workdir runs/mine",
    "inspect": "--config my_config.py --workdir runs/mine",
    "eval": "runs/mine",
    "fill-mask": 'runs/mine "Habari za <mask>" --language sw',
    "embed": "runs/mine --language sw --input sentences.txt --output vectors.npy",
    "classify": "runs/mine --language sw --input sentences.txt --output classes.tsv",
    "translate": "runs/mine --to de --from en < sentences.txt > translations.txt",
    "align": "runs/mine source.txt target.txt --languages en-de --draw alignment.svg",
    "grow": "runs/mine --language tl --text 'text/tl/*.txt' --out runs/mine_tl_vocabulary",
    "mine": "runs/mine english.txt german.txt --languages en-de --output pairs.tsv",
    "import-hf": "FacebookAI/xlm-roberta-base --out runs/xlmr --languages de,en",
    "export-hf": "runs/mine --out published",
    "sweep": "--config configs/sweeps/alpha.py --workdir runs/alpha --dry-run",
    "plan": "--config configs/mmbert_base.py --topology v5e:4x4",
    "report": "runs/mine",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0, or 2 for what the user can mend, or 130 after Ctrl-C."""
    parser = build_parser()
    given, texts = list(sys.argv[1:] if arguments is None else arguments), []
    if given[:1] == ["fill-mask"] and "--" in given:  # argparse knows no texts behind both an option and --
        given, texts = given[: given.index("--")], given[given.index("--") + 1 :]
    if "--beam-options" in given[:-1]:  # argparse takes '--runner=…' for an option of ours
        place = given.index("--beam-options")
        given[place : place + 2] = [f"--beam-options={given[place + 1]}"]
    options, rest = parser.parse_known_args(given)
    if options.run is _fill_mask and not any(argument.startswith("-") for argument in rest):
        options.text += [*rest, *texts]  # behind an option, which argparse does not look for
    elif rest:
        hint = "; text that begins with a dash goes behind --" if options.run is _fill_mask else ""
        hint += "; text comes from --input or standard input" if options.run in (_translate, _embed, _classify) else ""
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if arguments is None:  # this process is ours, and not a test's or a notebook's
        _say_warnings_plainly()
        if options.run is _train:
            from mlm_jax.parallel.huge_pages import restart_with_huge_pages

            restart_with_huge_pages()
    try:
        if workdir := getattr(options, "workdir", None):
            _check_folder(workdir)
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        if config := getattr(options, "config", None):
            from mlm_jax.config import located

            error = located(error, config, options.set)
        print(f"mlm-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mlm-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in (*FULL, errno.EFBIG):
            raise
        _drop_output()
        print(f"mlm-jax: error: cannot write: {error.strerror}. Remedy: free some space", file=sys.stderr)
        return 2


def _say_warnings_plainly() -> None:
    """Print what our modules warn of as plain lines, whatever the libraries do to the root logger."""
    import logging

    handler, ours = logging.StreamHandler(), logging.getLogger("mlm_jax")
    handler.setFormatter(logging.Formatter("mlm-jax: %(message)s"))
    ours.addHandler(handler)
    ours.propagate = False


def _drop_output() -> None:
    """Let what standard output still holds go nowhere, so that Python does not try to write it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mlm-jax", description="Train, measure and adapt multilingual Transformers, from one CPU to TPU and GPU meshes.",
        epilog="mlm-jax VERB --help tells more of a verb. Begin with: mlm-jax train --config configs/demo.py --workdir runs/demo",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"mlm_jax {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(name: str, run, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  mlm-jax {name} {EXAMPLES[name]}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(run=run)
        return added

    def takes_config(added: argparse.ArgumentParser) -> None:
        added.add_argument("--config", required=True, metavar="FILE.py", help="config file; FILE.py:ARGUMENT passes an argument")
        added.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable")

    train = verb("train", _train, "train a model: prepare the data if needed, resume if there is something to resume")
    takes_config(train)
    train.add_argument("--workdir", required=True, help="folder of checkpoints, metrics and the report")
    train.add_argument("--init-from", metavar="PLACE", help="workdir or checkpoint whose weights a new run begins with, as "
                       'checkpoint.init["from"]; what it includes, excludes and renames is the config\'s')  # fmt: skip
    for flag, about in (
        ("--coordinator", "HOST:PORT of process 0, where no cluster environment tells it"),
        ("--process-count", "processes of the job"),
        ("--process-index", "index of this process"),
    ):
        train.add_argument(flag, type=str if flag == "--coordinator" else int, help=about)

    prepare = verb("prepare", _prepare, "turn text into a token store")
    takes_config(prepare)
    prepare.add_argument("--workdir", help="folder whose store/ is written, unless config.data.store names one")
    part = prepare.add_mutually_exclusive_group()
    part.add_argument("--shard", metavar="I/N", help="write only shard I of N, counted from 0: for N machines at once")
    part.add_argument("--join", type=int, metavar="N", help="make the store out of its N shards")
    part.add_argument("--beam", type=int, metavar="N", help="N shards and their joining as an Apache Beam pipeline")
    prepare.add_argument("--beam-options", default="", metavar="'--runner=… …'", help="options of the pipeline, in one string")

    inspect = verb("inspect", _inspect, "show what the data holds: counts, fertility, samples, the planned mix and alpha's")
    takes_config(inspect)
    inspect.add_argument("--workdir", help="folder of the token store")

    evaluate = verb("eval", _evaluate, "measure a checkpoint on held-out data, per language")
    evaluate.add_argument("checkpoint", nargs="+",
                          help="workdirs or checkpoints; classifiers, each of one language, make a transfer matrix")  # fmt: skip
    evaluate.add_argument("--task", help="only this task of the config")
    evaluate.add_argument("--gradients", choices=("tasks", "languages"),
                          help="instead: cosines between the gradients of tasks, or of the languages of --task")  # fmt: skip
    evaluate.add_argument("--parameters", default=".*", metavar="REGEX", help="parameters whose gradients are compared")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    fill = verb("fill-mask", _fill_mask, "fill in the <mask> of each line of text")
    fill.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    fill.add_argument("text", nargs="*", help="text with <mask>, behind -- if it begins with a dash; standard input if none")
    fill.add_argument("--top", type=int, default=5, help="candidates a mask")
    fill.add_argument("--language", help="language of the text")

    embed = verb("embed", _embed, "turn each line of text into a sentence embedding")
    embed.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    embed.add_argument("--input", default="-", help="text file, a sentence a line; - is standard input")
    embed.add_argument("--output", default="-", help="FILE.npy, or JSON lines to FILE.jsonl or standard output")
    embed.add_argument("--language", help="language of the text")

    classify = verb("classify", _classify, "tell the class of each line of text, or of each of its words")
    classify.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    classify.add_argument("--task", default="", help="whose classifier to use, if there are several")
    classify.add_argument("--input", default="-", help="text file, a text a line, or two with a tab between; - is standard input")
    classify.add_argument("--output", default="-", help="file of CLASS<tab>PROBABILITY<tab>LINE, or WORD<tab>TAG, a line")
    classify.add_argument("--language", help="language of the text")

    translate = verb("translate", _translate, "translate each line of text, or write a synthetic parallel corpus")
    translate.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    translate.add_argument("--to", required=True, metavar="LANGUAGE", help="language to translate into; de,fr: both, a column each")
    translate.add_argument("--from", dest="source", metavar="LANGUAGE", help="language of the text, if the model is to be told")
    translate.add_argument("--input", default="-", help="text file, a sentence a line; - is standard input")
    translate.add_argument("--output", default="-", help="text file; standard output if not given")
    translate.add_argument("--beams", type=int, metavar="N", help="hypotheses kept at each position (4); 1 is greedy")
    translate.add_argument("--n-best", type=int, default=1, metavar="N", help="write N lines NUMBER<tab>SCORE<tab>TEXT a line")
    translate.add_argument("--length-penalty", type=float, default=1.0, help="α of the score Σ log P / lengthᵅ")
    translate.add_argument("--length", type=int, default=0, help="most tokens of a translation; by default about twice the text's")
    translate.add_argument("--temperature", type=float, default=0.0, help="above 0: draw instead of search")
    translate.add_argument("--top-k", type=int, default=0, help="draw among the K likeliest pieces")
    translate.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest pieces of this share")
    translate.add_argument("--stop", action="append", default=[], metavar="TEXT",
                           help="piece of the vocabulary that ends a translation as well, and stays in it; repeatable")  # fmt: skip
    translate.add_argument("--seed", type=int, default=0, help="of the draws")
    translate.add_argument("--synthetic", choices=("back", "forward"),
                           help="write a parallel corpus: back puts the translation first and tags it")  # fmt: skip
    translate.add_argument("--margin", type=float, default=1.0, help="least ratio margin of a synthetic pair; 0 keeps all")
    translate.add_argument("--encoder", help="checkpoint whose sentence embeddings judge synthetic pairs; the model's own")
    translate.add_argument("--tag", default="<BT>", help="put before back-translations")

    align = verb("align", _align, "find which words of a text and of its translation belong together")
    align.add_argument("checkpoint", help="a workdir or one of its checkpoints, with cross-lingual attention")
    align.add_argument("source", help="text file, a sentence a line")
    align.add_argument("target", help="its translation, line by line")
    align.add_argument("--languages", metavar="SOURCE-TARGET", help="such as de-en, if the model is to be told")
    align.add_argument("--gold", default="", help="file of lines such as 0-0 1p2 to print the alignment error rate by")
    align.add_argument("--draw", default="", metavar="FILE.svg", help="picture of the first sentences' attention")

    grow = verb("grow", _grow, "add a language to a checkpoint's vocabulary, for a run that goes on with it")
    grow.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    grow.add_argument("--language", required=True, help="code of the new language")
    grow.add_argument("--text", required=True, metavar="GLOB", help="its text, or module:function, as in config.data.corpora")
    grow.add_argument("--pieces", type=int, default=2000, help="most pieces of its script to add; none if the script is known")
    grow.add_argument("--out", required=True, help="folder of the new vocabulary, for config.vocabulary.path")

    mine = verb("mine", _mine, "find the sentences of two texts that translate each other")
    mine.add_argument("checkpoint", help="a workdir or one of its checkpoints")
    mine.add_argument("source", help="text file, a sentence a line, or IDENTIFIER<tab>SENTENCE as in BUCC; - is standard input")
    mine.add_argument("target", help="text file in the other language")
    mine.add_argument("--languages", metavar="SOURCE-TARGET", help="such as de-en, if the model is to be told")
    mine.add_argument("--gold", default="", help="file of ID<tab>ID lines to print precision, recall and F1 by")
    mine.add_argument("--threshold", type=float, help="least ratio margin of a pair; the best for --gold, or 1")
    mine.add_argument("--output", default="-", help="FILE.tsv of score, both identifiers, both texts; - is standard output")

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

    sweep = verb("sweep", _sweep, "run the trials of a config file's sweep(), and compare them per language")
    takes_config(sweep)
    sweep.add_argument("--workdir", required=True, help="folder with a folder for each trial")
    sweep.add_argument("--parallel", type=int, default=1, help="trials at a time, each on a device of its own")
    sweep.add_argument("--dry-run", action="store_true", help="print the commands instead of running them")

    plan = verb("plan", _plan, "compile the training step for a topology that is not there: memory, FLOPs, collectives, bounds")
    takes_config(plan)
    plan.add_argument("--topology", required=True, help="such as v5e:4x4, 2xv5p:8x8x8 (two slices), H100:8 or cpu:8")
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--search", nargs="?", type=int, const=3, metavar="N",
                      help="estimate meshes, recomputation and microbatches, compile until N fit (3), and rank them")  # fmt: skip

    report = verb("report", _report, "write report.html again from a workdir's metrics")
    report.add_argument("workdir", help="folder of a run")
    return parser


def _config(options):
    from mlm_jax.config import load_config

    return load_config(options.config, tuple(options.set))


def _check_folder(workdir: str) -> None:
    """Refuse a workdir that is a file or lies below one, before anything is done for it."""
    place = next((place for place in (Path(workdir), *Path(workdir).parents) if place.exists()), None)
    if place and not place.is_dir():
        raise UserError("this is a file, where the workdir is to be", file=place, remedy="give another --workdir")


def _train(options) -> None:
    from mlm_jax.parallel import multihost

    config = _config(options)
    if options.init_from:
        config.checkpoint.init = {**config.checkpoint.init, "from": options.init_from}
    with multihost.job(options.coordinator, options.process_count, options.process_index):
        from mlm_jax.run.loop import train

        train(config, options.workdir)


def _prepare(options) -> None:
    from mlm_jax.data.store.prepare import join, prepare, prepare_shard

    config = _config(options)
    folder = _store_folder(config, options.workdir)
    for number in (options.join, options.beam):
        if number is not None and number < 1:
            raise UserError(f"there cannot be {number} shards", remedy="give a number from 1")
    if options.shard:
        index, slash, count = options.shard.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UserError(f"--shard {options.shard} is not I/N", remedy="write --shard 0/8")
        prepare_shard(config, folder, int(index), int(count))
    elif options.join:
        join(config, folder, options.join)
    elif options.beam:
        import shlex

        from mlm_jax.data.store import beam

        beam.run(config, folder, options.beam, shlex.split(options.beam_options))
    else:
        prepare(config, folder)


def _inspect(options) -> None:
    from mlm_jax.commands.inspect import inspect
    from mlm_jax.objectives import kinds

    config = _config(options)
    inspect(config, _store_folder(config, options.workdir), kinds(config.tasks))


def _store_folder(config, workdir: str | None) -> str:
    """Return the folder of the store that may have to be made, if that takes nothing away from the workdir's checkpoints."""
    if not config.data.store and workdir is None:
        raise UserError("where is the token store to be?", remedy="give --workdir, or set config.data.store")
    folder = config.data.store or f"{workdir}/store"
    if workdir is not None:
        from mlm_jax.checkpoints.workdir import check_store

        check_store(workdir, config, folder)
    return folder


def _evaluate(options) -> None:
    from mlm_jax.run.measure import evaluate_command, gradients_command

    if options.gradients:
        for checkpoint in options.checkpoint:
            gradients_command(checkpoint, options.gradients, task=options.task, parameters=options.parameters, as_json=options.json)
        return
    evaluate_command(options.checkpoint, task=options.task, as_json=options.json)


def _fill_mask(options) -> None:
    from mlm_jax.inference.encoder import fill_mask_command

    fill_mask_command(options.checkpoint, options.text, top_k=options.top, language=options.language)


def _embed(options) -> None:
    from mlm_jax.inference.encoder import embed_command

    embed_command(options.checkpoint, options.input, options.output, language=options.language)


def _classify(options) -> None:
    from mlm_jax.inference.classifier import classify_command

    classify_command(options.checkpoint, options.task, options.input, options.output, language=options.language)


def _translate(options) -> None:
    from mlm_jax.commands.translate import Recipe, Search, synthesise_command, translate_command

    if options.beams is not None and options.temperature:
        raise UserError("a translation is drawn (--temperature) or searched for (--beams)", remedy="leave out one of them")
    search = Search(4 if options.beams is None else options.beams, options.n_best, options.length_penalty, options.temperature,
                    options.top_k, options.top_p, options.seed, options.length, tuple(options.stop))  # fmt: skip
    targets = [code.strip() for code in options.to.split(",") if code.strip()]
    if options.synthetic:
        if len(targets) != 1:
            raise UserError("a synthetic corpus is of one pair of languages", remedy="name one language after --to")
        recipe = Recipe(options.synthetic, options.source, targets[0], search, options.margin, options.tag)
        synthesise_command(options.checkpoint, recipe, input=options.input, output=options.output, encoder=options.encoder)
    else:
        translate_command(options.checkpoint, target=targets, source=options.source, input=options.input,
                          output=options.output, search=search)  # fmt: skip


def _align(options) -> None:
    from mlm_jax.inference.aligner import align_command

    align_command(options.checkpoint, options.source, options.target, languages=options.languages, gold=options.gold,
                  draw=options.draw)  # fmt: skip


def _grow(options) -> None:
    from mlm_jax.adaptation.grow import grow_command

    grow_command(options.checkpoint, options.language, options.text, options.pieces, options.out)


def _mine(options) -> None:
    from mlm_jax.inference.miner import mine_command

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


def _sweep(options) -> int:
    from mlm_jax.run.sweep import run_sweep

    return run_sweep(options.config, options.workdir, parallel=options.parallel, overrides=options.set, dry_run=options.dry_run)


def _plan(options) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # accelerators of this machine, if any, are not the topology's
    from mlm_jax.commands.plan import plan_command

    return plan_command(_config(options), options.topology, as_json=options.json, confirm=options.search)


def _report(options) -> None:
    from mlm_jax.report import write_report

    print(write_report(options.workdir))


if __name__ == "__main__":
    sys.exit(main())
