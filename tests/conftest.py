"""Eight simulated devices, no accelerator, and a compilation cache shared by all test processes."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # half the time to compile; tests look at numbers, not at speed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
