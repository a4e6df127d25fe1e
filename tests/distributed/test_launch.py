"""Who this process is, by what the launcher says."""

import socket

import pytest
from torch.distributed import DistNetworkError, DistStoreError

import understudy as us
from understudy.cli import main
from understudy.engine.launch import Launch, launched, lost

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
}


def test_a_process_on_its_own_is_no_launch():
    assert launched({}) is None
    assert launched({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    assert launched({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


def test_torchruns_variables_come_first():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert launched({**STEP, **torchrun}) == Launch(3, 4, 1, None)


def test_a_slurm_step_names_its_first_node_and_a_port_of_its_own():
    assert launched(STEP) == Launch(5, 8, 1, "tcp://gpu07:21234")
    other = launched({**STEP, "SLURM_STEP_ID": "1"})
    assert other is not None
    assert other.address != "tcp://gpu07:21234"


def test_a_given_address_is_taken():
    given = launched({**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert given == Launch(5, 8, 1, "tcp://10.0.0.1:29500")


def test_a_batch_script_outside_of_a_step_runs_alone():
    """`sbatch` sets the number of tasks in the script itself, which runs once."""
    script = {key: value for key, value in STEP.items() if not key.startswith("SLURM_STEP")}
    assert launched({**script, "SLURM_PROCID": "0"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("a-b[3,5-7],c9", "a-b3"),
        ("rack[1-2]node[004-9]", "rack1node004"),
        ("gpu[07-08,11].cluster", "gpu07.cluster"),
    ],
)
def test_the_first_node_of_a_list_is_found(nodes, first):
    launch = launched({**STEP, "SLURM_STEP_NODELIST": nodes})
    assert launch is not None
    assert launch.address == f"tcp://{first}:21234"


def test_a_lost_connection_becomes_one_line_and_other_errors_stay():
    gloo = RuntimeError(
        "[/src/gloo/pair.cc:561] Connection closed by peer [127.0.0.1]:5. This is typically bad.\nmore"
    )
    assert lost(gloo) is not None
    assert "Connection closed by peer [127.0.0.1]:5" in str(lost(gloo))
    assert "\n" not in str(lost(gloo))
    assert lost(RuntimeError("CUDA out of memory")) is None
    assert lost(ValueError("peer Connection")) is None


@pytest.mark.parametrize("kind", [DistNetworkError, DistStoreError])
def test_processes_that_do_not_meet_are_one_line(kind):
    line = lost(kind("Failed to recv, got 0 bytes.\nConnection was likely closed."))
    assert line is not None
    assert line.startswith(
        "all processes must find each other at the start, got: Failed to recv, got 0 bytes. Conn"
    )
    assert "\n" not in line


def test_a_port_that_is_taken_is_one_line(digits_config, tmp_path, monkeypatch, capsys):
    path = tmp_path / "c.yaml"
    path.write_text(us.load_config(digits_config).yaml())
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["understudy", "distill", str(path)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "address already in use" in said
    assert not (tmp_path / "run").exists()


def test_a_study_started_as_several_processes_is_refused_in_one_line(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="study must be started as one process, got several"):
        us.study({})
