"""From the command line to a checked, resolved configuration, and to objects.

Besides the commands themselves and ``sweep.py``, this is the only module that imports Hydra. It
imports neither torch nor Lightning, so that ``--help`` answers at once.
"""

import difflib
import functools
import hashlib
import inspect
import json
import logging
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from msa_lightning import sweep
from msa_lightning.errors import USER_ERRORS, ConfigError, JobError

_PACKAGE = Path(__file__).resolve().parent
CONF = str(next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if p.is_dir()))
"""The configuration tree: inside an installed package, or at the top of a checkout."""

# Hydra copies its store of registered configs, which nobody changes, for every group that --help
# lists and every configuration it composes; that was two thirds of the time that --help took.
setattr(ConfigStore, "__deepcopy__", lambda store, memo: store)  # noqa: B010

_TEXT_KEYS = "|".join(  # what is text as it stands: paths, ids, sentences
    [
        "run|runs|base|input|init_from|out|expect|reference|transcripts|text|preview|shard|asr_model",
        r"paths\.\w+|(?:adapters|beside)\.\w+|(?:data\.)?source\.(?:folder|labels|folds|transcripts|path)",
        r"extractor\.\w+\.(?:path|encoder|model)",
    ]
)
_TEXT_ARGUMENT = re.compile(rf"^\+{{0,2}}({_TEXT_KEYS})=(.*)", re.S)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a console script of a function of the composed configuration.

    The script exits with 2 and one line of explanation when the user's input is at fault, and with
    1 when a job ran and failed. Hydra's own errors keep their message and code 1. In a sweep the
    other jobs still run, and those that failed are listed at its end.

    Args:
        config_name: Primary config in ``conf/``.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(main)
        def job(cfg: DictConfig) -> Any:
            log_to_stdout()  # once more: a launcher may have brought the job to another process
            if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
                # joblib's, of which the job's own child processes would know nothing
                multiprocessing.set_start_method("spawn", force=True)
            try:
                if sweep.under_way() and "TORCHELASTIC_RUN_ID" in os.environ:
                    raise ConfigError(
                        "-m: under torchrun every device would sweep for itself; start msa-train "
                        "-m without torchrun, it starts the devices of each job"
                    )
                return sweep.run(main, cfg, _known_run(cfg)) if sweep.under_way() else main(cfg)
            except USER_ERRORS as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(2) from None
            except JobError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None
            except KeyboardInterrupt:
                print("interrupted; the same command goes on from here", file=sys.stderr)
                raise SystemExit(130) from None

        def script() -> None:
            log_to_stdout()
            sys.argv[1:] = _quote_paths(sys.argv[1:])
            code: str | int | None = 0
            try:
                hydra.main(version_base="1.3", config_path=CONF, config_name=config_name)(job)()
            except SystemExit as stop:
                code = stop.code
            failed, listing = sweep.failed_jobs()
            if failed and code in (0, 1):  # 1 is also what Hydra makes of a failed job
                print(f"\n{listing}", file=sys.stderr)
                code = 2 if all(job.code == 2 for job in failed) else 1
            if code:
                raise SystemExit(code)

        return script

    return decorate


def log_to_stdout() -> None:
    """Print what is logged as it stands."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.raiseExceptions = False  # no traceback when the output goes to a closed pipe (| head)
    for name in ("msa_lightning", "hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it logs it also raises


def _quote_paths(arguments: list[str]) -> list[str]:
    """Quote paths for Hydra's grammar: spaces, brackets, commas and ``=`` are part of a path."""
    sweep = "-m" in arguments or "--multirun" in arguments
    return [_quote_path(argument, sweep=sweep) for argument in arguments]


def _quote_path(argument: str, *, sweep: bool = False) -> str:
    match = _TEXT_ARGUMENT.match(argument)
    if not match or match[2] in ("", "null", "???") or match[2][0] in "'\"":
        return argument
    if sweep and "," in match[2] and not Path(match[2]).exists():
        return argument  # a sweep over paths
    key = argument[: match.start(2)]
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", match[2])
    trailing = len(quoted) - len(quoted.rstrip("\\"))
    return f"{key}'{quoted}{chr(92) * trailing}'"


def compose(config_name: str, settings: dict[str, Any], paths: DictConfig) -> DictConfig:
    """Compose the configuration of another command, inside a command, and name its run folder.

    Args:
        config_name: Primary config in ``conf/``.
        settings: What would stand on that command's line, nested or with dotted keys.
        paths: Where files lie, of the command that asks.

    Raises:
        ConfigError: If that command would not take them.
    """
    overrides = [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in _leaves(settings, "")
    ]
    try:
        cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(f"msa-{config_name} {' '.join(overrides)}: {error}") from error
    hydra_cfg = cfg.hydra
    with open_dict(cfg):
        del cfg["hydra"]
    for key in ("data", "prepared", "cache", "runs"):
        cfg.paths[key] = str(Path(paths[key]).absolute())
    cfg.paths.run = str(run_folder(cfg, hydra_cfg))
    return cfg


def resolve(cfg: DictConfig) -> DictConfig:
    """Resolve every interpolation, now: later ones fail in spawned and submitted processes.

    Raises:
        ConfigError: If a value is missing (``???``) or an interpolation has no target.
    """
    if missing := sorted(_missing(OmegaConf.to_container(cfg), "")):
        raise ConfigError("\n".join(f"{key}: missing; give it as {key}=<value>" for key in missing))
    try:
        container = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error.msg}") from error
    return OmegaConf.create(container)  # type: ignore[return-value]


def _missing(node: Any, key: str) -> Iterator[str]:
    """Keys whose value is still to be given (``???``)."""
    if node == "???":
        yield key
    for name, child in _children(node, key):
        yield from _missing(child, name)


def _children(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values below a node."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield f"{key}.{name}" if key else str(name), child
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield f"{key}[{i}]", child


def _leaves(node: dict[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is no dict itself."""
    for name, child in node.items():
        dotted = f"{key}.{name}" if key else str(name)
        if isinstance(child, dict) and child:
            yield from _leaves(child, dotted)
        else:
            yield dotted, child


def resolve_but_paths(cfg: DictConfig) -> DictConfig:
    """Resolve everything except what refers to ``paths``, so that a stored run can be moved."""
    marked = cfg.copy()
    marked.paths = {key: f"<paths.{key}>" for key in cfg.paths}
    text = OmegaConf.to_yaml(resolve(marked))
    unmarked = OmegaConf.create(re.sub(r"<(paths\.\w+)>", r"${\1}", text))
    assert isinstance(unmarked, DictConfig)
    unmarked.paths = resolve(cfg.paths)
    return unmarked


def validate(cfg: DictConfig, supplied: Mapping[str, set[str]], also: Sequence[str] = ()) -> None:
    """Bind every ``_target_`` of a resolved configuration to its signature.

    Args:
        cfg: Resolved configuration.
        supplied: For a node (by its dotted key), the arguments that code passes later.
        also: Nodes to build, because their constructors check more than a signature can say.

    Raises:
        ConfigError: With one line per fault, all at once.
    """
    faults = list(_faults(OmegaConf.to_container(cfg), "", supplied))
    for key in also:
        if not any(fault.startswith(key) for fault in faults):
            try:
                instantiate(cfg[key])
            except ConfigError as error:
                faults += str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(faults))


def _faults(node: Any, key: str, supplied: Mapping[str, set[str]]) -> Iterator[str]:
    for name, child in _children(node, key):
        yield from _faults(child, name, supplied)
    if not isinstance(node, dict) or "_target_" not in node:
        return
    target = node["_target_"]
    try:
        if target == "hydra.utils.get_method":
            hydra.utils.get_method(target := node["path"])
            return
        function = hydra.utils.get_object(target)
        parameters = inspect.signature(function).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        yield f"{key}: cannot import {target} ({' '.join(str(error).split())})"
        return
    given = {name for name in node if not re.fullmatch(r"_\w+_", name)}
    for name in sorted(given & parameters.keys()):
        annotation = _annotations(function).get(name, Any)
        if not isinstance(node[name], dict) and not _fits(node[name], annotation):
            wanted = annotation.__name__ if isinstance(annotation, type) else str(annotation)
            yield f"{key}.{name}: {node[name]!r} is not {wanted.replace('typing.', '')}"
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any:
        for name in sorted(given - parameters.keys()):
            close = difflib.get_close_matches(name, parameters, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            yield f"{key}: {target} got an unexpected keyword argument '{name}'{hint}"
    if node.get("_partial_"):
        return
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    for name in sorted(required - given - supplied.get(key, set())):
        yield f"{key}: {target} needs '{name}'; add {key}.{name}=<value>"


def _annotations(function: Any) -> dict[str, Any]:
    """Types of the parameters, where they can be found."""
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):
        return {}


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value from a config file can be meant by an annotation; generics are not judged."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(annotation))
    if annotation is float:
        return isinstance(value, int | float)
    if (
        not isinstance(annotation, type)
        or annotation is Any
        or getattr(annotation, "_is_protocol", False)
    ):
        return True
    is_path = isinstance(value, str) and issubclass(annotation, PurePath)
    return is_path or isinstance(value, annotation)


def instantiate(node: DictConfig, /, **supplied: Any) -> Any:
    """Build what a config node describes, with plain containers and arguments supplied by code.

    Raises:
        ConfigError: If a constructor refuses its arguments.
    """
    try:
        if not supplied:
            return hydra.utils.instantiate(node, _convert_="all")
        return hydra.utils.instantiate(node, _convert_="all", _partial_=True)(**supplied)
    except USER_ERRORS:
        raise
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, USER_ERRORS):
            raise cause from error
        raise ConfigError(f"{node.get('_target_')}: {cause}") from error
    except (TypeError, ValueError, _misconfigured()) as error:
        raise ConfigError(f"{node.get('_target_')}: {error}") from error


def _misconfigured() -> type[Exception]:
    """Lightning's own exception for a wrong setting, if Lightning is in use."""
    module = sys.modules.get("lightning_fabric.utilities.exceptions")
    return getattr(module, "MisconfigurationException", ValueError)


def settings(cfg: DictConfig) -> dict[str, Any]:
    """Everything that can change a result.

    Where files lie, who watches, how batches are loaded, and how many devices share the work do not
    count.
    """
    content: Any = OmegaConf.to_container(resolve_but_paths(cfg), resolve=False)
    for key in ("paths", "logger", "hydra", "again"):
        content.pop(key, None)
    for key in ("extraction", "num_workers", "pin_memory"):  # the extractors stand apart
        content.get("data", {}).pop(key, None)
    for key in ("devices", "num_nodes", "strategy", "accelerator"):
        content.get("trainer", {}).pop(key, None)
    return content  # type: ignore[no-any-return]


def fingerprint(cfg: DictConfig) -> str:
    """Eight hex digits of the settings."""
    return hashlib.sha256(json.dumps(settings(cfg), sort_keys=True).encode()).hexdigest()[:8]


def _known_run(cfg: DictConfig) -> str:
    """Name of the run that a job begins; empty for a job without one, or with one given by path."""
    later = "base" in cfg and not cfg.base  # what a run of msa-transfer is called depends on it
    if "seed" not in cfg or OmegaConf.select(cfg, "paths.run") or later:
        return ""
    try:
        if cfg.get("base"):
            from msa_lightning.adapters.spaces import choose_data  # imports torch, as the next
            from msa_lightning.run import locate_runs

            cfg = cfg.copy()
            locate_runs(cfg)
            cfg = choose_data(cfg) if "beside" in cfg else cfg
        return run_name(cfg)
    except (*USER_ERRORS, OmegaConfBaseException):  # which the job will explain
        return ""


def run_folder(cfg: DictConfig, hydra_cfg: DictConfig | None = None) -> Path:
    """Where a run belongs: ``runs/<experiment>/<readable overrides>-seed<k>-<fingerprint>``.

    A folder that ends in the same seed and fingerprint is this run, however it was asked for.

    Args:
        cfg: Its configuration.
        hydra_cfg: Hydra's own part of it; None is that of the command that runs.
    """
    folder = Path(cfg.paths.runs) / run_name(cfg, hydra_cfg)
    ending = f"-seed{cfg.seed}-{fingerprint(cfg)}"
    same = (path for path in folder.parent.glob(f"*{ending}") if path != folder)
    return folder if folder.exists() else next(iter(sorted(same)), folder)


def run_name(cfg: DictConfig, hydra_cfg: DictConfig | None = None) -> str:
    """Name a run: ``<experiment>/<readable overrides>-seed<k>-<fingerprint>``."""
    own: Any = hydra_cfg or (HydraConfig.get() if HydraConfig.initialized() else None)
    choices = own.runtime.choices if own else {}
    experiment = choices.get("experiment") or choices.get("data") or "run"
    overrides = own.overrides.task if own else []
    devices = r"trainer\.(devices|num_nodes|strategy|accelerator)"
    left_out = re.compile(
        rf"[+~]*(experiment|data|seed|sweep|trainer|{devices}|again|(paths|logger|hydra)\b.*)="
    )
    readable = "_".join(sorted(o.lstrip("+~") for o in overrides if not left_out.match(o)))
    readable = re.sub(r"\d+\.\d{5,}(e-\d+)?", lambda n: f"{float(n[0]):.3g}", readable)
    readable = re.sub(r"[^A-Za-z0-9.,_-]+", "-", readable)[:80].strip("-_.")
    return f"{experiment}/{readable or 'default'}-seed{cfg.get('seed', 0)}-{fingerprint(cfg)}"


def save(cfg: DictConfig, path: Path, script: str) -> None:
    """Write a configuration that Hydra can run again as it stands.

    Args:
        cfg: Configuration, resolved but for ``paths``.
        path: Where ``config.yaml`` goes; written whole or not at all.
        script: The command that reads it, ``msa-train`` say.
    """
    head = (
        "# The resolved configuration of this run. The same run once more, in another folder:\n"
        f"#   {script} --config-path <this folder> --config-name config paths.run=<new folder>\n"
        "defaults:\n"
        "  [_self_, {override hydra/job_logging: none}, {override hydra/hydra_logging: none}]\n"
        "hydra: {run: {dir: .}, output_subdir: null}\n"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(head + OmegaConf.to_yaml(cfg))
    temporary.replace(path)


def load(path: Path) -> DictConfig:
    """Read back what :func:`save` wrote, without the part that is Hydra's."""
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    for key in ("defaults", "hydra"):
        cfg.pop(key, None)
    return cfg
