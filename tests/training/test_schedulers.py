"""What docs/distributed.md gives to schedulers: the SLURM script runs, the manifest follows the published schema."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from keras_resnet.training.launch import free_ports
from keras_resnet.workers import ADDRESS, RANK, WORKERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
# srun starts a command once per task; scontrol names the machines, one per line.
STAND_INS = {
    "srun": f"""#!{sys.executable}
import os, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1", sys.argv
tasks = [
    subprocess.Popen(sys.argv[2:], env={{**os.environ, "SLURM_PROCID": str(rank)}})
    for rank in range(int(os.environ["SLURM_NTASKS"]))
]
sys.exit(max(task.wait() for task in tasks))
""",
    "scontrol": """#!/bin/sh
[ "$*" = "show hostnames node[0-1]" ] && printf '127.0.0.1\\n127.0.0.2\\n'
""",
}


def block(begin):
    """Returns the page's block whose first line starts with `begin`."""
    return re.search(rf"```text\n({begin}.*?)```", PAGE, re.DOTALL)[1]


@pytest.mark.slow
def test_the_script_for_slurm_trains(tiny_data, tmp_path):
    pytest.importorskip("jax")
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n")  # JAX starts faster
    script = block("#SBATCH")
    for there, here in (
        ("folder:/data/images", f"{tiny_data} --model resnet8 --epochs 1 --batch-size 16 --name r"),
        ("/data/runs", str(tmp_path / "runs")),
        (":29500", f":{free_ports(1)[0]}"),
    ):
        assert script.count(there) == 1
        script = script.replace(there, here)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        # The stand-in for python has no packages beside it.
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "node[0-1]",
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 workers share each batch of 16: 8 images each" in done.stdout
    assert done.stdout.count("test accuracy") == 1  # by the chief alone
    assert json.loads((tmp_path / "runs" / "r" / "test_metrics.json").read_text())["count"] == 31


def errors(text, schema):
    form = json.loads(Path(__file__).with_name(schema).read_text())
    return [str(error) for error in jsonschema_rs.Draft7Validator(form).iter_errors(yaml.safe_load(text))]


MANIFESTS = {
    "apiVersion: jobset": (
        "jobset_schema.json",
        [
            ("maxRestarts", "maxRestart"),
            ("parallelism: 4", 'parallelism: "4"'),
            ("{name: data, mountPath", "{mountPath"),
            ("fieldRef", "fieldref"),
        ],
    ),
    "apiVersion: kubeflow": (
        "tfjob_schema.json",
        [
            ("tfReplicaSpecs", "replicaSpecs"),
            ("replicas: 4", 'replicas: "4"'),
            ("containerPort", "port"),
            ("claimName", "claim"),
            ("backoffLimit", "maxRestarts"),
        ],
    ),
}


@pytest.mark.parametrize("begin", MANIFESTS)
def test_manifests_have_the_published_form_which_refuses_what_is_not_in_it(begin):
    schema, changes = MANIFESTS[begin]
    text = block(begin)
    assert errors(text, schema) == []
    for right, wrong in changes:
        assert text.count(right) == 1
        assert errors(text.replace(right, wrong), schema), wrong


def test_the_operator_finds_the_container_of_the_tfjob():
    """It looks for a container "tensorflow" and its port "tfjob-port", and sets TF_CONFIG of no other."""
    worker = yaml.safe_load(block("apiVersion: kubeflow"))["spec"]["tfReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"
    assert [port["name"] for port in container["ports"]] == ["tfjob-port"]


def test_the_jobset_tells_each_pod_its_place():
    manifest = yaml.safe_load(block("apiVersion: jobset"))
    (job,) = manifest["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    variables = {row["name"]: row.get("value", row.get("valueFrom")) for row in container["env"]}
    assert variables["KERAS_BACKEND"] == "jax"
    assert pods["completions"] == pods["parallelism"] == int(variables[WORKERS])
    # JobSet names a pod by set, job, number of the job and number of the pod; its domain is the set's name.
    first = f"{manifest['metadata']['name']}-{job['name']}-0-0.{manifest['metadata']['name']}"
    assert variables[ADDRESS].rpartition(":")[0] == first
    assert "batch.kubernetes.io/job-completion-index" in variables[RANK]["fieldRef"]["fieldPath"]
