"""Eight simulated devices, no accelerator, and programs that are compiled fast instead of well."""

import importlib.util
import os
import signal
import tempfile

import hypothesis
import jaxlib.version
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests look at numbers, not at speed, and compile for most of their time. Little optimization halves that, and XLA's older
# way of compiling a fusion, which jaxlib 0.12 no longer has, halves it again.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
flags = {"xla_force_host_platform_device_count": "8"}
if jaxlib.version.__version_info__ < (0, 11):
    flags["xla_cpu_use_fusion_emitters"] = "false"
for flag, value in flags.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{flag}={value}"
# PyTorch's threads wait for each other by spinning, on cores that others need.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Triton, which PyPI's torch brings on Linux, and TensorFlow both hold LLVM: Python crashes where TensorFlow's comes first.
if importlib.util.find_spec("triton"):
    import triton  # noqa: F401


# Tests build the same programs again and again. Each process of pytest reads from its own folder what it compiled before. Programs
# that a test starts do not know the folder: they may be killed while they write to it.
import jax  # noqa: E402

compiled = tempfile.TemporaryDirectory(prefix="mlm_jax_tests_compiled_")
jax.config.update("jax_compilation_cache_dir", compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)

# On a busy machine, an example may take much longer than elsewhere.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Give SIGHUP and SIGINT their default effects: programs that a test starts inherit whether they are ignored.

    SIGHUP is ignored under nohup, and after libtpu has compiled for a topology, as the tests of plans make it do. SIGINT is
    ignored if a script starts the tests in the background.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
