"""Configurations from `name=value` arguments: one request, or every run of a sweep.

Hydra composes. This module says in a line what is wrong with a request, and takes a sweep from any YAML file.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import resolvers
from experiments.errors import BadRequest

CONFIGS = Path(__file__).parent / "configs"
#: Groups that a request chooses from, and where their files lie.
GROUPS = {
    **{name: CONFIGS / name for name in ("method", "model", "dataset")},
    **{name: resolvers.PROJECT_ROOT / name for name in ("sweeps", "slurm")},
}


#: Under this name Hydra finds a sweep that was given as a file.
SWEEP_FILE = "_file"
#: Fields that stand at the top of a configuration; all else there are groups of fields.
PLAIN = ("dry_run", "wait", "preflight")


def choices(group: str) -> list[str]:
    """What the group offers; files with a leading underscore are parts of others."""
    return sorted(path.stem for path in GROUPS[group].glob("*.yaml") if not path.stem.startswith("_"))


def composed(arguments: Sequence[str]) -> DictConfig:
    """The configuration of one run.

    Raises:
        BadRequest: there is none of these arguments.
    """
    with _reading(arguments) as overrides:
        return _composed([_line(item) for item in overrides])


def composed_sweep(arguments: Sequence[str], multirun: bool = True) -> list[tuple[list[str], DictConfig]]:
    """Every run that `arguments` ask for, each with the overrides that tell it apart.

    A sweep's `hydra.sweeper.params` are a grid, its `hydra.sweeper.points` lists of overrides that go together. Commas
    in `arguments` are a grid as well, and win over both.

    Args:
        arguments: `name=value`, of Hydra's grammar.
        multirun: commas may stand without a sweep or a cluster profile, which mean many runs by themselves.

    Raises:
        BadRequest: there is no configuration of these arguments.
    """
    with _reading(arguments) as overrides:
        fixed = [_line(item) for item in overrides if not item.is_sweep_override()]
        swept = [_line(item) for item in overrides if item.is_sweep_override()]
        base = compose("run", overrides=fixed, return_hydra_config=True)
        grid, points = (base.hydra.sweeper.get(name) or {} for name in ("params", "points"))
        if swept and not (multirun or grid or points or base.slurm.executor != "none"):
            name, _, value = swept[0].partition("=")
            raise BadRequest(
                f"{swept[0]}: asks for several runs; add -m, or quote it if it is one value: '{name}=\"{value}\"'"
            )
        given = {item.get_key_element() for item in overrides}
        own = [f"{name}={value}" for name, value in grid.items() if name not in given]
        parser = _parser()
        runs: dict[tuple[str, ...], None] = {}
        for point in points or [[]]:
            kept = [item for item in point if item.partition("=")[0] not in given]
            asked = parser.parse_overrides([*own, *swept, *kept])
            overrides += asked
            (combinations,) = BasicSweeper.split_arguments(asked, None)
            runs.update(dict.fromkeys(map(tuple, combinations)))
        return [(list(each), _composed([*fixed, *each])) for each in runs]


@contextlib.contextmanager
def _reading(arguments: Sequence[str]) -> Iterator[list[Override]]:
    """The parsed arguments, within a Hydra that composes them; turns its errors into lines."""
    resolvers.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given: dict[str, Override] = {}
        for argument in map(_with_sweep_file, dict.fromkeys(arguments)):
            override = _parsed(argument)
            name = override.get_key_element().lstrip("+~")
            if name in given:
                raise BadRequest(f"{name} is given twice, {_line(given[name])} and {argument}; give it once")
            given[name] = override
        parsed = list(given.values())
        try:
            if nodes := [item for item in parsed if _replaces_a_node(item)]:
                fix = f"is a group of fields; set one of them, {nodes[0].key_or_group}.<field>=..."
                raise BadRequest(_unknown(nodes) or f"{_line(nodes[0])}: {fix}")
            yield parsed
        except HydraException as error:
            raise BadRequest(_unknown(parsed) or _words(error)) from error
        except OmegaConfBaseException as error:
            raise BadRequest(f"{error.full_key}: {_words(error)}") from error


def _replaces_a_node(item: Override) -> bool:
    """Whether a plain value is given to a group of fields: a name without a dot that is not in `PLAIN`."""
    name = item.key_or_group
    return not ("." in name or name in (*GROUPS, *PLAIN) or item.is_add() or isinstance(item.value(), dict))


def _composed(overrides: list[str]) -> DictConfig:
    return compose("run", overrides=overrides)


def _parser() -> OverridesParser:
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())


def _with_sweep_file(argument: str) -> str:
    """`sweeps=<path of a YAML file>` with the file's content under a name that Hydra finds."""
    name, _, value = argument.partition("=")
    if name != "sweeps" or not (value.strip("'\"").endswith((".yaml", ".yml")) or "/" in value):
        return argument
    path = Path(value.strip("'\"")).expanduser()
    try:
        content = OmegaConf.load(path)
    except OSError as error:
        raise BadRequest(f"sweeps={path}: {error.strerror}; or name one of {', '.join(choices('sweeps'))}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRequest(f"sweeps={path}: is not YAML ({_words(error)})") from None
    if not isinstance(content, DictConfig):
        raise BadRequest(f"sweeps={path}: is not a file of `name: value` lines; see sweeps/demo.yaml")
    ConfigStore.instance().store(group="sweeps", name=SWEEP_FILE, node=content, package="_global_")
    return f"sweeps={SWEEP_FILE}"


def _parsed(argument: str) -> Override:
    name, equals, value = argument.partition("=")
    if not name.strip("+~ ") or (not equals and not argument.startswith("~")):
        raise BadRequest(f"{argument!r}: give name=value")
    try:
        override = _parser().parse_override(argument)
    except HydraException:
        raise BadRequest(
            f"{argument}: cannot be read; close every bracket, and quote text with other signs than letters, digits, "
            f"/ . - and _, for example '{name}=\"{value.strip()}\"'"
        ) from None
    if override.key_or_group in GROUPS:
        _check_choice(argument, override)
    return override


def _check_choice(argument: str, override: Override) -> None:
    """Raises BadRequest unless a group's choices exist, a pattern or a file among them."""
    group, value = override.key_or_group, override.value()
    known = choices(group)
    if override.is_add() or override.is_delete() or override.package is not None:
        raise BadRequest(f"{argument}: has a choice already; change it with {group}=<one of {', '.join(known)}>")
    if isinstance(value, Glob):
        return
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if str(choice) not in (*known, SWEEP_FILE):
            near = difflib.get_close_matches(str(choice), known, n=1)
            hint = f" (do you mean {near[0]}?)" if near else ""
            raise BadRequest(f"{group}={choice}: there is none{hint}; there are {', '.join(known)}")


def _unknown(overrides: Sequence[Override]) -> str | None:
    """The first argument that names no field, with the nearest names; None if there is no such argument."""
    overrides = [item for item in overrides if not item.is_sweep_override() or item.key_or_group not in GROUPS]
    plain = [item for item in overrides if not item.is_add() and not item.is_force_add()]
    chosen = tuple(_line(item) for item in overrides if item not in plain or item.key_or_group in GROUPS)
    try:
        fields = _fields(chosen)
    except (HydraException, OmegaConfBaseException):
        return None
    for item in plain:
        name = item.key_or_group
        if name in GROUPS or name.startswith("hydra.") or name in fields:
            continue
        parent, _, last = name.rpartition(".")
        if f"{parent}.*" in fields:
            value = _line(item).partition("=")[2].strip("'\"")
            return f"{_line(item)}: {parent} takes any name, as an addition: '+{name}=\"{value}\"'"
        siblings = [known for known in fields if known.rpartition(".")[0] == parent]
        near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.7)
        near = near or sorted((known for known in fields if known.rpartition(".")[2] == last), key=len)[:3]
        near = near or difflib.get_close_matches(name, [*GROUPS, *fields], n=1, cutoff=0.8)
        hint = f"do you mean {' or '.join(near)}?" if near else "--cfg job lists all fields"
        return f"{_line(item)}: no such field; {hint}"
    return None


@functools.lru_cache(maxsize=4)
def _fields(chosen: tuple[str, ...]) -> list[str]:
    """Dotted names of all that the configuration of these overrides has; `name.*` for a node that is empty yet."""
    return list(_names(_composed(list(chosen))))


def _names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key!s}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            if not child:
                yield f"{prefix}{key!s}.*"
            yield from _names(child, f"{prefix}{key!s}.")


def _line(item: Override) -> str:
    return str(item.input_line)


def _words(error: Exception) -> str:
    """An error's own words in a line; Hydra's go on with a search path, or with advice to add what does not exist."""
    texts = [str(each) for each in (error, error.__cause__) if each is not None]
    first = [next((line.strip() for line in text.splitlines() if line.strip()), "") for text in texts]
    return ": ".join(dict.fromkeys(filter(None, first))) or type(error).__name__
