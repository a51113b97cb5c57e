"""The command line that the conversions share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers

from .original_files import ConversionError
from .original_release import Original

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def run(
    name: str,
    title: str,
    read_original: Callable[[Path, Sequence[Path]], Original],
    has_image_generator: bool,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs one conversion.

    Args:
        name: of the module below `conversion`.
        title: what is converted.
        read_original: from its folder and the retrieval pickles given apart.
        has_image_generator: whether the model draws, and `--image-generator` makes sense.
        argv: arguments, by default the process's.

    Returns:
        Exit code: 0; 1 if `--verify` finds a difference; 2 for input that cannot be converted.
    """
    args = _parser(name, title, has_image_generator).parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        original = read_original(args.original_dir, args.retrieval_set)
    except (ConversionError, OSError) as error:
        return _failure(error, 2)
    # Only now: importing diffusers takes seconds, and it logs.
    from .assemble import Choices, convert
    from .verification import VerificationError

    choices = Choices(
        language_model=args.language_model,
        vision_model=args.vision_model,
        image_generator=args.image_generator if has_image_generator else None,
        image_folder=args.image_folder,
        dtype=DTYPES[args.dtype],
        verify=args.verify,
        overwrite=args.overwrite,
    )
    try:
        convert(original, args.out, choices)
    except VerificationError as error:
        return _failure(error, 1)
    except (ConversionError, OSError) as error:
        return _failure(error, 2)
    return 0


def _failure(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _parser(name: str, title: str, has_image_generator: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m conversion.{name}", description=f"Turn an original {title} release into a Hub repository."
    )
    parser.add_argument("original_dir", type=Path, metavar="ORIGINAL_DIR", help="folder with the authors' files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    backbone = "Hub repository or folder of the {}; by default the one that model_args.json names"
    parser.add_argument("--language-model", metavar="ID", help=backbone.format("language model"))
    parser.add_argument("--vision-model", metavar="ID", help=backbone.format("image encoder"))
    if has_image_generator:
        parser.add_argument(
            "--image-generator",
            metavar="ID",
            help="Hub repository or folder of the image generator; by default Stable Diffusion v1.5",
        )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="dtype to store (default: %(default)s)")
    parser.add_argument(
        "--retrieval-set",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="pickled retrieval embeddings to use in place of those in ORIGINAL_DIR; may be given several times",
    )
    parser.add_argument(
        "--image-folder",
        type=Path,
        metavar="FOLDER",
        default=Path(),
        help="where relative paths of the retrieval embeddings start from (default: the current folder)",
    )
    parser.add_argument("--verify", action="store_true", help="read OUT back and compare it with the source")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there and not empty")
    return parser
