import subprocess
import sys

SCRIPT = """
from mlm_jax.common.processes import fresh_processes
from os import getppid
print("begun")
with fresh_processes(1) as pool:
    pool.submit(getppid).result()
print("done")
"""


def test_a_script_needs_no_main_block_for_helping_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.split()) == (0, ["begun", "done"]), run.stderr
