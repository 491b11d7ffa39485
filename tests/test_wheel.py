"""The wheel contains all files that the commands need, and works without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd, environment=None):
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of an sdist and of a wheel that was built from it, of the files that git knows."""
    folder = tmp_path_factory.mktemp("built")
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), cwd=folder / "source")
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """(an empty folder, environment) in which Python finds the wheel and not the checkout."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel), cwd=target)
    return tmp_path_factory.mktemp("elsewhere"), os.environ | {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"}


def test_an_index_would_take_it(built):
    assert len([*built.iterdir()]) == 2
    said = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir()), cwd=built)
    assert said.count("PASSED") == 2


def test_it_holds_what_is_used_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    kept = {
        name
        for name in run("git", "ls-files", "mlm_jax", "tpu", "configs", cwd=ROOT).splitlines()
        if (ROOT / name).is_file()
    }
    assert {name for name in names if ".dist-info/" not in name} == {
        f"mlm_jax/{name}" if name.startswith("configs/") else name for name in kept
    }
    assert any(name.endswith("LICENSE") for name in names)


def test_verbs_run_without_a_checkout(installed):
    folder, environment = installed
    where = run(sys.executable, "-c", "import mlm_jax; print(mlm_jax.__file__)", cwd=folder, environment=environment)
    assert str(ROOT) not in where and environment["PYTHONPATH"] in where
    assert "train" in run(sys.executable, "-m", "mlm_jax.cli", "--help", cwd=folder, environment=environment)
    said = run(sys.executable, "-m", "mlm_jax.cli", "config", "batch_size", cwd=folder, environment=environment)
    assert said.startswith("tasks.TASK.rows")


def test_example_configs_are_found_and_so_are_their_functions(installed):
    folder, environment = installed
    code = (
        "from mlm_jax.config import load_config\n"
        "from mlm_jax.training.check import check_config\n"
        "from mlm_jax.data.text.corpora import sentence_pairs\n"
        "config = load_config('configs/cross_attention.py:synthetic')\n"
        "check_config(config)\n"
        "(name, source), = config.data.parallel.items()\n"
        "print(source, len(list(sentence_pairs(source, name, 'validation', ('en', 'xx')))))\n"
    )
    assert run(sys.executable, "-c", code, cwd=folder, environment=environment).split() == [
        "mlm_jax.configs.cross_attention:synthetic_pairs",
        "200",
    ]


def test_a_job_is_launched_without_a_checkout(installed):
    folder, environment = installed
    said = run(
        sys.executable,
        "-m",
        "tpu.launch",
        "--config",
        "configs/demo.py",
        "--topology",
        "H100:8",
        "--target",
        "slurm",
        "--workdir",
        "runs/demo",
        "--dry-run",
        cwd=folder,
        environment=environment,
    )
    assert "--config configs/demo.py" in said and "sbatch" in said


def image_builder():
    """The program that builds images on this machine: "docker" if its daemon runs, else "buildah", or "" without any."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return "docker"
    return "buildah" if shutil.which("buildah") else ""


def test_the_image_holds_what_its_installation_needs(tmp_path):
    """The Dockerfile's COPY and RUN lines, in a folder instead of an image, without the libraries."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    for words in (line.split()[1:] for line in lines if line.startswith("COPY ")):
        for name in words[:-1]:
            target = tmp_path / words[-1] / (Path(name).name if words[-1].endswith("/") else "")
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    (installing,) = [line for line in lines if line.startswith("RUN ")]
    assert installing.split()[1:3] == ["pip", "install"] and '--editable ".[${EXTRAS}]"' in installing
    target = tmp_path / "installed"
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    run(sys.executable, "-m", "pip", "install", "-q", *options, "--editable", ".", cwd=tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = run(target / "bin" / "mlm-jax", "config", "batch_size", cwd=tmp_path, environment=environment)
    assert said.startswith("tasks.TASK.rows")
    code = "from mlm_jax.config import load_config; load_config('configs/demo.py'); import mlm_jax; print(mlm_jax.__file__)"
    assert str(tmp_path) in run(sys.executable, "-c", code, cwd=tmp_path, environment=environment)


@pytest.mark.skipif(not image_builder(), reason="neither docker nor buildah is on this machine")
def test_the_image_is_built():
    builder = image_builder()
    (base,) = [line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("FROM ")]
    if subprocess.run([builder, "pull", f"docker.io/library/{base}"], capture_output=True).returncode:
        pytest.skip(f"no registry that is reachable from here has {base}")
    if builder == "docker":
        run("docker", "build", "-q", "-t", "mlm_jax_test", "--build-arg", "EXTRAS=demo", ".", cwd=ROOT)
        said = run("docker", "run", "--rm", "mlm_jax_test", cwd=ROOT)
    else:  # chroot: also inside a container, where there may be no privilege for more
        chroot = ("--isolation", "chroot")
        run("buildah", "build", *chroot, "-t", "mlm_jax_test", "--build-arg", "EXTRAS=demo", ".", cwd=ROOT)
        container = run("buildah", "from", "--pull-never", "mlm_jax_test", cwd=ROOT).strip()
        said = run("buildah", "run", *chroot, container, "mlm-jax", "--help", cwd=ROOT)
        run("buildah", "rm", container, cwd=ROOT)
    assert "usage: mlm-jax" in said
