"""06-convert_data.py: other kinds of data to JSON Lines and images."""

import argparse
import sys
from pathlib import Path

from rolltune.commands.common import command_parser
from rolltune.commands.reading import texts_by_name
from rolltune.commands.terminal import quiet_decoders, tell, terminal
from rolltune.data.converters import classes, nlvr, questions, video
from rolltune.data.examples import QUESTION
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./06-convert_data.py video UCF-101/ dataset/ucf --frames 8      videos in class folders, or with UCF-101 names
  ./06-convert_data.py video a.mp4 b.mp4 dataset/two --labels '{"a": "arm wrestling", "b": "cooking"}'
  ./06-convert_data.py nlvr nlvr/dev/dev.json dataset/nlvr --boxes          NLVR, the picture cut into three
  ./06-convert_data.py nlvr nlvr2/data/dev.json dataset/nlvr2 --images nlvr2/dev     NLVR2, two photos a row
  ./06-convert_data.py docvqa docvqa/train_v1.0.json dataset/docvqa
  ./06-convert_data.py memes hateful_memes/train.jsonl dataset/memes
  ./06-convert_data.py plantdoc PlantDoc-Dataset/ dataset/plantdoc
  ./06-convert_data.py animals raw-img/ dataset/animals                     Animals-10; answers in English
  ./06-convert_data.py folder photos/ dataset/photos --question 'Which part is this?'

Originals are never touched. Run again, a converter writes the same files, and only those that differ.
"""


def parser() -> argparse.ArgumentParser:
    about = "Turn other kinds of data into JSON Lines and images."
    made = command_parser("06-convert_data.py", about, EXAMPLES)
    kinds = made.add_subparsers(dest="kind", required=True, metavar="KIND")

    def kind(name: str, about: str, sources: str = "source") -> argparse.ArgumentParser:
        one = kinds.add_parser(
            name, help=about, description=about, epilog=made.epilog, formatter_class=made.formatter_class
        )
        one.add_argument("source", type=Path, nargs="+" if sources == "sources" else None, help="what to convert")
        one.add_argument("out", type=Path, help="the folder to write (images/ and data.jsonl)")
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
    for name, about, question in (
        ("plantdoc", "PlantDoc's folders, file names made safe", classes.PLANT_QUESTION),
        ("animals", "Animals-10's folders, answers in English", classes.ANIMAL_QUESTION),
        ("folder", "any folder with one sub-folder a class", QUESTION),
    ):
        kind(name, about).add_argument("--question", default=question, help='"{answers}" becomes the list of classes')
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
    same = output.pictures and not output.written
    told = "nothing had changed" if same else f"{output.written} files written"
    tell(console, f"{output.pictures} pictures, {told}: {options.out}")
    tell(console, f"next: ./00-doctor.py {options.out}")
    return 0


def _convert(options: argparse.Namespace):
    match options.kind:
        case "video":
            if options.frames < 1 or options.max_side < 1:
                raise UserError("--frames and --max-side: expected 1 or more")
            example = '{"film1": "cooking"}'
            given = texts_by_name(options.labels, "--labels", example) if options.labels else None
            return video.convert_videos(
                options.source,
                options.out,
                frames=options.frames,
                question=options.question,
                labels=given,
                max_side=options.max_side,
            )
        case "nlvr":
            return nlvr.convert_nlvr(options.source, options.out, images=options.images, boxes=options.boxes)
        case "docvqa":
            return questions.convert_docvqa(options.source, options.out, images=options.images)
        case "memes":
            return questions.convert_memes(options.source, options.out, images=options.images, text=not options.no_text)
    names = classes.ANIMALS if options.kind == "animals" else None
    return classes.convert_classes(options.source, options.out, question=options.question, names=names)


if __name__ == "__main__":
    sys.exit(main())
