"""Videos to frames: one row a video, N frames spread evenly over it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from rolltune.data.converters.output import Output, words
from rolltune.data.images import evenly
from rolltune.errors import UserError

ENDINGS = frozenset(f".{name}" for name in ["avi", "mp4", "mkv", "mov", "webm", "mpg", "mpeg", "m4v", "wmv", "gif"])
QUESTION = "These are frames of one video, in order. What is the person doing?"
# v_ApplyEyeMakeup_g01_c03: class, group (one recording), clip of it.
_UCF = re.compile(r"v_([A-Za-z0-9]+)_g(\d+)_c(\d+)")


def recording_of(name: str) -> str | None:
    """The recording that a file of UCF-101 was cut out of, v_ApplyEyeMakeup_g01; None for other names."""
    found = _UCF.match(name)
    return f"v_{found[1]}_g{found[2]}" if found else None


def convert_videos(
    sources: Sequence[Path],
    out: Path,
    *,
    frames: int = 8,
    question: str = QUESTION,
    labels: Mapping[str, str] | None = None,
    max_side: int = 448,
    split: str = "",
) -> Output:
    """Frames as JPEG, at most `max_side` pixels, and out/data.jsonl.

    The answer is that of `labels` (by file name, with or without ending), else the class in a UCF-101
    name, else the folder the video lies in. "group" is the recording: UCF-101 cut several clips out of
    each, which must not lie in two splits.
    """
    videos = _listed(sources)
    output = Output(out, sources[0], split)
    rows = []
    for path, folder in videos:
        labels = labels or {}
        ucf = _UCF.match(path.stem)
        label = labels.get(path.name) or labels.get(path.stem) or (words(ucf[1]) if ucf else folder and words(folder))
        if not label:
            advice = "put it in a folder named after its class, or give --labels"
            output.problem(path, "there is no saying which class the video is of", advice)
            continue
        try:
            pictures = sample_frames(path, frames, max_side)
        except UserError as error:
            output.problem(path, str(error).removeprefix(f"{path}: "))
            continue
        images = [
            output.save(picture, f"{path.stem}/f{number}.jpg", f"{path}#{number}")
            for number, picture in enumerate(pictures)
        ]
        group = recording_of(path.stem) or path.stem
        row = {"prefix": question, "suffix": label, "images": images, "group": group, "video": path.stem}
        rows.append({**row, "original": path.name})
    output.finish(rows)
    return output


def _listed(sources: Sequence[Path]) -> list[tuple[Path, str]]:
    """(video, name of its class folder or "") of files and folders, in the order of their names."""
    found = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
            found += [(path, "" if path.parent == source else path.parent.name) for path in inside]
        elif source.is_file():
            found.append((source, ""))
        else:
            raise UserError(f"{source}: there is no such file or folder")
    if not found:
        raise UserError(f"{', '.join(map(str, sources))}: no videos ({', '.join(sorted(ENDINGS))})")
    return found


def sample_frames(path: Path, count: int, max_side: int = 448) -> list[Image.Image]:
    """`count` frames spread evenly (fewer where the video has fewer), upright, as RGB.

    The video is decoded twice, once to count: the number in its header is often wrong or missing.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("videos need the package av: pip install 'rolltune[video]'") from error
    try:
        total = sum(1 for _ in _decoded(av, path))
        wanted = set(evenly(total, count))
        pictures = []
        for place, frame in enumerate(_decoded(av, path)):
            if place in wanted:
                picture = frame.to_image()
                if getattr(frame, "rotation", 0):
                    picture = picture.rotate(frame.rotation, expand=True)
                picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
                pictures.append(picture)
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: not a video that can be decoded whole: {error.strerror}") from error
    if not pictures:
        raise UserError(f"{path}: there are no pictures in it")
    return pictures


def _decoded(av, path: Path):
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise UserError(f"{path}: there is no video track in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)
