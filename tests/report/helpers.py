"""An invented run: seven languages in five scripts, with the curves and sections that a real one leaves."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from mlm_jax.config import default_config
from mlm_jax.report import language_rows, map_section, retrieval_section, save_sections

# The Universal Declaration of Human Rights, article 1, up to its first full stop.
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}
LANGUAGES = tuple(ARTICLE)
STEPS = 3000


def write_run(workdir, languages=LANGUAGES, steps=STEPS, width=32, sentences=200):
    """Write ``metrics.jsonl`` and ``report.json``; return the last evaluation's metrics."""
    rng = np.random.default_rng(0)
    events, metrics = [], {}
    planned = rng.dirichlet(np.full(len(languages), 8.0))
    for step in range(10, steps + 1, 10):
        progress = step / steps
        event = {
            "step": step,
            "time": 1.7e9 + step * 0.18,
            "train/learning_rate": 2e-3 * min(1, step / 200, 2 - 2 * progress),
        }
        event["train/tokens_per_second"] = 16_000 + 900 * rng.normal()
        event["train/gradient_norm"] = 0.4 + 3 * np.exp(-step / 80) + 0.05 * abs(rng.normal())
        for index, code in enumerate(languages):
            loss = 3.1 + 0.12 * (index % 9) + 5.4 * np.exp(-step / (250 + 30 * (index % 7)))
            event[f"train/loss/{code}"] = loss - 0.1 + 0.12 * rng.normal()
            event[f"train/share/{code}"] = planned[index] + 0.002 * rng.normal() / np.sqrt(step)
            event[f"plan/share/{code}"] = planned[index]
            if step % 250 == 0:
                event[f"eval/loss/{code}"] = loss
                event[f"eval/accuracy/{code}"] = 0.44 - 0.02 * (index % 9) - 0.4 * np.exp(-step / 700)
                event[f"eval/bits_per_byte/{code}"] = loss / 2.6 / (1 + 0.3 * (index % 3))
        if step % 250 == 0:
            for name in ("loss", "accuracy", "bits_per_byte"):
                event[f"eval/{name}/mean"] = float(np.mean([event[f"eval/{name}/{code}"] for code in languages]))
            for i, a in enumerate(languages):
                for j, b in enumerate(languages):
                    if a != b:
                        event[f"eval/retrieval_at_1/{a}-{b}"] = 0.75 * (1 - np.exp(-3 * progress)) - 0.05 * (
                            i % 5 + j % 4
                        )
            event["eval/retrieval_at_1_cosine/mean"] = 0.5
            metrics = event
        events.append(event)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    meaning = rng.normal(size=(sentences, width)) * np.linspace(2.0, 0.3, width)
    embeddings = {
        code: meaning + 0.35 * rng.normal(size=meaning.shape) + 0.2 * rng.normal(size=width) for code in languages
    }

    def article(code):
        return ARTICLE.get(code, ARTICLE["en"])

    texts = {code: [f"{article(code)} ({row})" for row in range(sentences)] for code in languages}
    matrix = np.array([[metrics.get(f"eval/retrieval_at_1/{a}-{b}", np.nan) for b in languages] for a in languages])
    shares = dict(zip(languages, planned))
    scores = {"csls": matrix, "cosine": 0.9 * matrix, "ratio_margin": 0.97 * matrix}
    tokens = {code: int(3e7 * share) for code, share in zip(languages, planned)}
    config = default_config()
    config.model.width, config.steps, config.languages = 128, steps, languages
    save_sections(
        workdir,
        {
            "title": "demo",
            "languages": languages,
            "facts": [
                f"{len(languages)} languages",
                "1.25 M parameters",
                "31,102 verses",
                "2 CPU devices",
                "9 min 12 s",
            ],
            "config": config.to_dict(),
            "table": language_rows(languages, metrics, tokens, shares, shares),
            "retrieval": retrieval_section(scores, languages, 916, steps),
            "map": map_section(embeddings, texts),
            "samples": {code: [sample(article(code), rng) for _ in range(2)] for code in languages},
        },
    )
    return metrics


def sample(text, rng):
    """Hide two words of a text; one is guessed right."""
    words = text.split(" ")
    first, second = sorted(rng.choice(np.arange(1, len(words)), 2, replace=False))
    right = [[words[first], 0.62], [words[0], 0.14], [words[-1], 0.06], ["</script>", 0.02], [words[1], 0.01]]
    wrong = [[words[0], 0.21], [words[second], 0.18], [words[1], 0.1], ["x", 0.05], ["y", 0.02]]
    return [
        " ".join(words[:first]) + " ",
        {"truth": words[first], "guesses": right},
        " " + " ".join(words[first + 1 : second]) + " ",
        {"truth": words[second], "guesses": wrong},
        " " + " ".join(words[second + 1 :]),
    ]


def drawn_by_a_browser(page, folder):
    """What Chromium makes of a page; nothing may be said on its console."""
    run = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=2000",
            "--window-size=1280,3000",
            f"--user-data-dir={folder}",
            "--enable-logging=stderr",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in run.stderr, run.stderr
    return run.stdout


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
