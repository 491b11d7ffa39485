"""SkyPilot: a task file for ``sky jobs launch``, which finds machines, recovers from preemption and cleans up.

https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

from __future__ import annotations

from typing import Any

from mlm_jax.common.errors import UNFINISHED, UserError
from tpu.job import COORDINATOR_PORT, Job, install_command
from tpu.manifest_yaml import as_yaml

# CUDA 13 needs this driver or a newer one; machines with an older driver get CUDA 12.
CUDA_13_DRIVER = 580
DRIVER = "driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n1 | cut -d. -f1)"


def task(job: Job) -> str:
    """Return the task as YAML.

    Raises:
      UserError: there is no bucket (the workdir would be lost with the machines), or there are several slices.
    """
    job.check_bucket()
    if job.topology.slices > 1:
        raise UserError("SkyPilot launches one slice", remedy="use --target queued or gke, or a topology of one slice")
    recovery = {"strategy": "FAILOVER", "recover_on_exit_codes": [UNFINISHED]}
    resources: dict[str, Any] = {"use_spot": job.spot, "job_recovery": recovery} | (
        {"zone": job.zone} if job.zone else {}
    )
    joined = ""
    if job.is_gpu:
        resources |= {"accelerators": f"{job.topology.chip.name}:{job.chips_per_host}"}
        nodes, setup = job.hosts, gpu_setup(job)
        if nodes > 1:
            joined = (
                f' --coordinator $(echo "$SKYPILOT_NODE_IPS" | head -n1):{COORDINATOR_PORT}'
                " --process-count $SKYPILOT_NUM_NODES --process-index $SKYPILOT_NODE_RANK"
            )
    else:
        job.check_cloud_tpu()
        runtime = {"runtime_version": job.offer.runtime}
        resources |= {"accelerators": f"tpu-{job.accelerator_type}:1", "accelerator_args": runtime}
        nodes, setup = 1, install_command(f"'.[{job.packages}]'")  # SkyPilot runs the commands on every host of a slice
    found = {
        "name": job.name,
        "workdir": job.source,
        "num_nodes": nodes,
        "resources": resources,
        **({"envs": dict(job.environment)} if job.environment else {}),
        **({"secrets": dict.fromkeys(job.secrets)} if job.secrets else {}),
        "file_mounts": {job.mount: {"source": f"gs://{job.bucket}", "mode": "MOUNT"}},
        "setup": setup,
        "run": f"export PATH=~/venv/bin:$PATH\n{job.train()}{joined}\n",
    }
    return as_yaml(found)


def gpu_setup(job: Job) -> str:
    """Return the shell lines that install the package with the CUDA version that the machine's driver supports."""
    extras = f"[{','.join(job.extras)}]" if job.extras else ""
    newer, older = install_command(f"'.[{job.packages}]'"), install_command(f"'.{extras}' 'jax[cuda12]'")
    return f'{DRIVER}\nif [ "$driver" -ge {CUDA_13_DRIVER} ]; then\n  {newer}\nelse\n  {older}\nfi\n'


def launching(job: Job) -> tuple[str, ...]:
    """Return the command that launches the task file; it names secrets, whose values SkyPilot reads from its environment."""
    return (
        "sky",
        "jobs",
        "launch",
        "--yes",
        "--detach-run",
        *(part for name in job.secrets for part in ("--secret", name)),
    )


def status(job: Job) -> tuple[str, ...]:
    """Return the command that shows the job's state."""
    return "sky", "jobs", "queue"


def logs(job: Job) -> tuple[str, ...]:
    """Return the command that shows the job's log as it grows."""
    return "sky", "jobs", "logs", "--name", job.name


def stop(job: Job) -> tuple[str, ...]:
    """Return the command that ends the job and releases its machines."""
    return "sky", "jobs", "cancel", "--yes", "--name", job.name
