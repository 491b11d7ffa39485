"""A training run in a process of its own, to be killed: python train_process.py '{"store": …, "workdir": …, …}'."""

import json
import os
import signal
import sys
import time
from pathlib import Path

settings = json.loads(sys.argv[1])
os.environ["JAX_PLATFORMS"] = "cpu"
flags = os.environ.get("XLA_FLAGS", "")  # of whoever starts this; the last value of a flag counts
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={settings.get('devices', 1)}"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
sys.path.insert(0, os.getcwd())

from mlm_jax.common.errors import UserError  # noqa: E402
from mlm_jax.parallel import multihost, peers  # noqa: E402

peers.SILENCE_SECONDS = settings.get("silence", peers.SILENCE_SECONDS)
multihost.HEARTBEAT_SECONDS = settings.get("heartbeat", multihost.HEARTBEAT_SECONDS)

from mlm_jax.config import set_key  # noqa: E402
from mlm_jax.data.loading.loader import Loader  # noqa: E402
from mlm_jax.run.loop import train  # noqa: E402
from mlm_jax.run.reporter import Reporter  # noqa: E402
from tests.tiny import tiny_config  # noqa: E402

config = tiny_config(settings["store"], settings.get("steps", 6))
for key, value in settings.get("set", {}).items():
    set_key(config, key, str(value))

kill_at, stop_at, read = settings.get("kill_at"), settings.get("stop_at"), Loader.batch


def batch(self, step):
    if step == kill_at:
        while not Path(settings.get("kill_after", settings["store"])).exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if step == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
    if step == settings.get("hang_up_at"):
        os.kill(os.getpid(), signal.SIGHUP)
    return read(self, step)


Loader.batch = batch
evaluate = Reporter.evaluate


def evaluate_and_stop(self, step, state, **options):
    if step == settings.get("stop_evaluation"):
        os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(self, step, state, **options)


Reporter.evaluate = evaluate_and_stop
try:
    with multihost.job(settings.get("coordinator"), settings.get("processes"), settings.get("process")):
        train(config, settings["workdir"])
except UserError as error:
    print(f"mlm-jax: error: {error}", file=sys.stderr)
    sys.exit(2)
