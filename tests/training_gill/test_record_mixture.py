"""Mixtures give every set its size in each epoch, and are the same for any number of processes, workers and stops."""

import itertools
import json
import pickle
import re
from pathlib import Path

import pytest
import yaml
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from tests.examples import run_example
from tests.training_gill.record_files import caption_number, chat, pair_shard, write_json
from training_gill.arguments import RECORD_KINDS, RecordSetArguments
from training_gill.json_lists import JsonList
from training_gill.recipe import RecipeError, parse_overrides, read_recipe, record_sets
from training_gill.record_encoding import RecordEncoder
from training_gill.record_mixture import MixtureOrder, RecordMixture, expand_files, open_mixture
from training_gill.record_sets import RecordSet, read_record
from training_gill.records import inside_folder
from training_gill.seeded_random import random_permutation
from training_gill.tar_shards import index_tar


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Seven shards of pairs, 0 to 33, of different lengths; one has none."""
    folder = tmp_path_factory.mktemp("shards")
    bounds = [0, 5, 6, 13, 13, 20, 29, 34]
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        pair_shard(folder / f"{number}.tar", range(first, last))
    return str(folder / "*.tar")


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return str(write_json(tmp_path_factory.mktemp("chats") / "chats.json", [chat(n) for n in range(100, 110)]))


def mixture_of(*sets, seed=0, window=10_000):
    return open_mixture([RecordSetArguments(*names, **fields) for names, fields in sets], seed, window)


def numbers_of(mixture, indices):
    return [caption_number(mixture[index]) for index in indices]


@pytest.mark.parametrize("window", (1, 4, 12, 10_000))
@pytest.mark.parametrize("order", ("shuffled", "in_order"))
def test_every_record_of_shards_comes_once_before_any_comes_again(order, window, shards):
    mixture = mixture_of((("pairs", shards), {"shard_order": order, "size": 34}), window=window)
    passes = [numbers_of(mixture, range(34 * n, 34 * (n + 1))) for n in range(3)]
    assert all(sorted(numbers) == list(range(34)) for numbers in passes)
    assert order == "in_order" or passes[0] != passes[1]
    again = mixture_of((("pairs", shards), {"shard_order": order, "size": 34}), window=window)
    assert numbers_of(again, range(34)) == passes[0]
    other = mixture_of((("pairs", shards), {"shard_order": order, "size": 34}), seed=1, window=window)
    assert (window == 1 and order == "in_order") or numbers_of(other, range(34)) != passes[0]


def test_without_a_seed_everything_keeps_its_order(shards, chats):
    mixture = mixture_of((("pairs", shards), {}), (("conversations", chats), {"size": 12}), seed=None)
    assert len(mixture) == 46
    assert numbers_of(mixture, range(46)) == [*range(34), *range(100, 110), 100, 101]


def test_shards_may_be_drawn_with_replacement(shards):
    mixture = mixture_of((("pairs", shards), {"shard_order": "with_replacement", "size": 400}), window=1)
    numbers = numbers_of(mixture, range(400))
    assert len(set(numbers)) > 25
    assert len({numbers.count(number) for number in range(34)}) > 1
    bounds = [0, 5, 6, 13, 13, 20, 29, 34]
    # With a window of one record, a shard is shuffled and given whole.
    whole = [tuple(range(*pair)) for pair in itertools.pairwise(bounds) if pair[0] != pair[1]]
    place = 0
    while place < 360:
        length = next(len(shard) for shard in whole if numbers[place] in shard)
        assert tuple(sorted(numbers[place : place + length])) in whole
        place += length


def test_a_set_that_is_smaller_than_its_size_begins_again_and_goes_on_in_the_next_epoch(chats, shards):
    mixture = mixture_of((("conversations", chats), {"size": 15}), (("pairs", shards), {"size": 20}))
    assert len(mixture) == 35
    chosen = []
    for epoch in range(2):
        numbers = numbers_of(mixture, range(35 * epoch, 35 * (epoch + 1)))
        assert sum(number >= 100 for number in numbers) == 15
        chosen += [number for number in numbers if number >= 100]
        pairs = [number for number in numbers if number < 100]
        assert len(set(pairs)) == 20 or epoch == 1
    # 30 examples are three passes over ten records.
    assert all(sorted(chosen[n : n + 10]) == list(range(100, 110)) for n in (0, 10, 20))


def test_sets_are_mixed_evenly_and_anew_in_each_epoch(chats, shards):
    mixture = mixture_of((("conversations", chats), {"size": 200}), (("pairs", shards), {"size": 600}))
    epochs = [[n >= 100 for n in numbers_of(mixture, range(800 * e, 800 * (e + 1)))] for e in range(2)]
    for from_chats in epochs:
        quarters = [sum(from_chats[n : n + 200]) for n in range(0, 800, 200)]
        assert sum(quarters) == 200 and all(25 < quarter < 75 for quarter in quarters)
    assert epochs[0] != epochs[1]


def test_an_example_does_not_depend_on_which_were_read_before(chats, shards):
    sets = ((("conversations", chats), {"size": 30}), (("pairs", shards), {"size": 70}))
    expected = numbers_of(mixture_of(*sets, window=8), range(200))
    for start, step in ((0, 3), (1, 3), (2, 3), (150, 1)):
        indices = range(start, 200, step)
        assert numbers_of(mixture_of(*sets, window=8), indices) == [expected[index] for index in indices]
    backwards = range(199, -1, -1)
    assert numbers_of(mixture_of(*sets, window=8), backwards) == [expected[index] for index in backwards]


def collate(examples):
    return [(example["index"], caption_number(example)) for example in examples]


def loader_of(mixture, processes=1, process=0, workers=0, batch_size=4, epoch=0):
    loader = DataLoader(mixture, batch_size, sampler=MixtureOrder(mixture), num_workers=workers, collate_fn=collate)
    prepared = prepare_data_loader(
        loader, num_processes=processes, process_index=process, put_on_device=False, even_batches=False
    )
    prepared.set_epoch(epoch)
    return prepared


@pytest.mark.parametrize(("processes", "workers"), ((1, 2), (2, 0), (2, 2), (3, 1)))
def test_processes_and_workers_share_the_examples_without_a_repeat(processes, workers, chats, shards):
    sets = ((("conversations", chats), {"size": 14}), (("pairs", shards), {"size": 34}))
    alone = [pair for batch in loader_of(mixture_of(*sets), batch_size=4 * processes) for pair in batch]
    assert len({index for index, _ in alone}) == 48
    shares = [list(loader_of(mixture_of(*sets), processes, process, workers)) for process in range(processes)]
    together = [pair for step in zip(*shares, strict=True) for batch in step for pair in batch]
    assert together == alone


@pytest.mark.parametrize("workers", (0, 2))
def test_a_run_that_is_resumed_at_a_step_goes_on_with_the_same_examples(workers, chats, shards):
    sets = ((("conversations", chats), {"size": 14}), (("pairs", shards), {"size": 34}))
    whole = list(loader_of(mixture_of(*sets), epoch=3))
    resumed = skip_first_batches(loader_of(mixture_of(*sets), workers=workers, epoch=3), 7)
    assert list(resumed) == whole[7:]
    assert whole[0][0][0] == 3 * 48


def test_steps_that_a_resumed_run_skips_are_not_read(chats, shards, monkeypatch):
    mixture = mixture_of((("conversations", chats), {"size": 14}), (("pairs", shards), {"size": 34}))
    read = []
    own = RecordMixture.__getitem__
    monkeypatch.setattr(RecordMixture, "__getitem__", lambda self, index: (read.append(index), own(self, index))[1])
    list(skip_first_batches(loader_of(mixture), 7))
    assert read == list(range(28, 48))


def test_a_mixture_can_be_sent_to_a_process(chats, shards):
    mixture = mixture_of((("conversations", chats), {"size": 14}), (("pairs", shards), {"size": 34}))
    expected = numbers_of(mixture, range(48))
    assert numbers_of(pickle.loads(pickle.dumps(mixture)), range(48)) == expected


def test_a_large_mixture_takes_little_memory_and_time():
    class Counted(RecordSet):
        name = "counted"

        def __len__(self):
            return 10

        def example(self, ordinal):
            return {"name": str(ordinal), "record": ordinal}

    mixture = RecordMixture([(Counted(), 1_500_000, "both"), (Counted(), 500_000, "both")], seed=0)
    seen = [mixture[index] for index in range(1_000_000, 1_002_000)]
    for number in (0, 1):
        ordinals = [e["record"] for e in seen if mixture._place(0, e["index"])[0] == number]
        assert ordinals == list(range(ordinals[0], ordinals[0] + len(ordinals)))


@pytest.mark.parametrize(
    "documented", (RecordEncoder, RecordMixture, JsonList, expand_files, index_tar, random_permutation, record_sets)
)
def test_the_examples_of_docstrings_run(documented, tmp_path, monkeypatch):
    (tmp_path / "picturebook").symlink_to(Path(__file__).parents[2] / "picturebook")
    monkeypatch.chdir(tmp_path)
    run_example(documented)


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_lists_its_sets_in_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "output_dir: out\ntrain_data:\n"
        "- {kind: documents, files: 'mmc4/{000..099}.tar', size: 7.0e+6}\n"
        "- kind: pairs\n  files: [blip/0.tar, blip/1.tar]\n  size: 10000000\n  min_image_side: 129\n"
    )
    documents, pairs = record_sets(read_recipe(path).data.train_data, "train_data")
    assert (documents.kind, documents.size, documents.direction) == ("documents", 7_000_000, "both")
    assert (pairs.files, pairs.min_image_side, pairs.shard_order) == (["blip/0.tar", "blip/1.tar"], 129, "shuffled")


def test_sets_can_be_given_on_the_command_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("output_dir: out\ntrain_data: pairs.tsv\n")
    words = [str(tmp_path / "recipe.yaml"), "--train_data", "[{kind: documents, files: a.tar, size: 3}]"]
    recipe, overrides = parse_overrides(words)
    (found,) = record_sets(read_recipe(recipe, **overrides).data.train_data, "train_data")
    assert found == RecordSetArguments("documents", "a.tar", size=3)
    with pytest.raises(RecipeError, match="`train_data` is no YAML"):
        read_recipe(recipe, train_data="[{kind: ")


def test_what_the_documentation_shows_is_understood():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    section = page[page.index("## Documents and mixtures") : page.index("### What is trained")]
    entries = yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1])
    sets = record_sets(read_recipe({"output_dir": "out", **entries}).data.train_data, "train_data")
    assert {found.kind for found in sets} == set(RECORD_KINDS)
    rows = re.findall(r"^\| (?:`(\w+)` )?\| [^|]+ \| (.*) \|$", section, re.MULTILINE)
    shown = 0
    for kind, text in rows:
        for code in re.findall(r"`({.*?})`", text):
            fields = json.loads(code)
            if set(fields) != {"caption"}:  # of a shard, where the image is a file of its own
                read_record(fields, inside_folder, RecordSetArguments(kind or "pairs", "a.json"))
            shown += 1
    assert shown == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    (
        ("mmc4.tar", r"`train_data\[1\]` is 'mmc4.tar'; expected a set as"),
        ({"kind": "documents"}, r"`train_data\[1\]` has no `files`"),
        ({"files": "a.tar"}, r"`train_data\[1\]` has no `kind`"),
        ({"kind": "document", "files": "a.tar"}, "`kind` is 'document'; expected one of pairs, documents"),
        ({"kind": "pairs", "files": "a.tar", "sise": 3}, "no entry is named 'sise'; did you mean 'size'"),
        ({"kind": "pairs", "files": "a.tar", "size": "many"}, "`size` is 'many'; expected int"),
        ({"kind": "pairs", "files": "a.tar", "size": 0}, "are numbers from 1 on"),
        ({"kind": "pairs", "files": "a.tar", "size": 1.5}, "`size` is 1.5; expected int"),
        ({"kind": "pairs", "files": ["a.tar", 3]}, "expected the name of a file, or a list of names"),
        ({"kind": "pairs", "files": "a.tar", "direction": "draw"}, "`direction` is 'draw'; expected one of both"),
        ({"kind": "pairs", "files": "a.tar", "shard_order": "random"}, "expected one of shuffled, in_order"),
        ({"kind": "documents", "files": "a.tar", "min_image_side": 129}, "`min_image_side` is of pairs only"),
    ),
)
def test_a_wrong_set_of_a_recipe_is_named(entry, message):
    good = {"kind": "documents", "files": "a.tar"}
    with pytest.raises(RecipeError, match=message):
        read_recipe({"output_dir": "out", "train_data": [good, entry]})


def test_an_empty_list_of_sets_is_refused():
    with pytest.raises(RecipeError, match="empty list"):
        read_recipe({"output_dir": "out", "train_data": []})
