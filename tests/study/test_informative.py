"""The next pair is the most informative one, and nothing that was answered changes."""

import torch
from studies import answer_all, make

from offbeat.core.rng import stream
from offbeat.core.taste import Taste
from offbeat.study.informative import InformativeOrder
from offbeat.study.storage import Storage


def test_the_next_pair_is_the_most_informative_one_and_answers_stay(tmp_path):
    study = make(tmp_path, conditions=("a", "b", "c"), order="informative", trials=10, checks=1)
    order = InformativeOrder(study)
    storage = Storage(study, next_trials=order)
    token = storage.join()
    before = storage.rater(token)
    rater = answer_all(storage, token)
    keys = [trial.key for trial in rater.trials if trial.purpose == "main"]
    assert len(keys) == len(set(keys)) == 10
    assert [t.purpose for t in rater.trials] == [t.purpose for t in before.trials]
    repeats = [trial for trial in rater.trials if trial.purpose == "repeat"]
    for repeat in repeats:
        first = next(t for t in rater.trials if t.key == repeat.key)
        assert first.purpose == "main"
        assert first.pictures == repeat.pictures[::-1]
    assert [t.key for t in rater.trials] != [t.key for t in before.trials]
    # asked again after everything, it changes nothing; answers are those that were stored
    assert storage.rater(token).trials == rater.trials
    storage.close()


def test_informative_questions_teach_more_than_random_ones():
    features = torch.randn(60, 6, generator=stream(0, "pictures"))
    wanted = torch.tensor([3.0, 0, 0, -2.0, 0, 1.0]).double()
    merits = features.double() @ wanted
    pairs = torch.combinations(torch.arange(60))
    is_right = merits[pairs[:, 0]] > merits[pairs[:, 1]]

    def learned(is_informative, seed):
        draws, asked = stream(seed, "questions"), []
        for _ in range(15):
            answers = torch.tensor(asked, dtype=torch.long).reshape(-1, 2)
            taste = Taste.guess(features, answers[:, 0], answers[:, 1])
            at = int(torch.randint(len(pairs), (), generator=draws))
            if is_informative:
                some = torch.randint(len(pairs), (200,), generator=draws)
                gain = taste.information(features[pairs[some, 0]], features[pairs[some, 1]])
                at = int(some[gain.argmax()])
            first, second = pairs[at].tolist()
            asked.append((first, second) if merits[first] > merits[second] else (second, first))
        answers = torch.tensor(asked)
        taste = Taste.guess(features, answers[:, 0], answers[:, 1])
        chosen = taste.probability(features[pairs[:, 0]], features[pairs[:, 1]]) > 0.5
        return float((chosen == is_right).double().mean())

    gains = [learned(True, seed) - learned(False, seed) for seed in range(8)]
    assert sum(gains) / len(gains) > 0.02
