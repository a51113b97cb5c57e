"""The picture book: a small drawn world whose ground truth is known exactly, and a GILL trained on it from scratch.

Rooms, each of which imports from those before it only:

* `world`: scenes, their drawings, the language about them, splits, and a reader that recognizes scenes in images
* `models`: architectures, tokenizers and losses
* `stages`: training, one stage per model
* `report`: tables, pages and the demo
"""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .arguments import (
        AblationArguments,
        DemoArguments,
        DreamArguments,
        DreamTablesArguments,
        EmbedArguments,
        EnglishArguments,
        FetchArguments,
        KnowledgeArguments,
        PicturebookTrainArguments,
        TablesArguments,
        WorldArguments,
    )
    from .checkpoint_folder import embed, find_checkpoint, find_dreamllm, find_smollm2_adapters
    from .models.dreamllm import load_dreamllm_pipeline
    from .models.smollm2 import fetch_language_model, load_smollm2_pipeline
    from .report.ablation_tables import write_ablations
    from .report.demo import demo
    from .report.dream_table import write_dream_tables
    from .report.knowledge_table import write_knowledge
    from .report.tables import write_tables
    from .report.world_report import write_world
    from .stages.train_dream import train_dream
    from .stages.train_english import train_english
    from .stages.training import train

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".arguments": [
            "AblationArguments",
            "DemoArguments",
            "DreamArguments",
            "DreamTablesArguments",
            "EmbedArguments",
            "EnglishArguments",
            "FetchArguments",
            "KnowledgeArguments",
            "PicturebookTrainArguments",
            "TablesArguments",
            "WorldArguments",
        ],
        ".report.ablation_tables": ["write_ablations"],
        ".report.demo": ["demo"],
        ".checkpoint_folder": ["embed", "find_checkpoint", "find_dreamllm", "find_smollm2_adapters"],
        ".models.dreamllm": ["load_dreamllm_pipeline"],
        ".models.smollm2": ["fetch_language_model", "load_smollm2_pipeline"],
        ".stages.train_dream": ["train_dream"],
        ".stages.train_english": ["train_english"],
        ".stages.training": ["train"],
        ".report.dream_table": ["write_dream_tables"],
        ".report.knowledge_table": ["write_knowledge"],
        ".report.tables": ["write_tables"],
        ".report.world_report": ["write_world"],
    },
)

__all__ = [
    "AblationArguments",
    "DemoArguments",
    "DreamArguments",
    "DreamTablesArguments",
    "EmbedArguments",
    "EnglishArguments",
    "FetchArguments",
    "KnowledgeArguments",
    "PicturebookTrainArguments",
    "TablesArguments",
    "WorldArguments",
    "demo",
    "embed",
    "fetch_language_model",
    "find_checkpoint",
    "find_dreamllm",
    "find_smollm2_adapters",
    "load_dreamllm_pipeline",
    "load_smollm2_pipeline",
    "train",
    "train_dream",
    "train_english",
    "write_ablations",
    "write_dream_tables",
    "write_knowledge",
    "write_tables",
    "write_world",
]
