"""The campaign itself: it counts, it repeats by its seed, and it does see what it looks for."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability import campaign, faults, guided, kills, mutations
from tests.reliability.campaign import Part, Trial
from tests.reliability.processes import ROOT, Running, fingerprint, finish
from vizkit.exhibition.measured import read_measured


def trial_in(folder, **changes):
    (folder / "shared").mkdir(exist_ok=True)
    given = {"size": "ci", "dice": random.Random(0), "folder": folder, "processes": 2}
    given |= {"until": time.monotonic() + 60, "shared": folder / "shared"}
    return Trial(**(given | changes))


def test_a_campaign_counts_and_goes_on_after_a_part_that_fails(tmp_path, capsys):
    def good(trial, tally):
        tally.inputs += trial.count(3, 30, 300)
        tally.endings["exit 0"] += trial.dice.randrange(100)
        tally.problem("torn", "a file is half written")

    def broken(trial, tally):
        raise ValueError("oh")

    parts = [Part("good", "what is good", good), Part("broken", "what is not", broken)]
    record = campaign.campaign(parts, "nightly", 7, 1, 1.0)
    assert record["parts"]["good"]["inputs"] == 30
    assert record["parts"]["good"]["torn"] == 1
    assert campaign.failed(record) == 2
    again = campaign.campaign(parts, "nightly", 7, 1, 1.0)
    assert again["parts"]["good"]["endings"] == record["parts"]["good"]["endings"]
    assert "PROBLEM torn: a file is half written" in capsys.readouterr().out
    assert "| all |" in campaign.summary(record)
    campaign.write(record, tmp_path / "reliability.json")
    campaign.write(campaign.campaign(parts[1:], "ci", 8, 1, 1.0), tmp_path / "reliability.json")
    good_row, broken_row, total = read_measured(tmp_path)[0].rows
    assert good_row[:3] == ("good", "what is good", "30")
    assert (good_row[-1], broken_row[-1], total[-1]) == ("1", "1", "2")


def test_time_that_is_over_ends_a_part_with_what_was_reached(tmp_path):
    seen = []
    trial_in(tmp_path, until=time.monotonic() - 1).each(seen.append, range(9))
    assert seen == []
    trial_in(tmp_path).each(seen.append, range(9))
    assert sorted(seen) == list(range(9))


def test_a_command_is_forked_killed_and_told(tmp_path):
    ended = finish(["saliency", "no-such.jpg"])
    assert (ended.code, ended.traceback) == (2, False)
    assert "no-such.jpg" in ended.last
    assert ended.peak > 10
    plain = finish(["--version"], plain=True)
    assert (plain.code, plain.out.split()[0]) == (0, "vizkit")
    running = Running(["class-image", "volcano", "-o", str(tmp_path / "out.png"), "--steps", "100000"])
    assert running.wait(1.0) is None
    running.kill(signal.SIGKILL)
    assert running.wait().code == -9
    assert fingerprint(tmp_path) == {}


def test_torn_lost_and_strange_files_are_seen(tmp_path):
    for name in ("a.png", "b.png", "log.json"):
        (tmp_path / name).write_bytes(b"{}")
    scene = kills.Scene("scene", (), 1, moving=("log",))
    stage = kills.Stage(scene, {}, tmp_path, fingerprint(tmp_path), {"a.png": "0", "gone.png": "0"})
    assert kills.torn_files(stage, tmp_path) == ["gone.png is gone"]
    (tmp_path / "b.png").write_bytes(b"half")
    (tmp_path / "log.json").write_bytes(b'{"half": ')
    (tmp_path / "new.png").write_bytes(b"?")
    assert set(kills.torn_files(stage, tmp_path)) == {"b.png", "log.json", "new.png", "gone.png is gone"}


def test_calls_that_are_made_to_fail_do_fail(tmp_path):
    (photo_folder := tmp_path / "in").mkdir()
    from tests.slow_index import photo

    photo(1).save(photo_folder / "photo.png")
    for call in ("write", "fsync", "replace"):
        import functools

        ended = finish(
            ["saliency", str(photo_folder / "photo.png"), "-o", str(tmp_path / "map.png")],
            prepare=functools.partial(faults._fail_at, call, 1, 28),
        )
        assert (ended.code, ended.last.count("No space left")) == (5, 1), call
        assert not (tmp_path / "map.png").exists()


def test_mutations_change_bytes_and_repeat():
    data = bytes(range(256)) * 4
    some = [mutations.mutated(data, random.Random(k)) for k in range(200)]
    assert some == [mutations.mutated(data, random.Random(k)) for k in range(200)]
    assert sum(m != data for m in some) > 190
    assert mutations.mutated(b"", random.Random(0)) is not None


@pytest.mark.optional
def test_a_guided_fuzzer_finds_what_is_wrong(tmp_path):
    """A reader that fails is found out, one that does not is run often."""
    pytest.importorskip("atheris")
    tally = campaign.Tally()
    guided.fuzzed("arrays", tmp_path, 1, 1, tally)
    assert tally.inputs > 100
    assert tally.problems == []
    said = "#9\tNEW\n === Uncaught Python exception: ===\nKeyError: 'labels'\n"
    guided.judge("index", tmp_path, 77, said, tally)
    assert tally.tracebacks == 1
    assert "KeyError" in tally.problems[0]


def test_a_fuzzer_does_not_count_the_memory_of_what_started_it(tmp_path):
    """A test run of 4 GB ended it at once: a process begins with the peak of the one that started it."""
    peak = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    child = f"from tests.reliability.guided import alone; {peak}; alone(); {peak}"
    large = f"import subprocess, sys; held = b'x' * 2**29; subprocess.run([sys.executable, '-uc', {child!r}])"
    said = subprocess.run([sys.executable, "-c", large], cwd=ROOT, capture_output=True, text=True, check=True)
    started, alone = map(int, said.stdout.split())
    assert alone < 256 <= 512 <= started


@pytest.mark.slow
def test_the_command_prints_its_table_and_keeps_it(tmp_path):
    command = [sys.executable, "-m", "tests.reliability", "ci", "--only", "exceptions", "--seed", "3"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "r.json")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| exceptions |" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["seed"] == 3
