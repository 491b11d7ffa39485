"""SkyPilot: a task file for ``sky jobs launch``, which finds machines, recovers from preemption and cleans up.

https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

from __future__ import annotations

from typing import Any

import yaml

from mlm_jax.errors import UserError
from tpu.job import Job, install


def task(job: Job) -> str:
    """Return the task as YAML.

    Raises:
      UserError: there is no bucket, so that the workdir would be lost with the machines.
    """
    if not job.bucket:
        raise UserError("a workdir on the machines' own disks is lost with them", remedy="give --bucket NAME to mount")
    if job.topology.slices > 1:
        raise UserError("several slices are launched on GKE", remedy="use --target gke, or a topology of one slice")
    chip = job.topology.chip
    resources: dict[str, Any] = {"use_spot": job.spot, "job_recovery": "FAILOVER"} | ({"zone": job.zone} if job.zone else {})
    if chip.platform == "tpu":
        resources |= {"accelerators": f"tpu-{job.accelerator_type}:1",
                      "accelerator_args": {"runtime_version": job.offer.runtime}}  # fmt: skip
        nodes, packages, joined = 1, "'.[tpu]'", ""  # SkyPilot runs the commands on every host of a slice
    else:
        resources |= {"accelerators": f"{chip.name}:{job.chips_per_host}"}
        nodes, packages = job.hosts, "'.[cuda]'"
        joined = " --coordinator $(echo \"$SKYPILOT_NODE_IPS\" | head -n1):8476 --process-count $SKYPILOT_NUM_NODES" \
                 " --process-index $SKYPILOT_NODE_RANK" if nodes > 1 else ""  # fmt: skip
    found = {
        "name": job.name,
        "workdir": job.source,
        "num_nodes": nodes,
        "resources": resources,
        "file_mounts": {job.mount: {"source": f"gs://{job.bucket}", "mode": "MOUNT"}},
        "setup": install(packages),
        "run": f"export PATH=~/venv/bin:$PATH\n{job.train()}{joined}\n",
    }
    return yaml.safe_dump(found, sort_keys=False, width=1000)
