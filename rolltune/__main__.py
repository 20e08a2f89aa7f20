"""The `rolltune` command: names its parts, imports only the one that is asked for, and turns errors into advice."""

import atexit
import importlib
import importlib.util
import os
import shutil
import signal
import sys

from rolltune import __version__
from rolltune.errors import UserError, visible
from rolltune.output import take_any_text
from rolltune.typed import as_typed

# command -> (module with `main(argv) -> int`, what it does). Imported when called: `--help` must not wait for JAX.
COMMANDS = {
    "doctor": ("rolltune.commands.doctor", "look through a data set, or without one at the GPU, for what is wrong"),
    "download": ("rolltune.commands.download", "fetch model weights and tokenizer from Kaggle or Hugging Face"),
    "shuffle": ("rolltune.commands.shuffle", "split data.jsonl into train.jsonl and valid.jsonl"),
    "learn": ("rolltune.commands.learn", "fine-tune, evaluate before and after, save the roll"),
    "validate": ("rolltune.commands.validate", "score saved rolls on data sets, one block each and a table"),
    "search-prompt": ("rolltune.commands.search_prompt", "try a list of prompts on the data before any training"),
    "convert": ("rolltune.commands.convert", "turn other kinds of data into JSON Lines and images"),
    "predict": ("rolltune.commands.predict", "answer new pictures with saved rolls, in a table, a file or a page"),
    "export": ("rolltune.commands.export", "a saved roll for other programs: PEFT, transformers, big_vision"),
    "plan-memory": ("rolltune.commands.plan_memory", "what a training will need of a card's memory, and what fits it"),
    "compare": ("rolltune.commands.compare", "past runs beside each other: figures, what differs, a page"),
    "sample-ads": ("rolltune.commands.sample_ads", "draw the sample data set of 96 advertisements"),
}

OUT_OF_MEMORY = (
    "the device's memory is used up. Train fewer rolls at once (--rolls auto takes what fits), let the step keep less "
    "(--config.remat=True: a third slower), score fewer rows at once (--config.evaluate_batch=4), and close what else "
    "is on the card (nvidia-smi shows it). What was saved before is untouched."
)
USAGE_ERROR = 2
READER_GONE = 141  # 128 + SIGPIPE
INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for a program ended by Ctrl-C


def help_text() -> str:
    """The page that `rolltune --help` prints: every command with its one line, and what to type next."""
    rows = "\n".join(f"  {name:<14} {about}" for name, (_, about) in COMMANDS.items())
    return (
        "usage: rolltune COMMAND [arguments]\n\n"
        "Fine-tune a vision-language model on your own labelled images.\n\n"
        f"commands:\n{rows}\n\n"
        "  rolltune COMMAND --help   the flags of one command, with examples\n"
        "  rolltune --version        the version\n\n"
        "A first run:\n"
        "  rolltune sample-ads dataset\n"
        "  rolltune shuffle -v 10 -n set1\n"
        "  rolltune learn -d set1 -w trained-set1\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 something the person can put right, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    take_any_text()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0 if arguments else USAGE_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"rolltune {__version__}")
        return 0
    try:
        return run(arguments[0], arguments[1:])
    except UserError as error:
        print(f"error: {visible(as_typed(str(error)))}", file=sys.stderr)
        return USAGE_ERROR
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"error: {OUT_OF_MEMORY}\n{str(error).splitlines()[0]}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        # What is being compiled can't be stopped, and Python waits for it as it ends: one more Ctrl-C ends that, too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:  # a full disk, a folder of somebody else's: the machine's, not the program's
        if error.strerror is None:
            raise
        where = visible(str(error.filename or "writing or reading a file"))
        print(f"error: {where}: {error.strerror}", file=sys.stderr)
        return USAGE_ERROR
    finally:
        # JAX takes a second to go, after all is done: a Ctrl-C in it would be shown as a traceback of its own.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def run(name: str, arguments: list[str]) -> int:
    """Import the command's module and call its `main`; an unknown name or a missing package is a UserError."""
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}")
    hush_false_alarm()
    try:
        command = importlib.import_module(COMMANDS[name][0])
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "rolltune":
            raise  # a hole in rolltune itself: the traceback is what its authors need
        raise UserError(
            f"the Python package {missing.name!r} is not installed for {sys.executable}; run ./bin/quickstart.sh and "
            "then `source .venv/bin/activate`, or work in the container: ./bin/docker-run.sh"
        ) from missing
    return command.main(arguments)


def hush_false_alarm() -> None:
    """On a CPU, XLA shows two pages on each program that it finds in its cache, about features that are preferences.

    They are errors to its log and to nobody else: real ones are raised. It reads the level when it is imported. An
    image for GPUs on a machine without one computes on its CPU, too: nobody brought it the driver's nvidia-smi.
    """
    no_plugin = importlib.util.find_spec("jax_plugins") is None
    if os.environ.get("JAX_PLATFORMS") == "cpu" or no_plugin or shutil.which("nvidia-smi") is None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


if __name__ == "__main__":
    sys.exit(main())
