"""Configs: layers, messages about mistakes, and what follows for machine types, strategies and systems."""

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from firstshot import config, data
from firstshot.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
FULL = config.load(ROOT / "config/config.yaml")
FACTS = data.Facts("", 28, 8, 20, 4, True, 6, "noise")


def tiny(**changes: Any) -> dict[str, Any]:
    return config.layered(config.load(ROOT / "config/config.yaml", ROOT / "config/tiny.yaml"), changes)


def plan(given: dict[str, Any], **facts: data.Facts) -> config.Plan:
    return config.Plan(given, {machine: facts.get(machine, FACTS) for machine in given["machines"]})


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config").glob("*.yaml")))
def test_every_config_of_the_repository_fits_the_schema(name: str) -> None:
    config.check(config.load(ROOT / "config/config.yaml", ROOT / f"config/{name}.yaml"), SCHEMA)


def test_every_object_of_the_schema_refuses_unknown_keys_and_describes_its_own() -> None:
    def objects(node: Any) -> Any:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for child in node.values():
                yield from objects(child)
        elif isinstance(node, list):
            for child in node:
                yield from objects(child)

    schema = yaml.safe_load(SCHEMA.read_text())
    found = list(objects(schema))
    assert len(found) > 30
    for node in found:
        assert node["additionalProperties"] is False or isinstance(node["additionalProperties"], dict)
        for key, child in node.get("properties", {}).items():
            assert "description" in child or key in ("strategy",), key


def test_layers_merge_mappings_and_replace_lists() -> None:
    merged = config.layered({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": {"spec": {"learning_rat": 1}}},
            r"train\.spec\.learning_rat: unknown key; did you mean 'learning_rate'",
        ),
        ({"esemble": {}}, r"esemble: unknown key; did you mean 'ensemble'"),
        ({"strategies": ["noisy-orgg"]}, r"strategies\.0: found 'noisy-orgg'; did you mean 'noisy-org'"),
        ({"score": {"distance": "cosinus"}}, r"score\.distance: found 'cosinus'; did you mean 'cosine'"),
        ({"seeds": ["a"]}, r"seeds\.0: 'a' is not of type 'integer'"),
        ({"train": {"mixup_probability": 2}}, r"train\.mixup_probability: 2 is greater than the maximum"),
        ({"machines": ["my/fan"]}, r"machines\.0: found 'my/fan'; expected a machine type's name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_named_with_the_nearest_right_word(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.check(config.layered(FULL, change), SCHEMA)


def test_all_mistakes_are_told_at_once() -> None:
    wrong = config.layered(FULL, {"score": {"smote": 1}, "metric": {"pauc": 1}})
    with pytest.raises(UserError, match=r"(?s)metric\.pauc.*score\.smote"):
        config.check(wrong, SCHEMA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machines": ["hammer", "spindel"]}, r"machines: 'spindel' is not known; did you mean 'spindle'"),
        ({"machines": ["hammer", "hammer"]}, r"machines names hammer more than once"),
        ({"enhance": {"skip": ["spindel"]}}, r"enhance\.skip: 'spindel' is not known; did you mean 'spindle'"),
        ({"pools": [{"name": "a", "machines": ["hammer"]}]}, r"spindle are in no pool"),
        (
            {"pools": [{"name": "a", "machines": "all"}, {"name": "b", "machines": ["hammer"]}]},
            r"hammer is scored by 'a' and by 'b'",
        ),
        ({"ensemble": {"weights": {"spec": 0.9}}}, r"ensemble\.weights: the weights sum to 1\.4; they must sum to 1"),
        (
            {"ensemble": {"systems": [{"id": "x", "mix": {"noisy-org.spec": 0.5}}]}},
            r"'x': the weights sum to 0\.5",
        ),
        (
            {"ensemble": {"systems": [{"id": "x", "mix": {"noisy-org.spek": 1}}]}},
            r"'x': mix: 'noisy-org\.spek' is not known; did you mean 'noisy-org\.spec'",
        ),
        ({"train": {"eat": {"warmup_steps": 3}}}, r"train\.eat .*3 steps end inside the warm-up of 3"),
        ({"enhance": {"warmup_steps": 3}}, r"enhance \(hammer\): 3 steps end inside the warm-up of 3"),
        ({"enhance": {"batch_size": 8, "max_steps": None}}, r"hammer: 4 supplemental clips do not fill one batch"),
    ],
)
def test_a_contradiction_is_told_before_any_job(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.Plan(tiny(**change))


def test_the_full_experiment_has_all_systems_of_the_paper() -> None:
    paper = config.Plan(FULL)
    assert not paper.notices
    assert list(paper.labels) == [*map(str, range(1, 11)), *(f"T3-{n}" for n in range(1, 7))]
    assert len(paper.enhanced) == 11 and len(paper.pseudo_labelled) == 7
    assert len(paper.singles("fan")) == 9 * 4 + 3


def test_table_3_is_made_of_the_systems_it_names() -> None:
    systems = {system["id"]: system for system in FULL["ensemble"]["systems"]}
    assert set(systems["T3-1"]["mix"]) == {"5", "6"}
    assert set(systems["T3-2"]["mix"]) == {"7", "8", "9"}
    assert set(systems["T3-3"]["mix"]) == {"2", "3", "5", "6"}
    assert systems["T3-4"]["mix"] == {"1": 0.75, "10": 0.25}
    assert systems["T3-5"]["mix"] == {"T3-2": 0.75, "10": 0.25}
    assert systems["T3-6"]["mix"] == {"T3-3": 0.75, "10": 0.25}


def test_without_supplement_noisy_strategies_only() -> None:
    bare = FACTS._replace(supplemental=0, supplement=None)
    found = plan(tiny(), hammer=bare, spindle=bare)
    assert found.enhanced == [] and found.strategies == ["noisy-org"]
    assert any("no supplemental clips of hammer" in notice for notice in found.notices)
    assert list(found.labels) == ["1"] and found.singles("hammer") == ["noisy-org.spec", "noisy-org.eat"]


def test_one_machine_type_drops_the_non_target_term_with_a_notice() -> None:
    found = plan(tiny(machines=["hammer"]))
    assert found.non_target("hammer") == []
    assert any("drops the non-target term" in notice for notice in found.notices)


def test_fewer_than_two_classes_leave_frozen_systems_only() -> None:
    found = plan(tiny(machines=["hammer"], frozen=["eat"]), hammer=FACTS._replace(classes=1))
    assert found.singles("hammer") == ["noisy-none.eat"]
    assert any("frozen systems only" in notice for notice in found.notices)


def test_nothing_to_score_with_is_an_error() -> None:
    with pytest.raises(UserError, match="no system is left"):
        plan(tiny(machines=["hammer"]), hammer=FACTS._replace(classes=1))


def test_a_mixture_of_systems_that_are_not_run_is_left_out_with_a_notice() -> None:
    found = plan(tiny(strategies=["noisy-org"]))
    assert list(found.labels) == ["1"]
    assert any("6, mean" in notice for notice in found.notices)


def test_mixtures_may_stand_before_their_members() -> None:
    given = copy.deepcopy(tiny())
    given["ensemble"]["systems"].reverse()
    assert sorted(plan(given).labels) == ["1", "6", "mean"]


def test_a_machine_type_can_be_scored_by_a_pool_it_did_not_train() -> None:
    found = plan(tiny(pools=[{"name": "all", "machines": ["hammer"], "also_scores": ["spindle"]}]))
    assert found.pool_of["spindle"].machines == ("hammer",)


def test_everything_missing_is_listed_at_once() -> None:
    missing = "\n".join(config.missing(config.Plan(FULL)))
    for part in ("noise.folder", "checkpoints.beats.file", "checkpoints.eat.file", "checkpoints.sslam.file"):
        assert part in missing


def test_environment_and_lock_file_name_the_same_versions() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    (pip,) = [entry["pip"] for entry in environment()["dependencies"] if isinstance(entry, dict)]
    named = dict(entry.split("==") for entry in pip)
    assert named == {name: pins[name] for name in named}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[<>=!]", dependency)[0].lower() for dependency in project} == set(named)


def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "envs/firstshot.yaml").read_text())


def test_the_lock_file_holds_versions_only() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[\w.-]+==[\w.!-]+", line) for line in lines)
