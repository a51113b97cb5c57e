"""The text of a card: metadata that the Hub accepts, and the sections of the template."""

import os
import re
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from evaluation_gill.results import Results

from .edits import card_text
from .facts import Facts

TEMPLATE = Path(__file__).with_name("card.md.jinja")
_DATASETS = {
    "vist": ("vist", "VIST"),
    "visdial": ("visdial", "VisDial 1.0"),
    "partiprompts": ("partiprompts", "PartiPrompts"),
    "captions": ("captions", "captions"),
}


def make_card(facts: Facts, template: str | os.PathLike[str] = TEMPLATE) -> str:
    """The text of a card with its generated sections marked, see [`hub_card.edits`].

    Raises:
        OSError: the template cannot be read.
        ValueError: it uses an unknown field, or is not a jinja template.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"megabytes": _megabytes, "protocol": _protocol, "cell": _cell}
    # Not dataclasses.asdict: the template's own names are the attributes of the dataclasses.
    fields = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    try:
        text = environment.from_string(Path(template).read_text(encoding="utf-8")).render(**fields)
    except jinja2.UndefinedError as error:
        raise ValueError(
            f"The template {str(template)!r} uses an unknown name: {error.message}. Expected names are "
            f"{', '.join(sorted(fields))}."
        ) from error
    except jinja2.TemplateError as error:
        raise ValueError(f"The template {str(template)!r} is not a jinja template: {error}") from error
    body = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return card_text(metadata(facts), body)


def metadata(facts: Facts) -> dict[str, Any]:
    """Metadata of the card, as the Hub reads it."""
    bases = [base.name for base in facts.base_models if base.on_hub]
    results = [result for result in facts.results if result.system.get("kind") == "gill"]
    datasets = list(facts.datasets)
    if facts.retrieval_set is not None and facts.retrieval_set.name:
        datasets.append(facts.retrieval_set.name)
    evaluated = [_eval_result(result, metric) for result in results for metric in result.metrics]
    metrics = list(dict.fromkeys(result.metric_type for result in evaluated))
    data = ModelCardData(
        base_model=bases or None,
        datasets=datasets or None,
        eval_results=evaluated or None,
        language=facts.languages or None,
        library_name="transformers" if facts.retrieves_only else "diffusers",
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        metrics=metrics or None,
        model_name=facts.name if evaluated else None,
        pipeline_tag="any-to-any",
        tags=[
            "fromage" if facts.retrieves_only else "dreamllm" if facts.generates_only else "gill",
            "multimodal",
            *([] if facts.generates_only else ["image-retrieval"]),
            *([] if facts.retrieves_only else ["text-to-image"]),
        ],
    )
    fields = data.to_dict()
    if shown := [sample for sample in facts.samples if sample.generated or sample.retrieved]:
        fields["widget"] = [
            {"text": sample.prompt, "output": {"url": sample.generated or sample.retrieved}} for sample in shown
        ]
    if not evaluated:
        fields.pop("model_name", None)
    return fields


def _eval_result(result: Results, metric: Any) -> EvalResult:
    """A metric with the protocol that it was measured under."""
    kind, name = _DATASETS.get(result.task.split()[0], (result.task.split()[0], result.task))
    interval = {} if metric.interval is None else {"interval_95": [round(bound, 6) for bound in metric.interval]}
    return EvalResult(
        task_type="any-to-any",
        task_name=f"{result.task}, {result.protocol['context']}" if "context" in result.protocol else result.task,
        dataset_type=kind,
        dataset_name=name,
        dataset_args={
            key: result.protocol[key] for key in ("annotations", "annotations_sha256") if key in result.protocol
        }
        or None,
        metric_type=metric.name,
        metric_name=metric.name,
        metric_value=round(metric.value, 6),
        # Without a verification token, which only the Hub's own evaluations have.
        metric_args={"examples": metric.examples, **interval, "protocol": _plain(result.protocol)},
    )


def _plain(value: Any) -> Any:
    """Without `None`, which the Hub's validator refuses."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return value


def _protocol(protocol: dict[str, Any], prefix: str = "") -> str:
    entries = []
    for name, value in protocol.items():
        if isinstance(value, dict):
            entries.append(_protocol(value, f"{prefix}{name.replace('_', ' ')} "))
        elif value is not None:
            shown = "line break" if value == "\n" else "space" if value == " " else str(value)
            entries.append(f"{prefix}{name.replace('_', ' ')}: {shown}")
    return "; ".join(entries)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


__all__ = ["TEMPLATE", "make_card", "metadata"]
