"""`python -m tests.onnx_suite.run`: ONNX's backend suite against optkit.

Cases run in worker processes, so that a crash or a hang costs one case. Results are appended to a file as they
come; with --resume, finished cases are not run again. Every case must pass, but for those in `expected.tsv`, each
with its status and reason: "refused" by prepare, as it should be, or "failed" and "wrong", which are bugs that are
known. A case there that passes must be taken out.
"""

from __future__ import annotations

import argparse
import json
import queue
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests.onnx_suite.cases import all_cases

EXPECTED = Path(__file__).with_name("expected.tsv")
TIMEOUT = 180.0


class Worker:
    """One worker process, started when needed and replaced when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, name: str) -> dict[str, str]:
        """The result of a case: "crashed" and "hung" besides what the worker answers."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.onnx_suite.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._line(TIMEOUT)
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        line = self._line(TIMEOUT)
        if line:
            return dict(json.loads(line))
        hung = line is None
        self.close()
        return {"status": "hung" if hung else "crashed", "detail": f"after {TIMEOUT:g} s" if hung else ""}

    def _line(self, seconds: float) -> str | None:
        """A line, "" where the process ended, None where the time is up."""
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def read_expected() -> dict[str, tuple[str, str]]:
    """Case to its status and the reason why it does not pass."""
    if not EXPECTED.exists():
        return {}
    lines = (line.split("\t", 2) for line in EXPECTED.read_text().splitlines() if line and line[0] != "#")
    return {name: (status, reason) for name, status, reason in lines}


def run(names: list[str], jobs: int, log: Path) -> dict[str, dict[str, str]]:
    """Run cases, appending every result to `log`."""
    todo: queue.Queue[str] = queue.Queue()
    for name in names:
        todo.put(name)
    results: dict[str, dict[str, str]] = {}
    lock = threading.Lock()
    start = time.time()

    def work() -> None:
        worker = Worker()
        while True:
            try:
                name = todo.get_nowait()
            except queue.Empty:
                break
            result = worker.run(name)
            with lock:
                results[name] = result
                with log.open("a") as file:
                    file.write(json.dumps({"case": name, **result}) + "\n")
                if len(results) % 100 == 0 and sys.stderr.isatty():
                    print(f"{len(results)} of {len(names)} in {time.time() - start:.0f} s", file=sys.stderr)
        worker.close()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def judge(results: dict[str, dict[str, str]], expected: dict[str, tuple[str, str]]) -> list[str]:
    """What is not as it should be, a line each."""
    problems = []
    for name, result in results.items():
        status = result["status"]
        if status == "passed" and name in expected:
            problems.append(f"{name}: passes now; take it out of {EXPECTED.name}")
        elif status != "passed" and (name not in expected or status != expected[name][0]):
            problems.append(f"{name}: {status}: {result['detail']}")
    return problems


def main() -> int:
    """Run the suite; 0 where everything is as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("filter", nargs="*", help="only cases whose names contain one of these texts")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("build/onnx-suite.jsonl"))
    parser.add_argument("--resume", action="store_true", help="keep the results in the log")
    parser.add_argument("--all", action="store_true", help="list what passes too")
    options = parser.parse_args()
    options.log.parent.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        options.log.unlink(missing_ok=True)
    done = {}
    if options.log.exists():
        entries = (json.loads(line) for line in options.log.read_text().splitlines() if line.endswith("}"))
        done = {e.pop("case"): e for e in entries}
    chosen = [n for n in all_cases() if not options.filter or any(f in n for f in options.filter)]
    done.update(run([n for n in chosen if n not in done], options.jobs, options.log))
    results = {name: done[name] for name in chosen}
    problems = judge(results, read_expected())
    counts = Counter(result["status"] for result in results.values())
    for line in problems:
        print(line)
    if options.all:
        print("\n".join(f"{n}: passed" for n, r in results.items() if r["status"] == "passed"))
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()), f"of {len(results)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
