"""Translation: BLEU and chrF++ by sacrebleu, with the signatures that make them comparable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.bootstrap import RESAMPLES, Interval
from mlm_jax.evaluation.extras import metric_library

# BLEU's tokeniser by target language; 13a for others. Scripts without spaces are scored by character, which needs no segmenter;
# the signature shows it.
CHINESE = ("zh", "zho", "cmn", "yue")
WITHOUT_SPACES = ("ja", "jpn", "th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bo", "bod", "dz", "dzo")
TOKENIZERS = dict.fromkeys(CHINESE, "zh") | dict.fromkeys(WITHOUT_SPACES, "char")


class TranslationScores(NamedTuple):
    """BLEU and chrF++ (0–100) of a test set, with sacrebleu's signatures, and its bootstrap intervals of 95 %."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    bleu_interval: Interval
    chrf_interval: Interval


def translation_scores(hypotheses: Sequence[str], references: Sequence[str], language: str) -> TranslationScores:
    """Score translations into one language against one reference each (Post 2018; Popović 2017 with word bigrams).

    Args:
      hypotheses: a translation of each sentence; an empty one counts as wrong.
      references: the reference translations.
      language: the language of both; picks BLEU's tokeniser.

    Raises:
      UserError: sacrebleu is missing, there is nothing to score, or the numbers of lines differ.
    """
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} translations cannot be scored against {len(references)} references")
    if not references:
        raise UserError(f"there is no reference in {language!r} to score translations against")
    sacrebleu = metric_library("sacrebleu")
    bleu = sacrebleu.BLEU(tokenize=TOKENIZERS.get(re.split("[-_]", language)[0], "13a"))
    chrf = sacrebleu.CHRF(word_order=2)
    lines, right = list(hypotheses), [list(references)]
    bleu_score, chrf_score = (one.corpus_score(lines, right, n_bootstrap=RESAMPLES) for one in (bleu, chrf))
    # sacrebleu's interval is the mean of the resamples ± half of the width of 95 % (Koehn 2004)
    intervals = [(one._mean - one._ci, one._mean + one._ci) for one in (bleu_score, chrf_score)]
    return TranslationScores(
        bleu_score.score, chrf_score.score, str(bleu.get_signature()), str(chrf.get_signature()), *intervals
    )
