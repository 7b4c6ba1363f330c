"""Frames of image worlds: real above imagined as strips, and the pair at the chosen step."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.page.markup import text

if TYPE_CHECKING:
    from bb_wm.diagnose.traces import Traces

MOST_PIXELS = 96  # of a frame's longer side on the page; larger ones are averaged down


def shown_frames(traces: Traces, index: int) -> str:
    """All image keys of one window; "" where there are none."""
    return "".join(
        _key(traces, key, index, f"{index}-{number}") for number, key in enumerate(traces.pictures)
    )


def _key(traces: Traces, key: str, index: int, mark: str) -> str:
    pair = [_small(images[index]) for images in traces.pictures[key]]
    count, height, width = pair[0].shape[:3]
    names = ("real", "imagined")
    strips = "".join(
        f'<image id="strip-{mark}-{row}" x="0" y="{row * (height + 2)}" width="{count * width}" '
        f'height="{height}" href="{_png(np.concatenate(list(images), axis=1))}"/>'
        for row, images in enumerate(pair)
    )
    large = "".join(
        f"<div><p>{name.capitalize()}, <span data-step>k = {count}</span></p>"
        f'<svg viewBox="{(count - 1) * width} 0 {width} {height}" data-frame="{width} {height}" '
        f'role="img" aria-label="{text(key)}, {name}, at the chosen step">'
        f'<use href="#strip-{mark}-{row}" y="{-row * (height + 2)}"/></svg></div>'
        for row, name in enumerate(names)
    )
    alt = f"Pixels of {key} over {count} steps, real above imagined."
    tall = 2 * height + 2
    return (
        f'<h4>{text(key)}</h4><div class="frames">{large}</div>'
        f'<div class="strip" role="region" tabindex="0" aria-label="{text(alt)}">'
        f'<svg viewBox="0 0 {count * width} {tall}" role="img" '
        f'aria-label="{text(alt)}">{strips}<rect class="frame" data-marker="{width}" '
        f'vector-effect="non-scaling-stroke" x="{(count - 1) * width}" y="0" width="{width}" '
        f'height="{tall}"/></svg></div>'
    )


def _small(images: np.ndarray) -> np.ndarray:
    """[K, height, width, 1 or 3] bytes, averaged over blocks where frames are large."""
    block = -(-max(images.shape[1:3]) // MOST_PIXELS)
    kept = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    if block == 1:
        return np.ascontiguousarray(kept)
    high, wide = (kept.shape[1] // block * block, kept.shape[2] // block * block)
    cut = kept[:, :high, :wide].astype(np.float32)
    blocks = cut.reshape(len(cut), high // block, block, wide // block, block, cut.shape[-1])
    return np.asarray(np.rint(blocks.mean(axis=(2, 4))), np.uint8)


def _png(pixels: np.ndarray) -> str:
    """A data: URI of [height, width, 1 or 3] bytes as PNG (W3C: IHDR, IDAT, IEND)."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(filtered, 9)), (b"IEND", b"")):
        check = zlib.crc32(kind + body)
        raw += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return f"data:image/png;base64,{base64.b64encode(raw).decode('ascii')}"
