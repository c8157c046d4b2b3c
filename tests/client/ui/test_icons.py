"""Who sees no colours still sees what this computer does: the tray's icons differ by shape."""

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QApplication

from legion_client.control.messages import Face
from legion_client.ui.colors import DARK, LIGHT, Colors
from legion_client.ui.icons import SIZES_PX, pixmap, tray_icon

LEAST_SHARE = 0.1  # of what either of two icons covers, one alone must cover


def covered(image: QImage) -> NDArray[np.float64]:
    """How much of every pixel is drawn on, 0 to 1, whatever its colour."""
    alpha = image.convertToFormat(QImage.Format.Format_Alpha8)
    rows = np.frombuffer(alpha.constBits(), np.uint8).reshape(alpha.height(), alpha.bytesPerLine())
    return rows[:, : alpha.width()] / 255


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_faces_differ_by_shape_alone(qapp: QApplication, size_px: int) -> None:
    shapes = {face: covered(pixmap(f"face-{face}", "#808080", size_px).toImage()) for face in get_args(Face)}
    assert len(shapes) == 6
    alike = [
        (one, other)
        for (one, a), (other, b) in combinations(shapes.items(), 2)
        if np.abs(a - b).sum() < LEAST_SHARE * np.maximum(a, b).sum()
    ]
    assert alike == []


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_the_tray_gets_these_shapes(qapp: QApplication, colors: Colors) -> None:
    for face in get_args(Face):
        shown = covered(tray_icon(face, colors).pixmap(32, 32).toImage())
        assert np.array_equal(shown, covered(pixmap(f"face-{face}", "#808080", 32).toImage()))
