"""The featuriser: a page as two fixed arrays of [-1, 1].

`elements` [N, FEATURES], one row per control or plain text, in the order of the document, zero
where there are fewer; `task` [K, HASH], the task's fields, hashed. Columns of a row:

    0       a click on it would hit it: it is in view and some point of it is not covered
    1       control: a button, link or input, or the cursor points there
    2       text can be typed into it
    3       touched: it has the focus, was clicked in this episode, or is checked
    4       filled: it holds a value
    5..6    its text or value is that of the task's field 0, 1
    7       its block holds the text of a field. The block is the smallest part of the page around
            it that holds any other text: the row of a list, the e-mail of an icon
    8..11   centre x, y, width, height, in units of the page's width and height
    12..13  tag, type, id and classes, hashed
    14..15  text or value, hashed; zero where there is none

**Text is only hashed.** It is compared with the task's fields (whole, but for spaces) and hashed
(SHA-256, the first bytes as numbers in [-1, 1]), nothing else: no word of a page is read as an
instruction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FIELDS: Final = 2  # of a task, at most
HASH: Final = 2
HERE, CONTROL, TYPED, TOUCHED, FILLED = range(5)
OWN: Final = 5
BLOCK: Final = OWN + FIELDS
BOX: Final = BLOCK + 1
KIND: Final = BOX + 4
TEXT: Final = KIND + HASH
FEATURES: Final = TEXT + HASH


def see_page(listed: Sequence[Mapping[str, Any]], fields: Sequence[str], most: int) -> Floats:
    """Elements [most, FEATURES] from what page.js tells of them; the rest has no row."""
    table = np.zeros((most, FEATURES), np.float32)
    wanted = [_plain(field) for field in fields[:FIELDS]]
    for row, element in zip(table, listed, strict=False):
        own = _plain(element["value"] or element["text"])
        block = {own, *(_plain(text) for text in element["block"])}
        row[HERE] = bool(element["here"])
        row[CONTROL] = bool(element["control"])
        row[TYPED] = bool(element["typed"])
        row[TOUCHED] = bool(element["touched"])
        row[FILLED] = bool(element["value"])
        row[OWN : OWN + len(wanted)] = [bool(field) and own == field for field in wanted]
        row[BLOCK] = any(field and field in block for field in wanted)
        x, y, width, height = (float(number) for number in element["box"])
        row[BOX : BOX + 4] = np.clip((x + width / 2, y + height / 2, width, height), -1.0, 1.0)
        row[KIND : KIND + HASH] = hashed(element["kind"])
        row[TEXT : TEXT + HASH] = hashed(own)
    return table


def see_task(fields: Sequence[str]) -> Floats:
    """The fields [FIELDS, HASH], hashed; zero where there are fewer."""
    table = np.zeros((FIELDS, HASH), np.float32)
    for row, field in zip(table, fields, strict=False):
        row[:] = hashed(_plain(field))
    return table


def hashed(text: str) -> Floats:
    """The first bytes of SHA-256 as numbers in [-1, 1] [HASH]; zero for the empty text."""
    if not text:
        return np.zeros(HASH, np.float32)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return digest[:HASH].astype(np.float32) / 127.5 - 1.0


def _plain(text: str) -> str:
    return " ".join(str(text).split())
