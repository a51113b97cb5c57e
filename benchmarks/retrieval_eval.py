"""Time and memory of ranking 30,000 images for 100,000 captions: `python -m benchmarks.retrieval_eval`."""

import argparse
import resource
import sys
import time

import torch

from evaluation_gill.ranking import target_places


def main(arguments: list[str] | None = None) -> int:
    """Print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=30_000)
    parser.add_argument("--width", type=int, default=256, help="width of the space of retrieval")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    candidates = torch.nn.functional.normalize(torch.randn(options.candidates, options.width), dim=-1)
    targets = torch.randint(options.candidates, (options.captions,))
    noise = torch.randn(options.captions, options.width) / options.width**0.5
    queries = torch.nn.functional.normalize(candidates[targets] + 3 * noise, dim=-1)
    begin = time.monotonic()
    places = target_places(queries, candidates, targets.tolist())
    seconds = time.monotonic() - begin
    recall = sum(places.recall_at(1)) / options.captions
    print(
        f"{options.captions} captions x {options.candidates} candidates x {options.width}: {seconds:.1f} s on "
        f"{torch.get_num_threads()} threads; the process took {_peak_mb():.0f} MB at most, all scores at once would "
        f"take {options.captions * options.candidates * 4 / 1e6:.0f} MB; recall@1 {recall:.4f}"
    )
    return 0


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
