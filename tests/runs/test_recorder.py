"""When the state of a search is written: by elapsed time, once, and before an observer's error."""

import pytest

from offbeat.runs.folder import RunFolder
from offbeat.runs.recorder import CHECKPOINT_SECONDS, Recorder
from offbeat.types import Step


class Search:
    """Steps of so many seconds, by a clock that nobody waits for."""

    def __init__(self, folder, observe=lambda *told: None, seconds=4.0):
        self.now, self.seconds, self.snapshots, self.saved = 0.0, seconds, 0, []
        self.recorder = Recorder(folder, observe, stage="searching", clock=lambda: self.now)
        save = folder.save_checkpoint
        folder.save_checkpoint = lambda state: (self.saved.append(state["search"]["at"]),
                                                save(state))  # fmt: skip
        self.on_step = self.recorder.observer(0, 100)

    def run(self, steps):
        for index in range(steps):
            self.now += self.seconds

            def snapshot(index=index):
                self.snapshots += 1
                return {"at": index + 1}

            self.on_step(Step(index=index, loss=0.0, values={}, snapshot=snapshot))


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {"verb": "explore"})


def test_a_state_is_written_when_the_last_one_is_old_and_made_once(folder):
    search = Search(folder)
    search.run(20)
    assert CHECKPOINT_SECONDS == 30
    assert search.saved == [8, 16]  # at 32 and 64 seconds
    assert search.snapshots == 2
    assert len(folder.trace()) == 20
    assert Recorder(folder, print, stage="").resume(0) == {"at": 16}
    assert len(folder.trace()) == 16  # the steps after it are taken again


def test_an_observer_that_ends_the_run_loses_no_step(folder):
    def stop(stage, done, total, values):
        if done == 3:
            raise KeyboardInterrupt

    search = Search(folder, stop)
    with pytest.raises(KeyboardInterrupt):
        search.run(5)
    assert search.saved == [3]
    assert folder.load_checkpoint() == {"trial": 0, "rows": 3, "search": {"at": 3}}


def test_slow_steps_are_each_written(folder):
    search = Search(folder, seconds=31.0)
    search.run(3)
    assert search.saved == [1, 2, 3]
