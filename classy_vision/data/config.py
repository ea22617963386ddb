"""What a job is told about its data: where images or videos are, and how they become tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from classy_vision.config import Config, PositiveFloat, PositiveInt, Probability

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Chance = Annotated[float, Field(ge=0, le=1)]
MAX_RATE = 1000
"""Frames per second; a file that says more has a clock rather than a rate."""

# How a test split is told: by name, or as a part.
TestSplit = Annotated[float, Field(gt=0, lt=1)] | Annotated[str, Field(min_length=1)] | None


class ClipConfig(Config):
    """Which frames of a video make a clip.

    Time counts, not the number of a frame: a video is cut into intervals of ``1 / fps`` seconds,
    and a clip holds what is shown in the middle of every ``stride``-th of them. At the file's own
    rate these are its frames, each ``stride``-th; where frames last differently long, the clip is
    still even in time. Training begins at a random interval.

    A video shorter than a clip is continued with its last frame, as in SlowFast's code.

    Attributes:
        frames: of a clip.
        stride: intervals from one frame to the next; "8x8" in papers is ``frames: 8, stride: 8``.
        fps: intervals per second; the average rate of each file where it is left out.
        clips: per video in evaluation, evenly from its start to its end; one is in the middle.
    """

    frames: PositiveInt
    stride: PositiveInt = 1
    fps: Annotated[float, Field(gt=0, le=MAX_RATE)] | None = None
    clips: PositiveInt = 1


class AugmentConfig(Config):
    """What is changed at random in the images of training. All frames of a clip are changed alike.

    Attributes:
        flip: how often left and right change places, which turns motion round as well.
        crop: the smallest and largest part of an image's area that is taken, in a random shape; the centre
            is taken where it is left out.
        rotate: by at most so many degrees, either way.
        shift: by at most this part of the side, along each axis.
        zoom: 0.2 makes things up to 1.2 times as large or as small.
        shear: by at most so many degrees.
        policy: "randaugment" makes ``operations`` changes of strength ``magnitude`` (Cubuk et al., 2020),
            "trivialaugment" one of any strength (Müller and Hutter, 2021). Both turn and move images as well as
            change their colours, so they are not for labels of pixels.
        operations, magnitude: of "randaugment"; 10 is the largest magnitude.
        brightness, contrast, saturation: 0.4 multiplies it by 0.6 to 1.4.
        hue: turns colours by at most this part of the circle.
        grey: how often colours are taken away.
        blur: how often an image is blurred, by 0.1 to 2 pixels.
        erase: how often a box of 2 to 33 % of the area is replaced by the mean colour (Zhong et al., 2020).
    """

    flip: Chance = 0.0
    crop: tuple[PositiveFloat, PositiveFloat] | None = None
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Chance = 0.0
    zoom: Annotated[float, Field(ge=0, le=10)] = 0.0
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    policy: Literal["randaugment", "trivialaugment"] | None = None
    operations: Annotated[int, Field(ge=1, le=14)] = 2
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    brightness: Chance = 0.0
    contrast: Chance = 0.0
    saturation: Chance = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    grey: Chance = 0.0
    blur: Chance = 0.0
    erase: Chance = 0.0

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        if self.crop and not self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop = {list(self.crop)}: give [smallest, largest], at most 1")
        return self

    @property
    def moves(self) -> bool:
        """Whether images are turned, shifted, zoomed or sheared."""
        return any((self.rotate, self.shift, self.zoom, self.shear))

    @property
    def changes_colours(self) -> bool:
        """Whether pixels get other values, which is for images of 8 bits in grey or colour."""
        return bool(self.policy) or any(
            (self.brightness, self.contrast, self.saturation, self.hue, self.grey, self.blur)
        )


class DataConfig(Config):
    """How images become tensors, whatever their source.

    Attributes:
        image_size: side of the square that the model sees, in pixels.
        eval_size: that side in evaluation, where it is another one.
        resize: shorter side before the centre crop; the side of the square where it is left out. A
            pair is the height and the width to which images are squeezed first.
        crops: of each image or clip in evaluation: 1 in the centre, or 3 along the longer side
            (Feichtenhofer et al., "SlowFast Networks for Video Recognition", 2019, section 4). What is
            said of an image is the average over them, and of a video over clips and crops.
        interpolation: between pixels, "bilinear" or "bicubic".
        mean, std: per channel, of values from 0 to 1. Where they are left out, ImageNet's for images
            in colour, 0.45 and 0.225 for clips in colour, as most weights trained on Kinetics have
            it (torchvision's and VMZ's have their own), and 0.5 for every other number of channels.
        eval_transform: how the centre crop is made. "exact" takes the part that ``resize`` leaves, with
            fractions of pixels, and resamples once. "torchvision" resizes to whole pixels and then crops,
            to the pixel what torchvision and timm do in evaluation; published weights of images have it.
        decode: "reduced" lets JPEG's decoder shrink large photographs while at least twice the
            pixels remain that are needed; "full" decodes all of them. By default "reduced", and "full" with
            ``eval_transform: torchvision``.
        max_pixels: of an image file; a larger one counts as unreadable, before it is decoded.
        value_range: the pixel values that become 0 and 1, such as [0, 4095] for 12 bits in files of
            16; what is beyond is cut off. "auto" takes the smallest and the largest value of each image.
            Values are then kept as numbers, where images otherwise have 8 bits per channel.
        augment: "flip" mirrors half of the training images; "crop" also takes random parts. A mapping says
            more, see ``AugmentConfig``.
        crop_area: the smallest and largest part of an image's area that "crop" takes.
        on_bad_image: "error" stops at an unreadable image or video; "skip" leaves it out of its batch.
        clip: the files are videos, and this says which of their frames the model sees.
    """

    image_size: PositiveInt = 224
    eval_size: PositiveInt | None = None
    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    crops: Literal[1, 3] = 1
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    eval_transform: Literal["exact", "torchvision"] = "exact"
    decode: Literal["reduced", "full"] | None = None
    max_pixels: PositiveInt = 2**26
    value_range: Literal["auto"] | tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    augment: Literal["none", "flip", "crop"] | AugmentConfig = "none"
    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.35, 1.0)
    on_bad_image: Literal["error", "skip"] = "error"
    clip: ClipConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_crops_of_clip(cls, values: Any) -> Any:
        """Reads ``clip.crops``, which configs of videos had before images had crops, as ``crops``."""
        clip = values.get("clip") if isinstance(values, Mapping) else None
        if not isinstance(clip, Mapping) or "crops" not in clip:
            return values
        crops, given = clip["crops"], values.get("crops", clip["crops"])
        if crops != given:
            raise ValueError(f"crops = {given!r} and clip.crops = {crops!r}: leave the second one out")
        rest = {key: value for key, value in clip.items() if key != "crops"}
        return {**values, "clip": rest, "crops": crops}

    @field_validator("augment", mode="before")
    @classmethod
    def _read_augment(cls, value: Any) -> Any:
        """Reads a mapping here: of a union, pydantic would tell what is wrong with each part."""
        return AugmentConfig.parse(value, "data.augment") if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for name, size in (("image_size", self.image_size), ("eval_size", self.eval_size)):
            least = min(self.resize) if isinstance(self.resize, tuple) else self.resize
            if least is not None and size is not None and least < size:
                raise ValueError(f"resize = {self.resize} is below {name} = {size}")
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area = {list(self.crop_area)}: give [smallest, largest], at most 1")
        return self

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if isinstance(self.value_range, tuple) and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range = {list(self.value_range)}: give [what becomes 0, what becomes 1]")
        if self.value_range is not None and self.clip:
            raise ValueError("value_range is for images; the frames of videos have 8 bits")
        if self.value_range is not None and self.augmentation.changes_colours:
            raise ValueError(
                "augment: policy, colours and blur are for images of 8 bits, and value_range keeps others"
            )
        return self

    @property
    def unit(self) -> str:
        """What a sample is: "image" or "video"."""
        return "video" if self.clip else "image"

    @property
    def augmentation(self) -> AugmentConfig:
        """What ``augment`` stands for."""
        if isinstance(self.augment, AugmentConfig):
            return self.augment
        crop = self.crop_area if self.augment == "crop" else None
        return AugmentConfig(flip=0.0 if self.augment == "none" else 0.5, crop=crop)

    @property
    def reduces(self) -> bool:
        """Whether a decoder may shrink images."""
        return (self.decode or ("reduced" if self.eval_transform == "exact" else "full")) == "reduced"

    @property
    def views(self) -> int:
        """How many inputs of the model are made of a sample in evaluation."""
        return self.crops * (self.clip.clips if self.clip else 1)

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


class ScenesConfig(DataConfig):
    """Scenes of one to six of those digits on photographs, which also come with scikit-learn.

    Columns: ``digits``, those that are there; ``count``, how many; ``mask``, the digit of each pixel; and
    ``distance``, in pixels from each pixel to the nearest digit. No digit and no part of a photograph is both
    in scenes to train on and in held-out ones.

    Attributes:
        scenes: how many there are; a fifth of them is held out.
        scene_size: their side, in pixels.
        scene_seed: draws them. It is not ``schedule.seed``, so that runs with different seeds see the same.
    """

    source: Literal["scenes"]
    image_size: PositiveInt = 64
    scenes: Annotated[int, Field(ge=10, le=10**6)] = 2000
    scene_size: Annotated[int, Field(ge=32, le=1024)] = 64
    scene_seed: Seed = 0

    @model_validator(mode="after")
    def _check_clip(self) -> Self:
        if self.clip:
            raise ValueError("the scenes are images: clip is for a folder or a table of videos")
        return self


def check_fold(folds: int | None, fold: int) -> None:
    """Raises a ValueError where there is no such fold."""
    if fold >= (folds or 1):
        raise ValueError(f"fold = {fold} needs more folds than folds = {folds}")


class FolderConfig(DataConfig):
    """Files by class: ``root/train/<class>/*`` and ``root/val/<class>/*``, or ``root/<class>/*``.

    The column is ``label``. With ``masks`` there may be no folders of classes, and a second column, ``mask``.

    Attributes:
        root: the folder.
        masks: a folder of masks or maps that are laid out and named like the images, apart from the suffix:
            the mask of ``root/train/a/1.jpg`` is ``masks/train/a/1.png``.
        test: what is set aside for ``classy evaluate``, and never read in training: the name of a
            folder beside ``train``, or a fraction of each class. Where it is left out that is the folder
            ``test``; if there is no ``val`` beside it, it is the validation split instead.
        val_fraction: part of each class that is held out where there is no ``val`` folder.
        split_seed: draws which files these are. It is not ``schedule.seed``, so that runs with
            different seeds are measured on the same files, and none of them has seen those.
        folds, fold: divide the files into so many parts instead, and hold out this one, counted from 0.
    """

    source: Literal["folder"]
    root: str
    masks: str | None = None
    test: TestSplit = None
    val_fraction: Probability = Field(default=0.2, gt=0)
    split_seed: Seed = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_fold(self) -> Self:
        check_fold(self.folds, self.fold)
        return self


class TableConfig(DataConfig):
    """A CSV or Parquet file with a ``path`` column and a column per task.

    Attributes:
        file: the table.
        images: where relative paths start; the table's own folder where it is left out.
        masks: where relative paths of masks and maps start; where images' do if it is left out.
        test: what is set aside for ``classy evaluate``, and never read in training: the rows that have
            this value in the ``split`` column, or a fraction of the rows. Where it is left out those are the
            rows of the split ``test``; if there are none of ``val``, they are the validation split instead.
        missing: cells of a CSV that stand for a missing label, beside empty ones; where they are left
            out those of pandas, such as NA, N/A, NaN, nan, NULL, null and None.
        val_fraction: part of the rows that is held out where there is no ``split`` column.
        split_seed: draws which rows these are. It is not ``schedule.seed``, so that runs with
            different seeds are measured on the same rows, and none of them has seen those.
        stratify: hold out the same part of the rows of each class, of each label, and of each
            range of numbers, of the columns that are learned.
        folds, fold: divide the rows into so many parts instead, and hold out this one, counted from 0.
    """

    source: Literal["table"]
    file: str
    images: str | None = None
    masks: str | None = None
    test: TestSplit = None
    missing: tuple[str, ...] | None = None
    val_fraction: Probability = Field(default=0.2, gt=0)
    split_seed: Seed = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    stratify: bool = True

    @model_validator(mode="after")
    def _check_fold(self) -> Self:
        check_fold(self.folds, self.fold)
        return self


SOURCES: dict[str, type[DataConfig]] = {
    "digits": DigitsConfig,
    "scenes": ScenesConfig,
    "folder": FolderConfig,
    "table": TableConfig,
}
