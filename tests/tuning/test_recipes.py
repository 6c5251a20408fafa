"""Recipes: what a method means, and that Python, TOML and what is written down say the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tuning_data import made_recipe

from rankscope.errors import UnknownName, UsageError
from rankscope.tuning import train
from rankscope.tuning.config import GROUPS, Recipe, Stage
from rankscope.tuning.kinds import KINDS
from rankscope.tuning.options import options, read_options
from rankscope.tuning.recipes import LATER, METHODS, recipe_of


def stages(made: Recipe) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(stage.attach, stage.train) for stage in made.stages]


def test_there_are_as_many_methods_as_promised() -> None:
    assert len(METHODS) == 4 + 3 + 3 + 3


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("full", [(("full",), ("full",))]),
        ("prefix", [(("prefix",), ("prefix",))]),
        ("pt-lora", [(("prefix",), ("prefix",)), (("lora",), ("prefix", "lora"))]),
        ("pt-full", [(("prefix",), ("prefix",)), (("full",), ("prefix", "full"))]),
        ("prefix+lora", [(("prefix", "lora"), ("prefix", "lora"))]),
        ("lora-prefix", [(("lora",), ("lora",)), (("prefix",), ("lora", "prefix"))]),
        ("prefix,lora,scst", [(("prefix",), ("prefix",)), (("lora",), ("prefix", "lora")), ((), ("prefix", "lora"))]),
    ],
)
def test_a_method_says_what_is_attached_and_trained(method: str, expected: object) -> None:
    assert stages(made_recipe(method)) == expected


def test_a_frozen_prefix_is_not_trained_again() -> None:
    assert stages(made_recipe("pt-lora", freeze_prefix=True))[1] == (("lora",), ("lora",))


def test_a_later_stage_is_slower() -> None:
    first, second = made_recipe("pt-lora").stages
    assert first.learning_rate == KINDS["prefix"].learning_rate
    assert second.learning_rate == pytest.approx(LATER * KINDS["lora"].learning_rate)
    assert second.learning_rate < made_recipe("lora").stages[0].learning_rate


def test_a_file_says_the_same_as_options(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'epochs = [1, 2]\nfreeze_prefix = true\n[prefix]\nlength = 4\nstacks = ["decoder"]\n[lora]\nrank = 2\n'
    )
    read = read_options(file)
    same = made_recipe(
        "pt-lora", epochs=[1, 2], freeze_prefix=True, prefix_length=4, prefix_stacks="decoder", lora_rank=2
    )
    assert made_recipe("pt-lora", **read) == same
    assert [stage.epochs for stage in same.stages] == [1, 2]
    assert made_recipe("pt-lora") != same


def test_text_says_the_same_as_values() -> None:
    """As the command line has it."""
    text = {"steps": "200,100", "learning_rate": ".5e-3", "lora_targets": "q_proj, v_proj", "freeze_prefix": "true"}
    told = {"steps": [200, 100], "learning_rate": 5e-4, "lora_targets": ["q_proj", "v_proj"], "freeze_prefix": True}
    assert made_recipe("pt-lora", **text) == made_recipe("pt-lora", **told)
    assert made_recipe("pt-lora", freeze_prefix="false", lora_rank=None) == made_recipe("pt-lora")


def test_every_option_changes_the_recipe() -> None:
    other = {"schedule": "cosine", "prefix_init": "tokens", "precision": "bf16", "adapter_function": "relu"}
    given: dict[str, object] = {}
    for name, option in options().items():
        assert option.about.endswith(".")
        value = other.get(name) or (
            ("x",) if option.type == "names" else not option.default if option.type == "bool" else 0.5
        )
        given[name] = 3 if option.type == "int" else value
    swept = [name for name, value in given.items() if made_recipe("pt-lora", **{name: value}) != made_recipe("pt-lora")]
    assert swept == list(options())
    assert len(swept) == 39


def written(name: str) -> tuple[str, str]:
    """An option as a signature has it, and as a docstring explains it."""
    option, (group, _, own) = options()[name], name.partition("_")
    record = GROUPS[group].options if group in GROUPS else Stage if option.own else Recipe
    single = {f.name: f.type for f in fields(record)}[own if group in GROUPS else name]
    single = "str" if option.type == "names" else single
    several = f"{single} | Sequence[{single}] | None" if option.own or option.type == "names" else f"{single} | None"
    about = option.about[0].lower() + option.about[1:].removesuffix(".")
    named = option.default is None or option.type == "names"  # the sentence itself says what the default is
    return several, f"{name}: {about}." if named else f"{name}: {about}; {option.default} by default."


@pytest.mark.parametrize("function", [train])
def test_signatures_and_docstrings_name_every_option(function: Callable[..., Any]) -> None:
    """In the order of ``options()``, each with its type and its meaning; what fails here says what has to be written."""
    signature, explained = inspect.signature(function).parameters, " ".join(str(function.__doc__).split())
    assert [name for name in signature if name in options()] == list(options())
    for name in options():
        annotation, sentence = written(name)
        assert (signature[name].annotation, signature[name].default) == (annotation, None)
        assert sentence in explained
    for name in signature:
        assert f"        {name}: " in str(function.__doc__), f"{function.__name__}({name}=…)"


def test_what_is_asked_for_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('stages = "prefix,lora"\nlora_rank = 2\n[prefix]\nlength = 4\n')
    given = dict.fromkeys((*options(), "method", "stages")) | {"config": file, "prefix_length": 16}
    assert recipe_of(given) == made_recipe(stages="prefix,lora", lora_rank=2)
    assert recipe_of(given | {"method": "lora"}) == made_recipe("lora", lora_rank=2)
    with pytest.raises(UsageError, match="not both"):
        recipe_of(given | {"method": "lora", "stages": "full"})
    file.write_text("lora_rang = 3")
    with pytest.raises(UnknownName, match="a recipe has no option 'lora_rang'; it has learning_rate"):
        recipe_of(given | {"method": "lora"})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: made_recipe("lore"),
            UnknownName,
            "no method 'lore'; the methods are full, adapter, lora, prefix, pt-lora",
        ),
        (lambda: made_recipe("prefix,lore"), UnknownName, "stages of prefix, lora, adapter, full, scst"),
        (lambda: made_recipe(), UsageError, "give a method"),
        (lambda: made_recipe("lora", stages="lora"), UsageError, "not both"),
        (lambda: made_recipe("lora,lora"), UsageError, "attaches lora twice"),
        (lambda: made_recipe("scst"), UsageError, "scst is a stage of its own, after"),
        (
            lambda: made_recipe("lora", lora_rang=3),
            UnknownName,
            "a recipe has no option 'lora_rang'; it has learning_rate",
        ),
        (lambda: made_recipe("pt-lora", epochs=[1, 2, 3]), UsageError, "epochs has 3 values for 2 stages"),
        (lambda: made_recipe("lora", learning_rate=-1), UsageError, "cannot be negative"),
        (lambda: made_recipe("lora", batch_size=0), UsageError, "batch size of at least 1"),
        (lambda: made_recipe("lora", warmup=1.5), UsageError, "share of the steps"),
        (lambda: made_recipe("lora", precision="fp8"), UsageError, "no precision 'fp8'"),
        (lambda: made_recipe("lora", lora_rank="abc"), UsageError, "lora_rank is a whole number; got 'abc'"),
        (lambda: made_recipe("lora", lora_rank=2.5), UsageError, "lora_rank is a whole number; got 2.5"),
        (lambda: made_recipe("lora", steps=True), UsageError, "steps is a whole number, or one a stage; got True"),
        (lambda: made_recipe("lora", learning_rate="nan"), UsageError, "learning_rate is a number"),
        (lambda: made_recipe("pt-lora", freeze_prefix="no"), UsageError, "freeze_prefix is true or false; got 'no'"),
        (lambda: made_recipe("lora", lora_targets=[1]), UsageError, "lora_targets is a list of texts"),
        (lambda: made_recipe("lora", schedule="steep"), UsageError, "no schedule 'steep'; choose linear"),
        (lambda: made_recipe("lora", lora_rank=0), UsageError, "rank of LoRA must be at least 1"),
        (lambda: made_recipe("lora", lora_dropout=1), UsageError, r"LoRA's dropout must lie in \[0, 1\)"),
        (lambda: made_recipe("adapter", adapter_dropout=-1), UsageError, "adapter's dropout must lie in"),
        (lambda: made_recipe("lora,scst", scst_temperature=0), UsageError, "temperature must be above 0"),
        (lambda: made_recipe("lora", save_steps=-1), UsageError, "cannot be negative"),
        (lambda: made_recipe("prefix,scst", freeze_prefix=True), UsageError, "nothing to train but the prefix"),
        (lambda: read_options(Path("nowhere.toml")), UsageError, "no recipe nowhere.toml"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("epochs = = 3")
    with pytest.raises(UsageError, match="is not TOML"):
        read_options(tmp_path / "r.toml")
