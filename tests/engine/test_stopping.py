"""A signal stops a run, and with it whatever the run is a part of."""

import os
import signal
import threading

import pytest

import understudy as us
from understudy import job as jobs
from understudy import pool
from understudy import run as runs
from understudy.engine.loop import stopped_by_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_for_all_that_stand_in_each_other(number):
    outer, inner, later = (threading.Event() for _ in range(3))
    with stopped_by_signals(outer):
        with stopped_by_signals(inner):
            assert not inner.is_set()
            os.kill(os.getpid(), number)
            assert inner.is_set()
        assert outer.is_set()
        with stopped_by_signals(later):
            assert later.is_set()


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(threading.Event()), stopped_by_signals(threading.Event()):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_int_interrupts_wherever_it_comes():
    with stopped_by_signals(threading.Event()):
        with stopped_by_signals(threading.Event()):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_first_int_is_no_second_one_because_the_run_stops_itself():
    stop = threading.Event()
    with stopped_by_signals(stop):
        stop.set()  # as a trial that waits for others does
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_while_a_run_is_concluded_ends_the_job_of_several(digits_config, monkeypatch, tmp_path):
    started = []

    def concluding(config, quiet):
        started.append(config.output)
        with stopped_by_signals(threading.Event()):  # the run has nothing left to stop
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pool, "train", concluding)
    monkeypatch.setattr(pool.Runs, "_known", lambda self, number: False)
    monkeypatch.setattr(pool.Runs, "_tell", lambda self, number: None)
    config = us.load_config(digits_config)
    tasks = [pool.Task(name, "train", config.replaced(output=str(tmp_path / name))) for name in "ab"]
    with pytest.raises(us.InterruptedRunError):
        pool.Runs(tasks, 1, lambda line: None)()
    assert started == [str(tmp_path / "a")]


def test_a_chain_is_stopped_by_a_signal_between_its_links(digits_config, monkeypatch, tmp_path):
    conclude = runs.conclude

    def signalled(verb, job, built):
        os.kill(os.getpid(), signal.SIGTERM)
        return conclude(verb, job, built)

    monkeypatch.setattr(runs, "conclude", signalled)
    monkeypatch.setattr(jobs, "write_run_report", lambda folder: folder)  # pages have tests of their own
    digits_config["train"] |= {"epochs": 1, "batch_size": 80}
    with pytest.raises(us.InterruptedRunError):
        us.distill(digits_config, quiet=True, generations=2)
    first, second = sorted(
        path for path in (tmp_path / "run").iterdir() if path.is_dir() and path.name[0] in "12"
    )
    assert (first / "result.json").exists()
    assert not (second / "result.json").exists()
    assert (second / "checkpoints" / "last.pt").exists()
