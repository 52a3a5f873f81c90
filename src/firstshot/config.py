"""The experiment's config: layers, checks with messages that help, and what follows from it for this data.

Imported while the workflow is planned, so nothing heavy comes in here. `Plan` answers the rules' questions: which
machine types are enhanced, which frontends are trained on what, which systems exist for a machine type.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from firstshot import data, dcase
from firstshot.errors import UserError

SYNTHETIC = "synthetic"  # in place of a noise folder or a checkpoint: made by the workflow itself
NOT_LISTED = data.Facts("", 1000, 100, 200, 10, True, 2, "mixed")  # assumed of recordings that are not there yet


# ---------------------------------------------------------------------------------------------- layers and the schema


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay configs over one another: mappings are merged key by key, everything else is replaced."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = layered(result[key], value) if both else value
    return result


def load(*paths: Path) -> dict[str, Any]:
    """Read config files and lay each over those before it."""
    return layered(*(yaml.safe_load(path.read_text()) or {} for path in paths))


def check(config: Mapping[str, Any], schema_file: Path) -> None:
    """Raise UserError that lists every key and value the schema does not know, with the nearest right one."""
    import jsonschema

    schema = yaml.safe_load(schema_file.read_text())
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    messages = sorted({message for error in errors for message in _messages(error)})
    if messages:
        raise UserError("the config has mistakes:\n  " + "\n  ".join(messages))


def _messages(error: Any) -> Iterable[str]:
    place = ".".join(map(str, error.absolute_path)) or "config"
    inside = "" if place == "config" else f"{place}."
    match error.validator:
        case "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in set(error.instance) - set(known):
                yield f"{inside}{key}: unknown key{_nearest(key, known)}"
        case "required":
            for key in set(error.validator_value) - set(error.instance):
                yield f"{inside}{key}: missing"
        case "enum":
            yield f"{place}: found {error.instance!r}{_nearest(str(error.instance), map(str, error.validator_value))}"
        case "pattern":
            yield f"{place}: found {error.instance!r}; expected {error.schema.get('description', 'another form')}"
        case "oneOf":
            yield f"{place}: found {error.instance!r}; expected {error.schema.get('description', 'another form')}"
        case _:
            yield f"{place}: {error.message}"


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else ""


# ----------------------------------------------------------------------------------------------------- the recordings


def facts(config: Mapping[str, Any]) -> dict[str, data.Facts]:
    """What is known of each machine type before any job has run.

    Raises UserError for a machine type that the data do not have. Recordings that are not there yet are taken to be
    complete; `missing` lists them.
    """
    source, machines = config["data"]["source"], config["machines"]
    if source == "dcase":
        return {machine: dcase.facts(config["data"]["year"], machine) for machine in machines}
    if source == SYNTHETIC:
        made = config["data"]["synthetic"]["machines"]
        _known("machines", machines, made)
        return {machine: data.synthetic_facts(machine, config["data"]["synthetic"]) for machine in machines}
    if missing_recordings(config):
        return {machine: NOT_LISTED._replace(machine=machine) for machine in machines}
    return {machine: _listed_facts(config["data"], machine) for machine in machines}


def _listed_facts(settings: Mapping[str, Any], machine: str) -> data.Facts:
    manifest = Path(settings["manifest"]) if settings["source"] == "manifest" else None
    listed = data.clips(
        Path(settings["folder"]), machine, manifest=manifest, kind=settings["supplement_kind"].get(machine)
    )
    found = data.facts(listed, machine)
    for split, count in (("train", found.train), ("test", found.test)):
        if not count:
            raise UserError(
                f"{machine}: no {split} clips in {settings['folder']}; add some or take {machine} off `machines`"
            )
    return found


def missing_recordings(config: Mapping[str, Any]) -> list[str]:
    """Folders and csv files of recordings that the config names and that are not there (none are asked of DCASE)."""
    settings = config["data"]
    if settings["source"] not in ("folder", "manifest"):
        return []
    if settings["source"] == "manifest" and not settings["manifest"]:
        raise UserError("data.source is manifest, but data.manifest names no csv file")
    named = [settings["folder"], *([settings["manifest"]] if settings["source"] == "manifest" else [])]
    return [f"recordings: {path} (data.folder or data.manifest)" for path in named if not Path(path).exists()]


def missing(plan: "Plan") -> list[str]:
    """Everything a run needs from outside and does not find, one line each with what to do."""
    config = plan.config
    lacking = missing_recordings(config)
    folder = config["noise"]["folder"]
    if plan.enhanced and folder != SYNTHETIC and not Path(folder).is_dir():
        lacking.append(
            f"noise for enhancement: {folder} (noise.folder). Any folder of audio files serves: AudioSet clips as in "
            "the paper, or a public pool such as MUSAN, FSD50K or ESC-50; or skip enhancement by enhance.skip"
        )
    for name in plan.checkpoints:
        file = config["checkpoints"][name]["file"]
        if file != SYNTHETIC and not Path(file).is_file():
            lacking.append(f"checkpoint of {name}: {file} (checkpoints.{name}.file). {WHERE_FROM[name]}")
    return lacking


WHERE_FROM = {
    "beats": "Get BEATs_iter3.pt (about 360 MB) from the BEATs page of github.com/microsoft/unilm",
    "eat": "Get EAT-base_epoch10_pt.pt from the page of github.com/cwx-worst-one/EAT",
    "sslam": "Get SSLAM_Pretrained/checkpoint_last.pt from the page of github.com/ta012/SSLAM",
}


# -------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Pool:
    """Machine types that train frontends together, and those scored by these frontends."""

    name: str
    machines: tuple[str, ...]
    scored: tuple[str, ...]


class Plan:
    """What a config means for its data. `notices` says in words what was left out and why."""

    def __init__(self, config: Mapping[str, Any], known: Mapping[str, data.Facts] | None = None) -> None:
        self.config = config
        self.machines: list[str] = list(config["machines"])
        _once("machines", self.machines)
        self.facts = dict(known) if known is not None else facts(config)
        self.notices: list[str] = []
        self._check_names()
        self.pools = self._pools()
        self.pool_of = {machine: pool for pool in self.pools for machine in pool.scored}
        self.enhanced = self._enhanced()
        self.strategies = self._strategies()
        self.pseudo_labelled = self._pseudo_labelled()
        self.trained = {pool.name: self._trainable(pool) for pool in self.pools}
        self.systems = self._systems()
        self._check_schedules()

    # -- machine types

    def _check_names(self) -> None:
        config = self.config
        # Layers may keep another layer's lists while they replace the machine types.
        other = {machine for year in dcase.years() for machine in dcase.machines(year)}
        other |= set(config["data"]["synthetic"]["machines"])
        for key, listed in {
            "frontends_kept": config["frontends_kept"],
            "enhance.skip": config["enhance"]["skip"],
            "enhance.non_target": config["enhance"]["non_target"],
            "pseudo_label.machines": config["pseudo_label"]["machines"],
            "data.supplement_kind": list(config["data"]["supplement_kind"]),
        }.items():
            if not isinstance(listed, str):
                _known(key, listed, self.machines, other)

    def _chosen(self, listed: str | Sequence[str]) -> list[str]:
        return [machine for machine in self.machines if listed == "all" or machine in listed]

    def _pools(self) -> list[Pool]:
        pools, scored_by = [], dict[str, str]()
        _once("pools", [pool["name"] for pool in self.config["pools"]])
        for pool in self.config["pools"]:
            for key in ("machines", "also_scores"):
                if not isinstance(pool.get(key, []), str):
                    _known(f"pools {pool['name']!r}: {key}", pool.get(key, []), self.machines)
            trains = self._chosen(pool["machines"])
            if not trains:
                raise UserError(f"pools {pool['name']!r} has no machine types; name some or write `machines: all`")
            also = [machine for machine in self._chosen(pool.get("also_scores", [])) if machine not in trains]
            for machine in (*trains, *also):
                if machine in scored_by:
                    raise UserError(
                        f"pools: {machine} is scored by {scored_by[machine]!r} and by {pool['name']!r}; "
                        "name every machine type in one pool"
                    )
                scored_by[machine] = pool["name"]
            pools.append(Pool(pool["name"], tuple(trains), (*trains, *also)))
        left = [machine for machine in self.machines if machine not in scored_by]
        if left:
            raise UserError(f"pools: {', '.join(left)} are in no pool; add them to machines or also_scores of one")
        return pools

    def _enhanced(self) -> list[str]:
        wanted = [machine for machine in self.machines if machine not in self.config["enhance"]["skip"]]
        without = [machine for machine in wanted if not self.facts[machine].has_supplemental]
        if without:
            self.notices.append(
                f"no supplemental clips of {', '.join(without)}: not enhanced, the recordings are used as they are"
            )
        used = any("enhanced" in strategy or strategy.startswith("both") for strategy in self.config["strategies"])
        return [machine for machine in wanted if machine not in without] if used else []

    def non_target(self, machine: str) -> list[str]:
        """Machine types whose clips give the non-target term when `machine` is enhanced."""
        return [other for other in self._chosen(self.config["enhance"]["non_target"]) if other != machine]

    # -- strategies, frontends and systems

    def _strategies(self) -> list[str]:
        _once("strategies", self.config["strategies"])
        if self.enhanced:
            for machine in self.enhanced:
                if not self.non_target(machine):
                    self.notices.append(f"{machine}: no other machine type, enhancement drops the non-target term")
            return list(self.config["strategies"])
        kept = [strategy for strategy in self.config["strategies"] if strategy in ("noisy-org", "noisy-noisy")]
        if len(kept) < len(self.config["strategies"]):
            self.notices.append(f"nothing is enhanced: noisy strategies only ({', '.join(kept) or 'none listed'})")
        return kept

    def _pseudo_labelled(self) -> list[str]:
        listed = self.config["pseudo_label"]["machines"]
        if listed == "unlabeled":
            return [machine for machine in self.machines if not self.facts[machine].labelled]
        return self._chosen(listed)

    def _trainable(self, pool: Pool) -> bool:
        classes = sum(self.facts[machine].classes for machine in pool.machines)
        if classes < 2:
            self.notices.append(
                f"pool {pool.name!r} has {classes} class: frozen systems only. More machine types, attributes or "
                "target clips would let frontends be trained"
            )
        return classes >= 2

    def frontends(self, machine: str) -> list[tuple[str, str, str]]:
        """(pool, strategy, frontend) of every single system of a machine type, frozen ones last."""
        pool = self.pool_of[machine].name
        trained = self.strategies if self.trained[pool] else []
        return [
            *((pool, strategy, frontend) for strategy in trained for frontend in self.config["frontends"]),
            *(("frozen", "noisy-none", frontend) for frontend in self.config["frozen"]),
        ]

    def singles(self, machine: str) -> list[str]:
        """Ids of the systems of one strategy and one frontend."""
        return [f"{strategy}.{frontend}" for _, strategy, frontend in self.frontends(machine)]

    def _systems(self) -> list[dict[str, Any]]:
        """Ensembles of the config that exist for every machine type, members before those that mix them."""
        settings = self.config["ensemble"]
        for key in ("weights", "frozen_weights"):
            _whole(f"ensemble.{key}", settings[key])
        listed = settings["systems"]
        _once("ensemble.systems", [system["id"] for system in listed])
        of_strategies = {f"{s}.{f}" for s in self.config["strategies"] for f in self.config["frontends"]}
        of_strategies |= {f"noisy-none.{f}" for f in self.config["frozen"]}
        for system in listed:
            if "mix" in system:
                _whole(f"ensemble.systems {system['id']!r}", system["mix"])
                ids = [other["id"] for other in listed]
                _known(f"ensemble.systems {system['id']!r}: mix", system["mix"], ids, of_strategies)
        present = self._present(set.intersection(*(set(self.singles(machine)) for machine in self.machines)))
        if not present:
            raise UserError(
                "no system is left to score with: give `frozen` some frontends, or data from which frontends can be "
                f"trained ({'; '.join(self.notices)})"
            )
        kept = [dict(system) for system in listed if system["id"] in present]
        dropped = [system["id"] for system in listed if system["id"] not in present]
        if dropped:
            self.notices.append(f"systems left out because a member is not run: {', '.join(dropped)}")
        return kept

    def _present(self, singles: set[str]) -> set[str]:
        """Systems of which every member is there, and the single ones."""
        present, before = set(singles), -1
        while len(present) > before:
            before = len(present)
            for system in self.config["ensemble"]["systems"]:
                members = system["mix"] if "mix" in system else self._parts(system["strategy"])
                if members and set(members) <= present:
                    present.add(system["id"])
        return present

    def _parts(self, strategy: str) -> list[str]:
        frozen = strategy.endswith("-none")
        run = self.config["frozen" if frozen else "frontends"]
        weights = self.config["ensemble"]["frozen_weights" if frozen else "weights"]
        return [f"{strategy}.{frontend}" for frontend in run if weights.get(frontend, 0) > 0]

    @property
    def labels(self) -> dict[str, str]:
        """What each ensemble is called in tables and plots, by its id."""
        return {system["id"]: system.get("label", system["id"]) for system in self.systems}

    def system_ids(self, machine: str) -> list[str]:
        """Ids of all systems of a machine type, ensembles first."""
        return [*self.labels, *self.singles(machine)]

    @property
    def submissions(self) -> list[str]:
        """Systems of the challenge package that exist in this run."""
        known = set.intersection(*(set(self.system_ids(machine)) for machine in self.machines))
        return [system for system in self.config["report"]["submissions"] if system in known]

    def mapped(self, machine: str) -> tuple[str, str, str]:
        """(pool, strategy, frontend) of the single system whose embeddings the report maps."""
        wanted, there = self.config["report"]["embedding"], self.frontends(machine)
        return next((single for single in there if f"{single[1]}.{single[2]}" == wanted), there[0])

    @cached_property
    def checkpoints(self) -> list[str]:
        """Pre-trained networks that this run reads."""
        used = {*self.config["frozen"], *(self.config["frontends"] if any(self.trained.values()) else [])} - {"spec"}
        if self.enhanced or (self.pseudo_labelled and any(not s.endswith("-org") for s in self.strategies)):
            used.add("beats")
        return sorted(used)

    # -- schedules

    def _check_schedules(self) -> None:
        for machine in self.enhanced:
            settings = self.config["enhance"]
            steps = settings["epochs"] * (self.facts[machine].supplemental // settings["batch_size"])
            if not steps and settings["max_steps"] is None:
                raise UserError(
                    f"{machine}: {self.facts[machine].supplemental} supplemental clips do not fill one batch of "
                    f"enhance.batch_size {settings['batch_size']}; lower it or put {machine} on enhance.skip"
                )
            _outlasts_warmup(f"enhance ({machine})", settings, steps)
        for pool in self.pools:
            clips = sum(self.facts[machine].train for machine in pool.machines)
            for frontend in self.config["frontends"] if self.trained[pool.name] else ():
                settings = self.config["train"][frontend]
                _outlasts_warmup(
                    f"train.{frontend} (pool {pool.name!r})",
                    settings,
                    math.ceil(settings["epochs"] * math.ceil(clips / settings["batch_size"])),
                )


def _outlasts_warmup(what: str, settings: Mapping[str, Any], steps: int) -> None:
    steps = settings["max_steps"] if settings["max_steps"] is not None else steps
    if settings["warmup_steps"] and steps <= settings["warmup_steps"]:
        raise UserError(
            f"{what}: {steps} steps end inside the warm-up of {settings['warmup_steps']}; "
            "lower warmup_steps or raise epochs or max_steps"
        )


def _whole(what: str, weights: Mapping[str, float]) -> None:
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-3:
        raise UserError(f"{what}: the weights sum to {total:g}; they must sum to 1")


def _once(what: str, names: Sequence[str]) -> None:
    double = sorted({name for name in names if list(names).count(name) > 1})
    if double:
        raise UserError(f"{what} names {', '.join(double)} more than once")


def _known(what: str, names: Iterable[str], *known: Iterable[str]) -> None:
    allowed = [name for names_known in known for name in names_known]
    for name in names:
        if name not in allowed:
            raise UserError(f"{what}: {name!r} is not known{_nearest(name, allowed)}")
