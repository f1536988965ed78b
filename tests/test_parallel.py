"""Two real processes, over gloo on the loopback interface."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mcnn_book.__main__ import main
from mcnn_core.errors import LostProcessError
from mcnn_core.machine import parallel
from mcnn_core.training import train
from tests.test_train import RECIPE, TINY, toy

TWO = replace(TINY, dropout=0.0)  # the one thing that processes draw for themselves
ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, signal, sys
from dataclasses import replace
import torch
from mcnn_core.machine.parallel import Team
from mcnn_core.training import train
from tests.test_train import RECIPE, TINY, toy
torch.set_num_threads(1)
store, labels = toy(26, size=32)  # batches of 6 and 7 fields: parts of unequal size
store.pixels.setflags(write=False)
plain, ends = Team.total, []

def dies(us, sums):  # at the end of its third epoch
    ends.append(sums)
    if us.rank == 1 and len(ends) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(us, sums)

if "DIES" in os.environ:
    Team.total = dies
recipe = replace(RECIPE, epochs=int(sys.argv[2]), precision="float32")
train(store, labels, replace(TINY, dropout=0.0), recipe, sys.argv[1], progress=False)
"""


LAUNCHER = """
import sys
from mcnn_core.machine.parallel import launch
launch([sys.executable, *sys.argv[1:]], 2)
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture
def launch(tmp_path):
    """Return a function that starts two processes which train into a folder for some epochs."""
    script, started = tmp_path / "run.py", []
    script.write_text(SCRIPT)

    def start(folder, epochs, by=("-c", LAUNCHER), **environment):
        command = [sys.executable, *by, script, folder, str(epochs)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
        started.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def listening(process):
    """Return the addresses on which a process and its descendants listened until it ended.

    They are as /proc/net/tcp and tcp6 list them.
    """
    addresses = set()
    while process.poll() is None:
        for one in [root := psutil.Process(process.pid), *root.children(recursive=True)]:
            with suppress(psutil.Error):  # it has ended since
                addresses |= {
                    connection.laddr.ip
                    for connection in one.net_connections()
                    if connection.status == psutil.CONN_LISTEN
                }
        time.sleep(0.05)
    return addresses


def test_two_processes_train_as_one_does_and_listen_to_no_one_else(tmp_path, launch):
    store, labels = toy(26, size=32)
    alone = train(
        store,
        labels,
        TWO,
        replace(RECIPE, epochs=3, precision="float32"),
        tmp_path / "alone",
        progress=False,
    )
    heard = listening(process := launch(tmp_path / "two", 3))
    output, _ = process.communicate()
    assert heard == {"127.0.0.1"}, (heard, output)
    assert process.returncode == 0 and "Warning" not in output, output
    two = pd.read_csv(tmp_path / "two" / "history.csv")
    np.testing.assert_allclose(two["loss"], alone["loss"], rtol=1e-3)
    np.testing.assert_allclose(two["accuracy"], alone["accuracy"], atol=0.04)
    one, other = (load_file(tmp_path / name / "epoch_003.safetensors") for name in ("alone", "two"))
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(
            other[key].float(), one[key].float(), rtol=0.05, atol=0.02, msg=key
        )
    # Finished: taken as it is.
    train(
        store,
        labels,
        TWO,
        replace(RECIPE, epochs=3, precision="float32"),
        tmp_path / "two",
        progress=False,
    )


def test_a_killed_process_stops_the_training_and_it_resumes(tmp_path, launch):
    process = launch(folder := tmp_path / "killed", 5, DIES="1")
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert (
        "Another process of this training has ended" in output
        and "resumes from the last checkpoint" in output
    ), output
    assert len(pd.read_csv(folder / "history.csv")) == 2
    # As on several machines.
    for name, how in (
        (folder, {}),
        (tmp_path / "whole", {"by": TORCHRUN}),
    ):
        output, _ = (process := launch(name, 5, **how)).communicate(timeout=600)
        assert process.returncode == 0, output
    one, other = (
        load_file(name / "epoch_005.safetensors") for name in (folder, tmp_path / "whole")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = (
        pd.read_csv(name / "history.csv").drop(columns="seconds")
        for name in (folder, tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_the_launchers_signal_does_not_cut_the_message_short():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(LostProcessError, match="resumes from the last checkpoint"):
            parallel._ended()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


# The launcher --------------------------------------------------------------


def shell(script, processes=2):
    parallel.launch(["sh", "-c", script], processes)


def test_each_process_is_told_its_place(tmp_path):
    names = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
        parallel.MEETING,
    )
    shell(
        f'env > {tmp_path}/$RANK; stat -c %f "$(dirname ${parallel.MEETING})" > {tmp_path}/mode', 3
    )
    told = [
        dict(
            line.split("=", 1)
            for line in (tmp_path / str(rank)).read_text().splitlines()
            if line.startswith(names)
        )
        for rank in range(3)
    ]
    assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"]) for one in told] == [
        ("0", "0", "3"),
        ("1", "1", "3"),
        ("2", "2", "3"),
    ]
    assert {(one["GLOO_SOCKET_IFNAME"], one["NCCL_SOCKET_IFNAME"]) for one in told} == {
        ("lo", "=lo")
    }
    assert stat.S_IMODE(int((tmp_path / "mode").read_text(), 16)) == 0o700
    (meeting,) = {one[parallel.MEETING] for one in told}
    assert not Path(meeting).parent.exists()


def test_one_that_ends_ends_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "GRACE", 0.5)
    deaf = f"echo $$ >> {tmp_path}/pids; trap '' TERM; while :; do sleep 0.1; done"
    with pytest.raises(SystemExit) as ended:
        shell(
            f"[ $RANK = 1 ] && {{ until [ -s {tmp_path}/pids ]; do sleep 0.01; done; exit 3; }}; "
            f"{deaf}"
        )
    assert ended.value.code == 3
    with pytest.raises(
        LostProcessError,
        match=r"Process 1 of 2 was ended by SIGKILL.*resumes from the last checkpoint",
    ):
        shell(f"[ $RANK = 0 ] && kill -KILL $$; {deaf}")
    assert not any(map(psutil.pid_exists, map(int, (tmp_path / "pids").read_text().split())))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(tmp_path, number):
    """The processes themselves do not hear Ctrl-C, of which each would print a message."""
    pids = tmp_path / "pids"

    def interrupt():
        while not pids.exists() or len(pids.read_text().split()) < 2:
            time.sleep(0.01)
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGINT)
        deaf.append(
            all(
                psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie"
                for pid in pids.read_text().split()
            )
        )
        signal.pthread_kill(threading.main_thread().ident, number)

    terminated = signal.getsignal(signal.SIGTERM)
    deaf, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            shell(f"echo $$ >> {pids}; exec sleep 600")
        thread.join()
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == [
            signal.default_int_handler,
            terminated,
        ]
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGINT, before)
    assert deaf == [True] and not any(map(psutil.pid_exists, map(int, pids.read_text().split())))


def test_more_processes_than_there_are_places_are_refused(tmp_path, monkeypatch):
    (tmp_path / "surrogate.parquet").touch()
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        SystemExit, match="error: --processes: expected 1 to 4 here, one per core of the CPU, got 5"
    ):
        main(["train", "--out", str(tmp_path), "--processes", "5"])
    asked = []
    monkeypatch.setattr(
        "mcnn_core.machine.parallel.launch",
        lambda command, processes: asked.append((command[1:], processes)),
    )
    main(given := ["train", "--out", str(tmp_path), "--processes", "2"])
    assert asked == [(["-m", "mcnn_book", *given], 2)]


def test_shared_norm_is_batch_norm(monkeypatch):
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda sums: None)
    torch.manual_seed(0)
    for plain, x in (
        (nn.BatchNorm2d(3), torch.randn(4, 3, 5, 6)),
        (nn.BatchNorm1d(3), torch.randn(8, 3)),
    ):
        nn.init.uniform_(plain.weight)
        nn.init.uniform_(plain.bias)
        shared = nn.Sequential(nn.BatchNorm2d(3) if x.dim() == 4 else nn.BatchNorm1d(3))
        shared.load_state_dict({f"0.{key}": value for key, value in plain.state_dict().items()})
        before = dict(shared.named_parameters())
        parallel._share_norms(shared)
        assert all(parameter is before[name] for name, parameter in shared.named_parameters())
        one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn_like(x)
        (plain(one) * weights).sum().backward()
        (shared(other) * weights).sum().backward()
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-5)
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(shared[0].state_dict()[key], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shared.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)


def test_alone_nothing_is_joined():
    with parallel.team() as us:
        model = nn.Linear(1, 1)
        assert (
            us == parallel.Team(0, 1)
            and us.spread(model) is model
            and us.total(np.ones(2)).tolist() == [1, 1]
        )
        us.wait()
