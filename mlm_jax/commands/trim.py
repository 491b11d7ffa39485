"""``mlm-jax trim``."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT, by_language

ABOUT = "keep only the pieces of a vocabulary that given text needs; the model loses the rows of the others"
EXAMPLE = "runs/xlmr --text sw='text/sw/*.txt' --text en='text/en/*.txt' --out runs/xlmr_small"
VOCABULARY, IMPORTED = "vocabulary", "imported"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "checkpoint", help=f"{CHECKPOINT}; or a published model as for import-hf, a folder or a name on the Hub"
    )
    parser.add_argument(
        "--text",
        required=True,
        action="append",
        metavar="LANGUAGE=GLOB",
        help="text whose tokens must not change, or module:function, as in config.data.corpora; repeatable",
    )
    parser.add_argument("--out", required=True, help="workdir to make")


def run(options: argparse.Namespace) -> None:
    """Trim the model."""
    trim_command(options.checkpoint, options.text, options.out)


def trim_command(checkpoint: str | Path, texts: Sequence[str], out: str | Path) -> None:
    """Write a checkpoint with a smaller vocabulary as a new workdir, and print the sizes before and after.

    Args:
      checkpoint: a workdir or one of its checkpoints; or a published model, a folder or a name on the Hub, which is imported first.
      texts: "LANGUAGE=GLOB", as ``config.data.corpora`` takes both; if a published model names no languages, it gets these.
      out: workdir to make.

    Raises:
      UserError: as :func:`.trim_vocabulary` and :func:`.import_hf`; a text has no language or does not exist; or ``out`` exists
        already.
    """
    import numpy as np

    from mlm_jax.adaptation.trim import trim_parameters, trim_vocabulary
    from mlm_jax.checkpoints.checkpoint import load_parameters
    from mlm_jax.checkpoints.workdir import claim_workdir
    from mlm_jax.data.text.corpora import documents
    from mlm_jax.interop.folder import new_folder
    from mlm_jax.interop.importing import UNDETERMINED, import_hf, is_published, save_weights
    from mlm_jax.interop.model_card import base_model, write_source
    from mlm_jax.training.paths import by_path

    found_texts = {
        language: [text for source in sources for text in documents(source, language, "train")]
        for language, sources in by_language(texts, "--text").items()
    }
    out = Path(out).resolve()
    with new_folder(out) as scratch:
        workdir = import_hf(checkpoint, scratch / IMPORTED) if is_published(checkpoint) else checkpoint
        loaded = load_parameters(workdir)
        base = base_model(loaded, workdir)
        trimmed = trim_vocabulary(loaded.vocabulary, [text for found in found_texts.values() for text in found])
        flat = {path: value for path, value in by_path(loaded.params).items()}
        smaller = trim_parameters(flat, trimmed.kept)
        before, after = (sum(value.size for value in params.values()) for params in (flat, smaller))
        config = loaded.config
        config.vocabulary.update(path=str(out / VOCABULARY), size=trimmed.vocabulary.size)
        config.model.vocabulary_multiple = 1
        if config.model.type_boundary >= 0:
            config.model.type_boundary = int(np.searchsorted(trimmed.kept, config.model.type_boundary))
        shutil.rmtree(scratch / IMPORTED, ignore_errors=True)
        trimmed.vocabulary.save(scratch / VOCABULARY)
        if base:
            write_source(scratch, base, False)
        claim_workdir(scratch, config)
        languages = tuple(found_texts) if loaded.languages == UNDETERMINED else loaded.languages
        save_weights(scratch, config, trimmed.vocabulary, languages, smaller, loaded.labels)
    print(f"pieces      {loaded.vocabulary.size:>14,} → {trimmed.vocabulary.size:>14,}")
    print(f"parameters  {before:>14,} → {after:>14,}  ({100 * after / before - 100:+.1f} %)")
    print(f"megabytes   {before * 4e-6:>14,.1f} → {after * 4e-6:>14,.1f}  (float32)")
    for language, found in found_texts.items():
        counts = [sum(map(len, v.encode_batch(found))) for v in (loaded.vocabulary, trimmed.vocabulary)]
        words = max(sum(len(text.split()) for text in found), 1)
        print(f"tokens per word, {language}: {counts[0] / words:.3f} → {counts[1] / words:.3f}")
    print(
        f"wrote {out}. A config that goes on with it:\n"
        f'    config.vocabulary.path = "{config.vocabulary.path}"\n    config.checkpoint.init = {{"from": "{out}"}}'
    )
