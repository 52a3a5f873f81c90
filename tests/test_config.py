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


@pytest.mark.parametrize("file", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_of_the_repository_fits_the_schema(file: Path) -> None:
    given = config.load(ROOT / "config/config.yaml", file)
    config.check(given, SCHEMA)
    if file.parent.name == "ablations":
        assert given["experiment"] == f"ablation-{file.stem}" and given != FULL | {"experiment": given["experiment"]}


def test_every_switch_where_the_paper_is_open_has_an_ablation() -> None:
    files = [config.load(file) for file in (ROOT / "config/ablations").glob("*.yaml")]
    assert [given["score"]["distance"] for given in files if "score" in given] == ["sqrt"]
    targets = {given.get("pseudo_label", {}).get("target") for given in files}
    assert targets == {"predict", "joint", None}
    assert {key for given in files for key in given.get("pseudo_label", {})} == {"covariance", "target", "machines"}
    assert {key for given in files for key in given.get("ensemble", {})} == {"standardise", "frozen_weights"}
    assert [given["train"]["beats"]["lora"]["targets"] for given in files if "train" in given] == [["q_proj", "v_proj"]]


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
        ({"train": {"eat": {"warmup_steps": 3}}}, r"train\.eat .* schedule of 3 steps ends inside its warm-up of 3"),
        (
            {
                "strategies": ["both-org"],
                "train": {"eat": {"epochs": 9, "epochs_both": 0.1, "max_steps": None, "warmup_steps": 5}},
            },
            r"train\.eat .*noisy and enhanced\): the schedule of 1 steps ends inside its warm-up of 5",
        ),
        ({"enhance": {"warmup_steps": 3}}, r"enhance \(hammer\): the schedule of 3 steps ends inside its warm-up of 3"),
        ({"enhance": {"accumulate": 3}}, r"enhance \(hammer\): a batch of 2 cannot be split into 3 equal parts"),
        ({"enhance": {"batch_size": 8}}, r"hammer\): 4 clips do not fill one batch of 8; lower batch_size"),
        (
            {"ensemble": {"systems": [{"id": "a", "mix": {"b": 1}}, {"id": "b", "mix": {"a": 1}}]}},
            r"ensemble\.systems: (a > b > a|b > a > b): a system cannot be a member of itself",
        ),
        (
            {"report": {"products": ["submission"], "submissions": ["meen"]}},
            r"report\.submissions: 'meen' is not known; did you mean 'mean'",
        ),
        (
            {"report": {"embedding": "noisy-orgg.spec"}},
            r"report\.embedding: 'noisy-orgg\.spec' is not known; did you mean 'noisy-org\.spec'",
        ),
        ({"enhance": {"batch_size": 8, "max_steps": None}}, r"hammer\): 4 clips do not fill one batch"),
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


def test_one_machine_type_of_one_class_is_not_enhanced_either() -> None:
    one = FACTS._replace(classes=1, labelled=False, target=0, supplement="clean")
    found = plan(tiny(machines=["hammer"], frozen=["beats"]), hammer=one)
    assert (found.trains, found.enhanced, found.strategies, found.checkpoints) == (False, [], [], ["beats"])
    assert found.singles("hammer") == ["noisy-none.beats"]
    assert not any("enhance" in notice for notice in found.notices)


def test_a_pool_that_cannot_be_trained_leaves_frozen_systems_to_all_and_is_named() -> None:
    pools = [{"name": "a", "machines": ["hammer"]}, {"name": "b", "machines": ["spindle"]}]
    found = plan(tiny(pools=pools, frozen=["eat"]), spindle=FACTS._replace(classes=1))
    assert {machine: found.singles(machine) for machine in found.machines} == {
        "hammer": ["noisy-none.eat"], "spindle": ["noisy-none.eat"],
    }  # fmt: skip
    assert not found.trains
    assert any("pools a: frozen systems only as well" in notice and "join b" in notice for notice in found.notices)


def test_nothing_to_classify_in_enhancement_is_told_before_any_job() -> None:
    one = FACTS._replace(classes=1, supplement="clean")
    with pytest.raises(UserError, match=r"hammer: all its clips are of one class.*enhance\.non_target"):
        plan(tiny(enhance={"non_target": ["hammer"]}), hammer=one)


def test_supplemental_clips_of_both_kinds_are_refused_where_they_are_used() -> None:
    mixed = FACTS._replace(supplement="mixed")
    with pytest.raises(
        UserError, match=r"hammer: some supplemental clips are clean .*supplement_kind: \{hammer: clean"
    ):
        plan(tiny(), hammer=mixed)
    assert plan(tiny(), spindle=mixed).enhanced == ["hammer"]  # spindle is on enhance.skip
    assert plan(tiny(), hammer=FACTS._replace(supplement="unknown")).enhanced == ["hammer"]


def test_classes_with_one_clip_are_told_before_any_job() -> None:
    found = plan(tiny(), spindle=FACTS._replace(lone=3))
    assert any(notice.startswith("spindle: 3 classes have one training clip each") for notice in found.notices)


def test_pseudo_labels_that_may_be_one_class_are_told_before_any_job() -> None:
    pools = [{"name": name, "machines": [name]} for name in ("hammer", "spindle")]
    found = plan(tiny(pools=pools, pseudo_label={"machines": "all"}), spindle=FACTS._replace(target=0))
    assert [notice.partition(":")[0] for notice in found.notices if "one cluster" in notice] == ["spindle"]


def test_the_order_of_lists_decides_nothing() -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key == "systems" else reordered(item) for key, item in value.items()}
        return value[::-1] if isinstance(value, list) else value

    pools = [{"name": "x", "machines": ["fan", "valve"]}, {"name": "a", "machines": "all", "also_scores": []}]
    for given in (
        FULL,
        {**FULL, "pools": [pools[0], {**pools[1], "machines": sorted({*FULL["machines"]} - {"fan", "valve"})}]},
    ):
        one, other = config.Plan(given), config.Plan(reordered(given))
        for said in (
            "machines",
            "pools",
            "enhanced",
            "strategies",
            "frontends_run",
            "frozen",
            "seeds",
            "pseudo_labelled",
        ):
            assert getattr(one, said) == getattr(other, said), said
        for machine in one.machines:
            assert one.non_target(machine) == other.non_target(machine)
            assert one.frontends(machine) == other.frontends(machine)


def test_the_evaluation_set_alone_has_no_package_and_the_development_set_alone_has_one() -> None:
    alone = config.Plan(FULL | {"machines": ["ToyPet", "Polisher"]})
    assert alone.submissions == [] and any("no challenge package" in notice for notice in alone.notices)
    developed = config.Plan(FULL | {"machines": ["fan", "valve"]})
    assert developed.submissions == FULL["report"]["submissions"]
    assert not any("no challenge package" in notice for notice in developed.notices)


def test_paths_have_one_form() -> None:
    given = config.layered(
        FULL,
        {
            "results": "out/", "store": "", "noise": {"folder": "../noise/"},
            "data": {"folder": "./recs//", "manifest": "a/./b.csv"},
            "checkpoints": {"eat": {"file": "x//eat.pt"}, "beats": {"file": "synthetic"}},
        },
    )  # fmt: skip
    plain = config.with_plain_paths(given)
    assert (plain["results"], plain["store"]) == ("out", "")
    assert (plain["data"]["folder"], plain["data"]["manifest"], plain["noise"]["folder"]) == (
        "recs",
        "a/b.csv",
        "../noise",
    )
    assert [plain["checkpoints"][name]["file"] for name in ("eat", "beats")] == ["x/eat.pt", "synthetic"]
    assert given["results"] == "out/"


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


def test_a_truncated_checkpoint_and_a_noise_folder_without_audio_are_missing_too(tmp_path: Path) -> None:
    given = copy.deepcopy(FULL)
    given["noise"]["folder"] = str(tmp_path)
    (tmp_path / "beats.pt").write_bytes(b"PK" * 1000)
    (tmp_path / "eat.pt").write_bytes(b"PK UNTRAINED")
    with (tmp_path / "sslam.pt").open("wb") as file:
        file.truncate(180_000_000)
    for name in given["checkpoints"]:
        given["checkpoints"][name]["file"] = str(tmp_path / f"{name}.pt")
    noise, checkpoint = config.missing(config.Plan(given))
    assert f"{tmp_path} (noise.folder) is not there or holds no audio" in noise
    assert "checkpoints.beats.file) has 2000 bytes, too few for 90,311,792 parameters" in checkpoint
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.FLAC").write_bytes(b"")
    assert config.missing(config.Plan(given)) == [checkpoint]


def test_the_data_folder_follows_the_year_and_another_years_is_refused(tmp_path: Path) -> None:
    given = copy.deepcopy(FULL)
    assert config.with_plain_paths(given)["data"]["folder"] == "data/dcase2025"
    given["data"] |= {"year": 2026, "folder": str(tmp_path / "{year}")}
    given["machines"] = ["ToyCar", "Sander"]
    given = config.with_plain_paths(given)
    assert given["data"]["folder"] == str(tmp_path / "2026")
    assert [line.rpartition("/")[2] for line in config.to_fetch(given)] == ["19336329", "20151556", "20437238"]
    assert config.missing_recordings(given) == []
    (tmp_path / "2026").mkdir()
    (tmp_path / "2026/dcase2025.lock.json").write_text('{"records/15097779/files/dev_ToyCar.zip": {}}')
    (line,) = config.missing_recordings(given)
    assert "holds ToyCar of DCASE 2025" in line


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
