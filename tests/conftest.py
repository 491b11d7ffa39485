"""Eight simulated devices, no accelerator, and a compilation cache shared by all test processes."""

import importlib.util
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # half the time to compile; tests look at numbers, not at speed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Triton, which PyPI's torch brings on Linux, and TensorFlow both hold LLVM: Python crashes where TensorFlow's comes first.
if importlib.util.find_spec("triton"):
    import triton  # noqa: F401
