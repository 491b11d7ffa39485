"""The model card of an export, and uploads to the Hub, for which a local server stands in."""

import base64
import http.server
import json
import runpy
import threading

import pytest
import yaml
from markdown_it import MarkdownIt

from mlm_jax import cli
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.model_card import measured, metrics, unchanged_source, without_folders, write_source
from tests.interop.published import published
from tests.interop.test_task_heads import workdir_with

TOKEN = "hf_secretsecretsecret"


class Hub(http.server.BaseHTTPRequestHandler):
    """Creates repositories and accepts commits; ``server.files`` are the files received, ``server.refuse`` an HTTP status."""

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        self.server.authorised.append(self.headers.get("Authorization") == f"Bearer {TOKEN}")
        if self.server.refuse:
            return self._answer({"error": "no"}, self.server.refuse)
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body)["name"])
            return self._answer({"url": f"{self.server.url}/me/model"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/me/model/commit/abc"
            return self._answer({"commitUrl": url, "commitOid": "abc", "pullRequestUrl": None})
        return self._answer({})

    def do_GET(self):
        self._answer({"siblings": [], "id": "me/model", "sha": "abc", "private": False}, self.server.refuse or 200)

    def _chunks(self):
        parts = []
        while size := int(self.rfile.readline() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, values, status=200):
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.created, server.authorised, server.refuse = {}, [], [], 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()


def card(folder):
    """(metadata, text) of README.md."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_of_a_classifier(tmp_path):
    workdir = workdir_with(tmp_path / "run", "xlm-roberta", "topic", {"pooling": "first", "transform": "tanh"})
    events = [{"step": step, "eval/accuracy/de": step / 8, "eval/accuracy/mean": step / 8} for step in (3, 7, 9)]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    assert (
        cli.main(["export-hf", str(workdir), "--out", str(tmp_path / "out"), "--task", "topic", "--language", "de"])
        == 0
    )
    metadata, text = card(tmp_path / "out")
    assert "| language | accuracy |\n|---|---|\n| de | 0.875 |\n| mean | 0.875 |\n" in text  # of the exported step
    assert metadata["language"] == ["de", "en"] and metadata["pipeline_tag"] == "text-classification"
    assert "license" not in metadata and "# license: fill in" in (tmp_path / "out" / "README.md").read_text()
    assert (
        "XLMRobertaForSequenceClassification" in text and "labels: law, gospel, letter" in text and "steps: 7" in text
    )
    kept = json.loads((tmp_path / "out" / "mlm_jax_config.json").read_text())
    assert kept["tasks"]["topic"]["transform"] == "tanh"


def test_results_are_those_of_the_exported_head(tmp_path, caplog):
    workdir = workdir_with(tmp_path / "run", "xlm-roberta", "topic", {"pooling": "first", "transform": "tanh"})
    loaded = load_parameters(workdir)
    topic = dict(loaded.config.tasks["topic"])
    loaded.config.tasks = {"mlm": {"objective": "mlm"}, "topic": topic}
    found = {
        "eval/loss/de": 2.0,
        "eval/topic/accuracy/en": 0.5,
        "eval/retrieval_at_1/de-en": 0.25,
        "eval/retrieval_at_1/en-de": 0.75,
    }
    assert measured(loaded, "topic", found) == {"accuracy": {"en": 0.5}}
    assert measured(loaded, "", found) == {"loss": {"de": 2.0}, "retrieval_at_1": {"de": 0.5, "en": 0.5}}
    loaded.config.tasks = {"topic": topic, "mlm": {"objective": "mlm"}}
    found = {"eval/accuracy/en": 0.5, "eval/mlm/loss/de": 2.0}
    assert measured(loaded, "topic", found) == {"accuracy": {"en": 0.5}}
    assert measured(loaded, "", found) == {"mlm: loss": {"de": 2.0}}
    (workdir / "metrics.jsonl").write_text("[]\n")
    assert metrics(workdir, 7) == {} and "the model card has no results" in caplog.text


def test_the_card_names_the_base_model_and_no_folder_of_this_machine(tmp_path):
    published(tmp_path / "their-model", "bert")
    ours = import_hf(tmp_path / "their-model", tmp_path / "ours", languages=("de", "no"))
    assert cli.main(["export-hf", str(ours), "--out", str(tmp_path / "out")]) == 0
    metadata, text = card(tmp_path / "out")
    # The path of a folder is not a name on the Hub.
    assert "base model: their-model" in text and "base_model" not in metadata
    assert metadata["language"] == ["de", "no"] and metadata["pipeline_tag"] == "fill-mask"
    for name in ("README.md", "mlm_jax_config.json"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()
    loaded = load_parameters(ours)  # LoRA belongs to the published weights only if nothing else was trained before
    assert unchanged_source(loaded) == ""
    loaded.config.checkpoint.init = {"from": str(ours)}
    assert unchanged_source(loaded) == "their-model"
    write_source(ours, "their-model", False, is_changed=True)
    assert unchanged_source(loaded) == ""
    assert without_folders({"a": ["/x/y.txt", "text/*.txt"], "b": 1}) == {"a": ["y.txt", "text/*.txt"], "b": 1}


HOSTILE = 'x"""\nimport os <img src=x onerror=alert(1)> [a](javascript:b) `c` | \x1b[31m'


def test_names_in_a_card_are_no_markup(tmp_path):
    published(tmp_path / HOSTILE, "bert")
    ours = import_hf(tmp_path / HOSTILE, tmp_path / "ours", languages=("de", "en"))
    assert runpy.run_path(str(ours / "config.py"))["SOURCE"] == str(tmp_path / HOSTILE)
    assert cli.main(["export-hf", str(ours), "--out", str(tmp_path / "out")]) == 0
    shown = MarkdownIt().render(card(tmp_path / "out")[1])
    assert "<img" not in shown and 'href="javascript' not in shown and "\x1b" not in shown
    assert (
        "base model: x&quot;&quot;&quot;\\nimport os &lt;img src=x onerror=alert(1)&gt; [a](javascript:b) `c` | "
        in shown
    )


def test_upload(hub, tmp_path, capfd):
    ours = workdir_with(tmp_path / "run", "xlm-roberta", "topic", {"pooling": "first", "transform": "tanh"})
    assert (
        cli.main(
            ["export-hf", str(ours), "--out", str(tmp_path / "out"), "--language", "de", "--push-to-hub", "me/model"]
        )
        == 0
    )
    assert hub.created == ["model"] and all(hub.authorised)
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in paths}
    assert hub.files == written and {"README.md", "model.safetensors", "1_Pooling/config.json"} <= written.keys()
    said = capfd.readouterr()
    assert f"uploaded to {hub.url}/me/model/commit/abc" in said.out and TOKEN not in said.out + said.err


FAILURES = {
    "refuse": "refuses 'me/model' (HTTP 403)",
    "name": "is not the name of a repository",
    "token": "there is no token",
    "nobody": "cannot be reached",
}


@pytest.mark.parametrize(("change", "message"), FAILURES.items())
def test_uploads_that_fail_are_one_line_without_the_token(change, message, hub, tmp_path, capfd, monkeypatch):
    ours = workdir_with(tmp_path / "run", "xlm-roberta", "topic", {"pooling": "first", "transform": "tanh"})
    name = "me/a/model" if change == "name" else "me/model"
    hub.refuse = 403 if change == "refuse" else 0
    if change == "token":
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "nobody"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    if change == "nobody":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    capfd.readouterr()
    assert (
        cli.main(["export-hf", str(ours), "--out", str(tmp_path / "out"), "--language", "de", "--push-to-hub", name])
        == 2
    )
    error = capfd.readouterr().err
    assert message in error and TOKEN not in error and "Traceback" not in error
    assert (tmp_path / "out" / "model.safetensors").exists()
