"""The options that all stages share, and where their settings come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

if TYPE_CHECKING:  # what reads settings loads the contracts; `--help` needs none of them
    from schemas.base import Contract

C = TypeVar("C", bound="Contract")

CONFIG_VARIABLE, RUN_CONFIG_VARIABLE, SET_VARIABLE = "ZSQ_CONFIG", "ZSQ_RUN_CONFIG", "ZSQ_SET"
OVERWRITE_VARIABLE, GIVEN_SET_VARIABLE = "ZSQ_OVERWRITE", "ZSQ_GIVEN_SET"
CONFIGURATION_VARIABLES = (CONFIG_VARIABLE, RUN_CONFIG_VARIABLE, SET_VARIABLE, OVERWRITE_VARIABLE, GIVEN_SET_VARIABLE)
"""Environment variables that stand in for options; containers are configured through them."""

ConfigFile = Annotated[
    Path | None, typer.Option("--config", envvar=CONFIG_VARIABLE, metavar="FILE", help="YAML file of this stage alone")
]
RunConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--run-config",
        envvar=RUN_CONFIG_VARIABLE,
        metavar="FILE",
        help="YAML file of a whole run, of which this stage takes its part; --config goes before it",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", envvar=SET_VARIABLE, metavar="KEY=VALUE", help="change one setting of the file; can be repeated"
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", envvar=OVERWRITE_VARIABLE, help="replace what was made with other settings"),
]
GivenSet = Annotated[
    Path | None,
    typer.Option(
        "--given-set",
        envvar=GIVEN_SET_VARIABLE,
        metavar="FOLDER",
        help="finished set in place of what synth makes, as of `zsq set pull`; for containers",
    ),
]


def read_config(model: type[C], path: Path | None, assignments: Sequence[str] | None) -> C:
    """A configuration from a YAML file (None: the defaults) and `key=value` assignments on top of it.

    Raises:
        ConfigError: the file cannot be read, or a setting is not valid.
    """
    from schemas.base import read_config_values, set_by_dotted_key, validate_config

    values = read_config_values(path) if path else {}
    for assignment in assignments or ():
        values = set_by_dotted_key(values, assignment)
    return validate_config(model, values, str(path) if path else "--set")


def read_stage_config(
    stage: Literal["synth", "qat", "eval"],
    model: type[C],
    config: Path | None,
    run_config: Path | None,
    assignments: Sequence[str] | None,
) -> C:
    """The settings of a stage: from its own file, or else its section of a run's file, checked as a whole.

    Args:
        stage: name of the section.
        model: the stage's configuration contract.
        config: YAML file of the stage.
        run_config: YAML file of a run, read where `config` is None.
        assignments: `key=value`; keys are those of the file that is read (`images` or `synth.images`).

    Raises:
        ConfigError: the file cannot be read, or a setting is not valid (in a run's file: of any stage).
    """
    from schemas.run_config import RunConfig

    if config is None and run_config is not None:
        section = read_config(RunConfig, run_config, assignments).for_stage(stage)
        assert isinstance(section, model)
        return section
    return read_config(model, config, assignments)
