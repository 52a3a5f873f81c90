"""The experiment's config: layers, checks with messages that help, and what follows from it for this data.

Imported while the workflow is planned, so nothing heavy comes in here. `Plan` answers the rules' questions: which
machine types are enhanced, which frontends are trained on what, which systems exist for a machine type.
"""

import copy
import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from firstshot import data, dcase
from firstshot.errors import UserError
from firstshot.schedule import of_enhancement, of_frontend

SYNTHETIC = "synthetic"  # in place of a noise folder or a checkpoint: made by the workflow itself
NOT_LISTED = data.Facts("", 1000, 100, 200, 10, True, 2, data.UNKNOWN)  # assumed of recordings that are not there yet
# In the order of Table 2 (① to ⑨) and Table 1. The order in which a config lists things decides nothing.
STRATEGIES = tuple(
    f"{audio}-{labels}" for audio in ("noisy", "enhanced", "both") for labels in ("org", "noisy", "enhanced")
)
UNENHANCED = {"noisy-org", "noisy-noisy"}
FRONTENDS = ("spec", "beats", "eat", "sslam")
SYSTEMS = (*map(str, range(1, 11)), *(f"T3-{number}" for number in range(1, 7)))  # ids of Tables 2 and 3


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
    """Read config files and lay each over those before it.

    Raises UserError for a file that cannot be read as YAML with keys and values.
    """
    return layered(*map(_mapping, paths))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and your permission") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as YAML ({reason}); mend that line, or write the file anew") from None
    if not isinstance(read, dict | None):
        raise UserError(
            f"{path}: holds {type(read).__name__} {str(read)[:40]!r}; expected keys and values, as in `seeds: [0]`"
        )
    return read or {}


def with_plain_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its paths in one form: `out/`, `./out` and `out` name one folder; `{year}` is filled in."""
    plain = copy.deepcopy(dict(config))
    plain["data"]["folder"] = plain["data"]["folder"].replace("{year}", str(plain["data"]["year"]))
    for section, keys in (
        (plain, ("results", "store")),
        (plain["data"], ("folder", "manifest")),
        (plain["noise"], ("folder",)),
        *((checkpoint, ("file",)) for checkpoint in plain["checkpoints"].values()),
    ):
        for key in keys:
            section[key] = section[key] and str(Path(section[key]))
    return plain


def check(config: Mapping[str, Any], schema_file: Path) -> None:
    """Raise UserError that lists every key and value the schema does not know, with the nearest right one."""
    if messages := mistakes(config, schema_file):
        raise UserError("the config has mistakes:\n  " + "\n  ".join(messages))


def mistakes(config: Mapping[str, Any], schema_file: Path) -> list[str]:
    """A line for every key and value the schema does not know, with the nearest right one."""
    import jsonschema

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where PyYAML has its C parts: a tenth of the time
    schema = yaml.load(schema_file.read_text(), Loader=loader)
    errors = jsonschema.Draft202012Validator(schema).iter_errors(config)
    return sorted({message for error in errors for message in _messages(error)})


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
        folder = Path(config["data"]["folder"])
        return {machine: dcase.facts(config["data"]["year"], machine, folder) for machine in machines}
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
    """Folders and csv files of recordings that the config names and that are not there; those of DCASE are fetched,
    unless the folder holds another year's.
    """
    settings = config["data"]
    if settings["source"] == "dcase":
        return _of_another_year(settings, config["machines"])
    if settings["source"] not in ("folder", "manifest"):
        return []
    if settings["source"] == "manifest" and not settings["manifest"]:
        raise UserError("data.source is manifest, but data.manifest names no csv file")
    named = [settings["folder"], *([settings["manifest"]] if settings["source"] == "manifest" else [])]
    return [f"recordings: {path} (data.folder or data.manifest)" for path in named if not Path(path).exists()]


def _of_another_year(settings: Mapping[str, Any], machines: Iterable[str]) -> list[str]:
    try:
        for machine in machines:
            dcase.refuse_another_year(settings["year"], machine, Path(settings["folder"]))
    except UserError as error:
        return [f"recordings: {error}"]
    return []


def to_fetch(config: Mapping[str, Any]) -> list[str]:
    """Archives of recordings that are not there and that a run would fetch, one line for each record."""
    settings = config["data"]
    if settings["source"] != "dcase":
        return []
    return dcase.to_fetch(settings["year"], config["machines"], Path(settings["folder"]))


def missing(plan: "Plan", enhances: bool = False) -> list[str]:
    """Everything a run needs from outside and does not find, one line each with what to do.

    `enhances`: the run trains an enhancement that the plan does not have, to inspect it.
    """
    config = plan.config
    lacking = missing_recordings(config)
    folder = config["noise"]["folder"]
    if (plan.enhanced or enhances) and folder != SYNTHETIC and not _holds_audio(Path(folder)):
        lacking.append(
            f"noise for enhancement: {folder} (noise.folder) is not there or holds no audio. Any folder of audio files "
            "serves: AudioSet clips as in the paper, or a public pool such as MUSAN, FSD50K or ESC-50; or skip "
            "enhancement by enhance.skip"
        )
    for name in sorted({*plan.checkpoints, *(["beats"] if enhances else [])}):
        file = config["checkpoints"][name]["file"]
        if file == SYNTHETIC:
            continue
        place = f"checkpoint of {name}: {file} (checkpoints.{name}.file)"
        if not Path(file).is_file():
            lacking.append(f"{place}. {WHERE_FROM[name]}")
        elif not _large_enough(Path(file), PARAMETERS[name]):
            lacking.append(
                f"{place} has {Path(file).stat().st_size} bytes, too few for {PARAMETERS[name]:,} parameters: not "
                f"the checkpoint, or a part of it. {WHERE_FROM[name]}"
            )
    return lacking


def _holds_audio(folder: Path) -> bool:
    """Whether some audio file lies below the folder; the search ends at the first."""
    return any(name.lower().endswith(data.NOISE_SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _large_enough(file: Path, parameters: int) -> bool:
    """Whether a file can hold so many parameters in half precision; the workflow's own untrained networks are small."""
    return file.stat().st_size >= 2 * parameters or b"UNTRAINED" in file.read_bytes()


# Parameters of each pre-trained network as it is used here; the files hold more, such as optimisers and teachers.
PARAMETERS = {"beats": 90_311_792, "eat": 89_972_736, "sslam": 89_972_736}
WHERE_FROM = {
    "beats": "Get BEATs_iter3.pt (about 361 MB) from the BEATs page of github.com/microsoft/unilm",
    "eat": "Get EAT-base_epoch10_pt.pt (at least 360 MB) from the page of github.com/cwx-worst-one/EAT",
    "sslam": "Get SSLAM_Pretrained/checkpoint_last.pt (at least 360 MB) from the page of github.com/ta012/SSLAM",
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
        _once("machines", config["machines"])
        self.machines: list[str] = sorted(config["machines"])
        self.frontends_run = [frontend for frontend in FRONTENDS if frontend in config["frontends"]]
        self.frozen = [frontend for frontend in FRONTENDS if frontend in config["frozen"]]
        self.seeds = sorted(config["seeds"])
        self.facts = dict(known) if known is not None else facts(config)
        self.notices: list[str] = []
        self._check_names()
        self.pools = self._pools()
        self.pool_of = {machine: pool for pool in self.pools for machine in pool.scored}
        self.trains = self._trainable()
        self.enhanced = self._enhanced()
        self.strategies = self._strategies()
        self.pseudo_labelled = self._pseudo_labelled()
        self.systems = self._systems()
        self._check_schedules()
        self._notice_few_clips()
        if "submission" in config["report"]["products"] and not self.developed_on:
            self.notices.append(
                "no challenge package: it states results of the development set, and machines names none of that set"
            )

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
        singles = [f"{strategy}.{frontend}" for strategy in (*STRATEGIES, "noisy-none") for frontend in FRONTENDS]
        _known("report.embedding", [config["report"]["embedding"]], singles)
        ids = [system["id"] for system in config["ensemble"]["systems"]]
        if "submission" in config["report"]["products"]:
            _known("report.submissions", config["report"]["submissions"], ids, singles, SYSTEMS)

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
            pools.append(Pool(pool["name"], tuple(trains), tuple(sorted([*trains, *also]))))
        left = [machine for machine in self.machines if machine not in scored_by]
        if left:
            raise UserError(f"pools: {', '.join(left)} are in no pool; add them to machines or also_scores of one")
        return sorted(pools, key=lambda pool: pool.name)

    def _enhanced(self) -> list[str]:
        """Machine types that are enhanced: those whose enhanced sound some training hears."""
        if not self.trains or set(self.config["strategies"]) <= UNENHANCED:
            return []
        wanted = [machine for machine in self.machines if machine not in self.config["enhance"]["skip"]]
        without = [machine for machine in wanted if not self.facts[machine].has_supplemental]
        if without:
            self.notices.append(
                f"no supplemental clips of {', '.join(without)}: not enhanced, the recordings are used as they are"
            )
        enhanced = [machine for machine in wanted if machine not in without]
        for machine in enhanced:
            kind, others = self.facts[machine].supplement, self.non_target(machine)
            if kind == data.MIXED:
                raise UserError(
                    f"{machine}: some supplemental clips are clean and some are noise; enhancement takes one kind. "
                    f"Say which (data.supplement_kind: {{{machine}: clean}} or noise), or put {machine} on enhance.skip"
                )
            if kind == "clean" and not others and self.facts[machine].classes < 2:
                raise UserError(
                    f"{machine}: all its clips are of one class, so TSE has nothing to classify; name other machine "
                    f"types under enhance.non_target, or put {machine} on enhance.skip"
                )
            if not others:
                self.notices.append(f"{machine}: no other machine type, enhancement drops the non-target term")
        return enhanced

    def non_target(self, machine: str) -> list[str]:
        """Machine types whose clips give the non-target term when `machine` is enhanced."""
        return [other for other in self._chosen(self.config["enhance"]["non_target"]) if other != machine]

    # -- strategies, frontends and systems

    def _strategies(self) -> list[str]:
        _once("strategies", self.config["strategies"])
        listed = [strategy for strategy in STRATEGIES if strategy in self.config["strategies"]]
        if not self.trains:
            return []
        kept = [strategy for strategy in listed if self.enhanced or strategy in UNENHANCED]
        if len(kept) < len(listed):
            self.notices.append(f"nothing is enhanced: noisy strategies only ({', '.join(kept) or 'none listed'})")
        return kept

    def _pseudo_labelled(self) -> list[str]:
        listed = self.config["pseudo_label"]["machines"]
        if listed == "unlabeled":
            return [machine for machine in self.machines if not self.facts[machine].labelled]
        return self._chosen(listed)

    def _trainable(self) -> bool:
        """Whether frontends are trained: systems are compared over all machine types, so every pool must be able to."""
        unable = []
        for pool in self.pools:
            classes = sum(self.facts[machine].classes for machine in pool.machines)
            if classes < 2:
                unable.append(pool.name)
                self.notices.append(
                    f"pool {pool.name!r} has {classes} class: frozen systems only. More machine types, attributes or "
                    "target clips would let frontends be trained"
                )
        if unable and len(unable) < len(self.pools):
            others = ", ".join(pool.name for pool in self.pools if pool.name not in unable)
            self.notices.append(
                f"pools {others}: frozen systems only as well, since every system has to score all machine types; join "
                f"{', '.join(unable)} with another pool, or run its machine types as an experiment of their own"
            )
        return not unable

    def frontends(self, machine: str) -> list[tuple[str, str, str]]:
        """(pool, strategy, frontend) of every single system of a machine type, frozen ones last."""
        pool = self.pool_of[machine].name
        return [
            *((pool, strategy, frontend) for strategy in self.strategies for frontend in self.frontends_run),
            *(("frozen", "noisy-none", frontend) for frontend in self.frozen),
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
        _refuse_circles(listed)
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
        """Systems of the challenge package that exist in this run; none where it could state no development results."""
        if not self.developed_on:
            return []
        known = set.intersection(*(set(self.system_ids(machine)) for machine in self.machines))
        return [system for system in self.config["report"]["submissions"] if system in known]

    @cached_property
    def developed_on(self) -> list[str]:
        """Machine types whose results a challenge package states: the development set, or all if there are no sets."""
        settings = self.config["data"]
        if settings["source"] != "dcase":
            return self.machines
        return dcase.machine_sets(settings["year"], self.machines).get("development", [])

    def mapped(self, machine: str) -> tuple[str, str, str]:
        """(pool, strategy, frontend) of the single system whose embeddings the report maps."""
        wanted, there = self.config["report"]["embedding"], self.frontends(machine)
        return next((single for single in there if f"{single[1]}.{single[2]}" == wanted), there[0])

    @cached_property
    def checkpoints(self) -> list[str]:
        """Pre-trained networks that this run reads."""
        used = {*self.frozen, *(self.frontends_run if self.trains else [])} - {"spec"}
        if self.enhanced or (self.pseudo_labelled and any(not s.endswith("-org") for s in self.strategies)):
            used.add("beats")
        return sorted(used)

    # -- schedules

    def _check_schedules(self) -> None:
        for machine in self.enhanced:
            of_enhancement(f"enhance ({machine})", self.facts[machine].supplemental, self.config["enhance"])
        for pool in self.pools:
            clips = sum(self.facts[machine].train for machine in pool.machines)
            for frontend in self.frontends_run:
                for copies in sorted({1 + strategy.startswith("both-") for strategy in self.strategies}):
                    heard = ", noisy and enhanced" if copies > 1 else ""
                    what = f"train.{frontend} (pool {pool.name!r}{heard})"
                    of_frontend(what, clips, copies, self.config["train"][frontend])

    def _notice_few_clips(self) -> None:
        """Say which classes may prove too small or too few once frontends are trained."""
        for machine in self.machines if self.trains else []:
            if lone := self.facts[machine].lone:
                classes = "class has" if lone == 1 else "classes have"
                self.notices.append(
                    f"{machine}: {lone} {classes} one training clip each (the log of data_index names them): nothing "
                    "within them to compare; add clips, or give attributes that more clips share"
                )
        clustered = [strategy for strategy in self.strategies if not strategy.endswith("-org")]
        for pool in self.pools:
            machine = pool.machines[0]
            alone = len(pool.machines) == 1 and machine in self.pseudo_labelled
            if clustered and alone and not self.facts[machine].target:
                self.notices.append(
                    f"{machine}: where all its clips fall into one cluster, {', '.join(clustered)} cannot be trained; "
                    "then take it off pseudo_label.machines, or leave these strategies out"
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


def _refuse_circles(systems: Sequence[Mapping[str, Any]]) -> None:
    try:
        TopologicalSorter({system["id"]: system.get("mix", {}) for system in systems}).prepare()
    except CycleError as error:
        raise UserError(
            f"ensemble.systems: {' > '.join(reversed(error.args[1]))}: a system cannot be a member of itself"
        ) from None
