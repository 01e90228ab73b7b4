"""Recipes as values: what cannot be trained is refused, identity, the schedule of every step."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from training.architectures import make_model, norm_gains, residual_writers
from training.ladder import LADDER, ladder_recipe
from training.loop import TrainingRun, clip_limit
from training.recipe import Recipe
from training.schedule import batch_at, learning_rate_at

REALS = {f.name for f in fields(Recipe) if f.type in ("float", "ClipNorm")}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("clip_norm", 0),
        ("clip_norm", {"median": 0}),
        ("clip_norm", {"mean": 1.0}),
        ("dtype", "fp8"),
        ("schedule", "step"),
        ("architecture", "mamba"),
        ("steps", 0),
        ("weight_decay", -0.1),
        ("warmup_steps", 41),
        ("heads", 3),
        ("kv_heads", 2),
        ("decay_fraction", 0.0),
    ],
)
def test_a_variant_that_cannot_be_is_refused_by_name(tiny_recipe, field, value):
    with pytest.raises(ValueError, match=field):
        replace(tiny_recipe, **{field: value})


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_a_value_of_another_type_is_refused_by_name(tiny_recipe, name):
    """True is no number, nor is infinity; what takes true or false takes no number."""
    wrong = [
        True,
        math.nan,
        math.inf,
        -math.inf,
        "x",
        [],
        {},
        {"median": True},
        {"median": math.inf},
    ]
    allowed = {"decay_norms": [True]}.get(name, [])
    for value in (*wrong, 1.5 if name not in REALS else None):
        if value in allowed or (value is None and name in ("clip_norm", "heads", "kv_heads")):
            continue
        with pytest.raises(ValueError, match=name):
            Recipe.from_dict({**tiny_recipe.as_dict(), name: value})


def test_half_precision_norms_are_no_field(tiny_recipe):
    with pytest.raises(ValueError, match="unknown field 'norm_dtype'"):
        Recipe.from_dict({**tiny_recipe.as_dict(), "dtype": "fp16", "norm_dtype": "fp16"})


def test_a_recipe_survives_json_and_its_digest_sees_every_change(tiny_recipe):
    again = Recipe.from_dict(json.loads(json.dumps(tiny_recipe.as_dict())))
    assert again == tiny_recipe and again.digest == tiny_recipe.digest
    changed = [
        replace(tiny_recipe, seed=4),
        replace(tiny_recipe, dropout=0.1),
        replace(tiny_recipe, clip_norm=None),
        replace(tiny_recipe, clip_norm={"median": 1.0}),
        replace(tiny_recipe, decay_norms=True),
    ]
    assert len({r.digest for r in [tiny_recipe, *changed]}) == 1 + len(changed)


def test_first_manifests_lack_the_later_fields_and_still_load():
    values = ladder_recipe("sotu-opt-64x4").as_dict()
    for later in ("kv_heads", "heads", "dtype", "schedule", "decay_norms", "loss_scale"):
        del values[later]
    assert Recipe.from_dict(values) == ladder_recipe("sotu-opt-64x4")


def test_schedules_warm_up_then_decay_as_they_say(tiny_recipe):
    recipe = replace(tiny_recipe, steps=1000, warmup_steps=10)
    peak = recipe.learning_rate
    cosine = [learning_rate_at(s, recipe) for s in range(1000)]
    assert cosine[0] == pytest.approx(peak / 10)
    assert max(cosine) == pytest.approx(peak)
    assert cosine[-1] == pytest.approx(peak / 10, rel=1e-2)
    constant = [learning_rate_at(s, replace(recipe, schedule="constant")) for s in range(1000)]
    assert constant[:10] == cosine[:10] and set(constant[10:]) == {peak}
    late = replace(recipe, schedule="constant-decay", decay_fraction=0.2)
    rates = [learning_rate_at(s, late) for s in range(1000)]
    assert rates[10:801] == constant[10:801] and rates[801] < peak
    assert rates[900] == pytest.approx(peak * (0.1 + 0.9 / 2))
    assert learning_rate_at(1000, late) == pytest.approx(peak / 10)


def test_variants_of_one_seed_start_alike_and_see_the_same_text(tiny_recipe):
    stream = torch.arange(5000) % 300
    variant = replace(tiny_recipe, dropout=0.4, dtype="bf16", weight_decay=0.001)
    assert torch.equal(batch_at(7, stream, tiny_recipe), batch_at(7, stream, variant))
    first, second = (TrainingRun(r, stream, 0) for r in (tiny_recipe, variant))
    assert all(map(torch.equal, first.weights.parameters, second.weights.parameters))
    other = batch_at(7, stream, replace(tiny_recipe, seed=4))
    assert not torch.equal(batch_at(7, stream, tiny_recipe), other)


@pytest.mark.parametrize("architecture", ["gpt_neox", "opt", "llama", "bloom", "gpt2"])
def test_dropout_acts_before_the_residual_additions_only(tiny_recipe, architecture):
    recipe = replace(tiny_recipe, architecture=architecture, n_layers=2, dropout=0.5)
    model = make_model(recipe, end_of_text_id=0)
    assert len(residual_writers(model, architecture)) == 4
    zeros: dict[str, float] = {}

    def count(name):
        return lambda module, inputs, output: zeros.__setitem__(
            name, (output == 0).float().mean().item()
        )

    writers = residual_writers(model, architecture)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) or module in writers:
            module.register_forward_hook(count("writer" if module in writers else name))
    ids = torch.randint(1, 300, (4, 32))
    torch.manual_seed(0)
    first = model(input_ids=ids).logits
    assert zeros.pop("writer") == pytest.approx(0.5, abs=0.05)
    assert max(zeros.values()) < 0.01
    assert not torch.equal(first, model(input_ids=ids).logits)
    model.eval()
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_clipping_by_the_runs_own_median():
    assert clip_limit(None, [1.0] * 50) is None
    assert clip_limit(0.5, []) == 0.5
    assert clip_limit({"median": 2.0}, [1.0] * 19) is None
    assert clip_limit({"median": 2.0}, [1.0] * 15 + [3.0] * 16) == 6.0


def test_clipping_by_half_the_median_touches_nearly_every_step(tiny_recipe):
    stream = torch.arange(5000) % 300
    run = TrainingRun(replace(tiny_recipe, clip_norm={"median": 0.5}), stream, 0)
    free = TrainingRun(replace(tiny_recipe, clip_norm=None), stream, 0)
    for _ in range(25):
        run.step()
        free.step()
    assert run.history.clipped >= 3 and free.history.clipped == 0
    assert run.history.norms[:20] == free.history.norms[:20]
    assert run.history.losses != free.history.losses


def test_decay_reaches_the_norms_only_if_asked(tiny_recipe):
    stream = torch.arange(5000) % 300
    for asked in (False, True):
        recipe = replace(tiny_recipe, decay_norms=asked, weight_decay=1.0)
        run = TrainingRun(recipe, stream, 0)
        decayed = {id(p) for p in run.optimizer.param_groups[0]["params"]}
        gains = norm_gains(run.model)
        assert len(gains) == 2 * recipe.n_layers + 1
        assert all((id(p) in decayed) == asked for p in gains)
        biases = [p for n, p in run.model.named_parameters() if n.endswith("bias")]
        assert not any(id(p) in decayed for p in biases)


@pytest.mark.parametrize("family", ["sotu-neox", "sotu-opt", "sotu-llama", "sotu-bloom"])
def test_ladder_counts_its_linear_parameters(family):
    from quantizers.wiring import wiring_of

    for h, n in LADDER:
        recipe = ladder_recipe(f"{family}-{h}x{n}")
        with torch.device("meta"):
            model = make_model(recipe, end_of_text_id=0)
        counted = sum(site.weight.numel() for site in wiring_of(model).linear)
        assert counted == recipe.linear_params
    assert model.config.num_attention_heads == 8
    assert getattr(model.config, "num_key_value_heads", 8) == (2 if "llama" in family else 8)


def test_unknown_rung_is_refused():
    with pytest.raises(ValueError, match="known: sotu-neox-32x2"):
        ladder_recipe("sotu-neox-33x2")
