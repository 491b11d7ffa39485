"""The documentation site is built without warnings, and its pages load nothing from the network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_files_that_pages_name_exist():
    folders = [ROOT / folder for folder in ("", "mlm_jax", "tests", "configs", "benchmarks")]
    named = 0
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"`([a-z_/]+/[a-z_]+\.py)[`:]", page.read_text(encoding="utf-8")):
            assert any((folder / path).exists() for folder in folders), f"{page.name} names {path}"
            named += 1
    assert named > 50


class Loaded(HTMLParser):
    """The addresses that a browser loads by itself: scripts, styles, pictures and fonts, not links."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect", "icon", "modulepreload"):
            self.found.append(given.get("href", ""))


def test_no_page_loads_anything_from_elsewhere(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) >= 10
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found and not [address for address in parser.found if re.match(r"(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_each_notebook_is_a_tutorial_with_its_outputs(site):
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        page = (site / "tutorials" / notebook.stem / "index.html").read_text(encoding="utf-8")
        saved = notebook.read_text(encoding="utf-8").count('"image/png"')
        assert page.count("data:image/png;base64,") == saved and "def install(" not in page and "\x1b" not in page
        assert "```" not in page and "<code>" in page
    assert len(notebooks) == len([*(site / "tutorials").iterdir()])


def test_the_reference_is_of_the_code(site):
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in (
        "mlm_jax.config.load.load_config",
        "mlm_jax.inference.translator.Translator",
        "mlm_jax.objectives.base.Objective",
    ):
        assert f'id="{name}"' in api, name
    config = (site / "config" / "index.html").read_text(encoding="utf-8")
    assert "optimizer.learning_rate" in config and "gradient_accumulation_steps" in config
    assert "learning_rate" in (site / "search" / "search_index.json").read_text(encoding="utf-8")
