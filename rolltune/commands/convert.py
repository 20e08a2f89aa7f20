"""06-convert_data.py: other kinds of data to JSON Lines and images."""

import argparse
import shlex
import sys
from pathlib import Path

from rolltune.commands.common import command_parser
from rolltune.commands.reading import texts_by_name
from rolltune.commands.terminal import quiet_decoders, tell, terminal
from rolltune.data.converters import arena, boxes, boxes_back, classes, conversations, marking, nlvr, questions, video
from rolltune.data.examples import QUESTION
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./06-convert_data.py video UCF-101/ dataset/ucf --frames 8      videos in class folders, or with UCF-101 names
  ./06-convert_data.py video a.mp4 b.mp4 dataset/two --labels '{"a": "arm wrestling", "b": "cooking"}'
  ./06-convert_data.py nlvr nlvr/dev/dev.json dataset/nlvr --boxes          NLVR, the picture cut into three
  ./06-convert_data.py nlvr nlvr2/data/dev.json dataset/nlvr2 --images nlvr2/dev     NLVR2, two photos a row
  ./06-convert_data.py docvqa docvqa/train_v1.0.json dataset/docvqa --split train   and the next split beside it
  ./06-convert_data.py memes hateful_memes/train.jsonl dataset/memes
  ./06-convert_data.py phi converted_ucf101/ dataset/ucf101         rows of the Phi recipes, all their splits
  ./06-convert_data.py arena lmsys/train.csv dataset/arena                  which answer is better: a, b or tie
  ./06-convert_data.py plantdoc PlantDoc-Dataset/ dataset/plantdoc --pool   one data.jsonl, to be split anew
  ./06-convert_data.py animals raw-img/ dataset/animals                     Animals-10; answers in English
  ./06-convert_data.py folder photos/ dataset/photos --question 'Which part is this?' --names '{"ragno": "spider"}'
  ./06-convert_data.py coco instances_val2017.json dataset/coco --images val2017/   boxes as PaliGemma's <loc0123>
  ./06-convert_data.py voc VOC2007/ dataset/voc --split train               XML a picture; also yolo FOLDER
  ./06-convert_data.py to-coco answers.jsonl found/                         and back: rows, or answers of 07, to COCO

Originals are never touched. Run again, a converter writes the same files, and only those that differ.
"""


BOXES = {
    "coco": boxes.convert_coco,
    "voc": boxes.convert_voc,
    "yolo": boxes.convert_yolo,
    "objects": boxes.convert_objects,
}


def parser() -> argparse.ArgumentParser:
    about = "Turn other kinds of data into JSON Lines and images."
    made = command_parser("06-convert_data.py", about, EXAMPLES)
    kinds = made.add_subparsers(dest="kind", required=True, metavar="KIND")

    def kind(name: str, about: str, sources: str = "source") -> argparse.ArgumentParser:
        one = kinds.add_parser(
            name, help=about, description=about, epilog=made.epilog, formatter_class=made.formatter_class
        )
        one.add_argument("source", type=Path, nargs="+" if sources == "sources" else None, help="what to convert")
        made_there = {"to-coco": "annotations.json", "to-voc": "Annotations/"}.get(name, "images/ and data.jsonl")
        one.add_argument("out", type=Path, help=f"the folder to write ({made_there})")
        return one

    films = kind("video", "videos to frames, N spread evenly over each", "sources")
    films.add_argument("--frames", type=int, default=8, help="frames a video (default: 8)")
    films.add_argument("--question", default=video.QUESTION)
    films.add_argument("--labels", metavar="JSON", help="classes by file name: JSON text, or a file of it")
    films.add_argument("--max-side", type=int, default=448, help="longest side of a frame in pixels (default: 448)")
    pairs = kind("nlvr", "NLVR and NLVR2: is a sentence true of the pictures?")
    pairs.add_argument("--images", type=Path, help="where the pictures are (default: beside the file)")
    pairs.add_argument("--boxes", action="store_true", help="cut NLVR's one picture into its three boxes")
    for name, about in (("docvqa", "DocVQA, all accepted answers kept"), ("memes", "the hateful memes: yes or no")):
        kind(name, about).add_argument("--images", type=Path, help="folder that image paths are relative to")
    kinds.choices["memes"].add_argument(
        "--no-text", action="store_true", help="leave the meme's words out of the question"
    )
    for name in ("video", "nlvr", "docvqa", "memes"):
        kinds.choices[name].add_argument(
            "--split", choices=("train", "valid", "test"), default="", help="write that split's JSONL, not data.jsonl"
        )
    talks = kind("phi", "rows of the Phi recipes (a JSONL, or a folder with one a split)")
    talks.add_argument("--images", type=Path, help="folder that image paths are relative to (default: images/ in it)")
    kind("arena", "the LMSYS arena's CSV: which answer is better?")
    for name, about, question in (
        ("plantdoc", "PlantDoc's folders, file names made safe", classes.PLANT_QUESTION),
        ("animals", "Animals-10's folders, answers in English", classes.ANIMAL_QUESTION),
        ("folder", "any folder with one sub-folder a class", QUESTION),
    ):
        one = kind(name, about)
        one.add_argument("--question", default=question, help='"{answers}" becomes the list of classes')
        one.add_argument("--names", metavar="JSON", help="other names of class folders: JSON text, or a file of it")
        one.add_argument("--pool", action="store_true", help="one data.jsonl of all published splits")
    for name, about in (
        ("coco", "COCO's boxes (instances_train2017.json), as answers"),
        ("voc", "a folder of Pascal VOC's boxes"),
        ("yolo", "a folder of YOLO's boxes, or outlines"),
        ("objects", 'Hugging Face rows with "objects": bbox and categories'),
    ):
        one = kind(name, about)
        if name in ("coco", "voc"):
            one.add_argument("--images", type=Path, help="where the pictures are (default: beside the file)")
        one.add_argument(
            "--question", default=marking.QUESTION, help='"{labels}" becomes the labels (default: %(default)s)'
        )
        one.add_argument("--each", action="store_true", help="a row a picture and label, which asks for that one alone")
        one.add_argument("--empty", action="store_true", help='rows of what is not there, too, answered "none"')
        one.add_argument("--names", metavar="JSON", help="other names of labels: JSON text, or a file of it")
        one.add_argument("--split", choices=("train", "valid", "test"), default="", help="write that split's JSONL")
    kind("to-coco", "rows with boxes, or the answers that 07 wrote, to COCO's annotations.json")
    kind("to-voc", "the same to Pascal VOC, an XML a picture")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    source = options.source
    for path in source if isinstance(source, list) else [source]:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    with quiet_decoders():
        output = _convert(options)
    console = terminal()
    for note in output.notes:
        tell(console, f"note: {note}", style="cyan")
    told = f"{output.written} files written" if output.written else "nothing had changed"
    tell(console, f"{output.pictures} pictures, {told}: {options.out}")
    if not options.kind.startswith("to-"):
        tell(console, f"next: ./00-doctor.py {shlex.quote(str(options.out))}")
    return 0


def _convert(options: argparse.Namespace):
    match options.kind:
        case "video":
            if options.frames < 1 or options.max_side < 1:
                raise UserError("--frames and --max-side: expected 1 or more")
            given = texts_by_name(options.labels, "--labels", '{"film1": "cooking"}') if options.labels else None
            return video.convert_videos(
                options.source,
                options.out,
                frames=options.frames,
                question=options.question,
                labels=given,
                max_side=options.max_side,
                split=options.split,
            )
        case "nlvr":
            return nlvr.convert_nlvr(
                options.source, options.out, images=options.images, boxes=options.boxes, split=options.split
            )
        case "docvqa":
            return questions.convert_docvqa(options.source, options.out, images=options.images, split=options.split)
        case "memes":
            asked = not options.no_text
            return questions.convert_memes(
                options.source, options.out, images=options.images, text=asked, split=options.split
            )
        case "phi":
            return conversations.convert_conversations(options.source, options.out, images=options.images)
        case "arena":
            return arena.convert_arena(options.source, options.out)
        case "to-coco" | "to-voc":
            back = boxes_back.to_coco if options.kind == "to-coco" else boxes_back.to_voc
            return back(options.source, options.out)
    names = classes.ANIMALS if options.kind == "animals" else None
    if options.names:
        names = texts_by_name(options.names, "--names", '{"ragno": "spider"}')
    if options.kind in BOXES:
        more = {"images": options.images} if "images" in options else {}
        wanted = marking.Wanted(options.question, options.each, options.empty)
        return BOXES[options.kind](options.source, options.out, names=names, wanted=wanted, split=options.split, **more)
    return classes.convert_classes(
        options.source, options.out, question=options.question, names=names, pool=options.pool
    )


if __name__ == "__main__":
    sys.exit(main())
