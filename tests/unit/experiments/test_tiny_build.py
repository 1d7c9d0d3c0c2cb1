"""Claims about model, warm start, cache and data files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctpo.records.shapes import problems
from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.tiny import cache
from experiments.tiny.build import SHIPPED, arithmetic_dataset, model_settings, tiny_model, write_model
from experiments.tiny.demonstrations import demonstrate
from experiments.tiny.model import build_model
from experiments.tiny.problems import draw
from experiments.tiny.spec import ArithmeticSpec, Quality, TinyModelSpec
from experiments.tiny.tokenizer import ChatPieces, build_tokenizer
from experiments.tiny.warm_start import batch_loss, demonstration_batches, tokenize, warm_start

SMALL = TinyModelSpec(steps=3, batch_size=4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTPO_CACHE", str(tmp_path / "cache"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_settings_give_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    for name in ("first", "second"):
        torch.manual_seed(random.randrange(2**31))  # the surroundings must not matter
        write_model(SMALL, tmp_path / name, progress=False)
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(first)
    assert first == second


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "a", progress=False)
    write_model(SMALL.model_copy(update={"seed": 1}), tmp_path / "b", progress=False)
    assert files(tmp_path / "a")["model.safetensors"] != files(tmp_path / "b")["model.safetensors"]


def test_a_prepared_model_loads_as_qwen3_in_float32_with_the_tokenizers_vocabulary() -> None:
    folder = tiny_model(SMALL, progress=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer) == SMALL.vocab_size
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == SMALL.max_positions
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 100_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 500_000
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 0)


def test_the_shipped_model_is_what_the_default_recipe_makes(tmp_path: Path) -> None:
    """Weights depend on the processor's rounding, so they are held by the recipe and by the loss that it reaches."""
    spec = TinyModelSpec()
    assert json.loads((SHIPPED / cache.PREPARED).read_text()) == model_settings(spec)
    write_model(spec.model_copy(update={"steps": 0}), tmp_path / "untrained", progress=False)
    untrained, shipped = files(tmp_path / "untrained"), files(SHIPPED)
    assert set(shipped) == {*untrained, cache.PREPARED}
    assert [name for name in untrained if shipped[name] != untrained[name]] == ["model.safetensors"]

    prepared = tiny_model(spec, progress=False)
    assert files(prepared) == shipped
    tokenizer, fresh = AutoTokenizer.from_pretrained(prepared), random.Random("fresh demonstrations")
    rows = [
        tokenize(ChatPieces(tokenizer), demonstrate(fresh, draw(fresh, "train"), spec.quality, 256)) for _ in range(128)
    ]
    model = AutoModelForCausalLM.from_pretrained(prepared)
    losses = [batch_loss(model, torch.tensor([row.ids]), torch.tensor([row.model_mask])).item() for row in rows]
    assert 0.25 < sum(losses) / len(losses) < 0.31


def test_the_warm_start_lowers_the_loss() -> None:
    spec = SMALL.model_copy(update={"steps": 40, "batch_size": 8})
    tokenizer = build_tokenizer(spec.vocab_size, spec.seed, spec.max_positions)
    losses: list[float] = []
    warm_start(build_model(spec, tokenizer), tokenizer, spec, losses.append)
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_warm_start_leaves_torch_as_it_was() -> None:
    tokenizer = build_tokenizer(SMALL.vocab_size, SMALL.seed, SMALL.max_positions)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    warm_start(build_model(SMALL, tokenizer), tokenizer, SMALL)
    inside = torch.get_num_threads()
    torch.set_num_threads(before)
    assert inside == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_the_loss_is_the_mean_over_the_models_own_tokens_and_blind_to_padding() -> None:
    tokenizer = build_tokenizer(SMALL.vocab_size, SMALL.seed, SMALL.max_positions)
    model, rng = build_model(SMALL, tokenizer), random.Random(0)
    own = tokenize(ChatPieces(tokenizer), demonstrate(rng, draw(rng, "train"), Quality(mental=0.0), 256))
    ids, mask = torch.tensor([own.ids]), torch.tensor([own.model_mask])
    log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
    wanted = [i for i, mine in enumerate(own.model_mask) if mine]
    expected = -sum(log_probs[i - 1, own.ids[i]] for i in wanted) / len(wanted)
    assert tokenizer.eos_token_id in {own.ids[i] for i in wanted}
    torch.testing.assert_close(batch_loss(model, ids, mask), expected)
    pad = torch.zeros(1, 7, dtype=torch.long)
    torch.testing.assert_close(batch_loss(model, torch.cat([ids, pad], 1), torch.cat([mask, pad], 1)), expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": -1}, "model_spec.steps=-1: must be greater than or equal to 0"),
        ({"steps": True}, "model_spec.steps=True: must be a valid integer"),
        ({"hidden_size": 0}, "model_spec.hidden_size=0: must be greater than or equal to 1"),
        ({"kv_heads": 3}, "model_spec.kv_heads=3: must divide heads=2"),
        ({"head_dim": 7}, "model_spec.head_dim=7: rotary embeddings need an even number"),
        ({"muon_lr": float("inf")}, "model_spec.muon_lr=inf: must be a finite number"),
        ({"quality": {"misread": 1.5}}, "model_spec.quality.misread=1.5: must be less than or equal to 1"),
        ({"quality": {"mistake": 0.5}}, "model_spec.quality.mistake=0.5: no such field; "),
    ],
)
def test_settings_that_make_no_model_are_refused_by_name(given: Any, says: str) -> None:
    (problem,) = problems(TinyModelSpec, given, "model_spec")
    assert problem.startswith(says)


def test_data_rows_have_verls_columns_and_the_right_answers() -> None:
    train, test = arithmetic_dataset(ArithmeticSpec(train_size=50, test_size=10))
    for path, split, count in ((train, "train", 50), (test, "test", 10)):
        rows = pq.read_table(path).to_pylist()
        assert len(rows) == count
        for i, row in enumerate(rows):
            assert row["data_source"] == "arithmetic"
            assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
            assert row["prompt"][0]["content"] == SYSTEM_PROMPTS["short"]
            assert row["prompt"][1]["content"].startswith("Start with ")
            assert int(row["reward_model"]["ground_truth"]) == float(row["reward_model"]["ground_truth"])
            assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (i, split)


def test_data_files_share_no_problem_and_hold_none_twice() -> None:
    train, test = arithmetic_dataset(ArithmeticSpec(train_size=4096, test_size=256))
    ids = [
        [row["problem_id"] for row in pq.read_table(path, columns=["extra_info"])["extra_info"].to_pylist()]
        for path in (train, test)
    ]
    assert [len(set(split)) for split in ids] == [4096, 256]
    assert not set(ids[0]) & set(ids[1])


def test_a_larger_data_set_begins_with_the_smaller_one() -> None:
    small = arithmetic_dataset(ArithmeticSpec(train_size=20, test_size=5))
    large = arithmetic_dataset(ArithmeticSpec(train_size=40, test_size=5))
    assert small != large
    assert pq.read_table(large[0]).slice(0, 20).to_pylist() == pq.read_table(small[0]).to_pylist()


def test_an_empty_data_set_is_refused() -> None:
    (problem,) = problems(ArithmeticSpec, {"test_size": 0}, "dataset_spec")
    assert problem == "dataset_spec.test_size=0: must be greater than or equal to 1"


def test_a_prepared_folder_is_found_again_and_says_what_made_it() -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "data").write_text("x")

    first = cache.cached("models", "m", {"a": 1, "b": [2]}, build)
    assert cache.cached("models", "m", {"b": [2], "a": 1}, build) == first
    assert cache.cached("models", "m", {"a": 2, "b": [2]}, build) != first
    assert len(calls) == 2
    assert json.loads((first / "prepared.json").read_text()) == {"a": 1, "b": [2]}


def test_a_build_that_fails_leaves_nothing_behind() -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.cached("models", "m", {}, build)
    assert list((cache.cache_root() / "models").iterdir()) == []


def test_of_two_builds_of_the_same_thing_the_first_to_finish_wins() -> None:
    def build(folder: Path) -> None:
        def other_build(other: Path) -> None:
            (other / "data").write_text("other")

        cache.cached("models", "m", {}, other_build)
        (folder / "data").write_text("mine")

    final = cache.cached("models", "m", {}, build)
    assert (final / "data").read_text() == "other"
    assert [path.name for path in final.parent.iterdir()] == [final.name]


def test_the_first_steps_show_no_flaw_and_the_later_ones_do() -> None:
    tokenizer = build_tokenizer(SMALL.vocab_size, SMALL.seed, SMALL.max_positions)
    flawed = Quality(misread=0.0, mental=0.0, failing_call=1.0, second_call=0.0)
    spec = SMALL.model_copy(update={"clean_steps": 32, "batch_size": 4, "quality": flawed})
    shown = demonstration_batches(spec, ChatPieces(tokenizer), tokenizer.pad_token_id)
    texts = [tokenizer.batch_decode(next(shown)[0]) for _ in range(48)]
    assert not any("NameError" in text for batch in texts[:32] for text in batch)
    assert all("NameError" in text for batch in texts[32:] for text in batch)
