"""Simulated people who talk with the chat page at the same time: errors, crossed answers, seconds and memory.

Every person asks for images of things of his own, reads the answer and goes on; some stop an answer in between. The
page runs in a process of its own on this machine.

    PYTHONPATH=. .venv/bin/python benchmarks/chat_users.py --users 10 --seconds 300
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

KINDS = ("house", "boat", "cat", "tree", "fish", "car", "mushroom", "balloon")
COLOURS = ("red", "blue", "green", "yellow", "purple", "pink")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")


@dataclass
class Counts:
    """What happened to all people together."""

    answers: int = 0
    stops: int = 0
    errors: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> int:
    """Print the figures as JSON; 1 if there was an error or a crossed answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--port", type=int, default=7895)
    options = parser.parse_args()
    figures = run(options.users, options.seconds, options.port)
    print(json.dumps(figures, indent=1))
    return int(bool(figures["errors"] or figures["crossed"]))


def run(users: int, seconds: float, port: int) -> dict[str, Any]:
    """Serve the page, let the people talk, and return the figures."""
    command = [sys.executable, "-m", "gill", "chat", "--port", str(port), "--requests-per-minute", "600"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, began = f"http://127.0.0.1:{port}/", time.monotonic()
    counts, memory = Counts(), []
    try:
        wait_for(address, server)
        end = time.monotonic() + seconds
        people = [
            threading.Thread(target=talk, args=(number, address, end, counts), daemon=True) for number in range(users)
        ]
        for person in people:
            person.start()
        while any(person.is_alive() for person in people):
            time.sleep(min(5.0, seconds / 10))
            memory.append(resident_megabytes(server.pid))
            if time.monotonic() > end + 120:
                counts.errors.append("somebody waits for ever")
                break
    finally:
        server.terminate()
        server.wait(timeout=60)
    half = len(memory) // 2
    return {
        "users": users,
        "seconds": round(time.monotonic() - began),
        "answers": counts.answers,
        "stops": counts.stops,
        "errors": counts.errors[:5],
        "crossed": counts.crossed[:5],
        "median_seconds": round(statistics.median(counts.seconds), 2) if counts.seconds else None,
        "slowest_seconds": round(max(counts.seconds), 2) if counts.seconds else None,
        "memory_mb_first_half": round(statistics.median(memory[:half] or memory)),
        "memory_mb_second_half": round(statistics.median(memory[half:])),
    }


def wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Until the page is served.

    Raises:
        RuntimeError: the server ended.
    """
    while True:
        try:
            urlopen(address, timeout=5).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError("the page could not be served") from None
            time.sleep(0.5)


def talk(number: int, address: str, end: float, counts: Counts) -> None:
    """One person: asks until the end, and checks that every answer is about what was asked."""
    from gradio_client import Client

    client, rng = Client(address, verbose=False, download_files=False), random.Random(number)
    settings = ["auto", True, 1, 1, 10, 0, 0, 1.0]
    while time.monotonic() < end:
        thing = f"a {rng.choice(COLOURS)} {KINDS[number % len(KINDS)]} {rng.choice(PLACES)}"
        asked = time.monotonic()
        try:
            message = {"text": f"Show me {thing}.", "files": []}
            job = client.submit(message, *settings, api_name="/respond")
            if rng.random() < 0.1:
                time.sleep(rng.random())
                job.cancel()
                counts.stops += 1
                continue
            answer = json.dumps(job.result(timeout=180))
        except Exception as error:
            counts.errors.append(f"{type(error).__name__}: {error}")
            continue
        counts.seconds.append(time.monotonic() - asked)
        counts.answers += 1
        # The model may be wrong about colours and places, and at times it answers with the image alone.
        named = {kind for kind in KINDS if kind in answer}
        if named and KINDS[number % len(KINDS)] not in named:
            counts.crossed.append(f"{thing}: {answer[:200]}")
        time.sleep(rng.random())


def resident_megabytes(pid: int) -> float:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
