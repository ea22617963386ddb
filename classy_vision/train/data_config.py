"""What a job is told about its data: where images or videos are, and how they become tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from classy_vision.config import Config, PositiveFloat, PositiveInt, Probability

Seed = Annotated[int, Field(ge=0, lt=2**63)]
MAX_RATE = 1000
"""Frames per second; a file that says more has a clock rather than a rate."""


class ClipConfig(Config):
    """Which frames of a video make a clip.

    Time counts, not the number of a frame: a video is cut into intervals of ``1 / fps`` seconds,
    and a clip holds what is shown in the middle of every ``stride``-th of them. At the file's own
    rate these are its frames, each ``stride``-th; where frames last differently long, the clip is
    still even in time. Training begins at a random interval.

    A video shorter than a clip goes on with its last frame, as in SlowFast's code.

    Attributes:
        frames: of a clip.
        stride: intervals from one frame to the next; "8x8" in papers is ``frames: 8, stride: 8``.
        fps: intervals per second; the average rate of each file where it is left out.
        clips: per video in evaluation, evenly from its start to its end; one is in the middle.
        crops: of each clip in evaluation: 1 in the centre, or 3 along the longer side
            (Feichtenhofer et al., "SlowFast Networks for Video Recognition", 2019, section 4).
            What is said of a video is the average over clips and crops.
    """

    frames: PositiveInt
    stride: PositiveInt = 1
    fps: Annotated[float, Field(gt=0, le=MAX_RATE)] | None = None
    clips: PositiveInt = 1
    crops: Literal[1, 3] = 1


class DataConfig(Config):
    """How images become tensors, whatever their source.

    Attributes:
        image_size: side of the square that the model sees, in pixels.
        eval_size: that side in evaluation, where it is another one.
        resize: shorter side before the centre crop; the side of the square where it is left out. A
            pair is the height and the width to which images are squeezed first.
        interpolation: between pixels, "bilinear" or "bicubic".
        mean, std: per channel, of values from 0 to 1. Where they are left out, 0.5 for grey,
            ImageNet's for images in colour, and 0.45 and 0.225 for clips in colour, as most
            weights trained on Kinetics have it (torchvision's and VMZ's have their own).
        augment: "flip" mirrors half of the training images; "crop" also takes random parts. All
            frames of a clip are treated alike. Mirroring turns left into right, also for motion.
        crop_area: the smallest and largest part of an image's area that "crop" takes.
        on_bad_image: "error" stops at an unreadable image or video; "skip" leaves it out of its batch.
        clip: the files are videos, and this says which of their frames the model sees.
    """

    image_size: PositiveInt = 224
    eval_size: PositiveInt | None = None
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    augment: Literal["none", "flip", "crop"] = "none"
    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.35, 1.0)
    on_bad_image: Literal["error", "skip"] = "error"
    clip: ClipConfig | None = None

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for name, size in (("image_size", self.image_size), ("eval_size", self.eval_size)):
            least = min(self.resize) if isinstance(self.resize, tuple) else self.resize
            if least is not None and size is not None and least < size:
                raise ValueError(f"resize = {self.resize} is below {name} = {size}")
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area = {list(self.crop_area)}: give [smallest, largest], at most 1")
        return self

    @property
    def unit(self) -> str:
        """What a sample is: "image" or "video"."""
        return "video" if self.clip else "image"

    @property
    def views(self) -> int:
        """How many inputs of the model are made of a sample in evaluation."""
        return self.clip.clips * self.clip.crops if self.clip else 1

    def side(self, training: bool) -> int:
        """Side of the square that the model sees, in pixels."""
        return self.image_size if training else self.eval_size or self.image_size

    def input_shape(self, channels: int, training: bool) -> tuple[int, ...]:
        """One input of the model: (c, h, w), or (c, t, h, w) for clips."""
        side = self.side(training)
        return (channels, *([self.clip.frames] if self.clip else []), side, side)


class DigitsConfig(DataConfig):
    """The handwritten digits that come with scikit-learn: columns ``digit`` and ``loop``."""

    source: Literal["digits"]
    image_size: PositiveInt = 32

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if self.clip:
            raise ValueError("the digits are images: clip is for a folder or a table of videos")
        return self


class FolderConfig(DataConfig):
    """Files by class: ``root/train/<class>/*`` and ``root/val/<class>/*``, or ``root/<class>/*``.

    ``test`` is held out where there is no ``val``, and left out where there is one.

    Attributes:
        root: the folder.
        val_fraction: part of each class that is held out where there is no ``val`` folder.
        split_seed: draws which files these are. It is not ``schedule.seed``, so that runs with
            different seeds are measured on the same files, and none of them has seen those.
    """

    source: Literal["folder"]
    root: str
    val_fraction: Probability = Field(default=0.2, gt=0)
    split_seed: Seed = 0


class TableConfig(DataConfig):
    """A CSV or Parquet file with a ``path`` column and a column per task.

    Attributes:
        file: the table.
        images: where relative paths start; the table's own folder where it is left out.
        val_fraction: part of the rows that is held out where there is no ``split`` column.
        split_seed: draws which rows these are. It is not ``schedule.seed``, so that runs with
            different seeds are measured on the same rows, and none of them has seen those.
        stratify: hold out the same part of the rows of each class, of each label, and of each
            range of numbers, of the columns that are learned.
    """

    source: Literal["table"]
    file: str
    images: str | None = None
    val_fraction: Probability = Field(default=0.2, gt=0)
    split_seed: Seed = 0
    stratify: bool = True


SOURCES: dict[str, type[DataConfig]] = {
    "digits": DigitsConfig,
    "folder": FolderConfig,
    "table": TableConfig,
}
