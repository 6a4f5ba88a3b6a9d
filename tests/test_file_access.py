"""Files that a user or a folder names are opened by `vlm_core.io.files` alone: regular, bounded, with own errors.

`Path.read_text` waits for a FIFO, fills memory from a device and raises what no command expects; `json.loads` raises
`RecursionError` and `ValueError`. New code calls `read_text`, `read_bytes`, `read_json`, `parse_json` or `open_regular`
of that module; a place that must do otherwise stands here with its reason.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
READS = {"read_text", "read_bytes", "open"}
PARSES = {
    ("json", "load"), ("json", "loads"), ("yaml", "load"), ("yaml", "safe_load"), ("yaml", "compose"),
    ("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("np", "load"),
}  # fmt: skip
HOME = {"vlm_core/io/files.py", "vlm_core/io/atomic.py"}
"""Where files are opened."""
NO_FILES = {("Image", "open"), ("av", "open"), ("question", "open"), ("run", "open"), ("self", "open")}
"""Methods called `open` that take no path from outside: Pillow's and PyAV's get an open file, the others are ours."""
EXCEPTIONS = {
    # what the system or Python holds
    "vlm_core/runtime/cpu_name.py": "/proc/cpuinfo",
    "vlm_core/runtime/peak_rss.py": "/proc/self/status",
    "vlm_core/runtime/system_faults.py": "/proc/self/cgroup and the limits of control groups",
    "vlm_ssm/numba/kernels/jit.py": "this package's own sources and /proc/self/maps",
    "vlm_ssm/cuda/compiler.py": "this package's own sources and the machine code made of them",
    "vlm_ssm/cuda/launch.py": "this package's own sources",
    "vlm_core/plugins/distribution.py": "the metadata of an installed distribution",
    # what this project installs
    "vlm_core/plugins/scaffold.py": "this package's own templates",
    "vlm_serve/page/static_files.py": "this package's own files of the page",
    "vlm_core/export/code_export.py": "Python sources of installed modules",
    # what a test wrote
    "vlm_core/testing/untrusted_files.py": "assets that a component has just saved",
    "vlm_core/testing/damaged_assets.py": "assets that a component has just saved",
    "vlm_core/testing/benchmark.py": "files of a benchmark's own test",
    "vlm_core/testing/dataset.py": "objects that it has pickled itself",
    # JSON that a library made in this process
    "vlm_core/hf/modeling.py": "a config.json that was read when the folder was verified",
    "vlm_encoders/towers/transformers_build.py": "what a config object of transformers writes",
    "vlm_core/io/checksum.py": "what it has just written as JSON",
    "vlm_llms/tokenizer/tokenizer_trial.py": "what it sends to a process of its own, and gets from there",
    "vlm_train/checkpoint/jsonl_log.py": "lines that wait in memory; a damaged line of a file is inside a try",
    "vlm_train/distributed/watchdog.py": "what a rank of this run has put into the store",
    "vlm_train/distributed/exit_message.py": "the exit code that a rank of this run wrote, inside a try",
    "vlm_train/data/json_files/json_index.py": "names of an index whose hash was verified",
    # lines whose faults are caught where they stand: RecursionError, too
    "vlm_bench/run/answer_log.py": "lines of answers, and the files that answers are appended to",
    "vlm_bench/files/answers.py": "the first line of a text, to tell its format",
    "vlm_train/data/json_files/json_reader.py": "rows, bounded before they are parsed",
    # files that grow while they are held
    "vlm_train/feature_cache/store.py": "marks of damaged features",
    # no files
    "vlm_core/remote/transport.py": "URLs, which an opener of urllib opens",
    # formats of their own
    "vlm_train/data/index_cache.py": "np.load without pickles, of a file that was verified",
    "vlm_train/data/tar_files/tar_reader.py": "tarfile.open of a file that was opened as a regular one",
    # tensors
    "vlm_core/model_folder/published_files.py": "torch.load, weights_only, of a file opened as a regular one",
}


NAMES = READS | {name for _, name in PARSES}


def _calls(path):
    """Names of calls that open or parse by themselves: `x.read_text`, `open`, `json.loads`."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if any(name in text for name in NAMES) else ():
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "open":
            yield f"open, line {node.lineno}"
        if isinstance(function, ast.Attribute):
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            written = owner == "os"  # a file descriptor, for locks and flushing
            if (owner, function.attr) in PARSES or (
                function.attr in READS and (owner, function.attr) not in NO_FILES and not written
            ):
                yield f"{owner}.{function.attr}, line {node.lineno}"


def sources():
    return {str(p).partition("/src/")[2]: p for p in sorted((ROOT / "packages").glob("*/src/**/*.py"))}


def test_files_are_opened_by_one_module():
    files = {name: path for name, path in sources().items() if name not in HOME | EXCEPTIONS.keys()}
    assert files
    assert not [f"{name}: {call}" for name, path in files.items() for call in _calls(path)]


def test_exceptions_are_needed():
    """A file that no longer opens anything itself leaves the list."""
    files = sources()
    assert not [name for name in EXCEPTIONS if not list(_calls(files[name]))]
