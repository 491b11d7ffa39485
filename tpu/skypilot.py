"""SkyPilot: a task file for ``sky jobs launch``, which finds machines, recovers from preemption and cleans up.

https://docs.skypilot.co/en/latest/reference/yaml-spec.html
"""

from __future__ import annotations

from typing import Any

import yaml

from tpu.job import UNFINISHED, Job, install_command


def task(job: Job) -> str:
    """Return the task as YAML.

    Raises:
      UserError: there is no bucket, so that the workdir would be lost with the machines, or there are several slices.
    """
    job.check_bucket()
    job.check_one_slice()
    chip = job.topology.chip
    recovery = {"strategy": "FAILOVER", "recover_on_exit_codes": [UNFINISHED]}
    resources: dict[str, Any] = {"use_spot": job.spot, "job_recovery": recovery} | ({"zone": job.zone} if job.zone else {})
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
        "setup": install_command(packages),
        "run": f"export PATH=~/venv/bin:$PATH\n{job.train()}{joined}\n",
    }
    return yaml.safe_dump(found, sort_keys=False, width=1000)
