"""Draws a network's stages as a picture: what each part is made of and how the feature map shrinks and deepens."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from keras_resnet.models.complexity import Complexity
from keras_resnet.models.config import DEEP_STEMS, ResNetConfig
from keras_resnet.models.places import BlockPlace, convolutions

SCALE = 2  # pixels a drawing unit: sharp on screens of high density
INK, GREY, PAPER = "#1f2430", "#6b7280", "#ffffff"
# Pillow's own font has no multiplication sign: shapes are written with an x.
STAGE_COLORS = ("#dbeafe", "#bfdbfe", "#93c5fd", "#60a5fa", "#3b82f6")
OTHER_COLOR, SHORTCUT_COLOR = "#e5e7eb", "#c2410c"
BOX_WIDTH, GAP, MARGIN, TALLEST, LOWEST = 150, 40, 28, 230, 76
_SPATIAL_LINES = {"split_attention": "split att.", "selective_kernel": "3x3 or 5x5", "multi_scale": "3x3 scales"}


def draw_network(config: ResNetConfig, cost: Complexity, path: Path, *, num_classes: int | None = None) -> None:
    """Writes a PNG with one box a part of the network: stem, stages, head.

    Args:
        config: The network.
        cost: Its cost at the size drawn; `cost.feature_maps` has one entry per stage.
        path: Where the PNG goes.
        num_classes: Width of the logits; default: the configuration's.
    """
    parts = _parts(config, cost, num_classes or config.num_classes)
    width = 2 * MARGIN + len(parts) * BOX_WIDTH + (len(parts) - 1) * GAP
    image = Image.new("RGB", (width * SCALE, 430 * SCALE), PAPER)
    draw = _Canvas(image)
    draw.text((MARGIN, 22), config.name, size=24)
    summary = f"{cost.parameters / 1e6:,.2f} M parameters   {_count(cost.multiply_adds)} multiply-adds   {config.paper}"
    draw.text((MARGIN, 56), summary, size=13, fill=GREY)
    middle = 230
    x = MARGIN
    for index, part in enumerate(parts):
        height = part["height"]
        box = (x, middle - height / 2, x + BOX_WIDTH, middle + height / 2)
        if part["shortcuts"]:
            _draw_shortcuts(draw, box, part["shortcuts"])
        draw.box(box, fill=part["color"])
        y = middle - 9 * len(part["lines"])
        for line_index, line in enumerate(part["lines"]):
            bold = line_index == 0
            draw.text((x + BOX_WIDTH / 2, y), line, size=14 if bold else 12, anchor="ma", fill=INK)
            y += 18
        draw.text((x + BOX_WIDTH / 2, 358), part["shape"], size=13, anchor="ma")
        if index + 1 < len(parts):
            draw.arrow((x + BOX_WIDTH + 6, middle), (x + BOX_WIDTH + GAP - 6, middle))
        x += BOX_WIDTH + GAP
    legend = "Below each box: height x width x channels that leave it. "
    if config.shortcut == "pad":
        legend += "Arcs: shortcuts H(x) + x; option A pads channels with zeros where the shape changes."
    elif config.shortcut != "none":
        legend += "Arcs: shortcuts H(x) + x; a dashed one passes a 1x1 projection where the shape changes."
    draw.text((MARGIN, 396), legend, size=12, fill=GREY)
    image.save(path, format="PNG")


class _Canvas:
    """Pillow's drawing calls in drawing units."""

    def __init__(self, image):
        self._draw = ImageDraw.Draw(image)

    def text(self, at, text, *, size, anchor="la", fill=INK):
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((at[0] * SCALE, at[1] * SCALE), text, font=font, anchor=anchor, fill=fill)

    def box(self, corners, *, fill):
        self._draw.rounded_rectangle([c * SCALE for c in corners], 6 * SCALE, fill=fill, outline=INK, width=SCALE)

    def line(self, start, end, *, fill=INK, width=1.5):
        self._draw.line([c * SCALE for c in (*start, *end)], fill=fill, width=int(width * SCALE))

    def arrow(self, start, end, *, fill=INK):
        self.line(start, end, fill=fill)
        x, y = end
        points = [(x, y), (x - 7, y - 4), (x - 7, y + 4)]
        self._draw.polygon([(px * SCALE, py * SCALE) for px, py in points], fill=fill)

    def arc(self, box, *, dashed, fill):
        box = [c * SCALE for c in box]
        if not dashed:
            self._draw.arc(box, 180, 360, fill=fill, width=2 * SCALE)
            return
        for start in range(180, 360, 24):
            self._draw.arc(box, start, start + 14, fill=fill, width=2 * SCALE)


def _draw_shortcuts(draw: _Canvas, box, shortcuts: list[bool]) -> None:
    """One arc a block above the stage's box; more than six are drawn as the first three, dots and the last two."""
    left, top, right, _ = box
    shown = shortcuts if len(shortcuts) <= 6 else [*shortcuts[:3], None, *shortcuts[-2:]]
    step = (right - left - 12) / len(shown)
    for index, projected in enumerate(shown):
        x = left + 6 + index * step
        if projected is None:
            draw.text((x + step / 2, top - 16), "…", size=14, anchor="ma", fill=SHORTCUT_COLOR)
        else:
            draw.arc((x + 2, top - 14, x + step - 2, top + 14), dashed=projected, fill=SHORTCUT_COLOR)


def _parts(config: ResNetConfig, cost: Complexity, num_classes: int) -> list[dict]:
    height, width, channels = config.input_shape
    parts = [{"lines": ["input"], "shape": f"{height}x{width}x{channels}", "side": height, "color": OTHER_COLOR}]
    stem = dict.fromkeys(DEEP_STEMS, "three 3x3, stride 2")
    stem |= {"cifar": "3x3", "imagenet": "7x7, stride 2", "two_conv": "two 3x3"}
    pool = {"none": [], "max": ["max pool"], "max_zero_padded": ["max pool"], "conv": ["3x3, stride 2"]}
    pool |= {"blur": ["max pool, blur"], "average": ["average pool"]}
    side = -(-height // config.stem_stride)
    parts.append(
        {
            "lines": ["stem", f"{stem[config.stem]}, {config.stem_width}", *pool[config.stem_pool]],
            "shape": f"{side}x{-(-width // config.stem_stride)}x{config.stem_width}",
            "side": side,
            "color": OTHER_COLOR,
        }
    )
    in_channels = config.stem_width
    for stage, depth in enumerate(config.depths):
        map_height, map_width, map_channels = cost.feature_maps[stage]
        projects = config.shortcut != "pad" and (
            in_channels != map_channels or (stage == 0 and config.project_first_block)
        )
        in_channels = map_channels
        parts.append(
            {
                "lines": [f"stage {stage + 1}: {depth} {config.block}", *_block_lines(config, stage)],
                "shape": f"{map_height}x{map_width}x{map_channels}",
                "side": map_height,
                "color": STAGE_COLORS[min(stage, len(STAGE_COLORS) - 1)],
                "shortcuts": [] if config.shortcut == "none" else [projects] + [False] * (depth - 1),
            }
        )
    head = {"lines": ["head", "average pool", "dense"], "shape": f"{num_classes} logits", "side": 1}
    parts.append({**head, "color": OTHER_COLOR})
    for part in parts:
        part.setdefault("shortcuts", [])
        # Each halving takes the same off: 224 and 7 fit on one sheet, and the text into the smallest box.
        halvings = math.log2(max(height, 2) / part["side"])
        part["height"] = TALLEST - (TALLEST - LOWEST) * halvings / math.log2(max(height, 2))
    return parts


def _block_lines(config: ResNetConfig, stage: int) -> list[str]:
    place = BlockPlace("", config.widths[stage], config.out_channels(stage))
    lines = []
    for conv in convolutions(config, place):
        groups = f", {conv.groups} groups" if conv.groups > 1 else ""
        is_other = conv.is_spatial and config.spatial != "convolution"
        kind = _SPATIAL_LINES[config.spatial] if is_other else f"{conv.size}x{conv.size}"
        lines.append(f"{kind}, {conv.filters}{groups}")
    attention = {"none": [], "se": ["squeeze-excitation"], "eca": ["channel attention"]}
    return lines + attention[config.attention]


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"
