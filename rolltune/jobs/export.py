"""A saved roll for other programs: an adapter of PEFT, or the base with the roll worked in; read again and compared."""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rolltune import base, quantize, trees
from rolltune.adapters import CLASSES
from rolltune.atomic import folder_aside
from rolltune.base import Opened
from rolltune.data.examples import Example, Turn
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CHOOSE, WRITE, Task
from rolltune.jobs import hub, laying
from rolltune.jobs.cards import check_trained
from rolltune.jobs.kaggle_hub import check_kaggle, check_login, upload_kaggle
from rolltune.jobs.model_card import model_card
from rolltune.jobs.scorer import Bench, Saved, Scorer, load_base, read_saved
from rolltune.tracking import note
from rolltune.weights import catalogue
from rolltune.weights.bitsandbytes import PackedTensor
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.hf import CONFIG, PREPROCESSOR, fill_hf, read_json
from rolltune.weights.merged import Change, Difference, MergedTensor, compare
from rolltune.weights.names import TensorMap, to_file
from rolltune.weights.peft import Scaling, head_row, read_adapter, write_adapter
from rolltune.weights.roll_file import RollFile, check_base, load_roll, nested_lora
from rolltune.weights.whole import ENDING, is_whole

Say = Callable[[str], None]
PEFT, HF, NPZ = "peft", "hf", "npz"
HUBS = HUGGING_FACE, KAGGLE = "huggingface", "kaggle"
# What goes along from a Hugging Face folder: the tokenizer, how pictures are prepared, the published code, the licence.
BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "*.py", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*")
# How far a log-probability may move when weights are merged and rounded, by the coarser dtype of file and run.
BOUNDS = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.5}
NO_YES = ("no", "yes")  # what a roll that writes is scored on
NOISE = ((224, 224), (150, 260))  # pixels of the pictures that rolls are scored on


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of 08-export.py."""

    to: str
    output: Path
    model: str | None = None  # the base, where it is not where the roll was trained
    base_name: str = ""  # on the hub
    dequantize: bool = False
    laying: Sequence[str] = ()  # how the base lies while it is scored, as typed (--config.sharding=fsdp)
    upload: str = ""  # owner/name on the hub
    public: bool = False
    hub: str = HUBS[0]
    licence: str = ""  # of what goes to Kaggle


def export(path: Path, options: Options, say: Say) -> int:
    """The exit status. What can be refused is refused before a weight is read; what was not kept leaves nothing."""
    send = _upload_of(options)
    if options.dequantize and options.to == PEFT:
        raise UserError("--dequantize is of a merged model (--to hf or npz), and an adapter is none: leave it away")
    if is_whole(path):
        raise UserError(f"{shown(path)} is a whole model already: name the roll that was worked into it")
    saved = read_saved(path).lying_as(laying.typed(options.laying))
    opened = base.open_model(*saved.base(options.model))
    roll = load_roll(path)
    trained = nested_lora(trees.flatten(roll.tree))
    shapes = {name: tuple(leaf.shape) for name, leaf in opened.shapes().items()}
    task = Task(saved.recipe.task, tuple(saved.card.answers))
    check_trained(path, trained, opened.model, shapes, saved.recipe, task)
    name = options.base_name or _published(saved.card.base.name)
    with folder_aside(options.output) as aside:
        if options.to == PEFT:
            notes = _adapter(aside, saved, opened, trained, name)
        else:
            notes = _merged(aside, path, roll, saved, opened, trained, options, say)
        folder = options.output.name
        text = model_card(saved.card, saved.recipe, options.to, folder, name, notes)
        (aside / "README.md").write_text(text, encoding="utf-8")
    for line in notes:
        say(line)
    say(f"written: {shown(options.output)}; its README.md leaves the intended use for you to write")
    if send is not None:
        send(say)
    return 0


def _upload_of(options: Options) -> Callable[[Say], None] | None:
    """What sends the export to a hub; None where that was not asked for. Raises UserError before any work."""
    if not options.upload:
        return None
    if options.hub == KAGGLE:
        target = check_kaggle(options.upload, options.to, options.output.name, options.licence)
        check_login(target, options.public)
        return lambda say: upload_kaggle(target, options.output, options.public, say)
    api = hub.check_upload(options.upload, options.public)
    return lambda say: hub.upload(api, options.output, options.upload, options.public, say)


def _published(name: str) -> str:
    """What the hub calls a base model of this name; the name itself where that is not known."""
    found = [one.where for one in catalogue.sources() if one.hub == "huggingface" and Path(one.target).name == name]
    return found[0] if found else name


def hf_table(opened: Opened) -> list[TensorMap]:
    """The names of Hugging Face's layout, whichever the base has."""
    return opened.model.family.tensors(opened.model.config, ()) if _from_npz(opened) else list(opened.table)


def _from_npz(opened: Opened) -> bool:
    return opened.checkpoint.path.suffix == ".npz"


def _in_float8(opened: Opened) -> bool:
    return not quantize.FLOAT8.isdisjoint(opened.words.values())


def _starts(saved: Saved, opened: Opened, paths: Any) -> dict[str, int]:
    return {path: trees.cut_of(path, opened.model.stacks, saved.recipe.first_layer) for path in paths}


def _adapter(folder: Path, saved: Saved, opened: Opened, trained: Mapping[str, Any], base_name: str) -> list[str]:
    recipe = saved.recipe
    if CLASSES in trained and opened.model.family.picture is not None:
        raise UserError(
            f"{shown(saved.path)}: transformers has no {opened.model.family.name} with a head of classes that an "
            "adapter could belong to: use it here (07-predict.py), or train with --config.task=choose"
        )
    table, starts = hf_table(opened), _starts(saved, opened, trained)
    scaling = Scaling(recipe.rank, recipe.alpha, recipe.rslora)
    write_adapter(folder, trained, table, starts, scaling, base_name)
    again, _ = read_adapter(folder, table)
    largest = 0.0
    for path, leaf in trees.flatten(dict(trained)).items():
        found = trees.flatten(again)[path]
        start = starts.get(path.rpartition("/")[0], 0)
        largest = max(largest, float(np.abs(found[start:] - np.asarray(leaf, np.float32)).max(initial=0.0)))
    if largest > 0:
        raise UserError(f"the adapter was read back {largest:.3g} off: nothing was kept; export it again")
    notes = [f"read again: {len(trees.flatten(dict(trained)))} arrays, the largest difference is 0"]
    if _in_float8(opened):
        notes.append("it was trained with products in float8, which other programs do not make of this base: there its "
                     "probabilities are near, not the same")  # fmt: skip
    elif opened.words or any(isinstance(one, PackedTensor) for one in opened.checkpoint.tensors.values()):
        notes.append("it was trained on a base in four or eight bits: load the base so for the same probabilities")
    if CLASSES in trained:
        notes.append(f"the outputs of its head are, in this order: {', '.join(saved.card.answers)}")
    if recipe.num_crops:
        notes.append(f"its pictures were cut into at most {recipe.num_crops} tiles: load the processor with num_crops="
                     f"{recipe.num_crops} for the same probabilities")  # fmt: skip
    return notes


def _merged(
    folder: Path,
    path: Path,
    roll: RollFile,
    saved: Saved,
    opened: Opened,
    trained: Mapping[str, Any],
    options: Options,
    say: Say,
) -> list[str]:
    """Writes the merged model into the folder, reads it again, and compares weights and scores."""
    model, recipe = opened.model, saved.recipe
    packed = [name for name, tensor in opened.checkpoint.tensors.items() if isinstance(tensor, PackedTensor)]
    words = {name: word for name, word in opened.words.items() if word != quantize.KEEP}
    if (packed or words) and not options.dequantize:
        raise UserError(
            f"{shown(path)} was trained on a base in four or eight bits, which no merged weight fits into. Export the "
            "adapter alone (--to peft), to be used on such a base; or add --dequantize, which merges it into the "
            "numbers that these bits stand for: a model of full size"
        )
    if options.dequantize and not (packed or words):
        say("--dequantize counts for nothing: the roll was trained on a base of full size")
    table, config = _layout(opened, trained, options.to, saved.card.answers)
    starts = _starts(saved, opened, trained)
    written = {row.path: row for row in table}
    merged: dict[str, Any] = {}
    for row in opened.table:
        leaf = trained.get(row.path)
        change = None if leaf is None else Change(leaf, recipe.scale, starts.get(row.path, 0))
        # Hugging Face's files pad the table of words, and keep that; a npz has no such rows.
        rows = None if written[row.path].ours == row.ours else written[row.path].ours[0]
        word = words.get(row.path, quantize.KEEP)
        merged[row.path] = MergedTensor(opened.checkpoint.tensors, row, change, rows, word, opened.kind)
    dtype = merged[opened.table[0].path].dtype
    if CLASSES in trained and CLASSES not in merged:
        merged[CLASSES] = np.asarray(trained[CLASSES]).astype(dtype)
    with tempfile.TemporaryDirectory(prefix="rolltune-") as place:
        answers = tuple(saved.card.answers) or NO_YES
        rows = _probes(Path(place), bool(model.family.picture), answers[0])
        once = functools.cache(note)  # the merged weights lie as the base does, and need not say so again
        before, base_config = _scores(saved.base(options.model), path, roll, saved, rows, once)
        if options.to == HF:
            fill_hf(folder, to_file(trees.unflatten(dict(merged)), table), config)
            _copy_beside(opened, folder, recipe.num_crops)
            target = folder
        else:
            target = folder / f"{path.stem}{ENDING}"
            base.save_whole(target, trees.unflatten(dict(merged)), model, saved.card)
            shutil.copyfile(model.tokenizer.path, folder / _tokenizer_name(opened))
        found = compare(open_checkpoint(target).tensors, table, merged)
        bare = RollFile({}, roll.card)
        alone = dataclasses.replace(saved, recipe=dataclasses.replace(recipe, first_layer=0, quantize="", model=""))
        given = str(target), recipe.tokenizer, recipe.dtype, (), recipe.num_crops
        after, _ = _scores(given, Path(f"merged{ENDING}"), bare, alone, rows, once, base_config)
    moved = float(np.abs(before - after).max())
    kinds = {np.dtype(dtype).name, str(np.dtype(opened.kind).name)}
    bound = max(BOUNDS[kind] for kind in kinds)
    if not moved <= bound:
        raise UserError(
            f"merged, the model scores otherwise: a log-probability is {moved:.3g} off, more than the {bound} that "
            f"{' and '.join(sorted(kinds))} explain. Nothing was kept; {_instead(trained)}"
        )
    return _told(found, moved, bound, np.dtype(dtype).name, bool(packed or words), options.to, opened)


def _instead(trained: Mapping[str, Any]) -> str:
    """What to do with a roll that does not survive being merged; path -> an adapter's factors, or weights."""
    if all(isinstance(leaf, Mapping) or path == CLASSES for path, leaf in trained.items()):
        return "use the adapter (--to peft)"
    return (
        "use the roll here (07-predict.py), or train with --config.trained_dtype=bfloat16, which rounds its weights "
        "while it learns"
    )


def _told(
    found: Difference, moved: float, bound: float, dtype: str, dequantized: bool, form: str, opened: Opened
) -> list[str]:
    notes = [
        f"read again: the largest difference of a weight is {found.largest:.3g} ({found.path}), "
        f"{found.share:.0%} of what {dtype} may round",
        f"the largest difference of a log-probability from the adapter on its base is {moved:.3g} (at most {bound})",
    ]
    if dequantized:
        notes.append("the base was in four or eight bits: the roll is merged into the numbers that these stand for")
    if _in_float8(opened):
        notes.append(
            "its products were in float8, and merged weights are multiplied as any others: the difference is beside "
            "such products of the same numbers; from the roll's own, the rounding of float8 comes on top"
        )
    if form == HF and _from_npz(opened):
        notes.append(
            "transformers resizes pictures by its own rule, big_vision by another: expect small differences there; "
            "take the processor from the published model"
        )
    return notes


def _layout(
    opened: Opened, trained: Mapping[str, Any], form: str, answers: Sequence[str]
) -> tuple[list[TensorMap], dict[str, Any]]:
    """The names in which the merged model is written, and its config.json."""
    model = opened.model
    if form == NPZ:
        if model.family.npz is None:
            raise UserError(f"--to npz: {model.family.name} is not published as one npz; --to hf writes it")
        if CLASSES in trained:
            raise UserError("--to npz: big_vision's npz has no place for a head of classes")
        return model.family.npz(model.config), {}
    table = hf_table(opened)
    if _from_npz(opened):
        assert model.family.hf_entries is not None  # of those that a npz is of
        kind = opened.checkpoint.tensors[opened.table[0].name(0)].dtype.name
        return table, model.family.hf_entries(model.config, kind)
    config = read_json(opened.checkpoint.path / CONFIG)
    config.pop("quantization_config", None)  # what is written is not packed
    if CLASSES in trained and all(row.path != CLASSES for row in table):
        classes = int(np.shape(trained[CLASSES])[-1])
        if not hasattr(model.config, "classes"):
            raise UserError(
                f"--to hf: a {model.family.name} with a new head of classes can't be read back here: --to peft writes "
                "adapter and head"
            )
        table.append(head_row(model.config.text.width, classes))
        named = [str(one).replace("ForCausalLM", "ForSequenceClassification") for one in config["architectures"]]
        config["architectures"] = named
    if CLASSES in trained:  # its outputs are in the order of the answers, whatever the base's were
        config |= {"id2label": {str(n): answer for n, answer in enumerate(answers)},
                   "label2id": {answer: n for n, answer in enumerate(answers)}}  # fmt: skip
    return table, config


def _copy_beside(opened: Opened, folder: Path, crops: int) -> None:
    """What a Hugging Face folder has beside its weights; of another base, its tokenizer. `crops`, where they were
    stated, are those that the folder's own pictures will be cut into."""
    source = opened.checkpoint.path
    if source.is_dir():
        for pattern in BESIDE:
            for path in sorted(source.glob(pattern)):
                there = folder / path.name
                if path.is_file() and not there.exists() and not path.name.endswith(".index.json"):
                    shutil.copyfile(path, there)
    if crops:
        prepared = folder / PREPROCESSOR
        said = read_json(prepared) if prepared.exists() else {}
        prepared.write_text(json.dumps(said | {"num_crops": crops}, indent=2) + "\n", encoding="utf-8")
    place = folder / _tokenizer_name(opened)
    if not place.exists():
        shutil.copyfile(opened.model.tokenizer.path, place)


def _tokenizer_name(opened: Opened) -> str:
    """The name under which the family looks for a tokenizer of this kind beside the weights."""
    own = opened.model.tokenizer.path
    names = opened.model.family.tokenizers
    return own.name if own.name in names else next((one for one in names if Path(one).suffix == own.suffix), own.name)


def _probes(folder: Path, pictures: bool, answer: str) -> list[Example]:
    """Rows to score before and after: pictures of noise, where the model sees any. Their answer is one of those that
    are scored; which one does not matter."""
    draw, rows = np.random.default_rng(0), []
    for number, size in enumerate(NOISE):
        images = ()
        if pictures:
            images = (folder / f"{number}.png",)
            Image.fromarray(draw.integers(0, 256, (*size, 3)).astype(np.uint8)).save(images[0])
        turns = (Turn("user", "is it so" + "?" * (number + 1)), Turn("assistant", answer))
        rows.append(Example(str(number), images, turns, f"probe:{number}"))
    return rows


def _scores(
    given: tuple[str, str, str, tuple[tuple[str, str], ...], int],
    path: Path,
    roll: RollFile,
    saved: Saved,
    rows: Sequence[Example],
    say: Say,
    config: Any = None,
) -> tuple[np.ndarray, Any]:
    """(log-probabilities [rows, answers], the config of the model that `given` loads). With `config`, pictures are
    prepared as it says. Nothing is multiplied in float8: what that rounds is no fault of a merged weight."""
    loaded, params, places = load_base(given, saved.recipe, say)
    params = quantize.multiplied_in_full(params)
    if config is None:
        check_base(path, roll.card, loaded.base)
    elif loaded.family.picture:
        loaded = dataclasses.replace(loaded, config=config)
    recipe, card = saved.recipe, roll.card
    if recipe.task == WRITE:
        recipe, card = dataclasses.replace(recipe, task=CHOOSE), dataclasses.replace(card, answers=list(NO_YES))
    scorer = Scorer(Bench(loaded, params, places), path, RollFile(roll.tree, card), recipe)
    return np.asarray(scorer.predict(rows).log_probs), loaded.config
